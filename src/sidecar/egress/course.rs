#![expect(clippy::disallowed_methods, reason = "measures how long nothing has moved")]
//! How a request's body fares on its way out, as its answer needs to know.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::sidecar::Code;

/// Shared by a body and by whoever waits for the answer to it.
#[derive(Clone)]
pub(super) struct Course(Arc<Inner>);

struct Inner {
    /// Why the body ended early.
    verdict: Mutex<Option<Code>>,
    /// When it moved last.
    moved: Mutex<Instant>,
    /// The answer has begun.
    answered: AtomicBool,
    /// All of it was sent.
    done: AtomicBool,
}

impl Course {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inner {
            verdict: Mutex::default(),
            moved: Mutex::new(Instant::now()),
            answered: AtomicBool::new(false),
            done: AtomicBool::new(false),
        }))
    }

    /// Why it ended early, if it did.
    pub(super) fn verdict(&self) -> Option<Code> {
        self.0.verdict.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn refused(&self, code: Code) {
        *self.0.verdict.lock().unwrap_or_else(PoisonError::into_inner) = Some(code);
    }

    /// Some of it was sent.
    pub(super) fn moved(&self) {
        *self.0.moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Waits until nothing of it was sent for so long.
    pub(super) async fn still(&self, time: Duration) {
        loop {
            let due = *self.0.moved.lock().unwrap_or_else(PoisonError::into_inner) + time;
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }

    pub(super) fn answered(&self) {
        self.0.answered.store(true, Ordering::Release);
    }

    pub(super) fn is_answered(&self) -> bool {
        self.0.answered.load(Ordering::Acquire)
    }

    pub(super) fn done(&self) {
        self.0.done.store(true, Ordering::Release);
    }

    pub(super) fn is_done(&self) -> bool {
        self.0.done.load(Ordering::Acquire)
    }
}
