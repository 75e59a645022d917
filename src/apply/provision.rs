//! Provisioning: what is put into a running machine, written once for all backends over exec and
//! copy. Each part gates itself: no skills, no calls.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::Context as _;
use bytes::Bytes;
use zeroize::Zeroizing;

use super::upload::{Owner, Tar};
use super::{Context, Names, settings, trust, workspace};
use crate::backend::{Backend, ExecSpec, ExecUser, GuestDir, Identity, Upload, guest_path};
use crate::model::access;
use crate::model::{GuestSpec, Instance, Receipt, SkillNode, SpecHash};
use crate::plan::diff;

/// The shell that replaces the asked-for values by what stands on its stdin.
pub const ENV_REPLACE: &str =
    "umask 077; cat > /run/bottle/env.new && mv /run/bottle/env.new /run/bottle/env";

/// The shell that adds to the asked-for values what stands on its stdin.
pub const ENV_APPEND: &str = "umask 077; cat >> /run/bottle/env";

/// What is to be provisioned.
pub(super) struct Provision<'a> {
    pub(super) instance: &'a Instance,
    pub(super) guest: &'a GuestSpec,
    pub(super) prior: Option<&'a Receipt>,
    pub(super) deliver: &'a Names,
    /// The machine was made by this very run.
    pub(super) fresh: bool,
}

/// A command line that loads the asked-for values first: for machines that have any.
#[must_use]
pub fn with_asked_env(argv: &[String]) -> Vec<String> {
    let load = format!("[ -r {0} ] && . {0}; exec \"$@\"", guest_path::ENV);
    ["sh", "-c", &load, "sh"].into_iter().map(str::to_owned).chain(argv.iter().cloned()).collect()
}

/// Brings the guest to what is desired and writes its receipt.
pub(super) async fn provision(
    backend: &dyn Backend,
    context: &Context<'_>,
    work: &Provision<'_>,
) -> anyhow::Result<()> {
    let Provision { instance, guest, prior, .. } = *work;
    let scope = context.scope;
    // Before anything goes in: should this run be cut short, the next one knows what may be inside.
    let mut receipt = begun(work);
    context.receipts.put(&receipt, false)?;

    let identity = backend.identity(scope, instance).await?;
    let skills_dir = folder_of_skills(guest.skills_dir.as_deref(), &identity);
    let mut upload = Upload { fresh: work.fresh, ..Upload::default() };
    if let Some(prior) = prior {
        let old_dir = folder_of_skills(prior.skills_dir.as_deref(), &identity);
        upload.wipe.extend(prior.skills.iter().map(|name| format!("{old_dir}/{name}")));
    }
    if !work.fresh {
        upload.wipe.extend(guest.skills.keys().map(|name| format!("{skills_dir}/{name}")));
    }
    upload.wipe.sort();
    upload.wipe.dedup();
    upload.dirs = folders(guest, &identity, &skills_dir);

    let owner = Owner::of(&identity);
    let mut tar = Tar::new();
    tar.file(guest_path::PROMPT, 0o600, owner, guest.prompt.as_bytes())?;
    let ca = match &guest.access {
        Some(_) => Some(context.sidecars.certificate(&guest.sandbox)?),
        None => None,
    };
    if let Some(ca) = &ca {
        tar.file(access::CA_PATH, 0o644, Owner::ROOT, ca.pem.as_bytes())?;
        let preload = access::NODE_PROXY.as_bytes();
        tar.file(access::NODE_PROXY_PATH, 0o644, Owner::ROOT, preload)?;
    } else if prior.is_some_and(|prior| prior.ca.is_some()) {
        upload.wipe.extend([access::CA_PATH, access::NODE_PROXY_PATH].map(str::to_owned));
    }
    settings::put(&mut upload, &mut tar, work, &identity)?;
    skills(&mut tar, guest, &skills_dir, owner)?;
    let copies_workspace = copies_workspace(backend, context, work, &receipt).await?;
    let changes_env = changes_env(work);
    // The marker that lets `command` start comes last of all.
    let ready = |tar: &mut Tar| match guest.gated {
        true => tar.file(guest_path::READY, 0o644, Owner::ROOT, b""),
        false => Ok(()),
    };
    if !copies_workspace && !changes_env {
        ready(&mut tar)?;
    }
    upload.tar = tar.finish()?;
    backend.copy_in(scope, instance, upload).await.context("putting prompt and skills in")?;

    let trusted = prior.and_then(|prior| prior.ca.as_ref());
    if trusted != ca.as_ref().map(|ca| &ca.fingerprint) {
        let pem = ca.as_ref().map(|ca| ca.pem.as_str());
        trust::trust(backend, context, instance, pem).await.context("setting the CA up")?;
    }
    receipt.ca = ca.map(|ca| ca.fingerprint);

    if copies_workspace && let Some(source) = &guest.workspace {
        let mut tars = workspace::tars(&source.path, &source.target, owner);
        while let Some(tar) = tars.recv().await {
            let upload = Upload { tar: tar?, fresh: work.fresh, ..Upload::default() };
            backend.copy_in(scope, instance, upload).await.context("copying the workspace in")?;
        }
        receipt.workspace = true;
    }
    if changes_env {
        deliver(backend, context, work).await.context("delivering the asked-for values")?;
    }
    if copies_workspace || changes_env {
        let mut tar = Tar::new();
        if copies_workspace {
            tar.file(guest_path::WORKSPACE_DONE, 0o644, Owner::ROOT, b"")?;
        }
        ready(&mut tar)?;
        if !tar.is_empty() {
            let upload = Upload { tar: tar.finish()?, fresh: work.fresh, ..Upload::default() };
            backend.copy_in(scope, instance, upload).await.context("marking the guest as ready")?;
        }
    }
    finish(context, work, receipt)
}

fn folder_of_skills(set: Option<&str>, identity: &Identity) -> String {
    match set {
        Some(dir) => dir.trim_end_matches('/').to_owned(),
        None => format!("{}/.claude/skills", identity.home.trim_end_matches('/')),
    }
}

/// What is known to be inside while this provisioning is under way.
fn begun(work: &Provision<'_>) -> Receipt {
    let Provision { instance, guest, prior, .. } = *work;
    let skills: BTreeSet<String> = prior
        .map(|p| &p.skills)
        .into_iter()
        .flatten()
        .chain(guest.skills.keys())
        .cloned()
        .collect();
    // Values of an earlier run of the machine went with it; those that are now under way may be
    // inside or not: that is what an empty digest says.
    let same_run = prior.filter(|p| p.boot == instance.boot);
    let mut env = same_run.map(|p| p.env.clone()).unwrap_or_default();
    env.extend(work.deliver.iter().map(|name| (name.clone(), String::new())));
    Receipt {
        instance: instance.id.clone(),
        backend: instance.backend,
        sandbox: guest.sandbox.clone(),
        guest: None,
        fields: prior.map(|p| p.fields.clone()).unwrap_or_default(),
        skills,
        skills_dir: guest.skills_dir.clone(),
        env,
        boot: instance.boot.clone(),
        workspace: prior.is_some_and(|p| p.workspace),
        files: prior.map(|p| p.files.clone()).unwrap_or_default(),
        ca: None,
    }
}

fn folders(guest: &GuestSpec, identity: &Identity, skills_dir: &str) -> Vec<GuestDir> {
    let owned = |path: &str| GuestDir {
        path: path.to_owned(),
        uid: identity.uid,
        gid: identity.gid,
        mode: 0o755,
    };
    let mut dirs = vec![GuestDir { path: "/etc/bottle".to_owned(), uid: 0, gid: 0, mode: 0o755 }];
    if guest.skills.is_empty() {
        return dirs;
    }
    let home = identity.home.trim_end_matches('/');
    if guest.skills_dir.is_none() {
        if !home.is_empty() {
            dirs.push(owned(home));
        }
        dirs.push(owned(&format!("{home}/.claude")));
    }
    dirs.push(owned(skills_dir));
    dirs
}

fn skills(tar: &mut Tar, guest: &GuestSpec, dir: &str, owner: Owner) -> anyhow::Result<()> {
    for (name, files) in &guest.skills {
        tar.folder(&format!("{dir}/{name}"), 0o755, owner)?;
        for entry in files.entries() {
            let path = format!("{dir}/{name}/{}", entry.path);
            match &entry.node {
                SkillNode::Folder => tar.folder(&path, entry.mode, owner)?,
                SkillNode::File(content) => tar.file(&path, entry.mode, owner, content)?,
                SkillNode::Symlink(target) => tar.symlink(&path, target, owner)?,
            }
        }
    }
    Ok(())
}

/// The workspace is copied once, at creation. A receipt says that it was; where that is lost, the
/// guest's own marker does: trusting it can cost nobody but the guest itself.
async fn copies_workspace(
    backend: &dyn Backend,
    context: &Context<'_>,
    work: &Provision<'_>,
    receipt: &Receipt,
) -> anyhow::Result<bool> {
    if work.guest.workspace.is_none() || receipt.workspace {
        return Ok(false);
    }
    if work.fresh {
        return Ok(true);
    }
    let probe = ExecSpec::new(["test", "-e", guest_path::WORKSPACE_DONE]);
    let marked = backend.exec(context.scope, work.instance, &probe, Bytes::new()).await?;
    Ok(marked.code != 0)
}

/// Whether the file of asked-for values is to be written or removed.
fn changes_env(work: &Provision<'_>) -> bool {
    // What was delivered into an earlier run of the machine is gone with that run's tmpfs.
    let inside = work.prior.filter(|p| p.boot == work.instance.boot).map(|p| &p.env);
    let stale =
        inside.is_some_and(|inside| inside.keys().any(|name| !work.guest.asked_env.contains(name)));
    !work.deliver.is_empty() || stale
}

/// Delivers values over stdin: never in an argument, an environment or a file of the host.
async fn deliver(
    backend: &dyn Backend,
    context: &Context<'_>,
    work: &Provision<'_>,
) -> anyhow::Result<()> {
    let whole = work.deliver == &work.guest.asked_env;
    let mut lines = Zeroizing::new(String::new());
    if !whole {
        // Values that are not at hand stay as they are; what is no longer asked for is unset.
        for name in work.prior.into_iter().flat_map(|p| p.env.keys()) {
            if !work.guest.asked_env.contains(name) {
                writeln!(lines, "unset {name}")?;
            }
        }
    }
    for name in work.deliver {
        let secret = context
            .secrets
            .0
            .get(name)
            .with_context(|| format!("the value of {name} is no longer at hand"))?;
        lines.push_str("export ");
        lines.push_str(name);
        lines.push_str("='");
        for (index, part) in secret.value.split('\'').enumerate() {
            if index > 0 {
                lines.push_str(r"'\''");
            }
            lines.push_str(part);
        }
        lines.push_str("'\n");
    }
    let argv: &[&str] = match (work.guest.asked_env.is_empty(), whole) {
        (true, _) => &["rm", "-f", guest_path::ENV],
        (false, true) => &["sh", "-c", ENV_REPLACE],
        (false, false) => &["sh", "-c", ENV_APPEND],
    };
    let spec = ExecSpec { user: ExecUser::Sandbox, ..ExecSpec::new(argv.iter().copied()) };
    let stdin = Bytes::copy_from_slice(lines.as_bytes());
    let output = backend.exec(context.scope, work.instance, &spec, stdin).await?;
    if output.code == 0 {
        return Ok(());
    }
    // The guest is not trusted: its shell could hand back what it was given, and this error is kept
    // on disk.
    let values = work.deliver.iter().filter_map(|name| context.secrets.0.get(name));
    let told = without_values(&output.stderr, values.map(|secret| secret.value.as_str()));
    anyhow::bail!("the guest's shell ended with {}: {}", output.code, told.trim())
}

/// Text of the guest's, with dots over each line of each value.
fn without_values<'v>(text: &[u8], values: impl Iterator<Item = &'v str>) -> String {
    let mut told = String::from_utf8_lossy(text).into_owned();
    let mut lines: Vec<&str> =
        values.flat_map(str::lines).filter(|line| !line.is_empty()).collect();
    lines.sort_by_key(|line| std::cmp::Reverse(line.len()));
    for line in lines {
        told = told.replace(line, "•••");
    }
    told
}

fn finish(context: &Context<'_>, work: &Provision<'_>, begun: Receipt) -> anyhow::Result<()> {
    let Provision { instance, guest, .. } = *work;
    let mut env: BTreeMap<String, String> = begun.env.clone();
    env.retain(|name, _| guest.asked_env.contains(name));
    for name in work.deliver {
        if let Some(secret) = context.secrets.0.get(name) {
            env.insert(name.clone(), secret.digest.clone());
        }
    }
    let mut files = BTreeMap::new();
    for (path, content) in diff::files(guest) {
        let hash = SpecHash::of_bytes(content);
        if let Some(text) = diff::as_text(content) {
            context.receipts.keep_text(hash, text)?;
        }
        files.insert(path, hash);
    }
    let receipt = Receipt {
        guest: Some(guest.hash()),
        fields: guest.fields(),
        skills: guest.skills.keys().cloned().collect(),
        env,
        boot: instance.boot.clone(),
        files,
        ..begun
    };
    context.receipts.put(&receipt, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_says_shows_no_value() {
        let values = ["hunter", "hunter2\nsecond line"];
        let told = without_values(b"sh: export S='hunter2\nsecond line'", values.into_iter());
        assert_eq!(told, "sh: export S='•••\n•••'");
        assert_eq!(without_values(b"disk full", [""].into_iter()), "disk full");
    }
}
