//! What a sandbox may ask for: the function that the proxy and `bottle policy check` both call.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::Zeroizing;

use super::allowlist::{Allowlist, Grant, holds, is_method, is_never_passed_on};
use super::authority::{Authority, Host};
use super::clock::moment;
use super::code::Code;
use super::part::{PolicyPart, RoutePart, Scheme, ServicePart};
use super::path::{CanonicalPath, decode_fully};
use super::supervise::door;
use crate::model::Moment;
use crate::model::gate::GATE_NAME;
use crate::model::policy::{AllowEntry, HostPattern, auth, service_of};

/// A compiled policy. The default grants nothing.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    allowlist: Allowlist,
    /// In the bottle's order.
    routes: Vec<Arc<Route>>,
    /// Ports of the host's loopback by their names.
    services: BTreeMap<Box<str>, u16>,
}

/// One credential route. Both front doors lead to it: the upstream's own host, port and path
/// through the proxy, and `/<path>/` for tools that take a base URL.
#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    /// Starts and ends with `/`.
    path: Box<str>,
    upstream: Authority,
    /// Without a trailing `/`.
    upstream_path: Box<str>,
    auth: Auth,
    credential: Box<str>,
    expires: Option<Moment>,
}

/// How a route's credential is written into a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// `authorization`, after this word.
    Authorization(&'static str),
    /// `authorization: Basic`, for this user.
    Basic(Box<str>),
    /// Alone, in the header of this name, in lower case.
    Header(Box<str>),
}

impl Auth {
    /// The header in which the credential stands.
    #[must_use]
    pub fn header(&self) -> &str {
        match self {
            Self::Authorization(_) | Self::Basic(_) => "authorization",
            Self::Header(name) => name,
        }
    }

    /// What stands in it.
    #[must_use]
    pub fn value(&self, credential: &str) -> Zeroizing<String> {
        Zeroizing::new(match self {
            Self::Authorization(word) => format!("{word} {credential}"),
            Self::Basic(user) => {
                let pair = Zeroizing::new(format!("{user}:{credential}"));
                format!("Basic {}", BASE64.encode(pair.as_bytes()))
            }
            Self::Header(_) => credential.to_owned(),
        })
    }

    fn of(part: &RoutePart) -> Result<Self, String> {
        Ok(match (part.auth_scheme, &part.auth_user, &part.auth_header) {
            (Scheme::Bearer, None, None) => Self::Authorization("Bearer"),
            (Scheme::Token, None, None) => Self::Authorization("token"),
            (Scheme::ApiKey, None, None) => Self::Header("x-api-key".into()),
            (Scheme::Basic, Some(user), None) if auth::is_user(user) => {
                Self::Basic(user.as_str().into())
            }
            (Scheme::Header, None, Some(name)) if auth::is_header(name) => {
                Self::Header(name.as_str().into())
            }
            _ => return Err("its auth_scheme does not go with its auth_user or auth_header".into()),
        })
    }
}

impl Route {
    /// The prefix of the path door, with `/` on both ends.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where it leads.
    #[must_use]
    pub fn upstream(&self) -> &Authority {
        &self.upstream
    }

    /// The path prefix of the upstream, without a trailing `/`.
    #[must_use]
    pub fn upstream_path(&self) -> &str {
        &self.upstream_path
    }

    /// How the credential is written.
    #[must_use]
    pub fn auth(&self) -> &Auth {
        &self.auth
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn holds(&self) -> bool {
        holds(self.expires)
    }

    /// The credential's name.
    #[must_use]
    pub fn credential(&self) -> &str {
        &self.credential
    }
}

/// How a request reaches its upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Plain `http://`. No credential ever takes it.
    Http,
    /// `https://`.
    Https,
}

impl Transport {
    /// The port that its URLs leave out.
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// A request that passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// What let it pass.
    pub grant: Grant,
    /// The route whose credential it gets.
    pub route: Option<Arc<Route>>,
}

/// A request at the path door, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRequest {
    /// What let it pass.
    pub grant: Grant,
    /// The route whose credential it gets.
    pub route: Arc<Route>,
    /// The path and query for the upstream.
    pub upstream_path: CanonicalPath,
}

impl Policy {
    /// Checks and compiles the whole of a policy, or nothing of it.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence. It never holds a value of a credential.
    pub fn compile(part: &PolicyPart) -> Result<Self, String> {
        let entries: Vec<AllowEntry> = part.allow.iter().map(AllowEntry::from).collect();
        for entry in &entries {
            if let HostPattern::Exact(name) = &entry.host {
                refuse_reserved(name)?;
            }
        }
        let allowlist = Allowlist::compile(&entries)?;
        let mut services = BTreeMap::new();
        for ServicePart { name, port } in &part.services {
            let asked = format!("{name}.host:{port}");
            let canonical = Authority::parse(asked.as_bytes(), None);
            let fine = canonical.is_ok_and(|canonical| service(&canonical) == Some(name.as_str()));
            if !fine || *port == 0 {
                return Err(format!(
                    "service `{asked}`: its name is not one label in lower case, or it has no port"
                ));
            }
            if services.insert(name.as_str().into(), *port).is_some() {
                return Err(format!("service `{asked}`: another service has this name"));
            }
        }
        let mut routes: Vec<Arc<Route>> = Vec::new();
        for part in &part.routes {
            let route = route(part).map_err(|why| format!("route `{}`: {why}", part.path))?;
            if routes.iter().any(|other| other.path == route.path) {
                return Err(format!("route `{}`: another route has this path", part.path));
            }
            routes.push(Arc::new(route));
        }
        Ok(Self { allowlist, routes, services })
    }

    /// When something of it ends next.
    #[must_use]
    pub fn ends(&self) -> Option<Moment> {
        let now = moment();
        let routes = self.routes.iter().filter_map(|route| route.expires);
        self.allowlist.ends().chain(routes).filter(|end| now < *end).min()
    }

    /// The routes, in the bottle's order.
    #[must_use]
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// Reads the path of a request, as strictly as the policy wants it.
    ///
    /// # Errors
    /// [`Code::PathNotCanonical`].
    pub fn path(&self, raw: &[u8]) -> Result<CanonicalPath, Code> {
        match self.allowlist.passes_encoded_slashes() {
            true => CanonicalPath::parse_with_slashes(raw),
            false => CanonicalPath::parse(raw),
        }
    }

    /// Whether an encoded slash in a request by a route may pass: where an entry of its host lists the request
    /// and says so.
    fn slashes_pass(&self, authority: &Authority, method: &str, path: &CanonicalPath) -> bool {
        !path.has_encoded_slash() || self.allowlist.request(authority, method, path).is_ok()
    }

    /// Whether what is granted there is TLS: at the port of `https`, which an entry means that names
    /// none, and where a route's upstream speaks it.
    fn is_for_tls(&self, authority: &Authority) -> bool {
        authority.port() == Transport::Https.default_port()
            || self.routes.iter().any(|route| route.upstream == *authority)
    }

    /// The grant of a route, with the private ranges that are declared for its host.
    fn by_route(&self, route: &Route) -> Grant {
        Grant {
            entry: format!("route {}", route.path).into(),
            exceptions: self.allowlist.exceptions(&route.upstream),
            service: None,
        }
    }

    /// What is granted of a name that stands for a service; `None`: it is any other name.
    fn service(&self, authority: &Authority) -> Option<Result<Grant, Code>> {
        let name = service(authority)?;
        let Some(port) = self.services.get(name) else { return Some(Err(Code::HostNotAllowed)) };
        if *port != authority.port() {
            return Some(Err(Code::PortNotAllowed));
        }
        let entry = format!("service {name}").into();
        Some(Ok(Grant { entry, exceptions: Vec::new(), service: Some(*port) }))
    }

    /// Whether this is a service of the host's, with which plain HTTP is spoken.
    #[must_use]
    pub fn is_service(&self, authority: &Authority) -> bool {
        matches!(self.service(authority), Some(Ok(_)))
    }
}

/// Whether this is what git's LFS makes of the git gate's name. Nothing is ever dialled for it.
fn is_gate(authority: &Authority) -> bool {
    authority.port() == 443 && authority.host().name() == Some(GATE_NAME)
}

/// The name of the service that is asked for here, if this is such a name. It is never asked of DNS.
fn service(authority: &Authority) -> Option<&str> {
    service_of(authority.host().name()?)
}

/// Names of services are in no list of hosts: whoever reads it would take them for names of the internet.
fn refuse_reserved(name: &str) -> Result<(), String> {
    match service_of(name) {
        Some(_) => Err(format!("`{name}` is the name of a service, and no host's")),
        None => Ok(()),
    }
}

fn route(part: &RoutePart) -> Result<Route, String> {
    let plain = |path: &str| {
        let canonical = CanonicalPath::parse(path.as_bytes());
        canonical.is_ok_and(|path| path.query().is_none() && !path.as_str().contains('%'))
    };
    if !plain(&part.path) || !part.path.ends_with('/') {
        return Err("its path is not canonical, or does not start and end with `/`".into());
    }
    if part.path.starts_with(door::PREFIX) {
        return Err(format!("`{}` is the sidecar's own", door::PREFIX));
    }
    // `Host` takes no port, so that what follows it is the port that the part says.
    refuse_reserved(&part.host)?;
    let host = Host::parse(part.host.as_bytes()).ok();
    if host.as_ref().and_then(Host::name) != Some(&part.host) {
        return Err("its upstream is not a host name in lower case".into());
    }
    let upstream = Authority::parse(format!("{}:{}", part.host, part.port).as_bytes(), None)
        .map_err(|_| "its upstream has no port from 1 to 65535")?;
    let prefix = &part.upstream_path;
    if !prefix.is_empty() && (prefix.ends_with('/') || !plain(prefix)) {
        return Err("its upstream path is not canonical, or ends with `/`".into());
    }
    let mut name = part.credential.bytes();
    let fine = name.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && name.all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !fine {
        // It may be a value in the wrong place: it is not shown.
        return Err("its credential is not the name of a variable".into());
    }
    Ok(Route {
        path: part.path.as_str().into(),
        upstream,
        upstream_path: part.upstream_path.as_str().into(),
        auth: Auth::of(part)?,
        credential: part.credential.as_str().into(),
        expires: part.expires,
    })
}

/// Whether a tunnel to this host may be opened. What is said in it is decided by [`decide`].
///
/// # Errors
/// [`Code::SsrfDenied`] for an address, [`Code::HostNotAllowed`], [`Code::PortNotAllowed`].
pub fn decide_connect(policy: &Policy, authority: &Authority) -> Result<Grant, Code> {
    if is_gate(authority) {
        // A tunnel is granted, so that there can be an answer; no request in it is.
        let entry = "git gate".into();
        return Ok(Grant { entry, exceptions: Vec::new(), service: None });
    }
    if let Some(service) = policy.service(authority) {
        return service;
    }
    policy.allowlist.authority(authority).or_else(|refusal| {
        let to_host = |route: &&Arc<Route>| route.upstream.host() == authority.host();
        let mut routes = policy.routes.iter().filter(to_host).peekable();
        if routes.peek().is_none() {
            return Err(refusal);
        }
        let there: Vec<_> = routes.filter(|route| route.upstream == *authority).collect();
        match there.iter().find(|route| route.holds()) {
            Some(route) => Ok(policy.by_route(route)),
            None if there.is_empty() => Err(Code::PortNotAllowed),
            None => Err(Code::GrantExpired),
        }
    })
}

/// Whether a request through the proxy may pass, and with which route's credential.
///
/// A credential goes by TLS only, and never with a method that asks for an echo.
///
/// # Errors
/// Why not.
pub fn decide(
    policy: &Policy,
    authority: &Authority,
    transport: Transport,
    method: &str,
    path: &CanonicalPath,
) -> Result<Allowed, Code> {
    // HTTP/2 carries methods as they are: `trace` may be TRACE to the upstream.
    if !is_method(method.as_bytes()) || is_never_passed_on(method) {
        return Err(Code::MethodNotAllowed);
    }
    if is_gate(authority) {
        return Err(Code::LargeFiles);
    }
    let grant = decide_connect(policy, authority)?;
    if grant.service.is_some() {
        if path.has_encoded_slash() {
            return Err(Code::PathNotCanonical);
        }
        // What is pushed is compressed, wherever it is pushed to.
        let push = takes_part_in_push(method, path);
        return if push { Err(Code::UseGitGate) } else { Ok(Allowed { grant, route: None }) };
    }
    if transport == Transport::Http && policy.is_for_tls(authority) {
        return Err(Code::PlainHttpRefused);
    }
    let to_upstream = |route: &&Arc<Route>| {
        transport == Transport::Https
            && route.upstream == *authority
            && rest(path.path(), &route.upstream_path).is_some()
            && route.holds()
    };
    // The longest prefix wins; of two with the same, the one that the bottle names first.
    let mut routed: Option<&Arc<Route>> = None;
    for route in policy.routes.iter().filter(to_upstream) {
        if routed.is_none_or(|best| best.upstream_path.len() < route.upstream_path.len()) {
            routed = Some(route);
        }
    }
    if let Some(route) = routed {
        if is_push(path) {
            return Err(Code::UseGitGate);
        }
        if !policy.slashes_pass(authority, method, path) {
            return Err(Code::PathNotCanonical);
        }
        if takes_credential(method) {
            let grant = policy.by_route(route);
            return Ok(Allowed { grant, route: Some(Arc::clone(route)) });
        }
    }
    match policy.allowlist.request(authority, method, path) {
        // What is pushed is compressed, so a search for secrets would not see it.
        Ok(_) if takes_part_in_push(method, path) => Err(Code::UseGitGate),
        Ok(grant) => Ok(Allowed { grant, route: None }),
        // The host is granted by a route alone, which does not cover this request.
        Err(Code::HostNotAllowed | Code::PortNotAllowed) => Err(match (routed, transport) {
            (Some(_), _) => Code::MethodNotAllowed,
            (None, Transport::Https) => Code::PathNotAllowed,
            (None, Transport::Http) => Code::PortNotAllowed,
        }),
        Err(code) => Err(code),
    }
}

/// What becomes of a request at the path door: `<path>rest` is `<upstream>/rest`.
///
/// # Errors
/// [`Code::MethodNotAllowed`], [`Code::RouteNotFound`], [`Code::UseGitGate`].
pub fn decide_path_door(
    policy: &Policy,
    method: &str,
    path: &CanonicalPath,
) -> Result<RouteRequest, Code> {
    if !takes_credential(method) {
        return Err(Code::MethodNotAllowed);
    }
    // The paths of routes end with `/`, so a prefix is one at a boundary.
    let routes = policy.routes.iter().filter(|route| path.path().starts_with(&*route.path));
    let Some(route) = routes.max_by_key(|route| route.path.len()) else {
        return Err(if path.has_encoded_slash() {
            Code::PathNotCanonical
        } else {
            Code::RouteNotFound
        });
    };
    if !route.holds() {
        return Err(Code::GrantExpired);
    }
    let rest = &path.as_str()[route.path.len()..];
    let upstream_path = format!("{}/{rest}", route.upstream_path);
    let upstream_path = policy.path(upstream_path.as_bytes())?;
    if !policy.slashes_pass(&route.upstream, method, &upstream_path) {
        return Err(Code::PathNotCanonical);
    }
    if is_push(&upstream_path) {
        return Err(Code::UseGitGate);
    }
    let grant = policy.by_route(route);
    Ok(RouteRequest { grant, route: Arc::clone(route), upstream_path })
}

/// What of a path stands below a prefix that ends at a `/`.
fn rest<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// TRACE, TRACK and OPTIONS may echo what they are sent, and a CONNECT is no request to the
/// upstream.
fn takes_credential(method: &str) -> bool {
    is_method(method.as_bytes())
        && !is_never_passed_on(method)
        && !matches!(method, "OPTIONS" | "TRACK")
}

/// Whether a request without a credential is part of a push. One that only reads a page of that name
/// is not.
fn takes_part_in_push(method: &str, path: &CanonicalPath) -> bool {
    let reads = || matches!(method, "GET" | "HEAD" | "OPTIONS");
    let advertises = || segments(path).last().is_some_and(|segment| segment == b"refs");
    is_push(path) && (!reads() || advertises())
}

/// The segments as the most lenient reader sees them, without empty ones at the end.
fn segments(path: &CanonicalPath) -> Vec<Vec<u8>> {
    // One that holds an encoded slash is several to a lenient reader.
    let parts = |segment: &str| -> Vec<Vec<u8>> {
        let decoded = decode_fully(segment);
        decoded.split(|b| *b == b'/').map(bare).collect()
    };
    let mut segments: Vec<Vec<u8>> = path.segments().flat_map(parts).collect();
    while segments.last().is_some_and(Vec::is_empty) {
        segments.pop();
    }
    segments
}

/// Whether a request is part of a push, in whichever way it is written.
fn is_push(path: &CanonicalPath) -> bool {
    const SERVICE: &[u8] = b"git-receive-pack";
    // Most requests have neither an escape nor anything like it.
    let text = path.as_str().as_bytes();
    let like = |part: &[u8]| part.eq_ignore_ascii_case(SERVICE);
    if memchr::memchr(b'%', text).is_none() && !text.windows(SERVICE.len()).any(like) {
        return false;
    }
    let segments = segments(path);
    if segments.iter().any(|segment| segment == SERVICE) {
        return true;
    }
    let advertises = segments.last().is_some_and(|segment| segment == b"refs");
    let query = decode_fully(path.query().unwrap_or_default());
    query.split(|b| b"&;?".contains(b)).any(|pair| {
        let (key, value) = match memchr::memchr(b'=', pair) {
            Some(at) => (&pair[..at], &pair[at..]),
            None => (&pair[..0], pair),
        };
        let holds =
            |text: &[u8], what| memchr::memmem::find(&text.to_ascii_lowercase(), what).is_some();
        holds(value, SERVICE) && (advertises || holds(key, b"service"))
    })
}

/// A name as the most lenient reader sees it: decoded, in lower case, without parameters.
fn bare(decoded: &[u8]) -> Vec<u8> {
    let end = decoded.iter().position(|b| b";?#".contains(b)).unwrap_or(decoded.len());
    decoded[..end].trim_ascii().to_ascii_lowercase()
}

#[cfg(test)]
mod tests;
