//! Does what is ordered on the dashboard: by the functions of the other commands, with what they say caught.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::super::args::{PolicyArgs, PolicyCommand, PolicyShowArgs, StartArgs, StopArgs};
use super::super::args::{SnapshotArgs, SnapshotCommand, SnapshotRestoreArgs};
use super::super::error::{CliError, Exit};
use super::super::requests::{Session, after, args, by, told};
use super::super::ui::Ui;
use super::super::{policy, snapshot, status_text, stop};
use super::source::Place;
use crate::apply::Stop;
use crate::backend::LogOptions;
use crate::cli::target::Target;
use crate::dashboard::card::Card;
use crate::dashboard::lines::audited;
use crate::dashboard::snapshot::{Detail, Kept};
use crate::dashboard::tui::{Effect, Event, Failure, Order, Terms};
use crate::model::supervise::{RequestId, Standing};
use crate::model::{Moment, SandboxId};
use crate::reconcile::requests::propose;
use crate::reconcile::requests::review::Review;
use crate::reconcile::requests::{By, Refused, now};
use crate::reconcile::state;
use crate::work::snapshot::Store;

mod follow;

/// Another `bottle` that works on the tree or the sandbox is waited for so many seconds.
const PATIENCE: u64 = 10;
/// So many lines of a main process and of the audit record are shown.
const LINES: usize = 300;
/// What runs in a sandbox is asked no longer than this for its output.
const ASKING: Duration = Duration::from_secs(5);
/// So long is a sandbox muted.
const MUTED: u64 = 3600;

/// What carries out orders.
pub(super) struct Hands {
    place: Arc<Place>,
    send: UnboundedSender<Event>,
    nudge: UnboundedSender<()>,
    /// What the operator saw last: it says what has changed of it, where something has.
    seen: Mutex<Option<Review>>,
}

type Said = Result<String, Failure>;

impl Hands {
    pub(super) fn new(
        place: Arc<Place>,
        send: UnboundedSender<Event>,
        nudge: UnboundedSender<()>,
    ) -> Self {
        Self { place, send, nudge, seen: Mutex::new(None) }
    }

    /// Begins with it, and tells the dashboard when it is done.
    pub(super) fn act(self: &Arc<Self>, effect: Effect) {
        let hands = self.clone();
        tokio::spawn(async move {
            let event = match effect {
                Effect::Review(id, terms) => {
                    let card = hands.review(&id, &terms).await.map_err(|error| in_a_line(&error));
                    Some(Event::Reviewed(id, terms, card))
                }
                Effect::Order(number, order) => {
                    let done = hands.order(order).await;
                    let _ = hands.nudge.send(());
                    Some(Event::Done(number, done))
                }
                Effect::Detail(name) => Some(Event::Detailed(Box::new(hands.detail(&name).await))),
                Effect::Audit => hands.audit().await.ok().map(Event::Audited),
                Effect::Follow => {
                    follow::all(&hands.place, &hands.send).await;
                    None
                }
                // The terminal's own.
                Effect::Edit(_) | Effect::Ring(_) | Effect::Suspend | Effect::Quit => None,
            };
            if let Some(event) = event {
                // Nobody listens any more when it ends.
                let _ = hands.send.send(event);
            }
        });
    }

    fn ui(&self) -> Arc<Ui> {
        Arc::new(Ui::caught(&self.place.global))
    }

    async fn session(&self, ui: &Ui, id: &RequestId) -> Result<Session, CliError> {
        let ids = std::slice::from_ref(id);
        Session::about(ui, &self.place.global, &self.place.look, ids).await
    }

    async fn review(&self, id: &RequestId, terms: &Terms) -> Result<Box<Card>, CliError> {
        let terms = terms_of(terms)?;
        let mut session = self.session(&self.ui(), id).await?;
        let ids = std::slice::from_ref(id);
        let review = session.reconciler.review(ids, &terms).await.map_err(told)?;
        let card = Card::of(&review, now());
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(review);
        card.map(Box::new).ok_or_else(|| told(Refused::Unknown(id.clone()).into()))
    }

    async fn order(&self, order: Order) -> Said {
        match order {
            Order::Approve(id, terms, token) => self.approve(&id, &terms, &token).await,
            Order::Deny(id, message) => failed(self.deny(&id, message).await),
            Order::Mute(name) => failed(self.mute(&name).await),
            Order::Stop(name) => {
                let ui = self.ui();
                let args = StopArgs { names: vec![name], lock_timeout: PATIENCE };
                said(&ui, "stopped", stop::stop(&ui, &self.place.global, &args).await)
            }
            Order::Start(name) => {
                let (ui, args) = (self.ui(), self.start_args(name));
                said(&ui, "started", stop::start(&ui, &self.place.global, &args).await)
            }
            Order::Restart(name) => {
                let (ui, args) = (self.ui(), self.start_args(name));
                said(&ui, "restarted", stop::restart(&ui, &self.place.global, &args).await)
            }
            Order::Restore(id, name) => {
                let ui = self.ui();
                let args = SnapshotRestoreArgs {
                    id,
                    sandbox: Some(name),
                    to: None,
                    lock_timeout: PATIENCE,
                };
                let args = SnapshotArgs { command: SnapshotCommand::Restore(args) };
                said(&ui, "restored", snapshot::run(&ui, &self.place.global, &args).await)
            }
        }
    }

    /// What takes a new machine is refused here, and said: it is asked for on the command line.
    fn start_args(&self, name: String) -> StartArgs {
        let look = self.place.look.clone();
        StartArgs { names: vec![name], look, lock_timeout: PATIENCE, yes: false }
    }

    async fn approve(&self, id: &RequestId, terms: &Terms, token: &str) -> Said {
        let stale = |error: &CliError| {
            matches!(error.error.downcast_ref(), Some(Refused::Stale(..))).then(|| id.clone())
        };
        self.approved(id, terms, token)
            .await
            .map_err(|error| Failure { why: in_a_line(&error), stale: stale(&error) })
    }

    async fn approved(
        &self,
        id: &RequestId,
        terms: &Terms,
        token: &str,
    ) -> Result<String, CliError> {
        let (ui, terms) = (self.ui(), terms_of(terms)?);
        let mut session = self.session(&ui, id).await?;
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).take();
        let seen = seen.filter(|review| review.token == token);
        let ids = std::slice::from_ref(id);
        let done = session
            .reconciler
            .approve(ids, &terms, token, seen.as_ref(), &by_this(), false)
            .await
            .map_err(told)?;
        let bottle = done.records.first().map(|record| record.bottle.clone()).unwrap_or_default();
        let specs = session.desired.sandboxes.values().filter(|spec| spec.bottle == bottle);
        let sandboxes: BTreeSet<SandboxId> = specs.map(|spec| spec.id.clone()).collect();
        let Session { reconciler, memory, .. } = &session;
        after::apply(&ui, &Stop::default(), reconciler, memory, ids, sandboxes).await?;
        let record =
            memory.request(id)?.ok_or_else(|| told(Refused::Unknown(id.clone()).into()))?;
        let commit = done.commit.as_ref().map(|commit| commit.get(..7).unwrap_or(commit));
        let commit = commit.map(|commit| format!(" · committed {commit}")).unwrap_or_default();
        let said = format!("{id} {}{commit}", record.state);
        match (record.state, &record.error) {
            (Standing::Applied, _) => Ok(said),
            (_, Some(why)) => Err(CliError::failed(format!("{said}: {why}"))),
            (_, None) => Err(CliError::failed(format!(
                "{said}: it is not in force yet, and the next pass goes on"
            ))),
        }
    }

    async fn deny(&self, id: &RequestId, message: String) -> Result<String, CliError> {
        let ui = self.ui();
        let session = self.session(&ui, id).await?;
        let ids = std::slice::from_ref(id);
        let records = session.reconciler.deny(ids, &message, &by_this()).await.map_err(told)?;
        let sandboxes = records.iter().map(|record| record.sandbox.clone()).collect();
        let Session { reconciler, memory, .. } = &session;
        after::tell(&ui, &Stop::default(), reconciler, memory, ids, sandboxes).await?;
        Ok(ui.caught_text(&format!("{id} denied")))
    }

    async fn mute(&self, name: &str) -> Result<String, CliError> {
        let id = SandboxId::new(name).map_err(anyhow::Error::from)?;
        let ui = self.ui();
        let session = Session::open(&ui, &self.place.global, &self.place.look).await?;
        let asks = session.desired.sandboxes.get(&id).is_some_and(|spec| spec.policy.supervise);
        if !asks {
            let told = format!("{id} cannot ask: its bottle does not say `supervise: true`");
            return Err(CliError::refused(told));
        }
        let until = Moment::of_seconds(now().seconds() + MUTED);
        session.reconciler.mute(&id, Some(until)).await.map_err(told)?;
        let Session { reconciler, memory, .. } = &session;
        after::tell(&ui, &Stop::default(), reconciler, memory, &[], [id].into()).await?;
        Ok(format!("no requests of {name} are taken until {}", until.in_seconds()))
    }

    /// What there is to say of one sandbox. What cannot be found out says why in its place.
    async fn detail(&self, name: &str) -> Detail {
        let (machine, prompt) = match policy::spec(&self.place.global, name, &self.place.look.read)
        {
            Ok(spec) => {
                (machine(&spec), spec.prompt.lines().map(str::to_owned).collect::<Vec<String>>())
            }
            Err(error) => (Vec::new(), vec![in_a_line(&error)]),
        };
        let log = match self.log(name).await {
            Ok(lines) => lines,
            Err(error) => vec![in_a_line(&error)],
        };
        let snapshots = self.snapshots(name).await.unwrap_or_default();
        let tree = self.place.global.tree.as_ref();
        let tree = tree.map(|tree| format!(" --tree {}", tree.display())).unwrap_or_default();
        let exec = format!("bottle{tree} exec -it {name} -- sh");
        Detail {
            name: name.to_owned(),
            machine,
            policy: self.policy(name),
            log,
            prompt,
            snapshots,
            exec,
        }
    }

    fn policy(&self, name: &str) -> Vec<String> {
        let ui = Ui::caught(&self.place.global);
        let read = self.place.look.read.clone();
        let command = PolicyCommand::Show(PolicyShowArgs { name: name.to_owned(), read });
        match policy::run(&ui, &self.place.global, &PolicyArgs { command }) {
            Ok(_) => ui.caught_text("").lines().map(str::to_owned).collect(),
            Err(error) => vec![in_a_line(&error)],
        }
    }

    async fn log(&self, name: &str) -> Result<Vec<String>, CliError> {
        let target = Target::find(&self.place.global, name).await?;
        let options = LogOptions { tail: Some(LINES as u64), ..LogOptions::default() };
        let mut out: Vec<u8> = Vec::new();
        let asked = target.backend.logs(&target.scope, &target.machine, options, &mut out);
        // What came before the deadline is shown.
        let _ = tokio::time::timeout(ASKING, asked).await;
        Ok(String::from_utf8_lossy(&out).lines().map(str::to_owned).collect())
    }

    async fn snapshots(&self, name: &str) -> Result<Vec<Kept>, CliError> {
        let id = SandboxId::new(name).map_err(anyhow::Error::from)?;
        let mut found = Store::of(self.place.memory().await?.dir()).list(Some(&id))?;
        found.sort_by_key(|one| std::cmp::Reverse(one.id.time.clone()));
        let kept = found.into_iter().map(|one| {
            let about = match &one.meta {
                Ok(meta) => format!(
                    "{:>4}  {}  {}  {}",
                    status_text::age(state::now().saturating_sub(meta.when)),
                    snapshot::size(one.bytes),
                    meta.why,
                    meta.paths.join(", ")
                ),
                Err(why) => format!("cannot be read: {why}"),
            };
            Kept { id: one.id.to_string(), about }
        });
        Ok(kept.collect())
    }

    async fn audit(&self) -> Result<Vec<String>, CliError> {
        let memory = self.place.memory().await?;
        let seen = std::cell::Cell::new(0);
        let tail = memory.audit_tail(|_| {
            seen.set(seen.get() + 1);
            seen.get() >= LINES
        })?;
        let all: Vec<String> = tail.lines().filter_map(audited).collect();
        Ok(all)
    }
}

fn by_this() -> By {
    By { via: "tui", ..by() }
}

/// What was typed, as a decision has it.
fn terms_of(terms: &Terms) -> Result<propose::Terms, CliError> {
    let until = terms.until.as_deref().map(args::until).transpose().map_err(CliError::failed)?;
    Ok(args::TermArgs::of(until, terms.token_ref.clone()).terms(None))
}

/// An error, its causes and what to do about it.
fn in_a_line(error: &CliError) -> String {
    let mut text = error.chain().join(": ");
    for hint in &error.hints {
        text.push_str(&format!(" ({hint})"));
    }
    text
}

fn failed(done: Result<String, CliError>) -> Said {
    done.map_err(|error| Failure { why: in_a_line(&error), stale: None })
}

/// What a command said of how it went.
fn said(ui: &Ui, word: &str, done: Result<Exit, CliError>) -> Said {
    let lines = |text: String| text.lines().map(str::trim).collect::<Vec<_>>().join(" · ");
    match done {
        Ok(Exit::Done) => Ok(lines(ui.caught_text(word))),
        Ok(_) => Err(Failure { why: lines(ui.caught_text("done in part")), stale: None }),
        Err(error) => Err(Failure { why: in_a_line(&error), stale: None }),
    }
}

/// What a sandbox is.
fn machine(spec: &crate::model::SandboxSpec) -> Vec<String> {
    let mut lines = vec![format!("bottle {}", spec.bottle)];
    if let Some(image) = &spec.image {
        lines.push(format!("image {image}"));
    }
    let limits = spec.resources.fields();
    let limits: Vec<String> = limits
        .0
        .iter()
        .map(|(name, value)| format!("{} {value}", name.trim_start_matches("resources.")))
        .collect();
    if !limits.is_empty() {
        lines.push(limits.join(", "));
    }
    if !spec.skills.is_empty() {
        let names: Vec<&str> = spec.skills.keys().map(String::as_str).collect();
        lines.push(format!("skills {}", names.join(", ")));
    }
    lines
}
