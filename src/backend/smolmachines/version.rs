//! Which `smolvm` this is, and what it can do. Asked once for each build of the program, and then
//! remembered on disk.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::command::{self, Call, Settings};
use super::record;
use crate::backend::{BackendError, Scope};

/// It prints one line.
const DEADLINE: Duration = Duration::from_secs(10);

/// A version, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Version {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The first with labels in its listing, without which nothing can be told to be ours.
const OLDEST: Version = Version { major: 1, minor: 9, patch: 0 };

/// The one in which these were seen: JSON errors, `exec --user`, `logs`.
const COMPLETE: Version = Version { major: 1, minor: 32, patch: 0 };

impl Version {
    /// The one in which machines were seen to be held to an interceptor.
    pub(super) const INTERCEPTOR: Self = COMPLETE;

    /// Every connection of a machine can be delivered to a listener of ours.
    pub(super) fn interceptor(self) -> bool {
        self >= Self::INTERCEPTOR
    }

    /// Reads `smolvm 1.32.2`, as `--version` prints it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.trim().strip_prefix("smolvm "))?;
        let number = line.split([' ', '-', '+']).next()?;
        let mut parts = number.split('.').map(str::parse::<u32>);
        let (major, minor) = (parts.next()?.ok()?, parts.next()?.ok()?);
        Some(Self { major, minor, patch: parts.next().and_then(Result::ok).unwrap_or(0) })
    }

    /// Whether this backend can work with it at all, else why not.
    pub(super) fn usable(self) -> Result<Self, String> {
        if self < OLDEST {
            return Err(format!(
                "smolvm {self} is too old: it shows no labels, by which machines are known; \
                 install {OLDEST} or later"
            ));
        }
        if self.major > OLDEST.major {
            return Err(format!(
                "smolvm {self} is newer than what this bottle knows to drive: install a 1.x, from \
                 {COMPLETE} on, or name one with BOTTLE_SMOLVM"
            ));
        }
        Ok(self)
    }

    /// Failures are told apart from a command's own end by a line of JSON.
    pub(super) fn json_errors(self) -> bool {
        self >= COMPLETE
    }

    /// `exec` takes a user.
    pub(super) fn exec_user(self) -> bool {
        self >= COMPLETE
    }

    /// A workload's output is kept, and `logs` shows it.
    pub(super) fn logs(self) -> bool {
        self >= COMPLETE
    }
}

/// The version of one build of the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Build {
    path: String,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    version: Version,
}

/// The version of the program that would be run.
pub(super) async fn of(settings: &Settings, scope: &Scope) -> Result<Version, BackendError> {
    let program = settings.find().map_err(command::unreachable)?;
    let place = record::folder(scope).join("version.json");
    if let Some(build) = record::read::<Build>(&place)
        && stamp(&program, build.version).is_some_and(|now| now == build)
    {
        return build.version.usable().map_err(command::unreachable);
    }
    let version = ask(settings).await?;
    if let Some(build) = stamp(&program, version) {
        record::write(&place, &build);
    }
    version.usable().map_err(command::unreachable)
}

fn stamp(program: &Path, version: Version) -> Option<Build> {
    let found = std::fs::metadata(program).ok()?;
    Some(Build {
        path: program.display().to_string(),
        inode: found.ino(),
        size: found.len(),
        modified: (found.mtime(), found.mtime_nsec()),
        version,
    })
}

/// Asks the program itself.
pub(super) async fn ask(settings: &Settings) -> Result<Version, BackendError> {
    let ended =
        command::run(settings, Call::new("asking for the version", DEADLINE, ["--version"]))
            .await?;
    let text = String::from_utf8_lossy(&ended.stdout);
    match Version::parse(&text) {
        Some(version) if ended.code == 0 => Ok(version),
        _ => {
            let shown: String = text.trim().chars().take(80).collect();
            Err(command::unreachable(format!(
                "{} is not smolvm: `--version` ended with {} and printed `{shown}`",
                settings.find().unwrap_or_default().display(),
                ended.code,
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    #[test]
    fn versions_are_read_from_what_is_printed() {
        assert_eq!(version("smolvm 1.32.2\n"), Version { major: 1, minor: 32, patch: 2 });
        assert_eq!(version("note: running plain\nsmolvm 1.9.2-rc1 (abc)").to_string(), "1.9.2");
        assert_eq!(version("smolvm 2.0").to_string(), "2.0.0");
        for text in ["", "smolvm", "smolvm x.y", "docker 1.2.3"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        assert!(version("smolvm 1.8.7").usable().unwrap_err().contains("labels"));
        assert!(version("smolvm 3.0.0").usable().unwrap_err().contains("newer"));
        let (old, new) = (version("smolvm 1.9.2"), version("smolvm 1.40.0"));
        assert_eq!(old.usable(), Ok(old));
        assert!(!old.exec_user() && !old.logs() && !old.json_errors());
        assert!(new.exec_user() && new.logs() && new.json_errors());
    }
}
