//! The search of a request's body, as a whole or as it passes.
//!
//! What takes long is done aside, by threads that give way to all others: what a machine has sent to
//! be searched keeps neither its other requests nor the host waiting.

use std::cell::Cell;
use std::sync::Arc;

use bytes::BytesMut;
use hyper::HeaderMap;
use tokio::task::JoinHandle;

use super::case::Case;
use super::limits;
use super::state::Loaded;
use crate::sidecar::Code;
use crate::sidecar::dlp::coding::Coding;
use crate::sidecar::dlp::{BodyScanner, Finding};
use crate::sidecar::framing::may_be_late;

/// By how much a thread that searches gives way, in the steps of `nice`.
#[cfg(target_os = "linux")]
const GIVES_WAY: i32 = 10;

thread_local! {
    static GAVE_WAY: Cell<bool> = const { Cell::new(false) };
}

/// Begins work that takes long. On Linux it gives way; a thread has a priority of its own there.
fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    tokio::task::spawn_blocking(move || {
        #[cfg(target_os = "linux")]
        if !GAVE_WAY.replace(true) {
            // Without it the work is as urgent as any other: that is no reason not to do it.
            let _ = rustix::process::nice(GIVES_WAY);
        }
        work()
    })
}

/// A search that is done aside, with what it searches.
pub(super) type Away = JoinHandle<(Search, BytesMut, Result<(), Code>)>;

/// The search of one body that passes.
pub(super) struct Search {
    pub(super) case: Arc<Case>,
    loaded: Arc<Loaded>,
    scanner: Option<BodyScanner>,
    /// How many of its findings were told.
    told: usize,
    seen: u64,
}

impl Search {
    pub(super) fn new(case: &Arc<Case>, loaded: &Arc<Loaded>) -> Self {
        let scanner = Some(loaded.scan.body(case.host()));
        Self { case: Arc::clone(case), loaded: Arc::clone(loaded), scanner, told: 0, seen: 0 }
    }

    /// Searches the next piece.
    pub(super) fn data(&mut self, data: &[u8]) -> Result<(), Code> {
        self.seen += data.len() as u64;
        if self.seen > limits::SCANNED_BODY && self.scanner.is_some() {
            unscannable(&self.case, &self.loaded)?;
            self.scanner = None;
        }
        let Some(scanner) = &mut self.scanner else { return Ok(()) };
        if scanner.push(data).is_ok() {
            return Ok(());
        }
        let found = scanner.findings();
        let new = found[self.told..].to_vec();
        self.told = found.len();
        self.judge(new)
    }

    /// Searches a piece aside. It has the piece meanwhile, and gives both back.
    pub(super) fn aside(mut self, piece: BytesMut) -> Away {
        aside(move || {
            let clear = self.data(&piece);
            (self, piece, clear)
        })
    }

    /// Whether a piece of this size takes long.
    pub(super) fn takes_long(&self, size: usize) -> bool {
        self.scanner.is_some() && size > limits::SEARCHED_AT_ONCE
    }

    /// Searches what comes behind the body.
    pub(super) fn trailers(&self, trailers: &HeaderMap) -> Result<(), Code> {
        if !trailers.keys().all(|name| may_be_late(name.as_str())) {
            return Err(Code::AmbiguousFraming);
        }
        self.judge(self.loaded.scan.head(self.case.host(), "", trailers))
    }

    /// Nothing more comes.
    pub(super) fn end(&mut self) -> Result<(), Code> {
        let Some(scanner) = self.scanner.take() else { return Ok(()) };
        self.judge(scanner.end().split_off(self.told))
    }

    /// How many of the last bytes may be the begin of a secret.
    pub(super) fn hold_back(&self) -> usize {
        self.scanner.as_ref().map_or(0, BodyScanner::hold_back)
    }

    fn judge(&self, findings: Vec<Finding>) -> Result<(), Code> {
        findings.into_iter().try_for_each(|finding| self.case.judge(&self.loaded, finding))
    }
}

/// A body that cannot be searched is refused, or passed on with a word about it.
pub(super) fn unscannable(case: &Case, loaded: &Loaded) -> Result<(), Code> {
    if loaded.scan.blocks() {
        return Err(Code::DlpUnscannable);
    }
    case.unscanned();
    Ok(())
}

/// Searches a whole body. What takes long goes beside what else there is to do.
pub(super) async fn search_whole(
    case: &Arc<Case>,
    loaded: &Arc<Loaded>,
    codings: Vec<Coding>,
    held: BytesMut,
) -> Result<BytesMut, Code> {
    let small = held.len() <= limits::SEARCHED_AT_ONCE;
    let search = {
        let (case, loaded) = (Arc::clone(case), Arc::clone(loaded));
        move || match loaded.scan.whole_body(case.host(), &codings, &held) {
            Ok(report) => {
                if report.unscanned {
                    case.unscanned();
                }
                let mut findings = report.findings.into_iter();
                findings.try_for_each(|finding| case.judge(&loaded, finding)).map(|()| held)
            }
            Err(_) => unscannable(&case, &loaded).map(|()| held),
        }
    };
    if small {
        return search();
    }
    // A panic on the way is no reason to let it pass.
    aside(search).await.unwrap_or(Err(Code::DlpUnscannable))
}
