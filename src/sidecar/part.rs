//! The policy as it is sent to a sidecar: what a bottle says, in JSON.

use serde::{Deserialize, Serialize};

use crate::model;
use crate::model::Moment;
use crate::model::policy::{
    AllowEntry, AuthScheme, CredentialRoute, DlpAction, DlpAllow, HostPattern,
};

/// The policy's part of the document that a sidecar is given. The default grants nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyPart {
    /// What can be reached.
    pub allow: Vec<AllowPart>,
    /// Credentials that the agent can use but never sees.
    pub routes: Vec<RoutePart>,
    /// What happens about leaks.
    pub dlp: DlpPart,
    /// Ports of the loopback of the host that the sidecar runs on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServicePart>,
}

/// One port of the host's loopback: `name.host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServicePart {
    /// One label.
    pub name: String,
    /// The port, there and here.
    pub port: u16,
}

/// One entry of the allowlist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowPart {
    /// `host`, `*.host` or `**.host`.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Only these methods; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Only these canonical paths; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// The private range into which this host may resolve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr: Option<String>,
    /// A slash may stand encoded in a segment of a path.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub encoded_slash: bool,
    /// From then on it grants nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Moment>,
}

/// One credential route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutePart {
    /// Starts and ends with `/`.
    pub path: String,
    /// Host of the `https://` upstream.
    pub host: String,
    /// Port of the upstream.
    pub port: u16,
    /// Path prefix of the upstream, without a trailing `/`.
    #[serde(default)]
    pub upstream_path: String,
    /// How the credential is written.
    pub auth_scheme: Scheme,
    /// For whom, with [`Scheme::Basic`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_user: Option<String>,
    /// Into which header, with [`Scheme::Header`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_header: Option<String>,
    /// The name of the credential; its value is sent beside the policy, never in it.
    pub credential: String,
    /// From then on nothing goes by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Moment>,
}

/// How a route's credential is written into a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scheme {
    /// `Authorization: Bearer …`
    Bearer,
    /// `Authorization: token …`
    #[serde(rename = "token")]
    Token,
    /// `Authorization: Basic …`, for `auth_user`.
    #[serde(rename = "basic")]
    Basic,
    /// `x-api-key: …`
    #[serde(rename = "x-api-key")]
    ApiKey,
    /// The credential alone, in `auth_header`.
    #[serde(rename = "header")]
    Header,
    /// As its kind wants it, which a tree alone does not tell. No sidecar takes this.
    #[serde(rename = "of-token")]
    OfToken,
}

/// What happens about leaks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DlpPart {
    /// What happens to a request in which a secret is found.
    pub action: Action,
    /// Rules of the operator's own: the text of a TOML file, which only the caller can read.
    #[serde(default)]
    pub rules: Option<String>,
    /// Narrow suppressions.
    #[serde(default)]
    pub allow: Vec<SuppressionPart>,
}

/// What happens to a request in which a secret is found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is refused.
    #[default]
    Block,
    /// It passes, and the log says so.
    Warn,
    /// It passes without the secret, where that can be taken out of its body; else it is refused.
    Redact,
}

/// One narrow suppression of a leak rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuppressionPart {
    /// The rule's id.
    pub rule: String,
    /// The host for which it is suppressed.
    pub host: String,
    /// Why, for the log.
    pub reason: String,
    /// The last day on which it holds, `YYYY-MM-DD`.
    #[serde(default)]
    pub expires: Option<String>,
}

impl From<&model::Policy> for PolicyPart {
    fn from(policy: &model::Policy) -> Self {
        Self {
            allow: policy.egress.allowlist.iter().map(AllowPart::from).collect(),
            routes: policy.routes.iter().map(RoutePart::from).collect(),
            dlp: DlpPart {
                action: match policy.egress.dlp_action {
                    DlpAction::Block => Action::Block,
                    DlpAction::Warn => Action::Warn,
                    DlpAction::Redact => Action::Redact,
                },
                rules: policy.egress.dlp_rules.as_ref().map(|rules| rules.text.to_string()),
                allow: policy.egress.dlp_allow.iter().map(SuppressionPart::from).collect(),
            },
            services: policy
                .services
                .iter()
                .map(|service| ServicePart { name: service.name.clone(), port: service.port })
                .collect(),
        }
    }
}

impl From<&AllowEntry> for AllowPart {
    fn from(entry: &AllowEntry) -> Self {
        let host = match &entry.host {
            HostPattern::Exact(name) => name.clone(),
            HostPattern::OneLabel(name) => format!("*.{name}"),
            HostPattern::AnyLabels(name) => format!("**.{name}"),
        };
        Self {
            host,
            port: entry.port,
            methods: entry.methods.clone(),
            paths: entry.paths.clone(),
            cidr: entry.cidr.clone(),
            encoded_slash: entry.encoded_slash,
            expires: entry.expires,
        }
    }
}

impl From<&AllowPart> for AllowEntry {
    fn from(part: &AllowPart) -> Self {
        let host = if let Some(name) = part.host.strip_prefix("**.") {
            HostPattern::AnyLabels(name.to_owned())
        } else if let Some(name) = part.host.strip_prefix("*.") {
            HostPattern::OneLabel(name.to_owned())
        } else {
            HostPattern::Exact(part.host.clone())
        };
        Self {
            host,
            port: part.port,
            methods: part.methods.clone(),
            paths: part.paths.clone(),
            cidr: part.cidr.clone(),
            encoded_slash: part.encoded_slash,
            expires: part.expires,
        }
    }
}

impl From<&CredentialRoute> for RoutePart {
    fn from(route: &CredentialRoute) -> Self {
        let (auth_scheme, auth_user, auth_header) = match &route.auth_scheme {
            AuthScheme::Bearer => (Scheme::Bearer, None, None),
            AuthScheme::Token => (Scheme::Token, None, None),
            AuthScheme::Basic { user } => (Scheme::Basic, Some(user.clone()), None),
            AuthScheme::ApiKey => (Scheme::ApiKey, None, None),
            AuthScheme::OfToken => (Scheme::OfToken, None, None),
            AuthScheme::Header { name } => (Scheme::Header, None, Some(name.clone())),
        };
        Self {
            path: route.path.clone(),
            host: route.host.clone(),
            port: route.port,
            upstream_path: route.upstream_path.clone(),
            auth_scheme,
            auth_user,
            auth_header,
            credential: route.token_ref.clone(),
            expires: route.expires,
        }
    }
}

impl From<&DlpAllow> for SuppressionPart {
    fn from(allow: &DlpAllow) -> Self {
        Self {
            rule: allow.rule.clone(),
            host: allow.host.clone(),
            reason: allow.reason.clone(),
            expires: allow.expires.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(host: HostPattern) -> AllowEntry {
        AllowEntry {
            host,
            port: 8443,
            methods: vec!["GET".into()],
            paths: vec!["/a/**".into()],
            cidr: Some("10.0.0.0/8".into()),
            encoded_slash: true,
            expires: Some(Moment::of_seconds(1_796_059_524)),
        }
    }

    #[test]
    fn the_model_and_the_document_say_the_same() {
        let mut policy = model::Policy::default();
        policy.egress.allowlist = vec![
            entry(HostPattern::Exact("a.example".into())),
            entry(HostPattern::OneLabel("b.example".into())),
            entry(HostPattern::AnyLabels("c.example".into())),
        ];
        policy.egress.dlp_action = DlpAction::Warn;
        policy.services = vec![model::policy::Service { name: "ollama".into(), port: 11_434 }];
        policy.routes = vec![CredentialRoute {
            path: "/gh/".into(),
            host: "api.example.com".into(),
            port: 443,
            upstream_path: "/v3".into(),
            auth_scheme: AuthScheme::Token,
            token_ref: "GH_TOKEN".into(),
            token_from: None,
            roles: Vec::new(),
            expires: Some(Moment::of_seconds(1_796_059_524)),
        }];
        let part = PolicyPart::from(&policy);
        let text = serde_json::to_string(&part).unwrap();
        assert_eq!(serde_json::from_str::<PolicyPart>(&text).unwrap(), part);
        let back: Vec<AllowEntry> = part.allow.iter().map(AllowEntry::from).collect();
        assert_eq!(back, policy.egress.allowlist);
        assert!(text.contains(r#""auth_scheme":"token""#) && text.contains(r#""action":"warn""#));
    }

    #[test]
    fn what_is_unknown_is_refused() {
        for text in [
            r#"{"allow":[],"routes":[],"dlp":{"action":"block"},"more":1}"#,
            r#"{"allow":[{"host":"a","port":1,"tls":false}],"routes":[],"dlp":{"action":"block"}}"#,
            r#"{"allow":[],"routes":[],"dlp":{"action":"off"}}"#,
            r#"{"routes":[],"dlp":{"action":"block"}}"#,
            r#"{"allow":[]}"#,
        ] {
            assert!(serde_json::from_str::<PolicyPart>(text).is_err(), "{text}");
        }
    }
}
