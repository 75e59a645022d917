//! `git`: repositories of other machines that a sandbox fetches from and pushes to, by its gate.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::model::diagnostic::Diagnostic;
use crate::model::hash::{Fields, SpecHash};
use crate::model::id::SandboxId;
use crate::model::spec::human_bytes;

/// What stands for the sandbox's name in a pattern of refs.
pub const SANDBOX: &str = "{sandbox}";

/// So many bytes may one push have, where the bottle does not say.
pub const MAX_PUSH: u64 = 1 << 30;

/// So many bytes may one file have that is pushed.
pub const MAX_FILE: u64 = 256 << 20;

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
    /// By which key it is spoken to.
    pub identity: Identity,
    /// The host's public keys, each `type base64`, when pinned.
    pub known_host_keys: Vec<String>,
    /// Names that resolve to fixed addresses.
    pub extra_hosts: BTreeMap<String, IpAddr>,
    /// What may be done to it.
    pub refs: GitRefs,
    /// So many bytes may one push have.
    pub max_push: u64,
    /// So many bytes may one file have that is pushed.
    pub max_file: u64,
    /// Findings that are none.
    pub allow: Vec<GitAllow>,
}

/// The key with which an upstream is spoken to. What is in it is never read for more than its fingerprint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The private key on the host; with an agent, the public one.
    pub file: PathBuf,
    /// The socket of an ssh-agent that holds it.
    pub agent: Option<PathBuf>,
    /// `SHA256:…`, where it can be told without asking for a passphrase.
    pub fingerprint: Option<String>,
}

/// Which refs of an upstream may be what. Patterns of whole names, in which `*` stands for anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitRefs {
    /// What may be created, or moved forward.
    pub push: Vec<String>,
    /// Where history may be rewritten.
    pub force: Vec<String>,
    /// What may be deleted.
    pub delete: Vec<String>,
    /// What can be fetched beside branches and tags.
    pub also: Vec<String>,
}

impl Default for GitRefs {
    fn default() -> Self {
        let push = ["refs/heads/*", "refs/tags/*"].map(str::to_owned).to_vec();
        Self { push, force: Vec::new(), delete: Vec::new(), also: Vec::new() }
    }
}

impl GitRefs {
    /// Those patterns of [`Self::force`] that have an effect: only what may be pushed can be rewritten.
    #[must_use]
    pub fn rewrites(&self) -> Vec<String> {
        // The name that will stand there is anybody's.
        let any = |pattern: &str| pattern.replace(SANDBOX, "*");
        let pushed = |force: &&String| self.push.iter().any(|push| meet(&any(push), &any(force)));
        self.force.iter().filter(pushed).cloned().collect()
    }

    /// Those patterns of [`Self::delete`] that have an effect: all, where anything may be pushed at all.
    #[must_use]
    pub fn deletes(&self) -> &[String] {
        if self.push.is_empty() { &[] } else { &self.delete }
    }
}

/// Whether any name is of both patterns.
fn meet(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    // Whether what is left of `one` from here, and of `other` from each of its places, meet: from the end on.
    let mut after = vec![false; other.len() + 1];
    for at in (0..=one.len()).rev() {
        let mut now = vec![false; other.len() + 1];
        for to in (0..=other.len()).rev() {
            now[to] = match (one.get(at), other.get(to)) {
                (None, None) => true,
                // A star is nothing, or one character more.
                (Some(b'*'), rest) => after[to] || (rest.is_some() && now[to + 1]),
                (rest, Some(b'*')) => now[to + 1] || (rest.is_some() && after[to]),
                (Some(a), Some(b)) => a == b && after[to + 1],
                (Some(_), None) | (None, Some(_)) => false,
            };
        }
        after = now;
    }
    after[0]
}

/// One narrow exception: what a leak rule finds there is no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitAllow {
    /// The rule's id.
    pub rule: String,
    /// The path of the file, as a refusal names it.
    pub path: String,
    /// What a refusal calls the value.
    pub fingerprint: String,
    /// Why, for the log.
    pub reason: String,
    /// The last day on which it holds, `YYYY-MM-DD`.
    pub expires: Option<String>,
    /// Where the rule and the day are written: findings without a message, for whoever knows the rules
    /// and the date.
    pub places: [Box<Diagnostic>; 2],
}

/// What stands for no pattern.
const NOTHING: &str = "nothing";

/// A pattern as people write it: without `refs/heads/`, where what is left means nothing else.
#[must_use]
pub fn short(pattern: &str) -> &str {
    let branch = pattern.strip_prefix("refs/heads/");
    branch.filter(|name| *name != NOTHING && !name.starts_with("refs/")).unwrap_or(pattern)
}

/// Patterns as people write them, or what none means.
#[must_use]
pub fn listed(patterns: &[String], none: &str) -> String {
    let shown: Vec<&str> = patterns.iter().map(|pattern| short(pattern)).collect();
    if shown.is_empty() { none.to_owned() } else { shown.join(", ") }
}

impl GitUpstream {
    /// What people and the gate call it: `git@github.com/o/app`, with `:PORT` unless that is 22.
    #[must_use]
    pub fn place(&self) -> String {
        let bare = self.path.strip_suffix(".git").unwrap_or(&self.path);
        format!("{}{bare}", self.server())
    }

    /// The same without its path.
    #[must_use]
    pub fn server(&self) -> String {
        let port = if self.port == 22 { String::new() } else { format!(":{}", self.port) };
        format!("{}@{}{port}", self.user, self.host)
    }

    /// As the manifest has it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("ssh://{}{}", self.server(), self.path)
    }

    /// The address that its host's name has here; none: the system is asked.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.extra_hosts.get(&self.host).copied()
    }

    /// The same for this sandbox: its name stands where its bottle says so.
    #[must_use]
    pub fn of(&self, sandbox: &SandboxId) -> Self {
        let mut own = self.clone();
        let GitRefs { push, force, delete, also } = &mut own.refs;
        for pattern in [push, force, delete, also].into_iter().flatten() {
            *pattern = pattern.replace(SANDBOX, sandbox.as_str());
        }
        own
    }

    /// The fingerprints of the host's keys: `ssh-ed25519 SHA256:…`.
    #[must_use]
    pub fn pins(&self) -> Vec<String> {
        let pin = |key: &String| {
            let (kind, body) = key.split_once(' ').unwrap_or((key, ""));
            format!("{kind} {}", fingerprint(body).unwrap_or_else(|| "?".to_owned()))
        };
        self.known_host_keys.iter().map(pin).collect()
    }

    /// The key, as a plan names it.
    #[must_use]
    pub fn key(&self) -> String {
        let key = self.identity.fingerprint.as_deref().unwrap_or("a key that could not be read");
        let agent = if self.identity.agent.is_some() { " of an ssh-agent" } else { "" };
        format!("{key}{agent}")
    }

    /// What may be pushed, in one line: `pushes to agent/*; rewrites agent/*`. What has no effect is not in it.
    #[must_use]
    pub fn grants(&self) -> String {
        if self.refs.push.is_empty() {
            return "read only".to_owned();
        }
        let mut text = format!("pushes to {}", listed(&self.refs.push, NOTHING));
        let (force, delete) = (self.refs.rewrites(), self.refs.deletes());
        if !force.is_empty() {
            text += &format!("; rewrites {}", listed(&force, ""));
        }
        if !delete.is_empty() {
            text += &format!("; deletes {}", listed(delete, ""));
        }
        text
    }

    /// The fields of what a gate enforces of it. Of paths of the host only digests: what is shown and kept of a
    /// gate says nowhere where a key lies.
    pub(crate) fn set_fields(&self, fields: &mut Fields) {
        let at = |field: &str| format!("git.{}.{field}", self.name);
        let hidden = |path: &Path| {
            let digest = SpecHash::of_bytes(path.as_os_str().as_encoded_bytes());
            format!("sha256:{}", digest.short())
        };
        fields.set(at("upstream"), self.url());
        fields.set(at("key"), self.identity.fingerprint.as_deref().unwrap_or("not read"));
        fields.set(at("key_path"), hidden(&self.identity.file));
        if let Some(agent) = &self.identity.agent {
            fields.set(at("agent_path"), hidden(agent));
        }
        let pins = self.pins();
        let pins =
            if pins.is_empty() { "none: nothing is sent".to_owned() } else { pins.join(", ") };
        fields.set(at("host_key"), pins);
        if let Some(address) = self.address() {
            fields.set(at("address"), address.to_string());
        }
        let GitRefs { push, force, delete, also } = &self.refs;
        fields.set(at("push"), listed(push, NOTHING));
        for (field, patterns) in [("force", force), ("delete", delete), ("refs", also)] {
            if !patterns.is_empty() {
                fields.set(at(field), listed(patterns, ""));
            }
        }
        fields.set(at("max_push"), human_bytes(self.max_push));
        fields.set(at("max_file"), human_bytes(self.max_file));
        for allow in &self.allow {
            let until = allow.expires.as_deref().map(|day| format!(" until {day}"));
            // No name of an upstream has a `:`, so none makes another field the same.
            let path = at(&format!("allow.{}:{}", allow.fingerprint, allow.path));
            let value = format!("{}{}: {}", allow.rule, until.unwrap_or_default(), allow.reason);
            let same = fields.0.keys().filter(|is| is.starts_with(&path)).count();
            let path = if same == 0 { path } else { format!("{path} ({same})") };
            fields.set(path, value);
        }
    }
}

/// The fingerprint of a public key in base64, as `ssh-keygen -l` prints it.
#[must_use]
pub fn fingerprint(body: &str) -> Option<String> {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
    use sha2::Digest as _;

    let key = STANDARD.decode(body).ok()?;
    Some(format!("SHA256:{}", STANDARD_NO_PAD.encode(sha2::Sha256::digest(key))))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An upstream that nothing is special about.
    pub(crate) fn upstream(name: &str, path: &str) -> GitUpstream {
        GitUpstream {
            name: name.to_owned(),
            user: "git".to_owned(),
            host: "git.example".to_owned(),
            port: 22,
            path: path.to_owned(),
            identity: Identity {
                file: "/keys/agent".into(),
                agent: None,
                fingerprint: Some("SHA256:abc".to_owned()),
            },
            known_host_keys: Vec::new(),
            extra_hosts: BTreeMap::new(),
            refs: GitRefs::default(),
            max_push: MAX_PUSH,
            max_file: MAX_FILE,
            allow: Vec::new(),
        }
    }

    #[test]
    fn different_policies_are_different_fields() {
        let of = |name: &str, change: &dyn Fn(&mut GitUpstream)| {
            let mut upstream = upstream(name, "/o/app.git");
            change(&mut upstream);
            let mut fields = Fields::default();
            upstream.set_fields(&mut fields);
            fields
        };
        let push = |patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(|text| (*text).to_owned()).collect();
            of("app", &move |upstream| upstream.refs.push.clone_from(&patterns))
        };
        let all: [&[&str]; 5] = [
            &[],
            &["refs/heads/nothing"],
            &["refs/heads/refs/tags/*"],
            &["refs/tags/*"],
            &["refs/heads/*", "refs/tags/*"],
        ];
        for (at, one) in all.iter().enumerate() {
            for other in &all[at + 1..] {
                assert_ne!(push(one), push(other), "{one:?} {other:?}");
            }
        }
        let allow = |expires: &str| GitAllow {
            rule: "github-token".to_owned(),
            path: "push".to_owned(),
            fingerprint: "0123456789ab".to_owned(),
            reason: "a test".to_owned(),
            expires: Some(expires.to_owned()),
            places: [(); 2].map(|()| Box::new(Diagnostic::error("bottles/dev.md", "it is over"))),
        };
        let allowing = |days: &[&str]| {
            let all: Vec<GitAllow> = days.iter().map(|day| allow(day)).collect();
            of("app", &move |upstream| upstream.allow.clone_from(&all))
        };
        assert_ne!(allowing(&["2030-01-01", "2027-01-01"]), allowing(&["2027-01-01"]));
    }

    #[test]
    fn a_fingerprint_is_what_ssh_keygen_prints() {
        let key = "AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";
        let found = "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU";
        assert_eq!(fingerprint(key).as_deref(), Some(found));
    }

    #[test]
    fn the_sandbox_stands_in_its_patterns() {
        let mut app = upstream("app", "/o/app.git");
        app.refs.push = vec!["refs/heads/agent/{sandbox}/*".to_owned()];
        app.refs.force = app.refs.push.clone();
        let own = app.of(&"ada".parse().unwrap());
        assert_eq!(own.refs.push, ["refs/heads/agent/ada/*"]);
        assert_eq!(own.grants(), "pushes to agent/ada/*; rewrites agent/ada/*");
        assert_eq!(own.place(), "git@git.example/o/app");
        assert_eq!(GitUpstream { port: 2222, ..own }.place(), "git@git.example:2222/o/app");
    }

    #[test]
    fn what_has_no_effect_is_not_granted() {
        let mut app = upstream("app", "/o/app.git");
        app.refs.push = vec!["refs/heads/agent/*".to_owned()];
        app.refs.force = vec!["refs/heads/agent/x".to_owned(), "refs/tags/*".to_owned()];
        app.refs.delete = vec!["refs/tags/*".to_owned()];
        assert_eq!(app.grants(), "pushes to agent/*; rewrites agent/x; deletes refs/tags/*");
        let ada = vec!["refs/heads/agent/{sandbox}/*".to_owned()];
        let refs = GitRefs {
            force: vec!["refs/heads/agent/ada/x".to_owned()],
            push: ada,
            ..app.refs.clone()
        };
        assert_eq!(refs.rewrites(), refs.force);
        app.refs.push.clear();
        assert_eq!(app.grants(), "read only");
        for (one, other, expected) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a*", "a", true),
            ("a*", "*b", true),
            ("a*c", "ab*d", false),
            ("a*c*", "*b*d", true),
            ("*", "", true),
            ("a/*", "a", false),
        ] {
            assert_eq!(meet(one, other), expected, "{one} {other}");
            assert_eq!(meet(other, one), expected, "{other} {one}");
        }
    }

    #[test]
    fn no_field_says_where_a_key_lies() {
        let mut fields = Fields::default();
        let mut app = upstream("app", "/o/app.git");
        app.identity.agent = Some("/run/agent.sock".into());
        app.set_fields(&mut fields);
        let text = format!("{fields:?}");
        assert!(!text.contains("/keys/") && !text.contains("agent.sock"), "{text}");
        assert_eq!(fields.0["git.app.host_key"], "none: nothing is sent");
    }
}
