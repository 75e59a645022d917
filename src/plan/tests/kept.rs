//! What is kept of a sandbox when its machine goes, and when it comes in again.

use super::*;
use crate::model::{Keep, Why, Workspace, WorkspaceMode};

/// Why the work of each machine that goes is kept, and whether what is provisioned gets what was kept.
fn kept(plan: &Plan) -> (Vec<Option<Why>>, Vec<bool>) {
    let machines = || plan.steps.iter().filter(|step| step.resource == ResourceKind::Machine);
    // What is kept before a machine is set aside goes later, with nothing more to keep.
    let earlier = |gone: &Instance| {
        machines().any(
            |step| matches!(&step.action, Action::Keep { machine, .. } if machine.id == gone.id),
        )
    };
    let gone = machines().filter_map(|step| match &step.action {
        Action::Keep { kept, .. } => Some(Some(kept.why)),
        Action::Teardown { instance, keeps: None } if earlier(instance) => None,
        Action::Teardown { keeps, .. } => Some(keeps.as_ref().map(|kept| kept.why)),
        _ => None,
    });
    let steps = plan.steps.iter().filter(|step| step.undoes.is_empty());
    let carries = steps.filter_map(|step| match &step.action {
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
fn what_waits_for_a_machine_that_never_ran_is_not_said_to_be_lost() {
    let mut observed = converged(&[spec("ada")]);
    observed.instances[0].state = InstanceState::Created;
    let all = Options { allow_teardown: AllowTeardown::All, ..Options::default() };
    let keeps = |observed: &Observed| {
        let gone = plan(&desired([spec("bob")]), observed, &all);
        gone.changes.iter().find_map(|change| change.keeps.clone()).unwrap_or_default()
    };
    assert_eq!(keeps(&observed), [""; 0]);
    observed.carrying.insert(id("ada"), InstanceId("old".to_owned()));
    assert_eq!(keeps(&observed), ["home"]);
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

/// What the one plan says of the machine of `name`: kept, lost, and what else.
fn said(plan: &Plan, name: &str) -> (Vec<String>, Vec<String>, String) {
    let mut changes = plan.changes.iter();
    let change =
        changes.find(|c| c.sandbox == id(name) && c.resource == ResourceKind::Machine).unwrap();
    let (keeps, loses) = (change.keeps.clone().unwrap(), change.loses.clone().unwrap());
    (keeps, loses, change.notes.join("; "))
}

fn named(workspace: bool, home: bool, paths: &[&str]) -> Keep {
    Keep { workspace, home, paths: paths.iter().map(|path| (*path).to_owned()).collect() }
}

fn with(name: &str, keep: Keep, mode: WorkspaceMode) -> crate::model::SandboxSpec {
    let workspace = Workspace { path: "/srv/site".into(), mode, target: "/workspace".to_owned() };
    crate::model::SandboxSpec { keep, workspace: Some(workspace), ..spec(name) }
}

#[test]
fn what_a_bottle_names_is_kept_and_the_rest_is_said_to_be_lost() {
    use WorkspaceMode::{Copy, Mount};
    let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let judge = |keep: Keep, mode| {
        let observed = converged(&[with("ada", keep.clone(), mode)]);
        let image = other_image("ada").image;
        let next = crate::model::SandboxSpec { image, ..with("ada", keep, mode) };
        let made = run(&desired([next]), &observed);
        let (keeps, loses, notes) = said(&made, "ada");
        (kept(&made).0[0], keeps, loses, notes)
    };
    let replace = Some(Why::Replace);
    let (why, keeps, loses, _) = judge(named(true, true, &["/var/lib/x", "/srv/db"]), Copy);
    assert_eq!((why, keeps), (replace, list(&["workspace", "home", "/srv/db", "/var/lib/x"])));
    assert_eq!(loses, ["the rest"]);
    let (why, keeps, loses, _) = judge(named(false, true, &[]), Copy);
    assert_eq!((why, keeps, loses), (replace, list(&["home"]), list(&["workspace", "the rest"])));
    let (why, keeps, loses, notes) = judge(named(false, false, &[]), Copy);
    assert_eq!((why, keeps), (None, list(&[])));
    assert_eq!(loses, ["workspace", "home", "the rest"]);
    assert_eq!(notes, "`keep: []` of its bottle: nothing is kept");
    // By its own path it is the workspace, and so is a folder around it.
    for path in ["/workspace", "/"] {
        let (_, keeps, ..) = judge(named(false, false, &[path]), Copy);
        assert_eq!(keeps[0], "workspace", "{path}");
    }
    // A mount is the host's: neither kept nor lost.
    let (why, keeps, loses, _) = judge(named(true, false, &["/workspace/a", "/v"]), Mount);
    assert_eq!((why, keeps), (replace, list(&["/v"])));
    assert_eq!(loses, ["home", "the rest"]);
    let (why, keeps, ..) = judge(named(true, false, &[]), Mount);
    assert_eq!((why, keeps), (None, list(&[])), "there is nothing of that");
}

#[test]
fn what_the_new_machine_has_of_the_host_stays_as_a_snapshot() {
    let keep = named(true, true, &["/data/x"]);
    let observed = converged(&[with("ada", keep.clone(), WorkspaceMode::Copy)]);
    let mut next = with("ada", keep, WorkspaceMode::Mount);
    next.workspace.as_mut().unwrap().target = "/data".to_owned();
    let (keeps, loses, notes) = said(&run(&desired([next]), &observed), "ada");
    assert_eq!((keeps, loses), (vec!["home".to_owned()], vec!["the rest".to_owned()]));
    assert!(notes.contains("no copy of the same folder"), "{notes}");
    assert!(notes.contains("what was written to /data/x stays as a snapshot"), "{notes}");
}

#[test]
fn what_the_tree_says_now_counts_and_else_what_it_said_last() {
    let mut observed = converged(&[with("ada", Keep::default(), WorkspaceMode::Copy)]);
    observed.keeps.insert(id("ada"), named(false, false, &["/v"]));
    let all =
        Options { allow_teardown: AllowTeardown::All, remove_all: true, ..Options::default() };
    let there = desired([with("ada", named(false, true, &[]), WorkspaceMode::Copy)]);
    assert_eq!(said(&plan(&there, &observed, &all), "ada").0, ["home"]);
    let gone = plan(&desired([]), &observed, &all);
    assert_eq!(said(&gone, "ada").0, ["/v"]);
    let Action::Teardown { keeps: Some(step), .. } = &gone.steps[0].action else { panic!() };
    assert_eq!((step.why, &step.what), (Why::Teardown, &observed.keeps[&id("ada")]));
    observed.keeps.clear();
    assert_eq!(said(&plan(&desired([]), &observed, &all), "ada").0, ["workspace", "home"]);
    // What was on its way arrives, whatever the tree says by now.
    let mut between = reachable();
    between.carrying.insert(id("ada"), InstanceId("old".to_owned()));
    let nothing = with("ada", named(false, false, &[]), WorkspaceMode::Copy);
    assert_eq!(kept(&run(&desired([nothing]), &between)).1, [true]);
}

#[test]
fn what_is_kept_is_no_change_of_a_machine_and_voids_a_saved_plan() {
    let observed = converged(&[spec("ada")]);
    let edited = crate::model::SandboxSpec { keep: named(false, false, &["/v"]), ..spec("ada") };
    assert!(run(&desired([edited.clone()]), &observed).is_empty());
    let options = Options::default();
    let print = |wanted: crate::model::SandboxSpec| {
        crate::plan::document::fingerprint(&desired([wanted]), &observed, &options)
    };
    assert_ne!(print(edited), print(spec("ada")));
}
