//! WebSockets: a handshake that is decided about and searched as any other request, and then messages, each of which
//! is searched before it goes on.
//!
//! Extensions are left out of the handshake, so that no message is compressed: what is searched is what is sent. A
//! client that offers one has to do without (RFC 6455, section 9.1).

mod frame;
mod message;
mod relay;

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Version};
use tokio::sync::OwnedSemaphorePermit;

use super::case::Case;
use super::framed::Working;
use super::headers::strip_response;
use super::share::Budget;
use super::state::Loaded;
use super::upload::Revoked;
use crate::sidecar::Code;
use crate::sidecar::credential::Redactor;

const KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");
const EXTENSIONS: HeaderName = HeaderName::from_static("sec-websocket-extensions");
const PROTOCOL: HeaderName = HeaderName::from_static("sec-websocket-protocol");

/// Whether the client asks for a WebSocket.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    headers.contains_key(KEY)
        || headers.get_all(UPGRADE).iter().any(|value| {
            value.as_bytes().to_ascii_lowercase().windows(9).any(|part| part == b"websocket")
        })
}

/// Whether it asks in the one way that every server understands.
pub(super) fn is_well_asked<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let one = |name: HeaderName| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none())
    };
    request.version() == Version::HTTP_11
        && *request.method() == Method::GET
        && one(UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && one(KEY).is_some_and(|key| key.len() == 24)
        && one(VERSION).is_some_and(|version| version == "13")
        && is_upgrade(headers)
        && !headers.contains_key(CONTENT_LENGTH)
}

/// Whether `Connection` says that the connection is to be used otherwise.
fn is_upgrade(headers: &HeaderMap) -> bool {
    let named = headers.get_all(CONNECTION).iter();
    named
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|name| name.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

/// Asks the upstream for one, in a head that was stripped for it.
pub(super) fn ask(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.remove(EXTENSIONS);
}

/// The head of an answer by which an upstream agrees, as the machine gets it.
pub(super) fn agreed<B>(response: Response<B>, asked: &HeaderMap) -> Result<Response<Bytes>, Code> {
    let (mut head, _) = response.into_parts();
    let headers = &head.headers;
    let to_websocket =
        headers.get(UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    // What was not offered cannot be taken.
    let protocol = headers.get(PROTOCOL).is_none_or(|_| asked.contains_key(PROTOCOL));
    let is_fine = head.status == StatusCode::SWITCHING_PROTOCOLS
        && to_websocket
        && is_upgrade(headers)
        && protocol
        && !headers.contains_key(EXTENSIONS);
    if !is_fine {
        return Err(Code::ResponseRefused);
    }
    strip_response(&mut head.headers);
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    head.version = Version::default();
    head.extensions.clear();
    Ok(Response::from_parts(head, Bytes::new()))
}

/// One that both sides have agreed to.
pub(super) struct Session {
    pub(super) case: Arc<Case>,
    pub(super) loaded: Arc<Loaded>,
    pub(super) budget: Arc<Budget>,
    /// Takes credentials out of what comes back.
    pub(super) redactor: Option<Redactor>,
    /// Ends when a new policy forbids it.
    pub(super) revoked: Revoked,
    pub(super) upstream: OnUpgrade,
    /// Until it ends, its connection is at work.
    pub(super) working: Working,
    /// The room that its request took.
    pub(super) room: Option<Arc<OwnedSemaphorePermit>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri("/");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    const FINE: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
    ];

    #[test]
    fn one_way_of_asking_is_understood() {
        assert!(is_well_asked(&request(&FINE)));
        for (index, (name, _)) in FINE.iter().enumerate() {
            let mut fields = FINE.to_vec();
            fields.remove(index);
            assert!(!is_well_asked(&request(&fields)), "without {name}");
            let mut fields = FINE.to_vec();
            fields[index].1 = "other";
            assert!(!is_well_asked(&request(&fields)), "with another {name}");
            if *name != "connection" {
                fields = FINE.to_vec();
                fields.push(FINE[index]);
                assert!(!is_well_asked(&request(&fields)), "with two of {name}");
            }
        }
        assert!(is_asked_for(request(&[("upgrade", "foo, WebSocket")]).headers()));
        assert!(is_asked_for(request(&[("sec-websocket-key", "x")]).headers()));
        assert!(!is_asked_for(request(&[("upgrade", "tls")]).headers()));
    }

    #[test]
    fn no_extension_is_agreed_to() {
        let mut asked = request(&FINE).headers().clone();
        asked.insert(EXTENSIONS, HeaderValue::from_static("permessage-deflate"));
        ask(&mut asked);
        assert!(!asked.contains_key(EXTENSIONS));
        let answer = |fields: &[(&str, &str)]| {
            let mut answer = Response::builder().status(101);
            let fine = [("connection", "upgrade"), ("upgrade", "WebSocket")];
            for (name, value) in fine.iter().chain(fields) {
                answer = answer.header(*name, *value);
            }
            agreed(answer.body(()).unwrap(), &asked)
        };
        assert!(answer(&[("sec-websocket-accept", "x")]).is_ok());
        assert!(answer(&[("sec-websocket-extensions", "permessage-deflate")]).is_err());
        assert!(answer(&[("sec-websocket-protocol", "chat")]).is_err());
    }
}
