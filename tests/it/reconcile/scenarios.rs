//! One intent each: a tree, a change of it or of the world, and what must then be true.

use std::os::unix::fs::symlink;

use super::rig::{Rig, verdicts, wait_for};

pub(super) fn twenty_agents_and_then_nothing_to_do(rig: &Rig) {
    rig.agents(20);
    let first = rig.apply(0);
    assert_eq!(first["summary"]["create"], 20, "{first}");
    let before = std::fs::read(rig.memory().join("audit.jsonl")).unwrap();
    let second = rig.apply(0);
    assert_eq!(second["summary"]["keep"], 20, "{second}");
    assert_eq!(second["steps"].as_array().unwrap().len(), 0);
    let after = std::fs::read(rig.memory().join("audit.jsonl")).unwrap();
    assert_eq!(before, after, "no step was begun");
}

pub(super) fn an_edited_prompt_goes_in_in_place(rig: &Rig) {
    rig.agents(3);
    rig.apply(0);
    rig.inside("a1", "echo mine > /var/tmp/mine");
    let ids = (rig.backend == "docker").then(|| rig.containers(&[]));
    rig.agent("a1", "You are CHANGED.");
    let plan = rig.plan().exits(2).json();
    assert_eq!(verdicts(&plan), ["a1 reprovision"]);
    assert_eq!(verdicts(&rig.apply(0)), ["a1 reprovision"]);
    assert_eq!(rig.inside("a1", "cat /etc/bottle/prompt.md"), "You are CHANGED.");
    assert_eq!(rig.inside("a1", "cat /var/tmp/mine"), "mine");
    if let Some(ids) = ids {
        assert_eq!(rig.containers(&[]), ids);
    }
    rig.converged();
}

pub(super) fn a_removed_skill_file_and_a_dropped_skill_are_gone_inside(rig: &Rig) {
    rig.agents(2);
    rig.apply(0);
    let find = "ls $HOME/.claude/skills/*";
    assert!(rig.inside("a0", find).contains("notes.txt"));
    rig.tree.remove("skills/greet/notes.txt");
    assert_eq!(verdicts(&rig.apply(0)), ["a0 reprovision", "a1 reprovision"]);
    let left = rig.inside("a0", find);
    assert!(left.contains("SKILL.md") && !left.contains("notes.txt"), "{left}");
    rig.tree.agent("a0", "dev", "", "You are a0.");
    assert_eq!(verdicts(&rig.apply(0)), ["a0 reprovision"]);
    assert_eq!(rig.inside("a0", "ls -A $HOME/.claude/skills"), "");
    rig.converged();
}

pub(super) fn what_stands_in_the_way_of_a_skill_is_named(rig: &Rig) {
    rig.agents(1);
    rig.apply(0);
    let skills = "$HOME/.claude/skills";
    for (script, told) in [
        ("ln -s /nowhere", "is a link to /nowhere, which leads to no folder"),
        ("ln -s skills", "is a link to skills, which leads to no folder"),
        ("mkfifo", "is no folder"),
        ("touch", "is no folder"),
    ] {
        rig.inside("a0", &format!("rm -rf {skills}; {script} {skills}"));
        rig.agent("a0", &format!("You are {script}."));
        let refused = rig.apply(3).to_string();
        assert!(refused.contains(told) && refused.contains("remove it inside"), "{refused}");
        rig.inside("a0", &format!("rm {skills}"));
        rig.apply(0);
        assert_eq!(rig.inside("a0", "cat /etc/bottle/prompt.md"), format!("You are {script}."));
    }
    rig.converged();
}

pub(super) fn a_changed_limit_is_one_change_in_place_that_names_the_field(rig: &Rig) {
    rig.agents(2);
    rig.tree.bottle(
        "big",
        &format!("backend: {}\nimage: {}\nresources:\n  memory: 128M", rig.backend, rig.image()),
    );
    rig.tree.agent("big", "big", "", "You are big.");
    rig.apply(0);
    rig.tree.bottle(
        "big",
        &format!("backend: {}\nimage: {}\nresources:\n  memory: 192M", rig.backend, rig.image()),
    );
    let plan = rig.plan().exits(2).json();
    assert_eq!(verdicts(&plan), ["big reprovision"]);
    let fields: Vec<_> = plan["changes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|c| c["class"] == "hot" && c["resource"] == "machine")
        .flat_map(|c| c["fields"].as_array().unwrap())
        .collect();
    assert_eq!(fields.len(), 1, "{plan}");
    assert_eq!(fields[0]["path"], "resources.memory");
    assert_eq!((&fields[0]["from"], &fields[0]["to"]), (&"128M".into(), &"192M".into()));
    rig.apply(0);
    rig.converged();
}

pub(super) fn a_deleted_agent_is_one_teardown(rig: &Rig) {
    rig.agents(3);
    rig.apply(0);
    rig.tree.remove("agents/a1.md");
    assert_eq!(verdicts(&rig.apply(0)), ["a1 teardown"]);
    assert_eq!(rig.exec("a1", "true").code, Some(125));
    rig.inside("a0", "true");
    rig.converged();
}

pub(super) fn a_stopped_machine_runs_again_with_its_files(rig: &Rig) {
    rig.agents(2);
    rig.apply(0);
    rig.inside("a0", "echo mine > /var/tmp/mine");
    rig.crash("a0");
    let plan = rig.plan().exits(2).json();
    assert_eq!(verdicts(&plan), ["a0 reprovision"], "{plan}");
    rig.apply(0);
    assert_eq!(rig.inside("a0", "cat /var/tmp/mine"), "mine");
    rig.converged();
}

pub(super) fn a_broken_file_holds_its_sandbox_and_the_rest_converges(rig: &Rig) {
    rig.agents(3);
    rig.apply(0);
    rig.tree.write("agents/a0.md", "---\nbottle: [oops\n---\nx\n");
    rig.agent("a1", "You are CHANGED.");
    rig.tree.remove("agents/a2.md");
    let done = rig.apply(3);
    assert_eq!(verdicts(&done), ["a0 hold", "a1 reprovision", "a2 teardown"]);
    assert_eq!(rig.inside("a0", "cat /etc/bottle/prompt.md"), "You are a0.");
    assert_eq!(rig.plan().code, Some(3), "nothing to do, but something is held");
    rig.tree.write("agents/a0.md", "---\nbottle: devv\n---\nx\n");
    let held = rig.plan().exits(3).json();
    assert!(held["diagnostics"].to_string().contains("dev"), "{held}");
}

pub(super) fn a_skill_that_points_outside_is_refused(rig: &Rig) {
    rig.agents(1);
    rig.tree.skill("evil", "SKILL.md", "x\n");
    symlink("/etc/hostname", rig.tree.join("skills/evil/out")).unwrap();
    rig.tree.agent("evil", "dev", "skills: [evil]", "You are evil.");
    assert_eq!(verdicts(&rig.apply(3)), ["a0 create", "evil hold"]);
    rig.inside("a0", "true");
}

pub(super) fn an_emptied_tree_removes_nothing(rig: &Rig) {
    let names = rig.agents(3);
    rig.apply(0);
    let (agents, away) = (rig.tree.join("agents"), rig.tree.join("agents-away"));
    std::fs::rename(&agents, &away).unwrap();
    assert_eq!(rig.apply_with(&[]).code, Some(1), "agents/ is missing");
    std::fs::create_dir(&agents).unwrap();
    assert_eq!(rig.apply_with(&[]).code, Some(1), "agents/ is empty");
    assert_eq!(rig.plan().code, Some(2), "the plan is still shown");
    std::fs::remove_dir(&agents).unwrap();
    std::fs::rename(&away, &agents).unwrap();
    for name in names {
        rig.inside(&name, "true");
    }
    rig.converged();
}

pub(super) fn two_appliers_on_one_tree(rig: &Rig) {
    rig.agents(6);
    let appliers: Vec<_> = (0..2)
        .map(|_| rig.applier().stdout(std::process::Stdio::null()).spawn().unwrap())
        .collect();
    for mut applier in appliers {
        let code = applier.wait().unwrap().code();
        assert!(matches!(code, Some(0 | 75)), "{code:?}");
    }
    rig.converged();
    // And while somebody holds the lock, an impatient one is told who it is.
    let mut holder = super::watch::Watch::start(rig);
    let refused = rig.apply_with(&["--lock-timeout", "0"]).exits(75);
    let said = format!("{}{}", refused.stdout, refused.stderr);
    assert!(said.contains(&holder.pid().to_string()), "{said}");
    holder.stop();
}

pub(super) fn two_trees_never_see_each_other(rig: &Rig) {
    rig.agents(1);
    rig.apply(0);
    let other = match rig.backend {
        "docker" => Rig::docker("the other tree").unwrap(),
        _ => Rig::native("the other tree"),
    };
    other.agent("a0", "You are the other a0.");
    assert_eq!(verdicts(&other.apply(0)), ["a0 create"]);
    assert_eq!(rig.inside("a0", "cat /etc/bottle/prompt.md"), "You are a0.");
    drop(other);
    rig.inside("a0", "true");
    rig.converged();
}

pub(super) fn a_saved_plan_is_refused_when_anything_has_moved(rig: &Rig) {
    rig.agents(2);
    let saved = rig.cli.cwd().join("saved.json");
    let saved = saved.to_str().unwrap();
    let tree = rig.tree.path().to_str().unwrap();
    rig.cli.run(["plan", tree, "--out", saved]).exits(2);
    rig.agent("a1", "You are CHANGED.");
    rig.cli.run(["apply", saved, "--yes"]).exits(1);
    rig.agent("a1", "You are a1.");
    rig.cli.run(["apply", saved, "--yes"]).exits(0);
    rig.converged();
    rig.cli.run(["apply", saved, "--yes"]).exits(1);
}

pub(super) fn a_workspace_is_copied_once(rig: &Rig) {
    let work = tempfile::tempdir().unwrap();
    std::fs::create_dir(work.path().join("empty")).unwrap();
    std::fs::write(work.path().join("run.sh"), "#!/bin/sh\necho ran\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(work.path().join("run.sh"), mode).unwrap();
    symlink("run.sh", work.path().join("link")).unwrap();
    rig.bottle(&format!("workspace:\n  path: {}\n", work.path().display()));
    rig.agents(1);
    rig.apply(0);
    assert_eq!(rig.inside("a0", "cd /workspace && ./link && ls -d empty"), "ran\nempty");
    rig.inside("a0", "echo mine > /workspace/mine && rm /workspace/run.sh");
    std::fs::write(work.path().join("later"), "x").unwrap();
    rig.agent("a0", "You are CHANGED.");
    assert_eq!(verdicts(&rig.apply(0)), ["a0 reprovision"]);
    assert_eq!(rig.inside("a0", "ls /workspace"), "empty\nlink\nmine");
    // A lost receipt costs a reprovision and no work.
    for receipt in std::fs::read_dir(rig.memory().join("receipts")).unwrap() {
        std::fs::remove_file(receipt.unwrap().path()).unwrap();
    }
    assert_eq!(verdicts(&rig.apply(0)), ["a0 reprovision"]);
    assert_eq!(rig.inside("a0", "ls /workspace"), "empty\nlink\nmine");
}

/// What a command wrote and nobody has is told; a reader that goes away did not want it.
pub(super) fn what_a_command_wrote_is_not_lost_in_silence(rig: &Rig) {
    rig.agents(1);
    rig.apply(0);
    let tree = rig.tree.path().display().to_string();
    let exec = |script: &str, full: [bool; 2]| {
        let mut exec = rig.cli.command(["--tree", &tree, "exec", "a0", "--", "sh", "-c", script]);
        let full = full.map(|full| {
            let device = || std::fs::File::options().write(true).open("/dev/full").unwrap().into();
            if full { device() } else { std::process::Stdio::piped() }
        });
        let [stdout, stderr] = full;
        exec.stdout(stdout).stderr(stderr).output().unwrap()
    };
    let ended = exec("echo x; sleep 0.2", [true, false]);
    assert_eq!(ended.status.code(), Some(125));
    let said = String::from_utf8_lossy(&ended.stderr).replace("\n ", "");
    assert!(said.contains("writing what the command wrote"), "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    assert_eq!(exec("echo x >&2", [false, true]).status.code(), Some(125));
    // What was not written is not missed.
    assert_eq!(exec("exit 3", [true, true]).status.code(), Some(3));
    let ended = exec("echo x; exit 3", [false, false]);
    assert_eq!((ended.status.code(), &*ended.stdout), (Some(3), &b"x\n"[..]));
}

/// A plan that is only shown leaves nothing behind, and a tree that may not speak for its name has none.
pub(super) fn a_plan_writes_nothing_and_is_what_apply_would_do(rig: &Rig) {
    rig.agents(1);
    rig.plan().exits(2);
    rig.cli.run(["status", &rig.tree.path().display().to_string()]).exits(0);
    assert!(!rig.cli.state().exists(), "a plan has made the state folder");
    rig.apply(0);
    let files = || {
        let all = std::process::Command::new("find").arg(rig.cli.state()).output().unwrap();
        let mut lines: Vec<String> =
            String::from_utf8(all.stdout).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let before = files();
    let other = crate::support::TempTree::new("never");
    other.bottle("dev", &format!("backend: {}\nimage: {}", rig.backend, rig.image()));
    other.agent("new", "dev", "", "x");
    let path = other.path().display().to_string();
    rig.cli.run(["plan", &path]).exits(2);
    rig.cli.run(["status", &path]).exits(0);
    assert_eq!(files(), before);
    // A copy of the tree, under the same name.
    let name = std::fs::read_to_string(rig.tree.path().join("bottle.yaml")).unwrap();
    std::fs::write(other.path().join("bottle.yaml"), name).unwrap();
    let refused = rig.cli.run(["plan", &path]).exits(1).stderr;
    let applied = rig.cli.run(["apply", &path, "--yes"]).exits(1).stderr;
    assert_eq!(refused, applied);
    assert!(refused.contains("still exists"), "{refused}");
    rig.cli.run(["-o", "json", "plan", &path]).exits(1).json();
}

/// What cannot be read is named by whoever meets it.
pub(super) fn a_damaged_record_is_said_by_exec_and_down(rig: &Rig) {
    rig.agents(1);
    rig.apply(0);
    let record = rig.memory().join("native/a0/machine.json");
    std::fs::write(&record, "{").unwrap();
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let said = words(&rig.exec("a0", "true").exits(125).stderr);
    assert!(said.contains("native/a0/machine.json is damaged"), "{said}");
    assert!(said.contains("--replace-unknown a0") && !said.contains("not started"), "{said}");
    let down = rig.down().exits(0);
    let said = words(&format!("{}{}", down.stdout, down.stderr));
    assert!(said.contains("native/a0/machine.json is damaged"), "{said}");
    assert!(said.contains("it goes all the same"), "{said}");
}

/// What an agent keeps in the folder of a skill is its own.
pub(super) fn an_agents_own_files_beside_a_skill_stay(rig: &Rig) {
    rig.agent("ada", "You are ada.");
    for name in ["bob", "cy", "dee"] {
        rig.agent(name, "You are somebody.");
    }
    rig.apply(0);
    let skill = "cd ~/.claude/skills/greet &&";
    let ada = |script: &str| rig.inside("ada", &format!("{skill} {script}"));
    ada("echo mine > own.md; mkdir sub; echo mine > sub/own.md");
    rig.agent("ada", "You are ada, and older.");
    rig.apply(0);
    assert_eq!(ada("cat own.md sub/own.md notes.txt"), "mine\nmine\none");
    // What changes is ours, also where the agent has written into it; what goes is ours alone.
    ada("echo mine >> SKILL.md");
    rig.tree.skill("greet", "SKILL.md", "say hello\n").remove("skills/greet/notes.txt");
    rig.apply(0);
    assert_eq!(ada("ls -R . | sort -u | tr '\\n' ' '"), "./sub: .: SKILL.md own.md sub");
    assert_eq!(ada("cat SKILL.md own.md"), "say hello\nmine");
    ada("echo more >> SKILL.md");
    // What is no file and no folder keeps its folder as well, also alone.
    rig.inside("cy", &format!("{skill} mkfifo pipe"));
    rig.inside("dee", &format!("{skill} ln -s /nowhere link"));
    for name in ["ada", "bob", "cy", "dee"] {
        rig.tree.agent(name, "dev", "", "You are somebody.");
    }
    rig.apply(0);
    assert_eq!(ada("cat SKILL.md own.md"), "say hello\nmore\nmine");
    assert_eq!(rig.inside("bob", "ls -a ~/.claude/skills"), ".\n..");
    assert_eq!(rig.inside("cy", &format!("{skill} [ -p pipe ] && ls")), "pipe");
    assert_eq!(rig.inside("dee", &format!("{skill} readlink link && ls")), "/nowhere\nlink");
    rig.converged();
}

/// What was put there goes as a whole, symlinks and folders too; where the agent made a link of a folder of
/// ours, what it leads to is the agent's.
pub(super) fn a_skills_symlinks_go_with_it(rig: &Rig) {
    let add = |skill: &str| {
        rig.tree.skill(skill, "SKILL.md", "one\n").skill(skill, "sub/deep.md", "deep\n");
        symlink("SKILL.md", rig.tree.join(&format!("skills/{skill}/link"))).unwrap();
    };
    add("linked");
    add("turned");
    rig.tree.agent("ada", "dev", "skills: [linked, turned]", "You are ada.");
    rig.apply(0);
    let ada = |script: &str| rig.inside("ada", &format!("cd ~/.claude/skills && {script}"));
    assert_eq!(ada("cat linked/link linked/sub/deep.md"), "one\ndeep");
    // A changed target is a change.
    let link = rig.tree.join("skills/linked/link");
    std::fs::remove_file(&link).unwrap();
    symlink("sub/deep.md", link).unwrap();
    let diff = rig.cli.run(["plan", &rig.tree_path(), "--diff"]);
    assert!(diff.stdout.contains("+symlink to sub/deep.md"), "{}", diff.stdout);
    rig.apply(0);
    assert_eq!(ada("cat linked/link"), "deep");
    ada("mv turned/sub ~/kept; ln -s ~/kept turned/sub; rm turned/link; ln -s own turned/link");
    rig.tree.agent("ada", "dev", "", "You are ada.");
    rig.apply(0);
    assert_eq!(ada("find . | sort | tr '\\n' ' '"), ". ./turned ./turned/link ./turned/sub");
    assert_eq!(ada("cat ~/kept/deep.md; readlink turned/link"), "deep\nown");
    rig.converged();
}

/// Without its id a state folder does not know its own sandboxes: the id stands on them.
pub(super) fn a_lost_id_is_named_with_the_way_back(rig: &Rig) {
    rig.agents(1);
    rig.apply(0);
    let file = rig.cli.state().join("id");
    let id = std::fs::read_to_string(&file).unwrap();
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for lost in [None, Some("0123456789abcdef")] {
        match lost {
            None => std::fs::remove_file(&file).unwrap(),
            Some(other) => std::fs::write(&file, other).unwrap(),
        }
        let ended = rig.exec("a0", "true").exits(125);
        let said = words(&ended.stderr);
        for part in [id.trim(), file.to_str().unwrap(), "--adopt"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains("there is no sandbox"), "{said}");
        let held = rig.apply_with(&[]).exits(3);
        assert!(held.stdout.contains(id.trim()), "{}", held.stdout);
        // Nor is it "nothing to do" for whoever wants all of it gone.
        for only in [&[][..], &["--only", "a0"]] {
            let tree = rig.tree.path().to_str().unwrap();
            let down = rig.cli.run([&["down", tree, "--yes"], only].concat()).exits(3);
            let said = words(&down.stderr);
            for part in ["a0 exists", id.trim(), file.to_str().unwrap(), "--adopt", "--state-dir"] {
                assert!(said.contains(part), "{part}: {said}");
            }
            assert!(words(&down.stdout).contains("a0"), "{}", down.stdout);
            assert!(!down.stdout.contains("nothing to do"), "{}", down.stdout);
        }
        // As it was told.
        std::fs::write(&file, &id).unwrap();
        rig.inside("a0", "true");
    }
    std::fs::write(&file, "abc").unwrap();
    let said = words(&rig.exec("a0", "true").exits(125).stderr);
    assert!(said.contains("id is damaged") && said.contains("16 hexadecimal digits"), "{said}");
    std::fs::remove_file(&file).unwrap();
    rig.apply_with(&["--adopt"]).exits(0);
    rig.inside("a0", "true");
    rig.converged();
}

/// Also where a run was cut short in the middle of it, or where nothing is remembered.
pub(super) fn an_agents_own_files_stay_after_a_provisioning_that_was_cut_short(rig: &Rig) {
    rig.agent("ada", "You are ada.");
    rig.apply(0);
    let skill = "cd ~/.claude/skills/greet &&";
    let ada = |script: &str| rig.inside("ada", &format!("{skill} {script}"));
    ada("echo mine > own.md; mkdir sub; echo mine > sub/own.md; ln -s own.md link");
    let receipts = || std::fs::read_dir(rig.memory().join("receipts")).unwrap().flatten();
    for (round, rewritten) in ["one", "two"].into_iter().enumerate() {
        // As a run leaves it that has begun and not ended.
        for entry in receipts() {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            let mut receipt: serde_json::Value = serde_json::from_str(&text).unwrap();
            receipt["guest"] = serde_json::Value::Null;
            std::fs::write(entry.path(), receipt.to_string()).unwrap();
        }
        let more = format!("more{round}.md");
        rig.tree.skill("greet", "SKILL.md", rewritten).skill("greet", &more, "more\n");
        let before = ["notes.txt", "more0.md"][round];
        rig.tree.remove(&format!("skills/greet/{before}"));
        rig.apply(0);
        assert_eq!(ada("cat own.md sub/own.md link"), "mine\nmine\nmine", "{rewritten}");
        assert_eq!(ada(&format!("cat SKILL.md; cat {more}")), format!("{rewritten}more"));
        // What was put there before has gone.
        assert_eq!(ada(&format!("ls | grep -c {before}; true")), "0");
    }
    for entry in receipts() {
        std::fs::remove_file(entry.path()).unwrap();
    }
    rig.apply(0);
    assert_eq!(ada("cat own.md sub/own.md SKILL.md"), "mine\nmine\ntwo");
    rig.converged();
}

pub(super) fn a_command_starts_after_provisioning_and_completes(rig: &Rig) {
    let script = "cat /etc/bottle/prompt.md > /var/tmp/seen; echo once >> /var/tmp/count";
    rig.tree.agent("job", "dev", &format!("command: [sh, -c, \"{script}\"]"), "You are a job.");
    rig.apply(0);
    wait_for("the command to end", || rig.exec("job", "test -s /var/tmp/count").code == Some(0));
    assert_eq!(rig.inside("job", "cat /var/tmp/seen"), "You are a job.");
    rig.converged();
    // Completed is its desired state: neither a pass nor a restart of the machine runs it again.
    rig.crash("job");
    rig.apply(0);
    rig.tree.agent("job", "dev", &format!("command: [sh, -c, \"{script}\"]"), "You are new.");
    assert_eq!(verdicts(&rig.apply(0)), ["job reprovision"]);
    assert_eq!(rig.inside("job", "cat /var/tmp/count"), "once");
    rig.converged();
}

/// What only an engine has.
pub(super) mod engine {
    use super::super::rig::{Rig, docker, verdicts};
    use crate::support::run_id;

    pub(in super::super) fn a_removed_container_comes_back_and_no_other_is_touched(rig: &Rig) {
        rig.agents(3);
        rig.apply(0);
        let (kept, gone) = (rig.container("a0"), rig.container("a1"));
        docker(&["rm", "-f", &gone]);
        assert_eq!(verdicts(&rig.apply(0)), ["a1 create"]);
        assert_eq!(rig.container("a0"), kept);
        assert_ne!(rig.container("a1"), gone);
        rig.converged();
        assert_eq!(
            std::fs::read_dir(rig.memory().join("receipts")).unwrap().count(),
            3,
            "the receipt of what is gone is gone"
        );
    }

    pub(in super::super) fn an_image_that_cannot_be_had_leaves_the_old_sandbox_running(rig: &Rig) {
        rig.agents(1);
        rig.apply(0);
        let before = rig.container("a0");
        rig.tree.bottle("dev", "backend: docker\nimage: bottle-test-absent:1");
        let done = rig.apply(3);
        assert_eq!(verdicts(&done), ["a0 replace"]);
        assert_eq!(done["outcomes"][0]["outcome"], "failed", "{done}");
        assert_eq!(rig.container("a0"), before);
        rig.inside("a0", "true");
    }

    pub(in super::super) fn a_container_of_someone_else_is_a_conflict_and_untouched(rig: &Rig) {
        rig.agents(2);
        let name = format!("bottle-{}-a0", rig.tree.owner);
        let label = format!("io.bottle.test={}", run_id());
        let theirs = docker(&["create", "--name", &name, "--label", &label, rig.image(), "true"]);
        let theirs = theirs.trim();
        let done = rig.apply_with(&[]);
        let inspected = docker(&["inspect", "-f", "{{.Id}} {{.State.Status}}", &name]);
        docker(&["rm", "-f", theirs]);
        assert_eq!(inspected.trim(), format!("{theirs} created"));
        let done = done.exits(3).json();
        assert_eq!(verdicts(&done), ["a0 hold", "a1 create"]);
        assert!(done["changes"].to_string().contains("conflict"), "{done}");
    }

    pub(in super::super) fn a_tag_that_moved_is_said_and_used_for_new_machines_only(rig: &Rig) {
        let tag = format!("{}:1", crate::support::unique("moved"));
        docker(&["tag", rig.image(), &tag]);
        rig.tree.bottle("dev", &format!("backend: docker\nimage: {tag}"));
        rig.agents(1);
        let first = rig.apply_with(&[]);
        docker(&["tag", "bottle-test-rootonly:1", &tag]);
        let (before, plan) = (rig.container("a0"), rig.plan());
        rig.apply_with(&[]);
        let after = rig.container("a0");
        docker(&["rmi", &tag]);
        first.exits(0);
        let plan = plan.exits(0).json();
        assert!(plan["changes"].to_string().contains("means another image by now"), "{plan}");
        assert_eq!(before, after);
    }

    pub(in super::super) fn a_reader_that_goes_away_ends_exec(rig: &Rig) {
        rig.agents(1);
        rig.apply(0);
        let tree = rig.tree.path().display().to_string();
        let mut exec = rig
            .cli
            .command(["--tree", &tree, "exec", "a0", "--", "sh", "-c", "yes"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        drop(exec.stdout.take());
        super::wait_for("exec to end", || exec.try_wait().unwrap().is_some());
        assert_eq!(exec.wait().unwrap().code(), Some(141));
    }

    pub(in super::super) fn a_network_attached_by_hand_is_taken_off_again(rig: &Rig) {
        rig.agents(1);
        rig.apply(0);
        let (id, network) = (rig.container("a0"), crate::support::unique("net"));
        let label = format!("io.bottle.test={}", run_id());
        docker(&["network", "create", "--internal", "--label", &label, &network]);
        // The engine refuses a second network beside `none`; by hand one would take that off.
        docker(&["network", "disconnect", "none", &id]);
        docker(&["network", "connect", &network, &id]);
        let plan = rig.plan().json();
        let done = rig.apply_with(&["--allow-teardown", "all"]);
        let left = docker(&["network", "inspect", "-f", "{{len .Containers}}", &network]);
        docker(&["network", "rm", &network]);
        assert_eq!(verdicts(&plan).len(), 1, "{plan}");
        done.exits(0);
        assert_eq!(left.trim(), "0");
        rig.converged();
    }

    pub(in super::super) fn an_imported_image_goes_when_nothing_stands_on_it(rig: &Rig) {
        let images = std::env::var("BOTTLE_TEST_IMAGES").expect("tests/run makes the images");
        let tagged = || docker(&["images", "-q", &format!("bottle-{}", rig.tree.owner)]);
        rig.tree.bottle("dev", &format!("backend: docker\nimage: {images}/busybox.tar"));
        rig.agents(2);
        rig.apply(0);
        assert_eq!(rig.inside("a0", "echo in"), "in");
        assert_eq!(tagged().lines().count(), 1);
        rig.tree.bottle("dev", &format!("backend: docker\nimage: {images}/busybox-root"));
        assert_eq!(verdicts(&rig.apply(0)), ["a0 replace", "a1 replace"]);
        assert_eq!(tagged().lines().count(), 1, "the image of the tar is gone");
        rig.converged();
        rig.bottle("");
        rig.apply(0);
        assert_eq!(tagged().trim(), "");
        rig.converged();
    }
}
