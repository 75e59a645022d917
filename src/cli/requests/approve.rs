//! Yes, no, and back.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::args::Global;
use super::super::error::{CliError, Exit};
use super::super::ui::{Ui, paint, style};
use super::super::{prompt, signals};
use super::args::{ApproveArgs, DenyArgs, ResolveArgs, UndoArgs};
use super::{ListDocument, Session, after, by, editor, text, told};
use crate::apply::Stop;
use crate::model::SandboxId;
use crate::model::supervise::{Ask, Problem, RequestId, Standing};
use crate::reconcile::requests::propose::Terms;
use crate::reconcile::requests::review::Review;
use crate::reconcile::requests::{Done, Record, now};

pub(super) async fn approve(
    ui: &Arc<Ui>,
    global: &Global,
    args: &ApproveArgs,
) -> Result<Exit, CliError> {
    let stop = signals::listen(ui)?;
    let ids = distinct(&args.ids);
    let opening = Session::about(ui, global, &args.look, &ids);
    let mut session = signals::or_stop(&stop, opening).await?;
    let mut terms = args.terms.terms(args.message.as_ref());
    if !args.yes {
        ask_for_token(ui, &stop, &session, &ids, &mut terms).await?;
    }
    let review = match args.edit {
        true => editor::edited(ui, &stop, &mut session, &ids, &mut terms).await?,
        false => session.reconciler.review(&ids, &terms).await.map_err(told)?,
    };
    let shown = text::review(&review, now(), ui.width());
    if !ui.json() {
        ui.data(&shown)?;
    }
    if let Some(why) = &review.blocked {
        if !ui.json() && why.ends_with("here is the patch") {
            ui.data(&review.patch())?;
        }
        return Err(CliError::refused(why.clone()));
    }
    let token = match &args.review {
        Some(token) => token.clone(),
        None => {
            confirm(ui, &stop, &review, &shown, args).await?;
            review.token.clone()
        }
    };
    if stop.drain.is_cancelled() {
        return Err(CliError::interrupted());
    }
    // What a script approves it has seen in another process: there is nothing to compare with.
    let seen = args.review.is_none().then_some(&review);
    let done = session
        .reconciler
        .approve(&ids, &terms, &token, seen, &by(), args.no_commit)
        .await
        .map_err(|error| refusal(ui, &review, error))?;
    said(ui, &done);
    let sandboxes = review.sandboxes.clone();
    drop(review);
    finish(ui, &stop, &session, done.records, sandboxes, args.no_apply).await
}

/// Says what was committed, and what not.
fn said(ui: &Ui, done: &Done) {
    match (&done.commit, &done.untracked) {
        (Some(commit), _) => {
            let short = commit.get(..7).unwrap_or(commit);
            ui.say(&format!("  {} committed {short}", paint(style::GOOD, "✓")));
        }
        (None, Some(why)) => {
            ui.say(&format!("  {} edited, not committed: {why}", paint(style::GOOD, "✓")));
        }
        (None, None) => {}
    }
}

/// A file that is not edited by a program may be by a person.
fn refusal(ui: &Ui, review: &Review, error: anyhow::Error) -> CliError {
    let error = told(error);
    if error.chain().iter().any(|line| line.ends_with("here is the patch")) && !ui.json() {
        // Whoever does not read it has it from `show --patch`.
        let _ = ui.data(&review.patch());
    }
    error
}

fn distinct(ids: &[RequestId]) -> Vec<RequestId> {
    let mut seen = BTreeSet::new();
    ids.iter().filter(|id| seen.insert(*id)).cloned().collect()
}

/// Asks a person for the name of a token that a new route needs.
async fn ask_for_token(
    ui: &Ui,
    stop: &Stop,
    session: &Session,
    ids: &[RequestId],
    terms: &mut Terms,
) -> Result<(), CliError> {
    if terms.token_ref.is_some() || !ui.can_ask() {
        return Ok(());
    }
    for id in ids {
        let Some(record) = session.memory.request(id)? else { continue };
        if let Ask::Credential(ask) = &record.ask
            && ask.problem == Problem::Missing
        {
            let question = format!("the variable that holds the token for {}", ask.host);
            let name = prompt::line_of(ui, stop, &question).await?;
            terms.token_ref = (!name.is_empty()).then_some(name);
            return Ok(());
        }
    }
    Ok(())
}

async fn confirm(
    ui: &Ui,
    stop: &Stop,
    review: &Review,
    shown: &str,
    args: &ApproveArgs,
) -> Result<(), CliError> {
    if !ui.can_ask() {
        let error = CliError::refused("there is no terminal to ask on; nothing was changed");
        let id = &review.records[0].id;
        return Err(error.hint(format!(
            "`--yes --review TOKEN` approves what was seen: `bottle requests show {id} -o json` has the token"
        )));
    }
    if ui.json() {
        ui.ask(shown);
    }
    let mut does: Vec<String> =
        review.edited.iter().map(|edited| format!("edits {}", edited.file)).collect();
    match (does.is_empty(), args.no_commit) {
        (true, _) => does.push("loads the credential anew".to_owned()),
        (false, true) => does.push("commits nothing".to_owned()),
        (false, false) => does.push("commits it".to_owned()),
    }
    let question = format!("Approve? {}", does.join(", "));
    match prompt::confirm(ui, stop, &question).await? {
        true => Ok(()),
        false => Err(CliError::refused("nothing was changed")),
    }
}

pub(super) async fn deny(ui: &Arc<Ui>, global: &Global, args: &DenyArgs) -> Result<Exit, CliError> {
    let stop = signals::listen(ui)?;
    let ids = distinct(&args.ids);
    let opening = Session::about(ui, global, &args.look, &ids);
    let session = signals::or_stop(&stop, opening).await?;
    let records = session.reconciler.deny(&ids, &args.message, &by()).await.map_err(told)?;
    tell(ui, &stop, &session, records).await
}

pub(super) async fn resolve(
    ui: &Arc<Ui>,
    global: &Global,
    args: &ResolveArgs,
) -> Result<Exit, CliError> {
    let stop = signals::listen(ui)?;
    let opening = Session::about(ui, global, &args.look, std::slice::from_ref(&args.id));
    let session = signals::or_stop(&stop, opening).await?;
    let records = session.reconciler.resolve(&args.id, &args.message, &by()).await.map_err(told)?;
    tell(ui, &stop, &session, records).await
}

/// Says it, and has the sidecars told.
async fn tell(
    ui: &Arc<Ui>,
    stop: &Stop,
    session: &Session,
    records: Vec<Record>,
) -> Result<Exit, CliError> {
    for record in &records {
        ui.say(&format!("  {} {} {}", paint(style::GOOD, "✓"), record.id, record.state));
    }
    let sandboxes = records.iter().map(|record| record.sandbox.clone()).collect();
    let ids: Vec<RequestId> = records.iter().map(|record| record.id.clone()).collect();
    let outcomes =
        after::tell(ui, stop, &session.reconciler, &session.memory, &ids, sandboxes).await?;
    if ui.json() {
        ui.document(&ListDocument { outcomes: Some(outcomes), ..ListDocument::new(&records) })?;
    }
    Ok(Exit::Done)
}

pub(super) async fn undo(ui: &Arc<Ui>, global: &Global, args: &UndoArgs) -> Result<Exit, CliError> {
    let stop = signals::listen(ui)?;
    let opening = Session::about(ui, global, &args.look, std::slice::from_ref(&args.id));
    let mut session = signals::or_stop(&stop, opening).await?;
    let done = session.reconciler.undo(&args.id, &by(), args.no_commit).await.map_err(told)?;
    said(ui, &done);
    let bottle = done.records.first().map(|record| record.bottle.clone()).unwrap_or_default();
    let sandboxes = session.desired.sandboxes.values().filter(|spec| spec.bottle == bottle);
    let sandboxes = sandboxes.map(|spec| spec.id.clone()).collect();
    finish(ui, &stop, &session, done.records, sandboxes, args.no_apply).await
}

/// Has what was decided applied, and says what became of it.
async fn finish(
    ui: &Arc<Ui>,
    stop: &Stop,
    session: &Session,
    records: Vec<Record>,
    sandboxes: BTreeSet<SandboxId>,
    no_apply: bool,
) -> Result<Exit, CliError> {
    let ids: Vec<RequestId> = records.iter().map(|record| record.id.clone()).collect();
    let outcomes = match no_apply {
        true => Vec::new(),
        false => {
            after::apply(ui, stop, &session.reconciler, &session.memory, &ids, sandboxes).await?
        }
    };
    let mut now_records = Vec::new();
    for id in &ids {
        now_records.extend(session.memory.request(id)?);
    }
    if ui.json() {
        ui.document(&ListDocument { outcomes: Some(outcomes), ..ListDocument::new(&now_records) })?;
    }
    if no_apply {
        ui.say("  not applied: the next pass does it");
        return Ok(Exit::Done);
    }
    let mut all = true;
    for record in &now_records {
        let (mark, colour) = match record.state {
            Standing::Applied | Standing::Undone => ("✓", style::GOOD),
            _ => ("✗", style::BAD),
        };
        all &= matches!(record.state, Standing::Applied | Standing::Undone);
        let why = match (&record.error, record.state) {
            (Some(why), _) => format!(": {}", crate::model::text::spelled_line(why)),
            (None, Standing::Approved) => {
                ": it is not in force yet, and the next pass goes on".to_owned()
            }
            (None, _) => String::new(),
        };
        ui.warn(&format!("  {} {} {}{why}", paint(colour, mark), record.id, record.state));
    }
    Ok(if all { Exit::Done } else { Exit::Partly })
}
