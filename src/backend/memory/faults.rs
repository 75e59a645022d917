//! What goes wrong, when, and in which order things happen: queued, or drawn from the seed.

use crate::backend::BackendError;
use crate::model::SandboxId;

/// A call that a backend got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The trait's method.
    pub name: &'static str,
    /// The sandbox that it is about.
    pub sandbox: Option<SandboxId>,
    /// The object that it is about: an engine's id, or the name of what is to be made.
    pub object: Option<String>,
    /// Whether it may change anything.
    pub mutating: bool,
}

/// At which point of a call a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// Nothing was done.
    Before,
    /// Half of it was done: a broken object, some of the files. Where a call has no half, nothing.
    Midway,
    /// All of it was done, and the caller does not learn it.
    After,
}

/// What a fault does to its call.
#[derive(Debug)]
pub enum Strike {
    /// The call fails.
    Fail(BackendError),
    /// The call never returns: what a caller that is killed, or has a deadline, sees.
    Hang,
}

/// A fault that is waiting for its call. It strikes once.
#[derive(Debug)]
pub struct Fault {
    /// The trait's method.
    pub call: &'static str,
    /// Only for this sandbox.
    pub sandbox: Option<SandboxId>,
    /// At which point.
    pub when: When,
    /// What it does.
    pub strike: Strike,
}

impl Fault {
    /// The next `call` fails with `error` at `when`.
    #[must_use]
    pub fn fail(call: &'static str, when: When, error: BackendError) -> Self {
        Self { call, sandbox: None, when, strike: Strike::Fail(error) }
    }

    /// The next `call` never returns from `when` on.
    #[must_use]
    pub fn hang(call: &'static str, when: When) -> Self {
        Self { call, sandbox: None, when, strike: Strike::Hang }
    }

    /// The same fault, only for this sandbox.
    #[must_use]
    pub fn of(mut self, sandbox: &SandboxId) -> Self {
        self.sandbox = Some(sandbox.clone());
        self
    }

    fn matches(&self, call: &Call, when: When) -> bool {
        self.call == call.name
            && self.when == when
            && self.sandbox.as_ref().is_none_or(|wanted| call.sandbox.as_ref() == Some(wanted))
    }
}

/// SplitMix64: small, and the same everywhere for the same seed.
#[derive(Debug)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Less than `bound`, which is small enough for the bias not to matter.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// The faults to come, and the seed of the interleaving.
#[derive(Debug)]
pub(super) struct Script {
    rng: Rng,
    queue: Vec<Fault>,
    /// How many of a thousand chances of a fault are taken.
    pub(super) per_mille: u64,
}

impl Script {
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed), queue: Vec::new(), per_mille: 0 }
    }

    pub(super) fn push(&mut self, fault: Fault) {
        self.queue.push(fault);
    }

    pub(super) fn clear(&mut self) -> usize {
        self.per_mille = 0;
        std::mem::take(&mut self.queue).len()
    }

    /// How many times the call lets others run before it goes on.
    pub(super) fn turns(&mut self) -> u64 {
        self.rng.below(4)
    }

    /// The fault of this call at this point: a queued one before a drawn one.
    pub(super) fn take(&mut self, call: &Call, when: When) -> Option<Strike> {
        if let Some(at) = self.queue.iter().position(|fault| fault.matches(call, when)) {
            return Some(self.queue.remove(at).strike);
        }
        (self.per_mille > 0 && self.rng.below(1000) < self.per_mille).then(|| {
            let what = format!("{} ({when:?})", call.name);
            Strike::Fail(BackendError::failed(what, anyhow::anyhow!("a fault of the seed")))
        })
    }
}
