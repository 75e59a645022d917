//! `bottle plan`: what `apply` would do.

use super::args::{Global, PlanArgs};
use super::error::{CliError, Exit};
use super::ui::Ui;
use super::{look, report, saved, setup};

pub(super) async fn run(ui: &Ui, global: &Global, args: &PlanArgs) -> Result<Exit, CliError> {
    let load = setup::load_options(global, args.path.as_deref(), &args.look.read)?;
    let options = setup::options(&args.select)?;
    // A saved plan is of this state folder; one that is only shown leaves nothing behind.
    let reconciler = match args.out {
        Some(_) => setup::reconciler(load, &args.look, args.select.jobs)?,
        None => setup::onlooker(load, &args.look, args.select.jobs)?,
    };
    let mut view = reconciler.look(options).await?;
    // What `apply` refuses is no plan.
    reconciler.state.speaks_for(&view.desired.tree.owner, &view.desired.tree.path)?;
    setup::check_only(&view.options, &view.desired, &view.observed)?;
    reconciler.inspect(&mut view).await;
    if let Some(file) = &args.out {
        saved::write(file, global, &reconciler, &view)?;
    }
    if ui.json() {
        ui.document(&view.document())?;
    } else {
        ui.data(&look::text(ui, &view, args.diff))?;
    }
    if let Some(file) = args.out.as_ref().filter(|_| !view.plan.is_empty()) {
        ui.say(&format!("saved; `bottle apply {}` carries it out", file.display()));
    }
    Ok(if !view.plan.is_empty() || view.plan.refused.is_some() {
        Exit::Changes
    } else if report::holds(&view.plan) > 0 {
        Exit::Partly
    } else {
        Exit::Done
    })
}
