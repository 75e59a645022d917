//! Loading: a sidecar's policy, credentials and CA, or a gate's upstreams, sent into the running process in one
//! piece. It takes all of it or keeps what it has; nothing of it is written to a disk.

use anyhow::Context as _;
use bytes::Bytes;

use super::Context;
use crate::backend::Backend;
use crate::model::{Instance, LoadSpec, Receipt};

/// Loads a running sidecar or gate and writes its receipt.
pub(super) async fn load(
    backend: &dyn Backend,
    context: &Context<'_>,
    sidecar: &Instance,
    spec: &LoadSpec,
) -> anyhow::Result<()> {
    let document = match spec {
        LoadSpec::Sidecar(spec) => context.sidecars.document(spec, sidecar.backend)?,
        LoadSpec::Gate(spec) => context.sidecars.gate(spec)?,
    };
    let mut receipt = Receipt {
        kind: spec.kind(),
        instance: sidecar.id.clone(),
        backend: sidecar.backend,
        sandbox: spec.sandbox().clone(),
        // Should this run be cut short, the next one loads again.
        guest: None,
        fields: spec.content(),
        skills: Default::default(),
        skills_dir: None,
        env: document.credentials,
        boot: sidecar.boot.clone(),
        workspace: false,
        copied_from: None,
        files: Default::default(),
        under_way: Default::default(),
        ca: document.ca,
        names: document.names,
        settings: Default::default(),
        requests: document.requests,
    };
    context.receipts.put(&receipt, false)?;
    let bytes = Bytes::from_owner(document.bytes);
    backend
        .load(context.scope, sidecar, bytes)
        .await
        .with_context(|| format!("loading the {}", spec.kind()))?;
    receipt.guest = Some(spec.content_hash());
    context.receipts.put(&receipt, true)
}
