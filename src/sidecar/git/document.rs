//! What a gate is told: one JSON document, sent whole at every load.
//!
//! There is no secret in it: an identity is a path of the host's, which only the keeper opens.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::sidecar::part::SuppressionPart;

/// The one version of the document that this program writes and reads.
pub const VERSION: u32 = 1;

/// Everything that a gate works by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// [`VERSION`].
    pub version: u32,
    /// The sandbox whose gate it is; only for the log.
    pub sandbox: String,
    /// What can be fetched from, and pushed to.
    #[serde(default)]
    pub upstreams: Vec<Upstream>,
    /// Leak rules of the operator's own: the text of a TOML file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<String>,
    /// Leak rules that do not hold for a host: those of the sandbox's policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dlp_allow: Vec<SuppressionPart>,
}

/// One repository, and what may be done to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Its name here: letters, digits, `-`, `_` and `.`, beginning with a letter or digit.
    pub name: String,
    /// As whom it is spoken to: `git`.
    pub user: String,
    /// Where it is: a name, or an address; IPv6 without brackets.
    pub host: String,
    /// The port of its ssh.
    pub port: u16,
    /// The path as an `ssh://` URL has it, with its `/` at the beginning: `/owner/app.git`.
    pub path: String,
    /// The address that its name has here; none: the system is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The private key; with an agent, the public one.
    pub identity_file: PathBuf,
    /// `SHA256:…` of the key that was looked at, where that is known. By another one it is not spoken to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_fingerprint: Option<String>,
    /// The socket of an ssh-agent that holds the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_agent: Option<PathBuf>,
    /// The host's keys, each `type base64`. None: it is not spoken to.
    #[serde(default)]
    pub known_host_keys: Vec<String>,
    /// Refs that may be created or moved forward, as whole patterns: `refs/heads/agent/*`, where `*`
    /// stands for anything. None: it is read only.
    #[serde(default)]
    pub push: Vec<String>,
    /// Where history may be rewritten.
    #[serde(default)]
    pub force: Vec<String>,
    /// What may be deleted.
    #[serde(default)]
    pub delete: Vec<String>,
    /// What else can be fetched, beside branches and tags: `refs/pull/*/head`.
    #[serde(default)]
    pub refs: Vec<String>,
    /// So many bytes one push may have.
    pub max_push: u64,
    /// So many bytes one file may have that is pushed.
    pub max_file: u64,
    /// What is found, and passes all the same.
    #[serde(default)]
    pub allow: Vec<Exception>,
}

/// One finding that is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exception {
    /// The rule's id.
    pub rule: String,
    /// The path of the file, as a refusal names it.
    pub path: String,
    /// What a refusal calls the value: 12 hexadecimal digits.
    pub fingerprint: String,
    /// Why, for the log.
    pub reason: String,
    /// Until when it holds, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

impl Upstream {
    /// What a sentence to the agent calls it: `git@github.com/owner/app`, with `:PORT` unless that is 22.
    #[must_use]
    pub fn place(&self) -> String {
        let bare = self.path.strip_suffix(".git").unwrap_or(&self.path);
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        let port = if self.port == 22 { String::new() } else { format!(":{}", self.port) };
        format!("{}@{host}{port}{bare}", self.user)
    }
}
