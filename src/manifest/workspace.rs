//! `workspace` and `host_paths`: what of the host a sandbox is given.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use super::field::Field;
use super::guard::Guard;
use super::host;
use super::keys::{Key, Shape, Table};
use super::source::{Findings, Problem, shorten_path};
use super::tree::{Dir, Kind, Links};
use crate::model::{Use, Workspace, WorkspaceMode};

/// Where the workspace stands in the guest unless the bottle says otherwise.
const DEFAULT_TARGET: &str = "/workspace";

/// The keys of `workspace`.
pub(super) static TABLE: Table = Table {
    what: "`workspace`",
    keys: &[
        Key::new("path", Shape::Text(None), "the host folder; `~` is your home folder"),
        Key::new(
            "mode",
            Shape::Word(&["copy", "mount", "none"]),
            "`copy` (default) happens once, at creation; `mount` is writable",
        ),
        Key::new(
            "target",
            Shape::Text(Some("^/")),
            "where it stands in the guest (default `/workspace`)",
        ),
    ],
    removed: &[],
    instead: &[],
};

/// Nothing may stand on these, in them or over them.
pub(super) const RESERVED: [&str; 5] = ["/etc/bottle", "/run/bottle", "/proc", "/sys", "/dev"];

/// Nothing may stand on these; folders in them are fine.
pub(super) const SYSTEM: [&str; 12] = [
    "/bin", "/boot", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/run", "/sbin", "/usr",
    "/usr/bin", "/var",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Some(WorkspaceMode),
    None,
}

/// Reads `workspace`; `mode: none` is the absence of one.
pub(super) fn read(
    field: &Field<'_>,
    guard: &Guard<'_>,
    findings: &mut Findings<'_>,
) -> Option<Workspace> {
    let section = field.section(&TABLE, findings)?;
    let choices = [
        ("copy", Mode::Some(WorkspaceMode::Copy)),
        ("mount", Mode::Some(WorkspaceMode::Mount)),
        ("none", Mode::None),
    ];
    let mode = section.get("mode");
    let mode = match &mode {
        Some(field) => field.choice(&choices, findings),
        None => Some(Mode::Some(WorkspaceMode::default())),
    };
    let target = match section.get("target") {
        Some(field) => target(&field, findings),
        None => Some(DEFAULT_TARGET.to_owned()),
    };
    let path = section.get("path");
    if mode == Some(Mode::None) {
        return None;
    }
    let Some(path) = path else {
        let problem = Problem::error(field.key_span, "`workspace` needs the key `path`");
        findings.add(problem.field(&field.at).hint("name the host folder, or write `mode: none`"));
        return None;
    };
    let usage = match mode {
        Some(Mode::Some(WorkspaceMode::Mount)) => Use::Mount,
        _ => Use::Read,
    };
    let folder = guard.folder(&path, usage, findings);
    let Some(Mode::Some(mode)) = mode else { return None };
    let folder = folder?;
    if let Some((what, lies)) = borrowed(&folder) {
        let shown = shorten_path(&folder);
        findings
            .add(path.warning(format!("`{shown}` {what} `{lies}`: git does not work inside")).hint(
            "name the folder of the repository itself, or a clone that stands alone: `git clone \
             --no-local FOLDER CLONE`",
        ));
    }
    Some(Workspace { path: folder, mode, target: target? })
}

/// Where a repository keeps something that a sandbox which is given this folder does not get, after what
/// the folder is. It is shown and not followed: whoever can write the folder has chosen it.
fn borrowed(folder: &Path) -> Option<(&'static str, String)> {
    let open = |path: &Path| Dir::open(path, Links::Refuse);
    let top = open(folder).ok()?;
    let git = OsStr::new(".git");
    let read = |dir: &Dir, name: &OsStr| Some(dir.read(name, 4 << 10).ok()?.0);
    match top.stat_entry(git).ok()?.kind {
        Kind::Symlink => {
            let to = PathBuf::from(top.read_link(git).ok()?);
            leaves(&to, 0)
                .then(|| ("has a link to its repository, which is not in it:", shorten_path(&to)))
        }
        Kind::File => {
            let text = read(&top, git)?;
            let to = Path::new(OsStr::from_bytes(text.strip_prefix(b"gitdir: ")?.trim_ascii_end()));
            leaves(to, 0).then(|| {
                ("is a worktree or submodule, whose repository is not in it:", shorten_path(to))
            })
        }
        Kind::Folder => {
            let info = top.open_dir(git).ok()?.open_dir(OsStr::new("objects")).ok()?;
            let info = info.open_dir(OsStr::new("info")).ok()?;
            let text = read(&info, OsStr::new("alternates"))?;
            // They start from `.git/objects`.
            let mut lines = text.split(|byte| *byte == b'\n').map(OsStr::from_bytes).map(Path::new);
            let to =
                lines.find(|to| !to.as_os_str().as_bytes().starts_with(b"#") && leaves(to, 2))?;
            Some(("has objects of a repository that is not in it:", shorten_path(to)))
        }
        _ => None,
    }
}

/// Whether a path of a file that stands so many folders deep leads out of the topmost one.
fn leaves(path: &Path, depth: usize) -> bool {
    let mut depth = Some(depth);
    for part in path.components() {
        depth = match part {
            Component::Normal(_) => depth.map(|depth| depth + 1),
            Component::CurDir => depth,
            Component::ParentDir => depth.and_then(|depth| depth.checked_sub(1)),
            // Inside it would be another place.
            _ => None,
        };
    }
    depth.is_none()
}

fn target(field: &Field<'_>, findings: &mut Findings<'_>) -> Option<String> {
    let text = field.word(findings)?;
    let fail = |reason: &str| field.refused(text, &reason);
    if !host::is_canonical_guest_path(text) {
        findings.add(fail("is not an absolute path without `.`, `..`, `//` or a `/` at its end"));
        return None;
    }
    let path = Path::new(text);
    let reserved = RESERVED.iter().map(Path::new);
    let hidden = reserved.clone().find(|taken| taken.starts_with(path) || path.starts_with(taken));
    let system = SYSTEM.iter().map(Path::new).find(|taken| taken == &path);
    if let Some(taken) = hidden.or(system) {
        let problem = fail("would hide what the guest itself needs");
        findings.add(problem.label(format!("`{}` is taken", taken.display())));
        return None;
    }
    Some(text.to_owned())
}

/// Reads `host_paths`.
pub(super) fn host_paths(
    field: &Field<'_>,
    guard: &Guard<'_>,
    findings: &mut Findings<'_>,
) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for (index, node) in field.list(findings).unwrap_or_default().iter().enumerate() {
        let item = field.item(index, node);
        if let Some(path) = guard.folder(&item, Use::Read, findings) {
            if paths.contains(&path) {
                findings.add(item.warning("this folder stands here twice"));
            } else {
                paths.push(path);
            }
        }
    }
    // Their order means nothing, so it must not count as a change.
    paths.sort();
    paths
}
