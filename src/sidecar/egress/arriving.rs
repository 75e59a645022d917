//! A request's body as it arrives, and what becomes of the rest of it.
//!
//! Many clients send all of a body before they look at the answer. So what is left of one that was
//! refused is read, with bounds, until its sender is done. Over HTTP/1 the connection does so, as it
//! closes; over HTTP/2 each stream does it by itself, while its page is on its way.

use hyper::Version;
use hyper::body::{Body as _, Incoming};

use http_body_util::BodyExt as _;

use super::limits;

/// The body of one request.
pub(super) struct Arriving {
    body: Option<Incoming>,
    is_http2: bool,
}

impl Arriving {
    pub(super) fn new(body: Incoming, version: Version) -> Self {
        Self { body: Some(body), is_http2: version == Version::HTTP_2 }
    }

    /// The body itself.
    pub(super) fn get(&mut self) -> Option<&mut Incoming> {
        self.body.as_mut()
    }

    /// Whether there is nothing more.
    pub(super) fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    /// Whether it says that it can be held as a whole.
    pub(super) fn is_short(&self) -> bool {
        let short = |length| length < limits::HELD_BODY as u64;
        self.is_end_stream() || self.length().is_some_and(short)
    }

    /// How long it says that it is.
    pub(super) fn length(&self) -> Option<u64> {
        self.body.as_ref().and_then(|body| body.size_hint().exact())
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let left = self.body.take().filter(|body| self.is_http2 && !body.is_end_stream());
        // As the process ends there is nobody left to read it.
        if let (Some(body), Ok(runtime)) = (left, tokio::runtime::Handle::try_current()) {
            runtime.spawn(drain(body));
        }
    }
}

/// Reads what is left, and throws it away. The end of a connection ends it.
async fn drain(mut body: Incoming) {
    let mut left = limits::LINGER_BYTES;
    let all = async {
        while let Ok(Some(Ok(frame))) =
            tokio::time::timeout(limits::LINGER_IDLE, body.frame()).await
        {
            let size = frame.data_ref().map_or(0, bytes::Bytes::len);
            match left.checked_sub(size) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    // Whoever goes on and on is cut off, with the page that it has.
    let _ = tokio::time::timeout(limits::LINGER, all).await;
}
