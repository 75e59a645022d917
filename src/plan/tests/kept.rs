//! What is kept of a sandbox when its machine goes, and when it comes in again.

use super::*;

/// Why the work of each machine that goes is kept, and whether what is provisioned gets what was kept.
fn kept(plan: &Plan) -> (Vec<Option<Why>>, Vec<bool>) {
    let machines = plan.steps.iter().filter(|step| step.resource == ResourceKind::Machine);
    let gone = machines.filter_map(|step| match &step.action {
        Action::Teardown { keeps, .. } => Some(*keeps),
        _ => None,
    });
    let carries = plan.steps.iter().filter_map(|step| match &step.action {
        Action::Provision { carries, .. } => Some(*carries),
        _ => None,
    });
    (gone.collect(), carries.collect())
}

fn other_image(name: &str) -> crate::model::SandboxSpec {
    crate::model::SandboxSpec {
        image: Some(ImageRef::Registry("busybox:2".to_owned())),
        ..spec(name)
    }
}

#[test]
fn what_goes_is_kept_and_what_follows_gets_it() {
    let observed = converged(&[spec("ada"), spec("bob"), spec("cyd")]);
    let all = Options { allow_teardown: AllowTeardown::All, ..Options::default() };
    let wanted = desired([spec("cyd"), other_image("bob")]);
    let made = plan(&wanted, &observed, &all);
    assert_eq!(kept(&made), (vec![Some(Why::Teardown), Some(Why::Replace)], vec![true]));
    let said: Vec<_> = made.changes.iter().filter_map(|change| change.keeps.clone()).collect();
    assert_eq!(said, [["home"], ["home"]]);

    let discard = Discard::Of([id("bob")].into());
    let one = plan(&wanted, &observed, &Options { discard, ..all.clone() });
    assert_eq!(kept(&one), (vec![Some(Why::Teardown), None], vec![false]));
    let none = plan(&wanted, &observed, &Options { discard: Discard::All, ..all.clone() });
    assert_eq!(kept(&none), (vec![None, None], vec![false]));
    let loses: Vec<_> = none.changes.iter().filter_map(|change| change.loses.clone()).collect();
    assert_eq!(loses, [["home", "the rest"], ["home", "the rest"]]);
    let mut off = wanted.clone();
    off.tree.snapshots = None;
    assert_eq!(kept(&plan(&off, &observed, &all)), kept(&none));
    let down = plan(&wanted, &observed, &Options { remove_all: true, ..all });
    assert_eq!(kept(&down).0, [Some(Why::Teardown); 3]);
}

#[test]
fn what_never_ran_or_is_half_made_has_no_work() {
    let mut observed = converged(&[spec("ada")]);
    let empty = desired([spec("bob")]);
    for (state, why) in [
        (InstanceState::Stopped { code: Some(1) }, Some(Why::Teardown)),
        (InstanceState::Paused, Some(Why::Teardown)),
        (InstanceState::Created, None),
        (InstanceState::Broken("half".to_owned()), None),
    ] {
        observed.instances[0].state = state;
        let plan = plan(&empty, &observed, &Options::default());
        assert_eq!(kept(&plan).0, [why], "{:?}", observed.instances[0].state);
    }
}

#[test]
fn what_was_on_its_way_arrives_once_the_old_machine_is_gone() {
    let mut observed = reachable();
    observed.carrying.insert(id("ada"), InstanceId("old".to_owned()));
    let create = run(&desired([spec("ada")]), &observed);
    assert_eq!(kept(&create), (vec![], vec![true]));
    // Half way in: the new machine is there, and its receipt is not whole.
    observed.instances = converged(&[spec("ada")]).instances;
    let again = run(&desired([spec("ada")]), &observed);
    assert_eq!(kept(&again), (vec![], vec![true]));
    // The old one has never gone.
    observed.carrying.insert(id("ada"), observed.instances[0].id.clone());
    let stayed = run(&desired([spec("ada")]), &observed);
    assert_eq!(kept(&stayed), (vec![], vec![false]));
}
