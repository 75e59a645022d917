//! What an agent worked on outlives its machine: as a snapshot, or in the machine that follows.

use std::process::Stdio;

use serde_json::Value;

use super::rig::{Rig, verdicts};
use crate::support::Ended;

/// A workspace of one file, copied into `ada`, who then works there and at home.
fn at_work(rig: &Rig) {
    let folder = rig.cli.home().join("site");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("a"), "one\n").unwrap();
    workspace(rig, "");
    rig.agent("ada", "You are ada.");
    rig.apply(0);
    rig.inside("ada", WORK);
}

fn workspace(rig: &Rig, more: &str) {
    let folder = rig.cli.home().join("site");
    rig.bottle(&format!("workspace:\n  path: {}\n  mode: copy\n{more}", folder.display()));
}

const WORK: &str = "cd /workspace && echo changed > a && mkdir sub && echo new > sub/b && \
                    chmod 640 sub/b && touch -d '2001-02-03 04:05:06' sub/b && ln -s sub/b link && \
                    mkdir -p node_modules && echo built > node_modules/x && echo note > ~/note";

/// What there is of it: names, modes, owners, times, content.
const LOOK: &str =
    "cd /workspace && ls -lnR . | grep -v '^total' && stat -c %Y sub/b && cat a link ~/note";

fn machine(document: &Value) -> Value {
    let changes = document["changes"].as_array().unwrap();
    changes.iter().find(|change| change["resource"] == "machine").cloned().unwrap()
}

fn snapshot(rig: &Rig, args: &[&str]) -> Ended {
    let tree = rig.tree_path();
    let mut all = vec!["--tree", &tree, "snapshot"];
    all.extend(args);
    rig.cli.run(all)
}

fn snapshots(rig: &Rig) -> Vec<Value> {
    let listed = snapshot(rig, &["list", "-o", "json"]).exits(0).json();
    listed["snapshots"].as_array().unwrap().clone()
}

const ALL: [&str; 2] = ["--allow-teardown", "all"];

/// A sandbox whose file goes leaves a snapshot, and so does `down`; a later one gets it by `restore`.
pub(super) fn what_goes_leaves_a_snapshot(rig: &Rig) {
    at_work(rig);
    rig.agent("bob", "You are bob.");
    rig.apply(0);
    // What programs make again is not kept.
    rig.inside("ada", "rm -r /workspace/node_modules");
    let look = rig.inside("ada", LOOK);
    rig.tree.remove("agents/ada.md");
    let plan = rig.cli.run(["-o", "json", "plan", &rig.tree_path(), ALL[0], ALL[1]]).exits(2);
    let plan = plan.json();
    let gone = machine(&plan);
    assert_eq!(gone["keeps"], serde_json::json!(["workspace", "home"]), "{gone}");
    assert_eq!(gone["loses"], serde_json::json!(["the rest"]), "{gone}");
    assert_eq!(verdicts(&rig.apply_with(&ALL).exits(0).json()), ["ada teardown"]);
    let kept = snapshots(rig);
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!((&kept[0]["why"], &kept[0]["sandbox"]), (&"teardown".into(), &"ada".into()));

    rig.agent("ada", "You are ada again.");
    rig.apply(0);
    assert_eq!(rig.inside("ada", "cat /workspace/a; ls ~/note 2>&1 | grep -c 'No such'"), "one\n1");
    snapshot(rig, &["restore", "ada"]).exits(0);
    assert_eq!(rig.inside("ada", LOOK), look);

    let said = rig.down().exits(0);
    assert!(said.stdout.contains("home is kept as snapshots"), "{}", said.stdout);
    let mut kept: Vec<String> =
        snapshots(rig).iter().map(|one| one["sandbox"].as_str().unwrap().to_owned()).collect();
    kept.sort();
    assert_eq!(kept, ["ada", "ada", "bob"]);
    for one in snapshots(rig) {
        snapshot(rig, &["remove", one["id"].as_str().unwrap()]).exits(0);
    }
}

/// A change that takes a new machine hands on what was in the old one, built output too.
pub(super) fn a_new_machine_has_the_work_of_the_old_one(rig: &Rig) {
    at_work(rig);
    let look = rig.inside("ada", LOOK);
    rig.inside("ada", "echo gone > /var/tmp/elsewhere; echo mine > ~/.claude/skills/own.md");
    let copied = "stat -c %Y /etc/bottle/workspace.done";
    let at = rig.inside("ada", copied);
    // It works in another folder from now on, which takes a new machine.
    workspace(rig, "  target: /work\n");
    let plan = rig.cli.run(["plan", &rig.tree_path()]).exits(2);
    assert!(plan.stdout.contains("keeps workspace and home; loses the rest"), "{}", plan.stdout);
    let done = rig.apply(0);
    assert_eq!(verdicts(&done), ["ada replace"]);
    assert_eq!(machine(&done)["keeps"], serde_json::json!(["workspace", "home"]));
    assert_eq!(rig.inside("ada", &LOOK.replace("/workspace", "/work")), look);
    let rest = "cat /work/node_modules/x ~/.claude/skills/own.md ~/.claude/skills/greet/SKILL.md; \
                ls /var/tmp/elsewhere 2>&1 | grep -c 'No such'";
    assert_eq!(rig.inside("ada", rest), "built\nmine\nsay hi\n1");
    assert_eq!(rig.inside("ada", copied), at, "it is not taken for one that was never copied");
    rig.converged();
    // A copy of another folder is a copy of that one; what the agent made of the first is in the snapshot.
    let other = rig.cli.home().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("fresh"), "fresh\n").unwrap();
    rig.bottle(&format!("workspace:\n  path: {}\n  mode: copy\n", other.display()));
    let done = rig.apply(0);
    assert_eq!(verdicts(&done), ["ada replace"]);
    assert_eq!(machine(&done)["keeps"], serde_json::json!(["home"]));
    assert!(machine(&done)["notes"].to_string().contains("stays as a snapshot"), "{done}");
    assert_eq!(rig.inside("ada", "ls /workspace; cat ~/note"), "fresh\nnote");
    // No copy any more, and nothing of its home is lost.
    rig.bottle("");
    assert_eq!(verdicts(&rig.apply(0)), ["ada replace"]);
    assert_eq!(rig.inside("ada", "cat ~/note"), "note");
    rig.converged();
}

/// A run that ended between the two machines: what the record says is on its way comes in with the next.
pub(super) fn work_on_its_way_arrives_after_a_run_that_was_cut_short(rig: &Rig) {
    at_work(rig);
    rig.inside("ada", "rm -r /workspace/node_modules");
    let look = rig.inside("ada", LOOK);
    rig.tree.remove("agents/ada.md");
    rig.apply_with(&ALL).exits(0);
    let kept = snapshots(rig);
    // As a replace leaves it whose second half never came.
    let record = serde_json::json!({ "machine": "gone", "snapshot": kept[0]["id"], "receipt": null, "workspace": true });
    let folder = rig.memory().join("carried");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("ada.json"), record.to_string()).unwrap();
    rig.agent("ada", "You are ada.");
    let done = rig.apply(0);
    assert_eq!(verdicts(&done), ["ada create"]);
    assert_eq!(rig.inside("ada", LOOK), look);
    assert!(!folder.join("ada.json").exists());
    rig.converged();
    // One that cannot be read holds its sandbox, and no other: it is named, with the way out.
    std::fs::write(folder.join("ada.json"), "{").unwrap();
    rig.agent("bob", "You are bob.");
    let held = rig.apply(3);
    assert_eq!(verdicts(&held), ["ada hold", "bob create"]);
    let told = held.to_string();
    assert!(told.contains("carried/ada.json") && told.contains("remove the file"), "{told}");
    std::fs::remove_file(folder.join("ada.json")).unwrap();
    rig.converged();
}

/// A replace is killed between the two machines, and then everything is to go: the work is in a snapshot, or in
/// the next machine, wherever it was.
pub(super) fn work_on_its_way_is_kept_by_whatever_comes_next(rig: &Rig) {
    at_work(rig);
    rig.inside("ada", "rm -r /workspace/node_modules");
    let look = rig.inside("ada", LOOK);
    let audit = rig.memory().join("audit.jsonl");
    let ended = |action: &str, from: usize| {
        let text = std::fs::read_to_string(&audit).unwrap_or_default();
        let is = |line: &&str| {
            line.contains(&format!("\"action\":\"{action}\"")) && line.contains("\"done\"")
        };
        text.lines().skip(from).any(|line| is(&line))
    };
    let lines = || std::fs::read_to_string(&audit).unwrap_or_default().lines().count();
    let mut other = false;
    for (after, removes) in [
        ("keep", true),
        ("set_aside", true),
        ("create", true),
        ("start", true),
        ("create", false),
        ("start", false),
    ] {
        other = !other;
        change(rig, other);
        let before = lines();
        let mut applier =
            rig.applier().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while !ended(after, before) && applier.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        applier.kill().unwrap();
        applier.wait().unwrap();
        if removes {
            rig.down().exits(0);
            let kept = snapshots(rig);
            assert!(!kept.is_empty(), "killed after {after}: nothing was kept");
            rig.apply(0);
            snapshot(rig, &["restore", "ada"]).exits(0);
        }
        rig.apply(0);
        assert_eq!(rig.inside("ada", LOOK), look, "killed after {after}, removed: {removes}");
        rig.converged();
        for one in snapshots(rig) {
            snapshot(rig, &["remove", one["id"].as_str().unwrap()]).exits(0);
        }
    }
}

/// What takes a new machine, and changes nothing else.
fn change(rig: &Rig, other: bool) {
    workspace(rig, if other { "setup: ['true # other']\n" } else { "" });
}

/// By the operator's word nothing is kept; what cannot be kept holds the removal.
pub(super) fn what_is_not_to_be_kept_is_said(rig: &Rig) {
    at_work(rig);
    rig.agent("bob", "You are bob.");
    rig.apply(0);
    // One that cannot be read is somebody's, too, and takes the room of all.
    let folder = rig.memory().join("snapshots/ada");
    std::fs::create_dir_all(&folder).unwrap();
    let large = folder.join("20200101T000000Z.tar.zst");
    std::fs::File::create(&large).unwrap().set_len(17 << 20).unwrap();
    rig.tree.write("bottle.yaml", &format!("name: {}\nsnapshots:\n  bytes: 16M\n", rig.tree.owner));
    rig.tree.remove("agents/ada.md");
    let held = rig.apply_with(&ALL).exits(3);
    let said = held.stdout.clone() + &held.stderr;
    for part in ["so it stays", "--discard ada", "snapshots"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(snapshots(rig).len(), 1);
    let exec = ["exec", "ada", "--", "sh", "-c", "test -s ~/note"];
    rig.cli.run(["--tree", &rig.tree_path()].into_iter().chain(exec)).exits(0);
    std::fs::remove_file(&large).unwrap();
    let lost =
        rig.cli.run(["-o", "json", "plan", &rig.tree_path(), ALL[0], ALL[1], "--discard", "ada"]);
    let gone = machine(&lost.exits(2).json());
    assert_eq!(gone["keeps"], serde_json::json!([]), "{gone}");
    assert_eq!(gone["loses"], serde_json::json!(["workspace", "home", "the rest"]), "{gone}");
    let typo = rig.apply_with(&["--allow-teardown", "all", "--discard", "adda"]).exits(1);
    assert!(typo.stderr.contains("there is no sandbox adda"), "{}", typo.stderr);
    rig.apply_with(&["--allow-teardown", "all", "--discard", "ada"]).exits(0);
    assert_eq!(snapshots(rig), Vec::<Value>::new());
    rig.tree.write("bottle.yaml", &format!("name: {}\nsnapshots: off\n", rig.tree.owner));
    rig.inside("bob", "echo mine > ~/mine");
    rig.tree.remove("agents/bob.md");
    rig.agent("cyd", "You are cyd.");
    rig.apply_with(&ALL).exits(0);
    assert_eq!(snapshots(rig), Vec::<Value>::new());
    rig.tree.write("bottle.yaml", &format!("name: {}\nsnapshots: sometimes\n", rig.tree.owner));
    let wrong = rig.cli.run(["check", &rig.tree_path()]).exits(1);
    let said = wrong.stdout + &wrong.stderr;
    assert!(said.contains("bottle.yaml:2:") && said.contains("expected `off`"), "{said}");
    rig.tree.write("bottle.yaml", &format!("name: {}\n", rig.tree.owner));
}

/// One that does not run has its work all the same.
pub(super) fn what_does_not_run_is_kept_too(rig: &Rig) {
    at_work(rig);
    rig.agent("bob", "You are bob.");
    rig.apply(0);
    rig.crash("ada");
    rig.tree.remove("agents/ada.md");
    rig.apply_with(&ALL).exits(0);
    let kept = snapshots(rig);
    assert_eq!(kept.len(), 1, "{kept:?}");
    let to = rig.cli.home().join("out");
    snapshot(rig, &["restore", "ada", "--to", to.to_str().unwrap()]).exits(0);
    assert_eq!(std::fs::read_to_string(to.join("workspace/a")).unwrap(), "changed\n");
}
