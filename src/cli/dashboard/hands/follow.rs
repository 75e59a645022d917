//! Follows the records of sidecars.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;

use super::super::source::Place;
use crate::backend::LogOptions;
use crate::cli::target;
use crate::dashboard::lines::Passed;
use crate::dashboard::tui::Event;
use crate::model::{InstanceId, ResourceKind};

/// So many lines of what was before are shown of each.
const BEFORE: u64 = 50;
/// So many sidecars are followed at once.
const AT_ONCE: usize = 64;
/// New ones are looked for after so long.
const AGAIN: Duration = Duration::from_secs(15);
/// No line of a record is longer.
const LONGEST: usize = 64 << 10;

/// Follows all that there are, and those that come, until nobody listens any more.
pub(super) async fn all(place: &Place, send: &UnboundedSender<Event>) {
    let mut followed: BTreeMap<InstanceId, JoinHandle<()>> = BTreeMap::new();
    let mut told = false;
    while !send.is_closed() {
        followed.retain(|_, following| !following.is_finished());
        // What cannot be reached now may be later.
        let found = target::several(&place.global, &[], ResourceKind::Sidecar).await;
        for logged in found.into_iter().flat_map(|found| found.logs) {
            if followed.contains_key(&logged.instance.id) {
                continue;
            }
            if followed.len() >= AT_ONCE {
                let text = format!("{AT_ONCE} sidecars are followed, and there are more");
                if !std::mem::replace(&mut told, true) {
                    let _ = send.send(Event::Noted(text));
                }
                break;
            }
            let id = logged.instance.id.clone();
            let mut out =
                Lines { sandbox: logged.sandbox.to_string(), rest: Vec::new(), send: send.clone() };
            let following = tokio::spawn(async move {
                let options =
                    LogOptions { follow: true, tail: Some(BEFORE), ..LogOptions::default() };
                // A sidecar that goes ends it, and is followed again when it is back.
                let _ =
                    logged.backend.logs(&logged.scope, &logged.instance, options, &mut out).await;
            });
            followed.insert(id, following);
        }
        tokio::time::sleep(AGAIN).await;
    }
    for following in followed.into_values() {
        following.abort();
    }
}

/// Takes a record apart into lines.
struct Lines {
    sandbox: String,
    rest: Vec<u8>,
    send: UnboundedSender<Event>,
}

impl AsyncWrite for Lines {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.rest.extend_from_slice(bytes);
        let Some(end) = this.rest.iter().rposition(|byte| *byte == b'\n') else {
            if this.rest.len() > LONGEST {
                this.rest.clear();
            }
            return Poll::Ready(Ok(bytes.len()));
        };
        let whole: Vec<u8> = this.rest.drain(..=end).collect();
        let text = String::from_utf8_lossy(&whole);
        let lines = text.lines().filter_map(|line| Passed::read(&this.sandbox, line)).collect();
        if this.send.send(Event::Passed(lines)).is_err() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
