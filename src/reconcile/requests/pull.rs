//! Requests come here: what sidecars hold is read through the backends, and what is new is written down. A sidecar
//! is never believed beyond its own sandbox, and what it says is checked again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use serde::Deserialize;

use super::granted::{self, Granted};
use super::record::{Decision, Record};
use super::store::{Decider, now};
use crate::backend::{Backend, Scope};
use crate::model::supervise::{
    Ask, Held, PENDING, REASON, REASON_LINES, Request, RequestId, Standing, What,
};
use crate::model::{
    Instance, InstanceState, Moment, Ownership, ResourceKind, SandboxId, SandboxSpec,
};
use crate::reconcile::pass::Reconciler;
use crate::reconcile::view::View;

/// So many sidecars are asked at once, each no longer than this.
const ASKED_AT_ONCE: usize = 16;
const DEADLINE: Duration = Duration::from_secs(5);
/// How long whoever decides is waited for: what is not read now is read the next time.
const PATIENCE: Duration = Duration::from_secs(2);
/// Nobody decides about it any more.
const EXPIRES: u64 = 24 * 3600 * 1000;

/// Of a sidecar's state what matters here.
#[derive(Default, Deserialize)]
struct Said {
    #[serde(default)]
    requests: Held,
}

impl Reconciler {
    /// Reads what sidecars hold of requests, and writes down what is new. Returns the new ones.
    ///
    /// # Errors
    /// When the state folder cannot be read or written.
    pub async fn pull(&self, view: &View) -> anyhow::Result<Vec<Record>> {
        let held = self.held(view).await;
        let known = view.memory.requests()?;
        if !is_news(view, &held, &known) {
            return Ok(Vec::new());
        }
        let lock = match view.memory.decide(PATIENCE).await {
            Ok(lock) => lock,
            Err(error) if error.is::<super::Deciding>() => {
                tracing::debug!("another bottle decides: requests are read the next time");
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        // Somebody may have decided meanwhile.
        let known = view.memory.requests()?;
        take(view, &lock, held, known)
    }

    /// What the sidecars of supervised sandboxes hold.
    async fn held(&self, view: &View) -> Vec<(Instance, Held)> {
        let asked: Vec<_> = view
            .observed
            .instances
            .iter()
            .filter(|instance| {
                let spec = view.desired.sandboxes.get(&instance.sandbox);
                instance.resource == ResourceKind::Sidecar
                    && instance.ownership == Ownership::Ours
                    && instance.state == InstanceState::Running
                    && spec.is_some_and(|spec| spec.policy.supervise)
            })
            .filter_map(|instance| {
                let backend = self.backends.get(&instance.backend)?.clone();
                Some(ask(backend, view.scope.clone(), instance.clone()))
            })
            .collect();
        let answers: Vec<_> = stream::iter(asked).buffer_unordered(ASKED_AT_ONCE).collect().await;
        answers.into_iter().flatten().collect()
    }
}

/// What one of them holds; none where it does not say.
async fn ask(
    backend: Arc<dyn Backend>,
    scope: Scope,
    sidecar: Instance,
) -> Option<(Instance, Held)> {
    let asked = backend.sidecar_state(&scope, &sidecar);
    let answer = tokio::time::timeout(DEADLINE, asked).await.ok()?.ok()?;
    match serde_json::from_slice::<Said>(&answer) {
        Ok(said) => Some((sidecar, said.requests)),
        Err(error) => {
            let sandbox = &sidecar.sandbox;
            tracing::warn!(%sandbox, %error, "what its sidecar says cannot be read");
            None
        }
    }
}

/// Whether something is to be written down.
fn is_news(view: &View, held: &[(Instance, Held)], known: &[Record]) -> bool {
    let by_id: BTreeMap<&RequestId, &Record> = known.iter().map(|it| (&it.id, it)).collect();
    let new = held.iter().flat_map(|(_, held)| &held.pending).any(|request| {
        by_id
            .get(&request.id)
            .is_none_or(|record| record.state == Standing::Pending && record.asked < request.asked)
    });
    new || known.iter().any(|record| ended(view, record, now()).is_some())
}

/// What became of one that waits without anybody's decision.
fn ended(view: &View, record: &Record, now: Moment) -> Option<Standing> {
    if record.state != Standing::Pending {
        return None;
    }
    let spec = view.desired.sandboxes.get(&record.sandbox);
    if spec
        .is_some_and(|spec| granted::by(spec, &record.ask, now) == Granted::Yes && is_plain(record))
    {
        return Some(Standing::Applied);
    }
    if let Ask::Capability(ask) = &record.ask
        && !What::offered(record.backend).contains(&ask.what)
    {
        return Some(Standing::Unsupported);
    }
    (now.0 > record.last.0.saturating_add(EXPIRES)).then_some(Standing::Expired)
}

/// Whether a tree that has it has it by itself: that a credential is refused no tree says.
fn is_plain(record: &Record) -> bool {
    !matches!(&record.ask, Ask::Credential(ask) if ask.problem == crate::model::supervise::Problem::Rejected)
}

fn take(
    view: &View,
    lock: &Decider,
    held: Vec<(Instance, Held)>,
    known: Vec<Record>,
) -> anyhow::Result<Vec<Record>> {
    let mut known: BTreeMap<RequestId, Record> =
        known.into_iter().map(|record| (record.id.clone(), record)).collect();
    let mut new = Vec::new();
    for (sidecar, held) in held {
        let Some(spec) = view.desired.sandboxes.get(&sidecar.sandbox) else { continue };
        // Whatever a sidecar says: no more than wait at a time.
        for request in held.pending.into_iter().take(PENDING) {
            if !is_sound(&sidecar.sandbox, &request) {
                continue;
            }
            let waiting = known.values().filter(|record| {
                record.sandbox == sidecar.sandbox && record.state == Standing::Pending
            });
            // A sidecar that was started anew may have forgotten what waits here.
            let full = waiting.count() >= 2 * PENDING;
            match known.get_mut(&request.id) {
                None if full => {}
                None => {
                    let record = of(request, &sidecar, spec);
                    view.memory.put_request(lock, &record)?;
                    view.memory.audit_request("requested", &record);
                    known.insert(record.id.clone(), record.clone());
                    new.push(record);
                }
                Some(record)
                    if record.sandbox == sidecar.sandbox
                        && record.ask == request.ask
                        && record.state == Standing::Pending
                        && record.asked < request.asked =>
                {
                    (record.asked, record.last) = (request.asked, request.last);
                    record.evidence = request.evidence;
                    view.memory.put_request(lock, record)?;
                }
                Some(_) => {}
            }
        }
    }
    let now = now();
    for record in known.values_mut() {
        let Some(state) = ended(view, record, now) else { continue };
        record.state = state;
        if state == Standing::Applied {
            record.decision = Some(by_hand(now));
        }
        view.memory.put_request(lock, record)?;
        view.memory.audit_request(state.as_str(), record);
    }
    view.memory.prune_requests(lock)?;
    Ok(new)
}

fn of(request: Request, sidecar: &Instance, spec: &SandboxSpec) -> Record {
    Record::of(request, sidecar.sandbox.clone(), spec.bottle.clone(), sidecar.backend)
}

/// The manifest grants it by itself.
fn by_hand(at: Moment) -> Decision {
    Decision {
        by: "hand".to_owned(),
        uid: 0,
        via: "tree".to_owned(),
        at,
        message: None,
        until: None,
        review: None,
        granted: None,
    }
}

/// Whether a sidecar says what a sidecar says: what is asked for is what its digest is of, and nothing is longer
/// than it may be.
fn is_sound(sandbox: &SandboxId, request: &Request) -> bool {
    let short = |text: &str, most: usize| text.chars().count() <= most;
    let plain = |text: &str| crate::model::text::first_unseen(text, "").is_none();
    let ask = match &request.ask {
        Ask::Egress(ask) => {
            let all = ask.methods.iter().chain(&ask.paths);
            plain(&ask.host)
                && short(&ask.host, 253)
                && ask.methods.len() <= 32
                && ask.paths.len() <= 32
                && all.clone().all(|text| short(text, 2048) && plain(text))
        }
        Ask::Credential(ask) => {
            let role = ask.role.as_deref().unwrap_or_default();
            [&*ask.host, &*ask.path, role].iter().all(|text| short(text, 512) && plain(text))
                && ask.methods.len() <= 32
                && ask.methods.iter().all(|text| short(text, 32) && plain(text))
        }
        Ask::Capability(ask) => ask.value.len() <= 256,
    };
    let words = short(&request.reason, REASON + 64)
        && request.reason.matches('\n').count() <= REASON_LINES
        && request.evidence.codes.len() <= 64;
    let sound = ask && words && request.digest == request.ask.digest();
    if !sound {
        tracing::warn!(%sandbox, id = %request.id, "what its sidecar says of a request is not taken");
    }
    sound
}
