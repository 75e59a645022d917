//! `bottle status`: every sandbox, declared or existing.

use std::collections::BTreeSet;

use super::args::{Global, LookArgs, StatusArgs};
use super::error::{CliError, Exit};
use super::ui::Ui;
use super::{setup, status_text};
use crate::model::SandboxId;
use crate::reconcile::state::now;
use crate::reconcile::status::{self, NoSandbox};

pub(super) async fn run(ui: &Ui, global: &Global, args: &StatusArgs) -> Result<Exit, CliError> {
    let only: BTreeSet<SandboxId> = args
        .only
        .iter()
        .map(|name| SandboxId::new(name.as_str()).map_err(|e| anyhow::Error::from(e).into()))
        .collect::<Result<_, CliError>>()?;
    let load = setup::load_options(global, args.path.as_deref(), &args.read)?;
    let reconciler = setup::onlooker(load, &LookArgs::default(), None)?;
    let status = status::newest(&reconciler, &only).await.map_err(unknown)?;
    if ui.json() {
        ui.document(&status)?;
    } else {
        ui.data(&status_text::render(&status, now(), ui.width()))?;
    }
    Ok(Exit::Done)
}

/// Says which sandboxes there are, where one was named that is not.
fn unknown(error: anyhow::Error) -> CliError {
    let Some(NoSandbox { known, .. }) = error.downcast_ref() else { return error.into() };
    let names: Vec<&str> = known.iter().map(SandboxId::as_str).collect();
    let hint = setup::there_are(&names);
    CliError::from(error).hint(hint)
}
