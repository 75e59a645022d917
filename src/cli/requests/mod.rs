//! `bottle requests`: what agents ask for, and what the operator says.
//!
//! `args` is what can be said, `text` what is shown, `approve` a yes, `editor` the operator's own words for it, `after`
//! what follows a decision.

pub(super) mod after;
mod approve;
pub(super) mod args;
mod editor;
mod text;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use self::args::{ListArgs, RequestsArgs, RequestsCommand, ShowArgs};
use super::args::{Global, LookArgs};
use super::error::{CliError, Exit, Kind};
use super::ui::Ui;
use super::{setup, signals};
use crate::apply::report::OutcomeDocument;
use crate::model::supervise::{RequestId, Standing};
use crate::model::{Desired, Moment, SandboxId};
use crate::plan::Options;
use crate::plan::document::{PlanDocument, VERSION};
use crate::reconcile::requests::delta::Delta;
use crate::reconcile::requests::files::FileError;
use crate::reconcile::requests::propose::Terms;
use crate::reconcile::requests::review::{Review, patch};
use crate::reconcile::requests::{By, ChangeError, Deciding, Record, Refused, now};
use crate::reconcile::{Reconciler, TreeState};

/// How often sidecars are asked while somebody waits for a request.
const LOOK: Duration = Duration::from_secs(1);

pub(super) async fn run(
    ui: &Arc<Ui>,
    global: &Global,
    args: &RequestsArgs,
) -> Result<Exit, CliError> {
    match &args.command {
        None => list(ui, global, &args.list).await,
        Some(RequestsCommand::List(args)) => list(ui, global, args).await,
        Some(RequestsCommand::Show(args)) => show(ui, global, args).await,
        Some(RequestsCommand::Approve(args)) => approve::approve(ui, global, args).await,
        Some(RequestsCommand::Deny(args)) => approve::deny(ui, global, args).await,
        Some(RequestsCommand::Undo(args)) => approve::undo(ui, global, args).await,
        Some(RequestsCommand::Resolve(args)) => approve::resolve(ui, global, args).await,
        Some(RequestsCommand::Mute(args)) => {
            let until =
                now().0.saturating_add(u64::try_from(args.time.as_millis()).unwrap_or(u64::MAX));
            // To the second, so that it is told as it is kept.
            let until = Moment::of_seconds(until.div_ceil(1000));
            mute(ui, global, &args.look, &args.name, Some(until)).await
        }
        Some(RequestsCommand::Unmute(args)) => mute(ui, global, &args.look, &args.name, None).await,
        Some(RequestsCommand::Tidy(args)) => tidy(ui, global, args).await,
    }
}

/// Requests, as `-o json` prints them.
#[derive(Debug, Serialize)]
struct ListDocument<'a> {
    version: u32,
    requests: &'a [Record],
    #[serde(skip_serializing_if = "Option::is_none")]
    outcomes: Option<Vec<OutcomeDocument>>,
}

impl<'a> ListDocument<'a> {
    fn new(requests: &'a [Record]) -> Self {
        Self { version: VERSION, requests, outcomes: None }
    }
}

/// A request, and what a yes would change.
#[derive(Debug, Serialize)]
struct ShowDocument<'a> {
    version: u32,
    request: &'a Record,
    review: Option<&'a str>,
    edit: Option<EditDocument<'a>>,
    delta: &'a [Delta],
    plan: Option<PlanDocument>,
    blocked: Option<&'a str>,
}

/// The edit of a file.
#[derive(Debug, Serialize)]
struct EditDocument<'a> {
    file: &'a str,
    diff: String,
    before: &'a str,
    after: &'a str,
}

/// What decides and what it decides about, with everything that sidecars hold written down.
pub(super) struct Session {
    pub(super) reconciler: Reconciler,
    pub(super) memory: TreeState,
    pub(super) desired: Desired,
}

impl Session {
    /// The same for these requests: where all of them are known, sidecars are not asked for more.
    pub(super) async fn about(
        ui: &Ui,
        global: &Global,
        look: &LookArgs,
        ids: &[RequestId],
    ) -> Result<Self, CliError> {
        let load = setup::load_options(global, None, &look.read)?;
        let reconciler = setup::reconciler(load, look, None)?;
        let desired = reconciler.desired().await?;
        let memory = reconciler.state.tree(&desired.tree.owner)?;
        for id in ids {
            if memory.request(id)?.is_none() {
                return Self::open(ui, global, look).await;
            }
        }
        memory.recover_requests(&reconciler.load.tree).await.map_err(told)?;
        Ok(Self { reconciler, memory, desired })
    }

    /// Reads the tree, goes on with what was cut short, and reads what sidecars hold.
    pub(super) async fn open(ui: &Ui, global: &Global, look: &LookArgs) -> Result<Self, CliError> {
        let load = setup::load_options(global, None, &look.read)?;
        let reconciler = setup::reconciler(load, look, None)?;
        let view = reconciler.look(Options::default()).await?;
        let memory = view.memory.clone();
        if memory.dir().is_dir() {
            memory.recover_requests(&reconciler.load.tree).await.map_err(told)?;
            reconciler.pull(&view).await?;
        }
        let errors = view.desired.held.len();
        if errors > 0 {
            ui.say(&format!("{errors} sandboxes are held: `bottle check` says why"));
        }
        Ok(Self { reconciler, memory, desired: view.desired })
    }
}

/// Who decides.
pub(super) fn by() -> By {
    By { name: setup::user(), uid: rustix::process::geteuid().as_raw(), via: "cli" }
}

/// Why a decision failed, by its kind.
pub(super) fn told(error: anyhow::Error) -> CliError {
    if error.is::<Deciding>() {
        return CliError::new(Kind::Locked, error);
    }
    let refused = error.is::<Refused>() || error.is::<ChangeError>() || error.is::<FileError>();
    match refused {
        true => CliError::new(Kind::Refused, error),
        false => error.into(),
    }
}

fn sandbox(name: &str) -> Result<SandboxId, CliError> {
    SandboxId::new(name).map_err(|error| CliError::new(Kind::Failed, error))
}

async fn list(ui: &Arc<Ui>, global: &Global, args: &ListArgs) -> Result<Exit, CliError> {
    let stop = signals::listen(ui)?;
    let only = args.sandbox.as_deref().map(sandbox).transpose()?;
    let look = LookArgs { read: args.read.clone(), ..LookArgs::default() };
    let session = signals::or_stop(&stop, Session::open(ui, global, &look)).await?;
    let find = || -> Result<Vec<Record>, CliError> {
        let mut records = session.memory.requests()?;
        records.retain(|record| {
            let wanted = match (args.grants, args.all) {
                (true, _) => record.state == Standing::Applied,
                (false, true) => true,
                (false, false) => record.state == Standing::Pending,
            };
            wanted && only.as_ref().is_none_or(|only| record.sandbox == *only)
        });
        Ok(records)
    };
    let mut records = find()?;
    while args.wait && !records.iter().any(|record| record.state == Standing::Pending) {
        signals::or_stop(&stop, async {
            tokio::time::sleep(LOOK).await;
            let view = session.reconciler.look(Options::default()).await?;
            session.reconciler.pull(&view).await?;
            Ok(())
        })
        .await?;
        records = find()?;
    }
    if ui.json() {
        ui.document(&ListDocument::new(&records))?;
    } else if args.grants {
        let mut text = String::new();
        for record in &records {
            let asks = record.asks(Some(&session.desired));
            text.push_str(&format!("{}  {}  {asks}\n", record.id, record.sandbox));
            text.push_str(&text::outcome(record, now()));
        }
        ui.data(&text)?;
    } else {
        let desired = Some(&session.desired);
        ui.data(&text::list(&records, desired, args.all, now(), ui.width()))?;
    }
    Ok(Exit::Done)
}

async fn show(ui: &Arc<Ui>, global: &Global, args: &ShowArgs) -> Result<Exit, CliError> {
    let stop = signals::listen(ui)?;
    let ids = std::slice::from_ref(&args.id);
    let opening = Session::about(ui, global, &args.look, ids);
    let mut session = signals::or_stop(&stop, opening).await?;
    let record = session.memory.request(&args.id)?;
    let record = record.ok_or_else(|| told(Refused::Unknown(args.id.clone()).into()))?;
    let terms = args.terms.terms(None);
    if ui.json() {
        ui.document(&shown(&mut session, &args.id, &terms).await?)?;
        return Ok(Exit::Done);
    }
    let review = match record.state {
        Standing::Pending => Some(review(&mut session, &record, &terms).await?),
        _ => None,
    };
    let Some(review) = review else {
        let mut text = text::head(&record, now(), ui.width());
        text.push_str(&text::outcome(&record, now()));
        ui.data(&text)?;
        return Ok(Exit::Done);
    };
    if args.patch {
        if let (Some(why), true) = (&review.blocked, review.edited.is_empty()) {
            return Err(CliError::refused(why.clone()));
        }
        ui.data(&review.patch())?;
        return Ok(Exit::Done);
    }
    let mut text = text::review(&review, now(), ui.width());
    match &review.blocked {
        Some(why) => text.push_str(&format!("\ncannot be approved: {why}\n")),
        None => text.push_str(&format!("\nreview {}\n", review.token)),
    }
    ui.data(&text)?;
    Ok(Exit::Done)
}

/// A request, and what a yes on these terms would change, as a document.
pub(super) async fn shown(
    session: &mut Session,
    id: &RequestId,
    terms: &Terms,
) -> Result<serde_json::Value, CliError> {
    let record = session.memory.request(id)?;
    let record = record.ok_or_else(|| told(Refused::Unknown(id.clone()).into()))?;
    let review = match record.state {
        Standing::Pending => Some(review(session, &record, terms).await?),
        _ => None,
    };
    let edited = review.as_ref().and_then(|review| review.edited.first());
    let edit = edited.map(|one| EditDocument {
        file: &one.file,
        diff: patch(one),
        before: &one.before,
        after: &one.after,
    });
    let review = review.as_ref();
    let document = ShowDocument {
        version: VERSION,
        request: review.and_then(|review| review.records.first()).unwrap_or(&record),
        review: review.map(|review| review.token.as_str()),
        edit,
        delta: review.map(|review| review.delta.as_slice()).unwrap_or_default(),
        plan: review.and_then(|review| review.view.as_ref()).map(|view| view.document()),
        blocked: review.and_then(|review| review.blocked.as_deref()),
    };
    Ok(serde_json::to_value(document).map_err(anyhow::Error::from)?)
}

async fn review(session: &mut Session, record: &Record, terms: &Terms) -> Result<Review, CliError> {
    session.reconciler.review(std::slice::from_ref(&record.id), terms).await.map_err(told)
}

async fn mute(
    ui: &Arc<Ui>,
    global: &Global,
    look: &LookArgs,
    name: &str,
    until: Option<Moment>,
) -> Result<Exit, CliError> {
    let stop = signals::listen(ui)?;
    let id = sandbox(name)?;
    let session = signals::or_stop(&stop, Session::open(ui, global, look)).await?;
    let Some(spec) = session.desired.sandboxes.get(&id) else {
        let names: Vec<&str> = session.desired.sandboxes.keys().map(SandboxId::as_str).collect();
        let error = CliError::refused(format!("there is no sandbox {id}"));
        return Err(error.hint(setup::there_are(&names)));
    };
    if !spec.policy.supervise {
        return Err(CliError::refused(format!(
            "{id} cannot ask: its bottle does not say `supervise: true`"
        )));
    }
    session.reconciler.mute(&id, until).await.map_err(told)?;
    match until {
        Some(until) => {
            ui.say(&format!("no requests of {id} are taken until {}", until.in_seconds()))
        }
        None => ui.say(&format!("requests of {id} are taken again")),
    }
    let (reconciler, memory) = (&session.reconciler, &session.memory);
    after::tell(ui, &stop, reconciler, memory, &[], [id].into()).await?;
    Ok(Exit::Done)
}

async fn tidy(ui: &Arc<Ui>, global: &Global, args: &args::TidyArgs) -> Result<Exit, CliError> {
    let stop = signals::listen(ui)?;
    let mut session = signals::or_stop(&stop, Session::open(ui, global, &args.look)).await?;
    let (files, commit) = session.reconciler.tidy_grants(args.no_commit).await.map_err(told)?;
    if files.is_empty() {
        ui.say("nothing has ended");
        return Ok(Exit::Done);
    }
    for (file, count) in &files {
        ui.say(&format!("{file}: {count} removed"));
    }
    if let Some(commit) = commit {
        ui.say(&format!("committed {}", commit.get(..7).unwrap_or(&commit)));
    }
    Ok(Exit::Done)
}
