//! `bottle stop`, `start`, `restart`: a sandbox stays down until the operator says otherwise.

use serde_json::Value;

use super::rig::{Rig, docker, verdicts, wait_for};
use super::watch::Watch;
use crate::support::Ended;

impl Rig {
    fn order(&self, args: &[&str]) -> Ended {
        let tree = self.tree_path();
        let mut all = vec!["--tree", &tree];
        all.extend(args);
        self.cli.run(all)
    }

    fn status(&self, name: &str) -> Value {
        let tree = self.tree_path();
        let status = self.cli.run(["-o", "json", "status", &tree, "--only", name]).exits(0).json();
        status["sandboxes"][0].clone()
    }

    fn record(&self, name: &str) -> std::path::PathBuf {
        self.memory().join(format!("stopped/{name}.json"))
    }
}

const COMMAND: &str = "command: [sh, -c, 'trap \"echo asked >> /var/tmp/ends; exit 0\" TERM; echo run >> \
                       /var/tmp/runs; while :; do sleep 0.1; done']";

/// A sandbox with a way out and a command, and one beside it.
fn working(rig: &Rig) {
    rig.bottle("egress:\n  allowlist: [example.com]\n");
    rig.tree.agent("ada", "dev", &format!("skills: [greet]\n{COMMAND}"), "You are ada.");
    rig.agent("bob", "You are bob.");
    rig.apply(0);
    runs(rig, 1);
    rig.inside("ada", "echo mine > /var/tmp/mine");
}

/// Waits until the command has been started so often.
#[track_caller]
fn runs(rig: &Rig, times: usize) {
    wait_for("the command to run", || {
        rig.exec("ada", "cat /var/tmp/runs").stdout.matches("run").count() >= times
    });
    assert_eq!(rig.inside("ada", "cat /var/tmp/runs").lines().count(), times);
}

#[track_caller]
fn is_down(rig: &Rig) {
    let ended = rig.exec("ada", "true");
    assert_eq!(ended.code, Some(125));
    assert!(ended.stderr.contains("`bottle start NAME`"), "{}", ended.stderr);
    assert_eq!(rig.status("ada")["state"], "stopped by you");
}

pub(super) fn what_is_stopped_stays_so_until_it_is_started(rig: &Rig) {
    working(rig);
    let stopped = rig.order(&["stop", "ada"]).exits(0);
    assert!(
        stopped.stdout.contains("✓ ada") && stopped.stdout.contains("stopped"),
        "{}",
        stopped.stdout
    );
    is_down(rig);
    let status = rig.order(&["status"]).exits(0).stdout;
    assert!(status.contains("stopped by you"), "{status}");
    // Nothing of it runs, and another stays as it was.
    assert!(rig.status("ada")["stopped"].is_u64());
    assert_eq!(
        (&rig.status("ada")["sidecar"], &rig.status("ada")["verdict"]),
        (&Value::Null, &"keep".into())
    );
    rig.inside("bob", "true");
    rig.converged();
    let plan = rig.order(&["plan"]).exits(0).stdout;
    assert!(plan.contains("stopped by you, and stays so: ada"), "{plan}");
    assert!(plan.contains("1 sandbox is as it should be, 1 stopped by you"), "{plan}");

    // What the tree says meanwhile is put in with the start, on both sides.
    rig.bottle("egress:\n  allowlist: [example.org]\n");
    rig.tree.agent("ada", "dev", &format!("skills: [greet]\n{COMMAND}"), "You are Ada.");
    rig.apply(0);
    rig.converged();
    is_down(rig);
    let again = rig.order(&["stop", "ada"]).exits(0);
    assert!(again.stderr.contains("ada is stopped already"), "{}", again.stderr);
    let started = rig.order(&["start", "ada"]).exits(0);
    assert!(started.stdout.contains("started"), "{}", started.stdout);
    runs(rig, 2);
    assert_eq!(rig.inside("ada", "cat /var/tmp/mine /var/tmp/ends"), "mine\nasked");
    assert_eq!(rig.inside("ada", "cat /etc/bottle/prompt.md"), "You are Ada.");
    assert!(!rig.record("ada").exists());
    rig.converged();
    let nothing = rig.order(&["start", "ada"]).exits(0);
    assert!(nothing.stdout.contains("no changes"), "{}", nothing.stdout);

    // `apply --start` ends all of them.
    rig.order(&["stop", "ada", "bob"]).exits(0);
    rig.apply(0);
    is_down(rig);
    rig.apply_with(&["--start"]).exits(0);
    runs(rig, 3);
    rig.inside("bob", "true");
    rig.converged();
    // One that died by itself is started, too.
    rig.crash("bob");
    rig.order(&["start", "bob"]).exits(0);
    rig.inside("bob", "true");
    rig.converged();
}

pub(super) fn what_runs_anew_is_what_the_tree_says_now(rig: &Rig) {
    working(rig);
    rig.tree.agent("ada", "dev", &format!("skills: [greet]\n{COMMAND}"), "You are Ada.");
    let done = rig.order(&["-o", "json", "restart", "ada"]).exits(0).json();
    assert_eq!(verdicts(&done), ["ada reprovision"], "{done}");
    let machine = &done["changes"].as_array().unwrap().iter().find(|c| c["resource"] == "machine");
    assert_eq!(machine.unwrap()["class"], "restart", "{done}");
    assert!(done["outcomes"].as_array().unwrap().iter().all(|o| o["outcome"] == "done"), "{done}");
    runs(rig, 2);
    assert_eq!(rig.inside("ada", "cat /var/tmp/mine /var/tmp/ends"), "mine\nasked");
    assert_eq!(rig.inside("ada", "cat /etc/bottle/prompt.md"), "You are Ada.");
    rig.converged();
    // It ends a stop as well.
    rig.order(&["stop", "ada"]).exits(0);
    rig.order(&["restart", "ada", "bob"]).exits(0);
    runs(rig, 3);
    assert!(!rig.record("ada").exists());
    rig.converged();
}

/// Whoever starts one that the operator stopped does so for a moment.
pub(super) fn what_somebody_else_starts_is_stopped_again(rig: &Rig) {
    working(rig);
    rig.order(&["stop", "ada"]).exits(0);
    if rig.backend == "docker" {
        // Neither it nor its sidecar comes back with the engine.
        let of_ada = ["--filter", "label=io.bottle.sandbox=ada"];
        for container in rig.containers(&of_ada) {
            let policy = ["inspect", "-f", "{{.HostConfig.RestartPolicy.Name}}", &container];
            assert_eq!(docker(&policy).trim(), "no");
        }
        docker(&["start", &rig.container("ada")]);
    } else {
        // As an earlier version does it, which knows no such records.
        let record = std::fs::read(rig.record("ada")).unwrap();
        std::fs::remove_file(rig.record("ada")).unwrap();
        rig.apply(0);
        std::fs::write(rig.record("ada"), record).unwrap();
    }
    assert_eq!(rig.status("ada")["state"], "running");
    let plan = rig.order(&["plan"]).exits(2).stdout;
    assert!(plan.contains("you stopped it, and it runs: is stopped again"), "{plan}");
    rig.apply(0);
    is_down(rig);
    rig.converged();
    rig.order(&["start", "ada"]).exits(0);
    if rig.backend == "docker" {
        // It is to stay up as well where somebody was faster.
        rig.order(&["stop", "ada"]).exits(0);
        docker(&["start", &rig.container("ada")]);
        rig.order(&["start", "ada"]).exits(0);
        for container in rig.containers(&["--filter", "label=io.bottle.sandbox=ada"]) {
            let policy = ["inspect", "-f", "{{.HostConfig.RestartPolicy.Name}}", &container];
            assert_eq!(docker(&policy).trim(), "always");
        }
    }
    let deep = rig.cli.run(["plan", &rig.tree_path(), "--deep"]);
    assert_eq!(deep.code, Some(0), "{}", deep.stdout);
}

/// A new machine takes its place with all of the work, and does not start; a removed sandbox is forgotten.
pub(super) fn a_stopped_one_is_replaced_and_removed_as_any_other(rig: &Rig) {
    let folder = rig.cli.home().join("site");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("a"), "one\n").unwrap();
    let bottle = |target: &str| {
        rig.bottle(&format!("workspace:\n  path: {}\n  target: {target}\n", folder.display()));
    };
    bottle("/workspace");
    rig.agents(1);
    rig.apply(0);
    rig.inside("a0", "echo changed > /workspace/a; echo note > ~/note");
    rig.order(&["stop", "a0"]).exits(0);
    bottle("/work");
    let done = rig.apply(0);
    assert_eq!(verdicts(&done), ["a0 replace"]);
    assert!(done.to_string().contains(r#""keeps":["workspace","home"]"#), "{done}");
    // What it worked on waits for its start, and nobody removes it meanwhile.
    let listed = rig.cli.run(["--tree", &rig.tree_path(), "snapshot", "list", "-o", "json"]);
    let id = listed.exits(0).json()["snapshots"][0]["id"].as_str().unwrap().to_owned();
    let kept = rig.cli.run(["--tree", &rig.tree_path(), "snapshot", "remove", &id]).exits(1);
    assert!(kept.stderr.contains("on its way into its new machine"), "{}", kept.stderr);
    rig.converged();
    assert_eq!(rig.status("a0")["state"], "stopped by you");
    assert_eq!(rig.exec("a0", "true").code, Some(125));
    rig.order(&["start", "a0"]).exits(0);
    assert_eq!(rig.inside("a0", "cat /work/a ~/note"), "changed\nnote");
    rig.converged();
    // Where the tree wants another machine, `start` does what `apply` does, and asks as it does.
    rig.order(&["stop", "a0"]).exits(0);
    bottle("/elsewhere");
    let asked = rig.order(&["start", "a0"]).exits(1);
    assert!(asked.stderr.contains("`bottle start --yes`"), "{}", asked.stderr);
    assert!(rig.record("a0").exists());
    rig.order(&["start", "a0", "--yes"]).exits(0);
    assert_eq!(rig.inside("a0", "cat /elsewhere/a ~/note"), "changed\nnote");

    // What waits for the start of one that goes before it stays in its snapshot, and another agent of the name
    // does not get it unasked.
    rig.order(&["stop", "a0"]).exits(0);
    bottle("/work");
    rig.apply(0);
    rig.agent("b0", "You are b0.");
    rig.tree.remove("agents/a0.md");
    rig.apply_with(&["--allow-teardown", "all"]).exits(0);
    assert!(!rig.record("a0").exists());
    rig.agent("a0", "You are another a0.");
    rig.apply(0);
    assert_eq!(rig.inside("a0", "cat /work/a; ls ~/note 2>&1 | grep -c 'No such'"), "one\n1");
    rig.order(&["snapshot", "restore", "a0"]).exits(0);
    assert_eq!(rig.inside("a0", "cat ~/note"), "note");
    rig.tree.remove("agents/a0.md");
    rig.apply_with(&["--allow-teardown", "all"]).exits(0);
    rig.order(&["stop", "b0"]).exits(0);
    rig.down().exits(0);
    assert!(!rig.record("b0").exists());
    rig.apply(0);
    rig.inside("b0", "true");
}

pub(super) fn what_cannot_be_stopped_or_started_says_why(rig: &Rig) {
    rig.agents(2);
    let nothing = rig.order(&["stop", "a0"]).exits(1);
    assert!(nothing.stderr.contains("there is nothing to stop"), "{}", nothing.stderr);
    rig.apply(0);
    for command in ["stop", "start", "restart"] {
        let unknown = rig.order(&[command, "a0", "nobody"]).exits(1);
        assert!(unknown.stderr.contains("there is no sandbox nobody"), "{}", unknown.stderr);
        assert!(unknown.stderr.contains("there are: a0, a1"), "{}", unknown.stderr);
    }
    rig.inside("a0", "true");
    assert!(!rig.record("a0").exists());
    // Another tree's are not seen.
    let other = Rig::like(rig);
    other.agent("zoe", "You are zoe.");
    let theirs = other.order(&["stop", "a0"]).exits(1);
    assert!(theirs.stderr.contains("there is no sandbox a0"), "{}", theirs.stderr);
    drop(other);
    // What is not declared goes with the next `apply`, and is not started.
    rig.order(&["stop", "a0"]).exits(0);
    rig.tree.remove("agents/a0.md");
    let undeclared = rig.order(&["start", "a0"]).exits(1);
    assert!(undeclared.stderr.contains("does not declare a0"), "{}", undeclared.stderr);
    // A file that does not parse keeps it from starting, and not from being stopped.
    rig.tree.write("agents/a0.md", "---\nbottle: [\n");
    rig.order(&["start", "a0"]).exits(3);
    rig.tree.write("agents/a1.md", "---\nbottle: [\n");
    rig.order(&["stop", "a1"]).exits(0);
    assert_eq!(rig.exec("a1", "true").code, Some(125));
    rig.agents(2);
    rig.order(&["start", "a0", "a1"]).exits(0);
    rig.converged();

    // One that the tree keeps down is not started, and stays stopped.
    rig.order(&["stop", "a0"]).exits(0);
    rig.tree.agent("a0", "dev", "suspend: true\n", "You are a0.");
    for word in ["start", "restart"] {
        let kept = rig.order(&[word, "a0"]).exits(1);
        assert!(kept.stderr.contains("a0 is suspended"), "{}", kept.stderr);
    }
    assert!(rig.record("a0").exists());
    rig.agents(2);
    rig.order(&["start", "a0"]).exits(0);
    rig.converged();

    // A damaged record holds its sandbox, running or not, names the file, and is set right by either word.
    for damage in ["", "[17]"] {
        std::fs::create_dir_all(rig.memory().join("stopped")).unwrap();
        std::fs::write(rig.record("a0"), damage).unwrap();
        let held = rig.apply(3);
        assert_eq!(verdicts(&held), ["a0 hold"]);
        let told = held.to_string();
        assert!(told.contains("stopped/a0.json") && told.contains("`bottle start a0`"), "{told}");
        rig.inside("a0", "true");
        rig.order(&["start", "a0"]).exits(0);
        rig.converged();
        std::fs::write(rig.record("a0"), damage).unwrap();
        rig.order(&["stop", "a0"]).exits(0);
        assert_eq!(rig.status("a0")["state"], "stopped by you");
        rig.converged();
        rig.order(&["start", "a0"]).exits(0);
    }
}

/// Beside `watch`, which has the tree's lock: it leaves alone what is stopped, and starts what is started.
pub(super) fn watch_keeps_to_it(rig: &Rig) {
    working(rig);
    let mut watch = Watch::start(rig);
    rig.order(&["stop", "ada"]).exits(0);
    is_down(rig);
    // It goes on with all else.
    rig.agent("bob", "You are BOB.");
    wait_for("the edit", || rig.exec("bob", "cat /etc/bottle/prompt.md").stdout.contains("BOB"));
    std::thread::sleep(std::time::Duration::from_secs(2));
    is_down(rig);
    let started = rig.order(&["start", "ada"]).exits(0);
    assert!(started.stderr.contains("`watch` has started it"), "{}", started.stderr);
    runs(rig, 2);
    // That it goes down is ordered each time: no crash, and no next try that is put off.
    for run in 3..7 {
        rig.order(&["restart", "ada"]).exits(0);
        runs(rig, run);
    }
    let passes = std::fs::read_to_string(rig.cli.cwd().join("passes.jsonl")).unwrap();
    assert!(!passes.contains(r#""attempts""#), "{passes}");
    let json = rig.order(&["-o", "json", "stop", "ada"]).exits(0).json();
    assert_eq!(json["outcomes"][0]["outcome"], "done", "{json}");
    assert_eq!(watch.stop(), Some(0));
    rig.apply(0);
    is_down(rig);
    rig.converged();
}
