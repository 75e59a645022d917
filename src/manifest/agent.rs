//! `agents/<name>.md` and `bottle.yaml`: what runs in a bottle, and what holds for a tree.

use super::bottle::{AskedBackend, backends};
use super::field::{Field, Section, shorten};
use super::host;
use super::keys::{Key, Shape, Table};
use super::source::{Findings, Span};
use crate::model::{BackendKind, OwnerId, Restart};

const SKILL: &str = "^[A-Za-z0-9][A-Za-z0-9._-]*$";

/// The keys of an agent.
pub(super) static TABLE: Table = Table {
    what: "an agent",
    keys: &[
        Key::required(
            "bottle",
            Shape::Text(Some("^[a-z][a-z0-9-]*$")),
            "the bottle that it runs in: a file in bottles/, without `.md`",
        ),
        Key::new(
            "skills",
            Shape::List(&Shape::Text(Some(SKILL))),
            "folders in skills/ of the tree, else in ~/.claude/skills/",
        ),
        Key::new(
            "command",
            Shape::List(&Shape::Text(None)),
            "the machine's main process; default: stay up and wait for `bottle run`",
        ),
        Key::new(
            "restart",
            Shape::Word(&["always", "on-failure", "never"]),
            "when `command` ends (default `on-failure`)",
        ),
        Key::new(
            "run",
            Shape::List(&Shape::Text(None)),
            "what `bottle run` starts (default `[claude]`)",
        ),
        Key::new("suspend", Shape::Flag, "leave this sandbox exactly as it is"),
        Key::new("name", Shape::Any, "ignored: for Claude Code"),
        Key::new("description", Shape::Any, "ignored: for Claude Code"),
        Key::new("model", Shape::Any, "ignored: for Claude Code"),
        Key::new("color", Shape::Any, "ignored: for Claude Code"),
        Key::new("memory", Shape::Any, "ignored: for Claude Code"),
    ],
    removed: &[],
};

/// The keys of `bottle.yaml`.
pub(super) static SETTINGS: Table = Table {
    what: "bottle.yaml",
    keys: &[
        Key::new(
            "name",
            Shape::Text(Some("^[a-z][a-z0-9-]*$")),
            "whose everything is that this tree makes; default: a digest of its path",
        ),
        Key::new(
            "backend",
            Shape::Word(&["auto", "native", "docker", "smolmachines"]),
            "what `backend: auto` means in bottles",
        ),
        Key::new(
            "network_pool",
            Shape::Text(None),
            "the private range that sandboxes' networks are cut from: `10.213.0.0/16`",
        ),
    ],
    removed: &[],
};

/// A name in an agent's file, and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) span: Span,
}

/// An agent's front matter.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) bottle: Option<Named>,
    pub(super) skills: Vec<Named>,
    pub(super) command: Vec<String>,
    pub(super) restart: Restart,
    pub(super) run: Vec<String>,
    pub(super) suspend: bool,
}

/// Reads an agent's front matter.
pub(super) fn read(section: &Section<'_>, findings: &mut Findings<'_>) -> Agent {
    for ignored in ["name", "description", "model", "color", "memory"] {
        section.ignore(ignored);
    }
    let bottle = section.get("bottle").and_then(|field| {
        let name = field.word(findings)?.to_owned();
        Some(Named { name, span: field.span() })
    });
    let restarts = [
        ("always", Restart::Always),
        ("on-failure", Restart::OnFailure),
        ("never", Restart::Never),
    ];
    let run = section.get("run").map(|field| {
        let run = field.argv(findings);
        if matches!(&field.node.value, super::yaml::Value::List(items) if items.is_empty()) {
            findings.add(field.error("`run` names no program").hint("leave it out for `[claude]`"));
        }
        run
    });
    Agent {
        bottle,
        skills: section.get("skills").map(|f| skills(&f, findings)).unwrap_or_default(),
        command: section.get("command").map(|f| f.argv(findings)).unwrap_or_default(),
        restart: section
            .get("restart")
            .and_then(|field| field.choice(&restarts, findings))
            .unwrap_or(Restart::OnFailure),
        run: run.unwrap_or_else(|| vec!["claude".to_owned()]),
        suspend: section.get("suspend").and_then(|f| f.flag(findings)).unwrap_or(false),
    }
}

fn skills(field: &Field<'_>, findings: &mut Findings<'_>) -> Vec<Named> {
    let mut skills: Vec<Named> = Vec::new();
    for (index, node) in field.list(findings).unwrap_or_default().iter().enumerate() {
        let item = field.item(index, node);
        let Some(text) = item.word(findings) else { continue };
        let plain = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && text.len() <= 100;
        if !plain {
            let problem =
                item.error(format!("`{}` is not the plain name of a skill", shorten(text)));
            findings.add(
                problem.hint("expected letters, digits, `.`, `_` and `-`, a letter or digit first"),
            );
        } else if skills.iter().any(|known| known.name == text) {
            findings.add(item.warning(format!("the skill `{text}` stands here twice")));
        } else {
            skills.push(Named { name: text.to_owned(), span: node.span });
        }
    }
    skills
}

/// What `bottle.yaml` says.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) name: Option<OwnerId>,
    pub(super) backend: Option<BackendKind>,
    pub(super) network_pool: Option<String>,
}

/// Reads `bottle.yaml`.
pub(super) fn settings(section: &Section<'_>, findings: &mut Findings<'_>) -> Settings {
    let name = section.get("name").and_then(|field| {
        let text = field.word(findings)?;
        OwnerId::new(text).map_err(|error| findings.add(field.error(error.to_string()))).ok()
    });
    let backend = section.get("backend").and_then(|field| field.choice(&backends(), findings));
    let network_pool = section.get("network_pool").and_then(|field| {
        let text = field.word(findings)?;
        let checked = host::cidr(text).and_then(|(address, length)| {
            if address.is_ipv4() && host::is_private(address, length) && length <= 24 {
                Ok(text.to_owned())
            } else {
                Err("is not a private IPv4 range of at least a /24".to_owned())
            }
        });
        checked.map_err(|reason| findings.add(field.refused(text, &reason))).ok()
    });
    let backend = match backend {
        Some(AskedBackend::Fixed(kind)) => Some(kind),
        Some(AskedBackend::Auto) | None => None,
    };
    Settings { name, backend, network_pool }
}
