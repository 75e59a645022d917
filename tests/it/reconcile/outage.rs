//! An engine that is killed for a while. It is one of the test's own: nobody else's sandboxes are on
//! it, and its network namespace is its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::rig::{Rig, verdicts, wait_for};
use super::watch::Watch;

/// How long the engine is away.
const AWAY: Duration = Duration::from_secs(20);

/// A dockerd of the test's own.
struct Engine {
    dir: tempfile::TempDir,
    daemon: Child,
    args: Vec<&'static str>,
}

impl Engine {
    fn start(args: &[&'static str]) -> Self {
        // The paths of sockets beneath it are limited.
        let dir = tempfile::Builder::new().prefix("bt").tempdir().unwrap();
        let daemon = spawn(dir.path(), args);
        let engine = Self { dir, daemon, args: args.to_vec() };
        engine.answers();
        let images = PathBuf::from(
            std::env::var_os("BOTTLE_TEST_IMAGES").expect("tests/run makes the images"),
        );
        engine.docker(&["load", "-q", "-i", images.join("busybox.tar").to_str().unwrap()]);
        engine
    }

    fn host(&self) -> String {
        format!("unix://{}/sock", self.dir.path().display())
    }

    fn answers(&self) {
        wait_for("the engine of this test", || {
            let version = self.client(&["version"]).output().unwrap();
            version.status.success()
        });
    }

    fn client(&self, args: &[&str]) -> Command {
        let mut client = Command::new("docker");
        client.env("DOCKER_HOST", self.host()).args(args);
        client
    }

    fn docker(&self, args: &[&str]) -> String {
        let output = self.client(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn kill(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }

    fn again(&mut self) {
        self.daemon = spawn(self.dir.path(), &self.args);
        self.answers();
    }

    /// Each machine's id, process and start.
    fn machines(&self) -> Vec<String> {
        let ids = self.docker(&["ps", "-aq", "--no-trunc"]);
        let mut args = vec!["inspect", "-f", "{{.Id}} {{.State.Pid}} {{.State.StartedAt}}"];
        args.extend(ids.split_whitespace());
        let mut machines: Vec<String> = self.docker(&args).lines().map(str::to_owned).collect();
        machines.sort();
        machines
    }
}

fn spawn(dir: &Path, args: &[&str]) -> Child {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/engine-private.sh");
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap();
    Command::new(script)
        .arg(dir)
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for Engine {
    fn drop(&mut self) {
        let left = self.client(&["ps", "-aq"]).output();
        for id in String::from_utf8_lossy(&left.map(|l| l.stdout).unwrap_or_default()).lines() {
            let _ = self.client(&["rm", "-f", id]).output();
        }
        let pid = self.daemon.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.daemon.wait();
        // Each dockerd that was killed has left a mount.
        let data = self.dir.path().join("data");
        while Command::new("umount")
            .arg(&data)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
        {}
    }
}

fn rig_on(engine: &Engine, what: &str) -> Option<Rig> {
    let mut rig = Rig::docker(what)?;
    rig.cli.env("DOCKER_HOST", engine.host());
    Some(rig)
}

/// With live restore the machines survive, and nothing about them is disturbed.
#[test]
fn an_engine_that_was_away_disturbs_nothing_that_survived() {
    if !crate::support::docker("reconcile::outage") {
        return;
    }
    let mut engine = Engine::start(&["--live-restore"]);
    let rig = rig_on(&engine, "away").unwrap();
    rig.agents(3);
    rig.apply(0);
    rig.inside("a0", "echo mine > /var/tmp/mine");
    let before = engine.machines();
    let mut watch = Watch::start(&rig);
    engine.kill();
    let away = rig.plan().exits(3).json();
    assert_eq!(verdicts(&away), ["a0 hold", "a1 hold", "a2 hold"], "never: everything is gone");
    // What is edited meanwhile waits, and so does what is deleted.
    rig.agent("a1", "You are CHANGED.");
    rig.tree.remove("agents/a2.md");
    std::thread::sleep(AWAY);
    engine.again();
    wait_for("the edit, once the engine is back", || {
        rig.exec("a1", "cat /etc/bottle/prompt.md").stdout.contains("CHANGED")
    });
    // Not their details: the one that goes may be gone when they are asked for.
    wait_for("the teardown", || engine.docker(&["ps", "-aq"]).lines().count() == 2);
    let after = engine.machines();
    assert!(after.iter().all(|machine| before.contains(machine)), "{before:?}\n{after:?}");
    assert_eq!(rig.inside("a0", "cat /var/tmp/mine"), "mine");
    assert_eq!(watch.stop(), Some(0));
    rig.converged();
}

/// Without it the engine itself stops what survived; the same machines run again, with their files.
#[test]
fn machines_that_an_engine_took_down_run_again_with_their_files() {
    if !crate::support::docker("reconcile::outage") {
        return;
    }
    let mut engine = Engine::start(&[]);
    let rig = rig_on(&engine, "taken down").unwrap();
    rig.agents(2);
    rig.apply(0);
    rig.inside("a0", "echo mine > /var/tmp/mine");
    let ids = |machines: Vec<String>| -> Vec<String> {
        machines.iter().map(|m| m.split(' ').next().unwrap().to_owned()).collect()
    };
    let before = ids(engine.machines());
    let mut watch = Watch::start(&rig);
    engine.kill();
    engine.again();
    wait_for("both to run again", || {
        ["a0", "a1"].iter().all(|name| rig.exec(name, "true").code == Some(0))
    });
    assert_eq!(ids(engine.machines()), before);
    assert_eq!(rig.inside("a0", "cat /var/tmp/mine"), "mine");
    assert_eq!(watch.stop(), Some(0));
    rig.apply(0);
    rig.converged();
}
