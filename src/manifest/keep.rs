//! `keep` of a bottle: what of a sandbox outlives its machine.

use std::path::PathBuf;

use super::field::Field;
use super::host;
use super::keys::{Shape, nearest};
use super::source::Findings;
use super::workspace::{RESERVED, SYSTEM};
use super::yaml::Value;
use crate::model::kept::{HOME, WORKSPACE, lies_in};
use crate::model::{Keep, Workspace, WorkspaceMode};

/// What `keep` may be.
pub(super) const SHAPE: Shape = Shape::List(&Shape::Text(Some("^(workspace|home|/.*)$")));

/// For editors.
pub(super) const DOC: &str = "what outlives the machine: `workspace`, `home` and absolute paths (default \
                              `[workspace, home]`; `[]`: nothing)";

/// So many paths at most: a snapshot names them all before its files.
const MOST: usize = 100;

/// The longest path, in bytes, as the kernel takes it.
const LONGEST: usize = 4095;

/// Files that engines write into each machine.
const WRITTEN: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

const EXPECTED: &str =
    "expected `workspace`, `home` or an absolute path, such as `/var/lib/postgresql`";

/// What of the host is mounted in the machine, as findings call it.
struct Mount<'a> {
    path: &'a str,
    what: &'static str,
}

/// Reads it; `workspace` and `host_paths` are those of the same bottle.
pub(super) fn read(
    field: &Field<'_>,
    workspace: Option<&Workspace>,
    host_paths: &[PathBuf],
    findings: &mut Findings<'_>,
) -> Keep {
    let mut keep = Keep { workspace: false, home: false, paths: Default::default() };
    let Value::List(items) = &field.node.value else {
        let hint = "write `[workspace, home]` and the paths of your own; `[]` keeps nothing";
        findings.add(field.mismatch("a list").hint(hint));
        return Keep::default();
    };
    if items.len() > MOST {
        let problem = field.error(format!("`keep` has {} items, and takes {MOST}", items.len()));
        findings.add(problem.hint("name a folder instead of what is in it"));
        return keep;
    }
    let copied = workspace.filter(|w| w.mode == WorkspaceMode::Copy).map(|w| w.target.as_str());
    let mounted = workspace.filter(|w| w.mode == WorkspaceMode::Mount);
    let mounted = mounted.map(|w| Mount { path: &w.target, what: "the mounted workspace" });
    let shown = host_paths.iter().filter_map(|path| path.to_str());
    let shown = shown.map(|path| Mount { path, what: "the host path" });
    let mounts: Vec<Mount<'_>> = mounted.into_iter().chain(shown).collect();
    let all: Vec<Field<'_>> =
        items.iter().enumerate().map(|(i, node)| field.item(i, node)).collect();
    let mut paths: Vec<(&Field<'_>, &str)> = Vec::new();
    for item in &all {
        let Some(text) = item.word(findings) else { continue };
        let named = match text {
            WORKSPACE => &mut keep.workspace,
            HOME => &mut keep.home,
            // The workspace by its own path.
            path if copied == Some(path) => &mut keep.workspace,
            path => {
                if is_path(item, path, &mounts, findings) {
                    paths.push((item, path));
                }
                continue;
            }
        };
        if std::mem::replace(named, true) {
            findings.add(item.warning(format!("`{text}` stands here twice")));
        }
    }
    for (index, (item, path)) in paths.iter().enumerate() {
        let around = paths.iter().find(|(_, other)| other != path && lies_in(path, other));
        if let Some(target) = copied.filter(|target| lies_in(path, target)) {
            // What the agent made of a part of it and the rest of a new copy do not go together.
            if keep.workspace {
                findings.add(within(item, path, target));
            } else if around.is_none() {
                let message =
                    format!("`{path}` lies in the workspace, which is kept whole or not at all");
                findings.add(item.error(message).hint("name `workspace`"));
            }
            continue;
        }
        if paths[..index].iter().any(|(_, before)| before == path) {
            findings.add(item.warning(format!("`{path}` stands here twice")));
        } else if let Some((_, around)) = around {
            findings.add(within(item, path, around));
        }
        keep.paths.insert((*path).to_owned());
    }
    keep
}

fn within(item: &Field<'_>, path: &str, around: &str) -> super::source::Problem {
    item.warning(format!("`{path}` lies in `{around}`, which is kept whole")).hint("leave it out")
}

/// Whether something of a machine can be kept under this path; what cannot is said.
fn is_path(
    item: &Field<'_>,
    path: &str,
    mounts: &[Mount<'_>],
    findings: &mut Findings<'_>,
) -> bool {
    if !path.starts_with('/') {
        let problem = item.refused(path, "is neither an absolute path nor `workspace` nor `home`");
        let home = path == "~" || path.starts_with("~/") || path.starts_with("$HOME");
        findings.add(match nearest(path, [WORKSPACE, HOME].into_iter()) {
            _ if home => problem.hint("`home` is all of the home folder of the sandbox's user"),
            Some(word) => problem.label(format!("did you mean `{word}`?")),
            None => problem.hint(EXPECTED),
        });
        return false;
    }
    if path == "/" {
        let problem = item.error("`/` is the whole machine, most of which is its image");
        findings.add(problem.hint("name the folders in it in which work lies"));
        return false;
    }
    if !host::is_canonical_guest_path(path) || path.len() > LONGEST {
        let reason = "is not an absolute path without `.`, `..`, `//` or a `/` at its end";
        findings.add(item.refused(path, reason).hint(EXPECTED));
        return false;
    }
    if path.contains(['*', '?', '[']) {
        let message = format!("`{path}` is taken as it stands: no pattern is looked for");
        findings.add(item.warning(message).hint("name the folder around it"));
    }
    let own = RESERVED.into_iter().chain(WRITTEN);
    if let Some(own) = own.into_iter().find(|own| lies_in(path, own) || lies_in(own, path)) {
        let reason = "is made anew with each machine, by its kernel, its engine or `bottle`";
        let problem = item.refused(path, reason).hint("name the folders in which work lies");
        findings.add(match own == path {
            true => problem,
            false if lies_in(path, own) => problem.label(format!("it lies in `{own}`")),
            false => problem.label(format!("it contains `{own}`")),
        });
        return false;
    }
    if SYSTEM.contains(&path) {
        let reason = "is the image's own: in another image it would be of the wrong one";
        findings.add(item.refused(path, reason).hint("name the folders in it in which work lies"));
        return false;
    }
    for Mount { path: mount, what } in mounts {
        if lies_in(path, mount) {
            let message = format!(
                "`{path}` lies in {what} `{mount}`, which stays on this machine: nothing of it is lost, and \
                 nothing is kept"
            );
            let hint = "leave it out, once no machine is left that has a folder of its own there";
            findings.add(item.warning(message).hint(hint));
        } else if lies_in(mount, path) {
            let message = format!(
                "{what} `{mount}` lies in `{path}`: it stays on this machine, and is not kept with the rest"
            );
            findings.add(item.warning(message).hint("name the folders beside it"));
        }
    }
    true
}
