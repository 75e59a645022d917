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
        let tree = rig.tree.path().to_str().unwrap();
        let passes = rig.cli.cwd().join("passes.jsonl");
        let out = std::fs::File::create(&passes).unwrap();
        let child = rig
            .cli
            .command(["-o", "json", "watch", tree, "--resync", "60s"])
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

    fn signal(&self, name: &str) {
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
