//! Unified diffs of what is put into guests: prompts and skill files.

use std::borrow::Cow;
use std::collections::BTreeMap;

use similar::{ChangeTag, TextDiff};

use super::{Action, Plan};
use crate::model::{GuestSpec, SandboxId, SkillNode, SpecHash};

/// Longest text that is diffed line by line, in bytes.
pub const MAX_TEXT: usize = 64 << 10;

/// How one file of a guest changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDiff {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// `prompt.md`, or `skills/<name>/<path>`.
    pub path: String,
    /// Lines that come.
    pub added: usize,
    /// Lines that go.
    pub removed: usize,
    /// The unified diff; `None` where a side is not text, too long, or no longer known.
    pub unified: Option<String>,
}

/// The files that a guest consists of, with their content; of a symlink the words of [`symlink`].
#[must_use]
pub fn files(guest: &GuestSpec) -> BTreeMap<String, Cow<'_, [u8]>> {
    let prompt = Cow::Borrowed(guest.prompt.as_bytes());
    let mut files = BTreeMap::from([("prompt.md".to_owned(), prompt)]);
    for (name, skill) in &guest.skills {
        for entry in skill.entries() {
            let content = match &entry.node {
                SkillNode::Folder => continue,
                SkillNode::File(bytes) => Cow::Borrowed(&bytes[..]),
                SkillNode::Symlink(target) => Cow::Owned(symlink(target.as_bytes())),
            };
            files.insert(format!("skills/{name}/{}", entry.path), content);
        }
    }
    files
}

/// What stands for a symlink where a file's content would: what a person reads in a diff, and what its
/// record is the hash of.
#[must_use]
pub fn symlink(target: &[u8]) -> Vec<u8> {
    [b"symlink to ", target, b"\n"].concat()
}

/// The hashes of old contents that [`diffs`] would want.
#[must_use]
pub fn wanted(plan: &Plan) -> Vec<SpecHash> {
    priors(plan).flat_map(|(_, _, prior)| prior.values().copied()).collect()
}

fn priors(
    plan: &Plan,
) -> impl Iterator<Item = (&SandboxId, &GuestSpec, &BTreeMap<String, SpecHash>)> {
    let steps = plan.steps.iter().filter(|step| step.undoes.is_empty());
    steps.filter_map(|step| match &step.action {
        Action::Provision { guest, prior: Some(prior), .. } => {
            Some((&guest.sandbox, guest.as_ref(), &prior.files))
        }
        _ => None,
    })
}

/// How the files of every reprovisioned guest change; `old` holds the contents that are known.
#[must_use]
pub fn diffs(plan: &Plan, old: &BTreeMap<SpecHash, String>) -> Vec<FileDiff> {
    let mut diffs = Vec::new();
    for (sandbox, guest, before) in priors(plan) {
        let after = files(guest);
        let mut paths: Vec<&String> = before.keys().chain(after.keys()).collect();
        paths.sort();
        paths.dedup();
        for path in paths {
            let now = after.get(path).map(|content| &content[..]);
            let then = before.get(path);
            if now.map(SpecHash::of_bytes) == then.copied() {
                continue;
            }
            let then = then.map_or(Some(""), |hash| old.get(hash).map(String::as_str));
            diffs.push(diff(sandbox, path, then, now.map_or(Some(""), as_text)));
        }
    }
    diffs
}

/// Bytes as text, where they are text that a person would read.
#[must_use]
pub fn as_text(bytes: &[u8]) -> Option<&str> {
    if bytes.len() > MAX_TEXT || bytes.contains(&0) {
        return None;
    }
    std::str::from_utf8(bytes).ok()
}

fn diff(sandbox: &SandboxId, path: &str, then: Option<&str>, now: Option<&str>) -> FileDiff {
    let mut file = FileDiff {
        sandbox: sandbox.clone(),
        path: path.to_owned(),
        added: 0,
        removed: 0,
        unified: None,
    };
    let (Some(then), Some(now)) = (then, now) else { return file };
    let diff = TextDiff::from_lines(then, now);
    for change in diff.iter_all_changes() {
        match change.tag() {
            ChangeTag::Insert => file.added += 1,
            ChangeTag::Delete => file.removed += 1,
            ChangeTag::Equal => {}
        }
    }
    let mut unified = diff.unified_diff();
    let name = format!("{sandbox}/{path}");
    file.unified = Some(
        unified.context_radius(3).missing_newline_hint(false).header(&name, &name).to_string(),
    );
    file
}
