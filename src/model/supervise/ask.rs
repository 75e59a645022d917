//! What is asked for, in the one form in which it is compared, decided and applied.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::change::is_hot_limit;
use crate::model::hash::SpecHash;
use crate::model::id::BackendKind;

/// What is asked for. The sidecar makes it of canonical values only; nothing of the agent's words is in it but
/// [`CapabilityAsk::value`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", content = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// An entry of the allowlist.
    Egress(EgressAsk),
    /// A credential route.
    Credential(CredentialAsk),
    /// A change of the machine.
    Capability(CapabilityAsk),
}

/// An entry of the allowlist: what `egress.allowlist` would say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EgressAsk {
    /// One host's name in lower case, never a pattern and never an address that is not public.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Only these methods, sorted, each once; empty: all.
    pub methods: Vec<String>,
    /// Only these canonical paths, as the manifest writes patterns of them; empty: all.
    pub paths: Vec<String>,
}

/// A credential route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CredentialAsk {
    /// Host of the `https://` upstream, in lower case.
    pub host: String,
    /// Port of the upstream.
    pub port: u16,
    /// Path prefix of the upstream, canonical, without a trailing `/`; empty: the whole host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// What is wrong with the credential.
    pub problem: Problem,
    /// The methods that the agent means to use, for the operator to know: a route has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// A role of routes, as the manifest spells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
}

/// What is wrong with a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    /// There is none.
    Missing,
    /// The upstream does not take it.
    Rejected,
}

impl Problem {
    /// As agents write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Rejected => "rejected",
        }
    }
}

/// A change of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CapabilityAsk {
    /// What is to change.
    pub what: What,
    /// To what, in the agent's words: at most 256 bytes, of which nothing was checked. Whoever shows it makes it
    /// harmless, and whoever applies it reads it as the manifest is read.
    pub value: String,
}

/// What of a machine can be asked for.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// `resources.memory`.
    Memory,
    /// `resources.cpus`.
    Cpus,
    /// `resources.pids`.
    Pids,
    /// `resources.disk`.
    Disk,
    /// An entry of `env`.
    Env,
    /// `image`.
    Image,
    /// A folder of the host.
    Mount,
    /// A program from a distribution, or of a language: there is no one place for it in a manifest.
    Package,
    /// A program of the operator's.
    Tool,
    /// Anything else.
    Other,
}

impl What {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Memory,
        Self::Cpus,
        Self::Pids,
        Self::Disk,
        Self::Env,
        Self::Image,
        Self::Mount,
        Self::Package,
        Self::Tool,
        Self::Other,
    ];

    /// What can be had of a machine of this backend: what its manifest says and a pass changes, in place or by a machine
    /// that takes its place with its work; and what the operator answers in another way. A microVM has a kernel of its
    /// own, whose processes nobody counts, and a disk has the size that it was made with.
    #[must_use]
    pub fn offered(backend: BackendKind) -> Vec<Self> {
        let pids = is_hot_limit(backend, "resources.pids").then_some(Self::Pids);
        let rest = [Self::Env, Self::Image, Self::Mount, Self::Package, Self::Tool, Self::Other];
        [Self::Memory, Self::Cpus].into_iter().chain(pids).chain(rest).collect()
    }

    /// As agents write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpus => "cpus",
            Self::Pids => "pids",
            Self::Disk => "disk",
            Self::Env => "env",
            Self::Image => "image",
            Self::Mount => "mount",
            Self::Package => "package",
            Self::Tool => "tool",
            Self::Other => "other",
        }
    }

    /// Which one is written so.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|what| what.as_str() == name)
    }
}

impl Ask {
    /// The kind, as hints and lists name it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Egress(_) => "egress",
            Self::Credential(_) => "credential",
            Self::Capability(_) => "capability",
        }
    }

    /// By this the same is known again: of the kind and of what is asked for, and of nothing else.
    #[must_use]
    pub fn digest(&self) -> SpecHash {
        let value = serde_json::to_value(self).unwrap_or(Value::Null);
        // Without the order in which a type has its fields: maps are sorted.
        SpecHash::of_bytes(value.to_string().as_bytes())
    }
}

impl fmt::Display for EgressAsk {
    /// `index.example.org:443 GET, HEAD /simple/**`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)?;
        if !self.methods.is_empty() {
            write!(f, " {}", self.methods.join(", "))?;
        }
        if !self.paths.is_empty() {
            write!(f, " {}", self.paths.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Display for CredentialAsk {
    /// `https://api.example.com/v1, credential missing`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = if self.port == 443 { String::new() } else { format!(":{}", self.port) };
        write!(f, "https://{}{port}{}, credential {}", self.host, self.path, self.problem.as_str())
    }
}

/// One line; of a capability it holds the agent's own words.
impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Egress(ask) => ask.fmt(f),
            Self::Credential(ask) => ask.fmt(f),
            Self::Capability(ask) => {
                let value = crate::model::text::harmless_line(&ask.value);
                write!(f, "{} {value}", ask.what.as_str())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_of_kind_and_ask() {
        let ask = |what, value: &str| Ask::Capability(CapabilityAsk { what, value: value.into() });
        let one = ask(What::Memory, "4G");
        assert_eq!(one.digest(), ask(What::Memory, "4G").digest());
        assert_ne!(one.digest(), ask(What::Memory, "8G").digest());
        assert_ne!(one.digest(), ask(What::Disk, "4G").digest());
        // It stays the same from one version of the program to the next.
        let text = r#"{"ask":{"value":"4G","what":"memory"},"kind":"capability"}"#;
        assert_eq!(one.digest(), SpecHash::of_bytes(text.as_bytes()));
    }

    #[test]
    fn a_backend_offers_what_it_can_change() {
        for backend in [BackendKind::Native, BackendKind::Docker, BackendKind::Smolmachines] {
            let offered = What::offered(backend);
            assert!(offered.contains(&What::Memory) && !offered.contains(&What::Disk));
            let counts = backend != BackendKind::Smolmachines;
            assert_eq!(offered.contains(&What::Pids), counts, "{backend}");
        }
    }

    #[test]
    fn what_is_unknown_is_refused() {
        for text in [
            r#"{"kind":"egress","ask":{"host":"a","port":443,"methods":[],"paths":[],"cidr":"10.0.0.0/8"}}"#,
            r#"{"kind":"root","ask":{}}"#,
            r#"{"kind":"capability","ask":{"what":"root","value":""}}"#,
            r#"{"kind":"credential","ask":{"host":"a","port":443,"problem":"missing","token":"x"}}"#,
        ] {
            assert!(serde_json::from_str::<Ask>(text).is_err(), "{text}");
        }
        for what in What::ALL {
            assert_eq!(What::named(what.as_str()), Some(what));
            assert_eq!(serde_json::to_value(what).unwrap(), what.as_str());
        }
    }

    #[test]
    fn one_line_says_it() {
        let ask = EgressAsk {
            host: "index.example.org".into(),
            port: 443,
            methods: vec!["GET".into(), "HEAD".into()],
            paths: vec!["/simple/**".into()],
        };
        assert_eq!(ask.to_string(), "index.example.org:443 GET, HEAD /simple/**");
        let ask =
            Ask::Capability(CapabilityAsk { what: What::Env, value: "A=\u{1b}[2J\nb".into() });
        assert_eq!(ask.to_string(), "env A=\u{fffd}[2J\u{fffd}b");
    }
}
