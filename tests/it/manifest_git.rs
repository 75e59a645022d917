//! `git` of a bottle: by which key which repository is spoken to, and what may be pushed there.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use bottle::model::policy::GitUpstream;
use bottle::model::{Diagnostic, Severity};

use crate::manifest::{Scratch, id, said};

const HOST_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";
const PEM: &str = "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n";

/// A file that nobody else may read.
fn key(scratch: &Scratch, path: &str, content: &str) {
    scratch.write(path, content);
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(scratch.path(path), private).expect("its own file");
}

fn scratch() -> Scratch {
    let scratch = Scratch::new();
    key(&scratch, "home/.ssh/key", PEM);
    scratch.write("tree/agents/ada.md", "---\nbottle: dev\n---\n");
    scratch
}

/// What comes of these keys of an upstream, beside the first three.
fn read(scratch: &Scratch, more: &str) -> (Option<GitUpstream>, Vec<Diagnostic>) {
    let first =
        "Name: app, Upstream: 'ssh://git@git.example:2222/o/app.git', IdentityFile: ~/.ssh/key";
    written(scratch, &format!("git: [{{{first}, {more}}}]\n"))
}

fn written(scratch: &Scratch, yaml: &str) -> (Option<GitUpstream>, Vec<Diagnostic>) {
    scratch.write("tree/bottles/dev.md", format!("---\n{yaml}---\n"));
    let mut desired = scratch.load();
    let spec = desired.sandboxes.remove(&id("ada"));
    let gate = spec.and_then(|spec| spec.gate);
    (gate.and_then(|gate| gate.upstreams.first().cloned()), desired.diagnostics)
}

fn words(found: &[Diagnostic]) -> String {
    let line = |d: &Diagnostic| format!("{} [{}]", d.message, d.hint.clone().unwrap_or_default());
    found.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_key_reaches_the_gate() {
    let scratch = scratch();
    let more = format!(
        "KnownHostKey: '[git.example]:2222 {HOST_KEY}', Push: ['agent/{{sandbox}}/*', refs/tags/v*], \
         Force: ['agent/{{sandbox}}/*'], Delete: [tmp/*], Refs: [refs/pull/*/head], MaxPush: 500M, MaxFile: 64M, \
         ExtraHosts: {{git.example: 10.1.2.3}}, Allow: [{{rule: github-token, path: a/b.txt, fingerprint: \
         0123456789ab, reason: a test's, expires: '2027-01-31'}}]"
    );
    let (upstream, found) = read(&scratch, &more);
    assert!(found.iter().all(|d| d.severity == Severity::Warning), "{}", words(&found));
    let upstream = upstream.expect("it holds");
    assert_eq!(upstream.known_host_keys, [HOST_KEY]);
    assert_eq!(upstream.refs.push, ["refs/heads/agent/ada/*", "refs/tags/v*"]);
    assert_eq!(upstream.refs.force, ["refs/heads/agent/ada/*"]);
    assert_eq!(upstream.refs.delete, ["refs/heads/tmp/*"]);
    assert_eq!(upstream.refs.also, ["refs/pull/*/head"]);
    assert_eq!((upstream.max_push, upstream.max_file), (500 << 20, 64 << 20));
    assert_eq!(upstream.address(), Some("10.1.2.3".parse().unwrap()));
    assert_eq!(upstream.allow[0].fingerprint, "0123456789ab");
    assert_eq!(upstream.identity.file, scratch.path("home/.ssh/key"));
}

#[test]
fn what_is_not_said_is_the_default_and_both_spellings_hold() {
    let scratch = scratch();
    let yaml = format!(
        "git: [{{name: app, upstream: 'ssh://git@git.example/o/app', identity_file: ~/.ssh/key, known_host_key: \
         ['{HOST_KEY}'], max_push: 2G, push: []}}]\n"
    );
    let (upstream, found) = written(&scratch, &yaml);
    assert_eq!(words(&found), "");
    let upstream = upstream.expect("it holds");
    assert_eq!((upstream.max_push, upstream.max_file), (2 << 30, 256 << 20));
    assert!(upstream.refs.push.is_empty(), "read only");
    let (upstream, _) = read(&scratch, &format!("KnownHostKey: '{HOST_KEY}'"));
    assert_eq!(upstream.expect("it holds").refs.push, ["refs/heads/*", "refs/tags/*"]);
    let (upstream, found) = read(&scratch, "Push: [a], push: [b]");
    assert!(upstream.is_none() && words(&found).contains("are the same key"), "{}", words(&found));
}

#[test]
fn what_cannot_be_meant_is_refused_with_what_to_write() {
    let scratch = scratch();
    for (more, about) in [
        (
            "KnownHostKey: 'SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU'",
            "ssh-keyscan -p 2222 git.example",
        ),
        (
            "KnownHostKey: 'other.example ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl'",
            "and not of `[git.example]:2222`",
        ),
        ("KnownHostKey: x", "is not an SSH public key"),
        ("Push: ['HEAD']", "is no branch"),
        ("Push: ['../x']", "`agent/*` for branches"),
        ("Push: ['-x']", "begins with `.` or `-`"),
        ("Push: ['{agent}/*']", "only `{sandbox}`"),
        ("Push: 'main'", "expected a list"),
        ("Force: [refs/*]", "names no namespace"),
        ("Refs: [refs/heads/x]", "is fetched anyway"),
        ("MaxFile: 12", "add a unit"),
        ("MaxFile: 100G", "out of range"),
        ("Allow: [{rule: x, path: y, fingerprint: XYZ, reason: z}]", "12 digits"),
        (
            "Allow: [{rule: x, path: /y, fingerprint: 0123456789ab, reason: z}]",
            "the path of a file",
        ),
        ("Allow: [{rule: x, path: y, fingerprint: 0123456789ab}]", "needs the key `reason`"),
        (
            "Allow: [{rule: no-such-rule, path: y, fingerprint: 0123456789ab, reason: z, expires: soon}]",
            "is not a date",
        ),
        ("Fetch: [x]", "unknown key `Fetch`"),
    ] {
        let (upstream, found) = read(&scratch, more);
        assert!(upstream.is_none(), "{more}");
        assert!(words(&found).contains(about), "{more}: {}", words(&found));
        assert!(found.iter().all(|d| d.line > 0), "{more}");
    }
}

#[test]
fn a_key_that_cannot_work_is_told_before_it_is_tried() {
    let scratch = scratch();
    let pinned = format!("KnownHostKey: '{HOST_KEY}'");
    assert_eq!(words(&read(&scratch, &pinned).1), "");
    key(&scratch, "home/.ssh/key", &PEM.replace("AAAA", "Proc-Type: 4,ENCRYPTED\n\nAAAA"));
    let (upstream, found) = read(&scratch, &pinned);
    assert!(words(&found).contains("has a passphrase") && words(&found).contains("IdentityAgent"));
    assert!(upstream.is_some(), "it may be set right without the tree");
    // With an agent, nobody is asked.
    let socket = scratch.path("home/agent.sock");
    let _listening = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let (upstream, found) = read(&scratch, &format!("{pinned}, IdentityAgent: ~/agent.sock"));
    assert_eq!(words(&found), "");
    assert_eq!(upstream.expect("it holds").identity.agent, Some(socket));
    let (upstream, found) = read(&scratch, &format!("{pinned}, IdentityAgent: ~/.ssh/key"));
    assert!(upstream.is_none() && words(&found).contains("not the socket"), "{}", words(&found));
    key(&scratch, "home/.ssh/key", &format!("{HOST_KEY} me\n"));
    let (upstream, found) = read(&scratch, &pinned);
    assert!(words(&found).contains("public half"), "{}", words(&found));
    let print = upstream.and_then(|upstream| upstream.identity.fingerprint);
    assert_eq!(print.as_deref(), Some("SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"));
    scratch.write("home/.ssh/key", PEM);
    let open = fs::Permissions::from_mode(0o644);
    fs::set_permissions(scratch.path("home/.ssh/key"), open).expect("its own file");
    assert!(words(&read(&scratch, &pinned).1).contains("others may read this key"));
}

#[test]
fn what_has_no_effect_is_told() {
    let scratch = scratch();
    let (_, found) = read(&scratch, "Push: [agent/*], Force: [agent/x, main], Delete: [tmp/*]");
    let said = words(&found);
    assert!(said.contains("`main` has no effect: `Push` has no such ref"), "{said}");
    assert!(!said.contains("agent/x") && !said.contains("tmp/*"), "{said}");
    let (upstream, found) = read(&scratch, "Push: [], Force: [main], Delete: [tmp/*]");
    let said = words(&found);
    assert_eq!(said.matches("has no effect: `Push` lets nothing be pushed").count(), 2, "{said}");
    assert_eq!(upstream.expect("it is no error").grants(), "read only");
}

#[test]
fn the_key_is_what_was_looked_at() {
    let scratch = scratch();
    let (link, found) = (scratch.path("home/.ssh/key"), scratch.path("home/.ssh/other"));
    fs::rename(&link, &found).expect("its own file");
    std::os::unix::fs::symlink("other", &link).expect("its own folder");
    let (upstream, _) = read(&scratch, "Push: []");
    let file = upstream.expect("it holds").identity.file;
    assert_eq!(file, found.canonicalize().expect("it is there"));
}

#[test]
fn without_a_pin_the_line_that_pins_is_told() {
    let scratch = scratch();
    let (upstream, found) = read(&scratch, "MaxPush: 1G");
    assert!(upstream.is_some_and(|upstream| upstream.known_host_keys.is_empty()));
    let told = words(&found);
    assert!(told.contains("nothing is fetched or pushed"), "{told}");
    assert!(told.contains("ssh-keygen -F '[git.example]:2222'"), "{told}");
    scratch.write("home/.ssh/known_hosts", format!("[git.example]:2222 {HOST_KEY}\n"));
    let told = words(&read(&scratch, "MaxPush: 1G").1);
    assert!(told.contains(&format!("`KnownHostKey: {HOST_KEY}`")), "{told}");
}

#[test]
fn one_repository_is_named_once() {
    let scratch = scratch();
    let one = |name: &str, path: &str| {
        format!(
            "  - {{Name: {name}, Upstream: 'ssh://git@git.example/{path}', IdentityFile: ~/.ssh/key, \
             KnownHostKey: '{HOST_KEY}'}}\n"
        )
    };
    let (upstream, found) =
        written(&scratch, &format!("git:\n{}{}", one("a", "o/app"), one("b", "o/app.git")));
    assert!(
        upstream.is_none() && words(&found).contains("the repository of `a`"),
        "{}",
        words(&found)
    );
    let (upstream, found) =
        written(&scratch, &format!("git:\n{}{}", one("a", "o/app"), one("b", "o/app-two")));
    assert!(upstream.is_some() && found.is_empty(), "{}", words(&found));
}

/// Nothing of a private key is in what is said, hashed or shown.
#[test]
fn a_key_is_read_for_no_more_than_its_fingerprint() {
    let scratch = scratch();
    let secret = "c2VjcmV0LWJ5dGVzLW9mLWEta2V5";
    key(&scratch, "home/.ssh/key", &PEM.replace("AAAA", secret));
    scratch.write(
        "tree/bottles/dev.md",
        format!(
            "---\ngit: [{{Name: app, Upstream: 'ssh://git@git.example/o/app', IdentityFile: ~/.ssh/key, \
             KnownHostKey: '{HOST_KEY}'}}]\n---\n"
        ),
    );
    let desired = scratch.load();
    assert_eq!(said(&desired), Vec::<String>::new());
    assert!(!format!("{desired:?}").contains(secret));
    let gate = desired.sandboxes[&id("ada")].gate.as_ref().expect("it has one");
    let home = scratch.path("home").display().to_string();
    for told in [format!("{:?}", gate.content()), gate.guest().page(), gate.guest().config()] {
        assert!(!told.contains(&home) && !told.contains(".ssh/key"), "{told}");
    }
}
