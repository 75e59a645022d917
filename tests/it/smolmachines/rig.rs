//! A tree whose sandboxes are real microVMs, by the command line.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::{self, Cli, Ended, TempTree};

/// The tree, and the program with a data folder of its own. All of it goes with the test.
pub(super) struct Rig {
    program: PathBuf,
    pub(super) cli: Cli,
    pub(super) tree: TempTree,
    data: tempfile::TempDir,
}

impl Rig {
    /// None where no microVM boots.
    pub(super) fn new(what: &str) -> Option<Self> {
        let program = support::smolvm(what)?;
        // Its path is short, for the sockets in it, and open to the users that machines become.
        let data = tempfile::Builder::new().prefix("bsm").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(data.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut rig = Self { program, cli: Cli::new(), tree: TempTree::new("smol"), data };
        // Under emulation a start takes ten seconds, and much longer beside another one.
        rig.cli.env("BOTTLE_SMOLVM", &rig.program).patience(Duration::from_secs(900));
        rig.cli.env("SMOLVM_DATA_DIR", rig.data.path());
        for name in ["SMOLVM_AGENT_READY_TIMEOUT_SECS", "SMOLVM_START_TIMEOUT_SECS"] {
            if let Some(value) = std::env::var_os(name) {
                rig.cli.env(name, value);
            }
        }
        Some(rig)
    }

    /// A small bottle on this backend.
    pub(super) fn bottle(&self, name: &str, memory: &str, more: &str) {
        let resources = format!("resources:\n  cpus: 1\n  memory: {memory}");
        self.tree.bottle(name, &format!("backend: smolmachines\n{resources}\n{more}"));
    }

    pub(super) fn args<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        let mut all = vec!["--tree", self.tree.path().to_str().unwrap()];
        all.extend(args);
        all
    }

    pub(super) fn run(&self, args: &[&str]) -> Ended {
        self.cli.run(self.args(args))
    }

    /// What a line of shell says in a sandbox, trimmed.
    #[track_caller]
    pub(super) fn say(&self, name: &str, script: &str) -> String {
        self.run(&["exec", name, "--", "sh", "-c", script]).exits(0).stdout.trim().to_owned()
    }

    /// Where the program keeps what it knows.
    pub(super) fn data(&self) -> &Path {
        self.data.path()
    }

    /// The program, as somebody else would use it.
    #[track_caller]
    pub(super) fn smolvm(&self, args: &[&str]) -> String {
        let mut command = Command::new(&self.program);
        let ended = command.args(args).env("SMOLVM_DATA_DIR", self.data()).output().unwrap();
        assert!(ended.status.success(), "{args:?}: {ended:?}");
        String::from_utf8(ended.stdout).unwrap()
    }

    /// All machines, as the program lists them: nobody else has any in this data folder.
    pub(super) fn machines(&self) -> Vec<Value> {
        serde_json::from_str(&self.smolvm(&["machine", "ls", "--json"])).unwrap()
    }

    pub(super) fn machine(&self, sandbox: &str) -> Value {
        let mut found = self.machines();
        found.retain(|row| row["labels"]["io.bottle.sandbox"] == sandbox);
        assert_eq!(found.len(), 1, "{found:#?}");
        found.remove(0)
    }

    /// Nothing is kept for a machine that is not listed, and no archive is half made.
    #[track_caller]
    pub(super) fn nothing_is_left_over(&self) {
        let machines = self.machines();
        let mut folders: Vec<PathBuf> = machines
            .iter()
            .map(|row| {
                self.smolvm(&["machine", "data-dir", "--name", row["name"].as_str().unwrap()])
            })
            .map(|path| PathBuf::from(path.trim()))
            .filter(|path| path.exists())
            .collect();
        folders.sort();
        let mut there = entries(&self.data().join(".cache/smolvm/vms"));
        // Beside them lie a lock of the program's own, and what it has unpacked of packed machines.
        let hex =
            |name: &str| name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        there.retain(|path| path.file_name().is_some_and(|name| hex(&name.to_string_lossy())));
        there.sort();
        assert_eq!(there, folders, "data folders");
        let mut files = Vec::new();
        walk(&self.cli.state(), &mut files);
        files.retain(|path| path.to_string_lossy().ends_with(".new"));
        assert_eq!(files, Vec::<PathBuf>::new(), "halves");
        let images = machines.iter().filter(|row| row["image"].is_string()).count();
        let archives = entries(&self.data().join(".cache/smolvm-image-archives"));
        assert!(archives.len() <= images, "{archives:?} for {images} machines with an image");
    }
}

/// What is in a folder; one that is not there has nothing.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let found = std::fs::read_dir(folder).into_iter().flatten();
    found.map(|entry| entry.unwrap().path()).collect()
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for path in entries(folder) {
        if path.is_dir() { walk(&path, files) } else { files.push(path) }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.run(&["down", "--yes", "--allow-teardown", "all", "--discard", "all", "-q"]);
        // What a failed test left in the way of that.
        let listed = Command::new(&self.program)
            .args(["machine", "ls", "--json"])
            .env("SMOLVM_DATA_DIR", self.data())
            .output();
        let rows: Vec<Value> = listed
            .ok()
            .and_then(|listed| serde_json::from_slice(&listed.stdout).ok())
            .unwrap_or_default();
        for name in rows.iter().filter_map(|row| row["name"].as_str()) {
            let delete = ["machine", "delete", "--force", "--name", name];
            drop(
                Command::new(&self.program)
                    .args(delete)
                    .env("SMOLVM_DATA_DIR", self.data())
                    .output(),
            );
        }
    }
}
