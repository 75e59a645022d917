//! What a sandbox may reach: the sections of a bottle that its sidecar enforces.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::diagnostic::Diagnostic;
use super::hash::{Fields, SpecHash};

/// Everything that a bottle grants beyond its own walls. The default grants nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// What the git gate may talk to.
    pub git: Vec<GitUpstream>,
    /// Credentials that the agent can use but never sees.
    pub routes: Vec<CredentialRoute>,
    /// What the machine can reach.
    pub egress: Egress,
    /// The agent may ask the operator for a change.
    pub supervise: bool,
}

impl Policy {
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
        if self.supervise {
            sections.push("supervise");
        }
        sections
    }

    /// Something is granted that only a sidecar can let through.
    #[must_use]
    pub fn needs_sidecar(&self) -> bool {
        !self.routes.is_empty() || self.egress != Egress::default()
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
            let until = allow.expires.as_deref().map(|day| format!(" until {day}"));
            let value = format!(
                "{} to {}{}: {}",
                allow.rule,
                allow.host,
                until.unwrap_or_default(),
                allow.reason
            );
            fields.set(format!("egress.dlp_allow.{index}"), value);
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
                AuthScheme::Bearer | AuthScheme::Token | AuthScheme::ApiKey => {}
            }
            fields.set(format!("{path}.token_ref"), route.token_ref.clone());
        }
        fields
    }
}

/// One `git` upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitUpstream {
    /// The name by which the agent knows it, unique in the bottle.
    pub name: String,
    /// User of the ssh URL.
    pub user: String,
    /// Host of the ssh URL.
    pub host: String,
    /// Port of the ssh URL, 22 unless it says otherwise.
    pub port: u16,
    /// Path of the ssh URL, with its leading `/`.
    pub path: String,
    /// The private key on the host.
    pub identity_file: PathBuf,
    /// The host's public key, when pinned.
    pub known_host_key: Option<String>,
    /// Names that resolve to fixed addresses.
    pub extra_hosts: BTreeMap<String, IpAddr>,
}

/// How a route's credential is written into a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthScheme {
    /// `Authorization: Bearer …`
    Bearer,
    /// `Authorization: token …`
    Token,
    /// `Authorization: Basic …`, for this user: what git servers want over HTTPS.
    Basic {
        /// `x-access-token` at GitHub, `oauth2` at GitLab; no colon.
        user: String,
    },
    /// `x-api-key: …`: what Anthropic wants of an API key.
    ApiKey,
    /// The credential alone, in a header of this name.
    Header {
        /// In lower case: `x-goog-api-key`, `api-key`, `private-token`.
        name: String,
    },
}

impl AuthScheme {
    /// As the manifest spells it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Bearer => "Bearer",
            Self::Token => "token",
            Self::Basic { .. } => "basic",
            Self::ApiKey => "x-api-key",
            Self::Header { .. } => "header",
        }
    }
}

/// What may stand in an [`AuthScheme`]: judged when a manifest is read, and again by the sidecar.
pub mod auth {
    /// Headers that frame or route a request, or say how its connection is used: a credential in
    /// one of them would change what is sent where.
    const RESERVED: [&str; 20] = [
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "if-range",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "range",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-forwarded-for",
    ];

    /// Whether a header of this name, in lower case, can carry a credential.
    #[must_use]
    pub fn is_header(name: &str) -> bool {
        let token = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
        let plain = (1..=64).contains(&name.len()) && name.bytes().all(token);
        plain && !RESERVED.contains(&name)
    }

    /// Whether this can be the user of a Basic credential: a colon would end it.
    #[must_use]
    pub fn is_user(user: &str) -> bool {
        (1..=128).contains(&user.len()) && user.bytes().all(|b| b.is_ascii_graphic() && b != b':')
    }
}

/// What a route also sets up on the agent's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteRole {
    /// `ANTHROPIC_BASE_URL`.
    AnthropicBaseUrl,
    /// npm's `registry`.
    NpmRegistry,
    /// git's `url.<base>.insteadOf`.
    GitInsteadof,
    /// tea's login.
    TeaLogin,
}

impl RouteRole {
    /// As the manifest spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AnthropicBaseUrl => "anthropic-base-url",
            Self::NpmRegistry => "npm-registry",
            Self::GitInsteadof => "git-insteadof",
            Self::TeaLogin => "tea-login",
        }
    }
}

/// Anthropic's own API: it tells keys from subscriptions' tokens by the header that they come in.
pub const ANTHROPIC: &str = "api.anthropic.com";

/// One `cred_proxy` route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialRoute {
    /// Starts and ends with `/`, unique in the bottle.
    pub path: String,
    /// Host of the `https://` upstream, lower case.
    pub host: String,
    /// Port of the upstream, 443 unless it says otherwise.
    pub port: u16,
    /// Path prefix of the upstream, without a trailing `/`.
    pub upstream_path: String,
    /// How the token is written.
    pub auth_scheme: AuthScheme,
    /// The name of the host's environment variable that holds the token.
    pub token_ref: String,
    /// What else it sets up.
    pub roles: Vec<RouteRole>,
}

impl CredentialRoute {
    /// The variable in which Claude Code looks for a credential of this kind.
    #[must_use]
    pub fn anthropic_variable(&self) -> &'static str {
        match &self.auth_scheme {
            AuthScheme::ApiKey => "ANTHROPIC_API_KEY",
            // With any other variable it leaves out the beta header that such a token needs.
            AuthScheme::Bearer if self.host == ANTHROPIC => "CLAUDE_CODE_OAUTH_TOKEN",
            _ => "ANTHROPIC_AUTH_TOKEN",
        }
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
}

impl DlpAction {
    /// As the manifest spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Warn => "warn",
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
        format!("{methods}{paths}{}", cidr.unwrap_or_default())
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
