//! What can be said on the command line.

#![expect(clippy::disallowed_methods, reason = "what is so long ago depends on the clock")]

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::dashboard::DashboardArgs;
use super::gate::GateArgs;
use super::numbers::top::TopArgs;
use super::requests::args::RequestsArgs;
use super::sidecar::SidecarArgs;
use crate::backend::Moment;
use crate::model::{BackendKind, ResourceKind};
use crate::plan::AllowTeardown;

/// Keep a tree of agent manifests and the sandboxes they describe the same
#[derive(Debug, Parser)]
#[command(name = "bottle", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed or refused, 2 plan has changes or wrong usage, \
    3 partly done or held,\n75 locked by another bottle, 125 to 127 exec, run and attach, 130 interrupted"
)]
pub struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Global {
    /// The operator's tree [default: $BOTTLE_TREE, else ~/.bottle]
    #[arg(long, global = true, value_name = "PATH", value_hint = clap::ValueHint::DirPath)]
    pub(super) tree: Option<PathBuf>,
    /// Where to remember what engines cannot tell [default: $BOTTLE_STATE_DIR, else
    /// $XDG_STATE_HOME/bottle, else ~/.local/state/bottle]
    #[arg(long, global = true, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub(super) state_dir: Option<PathBuf>,
    /// The backend of new sandboxes whose bottle does not name one
    #[arg(long, global = true, value_name = "KIND")]
    pub(super) backend: Option<Backend>,
    /// What to print on stdout
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "text")]
    pub(super) output: Format,
    /// When to use colour
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(super) color: Color,
    /// Log what is done on stderr; repeat for more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub(super) verbose: u8,
    /// Say less on stderr; twice: errors only
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) quiet: u8,
}

impl Global {
    pub(super) fn verbosity(&self) -> i8 {
        let level = |count: u8| i8::try_from(count).unwrap_or(i8::MAX);
        level(self.verbose).saturating_sub(level(self.quiet))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Text,
    /// One JSON document
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Backend {
    /// Linux namespaces, made by bottle itself
    Native,
    /// Containers of a Docker engine
    Docker,
    /// MicroVMs of smolvm
    Smolmachines,
}

impl Backend {
    /// The one that can be named so.
    pub(super) fn of(kind: BackendKind) -> Option<Self> {
        Self::value_variants().iter().copied().find(|backend| BackendKind::from(*backend) == kind)
    }
}

impl From<Backend> for BackendKind {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Native => Self::Native,
            Backend::Docker => Self::Docker,
            Backend::Smolmachines => Self::Smolmachines,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write a small commented tree to start from
    Init(InitArgs),
    /// Parse and validate a tree, and tell everything that is wrong with it at once
    Check(CheckArgs),
    /// Show what apply would do
    Plan(PlanArgs),
    /// Make the sandboxes what the tree says
    Apply(ApplyArgs),
    /// Reconcile until stopped
    Watch(WatchArgs),
    /// Show every sandbox: backend, state, drift, age, last outcome
    Status(StatusArgs),
    /// Show what sandboxes use, as it changes
    #[command(after_help = "Ctrl-C ends it")]
    Top(TopArgs),
    /// Print what sandboxes do and use in the text format of Prometheus
    Metrics(WhichArgs),
    /// Run a command in a sandbox
    Exec(ExecArgs),
    /// Start the agent's program in its sandbox
    Run(RunArgs),
    /// Come back to a run that was left to itself
    #[command(after_help = "Ctrl-P Ctrl-Q leaves it to itself again")]
    Attach(AttachArgs),
    /// Show the output of a sandbox's main process
    Logs(LogsArgs),
    /// Lead a port of this machine's loopback into a sandbox, while the command runs
    #[command(after_help = "Ctrl-C ends it")]
    Forward(ForwardArgs),
    /// Copy files out of a sandbox, or into one
    Cp(CpArgs),
    /// Bring what an agent has committed into the repository that it got
    Sync(SyncArgs),
    /// Show what an agent changed in the copy of its workspace
    Diff(DiffArgs),
    /// Keep an agent's work as a file, and bring it back
    Snapshot(SnapshotArgs),
    /// Stop sandboxes, which stay as they are until they are started
    Stop(StopArgs),
    /// Start sandboxes that were stopped, with what the tree says now
    Start(StartArgs),
    /// Stop what runs in sandboxes, and start it again with what the tree says now
    Restart(StartArgs),
    /// Tear down everything that the tree owns
    Down(DownArgs),
    /// Decide about what agents ask for
    Requests(RequestsArgs),
    /// Watch and decide in the terminal: sandboxes, requests, egress, log
    Dashboard(DashboardArgs),
    /// Ask what a sandbox may reach
    Policy(PolicyArgs),
    /// Ask what a sandbox's git gate would say
    Git(GitArgs),
    /// Tell what works on this machine, what does not, and what to do about it
    Doctor(DoctorArgs),
    /// Print JSON Schema
    Schema(SchemaArgs),
    /// Print a script that makes a shell complete commands and agents' names
    Completions(CompletionsArgs),
    /// Print the manual page of bottle, or of one of its commands
    Man(ManArgs),
    /// Serve a machine's way out, or tell what serves it what to do
    #[command(hide = true)]
    Sidecar(SidecarArgs),
    /// Keep the way of one sandbox's git: what backends run beside a machine
    #[command(hide = true)]
    Gate(GateArgs),
    /// Hold a detached run
    #[command(hide = true)]
    Hold(HoldArgs),
    /// Be what a detached run is inside
    #[command(hide = true)]
    Session(SessionArgs),
}

/// Options of what reads the tree.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct ReadArgs {
    /// Merge the agents of this project folder over the tree's
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub(super) overlay: Option<PathBuf>,
}

/// Options of what compares the tree with what exists.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct LookArgs {
    #[command(flatten)]
    pub(super) read: ReadArgs,
    /// Take asked-for values and tokens of routes from lines of NAME=value
    ///
    /// Empty lines and those that begin with `#` are skipped, and so is `export ` before a name. The value is
    /// what stands behind the first `=`, as it stands: nothing is expanded, and one pair of quotes around all
    /// of it is taken off.
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(super) env_file: Option<PathBuf>,
    /// Inspect every object instead of trusting the listing
    #[arg(long)]
    pub(super) deep: bool,
}

/// Options of what plans for some of the sandboxes.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct SelectArgs {
    /// Look at these sandboxes only
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    #[arg(add = clap_complete::ArgValueCandidates::new(super::completions::agents))]
    pub(super) only: Vec<String>,
    /// How many steps run at once [default: 16 on Docker, else the number of cores, 2 to 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) jobs: Option<u16>,
    /// Permit the removal or replacement of so many sandboxes at once
    #[arg(long, value_name = "N|all", value_parser = allow_teardown)]
    pub(super) allow_teardown: Option<AllowTeardown>,
    /// Keep nothing of these sandboxes when they go: no snapshot, and nothing for a new machine
    #[arg(long, value_name = "NAME|all", num_args = 1.., value_delimiter = ',')]
    #[arg(add = clap_complete::ArgValueCandidates::new(super::completions::agents))]
    pub(super) discard: Vec<String>,
    /// Give up this sandbox, whose record cannot be read, with all its files, and make it anew
    #[arg(long, value_name = "NAME")]
    #[arg(add = clap_complete::ArgValueCandidates::new(super::completions::agents))]
    pub(super) replace_unknown: Vec<String>,
}

pub(super) fn allow_teardown(text: &str) -> Result<AllowTeardown, String> {
    match text {
        "all" => Ok(AllowTeardown::All),
        number => number
            .parse()
            .map(AllowTeardown::Upto)
            .map_err(|_| "expected a number or `all`".to_owned()),
    }
}

/// Options of what takes the tree's lock.
#[derive(Debug, Clone, Args)]
pub(super) struct LockArgs {
    /// Wait so many seconds for another bottle that works on the tree
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(super) lock_timeout: u64,
    /// Take over what another state folder made for this tree, or a name whose tree has moved
    #[arg(long)]
    pub(super) adopt: bool,
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The tree
    #[arg(value_name = "TREE", value_hint = clap::ValueHint::DirPath)]
    pub(super) path: Option<PathBuf>,
    #[command(flatten)]
    pub(super) read: ReadArgs,
    /// Read this file of values as plan and apply would, and tell what is wrong with it
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(super) env_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// The tree
    #[arg(value_name = "TREE", value_hint = clap::ValueHint::DirPath)]
    pub(super) path: Option<PathBuf>,
    #[command(flatten)]
    pub(super) look: LookArgs,
    #[command(flatten)]
    pub(super) select: SelectArgs,
    /// Add unified diffs of prompts and skill files
    #[arg(long)]
    pub(super) diff: bool,
    /// Save the plan, for `bottle apply FILE`
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(super) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ApplyArgs {
    /// The tree, or a plan that `bottle plan --out` saved
    #[arg(value_name = "TREE|PLANFILE", value_hint = clap::ValueHint::AnyPath)]
    pub(super) path: Option<PathBuf>,
    #[command(flatten)]
    pub(super) look: LookArgs,
    #[command(flatten)]
    pub(super) select: SelectArgs,
    #[command(flatten)]
    pub(super) lock: LockArgs,
    /// Also start what was stopped by `bottle stop`
    #[arg(long)]
    pub(super) start: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(super) yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// The tree
    #[arg(value_name = "TREE", value_hint = clap::ValueHint::DirPath)]
    pub(super) path: Option<PathBuf>,
    #[command(flatten)]
    pub(super) look: LookArgs,
    #[command(flatten)]
    pub(super) lock: LockArgs,
    /// Look at everything after this time, whatever was or was not heard
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(super) resync: Duration,
    /// Take what changes within this time as one change
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = duration)]
    pub(super) debounce: Duration,
    /// Remove nothing by itself: what nobody declares any more is held for a person
    #[arg(long)]
    pub(super) hold_teardown: bool,
}

/// `200ms`, `30s`, `5m`, `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("expected a number with `ms`, `s`, `m` or `h`: 30s".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "expected a number before the unit".to_owned())?;
    match number.checked_mul(millis).filter(|millis| *millis > 0) {
        Some(millis) => Ok(Duration::from_millis(millis)),
        None => Err("expected a time above 0 that fits in 64 bits of milliseconds: 30s".to_owned()),
    }
}

/// From when on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Since {
    /// So long before now.
    Before(Duration),
    /// Then.
    At(Moment),
}

impl Since {
    pub(super) fn moment(self) -> Moment {
        match self {
            Self::At(moment) => moment,
            Self::Before(duration) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let then = now.saturating_sub(duration).as_millis();
                Moment(u64::try_from(then).unwrap_or(u64::MAX))
            }
        }
    }
}

/// `10m`, or `2026-01-31T12:00:00Z`.
fn since(text: &str) -> Result<Since, String> {
    if let Some(moment) = Moment::parse(text) {
        return Ok(Since::At(moment));
    }
    duration(text).map(Since::Before).map_err(|error| {
        format!(
            "{error}; or a time as RFC 3339 has it: 2026-01-31T12:00:00Z, with `Z` or an offset"
        )
    })
}

#[derive(Debug, Args)]
pub(super) struct DownArgs {
    /// The tree
    #[arg(value_name = "TREE", value_hint = clap::ValueHint::DirPath)]
    pub(super) path: Option<PathBuf>,
    #[command(flatten)]
    pub(super) select: SelectArgs,
    /// Wait so many seconds for another bottle that works on the tree
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(super) lock_timeout: u64,
    /// Do not ask
    #[arg(short, long)]
    pub(super) yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct StopArgs {
    /// The sandboxes
    #[arg(value_name = "NAME", required = true)]
    #[arg(add = clap_complete::ArgValueCandidates::new(super::completions::agents))]
    pub(super) names: Vec<String>,
    /// Wait so many seconds for another bottle that works on the tree or the sandboxes
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(super) lock_timeout: u64,
}

#[derive(Debug, Args)]
pub(super) struct StartArgs {
    /// The sandboxes
    #[arg(value_name = "NAME", required = true)]
    #[arg(add = clap_complete::ArgValueCandidates::new(super::completions::agents))]
    pub(super) names: Vec<String>,
    #[command(flatten)]
    pub(super) look: LookArgs,
    /// Wait so many seconds for another bottle that works on the tree or the sandboxes
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(super) lock_timeout: u64,
    /// Do not ask, also where the tree wants another machine
    #[arg(short, long)]
    pub(super) yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    /// The sandbox
    #[arg(value_name = "NAME", add = clap_complete::ArgValueCandidates::new(super::completions::agents))]
    pub(super) name: String,
    /// Pass stdin on to the command
    #[arg(short, long)]
    pub(super) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(super) tty: bool,
    /// Where to start in the sandbox
    #[arg(short, long, value_name = "DIR")]
    pub(super) workdir: Option<String>,
    /// The command and its arguments
    #[arg(value_name = "CMD", last = true, required = true)]
    pub(super) argv: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct ForwardArgs {
    /// The sandbox
    #[arg(value_name = "NAME", add = clap_complete::ArgValueCandidates::new(super::completions::agents))]
    pub(super) name: String,
    /// The port on the sandbox's loopback, and the one on 127.0.0.1 here [default: the same; 0: any that is free]
    #[arg(value_name = "PORT[:HOSTPORT]", value_parser = ports)]
    pub(super) ports: Ports,
}

/// A port of a sandbox, and one of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) port: u16,
    pub(super) host: u16,
}

/// `PORT[:HOSTPORT]`.
fn ports(text: &str) -> Result<Ports, String> {
    let (port, host) = text.split_once(':').unwrap_or((text, text));
    let of = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?;
    match (of(port), of(host)) {
        (Some(port), Some(host)) if port > 0 => Ok(Ports { port, host }),
        _ => Err("expected a port of the sandbox from 1 to 65535, and one of this machine: 3000, 3000:8080".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(super) struct CpArgs {
    /// Keep owners, and what group and others may do
    #[arg(short, long)]
    pub(super) archive: bool,
    /// What to copy: a path on this machine, NAME:PATH in a sandbox, or `-`, a tar on stdin
    #[arg(value_name = "SRC", value_hint = clap::ValueHint::AnyPath)]
    pub(super) src: String,
    /// Where to: a path on this machine, NAME:PATH in a sandbox, or `-`, a tar on stdout
    #[arg(value_name = "DEST", value_hint = clap::ValueHint::AnyPath)]
    pub(super) dest: String,
}

#[derive(Debug, Args)]
pub(super) struct SyncArgs {
    /// The sandbox
    #[arg(value_name = "NAME", add = clap_complete::ArgValueCandidates::new(super::completions::agents))]
    pub(super) name: String,
    /// Only this branch of the sandbox's
    #[arg(long, value_name = "BRANCH", conflicts_with = "files")]
    pub(super) branch: Option<String>,
    /// The files instead of the commits: shows what differs, asks, and changes the folder that it is a copy of
    #[arg(long)]
    pub(super) files: bool,
    /// Do not ask
    #[arg(long, short, requires = "files")]
    pub(super) yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// The sandbox
    #[arg(value_name = "NAME", add = clap_complete::ArgValueCandidates::new(super::completions::agents))]
    pub(super) name: String,
    /// Only how much of which file differs
    #[arg(long)]
    pub(super) stat: bool,
}

#[derive(Debug, Args)]
pub(super) struct SnapshotArgs {
    #[command(subcommand)]
    pub(super) command: SnapshotCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum SnapshotCommand {
    /// List snapshots, the oldest first
    List(SnapshotListArgs),
    /// Show what a snapshot is of, and count what is in it
    Show(SnapshotShowArgs),
    /// Keep the workspace's copy and the home folder of a sandbox
    Save(SnapshotSaveArgs),
    /// Put a snapshot into a sandbox, or into a folder of this machine
    Restore(SnapshotRestoreArgs),
    /// Remove snapshots for good
    Remove(SnapshotRemoveArgs),
}

#[derive(Debug, Args)]
pub(super) struct SnapshotListArgs {
    /// Only those of this sandbox
    #[arg(value_name = "NAME", add = clap_complete::ArgValueCandidates::new(super::completions::agents))]
    pub(super) name: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct SnapshotShowArgs {
    /// NAME/TIME as in the list, or NAME for its newest
    #[arg(value_name = "ID", add = clap_complete::ArgValueCandidates::new(super::completions::agents))]
    pub(super) id: String,
}

#[derive(Debug, Args)]
pub(super) struct SnapshotSaveArgs {
    /// The sandbox
    #[arg(value_name = "NAME", add = clap_complete::ArgValueCandidates::new(super::completions::agents))]
    pub(super) name: String,
    /// Also what programs can make again: node_modules, __pycache__, ~/.cache
    #[arg(long)]
    pub(super) all: bool,
}

#[derive(Debug, Args)]
pub(super) struct SnapshotRestoreArgs {
    /// NAME/TIME as in the list, or NAME for its newest
    #[arg(value_name = "ID", add = clap_complete::ArgValueCandidates::new(super::completions::agents))]
    pub(super) id: String,
    /// Into this sandbox [default: the one that it is of]
    #[arg(long = "as", value_name = "NAME", conflicts_with = "to")]
    #[arg(add = clap_complete::ArgValueCandidates::new(super::completions::agents))]
    pub(super) sandbox: Option<String>,
    /// Into this folder of this machine, which is made where it is missing
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub(super) to: Option<PathBuf>,
    /// Wait so many seconds for another bottle that works on the tree or the sandbox
    #[arg(long, value_name = "SECONDS", default_value_t = 10, conflicts_with = "to")]
    pub(super) lock_timeout: u64,
}

#[derive(Debug, Args)]
pub(super) struct SnapshotRemoveArgs {
    /// NAME/TIME as in the list
    #[arg(value_name = "ID", required = true)]
    pub(super) ids: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// Where to write it [default: the tree that the other commands use]
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub(super) dir: Option<PathBuf>,
    /// Convert an older layout: a claude-bottle.json, or a .claude-bottle folder
    #[arg(long, value_name = "OLD", value_hint = clap::ValueHint::AnyPath)]
    pub(super) from: Option<PathBuf>,
    /// Write a tree for this agent, which logs in by its sidecar; with `--backend docker` in an image
    #[arg(long, value_name = "AGENT", conflicts_with = "from")]
    pub(super) agent: Option<InitAgent>,
}

/// Agents that `init` has a tree for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum InitAgent {
    /// Claude Code
    Claude,
    /// Codex
    Codex,
    /// Gemini CLI
    Gemini,
    /// OpenCode
    Opencode,
}

/// Which sandboxes of which tree are meant.
#[derive(Debug, Args)]
pub(super) struct WhichArgs {
    /// The tree
    #[arg(value_name = "TREE", value_hint = clap::ValueHint::DirPath)]
    pub(super) path: Option<PathBuf>,
    /// Show these sandboxes only
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    #[arg(add = clap_complete::ArgValueCandidates::new(super::completions::agents))]
    pub(super) only: Vec<String>,
    #[command(flatten)]
    pub(super) read: ReadArgs,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    pub(super) which: WhichArgs,
    /// Show what each uses, too: time of a core, memory, processes, and what its sidecar let through and refused
    #[arg(long)]
    pub(super) wide: bool,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The sandbox
    #[arg(value_name = "NAME", required_unless_present = "list")]
    #[arg(add = clap_complete::ArgValueCandidates::new(super::completions::agents))]
    pub(super) name: Option<String>,
    /// Leave it to itself: it goes on when the terminal closes, and `bottle attach` comes back to it
    #[arg(short, long, conflicts_with = "list")]
    pub(super) detach: bool,
    /// Show the detached runs, of all sandboxes or of this one
    #[arg(long)]
    pub(super) list: bool,
    /// With --list: print JSON
    #[arg(long, requires = "list")]
    pub(super) json: bool,
    /// Arguments to add to the agent's program
    #[arg(value_name = "ARG", last = true, conflicts_with = "list")]
    pub(super) args: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    /// The sandbox
    #[arg(value_name = "NAME", add = clap_complete::ArgValueCandidates::new(super::completions::agents))]
    pub(super) name: String,
    /// The run, or how its id begins [default: the one that is under way]
    #[arg(value_name = "ID")]
    pub(super) id: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct HoldArgs {
    /// The run's folder
    #[arg(value_name = "FOLDER")]
    pub(super) folder: PathBuf,
    /// Rows and columns of its terminal until somebody attaches
    #[arg(long, value_name = "RxC", value_parser = size)]
    pub(super) size: Option<(u16, u16)>,
}

/// `24x80`.
fn size(text: &str) -> Result<(u16, u16), String> {
    let parts = text.split_once('x').and_then(|(r, c)| Some((r.parse().ok()?, c.parse().ok()?)));
    parts.ok_or_else(|| "expected rows and columns: 24x80".to_owned())
}

#[derive(Debug, Args)]
pub(super) struct SessionArgs {
    /// The run's folder
    #[arg(value_name = "FOLDER")]
    pub(super) folder: PathBuf,
    /// Only end what the run has left in its sandbox
    #[arg(long)]
    pub(super) end: bool,
}

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// The sandboxes [default: all that exist]
    #[arg(value_name = "NAME", add = clap_complete::ArgValueCandidates::new(super::completions::agents))]
    pub(super) names: Vec<String>,
    /// Go on as more is written
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Show the last so many lines only
    #[arg(long, value_name = "N")]
    pub(super) tail: Option<u64>,
    /// Show what was written since then only: a time before now (10m, 2h), or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub(super) since: Option<Since>,
    /// Show before each line when it was written
    #[arg(long)]
    pub(super) timestamps: bool,
    /// Show the sidecar's record instead
    #[arg(long)]
    pub(super) sidecar: bool,
    /// Show the git gate's record instead: fetches, pushes and refusals
    #[arg(long, conflicts_with = "sidecar")]
    pub(super) git: bool,
}

impl LogsArgs {
    /// Whose log is meant.
    pub(super) fn kind(&self) -> ResourceKind {
        match (self.sidecar, self.git) {
            (true, _) => ResourceKind::Sidecar,
            (_, true) => ResourceKind::Gate,
            _ => ResourceKind::Machine,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct PolicyArgs {
    #[command(subcommand)]
    pub(super) command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Tell whether a request would pass, and by what: exit 0 when it would, 1 when not
    Check(PolicyCheckArgs),
    /// Show all that a sandbox may reach, and with which credentials
    Show(PolicyShowArgs),
}

#[derive(Debug, Args)]
pub(super) struct GitArgs {
    #[command(subcommand)]
    pub(super) command: GitCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum GitCommand {
    /// Search what a repository has not pushed yet, as the gate does: exit 0 when it would pass, 1 when not
    Check(GitCheckArgs),
}

#[derive(Debug, Args)]
pub(super) struct GitCheckArgs {
    /// The sandbox
    #[arg(value_name = "NAME", add = clap_complete::ArgValueCandidates::new(super::completions::agents))]
    pub(super) name: String,
    /// A folder of the repository
    #[arg(value_name = "REPO", default_value = ".", value_hint = clap::ValueHint::DirPath)]
    pub(super) repository: std::path::PathBuf,
    #[command(flatten)]
    pub(super) read: ReadArgs,
}

#[derive(Debug, Args)]
pub(super) struct PolicyCheckArgs {
    /// The sandbox
    #[arg(value_name = "NAME", add = clap_complete::ArgValueCandidates::new(super::completions::agents))]
    pub(super) name: String,
    /// What it would ask for: https://host/path
    #[arg(value_name = "URL", value_hint = clap::ValueHint::Url)]
    pub(super) url: String,
    /// The method of the request
    #[arg(long, value_name = "M", default_value = "GET")]
    pub(super) method: String,
    #[command(flatten)]
    pub(super) read: ReadArgs,
}

#[derive(Debug, Args)]
pub(super) struct PolicyShowArgs {
    /// The sandbox
    #[arg(value_name = "NAME", add = clap_complete::ArgValueCandidates::new(super::completions::agents))]
    pub(super) name: String,
    #[command(flatten)]
    pub(super) read: ReadArgs,
}

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Also make a machine on every backend, and remove it again
    #[arg(long)]
    pub(super) boot: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum SchemaOf {
    /// The front matter of bottles/NAME.md
    Bottle,
    /// The front matter of agents/NAME.md
    Agent,
    /// The file bottle.yaml
    Tree,
    /// What `plan -o json` prints
    Plan,
    /// What `apply -o json` prints
    Report,
}

#[derive(Debug, Args)]
pub(super) struct SchemaArgs {
    /// Of what
    #[arg(value_name = "WHAT")]
    pub(super) of: SchemaOf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Shell {
    /// Bash
    Bash,
    /// Elvish
    Elvish,
    /// Fish
    Fish,
    /// PowerShell
    Powershell,
    /// Zsh
    Zsh,
}

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(super) shell: Shell,
}

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// The command
    #[arg(value_name = "COMMAND")]
    pub(super) command: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_holds() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_is_imperative_and_has_no_full_stop() {
        fn check(command: &clap::Command) {
            let told = command.get_about().into_iter().chain(command.get_long_about());
            let options = command.get_arguments().filter_map(clap::Arg::get_help);
            for text in told.chain(options).map(ToString::to_string) {
                assert!(!text.ends_with('.'), "{}: {text}", command.get_name());
                assert!(!text.is_empty(), "{}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn global_options_stand_before_and_after_the_command() {
        for line in [
            &["bottle", "-o", "json", "--tree", "t", "plan"][..],
            &["bottle", "plan", "-o", "json", "--tree", "t"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.global.output, Format::Json);
            assert_eq!(cli.global.tree.as_deref(), Some(std::path::Path::new("t")));
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "30", "s", "0s", "-1s", "1.5s", "99999999999999999999s", "1d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn since_is_a_time_or_so_long_ago() {
        assert_eq!(since("10m"), Ok(Since::Before(Duration::from_secs(600))));
        assert_eq!(since("1970-01-01T00:00:01Z"), Ok(Since::At(Moment(1000))));
        let wrong = since("yesterday").unwrap_err();
        assert!(wrong.contains("30s") && wrong.contains("2026-01-31T12:00:00Z"), "{wrong}");
    }

    #[test]
    fn a_command_stands_behind_two_dashes() {
        let cli = Cli::try_parse_from(["bottle", "exec", "-i", "ada", "--", "ls", "-l"]).unwrap();
        let Command::Exec(args) = cli.command else { panic!("{cli:?}") };
        assert_eq!(args.argv, ["ls", "-l"]);
        assert!(Cli::try_parse_from(["bottle", "exec", "ada", "ls"]).is_err());
        assert!(Cli::try_parse_from(["bottle", "plan", "--allow-teardown", "some"]).is_err());
    }
}
