//! `bottle status`: every sandbox, declared or existing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use serde::Serialize;

use super::args::{Global, LookArgs, StatusArgs};
use super::error::{CliError, Exit};
use super::runs::RunDocument;
use super::status_text;
use super::ui::Ui;
use super::{look, setup};
use crate::backend::{Backend, LogOptions, MainState};
use crate::model::gate::RELAY_OPEN;
use crate::model::supervise::Standing;
use crate::model::{
    BackendKind, Diagnostic, Instance, InstanceState, Ownership, ResourceKind, SandboxId,
};
use crate::plan::document::{TreeDocument, VERSION};
use crate::plan::{Change, Options, Verdict, verdict_of};
use crate::reconcile::requests::Record;
use crate::reconcile::state::now;
use crate::reconcile::{Last, LastOutcome, Reconciler, View};
use crate::sidecar::egress::State;
use crate::sidecar::git::keep::State as GateState;
use crate::sidecar::git::mirror::Activity;

/// So many machines are asked at once what they do, each no longer than this.
const ASKED_AT_ONCE: usize = 16;
const ASK_DEADLINE: Duration = Duration::from_secs(5);

/// So many lines of output of what fails are shown.
const OUTPUT_LINES: u64 = 5;

/// Every sandbox, as `-o json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct StatusDocument {
    version: u32,
    pub(super) tree: TreeDocument,
    /// The commit from which the last pass worked.
    pub(super) last_commit: Option<String>,
    pub(super) sandboxes: Vec<SandboxStatus>,
    pub(super) diagnostics: Vec<Diagnostic>,
}

/// One sandbox.
#[derive(Debug, Serialize)]
pub(super) struct SandboxStatus {
    pub(super) sandbox: SandboxId,
    pub(super) backend: Option<BackendKind>,
    /// `running`, `completed`, `missing`, `stopped by you`, …
    pub(super) state: String,
    /// The machine's exit code, or its command's.
    pub(super) code: Option<i32>,
    /// Since when it was stopped by the operator, in seconds since the epoch, where it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stopped: Option<u64>,
    /// What the next `apply` would do.
    pub(super) verdict: Verdict,
    /// Why, a line each.
    pub(super) drift: Vec<String>,
    /// Seconds since the machine was made.
    pub(super) age: Option<u64>,
    pub(super) last: Option<LastOutcome>,
    pub(super) notes: Vec<String>,
    /// The last lines of output of what fails.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) output: Vec<String>,
    /// What its agent asks for, where it can ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) requests: Option<RequestsStatus>,
    /// Its detached runs that are remembered, the oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) runs: Vec<RunDocument>,
    /// What its sidecar did since it was started, where it has one that answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sidecar: Option<SidecarStatus>,
    /// What its git gate did since it was started, where it has one that answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) git: Option<GitStatus>,
}

/// What an agent asks for.
#[derive(Debug, Serialize)]
pub(super) struct RequestsStatus {
    /// So many requests wait for the operator.
    pub(super) pending: usize,
}

/// What a git gate did since it was started.
#[derive(Debug, Serialize)]
pub(super) struct GitStatus {
    /// Since when it serves, as RFC 3339 has it.
    pub(super) started_at: String,
    /// It knows its upstreams; until then nothing passes.
    pub(super) loaded: bool,
    /// What was refused, by why.
    pub(super) denied: BTreeMap<String, u64>,
    /// By the names that the bottle gives them.
    pub(super) upstreams: BTreeMap<String, Activity>,
    /// Why connections do not come from its engine now, where its relay says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) relay: Option<String>,
}

impl GitStatus {
    fn of(state: GateState) -> Self {
        Self {
            loaded: state.generation > 0,
            denied: denied(&state.counts),
            started_at: state.started_at,
            upstreams: state.upstreams,
            relay: state.relay.filter(|how| how != RELAY_OPEN && !how.is_empty()),
        }
    }
}

/// Of the lines of a log what was refused, by why.
fn denied(counts: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let denied = counts.iter();
    denied
        .filter_map(|(event, count)| Some((event.strip_prefix("deny:")?.to_owned(), *count)))
        .collect()
}

/// What a sidecar did since it was started.
#[derive(Debug, Serialize)]
pub(super) struct SidecarStatus {
    /// Since when it serves, as RFC 3339 has it.
    pub(super) started_at: String,
    /// A policy is in force; until then nothing passes.
    pub(super) loaded: bool,
    /// Requests that were let through.
    pub(super) allowed: u64,
    /// Requests that were let through although a leak rule matched.
    pub(super) warned: u64,
    /// What was taken out of requests that were let through: how many lines of the log say so.
    pub(super) redacted: u64,
    /// Requests and connections that were refused, by why.
    pub(super) denied: BTreeMap<String, u64>,
}

impl SidecarStatus {
    fn of(state: State) -> Self {
        let count = |event: &str| state.counts.get(event).copied().unwrap_or(0);
        let all = |begin: &str| -> u64 {
            let counts = state.counts.iter().filter(|(event, _)| event.starts_with(begin));
            counts.map(|(_, count)| count).sum()
        };
        Self {
            loaded: state.generation > 0,
            allowed: count("allow"),
            warned: all("warn:"),
            redacted: all("redacted:"),
            denied: denied(&state.counts),
            started_at: state.started_at,
        }
    }
}

impl SandboxStatus {
    fn fails(&self) -> bool {
        let failing = ["failing", "failed", "stopped", "broken"].contains(&self.state.as_str());
        failing && self.code != Some(0)
    }
}

pub(super) async fn run(ui: &Ui, global: &Global, args: &StatusArgs) -> Result<Exit, CliError> {
    let only: BTreeSet<SandboxId> = args
        .only
        .iter()
        .map(|name| SandboxId::new(name.as_str()).map_err(|e| anyhow::Error::from(e).into()))
        .collect::<Result<_, CliError>>()?;
    let load = setup::load_options(global, args.path.as_deref(), &args.read)?;
    let reconciler = setup::onlooker(load, &LookArgs::default(), None)?;
    let view = reconciler.look(Options::default()).await?;
    let last: Last = view.memory.last().unwrap_or_default().unwrap_or_default();
    let mains = mains(&reconciler, &view).await;
    let mut sandboxes = sandboxes(&view, &last, &mains);
    for run in view.memory.runs()? {
        let of = sandboxes.iter_mut().find(|status| status.sandbox == run.record.sandbox);
        if let Some(status) = of {
            status.runs.push(RunDocument::of(&run));
        }
    }
    if !only.is_empty() {
        let known = |id: &SandboxId| sandboxes.iter().any(|status| status.sandbox == *id);
        if let Some(unknown) = only.iter().find(|id| !known(id)) {
            let names = sandboxes.iter().map(|status| status.sandbox.as_str());
            let told = CliError::failed(format!("there is no sandbox {unknown}"));
            return Err(told.hint(setup::there_are(&names.collect::<Vec<_>>())));
        }
        sandboxes.retain(|status| only.contains(&status.sandbox));
    }
    outputs(&reconciler, &view, &mut sandboxes).await;
    let sidecar = |bytes: &[u8]| Some(SidecarStatus::of(serde_json::from_slice(bytes).ok()?));
    let mut sidecars = beside(&reconciler, &view, ResourceKind::Sidecar, sidecar).await;
    let gate = |bytes: &[u8]| Some(GitStatus::of(serde_json::from_slice(bytes).ok()?));
    let mut gates = beside(&reconciler, &view, ResourceKind::Gate, gate).await;
    for status in &mut sandboxes {
        status.sidecar = sidecars.remove(&status.sandbox);
        status.git = gates.remove(&status.sandbox);
    }
    if view.memory.dir().is_dir() {
        // What is shown is what sidecars hold now. Where that cannot be written down, it is shown as it was.
        if let Err(error) = reconciler.pull(&view).await {
            tracing::warn!(error = %format!("{error:#}"), "requests cannot be read");
        }
    }
    let records = view.memory.requests()?;
    for status in &mut sandboxes {
        let spec = view.desired.sandboxes.get(&status.sandbox);
        let waits = |it: &&Record| it.sandbox == status.sandbox && it.state == Standing::Pending;
        let pending = records.iter().filter(waits).count();
        let asks = spec.is_some_and(|spec| spec.policy.supervise) || pending > 0;
        status.requests = asks.then_some(RequestsStatus { pending });
    }
    let document = StatusDocument {
        version: VERSION,
        tree: view.tree(),
        last_commit: last.commit,
        sandboxes,
        diagnostics: view.desired.diagnostics.clone(),
    };
    if ui.json() {
        ui.document(&document)?;
    } else {
        ui.data(&status_text::render(&document, now(), ui.width()))?;
    }
    Ok(Exit::Done)
}

/// The machines of this tree, by sandbox.
fn machines(view: &View) -> BTreeMap<&SandboxId, &Instance> {
    let ours =
        |i: &&Instance| i.resource == ResourceKind::Machine && i.ownership == Ownership::Ours;
    let aside = |i: &&Instance| i.state == InstanceState::Aside;
    let all = || view.observed.instances.iter().filter(ours);
    // Rather than one that was set aside for it.
    let last = all().filter(|i| !aside(i));
    all().filter(aside).chain(last).map(|i| (&i.sandbox, i)).collect()
}

/// What the commands of running machines do, where there are any.
async fn mains(reconciler: &Reconciler, view: &View) -> BTreeMap<SandboxId, MainState> {
    let machines = machines(view);
    let asked: Vec<(&SandboxId, &Instance, &Arc<dyn Backend>)> = machines
        .into_iter()
        .filter(|(id, machine)| {
            let spec = view.desired.sandboxes.get(*id);
            let command = spec.is_none_or(|spec| !spec.command.is_empty());
            command && machine.state == InstanceState::Running
        })
        .filter_map(|(id, machine)| Some((id, machine, reconciler.backends.get(&machine.backend)?)))
        .collect();
    stream::iter(asked)
        .map(async |(id, machine, backend)| {
            let asked = backend.main_state(&view.scope, machine);
            match tokio::time::timeout(ASK_DEADLINE, asked).await {
                Ok(Ok(Some(main))) => Some((id.clone(), main)),
                _ => None,
            }
        })
        .buffer_unordered(ASKED_AT_ONCE)
        .filter_map(async |answer| answer)
        .collect()
        .await
}

/// What running sidecars, or gates, say of themselves.
async fn beside<T>(
    reconciler: &Reconciler,
    view: &View,
    kind: ResourceKind,
    read: impl Fn(&[u8]) -> Option<T> + Copy,
) -> BTreeMap<SandboxId, T> {
    let asked = view.observed.instances.iter().filter(|instance| {
        instance.resource == kind
            && instance.ownership == Ownership::Ours
            && instance.state == InstanceState::Running
    });
    let asked = asked.filter_map(|i| Some((i, reconciler.backends.get(&i.backend)?)));
    stream::iter(asked.collect::<Vec<_>>())
        .map(async |(sidecar, backend)| {
            let asked = backend.sidecar_state(&view.scope, sidecar);
            let answer = tokio::time::timeout(ASK_DEADLINE, asked).await.ok()?.ok()?;
            Some((sidecar.sandbox.clone(), read(&answer)?))
        })
        .buffer_unordered(ASKED_AT_ONCE)
        .filter_map(async |answer| answer)
        .collect()
        .await
}

fn sandboxes(
    view: &View,
    last: &Last,
    mains: &BTreeMap<SandboxId, MainState>,
) -> Vec<SandboxStatus> {
    let machines = machines(view);
    let mut changes: BTreeMap<&SandboxId, Vec<&Change>> = BTreeMap::new();
    for change in &view.plan.changes {
        changes.entry(&change.sandbox).or_default().push(change);
    }
    let all: BTreeSet<&SandboxId> = changes.keys().chain(machines.keys()).copied().collect();
    let drifts = look::drifts(view);
    all.into_iter()
        .map(|id| {
            let machine = machines.get(id).copied();
            let of = changes.get(id).map_or(&[][..], Vec::as_slice);
            let known = of.iter().find_map(|change| change.backend);
            let stopped = view.observed.stopped.get(id).map(|stopped| stopped.since);
            let (state, code) = match machine.map(|machine| &machine.state) {
                Some(InstanceState::Stopped { .. } | InstanceState::Created)
                    if stopped.is_some() =>
                {
                    ("stopped by you".to_owned(), None)
                }
                _ => state(machine, mains.get(id), known, view),
            };
            SandboxStatus {
                sandbox: id.clone(),
                backend: machine.map(|machine| machine.backend).or(known),
                state,
                code,
                stopped,
                verdict: verdict_of(of),
                drift: drifts.get(id.as_str()).cloned().unwrap_or_default(),
                age: machine.and_then(|m| m.created).map(|created| now().saturating_sub(created)),
                last: last.sandboxes.get(id).cloned(),
                notes: of
                    .iter()
                    .flat_map(|change| change.notes.iter().cloned())
                    .chain(not_found(id, machine, code, view))
                    .collect(),
                output: Vec::new(),
                runs: Vec::new(),
                requests: None,
                sidecar: None,
                git: None,
            }
        })
        .collect()
}

/// What to do about a command whose program is not inside, as its exit code says.
fn not_found(
    id: &SandboxId,
    machine: Option<&Instance>,
    code: Option<i32>,
    view: &View,
) -> Option<String> {
    let spec = view.desired.sandboxes.get(id)?;
    let program = spec.command.first().filter(|_| code == Some(super::run::NOT_FOUND))?;
    let brings = super::run::brings(machine?, program, &format!("bottles/{}.md", spec.bottle));
    Some(format!(
        "its command ended with {}, which says that a program is not inside: where that is `{program}`, {brings}",
        super::run::NOT_FOUND
    ))
}

fn state(
    machine: Option<&Instance>,
    main: Option<&MainState>,
    backend: Option<BackendKind>,
    view: &View,
) -> (String, Option<i32>) {
    let plain = |word: &str| (word.to_owned(), None);
    let Some(machine) = machine else {
        let unseen = backend.is_some_and(|kind| !view.observed.facts.contains_key(&kind));
        return plain(if unseen { "unknown" } else { "missing" });
    };
    match (&machine.state, main) {
        (InstanceState::Running, Some(MainState::Waiting)) => plain("waiting"),
        (InstanceState::Running, Some(MainState::Completed)) => plain("completed"),
        (InstanceState::Running, Some(MainState::Failed(code))) => {
            ("failed".to_owned(), Some(*code))
        }
        (InstanceState::Running, Some(MainState::BackingOff { code, .. })) => {
            ("failing".to_owned(), Some(*code))
        }
        (InstanceState::Running, _) => plain("running"),
        (InstanceState::Created, _) => plain("created"),
        (InstanceState::Paused, _) => plain("paused"),
        (InstanceState::Aside, _) => plain("stopped"),
        (InstanceState::Stopped { code }, _) => ("stopped".to_owned(), *code),
        (InstanceState::Broken(_), _) => plain("broken"),
        (InstanceState::Unknown(_), _) => plain("unreadable"),
    }
}

/// Fetches the last lines of output of what fails.
async fn outputs(reconciler: &Reconciler, view: &View, sandboxes: &mut [SandboxStatus]) {
    let machines = machines(view);
    for status in sandboxes.iter_mut().filter(|status| status.fails()) {
        let Some(machine) = machines.get(&status.sandbox) else { continue };
        let Some(backend) = reconciler.backends.get(&machine.backend) else { continue };
        let mut out: Vec<u8> = Vec::new();
        let options =
            LogOptions { follow: false, tail: Some(OUTPUT_LINES), ..LogOptions::default() };
        let asked = backend.logs(&view.scope, machine, options, &mut out);
        // Whatever came before the deadline is shown: it is a comfort, not the answer.
        let _ = tokio::time::timeout(ASK_DEADLINE, asked).await;
        let text = String::from_utf8_lossy(&out);
        status.output = text.lines().map(str::to_owned).collect();
    }
}
