//! The memory of all bodies that are held, and of all decoders of bodies that stream; and the share of
//! one.
//!
//! Nobody waits for more while it has some: that way all of them would wait. A share is taken before
//! the first byte, in turn, and grows only if there is room at once. Decoders have a budget of their own,
//! so whoever waits for it waits for nobody who waits for the other.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::limits;
use crate::sidecar::Code;

/// A unit of it.
const UNIT: usize = 1024;
/// How much it grows by.
const STEP: usize = 64;

/// All of it.
pub(super) struct Budget {
    room: Line,
    decoders: Line,
}

/// A budget for which bodies wait in line.
struct Line {
    room: Arc<Semaphore>,
    /// How often somebody got a share of it.
    moves: AtomicU64,
}

/// What one body has of it.
pub(super) struct Share {
    permit: OwnedSemaphorePermit,
}

/// The budget of all bodies.
pub(super) fn budget() -> Arc<Budget> {
    let of = |bytes: usize| Line {
        room: Arc::new(Semaphore::new(bytes / UNIT)),
        moves: AtomicU64::new(0),
    };
    Arc::new(Budget { room: of(limits::HELD_BODIES), decoders: of(limits::DECODERS) })
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

impl Line {
    /// Waits for its share as long as the line moves: how long a machine takes for those before is no reason
    /// to send one away. `pause` is how long nothing may move.
    async fn wait<P: Future>(
        &self,
        bytes: usize,
        mut pause: impl FnMut() -> P,
    ) -> Result<OwnedSemaphorePermit, Code> {
        let mut acquired = pin!(Arc::clone(&self.room).acquire_many_owned(units(bytes)));
        loop {
            let before = self.moves.load(Ordering::Relaxed);
            tokio::select! {
                biased;
                acquired = &mut acquired => {
                    self.moves.fetch_add(1, Ordering::Relaxed);
                    return acquired.map_err(|_| Code::TooManyConnections);
                }
                _ = pause() => {}
            }
            if self.moves.load(Ordering::Relaxed) == before {
                return Err(Code::TooManyConnections);
            }
        }
    }

    async fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Code> {
        self.wait(bytes, || tokio::time::sleep(limits::HELD_BODIES_WAIT)).await
    }
}

impl Budget {
    /// A share of so many bytes, in turn.
    pub(super) async fn take(self: &Arc<Self>, bytes: usize) -> Result<Share, Code> {
        Ok(Share { permit: self.room.take(bytes).await? })
    }

    /// Makes a share as large as this if there is room at once. Whether there was.
    pub(super) fn grow(&self, share: &mut Share, bytes: usize) -> bool {
        let have = share.permit.num_permits();
        let wanted = units(bytes) as usize;
        if wanted <= have {
            return true;
        }
        let more = units((wanted - have).next_multiple_of(STEP) * UNIT);
        match Arc::clone(&self.room.room).try_acquire_many_owned(more) {
            Ok(more) => {
                share.permit.merge(more);
                true
            }
            Err(_) => false,
        }
    }

    /// The memory of the decoders of one body, in turn.
    pub(super) async fn decoders(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Code> {
        self.decoders.take(bytes).await
    }

    /// The same, if there is room for them at once.
    pub(super) fn decoders_now(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.decoders.room).try_acquire_many_owned(units(bytes)).ok()
    }
}

impl Share {
    /// Splits off what it has beyond so many bytes.
    pub(super) fn beyond(&mut self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let more = self.permit.num_permits().saturating_sub(units(bytes) as usize);
        self.permit.split(more)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_share_grows_only_while_there_is_room() {
        let budget = budget();
        let mut first = budget.take(UNIT).await.unwrap();
        assert!(budget.grow(&mut first, limits::HELD_BODIES / 2));
        let mut second = budget.take(limits::HELD_BODIES / 4).await.unwrap();
        assert!(!budget.grow(&mut second, limits::HELD_BODIES), "nobody waits for that");
        drop(first.beyond(limits::STREAMED_BODY));
        assert!(budget.grow(&mut second, limits::HELD_BODIES / 2));
        drop((first, second));
        assert_eq!(budget.room.room.available_permits() * UNIT, limits::HELD_BODIES);
    }

    #[tokio::test]
    async fn a_body_waits_as_long_as_the_line_moves() {
        let budget = budget();
        let line = &budget.decoders;
        let before = line.take(limits::DECODERS).await.unwrap();
        // Others get their share in each of the first hundred pauses, and then nobody does.
        let mut pauses = 0;
        let refused = line.wait(1, || {
            pauses += 1;
            if pauses <= 100 {
                line.moves.fetch_add(1, Ordering::Relaxed);
            }
            std::future::ready(())
        });
        assert_eq!(refused.await.err(), Some(Code::TooManyConnections));
        assert_eq!(pauses, 101);
        let moves = line.moves.load(Ordering::Relaxed);
        drop(before);
        let got = line.wait(1, || std::future::ready(())).await;
        assert!(got.is_ok(), "what is there is had without a pause");
        assert_eq!(line.moves.load(Ordering::Relaxed), moves + 1, "whoever is behind sees it");
    }

    #[tokio::test]
    async fn decoders_wait_for_decoders_alone() {
        let budget = budget();
        let bodies = budget.take(limits::HELD_BODIES).await.unwrap();
        let first = budget.decoders(limits::DECODERS).await.unwrap();
        let second = budget.decoders(limits::DECODERS);
        tokio::pin!(second);
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        drop((second.await.unwrap(), bodies));
    }
}
