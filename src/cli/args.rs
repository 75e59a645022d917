//! What can be said on the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::model::BackendKind;
use crate::plan::AllowTeardown;

/// Keep a tree of agent manifests and the sandboxes they describe the same
#[derive(Debug, Parser)]
#[command(name = "bottle", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed or refused, 2 plan has changes or wrong usage, \
    3 partly done or held,\n75 locked by another bottle, 125 to 127 exec and run, 130 interrupted"
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
    /// Parse and validate a tree, and tell everything that is wrong with it at once
    Check(CheckArgs),
    /// Show what apply would do
    Plan(PlanArgs),
    /// Make the sandboxes what the tree says
    Apply(ApplyArgs),
    /// Run a command in a sandbox
    Exec(ExecArgs),
    /// Tear down everything that the tree owns
    Down(DownArgs),
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
    /// Take asked-for values from lines of NAME=value
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
    /// How many steps run at once [default: the number of cores, 2 to 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) jobs: Option<u16>,
    /// Permit the removal or replacement of so many sandboxes at once
    #[arg(long, value_name = "N|all", value_parser = allow_teardown)]
    pub(super) allow_teardown: Option<AllowTeardown>,
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
    /// Do not ask
    #[arg(short, long)]
    pub(super) yes: bool,
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
