//! `bottle check`: everything that is wrong with a tree, at once.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;

use super::args::{CheckArgs, Global};
use super::error::{CliError, Exit};
use super::render;
use super::setup;
use super::text::{self, plural};
use super::ui::{Ui, paint, style};
use crate::apply;
use crate::manifest::{self, diagnostic};
use crate::model::{AgentsFolder, BackendChoice, Desired, Diagnostic, Severity, WorkspaceMode};
use crate::reconcile::{accepted, sidecars, values};

pub(super) async fn run(ui: &Ui, global: &Global, args: &CheckArgs) -> Result<Exit, CliError> {
    let options = setup::load_options(global, args.path.as_deref(), &args.read)?;
    if let Some(file) = &args.env_file {
        values::check_env_file(file.clone()).await?;
    }
    let mut desired = manifest::load(&options).map_err(anyhow::Error::from)?;
    sidecars::check_rules(&mut desired);
    accepted::hold_exposed(&options.state_dir, &mut desired)?;
    unsuitable(&mut desired);
    let notes = accepted::shared_notes(&options.state_dir, &desired)?;
    desired = tokio::task::spawn_blocking(move || {
        look_at_workspaces(&mut desired);
        desired
    })
    .await
    .map_err(anyhow::Error::from)?;
    let count = |severity| desired.diagnostics.iter().filter(|d| d.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    if ui.json() {
        ui.document(&json!({
            "version": 1,
            "tree": { "name": desired.tree.owner.as_str(), "path": desired.tree.path },
            "agents": desired.sandboxes.keys().chain(desired.held.keys()).collect::<Vec<_>>(),
            "held": desired.held.keys().collect::<Vec<_>>(),
            "diagnostics": desired.diagnostics,
            "notes": notes,
            "summary": { "errors": errors, "warnings": warnings },
        }))?;
    } else {
        let mut said = String::new();
        for (words, names) in text::by_note(notes.iter().map(|(n, l)| (n.as_str(), l.as_slice()))) {
            let line = format!("{}: {words}", text::some_of(&names));
            text::note(&mut said, "note:", style::HINT, &line, ui.width());
        }
        let all = &desired.diagnostics;
        let told = all.iter().filter(|one| diagnostic::is_told_by_its_cause(one, all)).count();
        ui.data(&format!("{said}{}", summary(&desired, errors - told, warnings, ui.width())))?;
    }
    Ok(if errors > 0 { Exit::Failed } else { Exit::Done })
}

/// Says what the backend of a bottle, or the one that `bottle.yaml` or `--backend` names, could not make: a new
/// sandbox of it would be held.
fn unsuitable(desired: &mut Desired) {
    let mut found: Vec<Diagnostic> = Vec::new();
    for spec in desired.sandboxes.values() {
        let (kind, by_default) = match spec.backend {
            BackendChoice::Auto { default: Some(kind) } => (kind, true),
            BackendChoice::Fixed(kind) => (kind, false),
            BackendChoice::Auto { default: None } => continue,
        };
        let Err(what) = spec.resources(kind) else { continue };
        let message = match by_default {
            true => format!("{what} ({kind} is the default backend of this tree)"),
            false => what.to_string(),
        };
        let diagnostic = Diagnostic {
            line: 1,
            column: 1,
            ..Diagnostic::error(format!("bottles/{}.md", spec.bottle), message)
        };
        if !found.contains(&diagnostic) {
            found.push(diagnostic);
        }
    }
    desired.diagnostics.extend(found);
}

/// Says what copies of workspaces would leave out.
fn look_at_workspaces(desired: &mut Desired) {
    let mut seen: BTreeMap<PathBuf, Option<String>> = BTreeMap::new();
    for (id, spec) in &desired.sandboxes {
        let Some(workspace) = &spec.workspace else { continue };
        if workspace.mode != WorkspaceMode::Copy {
            continue;
        }
        let words = seen.entry(workspace.path.clone()).or_insert_with(|| {
            match apply::survey(&workspace.path) {
                Ok(left_out) => left_out.words(),
                Err(error) => Some(format!("the workspace cannot be copied: {error:#}")),
            }
        });
        if let Some(words) = words.take() {
            let warning = Diagnostic::warning(format!("agents/{id}.md"), words);
            desired.diagnostics.push(warning.with_hint("`mode: mount` shows it as it is"));
        }
    }
}

fn summary(desired: &Desired, errors: usize, warnings: usize, width: usize) -> String {
    let mut text = render::diagnostics(&desired.diagnostics, width);
    if !text.is_empty() {
        text.push('\n');
    }
    let agents = match &desired.agents {
        AgentsFolder::Present => {
            plural(desired.sandboxes.len() + desired.held.len(), "agent", "agents")
        }
        AgentsFolder::Empty => "no agent: agents/ is empty".to_owned(),
        AgentsFolder::Missing => "no agent: there is no agents/".to_owned(),
        AgentsFolder::Unreadable(error) => format!("agents/ cannot be read: {error}"),
    };
    let (word, colour) = if errors > 0 { ("wrong:", style::ERROR) } else { ("ok:", style::GOOD) };
    text.push_str(&format!("{} tree {}, {agents}", paint(colour, word), desired.tree.owner));
    for (count, one, many) in [(errors, "error", "errors"), (warnings, "warning", "warnings")] {
        if count > 0 {
            text.push_str(&format!(", {}", plural(count, one, many)));
        }
    }
    text.push('\n');
    text
}
