//! The files of a tree: which of them count, and how one is taken apart.

use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::Loader;
use crate::manifest::field::{Section, shorten};
use crate::manifest::keys::Table;
use crate::manifest::source::{At, Findings, Span, printable};
use crate::manifest::tree::{self, Dir, Kind, Links};
use crate::manifest::{frontmatter, yaml};
use crate::model::{Diagnostic, SandboxId};

/// How the paths of the tree's agents begin.
const AGENTS: &str = "agents/";

impl Loader<'_> {
    /// The files of a folder that name something, sorted; of the others it is said why not.
    pub(super) fn entities(
        &mut self,
        dir: &Dir,
        prefix: &str,
        what: &str,
    ) -> Result<Vec<(String, OsString)>, String> {
        let names = match dir.names() {
            Ok(names) => names,
            Err(error) => {
                let reason = tree::describe(&error);
                let message = format!("this folder cannot be read: {reason}");
                self.diagnostics.push(Diagnostic::error(prefix.trim_end_matches('/'), message));
                return Err(reason);
            }
        };
        let mut entities = Vec::new();
        for file_name in names {
            let shown = printable(&file_name.to_string_lossy());
            let Some(name) = shown.strip_suffix(".md") else {
                let near = [".MD", ".Md", ".markdown", ".yaml", ".yml", ".mdx"];
                if near.iter().any(|end| shown.ends_with(end)) {
                    let warning =
                        Diagnostic::warning(format!("{prefix}{shown}"), "this file is not read")
                            .with_hint(format!("{what} is a file whose name ends with `.md`"));
                    let stem = shown.rsplit_once('.').map_or(&*shown, |(stem, _)| stem);
                    self.passed_over(prefix, stem, warning);
                }
                continue;
            };
            match SandboxId::new(name) {
                Ok(_) if file_name.to_str().is_some() => {
                    entities.push((name.to_owned(), file_name))
                }
                _ => {
                    let message =
                        format!("this file is skipped: `{}` cannot name {what}", shorten(name));
                    let hint = "a name is `[a-z][a-z0-9-]*`, at most 63 characters";
                    let warning =
                        Diagnostic::warning(format!("{prefix}{shown}"), message).with_hint(hint);
                    self.passed_over(prefix, name, warning);
                }
            }
        }
        Ok(entities)
    }

    /// Says of a file that it does not count. Of an agent's, somebody may only have renamed it.
    fn passed_over(&mut self, prefix: &str, stem: &str, warning: Diagnostic) {
        if prefix == AGENTS
            && let Ok(id) = SandboxId::new(stem.to_ascii_lowercase())
        {
            self.unread.insert(id, warning.clone());
        }
        self.diagnostics.push(warning);
    }
}

/// The front matter of a file, read by `read`, and the range of its body.
pub(super) fn parse<T>(
    bad: Option<Span>,
    table: &'static Table,
    findings: &mut Findings<'_>,
    read: impl FnOnce(&Section<'_>, &mut Findings<'_>) -> T,
) -> Option<(T, Range<usize>)> {
    if let Some(span) = bad {
        let problem = frontmatter::not_utf8(span, findings.source().text());
        findings.add(problem);
        return None;
    }
    let parts = frontmatter::split(findings)?;
    let free: Vec<&str> = table.foreign_text().collect();
    let (start, end) = (parts.yaml.start, parts.yaml.end);
    let node = match free.is_empty() {
        true => yaml::parse(findings, start, end)?,
        false => yaml::parse_with(findings, start, end, &free)?,
    };
    let section = Section::open(&node, table, &At::Root, parts.open, findings)?;
    Some((read(&section, findings), parts.body))
}

/// A folder by its canonical path.
pub(super) fn open_folder(named: &Path) -> Result<(PathBuf, Dir), String> {
    let fail = |error: io::Error| tree::describe(&error);
    let path = tree::canonical(named).map_err(fail)?;
    let kind = tree::stat(&path).map_err(fail)?.kind;
    if kind != Kind::Folder {
        return Err(format!("it is {}, not a folder", kind.describe()));
    }
    let dir = Dir::open(&path, Links::Follow).map_err(fail)?;
    Ok((path, dir))
}

/// A folder of the tree that may be missing. A link to nowhere is not a missing folder.
pub(super) fn open_part(dir: &Dir, name: &str) -> Result<Option<Dir>, String> {
    let name = std::ffi::OsStr::new(name);
    match dir.open_dir(name) {
        Ok(part) => Ok(Some(part)),
        Err(error) => match dir.stat_entry(name) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(None),
            Ok(stat) if !matches!(stat.kind, Kind::Folder | Kind::Symlink) => {
                Err(format!("it is {}, not a folder", stat.kind.describe()))
            }
            _ => Err(tree::describe(&error)),
        },
    }
}

pub(super) fn unreadable(file: &str, error: &tree::ReadError) -> Diagnostic {
    Diagnostic::error(file, format!("this file cannot be read: {error}"))
}

/// Where a finding stands and what it says, in one line.
pub(super) fn pointer(found: &Diagnostic) -> String {
    match found.line {
        0 => format!("{}: {}", found.file, found.message),
        line => format!("{}:{line}:{}: {}", found.file, found.column, found.message),
    }
}
