//! `bottle snapshot`: an agent's work is kept as a file, and comes back.

use std::os::unix::fs::PermissionsExt as _;

use super::rig::{Rig, wait_for};
use super::watch::Watch;
use crate::support::Ended;

impl Rig {
    fn snapshot(&self, args: &[&str]) -> Ended {
        let tree = self.tree.path().display().to_string();
        let mut all = vec!["--tree", &tree, "snapshot"];
        all.extend(args);
        self.cli.run(all)
    }
}

/// A workspace with two files, copied into a0 and a1.
fn at_work(rig: &Rig) {
    let folder = rig.cli.home().join("site");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("a"), "one\n").unwrap();
    std::fs::write(folder.join("b"), "two\n").unwrap();
    rig.bottle(&format!("workspace:\n  path: {}\n  mode: copy\n", folder.display()));
    rig.agents(2);
    rig.apply(0);
}

const WORK: &str = "cd /workspace && echo changed > a && rm b && mkdir -p sub node_modules/x && \
                    echo '#!/bin/sh' > sub/run && chmod 750 sub/run && ln -s sub/run link && \
                    ln a same && touch -d '2001-02-03 04:05:06' sub/run && echo x > node_modules/x/x && \
                    mkfifo pipe && echo note > $HOME/note && mkdir -p $HOME/.cache && \
                    echo c > $HOME/.cache/c";

/// What there is of it, as one text: names, modes, owners' names, times and content.
const LOOK: &str = "cd /workspace && ls -lnR . | grep -v '^total' && cat a sub/run && \
                    stat -c %Y sub/run && cat $HOME/note";

pub(super) fn work_comes_back_into_a_sandbox(rig: &Rig) {
    at_work(rig);
    rig.inside("a0", WORK);
    rig.inside("a0", "rm /workspace/pipe");
    let saved = rig.snapshot(&["save", "a0", "--all"]).exits(0);
    let id = saved.stdout.trim().to_owned();
    assert!(id.starts_with("a0/"), "{id}");
    let before = rig.inside("a0", LOOK);
    let shown = rig.snapshot(&["show", &id, "-o", "json"]).exits(0).json();
    assert_eq!((&shown["sandbox"], &shown["why"]), (&"a0".into(), &"manual".into()), "{shown}");
    assert!(shown["paths"].as_array().unwrap().contains(&"/workspace".into()), "{shown}");

    // The agent breaks all of it; the newest comes back, and what was not there then stays.
    rig.inside(
        "a0",
        "cd /workspace && echo broken > a && rm -rf sub link $HOME/note && echo y > later",
    );
    rig.snapshot(&["restore", "a0"]).exits(0);
    assert_eq!(rig.inside("a0", "cat /workspace/later; rm /workspace/later"), "y");
    assert_eq!(rig.inside("a0", LOOK), before);

    // Into another agent's sandbox, over its own copy; its next pass is about our files only.
    rig.snapshot(&["restore", &id, "--as", "a1"]).exits(0);
    rig.inside("a1", "rm -f /workspace/b");
    assert_eq!(rig.inside("a1", LOOK), before);
    assert_eq!(rig.inside("a1", "cat /workspace/node_modules/x/x $HOME/.cache/c"), "x\nc");
    rig.apply(0);
    rig.converged();
    assert_eq!(rig.inside("a1", "cat /etc/bottle/prompt.md | grep -c 'a1'"), "1");

    // It outlives its sandbox and goes when it is told to.
    rig.down_with(&["--discard", "all"]).exits(0);
    let listed = rig.snapshot(&["list", "-o", "json"]).exits(0).json();
    assert_eq!(listed["snapshots"][0]["id"], id.as_str(), "{listed}");
    rig.snapshot(&["remove", "a0/nothing", &id]).exits(1);
    rig.snapshot(&["show", &id]).exits(0);
    rig.snapshot(&["remove", &id]).exits(0);
    let none = rig.snapshot(&["list"]).exits(0);
    assert_eq!(none.stdout, "");
}

/// The lock of a file of the state folder, as a `bottle` holds it.
fn held(path: &std::path::Path) -> std::fs::File {
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).open(path).unwrap();
    file.lock().unwrap();
    file
}

/// Nothing is done to a sandbox while a snapshot is put into it, with and without `watch`.
pub(super) fn nothing_else_happens_during_a_restore(rig: &Rig) {
    at_work(rig);
    rig.inside("a0", "echo kept > /workspace/a");
    rig.snapshot(&["save", "a0"]).exits(0);
    let (tree, own) = (rig.memory().join("lock"), rig.memory().join("claims/a0"));
    let refused = || {
        let ended = rig.snapshot(&["restore", "a0", "--lock-timeout", "0"]).exits(75);
        assert!(ended.stderr.contains("another bottle works on this tree"), "{}", ended.stderr);
    };
    // An `apply` works on the tree.
    let lock = held(&tree);
    std::fs::write(&tree, r#"{"pid":1,"command":"apply","since":1}"#).unwrap();
    refused();
    rig.snapshot(&["restore", "a0", "--to", rig.cli.home().join("out").to_str().unwrap()]).exits(0);
    drop(lock);

    // Beside `watch`, which keeps the tree's lock, while a run of it works on the sandbox.
    let mut watch = Watch::start(rig);
    let lock = held(&own);
    refused();
    // A restore in a0 is as long as that lock is held: what the tree wants of it waits, and of a1 it does not.
    let skill = |text: &str| rig.tree.skill("greet", "SKILL.md", text);
    skill("say more\n");
    // For a moment there is neither the old nor the new.
    let says = |name: &str| {
        rig.exec(name, "cat $HOME/.claude/skills/greet/SKILL.md").stdout.trim().to_owned()
    };
    wait_for("the edit in a1", || says("a1") == "say more");
    assert_eq!(says("a0"), "say hi");
    drop(lock);
    wait_for("the edit in a0", || says("a0") == "say more");
    rig.inside("a0", "echo broken > /workspace/a");
    rig.snapshot(&["restore", "a0"]).exits(0);
    assert_eq!(rig.inside("a0", "cat /workspace/a"), "kept");
    // It drains, also while it waits.
    let lock = held(&own);
    skill("say most\n");
    wait_for("the next edit in a1", || says("a1") == "say most");
    assert_eq!(watch.stop(), Some(0));
    assert_eq!(says("a0"), "say more");
    drop(lock);
    rig.apply(0);
    rig.converged();
    assert_eq!(says("a0"), "say most");
}

pub(super) fn work_comes_out_into_a_folder(rig: &Rig) {
    at_work(rig);
    rig.inside("a0", WORK);
    let saved = rig.snapshot(&["save", "a0"]).exits(0);
    assert!(saved.stderr.contains("left out: workspace/pipe: it is a FIFO"), "{}", saved.stderr);
    assert!(saved.stderr.contains("can make again"), "{}", saved.stderr);
    // Closed to all but the agent, root inside included.
    rig.inside("a0", "chmod 700 /workspace");
    rig.snapshot(&["save", "a0"]).exits(0);
    let out = rig.cli.home().join("out");
    let to = out.to_str().unwrap().to_owned();
    rig.snapshot(&["restore", "a0", "--to", &to]).exits(0);
    let at = |path: &str| out.join("workspace").join(path);
    assert_eq!(std::fs::read_to_string(at("a")).unwrap(), "changed\n");
    assert_eq!(std::fs::read_to_string(at("link")).unwrap(), "#!/bin/sh\n");
    assert_eq!(at("sub/run").metadata().unwrap().permissions().mode() & 0o7777, 0o750);
    assert!(!at("node_modules").exists() && !at("b").exists());
    let home = rig.inside("a0", "echo $HOME");
    let note = out.join(home.trim_start_matches('/')).join("note");
    assert_eq!(std::fs::read_to_string(note).unwrap(), "note\n");
}

/// `HOME` in a bottle's `env` is the home folder, for skills as for what is kept.
pub(super) fn a_home_of_the_bottles_own_is_the_users(rig: &Rig) {
    rig.bottle("env:\n  HOME: /srv/me\n");
    rig.agents(2);
    rig.apply(0);
    assert_eq!(rig.inside("a0", "cat /srv/me/.claude/skills/greet/SKILL.md"), "say hi");
    assert_eq!(
        rig.inside("a0", "cd && pwd && echo note > note && stat -c %u . && id -u").lines().next(),
        Some("/srv/me")
    );
    rig.converged();
    rig.snapshot(&["save", "a0"]).exits(0);
    rig.inside("a0", "rm $HOME/note");
    rig.snapshot(&["restore", "a0"]).exits(0);
    rig.snapshot(&["restore", "a0", "--as", "a1"]).exits(0);
    for name in ["a0", "a1"] {
        assert_eq!(rig.inside(name, "cat /srv/me/note"), "note", "{name}");
    }
    // What is no path is a variable, and no more.
    rig.bottle("env:\n  HOME: elsewhere\n");
    rig.apply(0);
    assert_eq!(rig.inside("a0", "ls -d elsewhere 2>/dev/null; echo $HOME"), "elsewhere");
    rig.converged();
}

/// A folder of the operator's is not what a snapshot changes.
pub(super) fn a_mounted_workspace_is_not_restored_into(rig: &Rig) {
    at_work(rig);
    rig.snapshot(&["save", "a0"]).exits(0);
    let folder = rig.cli.home().join("site");
    let before = (std::fs::read_to_string(folder.join("a")).unwrap(), mode(&folder));
    rig.bottle(&format!("workspace:\n  path: {}\n  mode: mount\n", folder.display()));
    rig.apply(0);
    let refused = rig.snapshot(&["restore", "a0"]).exits(1);
    assert!(refused.stderr.contains("--to DIR"), "{}", refused.stderr);
    assert_eq!((std::fs::read_to_string(folder.join("a")).unwrap(), mode(&folder)), before);
    // Of one that works in it, the home is kept.
    let saved = rig.snapshot(&["save", "a1", "-o", "json"]).exits(0).json();
    assert!(!saved.to_string().contains("\"/workspace\""), "{saved}");
    rig.snapshot(&["restore", "a1"]).exits(0);
}

fn mode(path: &std::path::Path) -> u32 {
    path.metadata().unwrap().permissions().mode()
}

/// What the operator took away does not come back with the agent's work.
pub(super) fn a_withdrawn_skill_stays_away(rig: &Rig) {
    rig.tree.skill("rev", "SKILL.md", "look\n");
    rig.bottle("");
    rig.tree.agent("a0", "dev", "skills: [rev]", "You are a0.");
    rig.apply(0);
    rig.inside(
        "a0",
        "mkdir -p $HOME/.claude/skills/own && echo mine > $HOME/.claude/skills/own/SKILL.md",
    );
    rig.snapshot(&["save", "a0"]).exits(0);
    rig.tree.agent("a0", "dev", "", "You are a0.");
    rig.apply(0);
    rig.inside("a0", "rm -r $HOME/.claude/skills/own");
    rig.snapshot(&["restore", "a0"]).exits(0);
    rig.apply(0);
    assert_eq!(rig.inside("a0", "ls $HOME/.claude/skills"), "own");
}

/// A name that is not read is no reason to remove what exists.
pub(super) fn an_agents_file_under_another_name_holds_it(rig: &Rig) {
    rig.agents(2);
    rig.apply(0);
    rig.inside("a0", "echo work > $HOME/work");
    for name in ["a0.markdown", "A0.md", "a0.yaml"] {
        let (from, to) = (rig.tree.join("agents/a0.md"), rig.tree.join("agents").join(name));
        std::fs::rename(&from, &to).unwrap();
        let plan = rig.plan().exits(3);
        assert!(plan.stdout.contains(name) && plan.stdout.contains("hold"), "{}", plan.stdout);
        rig.apply(3);
        assert_eq!(rig.inside("a0", "cat $HOME/work"), "work");
        std::fs::rename(&to, &from).unwrap();
    }
    rig.converged();
}

pub(super) fn what_cannot_be_kept_says_why(rig: &Rig) {
    rig.agents(1);
    let ended = rig.snapshot(&["save", "nobody"]);
    assert_eq!(ended.code, Some(1));
    rig.apply(0);
    let ended = rig.snapshot(&["restore", "a0"]).exits(1);
    assert!(ended.stderr.contains("no snapshot of a0"), "{}", ended.stderr);
    let ended = rig.snapshot(&["restore", "a0/../x"]).exits(1);
    assert!(ended.stderr.contains("names no snapshot"), "{}", ended.stderr);
    // A home that the agent made endless.
    rig.inside("a0", "mkdir -p $HOME && truncate -s 100G $HOME/hole");
    let ended = rig.snapshot(&["save", "a0"]).exits(1);
    assert!(ended.stderr.contains("more than 64 GiB"), "{}", ended.stderr);
    let folder = rig.memory().join("snapshots/a0");
    let left = std::fs::read_dir(&folder).map_or(0, Iterator::count);
    assert_eq!(left, 0, "no piece of it stays");
    rig.inside("a0", "rm $HOME/hole");
    rig.snapshot(&["save", "a0"]).exits(0);
    // One that was damaged since is listed, and does not go anywhere.
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&file, "noise").unwrap();
    let listed = rig.snapshot(&["list"]).exits(0);
    assert!(listed.stdout.contains("cannot be read"), "{}", listed.stdout);
    rig.snapshot(&["restore", "a0"]).exits(1);
    rig.converged();
}
