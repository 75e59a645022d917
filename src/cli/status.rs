//! `bottle status`: every sandbox, declared or existing.

use std::collections::BTreeSet;

use super::args::{Global, LookArgs, StatusArgs, WhichArgs};
use super::error::{CliError, Exit};
use super::ui::Ui;
use super::{setup, status_text};
use crate::model::SandboxId;
use crate::reconcile::Reconciler;
use crate::reconcile::state::now;
use crate::reconcile::status::{self, NoSandbox, Status};

pub(super) async fn run(ui: &Ui, global: &Global, args: &StatusArgs) -> Result<Exit, CliError> {
    let only = only(&args.which)?;
    let load = setup::load_options(global, args.which.path.as_deref(), &args.which.read)?;
    let reconciler = setup::onlooker(load, &LookArgs::default(), None)?;
    let status = newest(&reconciler, &only).await?;
    if ui.json() {
        ui.document(&status)?;
    } else {
        ui.data(&status_text::render(&status, now(), ui.width(), args.wide))?;
    }
    Ok(Exit::Done)
}

/// The sandboxes that are named.
pub(super) fn only(args: &WhichArgs) -> Result<BTreeSet<SandboxId>, CliError> {
    let id =
        |name: &String| SandboxId::new(name.as_str()).map_err(|e| anyhow::Error::from(e).into());
    args.only.iter().map(id).collect()
}

/// How they stand now. Says which sandboxes there are, where one was named that is not.
pub(super) async fn newest(
    reconciler: &Reconciler,
    only: &BTreeSet<SandboxId>,
) -> Result<Status, CliError> {
    status::newest(reconciler, only).await.map_err(|error| {
        let Some(NoSandbox { known, .. }) = error.downcast_ref() else { return error.into() };
        let names: Vec<&str> = known.iter().map(SandboxId::as_str).collect();
        let hint = setup::there_are(&names);
        CliError::from(error).hint(hint)
    })
}
