//! What a request is for, read once, and what is decided about it.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::{HeaderMap, Request, Uri, Version};

use super::case::Case;
use super::proxy::Kind;
use super::state::Loaded;
use super::upstream::Target;
use crate::sidecar::{
    Allowed, Authority, CanonicalPath, Code, Grant, Host, Route, Transport, decide,
    decide_path_door,
};

/// What was decided about a request.
pub(super) struct Decided {
    pub(super) target: Target,
    /// For the upstream.
    pub(super) path: CanonicalPath,
    pub(super) grant: Grant,
    pub(super) route: Option<Arc<Route>>,
    /// It came to the path door.
    pub(super) by_path: bool,
    /// Asks the same again.
    pub(super) question: Question,
}

/// What is asked of a policy, now and whenever there is a new one.
#[derive(Clone)]
pub(super) enum Question {
    Proxy { authority: Authority, transport: Transport, method: String, path: CanonicalPath },
    Path { method: String, path: CanonicalPath },
}

impl Question {
    /// The route by which it would go now, or why it may not.
    pub(super) fn route(&self, loaded: &Loaded) -> Result<Option<Arc<Route>>, Code> {
        let policy = &loaded.policy;
        match self {
            Self::Proxy { authority, transport, method, path } => {
                decide(policy, authority, *transport, method, path).map(|allowed| allowed.route)
            }
            Self::Path { method, path } => {
                decide_path_door(policy, method, path).map(|allowed| Some(allowed.route))
            }
        }
    }

    pub(super) fn still_allowed(&self, loaded: &Loaded) -> bool {
        self.route(loaded).is_ok()
    }
}

/// Fields by which some servers take another method than the one of the request line.
const METHODS: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];
/// The same for the path.
const PATHS: [&str; 2] = ["x-original-url", "x-rewrite-url"];

/// Asks about every other request that an upstream could take this one for. What is decided about and
/// what is done must not differ.
fn overrides(
    headers: &HeaderMap,
    method: &str,
    path: &CanonicalPath,
    decide: impl Fn(&str, &CanonicalPath) -> Result<(), Code>,
) -> Result<(), Code> {
    for value in METHODS.iter().flat_map(|name| headers.get_all(*name)) {
        let other = value.to_str().map_err(|_| Code::MethodNotAllowed)?;
        decide(&other.trim().to_ascii_uppercase(), path)?;
    }
    for value in PATHS.iter().flat_map(|name| headers.get_all(*name)) {
        decide(method, &CanonicalPath::parse(value.as_bytes())?)?;
    }
    Ok(())
}

/// Reads the request's target once, and decides about it.
pub(super) fn decided(
    door: &Kind,
    case: &Case,
    loaded: Option<Arc<Loaded>>,
    request: &Request<Incoming>,
) -> Result<(Arc<Loaded>, Decided), Code> {
    let uri = request.uri();
    let by_path = matches!(door, Kind::Front) && uri.authority().is_none();
    // Some clients send a proxy `https` as they send it `http`, with the whole URL in the request line: that asks
    // for the same as within a tunnel, and goes on over TLS all the same.
    let transport = match door {
        Kind::Front if uri.scheme_str() == Some("https") => Transport::Https,
        Kind::Front => Transport::Http,
        Kind::Tunnel(_, transport) => *transport,
    };
    let authority = match door {
        Kind::Front if by_path => None,
        Kind::Front => Some(named(uri, request.headers(), transport)?),
        Kind::Tunnel(of_tunnel, _) => {
            let authority = named(uri, request.headers(), transport)?;
            if authority != *of_tunnel {
                case.is_for(&authority, loaded.as_deref());
                return Err(Code::AuthorityMismatch);
            }
            Some(authority)
        }
    };
    if transport == Transport::Http && !by_path {
        case.is_plain();
    }
    if let Some(authority) = &authority {
        case.is_for(authority, loaded.as_deref());
    }
    // Only an absolute form without a path has none here.
    let raw = uri.path_and_query().map_or("/", |path| path.as_str());
    let path = match &loaded {
        Some(loaded) => loaded.policy.path(raw.as_bytes())?,
        None => CanonicalPath::parse(raw.as_bytes())?,
    };
    let method = request.method().as_str().to_owned();
    let Some(authority) = authority else {
        let loaded = loaded.ok_or(Code::CredentialMissing)?;
        let name = Host::parse(host_field(request.headers())?.as_bytes());
        let name = name.or_else(|_| {
            Authority::parse(host_field(request.headers())?.as_bytes(), Some(80))
                .map(|authority| authority.host().clone())
        })?;
        if !loaded.names.contains(&name) {
            return Err(Code::AuthorityMismatch);
        }
        let question = Question::Path { method: method.clone(), path: path.clone() };
        let allowed = decide_path_door(&loaded.policy, &method, &path)?;
        overrides(request.headers(), &method, &path, |method, other| {
            // There the path is the upstream's own, of which the door knows nothing.
            if *other != path {
                return Err(Code::PathNotAllowed);
            }
            decide_path_door(&loaded.policy, method, other).map(drop)
        })?;
        case.is_for(allowed.route.upstream(), Some(&loaded));
        case.is_by(&allowed.route);
        let authority = allowed.route.upstream().clone();
        let decided = Decided {
            target: Target { authority, secure: true, http2: false },
            path: allowed.upstream_path,
            grant: allowed.grant,
            route: Some(allowed.route),
            by_path,
            question,
        };
        return Ok((loaded, decided));
    };
    let loaded = loaded.ok_or(Code::NotReady)?;
    let judge = |method: &str, path: &CanonicalPath| {
        decide(&loaded.policy, &authority, transport, method, path)
    };
    let allowed = judge(&method, &path).inspect_err(|_| case.stops_at(&path, &loaded))?;
    overrides(request.headers(), &method, &path, |method, other| {
        let also = judge(method, other)?;
        // Nor may it get another credential than the one that it is sent with.
        if also.route == allowed.route { Ok(()) } else { Err(Code::PathNotAllowed) }
    })
    .inspect_err(|_| case.stops_at(&path, &loaded))?;
    if let Some(route) = &allowed.route {
        case.is_by(route);
    }
    let question =
        Question::Proxy { authority: authority.clone(), transport, method, path: path.clone() };
    let http2 = request.version() == Version::HTTP_2;
    let Allowed { grant, route } = allowed;
    // With a service plain HTTP is spoken, whatever the machine speaks with the sidecar.
    let remote = grant.service.is_none();
    let secure = remote && transport == Transport::Https;
    let target = Target { authority, secure, http2: remote && http2 };
    Ok((loaded, Decided { target, path, grant, route, by_path, question }))
}

/// The one host that a request names, in its target and in its field.
pub(super) fn named(
    uri: &Uri,
    headers: &HeaderMap,
    transport: Transport,
) -> Result<Authority, Code> {
    let port = Some(transport.default_port());
    let of_target = uri
        .authority()
        .map(|authority| Authority::parse(authority.as_str().as_bytes(), port))
        .transpose()?;
    let expected = match transport {
        Transport::Http => "http",
        Transport::Https => "https",
    };
    if uri.scheme_str().is_some_and(|scheme| scheme != expected) {
        return Err(Code::MalformedRequest);
    }
    let of_field = match headers.get(HOST) {
        None => None,
        Some(_) => Some(Authority::parse(host_field(headers)?.as_bytes(), port)?),
    };
    match (of_target, of_field) {
        (Some(target), Some(field)) if target != field => Err(Code::AuthorityMismatch),
        (Some(authority), _) | (None, Some(authority)) => Ok(authority),
        (None, None) => Err(Code::MalformedRequest),
    }
}

/// What the one field of that name says.
pub(super) fn host_field(headers: &HeaderMap) -> Result<&str, Code> {
    let mut fields = headers.get_all(HOST).iter();
    match (fields.next(), fields.next()) {
        (Some(one), None) => one.to_str().map_err(|_| Code::MalformedAuthority),
        _ => Err(Code::MalformedRequest),
    }
}
