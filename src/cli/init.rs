//! `bottle init`: a small commented tree, or an older layout converted to one.
#![expect(clippy::disallowed_methods, reason = "writes the files of a new tree")]

mod agents;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::json;

use super::args::{Global, InitArgs, ReadArgs};
use super::convert;
use super::error::{CliError, Exit};
use super::ui::Ui;
use super::{render, setup};
use crate::manifest;

/// One file of a tree: its path in it, and its content.
pub(super) type File = (PathBuf, Vec<u8>);

/// What a new tree holds.
const FILES: [(&str, &str); 4] = [
    ("bottle.yaml", include_str!("init/bottle.yaml")),
    ("bottles/dev.md", include_str!("init/dev.md")),
    ("agents/ada.md", include_str!("init/ada.md")),
    ("skills/hello/SKILL.md", include_str!("init/SKILL.md")),
];

pub(super) fn run(ui: &Ui, global: &Global, args: &InitArgs) -> Result<Exit, CliError> {
    let tree = setup::tree_path(global, args.dir.as_deref())?;
    let agent = args.agent.map(|agent| agents::files(agent, global.backend)).transpose()?;
    let token = agent.as_ref().map(|(_, token)| *token);
    let (files, untold) = match (&args.from, agent) {
        (Some(old), _) => convert::convert(old)?,
        (None, Some((files, _))) => (files, Vec::new()),
        (None, None) => {
            let own = |(path, text): (&str, &str)| (PathBuf::from(path), text.as_bytes().to_vec());
            (FILES.into_iter().map(own).collect(), Vec::new())
        }
    };
    refuse_to_overwrite(&tree)?;
    for (path, content) in &files {
        write(&tree.join(path), content)?;
    }
    let load = setup::load_options(global, Some(&tree), &ReadArgs::default())?;
    let diagnostics = match manifest::load(&load) {
        Ok(desired) => desired.diagnostics,
        Err(manifest::LoadError::Settings { diagnostics }) => diagnostics,
        Err(error) => return Err(anyhow::Error::from(error).into()),
    };
    if ui.json() {
        let names: Vec<&PathBuf> = files.iter().map(|(path, _)| path).collect();
        ui.document(&json!({
            "version": 1,
            "tree": tree,
            "files": names,
            "not_converted": untold,
            "diagnostics": diagnostics,
        }))?;
        return Ok(Exit::Done);
    }
    for (path, _) in &files {
        ui.data(&format!("{}\n", tree.join(path).display()))?;
    }
    for line in &untold {
        ui.say(&format!("not converted: {line}"));
    }
    if !diagnostics.is_empty() {
        ui.say(&format!("\n{}", render::diagnostics(&diagnostics, ui.width())));
    }
    let named = match (&args.dir, &global.tree) {
        (None, None) => String::new(),
        _ => format!(" {}", tree.display()),
    };
    ui.say(&match token {
        None => format!("next: look at these files, then `bottle plan{named}` and `bottle apply{named}`"),
        Some(token) => {
            let tree = if named.is_empty() { named.clone() } else { format!(" --tree{named}") };
            format!(
                "next: put the agent's token into the variable {token}, then `bottle apply{named}` and `bottle{tree} run \
                 ada`"
            )
        }
    });
    Ok(Exit::Done)
}

/// A folder that holds anything of a tree already is left alone.
fn refuse_to_overwrite(tree: &Path) -> Result<(), CliError> {
    let taken = ["bottle.yaml", "bottles", "agents", "skills"]
        .into_iter()
        .map(|part| tree.join(part))
        .find(|path| path.symlink_metadata().is_ok());
    match taken {
        None => Ok(()),
        Some(path) => {
            Err(CliError::failed(format!("{} exists; nothing was written", path.display()))
                .hint("name another folder: `bottle init DIR`"))
        }
    }
}

fn write(path: &Path, content: &[u8]) -> Result<(), CliError> {
    let told = || format!("writing {}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(told)?;
    }
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).open(path).with_context(told)?;
    file.write_all(content).with_context(told)?;
    Ok(())
}
