//! What a tool is called with, read as its schema says, and what of it is asked for.
//!
//! Nothing that decides later is made of the agent's own spelling: hosts and paths go through the parsers that judge
//! its requests, and what does not come out of them as it went in is not asked for.

use serde_json::{Map, Value};

use super::evidence::Evidence;
use crate::model::gate::GATE_NAME;
use crate::model::policy::RouteRole;
use crate::model::policy::service_of;
use crate::model::supervise::{
    Ask, CapabilityAsk, CredentialAsk, EgressAsk, Problem, REASON, REASON_LINES, RequestId,
    Section, What,
};
use crate::model::text::first_unseen;
use crate::sidecar::allowlist::{is_method, is_never_passed_on};
use crate::sidecar::{Authority, CanonicalPath, Code, Host, PathPattern};

/// The longest URL.
pub const URL: usize = 2048;
/// The longest upstream.
pub const UPSTREAM: usize = 512;
/// Most methods.
pub const METHODS: usize = 8;
/// The longest id of a refusal.
pub const REQUEST_ID: usize = 32;
/// The longest value of a capability, in bytes.
pub const VALUE: usize = 256;
/// For so long, in seconds, a call waits at most. Every client that was measured waits longer.
pub const CAP: u64 = 240;

/// What a call asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// What, in its one form.
    pub ask: Ask,
    /// One request that it is for: what was refused, where it is known.
    pub sample: Option<Sample>,
    /// Why, in the agent's words.
    pub reason: String,
    /// For how long, in seconds, it waits.
    pub wait: u64,
}

/// A request as it failed, by which is judged whether it would pass by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Where to.
    pub authority: Authority,
    /// For what.
    pub path: CanonicalPath,
    /// It goes over TLS.
    pub secure: bool,
}

/// Why nothing is asked: a sentence for the agent, which can mend it.
pub type Wrong = String;

/// The arguments, of which each is taken once; what is left over is unknown.
struct Arguments(Map<String, Value>);

impl Arguments {
    fn of(params: &Map<String, Value>) -> Result<Self, Wrong> {
        match params.get("arguments") {
            None => Ok(Self(Map::new())),
            Some(Value::Object(all)) => Ok(Self(all.clone())),
            Some(_) => Err("`arguments` is no object".to_owned()),
        }
    }

    fn text(&mut self, name: &str, longest: usize) -> Result<Option<String>, Wrong> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.chars().count() <= longest => Ok(Some(text)),
            Some(Value::String(_)) => {
                Err(format!("`{name}` is too long: at most {longest} characters"))
            }
            Some(_) => Err(format!("`{name}` is no string")),
        }
    }

    fn needed(&mut self, name: &str, longest: usize) -> Result<String, Wrong> {
        self.text(name, longest)?.ok_or_else(|| format!("`{name}` is missing"))
    }

    fn flag(&mut self, name: &str) -> Result<bool, Wrong> {
        match self.0.remove(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(format!("`{name}` is neither true nor false")),
        }
    }

    fn methods(&mut self) -> Result<Option<Vec<String>>, Wrong> {
        let Some(value) = self.0.remove("methods") else { return Ok(None) };
        let wrong = || {
            format!(
                "`methods` is no list of at most {METHODS} methods in capitals, as GET and HEAD"
            )
        };
        let Value::Array(all) = value else { return Err(wrong()) };
        if all.len() > METHODS {
            return Err(wrong());
        }
        let mut methods = Vec::new();
        for method in all {
            let Value::String(method) = method else { return Err(wrong()) };
            let plain = method.len() <= 16 && method.bytes().all(|b| b.is_ascii_uppercase());
            if !plain || !is_method(method.as_bytes()) {
                return Err(wrong());
            }
            if is_never_passed_on(&method) {
                return Err(format!("{method} is never passed on"));
            }
            methods.push(method);
        }
        methods.sort();
        methods.dedup();
        Ok(Some(methods).filter(|methods| !methods.is_empty()))
    }

    fn reason(&mut self) -> Result<String, Wrong> {
        let reason = self.needed("reason", REASON)?;
        if reason.trim().chars().count() < 3 {
            return Err("`reason` says nothing: tell the operator what this is for".to_owned());
        }
        Ok(lines(&reason))
    }

    fn wait(&mut self, default: u64) -> Result<u64, Wrong> {
        let Some(value) = self.0.remove("wait_seconds") else { return Ok(default) };
        let whole = value.as_f64().filter(|float| float.fract() == 0.0 && *float >= 0.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it was checked"
        )]
        let seconds = value.as_u64().or(whole.map(|float| float as u64));
        let seconds = seconds.filter(|seconds| *seconds <= CAP);
        seconds.ok_or_else(|| format!("`wait_seconds` is no whole number from 0 to {CAP}"))
    }

    fn end(self) -> Result<(), Wrong> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => {
                let name: String = name.chars().take(64).collect();
                Err(format!("unknown argument `{}`", crate::model::text::harmless_line(&name)))
            }
        }
    }
}

/// The first lines of a reason. The rest is counted, not kept.
fn lines(reason: &str) -> String {
    let count = reason.lines().count();
    if count <= REASON_LINES {
        return reason.to_owned();
    }
    let first: Vec<&str> = reason.lines().take(REASON_LINES - 1).collect();
    format!("{}\n({} more lines)", first.join("\n"), count - first.len())
}

/// Reads a call of `pipelock-block`.
///
/// # Errors
/// What is wrong with it.
pub fn egress(
    params: &Map<String, Value>,
    evidence: &Evidence,
    own: &[Host],
) -> Result<Asked, Wrong> {
    let mut arguments = Arguments::of(params)?;
    let url = arguments.needed("failed_url", URL)?;
    let methods = arguments.methods()?;
    let whole_host = arguments.flag("whole_host")?;
    let request_id = arguments.text("request_id", REQUEST_ID)?;
    let (reason, wait) = (arguments.reason()?, arguments.wait(CAP)?);
    arguments.end()?;
    let sample = sample(&url, own)?;
    let host = name_of(&sample.authority)?;
    let port = sample.authority.port();
    let methods = methods.unwrap_or_else(|| {
        let refused = evidence.methods(&host, port, request_id.as_deref());
        if refused.is_empty() { vec!["GET".to_owned(), "HEAD".to_owned()] } else { refused }
    });
    let paths = if whole_host { Vec::new() } else { vec![pattern(&sample.path)?] };
    let ask = Ask::Egress(EgressAsk { host, port, methods, paths });
    Ok(Asked { ask, sample: Some(sample), reason, wait })
}

/// Reads a call of `cred-proxy-block`.
///
/// # Errors
/// What is wrong with it.
pub fn credential(params: &Map<String, Value>, own: &[Host]) -> Result<Asked, Wrong> {
    let mut arguments = Arguments::of(params)?;
    let url = arguments.needed("upstream", UPSTREAM)?;
    let problem = match arguments.needed("problem", 16)?.as_str() {
        "missing" => Problem::Missing,
        "rejected" => Problem::Rejected,
        _ => return Err("`problem` is neither \"missing\" nor \"rejected\"".to_owned()),
    };
    let methods = arguments.methods()?.unwrap_or_default();
    let role = arguments.text("role", 64)?;
    let (reason, wait) = (arguments.reason()?, arguments.wait(CAP)?);
    arguments.end()?;
    if let Some(role) = &role
        && !RouteRole::ALL.iter().any(|known| known.as_str() == role)
    {
        let known = RouteRole::ALL.map(RouteRole::as_str).join(", ");
        return Err(format!("`role` is none of {known}"));
    }
    let sample = sample(&url, own)?;
    if !sample.secure {
        return Err("a credential goes over https only".to_owned());
    }
    let host = name_of(&sample.authority)?;
    let path = sample.path.as_str().trim_end_matches('/');
    if path.contains(['%', '*', '?']) {
        return Err("`upstream` is a plain path: without a query, `%` and `*`".to_owned());
    }
    let port = sample.authority.port();
    let path = path.to_owned();
    let ask = Ask::Credential(CredentialAsk { host, port, path, problem, methods, role });
    Ok(Asked { ask, sample: None, reason, wait })
}

/// Reads a call of `capability-block`.
///
/// # Errors
/// What is wrong with it; or, as a decision, what cannot be had here.
pub fn capability(
    params: &Map<String, Value>,
    section: &Section,
) -> Result<Result<Asked, What>, Wrong> {
    let mut arguments = Arguments::of(params)?;
    let what = arguments.needed("what", 64)?;
    let value = arguments.needed("value", VALUE)?;
    let (reason, wait) = (arguments.reason()?, arguments.wait(CAP)?);
    arguments.end()?;
    let Some(what) = What::named(&what) else {
        let offered: Vec<&str> = section.what.iter().map(|what| what.as_str()).collect();
        return Err(format!("`what` is none of {}", offered.join(", ")));
    };
    if !section.what.contains(&what) {
        return Ok(Err(what));
    }
    let value = value.trim().to_owned();
    if value.is_empty() || value.len() > VALUE || first_unseen(&value, "").is_some() {
        return Err(format!("`value` is one line of 1 to {VALUE} bytes that can be seen"));
    }
    let ask = Ask::Capability(CapabilityAsk { what, value });
    Ok(Ok(Asked { ask, sample: None, reason, wait }))
}

/// Reads a call of `request-status`: of which request, and how long it waits.
///
/// # Errors
/// What is wrong with it.
pub fn status(params: &Map<String, Value>) -> Result<(Option<RequestId>, u64), Wrong> {
    let mut arguments = Arguments::of(params)?;
    let id = arguments.text("id", 64)?;
    let wait = arguments.wait(if id.is_some() { CAP } else { 0 })?;
    arguments.end()?;
    let id = id.map(|id| id.parse()).transpose();
    Ok((id.map_err(|_| "`id` is no request's: r- and eight of a-z and 2-7".to_owned())?, wait))
}

/// Reads a URL by the parsers that judge requests.
fn sample(url: &str, own: &[Host]) -> Result<Sample, Wrong> {
    let (secure, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return Err("the URL does not begin with https:// or http://".to_owned()),
    };
    // What stands behind `#` never leaves a client.
    let rest = rest.split('#').next().unwrap_or_default();
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let port = if secure { 443 } else { 80 };
    let said = |code: Code| format!("the URL cannot be asked for: {code}: {}", code.next());
    let authority = Authority::parse(authority.as_bytes(), Some(port)).map_err(said)?;
    let path = match path {
        "" => "/",
        path if path.starts_with('?') => {
            return Err("the URL cannot be asked for: a `/` stands before `?`".to_owned());
        }
        path => path,
    };
    let path = CanonicalPath::parse(path.as_bytes()).map_err(said)?;
    if own.contains(authority.host()) {
        return Err("the URL cannot be asked for: this is the sandbox's own".to_owned());
    }
    Ok(Sample { authority, path, secure })
}

/// The name of a host that can be granted.
fn name_of(authority: &Authority) -> Result<String, Wrong> {
    let Some(name) = authority.host().name() else {
        return Err("an address cannot be asked for, public or not: name the host".to_owned());
    };
    if service_of(name).is_some() || name == GATE_NAME {
        return Err(format!("{name} is no host of the internet: ask the operator in words"));
    }
    Ok(name.to_owned())
}

/// What of a path is asked for: what is below its first one or two segments, by how many there are.
fn pattern(path: &CanonicalPath) -> Result<String, Wrong> {
    let segments: Vec<&str> = path.path().split('/').filter(|part| !part.is_empty()).collect();
    let taken = match segments.len() {
        0 => return Ok("/".to_owned()),
        1 | 2 => 1,
        _ => 2,
    };
    let text = format!("/{}/**", segments[..taken].join("/"));
    // A `*` of the path itself would stand for more than it.
    let wild = segments[..taken].iter().any(|segment| segment.contains('*'));
    let pattern = PathPattern::parse(&text, false).ok().filter(|_| !wild);
    if pattern.is_none_or(|pattern| !pattern.matches(path)) {
        return Err("this path cannot be asked for: use `whole_host`".to_owned());
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
