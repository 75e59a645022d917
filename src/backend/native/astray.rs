//! Processes of sandboxes that no state folder has a record of: the folder was removed, or lies elsewhere now. They
//! run on, and nothing that reads a state folder finds them, so `doctor` lists them.
//!
//! Each is known by the mark that it bears (`hostside::Marks`), and by the files of its sandbox's folder that it
//! has open: the kernel says where those lie now, and whether they are gone.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::stray;
use crate::backend::hostside::Role;
use crate::backend::{Finding, Health, Scope, hostside};
use crate::model::{BackendKind, OwnerId, SandboxId};

/// How marks of this backend's processes begin.
const MARK: &str = "bottle:native:";

/// What the kernel says behind the name of a file that was removed.
const GONE: &str = " (deleted)";

/// So many are named.
const NAMED: usize = 8;

/// One process, and what became of its folder.
#[derive(Debug, PartialEq, Eq)]
struct Astray {
    pid: i32,
    sandbox: SandboxId,
    place: Place,
}

/// Where the folder of its tree is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// Nowhere: its files were removed.
    Gone,
    /// Here, and it was elsewhere when the process was started.
    Moved(PathBuf),
    /// Not in the state folder that was asked about. An ordinary user is not told which files a process has.
    Unseen,
}

/// What `doctor` says of them, beside this state folder; nothing where there are none.
pub fn finding(state: &Path) -> Option<Finding> {
    let mut by_place: BTreeMap<Place, Vec<Astray>> = BTreeMap::new();
    for one in all(state) {
        by_place.entry(one.place.clone()).or_default().push(one);
    }
    let (mut details, mut fixes) = (Vec::new(), Vec::new());
    for (place, some) in &by_place {
        let who = named(some);
        let (detail, fix) = match place {
            Place::Gone => {
                let pids: Vec<String> = some.iter().map(|one| one.pid.to_string()).collect();
                let fix = format!("`kill -9 {}` ends what has no files any more", pids.join(" "));
                (format!("{who} without a record, and the files are gone"), fix)
            }
            Place::Moved(now) => {
                let fix = "put the folder back to where it was".to_owned();
                (
                    format!(
                        "{who} without a record: the folder of the tree is {} now",
                        now.display()
                    ),
                    fix,
                )
            }
            Place::Unseen => {
                let fix =
                    "look with the `--state-dir` that they were made with; if that folder is \
                           lost, end them by `kill -9`"
                        .to_owned();
                (format!("{who} without a record in this state folder"), fix)
            }
        };
        details.push(detail);
        if !fixes.contains(&fix) {
            fixes.push(fix);
        }
    }
    (!details.is_empty()).then(|| Finding {
        what: "processes".to_owned(),
        health: Health::Limited,
        detail: details.join("; "),
        fix: Some(fixes.join("; ")),
    })
}

/// `ada (process 12), bob (process 13)`.
fn named(some: &[Astray]) -> String {
    let shown = some.len().min(NAMED);
    let mut words: Vec<String> =
        some[..shown].iter().map(|one| format!("{} (process {})", one.sandbox, one.pid)).collect();
    if some.len() > shown {
        words.push(format!("{} more", some.len() - shown));
    }
    let verb = if some.len() == 1 { "runs" } else { "run" };
    format!("{} {verb}", words.join(", "))
}

fn all(state: &Path) -> Vec<Astray> {
    let trees = fs::read_dir(state.join("trees")).into_iter().flatten().flatten();
    let known: Vec<String> = trees.filter_map(|tree| marks(&tree.path())).flatten().collect();
    let pids = hostside::pids().unwrap_or_default();
    pids.into_iter().filter_map(|pid| of_process(pid, &known)).collect()
}

fn of_process(pid: i32, known: &[String]) -> Option<Astray> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mark = std::str::from_utf8(line.split(|byte| *byte == 0).next()?).ok()?;
    let (part, rest) = mark.strip_prefix(MARK)?.split_once(':')?;
    let (_, sandbox) = rest.split_once(':')?;
    let sandbox = SandboxId::new(sandbox).ok()?;
    // Anybody can call a process so.
    let ours = match part {
        "init" => stray::is_first(pid),
        "sidecar" | "gate" => hostside::is_outside(pid) && hostside::may_be_of_bottle(pid),
        _ => false,
    };
    if !ours {
        return None;
    }
    // Whether a record of that tree names it, a plan for the tree says.
    if known.iter().any(|prefix| mark.starts_with(prefix.as_str())) {
        return None;
    }
    let place = match fs::read_dir(format!("/proc/{pid}/fd")) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Place::Unseen,
        Err(_) => return None,
        Ok(open) => {
            let open = open.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
            let of_tree: Vec<PathBuf> = open.filter(|path| tree_folder(path).is_some()).collect();
            let is_there = |path: &&PathBuf| !path.to_string_lossy().ends_with(GONE);
            match of_tree.iter().find(is_there).and_then(|path| tree_folder(path)) {
                // Of another state folder, and all is well.
                Some(folder) if marks(folder)?.iter().any(|prefix| mark.starts_with(prefix)) => {
                    return None;
                }
                Some(folder) => Place::Moved(folder.to_owned()),
                None if of_tree.is_empty() => return None,
                None => Place::Gone,
            }
        }
    };
    Some(Astray { pid, sandbox, place })
}

/// `…/trees/NAME` of a path in it.
fn tree_folder(path: &Path) -> Option<&Path> {
    let inside = path.ancestors().find(|above| {
        above
            .file_name()
            .is_some_and(|name| name == "native" || name == "sidecars" || name == "gate")
            && above.parent().and_then(Path::parent).is_some_and(|trees| trees.ends_with("trees"))
    })?;
    inside.parent()
}

/// How marks of the processes of this tree's folder begin, where it lies.
fn marks(folder: &Path) -> Option<[String; 3]> {
    let root = folder.parent()?.parent()?;
    let state = fs::read_to_string(root.join("id")).ok()?.trim().to_owned();
    let scope = Scope {
        owner: OwnerId::new(folder.file_name()?.to_str()?).ok()?,
        state,
        adopted: Default::default(),
        data: folder.to_owned(),
        hidden: Vec::new(),
        places: Default::default(),
    };
    let inits = stray::marks(&scope);
    let beside = |role| hostside::marks(role, &scope, BackendKind::Native);
    Some([inits, beside(Role::Sidecar), beside(Role::Gate)].map(|marks| marks.prefix().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_sandbox_says_which_trees_folder_it_is_in() {
        for (path, folder) in [
            ("/s/trees/team/native/ada/main", Some("/s/trees/team")),
            ("/s/trees/team/sidecars/native/ada/log", Some("/s/trees/team")),
            ("/s/trees/team/gate/native/ada/own/log", Some("/s/trees/team")),
            ("/s/trees/team/native/ada/main (deleted)", Some("/s/trees/team")),
            ("/s/trees/team/runs/1/log", None),
            ("/usr/lib/native/x", None),
            ("/trees", None),
            ("pipe:[12]", None),
        ] {
            assert_eq!(tree_folder(Path::new(path)), folder.map(Path::new), "{path}");
        }
    }

    #[test]
    fn they_are_named_and_counted() {
        let one = |pid| Astray { pid, sandbox: "ada".parse().unwrap(), place: Place::Gone };
        let all: Vec<Astray> = (1..=10).map(one).collect();
        assert_eq!(named(&all[..1]), "ada (process 1) runs");
        assert!(named(&all).ends_with("ada (process 8), 2 more run"), "{}", named(&all));
    }
}
