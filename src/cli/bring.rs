//! `bottle sync --files`: brings what an agent changed into the folder that its workspace is a copy of. It shows
//! what that is, and asks.

use std::sync::Arc;

use super::args::{Global, SyncArgs};
use super::diff::{alone, compare, is_mounted, show};
use super::error::{CliError, Exit, Kind};
use super::target::Target;
use super::text::plural;
use super::ui::Ui;
use super::{prompt, signals};
use crate::model::text::harmless_line;

pub(super) async fn run(ui: &Arc<Ui>, global: &Global, args: &SyncArgs) -> Result<Exit, CliError> {
    let target = Target::find(global, &args.name).await?;
    if is_mounted(ui, &target) {
        return Ok(Exit::Done);
    }
    let compared = compare(&target).await?;
    let source = compared.source.as_path();
    let failed = |error: anyhow::Error| {
        let what = format!("bringing what {} changed into {}", args.name, source.display());
        CliError::new(Kind::Failed, error.context(what))
            .hint("`bottle cp` brings the files beside yours")
    };
    let files = compared.differ.files().await.map_err(failed)?;
    show(ui, &target, &compared, false).await?;
    if files.is_empty() {
        return Ok(compared.exit());
    }
    let what = plural(files.len(), "file", "files");
    if !args.yes {
        if !ui.can_ask() {
            let error = CliError::refused("there is no terminal to ask on; nothing was changed");
            return Err(error.hint("`--yes` does not ask"));
        }
        let stop = signals::listen(ui)?;
        let question = format!("Change {what} in {}?", source.display());
        if !prompt::confirm(ui, &stop, &harmless_line(&question)).await? {
            return Err(CliError::refused("nothing was changed"));
        }
    }
    // Somebody may have taken their time to answer.
    alone(&target, source, &compared.inside)?;
    compared.differ.apply(source).await.map_err(failed)?;
    ui.say(&harmless_line(&format!("{what} changed in {}", source.display())));
    Ok(compared.exit())
}
