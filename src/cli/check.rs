//! `bottle check`: everything that is wrong with a tree, at once.

use serde_json::json;

use super::args::{CheckArgs, Global};
use super::error::{CliError, Exit};
use super::render;
use super::setup;
use super::text::plural;
use super::ui::{Ui, paint, style};
use crate::manifest;
use crate::model::{AgentsFolder, Desired, Severity};
use crate::reconcile::sidecars;

pub(super) async fn run(ui: &Ui, global: &Global, args: &CheckArgs) -> Result<Exit, CliError> {
    let options = setup::load_options(global, args.path.as_deref(), &args.read)?;
    let mut desired = manifest::load(&options).map_err(anyhow::Error::from)?;
    sidecars::check_rules(&mut desired);
    let count = |severity| desired.diagnostics.iter().filter(|d| d.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    if ui.json() {
        ui.document(&json!({
            "version": 1,
            "tree": { "name": desired.tree.owner.as_str(), "path": desired.tree.path },
            "agents": desired.sandboxes.keys().chain(desired.held.keys()).collect::<Vec<_>>(),
            "held": desired.held.keys().collect::<Vec<_>>(),
            "diagnostics": desired.diagnostics,
            "summary": { "errors": errors, "warnings": warnings },
        }))?;
    } else {
        ui.data(&text(&desired, errors, warnings, ui.width()))?;
    }
    Ok(if errors > 0 { Exit::Failed } else { Exit::Done })
}

fn text(desired: &Desired, errors: usize, warnings: usize, width: usize) -> String {
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
