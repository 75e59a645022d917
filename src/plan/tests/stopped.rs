//! What the operator stopped stays down, whatever else the tree wants of it, and comes up whole.

use super::*;
use crate::model::{SandboxSpec, Stopped, Why};

/// These sandboxes were stopped, and nothing of them runs.
fn stopped(specs: &[SandboxSpec]) -> Observed {
    let mut observed = converged(specs);
    for instance in observed.instances.iter_mut().filter(|i| i.resource != ResourceKind::Network) {
        (instance.state, instance.boot) = (InstanceState::Stopped { code: Some(143) }, None);
    }
    observed.stopped = specs.iter().map(|spec| (spec.id.clone(), Stopped { since: 7 })).collect();
    observed
}

fn order(order: Order) -> Options {
    Options { order, ..equipped() }
}

/// One that reaches the world by a sidecar.
fn connected() -> SandboxSpec {
    let mut ada = spec("ada");
    ada.sidecar = Some(SidecarSpec {
        sandbox: id("ada"),
        fields: Fields::default(),
        policy: ada.policy.clone().into(),
        proxy: None,
    });
    ada
}

#[test]
fn what_was_stopped_stays_so_and_is_no_drift() {
    let ada = connected();
    let observed = stopped(std::slice::from_ref(&ada));
    let rests = plan(&desired([ada.clone()]), &observed, &equipped());
    assert_eq!(text(&rests), "");
    assert!(rests.changes.iter().all(|change| change.reason == Reason::Stopped));
    assert_eq!(rests.summary(), Summary { keep: 1, ..Summary::default() });
    // What has changed since waits, and that is said.
    let changed = SandboxSpec { prompt: "Other.".into(), ..ada.clone() };
    let rests = plan(&desired([changed.clone()]), &observed, &equipped());
    assert_eq!(text(&rests), "");
    assert!(rests.changes.iter().any(|c| c.notes.concat().contains("put in when it is started")));
    // It waits for no value either.
    let asking = SandboxSpec { asked_env: BTreeSet::from(["TOKEN".to_owned()]), ..ada };
    assert_eq!(text(&plan(&desired([asking]), &observed, &Options::default())), "");
    // An order to start ends that.
    let starts = plan(&desired([changed]), &observed, &order(Order::Start));
    let actions: Vec<_> = starts.steps.iter().map(|step| step.action.name()).collect();
    assert_eq!(actions, ["start", "start", "load", "provision"]);
    let others = Options { only: Some(BTreeSet::from([id("bob")])), ..order(Order::Start) };
    assert!(!others.wakes(&id("ada")));
}

#[test]
fn what_runs_although_it_was_stopped_is_stopped_again() {
    let ada = connected();
    for state in [InstanceState::Running, InstanceState::Paused] {
        let mut observed = stopped(std::slice::from_ref(&ada));
        for instance in observed.instances.iter_mut() {
            instance.state = state.clone();
        }
        let again = plan(&desired([ada.clone()]), &observed, &equipped());
        let mut lines: Vec<String> = text(&again).lines().map(str::to_owned).collect();
        lines.sort();
        let expected = [
            "[0] -> #1 stop ada sidecar",
            "[] -> #0 stop ada machine",
            "ada machine reprovision stopped",
            "ada sidecar reprovision stopped",
        ];
        assert_eq!(lines, expected);
        assert_eq!(again.changes.iter().filter_map(|c| c.class).max(), Some(Class::Restart));
        // Who wants it to run has it told to stay up.
        let starts = plan(&desired([ada.clone()]), &observed, &order(Order::Start));
        let started = starts.steps.iter().filter(|s| matches!(s.action, Action::Start(_))).count();
        assert_eq!(started, 2, "{}", text(&starts));
    }
}

#[test]
fn a_stopped_one_is_replaced_made_and_removed_as_any_other_and_not_started() {
    let ada = spec("ada");
    let observed = stopped(std::slice::from_ref(&ada));
    let other =
        SandboxSpec { image: Some(ImageRef::Registry("busybox:2".to_owned())), ..ada.clone() };
    let replaced = run(&desired([other]), &observed);
    assert_eq!(
        text(&replaced),
        "ada machine replace spec_changed\n\
         [] -> #0 prepare ada machine\n\
         [0] -> #1 teardown ada machine\n\
         [0,1] -> #2 create ada machine"
    );
    let kept = replaced.steps.iter().find_map(|step| match &step.action {
        Action::Teardown { keeps, .. } => keeps.as_ref().map(|kept| kept.why),
        _ => None,
    });
    assert_eq!(kept, Some(Why::Replace));
    let mut gone = observed.clone();
    gone.instances.clear();
    let made = run(&desired([ada.clone()]), &gone);
    assert!(made.steps.iter().all(|step| !matches!(step.action, Action::Start(_))), "{made:?}");
    assert_eq!(made.summary().create, 1);
    // The new machine was never started, and that is as it should be. What is on its way from the old one
    // comes in with the start.
    let mut new = observed.clone();
    new.instances[0].state = InstanceState::Created;
    new.instances[0].id = InstanceId("new".to_owned());
    new.receipts.clear();
    new.carrying.insert(id("ada"), InstanceId("old".to_owned()));
    assert!(run(&desired([ada.clone()]), &new).is_empty());
    let starts = plan(&desired([ada]), &new, &order(Order::Start));
    let carries =
        starts.steps.iter().any(|s| matches!(s.action, Action::Provision { carries: true, .. }));
    assert!(carries, "{}", text(&starts));
    assert_eq!(run(&desired([]), &observed).refused, None);
    assert_eq!(text(&run(&desired([spec("bob")]), &observed)).matches("teardown ada").count(), 1);
}

#[test]
fn an_order_to_stop_looks_at_nothing_else() {
    let ada = connected();
    let observed = converged(std::slice::from_ref(&ada));
    let only = Options { only: Some(BTreeSet::from([id("ada")])), ..order(Order::Stop) };
    let mut held = desired([]);
    held.held.insert(id("ada"), vec![Diagnostic::error("agents/ada.md", "no closing ---")]);
    let suspended = desired([SandboxSpec { suspend: true, ..ada.clone() }]);
    for tree in [desired([ada.clone()]), held, suspended, desired([])] {
        let stops = plan(&tree, &observed, &only);
        let actions: Vec<_> =
            stops.steps.iter().map(|step| (step.action.name(), step.resource)).collect();
        let both = [("stop", ResourceKind::Machine), ("stop", ResourceKind::Sidecar)];
        assert_eq!(actions, both);
    }
    // What cannot be read or seen is left alone.
    let mut unknown = observed.clone();
    unknown.instances[0].state = InstanceState::Unknown("machine.json is damaged".to_owned());
    assert_eq!(plan(&desired([ada.clone()]), &unknown, &only).summary().hold, 1);
    let mut unseen = observed;
    unseen.instances.clear();
    unseen.facts.remove(&BackendKind::Docker);
    assert_eq!(plan(&desired([ada]), &unseen, &only).summary().hold, 1);
}

#[test]
fn what_runs_anew_is_stopped_started_and_given_its_values_again() {
    let ada = asking("ada");
    let mut observed = converged(std::slice::from_ref(&ada));
    for receipt in observed.receipts.values_mut() {
        receipt.env.insert("TOKEN".to_owned(), "d1".to_owned());
    }
    let with = Options { order: Order::Restart, ..with_value("d1") };
    let again = plan(&desired([ada.clone()]), &observed, &with);
    assert_eq!(
        text(&again),
        "ada machine reprovision restart\n\
         ada guest reprovision not_running\n\
         [] -> #0 stop ada machine\n\
         [0] -> #1 start ada machine\n\
         [0,1] -> #2 provision ada guest"
    );
    let Action::Provision { deliver, .. } = &again.steps[2].action else { panic!("{again:?}") };
    assert!(deliver.contains("TOKEN"));
    // A value that it has, and could not be given again, keeps it running.
    let without = Options { order: Order::Restart, ..Options::default() };
    let held = plan(&desired([ada.clone()]), &observed, &without);
    assert!(held.is_empty(), "{}", text(&held));
    assert_eq!(held.summary().hold, 1);
    // One that was stopped starts, and one that is replaced has no need to stop first.
    let mut down = stopped(std::slice::from_ref(&ada));
    down.facts = observed.facts.clone();
    let up = plan(&desired([ada.clone()]), &down, &with);
    let actions: Vec<_> = up.steps.iter().map(|step| step.action.name()).collect();
    assert_eq!(actions, ["start", "provision"]);
    let other = SandboxSpec { image: Some(ImageRef::Registry("busybox:2".to_owned())), ..ada };
    let anew = plan(&desired([other]), &observed, &with);
    assert!(anew.steps.iter().all(|step| !matches!(step.action, Action::Stop(_))), "{anew:?}");
}
