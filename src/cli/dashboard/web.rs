//! `bottle dashboard --web`: what the page shows and does, by the functions of the other commands.
#![expect(clippy::disallowed_methods, reason = "looks are timed, and git tells the history")]

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _};
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;

use super::super::error::{CliError, Exit, Kind};
use super::super::requests::{self, Session, after, by, told};
use super::super::signals;
use super::super::target::Target;
use super::super::ui::Ui;
use super::source::Place;
use crate::apply::Stop;
use crate::backend::LogOptions;
use crate::dashboard::web::{
    self, Answer, Approve, Deny, Desk, Ended, Refusal, Served, State, Terms,
};
use crate::model::supervise::RequestId;
use crate::model::text::{escaped_json, spelled_line};
use crate::model::{Instance, SandboxId};
use crate::plan::document::VERSION;
use crate::reconcile::requests::propose;
use crate::reconcile::requests::{By, Deciding, Refused};
use crate::reconcile::status::{self, Status, feed};

/// It is looked again after so long, where no `watch` says what moves; and after so many times as long as it took.
const EVERY: Duration = Duration::from_secs(3);
const SHARE: u32 = 50;
const LONGEST: Duration = Duration::from_secs(60);
/// So many lines of output and of a record are shown.
const LINES: u64 = 200;
/// Output, a record and a history come within this.
const ASKING: Duration = Duration::from_secs(5);
/// So many commits are shown.
const COMMITS: &str = "50";

/// Serves the page until it is stopped.
pub(super) async fn run(ui: &Arc<Ui>, place: Place) -> Result<Exit, CliError> {
    let stop = signals::listen(ui)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    let desk = Arc::new(Web {
        place,
        states: watch::Sender::new(None),
        wake: Notify::new(),
        stop: stop.clone(),
        tasks: TaskTracker::new(),
    });
    let served = Arc::new(Served::new(port, desk.clone())?);
    // Whoever has the link is the operator: it goes to a person, and into no file or log.
    if std::io::stdout().is_terminal() {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", web::link(&served)).and_then(|()| out.flush())?;
        ui.say("open this link, which works once; Ctrl-C ends it");
    } else {
        return Err(CliError::failed("the link is shown on a terminal only, and stdout is none"));
    }
    let looking = tokio::spawn(look(desk.clone()));
    let ended = web::serve(listener, served, &stop.drain).await;
    looking.abort();
    // What was decided is carried out as far as it has begun; the next pass goes on.
    desk.stop.drain.cancel();
    desk.tasks.close();
    tokio::select! {
        () = desk.tasks.wait() => {}
        () = stop.now.cancelled() => {}
    }
    match ended {
        Ended::Stopped => Ok(Exit::Done),
        Ended::Guessed => {
            Err(CliError::refused("somebody tried tokens: the page is served no more"))
        }
    }
}

/// What the page sees and does.
struct Web {
    place: Place,
    states: watch::Sender<State>,
    /// Somebody looks, or something was done.
    wake: Notify,
    stop: Stop,
    /// What follows decisions.
    tasks: TaskTracker,
}

/// Looks as long as anybody does.
async fn look(web: Arc<Web>) {
    loop {
        while web.states.receiver_count() == 0 {
            web.wake.notified().await;
        }
        let begun = Instant::now();
        // What `watch` publishes comes by itself.
        if let Err(error) = follow(&web).await {
            tracing::debug!(error = %format!("{error:#}"), "watch is not followed");
        }
        let looked = async {
            let reconciler = web.place.reconciler().map_err(|error| error.error)?;
            status::observe(&reconciler, &BTreeSet::new()).await
        };
        web.say(looked.await);
        let rest = (begun.elapsed() * SHARE).clamp(EVERY, LONGEST);
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = web.wake.notified() => {}
        }
    }
}

/// Shows what `watch` publishes, for as long as it does and anybody looks.
async fn follow(web: &Web) -> anyhow::Result<()> {
    let memory = web.place.memory().await.map_err(|error| error.error)?;
    if memory.watcher().is_none() {
        return Ok(());
    }
    let mut feed = feed::connect(&memory).await?;
    while web.states.receiver_count() > 0 {
        let status = feed.next().await?;
        web.say(Ok(status));
    }
    Ok(())
}

impl Web {
    fn say(&self, looked: anyhow::Result<Status>) {
        let state = match looked {
            Ok(status) => serde_json::to_string(&status).map(Arc::from).map_err(|e| e.to_string()),
            Err(error) => Err(format!("{error:#}")),
        };
        self.states.send_if_modified(|before| {
            let same = before.as_ref() == Some(&state);
            *before = Some(state);
            !same
        });
    }

    async fn session(&self, id: &RequestId) -> Result<Session, CliError> {
        let (ui, ids) = (self.ui(), std::slice::from_ref(id));
        Session::about(&ui, &self.place.global, &self.place.look, ids).await
    }

    /// What functions of the command line would say: the page says it by itself.
    fn ui(&self) -> Arc<Ui> {
        Arc::new(Ui::caught(&self.place.global))
    }

    async fn record(session: &Session, id: &RequestId) -> Result<String, CliError> {
        let record = session.memory.request(id)?;
        let record = record.ok_or_else(|| told(Refused::Unknown(id.clone()).into()))?;
        Ok(serde_json::to_string(&record).map_err(anyhow::Error::from)?)
    }

    async fn approved(&self, id: &RequestId, yes: Approve) -> Result<String, CliError> {
        let (terms, message) = (
            Terms {
                until: yes.until,
                methods: yes.methods,
                paths: yes.paths,
                token_ref: yes.token_ref,
            },
            yes.message,
        );
        let terms = terms_of(terms, message)?;
        let mut session = self.session(id).await?;
        let ids = std::slice::from_ref(id);
        let done = session
            .reconciler
            .approve(ids, &terms, &yes.review, None, &by_this(), false)
            .await
            .map_err(told)?;
        let bottle = done.records.first().map(|record| record.bottle.clone()).unwrap_or_default();
        let answer = Self::record(&session, id).await?;
        self.apply(session, id.clone(), &bottle);
        Ok(answer)
    }

    async fn denied(&self, id: &RequestId, no: Deny) -> Result<String, CliError> {
        let mut session = self.session(id).await?;
        let ids = std::slice::from_ref(id);
        let seen =
            session.reconciler.review(ids, &propose::Terms::default()).await.map_err(told)?;
        if seen.token != no.review {
            return Err(told(Refused::Stale(id.clone(), None).into()));
        }
        let sandboxes = seen.records.iter().map(|record| record.sandbox.clone()).collect();
        drop(seen);
        session.reconciler.deny(ids, &no.message, &by_this()).await.map_err(told)?;
        let answer = Self::record(&session, id).await?;
        let (ui, stop, id) = (self.ui(), self.stop.clone(), id.clone());
        self.wake.notify_one();
        self.tasks.spawn(async move {
            let Session { reconciler, memory, .. } = &session;
            let ids = std::slice::from_ref(&id);
            let told = after::tell(&ui, &stop, reconciler, memory, ids, sandboxes).await;
            late(told.err());
        });
        Ok(answer)
    }

    async fn undone(&self, id: &RequestId) -> Result<String, CliError> {
        let mut session = self.session(id).await?;
        let done = session.reconciler.undo(id, &by_this(), false).await.map_err(told)?;
        let bottle = done.records.first().map(|record| record.bottle.clone()).unwrap_or_default();
        let answer = Self::record(&session, id).await?;
        self.apply(session, id.clone(), &bottle);
        Ok(answer)
    }

    /// Has it applied, which nobody waits for: what becomes of it is in the next status.
    fn apply(&self, session: Session, id: RequestId, bottle: &str) {
        let specs = session.desired.sandboxes.values().filter(|spec| spec.bottle == *bottle);
        let sandboxes: BTreeSet<SandboxId> = specs.map(|spec| spec.id.clone()).collect();
        let (ui, stop) = (self.ui(), self.stop.clone());
        self.wake.notify_one();
        self.tasks.spawn(async move {
            let Session { reconciler, memory, .. } = &session;
            let ids = std::slice::from_ref(&id);
            let done = after::apply(&ui, &stop, reconciler, memory, ids, sandboxes).await;
            late(done.err());
        });
    }

    async fn lines(&self, name: &SandboxId) -> Result<Value, CliError> {
        let target = Target::find(&self.place.global, name.as_str()).await?;
        let log = tail(&target, &target.machine).await;
        let egress = match &target.sidecar {
            Some(sidecar) => tail(&target, sidecar).await,
            None => Vec::new(),
        };
        Ok(json!({ "version": VERSION, "log": log, "egress": egress }))
    }

    /// The last commits, by git: the newest first. A tree that git does not know has none.
    async fn commits(&self) -> Result<Value, CliError> {
        let reconciler = self.place.reconciler()?;
        let mut git = tokio::process::Command::new("git");
        git.arg("-C").arg(&reconciler.load.tree).args([
            "--no-pager",
            "-c",
            "core.fsmonitor=false",
            "log",
            "-n",
            COMMITS,
            "--no-show-signature",
            "--format=%H%x00%at%x00%an%x00%s",
            "--",
            ".",
        ]);
        git.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(ASKING, git.output()).await;
        let output = match output {
            Ok(Ok(output)) if output.status.success() => output.stdout,
            _ => Vec::new(),
        };
        let text = String::from_utf8_lossy(&output);
        let commits: Vec<Value> = text
            .lines()
            .filter_map(|line| {
                let [commit, at, author, subject] = line.split('\0').collect::<Vec<_>>()[..] else {
                    return None;
                };
                let at: u64 = at.parse().ok()?;
                Some(json!({ "commit": commit, "at": at, "author": author, "subject": subject }))
            })
            .collect();
        Ok(json!({ "version": VERSION, "commits": commits }))
    }
}

/// The last lines of what one has written.
async fn tail(target: &Target, instance: &Instance) -> Vec<String> {
    let options = LogOptions { tail: Some(LINES), ..LogOptions::default() };
    let mut out: Vec<u8> = Vec::new();
    let asked = target.backend.logs(&target.scope, instance, options, &mut out);
    // What came before the deadline is shown.
    let _ = tokio::time::timeout(ASKING, asked).await;
    String::from_utf8_lossy(&out).lines().map(str::to_owned).collect()
}

fn late(error: Option<CliError>) {
    if let Some(error) = error {
        tracing::warn!(error = %format!("{:#}", error.error), "what was decided is not in force");
    }
}

fn by_this() -> By {
    By { via: "web", ..by() }
}

fn terms_of(terms: Terms, message: Option<String>) -> Result<propose::Terms, CliError> {
    let until = terms.until.as_deref().map(requests::args::until).transpose();
    let until = until.map_err(CliError::failed)?;
    let args = requests::args::TermArgs::of(until, terms.token_ref);
    let all = args.terms(message.as_ref());
    Ok(propose::Terms { methods: terms.methods, paths: terms.paths, ..all })
}

/// An error as the page is told: what was asked for wrongly, what has moved, what cannot be.
fn refusal(error: CliError) -> Refusal {
    let why = spelled_line(&error.chain().join(": "));
    match error.error.downcast_ref() {
        Some(Refused::Unknown(_)) => Refusal::Unknown(why),
        Some(Refused::Stale(..) | Refused::Decided { .. } | Refused::Over(..)) => {
            Refusal::Stale(why)
        }
        Some(Refused::Blocked(_) | Refused::Message) => Refusal::Blocked(why),
        None if error.error.is::<Deciding>() => Refusal::Stale(why),
        None if error.kind == Kind::Refused => Refusal::Blocked(why),
        None => Refusal::Failed(why),
    }
}

#[async_trait]
impl Desk for Web {
    fn states(&self) -> watch::Receiver<State> {
        let states = self.states.subscribe();
        self.wake.notify_one();
        states
    }

    async fn show(&self, id: RequestId, terms: Terms) -> Answer {
        let shown = async {
            let terms = terms_of(terms, None)?;
            let mut session = self.session(&id).await?;
            let document = requests::shown(&mut session, &id, &terms).await?;
            Ok(escaped_json(&document.to_string()))
        };
        shown.await.map_err(refusal)
    }

    async fn approve(&self, id: RequestId, yes: Approve) -> Answer {
        self.approved(&id, yes).await.map_err(refusal)
    }

    async fn deny(&self, id: RequestId, no: Deny) -> Answer {
        self.denied(&id, no).await.map_err(refusal)
    }

    async fn undo(&self, id: RequestId) -> Answer {
        self.undone(&id).await.map_err(refusal)
    }

    async fn sandbox(&self, name: SandboxId) -> Answer {
        self.lines(&name).await.map(|it| it.to_string()).map_err(refusal)
    }

    async fn history(&self) -> Answer {
        self.commits().await.map(|it| it.to_string()).map_err(refusal)
    }
}
