//! What a detached run is on its terminal: a `bottle run` that sees to it that nothing goes on unseen.

use bytes::Bytes;
use tokio::signal::unix::{SignalKind, signal};

use super::args::{Global, SessionArgs};
use super::error::{CliError, Exit};
use super::runs::end_in_sandbox;
use super::target::Target;
use super::ui::Ui;
use crate::backend::{Attach, ExecSpec};
use crate::reconcile::detached::{self, Detached, End, How, MARK};
use crate::reconcile::status::missing::NOT_FOUND;

/// The codes of who was ended by a hang-up, or asked to end.
const HUNG_UP: i32 = 129;
const ASKED: i32 = 143;

/// Makes the terminal on stdin this process's own. Called before there is a second thread.
pub(super) fn take_terminal() {
    // Without one there is no size to follow, and no more.
    let _ = rustix::process::setsid();
    let _ = rustix::process::ioctl_tiocsctty(std::io::stdin());
}

pub(super) async fn run(ui: &Ui, global: &Global, args: &SessionArgs) -> Result<Exit, CliError> {
    let run = detached::at(&args.folder)?;
    if args.end {
        let target = Target::find(global, run.record.sandbox.as_str()).await?;
        end_in_sandbox(&target, &run.record.id).await?;
        return Ok(Exit::Done);
    }
    let mut hung_up = signal(SignalKind::hangup())?;
    let mut asked = signal(SignalKind::terminate())?;
    let result = tokio::select! {
        ended = attached(ui, global, &run) => ended,
        _ = hung_up.recv() => {
            // Whoever held the terminal is gone, and nobody can come back to this.
            left(global, &run).await;
            let why = "the process of bottle that held it was killed".to_owned();
            detached::end(&args.folder, &End::now(How::Lost, None, Some(why)))?;
            return Ok(Exit::Of(HUNG_UP));
        }
        _ = asked.recv() => {
            left(global, &run).await;
            return Ok(Exit::Of(ASKED));
        }
    };
    if let Err(error) = &result {
        detached::set_why(&args.folder, &error.chain().join(": "));
        left(global, &run).await;
    }
    result
}

async fn attached(ui: &Ui, global: &Global, run: &Detached) -> Result<Exit, CliError> {
    let record = &run.record;
    let target = Target::find(global, record.sandbox.as_str()).await?;
    // Without a shell inside, its mark alone tells what is the run's.
    let probe = ExecSpec::new(["sh", "-c", "exit 0"]);
    let probed = target.backend.exec(&target.scope, &target.machine, &probe, Bytes::new()).await;
    let mut command = match probed {
        Ok(output) if output.code == 0 => {
            target.command(&detached::marked(&record.id, &record.argv))
        }
        _ => target.command(&record.argv),
    };
    command.env.push((MARK.to_owned(), record.id.clone()));
    let exit = target.attach(&command, Attach { stdin: true, tty: true }).await?;
    if exit == Exit::Of(NOT_FOUND) {
        let source = format!("agents/{}.md", record.sandbox);
        let program = record.argv.first().map_or("", String::as_str);
        super::run::missing(ui, &target, &source, None, program).await;
    }
    Ok(exit)
}

/// Ends what the run has left in its sandbox, as far as there is one.
async fn left(global: &Global, run: &Detached) {
    let record = &run.record;
    let ended = match Target::find(global, record.sandbox.as_str()).await {
        Ok(target) if target.must_run().is_ok() => end_in_sandbox(&target, &record.id).await,
        _ => Ok(()),
    };
    if let Err(error) = ended {
        tracing::warn!(error = %format!("{error:#}"), "what a run has left may run on");
    }
}
