//! `bottle policy`: what a sandbox may reach, from the very function that its sidecar asks.

mod never;

use std::fmt::Write as _;

use serde::Serialize;

use super::args::{Global, PolicyArgs, PolicyCheckArgs, PolicyCommand, PolicyShowArgs, ReadArgs};
use super::error::{CliError, Exit};
use super::setup;
use super::text::wrap;
use super::ui::{Ui, harmless, paint, style};
use crate::manifest;
use crate::model::access::{MICROVM_GATEWAY, PROXY_PORT, SIDECAR_NAME};
use crate::model::policy::{AuthScheme, GitAllow, GitUpstream, Login, Resolve};
use crate::model::spec::human_bytes;
use crate::model::{SandboxId, SandboxSpec};
use crate::reconcile::accepted;
use crate::sidecar::allowlist::is_method;
use crate::sidecar::part::{Action, AllowPart, DlpPart, RoutePart, Scheme, ServicePart};
use crate::sidecar::{
    Allowed, Authority, Code, Policy, PolicyPart, RouteRequest, Transport, decide, decide_path_door,
};

/// The version of both documents.
const VERSION: u32 = 1;

pub(super) fn run(ui: &Ui, global: &Global, args: &PolicyArgs) -> Result<Exit, CliError> {
    match &args.command {
        PolicyCommand::Check(args) => check(ui, global, args),
        PolicyCommand::Show(args) => show(ui, global, args),
    }
}

/// What the tree says of this sandbox. No backend is asked, and no lock is taken.
pub(super) fn spec(global: &Global, name: &str, read: &ReadArgs) -> Result<SandboxSpec, CliError> {
    let id = SandboxId::new(name).map_err(anyhow::Error::from)?;
    let options = setup::load_options(global, None, read)?;
    let mut desired = manifest::load(&options).map_err(anyhow::Error::from)?;
    accepted::hold_exposed(&options.state_dir, &mut desired)?;
    if let Some(spec) = desired.sandboxes.remove(&id) {
        return Ok(spec);
    }
    if let Some(diagnostics) = desired.held.remove(&id) {
        let mut error = CliError::failed(format!("the manifests of {id} do not hold"));
        error.diagnostics = diagnostics;
        return Err(error);
    }
    let known: Vec<&str> = desired.sandboxes.keys().map(SandboxId::as_str).collect();
    let error = CliError::failed(format!("the tree has no agent {id}"));
    Err(if known.is_empty() { error } else { error.hint(format!("it has: {}", known.join(", "))) })
}

/// The answer, as `-o json` prints it.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    version: u32,
    sandbox: &'a SandboxId,
    method: &'a str,
    url: &'a str,
    allowed: bool,
    /// The entry of the allowlist or the route that lets it pass.
    by: Option<String>,
    /// The route whose credential it gets, and that credential's name.
    route: Option<String>,
    credential: Option<String>,
    /// Where a request at the path door goes.
    upstream: Option<String>,
    /// The private ranges into which the host may resolve.
    exceptions: Vec<String>,
    code: Option<String>,
    status: Option<u16>,
    next: Option<String>,
}

fn check(ui: &Ui, global: &Global, args: &PolicyCheckArgs) -> Result<Exit, CliError> {
    let mut spec = spec(global, &args.name, &args.read)?;
    // What a token is like decides nothing here, and no token is asked for.
    for route in &mut spec.policy.routes {
        if route.auth_scheme == AuthScheme::OfToken {
            route.auth_scheme = AuthScheme::ApiKey;
        }
    }
    let policy = Policy::compile(&PolicyPart::from(&spec.policy)).map_err(CliError::failed)?;
    let mut answer = Answer {
        version: VERSION,
        sandbox: &spec.id,
        method: &args.method,
        url: &args.url,
        allowed: false,
        by: None,
        route: None,
        credential: None,
        upstream: None,
        exceptions: Vec::new(),
        code: None,
        status: None,
        next: None,
    };
    match ask(&policy, &args.method, &args.url) {
        Ok((Allowed { grant, route }, upstream)) => {
            answer.allowed = true;
            answer.by = Some(grant.entry.into());
            let service = grant.service.map(|port| format!("http://127.0.0.1:{port}"));
            answer.exceptions = grant.exceptions.iter().map(ToString::to_string).collect();
            answer.route = route.as_ref().map(|route| route.path().to_owned());
            answer.credential = route.map(|route| route.credential().to_owned());
            // A service behind such a port may be granted all the same; it will not be what it looks like.
            let never = never::never(&args.url, spec.id.as_str());
            answer.next = never.filter(|_| upstream.is_none() && service.is_none());
            answer.upstream = upstream.or(service);
        }
        Err(code) => {
            answer.status = Some(code.status());
            let never = never::never(&args.url, spec.id.as_str());
            let never =
                never.filter(|_| code != Code::RouteNotFound && code != Code::NameHoldsData);
            let write = || what_to_write(&args.method, &args.url);
            let next = by_gate(&spec, &args.url).or(never).or_else(write);
            answer.next = Some(next.unwrap_or_else(|| code.next().to_owned()));
            answer.code = Some(code.as_str().into_owned());
            if code == Code::NameHoldsData {
                // As in the log and on the page: what it holds may be a credential.
                answer.url = "(a name that is not shown)";
            }
        }
    }
    if ui.json() {
        ui.document(&answer)?;
    } else {
        ui.data(&answer_text(&answer, ui.width()))?;
    }
    Ok(if answer.allowed { Exit::Done } else { Exit::Failed })
}

/// Whether this is a repository that git reaches by the gate, in any of its spellings.
fn by_gate(spec: &SandboxSpec, url: &str) -> Option<String> {
    let upstreams = spec.gate.iter().flat_map(|gate| &*gate.upstreams);
    let rest =
        ["ssh://", "git+ssh://", "ssh+git://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    let place = match (rest, url.split_once(':')) {
        (Some(rest), _) => rest.replacen(":22/", "/", 1),
        (None, Some((server, path))) if server.contains('@') && !path.starts_with("//") => {
            format!("{server}/{}", path.trim_start_matches('/'))
        }
        _ => return None,
    };
    let place = place.trim_end_matches('/');
    let place = place.strip_suffix(".git").unwrap_or(place);
    let mut upstreams = upstreams.filter(|upstream| upstream.place() == place);
    let upstream = upstreams.next()?;
    Some(format!("git gets there by the gate, which {}; nothing else does", upstream.grants()))
}

/// What is wrong with the words of this command, where no request could be made of them.
fn what_to_write(method: &str, url: &str) -> Option<String> {
    if !url.starts_with("https://") && !url.starts_with("http://") {
        let host = url.split("://").last().unwrap_or(url).trim_start_matches('/');
        return Some(format!("write a URL: `https://{host}`"));
    }
    let capitals = method.to_ascii_uppercase();
    match is_method(method.as_bytes()) {
        true => None,
        false if is_method(capitals.as_bytes()) => {
            Some(format!("write the method in capitals: `--method {capitals}`"))
        }
        false => Some("write a method such as `--method POST`".to_owned()),
    }
}

/// Reads the URL as the sidecar reads a request for it, and asks.
fn ask(policy: &Policy, method: &str, url: &str) -> Result<(Allowed, Option<String>), Code> {
    let (transport, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (Transport::Https, rest),
        (None, Some(rest)) => (Transport::Http, rest),
        (None, None) => return Err(Code::MalformedRequest),
    };
    if !is_method(method.as_bytes()) {
        return Err(Code::MalformedRequest);
    }
    let (host, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let authority = Authority::parse(host.as_bytes(), Some(transport.default_port()))?;
    let target = if target.is_empty() { "/" } else { target };
    let path = policy.path(target.as_bytes())?;
    if transport == Transport::Http && is_door(&authority) {
        let RouteRequest { grant, route, upstream_path } = decide_path_door(policy, method, &path)?;
        let upstream = format!("https://{}{upstream_path}", route.upstream().to_header(443));
        return Ok((Allowed { grant, route: Some(route) }, Some(upstream)));
    }
    Ok((decide(policy, &authority, transport, method, &path)?, None))
}

/// Whether this is what a machine calls its own sidecar.
fn is_door(authority: &Authority) -> bool {
    let host = authority.host().to_string();
    authority.port() == PROXY_PORT
        && [SIDECAR_NAME, MICROVM_GATEWAY, "127.0.0.1", "localhost"].contains(&host.as_str())
}

fn answer_text(answer: &Answer<'_>, width: usize) -> String {
    let (word, colour) =
        if answer.allowed { ("allowed", style::GOOD) } else { ("denied", style::BAD) };
    let mut lines: Vec<(&str, String)> = Vec::new();
    let mut line = |label, text: Option<String>| lines.extend(text.map(|text| (label, text)));
    line("by", answer.by.clone());
    line("credential", answer.credential.clone());
    line("goes to", answer.upstream.clone());
    let ranges = answer.exceptions.join(", ");
    line("addresses", (!ranges.is_empty()).then(|| format!("public, and within {ranges}")));
    let status = answer.status.unwrap_or_default();
    line("code", answer.code.as_ref().map(|code| format!("{code}, HTTP {status}")));
    line("next", answer.next.clone());
    let url = harmless(answer.url).replace(['\n', '\t'], " ");
    let method = harmless(answer.method).replace(['\n', '\t'], " ");
    let mut text = format!("{}: {method} {url}\n", paint(colour, word));
    for (label, line) in lines {
        labelled(&mut text, label, &line, width);
    }
    text
}

/// The policy of a sandbox, as `-o json` prints it.
#[derive(Debug, Serialize)]
struct PolicyDocument<'a> {
    version: u32,
    sandbox: &'a SandboxId,
    bottle: &'a str,
    policy: &'a PolicyPart,
    /// The file of the operator's own rules.
    dlp_rules: Option<&'a std::path::Path>,
    /// By which proxy upstreams are reached; never with its login.
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy: Option<ProxyDocument<'a>>,
    /// What its git gate may talk to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    git: Vec<GitDocument<'a>>,
}

/// An upstream, as `-o json` prints it; of its key no more than the fingerprint.
#[derive(Debug, Serialize)]
struct GitDocument<'a> {
    name: &'a str,
    upstream: String,
    key: Option<&'a str>,
    host_keys: Vec<String>,
    push: &'a [String],
    force: &'a [String],
    delete: &'a [String],
    refs: &'a [String],
    max_push: u64,
    max_file: u64,
    /// As the gate is told: `rule in path (fingerprint): reason`.
    allow: Vec<String>,
    #[serde(skip)]
    line: String,
}

impl<'a> GitDocument<'a> {
    fn of(upstream: &'a GitUpstream) -> Self {
        let pins = upstream.pins();
        let shown = match pins.is_empty() {
            true => "no KnownHostKey is set, so nothing is sent".to_owned(),
            false => format!("the host has to show {}", pins.join(" or ")),
        };
        let allow = upstream.allow.iter().map(|allow| {
            let until = allow.expires.as_ref().map(|day| format!(" until {day}"));
            let GitAllow { rule, path, fingerprint, reason, .. } = allow;
            format!("{rule} in {path} ({fingerprint}){}: {reason}", until.unwrap_or_default())
        });
        let limits = format!(
            "at most {} a push and {} a file",
            human_bytes(upstream.max_push),
            human_bytes(upstream.max_file)
        );
        let (place, grants, key) = (upstream.place(), upstream.grants(), upstream.key());
        Self {
            name: &upstream.name,
            upstream: upstream.url(),
            key: upstream.identity.fingerprint.as_deref(),
            host_keys: pins,
            push: &upstream.refs.push,
            force: &upstream.refs.force,
            delete: &upstream.refs.delete,
            refs: &upstream.refs.also,
            max_push: upstream.max_push,
            max_file: upstream.max_file,
            allow: allow.collect(),
            line: format!("{place}: {grants}; {limits}; by {key}; {shown}"),
        }
    }
}

/// The proxy of a network, as `-o json` prints it.
#[derive(Debug, Serialize)]
struct ProxyDocument<'a> {
    url: String,
    /// It has a login.
    login: bool,
    no_proxy: &'a [String],
    resolve: &'static str,
}

fn show(ui: &Ui, global: &Global, args: &PolicyShowArgs) -> Result<Exit, CliError> {
    let spec = spec(global, &args.name, &args.read)?;
    let part = PolicyPart::from(&spec.policy);
    let document = PolicyDocument {
        version: VERSION,
        sandbox: &spec.id,
        bottle: &spec.bottle,
        policy: &part,
        dlp_rules: spec.policy.egress.dlp_rules.as_ref().map(|rules| rules.path.as_path()),
        proxy: spec.sidecar.as_ref().and_then(|sidecar| sidecar.proxy.as_ref()).map(|proxy| {
            ProxyDocument {
                url: proxy.url(),
                login: proxy.login != Login::None,
                no_proxy: &proxy.no_proxy,
                resolve: proxy.resolve.as_str(),
            }
        }),
        git: spec.gate.iter().flat_map(|gate| &*gate.upstreams).map(GitDocument::of).collect(),
    };
    if ui.json() {
        ui.document(&document)?;
    } else {
        ui.data(&policy_text(&document, ui.width()))?;
    }
    Ok(Exit::Done)
}

fn policy_text(document: &PolicyDocument<'_>, width: usize) -> String {
    let PolicyDocument { sandbox, bottle, policy, dlp_rules, proxy, git, .. } = document;
    let mut text = format!("{} of bottle {bottle} may reach", paint(style::BOLD, sandbox.as_str()));
    let by_sidecar =
        !(policy.allow.is_empty() && policy.routes.is_empty() && policy.services.is_empty());
    if !by_sidecar && git.is_empty() {
        text.push_str(" nothing\n");
        return text;
    }
    text.push('\n');
    for entry in &policy.allow {
        labelled(&mut text, "host", &entry_text(entry), width);
    }
    for route in &policy.routes {
        labelled(&mut text, "route", &route_text(route), width);
    }
    for ServicePart { name, port } in &policy.services {
        let line = format!("{name}.host:{port} is 127.0.0.1:{port} of this machine");
        labelled(&mut text, "service", &line, width);
    }
    for upstream in git {
        labelled(&mut text, "git", &upstream.line, width);
        for allow in &upstream.allow {
            labelled(&mut text, "", &format!("not {allow}"), width);
        }
    }
    if !git.is_empty() {
        let line = "a push in which a secret is found is refused, whole";
        labelled(&mut text, "", line, width);
    }
    for line in leak_lines(&policy.dlp, *dlp_rules).into_iter().filter(|_| by_sidecar) {
        labelled(&mut text, "leaks", &line, width);
    }
    if let Some(proxy) = proxy {
        labelled(&mut text, "proxy", &proxy_text(proxy), width);
    }
    text
}

fn entry_text(entry: &AllowPart) -> String {
    let AllowPart { host, port, methods, paths, cidr, encoded_slash, expires } = entry;
    let mut text = format!("{host}:{port}");
    if !methods.is_empty() {
        let _ = write!(text, ", {}", methods.join(" "));
    }
    if !paths.is_empty() {
        let _ = write!(text, ", {}", paths.join(" "));
    }
    if *encoded_slash {
        text.push_str(", with encoded slashes");
    }
    if let Some(cidr) = cidr {
        let _ = write!(text, ", also within {cidr}");
    }
    if let Some(end) = expires {
        let _ = write!(text, ", until {}", end.in_seconds());
    }
    text
}

fn route_text(route: &RoutePart) -> String {
    let RoutePart { path, host, port, upstream_path, credential, .. } = route;
    let (user, header) = (route.auth_user.as_deref(), route.auth_header.as_deref());
    let how = match route.auth_scheme {
        Scheme::Bearer => format!("Bearer {credential}"),
        Scheme::Token => format!("token {credential}"),
        Scheme::Basic => format!("basic {}:{credential}", user.unwrap_or_default()),
        Scheme::ApiKey => format!("x-api-key: {credential}"),
        Scheme::Header => format!("{}: {credential}", header.unwrap_or_default()),
        Scheme::OfToken => format!("{credential}, as its kind wants it"),
    };
    let until = route.expires.map(|end| format!(", until {}", end.in_seconds()));
    let until = until.unwrap_or_default();
    format!("{path} is https://{host}:{port}{upstream_path}/ with {how}{until}")
}

fn proxy_text(proxy: &ProxyDocument<'_>) -> String {
    let mut text = proxy.url.clone();
    if proxy.login {
        text.push_str(", with a login");
    }
    if proxy.resolve == Resolve::Proxy.as_str() {
        text.push_str(", which resolves names and checks addresses");
    }
    if !proxy.no_proxy.is_empty() {
        let _ = write!(text, ", but not to {}", proxy.no_proxy.join(", "));
    }
    text
}

fn leak_lines(dlp: &DlpPart, rules: Option<&std::path::Path>) -> Vec<String> {
    let action = match dlp.action {
        Action::Block => "a request that holds a secret is refused",
        Action::Warn => "a request that holds a secret passes and is logged; credentials never do",
        Action::Redact => {
            "a secret is taken out of a body that is text and the request passes; any other request that holds one is refused"
        }
    };
    let mut lines = vec![action.to_owned()];
    lines.extend(rules.map(|file| format!("rules: the built-in ones and {}", file.display())));
    for allow in &dlp.allow {
        let until = allow.expires.as_ref().map(|day| format!(" until {day}")).unwrap_or_default();
        lines.push(format!("not {} to {}{until}: {}", allow.rule, allow.host, allow.reason));
    }
    lines
}

/// A line with what it is about in a column of its own.
fn labelled(text: &mut String, label: &str, line: &str, width: usize) {
    const COLUMN: usize = 13;
    let line = harmless(line).replace(['\n', '\t'], " ");
    for (index, part) in wrap(&line, width.saturating_sub(COLUMN), 0).iter().enumerate() {
        let label = if index == 0 { label } else { "" };
        let _ = writeln!(text, "  {label:<11}{part}");
    }
}
