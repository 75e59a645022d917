//! Whole sandboxes on real microVMs, by the command line: made, kept, changed, repaired, removed.

use std::process::Command;

use super::rig::Rig;

#[test]
fn a_life() {
    let Some(rig) = Rig::new("a life on microVMs") else { return };
    rig.bottle("dev", "256M", "");
    rig.tree.skill("notes", "SKILL.md", "# Notes\n").skill("notes", "sub/more.md", "more\n");
    rig.tree.agent("ada", "dev", "skills: [notes]", "You are ada.");
    rig.tree.agent("bob", "dev", "", "You are bob.");
    rig.tree.agent("cy", "dev", "command: [sh, -c, \"echo up; sleep 1000\"]", "You are cy.");
    rig.run(&["apply", "--yes", "--jobs", "1"]).exits(0);
    assert_eq!(rig.machines().len(), 3);
    assert!(rig.machines().iter().all(|row| row["network"] == false && row["ports"] == 0));
    assert_eq!(rig.say("ada", "cat /etc/bottle/prompt.md"), "You are ada.");
    assert_eq!(rig.say("ada", "cat $HOME/.claude/skills/notes/sub/more.md"), "more");
    // The bare machine's kernel shows a `dummy0`, which leads nowhere.
    assert_eq!(rig.say("ada", "wc -l < /proc/net/route"), "1", "no route, only the heading");
    rig.run(&["exec", "ada", "--", "sh", "-c", "exit 7"]).exits(7);
    rig.run(&["exec", "ada", "--", "no-such-program"]).exits(127);
    assert_eq!(
        rig.cli
            .run_with(rig.args(&["exec", "-i", "ada", "--", "cat"]), b"over stdin")
            .exits(0)
            .stdout,
        "over stdin"
    );

    // Nothing changed, nothing is done.
    rig.run(&["plan"]).exits(0);
    rig.run(&["apply", "--yes"]).exits(0);

    // A prompt and a skill change in place: the machine, and what was written in it, stay.
    let before = rig.machine("ada");
    // A machine that is killed has lost its power: what was not synced is lost, too.
    rig.say("ada", "echo kept > /root/note; sync");
    rig.tree.agent("ada", "dev", "", "You are somebody else.");
    let changed = rig.run(&["apply", "--yes"]).exits(0).stdout;
    assert!(changed.contains("ada") && !changed.contains("✓ bob"), "{changed}");
    assert_eq!(
        rig.say("ada", "cat /etc/bottle/prompt.md /root/note"),
        "You are somebody else.kept"
    );
    assert_eq!(rig.say("ada", "ls -A $HOME/.claude/skills"), "");
    let after = rig.machine("ada");
    assert_eq!(
        (&after["labels"]["io.bottle.id"], &after["pid"]),
        (&before["labels"]["io.bottle.id"], &before["pid"])
    );

    // A machine's process that was killed from outside is started again, with its files.
    let pid = after["pid"].as_i64().unwrap().to_string();
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    rig.run(&["apply", "--yes"]).exits(0);
    assert_eq!(rig.say("ada", "cat /root/note"), "kept");
    assert_eq!(rig.machine("ada")["state"], "running");
    rig.run(&["plan"]).exits(0);

    // Agents that are gone go, and a limit that only creation sets makes a new machine.
    rig.tree.remove("agents/bob.md").remove("agents/cy.md");
    rig.bottle("dev", "320M", "");
    rig.run(&["apply", "--yes", "--allow-teardown", "all"]).exits(0);
    assert_eq!(rig.machines().len(), 1);
    let replaced = rig.machine("ada");
    assert_eq!(replaced["memory_mib"], 320);
    assert_ne!(replaced["labels"]["io.bottle.id"], before["labels"]["io.bottle.id"]);
    rig.run(&["plan"]).exits(0);
    rig.run(&["down", "--yes", "--allow-teardown", "all"]).exits(0);
    assert!(rig.machines().is_empty());
    rig.nothing_is_left_over();
}
