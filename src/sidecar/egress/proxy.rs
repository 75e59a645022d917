//! One request, from its head to the head of its answer.
//!
//! The order is the one of [`crate::sidecar`]: nothing is resolved before it is allowed, nothing is
//! dialled before it is searched, and nothing is sent before the log says so.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, LOCATION,
};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Version};

use super::arriving::Arriving;
use super::case::Case;
use super::course::Course;
use super::decided::{Decided, decided};
use super::dialect::Dialect;
use super::framed::Wire;
use super::headers::{
    door_location, is_head_too_large, is_partial, service_location, strip_partial, strip_request,
    strip_response,
};
use super::outgoing::{Outgoing, Relayed, redact};
use super::relaying::Turn;
use super::scan::{codings, join_cookies};
use super::search::unsearched;
use super::serve::Shared;
use super::state::Loaded;
use super::trouble::Trouble;
use super::upload::{Revoked, Upload};
use super::upstream::{Connection, Reach, Target, Unanswered};
use super::waiting::Waiting;
use super::{connect, limits, supervised, websocket};
use crate::sidecar::dlp::{Report, Unscanned};
use crate::sidecar::{Authority, Code, Route, Transport, decide_connect};

/// Where requests come in.
pub(super) struct Door {
    pub(super) shared: Arc<Shared>,
    pub(super) wire: Arc<Wire>,
    pub(super) kind: Kind,
    /// What its connection becomes.
    pub(super) pending: connect::Pending,
}

impl Door {
    pub(super) fn new(shared: &Arc<Shared>, wire: &Arc<Wire>, kind: Kind) -> Self {
        let (shared, wire) = (Arc::clone(shared), Arc::clone(wire));
        Self { shared, wire, kind, pending: connect::Pending::default() }
    }
}

/// Which door it is.
pub(super) enum Kind {
    /// The connection itself: the proxy's front, and the path door.
    Front,
    /// Inside the tunnel of a CONNECT.
    Tunnel(Authority, Transport),
}

/// Answers one request. Whatever happens, there is an answer.
pub(super) async fn answer(
    door: Arc<Door>,
    request: Request<Incoming>,
) -> Result<Response<Outgoing>, Infallible> {
    let working = door.wire.begin();
    let case = Case::new(&door.shared, &door.wire);
    // What is left unread of a request stands where the next one would begin.
    let unread = !request.body().is_end_stream() && request.version() < Version::HTTP_2
        || request.method() == Method::CONNECT
        || websocket::is_asked_for(request.headers());
    let room = Arc::clone(&door.shared.requests).try_acquire_owned().ok().map(Arc::new);
    if let Some(room) = &room {
        case.takes(room);
    }
    let worked = match &room {
        Some(_) => AssertUnwindSafe(work(&door, &case, request)).catch_unwind().await,
        None => Ok(Err(Code::TooManyConnections.into())),
    };
    let page = match worked {
        Ok(Ok(Answer::Relayed(response))) => {
            return Ok((*response).map(|relayed| Outgoing::relayed(relayed, working, room)));
        }
        Ok(Ok(Answer::Waits(response))) => {
            return Ok((*response).map(|waiting| Outgoing::waiting(waiting, working, room)));
        }
        Ok(Ok(Answer::Switched(response) | Answer::Said(response))) => *response,
        Ok(Err(Refusal::New(code))) => case.deny(&code, unread || door.wire.violation().is_some()),
        Ok(Err(Refusal::Logged(code))) => case.page(&code),
        // The message of a panic may hold a value, so nobody is told it.
        Err(_) => case.mistake(),
    };
    Ok(page.map(|page| Outgoing::page(page, working)))
}

enum Answer {
    Relayed(Box<Response<Relayed>>),
    /// The connection becomes something else: a tunnel, or a WebSocket.
    Switched(Box<Response<Bytes>>),
    /// The sidecar itself has said it.
    Said(Box<Response<Bytes>>),
    /// The sidecar itself says it later.
    Waits(Box<Response<Waiting>>),
}

enum Refusal {
    New(Code),
    /// The log has it already.
    Logged(Code),
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self::New(code)
    }
}

async fn work(
    door: &Door,
    case: &Arc<Case>,
    mut request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    if let Some(dialect) = spoken(door, &request) {
        let _ = case.dialect.set(dialect);
    }
    if let Some(violation) = door.wire.stands_for(request.uri().path()) {
        return Err(violation.into());
    }
    let _ = case.method.set(request.method().as_str().to_owned());
    case.arrived();
    let loaded = door.shared.loaded();
    if let Some(loaded) = &loaded {
        let _ = case.generation.set(loaded.generation);
    }
    if let (Kind::Front, &Method::CONNECT) = (&door.kind, request.method()) {
        let authority = connect::grant(case, loaded.as_deref(), request.uri())?;
        let upgrade = hyper::upgrade::on(&mut request);
        door.pending.set(connect::Switch::Tunnel(authority), upgrade);
        case.is_told();
        return Ok(Answer::Switched(Box::default()));
    }
    if let Some(loaded) = &loaded
        && let Some(path) = supervised::own(&door.kind, loaded, &request)
    {
        let path = path?;
        case.is_at(&path);
        return Ok(match supervised::answer(case, loaded, &path, request).await? {
            supervised::Said::Whole(response) => Answer::Said(Box::new(response)),
            supervised::Said::Waits(response) => Answer::Waits(Box::new(response)),
        });
    }
    let (loaded, decided) = decided(&door.kind, case, loaded, &request)?;
    #[cfg(any(test, feature = "testing"))]
    panic_if_asked(&loaded, &decided, request.headers());
    let websocket = websocket::is_asked_for(request.headers());
    if websocket && !websocket::is_well_asked(&request) {
        case.stops_at(&decided.path, &loaded);
        return Err(Code::WebsocketRefused.into());
    }
    let upgrade = websocket.then(|| hyper::upgrade::on(&mut request));
    let (head, body) = request.into_parts();
    let body = Arriving::new(body, head.version);
    let mut headers = head.headers;
    let (coding, written) = (codings(&headers), loaded.scan.redacts(&headers));
    join_cookies(&mut headers);
    search_head(case, &loaded, &decided, &mut headers)?;
    if let Some(route) = &decided.route {
        inject(&loaded, route, &mut headers)?;
    }
    if websocket {
        websocket::ask(&mut headers, decided.route.is_some());
    }
    // A new policy may forbid what is under way.
    let again = || revoked(door, case, loaded.generation, &decided);
    let activity = &case.shared.activity;
    if body.is_short() {
        activity.moves();
    }
    let mut revoked = again();
    let budget = &door.shared.budget;
    let held = Upload::hold(body, coding, written, case, &loaded, budget, &again);
    let upload = tokio::select! {
        biased;
        upload = held => upload?,
        () = &mut revoked => return Err(Refusal::Logged(Code::HostNotAllowed)),
    };
    let course = upload.course();
    // Of all but long uploads, which make way for it.
    let active = (!upload.streams()).then(|| Arc::clone(activity));
    active.iter().for_each(|activity| activity.moves());
    let response = tokio::select! {
        biased;
        response = exchange(case, &loaded, &decided, &head.method, &headers, upload) => response?,
        () = &mut revoked => return Err(Refusal::Logged(Code::HostNotAllowed)),
    };
    let (mut response, connection) = response;
    course.answered();
    if let Some(upgrade) = upgrade.filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS)
    {
        let upstream = hyper::upgrade::on(&mut response);
        let mut answer = websocket::agreed(response, &headers)?;
        if let Some(redactor) = loaded.scan.redactor(decided.route.is_some()) {
            redact(answer.headers_mut(), &redactor);
        }
        let route = decided.route;
        let session = websocket::Session {
            revoked: websocket::revoked(case, &loaded, decided.question, route.clone()),
            case: Arc::clone(case),
            budget: Arc::clone(budget),
            route,
            upstream,
            working: door.wire.begin(),
            room: case.room(),
        };
        door.pending.set(connect::Switch::WebSocket(Box::new(session)), upgrade);
        return Ok(Answer::Switched(Box::new(answer)));
    }
    let back = (Arc::clone(&loaded), decided.target.clone(), connection, course);
    let turn = case.shared.relaying.begin(active);
    let mut response = relay(&loaded, &decided, response, revoked, back, turn).await?;
    if websocket {
        // What follows on this connection would have been the WebSocket's.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(Answer::Relayed(Box::new(response)))
}

/// In which form whoever asks understands a refusal. A CONNECT is none of theirs.
fn spoken(door: &Door, request: &Request<Incoming>) -> Option<Dialect> {
    if request.method() == Method::CONNECT {
        return None;
    }
    let host = match &door.kind {
        Kind::Tunnel(authority, _) => authority.host().to_string(),
        Kind::Front => String::new(),
    };
    Dialect::of(request.uri().path(), request.headers(), &host)
}

/// Waits until a new policy forbids what is under way, and says so. Where it forbids the whole tunnel,
/// the tunnel does.
fn revoked(door: &Door, case: &Arc<Case>, generation: u64, decided: &Decided) -> Revoked {
    let question = decided.question.clone();
    let tunnel = match &door.kind {
        Kind::Front => None,
        Kind::Tunnel(authority, _) => Some(authority.clone()),
    };
    let forbidden = door.shared.until(generation, move |loaded| {
        let ends = |authority| decide_connect(&loaded.policy, authority).is_err();
        !question.still_allowed(loaded) && !tunnel.as_ref().is_some_and(ends)
    });
    let case = Arc::clone(case);
    Box::pin(async move {
        forbidden.await;
        case.revoked();
    })
}

#[cfg(any(test, feature = "testing"))]
#[expect(clippy::panic, reason = "a test asks what becomes of it")]
fn panic_if_asked(loaded: &Loaded, decided: &Decided, headers: &HeaderMap) {
    if loaded.testing.panic_path.as_deref() == Some(decided.path.path()) {
        panic!("as a test asks: {headers:?}");
    }
}

/// Looks for secrets in target and head, and takes out what does not go on.
fn search_head(
    case: &Case,
    loaded: &Loaded,
    decided: &Decided,
    headers: &mut HeaderMap,
) -> Result<(), Code> {
    let target = searched_target(case.host(), decided);
    let Report { findings: mut found, unscanned } = loaded.scan.head(case.host(), &target, headers);
    let named = loaded.scan.name(case.host());
    found.extend(named.iter().cloned());
    if found.is_empty() && unscanned != Some(Unscanned::Large) {
        case.is_at(&decided.path);
    }
    let (known, rules): (Vec<_>, Vec<_>) = found.into_iter().partition(|found| found.known);
    known.into_iter().try_for_each(|finding| case.judge(loaded, finding))?;
    strip_request(headers);
    if let Some(route) = &decided.route {
        strip_authorization(headers);
        headers.remove(route.auth().header());
    }
    if rules.is_empty() && unscanned.is_none() {
        return Ok(());
    }
    // What was found, or could not be looked into, may be gone by now, and does not leave. A name stays as
    // it is.
    let left = loaded.scan.head(case.host(), &target, headers);
    left.findings.into_iter().chain(named).try_for_each(|finding| case.judge(loaded, finding))?;
    unsearched(case, loaded, left.unscanned)
}

/// A request's target as it is searched. A name under a wildcard can hold a secret too, also one that
/// is cut into labels, and resolving it would tell it.
fn searched_target(host: &str, decided: &Decided) -> String {
    format!("{}\n{host}\n{}", decided.path, host.replace('.', ""))
}

/// Whatever the agent said of who it is: on a route the sidecar says that.
fn strip_authorization(headers: &mut HeaderMap) {
    for name in [
        "authorization",
        "x-api-key",
        "api-key",
        "private-token",
        "job-token",
        "deploy-token",
        "x-auth-token",
        "x-access-token",
        "x-github-token",
        "x-goog-api-key",
        "x-amz-security-token",
        "cookie",
    ] {
        headers.remove(name);
    }
}

/// Writes a route's credential into the head.
fn inject(loaded: &Loaded, route: &Route, headers: &mut HeaderMap) -> Result<(), Code> {
    let value = loaded.credentials.get(route.credential()).ok_or(Code::CredentialMissing)?;
    let text = route.auth().value(value.reveal());
    let mut value = HeaderValue::from_str(&text).map_err(|_| Code::CredentialMissing)?;
    value.set_sensitive(true);
    let name = HeaderName::from_bytes(route.auth().header().as_bytes());
    headers.insert(name.map_err(|_| Code::CredentialMissing)?, value);
    // Nor can an echo be found that comes back in parts, which somebody puts together later.
    strip_partial(headers);
    // Only what is not compressed can be searched for the credential as it comes back.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Ok(())
}

/// Connects, says so in the log, sends, and waits for the head of the answer.
async fn exchange(
    case: &Case,
    loaded: &Loaded,
    decided: &Decided,
    method: &Method,
    headers: &HeaderMap,
    upload: Upload,
) -> Result<(Response<Incoming>, Connection), Refusal> {
    let reach = Reach {
        exceptions: &decided.grant.exceptions,
        forbidden: &loaded.forbidden,
        service: decided.grant.service,
        relaying: &case.shared.relaying,
    };
    let course = upload.course();
    // What can be asked again without any difference, where a connection turns out to be closed.
    let empty = upload.is_end_stream();
    let repeatable = empty && matches!(*method, Method::GET | Method::HEAD);
    let mut upload = Some(upload);
    let mut logged = false;
    loop {
        let kept = if logged { None } else { loaded.upstreams.kept(&decided.target, &reach) };
        let fresh = kept.is_none();
        let mut connection = match kept {
            Some(connection) => connection,
            None => {
                let connected = loaded.upstreams.connect(&decided.target, &reach).await;
                connected.map_err(|trouble| case.explained(trouble))?
            }
        };
        if !logged {
            case.allow(connection.is_by_proxy())?;
            logged = true;
        }
        let body = upload.take().ok_or(Code::UpstreamUnreachable)?;
        let request = request(&connection, decided, method, headers, body)?;
        let sent = tokio::select! {
            sent = connection.send(request) => Some(sent),
            () = course.still(response_head(loaded)) => None,
        };
        match sent {
            None => return Err(Code::UpstreamTimeout.into()),
            Some(Ok(response)) => return Ok((response, connection)),
            // One that was kept may have been closed meanwhile: nothing was sent on it.
            Some(Err(Unanswered::Unsent(request))) if !fresh => {
                upload = Some(request.into_body());
            }
            Some(Err(Unanswered::Failed)) if !fresh && repeatable => {
                upload = Some(Upload::empty());
            }
            Some(Err(Unanswered::HeadTooLarge)) => return Err(Code::ResponseHeadTooLarge.into()),
            Some(Err(_)) => {
                return Err(match course.verdict() {
                    Some(code) => Refusal::Logged(code),
                    None if empty => Code::UpstreamUnreachable.into(),
                    None => case.explained(Trouble::closed_early()).into(),
                });
            }
        }
    }
}

#[cfg(not(any(test, feature = "testing")))]
fn response_head(_loaded: &Loaded) -> Duration {
    limits::RESPONSE_HEAD
}

#[cfg(any(test, feature = "testing"))]
fn response_head(loaded: &Loaded) -> Duration {
    loaded.testing.response_head_ms.map_or(limits::RESPONSE_HEAD, Duration::from_millis)
}

/// The request as the upstream gets it: of what was decided, and of nothing else.
fn request(
    connection: &Connection,
    decided: &Decided,
    method: &Method,
    headers: &HeaderMap,
    body: Upload,
) -> Result<Request<Upload>, Code> {
    let (scheme, port) = if decided.target.secure { ("https", 443) } else { ("http", 80) };
    let authority = match decided.grant.service {
        // By this name it knows itself; of others many programs think that they are attacked.
        Some(port) => format!("localhost:{port}"),
        None => decided.target.authority.to_header(port),
    };
    let uri = if connection.is_http2() {
        format!("{scheme}://{authority}{}", decided.path)
    } else {
        decided.path.to_string()
    };
    let mut request = Request::new(body);
    *request.method_mut() = method.clone();
    *request.uri_mut() = uri.parse().map_err(|_| Code::PathNotCanonical)?;
    *request.headers_mut() = headers.clone();
    if !connection.is_http2() {
        let host = HeaderValue::from_str(&authority).map_err(|_| Code::MalformedAuthority)?;
        request.headers_mut().insert(HOST, host);
    }
    Ok(request)
}

/// The answer as the machine gets it.
async fn relay(
    loaded: &Arc<Loaded>,
    decided: &Decided,
    response: Response<Incoming>,
    revoked: Revoked,
    back: (Arc<Loaded>, Target, Connection, Course),
    turn: Turn,
) -> Result<Response<Relayed>, Refusal> {
    // Nothing was asked for that would have to switch protocols.
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Code::ResponseRefused.into());
    }
    if decided.route.is_some() && is_partial(response.status(), response.headers()) {
        return Err(Code::PartialResponse.into());
    }
    if is_head_too_large(response.headers()) {
        return Err(Code::ResponseHeadTooLarge.into());
    }
    let (mut head, body) = response.into_parts();
    head.version = Version::default();
    head.extensions.clear();
    strip_response(&mut head.headers);
    if decided.by_path
        && let Some(route) = &decided.route
        && let Some(location) = head.headers.get(LOCATION).and_then(|value| value.to_str().ok())
        && let Some(own) = door_location(location, route)
        && let Ok(own) = HeaderValue::from_str(&own)
    {
        head.headers.insert(LOCATION, own);
    }
    if let Some(port) = decided.grant.service
        && let Some(location) = head.headers.get(LOCATION).and_then(|value| value.to_str().ok())
        && let Some(asked) = service_location(location, port, &decided.target.authority)
        && let Ok(asked) = HeaderValue::from_str(&asked)
    {
        head.headers.insert(LOCATION, asked);
    }
    let redactor = loaded.scan.redactor(decided.route.is_some());
    if let Some(redactor) = &redactor {
        redact(&mut head.headers, redactor);
    }
    if body.is_end_stream() {
        return Ok(Response::from_parts(head, Relayed::new(body, None, revoked, back, turn)));
    }
    if decided.route.is_some() && codings(&head.headers) != Ok(Vec::new()) {
        return Err(Code::ResponseRefused.into());
    }
    let mut relayed = Relayed::new(body, redactor, revoked, back, turn);
    if relayed.is_redacted() {
        // It may become longer or shorter. How long it is is known of what is there as a whole.
        head.headers.remove(CONTENT_LENGTH);
        if let Some(length) = relayed.gather().await.map_err(|()| Code::UpstreamUnreachable)? {
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
    }
    Ok(Response::from_parts(head, relayed))
}
