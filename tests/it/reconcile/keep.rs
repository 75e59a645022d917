//! `keep` of a bottle: what it names outlives the machine, and nothing else does.

use serde_json::{Value, json};

use super::rig::{Rig, verdicts};
use crate::support::Ended;

const ALL: [&str; 2] = ["--allow-teardown", "all"];

/// A workspace of one file, and a bottle that has it in some way.
fn bottle(rig: &Rig, workspace: &str, keep: &str) {
    let folder = rig.cli.home().join("site");
    if !folder.exists() {
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("a"), "one\n").unwrap();
    }
    rig.bottle(&format!("workspace:\n  path: {}\n{workspace}keep: {keep}\n", folder.display()));
}

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

fn plan(rig: &Rig, more: &[&str]) -> Ended {
    let tree = rig.tree_path();
    let mut all = vec!["plan", &tree];
    all.extend(more);
    rig.cli.run(all)
}

const NAMED: &str =
    "[workspace, home, /var/tmp/app, /var/tmp/state.db, /var/tmp/none, /var/tmp/link]";

const WORK: &str = "echo changed > /workspace/a; echo note > ~/note; cd /var/tmp && mkdir -p app/deep && \
                    echo one > app/deep/a && chmod 640 app/deep/a && ln app/deep/a app/same && \
                    ln -s deep/a app/to && touch -d '2001-02-03 04:05:06' app/deep/a && chmod 2750 app/deep && \
                    mkdir -p app/node_modules && echo db > state.db && chmod 600 state.db && \
                    ln -s /etc link && echo other > other";

/// What there is of it: names, modes, owners, times, links, content.
const LOOK: &str = "cd /var/tmp && ls -lnRd app app/deep app/to app/same state.db && cat app/to state.db ~/note && \
                    stat -c '%Y %h' app/deep/a && [ app/same -ef app/deep/a ] && echo same";

/// Files and folders of the machine's own, into the next one and into a snapshot and back.
pub(super) fn named_paths_outlive_their_machine(rig: &Rig) {
    bottle(rig, "", NAMED);
    rig.agent("ada", "You are ada.");
    rig.apply(0);
    rig.inside("ada", WORK);
    let look = rig.inside("ada", LOOK);
    bottle(rig, "  target: /work\n", NAMED);
    let planned = plan(rig, &[]).exits(2);
    let says = "keeps workspace, home, /var/tmp/app";
    let line = planned.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(line.contains(says), "{}", planned.stdout);
    let done = rig.apply_with(&[]).exits(0);
    let document = done.json();
    assert_eq!(verdicts(&document), ["ada replace"]);
    let names = json!([
        "workspace",
        "home",
        "/var/tmp/app",
        "/var/tmp/link",
        "/var/tmp/none",
        "/var/tmp/state.db"
    ]);
    assert_eq!(machine(&document)["keeps"], names);
    assert_eq!(machine(&document)["loses"], json!(["the rest"]));
    for (path, why) in
        [("/var/tmp/none", "there is no such thing"), ("/var/tmp/link", "it is a link")]
    {
        let told = done.stderr.lines().any(|line| line.contains(path) && line.contains(why));
        assert!(told, "{path} {why}: {}", done.stderr);
    }
    // A set-id bit is no work of anybody's.
    let plain = look.replace("drwxr-s---", "drwxr-x---");
    assert_eq!(rig.inside("ada", LOOK), plain);
    let rest = "cat /work/a; ls /var/tmp/other /var/tmp/link 2>&1 | grep -c 'No such'; ls -d /var/tmp/app/node_modules";
    assert_eq!(rig.inside("ada", rest), "changed\n2\n/var/tmp/app/node_modules");
    rig.converged();
    // What programs can make again is in no other snapshot.
    rig.inside("ada", "rm -r /var/tmp/app/node_modules");
    let plain = rig.inside("ada", LOOK);

    // One that somebody asks for has them, too, and gives them back.
    let saved = snapshot(rig, &["save", "ada", "-o", "json"]).exits(0).json();
    let paths = saved["snapshots"][0]["paths"].to_string();
    assert!(paths.contains("\"/var/tmp/app\",\"/var/tmp/state.db\""), "{paths}");
    rig.inside("ada", "rm -r /var/tmp/app /var/tmp/state.db; echo later > /var/tmp/other");
    snapshot(rig, &["restore", "ada"]).exits(0);
    assert_eq!(rig.inside("ada", LOOK), plain);
    assert_eq!(rig.inside("ada", "cat /var/tmp/other"), "later", "nothing else is touched");

    rig.tree.remove("agents/ada.md");
    rig.apply_with(&ALL).exits(0);
    let to = rig.cli.home().join("out");
    snapshot(rig, &["restore", "ada", "--to", to.to_str().unwrap()]).exits(0);
    assert_eq!(std::fs::read_to_string(to.join("var/tmp/state.db")).unwrap(), "db\n");
    assert_eq!(std::fs::read_to_string(to.join("var/tmp/app/to")).unwrap(), "one\n");
    assert!(!to.join("var/tmp/other").exists() && !to.join("var/tmp/link").exists());
    rig.agent("ada", "You are ada again.");
    rig.apply(0);
    snapshot(rig, &["restore", "ada"]).exits(0);
    assert_eq!(rig.inside("ada", LOOK), plain);
}

/// Root inside has no right over others' folders in most machines: what it cannot see may be there.
pub(super) fn what_lies_behind_a_closed_folder_is_kept(rig: &Rig) {
    bottle(rig, "", "[home]");
    rig.agent("ada", "You are ada.");
    rig.apply(0);
    let home = rig.inside("ada", "echo ~");
    let home = home.trim();
    bottle(rig, &format!("  target: {home}/work\n"), &format!("[workspace, {home}/.config/app]"));
    rig.apply(0);
    let work = "cd && echo changed > work/a && mkdir -p .config/app && echo mine > .config/app/x && \
                chmod 700 ~ .config .config/app";
    rig.inside("ada", work);
    bottle(rig, "  target: /work\n", &format!("[workspace, {home}/.config/app]"));
    rig.apply(0);
    assert_eq!(rig.inside("ada", "cat /work/a ~/.config/app/x"), "changed\nmine");
    rig.inside("ada", "chmod 700 ~ && echo more > ~/.config/app/x");
    rig.tree.remove("agents/ada.md");
    rig.apply_with(&ALL).exits(0);
    let to = rig.cli.home().join("out");
    snapshot(rig, &["restore", "ada", "--to", to.to_str().unwrap()]).exits(0);
    assert_eq!(std::fs::read_to_string(to.join("work/a")).unwrap(), "changed\n");
    let config = to.join(home.trim_start_matches('/')).join(".config/app/x");
    assert_eq!(std::fs::read_to_string(config).unwrap(), "more\n");
}

/// An edit changes nothing of what runs; from then on it counts, also for one whose file is gone.
pub(super) fn what_the_tree_said_last_holds_for_one_that_is_gone(rig: &Rig) {
    bottle(rig, "", "[workspace, home]");
    rig.agent("ada", "You are ada.");
    rig.agent("bob", "You are bob.");
    rig.apply(0);
    for name in ["ada", "bob"] {
        rig.inside(name, "echo note > ~/note; mkdir -p /var/tmp/app && echo own > /var/tmp/app/a");
    }
    bottle(rig, "", "[/var/tmp/app]");
    let before = rig.inside("ada", "cat /proc/sys/kernel/random/boot_id; stat -c %i /");
    rig.converged();
    assert_eq!(verdicts(&rig.apply(0)), Vec::<String>::new());
    assert_eq!(rig.inside("ada", "cat /proc/sys/kernel/random/boot_id; stat -c %i /"), before);

    // The bottle says something else by now, of those that it still has.
    rig.tree.remove("agents/ada.md");
    bottle(rig, "", "[home]");
    let planned =
        rig.cli.run(["-o", "json", "plan", &rig.tree_path(), ALL[0], ALL[1]]).exits(2).json();
    let gone = machine(&planned);
    assert_eq!(
        (&gone["sandbox"], &gone["keeps"]),
        (&json!("ada"), &json!(["/var/tmp/app"])),
        "{gone}"
    );
    assert_eq!(gone["loses"], json!(["workspace", "home", "the rest"]));
    rig.apply_with(&ALL).exits(0);
    let kept = snapshots(rig);
    assert_eq!(kept[0]["paths"], json!(["/var/tmp/app"]), "{kept:?}");

    // A bottle that does not hold says nothing; what it said last does.
    rig.bottle("keep: [/proc]\n");
    let broken = rig.cli.run(["check", &rig.tree_path()]).exits(1);
    let said = broken.stdout + &broken.stderr;
    assert!(said.contains("bottles/dev.md:7:8") && said.contains("made anew"), "{said}");
    let said = rig.down().exits(0);
    assert!(
        said.stdout.contains("home is kept as a snapshot; workspace is lost"),
        "{}",
        said.stdout
    );
    let kept = snapshots(rig);
    let home = kept.iter().find(|one| one["sandbox"] == "bob").unwrap();
    assert_eq!(home["paths"], json!([home["home"]]), "{home}");
    rig.bottle("");
}

/// By the bottle's word, as by `--discard`: the next machine starts as a first one.
pub(super) fn with_nothing_named_nothing_is_kept(rig: &Rig) {
    bottle(rig, "", "[]");
    rig.agent("ada", "You are ada.");
    rig.apply(0);
    rig.inside("ada", "echo note > ~/note; echo changed > /workspace/a");
    let refused = snapshot(rig, &["save", "ada"]).exits(1);
    assert!(refused.stderr.contains("`keep: []` of its bottle"), "{}", refused.stderr);
    bottle(rig, "  target: /work\n", "[]");
    let done = rig.apply(0);
    let gone = machine(&done);
    assert_eq!((&gone["verdict"], &gone["keeps"]), (&json!("replace"), &json!([])), "{gone}");
    assert_eq!(gone["loses"], json!(["workspace", "home", "the rest"]));
    assert!(gone["notes"].to_string().contains("nothing is kept"), "{gone}");
    assert_eq!(rig.inside("ada", "cat /work/a; ls ~/note 2>&1 | grep -c 'No such'"), "one\n1");
    rig.converged();
    // The home alone: the workspace is another copy.
    rig.inside("ada", "echo note > ~/note; echo changed > /work/a");
    bottle(rig, "", "[home]");
    let done = rig.apply(0);
    assert_eq!(machine(&done)["loses"], json!(["workspace", "the rest"]));
    assert_eq!(
        rig.inside("ada", "cat /workspace/a ~/note ~/.claude/skills/greet/SKILL.md"),
        "one\nnote\nsay hi"
    );
    bottle(rig, "", "[]");
    rig.converged();
    rig.apply(0);
    rig.tree.remove("agents/ada.md");
    rig.agent("bob", "You are bob.");
    rig.apply(0);
    let kept = snapshots(rig);
    assert!(kept.iter().all(|one| one["why"] == "replace"), "only the home of a replace: {kept:?}");
}

/// Also where nobody can be asked inside.
pub(super) fn one_that_does_not_run_gives_its_paths(rig: &Rig) {
    bottle(rig, "", "[/var/tmp/app, /var/tmp/state.db, /var/tmp/none]");
    rig.agent("ada", "You are ada.");
    rig.agent("bob", "You are bob.");
    rig.apply(0);
    rig.inside("ada", WORK);
    rig.crash("ada");
    rig.tree.remove("agents/ada.md");
    rig.apply_with(&ALL).exits(0);
    let kept = snapshots(rig);
    assert_eq!(kept[0]["paths"], json!(["/var/tmp/app", "/var/tmp/state.db"]), "{kept:?}");
    let to = rig.cli.home().join("out");
    snapshot(rig, &["restore", "ada", "--to", to.to_str().unwrap()]).exits(0);
    assert_eq!(std::fs::read_to_string(to.join("var/tmp/app/deep/a")).unwrap(), "one\n");
    assert_eq!(std::fs::read_to_string(to.join("var/tmp/state.db")).unwrap(), "db\n");
    assert!(!to.join("workspace").exists() && !to.join("var/tmp/other").exists());
}

/// X27: what is the host's stays there, and links of the guest lead neither to it nor to what is `bottle`'s.
pub(super) fn what_is_mounted_or_behind_a_link_is_not_kept(rig: &Rig) {
    let mount = "  mode: mount\n  target: /var/tmp/site\n";
    let keep = "[/var/tmp, /tmp/way/bottle, /tmp/in/a, /tmp/here/x]";
    bottle(rig, mount, keep);
    let folder = rig.cli.home().join("site");
    let checked = rig.cli.run(["check", &rig.tree_path()]).exits(0);
    let said = checked.stdout + &checked.stderr;
    let one_line = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(one_line.contains("stays on this machine, and is not kept"), "{said}");
    rig.agent("ada", "You are ada.");
    rig.apply(0);
    let work = "echo mine > /var/tmp/mine && cd /tmp && ln -s /run way && ln -s /var/tmp/site in && \
                mkdir there && echo x > there/x && ln -s there here && ln -s /run/bottle /var/tmp/sly && \
                ln -s site /var/tmp/other";
    rig.inside("ada", work);
    std::fs::write(folder.join("hosts"), "of the host\n").unwrap();
    let saved = snapshot(rig, &["save", "ada", "-o", "json"]).exits(0);
    let paths = saved.json()["snapshots"][0]["paths"].clone();
    assert_eq!(paths, json!(["/tmp/here/x", "/var/tmp"]), "{}", saved.stderr);
    for (path, to) in [("/tmp/way/bottle", "/run/bottle"), ("/tmp/in/a", "/var/tmp/site")] {
        let told = saved.stderr.lines().any(|line| line.contains(path) && line.contains(to));
        assert!(told, "{path}: {}", saved.stderr);
    }
    // As a file it has what is the guest's, links as links, and nothing of the host's.
    let to = rig.cli.home().join("out");
    snapshot(rig, &["restore", "ada", "--to", to.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(to.join("var/tmp/mine")).unwrap(), "mine\n");
    assert_eq!(std::fs::read_to_string(to.join("tmp/here/x")).unwrap(), "x\n");
    assert!(!to.join("var/tmp/site").exists());

    // Into the next machine, beside the same folder of the host, which stays as it is.
    bottle(rig, "  mode: mount\n  target: /var/tmp/there\n", keep);
    let done = rig.apply(0);
    assert_eq!(verdicts(&done), ["ada replace"]);
    let look = "cat /var/tmp/mine /var/tmp/there/hosts /tmp/here/x; ls -d /var/tmp/site 2>&1 | \
                grep -c 'No such'; readlink /var/tmp/sly";
    assert_eq!(rig.inside("ada", look), "mine\nof the host\nx\n1\n/run/bottle");
    assert_eq!(
        std::fs::read_dir(&folder).unwrap().count(),
        2,
        "nothing came into the host's folder"
    );
    rig.converged();
}
