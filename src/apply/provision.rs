//! Provisioning: what is put into a running machine, written once for all backends over exec and
//! copy. Each part gates itself: no skills, no calls.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use bytes::Bytes;
use zeroize::Zeroizing;

use super::upload::{Owner, Tar};
use super::{Context, Names, asks, first_run, gate, settings, setup, trust, workspace};
use crate::backend::{Backend, ExecSpec, ExecUser, GuestDir, Identity, Upload, guest_path};
use crate::model::policy::RouteRole;
use crate::model::{GuestSpec, Instance, Receipt, ResourceKind, SkillNode, SpecHash};
use crate::model::{access, change};
use crate::plan::{StepId, diff};

/// The shell that adds to the asked-for values what stands on its stdin: for backends that cannot read
/// the file from outside.
pub const ENV_APPEND: &str = "umask 077; cat >> /run/bottle/env";

/// What is to be provisioned.
pub(super) struct Provision<'a> {
    pub(super) instance: &'a Instance,
    pub(super) guest: &'a GuestSpec,
    pub(super) prior: Option<&'a Receipt>,
    pub(super) deliver: &'a Names,
    /// The machine was made by this very run.
    pub(super) fresh: bool,
    /// The step that this is.
    pub(super) step: StepId,
}

/// Brings the guest to what is desired and writes its receipt. `unhurried`: the same backend, whose commands have as long
/// as they take.
pub(super) async fn provision(
    backend: &dyn Backend,
    unhurried: &dyn Backend,
    context: &Context<'_>,
    work: &Provision<'_>,
) -> anyhow::Result<()> {
    let Provision { instance, guest, prior, .. } = *work;
    let scope = context.scope;
    // Before anything goes in: should this run be cut short, the next one knows what may be inside. What
    // it does not know of a skill's folder it takes for the agent's, so that has to survive a power cut.
    let stays = super::delivered::unchanged(work);
    let mut receipt = begun(work, &stays);
    let skills_move = receipt.skills.iter().any(|name| !stays.contains(name));
    context.receipts.put(&receipt, skills_move)?;

    let identity = backend.identity(scope, instance).await?;
    let skills_dir = folder_of_skills(guest.skills_dir.as_deref(), &identity);
    let mut upload = Upload { fresh: work.fresh, ..Upload::default() };
    upload.wipe = super::delivered::outdated(backend, scope, work, &identity, &stays).await?;
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
        let store = super::pkcs12::trusting(&ca.pem).context("writing the CA for JVMs")?;
        tar.file(access::CA_STORE_PATH, 0o644, Owner::ROOT, &store)?;
        let preload = access::NODE_PROXY.as_bytes();
        tar.file(access::NODE_PROXY_PATH, 0o644, Owner::ROOT, preload)?;
    } else if prior.is_some_and(|prior| prior.ca.is_some()) {
        let ours = [access::CA_PATH, access::CA_STORE_FOLDER, access::NODE_PROXY_PATH];
        upload.wipe.extend(ours.map(str::to_owned));
    }
    let mut theirs = BTreeSet::new();
    let role = RouteRole::GeminiBaseUrl;
    let routes = guest.access.iter().flat_map(|access| &access.routes);
    if routes.into_iter().any(|route| route.roles.contains(&role)) {
        // Where there is a door at which the agent asks, that stands there as well.
        if guest.asks.is_none() {
            tar.file(access::GEMINI_PATH, 0o644, Owner::ROOT, access::GEMINI.as_bytes())?;
        }
    } else if prior.is_some_and(|prior| settings::had(prior, role)) {
        upload.wipe.push(access::GEMINI_PATH.to_owned());
    }
    let values = change::script(&guest.env, &guest.unset);
    if !values.is_empty() {
        tar.file(guest_path::VALUES, 0o644, Owner::ROOT, values.as_bytes())?;
    } else if prior.is_none_or(Receipt::has_values) && !work.fresh {
        upload.wipe.push(guest_path::VALUES.to_owned());
    }
    if let Some(main) = guest.main.as_ref().filter(|main| !main.command.is_empty() || !work.fresh) {
        tar.file(guest_path::COMMAND, 0o644, Owner::ROOT, main.script().as_bytes())?;
    }
    settings::put(backend, scope, &mut upload, &mut tar, work, &identity).await?;
    gate::put(backend, scope, &mut upload, &mut tar, work, &identity).await?;
    asks::put(backend, scope, &mut upload, &mut tar, work, &identity, &mut theirs).await?;
    first_run::put(backend, scope, &mut upload, &mut tar, work, &identity, &skills_dir).await?;
    skills(&mut tar, guest, &stays, &skills_dir, owner)?;
    let copies_workspace = copies_workspace(backend, context, work, &receipt).await?;
    if copies_workspace && let Some(source) = &guest.workspace {
        // Its folder is looked at like any other before a stream goes there.
        let (uid, gid) = (identity.uid, identity.gid);
        upload.dirs.push(GuestDir { path: source.target.clone(), uid, gid, mode: 0o755 });
    }
    let changes_env = changes_env(work);
    let sets_up = setup::is_due(backend, context, work, &identity).await?;
    // The marker that lets `command` start comes last of all.
    let ready = |tar: &mut Tar| match guest.gated {
        true => tar.file(guest_path::READY, 0o644, Owner::ROOT, b""),
        false => Ok(()),
    };
    if !copies_workspace && !changes_env && !sets_up {
        ready(&mut tar)?;
    }
    upload.tar = tar.finish()?;
    backend.copy_in(scope, instance, upload).await.context("putting prompt and skills in")?;

    let trusted = prior.and_then(|prior| prior.ca.as_ref());
    if trusted != ca.as_ref().map(|ca| &ca.fingerprint) {
        let pem = ca.as_ref().map(|ca| ca.pem.as_str());
        trust::trust(backend, context, instance, &identity, pem)
            .await
            .context("setting the CA up")?;
    }
    receipt.ca = ca.map(|ca| ca.fingerprint);

    if sets_up {
        setup::run(backend, unhurried, context, work).await?;
    }

    if copies_workspace && let Some(source) = &guest.workspace {
        let workspace::Copying { tar, ended } =
            workspace::copy(&source.path, &source.target, Some(owner));
        let sent = backend.stream_in(scope, instance, tar).await;
        let walked = ended.await.context("copying the workspace")?;
        // Whoever walks it knows best what is wrong with it; that nobody reads on is no reason.
        match (sent, walked) {
            (Ok(()), Ok(left_out)) => {
                if let Some(words) = left_out.words() {
                    tracing::warn!(sandbox = %guest.sandbox, "{words}");
                }
            }
            (Ok(()), Err(error)) => return Err(error),
            (Err(_), Err(error)) if !stopped(&error) => return Err(error),
            (Err(error), _) => return Err(error).context("copying the workspace in"),
        }
        receipt.workspace = true;
        receipt.copied_from = Some(source.path.clone());
    }
    if changes_env {
        deliver(backend, context, work, owner).await.context("delivering the asked-for values")?;
    }
    if copies_workspace || changes_env || sets_up {
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
    if restarts_command(work) {
        backend.reread(scope, instance).await?;
    }
    finish(context, work, receipt, theirs)
}

/// Whether another command may run than the one that was put in. The supervisor, which knows, lets one run
/// on that is the same.
fn restarts_command(work: &Provision<'_>) -> bool {
    let Some(main) = work.guest.main.as_ref().filter(|_| !work.fresh) else { return false };
    let now = main.fields();
    let of = |prior: &Receipt, path: &str| prior.fields.0.get(path) == now.0.get(path);
    // Its fields are those of what was put in last, also where a later provisioning did not end.
    let same = |prior: &Receipt| {
        !prior.fields.0.is_empty() && ["command", "restart"].iter().all(|path| of(prior, path))
    };
    !work.prior.is_some_and(same)
}

/// The copy ended because nobody read on.
fn stopped(error: &anyhow::Error) -> bool {
    let broken = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(broken))
}

pub(super) fn folder_of_skills(set: Option<&str>, identity: &Identity) -> String {
    match set {
        Some(dir) => dir.trim_end_matches('/').to_owned(),
        None => format!("{}/.claude/skills", identity.home.trim_end_matches('/')),
    }
}

/// What is known to be inside while this provisioning is under way.
fn begun(work: &Provision<'_>, stays: &BTreeSet<String>) -> Receipt {
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
        kind: ResourceKind::Machine,
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
        copied_from: prior.and_then(|p| p.copied_from.clone()),
        files: prior.map(|p| p.files.clone()).unwrap_or_default(),
        under_way: super::delivered::under_way(work, stays),
        // Still in the bundles: they are written last, and then it is this one or the receipt is whole.
        ca: prior.and_then(|p| p.ca.clone()),
        names: None,
        requests: BTreeMap::new(),
        settings: settings::possible(work),
    }
}

fn folders(guest: &GuestSpec, identity: &Identity, skills_dir: &str) -> Vec<GuestDir> {
    let owned = |path: &str| GuestDir {
        path: path.to_owned(),
        uid: identity.uid,
        gid: identity.gid,
        mode: 0o755,
    };
    let root = |path: &str| GuestDir { path: path.to_owned(), uid: 0, gid: 0, mode: 0o755 };
    let mut dirs = vec![root("/etc/bottle")];
    dirs.extend(guest.access.iter().map(|_| root(access::CA_STORE_FOLDER)));
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

fn skills(
    tar: &mut Tar,
    guest: &GuestSpec,
    stays: &BTreeSet<String>,
    dir: &str,
    owner: Owner,
) -> anyhow::Result<()> {
    for (name, files) in guest.skills.iter().filter(|(name, _)| !stays.contains(*name)) {
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

/// Delivers values as a file in memory: never in an argument, an environment or a file of the host.
async fn deliver(
    backend: &dyn Backend,
    context: &Context<'_>,
    work: &Provision<'_>,
    owner: Owner,
) -> anyhow::Result<()> {
    let whole = work.deliver == &work.guest.asked_env;
    let mut gone: Vec<&str> = Vec::new();
    if !whole {
        // Values that are not at hand stay as they are; what is no longer asked for is unset.
        let delivered = work.prior.into_iter().flat_map(|p| p.env.keys());
        gone.extend(delivered.filter(|n| !work.guest.asked_env.contains(*n)).map(String::as_str));
    }
    let mut values = Vec::new();
    for name in work.deliver {
        let secret = context
            .secrets
            .0
            .get(name)
            .with_context(|| format!("the value of {name} is no longer at hand"))?;
        values.push((name.as_str(), secret.value.as_str()));
    }
    let lines = lines(&gone, &values);
    let mut upload = Upload { fresh: false, ..Upload::default() };
    if work.guest.asked_env.is_empty() {
        upload.wipe.push(guest_path::ENV.to_owned());
    } else {
        let old = if whole {
            Zeroizing::default()
        } else {
            match inside(backend, context, work).await {
                Some(old) => old,
                None => return append(backend, context, work, lines).await,
            }
        };
        let mut content = Zeroizing::new(Vec::with_capacity(old.len() + lines.len()));
        content.extend_from_slice(&old);
        content.extend_from_slice(lines.as_bytes());
        let mut tar = Tar::with_room(content.len());
        tar.file(guest_path::ENV, 0o600, owner, &content)?;
        upload.tar = Bytes::from_owner(Zeroizing::new(Vec::from(tar.finish()?)));
    }
    let put = backend.copy_in(context.scope, work.instance, upload).await;
    put.map_err(|error| {
        let words = format!("{:#}", anyhow::Error::from(error));
        anyhow::Error::msg(redacted(context, work, words.as_bytes()))
    })
}

/// More than all values of a sandbox come to.
const MOST_VALUES: u64 = 4 << 20;

/// What was delivered before; `None` where that cannot be read from outside.
async fn inside(
    backend: &dyn Backend,
    context: &Context<'_>,
    work: &Provision<'_>,
) -> Option<Zeroizing<Vec<u8>>> {
    let path = guest_path::ENV;
    let archive = backend.copy_out(context.scope, work.instance, path, MOST_VALUES).await.ok()?;
    let archive = Zeroizing::new(Vec::from(archive));
    let most = archive.len();
    let mut archive = tar::Archive::new(archive.as_slice());
    let mut entry = archive.entries().ok()?.next()?.ok()?;
    if !entry.header().entry_type().is_file() {
        return None;
    }
    // It is no longer than what it came in, whatever it says, and so this does not grow.
    let mut old = Zeroizing::new(Vec::with_capacity(most));
    std::io::Read::read_to_end(&mut entry, &mut old).ok()?;
    Some(old)
}

/// Has the guest's shell add to the values.
async fn append(
    backend: &dyn Backend,
    context: &Context<'_>,
    work: &Provision<'_>,
    lines: Zeroizing<String>,
) -> anyhow::Result<()> {
    let spec = ExecSpec { user: ExecUser::Sandbox, ..ExecSpec::new(["sh", "-c", ENV_APPEND]) };
    let stdin = Bytes::from_owner(Wiped(lines));
    let output = backend.exec(context.scope, work.instance, &spec, stdin).await?;
    if output.code == 0 {
        return Ok(());
    }
    let told = redacted(context, work, &output.stderr);
    anyhow::bail!("the guest's shell ended with {}: {}", output.code, told.trim())
}

/// The guest is not trusted: what runs in it could hand back what it was given, and errors are kept on
/// disk.
fn redacted(context: &Context<'_>, work: &Provision<'_>, text: &[u8]) -> String {
    let values = work.deliver.iter().filter_map(|name| context.secrets.0.get(name));
    without_values(text, values.map(|secret| secret.value.as_str()))
}

/// What a shell reads. It is as long as it will be from the start: one that grew would leave what it
/// held in memory that nobody wipes.
fn lines(gone: &[&str], values: &[(&str, &str)]) -> Zeroizing<String> {
    let unset = gone.iter().map(|name| "unset \n".len() + name.len());
    let export = values.iter().map(|(name, value)| {
        let quotes = value.bytes().filter(|byte| *byte == b'\'').count();
        "export =''\n".len() + name.len() + value.len() + quotes * (QUOTE.len() - 1)
    });
    let mut lines = Zeroizing::new(String::with_capacity(unset.chain(export).sum()));
    for name in gone {
        lines.push_str("unset ");
        lines.push_str(name);
        lines.push('\n');
    }
    for (name, value) in values {
        lines.push_str("export ");
        lines.push_str(name);
        lines.push_str("='");
        for (index, part) in value.split('\'').enumerate() {
            if index > 0 {
                lines.push_str(QUOTE);
            }
            lines.push_str(part);
        }
        lines.push_str("'\n");
    }
    lines
}

/// A quote within quotes.
const QUOTE: &str = r"'\''";

/// Bytes that are wiped when nobody has them any more.
struct Wiped(Zeroizing<String>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
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

fn finish(
    context: &Context<'_>,
    work: &Provision<'_>,
    begun: Receipt,
    theirs: BTreeSet<String>,
) -> anyhow::Result<()> {
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
        let hash = SpecHash::of_bytes(&content);
        if let Some(text) = diff::as_text(&content) {
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
        under_way: BTreeMap::new(),
        settings: settings::wanted(guest).into_iter().chain(asks::remembered(theirs)).collect(),
        ..begun
    };
    context.receipts.put(&receipt, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_reads_never_grows() {
        for values in [vec![], vec![("A", "plain")], vec![("A", "it's 'it'"), ("LONG", "''\n'")]] {
            let text = lines(&["OLD", "OLDER"], &values);
            assert_eq!(text.len(), text.capacity(), "{:?}", &*text);
        }
        assert_eq!(&*lines(&["X"], &[("A", "it's")]), "unset X\nexport A='it'\\''s'\n");
    }

    #[test]
    fn what_the_guest_says_shows_no_value() {
        let values = ["hunter", "hunter2\nsecond line"];
        let told = without_values(b"sh: export S='hunter2\nsecond line'", values.into_iter());
        assert_eq!(told, "sh: export S='•••\n•••'");
        assert_eq!(without_values(b"disk full", [""].into_iter()), "disk full");
    }
}
