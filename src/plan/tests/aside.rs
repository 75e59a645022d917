//! What is done where a replace was cut short, and which replaces are what they were.

use super::*;
use crate::model::{SandboxSpec, Workspace, WorkspaceMode};

fn other_image() -> SandboxSpec {
    SandboxSpec { image: Some(ImageRef::Registry("busybox:2".to_owned())), ..spec("ada") }
}

/// The old machine was set aside; what the new one is, and whether the work is on its way to it.
fn cut_short(new: Option<InstanceState>, on_its_way: bool) -> Observed {
    let mut observed = converged(&[spec("ada")]);
    let old = observed.instances[0].clone();
    observed.instances[0].state = InstanceState::Aside;
    if let Some(state) = new {
        let hash = other_image().machine(BackendKind::Docker).unwrap().hash();
        let id = InstanceId("new".to_owned());
        let fields = other_image().machine(BackendKind::Docker).unwrap().fields();
        observed.instances.push(Instance { id, state, fields, hash: Some(hash), ..old.clone() });
    }
    if on_its_way {
        observed.carrying.insert(id("ada"), old.id);
    }
    observed
}

/// What is done, by action and machine.
fn actions(plan: &Plan) -> String {
    let steps = plan.steps.iter().filter(|step| step.undoes.is_empty());
    let name = |step: &Step| match &step.action {
        Action::Teardown { instance, .. } => format!("teardown {}", instance.id.0 == "new"),
        action => action.name().to_owned(),
    };
    steps.map(name).collect::<Vec<_>>().join(" ").replace("true", "new").replace("false", "old")
}

#[test]
fn as_long_as_the_work_is_on_its_way_the_old_machine_comes_back() {
    for new in [None, Some(InstanceState::Created), Some(InstanceState::Running)] {
        let observed = cut_short(new.clone(), true);
        let back = run(&desired([spec("ada")]), &observed);
        let half = if new.is_some() { "teardown new " } else { "" };
        assert_eq!(actions(&back), format!("{half}bring_back start provision"), "{new:?}");
        // It runs again, also where what is to follow cannot be had.
        let anew = run(&desired([other_image()]), &observed);
        let then = "prepare keep set_aside create start provision teardown old";
        assert_eq!(actions(&anew), format!("{half}bring_back start provision {then}"), "{new:?}");
        let prepare = anew.steps.iter().find(|step| step.action.name() == "prepare").unwrap();
        assert!(prepare.after.is_empty());
    }
}

#[test]
fn the_old_machine_gets_no_workspace_that_it_was_not_made_with() {
    let copied = |target: &str| {
        let path = PathBuf::from("/site");
        let workspace = Workspace { path, mode: WorkspaceMode::Copy, target: target.to_owned() };
        SandboxSpec { workspace: Some(workspace), ..spec("ada") }
    };
    // What would be written there while it runs again goes with it.
    for (old, new, kept) in [
        (spec("ada"), copied("/work"), None),
        (copied("/workspace"), copied("/work"), None),
        (copied("/work"), copied("/work"), Some("/work")),
    ] {
        let mut observed = converged(&[old]);
        let id_of_old = observed.instances[0].id.clone();
        observed.instances[0].state = InstanceState::Aside;
        observed.carrying.insert(id("ada"), id_of_old.clone());
        let plan = run(&desired([new]), &observed);
        let revived = plan.steps.iter().find_map(|step| match &step.action {
            Action::Provision { machine: Target::Existing(machine), guest, .. }
                if machine.id == id_of_old =>
            {
                Some(guest.workspace.as_ref().map(|workspace| workspace.target.clone()))
            }
            _ => None,
        });
        assert_eq!(revived, Some(kept.map(str::to_owned)));
    }
}

#[test]
fn once_the_work_is_in_the_new_machine_the_old_one_goes() {
    // Where nothing says that it arrived, it is in the old one.
    let lost = cut_short(Some(InstanceState::Running), false);
    let back = run(&desired([spec("ada")]), &lost);
    assert_eq!(actions(&back), "teardown new bring_back start provision");
    let observed = arrived(lost);
    let done = run(&desired([other_image()]), &observed);
    assert_eq!(actions(&done), "provision teardown old", "it goes when the new one is whole");
    let mut whole = observed.clone();
    let receipt = whole.receipts.values().next().unwrap().clone();
    let guest = other_image().guest(BackendKind::Docker);
    let new = Receipt {
        instance: InstanceId("new".to_owned()),
        guest: Some(guest.hash()),
        fields: guest.fields(),
        ..receipt
    };
    whole.receipts.insert(new.instance.clone(), new);
    assert_eq!(actions(&run(&desired([other_image()]), &whole)), "teardown old");
    // Never started, it has nothing.
    let created = cut_short(Some(InstanceState::Created), false);
    let back = run(&desired([spec("ada")]), &created);
    assert_eq!(actions(&back), "teardown new bring_back start provision");
}

#[test]
fn where_nothing_can_be_set_aside_the_old_machine_goes_first() {
    let all = Options { allow_teardown: AllowTeardown::All, ..Options::default() };
    let first = |observed: &Observed, wanted: SandboxSpec| {
        let plan = plan(&desired([wanted]), observed, &all);
        assert!(plan.steps.iter().all(|step| step.undoes.is_empty()), "{}", text(&plan));
        actions(&plan)
    };
    // Of what never ran nothing is lost.
    let mut created = converged(&[spec("ada")]);
    created.instances[0].state = InstanceState::Created;
    assert_eq!(first(&created, other_image()), "prepare teardown old create start provision");
    let mut stopped = converged(&[spec("ada")]);
    stopped.stopped.insert(id("ada"), crate::model::Stopped { since: 1 });
    assert_eq!(first(&stopped, other_image()), "prepare teardown old create");
    let on = |user: Option<&str>| SandboxSpec {
        backend: BackendChoice::Fixed(BackendKind::Smolmachines),
        user: user.map(str::to_owned),
        ..spec("ada")
    };
    let mut micro = converged(&[on(None)]);
    micro.facts.insert(BackendKind::Smolmachines, BackendFacts::default());
    let gone = first(&micro, on(Some("me")));
    assert_eq!(gone, "prepare teardown old create start provision");
}

#[test]
fn what_was_set_aside_goes_with_its_sandbox() {
    let running = || cut_short(Some(InstanceState::Running), false);
    for (observed, has_it) in [(arrived(running()), "new"), (running(), "old")] {
        let gone = run(&desired([spec("bob")]), &observed);
        assert!(actions(&gone).contains("teardown new") && actions(&gone).contains("teardown old"));
        let kept = gone.steps.iter().filter_map(|step| match &step.action {
            Action::Teardown { instance, keeps } => Some((instance.id.0 == "new", keeps.is_some())),
            _ => None,
        });
        // It is kept of the one that has it, which comes back for that.
        let is_it = |new: bool| new == (has_it == "new");
        assert!(kept.into_iter().all(|(new, kept)| is_it(new) == kept), "{}", text(&gone));
    }
}

/// What was kept is in the new machine, in which nothing else was put yet.
fn arrived(mut observed: Observed) -> Observed {
    let old = observed.receipts.values().next().unwrap().clone();
    let new = InstanceId("new".to_owned());
    let receipt = Receipt { instance: new.clone(), guest: None, ..old };
    observed.receipts.insert(new, receipt);
    observed
}
