//! `bottle sidecar`: what backends run beside a machine, and how it is told what to do.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use super::error::{CliError, Exit};
use super::ui::Ui;
use crate::sidecar::egress::{State, limits};
use crate::sidecar::start::{self, Endpoint, Options};
use crate::sidecar::{confine, control};

#[derive(Debug, Args)]
pub(super) struct SidecarArgs {
    #[command(subcommand)]
    pub(super) command: SidecarCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum SidecarCommand {
    /// Serve one machine's connections
    Serve(ServeArgs),
    /// Have a sidecar work by the document on stdin
    Load(ControlArgs),
    /// Print how a sidecar is
    State(ControlArgs),
    /// End a sidecar
    Stop(ControlArgs),
    /// Be a connection to a port of this network's loopback, on stdin and stdout
    Dial(DialArgs),
    /// Wait until stdin ends
    Wait,
    /// Be one connection to the git gate, on stdin and stdout
    Gate(ControlArgs),
}

#[derive(Debug, Args)]
pub(super) struct DialArgs {
    /// The port
    #[arg(value_name = "PORT")]
    port: u16,
}

/// Dials, before there is a second thread.
pub(super) fn dial(args: &DialArgs) -> ExitCode {
    // Whoever asked for it is gone when this fails.
    match crate::backend::dial::run(args.port) {
        Ok(()) => Exit::Done.into(),
        Err(_) => Exit::Failed.into(),
    }
}

/// Takes one connection, before there is a second thread.
pub(super) fn gate(args: &ControlArgs) -> ExitCode {
    let carried = crate::sidecar::taking::take(&args.control).and_then(|taken| match taken {
        Some((socket, _counted)) => crate::backend::dial::carry(socket),
        None => Ok(()),
    });
    match carried {
        Ok(()) => Exit::Done.into(),
        // Whoever asked for it is gone, or sees that it ends.
        Err(_) => Exit::Failed.into(),
    }
}

/// Waits until stdin ends.
pub(super) fn wait() -> ExitCode {
    let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
    Exit::Done.into()
}

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Accept connections here: `IP:PORT`, `fd:N` or `unix:/PATH`; more can be handed in later
    #[arg(long, value_name = "WHERE")]
    listen: Vec<Endpoint>,
    /// Keep connections to the git gate here, until they are taken
    #[arg(long, value_name = "WHERE")]
    git: Option<Endpoint>,
    /// Be told what to do here: `fd:N` or `unix:/PATH`
    #[arg(long, value_name = "WHERE")]
    control: Endpoint,
    /// Append the log to this file [default: stdout]
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Become this user of the host first
    #[arg(long, value_name = "UID")]
    user: Option<u32>,
    /// Give up what is not needed: this process runs on a host
    #[arg(long)]
    confine: bool,
}

#[derive(Debug, Args)]
pub(super) struct ControlArgs {
    /// The socket of the sidecar
    #[arg(long, value_name = "PATH")]
    pub(super) control: PathBuf,
}

/// Serves, and says how it ended. Before anything has started a thread.
pub(super) fn serve(args: &ServeArgs) -> ExitCode {
    let options = Options {
        listen: args.listen.clone(),
        git: args.git.clone(),
        control: args.control.clone(),
        log: args.log.clone(),
        user: args.user,
        confine: args.confine,
    };
    match start::serve(&options) {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            use std::io::Write as _;
            // Nobody is left to be told when this fails too.
            let _ = writeln!(std::io::stderr(), "error: the sidecar: {error:#}");
            Exit::Failed.into()
        }
    }
}

pub(super) async fn run(ui: &Ui, args: &SidecarArgs) -> Result<Exit, CliError> {
    let state: State = match &args.command {
        SidecarCommand::Serve(_)
        | SidecarCommand::Dial(_)
        | SidecarCommand::Wait
        | SidecarCommand::Gate(_) => {
            return Err(CliError::failed("it begins before this"));
        }
        SidecarCommand::Load(args) => {
            let document = document()?;
            control::load(&args.control, &document).await.map_err(anyhow::Error::from)?
        }
        SidecarCommand::State(args) => {
            control::state(&args.control).await.map_err(anyhow::Error::from)?
        }
        SidecarCommand::Stop(args) => {
            control::stop(&args.control).await.map_err(anyhow::Error::from)?
        }
    };
    print(ui, &state)
}

/// What is on stdin. It holds credentials, so it is wiped, and its buffer never grows: what a
/// growing one leaves behind is not.
pub(super) fn document() -> Result<Zeroizing<Vec<u8>>, CliError> {
    confine::keep_to_itself()?;
    let limit = usize::try_from(limits::DOCUMENT).unwrap_or(usize::MAX);
    let mut text = Zeroizing::new(Vec::with_capacity(limit + 1));
    let mut stdin = std::io::stdin().lock().take(limits::DOCUMENT + 1);
    stdin.read_to_end(&mut text)?;
    if text.len() > limit {
        return Err(CliError::failed(format!("the document has more than {limit} bytes")));
    }
    Ok(text)
}

pub(super) fn print(ui: &Ui, state: &impl serde::Serialize) -> Result<Exit, CliError> {
    let text = serde_json::to_string(state).map_err(anyhow::Error::from)?;
    ui.data(&format!("{text}\n"))?;
    Ok(Exit::Done)
}
