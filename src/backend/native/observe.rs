//! What exists: read from the state folder and the kernel, and from nothing that a sandbox can
//! write. A handful of small files a sandbox, no process is asked.

#![expect(clippy::disallowed_methods, reason = "the state folder is read")]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::base;
use super::limits::Cgroups;
use super::namespaces;
use super::state::{self, Folder, Record, Run, Store};
use super::status::{self, Life};
use crate::backend::durable::about;
use crate::backend::hostside::Role;
use crate::backend::stamp::Stamp;
use crate::backend::{Depth, Observation, Scope, hostside};
use crate::model::{
    BackendFacts, BackendKind, FieldChange, Fields, Instance, InstanceId, InstanceState, Leftover,
    LeftoverKind, Ownership, ResourceKind, SandboxId, SpecHash, tool,
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
            no_machines: namespaces::forbidden(),
            ..BackendFacts::default()
        },
        ..Observation::default()
    };
    let mut used_bases = Vec::new();
    for name in names(store.path())? {
        if name.starts_with(".making-") || name.starts_with(".removing-") {
            observation.leftovers.push(leftover(LeftoverKind::Scratch, &name, None));
        }
        let Some((sandbox, folder, aside)) = store.known(&name) else { continue };
        let mut found = look(&folder, &host_boot);
        if aside && matches!(found.state, InstanceState::Stopped { .. }) {
            found.state = InstanceState::Aside;
        }
        if let Some(state::RootFs::Host { base }) = found.record.as_ref().map(|r| &r.rootfs) {
            used_bases.push(base.clone());
        }
        let mut instance = instance(scope, sandbox, &found);
        if depth == Depth::Deep
            && instance.state == InstanceState::Running
            && let Some(record) = &found.record
        {
            instance.mendable.extend(drift(record, &cgroups));
        }
        observation.instances.push(instance);
    }
    // What one stands on whose record cannot be read is not known: nothing is left over then.
    if observation.instances.iter().any(|i| matches!(i.state, InstanceState::Unknown(_))) {
        return Ok(observation);
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

/// What was seen of an instance that its stamp depends on.
pub(super) struct Seen {
    resource: ResourceKind,
    sandbox: SandboxId,
    boot: Option<String>,
    has_tools: bool,
}

impl Seen {
    pub(super) fn of(instance: &Instance) -> Self {
        Self {
            resource: instance.resource,
            sandbox: instance.sandbox.clone(),
            boot: instance.boot.clone(),
            has_tools: instance.fields.0.keys().any(|path| tool::named(path).is_some()),
        }
    }
}

/// What all of that looks like from outside: the folders, the records, and the processes that were seen
/// to run.
pub(super) fn stamp(scope: &Scope, seen: &[Seen]) -> u64 {
    let store = Store::of(scope);
    let mut stamp = Stamp::default();
    for folder in [store.path().to_owned(), store.bases(), store.images()] {
        stamp.file(&folder);
    }
    let beside = Role::ALL.map(|role| {
        let places: BTreeMap<SandboxId, PathBuf> =
            hostside::places(role, scope, BackendKind::Native).into_iter().collect();
        stamp.add(places.len());
        places
    });
    for Seen { resource, sandbox, boot, has_tools } in seen {
        let role = Role::ALL.into_iter().zip(&beside).find(|(role, _)| role.kind() == *resource);
        let (folder, records) = match role {
            Some((role, places)) => {
                (places.get(sandbox).cloned().unwrap_or_default(), hostside::records(role).to_vec())
            }
            None => (
                store.sandbox(sandbox).path().to_owned(),
                vec![state::MACHINE, state::RUN, status::MAIN],
            ),
        };
        stamp.file(&folder);
        for record in records {
            stamp.file(&folder.join(record));
        }
        if *has_tools && let Ok(Some(record)) = store.sandbox(sandbox).record() {
            tool::folders(&record.tools).into_iter().for_each(|folder| stamp.add(folder.is_dir()));
        }
        if let Some(pid) = boot.as_deref().and_then(|boot| boot.split('.').next()?.parse().ok()) {
            stamp.add(hostside::how_it_is(pid));
        }
    }
    stamp.digest()
}

/// The kernel is what a native sandbox is made of.
pub(super) fn version() -> String {
    format!("kernel {}", rustix::system::uname().release().to_string_lossy())
}

/// The names in a folder of the state folder's; one that is not there has none.
pub(super) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(about(folder, &error)),
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
    /// It runs, and the file that says so is not as its init wrote it.
    pub(super) damaged: bool,
}

/// Looks at one sandbox.
pub(super) fn look(folder: &Folder, host_boot: &str) -> Found {
    let without = |state: InstanceState| Found { record: None, run: None, state, damaged: false };
    let record = match folder.record() {
        Ok(Some(record)) => record,
        Ok(None) if folder.join("upper").exists() => {
            let path = folder.join(state::MACHINE);
            return without(InstanceState::Unknown(format!(
                "{} is missing: put it back",
                path.display()
            )));
        }
        Ok(None) => return without(InstanceState::Broken("half made".to_owned())),
        Err(error) => return without(InstanceState::Unknown(error.to_string())),
    };
    let run = match folder.run() {
        Ok(run) => run,
        // Whether it runs is not known, so that nothing is to be started on its files.
        Err(error) => {
            let state = InstanceState::Unknown(error.to_string());
            return Found { record: Some(record), run: None, state, damaged: false };
        }
    };
    let mut damaged = false;
    let state = match &run {
        // The receipt is lost, and so is the run that it named.
        None if folder.join(state::RUN).exists() => InstanceState::Stopped { code: None },
        None => InstanceState::Created,
        Some(run) => match folder.life(run, host_boot, false) {
            Life::Runs => {
                damaged = !folder.is_said_by(run);
                InstanceState::Running
            }
            Life::Over => InstanceState::Stopped { code: None },
            Life::Unclear => InstanceState::Unknown(format!(
                "{} is missing or damaged, and its init, process {}, lives: what runs would be lost; make the \
                 file readable (mode 600) if it is only closed, or put a copy back",
                folder.join(status::MAIN).display(),
                run.pid
            )),
        },
    };
    Found { record: Some(record), run, state, damaged }
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
        place: None,
        ownership,
        hash: record.map(|record| record.hash),
        fields: record.map_or_else(Fields::default, |record| record.fields.clone()),
        state: found.state.clone(),
        boot: found.run.as_ref().filter(|_| running).map(Run::boot),
        drift: record.map(lost_tools).unwrap_or_default(),
        mendable: found.damaged.then(status_file).into_iter().collect(),
        notes: Vec::new(),
        image: record.and_then(|record| record.image),
        created: record.map(|record| record.created),
        overlay: record.and_then(|record| record.overlay.clone()),
    }
}

/// The tools whose folder is gone: what is shown of it is empty, and no start could show it again.
fn lost_tools(record: &Record) -> Vec<FieldChange> {
    // What cannot be looked at now may be there again in a moment.
    let is_gone = |path: &PathBuf| {
        path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    let lost = record.tools.iter().filter(|(_, tool)| tool.folders.iter().any(is_gone));
    lost.map(|(name, tool)| FieldChange {
        path: tool::field(name),
        from: Some(format!("{tool}, which is gone")),
        to: Some("where it is now".to_owned()),
    })
    .collect()
}

fn drift(record: &Record, cgroups: &Cgroups) -> Vec<FieldChange> {
    cgroups
        .of(&record.id)
        .drift(&record.resources)
        .into_iter()
        .map(|(path, from, to)| FieldChange { path, from: Some(from), to: Some(to) })
        .collect()
}

/// That the file is not as init wrote it, for people.
fn status_file() -> FieldChange {
    FieldChange {
        path: status::MAIN.to_owned(),
        from: Some("damaged".to_owned()),
        to: Some("as its init says it".to_owned()),
    }
}
