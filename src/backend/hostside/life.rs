//! What a backend calls: making a sidecar, starting it, looking at it, taking it away.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;

use super::control::{Control, SOCKET};
use super::launch;
use super::log::LOG;
use super::process::{self, Process, host_boot};
use super::program::Program;
use super::record::{Attached, Folder, Record, Run, VERSION};
use super::user;
use crate::backend::{BackendError, Scope};
use crate::model::{
    BackendKind, FieldChange, Fields, Instance, InstanceId, InstanceState, Ownership, ResourceKind,
    SandboxId, SidecarSpec,
};

/// How long one may take until it serves.
const READY: Duration = Duration::from_secs(20);
/// How long one that is killed may take.
const DYING: Duration = Duration::from_secs(20);

/// The sidecars of one owner on one backend.
#[derive(Clone, Copy)]
pub(in crate::backend) struct Sidecars<'a> {
    scope: &'a Scope,
    backend: BackendKind,
    program: &'a Program,
}

/// How a sidecar names its own folder, in which it was started: it may lie deeper than the address of
/// a socket is long, and below folders that the sidecar may not enter.
const HERE: &str = "/proc/self/cwd";

/// One sidecar, as it is for as long as this is held.
pub(in crate::backend) struct Sidecar<'a> {
    all: Sidecars<'a>,
    sandbox: SandboxId,
    folder: Folder,
    record: Option<Record>,
    run: Option<Run>,
    running: bool,
    _lock: Option<File>,
}

impl<'a> Sidecars<'a> {
    pub(in crate::backend) fn new(
        scope: &'a Scope,
        backend: BackendKind,
        program: &'a Program,
    ) -> Self {
        Self { scope, backend, program }
    }

    fn name(&self, sandbox: &SandboxId) -> String {
        format!("{}-sidecar", self.scope.object_name(sandbox))
    }

    /// All of them, as they are now.
    pub(in crate::backend) fn all(&self) -> io::Result<Vec<Sidecar<'a>>> {
        let entries = match fs::read_dir(Folder::all(self.scope, self.backend)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let host_boot = host_boot()?;
        let mut found = Vec::new();
        for entry in entries {
            let name = entry?.file_name().into_string().unwrap_or_default();
            let Ok(sandbox) = SandboxId::new(name) else { continue };
            let folder = Folder::of(self.scope, self.backend, &sandbox);
            found.push(self.look(&sandbox, folder, None, &host_boot)?);
        }
        found.sort_by(|a, b| a.sandbox.cmp(&b.sandbox));
        Ok(found)
    }

    fn look(
        &self,
        sandbox: &SandboxId,
        folder: Folder,
        lock: Option<File>,
        host_boot: &str,
    ) -> io::Result<Sidecar<'a>> {
        let (record, run) = (folder.record()?, folder.run()?);
        let running = run.as_ref().is_some_and(|run| run.process.alive(host_boot));
        let sandbox = sandbox.clone();
        Ok(Sidecar { all: *self, sandbox, folder, record, run, running, _lock: lock })
    }

    /// The sidecar of this sandbox, which nobody else does anything to meanwhile; `None` when there is
    /// none.
    fn hold(&self, sandbox: &SandboxId) -> io::Result<Option<Sidecar<'a>>> {
        let folder = Folder::of(self.scope, self.backend, sandbox);
        let Some(lock) = folder.lock()? else { return Ok(None) };
        self.look(sandbox, folder, Some(lock), &host_boot()?).map(Some)
    }

    /// The same, if it is ours.
    pub(in crate::backend) fn of(
        &self,
        sandbox: &SandboxId,
    ) -> Result<Option<Sidecar<'a>>, BackendError> {
        let held = self.hold(sandbox).map_err(|error| {
            BackendError::failed(format!("looking at {}", self.name(sandbox)), error)
        })?;
        Ok(held.filter(|sidecar| sidecar.ownership() == Ownership::Ours))
    }

    /// The very sidecar that `instance` is.
    pub(in crate::backend) fn own(&self, instance: &Instance) -> Result<Sidecar<'a>, BackendError> {
        let name = &instance.name;
        let held = self
            .hold(&instance.sandbox)
            .map_err(|error| BackendError::failed(format!("looking at {name}"), error))?;
        match held {
            Some(sidecar) if sidecar.id() == instance.id => match sidecar.ownership() {
                Ownership::Ours => Ok(sidecar),
                _ => Err(BackendError::Conflict { name: name.clone() }),
            },
            _ => Err(BackendError::NotRunning { name: name.clone(), state: "gone".to_owned() }),
        }
    }

    /// Makes it, not started. The same there already: that one.
    pub(in crate::backend) fn create(&self, spec: &SidecarSpec) -> Result<Instance, BackendError> {
        let name = self.name(&spec.sandbox);
        let what = format!("creating {name}");
        let folder = Folder::of(self.scope, self.backend, &spec.sandbox);
        let held = folder.make().and_then(|()| self.hold(&spec.sandbox));
        let held = held.map_err(|error| BackendError::failed(&what, error))?;
        let Some(mut sidecar) = held else {
            let why = anyhow::anyhow!("it was removed at the same moment");
            return Err(BackendError::failed(what, why));
        };
        match &sidecar.record {
            None => {
                let made = sidecar.make(spec).map_err(|e| BackendError::failed(&what, e))?;
                (sidecar.record, sidecar.run, sidecar.running) = (Some(made), None, false);
            }
            Some(_) if sidecar.ownership() != Ownership::Ours => {
                return Err(BackendError::Conflict { name });
            }
            Some(record) if record.hash != spec.hash() => {
                let why = anyhow::anyhow!("it exists, made from another spec");
                return Err(BackendError::failed(what, why));
            }
            Some(_) => {}
        }
        Ok(sidecar.instance())
    }

    /// Starts it, unless it runs.
    pub(in crate::backend) fn start(
        &self,
        instance: &Instance,
    ) -> Result<Sidecar<'a>, BackendError> {
        let mut sidecar = self.own(instance)?;
        if !sidecar.answers()? {
            let what = format!("starting {}", instance.name);
            sidecar.start().map_err(|error| BackendError::failed(what, error))?;
        }
        Ok(sidecar)
    }

    /// Ends it and removes all that was its; gone already is fine.
    pub(in crate::backend) fn teardown(&self, instance: &Instance) -> Result<(), BackendError> {
        let sidecar = match self.own(instance) {
            Err(BackendError::NotRunning { .. }) => return Ok(()),
            found => found?,
        };
        let what = format!("tearing {} down", instance.name);
        sidecar.remove().map_err(|error| BackendError::failed(what, error))
    }
}

/// The last process of each sidecar, for whoever waits for its end.
pub(in crate::backend) fn processes(
    scope: &Scope,
    backend: BackendKind,
) -> Vec<(SandboxId, Option<Process>)> {
    let entries = fs::read_dir(Folder::all(scope, backend)).into_iter().flatten().flatten();
    let sandboxes = entries.filter_map(|entry| SandboxId::new(entry.file_name().to_str()?).ok());
    let process = |sandbox: SandboxId| {
        let run = Folder::of(scope, backend, &sandbox).run().ok().flatten();
        (sandbox, run.map(|run| run.process))
    };
    sandboxes.map(process).collect()
}

impl Sidecar<'_> {
    pub(in crate::backend) fn sandbox(&self) -> &SandboxId {
        &self.sandbox
    }

    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Its last process.
    pub(super) fn process(&self) -> Option<Process> {
        self.run.as_ref().map(|run| run.process.clone())
    }

    fn id(&self) -> InstanceId {
        let broken = || format!("broken-{}", self.all.name(&self.sandbox));
        InstanceId(self.record.as_ref().map_or_else(broken, |record| record.id.clone()))
    }

    fn ownership(&self) -> Ownership {
        let scope = self.all.scope;
        match &self.record {
            // Half-made, but under a name that nobody else has any business with.
            None => Ownership::Ours,
            Some(record) if record.owner != scope.owner.as_str() => Ownership::Foreign,
            Some(record)
                if record.state == scope.state || scope.adopted.contains(&record.state) =>
            {
                Ownership::Ours
            }
            Some(record) => Ownership::OtherState(record.state.clone()),
        }
    }

    /// Identifies its run, where it runs.
    pub(in crate::backend) fn boot(&self) -> Option<String> {
        self.run.as_ref().filter(|_| self.running).map(|run| run.process.boot())
    }

    /// As the planner sees it.
    pub(in crate::backend) fn instance(&self) -> Instance {
        let record = self.record.as_ref();
        let state = match (record, &self.run) {
            (None, _) => {
                InstanceState::Broken("its record is missing or of another version".into())
            }
            (Some(_), None) => InstanceState::Created,
            (Some(_), Some(_)) if self.running => InstanceState::Running,
            (Some(_), Some(_)) => InstanceState::Stopped { code: None },
        };
        Instance {
            id: self.id(),
            backend: self.all.backend,
            resource: ResourceKind::Sidecar,
            sandbox: self.sandbox.clone(),
            name: self.all.name(&self.sandbox),
            ownership: self.ownership(),
            hash: record.map(|record| record.hash),
            fields: record.map_or_else(Fields::default, |record| record.fields.clone()),
            state,
            boot: self.boot(),
            drift: self.drift(),
            mendable: Vec::new(),
            notes: Vec::new(),
            image: None,
            created: record.map(|record| record.created),
            overlay: None,
        }
    }

    /// One that runs is another program than this, which would speak with it: it is replaced, which
    /// the machine does not notice.
    fn drift(&self) -> Vec<FieldChange> {
        let Some(run) = self.run.as_ref().filter(|_| self.running) else { return Vec::new() };
        match self.all.program.build(Some(&run.program)) {
            Ok(now) if now.digest != run.program.digest => vec![FieldChange {
                path: "sidecar.program".to_owned(),
                from: Some(format!("sha256:{}", run.program.digest.short())),
                to: Some(format!("sha256:{}", now.digest.short())),
            }],
            // What cannot be read cannot be compared, and is no reason to end what works.
            _ => Vec::new(),
        }
    }

    /// Whether it runs and can be told something. One whose starter was killed may be on its way there,
    /// or to its end: that is waited for.
    pub(in crate::backend) fn answers(&mut self) -> Result<bool, BackendError> {
        let name = self.all.name(&self.sandbox);
        let failed = |error: io::Error| BackendError::failed(format!("waiting for {name}"), error);
        let Some(run) = self.run.as_ref().filter(|_| self.running) else { return Ok(false) };
        let control = Control::of(&self.folder.own(), &run.process).map_err(failed)?;
        let until = Instant::now() + READY;
        while run.process.pidfd().map_err(failed)?.is_some() {
            if control.answers().map_err(failed)? {
                return Ok(true);
            }
            if Instant::now() > until {
                let seconds = READY.as_secs();
                return Err(BackendError::Deadline { what: format!("starting {name}"), seconds });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.running = false;
        Ok(false)
    }

    fn make(&self, spec: &SidecarSpec) -> anyhow::Result<Record> {
        let user = user::unprivileged();
        // Of a making, or a removal, that was cut short.
        self.end()?;
        self.folder.clear().context("clearing its folder")?;
        let own = self.folder.own();
        DirBuilder::new().mode(0o700).create(&own)?;
        if let Some(user) = user {
            chown(&own, Some(user), Some(user)).context("giving it its folder")?;
        }
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
        let record = Record {
            version: VERSION,
            id: hex::encode(id),
            owner: self.all.scope.owner.to_string(),
            state: self.all.scope.state.clone(),
            hash: spec.hash(),
            fields: spec.fields.clone(),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()),
            user,
        };
        self.folder.put_record(&record)?;
        Ok(record)
    }

    fn start(&mut self) -> anyhow::Result<()> {
        let record = self.record.as_ref().context("its record is missing or of another version")?;
        // One that was killed, and has not quite ended yet, has no future.
        self.end()?;
        let own = self.folder.own();
        match fs::remove_file(own.join(SOCKET)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let program = self.all.program.build(None).context("reading this program")?;
        let mut arguments: Vec<String> =
            ["sidecar", "serve", "--confine", "--control", &format!("unix:{HERE}/{SOCKET}")]
                .map(str::to_owned)
                .into();
        arguments.extend(["--log".to_owned(), format!("{HERE}/{LOG}")]);
        if let Some(user) = record.user {
            arguments.extend(["--user".to_owned(), user.to_string()]);
        }
        let waiting = launch::launch(self.all.program, &own, &arguments)?;
        let run = Run { process: waiting.process.clone(), program };
        self.folder.put_run(&run).context("writing its record")?;
        let control = Control::of(&own, &run.process)?;
        self.run = Some(run);
        waiting.admit(READY, || control.answers())?;
        self.running = true;
        Ok(())
    }

    /// Ends exactly the process that the record names, and waits until it holds nothing any more.
    fn end(&self) -> anyhow::Result<()> {
        if let Some(run) = &self.run
            && let Some(pidfd) = run.process.remains()?
        {
            process::kill(&pidfd, DYING).context("ending its process")?;
        }
        Ok(())
    }

    fn remove(&self) -> anyhow::Result<()> {
        self.end()?;
        self.folder.remove().context("removing its folder")
    }

    /// The way to it; it has to run.
    pub(in crate::backend) fn control(&self) -> Result<Control, BackendError> {
        let name = self.all.name(&self.sandbox);
        let Some(run) = self.run.as_ref().filter(|_| self.running) else {
            let state = if self.run.is_some() { "stopped" } else { "not started" };
            return Err(BackendError::NotRunning { name, state: state.to_owned() });
        };
        Control::of(&self.folder.own(), &run.process)
            .map_err(|error| BackendError::failed(format!("looking at {name}"), error))
    }

    /// Gives it its document, whole.
    pub(in crate::backend) fn load(&self, document: &[u8]) -> Result<(), BackendError> {
        let name = self.all.name(&self.sandbox);
        self.control()?
            .load(document)
            .map_err(|error| BackendError::failed(format!("loading {name}"), error))
    }

    /// What it says of itself, as JSON.
    pub(in crate::backend) fn state(&self) -> Result<Vec<u8>, BackendError> {
        let name = self.all.name(&self.sandbox);
        let state = self.control()?.state();
        let state = state.map_err(|error| BackendError::failed(format!("asking {name}"), error))?;
        Ok(state.to_string().into_bytes())
    }

    /// Whether this run of the machine was attached to this run of the sidecar.
    pub(in crate::backend) fn is_attached(&self, machine: &str) -> bool {
        let attached = self.folder.attached().ok().flatten();
        attached.is_some_and(|attached| {
            attached.machine == machine && Some(attached.sidecar) == self.boot()
        })
    }

    /// Remembers that it was.
    pub(in crate::backend) fn note_attached(&self, machine: &str) -> io::Result<()> {
        let Some(sidecar) = self.boot() else { return Ok(()) };
        self.folder.put_attached(&Attached { sidecar, machine: machine.to_owned() })
    }

    /// That it is to be attached to the run `machine`, as something to mend.
    pub(in crate::backend) fn unattached(&self, machine: Option<&str>) -> Option<FieldChange> {
        let machine = machine.filter(|_| self.running)?;
        (!self.is_attached(machine)).then(|| FieldChange {
            path: "network".to_owned(),
            from: Some("its machine is not attached".to_owned()),
            to: Some("its machine's only way out".to_owned()),
        })
    }
}
