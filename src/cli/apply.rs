//! `bottle apply`: shows the plan, asks, does it, reports.

use std::sync::Arc;
use std::time::Duration;

use super::args::{ApplyArgs, Global};
use super::documents::ReportDocument;
use super::error::{CliError, Exit};
use super::progress::Progress;
use super::saved::Saved;
use super::ui::{Ui, harmless};
use super::{look, prompt, render, report, setup, signals, text};
use crate::apply::{Report, Stop};
use crate::model::{Desired, OwnerId};
use crate::plan::{Options, Order};
use crate::reconcile::{Ahead, Lock, Locked, Reconciler, TreeState, View};

pub(super) async fn run(ui: &Arc<Ui>, global: &Global, args: &ApplyArgs) -> Result<Exit, CliError> {
    let stop = signals::listen(ui)?;
    let saved = match &args.path {
        Some(path) => Saved::read(path)?,
        None => None,
    };
    let (global, look_args, select) = match &saved {
        Some(saved) => saved.restore(global, &args.look, &args.select)?,
        None => (global.clone(), args.look.clone(), args.select.clone()),
    };
    let positional = args.path.as_deref().filter(|_| saved.is_none());
    let load = setup::load_options(&global, positional, &look_args.read)?;
    let mut options = setup::options(&select)?;
    if args.start {
        options.order = Order::Start;
    }
    let mut reconciler = setup::reconciler(load, &look_args, select.jobs)?;

    let adopt = args.lock.adopt;
    let patience = Duration::from_secs(args.lock.lock_timeout);
    let (_lock, mut view) = match signals::or_stop(&stop, known(&reconciler)).await? {
        Some((lock, desired, ahead)) => {
            reconciler.state.claim(&desired.tree.owner, &desired.tree.path, adopt)?;
            let looking =
                async { Ok(reconciler.look_with(desired, options.clone(), ahead).await?) };
            (lock, signals::or_stop(&stop, looking).await?)
        }
        None => {
            let desired = read(&stop, &reconciler).await?;
            let (lock, desired) = lock(ui, &stop, &reconciler, desired, "apply", patience).await?;
            reconciler.state.claim(&desired.tree.owner, &desired.tree.path, adopt)?;
            let owner = desired.tree.owner.clone();
            signals::or_stop(&stop, async { Ok(reconciler.settle(&owner).await?) }).await?;
            (lock, look_at(&stop, &reconciler, desired, options.clone()).await?)
        }
    };
    if adopt && reconciler.adopt(&view)? {
        view = look_at(&stop, &reconciler, view.desired, options.clone()).await?;
    }
    setup::check_only(&view.options, &view.desired, &view.observed)?;
    match &saved {
        Some(saved) => saved.check(&view)?,
        None => {
            if ask_for_values(ui, &stop, &mut reconciler, &view).await? {
                view = look_at(&stop, &reconciler, view.desired, options).await?;
            }
        }
    }
    carry_out(ui, &stop, &reconciler, &mut view, args.yes, "apply").await
}

/// The lock, the tree, and what backends showed while it was read: of a tree that was applied before, whose lock
/// is free. Of one that was not, nothing is written before it is known that it can be read.
async fn known(reconciler: &Reconciler) -> Result<Option<(Lock, Desired, Ahead)>, CliError> {
    let tree = reconciler.identify().await?;
    let memory = reconciler.state.tree(&tree.owner)?;
    if !memory.dir().is_dir() || reconciler.state.speaks_for(&tree.owner, &tree.path).is_err() {
        return Ok(None);
    }
    let Some(lock) = try_lock(&memory, "apply").await? else { return Ok(None) };
    reconciler.settle(&tree.owner).await?;
    let (desired, ahead) = reconciler.read_beside(&tree.owner).await?;
    same_owner(&tree.owner, &desired)?;
    Ok(Some((lock, desired, ahead)))
}

/// Reads the tree, which may lie on a file system that hangs.
pub(super) async fn read(stop: &Stop, reconciler: &Reconciler) -> Result<Desired, CliError> {
    signals::or_stop(stop, async { Ok(reconciler.desired().await?) }).await
}

/// Takes the tree's lock. A tree that was waited for is read again.
pub(super) async fn lock(
    ui: &Ui,
    stop: &Stop,
    reconciler: &Reconciler,
    desired: Desired,
    command: &str,
    patience: Duration,
) -> Result<(Lock, Desired), CliError> {
    let memory = reconciler.state.tree(&desired.tree.owner)?;
    if let Some(lock) = try_lock(&memory, command).await? {
        return Ok((lock, desired));
    }
    let lock = wait_for_lock(ui, stop, &memory, command, patience).await?;
    let again = read(stop, reconciler).await?;
    same_owner(&desired.tree.owner, &again)?;
    Ok((lock, again))
}

async fn try_lock(memory: &TreeState, command: &str) -> Result<Option<Lock>, CliError> {
    match memory.lock(command, Duration::ZERO).await {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.is::<Locked>() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Takes a tree's lock, and says so when that means to wait.
pub(super) async fn wait_for_lock(
    ui: &Ui,
    stop: &Stop,
    memory: &TreeState,
    command: &str,
    patience: Duration,
) -> Result<Lock, CliError> {
    match memory.lock(command, Duration::ZERO).await {
        Err(error) if error.is::<Locked>() && !patience.is_zero() => {
            ui.say(&format!("{error}; waiting up to {} s", patience.as_secs()));
            signals::or_stop(stop, async { Ok(memory.lock(command, patience).await?) }).await
        }
        done => Ok(done?),
    }
}

/// The lock is the owner's: a tree that was renamed meanwhile is another one.
pub(super) fn same_owner(owner: &OwnerId, again: &Desired) -> Result<(), CliError> {
    if again.tree.owner == *owner {
        return Ok(());
    }
    Err(CliError::failed(format!(
        "the tree was renamed from {owner} to {} while it was waited for; nothing was changed",
        again.tree.owner
    )))
}

pub(super) async fn look_at(
    stop: &Stop,
    reconciler: &Reconciler,
    desired: Desired,
    options: Options,
) -> Result<View, CliError> {
    signals::or_stop(stop, async { Ok(reconciler.look_at(desired, options).await?) }).await
}

/// Asks a person for the values that are missing. Returns whether any was given.
pub(super) async fn ask_for_values(
    ui: &Ui,
    stop: &Stop,
    reconciler: &mut Reconciler,
    view: &View,
) -> Result<bool, CliError> {
    let askable = look::askable(view);
    if askable.is_empty() || !ui.can_ask() {
        return Ok(false);
    }
    let mut any = false;
    for (name, sandboxes) in askable {
        let names: Vec<&str> = sandboxes.iter().map(String::as_str).collect();
        let question = format!("{name} for {}", text::some_of(&names));
        if let Some(value) = prompt::hidden(ui, stop, &question).await? {
            reconciler.sources.typed.insert(name, value);
            any = true;
        }
    }
    Ok(any)
}

/// Shows the plan, asks, does it, reports. The caller holds the lock.
pub(super) async fn carry_out(
    ui: &Arc<Ui>,
    stop: &Stop,
    reconciler: &Reconciler,
    view: &mut View,
    yes: bool,
    command: &str,
) -> Result<Exit, CliError> {
    // Nobody is asked about work that nobody was told of.
    signals::or_stop(stop, async {
        reconciler.inspect(view).await;
        Ok(())
    })
    .await?;
    let view: &View = view;
    let document = |report: &Report| ReportDocument {
        outcomes: Some(report.document()),
        ..view.document().into()
    };
    let nothing = Report::default();
    let text = look::text(ui, view, false);
    if !ui.json() {
        ui.data(&text)?;
    }
    if let Some(refusal) = &view.plan.refused {
        let (message, hint) = render::refusal_text(refusal);
        let error = CliError::refused(format!("{message}; nothing was changed")).hint(hint);
        return Err(error.document(document(&nothing)));
    }
    if view.plan.is_empty() {
        // Nothing to carry out; what an earlier run left in the state folder is tidied.
        reconciler.carry_out(view, stop, Arc::new(|_| {})).await?;
        if ui.json() {
            ui.document(&document(&nothing))?;
        }
        return Ok(report::exit(&view.plan, &nothing));
    }
    if !yes {
        let declined = |error: CliError| error.document(document(&nothing));
        if !ui.can_ask() {
            let error = CliError::refused("there is no terminal to ask on; nothing was changed");
            return Err(declined(error.hint(format!("`bottle {command} --yes` does not ask"))));
        }
        if ui.json() {
            ui.ask(&text);
        }
        let overlays: Vec<&str> = view.desired.overlays.iter().map(String::as_str).collect();
        let question = match overlays[..] {
            [] => "Do this?".to_owned(),
            _ => harmless(&format!("Do this, with agents of {}?", overlays.join(", "))),
        };
        if !prompt::confirm(ui, stop, &question).await.map_err(declined)? {
            return Err(declined(CliError::refused("nothing was changed")));
        }
    }
    if stop.drain.is_cancelled() {
        return Err(CliError::interrupted());
    }
    let progress = Progress::new(ui, &view.plan);
    let done = reconciler.carry_out(view, stop, progress.teller()).await;
    progress.finish();
    let done = done?;
    if ui.json() {
        ui.document(&document(&done))?;
    } else {
        ui.data(&report::render(&view.plan, &done, ui.width(), command))?;
    }
    Ok(report::exit(&view.plan, &done))
}
