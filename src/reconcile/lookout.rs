//! Looking at backends again and again, and waiting for none that is slow where others have
//! something to do: what a sidecar is no longer to allow does not wait for another engine. One that
//! has kept the others waiting once is not waited for again until it has answered in time.
#![expect(clippy::disallowed_methods, reason = "observations are timed")]

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;

use super::pass::{Answer, OBSERVE_DEADLINE, ask, gathered};
use super::trigger::Trigger;
use crate::backend::{Backend, BackendError, Backends, Depth, Observation, Scope};
use crate::model::{BackendKind, Observed, Ownership};

/// How long the others wait for a backend that does not answer, counted from when it was asked. A busy
/// engine lists hundreds of containers in less.
const PATIENCE: Duration = Duration::from_secs(1);

const ASKED: u8 = 0;
const ANSWERED: u8 = 1;
/// A pass went on without it: its answer makes one more due.
const LATE: u8 = 2;

/// A question to a backend.
struct Asked {
    at: Instant,
    state: Arc<AtomicU8>,
    task: JoinHandle<(Answer, Duration)>,
    /// What it has said, and how long that took.
    answer: Option<(Answer, Duration)>,
    /// Something was done there since it was asked.
    stale: bool,
    /// It has said that something moved there since it was asked.
    hinted: bool,
}

impl Asked {
    fn now(
        kind: BackendKind,
        backend: Arc<dyn Backend>,
        scope: Scope,
        depth: Depth,
        send: UnboundedSender<Trigger>,
    ) -> Self {
        let (at, state) = (Instant::now(), Arc::new(AtomicU8::new(ASKED)));
        let told = state.clone();
        let task = tokio::spawn(async move {
            let answer = ask(kind, backend.as_ref(), &scope, depth).await;
            let took = at.elapsed();
            if told.swap(ANSWERED, Ordering::SeqCst) == LATE {
                // A loop that has ended hears nothing.
                let _ = send.send(Trigger::Backend(kind, "it has answered".to_owned()));
            }
            (answer, took)
        });
        Self { at, state, task, answer: None, stale: false, hinted: false }
    }

    fn is_of_use(&self) -> bool {
        !self.stale && (!self.task.is_finished() || self.at.elapsed() < OBSERVE_DEADLINE * 2)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What asks backends for the loop.
pub(super) struct Lookout {
    asked: BTreeMap<BackendKind, Asked>,
    /// Those whose last answer did not come in time.
    slow: BTreeSet<BackendKind>,
    patience: Duration,
    send: UnboundedSender<Trigger>,
}

impl Lookout {
    pub(super) fn new(send: UnboundedSender<Trigger>) -> Self {
        Self { asked: BTreeMap::new(), slow: BTreeSet::new(), patience: PATIENCE, send }
    }

    /// Something was done there: an answer that is on its way tells of what was before.
    pub(super) fn moved(&mut self, backend: BackendKind) {
        if let Some(asked) = self.asked.get_mut(&backend) {
            asked.stale = true;
        }
    }

    /// Something moved there, as it says itself: an answer that is on its way may not tell of that,
    /// and is not the last.
    pub(super) fn hinted(&mut self, backend: BackendKind) {
        if let Some(asked) = self.asked.get_mut(&backend)
            && !asked.task.is_finished()
        {
            asked.hinted = true;
        }
    }

    /// Asks every backend, all at once. Where one has answered that has sandboxes of ours, or on which
    /// there are to be some (`wanted`), those that have not are left for the next pass, which their
    /// answers make due. Nobody is waited for once `hurry` is over: what was read of the tree is of
    /// no use any more.
    pub(super) async fn observe(
        &mut self,
        backends: &Backends,
        depth: Depth,
        scope: &Scope,
        wanted: &BTreeSet<BackendKind>,
        hurry: impl Future<Output = ()>,
    ) -> (Observed, BTreeSet<BackendKind>) {
        self.asked.retain(|_, asked| asked.is_of_use());
        for (kind, backend) in backends {
            self.asked.entry(*kind).or_insert_with(|| {
                Asked::now(*kind, backend.clone(), scope.clone(), depth, self.send.clone())
            });
        }
        tokio::pin!(hurry);
        let mut hurried = false;
        while self.asked.values().any(|asked| asked.answer.is_none()) {
            let others_go_on = self.asked.iter().any(|(kind, asked)| {
                matches!(&asked.answer, Some((Ok(seen), _)) if wanted.contains(kind) || has_ours(seen))
            });
            let patience = self.patience();
            tokio::select! {
                biased;
                () = self.next() => continue,
                () = &mut hurry, if !hurried => hurried = true,
                () = tokio::time::sleep(patience), if others_go_on => {}
            }
            if self.asked.values().all(Self::goes_without) {
                break;
            }
            // One has just answered.
            self.next().await;
        }
        let mut answers = Vec::new();
        let mut late = BTreeSet::new();
        let (slow, send, limit) = (&mut self.slow, &self.send, self.patience);
        self.asked.retain(|kind, asked| match asked.answer.take() {
            Some((answer, took)) => {
                if took < limit {
                    slow.remove(kind);
                } else {
                    slow.insert(*kind);
                }
                if asked.hinted {
                    let what = "something moved while it was asked".to_owned();
                    // A loop that has ended hears nothing.
                    let _ = send.send(Trigger::Backend(*kind, what));
                }
                answers.push((*kind, answer));
                false
            }
            None => {
                if asked.at.elapsed() >= limit {
                    slow.insert(*kind);
                }
                late.insert(*kind);
                true
            }
        });
        let mut observed = gathered(answers);
        for kind in &late {
            let why = "it has not answered yet, and the others do not wait for it";
            observed.unreachable.insert(*kind, why.to_owned());
        }
        (observed, late)
    }

    /// For how long those are still waited for that have not answered.
    fn patience(&self) -> Duration {
        let open = self.asked.iter().filter(|(_, asked)| asked.answer.is_none());
        let waits = open.filter(|(kind, _)| !self.slow.contains(kind));
        waits
            .map(|(_, asked)| self.patience.saturating_sub(asked.at.elapsed()))
            .max()
            .unwrap_or_default()
    }

    fn goes_without(asked: &Asked) -> bool {
        let (asking, seq) = (&asked.state, Ordering::SeqCst);
        asked.answer.is_some()
            || asking.compare_exchange(ASKED, LATE, seq, seq).is_ok()
            || asking.load(seq) == LATE
    }

    /// Waits until at least one more has answered.
    async fn next(&mut self) {
        poll_fn(|context| {
            let mut any = false;
            for asked in self.asked.values_mut().filter(|asked| asked.answer.is_none()) {
                if let Poll::Ready(answer) = asked.task.poll_unpin(context) {
                    let panicked =
                        |panic| Err(BackendError::failed("observing", anyhow::Error::from(panic)));
                    asked.answer =
                        Some(answer.unwrap_or_else(|panic| (panicked(panic), asked.at.elapsed())));
                    any = true;
                }
            }
            if any { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

fn has_ours(seen: &Observation) -> bool {
    seen.instances.iter().any(|instance| instance.ownership == Ownership::Ours)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;
    use crate::backend::memory::{Fault, MemoryBackend, When};
    use crate::model::OwnerId;

    const QUICK: BackendKind = BackendKind::Native;
    const HANGING: BackendKind = BackendKind::Docker;

    /// Nothing here may wait for as long.
    const EVER: Duration = Duration::from_secs(3600);

    /// Two engines, of which one hangs at its next question, and who looks at them.
    struct Rig {
        hanging: Arc<MemoryBackend>,
        backends: Backends,
        lookout: Lookout,
        heard: UnboundedReceiver<Trigger>,
    }

    impl Rig {
        fn new() -> Self {
            let hanging = Arc::new(MemoryBackend::new(HANGING, 1));
            let quick = Arc::new(MemoryBackend::new(QUICK, 2));
            let (send, heard) = unbounded_channel();
            let mut backends = Backends::default();
            backends.insert(HANGING, hanging.clone());
            backends.insert(QUICK, quick);
            Self { hanging, backends, lookout: Lookout::new(send), heard }
        }

        /// Looks once, and says whether the one that hangs was left out.
        async fn look(&mut self, wanted: &[BackendKind], hurry: impl Future<Output = ()>) -> bool {
            let scope = Scope {
                owner: OwnerId::new("team").unwrap(),
                state: "this".to_owned(),
                adopted: BTreeSet::new(),
                data: "/none".into(),
                hidden: Vec::new(),
                places: Default::default(),
            };
            let wanted = wanted.iter().copied().collect();
            let depth = Depth::Listing;
            let looking = self.lookout.observe(&self.backends, depth, &scope, &wanted, hurry);
            let looked = tokio::time::timeout(Duration::from_secs(15), looking).await;
            let (observed, late) = looked.expect("nobody is waited for");
            assert_eq!(observed.facts.contains_key(&QUICK), !late.contains(&QUICK));
            late.contains(&HANGING)
        }

        async fn hint(&mut self) -> Trigger {
            self.heard.recv().await.expect("the lookout has an end of it")
        }
    }

    #[tokio::test]
    async fn one_that_hangs_is_waited_for_once() {
        let mut rig = Rig::new();
        rig.hanging.fault(Fault::hang("observe", When::Before));
        rig.lookout.patience = Duration::ZERO;
        assert!(rig.look(&[QUICK], pending()).await);
        rig.lookout.patience = EVER;
        assert!(rig.look(&[QUICK], pending()).await, "its question is under way");
        rig.lookout.moved(HANGING);
        rig.hanging.fault(Fault::hang("observe", When::Before));
        assert!(rig.look(&[QUICK], pending()).await, "it is asked anew");
        // It answers again: a pass that went on without it is followed by one that has its answer, and
        // then it is waited for.
        rig.lookout.moved(HANGING);
        if rig.look(&[QUICK], pending()).await {
            assert_eq!(rig.hint().await, Trigger::Backend(HANGING, "it has answered".to_owned()));
            assert!(!rig.look(&[QUICK], pending()).await);
        }
        assert!(rig.lookout.slow.is_empty());
        assert!(!rig.look(&[QUICK], pending()).await);
    }

    /// Nothing exists yet, and the tree wants something there.
    #[tokio::test]
    async fn what_is_wanted_goes_on_as_what_is_there() {
        let mut rig = Rig::new();
        rig.lookout.patience = Duration::ZERO;
        rig.hanging.fault(Fault::hang("observe", When::Before));
        assert!(rig.look(&[QUICK], pending()).await);
    }

    /// The tree moves while one is waited for: what was read is of no use.
    #[tokio::test]
    async fn nobody_is_waited_for_when_the_tree_has_moved() {
        let mut rig = Rig::new();
        rig.lookout.patience = EVER;
        rig.hanging.fault(Fault::hang("observe", When::Before));
        let hanging = rig.hanging.clone();
        assert!(rig.look(&[QUICK], async move { hanging.hung().await }).await);
        assert!(rig.lookout.slow.is_empty(), "it was asked a moment ago");
        // What it says while it is asked may be news to its answer, which is not the last then.
        rig.lookout.hinted(HANGING);
        rig.lookout.asked.get_mut(&HANGING).unwrap().task.abort();
        assert!(!rig.look(&[], pending()).await);
        let moved = "something moved while it was asked".to_owned();
        let moved = Trigger::Backend(HANGING, moved);
        assert!(std::iter::from_fn(|| rig.heard.try_recv().ok()).any(|hint| hint == moved));
    }
}
