//! What an edit of the tree changes, sandbox by sandbox and field by field: it has to be what was asked, and nothing
//! else. This stands behind the editor's own look at what it wrote, and against every trick in a value.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::model::observed::VARIABLES;
use crate::model::{
    BackendKind, Desired, Diagnostic, Fields, LoadSpec, SandboxId, SandboxSpec, Severity,
};

/// A line of what changes, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Delta {
    /// `+`, `-` or `~`.
    pub sign: char,
    /// `reach`, `creds` or `machine`.
    pub what: &'static str,
    /// In words.
    pub text: String,
}

/// The fields that an edit is to change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// By their whole names, or how their names begin where they end with a `.`.
    pub fields: BTreeSet<String>,
    /// What programs in the sandbox are told of a route changes, too.
    pub variables: bool,
}

impl Expected {
    fn has(&self, path: &str) -> bool {
        let named =
            |field: &String| path == field || (field.ends_with('.') && path.starts_with(&**field));
        // What the agent is told of its machine and its policy follows from them.
        let follows = matches!(path, "supervise.machine" | "supervise.config");
        follows || self.fields.iter().any(named) || (self.variables && path == VARIABLES)
    }

    /// Those of several edits.
    pub fn extend(&mut self, other: &Self) {
        self.fields.extend(other.fields.iter().cloned());
        self.variables |= other.variables;
    }
}

/// What changed that was not to, or what did not change at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAsked {
    /// Something else.
    #[error("the edit would also change {0}: nothing was changed")]
    Also(String),
    /// Nothing at all.
    #[error("the edit would change nothing of {0}: nothing was changed")]
    Nothing(String),
    /// What the tree says does not hold then.
    #[error("{file}:{line}: {message}: nothing was changed")]
    Wrong {
        /// Where.
        file: String,
        /// In which line.
        line: usize,
        /// What is wrong.
        message: String,
    },
}

/// Compares a tree with what it would be. `expected` is by bottle; a sandbox of another one stays as it is.
///
/// # Errors
/// [`NotAsked`], with the first field that is none of those that were to change.
pub fn check(
    before: &Desired,
    after: &Desired,
    expected: &BTreeMap<String, Expected>,
) -> Result<Vec<Delta>, NotAsked> {
    // A bottle that does not validate is an error of each of its agents, too; what is wrong stands in the bottle.
    let consequence = |it: &&Diagnostic| it.file.starts_with("agents/");
    if let Some(wrong) = new_errors(before, after).min_by_key(consequence) {
        let (file, line, message) = (wrong.file.clone(), wrong.line, wrong.message.clone());
        return Err(NotAsked::Wrong { file, line, message });
    }
    let also = |what: &str| NotAsked::Also(what.to_owned());
    let names = |desired: &Desired| -> BTreeSet<SandboxId> {
        desired.sandboxes.keys().chain(desired.held.keys()).cloned().collect()
    };
    if names(before) != names(after)
        || before.held.keys().ne(after.held.keys())
        || format!("{:?}", before.agents) != format!("{:?}", after.agents)
    {
        return Err(also("which sandboxes there are"));
    }
    if before.tree.owner != after.tree.owner {
        return Err(also("bottle.yaml"));
    }
    let mut delta = Vec::new();
    let mut changed: BTreeSet<&str> = BTreeSet::new();
    for (id, old) in &before.sandboxes {
        let Some(new) = after.sandboxes.get(id) else { return Err(also(id.as_str())) };
        let (old_fields, new_fields) = (fields(old), fields(new));
        let paths: BTreeSet<&String> = old_fields.0.keys().chain(new_fields.0.keys()).collect();
        let none = Expected::default();
        let expected = expected.get(&old.bottle).unwrap_or(&none);
        for path in paths {
            let (from, to) = (old_fields.0.get(path), new_fields.0.get(path));
            if from == to {
                continue;
            }
            let shown = shown(path);
            if !expected.has(shown) {
                return Err(also(&format!("{shown} of {id}")));
            }
            if expected.fields.iter().any(|field| shown.starts_with(&**field)) {
                changed.insert(&old.bottle);
            }
            let line = told(shown, from, to);
            if !delta.contains(&line) {
                delta.push(line);
            }
        }
    }
    if let Some(bottle) = expected.keys().find(|bottle| !changed.contains(bottle.as_str())) {
        return Err(NotAsked::Nothing(format!("bottles/{bottle}.md")));
    }
    delta.retain(|line| !line.text.is_empty());
    Ok(delta)
}

/// Findings that were not there before, wherever they stand.
fn new_errors<'d>(before: &Desired, after: &'d Desired) -> impl Iterator<Item = &'d Diagnostic> {
    let key = |it: &Diagnostic| (it.file.clone(), it.message.clone(), it.field.clone());
    let known: Vec<_> = before.diagnostics.iter().map(key).collect();
    let errors = after.diagnostics.iter().filter(|it| it.severity == Severity::Error);
    errors.filter(move |it| !known.contains(&key(it)))
}

/// All that a sandbox is, by field, without the lines at which that is written.
fn fields(spec: &SandboxSpec) -> Fields {
    let mut all = spec.policy.fields();
    all.set("supervise", spec.policy.supervise.to_string());
    all.set("backend.asked", format!("{:?}", spec.backend));
    all.set("keep", spec.keep.to_string());
    all.set("suspend", spec.suspend.to_string());
    all.set("bottle", spec.bottle.clone());
    all.set("overlay", spec.overlay.clone().unwrap_or_default());
    all.set_list("run", &spec.run);
    all.set_list("command", &spec.command);
    all.set("restart", spec.restart.as_str());
    all.set("workspace", format!("{:?}", spec.workspace));
    all.set("user", format!("{:?}", spec.user));
    all.set("resources.disk", format!("{:?}", spec.resources.disk));
    all.set(
        "has",
        format!("{} {} {}", spec.network.is_some(), spec.sidecar.is_some(), spec.gate.is_some()),
    );
    let mut add = |prefix: String, fields: Fields| {
        all.0.extend(fields.0.into_iter().map(|(path, value)| (format!("{prefix}{path}"), value)));
    };
    if let Some(sidecar) = &spec.sidecar {
        add("/sidecar/".to_owned(), sidecar.content());
        add("/sidecar-made/".to_owned(), sidecar.fields.clone());
    }
    if let Some(gate) = &spec.gate {
        add("/gate/".to_owned(), LoadSpec::Gate(gate.clone()).content());
    }
    for kind in [BackendKind::Native, BackendKind::Docker, BackendKind::Smolmachines] {
        let machine = match spec.machine(kind) {
            Ok(machine) => machine.fields(),
            Err(unsuited) => {
                let mut fields = Fields::default();
                fields.set("image", unsuited.to_string());
                fields
            }
        };
        add(format!("/{kind}-machine/"), machine);
        add(format!("/{kind}-guest/"), spec.guest(kind).fields());
    }
    all
}

/// A field's name as the manifest has it.
fn shown(path: &str) -> &str {
    path.strip_prefix('/').and_then(|rest| rest.split_once('/')).map_or(path, |(_, path)| path)
}

fn told(path: &str, from: Option<&String>, to: Option<&String>) -> Delta {
    let sign = match (from, to) {
        (None, _) => '+',
        (_, None) => '-',
        _ => '~',
    };
    let value = to.or(from).cloned().unwrap_or_default();
    let change = match (from, to) {
        (Some(from), Some(to)) => format!("{from} → {to}"),
        _ => value.clone(),
    };
    let delta = |what, text| Delta { sign, what, text };
    if let Some(host) = path.strip_prefix("egress.allowlist.") {
        // Entries of one host add up: what is added to it is what is new.
        let added = match (from, to) {
            (Some(from), Some(to)) => to.strip_prefix(&format!("{from}; ")).map(str::to_owned),
            _ => None,
        };
        let sign = if added.is_some() { '+' } else { sign };
        let conditions = added.unwrap_or(change).replacen(" on ", " ", 1);
        return Delta { sign, what: "reach", text: format!("{host} {conditions}") };
    }
    if let Some(route) = path.strip_prefix("cred_proxy.routes.") {
        return match route.rsplit_once('.') {
            Some((route, "upstream")) => delta("creds", format!("{route} → {change}")),
            Some((route, "token_ref")) => {
                delta("creds", format!("{route} with the token {change}"))
            }
            _ => delta("creds", String::new()),
        };
    }
    if path == VARIABLES || path.starts_with("supervise.") {
        return delta("machine", String::new());
    }
    delta("machine", format!("{path} {change}"))
}
