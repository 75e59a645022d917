//! `bottle plan`: what `apply` would do.

use super::args::{Global, PlanArgs};
use super::error::{CliError, Exit};
use super::saved::Saved;
use super::ui::Ui;
use super::{look, report, setup};

pub(super) async fn run(ui: &Ui, global: &Global, args: &PlanArgs) -> Result<Exit, CliError> {
    let load = setup::load_options(global, args.path.as_deref(), &args.look.read)?;
    let options = setup::options(&args.select)?;
    let reconciler = setup::reconciler(global, load, &args.look, args.select.jobs)?;
    let view = reconciler.look(options).await?;
    look::refuse_broken_tree(&view.desired)?;
    setup::check_only(&view.options, &view.desired, &view.observed)?;
    if let Some(file) = &args.out {
        Saved::new(global, &reconciler, &view)?.write(file)?;
    }
    if ui.json() {
        ui.document(&look::json(&view)?)?;
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
