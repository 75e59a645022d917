//! Work that takes long, beside what moves bytes; and what becomes of it when nobody waits for it any more.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinError, JoinHandle};

use super::limits;

/// By how much a thread that searches gives way, in the steps of `nice`.
#[cfg(target_os = "linux")]
const GIVES_WAY: i32 = 10;

thread_local! {
    static GAVE_WAY: Cell<bool> = const { Cell::new(false) };
}

/// Whether nobody waits for some work any more.
#[derive(Debug, Clone, Default)]
pub(super) struct Gone(Arc<AtomicBool>);

impl Gone {
    /// What the work itself looks at.
    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

/// Work that was begun. Dropping it ends it: what has not begun never does, and what has is told. What the
/// work was given, such as its share of the memory, goes back when it has ended indeed.
pub(super) struct Work<T> {
    handle: JoinHandle<T>,
    gone: Gone,
}

impl<T> Future for Work<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.handle).poll(context)
    }
}

impl<T> Drop for Work<T> {
    fn drop(&mut self) {
        if !self.handle.is_finished() {
            self.gone.0.store(true, Ordering::Relaxed);
            self.handle.abort();
        }
    }
}

/// Begins work that takes long. On Linux it gives way; a thread has a priority of its own there.
pub(super) fn aside<T: Send + 'static>(
    gone: Gone,
    work: impl FnOnce() -> T + Send + 'static,
) -> Work<T> {
    let handle = tokio::task::spawn_blocking(move || {
        #[cfg(target_os = "linux")]
        if !GAVE_WAY.replace(true) {
            // Without it the work is as urgent as any other: that is no reason not to do it.
            let _ = rustix::process::nice(GIVES_WAY);
        }
        work()
    });
    Work { handle, gone }
}

/// Begins work that takes a moment, beside which nothing else moves. A thread that once gave way does so for
/// good, so these are others.
pub(super) fn at_once<T: Send + 'static>(
    gone: Gone,
    work: impl FnOnce() -> T + Send + 'static,
) -> Work<T> {
    static THREADS: OnceLock<Option<Runtime>> = OnceLock::new();
    let threads = THREADS.get_or_init(|| {
        let mut builder = Builder::new_current_thread();
        builder.max_blocking_threads(limits::THREADS).build().ok()
    });
    match threads {
        Some(threads) => Work { handle: threads.spawn_blocking(work), gone },
        None => aside(gone, work),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_nobody_waits_for_ends_and_keeps_what_it_has_until_then() {
        let runtime = Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let _within = runtime.enter();
        let (kept, other) = (Arc::new(()), Arc::new(()));
        let (begun, begins) = mpsc::channel();
        let (end, ends) = mpsc::channel::<()>();
        let gone = Gone::default();
        let (flag, has) = (gone.flag(), Arc::clone(&kept));
        let first = aside(gone, move || {
            begun.send(()).unwrap();
            ends.recv().unwrap();
            (has, flag.load(Ordering::Relaxed))
        });
        begins.recv().unwrap();
        let has = Arc::clone(&other);
        let second = aside(Gone::default(), move || has);
        let (told, gone) = (first.gone.flag(), second.gone.flag());
        drop((first, second));
        assert!(told.load(Ordering::Relaxed) && gone.load(Ordering::Relaxed));
        assert_eq!(Arc::strong_count(&kept), 2, "it is at work, so it has its share");
        end.send(()).unwrap();
        let over = |kept: &Arc<()>| {
            (0..500).any(|_| {
                std::thread::sleep(Duration::from_millis(10));
                Arc::strong_count(kept) == 1
            })
        };
        assert!(over(&kept) && over(&other));
    }
}
