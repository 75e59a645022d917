//! Whether what the tree says of a sandbox grants what was asked for. Pure.

use crate::manifest;
use crate::model::policy::HostPattern;
use crate::model::supervise::{Ask, CapabilityAsk, CredentialAsk, EgressAsk, Problem, What};
use crate::model::{Moment, SandboxSpec};

/// What the tree says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Granted {
    /// It grants all of it.
    Yes,
    /// It does not.
    No,
    /// No manifest says whether.
    Unsaid,
}

/// Whether this sandbox has what was asked for.
pub(super) fn by(spec: &SandboxSpec, ask: &Ask, now: Moment) -> Granted {
    let granted = match ask {
        Ask::Egress(ask) => egress(spec, ask, now),
        Ask::Credential(ask) => match ask.problem {
            Problem::Missing => credential(spec, ask, now),
            // A new value is no edit: the load brings it.
            Problem::Rejected => true,
        },
        Ask::Capability(ask) => match capability(spec, ask) {
            Some(granted) => granted,
            None => return Granted::Unsaid,
        },
    };
    if granted { Granted::Yes } else { Granted::No }
}

fn egress(spec: &SandboxSpec, ask: &EgressAsk, now: Moment) -> bool {
    spec.policy.egress.allowlist.iter().any(|entry| {
        let within = |all: &[String], some: &[String]| {
            all.is_empty() || (!some.is_empty() && some.iter().all(|one| all.contains(one)))
        };
        covers(&entry.host, &ask.host)
            && entry.port == ask.port
            && within(&entry.methods, &ask.methods)
            && within(&entry.paths, &ask.paths)
            && entry.expires.is_none_or(|end| now < end)
    })
}

fn covers(pattern: &HostPattern, host: &str) -> bool {
    let below = |parent: &str| {
        host.strip_suffix(parent).and_then(|labels| labels.strip_suffix('.')).map(str::to_owned)
    };
    match pattern {
        HostPattern::Exact(name) => name == host,
        HostPattern::OneLabel(parent) => {
            below(parent).is_some_and(|label| !label.is_empty() && !label.contains('.'))
        }
        HostPattern::AnyLabels(parent) => below(parent).is_some_and(|labels| !labels.is_empty()),
    }
}

fn credential(spec: &SandboxSpec, ask: &CredentialAsk, now: Moment) -> bool {
    spec.policy.routes.iter().any(|route| {
        let base = route.upstream_path.trim_end_matches('/');
        let below = ask.path == base
            || ask.path.strip_prefix(base).is_some_and(|rest| rest.starts_with('/'));
        route.host == ask.host
            && route.port == ask.port
            && below
            && route.expires.is_none_or(|end| now < end)
    })
}

fn capability(spec: &SandboxSpec, ask: &CapabilityAsk) -> Option<bool> {
    let value = ask.value.trim();
    Some(match ask.what {
        What::Memory => Some(spec.resources.memory) == manifest::amount(value),
        What::Cpus => Some(u64::from(spec.resources.millicpus)) == manifest::thousandths(value),
        What::Pids => value.parse() == Ok(spec.resources.pids),
        What::Disk => {
            spec.resources.disk.is_some() && spec.resources.disk == manifest::amount(value)
        }
        What::Env => {
            let (name, value) = ask.value.split_once('=')?;
            spec.env.get(name).map(String::as_str) == Some(value)
        }
        What::Image | What::Mount | What::Package | What::Tool | What::Other => return None,
    })
}
