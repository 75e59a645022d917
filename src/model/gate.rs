//! The git gate of a sandbox: what it is made from, what it is given, and how the guest's git finds it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use super::hash::{Fields, SpecHash};
use super::id::{BackendKind, ResourceKind, SandboxId};
use super::policy::git::listed;
use super::policy::{DlpAllow, GitUpstream, Policy, RulesFile};
use super::spec::{SidecarSpec, human_bytes};

/// The name of the gate, as the guest's git knows it.
pub const GATE_NAME: &str = "git.bottle";

/// The port on which it listens, as its machine sees it: that of the git protocol.
pub const GATE_PORT: u16 = 9418;

/// How whoever takes a connection to the gate out of a sidecar's container says on stdout that there is one.
pub const OFFERED: u8 = b'G';

/// What a relay says of itself while connections can come.
pub const RELAY_OPEN: &str = "open";

/// How it is told on stdin to take it.
pub const TAKES: u8 = b'!';

/// What the agent is told about git.
pub const PAGE_PATH: &str = "/etc/bottle/git.md";

/// How the fields of a guest begin that say how its git finds the gate.
pub const GUEST_FIELDS: &str = "git.";

/// Where the programs are that a gate starts: it has no PATH of anybody's. Whoever says that one is missing looks where
/// it is looked for.
pub const PROGRAM_FOLDERS: [&str; 4] =
    ["/usr/local/bin", "/usr/bin", "/bin", "/run/current-system/sw/bin"];

/// The gate of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateSpec {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// What only its creation can set.
    pub fields: Fields,
    /// What it may talk to. It is loaded into the running gate: no part of [`Self::hash`].
    pub upstreams: Arc<[GitUpstream]>,
    /// Leak rules of the operator's own, which are loaded as well.
    pub rules: Option<RulesFile>,
    /// Narrow suppressions of leak rules, by host.
    pub dlp_allow: Vec<DlpAllow>,
}

impl GateSpec {
    /// The gate of this sandbox, where its bottle names upstreams.
    #[must_use]
    pub fn of(sandbox: &SandboxId, policy: &Policy) -> Option<Self> {
        let upstreams: Vec<GitUpstream> =
            policy.git.iter().map(|upstream| upstream.of(sandbox)).collect();
        (!upstreams.is_empty()).then(|| Self {
            sandbox: sandbox.clone(),
            fields: Fields::default(),
            upstreams: upstreams.into(),
            rules: policy.egress.dlp_rules.clone(),
            dlp_allow: policy.egress.dlp_allow.clone(),
        })
    }

    /// The hash of what only creation can set.
    #[must_use]
    pub fn hash(&self) -> SpecHash {
        self.fields.hash("bottle.gate.v1")
    }

    /// The hash of what is loaded into it.
    #[must_use]
    pub fn content_hash(&self) -> SpecHash {
        self.content().hash("bottle.git.v1")
    }

    /// The fields of what is loaded into it.
    #[must_use]
    pub fn content(&self) -> Fields {
        let mut fields = Fields::default();
        for upstream in &*self.upstreams {
            upstream.set_fields(&mut fields);
        }
        if let Some(rules) = &self.rules {
            fields.set("egress.dlp_rules", format!("sha256:{}", rules.digest()));
        }
        for (index, allow) in self.dlp_allow.iter().enumerate() {
            fields.set(format!("egress.dlp_allow.{index}"), allow.to_string());
        }
        fields
    }

    /// What is put into the guest for it.
    #[must_use]
    pub fn guest(&self) -> GuestGate {
        GuestGate { upstreams: self.upstreams.clone() }
    }
}

/// What a process beside a machine is given while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadSpec {
    /// Its policy, its credentials and its CA.
    Sidecar(SidecarSpec),
    /// Its upstreams, and what may be done to them.
    Gate(GateSpec),
}

impl LoadSpec {
    /// Which part of the sandbox it is for.
    #[must_use]
    pub fn kind(&self) -> ResourceKind {
        match self {
            Self::Sidecar(_) => ResourceKind::Sidecar,
            Self::Gate(_) => ResourceKind::Gate,
        }
    }

    /// The sandbox.
    #[must_use]
    pub fn sandbox(&self) -> &SandboxId {
        match self {
            Self::Sidecar(spec) => &spec.sandbox,
            Self::Gate(spec) => &spec.sandbox,
        }
    }

    /// Its fields.
    #[must_use]
    pub fn content(&self) -> Fields {
        match self {
            Self::Sidecar(spec) => spec.content(),
            Self::Gate(spec) => spec.content(),
        }
    }

    /// The hash of them.
    #[must_use]
    pub fn content_hash(&self) -> SpecHash {
        match self {
            Self::Sidecar(spec) => spec.content_hash(),
            Self::Gate(spec) => spec.content_hash(),
        }
    }
}

/// What a guest's git needs to find its gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestGate {
    upstreams: Arc<[GitUpstream]>,
}

impl GuestGate {
    /// The fields that are hashed with the guest.
    pub(super) fn set_fields(&self, fields: &mut Fields) {
        for upstream in &*self.upstreams {
            let to = format!("git://{GATE_NAME}/{}", upstream.place());
            fields.set(format!("{GUEST_FIELDS}{}", upstream.name), to);
        }
        let config = SpecHash::of_bytes(self.config().as_bytes());
        fields.set(format!("{GUEST_FIELDS}config"), format!("sha256:{config}"));
        let page = SpecHash::of_bytes(self.page().as_bytes());
        fields.set(format!("{GUEST_FIELDS}page"), format!("sha256:{page}"));
    }

    /// What leads its git to the gate, as git's configuration has it: of two prefixes of a URL, the longer one wins.
    #[must_use]
    pub fn config(&self) -> String {
        let mut text = String::new();
        let mut servers = BTreeSet::new();
        let mut pushed = BTreeSet::new();
        for upstream in &*self.upstreams {
            let place = upstream.place();
            let GitUpstream { user, host, port, path, .. } = upstream;
            let bare = path.strip_suffix(".git").unwrap_or(path);
            let mut from: Vec<String> = Vec::new();
            for scheme in ["ssh", "git+ssh", "ssh+git"] {
                from.push(format!("{scheme}://{user}@{host}:{port}{bare}"));
                if *port == 22 {
                    from.push(format!("{scheme}://{user}@{host}{bare}"));
                }
            }
            if *port == 22 {
                from.push(format!("{user}@{host}:{}", bare.trim_start_matches('/')));
                from.push(format!("{user}@{host}:{bare}"));
            }
            // Without `.git` only what is pushed: what is fetched may be `app-two`, which others serve. A push over https
            // is refused everywhere else. Of two upstreams that this is the URL of, the first has it.
            let https = format!("https://{host}{bare}");
            let pushes = pushed.insert(https.clone()).then_some(https);
            from.extend(pushes.iter().map(|https| format!("{https}.git")));
            section(&mut text, &place, &from, pushes.as_slice());
            // What begins like that and goes on is another's, as the pages of a host's user are: the longest prefix wins.
            if let Some(https) = &pushes {
                for word in OTHERS {
                    let _ =
                        writeln!(text, "[url \"{https}{word}\"]\n\tinsteadOf = \"{https}{word}\"");
                }
            }
            servers.insert((upstream.server(), user, host, *port));
        }
        // What is not declared gets the gate's sentence, and not ssh's, which is not there.
        for (server, user, host, port) in servers {
            let mut from = vec![format!("ssh://{user}@{host}:{port}/")];
            if port == 22 {
                from.push(format!("ssh://{user}@{host}/"));
                from.push(format!("{user}@{host}:/"));
                from.push(format!("{user}@{host}:"));
            }
            section(&mut text, &format!("{server}/"), &from, &[]);
        }
        text
    }

    /// What the agent is told, as Markdown.
    #[must_use]
    pub fn page(&self) -> String {
        let mut text = String::from(
            "# Git in this sandbox\n\n\
             Use plain git, with the URLs below as they are. What you fetch and push goes through a gate of the \
             operator's, which holds the key: there is none in here, and you need none.\n",
        );
        for upstream in &*self.upstreams {
            let refs = &upstream.refs;
            let _ = write!(text, "\n## {}\n\n- URL: `{}`\n", upstream.place(), upstream.url());
            let example = refs.push.iter().find_map(|pattern| {
                let branch = pattern.strip_prefix("refs/heads/")?;
                Some(branch.replace('*', "NAME"))
            });
            match (&refs.push[..], example) {
                ([], _) => text.push_str("- You may fetch, and push nothing.\n"),
                (_, None) => {
                    let _ = writeln!(text, "- You may push to: {}.", listed(&refs.push, ""));
                }
                (_, Some(branch)) => {
                    let to = listed(&refs.push, "");
                    let _ = writeln!(
                        text,
                        "- You may push to: {to}, as by `git push origin HEAD:refs/heads/{branch}`."
                    );
                }
            }
            let _ = writeln!(
                text,
                "- History may be rewritten: {}. May be deleted: {}.",
                listed(&refs.rewrites(), "nowhere"),
                listed(refs.deletes(), "nothing")
            );
            let _ = writeln!(
                text,
                "- At most {} in one push, {} in one file.",
                human_bytes(upstream.max_push),
                human_bytes(upstream.max_file)
            );
        }
        text.push_str(
            "\nEvery commit, file and message that you push is searched for secrets first. If one is found, nothing is \
             sent: take it out of every commit that has it (amend, or rebase) and push again. If it is no secret, ask \
             the operator for an exception, with the rule, the path and the fingerprint that the refusal names.\n\n\
             Large files (LFS) are not passed on; commit their pointers only. Other repositories cannot be reached by \
             ssh. What else you need, ask the operator for.\n",
        );
        text
    }
}

/// A section that leads what begins so to a place of the gate.
fn section(text: &mut String, place: &str, from: &[String], pushes: &[String]) {
    let _ = writeln!(text, "[url \"git://{GATE_NAME}/{place}\"]");
    for prefix in from {
        let _ = writeln!(text, "\tinsteadOf = \"{prefix}\"");
    }
    for prefix in pushes {
        let _ = writeln!(text, "\tpushInsteadOf = \"{prefix}\"");
    }
}

/// How names of repositories go on that begin like one with `.git` behind it.
const OTHERS: [&str; 4] = [".gite", ".gith", ".giti", ".gitl"];

/// Why a sandbox with `git` cannot be there, and what to do.
#[must_use]
pub fn unsuited(backend: BackendKind) -> Option<String> {
    (!backend.has_gates()).then(|| {
        format!(
            "`git` cannot be had on {backend} yet: use `backend: native` or `docker`, or leave it out and clone over \
             https with a route of `cred_proxy`"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::policy::git::tests::upstream;

    fn gate(upstreams: Vec<GitUpstream>) -> GateSpec {
        let policy = Policy { git: upstreams, ..Policy::default() };
        GateSpec::of(&"ada".parse().unwrap(), &policy).unwrap()
    }

    #[test]
    fn every_spelling_of_a_url_leads_to_the_gate() {
        let text = gate(vec![upstream("app", "/o/app.git")]).guest().config();
        let expected = "[url \"git://git.bottle/git@git.example/o/app\"]\n\
            \tinsteadOf = \"ssh://git@git.example:22/o/app\"\n\
            \tinsteadOf = \"ssh://git@git.example/o/app\"\n\
            \tinsteadOf = \"git+ssh://git@git.example:22/o/app\"\n\
            \tinsteadOf = \"git+ssh://git@git.example/o/app\"\n\
            \tinsteadOf = \"ssh+git://git@git.example:22/o/app\"\n\
            \tinsteadOf = \"ssh+git://git@git.example/o/app\"\n\
            \tinsteadOf = \"git@git.example:o/app\"\n\
            \tinsteadOf = \"git@git.example:/o/app\"\n\
            \tinsteadOf = \"https://git.example/o/app.git\"\n\
            \tpushInsteadOf = \"https://git.example/o/app\"\n\
            [url \"https://git.example/o/app.gite\"]\n\
            \tinsteadOf = \"https://git.example/o/app.gite\"\n\
            [url \"https://git.example/o/app.gith\"]\n\
            \tinsteadOf = \"https://git.example/o/app.gith\"\n\
            [url \"https://git.example/o/app.giti\"]\n\
            \tinsteadOf = \"https://git.example/o/app.giti\"\n\
            [url \"https://git.example/o/app.gitl\"]\n\
            \tinsteadOf = \"https://git.example/o/app.gitl\"\n\
            [url \"git://git.bottle/git@git.example/\"]\n\
            \tinsteadOf = \"ssh://git@git.example:22/\"\n\
            \tinsteadOf = \"ssh://git@git.example/\"\n\
            \tinsteadOf = \"git@git.example:/\"\n\
            \tinsteadOf = \"git@git.example:\"\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_fetch_over_https_is_led_there_and_that_of_another_is_not() {
        let other = GitUpstream { port: 2222, ..upstream("other", "/o/app") };
        let text = gate(vec![upstream("app", "/o/app.git"), other]).guest().config();
        // Once, though two upstreams have this URL.
        for rule in [
            "insteadOf = \"https://git.example/o/app.git\"",
            "pushInsteadOf = \"https://git.example/o/app\"",
        ] {
            assert_eq!(text.matches(rule).count(), 1, "{text}");
        }
        // `app.github.io` leads to itself.
        let own = "[url \"https://git.example/o/app.gith\"]\n\tinsteadOf = \"https://git.example/o/app.gith\"\n";
        assert!(text.contains(own), "{text}");
    }

    #[test]
    fn another_port_is_another_server() {
        let app = GitUpstream { port: 2222, ..upstream("app", "/o/app.git") };
        let text = gate(vec![app]).guest().config();
        assert!(text.contains("[url \"git://git.bottle/git@git.example:2222/o/app\"]"), "{text}");
        assert!(!text.contains("\"git@git.example:o/app\""), "{text}");
        assert!(!text.contains("ssh://git@git.example/"), "{text}");
    }

    #[test]
    fn the_page_says_what_may_be_pushed() {
        let mut app = upstream("app", "/o/app.git");
        app.refs.push = vec!["refs/heads/agent/{sandbox}/*".to_owned()];
        app.identity.file = "/home/op/.ssh/secret-name".into();
        let page = gate(vec![app, upstream("lib", "/o/lib")]).guest().page();
        assert!(page.contains("`git push origin HEAD:refs/heads/agent/ada/NAME`"), "{page}");
        assert!(page.contains("rewritten: nowhere. May be deleted: nothing."), "{page}");
        assert!(!page.contains("secret-name") && !page.contains("SHA256"), "{page}");
    }

    #[test]
    fn what_is_loaded_is_no_part_of_what_it_is_made_from() {
        let one = gate(vec![upstream("app", "/o/app.git")]);
        let mut app = upstream("app", "/o/app.git");
        app.refs.force = vec!["refs/heads/agent/*".to_owned()];
        let other = gate(vec![app]);
        assert_eq!(one.hash(), other.hash());
        assert_ne!(one.content_hash(), other.content_hash());
    }
}
