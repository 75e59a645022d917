//! A project's overlay: agents over the tree's, and nothing more.

use std::collections::BTreeSet;
use std::ffi::OsStr;

use super::files::open_part;
use super::{AGENTS, BOTTLES, Loader, Origin, SETTINGS_FILE, SKILLS, Underlying};
use crate::manifest::agent::Named;
use crate::manifest::source::{At, Findings, Problem, printable};
use crate::manifest::tree::{self, Dir, Links};
use crate::model::{Diagnostic, SandboxId};

impl Loader<'_> {
    /// Reads the overlay's agents over the tree's; returns the overlays that count as loaded.
    pub(super) fn read_overlay(&mut self) -> BTreeSet<String> {
        let mut loaded = BTreeSet::new();
        let Some(overlay) = self.overlay.clone() else { return loaded };
        let shown = overlay.strip_prefix(&self.path).unwrap_or(&overlay).display().to_string();
        // It was opened a moment ago; if it is gone by now, nothing of it counts.
        let dir = Dir::open(&overlay, Links::Refuse).map_err(|error| tree::describe(&error));
        let agents = dir.and_then(|dir| {
            self.ignored_parts(&dir, &shown);
            open_part(&dir, AGENTS)
        });
        let prefix = printable(&format!("{shown}/agents/"));
        let names = match agents {
            Ok(Some(dir)) => self.entities(&dir, &prefix, "an agent").map(|names| (dir, names)),
            Ok(None) => {
                self.diagnostics
                    .push(Diagnostic::warning(shown, "this overlay has no folder `agents`"));
                return loaded;
            }
            Err(reason) => {
                let message = format!("this folder cannot be read: {reason}");
                self.diagnostics.push(Diagnostic::error(format!("{shown}/agents"), message));
                return loaded;
            }
        };
        let Ok((dir, names)) = names else { return loaded };
        if names.is_empty() {
            // An empty folder never reads as "everything was deleted".
            let warning =
                Diagnostic::warning(format!("{shown}/agents"), "this overlay holds no agent");
            self.diagnostics
                .push(warning.with_hint("what it made is left alone; `bottle down` removes it"));
            return loaded;
        }
        let label = overlay.display().to_string();
        for (name, file_name) in names {
            self.read_agent(
                &dir,
                &name,
                &file_name,
                Origin { overlay: Some(&label), prefix: &prefix },
            );
        }
        loaded.insert(label);
        loaded
    }

    /// Says which files of an overlay are not read.
    fn ignored_parts(&mut self, dir: &Dir, shown: &str) {
        for part in [BOTTLES, SKILLS, SETTINGS_FILE] {
            let name = OsStr::new(part);
            if dir.stat_entry(name).is_err() {
                continue;
            }
            let inside = dir.open_dir(name).and_then(|dir| dir.names()).unwrap_or_default();
            let files: Vec<String> = inside
                .iter()
                .take(10)
                .map(|file| printable(&format!("{part}/{}", file.to_string_lossy())))
                .collect();
            let more = if inside.len() > files.len() { ", …" } else { "" };
            let list = if files.is_empty() { part.to_owned() } else { files.join(", ") };
            let message = format!("an overlay may bring agents only; ignored: {list}{more}");
            let hint = "bottles, skills and settings come from your own tree";
            self.diagnostics
                .push(Diagnostic::warning(format!("{shown}/{part}"), message).with_hint(hint));
        }
    }
}

/// An overlay's agent that stands over one of the tree's keeps that one's bottle.
pub(super) fn keep_bottle(
    named: Option<Named>,
    below: &Underlying,
    id: &SandboxId,
    findings: &mut Findings<'_>,
) -> Option<Named> {
    let named = named?;
    let Some(kept) = &below.bottle else {
        let message =
            format!("agents/{id}.md of the tree does not say its bottle, which this agent keeps");
        findings.add(Problem::error(named.span, message).field(&At::Key(&At::Root, "bottle")));
        return None;
    };
    if *kept != named.name {
        let message =
            format!("this agent stands over agents/{id}.md and stays in its bottle `{kept}`");
        let problem = Problem::warning(named.span, message).field(&At::Key(&At::Root, "bottle"));
        findings.add(problem.label(format!("write `{kept}`")));
    }
    Some(Named { name: kept.clone(), span: named.span })
}
