//! A sandbox that moves to another backend: one replace that names both, the agent's home comes along, and
//! the old one goes only when the new one can be made.

use std::time::Duration;

use crate::alike::{backends, environment, forget_imports};
use crate::contract::docker::images;
use crate::support::{Cli, Ended, TempTree};

struct Rig {
    cli: Cli,
    tree: TempTree,
}

impl Rig {
    fn new() -> Self {
        let mut cli = Cli::new();
        cli.patience(Duration::from_secs(900));
        environment(&mut cli);
        let rig = Self { cli, tree: TempTree::new("moving") };
        rig.tree.agent("ada", "dev", "", "You are ada.");
        rig
    }

    fn on(&self, backend: &str, image: &str) {
        let limits =
            "keep: [home, /var/tmp/own]\nresources:\n  cpus: 1\n  memory: 256M\n  pids: 64";
        self.tree.bottle("dev", &format!("backend: {backend}\nimage: {image}\n{limits}"));
    }

    fn run(&self, args: &[&str]) -> Ended {
        let mut all = vec!["--tree", self.tree.path().to_str().unwrap()];
        all.extend(args);
        self.cli.run(all)
    }

    #[track_caller]
    fn say(&self, script: &str) -> String {
        self.run(&["exec", "ada", "--", "sh", "-c", script]).exits(0).stdout.trim().to_owned()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.run(&["down", "--yes", "--allow-teardown", "all", "--discard", "all", "-q"]);
        forget_imports(&self.tree);
    }
}

#[test]
fn from_each_backend_to_the_next() {
    let mut places = backends("moving to");
    let Some(first) = places.first().copied() else { return };
    places.push(first);
    let image = images().join("busybox.tar").display().to_string();
    let rig = Rig::new();
    rig.on(first, &image);
    rig.run(&["apply", "--yes"]).exits(0);
    for pair in places.windows(2) {
        let [from, to] = pair else { unreachable!("windows of two are two") };
        rig.say("echo kept > $HOME/note");
        rig.say(
            "mkdir -p /var/tmp/own/deep && cd /var/tmp/own && echo own > deep/a && ln -sf deep/a l",
        );

        // The new one cannot be made, which only its backend finds out: the old one stays as it is.
        let garbage = rig.tree.write("garbage.tar", "this is no tar").join("garbage.tar");
        rig.on(to, garbage.to_str().unwrap());
        rig.run(&["plan"]).exits(2);
        assert_ne!(rig.run(&["apply", "--yes"]).code, Some(0));
        assert_eq!(rig.say("cat $HOME/note"), "kept", "{from} to {to}");

        rig.on(to, &image);
        if from == to {
            continue;
        }
        let planned = rig.run(&["-o", "json", "plan"]).exits(2).json();
        let changes = planned["changes"].as_array().unwrap();
        let replaced = changes.iter().find(|change| change["verdict"] == "replace");
        let fields = replaced.expect("it is a replace")["fields"].as_array().unwrap();
        let backend = fields.iter().find(|field| field["path"] == "backend").unwrap();
        assert_eq!((&backend["from"], &backend["to"]), (&(*from).into(), &(*to).into()));
        assert_eq!(planned["summary"]["replace"], 1, "{planned}");
        rig.run(&["apply", "--yes"]).exits(0);
        // What the agent has at home comes along, and what its bottle names.
        assert_eq!(
            rig.say("cat $HOME/note /var/tmp/own/l; readlink /var/tmp/own/l"),
            "kept\nown\ndeep/a"
        );
        rig.run(&["plan"]).exits(0);
        let shown = rig.run(&["-o", "json", "status"]).json().to_string();
        assert!(shown.contains(to) && !shown.contains(from), "{shown}");
    }
}

#[test]
fn to_a_backend_that_is_not_here_moves_nothing() {
    let Some(here) = backends("moving from").first().copied() else { return };
    let mut rig = Rig::new();
    rig.on(here, &images().join("busybox.tar").display().to_string());
    rig.run(&["apply", "--yes"]).exits(0);
    rig.say("echo kept > $HOME/note");
    let (there, name, at) = if here == "smolmachines" {
        ("docker", "DOCKER_HOST", "unix:///nonexistent/docker.sock")
    } else {
        ("smolmachines", "BOTTLE_SMOLVM", "/nonexistent/smolvm")
    };
    rig.cli.env(name, at);
    rig.on(there, &images().join("busybox.tar").display().to_string());
    rig.run(&["apply", "--yes"]).exits(3);
    assert_eq!(rig.say("cat $HOME/note"), "kept");
}
