//! `bottle man`: the manual, as `man` reads it.

use clap::CommandFactory as _;

use super::args::{Cli, ManArgs};
use super::error::{CliError, Exit};
use super::ui::Ui;

pub(super) fn run(ui: &Ui, args: &ManArgs) -> Result<Exit, CliError> {
    let mut whole = Cli::command();
    whole.build();
    let page = match &args.command {
        None => whole,
        Some(name) => {
            let known: Vec<String> =
                whole.get_subcommands().map(|command| command.get_name().to_owned()).collect();
            let found = whole.find_subcommand(name).cloned().ok_or_else(|| {
                CliError::failed(format!("there is no command {name}"))
                    .hint(format!("there are: {}", known.join(", ")))
            })?;
            found
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text)?;
    ui.data(&String::from_utf8_lossy(&text))?;
    Ok(Exit::Done)
}
