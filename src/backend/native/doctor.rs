//! What of this machine the native backend can use.

#![expect(clippy::disallowed_methods, reason = "it tries things out, and takes the time")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::DirBuilderExt;

use bytes::Bytes;
use rustix::system::uname;

use super::call::Helper;
use super::limits::Cgroups;
use super::namespaces;
use super::state::Mode;
use super::wire::Request;
use super::{DEADLINE, gate, landlock};
use crate::backend::{Backend, ExecSpec, Finding, Health, Progress, Scope};
use crate::model::{
    BackendKind, ImageRef, MachineSpec, OwnerId, ResourceSpec, Resources, Restart, SandboxId,
};

/// One line a finding. Nothing is made that stays.
pub(super) fn findings(helper: &Helper) -> Vec<Finding> {
    vec![kernel(), isolation(helper), walls(), limits(), gate::finding()]
}

fn finding(what: &str, health: Health, detail: String, fix: Option<String>) -> Finding {
    Finding { what: what.to_owned(), health, detail, fix }
}

/// `mount_setattr` came with 5.12, overlays of ordinary users with 5.11.
const OLDEST: (u32, u32) = (5, 12);

fn kernel() -> Finding {
    let release = uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= OLDEST {
        return finding("kernel", Health::Works, release, None);
    }
    let fix = format!("use a kernel of at least {}.{}", OLDEST.0, OLDEST.1);
    finding("kernel", Health::Broken, format!("{release} is too old"), Some(fix))
}

fn isolation(helper: &Helper) -> Finding {
    let mode = match namespaces::mode() {
        Mode::Root { .. } => "as root: each sandbox has 65536 ids of its own",
        Mode::Rootless => "as an ordinary user, in user namespaces",
    };
    match helper.call(
        "trying to make namespaces",
        &Request::Probe,
        &[],
        Some(namespaces::mode()),
        Some(DEADLINE),
    ) {
        Ok(_) => finding("namespaces", Health::Works, mode.to_owned(), None),
        Err(error) => {
            let detail = std::error::Error::source(&error)
                .map_or_else(|| error.to_string(), ToString::to_string);
            finding("namespaces", Health::Broken, detail, Some(namespaces::why_refused()))
        }
    }
}

fn walls() -> Finding {
    if landlock::available() {
        return finding("landlock", Health::Works, "behind the namespaces".to_owned(), None);
    }
    finding(
        "landlock",
        Health::Limited,
        "not in this kernel: the namespaces are the only wall around files".to_owned(),
        Some("use a kernel built with CONFIG_SECURITY_LANDLOCK and `landlock` in lsm=".to_owned()),
    )
}

fn limits() -> Finding {
    // That of the disk holds nowhere, and is no fault of this machine.
    let missing: Vec<String> = Cgroups::discover()
        .unenforced()
        .into_iter()
        .filter(|sentence| !sentence.starts_with("resources.disk"))
        .collect();
    if missing.is_empty() {
        return finding(
            "limits",
            Health::Works,
            "memory, pids and cpus by cgroup".to_owned(),
            None,
        );
    }
    finding(
        "limits",
        Health::Limited,
        missing.join("; "),
        Some(
            "run as root, or in a session whose cgroup v2 is delegated (`systemd-run --user \
             --scope -p Delegate=yes`)"
                .to_owned(),
        ),
    )
}

/// Makes a sandbox on the host's programs, runs a command in it, and removes it.
pub(super) async fn boot(backend: &super::Native) -> Finding {
    match try_boot(backend).await {
        Ok(took) => {
            let detail = format!("made, entered and removed in {} ms", took.as_millis());
            finding("boot", Health::Works, detail, None)
        }
        Err(error) => finding(
            "boot",
            Health::Broken,
            format!("{error:#}"),
            Some("see the findings above".to_owned()),
        ),
    }
}

async fn try_boot(backend: &super::Native) -> anyhow::Result<std::time::Duration> {
    let began = std::time::Instant::now();
    let data = std::env::temp_dir().join(format!("bottle-doctor-{}", super::state::random_id()?));
    std::fs::DirBuilder::new().mode(0o700).create(&data)?;
    let scope = Scope {
        owner: OwnerId::new("doctor")?,
        state: "doctor".to_owned(),
        adopted: BTreeSet::new(),
        data: data.clone(),
        hidden: Vec::new(),
        places: Default::default(),
    };
    let booted = boot_in(backend, &scope).await;
    super::remove_folder(&data)?;
    booted.map(|()| began.elapsed())
}

async fn boot_in(backend: &super::Native, scope: &Scope) -> anyhow::Result<()> {
    let spec = MachineSpec {
        sandbox: SandboxId::new("doctor")?,
        backend: BackendKind::Native,
        image: ImageRef::Host,
        host_paths: Vec::new(),
        tools: Default::default(),
        setup: Default::default(),
        env: BTreeMap::new(),
        connected: false,
        waits_for_env: false,
        resources: Resources::default(),
        workdir: None,
        mount: None,
        user: None,
        command: Vec::new(),
        restart: Restart::default(),
        overlay: None,
    };
    backend.prepare(scope, &spec, &Progress::silent()).await?;
    let made = backend.create(scope, &ResourceSpec::Machine(spec)).await?;
    let ran = async {
        let started = backend.start(scope, &made).await?;
        backend.exec(scope, &started, &ExecSpec::new(["true"]), Bytes::new()).await
    };
    let ran = ran.await;
    backend.teardown(scope, &made).await?;
    let output = ran?;
    anyhow::ensure!(output.code == 0, "`true` ended with {}", output.code);
    Ok(())
}
