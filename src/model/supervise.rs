//! What an agent asks its operator for, and what becomes of it.
//!
//! The agent asks its sandbox's sidecar, which makes an [`Ask`] of what it said: only that is ever compared, decided
//! or applied; the agent's own words are data beside it. The host reads what waits in the sidecar's [`Held`], and
//! tells what was decided in the [`Section`] of the next document. Nothing is pushed, and nothing is kept in the
//! sidecar that the host needs again once it has looked.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::hash::SpecHash;
use super::moment::Moment;

mod ask;
pub mod guest;

pub use ask::{Ask, CapabilityAsk, CredentialAsk, EgressAsk, Problem, What};

/// Most requests of one sandbox that wait at a time.
pub const PENDING: usize = 5;
/// Most decided ones that a document tells of, the newest.
pub const TOLD: usize = 20;
/// Longest reason that is kept, in characters.
pub const REASON: usize = 2000;
/// Most lines of one.
pub const REASON_LINES: usize = 20;
/// Longest word of the operator's to an agent, in characters.
pub const MESSAGE: usize = 500;

/// The name of a request: `r-` and eight of `a-z2-7`.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct RequestId(String);

/// Text that names no request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a request is named `r-` and eight of a-z and 2-7")]
pub struct NotARequest;

impl RequestId {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

    /// Of random bytes.
    #[must_use]
    pub fn of(random: [u8; 5]) -> Self {
        let bits = random.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        let digit = |at: u32| char::from(Self::DIGITS[(bits >> (5 * at) & 31) as usize]);
        Self("r-".chars().chain((0..8).rev().map(digit)).collect())
    }

    /// As people write it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RequestId {
    type Err = NotARequest;
    fn from_str(text: &str) -> Result<Self, NotARequest> {
        let digits = text.strip_prefix("r-").ok_or(NotARequest)?;
        let fine = digits.len() == 8 && digits.bytes().all(|b| Self::DIGITS.contains(&b));
        if fine { Ok(Self(text.to_owned())) } else { Err(NotARequest) }
    }
}

impl TryFrom<String> for RequestId {
    type Error = NotARequest;
    fn try_from(text: String) -> Result<Self, NotARequest> {
        text.parse()
    }
}

impl From<RequestId> for String {
    fn from(id: RequestId) -> Self {
        id.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// By what an agent asks. The names are what agents' prompts and skills say.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Tool {
    /// Something was refused by the network.
    PipelockBlock,
    /// A service needs a credential.
    CredProxyBlock,
    /// The sandbox itself lacks something.
    CapabilityBlock,
    /// How a request stands; it asks for nothing.
    RequestStatus,
}

impl Tool {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Self; 4] =
        [Self::PipelockBlock, Self::CredProxyBlock, Self::CapabilityBlock, Self::RequestStatus];

    /// The name by which it is called.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PipelockBlock => "pipelock-block",
            Self::CredProxyBlock => "cred-proxy-block",
            Self::CapabilityBlock => "capability-block",
            Self::RequestStatus => "request-status",
        }
    }

    /// Which one is called so.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.as_str() == name)
    }
}

/// How a request stands.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Nobody has decided.
    Pending,
    /// The operator said yes, and it is not in force yet. Agents are told that it is pending.
    Approved,
    /// It is in force.
    Applied,
    /// The operator said no.
    Denied,
    /// Nobody decided in time.
    Expired,
    /// The operator said yes, and it could not be applied.
    Failed,
    /// It was in force, and the operator took it back.
    Undone,
    /// This sandbox cannot get it.
    Unsupported,
}

impl Standing {
    /// The first word of what an agent is told.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Applied => "applied",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Failed => "failed",
            Self::Undone => "undone",
            Self::Unsupported => "unsupported",
        }
    }

    /// Whether an agent still waits for it.
    #[must_use]
    pub fn waits(self) -> bool {
        matches!(self, Self::Pending | Self::Approved)
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What the sidecar itself has seen of what a request complains of: whether the story is true.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// How often something to that host was refused.
    pub denied: u64,
    /// How often for which reason, by the codes of refusals.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub codes: BTreeMap<String, u64>,
    /// When for the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Moment>,
}

/// A request that waits, as the sidecar keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Request {
    /// Its name.
    pub id: RequestId,
    /// By what the agent asked.
    pub tool: Tool,
    /// What is asked for; `kind` and `ask` in JSON.
    #[serde(flatten)]
    pub ask: Ask,
    /// The agent's words: bounded, valid UTF-8, without known credentials, and otherwise as they came. Whoever shows
    /// them makes them harmless.
    pub reason: String,
    /// How often the same was asked.
    pub asked: u64,
    /// When for the first time.
    pub first: Moment,
    /// When for the last time.
    pub last: Moment,
    /// The generation of the document by which the sidecar worked when it was asked.
    pub generation: u64,
    /// What the sidecar has seen.
    #[serde(default)]
    pub evidence: Evidence,
    /// [`Ask::digest`].
    #[schemars(with = "String")]
    pub digest: SpecHash,
}

/// A request that was decided: all that the host needs of it, which decided it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// Its name.
    pub id: RequestId,
    /// How it stands.
    pub state: Standing,
}

/// What a sidecar holds of requests: part of its state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Held {
    /// Those that wait, whole, the oldest first; at most [`PENDING`].
    pub pending: Vec<Request>,
    /// The rest that it remembers.
    #[serde(default)]
    pub known: Vec<Known>,
}

/// A decision as the sidecar is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Decided {
    /// Of which request.
    pub id: RequestId,
    /// What was asked for: a sidecar that was started anew knows nothing of it.
    #[serde(flatten)]
    pub ask: Ask,
    /// How it stands.
    pub state: Standing,
    /// What was granted, where that is something else than what was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted: Option<Ask>,
    /// Until when it is granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Moment>,
    /// The operator's word: one line of at most [`MESSAGE`] characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it was decided; of one that waits, when it was asked.
    pub at: Moment,
}

/// What the document says of requests. Without it the sandbox's agent cannot ask.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// By what the agent may ask.
    pub tools: Vec<Tool>,
    /// What [`Tool::CapabilityBlock`] can ask for: what this sandbox's backend can change.
    pub what: Vec<What>,
    /// No requests are taken before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub muted_until: Option<Moment>,
    /// What the agent may do now, as it reads it in its own files; it is told so by a list of its requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<serde_json::Value>,
    /// What the host knows of requests of this sandbox, the newest [`TOLD`], and all that wait: the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<Decided>,
}

impl Section {
    /// For a sandbox whose backend can change this, and of which nothing was asked yet.
    #[must_use]
    pub fn new(what: Vec<What>) -> Self {
        let offered = |tool: &Tool| *tool != Tool::CapabilityBlock || !what.is_empty();
        let tools = Tool::ALL.into_iter().filter(offered).collect();
        Self { tools, what, ..Self::default() }
    }

    /// Of all of it.
    #[must_use]
    pub fn digest(&self) -> SpecHash {
        SpecHash::of_bytes(&serde_json::to_vec(self).unwrap_or_default())
    }
}

/// Whether this can be the operator's word to an agent: one line, nothing that is not shown, not too long.
#[must_use]
pub fn is_message(text: &str) -> bool {
    !text.trim().is_empty()
        && text.chars().count() <= MESSAGE
        && super::text::first_unseen(text, "").is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn egress() -> Ask {
        Ask::Egress(EgressAsk {
            host: "index.example.org".into(),
            port: 443,
            methods: vec!["GET".into(), "HEAD".into()],
            paths: vec!["/simple/**".into()],
        })
    }

    #[test]
    fn a_name_is_read_as_it_is_written() {
        for random in [[0; 5], [255; 5], [1, 2, 3, 4, 5]] {
            let id = RequestId::of(random);
            assert_eq!(id.to_string().parse(), Ok(id.clone()), "{id}");
        }
        assert_eq!(RequestId::of([0; 5]).as_str(), "r-aaaaaaaa");
        assert_eq!(RequestId::of([255; 5]).as_str(), "r-77777777");
        for text in ["", "r-", "r-aaaaaaa", "r-aaaaaaaaa", "r-AAAAAAAA", "r-aaaaaaa1", "x-aaaaaaaa"]
        {
            assert!(text.parse::<RequestId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_request_is_what_the_contract_says() {
        let text = r#"{"id":"r-7f3k2q2d","tool":"pipelock-block","kind":"egress",
            "ask":{"host":"index.example.org","port":443,"methods":["GET","HEAD"],"paths":["/simple/**"]},
            "reason":"pip install requests fails","asked":1,"first":"2026-11-28T19:02:11Z",
            "last":"2026-11-28T19:02:11Z","generation":7,
            "evidence":{"denied":14,"codes":{"host_not_allowed":14},"last":"2026-11-28T19:02:03Z"},
            "digest":"DIGEST"}"#;
        let text = text.replace("DIGEST", &egress().digest().to_string());
        let request: Request = serde_json::from_str(&text).unwrap();
        assert_eq!((&request.ask, request.digest), (&egress(), request.ask.digest()));
        let again = serde_json::to_value(&request).unwrap();
        assert_eq!(again, serde_json::from_str::<serde_json::Value>(&text).unwrap());
    }

    #[test]
    fn a_section_survives_the_way_there_and_nothing_is_added_on_it() {
        let decided = Decided {
            id: RequestId::of([7; 5]),
            ask: egress(),
            state: Standing::Denied,
            granted: None,
            until: None,
            message: Some("use the mirror".into()),
            at: Moment::of_seconds(1_796_059_524),
        };
        let mut section = Section::new(vec![What::Memory]);
        let empty = section.digest();
        section.requests.push(decided);
        assert_ne!(section.digest(), empty);
        let text = serde_json::to_string(&section).unwrap();
        assert_eq!(serde_json::from_str::<Section>(&text).unwrap(), section);
        for with in [r#"{"tools":[],"what":[],"x":1}"#, r#"{"tools":["shell"],"what":[]}"#] {
            assert!(serde_json::from_str::<Section>(with).is_err(), "{with}");
        }
    }

    #[test]
    fn what_cannot_be_changed_is_not_offered() {
        assert_eq!(Section::new(vec![What::Memory]).tools, Tool::ALL);
        assert!(!Section::new(Vec::new()).tools.contains(&Tool::CapabilityBlock));
        for tool in Tool::ALL {
            assert_eq!(Tool::named(tool.as_str()), Some(tool));
            assert_eq!(serde_json::to_value(tool).unwrap(), tool.as_str());
        }
    }

    #[test]
    fn a_word_of_the_operators_is_one_plain_line() {
        assert!(is_message("use packages.example.org, it mirrors PyPI"));
        assert!(is_message(&"é".repeat(MESSAGE)));
        let long = "x".repeat(MESSAGE + 1);
        for text in ["", " ", "a\nb", "\u{1b}[2J", "a\u{202e}b", &long] {
            assert!(!is_message(text), "{text:?}");
        }
    }
}
