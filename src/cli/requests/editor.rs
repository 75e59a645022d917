//! What a yes adds, in the operator's editor: he narrows or widens it, and it is read, checked and shown as any other.
#![expect(
    clippy::disallowed_methods,
    reason = "the operator's editor is a program, and works on a file"
)]

use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::super::error::CliError;
use super::super::ui::Ui;
use super::super::{prompt, signals};
use super::{Session, told};
use crate::apply::Stop;
use crate::manifest::edit::{self, Item};
use crate::model::supervise::RequestId;
use crate::model::text::quoted_lines;
use crate::reconcile::TreeState;
use crate::reconcile::requests::propose::{Terms, entry};
use crate::reconcile::requests::review::Review;

/// More than any entry that a person writes, in bytes.
const LARGEST: u64 = 64 << 10;

/// The file that is edited, among what only the operator may read.
struct Scratch(PathBuf);

impl Scratch {
    fn new(memory: &TreeState, id: &RequestId) -> Self {
        Self(memory.dir().join("requests").join(format!(".edit-{id}-{}.yaml", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Where it stays, it is of no use to anybody, and in nobody's way.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The review of what the operator wrote. `terms` has it from then on.
pub(super) async fn edited(
    ui: &Ui,
    stop: &Stop,
    session: &mut Session,
    ids: &[RequestId],
    terms: &mut Terms,
) -> Result<Review, CliError> {
    let [id] = ids else {
        let error = CliError::refused("`--edit` is for one request; nothing was changed");
        return Err(error.hint("approve them one after another"));
    };
    if !ui.can_ask() {
        let error = CliError::refused("there is no terminal for an editor; nothing was changed");
        return Err(error.hint(
            "`--methods`, `--paths`, `--whole-host` and `--until` say without one what is granted",
        ));
    }
    let review = session.reconciler.review(ids, terms).await.map_err(told)?;
    let proposed = review.proposals.first().and_then(|proposal| proposal.entry());
    let Some(proposed) = proposed else {
        // Why it cannot be granted at all says more than that there is nothing to edit.
        let why = review.blocked.clone();
        let why = why.unwrap_or_else(|| format!("{id} adds no entry: there is nothing to edit"));
        return Err(CliError::refused(why));
    };
    let mut text = heading(&review) + &edit::spelled(&proposed);
    let file = Scratch::new(&session.memory, id);
    loop {
        std::fs::write(&file.0, &text)?;
        signals::or_stop(stop, open(&file.0)).await?;
        text = read(&file.0)?;
        let wrong = match edit::item(&text) {
            Ok(Item::Null) => {
                return Err(CliError::refused("the entry is empty: nothing was changed"));
            }
            Ok(item) => {
                (terms.until, terms.within) = (entry::end(&item), None);
                if terms.token_ref.is_some() {
                    terms.token_ref = entry::token(&item).or(terms.token_ref.take());
                }
                terms.entry = Some(item);
                let review = session.reconciler.review(ids, terms).await.map_err(told)?;
                match &review.blocked {
                    Some(why) if !why.ends_with("here is the patch") => why.clone(),
                    _ => return Ok(review),
                }
            }
            Err(error) => error.to_string(),
        };
        ui.say(&wrong);
        if !prompt::confirm(ui, stop, "Edit it again?").await? {
            return Err(CliError::refused("nothing was changed"));
        }
    }
}

/// What the editor shows above the entry. Lines of the agent's are comments, too.
fn heading(review: &Review) -> String {
    let mut text = String::new();
    for record in &review.records {
        text.push_str(&format!("# {} asks for this, in its words:\n", record.sandbox));
        for line in quoted_lines(&record.reason, "#   ", 100, 20) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    for edited in &review.edited {
        text.push_str(&format!("# It is added to {}. ", edited.file));
    }
    text.push_str("What you leave here is shown once more before anything is changed;\n");
    text.push_str("# an empty file changes nothing.\n");
    text
}

/// Waits for the operator's editor. It is a command line, as git has it.
async fn open(file: &Path) -> Result<(), CliError> {
    let named = ["VISUAL", "EDITOR"].into_iter().filter_map(|name| std::env::var(name).ok());
    let editor = named.into_iter().find(|it| !it.trim().is_empty()).unwrap_or("vi".to_owned());
    let mut command = tokio::process::Command::new("sh");
    command.arg("-c").arg(format!("{editor} \"$@\"")).arg(&editor).arg(file);
    let ended = command.stdin(Stdio::inherit()).status().await?;
    if ended.success() {
        return Ok(());
    }
    let error =
        CliError::refused(format!("the editor `{editor}` ended with {ended}; nothing was changed"));
    Err(error.hint("$VISUAL or $EDITOR names the editor"))
}

fn read(file: &Path) -> Result<String, CliError> {
    use std::io::Read as _;
    let mut text = String::new();
    let read = std::fs::File::open(file)?.take(LARGEST + 1).read_to_string(&mut text)?;
    if read as u64 > LARGEST {
        return Err(CliError::refused("the entry is larger than 64 KiB: nothing was changed"));
    }
    Ok(text)
}
