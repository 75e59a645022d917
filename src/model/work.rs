//! What is in a sandbox that nobody else has, as far as a look tells.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

/// What an agent has made and nothing outside has, by the sandbox's own word: people read it, and nothing is
/// decided by it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Work {
    /// Files of its workspace that are not as they were committed; where that is no git repository, or there is
    /// no git, those that were written since it came into this machine.
    pub changed: u64,
    /// Files that git does not know and does not ignore.
    pub untracked: u64,
    /// Commits that are in no branch of a remote, and in none of the repository that the workspace is a copy of.
    pub unpushed: u64,
    /// Stashed changes.
    pub stashes: u64,
    /// Its command runs, or something else that was started in it.
    pub running: bool,
    /// How large the changed and untracked files are.
    pub bytes: u64,
}

/// What a look at a sandbox that is to go has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Looked {
    /// So much was found.
    Found(Work),
    /// It could not be looked at; the notes say why.
    Unknown,
}

impl Work {
    /// Whether there is nothing to lose.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self { bytes: self.bytes, ..Self::default() }
    }
}

/// For people: `5 files changed, 2 untracked, 3 commits not pushed (1.2 MiB); a program runs`.
impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |count: u64, one: &str, many: &str| match count {
            0 => None,
            1 => Some(format!("1 {one}")),
            more => Some(format!("{more} {many}")),
        };
        let files = count(self.changed, "file changed", "files changed");
        let untracked = match files {
            Some(_) => count(self.untracked, "untracked", "untracked"),
            None => count(self.untracked, "file untracked", "files untracked"),
        };
        let commits = count(self.unpushed, "commit not pushed", "commits not pushed");
        let stashes = count(self.stashes, "stash", "stashes");
        let all: Vec<String> = [files, untracked, commits, stashes].into_iter().flatten().collect();
        match all[..] {
            [] => f.write_str("no changed files in its workspace")?,
            _ => f.write_str(&all.join(", "))?,
        }
        if self.changed + self.untracked > 0 {
            write!(f, " ({})", size(self.bytes))?;
        }
        if self.running { f.write_str("; a program runs") } else { Ok(()) }
    }
}

/// As people read sizes: `812 B`, `1.2 MiB`.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_as_a_sentence() {
        let said = |work: Work| work.to_string();
        assert_eq!(said(Work::default()), "no changed files in its workspace");
        assert!(Work::default().is_nothing());
        let work =
            Work { changed: 5, untracked: 2, unpushed: 1, bytes: 1_300_000, ..Work::default() };
        assert_eq!(said(work), "5 files changed, 2 untracked, 1 commit not pushed (1.2 MiB)");
        let work = Work { untracked: 1, stashes: 2, running: true, bytes: 12, ..Work::default() };
        assert_eq!(said(work), "1 file untracked, 2 stashes (12 B); a program runs");
        let sizes = [1024, (1 << 40) - 1, u64::MAX].map(size);
        assert_eq!(sizes, ["1.0 KiB", "1023.9 GiB", "16777215.9 TiB"]);
        assert_eq!(serde_json::to_string(&Looked::Unknown).unwrap(), "null");
    }
}
