//! An answer that is waited for: events, the last of which is it.
//!
//! Clients give up on what says nothing for a minute, and on most of what takes longer than five: so something comes
//! every now and then, and the answer before that.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Frame;
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};

use super::serve::Shared;
use crate::model::supervise::RequestId;
use crate::sidecar::supervise::answer;
use crate::sidecar::supervise::rpc::{self, Era};

/// Whose answer it is.
pub(super) struct Call {
    /// Of the message.
    pub(super) id: Value,
    pub(super) era: Era,
    /// By which its caller knows progress.
    pub(super) token: Option<Value>,
    /// What is waited for.
    pub(super) request: RequestId,
}

impl Call {
    /// The whole answer, as it is now.
    pub(super) fn answer(&self, shared: &Shared) -> Value {
        let text = shared.desk().text(shared.loaded().as_deref(), &self.request);
        let text = text.unwrap_or_else(|| answer::pending(&self.request));
        rpc::answer(&self.id, rpc::said(self.era, &text, false))
    }
}

/// The body of such an answer.
pub(super) struct Waiting {
    call: Call,
    shared: Arc<Shared>,
    /// Until it is decided, or was waited for long enough.
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
    every: Duration,
    beat: Pin<Box<Sleep>>,
    beats: u64,
    /// Where it waits; given back with the last event.
    place: Option<OwnedSemaphorePermit>,
}

impl Waiting {
    pub(super) fn new(
        call: Call,
        shared: Arc<Shared>,
        over: impl Future<Output = ()> + Send + 'static,
        every: Duration,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let beat = Box::pin(sleep(every));
        Self { call, shared, over: Box::pin(over), every, beat, beats: 0, place: Some(place) }
    }

    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.place.is_none() {
            return Poll::Ready(None);
        }
        let text = if self.over.as_mut().poll(context).is_ready() {
            self.place = None;
            rpc::event(&self.call.answer(&self.shared))
        } else if self.beat.as_mut().poll(context).is_ready() {
            self.beat = Box::pin(sleep(self.every));
            // It is asked again for the new one.
            context.waker().wake_by_ref();
            self.beats += 1;
            match &self.call.token {
                Some(token) => {
                    let said = answer::waiting(&self.call.request);
                    rpc::event(&rpc::progress(token, self.beats, &said))
                }
                None => ": it waits\n\n".to_owned(),
            }
        } else {
            return Poll::Pending;
        };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(text)))))
    }

    pub(super) fn is_over(&self) -> bool {
        self.place.is_none()
    }
}
