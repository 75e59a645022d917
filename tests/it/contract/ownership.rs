//! Nothing that is not ours is shown as ours, or touched.

use std::collections::BTreeSet;

use bottle::backend::{Backend, BackendError, Depth, ExecSpec, Progress, Scope};
use bottle::model::{Instance, OwnerId, Ownership, ResourceSpec};
use bytes::Bytes;

use super::{Fixture, ada, create, create_in, machine, named, observe, only};

/// Every call that could change an object, in a scope whose object it is not: none may succeed in
/// changing it, whatever it returns.
async fn try_everything(f: &dyn Fixture, scope: &Scope, instance: &Instance) {
    let backend = f.backend();
    let spec = ExecSpec::new(["sh", "-c", "cat > /tmp/mark"]);
    backend.exec(scope, instance, &spec, Bytes::from_static(b"x")).await.ok();
    let upload = bottle::backend::Upload { wipe: vec!["/etc".to_owned()], ..Default::default() };
    backend.copy_in(scope, instance, upload).await.ok();
    backend.start(scope, instance).await.ok();
    backend.teardown(scope, instance).await.ok();
}

/// An owner whose objects' names look like those of our sandboxes `x-…`.
pub(super) fn longer(scope: &Scope) -> Scope {
    let owner = OwnerId::new(format!("{}-x", scope.owner)).expect("it is still short");
    Scope { owner, ..scope.clone() }
}

pub(crate) async fn a_foreign_object_is_a_conflict_and_untouched(f: &dyn Fixture) {
    let name = f.scope().object_name(&ada());
    let id = f.add_foreign(&name).await;
    let before = f.describe(&id).await.expect("it was just made");

    let seen = only(f).await;
    assert_eq!((seen.ownership.clone(), seen.sandbox.clone()), (Ownership::Foreign, ada()));
    assert_eq!((seen.name.as_str(), seen.hash), (name.as_str(), None));

    let spec = machine(f, ada());
    f.backend().prepare(f.scope(), &spec, &Progress::silent()).await.expect("preparing");
    let created = f.backend().create(f.scope(), &ResourceSpec::Machine(spec)).await;
    let Err(BackendError::Conflict { name: said }) = created else { panic!("{created:?}") };
    assert_eq!(said, name);
    try_everything(f, f.scope(), &seen).await;
    assert_eq!(f.describe(&id).await, Some(before));
}

pub(crate) async fn another_owner_is_invisible(f: &dyn Fixture) {
    let theirs = create_in(f, f.other_owner(), &machine(f, ada())).await;
    assert!(observe(f).await.instances.is_empty());
    let ours = create(f, &machine(f, ada())).await;
    assert_ne!(ours.id, theirs.id);
    assert_eq!(only(f).await.id, ours.id);
    let seen = f.backend().observe(f.other_owner(), Depth::Deep).await.expect("observing");
    let seen: Vec<_> = seen.instances.into_iter().map(|i| i.id).collect();
    assert_eq!(seen, [theirs.id]);
}

pub(crate) async fn another_owner_is_never_acted_on(f: &dyn Fixture) {
    let theirs = create_in(f, f.other_owner(), &machine(f, ada())).await;
    let theirs = f.backend().start(f.other_owner(), &theirs).await.expect("starting");
    let before = f.describe(&theirs.id.0).await.expect("it was just made");
    try_everything(f, f.scope(), &theirs).await;
    assert_eq!(f.describe(&theirs.id.0).await, Some(before));
}

pub(crate) async fn owners_whose_names_run_into_each_other(f: &dyn Fixture) {
    // `bottle-<owner>-x-ada`: ours as sandbox `x-ada`, or that of the owner `<owner>-x` as `ada`.
    let longer = longer(f.scope());
    let theirs = create_in(f, &longer, &machine(f, ada())).await;
    let before = f.describe(&theirs.id.0).await.expect("it was just made");

    let seen = observe(f).await.instances;
    assert!(seen.iter().all(|i| i.ownership == Ownership::Foreign), "{seen:#?}");
    let spec = machine(f, named("x-ada"));
    let created = f.backend().create(f.scope(), &ResourceSpec::Machine(spec)).await;
    assert!(matches!(created, Err(BackendError::Conflict { .. })), "{created:?}");
    try_everything(f, f.scope(), &theirs).await;
    assert_eq!(f.describe(&theirs.id.0).await, Some(before));
    f.backend().teardown(&longer, &theirs).await.expect("tearing down");
    assert!(observe(f).await.instances.is_empty());
}

pub(crate) async fn another_state_folder_is_seen_as_such(f: &dyn Fixture) {
    let theirs = create_in(f, f.other_state(), &machine(f, ada())).await;
    let before = f.describe(&theirs.id.0).await.expect("it was just made");
    let seen = only(f).await;
    assert_eq!(seen.ownership, Ownership::OtherState(f.other_state().state.clone()));
    assert_eq!(seen.sandbox, ada());
    let spec = ResourceSpec::Machine(machine(f, ada()));
    let created = f.backend().create(f.scope(), &spec).await;
    assert!(matches!(created, Err(BackendError::Conflict { .. })), "{created:?}");
    try_everything(f, f.scope(), &seen).await;
    assert_eq!(f.describe(&theirs.id.0).await, Some(before));
}

pub(crate) async fn what_was_adopted_is_ours(f: &dyn Fixture) {
    let theirs = create_in(f, f.other_state(), &machine(f, ada())).await;
    let adopted = BTreeSet::from([f.other_state().state.clone()]);
    let scope = Scope { adopted, ..f.scope().clone() };
    let seen = f.backend().observe(&scope, Depth::Listing).await.expect("observing").instances;
    assert_eq!(seen.len(), 1);
    assert_eq!((&seen[0].id, &seen[0].ownership), (&theirs.id, &Ownership::Ours));
    let again = f.backend().create(&scope, &ResourceSpec::Machine(machine(f, ada()))).await;
    assert_eq!(again.expect("the same hash is there").id, theirs.id);
    f.backend().teardown(&scope, &theirs).await.expect("tearing down");
    assert!(observe(f).await.instances.is_empty());
}

pub(crate) async fn out_of_reach_is_an_error_and_not_nothing(f: &dyn Fixture) {
    let machine_there = create(f, &machine(f, ada())).await;
    let away = f.unreachable();
    let (away, scope): (&dyn Backend, _) = (away.as_ref(), f.scope());
    let spec = machine(f, named("bob"));
    let silent = Progress::silent();
    let results = [
        away.observe(scope, Depth::Listing).await.map(drop),
        away.observe(scope, Depth::Deep).await.map(drop),
        away.prepare(scope, &spec, &silent).await,
        away.create(scope, &ResourceSpec::Machine(spec.clone())).await.map(drop),
        away.start(scope, &machine_there).await.map(drop),
        away.teardown(scope, &machine_there).await,
        away.exec(scope, &machine_there, &ExecSpec::new(["true"]), Bytes::new()).await.map(drop),
        away.copy_out(scope, &machine_there, "/etc", 1 << 20).await.map(drop),
        away.events(scope).await.map(drop),
    ];
    for (nth, result) in results.into_iter().enumerate() {
        let Err(BackendError::Unreachable { backend, reason }) = result else {
            panic!("call {nth}: {result:?}");
        };
        assert_eq!(backend, f.backend().kind());
        assert!(!reason.is_empty());
    }
    let findings = away.doctor(false).await;
    assert!(!findings.is_empty());
}
