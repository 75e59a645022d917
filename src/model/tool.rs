//! Programs of the operator's that a sandbox is shown: where they lie on the host, and what is shown of it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The folder inside, the first one on `PATH`, that holds a link for each tool.
pub const TOOLS: &str = "/etc/bottle/tools";

/// The names of fields that say which tools a machine has start so.
const FIELD: &str = "tools.";

/// Programs by the names that a bottle has for them.
pub type Tools = BTreeMap<String, Tool>;

/// One program, as it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// Its file, without links.
    pub program: PathBuf,
    /// The folders that are shown for it, read-only and at their own paths; none where the program lies among those of the
    /// system, which every native sandbox sees.
    pub folders: BTreeSet<PathBuf>,
}

/// As it is shown and compared: the program, and the folders, none of which has a colon in its name.
impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program.display())?;
        self.folders.iter().try_for_each(|folder| write!(f, ":{}", folder.display()))
    }
}

/// The field of a tool.
#[must_use]
pub fn field(name: &str) -> String {
    format!("{FIELD}{name}")
}

/// The name of the tool whose field this is.
#[must_use]
pub fn named(path: &str) -> Option<&str> {
    path.strip_prefix(FIELD)
}

/// The folders of a tool, by the value of its field.
pub fn shown(value: &str) -> impl Iterator<Item = &str> {
    value.split(':').skip(1)
}

/// The folders of all of them, without those that lie in another one.
#[must_use]
pub fn folders(tools: &Tools) -> Vec<&Path> {
    let all: BTreeSet<&Path> =
        tools.values().flat_map(|tool| &tool.folders).map(PathBuf::as_path).collect();
    let outer = |path: &&Path| !all.iter().any(|other| other != path && path.starts_with(other));
    all.iter().copied().filter(outer).collect()
}

/// Whether a native sandbox that stands on the host's programs sees this path anyway: the folders of programs
/// of the system. It is shown `/usr`, `/opt`, `/bin`, `/sbin` and `/lib*`.
#[must_use]
pub fn is_of_the_system(path: &Path) -> bool {
    let mut parts = path.components().skip(1);
    let top = parts.next().and_then(|top| top.as_os_str().to_str()).unwrap_or_default();
    is_program_folder(top) && parts.next().is_some()
}

/// Whether a folder of this name in `/` holds programs.
#[must_use]
pub fn is_program_folder(name: &str) -> bool {
    matches!(name, "usr" | "opt" | "bin" | "sbin") || name.starts_with("lib")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_says_where_it_is_and_what_is_shown() {
        let tool = |program: &str, folders: &[&str]| Tool {
            program: program.into(),
            folders: folders.iter().map(PathBuf::from).collect(),
        };
        let tools = Tools::from([
            ("node".to_owned(), tool("/h/n/v1/bin/node", &["/h/n/v1"])),
            ("npm".to_owned(), tool("/h/n/v1/lib/npm/cli.js", &["/h/n/v1/lib", "/h/x"])),
            ("git".to_owned(), tool("/usr/bin/git", &[])),
        ]);
        assert_eq!(tools["git"].to_string(), "/usr/bin/git");
        assert_eq!(tools["npm"].to_string(), "/h/n/v1/lib/npm/cli.js:/h/n/v1/lib:/h/x");
        assert_eq!(folders(&tools), [Path::new("/h/n/v1"), Path::new("/h/x")]);
        assert_eq!(shown(&tools["npm"].to_string()).collect::<Vec<_>>(), ["/h/n/v1/lib", "/h/x"]);
        assert_eq!(named(&field("node")), Some("node"));
        for (path, is) in
            [("/usr/bin/x", true), ("/lib64/x", true), ("/usr", false), ("/root/x", false)]
        {
            assert_eq!(is_of_the_system(Path::new(path)), is, "{path}");
        }
    }
}
