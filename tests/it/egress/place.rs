//! A tree, the program, and an internet, for one test.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::internet::Internet;
use super::world;
use crate::contract::docker::{bridge_address, sidecar_program};
use crate::support::{self, Cli, Ended, TempTree};

pub(super) struct Place {
    pub(super) cli: Cli,
    pub(super) tree: TempTree,
    pub(super) internet: Internet,
    /// How a bottle begins: where its machine is made, and of what.
    begins: String,
    pub(super) backend: &'static str,
    /// What a machine may use.
    limits: &'static str,
    /// The image of microVMs, and what their program keeps.
    _folder: Option<tempfile::TempDir>,
}

const LIMITS: &str = "resources:\n  cpus: 2\n  memory: 2G\n  pids: 256\n";

impl Place {
    /// With the host's own programs.
    pub(super) fn native(what: &str) -> Self {
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self::new(what, "native", "backend: native\n".to_owned(), local)
    }

    /// With containers of the host's programs, where that can be.
    pub(super) fn docker(what: &str) -> Option<Self> {
        let what = format!("{what}, on docker");
        if !support::docker(&what) {
            return None;
        }
        if std::env::var_os("BOTTLE_TEST_STATIC").is_none() {
            let why = "it needs a static test build: BOTTLE_TEST_STATIC names one";
            support::left_out(&what, why);
            return None;
        }
        let image = world::image(&what)?;
        // The loopback of the host is not a container's: the engine's bridge is both's.
        let bridge = bridge_address();
        let begins = format!("backend: docker\nimage: docker:{image}\n");
        let mut place = Self::new("docker", "docker", begins, bridge);
        place.cli.env("BOTTLE_SIDECAR_PROGRAM", sidecar_program());
        Some(place)
    }

    /// The same with containers of another image.
    pub(super) fn of_image(mut self, image: &str) -> Self {
        self.begins = format!("backend: docker\nimage: docker:{image}\n");
        self
    }

    /// With microVMs of the host's programs, where they boot.
    pub(super) fn smolmachines(what: &str) -> Option<Self> {
        let what = format!("{what}, on smolmachines");
        let program = support::smolvm(&what)?;
        // Its path is short, for the sockets in it, and open to the users that machines become.
        let folder = tempfile::Builder::new().prefix("bsm").tempdir_in("/tmp").unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let image = world::root(&what, folder.path())?;
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let begins = format!("backend: smolmachines\nimage: {}\n", image.display());
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let mut place = Self::new("smol", "smolmachines", begins, local);
        place.limits = "resources:\n  cpus: 1\n  memory: 512M\n";
        place._folder = Some(folder);
        // Under emulation a start takes ten seconds, and much longer beside another one.
        place.cli.patience(Duration::from_secs(900));
        place.cli.env("BOTTLE_SMOLVM", program).env("SMOLVM_DATA_DIR", data);
        for name in ["SMOLVM_AGENT_READY_TIMEOUT_SECS", "SMOLVM_START_TIMEOUT_SECS"] {
            if let Some(value) = std::env::var_os(name) {
                place.cli.env(name, value);
            }
        }
        if std::env::var_os("BOTTLE_TEST_EMULATED").is_some() {
            // Else smolvm unpacks the image in a machine of its own with four processors, first.
            place.cli.env("SMOLVM_IMAGE_SEEDS", "0");
        }
        Some(place)
    }

    /// One of each kind that there can be here, but for microVMs.
    pub(super) fn each(what: &str) -> Vec<Self> {
        std::iter::once(Self::native(what)).chain(Self::docker(what)).collect()
    }

    fn new(what: &str, backend: &'static str, begins: String, at: IpAddr) -> Self {
        let mut cli = Cli::new();
        cli.patience(Duration::from_secs(300));
        let internet = Internet::start(at);
        cli.env(OVERLAY, internet.overlay());
        let tree = TempTree::new(what);
        Self { cli, tree, internet, begins, backend, limits: LIMITS, _folder: None }
    }

    /// Its sidecars wait two seconds for an upstream.
    pub(super) fn impatient(&mut self) {
        let overlay = self.internet.impatient_overlay();
        self.cli.env(OVERLAY, overlay);
    }

    /// A call at which an agent asks its operator waits so many milliseconds.
    pub(super) fn waits(&mut self, ms: u64) {
        let mut overlay: Value = serde_json::from_str(&self.internet.overlay()).unwrap();
        overlay["testing"]["wait_ms"] = ms.into();
        self.cli.env(OVERLAY, overlay.to_string());
    }

    /// A bottle.
    pub(super) fn bottle(&self, name: &str, more: &str) {
        self.tree.bottle(name, &format!("{}{}{more}", self.begins, self.limits));
    }

    /// A bottle `dev` that lets these hosts pass and blocks leaks, and its agent `ada`, which runs.
    pub(super) fn one(&self, hosts: &[&str], more: &str) {
        let hosts = hosts.join(", ");
        self.bottle(
            "dev",
            &format!("egress:\n  dlp_action: block\n  allowlist: [{hosts}]\n{more}"),
        );
        self.tree.agent("ada", "dev", "", "");
        self.apply();
    }

    pub(super) fn run(&self, args: &[&str]) -> Ended {
        let mut all = vec!["--tree", self.tree.path().to_str().unwrap()];
        all.extend(args);
        self.cli.run(all)
    }

    /// With something on its stdin.
    pub(super) fn run_with(&self, args: &[&str], stdin: &[u8]) -> Ended {
        let mut all = vec!["--tree", self.tree.path().to_str().unwrap()];
        all.extend(args);
        self.cli.run_with(all, stdin)
    }

    #[track_caller]
    pub(super) fn apply(&self) -> Ended {
        self.run(&["apply", "--yes"]).exits(0)
    }

    /// A line of shell in a sandbox, as its user.
    pub(super) fn sh(&self, agent: &str, script: &str) -> Ended {
        self.run(&["exec", agent, "--", "sh", "-c", script])
    }

    /// What a line of shell says; it has to succeed.
    #[track_caller]
    pub(super) fn say(&self, agent: &str, script: &str) -> String {
        self.sh(agent, script).exits(0).stdout.trim().to_owned()
    }

    /// A line of shell in a sandbox that goes on while the test does.
    pub(super) fn begin(&self, agent: &str, script: &str) -> std::process::Child {
        let tree = self.tree.path().to_str().unwrap();
        let args = ["--tree", tree, "exec", agent, "--", "sh", "-c", script];
        let mut command = self.cli.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The sidecar's record.
    pub(super) fn record(&self, agent: &str) -> Vec<Value> {
        let ended = self.run(&["logs", agent, "--sidecar"]).exits(0);
        let line = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        ended.stdout.lines().map(line).collect()
    }

    /// Everything that the sandbox has asked for was passed on.
    #[track_caller]
    pub(super) fn nothing_was_refused(&self, agent: &str) {
        let record = self.record(agent);
        let passed = record.iter().filter(|line| line["event"] == "allow").count();
        assert!(passed > 0, "nothing was asked for: {record:#?}");
        let usual = |line: &&Value| {
            line["event"]
                .as_str()
                .is_some_and(|it| ["start", "config_reload", "allow"].contains(&it))
        };
        let others: Vec<_> = record.iter().filter(|line| !usual(line)).collect();
        assert!(others.is_empty(), "{others:#?}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.run(&["down", "--yes", "--allow-teardown", "all", "--discard", "all", "-q"]);
    }
}

pub(super) const OVERLAY: &str = "BOTTLE_TEST_SIDECAR_DOCUMENT";

/// Whether the host has a program; where not, `what` is said to be left out.
pub(super) fn has(what: &str, program: &str) -> bool {
    let found = host_program(program).is_some();
    if !found {
        support::left_out(what, &format!("{program} is not in /usr/bin or /usr/local/bin"));
    }
    found
}

/// Where a sandbox of the host's programs finds it.
pub(super) fn host_program(name: &str) -> Option<std::path::PathBuf> {
    ["/usr/local/bin", "/usr/bin", "/bin"]
        .into_iter()
        .map(|folder| std::path::Path::new(folder).join(name))
        .find(|path| path.exists())
}
