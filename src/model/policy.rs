//! What a sandbox may reach: the sections of a bottle that its sidecar enforces.

use std::path::PathBuf;
use std::sync::Arc;

use super::diagnostic::Diagnostic;
use super::hash::{Fields, SpecHash};
use super::moment::Moment;
use super::supervise::guest::Asks;

pub mod git;
mod proxy;
mod route;

pub use git::{GitAllow, GitRefs, GitUpstream, Identity};
pub use proxy::{CaFile, Hidden, Login, PROXY_LOGIN, Proxy, Resolve};
pub use route::{
    ANTHROPIC, AuthScheme, CredentialRoute, Misfit, RouteRole, TokenFrom, TokenSource, auth,
};

/// Everything that a bottle grants beyond its own walls. The default grants nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// What the git gate may talk to.
    pub git: Vec<GitUpstream>,
    /// Credentials that the agent can use but never sees.
    pub routes: Vec<CredentialRoute>,
    /// What the machine can reach.
    pub egress: Egress,
    /// Ports of this machine's loopback that the sandbox reaches.
    pub services: Vec<Service>,
    /// The agent may ask the operator for a change.
    pub supervise: bool,
    /// What it is told of its machine then; no field of the policy.
    pub asks: Option<Asks>,
}

/// One port on 127.0.0.1 of the machine that `bottle` runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// A label of a host's name, unique in the bottle.
    pub name: String,
    /// The port.
    pub port: u16,
}

impl Service {
    /// What the sandbox asks for.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("{}.{SERVICES}:{}", self.name, self.port)
    }
}

/// The domain of services' names.
const SERVICES: &str = "host";

/// The service that a host's name in lower case stands for, whether or not there is one: such a name is never asked of DNS.
#[must_use]
pub fn service_of(name: &str) -> Option<&str> {
    let (label, domain) = name.split_once('.')?;
    (domain == SERVICES && !label.is_empty()).then_some(label)
}

/// Why services cannot be had on Docker.
pub const SERVICES_ELSEWHERE: &str = "`services` opens ports of this machine's loopback, and with Docker a sidecar is in a \
     container, which has a loopback of its own";

/// What to do where a sandbox with services is on Docker.
pub const SERVICES_WITH_DOCKER: &str = "use `backend: native` or `smolmachines`; or let the service listen on an address of a      network of yours, and name that in `egress.allowlist` as `{host, port, cidr}`";

impl Policy {
    /// Why the services cannot be had on Docker.
    #[must_use]
    pub fn services_elsewhere(&self) -> String {
        "`services` opens ports of this machine's loopback, and a sidecar with Docker is in a container, which has a          loopback of its own"
            .to_owned()
    }

    /// The names of the manifest's sections that say something.
    #[must_use]
    pub fn sections(&self) -> Vec<&'static str> {
        let mut sections = Vec::new();
        if !self.git.is_empty() {
            sections.push("git");
        }
        if !self.routes.is_empty() {
            sections.push("cred_proxy");
        }
        if self.egress != Egress::default() {
            sections.push("egress");
        }
        if !self.services.is_empty() {
            sections.push("services");
        }
        if self.supervise {
            sections.push("supervise");
        }
        sections
    }

    /// Something is granted that only a sidecar can let through, or the agent can ask for it there.
    #[must_use]
    pub fn needs_sidecar(&self) -> bool {
        !self.routes.is_empty()
            || self.egress != Egress::default()
            || !self.services.is_empty()
            || self.supervise
    }

    /// The fields of what the sidecar enforces, by the names that the manifest uses.
    #[must_use]
    pub fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        for entry in &self.egress.allowlist {
            let path = format!("egress.allowlist.{}:{}", entry.host, entry.port);
            // Several entries for one host add up.
            let value = match fields.0.remove(&path) {
                Some(earlier) => format!("{earlier}; {}", entry.conditions()),
                None => entry.conditions(),
            };
            fields.set(path, value);
        }
        fields.set("egress.dlp_action", self.egress.dlp_action.as_str());
        if let Some(rules) = &self.egress.dlp_rules {
            fields.set("egress.dlp_rules", format!("sha256:{}", rules.digest()));
        }
        for (index, allow) in self.egress.dlp_allow.iter().enumerate() {
            fields.set(format!("egress.dlp_allow.{index}"), allow.to_string());
        }
        for service in &self.services {
            let value =
                format!("{} is 127.0.0.1:{} of this machine", service.authority(), service.port);
            fields.set(format!("services.{}", service.name), value);
        }
        for route in &self.routes {
            let path = format!("cred_proxy.routes.{}", route.path);
            let port = if route.port == 443 { String::new() } else { format!(":{}", route.port) };
            let upstream = format!("https://{}{port}{}", route.host, route.upstream_path);
            fields.set(format!("{path}.upstream"), upstream);
            fields.set(format!("{path}.auth_scheme"), route.auth_scheme.as_str());
            match &route.auth_scheme {
                AuthScheme::Basic { user } => fields.set(format!("{path}.auth_user"), user.clone()),
                AuthScheme::Header { name } => {
                    fields.set(format!("{path}.auth_header"), name.clone());
                }
                AuthScheme::Bearer
                | AuthScheme::Token
                | AuthScheme::ApiKey
                | AuthScheme::OfToken => {}
            }
            fields.set(format!("{path}.token_ref"), route.token_ref.clone());
            if let Some(from) = &route.token_from {
                fields.set(format!("{path}.token_from"), from.source.to_string());
            }
            if let Some(end) = route.expires {
                fields.set(format!("{path}.expires"), end.in_seconds());
            }
        }
        fields
    }
}

/// What to do with a request in which a secret was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DlpAction {
    /// Refuse it.
    #[default]
    Block,
    /// Let it pass and say so.
    Warn,
    /// Let it pass without the secret, where that can be taken out; else refuse it.
    Redact,
}

impl DlpAction {
    /// As the manifest spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Warn => "warn",
            Self::Redact => "redact",
        }
    }
}

/// Leak rules of the operator's own, read once: what was checked is what is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulesFile {
    /// Where they were read.
    pub path: PathBuf,
    /// gitleaks' TOML.
    pub text: Arc<str>,
}

impl RulesFile {
    /// Of the text.
    #[must_use]
    pub fn digest(&self) -> SpecHash {
        SpecHash::of_bytes(self.text.as_bytes())
    }
}

/// The `egress` section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Egress {
    /// What can be reached; empty: nothing.
    pub allowlist: Vec<AllowEntry>,
    /// What happens on a leak.
    pub dlp_action: DlpAction,
    /// Rules of the operator's own, in gitleaks' TOML.
    pub dlp_rules: Option<RulesFile>,
    /// Narrow suppressions.
    pub dlp_allow: Vec<DlpAllow>,
}

/// Which names an allowlist entry covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// Exactly this name.
    Exact(String),
    /// `*.host`: exactly one more label.
    OneLabel(String),
    /// `**.host`: one or more labels more.
    AnyLabels(String),
}

impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::OneLabel(host) => write!(f, "*.{host}"),
            Self::AnyLabels(host) => write!(f, "**.{host}"),
        }
    }
}

/// One allowlist entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowEntry {
    /// The names, lower case.
    pub host: HostPattern,
    /// The port.
    pub port: u16,
    /// Only these methods; empty: all.
    pub methods: Vec<String>,
    /// Only these canonical paths; empty: all.
    pub paths: Vec<String>,
    /// The private range into which this host may resolve, as written.
    pub cidr: Option<String>,
    /// A slash may stand encoded in a segment of a path, which stays one segment.
    pub encoded_slash: bool,
    /// From then on it grants nothing.
    pub expires: Option<Moment>,
}

impl AllowEntry {
    /// What it lets pass, in one line: `all`, `GET, HEAD on /repos/**`.
    #[must_use]
    pub fn conditions(&self) -> String {
        let methods = match self.methods.is_empty() {
            true => "all".to_owned(),
            false => self.methods.join(", "),
        };
        let paths = match self.paths.is_empty() {
            true => String::new(),
            false => format!(" on {}", self.paths.join(", ")),
        };
        let cidr = self.cidr.as_ref().map(|cidr| format!(" into {cidr}"));
        let slash = if self.encoded_slash { " with encoded slashes" } else { "" };
        let until = self.expires.map(|end| format!(" until {}", end.in_seconds()));
        format!("{methods}{paths}{slash}{}{}", cidr.unwrap_or_default(), until.unwrap_or_default())
    }
}

/// One narrow suppression of a leak rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DlpAllow {
    /// The rule's id.
    pub rule: String,
    /// The host for which it is suppressed.
    pub host: String,
    /// Why, for the log.
    pub reason: String,
    /// The last day on which it holds, `YYYY-MM-DD`.
    pub expires: Option<String>,
    /// Where the rule and the day are written: findings without a message, for whoever knows the rules
    /// and the date.
    pub places: [Box<Diagnostic>; 2],
}

impl std::fmt::Display for DlpAllow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let until = self.expires.as_deref().map(|day| format!(" until {day}"));
        let Self { rule, host, reason, .. } = self;
        write!(f, "{rule} to {host}{}: {reason}", until.unwrap_or_default())
    }
}
