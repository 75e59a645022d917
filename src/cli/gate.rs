//! `bottle gate`: what backends run beside a machine for its git, and how it is told what to do.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::error::{CliError, Exit};
use super::sidecar::{ControlArgs, document, print};
use super::ui::Ui;
use crate::backend::docker::{self, Needs};
use crate::sidecar::git::keep::{self, Options, State};
use crate::sidecar::git::work;
use crate::sidecar::start::Endpoint;
use crate::sidecar::{confine, control};

#[derive(Debug, Args)]
pub(super) struct GateArgs {
    #[command(subcommand)]
    pub(super) command: GateCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum GateCommand {
    /// Keep one machine's git gate
    Keep(KeepArgs),
    /// Read what the machine sends: started by the keeper
    #[command(hide = true)]
    Work(WorkArgs),
    /// Bring the machine's connections from its engine: started by the keeper
    #[command(hide = true)]
    Relay(RelayArgs),
    /// Try what a worker must not do: no release has this
    #[cfg(any(test, feature = "testing"))]
    Probe(ProbeArgs),
    /// Have a gate work by the document on stdin
    Load(ControlArgs),
    /// Print how a gate is
    State(ControlArgs),
    /// End a gate
    Stop(ControlArgs),
}

#[derive(Debug, Args)]
pub(super) struct KeepArgs {
    /// Accept connections here: `IP:PORT`, `fd:N` or `unix:/PATH`; more can be handed in later
    #[arg(long, value_name = "WHERE")]
    listen: Vec<Endpoint>,
    /// Be told what to do here: `fd:N` or `unix:/PATH`
    #[arg(long, value_name = "WHERE")]
    control: Endpoint,
    /// Append the log to this file [default: stdout]
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Keep mirrors and pins here
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    /// Give up what is not needed
    #[arg(long)]
    confine: bool,
}

#[derive(Debug, Args)]
pub(super) struct WorkArgs {
    /// Where mirrors are
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct RelayArgs {
    /// The socket of the gate
    #[arg(long, value_name = "PATH")]
    to: PathBuf,
}

#[cfg(any(test, feature = "testing"))]
#[derive(Debug, Args)]
pub(super) struct ProbeArgs {
    #[arg(long)]
    folder: PathBuf,
    #[arg(long)]
    key: PathBuf,
    #[arg(long)]
    port: u16,
    #[arg(long)]
    socket: PathBuf,
}

/// Tries it, and prints what came of it. Before anything has started a thread.
#[cfg(any(test, feature = "testing"))]
pub(super) fn probe(args: &ProbeArgs) -> ExitCode {
    use std::io::Write as _;
    ended(
        crate::sidecar::git::probe::probe(&args.folder, &args.key, args.port, &args.socket)
            .and_then(|tried| {
                for (what, well) in tried {
                    writeln!(std::io::stdout(), "{}: {what}", if well { "well" } else { "WRONG" })?;
                }
                Ok(())
            }),
    )
}

/// Keeps a gate, and says how it ended. Before anything has started a thread.
pub(super) fn keep(args: &KeepArgs) -> ExitCode {
    let options = Options {
        listen: args.listen.clone(),
        control: args.control.clone(),
        log: args.log.clone(),
        folder: args.folder.clone(),
        confine: args.confine,
    };
    ended(keep::keep(&options))
}

/// Brings connections to a gate, and says how it ended. Before anything has started a thread.
pub(super) fn relay(args: &RelayArgs) -> ExitCode {
    ended(docker::relay(&args.to, |needs| match needs {
        Needs::Sockets => confine::carry_bytes(true),
        Needs::Files => confine::carry_bytes(false),
        Needs::Programs => confine::start_programs(),
    }))
}

/// Works for a gate, and says how it ended. Before anything has started a thread.
pub(super) fn work(args: &WorkArgs) -> ExitCode {
    ended(work::work(&args.folder))
}

fn ended(how: anyhow::Result<()>) -> ExitCode {
    match how {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            use std::io::Write as _;
            // Nobody is left to be told when this fails too.
            let _ = writeln!(std::io::stderr(), "error: the git gate: {error:#}");
            Exit::Failed.into()
        }
    }
}

pub(super) async fn run(ui: &Ui, args: &GateArgs) -> Result<Exit, CliError> {
    let state: State = match &args.command {
        #[cfg(any(test, feature = "testing"))]
        GateCommand::Probe(_) => return Err(CliError::failed("it begins before this")),
        GateCommand::Keep(_) | GateCommand::Work(_) | GateCommand::Relay(_) => {
            return Err(CliError::failed("it begins before this"));
        }
        GateCommand::Load(args) => {
            let document = document()?;
            control::load(&args.control, &document).await.map_err(anyhow::Error::from)?
        }
        GateCommand::State(args) => {
            control::state(&args.control).await.map_err(anyhow::Error::from)?
        }
        GateCommand::Stop(args) => {
            control::stop(&args.control).await.map_err(anyhow::Error::from)?
        }
    };
    print(ui, &state)
}
