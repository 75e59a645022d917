//! `was` of an agent: its sandbox is renamed and keeps everything.

use serde_json::Value;

use super::rig::{Rig, docker, verdicts, wait_for};
use super::watch::Watch;
use crate::support::Ended;

const ALL: [&str; 2] = ["--allow-teardown", "all"];

/// The agent's file has another name now, and says which it had.
fn rename(rig: &Rig, old: &str, new: &str) {
    rig.tree.remove(&format!("agents/{old}.md"));
    rig.tree.agent(new, "dev", &format!("skills: [greet]\nwas: {old}"), "You are an agent.");
}

fn start(rig: &Rig, name: &str) {
    rig.agent(name, "You are an agent.");
    rig.agent("bob", "You are bob.");
    rig.apply(0);
    rig.inside(name, "echo mine > /var/tmp/mine; echo note > ~/note");
    // What runs runs on.
    rig.inside(name, "(sleep 10000 >/dev/null 2>&1 & echo $! > /var/tmp/pid)");
}

#[track_caller]
fn is_there(rig: &Rig, name: &str) {
    let look = "cat /var/tmp/mine ~/note; kill -0 $(cat /var/tmp/pid) && echo runs";
    assert_eq!(rig.inside(name, look), "mine\nnote\nruns");
}

fn order(rig: &Rig, args: &[&str]) -> Ended {
    let tree = rig.tree_path();
    let mut all = vec!["--tree", &tree];
    all.extend(args);
    rig.cli.run(all)
}

fn machine<'a>(document: &'a Value, name: &str) -> &'a Value {
    let mut changes = document["changes"].as_array().unwrap().iter();
    let of = |c: &&Value| c["sandbox"] == name && c["resource"] == "machine";
    changes.find(of).unwrap_or_else(|| panic!("no machine of {name}: {document}"))
}

/// What the state folder says by sandbox that names this one.
fn records(rig: &Rig, name: &str) -> Vec<String> {
    let mut found = Vec::new();
    let memory = rig.memory();
    for folder in ["carried", "stopped", "ca", "snapshots"] {
        for entry in std::fs::read_dir(memory.join(folder)).into_iter().flatten() {
            let file = entry.unwrap().file_name().into_string().unwrap();
            if file == name || file == format!("{name}.json") {
                found.push(format!("{folder}/{file}"));
            }
        }
    }
    for entry in std::fs::read_dir(memory.join("receipts")).unwrap() {
        let receipt: Value =
            serde_json::from_slice(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap();
        if receipt["sandbox"] == name {
            found.push("receipt".to_owned());
        }
    }
    let sources: Value =
        serde_json::from_slice(&std::fs::read(memory.join("sources.json")).unwrap()).unwrap();
    if sources["sandboxes"].get(name).is_some() {
        found.push("sources".to_owned());
    }
    found.sort();
    found
}

/// With a way out, a snapshot and a record of every kind.
pub(super) fn a_renamed_agent_keeps_its_sandbox(rig: &Rig) {
    rig.bottle("egress:\n  allowlist: [example.com]\n");
    start(rig, "linus");
    order(rig, &["snapshot", "save", "linus"]).exits(0);
    let before = records(rig, "linus");
    let all = ["ca/linus.json", "receipt", "receipt", "snapshots/linus", "sources"];
    assert_eq!(before, all);
    let authority = std::fs::read(rig.memory().join("ca/linus.json")).unwrap();
    let containers = (rig.backend == "docker").then(|| rig.containers(&[]));

    rename(rig, "linus", "grace");
    let planned = order(rig, &["plan"]).exits(2).stdout;
    let line = planned.split_whitespace().collect::<Vec<_>>().join(" ");
    let says = format!("~ grace reprovision {} was linus; keeps everything", rig.backend);
    assert!(line.contains(&says), "{planned}");
    assert!(line.contains("with its host name"), "{planned}");
    let done = rig.apply(0);
    assert_eq!(verdicts(&done), ["grace reprovision"]);
    let change = machine(&done, "grace");
    assert_eq!(change["reason"]["kind"], "renamed", "{change}");
    assert_eq!(change["reason"]["was"], "linus", "{change}");
    assert_eq!(change["class"], "hot", "{change}");
    let field = serde_json::json!([{ "path": "name", "from": "linus", "to": "grace" }]);
    assert_eq!(change["fields"], field);
    let steps: Vec<&str> =
        done["steps"].as_array().unwrap().iter().map(|s| s["action"].as_str().unwrap()).collect();
    assert_eq!(steps, ["rename"], "nothing else is done");
    is_there(rig, "grace");
    rig.converged();
    assert_eq!(records(rig, "linus"), [""; 0]);
    assert_eq!(
        records(rig, "grace"),
        before.iter().map(|r| r.replace("linus", "grace")).collect::<Vec<_>>()
    );
    if let Some(containers) = containers {
        assert_eq!(rig.containers(&[]), containers);
    }
    let listed = order(rig, &["-o", "json", "snapshot", "list", "grace"]).exits(0).json();
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 1, "{listed}");
    order(rig, &["snapshot", "restore", "grace"]).exits(0);
    let known = order(rig, &["exec", "linus", "--", "true"]).exits(125);
    assert!(known.stderr.contains("there is no sandbox linus"), "{}", known.stderr);
    // What it trusts is what its sidecar has, also when that is given something else.
    rig.bottle("egress:\n  allowlist: [example.org]\n");
    rig.apply(0);
    let now: Value =
        serde_json::from_slice(&std::fs::read(rig.memory().join("ca/grace.json")).unwrap())
            .unwrap();
    let then: Value = serde_json::from_slice(&authority).unwrap();
    assert_eq!((&now["certificate"], &now["made_for"]), (&then["certificate"], &"linus".into()));
    is_there(rig, "grace");

    // `was` says nothing any more, and another may have the name.
    rig.agent("linus", "You are another.");
    let refused = rig.plan().exits(3).json();
    assert_eq!(refused["summary"]["hold"], 2, "{refused}");
    let told = refused["diagnostics"][0]["message"].as_str().unwrap();
    assert!(told.contains("agents/linus.md still declares linus"), "{refused}");
    rig.agent("grace", "You are an agent.");
    rig.apply(0);
    rig.converged();
    assert_eq!(rig.inside("linus", "cat /var/tmp/mine 2>&1 | grep -c 'No such'"), "1");
    rig.inside("linus", "echo other > /var/tmp/mine");
    is_there(rig, "grace");
    // Back, over a name that is in use: what is made anew stays where the old one was.
    rig.bottle_with("memory: 192M", "egress:\n  allowlist: [example.org]\nuser: root\n");
    let replaced = rig.apply_with(&ALL).exits(0).json();
    assert_eq!(verdicts(&replaced), ["bob replace", "grace replace", "linus replace"]);
    assert_eq!(
        rig.inside("grace", "cat ~/note; ls /var/tmp/mine 2>&1 | grep -c 'No such'"),
        "note\n1"
    );
    rig.converged();
    rename(rig, "linus", "ken");
    rig.apply(0);
    rig.agent("ken", "You are an agent.");
    rename(rig, "grace", "linus");
    rig.apply(0);
    rig.converged();
    assert_eq!(rig.inside("linus", "cat ~/note"), "note");
    rig.down().exits(0);
    rig.apply(0);
    rig.converged();
    let places = std::fs::read_to_string(rig.memory().join("places.json")).unwrap();
    assert_eq!(places, r#"{"version":1,"places":{}}"#, "all begin anew");
}

pub(super) fn a_rename_that_was_cut_short_goes_on(rig: &Rig) {
    start(rig, "linus");
    order(rig, &["snapshot", "save", "linus"]).exits(0);
    order(rig, &["stop", "linus"]).exits(0);
    rename(rig, "linus", "grace");
    // As one leaves it that was killed after the first of its writes: `was` is not needed any more.
    let begun = r#"{"version":1,"places":{"grace":"linus"},"begun":{"grace":"linus"}}"#;
    std::fs::write(rig.memory().join("places.json"), begun).unwrap();
    rig.agent("grace", "You are an agent.");
    let plan = rig.plan().exits(2).json();
    assert_eq!(verdicts(&plan), ["grace reprovision"]);
    // Killed at many moments, with as much done by hand as a kill could leave.
    for (folder, file) in [("stopped", "linus.json"), ("snapshots", "linus")] {
        let moved = file.replace("linus", "grace");
        let folder = rig.memory().join(folder);
        std::fs::rename(folder.join(file), folder.join(moved)).unwrap();
        assert_eq!(verdicts(&rig.plan().exits(2).json()), ["grace reprovision"], "{file}");
    }
    rig.apply(0);
    rig.converged();
    assert_eq!(records(rig, "linus"), [""; 0]);
    assert_eq!(
        records(rig, "grace"),
        ["receipt", "snapshots/grace", "sources", "stopped/grace.json"]
    );
    let status = order(rig, &["-o", "json", "status", "--only", "grace"]).exits(0).json();
    assert_eq!(status["sandboxes"][0]["state"], "stopped by you");
    order(rig, &["start", "grace"]).exits(0);
    assert_eq!(rig.inside("grace", "cat /var/tmp/mine ~/note"), "mine\nnote");
    rig.converged();

    for moment in 0..12_u64 {
        let (old, new) = if moment % 2 == 0 { ("grace", "linus") } else { ("linus", "grace") };
        rename(rig, old, new);
        let mut applier = rig.applier();
        let mut applier = applier
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let audit = rig.memory().join("audit.jsonl");
        let lines = || std::fs::read_to_string(&audit).unwrap().lines().count();
        let before = lines();
        while lines() == before && applier.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
        std::thread::sleep(std::time::Duration::from_micros(moment * 700));
        applier.kill().unwrap();
        applier.wait().unwrap();
        rig.apply(0);
        rig.converged();
        assert_eq!(
            rig.inside(new, "cat /var/tmp/mine ~/note"),
            "mine\nnote",
            "after {moment} kills"
        );
        assert_eq!(records(rig, old), [""; 0], "after {moment} kills");
    }
}

pub(super) fn a_rename_that_was_cut_short_can_be_taken_back(rig: &Rig) {
    start(rig, "linus");
    let begun = r#"{"version":1,"places":{"grace":"linus"},"begun":{"grace":"linus"}}"#;
    for said in ["", "\nwas: grace"] {
        // Killed after the first of its writes, and the file is back.
        std::fs::write(rig.memory().join("places.json"), begun).unwrap();
        let more = format!("skills: [greet]{said}");
        rig.tree.agent("linus", "dev", &more, "You are an agent.");
        assert_eq!(verdicts(&rig.plan().exits(2).json()), ["linus reprovision"], "{said}");
        rig.apply(0);
        is_there(rig, "linus");
        assert_eq!(records(rig, "grace"), [""; 0]);
        rig.converged();
    }
    // Both are gone: what goes takes the word of it along, and another of that name is another.
    std::fs::write(rig.memory().join("places.json"), begun).unwrap();
    rig.tree.remove("agents/linus.md");
    rig.apply_with(&ALL).exits(0);
    rig.agent("linus", "You are an agent.");
    rig.apply(0);
    rig.inside("linus", "echo anew > /var/tmp/mine");
    rig.converged();
    assert_eq!(rig.inside("linus", "cat /var/tmp/mine"), "anew");
}

pub(super) fn a_rename_that_cannot_be_is_held(rig: &Rig) {
    start(rig, "linus");
    rig.agent("grace", "You are grace.");
    rig.apply(0);
    rig.inside("grace", "echo hers > /var/tmp/mine");
    // Both exist.
    rename(rig, "linus", "grace");
    let plan = rig.apply(3);
    assert_eq!(verdicts(&plan), ["grace hold", "linus hold"]);
    let told = &plan["diagnostics"][0];
    assert_eq!((&told["file"], &told["line"]), (&"agents/grace.md".into(), &4.into()), "{told}");
    assert!(told["message"].as_str().unwrap().contains("both names exist"), "{told}");
    assert!(told["hint"].as_str().unwrap().contains("bottle down --only grace"), "{told}");
    is_there(rig, "linus");
    assert_eq!(rig.inside("grace", "cat /var/tmp/mine"), "hers");
    // As it says: one goes, and the other is renamed.
    rig.down_with(&["--only", "grace"]).exits(0);
    rig.apply(0);
    is_there(rig, "grace");
    rig.converged();

    // Two that were the same: neither is, and what exists stays.
    rename(rig, "grace", "ken");
    rig.tree.agent("ada", "dev", "was: grace", "You are ada.");
    let plan = rig.apply(3);
    assert_eq!(verdicts(&plan), ["ada hold", "grace hold", "ken hold"]);
    is_there(rig, "grace");
    rig.tree.remove("agents/ada.md");
    // Nor does it go where the new file does not hold.
    rig.tree.write("agents/ken.md", "---\nbottle: dev\nwas: grace\nskils: []\n---\n");
    assert_eq!(verdicts(&rig.apply(3)), ["ken hold"]);
    rig.tree.write("agents/ken.md", "---\nbottle: dev\nwas: grace\n  bad: [\n---\n");
    let plan = rig.apply(3);
    assert_eq!(verdicts(&plan), ["ken hold"]);
    rig.tree.agent("ken", "dev", "was: grace\nsuspend: true", "You are an agent.");
    rig.apply(0);
    is_there(rig, "grace");
    rename(rig, "bob", "bert");
    rig.tree.agent("ken", "dev", "skills: [greet]\nwas: grace", "You are an agent.");
    // Only one of two.
    rig.apply_with(&["--only", "bert"]).exits(0);
    rig.inside("bert", "true");
    is_there(rig, "grace");
    rig.apply(0);
    is_there(rig, "ken");
    rig.converged();
}

pub(super) fn what_says_where_renamed_ones_are_may_be_lost(rig: &Rig) {
    start(rig, "linus");
    rename(rig, "linus", "grace");
    rig.apply(0);
    rig.agent("grace", "You are an agent.");
    rig.converged();
    let places = rig.memory().join("places.json");
    let whole = std::fs::read(&places).unwrap();
    for damage in ["", "{", r#"{"version":9,"places":{}}"#] {
        std::fs::write(&places, damage).unwrap();
        let plan = rig.apply(3);
        assert!(verdicts(&plan).iter().all(|verdict| verdict.ends_with("hold")), "{plan}");
        let told = plan["diagnostics"].to_string();
        assert!(told.contains("places.json"), "{told}");
        let refused = rig.exec("grace", "true").exits(125);
        assert!(refused.stderr.contains("places.json"), "{}", refused.stderr);
    }
    std::fs::remove_file(&places).unwrap();
    rig.converged();
    rig.agent("grace", "You are an agent, again.");
    rig.apply(0);
    assert_eq!(std::fs::read(&places).unwrap(), whole);
    is_there(rig, "grace");
    // Another one has the name by now that this one had, and stands elsewhere, too.
    rename(rig, "bob", "linus");
    rig.apply(0);
    rig.inside("linus", "echo of bob > /var/tmp/mine");
    std::fs::remove_file(&places).unwrap();
    for _ in 0..2 {
        assert_eq!(rig.inside("linus", "cat /var/tmp/mine"), "of bob");
        is_there(rig, "grace");
        rig.converged();
        rig.apply(0);
    }
}

/// Without `was` one goes and another comes, and the plan says what would be better.
pub(super) fn a_file_that_was_only_renamed_is_hinted_at(rig: &Rig) {
    start(rig, "linus");
    rig.tree.remove("agents/linus.md");
    rig.agent("grace", "You are an agent.");
    let planned = order(rig, &["plan"]).exits(2).stdout;
    let line = planned.split_whitespace().collect::<Vec<_>>().join(" ");
    let hint = "agents/grace.md looks like linus renamed: add `was: linus` there, and grace keeps everything";
    assert!(line.contains(hint), "{planned}");
    // Another prompt is another agent.
    rig.agent("grace", "You are somebody else.");
    let planned = order(rig, &["plan"]).exits(2).stdout;
    assert!(!planned.contains("looks like"), "{planned}");

    // `watch` follows what the files say.
    let mut watch = Watch::start(rig);
    wait_for("the new one", || rig.exec("grace", "true").code == Some(0));
    wait_for("the old one to go", || rig.exec("linus", "true").stderr.contains("no sandbox linus"));
    assert_eq!(rig.exec("grace", "cat /var/tmp/mine").code, Some(1));
    let listed = order(rig, &["snapshot", "list", "linus"]).exits(0);
    assert!(listed.stdout.contains("linus/"), "its work is kept: {}", listed.stdout);
    rig.inside("grace", "echo mine > /var/tmp/mine; echo note > ~/note; (sleep 10000 >/dev/null 2>&1 & echo $! > /var/tmp/pid)");
    rename(rig, "grace", "ken");
    wait_for("the rename", || rig.exec("ken", "true").code == Some(0));
    is_there(rig, "ken");
    assert_eq!(watch.stop(), Some(0));
    rig.converged();
    if rig.backend == "docker" {
        assert_eq!(
            docker(&[
                "ps",
                "-aq",
                "--filter",
                &format!("label=io.bottle.owner={}", rig.tree.owner)
            ])
            .lines()
            .count(),
            2
        );
    }
}
