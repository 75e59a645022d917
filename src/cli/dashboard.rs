//! `bottle dashboard`: watch and decide in the terminal.
//!
//! `source` finds out what there is to show, `hands` does what is ordered, by the functions that the other commands
//! have, `editing` is what opens a grant in an editor, and `logged` keeps what would be logged off the screen.

mod editing;
mod hands;
mod logged;
mod source;
mod web;

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use tokio::runtime::Handle;
use tokio::sync::mpsc::unbounded_channel;

use super::args::{Global, LookArgs};
use super::error::{CliError, Exit};
use super::setup;
use super::ui::{Ui, colours_stdout};
use crate::dashboard::tui::{self, Ended, Looks};
use hands::Hands;
pub(super) use logged::Logged;
use source::Place;

/// Wrong usage, as the parser of the command line has it.
const USAGE: Exit = Exit::Of(2);

#[derive(Debug, Args)]
pub(super) struct DashboardArgs {
    /// The tree
    #[arg(value_name = "TREE", value_hint = clap::ValueHint::DirPath)]
    pub(super) path: Option<PathBuf>,
    /// Serve it to the browser of this machine instead, and print a link that works once
    #[arg(long)]
    pub(super) web: bool,
    #[command(flatten)]
    pub(super) look: LookArgs,
}

pub(super) async fn run(
    ui: &Arc<Ui>,
    global: &Global,
    args: &DashboardArgs,
) -> Result<Exit, CliError> {
    if args.web {
        let named = setup::named_tree(global, args.path.as_deref())?.map(ToOwned::to_owned);
        let place =
            Place { global: Global { tree: named, ..global.clone() }, look: args.look.clone() };
        place.reconciler()?.identify().await?;
        return web::run(ui, place).await;
    }
    let can = io::stdin().is_terminal() && io::stdout().is_terminal() && setup::moves_cursor();
    if !can {
        let error = CliError::failed("the dashboard needs a terminal, and this is none");
        ui.error(&error.hint("`bottle status` and `bottle requests` say the same as text"));
        return Ok(USAGE);
    }
    let named = setup::named_tree(global, args.path.as_deref())?.map(ToOwned::to_owned);
    let global = Global { tree: named, ..global.clone() };
    // A tree that is not there is told before the screen is taken.
    let load = setup::load_options(&global, None, &args.look.read)?;
    let reconciler = setup::reconciler(load, &args.look, None)?;
    reconciler.identify().await?;
    let (send, events) = unbounded_channel();
    logged::to(send.clone());
    let (nudge, nudged) = unbounded_channel();
    let place = Arc::new(Place { global, look: args.look.clone() });
    // A thread of its own: a look at many sandboxes is work, and keys do not wait for it. It ends with the process.
    let (runtime, there, sends) = (Handle::current(), place.clone(), send.clone());
    std::thread::spawn(move || runtime.block_on(source::look(there, sends, nudged)));
    let hands = Arc::new(Hands::new(place.clone(), send, nudge));
    let looks = Looks { colour: colours_stdout(ui), unicode: setup::has_unicode() };
    let ended =
        tui::run(looks, events, |effect| hands.act(effect), |id| editing::command(&place, id))
            .await;
    Ok(match ended? {
        Ended::Left => Exit::Done,
        Ended::Signalled => Exit::Interrupted,
    })
}
