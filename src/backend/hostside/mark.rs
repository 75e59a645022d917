//! What a process bears so that it is found when no record names it any more: a first argument that
//! says of which tree of which state folder it is, and of which sandbox. Everybody may read it of every
//! process, whatever else of that is hidden; the folder is in it as a digest, as a guest reads it too.
//!
//! Anybody can call a process so. So it counts only where it has a user that bottle gives to its
//! processes and no login has, and all that is done with one is to end it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;

use sha2::{Digest, Sha256};

use super::process::{Process, pids, user_of};
use super::user;
use crate::backend::Scope;
use crate::model::{BackendKind, SandboxId};

/// What the processes of one backend for one tree have in common.
#[derive(Debug, Clone)]
pub(in crate::backend) struct Marks(String);

impl Marks {
    /// Of this owner's tree. `what` says which of the backend's processes are meant.
    pub(in crate::backend) fn of(scope: &Scope, backend: BackendKind, what: &str) -> Self {
        let data = fs::canonicalize(&scope.data).unwrap_or_else(|_| scope.data.clone());
        let mut digest = Sha256::new();
        digest.update(data.as_os_str().as_bytes());
        digest.update([0]);
        digest.update(scope.state.as_bytes());
        let short = hex::encode(digest.finalize()).get(..16).unwrap_or_default().to_owned();
        Self(format!("bottle:{backend}:{what}:{short}:"))
    }

    /// The first argument of the process of this sandbox.
    pub(in crate::backend) fn mark(&self, sandbox: &SandboxId) -> String {
        format!("{}{sandbox}", self.0)
    }

    /// How all of them begin.
    pub(in crate::backend) fn prefix(&self) -> &str {
        &self.0
    }

    /// The sandbox that the first argument of a process names.
    fn in_argument(&self, first: &[u8]) -> Option<SandboxId> {
        let sandbox = first.strip_prefix(self.0.as_bytes())?;
        SandboxId::new(OsStr::from_bytes(sandbox).to_str()?).ok()
    }
}

/// The processes that bear each of these marks and are none of `known`, and of whom they are. All processes
/// of this machine are looked at, once.
pub(in crate::backend) fn bearers<const N: usize>(
    all: [&Marks; N],
    known: impl Fn(i32) -> bool,
) -> io::Result<[Vec<(SandboxId, Process)>; N]> {
    let mut found = [const { Vec::new() }; N];
    for pid in pids()?.into_iter().filter(|pid| !known(*pid)) {
        let Some((which, sandbox)) = borne(&all, pid) else { continue };
        // Once it is known for certain, it is asked again: the number may have been another's.
        if let Some(process) = Process::with_pid(pid)?
            && borne(&all, pid).is_some_and(|again| again == (which, sandbox.clone()))
            && let Some(of_it) = found.get_mut(which)
        {
            of_it.push((sandbox, process));
        }
    }
    Ok(found)
}

/// Which of these marks a process bears, and of whom.
fn borne(all: &[&Marks], pid: i32) -> Option<(usize, SandboxId)> {
    // Longer than any mark. The kernel copies no more than is asked for, and there may be thousands.
    let mut start = [0; 512];
    let length = File::open(format!("/proc/{pid}/cmdline")).ok()?.read(&mut start).ok()?;
    let first = start.get(..length)?.split(|byte| *byte == 0).next()?;
    let mut marks = all.iter().enumerate();
    let named = marks.find_map(|(which, marks)| Some((which, marks.in_argument(first)?)))?;
    user_of(pid).is_some_and(user::may_be_of_bottle).then_some(named)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_found_by_its_mark_and_by_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let scope = |state: &str| Scope {
            owner: "team".parse().unwrap(),
            state: state.to_owned(),
            adopted: BTreeSet::new(),
            data: folder.path().to_owned(),
            hidden: Vec::new(),
            places: Default::default(),
        };
        let marks = Marks::of(&scope("one"), BackendKind::Native, "init");
        let ada: SandboxId = "ada".parse().unwrap();
        let mark = marks.mark(&ada);
        assert!(!mark.contains(&*folder.path().to_string_lossy()), "{mark}");
        let mut child = Command::new("sleep").arg0(&mark).arg("600").spawn().unwrap();
        let pid = child.id().cast_signed();
        // The kernel sets the arguments a moment after the program is begun.
        let found = (0..500)
            .map(|_| bearers([&marks], |_| false).unwrap()[0].clone())
            .inspect(|found| {
                if found.is_empty() {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
            })
            .find(|found| !found.is_empty())
            .unwrap_or_default();
        assert_eq!(found.iter().map(|(id, p)| (id, p.pid)).collect::<Vec<_>>(), [(&ada, pid)]);
        assert!(bearers([&marks], |known| known == pid).unwrap()[0].is_empty());
        let others = [
            &Marks::of(&scope("two"), BackendKind::Native, "init"),
            &Marks::of(&scope("one"), BackendKind::Native, "sidecar"),
            &Marks::of(&scope("one"), BackendKind::Smolmachines, "init"),
            &marks,
        ];
        let found = bearers(others, |_| false).unwrap();
        assert_eq!(found.each_ref().map(Vec::len), [0, 0, 0, 1]);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
