//! What makes machines: the trait that every backend implements, and its errors.
//!
//! Every call is idempotent and none decides. The contract is written down as tests, which every
//! backend passes, real and fake.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::io::AsyncWrite;

use crate::model::spec::ResourceSpec;
use crate::model::{
    BackendFacts, BackendKind, Instance, InstanceId, Leftover, MachineSpec, OwnerId, Places,
    Resources, SandboxId, Tools, Usage,
};

pub mod dial;
pub mod durable;
mod error;
mod exec;
pub mod port;
pub mod reserve;
pub mod stamp;

pub use crate::model::Moment;
pub use error::BackendError;
pub use exec::{Attach, ExecOutput, ExecSpec, ExecUser, LogOptions, MainState, Process};
pub use placed::Placed;

/// Names of the labels that every object carries.
pub mod label {
    /// The tree that it belongs to.
    pub const OWNER: &str = "io.bottle.owner";
    /// The sandbox.
    pub const SANDBOX: &str = "io.bottle.sandbox";
    /// Which part of the sandbox.
    pub const RESOURCE: &str = "io.bottle.resource";
    /// The content hash that it was made from.
    pub const HASH: &str = "io.bottle.hash";
    /// The version of the labels' meaning.
    pub const VERSION: &str = "io.bottle.version";
    /// The state folder that made it.
    pub const STATE: &str = "io.bottle.state";
    /// The overlay that brought its agent.
    pub const OVERLAY: &str = "io.bottle.overlay";
    /// The fields that the hash was made from, as a JSON object: for people.
    pub const FIELDS: &str = "io.bottle.fields";
    /// The digest of the imported image's source.
    pub const IMAGE: &str = "io.bottle.image";
}

/// The meaning of the labels, as [`label::VERSION`] carries it.
pub const LABEL_VERSION: &str = "1";

/// Where the guest finds what was put into it.
pub mod guest_path {
    /// The system prompt.
    pub const PROMPT: &str = "/etc/bottle/prompt.md";
    /// Its presence lets the machine's `command` start.
    pub const READY: &str = "/etc/bottle/ready";
    /// Its presence says that the workspace was copied in.
    pub const WORKSPACE_DONE: &str = "/etc/bottle/workspace.done";
    /// Says that `setup` was run, and which, by its hash.
    pub const SETUP_DONE: &str = "/etc/bottle/setup.done";
    /// tmpfs, owned by the sandbox's user, 0700: what must never stand on a disk.
    pub const RUN: &str = "/run/bottle";
    /// The plain values, as lines of shell (`export NAME='value'`): root's, and on the machine's disk,
    /// so that a machine that is started anew has them at once. Loaded last: a name that was asked for
    /// once may still stand in [`ENV`].
    pub const VALUES: &str = "/etc/bottle/env";
    /// What the machine's `command` is, as [`Main`](crate::model::Main) writes it: root's, and on the machine's
    /// disk.
    pub const COMMAND: &str = "/etc/bottle/command";
    /// The asked-for values, in the same form; on tmpfs.
    pub const ENV: &str = "/run/bottle/env";
    /// What the machine's `command` does, in one line: see [`MainState`](super::MainState).
    pub const MAIN: &str = "/run/bottle/main";
    /// The process that starts the command, where that is a shell inside.
    pub const SUPERVISOR: &str = "/run/bottle/main.pid";
}

/// On whose behalf a backend is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The tree's owner.
    pub owner: OwnerId,
    /// The random id of this state folder.
    pub state: String,
    /// Ids of other state folders whose objects were adopted.
    pub adopted: BTreeSet<String>,
    /// A folder of this owner's own in the state folder, where a backend may keep what it needs.
    pub data: PathBuf,
    /// Folders of the host that no sandbox may see, wherever they lie: the tree, the overlay, the
    /// state folder.
    pub hidden: Vec<PathBuf>,
    /// Where sandboxes are that were renamed.
    pub places: Places,
}

impl Scope {
    /// What an object of `sandbox` is called on the engine.
    #[must_use]
    pub fn object_name(&self, sandbox: &SandboxId) -> String {
        format!("bottle-{}-{sandbox}", self.owner)
    }
}

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What the listing shows.
    Listing,
    /// Every object is inspected, and all that was set is compared.
    Deep,
}

/// What a backend shows of one owner.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    /// Our objects, and those under names that only we should use.
    pub instances: Vec<Instance>,
    /// What belongs to no sandbox.
    pub leftovers: Vec<Leftover>,
    /// What is true of the backend as a whole.
    pub facts: BackendFacts,
}

/// The sandbox's user, in the guest's own numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// `$HOME`, absolute.
    pub home: String,
}

/// A folder that is to exist in the guest. One that is there already keeps its owner and mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestDir {
    /// Absolute.
    pub path: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// Files on their way into a machine: wipe, then make folders, then unpack.
#[derive(Debug, Clone, Default)]
pub struct Upload {
    /// Absolute paths to remove first, whatever they are; absent ones are fine.
    pub wipe: Vec<String>,
    /// Folders to make where missing, parents first.
    pub dirs: Vec<GuestDir>,
    /// A tar whose names are relative to `/`, with numeric owners and modes to be kept.
    pub tar: Bytes,
    /// The machine was made just now and nothing was put into it yet: there is nothing to wipe.
    pub fresh: bool,
}

/// A tar on its way, in pieces of some hundred kilobytes; an error ends it. Its names are relative to `/`.
pub type TarStream = tokio::sync::mpsc::Receiver<std::io::Result<Bytes>>;

/// Where the pieces of a tar go that a backend makes. Nobody receives any more: it stops.
pub type TarSink = tokio::sync::mpsc::Sender<Bytes>;

/// Something moved on a backend: the next pass should hurry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// For the log: `container die bottle-team-ada`.
    pub what: String,
}

/// How a finding of `doctor` stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It works.
    Works,
    /// It works with a limitation.
    Limited,
    /// It does not work.
    Broken,
    /// It is not here, and nobody said that it should be.
    Absent,
}

/// One line of `doctor`.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What was looked at: `engine`, `seccomp`, `/dev/kvm`.
    pub what: String,
    /// How it stands.
    pub health: Health,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    pub fix: Option<String>,
}

/// Where long work says how far it is: a line at a time, to be shown or not.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(&str) + Send + Sync>);

impl Progress {
    /// Progress that goes to `sink`.
    pub fn new(sink: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    /// Progress that nobody sees.
    #[must_use]
    pub fn silent() -> Self {
        Self::new(|_| {})
    }

    /// Says how far the work is: `pulling node:22-slim, 41 of 77 MiB`.
    pub fn say(&self, line: &str) {
        (self.0)(line);
    }
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Progress")
    }
}

/// How long a guest is asked what its command does.
const ANSWERING: Duration = Duration::from_secs(2);

/// What makes machines. Every call is idempotent, and none decides.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Which one it is.
    fn kind(&self) -> BackendKind;

    /// How long it may go on, unseen, with what a killed caller has asked for; zero where that ends
    /// with the caller.
    fn lingers(&self) -> Duration {
        Duration::ZERO
    }

    /// Waits, for a minute at most, for what a killed caller had begun and what outlives it, where
    /// that is known by itself. Whoever is about to act calls it before it looks.
    async fn settle(&self, _scope: &Scope) {}

    /// Lists what exists of this owner, and what stands under the names that its sandboxes would
    /// have: a constant number of cheap calls, whatever the number of machines.
    async fn observe(&self, scope: &Scope, depth: Depth) -> Result<Observation, BackendError>;

    /// What all that `observe` depends on looks like now, where that can be told without observing:
    /// as long as it is the same, `observe` finds what it `seen`.
    async fn stamp(&self, _scope: &Scope, _seen: &[Instance]) -> Option<u64> {
        None
    }

    /// Fetches and checks all that `create` needs (image, mounts), before anything is removed.
    async fn prepare(
        &self,
        scope: &Scope,
        spec: &MachineSpec,
        progress: &Progress,
    ) -> Result<(), BackendError>;

    /// Makes a resource, not started. The same hash already there ⇒ that one is returned.
    async fn create(&self, scope: &Scope, spec: &ResourceSpec) -> Result<Instance, BackendError>;

    /// Starts a machine; one that is paused is unpaused; already running ⇒ `Ok`.
    /// Returns it as it is now, with its new `boot`.
    async fn start(&self, scope: &Scope, instance: &Instance) -> Result<Instance, BackendError>;

    /// Stops a machine or a sidecar, which stays with all that is its; what runs inside is asked to end
    /// first, and has some seconds for it. Stopped already, or gone ⇒ `Ok`. From then on neither an engine
    /// nor a reboot of its host starts it: `start` does.
    async fn stop(&self, scope: &Scope, instance: &Instance) -> Result<(), BackendError>;

    /// Ends all that runs in a machine, its command first, which has some seconds for it. From then on its files
    /// stay as they are, and can be read until it is removed or set aside, or until [`Backend::start`] or a
    /// provisioning has its command run again. One that does not run gets to where its files can be read, and
    /// its command does not run. Returns the machine as it is now. A backend of which
    /// [`BackendKind::quiesces`] does not say so has nothing to implement.
    async fn quiesce(&self, _scope: &Scope, machine: &Instance) -> Result<Instance, BackendError> {
        Err(BackendError::Unsupported(format!("{} cannot be quiesced", machine.name)))
    }

    /// Stops a machine as [`Backend::stop`] does, and takes its name for the one that is to stand in its place:
    /// from then on it is [`InstanceState::Aside`](crate::model::InstanceState::Aside). Set aside already, or gone ⇒ `Ok`. A backend of which
    /// [`BackendKind::sets_aside`] does not say so has nothing to implement.
    async fn set_aside(&self, _scope: &Scope, machine: &Instance) -> Result<(), BackendError> {
        Err(BackendError::Unsupported(format!("{} cannot be set aside", machine.name)))
    }

    /// Whether what lies under these absolute paths of a machine, which was quiesced, can be moved into one that is
    /// made from `next`: then [`Backend::hand_over`] does it.
    async fn hands_over(
        &self,
        _scope: &Scope,
        _machine: &Instance,
        _next: &MachineSpec,
        _paths: &[String],
    ) -> Result<bool, BackendError> {
        Ok(false)
    }

    /// Moves what lies under these paths out of the machine `old`, which was set aside, into the one that was made in
    /// its place and was never started. Moved already ⇒ `Ok`. [`Backend::teardown`] of the new machine moves it back
    /// as long as the old one is there.
    async fn hand_over(
        &self,
        _scope: &Scope,
        old: &InstanceId,
        machine: &Instance,
        _paths: &[String],
    ) -> Result<(), BackendError> {
        let name = &machine.name;
        Err(BackendError::Unsupported(format!("nothing can be moved from {old} to {name}")))
    }

    /// Gives a machine that was set aside its name again; it stays down. One that has it ⇒ `Ok`.
    async fn bring_back(&self, _scope: &Scope, machine: &Instance) -> Result<(), BackendError> {
        Err(BackendError::Unsupported(format!("{} was not set aside", machine.name)))
    }

    /// Sets right in place what `observe` reported as [`Instance::mendable`]; nothing left to
    /// mend ⇒ `Ok`. A backend that never reports any has nothing to implement.
    async fn mend(&self, _scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
        Err(BackendError::Unsupported(format!("{} cannot be mended in place", instance.name)))
    }

    /// Gives a machine other limits while it stays and whatever runs in it runs on; those in force
    /// already ⇒ `Ok`. From then on its [`Instance::fields`] say them. `disk` is left as it is. `tools`: the same
    /// programs that it has, where they lie now, which its next start shows.
    async fn adjust(
        &self,
        scope: &Scope,
        machine: &Instance,
        resources: &Resources,
        tools: &Tools,
    ) -> Result<(), BackendError> {
        let (_, _, _) = (scope, resources, tools);
        Err(BackendError::Unsupported(format!("{} keeps the limits it has", machine.name)))
    }

    /// Stops and removes an instance and all that is only its; already gone ⇒ `Ok`.
    async fn teardown(&self, scope: &Scope, instance: &Instance) -> Result<(), BackendError>;

    /// Removes a leftover; already gone, or in use by now ⇒ `Ok`.
    async fn prune(&self, scope: &Scope, leftover: &Leftover) -> Result<(), BackendError>;

    /// Gives a running sidecar its document, whole: it takes all of it, or keeps what it has.
    async fn load(
        &self,
        scope: &Scope,
        sidecar: &Instance,
        document: Bytes,
    ) -> Result<(), BackendError> {
        let (_, _) = (scope, document);
        Err(BackendError::Unsupported(format!("{} is no sidecar that can be loaded", sidecar.name)))
    }

    /// What a running sidecar says of itself, as one JSON document: names and counts, no values.
    async fn sidecar_state(
        &self,
        scope: &Scope,
        sidecar: &Instance,
    ) -> Result<Bytes, BackendError> {
        let _ = scope;
        Err(BackendError::Unsupported(format!("{} is no sidecar that can be asked", sidecar.name)))
    }

    /// Who the sandbox's user is in this machine.
    async fn identity(&self, scope: &Scope, instance: &Instance) -> Result<Identity, BackendError>;

    /// Runs a command in a running machine, with these bytes as its stdin.
    async fn exec(
        &self,
        scope: &Scope,
        instance: &Instance,
        spec: &ExecSpec,
        stdin: Bytes,
    ) -> Result<ExecOutput, BackendError>;

    /// Runs a command on the caller's own stdio and returns its exit code.
    async fn attach(
        &self,
        scope: &Scope,
        instance: &Instance,
        spec: &ExecSpec,
        attach: Attach,
    ) -> Result<i32, BackendError>;

    /// A way to a port on the loopback of a running machine.
    ///
    /// # Errors
    /// [`BackendError::NotRunning`]; or why this backend has no such way.
    async fn port(
        &self,
        scope: &Scope,
        machine: &Instance,
        port: u16,
    ) -> Result<Box<dyn port::Port>, BackendError> {
        let _ = scope;
        let why = format!("port {port} of {} cannot be reached from outside", machine.name);
        Err(BackendError::Unsupported(why))
    }

    /// Puts files into a running machine. Paths are resolved inside it and cannot leave it.
    async fn copy_in(
        &self,
        scope: &Scope,
        instance: &Instance,
        upload: Upload,
    ) -> Result<(), BackendError>;

    /// Unpacks a tar that is made while it goes in, over what is there. What came in before an error
    /// stays. Memory does not grow with the tar.
    async fn stream_in(
        &self,
        scope: &Scope,
        instance: &Instance,
        tar: TarStream,
    ) -> Result<(), BackendError>;

    /// What runs in a machine, as the host's kernel tells: nobody inside is asked. `None`: this backend cannot
    /// tell, or not cheaply.
    ///
    /// # Errors
    /// When the backend cannot be asked.
    async fn processes(
        &self,
        _scope: &Scope,
        _instance: &Instance,
    ) -> Result<Option<Vec<Process>>, BackendError> {
        Ok(None)
    }

    /// What a running machine uses, as its backend tells: nobody inside is asked. `None`: this backend cannot tell, or
    /// not cheaply, or it does not run.
    ///
    /// # Errors
    /// When the backend cannot be asked.
    async fn usage(
        &self,
        _scope: &Scope,
        _instance: &Instance,
    ) -> Result<Option<Usage>, BackendError> {
        Ok(None)
    }

    /// The paths of a machine that differ from what its image has, and the folders that they are in. `None`:
    /// this backend cannot tell, or not cheaply.
    ///
    /// # Errors
    /// When the backend cannot be asked.
    async fn changed(
        &self,
        _scope: &Scope,
        _instance: &Instance,
    ) -> Result<Option<Vec<String>>, BackendError> {
        Ok(None)
    }

    /// A tar of `path` in the machine, resolved inside it, at most `limit` bytes.
    async fn copy_out(
        &self,
        scope: &Scope,
        instance: &Instance,
        path: &str,
        limit: u64,
    ) -> Result<Bytes, BackendError>;

    /// The same, of any size, piece by piece: memory does not grow with it. It may be of a guest's own
    /// making, and is to be read as such. An error may come after some of it.
    async fn stream_out(
        &self,
        scope: &Scope,
        instance: &Instance,
        path: &str,
        tar: TarSink,
    ) -> Result<(), BackendError>;

    /// Writes the main process's output to `out`; of a sidecar its record.
    async fn logs(
        &self,
        scope: &Scope,
        instance: &Instance,
        options: LogOptions,
        out: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), BackendError>;

    /// What the machine's `command` is doing; `None` where that cannot be told. A backend that hears it
    /// from the machine's supervisor alone says so itself; this asks the guest, which may say what it
    /// likes, and not for long, for it may not answer.
    async fn main_state(
        &self,
        scope: &Scope,
        instance: &Instance,
    ) -> Result<Option<MainState>, BackendError> {
        ask_main(self, scope, instance).await
    }

    /// Has a running machine's supervisor read [`guest_path::COMMAND`] anew: it ends a command that is another
    /// one by now, with all that this one started, and starts the new one. What runs for the same command
    /// runs on, and so does whatever else runs in the machine.
    async fn reread(&self, scope: &Scope, instance: &Instance) -> Result<(), BackendError> {
        tell_supervisor(self, scope, instance).await
    }

    /// Hints that something of this owner moved, until the backend goes away.
    async fn events(
        &self,
        scope: &Scope,
    ) -> Result<BoxStream<'static, Result<Hint, BackendError>>, BackendError>;

    /// What works here, what does not, and what to do about it. `boot` makes and removes a machine.
    async fn doctor(&self, boot: bool) -> Vec<Finding>;
}

/// Has the guest's shell read what the machine's `command` is doing.
async fn ask_main(
    backend: &(impl Backend + ?Sized),
    scope: &Scope,
    instance: &Instance,
) -> Result<Option<MainState>, BackendError> {
    // Nothing is opened that was put in the file's place: a fifo would keep a process waiting.
    let file = guest_path::MAIN;
    let read =
        format!("[ -f {file} ] && [ ! -L {file} ] && read -r line <{file} && echo \"$line\"");
    let spec = ExecSpec::new(["sh", "-c", &read]);
    let asked = backend.exec(scope, instance, &spec, Bytes::new());
    let Ok(output) = tokio::time::timeout(ANSWERING, asked).await else { return Ok(None) };
    Ok(std::str::from_utf8(&output?.stdout).ok().and_then(MainState::parse))
}

/// Has the guest's shell send its supervisor the signal on which it reads the command anew.
async fn tell_supervisor(
    backend: &(impl Backend + ?Sized),
    scope: &Scope,
    instance: &Instance,
) -> Result<(), BackendError> {
    let output = backend.exec(scope, instance, &telling(), Bytes::new()).await?;
    if output.code == 0 {
        return Ok(());
    }
    let name = &instance.name;
    let why = anyhow::anyhow!(
        "{} names no supervisor of the command: `bottle restart` starts it anew",
        guest_path::SUPERVISOR
    );
    Err(BackendError::failed(format!("restarting the command of {name}"), why))
}

/// The command that does so. Nothing is opened that was put in the file's place.
fn telling() -> ExecSpec {
    let file = guest_path::SUPERVISOR;
    let tell =
        format!("[ -f {file} ] && [ ! -L {file} ] && read -r pid <{file} && kill -USR1 \"$pid\"");
    ExecSpec { user: ExecUser::Sandbox, ..ExecSpec::new(["sh", "-c", &tell]) }
}

/// The backends of this run, by kind.
pub type Backends = BTreeMap<BackendKind, Arc<dyn Backend>>;

pub mod docker;
#[cfg(target_os = "linux")]
pub mod hostside;
mod labels;
#[cfg(feature = "testing")]
pub mod memory;
#[cfg(target_os = "linux")]
pub mod native;
mod oci;
pub mod pax;
mod placed;
mod setid;
pub mod smolmachines;
mod timed;
pub mod zstd;
