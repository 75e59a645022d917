//! `bottle watch` against a real backend.

use std::process::{Child, Stdio};
use std::time::Duration;

use super::rig::{Rig, wait_for};

/// A running `bottle watch`, ended with the test.
pub(super) struct Watch {
    child: Child,
}

impl Watch {
    /// Starts it and waits until its first pass is over.
    pub(super) fn start(rig: &Rig) -> Self {
        Self::with(rig, &[])
    }

    /// The same, with more options.
    pub(super) fn with(rig: &Rig, more: &[&str]) -> Self {
        let tree = rig.tree.path().to_str().unwrap();
        let passes = rig.cli.cwd().join("passes.jsonl");
        let out = std::fs::File::create(&passes).unwrap();
        let child = rig
            .cli
            .command(["-o", "json", "watch", tree, "--resync", "60s"])
            .args(more)
            .stdout(out)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let watch = Self { child };
        wait_for("the first pass", || std::fs::read_to_string(&passes).unwrap().contains('\n'));
        watch
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    pub(super) fn stop(&mut self) -> Option<i32> {
        self.signal("-TERM");
        wait_for("watch to drain", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.child.kill().expect("our own child can be killed");
            self.child.wait().expect("our own child can be waited for");
        }
    }
}

pub(super) fn a_saved_prompt_is_live(rig: &Rig) {
    rig.agents(2);
    rig.apply(0);
    let mut watch = Watch::start(rig);
    // As editors save: a new file over the old one.
    let (new, old) = (rig.tree.join("agents/.a1.md.swp"), rig.tree.join("agents/a1.md"));
    std::fs::write(&new, "---\nbottle: dev\nskills: [greet]\n---\nLive edit.\n").unwrap();
    std::fs::rename(&new, &old).unwrap();
    let took = wait_for("the prompt to be live", || {
        rig.exec("a1", "cat /etc/bottle/prompt.md").stdout.contains("Live edit.")
    });
    println!("{}: a saved prompt was live after {took:?}", rig.backend);
    // A folder that is made and filled at once.
    rig.tree.skill("fresh", "deep/SKILL.md", "x\n");
    rig.tree.agent("new", "dev", "skills: [fresh]", "You are new.");
    wait_for("the new agent", || {
        rig.exec("new", "ls $HOME/.claude/skills/fresh/deep").code == Some(0)
    });
    assert_eq!(watch.stop(), Some(0));
}

pub(super) fn a_machine_that_goes_down_is_repaired(rig: &Rig) {
    rig.agents(2);
    rig.apply(0);
    rig.inside("a0", "echo mine > /var/tmp/mine");
    let mut watch = Watch::start(rig);
    rig.crash("a0");
    let took = wait_for("the machine to be back", || rig.exec("a0", "true").code == Some(0));
    println!("{}: a dead machine was back after {took:?}", rig.backend);
    assert_eq!(rig.inside("a0", "cat /var/tmp/mine"), "mine");
    if rig.backend == "docker" {
        super::rig::docker(&["rm", "-f", &rig.container("a1")]);
        let took = wait_for("the container to be back", || rig.exec("a1", "true").code == Some(0));
        println!("docker: a removed container was back after {took:?}");
    }
    assert_eq!(watch.stop(), Some(0));
}

pub(super) fn a_tree_that_breaks_in_the_middle_of_an_edit_holds_what_is_broken(rig: &Rig) {
    rig.agents(3);
    rig.apply(0);
    let mut watch = Watch::start(rig);
    rig.tree.write("agents/a0.md", "---\nbottle: [\n");
    rig.agent("a1", "You are CHANGED.");
    wait_for("the good edit", || {
        rig.exec("a1", "cat /etc/bottle/prompt.md").stdout.contains("CHANGED")
    });
    assert_eq!(rig.inside("a0", "cat /etc/bottle/prompt.md"), "You are a0.");
    // All agents gone at once is not believed.
    for name in ["a0", "a1", "a2"] {
        rig.tree.remove(&format!("agents/{name}.md"));
    }
    std::thread::sleep(Duration::from_secs(1));
    rig.inside("a2", "true");
    rig.agents(3);
    rig.agent("a2", "You are back.");
    wait_for("the last edit", || {
        rig.exec("a2", "cat /etc/bottle/prompt.md").stdout.contains("back")
    });
    assert_eq!(watch.stop(), Some(0));
}

pub(super) fn what_is_removed_piece_by_piece_is_held_in_the_end(rig: &Rig) {
    rig.agents(8);
    rig.apply(0);
    let mut watch = Watch::start(rig);
    let remove = |names: &[&str]| {
        for name in names {
            rig.tree.remove(&format!("agents/{name}.md"));
        }
    };
    remove(&["a0", "a1", "a2"]);
    let goes = |name: &str| rig.exec(name, "true").code != Some(0);
    wait_for("the first three to go", || ["a0", "a1", "a2"].into_iter().all(goes));
    assert_eq!(watch.stop(), Some(0));
    // By another process: the hour is the tree's. Five of eight may go, and the sixth may not, whoever counts.
    let mut watch = Watch::start(rig);
    remove(&["a3", "a4"]);
    rig.agent("a5", "You are CHANGED.");
    wait_for("an edit after that", || {
        rig.exec("a5", "cat /etc/bottle/prompt.md").stdout.contains("CHANGED")
    });
    wait_for("the next two to go", || ["a3", "a4"].into_iter().all(goes));
    remove(&["a6"]);
    rig.agent("a5", "You are CHANGED AGAIN.");
    wait_for("the last edit", || {
        rig.exec("a5", "cat /etc/bottle/prompt.md").stdout.contains("AGAIN")
    });
    // As long as a removal takes that nobody minds, and longer.
    std::thread::sleep(Duration::from_secs(4));
    rig.inside("a6", "true");
    assert_eq!(watch.stop(), Some(0));
    // A person may.
    rig.apply(0);
    assert!(goes("a6"));
}

pub(super) fn removals_wait_for_a_person_where_that_is_asked_for(rig: &Rig) {
    rig.agents(2);
    rig.apply(0);
    let mut watch = Watch::with(rig, &["--hold-teardown"]);
    rig.tree.remove("agents/a0.md");
    rig.agent("a1", "You are CHANGED.");
    wait_for("an edit beside it", || {
        rig.exec("a1", "cat /etc/bottle/prompt.md").stdout.contains("CHANGED")
    });
    wait_for("the pass to say so", || {
        let passes = std::fs::read_to_string(rig.cli.cwd().join("passes.jsonl")).unwrap();
        passes.contains("`--hold-teardown`: once `watch` has ended, `bottle apply` removes it")
    });
    std::thread::sleep(Duration::from_secs(4));
    rig.inside("a0", "true");
    assert_eq!(watch.stop(), Some(0));
    rig.apply(0);
    assert_ne!(rig.exec("a0", "true").code, Some(0));
}

pub(super) fn a_tree_renamed_away_and_back_loses_nothing(rig: &Rig) {
    rig.agents(2);
    rig.apply(0);
    let mut watch = Watch::start(rig);
    let (here, away) = (rig.tree.path().to_owned(), rig.cli.cwd().join("away"));
    std::fs::rename(&here, &away).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    std::fs::rename(&away, &here).unwrap();
    rig.inside("a0", "true");
    std::thread::sleep(Duration::from_millis(700));
    rig.agent("a1", "You are CHANGED.");
    wait_for("an edit after that", || {
        rig.exec("a1", "cat /etc/bottle/prompt.md").stdout.contains("CHANGED")
    });
    assert_eq!(watch.stop(), Some(0));
}

pub(super) fn it_drains_on_sigterm(rig: &Rig) {
    rig.agents(1);
    let mut watch = Watch::start(rig);
    assert_eq!(watch.stop(), Some(0));
    rig.apply_with(&["--lock-timeout", "0"]).exits(0);
}

fn git(rig: &Rig, args: &[&str]) {
    let mut git = std::process::Command::new("git");
    git.arg("-C").arg(rig.tree.path()).args(["-c", "user.name=x", "-c", "user.email=x@localhost"]);
    let ended = git.args(args).env("HOME", rig.cli.home()).output().expect("git can be run");
    assert!(ended.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&ended.stderr));
}

/// Two branches with the same agents and other prompts: git unlinks each file and makes it anew.
pub(super) fn a_storm_of_checkouts_removes_nothing(rig: &Rig) {
    git(rig, &["init", "-q", "-b", "main"]);
    for branch in ["main", "alt"] {
        if branch == "alt" {
            git(rig, &["checkout", "-q", "-b", "alt"]);
        }
        for n in 0..12 {
            rig.agent(&format!("a{n}"), &format!("You are a{n} of {branch}."));
        }
        // Many files make a checkout take its time.
        for n in 0..400 {
            rig.tree.write(&format!("agents/notes/{n}.txt"), branch);
        }
        git(rig, &["add", "-A"]);
        git(rig, &["commit", "-q", "-m", branch]);
    }
    rig.apply(0);
    rig.inside("a0", "echo mine > /var/tmp/mine");
    let mut watch = Watch::start(rig);
    for round in 0..40 {
        git(rig, &["checkout", "-q", if round % 2 == 0 { "main" } else { "alt" }]);
        std::thread::sleep(Duration::from_millis(150 + 60 * (round % 4)));
    }
    git(rig, &["checkout", "-q", "main"]);
    let took = wait_for("nothing to be left to do", || rig.plan().code == Some(0));
    assert_eq!(rig.inside("a11", "cat /etc/bottle/prompt.md"), "You are a11 of main.");
    println!("{}: converged {took:?} after the last checkout", rig.backend);
    assert_eq!(watch.stop(), Some(0));
    let audit = std::fs::read_to_string(rig.memory().join("audit.jsonl")).unwrap();
    assert!(!audit.contains(r#""action":"teardown""#), "{audit}");
    assert_eq!(rig.inside("a0", "cat /var/tmp/mine"), "mine");
    rig.converged();
}

pub(super) fn an_agents_folder_that_cannot_be_read_yields_no_plan(rig: &Rig) {
    rig.agents(2);
    rig.apply(0);
    let (agents, away) = (rig.tree.join("agents"), rig.tree.join("away"));
    std::fs::rename(&agents, &away).unwrap();
    std::os::unix::fs::symlink("agents", &agents).unwrap();
    let refused = rig.apply_with(&["--allow-teardown", "all"]).exits(1);
    assert!(refused.stderr.contains("/agents cannot be read"), "{}", refused.stderr);
    assert!(rig.plan().exits(1).stderr.contains("/agents cannot be read"));
    std::fs::remove_file(&agents).unwrap();
    std::fs::rename(&away, &agents).unwrap();
    rig.inside("a0", "true");
    rig.converged();
}

/// A closed terminal drains like a SIGTERM.
pub(super) fn it_drains_on_sighup(rig: &Rig) {
    rig.agents(1);
    let mut watch = Watch::start(rig);
    watch.signal("-HUP");
    wait_for("watch to drain", || watch.child.try_wait().unwrap().is_some());
    assert_eq!(watch.child.wait().unwrap().code(), Some(0));
    rig.apply_with(&["--lock-timeout", "0"]).exits(0);
}

/// With fewer descriptors than sandboxes, the ends of all are still heard.
pub(super) fn it_does_without_descriptors(rig: &Rig) {
    let names = rig.agents(24);
    rig.apply(0);
    let tree = rig.tree.path().to_str().unwrap();
    let passes = rig.cli.cwd().join("passes.jsonl");
    let mut command = std::process::Command::new("sh");
    let bottle = rig.cli.command(["-o", "json", "watch", tree, "--resync", "60s"]);
    let limited = "ulimit -Hn 40; ulimit -Sn 40; exec \"$@\"";
    command.args(["-c", limited, "sh"]).arg(bottle.get_program()).args(bottle.get_args());
    command.env_clear().current_dir(rig.cli.cwd());
    command.envs(bottle.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let out = std::fs::File::create(&passes).unwrap();
    let child = command.stdin(Stdio::null()).stdout(out).stderr(Stdio::null()).spawn().unwrap();
    let mut watch = Watch { child };
    wait_for("the first pass", || std::fs::read_to_string(&passes).unwrap().contains('\n'));
    rig.crash(&names[0]);
    rig.crash(&names[23]);
    for name in [&names[0], &names[23]] {
        wait_for("the machine to be back", || rig.exec(name, "true").code == Some(0));
    }
    for name in &names {
        rig.agent(name, "You are CHANGED.");
    }
    wait_for("all edits", || {
        let text = std::fs::read_to_string(&passes).unwrap();
        text.matches(r#""outcome":"done""#).count() >= names.len()
    });
    assert_eq!(watch.stop(), Some(0));
    assert!(!std::fs::read_to_string(&passes).unwrap().contains("does not validate"));
}

/// Of what looks as it did nothing is read again; what looks otherwise is, though nobody says so.
pub(super) fn a_resync_of_what_is_still_is_no_pass(rig: &Rig) {
    let names = rig.agents(2);
    rig.apply(0);
    let tree = rig.tree.path().to_str().unwrap();
    let passes = rig.cli.cwd().join("passes.jsonl");
    let mut command = rig.cli.command(["-o", "json", "watch", tree, "--resync", "200ms"]);
    let out = std::fs::File::create(&passes).unwrap();
    let child = command.stdin(Stdio::null()).stdout(out).stderr(Stdio::null()).spawn().unwrap();
    let mut watch = Watch { child };
    let said = || std::fs::read_to_string(&passes).unwrap();
    wait_for("three passes", || said().matches('\n').count() >= 3);
    let before = said().matches('\n').count();
    std::thread::sleep(Duration::from_secs(8));
    let since = said().matches('\n').count() - before;
    assert!((1..=12).contains(&since), "40 resyncs, and {since} passes");
    let receipts = rig.memory().join("receipts");
    for entry in std::fs::read_dir(&receipts).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    wait_for("the receipts", || {
        said().matches(r#""outcome":"done""#).count() >= names.len()
            && std::fs::read_dir(&receipts).unwrap().count() == names.len()
    });
    assert_eq!(watch.stop(), Some(0));
}

/// Long before the next resync.
pub(super) fn a_network_attached_by_hand_is_heard(rig: &Rig) {
    use super::rig::docker;
    rig.agents(1);
    rig.apply(0);
    let (id, network) = (rig.container("a0"), crate::support::unique("net"));
    let label = format!("io.bottle.test={}", crate::support::run_id());
    docker(&["network", "create", "--internal", "--label", &label, &network]);
    let mut watch = Watch::start(rig);
    docker(&["network", "disconnect", "none", &id]);
    docker(&["network", "connect", &network, &id]);
    let begun = std::time::Instant::now();
    let left = || docker(&["network", "inspect", "-f", "{{len .Containers}}", &network]);
    while left().trim() != "0" && begun.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let (left, code) = (left(), watch.stop());
    if left.trim() != "0" {
        docker(&["network", "disconnect", "-f", &network, &id]);
    }
    docker(&["network", "rm", &network]);
    assert_eq!((left.trim(), code), ("0", Some(0)));
}

/// What a guest puts in the way of our files keeps nobody waiting, not even its own supervisor.
pub(super) fn a_fifo_in_the_way_delays_nobody(rig: &Rig) {
    let command = r#"["sh", "-c", "echo $$ > /tmp/pid; exec sleep 1234"]"#;
    rig.bottle("env:\n  V: \"?\"\n");
    for name in ["a0", "a1"] {
        let more = format!("command: {command}\nrestart: always");
        rig.tree.agent(name, "dev", &more, "You have a command.");
    }
    let apply = |value: &str| {
        let begun = std::time::Instant::now();
        let ended = rig.applier().env("BOTTLE_ENV_V", value).output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
        begun.elapsed()
    };
    apply("old");
    rig.inside("a0", "mkfifo /run/bottle/env.new /run/bottle/main.new");
    let took = apply("new");
    assert!(took < Duration::from_secs(15), "it took {took:?}");
    for name in ["a0", "a1"] {
        assert_eq!(rig.inside(name, ". /run/bottle/env; echo $V"), "new");
    }
    wait_for("the command", || rig.exec("a0", "kill -0 $(cat /tmp/pid)").code == Some(0));
    let before = rig.inside("a0", "cat /tmp/pid");
    rig.inside("a0", "kill $(cat /tmp/pid)");
    wait_for("the command to be started again", || {
        let now = rig.exec("a0", "kill -0 $(cat /tmp/pid) && cat /tmp/pid");
        now.code == Some(0) && now.stdout.trim() != before
    });
}

/// A root guest has put a program that sleeps in the place of its shell, and FIFOs wherever bottle
/// writes: its new prompt goes in all the same, and so does the narrower policy of another.
pub(super) fn a_guest_whose_shell_sleeps_is_provisioned(rig: &Rig) {
    use super::rig::docker;
    let bottle = |name: &str, more: &str| {
        let image = rig.image();
        rig.tree.bottle(name, &format!("backend: docker\nimage: {image}\nuser: root\n{more}"));
    };
    bottle("asks", "env:\n  V: \"?\"\n");
    let policy = |hosts: &str| bottle("out", &format!("egress:\n  allowlist: [{hosts}]\n"));
    policy("example.com, example.org");
    rig.tree.agent("a0", "asks", "skills: [greet]", "You are a0.");
    rig.tree.agent("a1", "out", "", "You are a1.");
    let applied = rig.applier().env("BOTTLE_ENV_V", "old").output().unwrap();
    assert!(applied.status.success(), "{applied:?}");
    rig.inside(
        "a0",
        "mkfifo /run/bottle/env.new /run/bottle/main.new /etc/bottle/new && \
         rm /etc/bottle/prompt.md && mkfifo /etc/bottle/prompt.md && \
         rm /run/bottle/env && mkfifo /run/bottle/env && \
         printf '#!/bin/busybox ash\nexec /bin/busybox sleep 9999\n' >/bin/new && \
         chmod 755 /bin/new && mv -f /bin/new /bin/sh",
    );
    let id = rig.container("a0");
    let cat = |path: &str| docker(&["exec", &id, "/bin/busybox", "cat", path]);
    let loaded = || {
        let receipts = rig.memory().join("receipts");
        let texts = std::fs::read_dir(receipts).unwrap().flatten();
        let texts = texts.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
        !texts.into_iter().any(|text| text.contains("example.org"))
    };
    let mut watch = Watch::start(rig);
    rig.tree.agent("a0", "asks", "skills: [greet]", "You are CHANGED.");
    rig.tree.skill("greet", "SKILL.md", "say hello\n");
    policy("example.com");
    let begun = std::time::Instant::now();
    wait_for("the narrower policy", loaded);
    assert!(begun.elapsed() < Duration::from_secs(3), "it took {:?}", begun.elapsed());
    wait_for("the prompt", || {
        let kind = ["exec", &id, "/bin/busybox", "stat", "-c", "%F", "/etc/bottle/prompt.md"];
        docker(&kind).trim() == "regular file" && cat("/etc/bottle/prompt.md").contains("CHANGED")
    });
    assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
    let stopping = std::time::Instant::now();
    assert_eq!(watch.stop(), Some(0));
    assert!(stopping.elapsed() < Duration::from_secs(5), "it took {:?}", stopping.elapsed());
    // Values go in the same way, past the FIFO.
    let begun = std::time::Instant::now();
    let applied = rig.applier().env("BOTTLE_ENV_V", "new").output().unwrap();
    assert!(applied.status.success(), "{applied:?}");
    assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
    assert_eq!(cat("/run/bottle/env"), "export V='new'\n");
}

/// A sandbox's network is removed by hand, and what carries it stays: one apply sets it right, and no
/// second one has anything to do.
pub(super) fn a_network_that_was_removed_is_one_apply(rig: &Rig) {
    use super::rig::docker;
    rig.bottle("egress:\n  allowlist: [example.com]\n");
    rig.agents(1);
    rig.apply(0);
    let name = format!("bottle-{}-a0", rig.tree.owner);
    let machine = || docker(&["inspect", "-f", "{{.Id}}", "--type", "container", &name]);
    let before = machine();
    for container in [name.clone(), format!("{name}.sidecar")] {
        docker(&["network", "disconnect", "-f", &name, &container]);
    }
    docker(&["network", "rm", &name]);
    let applied = rig.apply(0);
    assert!(!applied.to_string().contains("still on it"), "{applied}");
    rig.converged();
    assert_eq!(machine(), before, "it was not made anew");
}
