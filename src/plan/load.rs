//! What a sidecar is to be given: its policy, its credentials and its CA. All of it is loaded into the
//! running process, which keeps it in memory only: one that was started anew has nothing.

use std::collections::BTreeMap;

use super::decide::{Seen, differences};
use super::decision::{Decision, Loading};
use super::guest::{keyed, short};
use super::{Options, Reason, Verdict};
use crate::model::gate::LoadSpec;
use crate::model::policy::PROXY_LOGIN;
use crate::model::{
    BackendKind, FieldChange, Instance, InstanceState, ResourceKind, SandboxId, SidecarSpec,
};

/// Decides whether the sidecar is loaded; `sidecar` is the one that stays.
pub(super) fn decide_load(
    decision: &mut Decision,
    spec: &SidecarSpec,
    backend: BackendKind,
    sidecar: Option<&Instance>,
    seen: &Seen<'_>,
    options: &Options,
) {
    let loading = |on| Loading { spec: LoadSpec::Sidecar(spec.clone()), on };
    let Some(sidecar) = sidecar else {
        decision.load.push(loading(None));
        return;
    };
    let prior = seen.observed.receipts.get(&sidecar.id);
    let runs = sidecar.state == InstanceState::Running;
    let loaded =
        prior.filter(|receipt| runs && receipt.boot == sidecar.boot && receipt.guest.is_some());
    let loading = loading(Some(sidecar.clone()));
    let Some(loaded) = loaded else {
        // Where it does not run, its own verdict says so already.
        if runs {
            reprovision(decision, ResourceKind::Sidecar, backend, Reason::HashMissing, Vec::new());
        }
        decision.load.push(loading);
        return;
    };
    let mut fields = differences(&loaded.fields, &spec.content());
    for (name, _) in spec.credentials() {
        let (old, new) = (loaded.env.get(name), options.tokens.get(name));
        let path = match name {
            PROXY_LOGIN => format!("{name}.value"),
            _ => format!("cred_proxy.{name}"),
        };
        // Several routes may use one credential. One that is not set is waited for.
        if new.is_some() && old != new && fields.iter().all(|field| field.path != path) {
            let (from, to) = (old.map(|digest| keyed(digest)), new.map(|digest| keyed(digest)));
            fields.push(FieldChange { path, from, to });
        }
    }
    fields.extend(ca(&spec.sandbox, loaded.ca.as_ref(), options));
    let now = options.requests.get(&spec.sandbox).filter(|_| spec.policy.supervise);
    fields.extend(decisions(&loaded.requests, now));
    let now = options.names.get(&backend);
    if loaded.names.as_ref() != now {
        let (from, to) = (loaded.names.clone(), now.cloned());
        fields.push(FieldChange { path: "host_names".to_owned(), from, to });
    }
    if loaded.guest != Some(spec.content_hash()) || !fields.is_empty() {
        reprovision(decision, ResourceKind::Sidecar, backend, Reason::SpecChanged, fields);
        decision.load.push(loading);
    }
}

/// What changes about the CA, if anything does.
fn ca(sandbox: &SandboxId, given: Option<&String>, options: &Options) -> Option<FieldChange> {
    let valid = options.cas.get(sandbox);
    (valid.is_none() || valid != given).then(|| FieldChange {
        path: "ca".to_owned(),
        from: given.map(|ca| short(ca)),
        to: Some(valid.map_or_else(|| "a new one".to_owned(), |ca| short(ca))),
    })
}

/// Which decisions it does not know. That it knows more than it would be told now is no difference.
fn decisions(
    known: &BTreeMap<String, String>,
    now: Option<&BTreeMap<String, String>>,
) -> Vec<FieldChange> {
    /// What is news also when it ends: that an agent may ask, and that its requests are not taken.
    const ENDING: [&str; 2] = ["requests", "supervise"];
    let news = now.into_iter().flatten().filter(|(path, told)| known.get(*path) != Some(told));
    let news = news.map(|(path, told)| FieldChange {
        path: path.clone(),
        from: known.get(path).cloned(),
        to: Some(told.clone()),
    });
    let gone = |path: &&str| now.is_none_or(|now| !now.contains_key(*path));
    let ended = ENDING.into_iter().filter(gone).filter_map(|path| {
        let from = Some(known.get(path)?.clone());
        Some(FieldChange { path: path.to_owned(), from, to: None })
    });
    news.chain(ended).collect()
}

/// Its own verdict, where it stays, was that all is well with its process.
pub(super) fn reprovision(
    decision: &mut Decision,
    kind: ResourceKind,
    backend: BackendKind,
    reason: Reason,
    fields: Vec<FieldChange>,
) {
    decision.changes.retain(|c| c.resource != kind || c.verdict != Verdict::Keep);
    decision.change(kind, Some(backend), Verdict::Reprovision, reason);
    decision.fields(fields);
}
