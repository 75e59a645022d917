//! What a guest is told of its git gate: a page for the agent, and the gate's name. Its git is led there as the
//! settings of roles are.

use anyhow::Context as _;

use super::provision::Provision;
use super::settings::{self, Found};
use super::upload::{Owner, Tar};
use crate::backend::{Backend, Identity, Scope, Upload};
use crate::model::gate::{GATE_NAME, GUEST_FIELDS, PAGE_PATH};
use crate::model::{BackendKind, Receipt};

/// Where a machine has names of its own.
const HOSTS: &str = "/etc/hosts";

/// Puts the page in, or takes it out; and the name, into a machine that was made by an earlier version: today's are
/// made with it.
pub(super) async fn put(
    backend: &dyn Backend,
    scope: &Scope,
    upload: &mut Upload,
    tar: &mut Tar,
    work: &Provision<'_>,
    identity: &Identity,
) -> anyhow::Result<()> {
    let had = work.prior.is_some_and(had);
    let Some(gate) = &work.guest.gate else {
        upload.wipe.extend(had.then(|| PAGE_PATH.to_owned()));
        return Ok(());
    };
    tar.file(PAGE_PATH, 0o644, Owner::ROOT, gate.page().as_bytes())?;
    if had || work.fresh || work.instance.backend != BackendKind::Native {
        return Ok(());
    }
    let found = settings::read(backend, scope, work.instance, identity, HOSTS).await;
    if let Some(text) = hosts(found.with_context(|| format!("reading {HOSTS}"))?) {
        tar.file(HOSTS, 0o644, Owner::ROOT, text.as_bytes())?;
    }
    Ok(())
}

/// What the file is to hold. What is no file of text is somebody's own making, and stays.
fn hosts(found: Found) -> Option<String> {
    match found {
        Found::File { text, .. } => with_name(&text),
        Found::Nothing => with_name(""),
        Found::Other(what) => {
            tracing::warn!(
                path = HOSTS,
                what,
                "the name of the git gate, {GATE_NAME}, is not added"
            );
            None
        }
    }
}

/// The same with the gate's name, unless it is there.
fn with_name(hosts: &str) -> Option<String> {
    let named = |line: &str| {
        let names = line.split('#').next().unwrap_or_default().split_ascii_whitespace().skip(1);
        names.into_iter().any(|name| name == GATE_NAME)
    };
    if hosts.lines().any(named) {
        return None;
    }
    let end = if hosts.is_empty() || hosts.ends_with('\n') { "" } else { "\n" };
    Some(format!("{hosts}{end}127.0.0.1\t{GATE_NAME}\n"))
}

/// Whether a provisioning told it of a gate.
fn had(prior: &Receipt) -> bool {
    prior.fields.0.keys().any(|path| path.starts_with(GUEST_FIELDS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_name_is_added_once() {
        let added = with_name("127.0.0.1\tlocalhost ada").unwrap();
        assert_eq!(added, "127.0.0.1\tlocalhost ada\n127.0.0.1\tgit.bottle\n");
        assert_eq!(with_name(&added), None);
        assert!(with_name("# 127.0.0.1 git.bottle\n").is_some());
        assert_eq!(with_name("").as_deref(), Some("127.0.0.1\tgit.bottle\n"));
    }

    #[test]
    fn what_is_no_file_of_text_stays() {
        assert_eq!(hosts(Found::Other("a link")), None);
        assert_eq!(hosts(Found::Nothing), with_name(""));
    }
}
