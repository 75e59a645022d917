//! Why resources change, in a few words each. Pure.

use std::collections::BTreeMap;

use super::diff::FileDiff;
use super::document::PlanDocument;
use super::{Change, Reason, Verdict};
use crate::model::{Diagnostic, FieldChange, ResourceKind, Severity};

/// What stands behind the place of a finding that is drawn below the plan.
pub const BELOW: &str = " (below)";

/// What is known beside the plan.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    /// What a new sandbox is, by name: `bottle dev, image node:22-slim`.
    pub about: &'a BTreeMap<String, String>,
    /// How files of guests change.
    pub diffs: &'a [FileDiff],
    /// Everything goes, whatever the tree says.
    pub down: bool,
}

/// Why sandboxes are not as they should be, by name: for `status`.
#[must_use]
pub fn drifts(document: &PlanDocument, around: Around<'_>) -> BTreeMap<String, Vec<String>> {
    let mut drifts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for change in &document.changes {
        let parts = drifts.entry(change.sandbox.to_string()).or_default();
        for part in reasons(change, document, around) {
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
    }
    drifts
}

/// Why one resource changes, in a few words each.
#[must_use]
pub fn reasons(change: &Change, document: &PlanDocument, around: Around<'_>) -> Vec<String> {
    let resource = change.resource;
    let one = |text: &str| vec![text.to_owned()];
    match &change.reason {
        Reason::NotFound if resource == ResourceKind::Machine => {
            around.about.get(change.sandbox.as_str()).cloned().into_iter().collect()
        }
        Reason::NotFound if stays(change, document) => {
            vec![format!("the {resource} is missing: is made again")]
        }
        Reason::NotFound | Reason::UpToDate | Reason::StandsOnReplaced { .. } => Vec::new(),
        Reason::SpecChanged => fields(change, around),
        Reason::NotRunning { .. } if resource == ResourceKind::Guest => fields(change, around),
        Reason::NotRunning { state } => {
            let mut parts = match change.verdict {
                Verdict::Replace => vec![format!("the {resource} is {state}")],
                _ if resource != ResourceKind::Machine => {
                    vec![format!("the {resource} is {state}: is started again")]
                }
                _ => vec![format!("{state}: is started again")],
            };
            parts.extend(fields(change, around));
            parts
        }
        Reason::Duplicate { keeps } => {
            let short = keeps.get(..12).unwrap_or(keeps);
            vec![format!("a duplicate {resource} goes; {short} stays")]
        }
        Reason::NotDeclared { .. } if around.down => Vec::new(),
        Reason::NotDeclared { file } if resource == ResourceKind::Machine => {
            vec![format!("{file} is gone")]
        }
        Reason::NotDeclared { .. } => Vec::new(),
        Reason::ManifestInvalid { message } => {
            let shown = document
                .diagnostics
                .iter()
                .find(|d| *message == format!("{}:{}:{}: {}", d.file, d.line, d.column, d.message));
            let shown = shown.map(|found| cause(found, &document.diagnostics));
            vec![shown.map_or_else(|| message.clone(), |d| format!("{}{BELOW}", position(d)))]
        }
        Reason::BackendUnreachable { backend, .. } => {
            vec![format!("{backend} cannot be reached (below)")]
        }
        Reason::HashMissing if resource == ResourceKind::Guest => {
            one("what is inside is not known: is put in again")
        }
        Reason::HashMissing => vec![format!("what the {resource} was made from is not known")],
        Reason::ResolvesElsewhere { file, line, field, text, accepted, now } => vec![
            format!(
                "{file}:{line}: `{field}: {text}` was {accepted} when this machine was made, and \
                 leads to {now} now: nothing is touched"
            ),
            format!(
                "put {accepted} back, or write {now} there if that is meant (the machine is then \
                 made anew), or `bottle down {}` first",
                change.sandbox
            ),
        ],
        Reason::Unreadable { what } => vec![format!(
            "{what}; `--replace-unknown {}` gives it up and makes it anew",
            change.sandbox
        )],
        Reason::Elsewhere { on } => vec![format!("the {resource} goes; the sandbox is on {on}")],
        Reason::NeedsInput { names, .. } => {
            vec![format!("waits for a value of {}", names.join(", "))]
        }
        Reason::Renamed { was } => {
            let mut parts = vec![format!("was {was}; keeps everything")];
            parts.extend(fields(change, around).into_iter().skip(1));
            parts
        }
        Reason::Impossible { why } => one(why),
        Reason::Suspended => one("suspended"),
        Reason::Stopped if change.verdict != Verdict::Reprovision => Vec::new(),
        Reason::Stopped if resource == ResourceKind::Machine => {
            one("you stopped it, and it runs: is stopped again")
        }
        Reason::Stopped => vec![format!("you stopped it, and its {resource} runs: is stopped")],
        Reason::Restart => {
            let mut parts = vec!["is stopped and started again".to_owned()];
            parts.extend(fields(change, around));
            parts
        }
        Reason::Conflict { name, holder } => vec![format!("{name} is taken by {holder}")],
    }
}

/// The finding that is drawn for this one: of what only repeats another file's, the first of that file.
fn cause<'d>(found: &'d Diagnostic, all: &'d [Diagnostic]) -> &'d Diagnostic {
    let file = found.cause.as_deref();
    let of_cause = |one: &&Diagnostic| {
        one.severity == Severity::Error && file.is_some_and(|file| one.file == file)
    };
    all.iter().find(of_cause).unwrap_or(found)
}

/// Whether this is a part of a sandbox whose machine stays.
fn stays(change: &Change, document: &PlanDocument) -> bool {
    document.changes.iter().any(|other| {
        other.sandbox == change.sandbox
            && other.resource == ResourceKind::Machine
            && matches!(other.verdict, Verdict::Keep | Verdict::Reprovision)
    })
}

/// What changes, field by field; of files how many lines.
fn fields(change: &Change, around: Around<'_>) -> Vec<String> {
    let files = |prefix: &str| {
        let mut found = around
            .diffs
            .iter()
            .filter(|d| d.sandbox == change.sandbox && d.path.starts_with(prefix))
            .peekable();
        found.peek()?;
        let (mut added, mut removed) = (0, 0);
        for file in found {
            file.unified.as_ref()?;
            added += file.added;
            removed += file.removed;
        }
        (added + removed > 0).then(|| format!(" +{added} −{removed} lines"))
    };
    let guest = change.resource == ResourceKind::Guest;
    let keyed = |value: &str| value.starts_with("hmac:");
    let one = |field: &FieldChange| match field.path.as_str() {
        "prompt" if guest => {
            format!("prompt{}", files("prompt.md").unwrap_or_else(|| " changed".to_owned()))
        }
        path if guest && path.starts_with("skills.") => {
            let name = &path["skills.".len()..];
            match (&field.from, &field.to) {
                (None, _) => format!("skill {name} added"),
                (_, None) => format!("skill {name} removed"),
                _ => {
                    let lines = files(&format!("skills/{name}/"));
                    format!("skill {name}{}", lines.unwrap_or_else(|| " changed".to_owned()))
                }
            }
        }
        path if guest && path.starts_with("env.") => {
            let name = &path["env.".len()..];
            match (field.from.as_deref(), field.to.as_deref()) {
                (_, Some(ASKED)) => format!("{name} is asked for"),
                (Some(ASKED), None) => format!("{name} is no longer asked for"),
                (Some(from), Some(to)) if keyed(from) && keyed(to) => {
                    format!("the value of {name} changed")
                }
                _ => field_text(field),
            }
        }
        path if path.starts_with("decision ") => {
            format!("{path}: {}", field.to.as_deref().unwrap_or("none"))
        }
        "requests" => match &field.to {
            Some(muted) => format!("requests {muted}"),
            None => "requests are taken again".to_owned(),
        },
        path => match (path.strip_prefix("cred_proxy."), &field.from, &field.to) {
            (Some(name), Some(from), Some(to)) if keyed(from) && keyed(to) => {
                format!("the value of {name} changed")
            }
            _ => field_text(field),
        },
    };
    change.fields.iter().map(one).collect()
}

/// What stands in a guest's fields for a value that is asked for.
const ASKED: &str = "asked for";

fn position(diagnostic: &Diagnostic) -> String {
    match diagnostic.line {
        0 => diagnostic.file.clone(),
        line => format!("{}:{line}:{}", diagnostic.file, diagnostic.column),
    }
}

/// How a change of a field reads: `resources.memory 1G → 2G`.
fn field_text(change: &FieldChange) -> String {
    let short = |value: &Option<String>| match value.as_deref() {
        None => "none".to_owned(),
        Some(text) if text.chars().count() > 40 => {
            format!("{}…", text.chars().take(28).collect::<String>())
        }
        Some(text) => text.to_owned(),
    };
    format!("{} {} → {}", change.path, short(&change.from), short(&change.to))
}
