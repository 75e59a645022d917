//! What is particular to the fake: faults, seeds, and the world outside. That it behaves like a
//! backend is for the contract suite to say.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::model::{
    ImageRef, LeftoverKind, OwnerId, Ownership, Resources, Restart, SandboxId, SpecHash,
};

fn scope(owner: &str, state: &str) -> Scope {
    Scope {
        owner: OwnerId::new(owner).unwrap(),
        state: state.to_owned(),
        adopted: BTreeSet::new(),
        data: "/nowhere".into(),
        hidden: Vec::new(),
        places: Default::default(),
    }
}

fn machine(name: &str) -> MachineSpec {
    MachineSpec {
        sandbox: SandboxId::new(name).unwrap(),
        backend: BackendKind::Memory,
        image: ImageRef::Registry("image:1".to_owned()),
        host_paths: Vec::new(),
        tools: Default::default(),
        setup: Default::default(),
        env: BTreeMap::new(),
        connected: false,
        waits_for_env: false,
        resources: Resources::default(),
        workdir: None,
        mount: None,
        user: None,
        command: Vec::new(),
        restart: Restart::default(),
        overlay: None,
    }
}

fn backend(seed: u64) -> MemoryBackend {
    let backend = MemoryBackend::new(BackendKind::Memory, seed);
    backend.add_image("image:1", Image::default());
    backend
}

fn error() -> BackendError {
    BackendError::failed("creating", anyhow::anyhow!("boom"))
}

async fn create(backend: &MemoryBackend, name: &str) -> Result<Instance, BackendError> {
    backend.create(&scope("team", "s"), &ResourceSpec::Machine(machine(name))).await
}

#[tokio::test]
async fn a_fault_strikes_once_at_its_moment() {
    for (when, objects) in [(When::Before, 0), (When::Midway, 1), (When::After, 1)] {
        let backend = backend(1);
        backend.fault(Fault::fail("create", when, error()));
        create(&backend, "ada").await.unwrap_err();
        assert_eq!(backend.objects().len(), objects, "{when:?}");
        let broken = backend.objects().iter().any(|o| o.state != InstanceState::Created);
        assert_eq!(broken, when == When::Midway);
        assert_eq!(create(&backend, "ada").await.is_ok(), when != When::Midway);
        assert_eq!(backend.no_faults(), 0);
    }
}

#[tokio::test]
async fn a_fault_waits_for_its_sandbox() {
    let backend = backend(1);
    let ada = SandboxId::new("ada").unwrap();
    backend.fault(Fault::fail("create", When::Before, error()).of(&ada));
    create(&backend, "bob").await.unwrap();
    create(&backend, "ada").await.unwrap_err();
}

#[tokio::test]
async fn a_call_that_hangs_can_be_given_up_after_its_effect() {
    let backend = backend(1);
    backend.fault(Fault::hang("create", When::After));
    tokio::select! {
        _ = create(&backend, "ada") => panic!("it returned"),
        () = backend.hung() => {}
    }
    assert_eq!(backend.objects().len(), 1);
}

#[tokio::test]
async fn the_same_seed_gives_the_same_history() {
    async fn history(seed: u64) -> (Vec<bool>, Vec<Object>) {
        let backend = backend(seed);
        backend.fault_rate(200);
        let names: Vec<String> = (0..40).map(|n| format!("a{n}")).collect();
        let calls = names.iter().map(|name| create(&backend, name));
        let ended = futures_util::future::join_all(calls).await;
        (ended.iter().map(Result::is_ok).collect(), backend.objects())
    }
    let first = history(7).await;
    assert_eq!(first, history(7).await);
    assert_ne!(first, history(8).await);
    assert!(first.0.contains(&true) && first.0.contains(&false));
}

#[tokio::test]
async fn concurrent_calls_interleave() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let backend = backend(3);
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, top) = (open.clone(), most.clone());
    backend.observe_calls(move |_, when| match when {
        When::Before => {
            top.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        }
        _ => {
            now.fetch_sub(1, Ordering::SeqCst);
        }
    });
    let names: Vec<String> = (0..8).map(|n| format!("a{n}")).collect();
    futures_util::future::join_all(names.iter().map(|name| create(&backend, name))).await;
    assert_eq!(open.load(Ordering::SeqCst), 0);
    assert!(most.load(Ordering::SeqCst) > 1);
}

#[tokio::test]
async fn looking_is_not_a_mutating_call() {
    let backend = backend(1);
    let ada = create(&backend, "ada").await.unwrap();
    let scope = scope("team", "s");
    backend.start(&scope, &ada).await.unwrap();
    backend.forget_calls();
    backend.observe(&scope, Depth::Deep).await.unwrap();
    backend.main_state(&scope, &ada).await.unwrap();
    backend.identity(&scope, &ada).await.unwrap();
    assert_eq!((backend.calls().len(), backend.mutating_calls()), (3, 0));
    backend.teardown(&scope, &ada).await.unwrap();
    assert_eq!(backend.mutating_calls(), 1);
}

#[tokio::test]
async fn events_hint_at_what_happens_and_end_with_the_engine() {
    let backend = backend(1);
    let mut events = backend.events(&scope("team", "s")).await.unwrap();
    let ada = create(&backend, "ada").await.unwrap();
    backend.remove(&ada.id).unwrap();
    backend.set_unreachable(Some("it is down"));
    let mut seen = Vec::new();
    while let Some(event) = events.next().await {
        seen.push(event.map_or_else(|error| error.to_string(), |hint| hint.what));
    }
    assert_eq!(
        seen,
        [
            "create bottle-team-ada",
            "destroy bottle-team-ada",
            "memory cannot be reached: it is down"
        ]
    );
    create(&backend, "ada").await.unwrap_err();
}

#[tokio::test]
async fn a_duplicate_and_what_lost_its_labels_are_seen() {
    let backend = backend(1);
    let scope = scope("team", "s");
    let ada = create(&backend, "ada").await.unwrap();
    let twin = backend.duplicate(&ada.id).unwrap();
    backend.relabel(&twin, |labels| labels.hash = None).unwrap();
    let seen = backend.observe(&scope, Depth::Listing).await.unwrap().instances;
    assert!(seen.iter().all(|i| i.ownership == Ownership::Ours && i.sandbox == ada.sandbox));
    assert_eq!(seen.iter().filter(|i| i.hash.is_none()).count(), 1);
    assert_eq!(backend.ids_of(&ada.sandbox), [ada.id, twin]);
}

#[tokio::test]
async fn an_imported_image_stays_while_it_is_used() {
    let backend = backend(1);
    let scope = scope("team", "s");
    backend.add_source("/images/a.tar", Image::default());
    let digest = SpecHash::of_bytes(b"a");
    let image = ImageRef::Tar { path: "/images/a.tar".into(), digest };
    let spec = MachineSpec { image, ..machine("ada") };
    backend.prepare(&scope, &spec, &Progress::silent()).await.unwrap();
    let ada = backend.create(&scope, &ResourceSpec::Machine(spec)).await.unwrap();
    let seen = backend.observe(&scope, Depth::Listing).await.unwrap();
    let [image] = seen.leftovers.as_slice() else { panic!("{:?}", seen.leftovers) };
    assert_eq!((image.kind, image.digest), (LeftoverKind::Image, Some(digest)));
    backend.prune(&scope, image).await.unwrap();
    assert_eq!(backend.leftovers().len(), 1, "a machine stands on it");
    backend.teardown(&scope, &ada).await.unwrap();
    backend.prune(&scope, image).await.unwrap();
    backend.prune(&scope, image).await.unwrap();
    assert!(backend.leftovers().is_empty());
}

#[tokio::test]
async fn a_followed_log_ends_with_the_machine() {
    let backend = Arc::new(backend(1));
    let scope = scope("team", "s");
    let ada = create(&backend, "ada").await.unwrap();
    backend.start(&scope, &ada).await.unwrap();
    backend.main_did(&ada.id, "one\ntwo\n", None).unwrap();
    let mut out = Vec::new();
    let options = LogOptions { follow: true, tail: Some(1), ..LogOptions::default() };
    let follow = backend.logs(&scope, &ada, options, &mut out);
    let world = async {
        tokio::task::yield_now().await;
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        backend.main_did(&ada.id, "three\n", None).unwrap();
        tokio::task::yield_now().await;
        backend.stop(&ada.id, 0).unwrap();
    };
    let (ended, ()) = tokio::join!(follow, world);
    ended.unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "two\nthree\n");
}

#[test]
fn a_tail_is_whole_lines() {
    for (lines, expected) in [(0, ""), (1, "b\n"), (2, "a\nb\n"), (9, "a\nb\n")] {
        assert_eq!(tail(b"a\nb\n", Some(lines)), expected.as_bytes());
    }
    assert_eq!(tail(b"a\nb", Some(1)), b"b");
    assert_eq!(tail(b"", Some(1)), b"");
    assert_eq!(tail(b"a\n", None), b"a\n");
}
