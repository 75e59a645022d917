//! What a gate is to be given, and what a person is told of it: what may be pushed where, by which key. As a
//! sidecar, a gate keeps what it was given in memory only.

use std::collections::BTreeSet;

use super::decide::{Seen, differences};
use super::decision::{Decision, Loading};
use super::load::reprovision;
use super::{Change, Reason, Verdict};
use crate::model::gate::LoadSpec;
use crate::model::policy::GitUpstream;
use crate::model::{
    BackendKind, FieldChange, GateSpec, Instance, InstanceState, ResourceKind, SandboxSpec,
};

/// Decides whether the gate is loaded; `gate` is the one that stays.
pub(super) fn decide_load(
    decision: &mut Decision,
    spec: &GateSpec,
    backend: BackendKind,
    gate: Option<&Instance>,
    seen: &Seen<'_>,
) {
    let spec_of = || LoadSpec::Gate(spec.clone());
    let Some(gate) = gate else {
        decision.load.push(Loading { spec: spec_of(), on: None });
        return;
    };
    let runs = gate.state == InstanceState::Running;
    let prior = seen.observed.receipts.get(&gate.id);
    let loaded =
        prior.filter(|receipt| runs && receipt.boot == gate.boot && receipt.guest.is_some());
    let (reason, fields) = match loaded {
        // Where it does not run, its own verdict says so already.
        None => (Reason::HashMissing, Vec::new()),
        Some(loaded) if loaded.guest == Some(spec.content_hash()) => return,
        Some(loaded) => (Reason::SpecChanged, differences(&loaded.fields, &spec.content())),
    };
    if runs {
        reprovision(decision, ResourceKind::Gate, backend, reason, fields);
    }
    decision.load.push(Loading { spec: spec_of(), on: Some(gate.clone()) });
}

/// Says of a gate that comes what it lets through, and of one that is given more what that is.
pub(super) fn widened(decision: &mut Decision, spec: &SandboxSpec) {
    let Some(gate) = &spec.gate else { return };
    for change in decision.changes.iter_mut().filter(|c| c.resource == ResourceKind::Gate) {
        for upstream in &*gate.upstreams {
            if widens(change, upstream) {
                change.notes.push(format!("widens: {}", told(upstream)));
            }
        }
    }
}

/// What a gate does for one upstream, in one line.
fn told(upstream: &GitUpstream) -> String {
    let pins = upstream.pins();
    let pins = match pins.is_empty() {
        true => "no KnownHostKey is set, so nothing is sent".to_owned(),
        false => format!("where the host shows {}", pins.join(" or ")),
    };
    format!("{}: {}, by {}, {pins}", upstream.place(), upstream.grants(), upstream.key())
}

/// Whether this change of a gate lets more through to this upstream.
fn widens(change: &Change, upstream: &GitUpstream) -> bool {
    if matches!(change.verdict, Verdict::Create | Verdict::Replace) {
        return true;
    }
    change.verdict == Verdict::Reprovision && lets_more(&change.fields, upstream)
}

/// Whether these changes of what a gate is given let more through to this upstream.
fn lets_more(fields: &[FieldChange], upstream: &GitUpstream) -> bool {
    let begin = format!("git.{}.", upstream.name);
    let more = |field: &FieldChange| match field.path.strip_prefix(&begin) {
        Some(path) => widens_one(path, field, upstream.identity.fingerprint.is_some()),
        // Of rules of the operator's own nobody knows which of them finds less.
        None if field.path == "egress.dlp_rules" => true,
        None => false,
    };
    fields.iter().any(more) || excepts_more(fields)
}

/// Whether this field of an upstream lets more through, or lets it through to another place or by another key.
fn widens_one(path: &str, field: &FieldChange, key_is_known: bool) -> bool {
    let (from, to) = (field.from.as_deref(), field.to.as_deref());
    let more = |nothing: fn(&str) -> bool| {
        let had: BTreeSet<&str> = from.into_iter().flat_map(|list| list.split(", ")).collect();
        let has = to.into_iter().flat_map(|list| list.split(", "));
        has.filter(|item| !nothing(item)).any(|item| !had.contains(item))
    };
    match path {
        "push" | "force" | "delete" | "refs" => more(|pattern| pattern == "nothing"),
        // Without a key nothing is sent.
        "host_key" => more(|key| key.starts_with("none")),
        "upstream" | "agent_path" => to.is_some(),
        "key" => to.is_some_and(|key| key != "not read"),
        // Where the key is known it is the same one, at another place.
        "key_path" => !key_is_known,
        // If none is given the system is asked, which may know another.
        "address" => true,
        "max_push" | "max_file" => match (from.and_then(bytes), to.and_then(bytes)) {
            (Some(from), Some(to)) => to > from,
            _ => true,
        },
        _ => path.starts_with("allow.") && to.is_some(),
    }
}

/// Whether something is no finding any more. One that goes moves those behind it.
fn excepts_more(fields: &[FieldChange]) -> bool {
    let all = || fields.iter().filter(|field| field.path.starts_with("egress.dlp_allow."));
    let had: BTreeSet<&str> = all().filter_map(|field| field.from.as_deref()).collect();
    all().filter_map(|field| field.to.as_deref()).any(|allow| !had.contains(allow))
}

/// An amount, as [`crate::model::spec::human_bytes`] writes it.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(['K', 'M', 'G', 'T']);
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_shl(shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::policy::git::tests::upstream;

    #[test]
    fn what_widens_and_what_does_not() {
        let app = upstream("app", "/o/app.git");
        let none = "none: nothing is sent";
        for (path, from, to, expected) in [
            ("git.app.upstream", Some("ssh://a"), Some("ssh://b"), true),
            ("git.app.push", Some("agent/*"), Some("agent/*, main"), true),
            ("git.app.push", Some("agent/*, main"), Some("main"), false),
            ("git.app.push", Some("main"), Some("nothing"), false),
            ("git.app.push", Some("nothing"), Some("main"), true),
            ("git.app.force", None, Some("main"), true),
            ("git.app.force", Some("main"), None, false),
            ("git.app.delete", None, Some("main"), true),
            ("git.app.refs", None, Some("refs/pull/*/head"), true),
            ("git.app.host_key", Some("ssh-rsa SHA256:a"), Some(none), false),
            ("git.app.host_key", Some(none), Some("ssh-rsa SHA256:a"), true),
            ("git.app.host_key", Some("ssh-rsa SHA256:a"), Some("ssh-rsa SHA256:b"), true),
            ("git.app.host_key", Some("k SHA256:a, k SHA256:b"), Some("k SHA256:b"), false),
            ("git.app.key", Some("SHA256:a"), Some("SHA256:b"), true),
            ("git.app.key", Some("SHA256:a"), Some("not read"), false),
            ("git.app.key_path", Some("sha256:1"), Some("sha256:2"), false),
            ("git.app.agent_path", None, Some("sha256:2"), true),
            ("git.app.agent_path", Some("sha256:1"), Some("sha256:2"), true),
            ("git.app.agent_path", Some("sha256:1"), None, false),
            ("git.app.address", None, Some("10.0.0.1"), true),
            ("git.app.address", Some("10.0.0.1"), None, true),
            ("git.app.max_push", Some("500M"), Some("1G"), true),
            ("git.app.max_push", Some("1G"), Some("500M"), false),
            ("git.app.max_file", Some("1023"), Some("1K"), true),
            ("git.app.max_file", Some("2M"), Some("2047K"), false),
            ("git.app.allow.0123456789ab:a.txt", None, Some("github-token: a test's"), true),
            ("git.app.allow.0123456789ab:a.txt", Some("github-token: a test's"), None, false),
            ("git.lib.push", None, Some("main"), false),
            ("egress.dlp_rules", Some("sha256:1"), Some("sha256:2"), true),
            ("egress.dlp_rules", Some("sha256:1"), None, true),
            ("egress.dlp_allow.0", None, Some("a"), true),
            ("egress.dlp_allow.0", Some("a"), None, false),
        ] {
            let field = field(path, from, to);
            let found = lets_more(std::slice::from_ref(&field), &app);
            assert_eq!(found, expected, "{field:?}");
        }
        let gone = [("0", Some("a"), Some("b")), ("1", Some("b"), None)];
        let gone = gone.map(|(at, from, to)| field(&format!("egress.dlp_allow.{at}"), from, to));
        assert!(!lets_more(&gone, &app), "one that goes moves the next");
        let mut app = app;
        app.identity.fingerprint = None;
        let path = field("git.app.key_path", Some("sha256:1"), Some("sha256:2"));
        assert!(lets_more(&[path], &app), "nobody knows which key it is");
    }

    fn field(path: &str, from: Option<&str>, to: Option<&str>) -> FieldChange {
        let [from, to] = [from, to].map(|text| text.map(str::to_owned));
        FieldChange { path: path.to_owned(), from, to }
    }
}
