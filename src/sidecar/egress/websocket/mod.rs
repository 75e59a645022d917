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
use hyper::body::Body;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Version};
use tokio::sync::OwnedSemaphorePermit;
use zeroize::Zeroizing;

use super::case::Case;
use super::decided::Question;
use super::framed::Working;
use super::headers::{is_head_too_large, strip_response};
use super::share::Budget;
use super::state::Loaded;
use super::upload::Revoked;
use crate::sidecar::{Code, Route};

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

/// Whether it asks in the one way that every server understands, and without a body: some would take one for frames.
pub(super) fn is_well_asked<B: Body>(request: &Request<B>) -> bool {
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
        && ![CONTENT_LENGTH, TRANSFER_ENCODING].iter().any(|name| headers.contains_key(name))
        && request.body().is_end_stream()
}

/// Whether `Connection` says that the connection is to be used otherwise.
fn is_upgrade(headers: &HeaderMap) -> bool {
    let named = headers.get_all(CONNECTION).iter();
    named
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|name| name.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

/// Words by which some servers know a subprotocol that is a credential: a browser has no other place for one.
const CREDENTIALS: [&str; 4] = ["bearer", "authorization", "api-key", "token"];

/// Asks the upstream for one, in a head that was stripped for it. On a route the sidecar says who the agent is, and
/// nobody else does.
pub(super) fn ask(headers: &mut HeaderMap, by_route: bool) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.remove(EXTENSIONS);
    if by_route {
        let named = headers.get_all(PROTOCOL).iter();
        let named =
            named.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        let says_who = |name: &&str| {
            let name = name.to_ascii_lowercase();
            CREDENTIALS.iter().any(|word| name.contains(word))
        };
        let rest: Vec<&str> = named.map(str::trim).filter(|name| !says_who(name)).collect();
        let rest = HeaderValue::from_str(&rest.join(", ")).ok().filter(|rest| !rest.is_empty());
        headers.remove(PROTOCOL);
        if let Some(rest) = rest {
            headers.insert(PROTOCOL, rest);
        }
    }
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
    if is_head_too_large(headers) {
        return Err(Code::ResponseHeadTooLarge);
    }
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
    pub(super) budget: Arc<Budget>,
    /// The route by which it goes.
    pub(super) route: Option<Arc<Route>>,
    /// Ends when a new policy does not allow it as it was opened.
    pub(super) revoked: Revoked,
    pub(super) upstream: OnUpgrade,
    /// Until it ends, its connection is at work.
    pub(super) working: Working,
    /// The room that its request took.
    pub(super) room: Option<Arc<OwnedSemaphorePermit>>,
}

/// Waits until a new policy does not allow what was asked for, or not with this credential.
pub(super) fn revoked(
    case: &Arc<Case>,
    loaded: &Loaded,
    question: Question,
    route: Option<Arc<Route>>,
) -> Revoked {
    let credential = |loaded: &Loaded, route: &Route| {
        loaded.credentials.get(route.credential()).map(|secret| secret.reveal().to_owned())
    };
    let sent = route.as_deref().and_then(|route| credential(loaded, route)).map(Zeroizing::new);
    let over = case.shared.until(loaded.generation, move |now| {
        let same = question.route(now).is_ok_and(|is| is == route);
        let with = || route.as_deref().and_then(|route| credential(now, route)).map(Zeroizing::new);
        !same || with() != sent
    });
    let case = Arc::clone(case);
    Box::pin(async move {
        over.await;
        case.revoked();
    })
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;

    use super::*;

    fn request(fields: &[(&str, &str)]) -> Request<Empty<Bytes>> {
        let mut request = Request::builder().uri("/");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(Empty::new()).unwrap()
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
        for body in [("content-length", "0"), ("transfer-encoding", "chunked")] {
            assert!(!is_well_asked(&request(&[&FINE[..], &[body]].concat())), "{body:?}");
        }
        assert!(is_asked_for(request(&[("upgrade", "foo, WebSocket")]).headers()));
        assert!(is_asked_for(request(&[("sec-websocket-key", "x")]).headers()));
        assert!(!is_asked_for(request(&[("upgrade", "tls")]).headers()));
    }

    #[test]
    fn no_extension_is_agreed_to() {
        let mut asked = request(&FINE).headers().clone();
        asked.insert(EXTENSIONS, HeaderValue::from_static("permessage-deflate"));
        ask(&mut asked, false);
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
    #[test]
    fn on_a_route_no_subprotocol_says_who_the_agent_is() {
        let of = |by_route| {
            let mut asked = HeaderMap::new();
            let names =
                "v4.channel, base64url.bearer.authorization.k8s.io.eHg, openai-insecure-api-key.x";
            asked.insert(PROTOCOL, HeaderValue::from_static(names));
            ask(&mut asked, by_route);
            asked.get(PROTOCOL).unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(of(true), "v4.channel");
        assert!(of(false).contains("bearer"));
    }
}
