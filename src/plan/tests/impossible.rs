//! What a backend says that it cannot make is not begun, and nothing is removed for it.

use super::*;
use crate::model::SandboxSpec;

const WHY: &str = "this bottle is linked to libraries; use a static one";

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

fn say(observed: &mut Observed, set: impl Fn(&mut BackendFacts)) {
    set(observed.facts.get_mut(&BackendKind::Docker).unwrap());
}

fn why(plan: &Plan) -> &str {
    let Reason::Impossible { why } = &plan.changes[0].reason else { panic!("{plan:?}") };
    why
}

#[test]
fn a_sidecar_that_cannot_be_made_holds_its_sandbox_and_no_other() {
    let mut observed = reachable();
    say(&mut observed, |facts| facts.no_sidecars = Some(WHY.to_owned()));
    let held = plan(&desired([connected(), spec("bob")]), &observed, &equipped());
    assert_eq!(held.summary(), Summary { hold: 1, create: 1, ..Summary::default() });
    assert_eq!(why(&held), format!("its sidecar cannot be made: {WHY}"));
    assert!(held.steps.iter().all(|step| step.sandbox == Some(id("bob"))), "{held:?}");
}

#[test]
fn one_that_runs_is_left_alone_and_not_replaced() {
    let ada = connected();
    let mut observed = converged(std::slice::from_ref(&ada));
    say(&mut observed, |facts| facts.no_sidecars = Some(WHY.to_owned()));
    let same = plan(&desired([ada.clone()]), &observed, &equipped());
    assert_eq!((same.is_empty(), same.summary().keep), (true, 1), "{same:?}");
    // What is done in place needs no new one.
    let prompt = SandboxSpec { prompt: "Other.".into(), ..ada.clone() };
    assert_eq!(plan(&desired([prompt]), &observed, &equipped()).summary().reprovision, 1);
    let other = SandboxSpec { user: Some("me".to_owned()), ..ada };
    let held = plan(&desired([other]), &observed, &equipped());
    assert_eq!((held.is_empty(), held.summary().hold), (true, 1), "{held:?}");
    assert!(why(&held).contains(WHY));
}

#[test]
fn where_no_machine_can_be_made_none_is_begun() {
    let mut observed = converged(&[spec("ada"), spec("eve")]);
    for instance in observed.instances.iter_mut().filter(|i| i.sandbox == id("ada")) {
        (instance.state, instance.boot) = (InstanceState::Stopped { code: None }, None);
    }
    say(&mut observed, |facts| facts.no_machines = Some("max_user_namespaces is 0".to_owned()));
    let held = plan(&desired(["ada", "bob", "eve"].map(spec)), &observed, &equipped());
    assert!(held.is_empty(), "{held:?}");
    assert_eq!(held.summary(), Summary { hold: 2, keep: 1, ..Summary::default() });
    assert_eq!(why(&held), "no machine can be made: max_user_namespaces is 0");
    // What goes needs none.
    let gone = plan(&desired([]), &observed, &Options { remove_all: true, ..equipped() });
    assert_eq!(gone.summary().teardown, 2);
}
