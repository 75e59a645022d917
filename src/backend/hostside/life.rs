//! What a backend calls: making a sidecar, starting it, looking at it, taking it away.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;

use super::control::{Control, Ping, SOCKET};
use super::launch;
use super::log::LOG;
use super::mark::Marks;
use super::process::{self, Process, host_boot};
use super::program::Program;
use super::record::{Attached, Folder, Record, Run, VERSION};
use super::role::Role;
use crate::backend::durable::about;
use crate::backend::{BackendError, Scope};
use crate::model::spec::ResourceSpec;
use crate::model::{
    BackendKind, FieldChange, Fields, Instance, InstanceId, InstanceState, Ownership, SandboxId,
};

/// How long one may stand still that somebody has stopped: who looks into it lets it go on at once.
const STOPPED: Duration = Duration::from_secs(1);

/// How long one may take until it serves.
const READY: Duration = Duration::from_secs(20);
/// So many questions in a row that one leaves unanswered say that it hangs. A machine that is slow
/// for a moment is no reason to end a sidecar that works.
const SILENT: u32 = 2;
/// How long one that is killed may take.
const DYING: Duration = Duration::from_secs(20);

/// The sidecars, or the gates, of one owner on one backend.
#[derive(Clone, Copy)]
pub(in crate::backend) struct Sidecars<'a> {
    role: Role,
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
    /// Why what is written of it cannot be read now, where it cannot.
    unknown: Option<String>,
    _lock: Option<File>,
}

impl<'a> Sidecars<'a> {
    pub(in crate::backend) fn new(
        role: Role,
        scope: &'a Scope,
        backend: BackendKind,
        program: &'a Program,
    ) -> Self {
        Self { role, scope, backend, program }
    }

    fn name(&self, sandbox: &SandboxId) -> String {
        format!("{}-{}", self.scope.object_name(sandbox), self.role.name())
    }

    /// Which they are.
    pub(in crate::backend) fn role(&self) -> Role {
        self.role
    }

    /// All of them, as they are now.
    pub(in crate::backend) fn all(&self) -> io::Result<Vec<Sidecar<'a>>> {
        let folder = Folder::all(self.role, self.scope, self.backend);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(about(&folder, &error)),
        };
        let host_boot = host_boot()?;
        let mut found = Vec::new();
        for entry in entries {
            let name = entry?.file_name().into_string().unwrap_or_default();
            let Ok(sandbox) = SandboxId::new(name) else { continue };
            let folder = Folder::of(self.role, self.scope, self.backend, &sandbox);
            found.push(self.look(&sandbox, folder, None, &host_boot));
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
    ) -> Sidecar<'a> {
        // One that cannot be read is this sandbox's business, and no other's.
        let read = folder.record().and_then(|record| Ok((record, folder.run()?)));
        let (record, run, unknown) = match read {
            Ok((record, run)) => (record, run, None),
            Err(error) => (None, None, Some(error.to_string())),
        };
        let here = |run: &&Run| {
            run.socket.is_none_or(|is| file_of(&folder.own().join(SOCKET)) == Some(is))
        };
        let running = run.as_ref().filter(here).is_some_and(|run| run.process.alive(host_boot));
        let sandbox = sandbox.clone();
        Sidecar { all: *self, sandbox, folder, record, run, running, unknown, _lock: lock }
    }

    /// The sidecar of this sandbox, which nobody else does anything to meanwhile; `None` when there is
    /// none.
    fn hold(&self, sandbox: &SandboxId) -> io::Result<Option<Sidecar<'a>>> {
        let folder = Folder::of(self.role, self.scope, self.backend, sandbox);
        let Some(lock) = folder.lock()? else { return Ok(None) };
        Ok(Some(self.look(sandbox, folder, Some(lock), &host_boot()?)))
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
            Some(Sidecar { unknown: Some(why), .. })
                if !matches!(instance.state, InstanceState::Unknown(_)) =>
            {
                Err(BackendError::failed(format!("looking at {name}"), anyhow::anyhow!(why)))
            }
            Some(sidecar) if sidecar.id() == instance.id => match sidecar.ownership() {
                Ownership::Ours => Ok(sidecar),
                _ => Err(BackendError::Conflict { name: name.clone() }),
            },
            _ => Err(BackendError::NotRunning { name: name.clone(), state: "gone".to_owned() }),
        }
    }

    /// Makes it, not started. The same there already: that one.
    pub(in crate::backend) fn create(&self, spec: &ResourceSpec) -> Result<Instance, BackendError> {
        let name = self.name(spec.sandbox());
        let what = format!("creating {name}");
        let folder = Folder::of(self.role, self.scope, self.backend, spec.sandbox());
        let held = folder.make().and_then(|()| self.hold(spec.sandbox()));
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
        if sidecar.is_outdated() {
            let what = format!("ending {}", instance.name);
            sidecar.end().map_err(|error| BackendError::failed(what, error))?;
            sidecar.running = false;
        }
        if !sidecar.answers()? {
            let what = format!("starting {}", instance.name);
            sidecar.start().map_err(|error| BackendError::failed(what, error))?;
        }
        Ok(sidecar)
    }

    /// Ends it, and keeps all that is its; not running, or gone, is fine. `ended` is done once it has ended.
    pub(in crate::backend) fn stop(
        &self,
        instance: &Instance,
        ended: impl FnOnce() -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let sidecar = match self.own(instance) {
            Err(BackendError::NotRunning { .. }) => return Ok(()),
            found => found?,
        };
        sidecar
            .end()
            .map_err(|error| BackendError::failed(format!("stopping {}", instance.name), error))?;
        ended()
    }

    /// Ends it and removes all that was its; gone already is fine. `ended` is done once it has ended, while
    /// what says so is still there.
    pub(in crate::backend) fn teardown(
        &self,
        instance: &Instance,
        ended: impl FnOnce() -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let sidecar = match self.own(instance) {
            Err(BackendError::NotRunning { .. }) => return ended(),
            found => found?,
        };
        let failed = |error| BackendError::failed(format!("tearing {} down", instance.name), error);
        sidecar.end().map_err(failed)?;
        ended()?;
        sidecar.folder.remove().context("removing its folder").map_err(failed)
    }
}

/// The folders of all of this role.
pub(in crate::backend) fn places(
    role: Role,
    scope: &Scope,
    backend: BackendKind,
) -> Vec<(SandboxId, PathBuf)> {
    let entries = fs::read_dir(Folder::all(role, scope, backend)).into_iter().flatten().flatten();
    let place = |entry: fs::DirEntry| {
        Some((SandboxId::new(entry.file_name().to_str()?).ok()?, entry.path()))
    };
    entries.filter_map(place).collect()
}

/// The last process of the one of this role that this sandbox has.
pub(in crate::backend) fn process_of(
    role: Role,
    scope: &Scope,
    backend: BackendKind,
    sandbox: &SandboxId,
) -> Option<Process> {
    Folder::of(role, scope, backend, sandbox).run().ok().flatten().map(|run| run.process)
}

/// The last process of each of this role, for whoever waits for its end.
pub(in crate::backend) fn processes(
    role: Role,
    scope: &Scope,
    backend: BackendKind,
) -> Vec<(SandboxId, Option<Process>)> {
    let process = |(sandbox, _): (SandboxId, PathBuf)| {
        let process = process_of(role, scope, backend, &sandbox);
        (sandbox, process)
    };
    places(role, scope, backend).into_iter().map(process).collect()
}

/// Which file this is.
fn file_of(path: &Path) -> Option<(u64, u64)> {
    let found = fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// What those of this role bear.
pub(in crate::backend) fn marks(role: Role, scope: &Scope, backend: BackendKind) -> Marks {
    Marks::of(scope, backend, role.name())
}

/// Those of these processes that are of this role and that no record names: an older copy of the state folder was
/// put back.
pub(in crate::backend) fn unrecorded(
    role: Role,
    scope: &Scope,
    backend: BackendKind,
    mut found: Vec<(SandboxId, Process)>,
) -> Vec<(SandboxId, Process)> {
    found.retain(|(sandbox, process)| {
        let named = Folder::of(role, scope, backend, sandbox).run();
        // A guest can call a process of its own so.
        process::runs(process.pid, role.arguments())
            && process::is_outside(process.pid)
            && match named {
                Ok(run) => run.is_none_or(|run| run.process != *process),
                // What cannot be read may name it.
                Err(_) => false,
            }
    });
    found
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

    /// Its process, where it runs.
    pub(in crate::backend) fn pid(&self) -> Option<i32> {
        self.run.as_ref().filter(|_| self.running).map(|run| run.process.pid)
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
            (None, _) if self.unknown.is_some() => {
                InstanceState::Unknown(self.unknown.clone().unwrap_or_default())
            }
            (None, _) => {
                InstanceState::Broken("its record is missing or of another version".into())
            }
            (Some(_), None) => InstanceState::Created,
            (Some(_), Some(run)) if self.running && process::is_stopped(run.process.pid) => {
                InstanceState::Paused
            }
            // To be started again, which ends it first.
            (Some(_), Some(_)) if self.is_outdated() => InstanceState::Paused,
            (Some(_), Some(_)) if self.running => InstanceState::Running,
            (Some(_), Some(_)) => InstanceState::Stopped { code: None },
        };
        Instance {
            id: self.id(),
            backend: self.all.backend,
            resource: self.all.role.kind(),
            sandbox: self.sandbox.clone(),
            place: None,
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
        if !self.all.role.is_replaced() {
            return Vec::new();
        }
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

    /// One that runs is another program than this, and of a role that is not replaced for that.
    fn is_outdated(&self) -> bool {
        let run = self.run.as_ref().filter(|_| self.running && !self.all.role.is_replaced());
        let Some(run) = run else { return false };
        let now = self.all.program.build(Some(&run.program));
        now.is_ok_and(|now| now.digest != run.program.digest)
    }

    /// Whether it runs and can be told something. One whose starter was killed may be on its way there,
    /// or to its end: that is waited for.
    pub(in crate::backend) fn answers(&mut self) -> Result<bool, BackendError> {
        let name = self.all.name(&self.sandbox);
        let failed = |error: io::Error| BackendError::failed(format!("waiting for {name}"), error);
        let Some(run) = self.run.as_ref().filter(|_| self.running) else { return Ok(false) };
        let control = Control::of(&self.folder.own(), &run.process).map_err(failed)?;
        let until = Instant::now() + READY;
        let (mut silent, mut stopped) = (0, None);
        while run.process.pidfd().map_err(failed)?.is_some() {
            // One that somebody has stopped answers nobody: nothing is gained by asking it.
            if process::is_stopped(run.process.pid) {
                let since: &Instant = stopped.get_or_insert_with(Instant::now);
                if since.elapsed() > STOPPED {
                    tracing::warn!(sidecar = name, "its process was stopped, and is ended");
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            stopped = None;
            if control.answers().map_err(failed)? {
                match control.ping() {
                    Ok(Ping::Answered) => return Ok(true),
                    Ok(Ping::Silent) => silent += 1,
                    // It may be on its way to its end. Only silence is a reason to end it.
                    Err(error) => {
                        silent = 0;
                        tracing::debug!(sidecar = name, error = format!("{error:#}"), "no answer");
                    }
                }
                if silent == SILENT {
                    // It hangs: it is of no use to anybody, and would be waited for each time.
                    tracing::warn!(
                        sidecar = name,
                        "it left {SILENT} questions in a row unanswered, 5 s each, and is ended"
                    );
                    break;
                }
                if silent > 0 {
                    tracing::warn!(
                        sidecar = name,
                        "it did not answer within 5 s, and is asked again"
                    );
                    continue;
                }
            }
            if Instant::now() > until {
                tracing::warn!(
                    sidecar = name,
                    "nothing listens where it should, for {} s, and it is ended",
                    READY.as_secs()
                );
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.end().map_err(|error| BackendError::failed(format!("ending {name}"), error))?;
        self.running = false;
        Ok(false)
    }

    fn make(&self, spec: &ResourceSpec) -> anyhow::Result<Record> {
        let user = self.all.role.user();
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
            fields: spec.fields(),
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
        let role = self.all.role;
        let mut arguments: Vec<String> =
            role.arguments().iter().map(|word| (*word).to_owned()).collect();
        let control = format!("unix:{HERE}/{SOCKET}");
        arguments.extend(["--confine", "--control", &control].map(str::to_owned));
        arguments.extend(["--log".to_owned(), format!("{HERE}/{LOG}")]);
        if role == Role::Gate {
            // It starts others, to which their own working directory is something else.
            let own = own.canonicalize().context("looking for its folder")?;
            let own = own.to_str().context("the path of its folder is not UTF-8")?;
            arguments.extend(["--folder".to_owned(), own.to_owned()]);
        }
        if let Some(user) = record.user {
            arguments.extend(["--user".to_owned(), user.to_string()]);
        }
        let mark = marks(role, self.all.scope, self.all.backend).mark(&self.sandbox);
        let waiting = launch::launch(self.all.program, &own, &mark, &arguments)?;
        let mut run = Run { process: waiting.process.clone(), program, socket: None };
        self.folder.put_run(&run).context("writing its record")?;
        let control = Control::of(&own, &run.process)?;
        self.run = Some(run.clone());
        waiting.admit(READY, || control.answers())?;
        run.socket = file_of(&own.join(SOCKET));
        self.folder.put_ready(&run).context("writing its record")?;
        self.run = Some(run);
        self.running = true;
        Ok(())
    }

    /// Ends the process that the record names, and waits until it holds nothing any more. The record
    /// may be lost, or one of long ago: so does each of our own that listens on its socket or works
    /// in its folder.
    fn end(&self) -> anyhow::Result<()> {
        let own = self.folder.own();
        let mut found: Vec<Process> = self.run.iter().map(|run| run.process.clone()).collect();
        let mut strays = Vec::new();
        strays.extend(Control::listener(&own).context("looking for its process")?);
        // One that nothing was ever made for has none.
        if self.record.is_some() || self.run.is_some() {
            strays.extend(process::working_in(&own)?);
        }
        strays.retain(|process| process::runs(process.pid, self.all.role.arguments()));
        found.extend(strays);
        for process in found {
            if let Some(pidfd) = process.remains()? {
                process::kill(&pidfd, DYING).context("ending its process")?;
            }
        }
        Ok(())
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
    pub(in crate::backend) fn load(&mut self, document: &[u8]) -> Result<(), BackendError> {
        let name = self.all.name(&self.sandbox);
        if self.running && !self.answers()? {
            let why = anyhow::anyhow!("it did not answer and was ended; the next pass starts it");
            return Err(BackendError::failed(format!("loading {name}"), why));
        }
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
