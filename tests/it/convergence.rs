//! Whatever happened, one pass without faults converges: random trees, random histories.

use std::collections::BTreeSet;

use bottle::apply::{Outcome, Stop};
use bottle::backend::memory::{Node, Object, When};
use bottle::backend::{Depth, MainState, guest_path};
use bottle::model::access::CA_PATH;
use bottle::model::{
    BackendChoice, Desired, InstanceState, LeftoverKind, ResourceKind, SandboxId, SandboxSpec,
    SkillNode,
};
use bottle::plan::Verdict;
use bottle::sidecar::PolicyPart;
use bottle::sidecar::document::Document;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use zeroize::Zeroizing;

mod history;
mod replaced;
mod world;

use history::{Happening, Pass, assert_orderly, history};
use world::{ASKED, PLAIN, Wish, World};

const SKILLS_DIR: &str = "/home/node/.claude/skills";

fn on_a_runtime<T>(future: impl Future<Output = T>) -> T {
    // One thread: the same history gives the same interleaving.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime can be built").block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/it/convergence.proptest-regressions"
        )))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn one_pass_converges_whatever_happened(seed: u64, history in history()) {
        on_a_runtime(async {
            let mut world = World::new(seed).await;
            for happening in &history {
                world.live(happening).await;
            }
            calm(&mut world);
            converges(&world).await;
            // What the operator stopped comes up whole.
            if !world.wake().is_empty() {
                converges(&world).await;
            }
        });
    }
}

/// Both engines answer, no fault is waiting, every value is at hand.
fn calm(world: &mut World) {
    for engine in &world.engines {
        engine.set_unreachable(None);
        engine.no_faults();
    }
    for image in 0..2 {
        world.publish(image, true);
    }
    for name in ASKED {
        let typed = &mut world.reconciler.sources.typed;
        typed.entry(name.to_owned()).or_insert_with(|| Zeroizing::new("a value".to_owned()));
    }
    world.reconciler.depth = Depth::Deep;
}

async fn converges(world: &World) {
    let untouchable = world.untouchable();
    let (view, report) = world.look_and_carry_out(&Stop::default()).await;
    assert_orderly(&view);
    for outcome in &report.outcomes {
        let step = &view.plan.steps[outcome.step];
        assert_eq!(outcome.outcome, Outcome::Done, "{step:#?}");
    }
    for engine in &world.engines {
        engine.forget_calls();
    }
    let (second, _) = world.look_and_carry_out(&Stop::default()).await;
    assert!(second.plan.is_empty(), "the second pass: {:#?}", second.plan);
    for engine in &world.engines {
        assert_eq!(engine.mutating_calls(), 0, "{:?}", engine.calls());
    }
    let after = world.untouchable();
    assert_eq!(after, untouchable, "what may not be touched was");

    // What the planner holds is held for a reason that this test has made.
    let held: BTreeSet<_> = second
        .plan
        .changes
        .iter()
        .filter(|change| change.verdict == Verdict::Hold)
        .map(|change| change.sandbox.clone())
        .collect();
    let taken = |name: &str| {
        let mut objects = world.engines.iter().flat_map(|engine| engine.objects());
        objects.any(|object| object.labels.is_none() && object.name == name)
    };
    for sandbox in &held {
        let name = format!("bottle-{}-{sandbox}", World::owner());
        assert!(world.broken.contains(sandbox) || taken(&name), "{sandbox} is held");
    }
    let desired = world.desired();
    no_orphans(world, &desired);
    for spec in desired.sandboxes.values() {
        if held.contains(&spec.id) || spec.suspend {
            continue;
        }
        if second.is_stopped(&spec.id) {
            at_rest(world, spec);
        } else {
            as_declared(world, spec);
        }
    }
    for spec in desired.sandboxes.values().filter(|spec| held.contains(&spec.id)) {
        assert!(!spec.suspend, "{} is suspended, which is not held", spec.id);
    }
}

/// Nothing of ours belongs to nobody.
fn no_orphans(world: &World, desired: &Desired) {
    let known =
        |id: &SandboxId| desired.sandboxes.contains_key(id) || desired.held.contains_key(id);
    let ours = world.ours();
    for (_, object) in &ours {
        let labels = object.labels.as_ref().expect("what is ours has labels");
        assert!(known(&labels.sandbox), "nothing declares {}", object.name);
    }
    let wanted: BTreeSet<_> =
        desired.sandboxes.values().filter_map(|spec| spec.image.as_ref()?.digest()).collect();
    for (index, engine) in world.engines.iter().enumerate() {
        let left = engine.leftovers().into_iter().filter(|left| left.owner == World::owner());
        for left in left {
            assert_eq!(left.leftover.kind, LeftoverKind::Image, "{left:?}");
            let used = ours.iter().any(|(at, o)| *at == index && o.image == left.leftover.digest);
            let digest = left.leftover.digest.expect("an import has a digest");
            assert!(used || wanted.contains(&digest), "{left:?}");
        }
    }
    let memory = world.reconciler.state.tree(&World::owner()).expect("it opens");
    for receipt in memory.receipts().expect("they can be read").into_values() {
        let exists = ours.iter().any(|(_, object)| object.id == receipt.instance);
        assert!(exists || known(&receipt.sandbox), "{receipt:?} speaks of nothing");
    }
}

/// The machine of a sandbox that was stopped is there, and nothing of it runs.
fn at_rest(world: &World, spec: &SandboxSpec) {
    let ours = world.ours();
    let its = |object: &Object| object.labels.as_ref().is_some_and(|l| l.sandbox == spec.id);
    let parts: Vec<&Object> = ours.iter().map(|(_, o)| o).filter(|o| its(o)).collect();
    assert!(parts.iter().any(|object| object.resource == ResourceKind::Machine), "{}", spec.id);
    for object in parts.iter().filter(|object| object.resource != ResourceKind::Network) {
        let rests = matches!(object.state, InstanceState::Created | InstanceState::Stopped { .. });
        assert!(rests, "{} of {}", object.name, spec.id);
    }
}

/// A sandbox is, on the engine, what the tree says: judged without the planner.
fn as_declared(world: &World, spec: &SandboxSpec) {
    let ours = world.ours();
    let mut parts: Vec<&(usize, Object)> = ours
        .iter()
        .filter(|(_, object)| object.labels.as_ref().is_some_and(|l| l.sandbox == spec.id))
        .collect();
    parts.sort_by_key(|(_, object)| object.resource);
    let (at, _) = *parts.last().expect("it exists").to_owned();
    let kind = world::KINDS[at];
    if let BackendChoice::Fixed(asked) = spec.backend {
        assert_eq!(kind, asked, "{}", spec.id);
    }
    let wanted = spec.resources(kind).expect("it names an image");
    assert_eq!(parts.len(), wanted.len(), "{}: {parts:#?}", spec.id);
    for ((engine, object), wanted) in parts.iter().zip(&wanted) {
        assert_eq!((*engine, object.resource), (at, wanted.kind()));
        let labels = object.labels.as_ref().expect("what is ours has labels");
        assert_eq!(labels.hash, Some(wanted.hash()), "{}", object.name);
        assert_eq!(labels.fields, wanted.fields(), "{}", object.name);
        assert_eq!(object.state, InstanceState::Running, "{}", object.name);
        let changed = [&object.drift, &object.deep_drift, &object.mendable];
        assert!(changed.iter().all(|changes| changes.is_empty()), "{object:#?}");
        if object.resource == ResourceKind::Machine {
            inside_as_declared(world, spec, object);
        }
    }
    let of = |kind| parts.iter().map(|(_, o)| o).find(|o| o.resource == kind);
    if let Some(gate) = of(ResourceKind::Gate) {
        let loaded = gate.loaded.as_ref().unwrap_or_else(|| panic!("{} has nothing", gate.name));
        let loaded: serde_json::Value = serde_json::from_slice(loaded).expect("it is a document");
        let upstream = &spec.gate.as_ref().expect("the tree says so").upstreams[0];
        assert_eq!(loaded["upstreams"][0]["path"], upstream.path.as_str(), "{}", spec.id);
        let machine = of(ResourceKind::Machine).expect("it is there");
        assert!(machine.files.get("/etc/bottle/git.md").is_ok(), "{}", spec.id);
    }
    if let Some(sidecar) = of(ResourceKind::Sidecar) {
        loaded_as_declared(spec, sidecar, of(ResourceKind::Machine).expect("it is there"));
    }
}

/// The sidecar enforces what the tree says, and the machine trusts its CA.
fn loaded_as_declared(spec: &SandboxSpec, sidecar: &Object, machine: &Object) {
    let loaded = sidecar.loaded.as_ref().unwrap_or_else(|| panic!("{} has nothing", sidecar.name));
    let loaded: Document = serde_json::from_slice(loaded).expect("it is a document");
    let policy = &spec.sidecar.as_ref().expect("the tree says so").policy;
    assert_eq!(loaded.policy, PolicyPart::from(&**policy), "{}", spec.id);
    assert_eq!(loaded.sandbox, spec.id.as_str());
    let trusted = &machine.files.get(CA_PATH).expect("it has a sidecar").node;
    let ca = loaded.ca.expect("it has a CA").certificate;
    assert_eq!(*trusted, Node::File(ca.into_bytes().into()), "{}", spec.id);
}

fn inside_as_declared(world: &World, spec: &SandboxSpec, machine: &Object) {
    let prompt = machine.files.get(guest_path::PROMPT).expect("the prompt is always there");
    assert_eq!((prompt.mode, prompt.uid), (0o600, 1000));
    assert_eq!(prompt.node, Node::File(spec.prompt.as_bytes().to_vec().into()));

    let values = machine.files.get(guest_path::VALUES).expect("there is one");
    let lines = format!("export LEVEL='{}'\n", spec.env["LEVEL"]);
    let Node::File(found) = &values.node else { panic!("{values:?}") };
    assert!(String::from_utf8_lossy(found).contains(&lines), "{values:?}");

    // Every file of every skill, and no other: of a removed skill or of an older version.
    let mut expected = BTreeSet::new();
    for (name, files) in &spec.skills {
        expected.insert(name.clone());
        for entry in files.entries() {
            let path = format!("{name}/{}", entry.path);
            let found = machine.files.get(&format!("{SKILLS_DIR}/{path}"));
            let found = &found.unwrap_or_else(|error| panic!("{}: {error}", spec.id)).node;
            if let SkillNode::File(content) = &entry.node {
                assert_eq!(*found, Node::File(content.to_vec().into()), "{path}");
            }
            expected.insert(path);
        }
    }
    let below = format!("{SKILLS_DIR}/");
    let present: BTreeSet<String> = machine
        .files
        .iter()
        .filter_map(|(path, _)| path.strip_prefix(&below).map(str::to_owned))
        .collect();
    // What went in before its receipt was lost, or came with a copy by somebody else, is known to
    // nobody. (The names of copies have a dot.)
    let unknown = world.lost.contains(&machine.id)
        || world.forgotten.contains(&spec.id)
        || machine.name.contains('.');
    if unknown {
        assert!(expected.is_subset(&present), "{expected:?} in {present:?}");
    } else {
        assert_eq!(present, expected, "{}", spec.id);
    }

    let env = machine.files.read(guest_path::ENV);
    if spec.asked_env.is_empty() {
        assert!(env.is_err() || unknown, "values nobody asks for");
    } else {
        // A shell that reads it: the last line about a name counts.
        let env = String::from_utf8(env.expect("they were delivered").to_vec()).expect("UTF-8");
        for name in &spec.asked_env {
            let value = &world.reconciler.sources.typed[name];
            let line = format!("export {name}='{}'", value.replace('\'', r"'\''"));
            let about = env.lines().rfind(|line| line.contains(name.as_str()));
            assert_eq!(about, Some(line.as_str()), "{}", spec.id);
        }
    }
    if let Some(workspace) = &spec.workspace {
        let file = machine.files.read(&format!("{}/file", workspace.target));
        assert_eq!(file.as_deref(), Ok(&b"work"[..]));
    }
    let main = match spec.command.first().map(String::as_str) {
        None => MainState::Idle,
        Some("true") => MainState::Completed,
        Some(_) => MainState::Running,
    };
    assert_eq!(machine.main, main, "{}", spec.id);
}

#[test]
fn a_value_whose_delivery_was_cut_short_goes_when_it_is_no_longer_asked_for() {
    on_a_runtime(async {
        let mut world = World::new(1).await;
        let asks = Wish { asked: 1, ..PLAIN };
        world.live(&Happening::Value(0, Some(0))).await;
        world.live(&Happening::Write(0, asks)).await;
        let faults = vec![("exec", When::After)];
        world.live(&Happening::Pass(Pass { jobs: 1, rate: 0, faults, middle: None })).await;
        let delivered = |world: &World| {
            world.ours().iter().any(|(_, object)| object.files.exists(guest_path::ENV))
        };
        assert!(delivered(&world));
        world.live(&Happening::Edit(0, PLAIN)).await;
        calm(&mut world);
        converges(&world).await;
        assert!(!delivered(&world));
    });
}

/// What no agent asks for any more goes as a whole, its symlinks and folders too.
#[test]
fn a_skill_that_is_withdrawn_leaves_nothing() {
    on_a_runtime(async {
        let mut world = World::new(1).await;
        let pass = || Happening::Pass(Pass { jobs: 1, rate: 0, faults: Vec::new(), middle: None });
        for (skills, skill_version) in [(7, 0), (1, 1), (0, 0), (2, 0)] {
            world.live(&Happening::Write(2, Wish { skills, skill_version, ..PLAIN })).await;
            world.live(&pass()).await;
            calm(&mut world);
            converges(&world).await;
        }
    });
}

/// The histories do reach the states that they are about, or the property proves little.
#[test]
fn histories_are_eventful() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let (mut passes, mut objects, mut mutating) = (0, 0, 0);
    for seed in 0..40 {
        let history = history().new_tree(&mut runner).expect("it can be drawn").current();
        on_a_runtime(async {
            let mut world = World::new(seed).await;
            for happening in &history {
                passes += usize::from(matches!(happening, Happening::Pass(_)));
                world.live(happening).await;
            }
            objects += world.ours().len();
            mutating += world.engines.iter().map(|e| e.mutating_calls()).sum::<usize>();
        });
    }
    assert!(passes > 120 && objects > 60 && mutating > 800, "{passes} {objects} {mutating}");
}
