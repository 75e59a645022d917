//! What exists: read from the state folder and the kernel, and from nothing that a sandbox can
//! write. A handful of small files a sandbox, no process is asked.

#![expect(clippy::disallowed_methods, reason = "the state folder is read")]

use std::fs;
use std::io;
use std::path::Path;

use super::base;
use super::limits::Cgroups;
use super::state::{self, Folder, Record, Run, Store};
use crate::backend::{Depth, Observation, Scope};
use crate::model::{
    BackendFacts, BackendKind, FieldChange, Fields, Instance, InstanceId, InstanceState, Leftover,
    LeftoverKind, Ownership, ResourceKind, SandboxId, SpecHash,
};

/// Lists the sandboxes and leftovers of one owner.
pub(super) fn observe(scope: &Scope, depth: Depth) -> io::Result<Observation> {
    let store = Store::of(scope);
    let host_boot = state::host_boot()?;
    let cgroups = Cgroups::discover();
    let mut observation = Observation {
        facts: BackendFacts {
            version: version(),
            unenforced: cgroups.unenforced(),
            ..BackendFacts::default()
        },
        ..Observation::default()
    };
    let mut used_bases = Vec::new();
    for name in names(store.path())? {
        if name.starts_with(".making-") || name.starts_with(".removing-") {
            observation.leftovers.push(leftover(LeftoverKind::Scratch, &name, None));
        }
        let Ok(sandbox) = SandboxId::new(name) else { continue };
        let folder = store.sandbox(&sandbox);
        let found = look(&folder, &host_boot);
        if let Some(state::RootFs::Host { base }) = found.record.as_ref().map(|r| &r.rootfs) {
            used_bases.push(base.clone());
        }
        let mut instance = instance(scope, sandbox, &found);
        if depth == Depth::Deep
            && instance.state == InstanceState::Running
            && let Some(record) = &found.record
        {
            instance.drift = drift(record, &cgroups);
        }
        observation.instances.push(instance);
    }
    for name in base::outdated(&store)? {
        if !used_bases.contains(&name) {
            let name = format!(".bases/{name}");
            observation.leftovers.push(leftover(LeftoverKind::Scratch, &name, None));
        }
    }
    for name in names(&store.images())? {
        let digest: Option<SpecHash> = name.parse().ok();
        let kind = if digest.is_some() { LeftoverKind::Image } else { LeftoverKind::Scratch };
        observation.leftovers.push(leftover(kind, &format!(".images/{name}"), digest));
    }
    Ok(observation)
}

/// The kernel is what a native sandbox is made of.
pub(super) fn version() -> String {
    format!("kernel {}", rustix::system::uname().release().to_string_lossy())
}

pub(super) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

fn leftover(kind: LeftoverKind, path: &str, digest: Option<SpecHash>) -> Leftover {
    Leftover {
        backend: BackendKind::Native,
        kind,
        id: InstanceId(path.to_owned()),
        name: format!("native/{path}"),
        digest,
    }
}

/// One sandbox, as it was found.
pub(super) struct Found {
    pub(super) record: Option<Record>,
    pub(super) run: Option<Run>,
    pub(super) state: InstanceState,
}

/// Looks at one sandbox.
pub(super) fn look(folder: &Folder, host_boot: &str) -> Found {
    let broken = |why: String| Found { record: None, run: None, state: InstanceState::Broken(why) };
    let record = match folder.record() {
        Ok(Some(record)) => record,
        Ok(None) => return broken("its record is missing or of another version".to_owned()),
        Err(error) => return broken(format!("its record cannot be read: {error}")),
    };
    let run = match folder.run() {
        Ok(run) => run,
        // Written and renamed whole, so only a crash of the host leaves half of one: it is down.
        Err(_) => {
            return Found {
                record: Some(record),
                run: None,
                state: InstanceState::Stopped { code: None },
            };
        }
    };
    let state = match &run {
        None => InstanceState::Created,
        Some(run) if folder.runs(run, host_boot) => InstanceState::Running,
        Some(_) => InstanceState::Stopped { code: None },
    };
    Found { record: Some(record), run, state }
}

/// As the planner sees it.
pub(super) fn instance(scope: &Scope, sandbox: SandboxId, found: &Found) -> Instance {
    let record = found.record.as_ref();
    let ownership = match record {
        // Half-made, but under a name that nobody else has any business with.
        None => Ownership::Ours,
        Some(record) if record.owner != scope.owner.as_str() => Ownership::Foreign,
        Some(record) if record.state == scope.state || scope.adopted.contains(&record.state) => {
            Ownership::Ours
        }
        Some(record) => Ownership::OtherState(record.state.clone()),
    };
    let running = found.state == InstanceState::Running;
    Instance {
        id: InstanceId(record.map_or_else(|| format!("broken-{sandbox}"), |r| r.id.clone())),
        backend: BackendKind::Native,
        resource: ResourceKind::Machine,
        name: record.map_or_else(|| scope.object_name(&sandbox), |r| r.name.clone()),
        sandbox,
        ownership,
        hash: record.map(|record| record.hash),
        fields: record.map_or_else(Fields::default, |record| record.fields.clone()),
        state: found.state.clone(),
        boot: found.run.as_ref().filter(|_| running).map(Run::boot),
        drift: Vec::new(),
        mendable: Vec::new(),
        notes: Vec::new(),
        image: record.and_then(|record| record.image),
        created: record.map(|record| record.created),
        overlay: record.and_then(|record| record.overlay.clone()),
    }
}

fn drift(record: &Record, cgroups: &Cgroups) -> Vec<FieldChange> {
    cgroups
        .of(&record.id)
        .drift(&record.resources)
        .into_iter()
        .map(|(path, from, to)| FieldChange { path, from: Some(from), to: Some(to) })
        .collect()
}
