//! `agents/<name>.md` and `bottle.yaml`: what runs in a bottle, and what holds for a tree.

use std::sync::Arc;

use super::bottle::{AskedBackend, backends};
use super::field::{Field, Section, shorten};
use super::guard::Guard;
use super::host;
use super::keys::{Key, Shape, Table};
use super::proxy;
use super::snapshots;
use super::source::{Findings, Span};
use super::yaml::Value;
use crate::model::policy::Proxy;
use crate::model::{BackendKind, Bounds, OwnerId, Restart, SandboxId};

/// What editors show beside a key that Claude Code documents for its sub-agents
/// (code.claude.com/docs/en/sub-agents, "Supported frontmatter fields") and `bottle` does not read.
const CLAUDE_CODE: &str = "read by Claude Code; `bottle` accepts and ignores it";

/// Keys of Claude Code that promise a limit. `bottle` does not keep it, and says so.
pub(super) const NOT_ENFORCED: [&str; 6] =
    ["tools", "disallowedTools", "permissionMode", "maxTurns", "hooks", "isolation"];

const SKILL: &str = "^[A-Za-z0-9][A-Za-z0-9._-]*$";

/// Names with commas between them, as Claude Code also takes them.
const SKILLS: &str = "^[ ,]*([A-Za-z0-9][A-Za-z0-9._-]*( *, *|[ ,]*$))*$";

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
            Shape::Either(&[Shape::List(&Shape::Text(Some(SKILL))), Shape::Text(Some(SKILLS))]),
            "folders in skills/ of the tree, else in ~/.claude/skills/: a list, or `review, lint`",
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
        Key::new(
            "was",
            Shape::Text(Some("^[a-z][a-z0-9-]*$")),
            "the name that this agent had: its sandbox is renamed and keeps everything",
        ),
        Key::foreign("name", CLAUDE_CODE),
        Key::foreign_text("description", CLAUDE_CODE),
        Key::foreign_text("tools", CLAUDE_CODE),
        Key::foreign_text("disallowedTools", CLAUDE_CODE),
        Key::foreign("model", CLAUDE_CODE),
        Key::foreign("permissionMode", CLAUDE_CODE),
        Key::foreign("maxTurns", CLAUDE_CODE),
        Key::foreign("mcpServers", CLAUDE_CODE),
        Key::foreign("hooks", CLAUDE_CODE),
        Key::foreign("memory", CLAUDE_CODE),
        Key::foreign("background", CLAUDE_CODE),
        Key::foreign("effort", CLAUDE_CODE),
        Key::foreign("isolation", CLAUDE_CODE),
        Key::foreign("color", CLAUDE_CODE),
        Key::foreign_text("initialPrompt", CLAUDE_CODE),
        Key::idle("category"),
        Key::idle("allowedTools"),
        Key::idle("type"),
        Key::idle("version"),
        Key::idle("author"),
        Key::idle("tags"),
        Key::idle("emoji"),
        Key::idle("vibe"),
        Key::idle("expertise_level"),
    ],
    removed: &[],
    instead: &[
        ("prompt", "write the prompt below the front matter"),
        ("system_prompt", "write the prompt below the front matter"),
        ("sandbox", "use `bottle`: the name of a file in bottles/"),
    ],
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
        Key::new(
            "snapshots",
            snapshots::SHAPE,
            "how much of the work of sandboxes that go is kept, or `off`",
        ),
        Key::new(
            "notify",
            Shape::List(&Shape::Text(None)),
            "a program that `watch` runs for each new request of an agent, told of it on stdin",
        ),
        Key::new(
            "proxy",
            Shape::Section(&proxy::TABLE),
            "the proxy by which sandboxes reach what they may, where this network has one",
        ),
    ],
    removed: &[],
    instead: &[
        (
            "services",
            "write one file in bottles/ for each kind of sandbox, and one in agents/ for each of them",
        ),
        ("version", "leave it out"),
        (
            "networks",
            "use `egress.allowlist` in the bottle: without one, a sandbox reaches nothing",
        ),
        ("volumes", "use `workspace` and `keep` in the bottle"),
        (
            "overlays",
            "a bottle says `overlay: true`, and `--overlay DIR` names the project's folder",
        ),
        ("https_proxy", "use `proxy: {url: …}`"),
        ("http_proxy", "use `proxy: {url: …}`"),
        ("no_proxy", "write it below `proxy`"),
    ],
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
    /// The name that it had, and where that stands.
    pub(super) was: Option<(SandboxId, Span)>,
    /// Which of [`NOT_ENFORCED`] the file has, and which keys that nobody reads.
    pub(super) told: Vec<&'static str>,
}

/// Reads an agent's front matter.
pub(super) fn read(section: &Section<'_>, findings: &mut Findings<'_>) -> Agent {
    for foreign in TABLE.foreign() {
        section.ignore(foreign);
    }
    let told = NOT_ENFORCED.into_iter().chain(TABLE.idle());
    let told = told.filter(|key| section.has(key)).collect();
    if let Some(field) = section.get("memory")
        && is_amount(&field.node.value)
    {
        let told = "`memory` of an agent is a key of Claude Code, and limits nothing";
        findings.add(field.warning(told).hint("write `resources: {memory: …}` in the bottle"));
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
        if matches!(&field.node.value, Value::List(items) if items.is_empty()) {
            findings.add(field.error("`run` names no program").hint("leave it out for `[claude]`"));
        }
        run
    });
    let was = section.get("was").and_then(|field| {
        let text = field.word(findings)?;
        let name = SandboxId::new(text).map_err(|_| {
            let problem = field.refused(text, "is not the name of a sandbox");
            findings.add(problem.hint(
                "write the name that the file of this agent had, without `.md`: [a-z][a-z0-9-]*, at most 63 \
                 characters",
            ));
        });
        Some((name.ok()?, field.span()))
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
        was,
        told,
    }
}

/// Whether somebody means so many bytes.
fn is_amount(value: &Value) -> bool {
    match value {
        Value::Number(_) => true,
        Value::Text(text) => {
            let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
            digits.len() < text.len() && digits.parse::<f64>().is_ok()
        }
        _ => false,
    }
}

/// A list of names, or a text with commas between them.
fn skills(field: &Field<'_>, findings: &mut Findings<'_>) -> Vec<Named> {
    let mut skills: Vec<Named> = Vec::new();
    if let Value::Text(text) = &field.node.value {
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            skill(field, name, &mut skills, findings);
        }
        return skills;
    }
    for (index, node) in field.list(findings).unwrap_or_default().iter().enumerate() {
        let item = field.item(index, node);
        if let Some(name) = item.word(findings) {
            skill(&item, name, &mut skills, findings);
        }
    }
    skills
}

fn skill(field: &Field<'_>, name: &str, skills: &mut Vec<Named>, findings: &mut Findings<'_>) {
    let plain = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && name.len() <= 100;
    if !plain {
        let problem = field.error(format!("`{}` is not the plain name of a skill", shorten(name)));
        findings.add(
            problem.hint("expected letters, digits, `.`, `_` and `-`, a letter or digit first"),
        );
    } else if skills.iter().any(|known| known.name == name) {
        findings.add(field.warning(format!("the skill `{name}` stands here twice")));
    } else {
        skills.push(Named { name: name.to_owned(), span: field.span() });
    }
}

/// What `bottle.yaml` says.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) name: Option<OwnerId>,
    pub(super) backend: Option<BackendKind>,
    pub(super) network_pool: Option<String>,
    /// `None`: `off`.
    pub(super) snapshots: Option<Bounds>,
    pub(super) proxy: Option<Arc<Proxy>>,
    pub(super) notify: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        let snapshots = Some(Bounds::default());
        let notify = Vec::new();
        Self { name: None, backend: None, network_pool: None, snapshots, proxy: None, notify }
    }
}

/// Reads `bottle.yaml`.
pub(super) fn settings(
    section: &Section<'_>,
    guard: &Guard<'_>,
    findings: &mut Findings<'_>,
) -> Settings {
    let name = section.get("name").and_then(|field| {
        let text = field.word(findings)?;
        OwnerId::new(text).map_err(|error| findings.add(field.error(error.to_string()))).ok()
    });
    let backend = section.get("backend").and_then(|field| field.choice(&backends(), findings));
    let network_pool = section.get("network_pool").and_then(|field| {
        let text = field.word(findings)?;
        let checked = host::cidr(text).and_then(|(address, length)| {
            if address.is_ipv4()
                && (host::is_private(address, length) || host::is_benchmark(address, length))
                && length <= 24
            {
                Ok(text.to_owned())
            } else {
                Err("is not a private IPv4 range, or one in 198.18.0.0/15, of at least a /24"
                    .to_owned())
            }
        });
        checked.map_err(|reason| findings.add(field.refused(text, &reason))).ok()
    });
    let backend = match backend {
        Some(AskedBackend::Fixed(kind)) => Some(kind),
        Some(AskedBackend::Auto) | None => None,
    };
    let snapshots = section
        .get("snapshots")
        .map_or(Some(Bounds::default()), |field| snapshots::read(&field, findings));
    let proxy = section.get("proxy").and_then(|field| proxy::read(&field, guard, findings));
    let notify = section.get("notify").map(|field| field.argv(findings)).unwrap_or_default();
    Settings { name, backend, network_pool, snapshots, proxy: proxy.map(Arc::new), notify }
}
