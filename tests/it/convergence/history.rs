//! What can happen, how it is drawn, and how it is carried out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bottle::apply::{Receipts, Report, Stop};
use bottle::backend::BackendError;
use bottle::backend::memory::{Drift, Fault, When};
use bottle::model::{FieldChange, Observed, SandboxId, Stopped};
use bottle::plan::{Action, Plan, plan};
use bottle::reconcile::View;
use proptest::prelude::*;
use tokio::sync::Notify;
use zeroize::Zeroizing;

use super::world::{ASKED, KINDS, Wish, World, agent};

/// One thing that happens.
#[derive(Debug, Clone)]
pub(super) enum Happening {
    /// An agent's files are written.
    Write(u8, Wish),
    /// Only what is put in changes: prompt, skills, values asked for.
    Edit(u8, Wish),
    /// An agent's files are removed.
    Delete(u8),
    /// An agent's file is broken, or repaired.
    Break(u8, bool),
    /// A value is given, changed or withdrawn.
    Value(u8, Option<u8>),
    /// An image is no longer to be had, or is again.
    Image(u8, bool),
    /// An engine goes away, or comes back.
    Reach(u8, bool),
    /// Somebody does something to one of our objects.
    Meddle(Meddling, u8),
    /// Somebody takes a name of ours.
    Foreign(u8, u8),
    /// Somebody frees the names of ours that were taken.
    FreeNames,
    /// An interrupted run of ours left something behind.
    Scratch(u8),
    /// The host was started anew.
    Reboot(u8),
    /// Receipts are lost.
    LoseReceipts,
    /// The operator stops a sandbox, or ends that.
    Order(u8, bool),
    /// A pass.
    Pass(Pass),
}

/// What somebody does to one of our objects.
#[derive(Debug, Clone, Copy)]
pub(super) enum Meddling {
    Stop,
    Pause,
    Restart,
    Remove,
    Break,
    Duplicate,
    Drift,
    DriftDeep,
    Mendable,
    Unlabel,
}

/// A pass, and what goes wrong in it.
#[derive(Debug, Clone)]
pub(super) struct Pass {
    pub(super) jobs: usize,
    /// Of a thousand chances of a fault.
    pub(super) rate: u64,
    /// The n-th call of this name fails at this moment.
    pub(super) faults: Vec<(&'static str, When)>,
    /// What happens at which call.
    pub(super) middle: Option<(usize, Middle)>,
}

/// What happens in the middle of a pass.
#[derive(Debug, Clone, Copy)]
pub(super) enum Middle {
    /// The first signal.
    Drain,
    /// The second.
    Now,
    /// kill -9.
    Kill,
    /// An engine goes away.
    Unreachable(u8),
    /// Somebody meddles.
    Meddle(Meddling, u8),
}

pub(super) fn wish() -> impl Strategy<Value = Wish> {
    let made = (0..3u8, 0..4u8, 0..2u8, 0..3u8, 0..3u8, 0..9u8);
    let asked = prop_oneof![3 => Just(0), 1 => 1..4u8];
    let put_in = (0..3u8, 0..8u8, 0..2u8, asked);
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.1));
    (made, put_in, flags).prop_map(
        |(
            (backend, image, memory, command, network, sidecar),
            (prompt, skills, skill_version, asked),
            (workspace, suspend),
        )| Wish {
            backend,
            image,
            memory,
            prompt,
            skills,
            skill_version,
            asked,
            command,
            network,
            sidecar,
            workspace,
            suspend,
        },
    )
}

fn meddling() -> impl Strategy<Value = Meddling> {
    prop::sample::select(vec![
        Meddling::Stop,
        Meddling::Pause,
        Meddling::Restart,
        Meddling::Remove,
        Meddling::Break,
        Meddling::Duplicate,
        Meddling::Drift,
        Meddling::DriftDeep,
        Meddling::Mendable,
        Meddling::Unlabel,
    ])
}

fn pass() -> impl Strategy<Value = Pass> {
    let call = prop::sample::select(vec![
        "observe", "prepare", "create", "start", "stop", "mend", "teardown", "prune", "identity",
        "exec", "copy_in", "load",
    ]);
    let when = prop::sample::select(vec![When::Before, When::Midway, When::After]);
    let middle = prop_oneof![
        1 => Just(Middle::Drain),
        1 => Just(Middle::Now),
        4 => Just(Middle::Kill),
        1 => (0..2u8).prop_map(Middle::Unreachable),
        3 => (meddling(), any::<u8>()).prop_map(|(what, n)| Middle::Meddle(what, n)),
    ];
    let faults = prop::collection::vec((call, when), 0..3);
    let rate = prop_oneof![2 => Just(0), 1 => 1..300u64];
    (1..5usize, rate, faults, prop::option::of((0..60usize, middle)))
        .prop_map(|(jobs, rate, faults, middle)| Pass { jobs, rate, faults, middle })
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => (0..4u8, wish()).prop_map(|(who, wish)| Happening::Write(who, wish)),
        6 => (0..4u8, wish()).prop_map(|(who, wish)| Happening::Edit(who, wish)),
        1 => (0..2u8, prop::bool::weighted(0.7)).prop_map(|(image, there)| Happening::Image(image, there)),
        1 => (0..4u8).prop_map(Happening::Delete),
        1 => (0..4u8, any::<bool>()).prop_map(|(who, broken)| Happening::Break(who, broken)),
        2 => (0..2u8, prop::option::weighted(0.8, 0..3u8)).prop_map(|(n, v)| Happening::Value(n, v)),
        2 => (0..2u8, prop::bool::weighted(0.3)).prop_map(|(engine, away)| Happening::Reach(engine, away)),
        4 => (meddling(), any::<u8>()).prop_map(|(what, n)| Happening::Meddle(what, n)),
        1 => (0..2u8, 0..4u8).prop_map(|(engine, who)| Happening::Foreign(engine, who)),
        1 => Just(Happening::FreeNames),
        1 => (0..2u8).prop_map(Happening::Scratch),
        1 => (0..2u8).prop_map(Happening::Reboot),
        1 => Just(Happening::LoseReceipts),
        2 => (0..4u8, prop::bool::weighted(0.7)).prop_map(|(who, stop)| Happening::Order(who, stop)),
        10 => pass().prop_map(Happening::Pass),
    ]
}

/// A tree is written and applied, and then things happen.
pub(super) fn history() -> impl Strategy<Value = Vec<Happening>> {
    let tree = prop::collection::vec(wish(), 1..=4);
    (tree, pass(), prop::collection::vec(happening(), 0..24)).prop_map(|(tree, pass, then)| {
        let written = (0..4).zip(tree).map(|(who, wish)| Happening::Write(who, wish));
        written.chain([Happening::Pass(pass)]).chain(then).collect()
    })
}

impl World {
    pub(super) async fn live(&mut self, happening: &Happening) {
        match happening {
            Happening::Write(who, wish) => {
                self.wishes.insert(agent(*who), *wish);
                self.broken.remove(&agent(*who));
            }
            Happening::Edit(who, wish) => {
                if let Some(old) = self.wishes.get_mut(&agent(*who)) {
                    let Wish { prompt, skills, skill_version, asked, .. } = *wish;
                    // The policy of a sidecar that stays as it is.
                    let sidecar = wish.sidecar / 3 * 3 + old.sidecar % 3;
                    *old = Wish { prompt, skills, skill_version, asked, sidecar, ..*old };
                }
            }
            Happening::Image(image, there) => self.publish(*image, *there),
            Happening::Delete(who) => {
                self.wishes.remove(&agent(*who));
                self.broken.remove(&agent(*who));
            }
            Happening::Break(who, true) => drop(self.broken.insert(agent(*who))),
            Happening::Break(who, false) => drop(self.broken.remove(&agent(*who))),
            Happening::Value(name, value) => {
                let name = ASKED[usize::from(*name)].to_owned();
                let typed = &mut self.reconciler.sources.typed;
                match value {
                    Some(value) => typed.insert(name, Zeroizing::new(format!("it's {value}"))),
                    None => typed.remove(&name),
                };
            }
            Happening::Reach(engine, away) => {
                self.engines[usize::from(*engine)].set_unreachable(away.then_some("it is away"));
            }
            Happening::Meddle(what, nth) => {
                self.meddle(*what, *nth);
                // Somebody's copies, whose names have a dot: what is in them may be handed on.
                let ours = self.ours();
                let copies = ours.iter().filter(|(_, object)| object.name.contains('.'));
                let labels = copies.filter_map(|(_, object)| object.labels.as_ref());
                self.forgotten.extend(labels.map(|labels| labels.sandbox.clone()));
            }
            Happening::Foreign(engine, who) => {
                let engine = &self.engines[usize::from(*engine)];
                let name = format!("bottle-{}-{}", Self::owner(), agent(*who));
                if engine.objects().iter().all(|object| object.name != name) {
                    engine.add_foreign(&name);
                }
            }
            Happening::FreeNames => {
                for engine in &self.engines {
                    for object in engine.objects().iter().filter(|o| o.labels.is_none()) {
                        engine.remove(&object.id).expect("it is there");
                    }
                }
            }
            Happening::Scratch(engine) => {
                let memory = self.reconciler.state.tree(&Self::owner()).expect("it opens");
                let scope =
                    self.reconciler.scope(&self.desired().tree.owner, &memory).expect("it opens");
                self.engines[usize::from(*engine)].leave_scratch(&scope, "ours");
            }
            Happening::Reboot(engine) => self.engines[usize::from(*engine)].reboot(),
            Happening::LoseReceipts => {
                let memory = self.reconciler.state.tree(&Self::owner()).expect("it opens");
                for (id, receipt) in memory.receipts().expect("they can be read") {
                    memory.forget(&id).expect("it can be removed");
                    self.forgotten.insert(receipt.sandbox);
                    self.lost.insert(id);
                }
            }
            Happening::Order(who, stop) => {
                let memory = self.reconciler.state.tree(&Self::owner()).expect("it opens");
                let stopped = stop.then_some(Stopped { since: 1 });
                memory.set_stopped(&agent(*who), stopped.as_ref()).expect("it can be written");
            }
            Happening::Pass(pass) => self.pass(pass).await,
        }
    }

    fn meddle(&self, what: Meddling, nth: u8) {
        let ours = self.ours();
        if let Some((engine, object)) = ours.get(usize::from(nth) % ours.len().max(1)) {
            meddle(&self.engines[*engine], &object.id, what);
        }
    }

    /// One pass in which things go wrong. Whatever does, nothing is touched that may not be.
    async fn pass(&mut self, pass: &Pass) {
        self.reconciler.jobs = Some(pass.jobs);
        let untouchable = self.untouchable();
        let kept = self.without_image();
        let left: Vec<_> = self.engines.each_ref().map(|engine| others_left(engine)).into();
        for engine in &self.engines {
            engine.fault_rate(pass.rate);
            for (call, when) in &pass.faults {
                let error = BackendError::failed(*call, anyhow::anyhow!("a queued fault"));
                engine.fault(Fault::fail(call, *when, error));
            }
        }
        let stop = Stop::default();
        let killed = Arc::new(Notify::new());
        self.arm(pass, &stop, &killed, &untouchable);
        tokio::select! {
            biased;
            () = killed.notified() => {}
            (view, _) = self.look_and_carry_out(&stop) => assert_orderly(&view),
        }
        for engine in &self.engines {
            engine.observe_calls(|_, _| {});
            engine.no_faults();
        }
        let after = self.untouchable();
        for (id, object) in &untouchable {
            assert_eq!(after.get(id), Some(object), "what may not be touched was");
        }
        let now: BTreeSet<SandboxId> = self.machines().into_keys().collect();
        let meddled = matches!(pass.middle, Some((_, Middle::Meddle(Meddling::Remove, _))));
        assert!(meddled || kept.is_subset(&now), "removed, and its image is not to be had");
        let left_after: Vec<_> = self.engines.each_ref().map(|engine| others_left(engine)).into();
        assert_eq!(left_after, left, "another owner's leftovers were touched");
    }

    pub(super) async fn look_and_carry_out(&self, stop: &Stop) -> (View, Report) {
        let view = self.reconciler.look_at(self.desired(), Self::options()).await;
        let view = view.expect("tree and state folder can be read");
        let report = self.reconciler.carry_out(&view, stop, Arc::new(|_| {})).await;
        (view, report.expect("the state folder can be written"))
    }

    /// Sandboxes that have a machine, and whose image is not to be had: they keep it.
    fn without_image(&self) -> BTreeSet<SandboxId> {
        let machines = self.machines();
        let wished = self.desired().sandboxes.into_iter().filter(|(id, spec)| {
            let named = spec.image.as_ref().map(ToString::to_string).unwrap_or_default();
            self.unpublished.contains(&named) && machines.contains_key(id)
        });
        wished.map(|(id, _)| id).collect()
    }

    /// Lets something happen at the call that the pass says.
    fn arm(
        &self,
        pass: &Pass,
        stop: &Stop,
        killed: &Arc<Notify>,
        untouchable: &std::collections::BTreeMap<bottle::model::InstanceId, impl Sized>,
    ) {
        let Some((after, middle)) = pass.middle else { return };
        let calls = Arc::new(AtomicUsize::new(0));
        let safe: Vec<_> = untouchable.keys().cloned().collect();
        for engine in &self.engines {
            let (calls, stop, killed) = (calls.clone(), stop.clone(), killed.clone());
            let engines = self.engines.each_ref().map(Arc::downgrade);
            let safe = safe.clone();
            engine.observe_calls(move |_, _| {
                if calls.fetch_add(1, Ordering::SeqCst) != after {
                    return;
                }
                match middle {
                    Middle::Drain => stop.drain.cancel(),
                    Middle::Now => {
                        stop.drain.cancel();
                        stop.now.cancel();
                    }
                    Middle::Kill => killed.notify_one(),
                    Middle::Unreachable(which) => {
                        if let Some(engine) = engines[usize::from(which)].upgrade() {
                            engine.set_unreachable(Some("it went away"));
                        }
                    }
                    Middle::Meddle(what, nth) => {
                        let engine = engines[usize::from(nth) % 2].upgrade();
                        let engine = engine.expect("the world holds it");
                        let objects = engine.objects();
                        let mut ours = objects.iter().filter(|o| !safe.contains(&o.id)).cycle();
                        if let Some(object) = ours.nth(usize::from(nth)) {
                            meddle(&engine, &object.id, what);
                        }
                    }
                }
            });
        }
    }
}

fn others_left(
    engine: &bottle::backend::memory::MemoryBackend,
) -> Vec<impl PartialEq + std::fmt::Debug + use<>> {
    let all = engine.leftovers().into_iter();
    all.filter(|left| left.owner != World::owner()).collect()
}

fn meddle(
    engine: &bottle::backend::memory::MemoryBackend,
    id: &bottle::model::InstanceId,
    what: Meddling,
) {
    let change = FieldChange {
        path: "networks".to_owned(),
        from: Some("other".to_owned()),
        to: Some("none".to_owned()),
    };
    let done = match what {
        Meddling::Stop => engine.stop(id, 1),
        Meddling::Pause => engine.pause(id),
        Meddling::Restart => engine.restart(id),
        Meddling::Remove => engine.remove(id),
        Meddling::Break => engine.break_object(id, "half of it is gone"),
        Meddling::Duplicate => engine.duplicate(id).map(drop),
        Meddling::Drift => engine.drift(id, Drift::Listed, change),
        Meddling::DriftDeep => engine.drift(id, Drift::Inspected, change),
        Meddling::Mendable => engine.drift(id, Drift::Mendable, change),
        Meddling::Unlabel => engine.relabel(id, |labels| labels.hash = None),
    };
    done.expect("it was just listed");
}

/// What holds for every plan: the same for the same input in any order, and steps that only wait
/// for earlier ones.
pub(super) fn assert_orderly(view: &View) {
    let mut turned: Observed = view.observed.clone();
    turned.instances.reverse();
    turned.leftovers.reverse();
    let again: Plan = plan(&view.desired, &turned, &view.options);
    assert_eq!(again, view.plan, "another order, another plan");
    let middle = turned.instances.len() / 2;
    turned.instances.rotate_left(middle);
    assert_eq!(plan(&view.desired, &turned, &view.options), view.plan);
    for step in &view.plan.steps {
        assert!(step.after.iter().all(|before| *before < step.id), "{step:?}");
        assert!(KINDS.contains(&step.backend));
        assert!(!view.observed.unreachable.contains_key(&step.backend), "{step:?}");
        if let Action::Teardown { instance, .. } = &step.action {
            assert_eq!(instance.ownership, bottle::model::Ownership::Ours);
        }
    }
}
