//! The command line: one file per command, and what they share.
//!
//! `args` is what can be said, `setup` makes a reconciler of it, `ui` is the terminal, `render` the
//! plan's one textual form, `report` what became of it, `progress` what is happening meanwhile,
//! `error` how the program ends when it fails.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

mod apply;
mod args;
mod attach;
mod bring;
mod check;
mod completions;
mod convert;
mod cp;
mod dashboard;
mod diff;
mod doctor;
mod documents;
mod down;
mod error;
mod exec;
mod forward;
mod gate;
mod git;
mod heap;
mod init;
mod logs;
mod look;
mod man;
mod numbers;
mod plan;
mod policy;
mod progress;
mod prompt;
mod render;
#[cfg(test)]
mod render_tests;
mod report;
mod requests;
mod run;
mod runs;
mod saved;
mod schema;
mod session;
mod setup;
mod sidecar;
mod signals;
mod snapshot;
mod status;
mod status_text;
mod stop;
mod sync;
mod target;
mod text;
mod ui;
mod usage;
mod watch;

pub use args::Cli;
use args::Command;
pub use completions::complete;
use error::{CliError, Exit};
pub use heap::keep_small;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use ui::Ui;
pub use usage::parse;

/// Runs what has to begin before there is a second thread, if that is what was asked for.
#[must_use]
pub fn run_alone(cli: &Cli) -> Option<ExitCode> {
    match &cli.command {
        Command::Sidecar(args) => match &args.command {
            sidecar::SidecarCommand::Serve(args) => Some(sidecar::serve(args)),
            sidecar::SidecarCommand::Dial(args) => Some(sidecar::dial(args)),
            sidecar::SidecarCommand::Wait => Some(sidecar::wait()),
            sidecar::SidecarCommand::Gate(args) => Some(sidecar::gate(args)),
            _ => None,
        },
        Command::Gate(args) => match &args.command {
            gate::GateCommand::Keep(args) => Some(gate::keep(args)),
            gate::GateCommand::Work(args) => Some(gate::work(args)),
            gate::GateCommand::Relay(args) => Some(gate::relay(args)),
            #[cfg(any(test, feature = "testing"))]
            gate::GateCommand::Probe(args) => Some(gate::probe(args)),
            _ => None,
        },
        Command::Hold(args) => Some(runs::hold(&cli.global, args)),
        Command::Session(args) => {
            if !args.end {
                session::take_terminal();
            }
            None
        }
        _ => None,
    }
}

/// Runs one command and says how the program ends.
pub async fn run(cli: Cli) -> ExitCode {
    let ui = Arc::new(Ui::new(&cli.global));
    log(&cli);
    // Their stdout belongs to the command that they run.
    let theirs = match &cli.command {
        Command::Exec(_) | Command::Logs(_) | Command::Attach(_) | Command::Session(_) => true,
        Command::Run(args) => !args.list && !args.detach,
        _ => false,
    };
    let archive = matches!(&cli.command, Command::Cp(args) if args.dest == "-");
    let json = ui.json() && !theirs && !archive;
    match dispatch(&ui, &cli).await {
        Ok(exit) => exit.into(),
        Err(error) => {
            if json {
                let written = documents::failure(&error).map_err(std::io::Error::from);
                if let Err(failed) = written.and_then(|text| ui.data(&format!("{text}\n"))) {
                    ui.error(&failed.into());
                }
            }
            ui.error(&error);
            error.exit().into()
        }
    }
}

/// Says that the program could not even begin.
#[must_use]
pub fn cannot_start(error: &std::io::Error) -> ExitCode {
    // Nobody is left to be told when this fails too.
    let _ = writeln!(std::io::stderr(), "error: starting: {error}");
    Exit::Failed.into()
}

async fn dispatch(ui: &Arc<Ui>, cli: &Cli) -> Result<Exit, CliError> {
    let global = &cli.global;
    match &cli.command {
        Command::Init(args) => init::run(ui, global, args),
        Command::Check(args) => check::run(ui, global, args).await,
        Command::Plan(args) => plan::run(ui, global, args).await,
        Command::Apply(args) => apply::run(ui, global, args).await,
        Command::Exec(args) => exec::run(global, args).await.map_err(CliError::in_sandbox),
        Command::Watch(args) => watch::run(ui, global, args).await,
        Command::Status(args) => status::run(ui, global, args).await,
        Command::Top(args) => numbers::top::run(ui, global, args).await,
        Command::Metrics(args) => numbers::metrics::run(ui, global, args).await,
        Command::Run(args) => run::run(ui, global, args).await.map_err(CliError::in_sandbox),
        Command::Attach(args) => attach::run(ui, global, args).await.map_err(CliError::in_sandbox),
        Command::Session(args) => {
            session::run(ui, global, args).await.map_err(CliError::in_sandbox)
        }
        Command::Hold(_) => Err(CliError::failed("it is begun before anything else")),
        Command::Forward(args) => forward::run(ui, global, args).await,
        Command::Logs(args) => logs::run(ui, global, args).await,
        Command::Cp(args) => cp::run(ui, global, args).await,
        Command::Sync(args) if args.files => bring::run(ui, global, args).await,
        Command::Sync(args) => sync::run(ui, global, args).await,
        Command::Diff(args) => diff::run(ui, global, args).await,
        Command::Snapshot(args) => snapshot::run(ui, global, args).await,
        Command::Stop(args) => stop::stop(ui, global, args).await,
        Command::Start(args) => stop::start(ui, global, args).await,
        Command::Restart(args) => stop::restart(ui, global, args).await,
        Command::Down(args) => down::run(ui, global, args).await,
        Command::Requests(args) => requests::run(ui, global, args).await,
        Command::Dashboard(args) => dashboard::run(ui, global, args).await,
        Command::Policy(args) => policy::run(ui, global, args),
        Command::Git(args) => git::run(ui, global, args),
        Command::Doctor(args) => doctor::run(ui, global, args).await,
        Command::Schema(args) => schema::run(ui, args),
        Command::Completions(args) => completions::run(ui, args),
        Command::Man(args) => man::run(ui, args),
        Command::Sidecar(args) => sidecar::run(ui, args).await,
        Command::Gate(args) => gate::run(ui, args).await,
    }
}

/// Structured logs go to stderr, for those who ask for them. Levels of libraries stay below ours:
/// what they would trace may hold what must not be shown.
fn log(cli: &Cli) {
    let global = &cli.global;
    let filter = match global.verbosity() {
        i8::MIN..=-2 => "off",
        -1 => "off",
        0 => "bottle=warn",
        1 => "bottle=info",
        2 => "bottle=debug,warn",
        _ => "bottle=trace,warn",
    };
    // What has the screen shows it itself.
    let drawn = matches!(cli.command, Command::Dashboard(_));
    let writer = match drawn {
        true => BoxMakeWriter::new(|| dashboard::Logged),
        false => BoxMakeWriter::new(std::io::stderr),
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(writer)
        .with_ansi(!drawn && ui::colours_stderr(global.color))
        .with_target(false)
        .without_time()
        .finish();
    // A test may have set one already.
    let _ = tracing::subscriber::set_global_default(subscriber);
}
