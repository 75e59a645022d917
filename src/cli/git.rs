//! `bottle git`: what a sandbox's gate would say, from the very search that it does.

use serde::Serialize;

use super::args::{GitArgs, GitCheckArgs, GitCommand, Global};
use super::error::{CliError, Exit};
use super::policy::spec;
use super::ui::{Ui, harmless};
use crate::model::SandboxId;
use crate::sidecar::PolicyPart;
use crate::sidecar::git::look::{By, Looked, look};

/// The version of the document.
const VERSION: u32 = 1;

/// So large a file is looked through, unless an upstream says otherwise.
const MAX_FILE: u64 = 256 << 20;

pub(super) fn run(ui: &Ui, global: &Global, args: &GitArgs) -> Result<Exit, CliError> {
    match &args.command {
        GitCommand::Check(args) => check(ui, global, args),
    }
}

/// The answer, as `-o json` prints it.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    version: u32,
    sandbox: &'a SandboxId,
    passes: bool,
    objects: u64,
    bytes: u64,
    refused: &'a [String],
    passed: &'a [String],
}

fn check(ui: &Ui, global: &Global, args: &GitCheckArgs) -> Result<Exit, CliError> {
    let spec = spec(global, &args.name, &args.read)?;
    let dlp = PolicyPart::from(&spec.policy).dlp;
    let by = By {
        rules: dlp.rules.as_deref(),
        dlp_allow: &dlp.allow,
        max_file: MAX_FILE,
        ..By::default()
    };
    let looked = look(&args.repository, &by)?;
    let passes = looked.refused.is_empty();
    if ui.json() {
        let Looked { objects, bytes, refused, passed } = &looked;
        let (version, sandbox) = (VERSION, &spec.id);
        let (objects, bytes) = (*objects, *bytes);
        ui.document(&Answer { version, sandbox, passes, objects, bytes, refused, passed })?;
    } else {
        ui.data(&text(&looked))?;
    }
    Ok(if passes { Exit::Done } else { Exit::Failed })
}

fn text(looked: &Looked) -> String {
    let mut lines = Vec::new();
    match looked.refused.len() {
        0 => lines.push(format!(
            "nothing that a push would be refused for, in {} objects",
            looked.objects
        )),
        1 => lines.push("a push would be refused:".to_owned()),
        count => lines.push(format!("a push would be refused, for {count} reasons:")),
    }
    lines.extend(looked.refused.iter().map(|line| format!("  {}", harmless(line))));
    lines.extend(looked.passed.iter().map(|line| format!("passes: {}", harmless(line))));
    lines.push(String::new());
    lines.join("\n")
}
