//! What of the host sandboxes are given: nothing that another can put something else in the place of,
//! and nothing but what was accepted when the machine was made.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::rig::{Rig, docker, verdicts};
use crate::support::{Alias, TempTree};

/// A folder for workspaces, by its canonical path.
struct Place(#[allow(dead_code)] tempfile::TempDir, PathBuf);

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        Self(folder, path)
    }

    fn folder(&self, name: &str) -> PathBuf {
        let path = self.1.join(name);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("name"), name).unwrap();
        path
    }
}

/// Writes a bottle and its agent, of one name, with a workspace.
fn sandbox(rig: &Rig, tree: &TempTree, name: &str, path: &Path, mode: &str) {
    let (backend, image) = (rig.backend, rig.image());
    let path = path.display();
    tree.bottle(
        name,
        &format!(
            "backend: {backend}\nimage: {image}\nuser: 0\nresources:\n  pids: 64\n  memory: 128M\n\
             workspace: {{path: {path}, mode: {mode}}}"
        ),
    );
    tree.agent(name, name, "", "x");
}

fn reason(plan: &Value, name: &str) -> String {
    let changes = plan["changes"].as_array().unwrap();
    let of = |c: &&Value| c["sandbox"] == name && c["resource"] == "machine";
    changes.iter().find(of).unwrap()["reason"].to_string()
}

fn notes(plan: &Value, name: &str) -> String {
    let changes = plan["changes"].as_array().unwrap();
    let of = |c: &&Value| c["sandbox"] == name && c["resource"] == "machine";
    changes.iter().find(of).unwrap()["notes"].to_string()
}

fn record(rig: &Rig) -> String {
    fs::read_to_string(rig.memory().join("sources.json")).unwrap_or_default()
}

pub(super) fn a_folder_in_what_another_can_write_is_held(rig: &Rig) {
    let place = Place::new();
    let outer = place.folder("w");
    let inner = place.folder("w/sub");
    for mode in ["mount", "copy"] {
        sandbox(rig, &rig.tree, "outer", &outer, "mount");
        sandbox(rig, &rig.tree, "inner", &inner, mode);
        let done = rig.apply(3);
        assert_eq!(verdicts(&done), ["inner hold", "outer hold"], "{mode}");
        assert!(done["steps"].as_array().unwrap().is_empty(), "{done}");
        let tree = rig.tree.path().display().to_string();
        let checked = rig.cli.run(["-o", "json", "check", &tree]).exits(1).json();
        let said = checked["diagnostics"].to_string();
        assert!(said.contains("lies in") && said.contains("sandbox outer"), "{said}");
        assert!(said.contains("contains") && said.contains("sandbox inner"), "{said}");
        assert!(said.contains("\"bottles/inner.md\"") && said.contains("\"line\":8"), "{said}");
    }
    // A link leads into it as well as its name does.
    symlink(&inner, place.1.join("link")).unwrap();
    sandbox(rig, &rig.tree, "inner", &place.1.join("link"), "mount");
    assert_eq!(verdicts(&rig.apply(3)), ["inner hold", "outer hold"]);
    // Beside each other nobody can reach the other's.
    let beside = place.folder("v");
    sandbox(rig, &rig.tree, "inner", &beside, "mount");
    assert_eq!(verdicts(&rig.apply(0)), ["inner create", "outer create"]);
    assert_eq!(rig.inside("inner", "cat /workspace/name"), "v");
    rig.converged();
    assert!(record(rig).contains(&beside.display().to_string()), "{}", record(rig));
}

/// The link is there before the sandbox that would be given what it leads to.
pub(super) fn a_link_in_what_another_can_write_leads_nowhere(rig: &Rig) {
    let place = Place::new();
    let outer = place.folder("w");
    let secret = place.folder("hostonly");
    place.folder("w/sub");
    sandbox(rig, &rig.tree, "outer", &outer, "mount");
    rig.apply(0);
    let hostonly = secret.display();
    rig.inside(
        "outer",
        &format!("mv /workspace/sub /workspace/x; ln -s {hostonly} /workspace/sub"),
    );
    let image = rig.image();
    let inner = |fields: &str| {
        let backend = rig.backend;
        rig.tree.bottle("inner", &format!("backend: {backend}\nimage: {image}\n{fields}"));
        rig.tree.agent("inner", "inner", "", "x");
    };
    let linked = outer.join("sub");
    // Through the link in the middle of a path, and by a link of the operator's own to it, too.
    symlink(&linked, place.1.join("own")).unwrap();
    fs::create_dir(secret.join("deep")).unwrap();
    for path in [linked.clone(), place.1.join("own"), linked.join("deep"), linked.join("../v")] {
        place.folder("v");
        let path = path.display();
        let mut named = vec![
            format!("workspace: {{path: {path}, mode: mount}}"),
            format!("workspace: {{path: {path}, mode: copy}}"),
        ];
        if rig.backend == "native" {
            named.push(format!("host_paths: [{path}]"));
        }
        for fields in named {
            inner(&fields);
            let held = rig.apply(3);
            assert_eq!(verdicts(&held), ["inner hold", "outer hold"], "{fields}");
            let said = held["diagnostics"].to_string();
            let way = format!("leads through `{}`", linked.display());
            assert!(said.contains(&way) && said.contains("sandbox outer"), "{fields}: {said}");
        }
    }
    // The same for what the tree itself is made of.
    rig.tree.remove("agents/inner.md");
    let agent = place.1.join("hostonly/inner.md");
    fs::write(&agent, "---\nbottle: outer\n---\nx\n").unwrap();
    fs::set_permissions(&agent, fs::Permissions::from_mode(0o644)).unwrap();
    symlink(linked.join("inner.md"), rig.tree.path().join("agents/linked.md")).unwrap();
    assert_eq!(verdicts(&rig.apply(3)), ["linked hold", "outer hold"]);
}

pub(super) fn a_second_name_of_a_folder_is_no_way_around(rig: &Rig) {
    let place = Place::new();
    let (outer, alias) = (place.folder("w"), place.folder("alias"));
    place.folder("w/sub");
    let Some(_alias) = Alias::new(&outer, &alias) else { return };
    for (writer, reader) in [(&outer, &alias), (&alias, &outer)] {
        sandbox(rig, &rig.tree, "outer", writer, "mount");
        for mode in ["mount", "copy"] {
            sandbox(rig, &rig.tree, "inner", &reader.join("sub"), mode);
            let held = rig.apply(3);
            assert_eq!(verdicts(&held), ["inner hold", "outer hold"], "{mode}: {held}");
            let said = held["diagnostics"].to_string();
            assert!(said.contains("under other names"), "{said}");
        }
    }
    // What another tree has accepted is known by where it lies, too.
    rig.tree.remove("agents/inner.md");
    sandbox(rig, &rig.tree, "outer", &outer, "mount");
    rig.apply(0);
    let other = TempTree::new("elsewhere");
    sandbox(rig, &other, "inner", &alias.join("sub"), "copy");
    let path = other.path().display().to_string();
    let held = rig.cli.run(["-o", "json", "apply", &path, "--yes"]).exits(3).json();
    assert_eq!(verdicts(&held), ["inner hold"]);
    // The very same folder may be shared.
    sandbox(rig, &other, "inner", &alias, "copy");
    rig.cli.run(["-o", "json", "apply", &path, "--yes"]).exits(0);
    rig.cli.run(["down", &path, "--yes"]).exits(0);
}

pub(super) fn a_sandbox_of_another_tree_counts_as_well(rig: &Rig) {
    let place = Place::new();
    let outer = place.folder("w");
    sandbox(rig, &rig.tree, "outer", &outer, "mount");
    rig.apply(0);
    let other = TempTree::new("elsewhere");
    sandbox(rig, &other, "inner", &place.folder("w/sub"), "copy");
    let path = other.path().display().to_string();
    let apply = || rig.cli.run(["-o", "json", "apply", &path, "--yes"]);
    let held = apply().exits(3).json();
    assert_eq!(verdicts(&held), ["inner hold"]);
    let said = held["diagnostics"].to_string();
    let tree = rig.tree.path().canonicalize().unwrap();
    assert!(said.contains("sandbox outer of the tree"), "{said}");
    assert!(said.contains(&tree.display().to_string()), "{said}");
    // The very same folder may be shared, and the plan says so.
    sandbox(rig, &other, "inner", &outer, "mount");
    let made = apply().exits(0).json();
    assert!(notes(&made, "inner").contains("sandbox outer of the tree"), "{made}");
    rig.cli.run(["down", &path, "--yes"]).exits(0);
    // What is gone is in nobody's way.
    sandbox(rig, &other, "inner", &place.folder("w/sub"), "mount");
    rig.cli.run(["down", &rig.tree.path().display().to_string(), "--yes"]).exits(0);
    let made = apply().exits(0).json();
    assert_eq!(verdicts(&made), ["inner create"]);
    rig.cli.run(["down", &path, "--yes"]).exits(0);
}

pub(super) fn the_folder_of_an_overlay_is_named(rig: &Rig) {
    rig.bottle("overlay: true");
    let project = TempTree::new("project");
    project.agent("guest", "dev", "", "x");
    let overlay = project.path().canonicalize().unwrap().display().to_string();
    let tree = rig.tree.path().display().to_string();
    let args = ["plan", &tree, "--overlay", &overlay];
    let text = rig.cli.run(args).exits(2).stdout;
    assert!(text.contains(&format!("overlay {overlay}")), "{text}");
    assert!(text.replace("\n  ", " ").contains("guest: an agent of the overlay"), "{text}");
    let json = rig.cli.run(["-o", "json"].into_iter().chain(args)).exits(2).json();
    assert_eq!(json["tree"]["overlays"][0], overlay.as_str(), "{json}");
    assert!(notes(&json, "guest").contains(&overlay), "{json}");
}

pub(super) fn a_shared_folder_is_said_by_check_and_plan(rig: &Rig) {
    let place = Place::new();
    let work = place.folder("w");
    sandbox(rig, &rig.tree, "one", &work, "mount");
    sandbox(rig, &rig.tree, "two", &work, "copy");
    let tree = rig.tree.path().display().to_string();
    let plan = rig.plan().exits(2).json();
    assert!(notes(&plan, "one").contains("sandbox two (reads it)"), "{plan}");
    assert!(notes(&plan, "two").contains("sandbox one (writes it)"), "{plan}");
    let json = rig.cli.run(["-o", "json", "check", &tree]).exits(0).json();
    assert!(json["notes"]["one"][0].to_string().contains("sandbox two"), "{json}");
    let text = rig.cli.run(["check", &tree]).exits(0).stdout;
    assert!(text.contains("note: one: shares"), "{text}");
}

pub(super) fn what_leads_elsewhere_is_held_and_what_is_written_anew_is_not(rig: &Rig) {
    let place = Place::new();
    let (accepted, other) = (place.folder("accepted"), place.folder("hostonly"));
    let link = place.1.join("link");
    symlink(&accepted, &link).unwrap();
    sandbox(rig, &rig.tree, "ada", &link, "mount");
    rig.apply(0);
    rig.converged();
    fs::remove_file(&link).unwrap();
    symlink(&other, &link).unwrap();
    let held = rig.apply(3);
    assert_eq!(verdicts(&held), ["ada hold"]);
    let why = reason(&held, "ada");
    for text in [&accepted, &other, &link] {
        assert!(why.contains(&text.display().to_string()), "{why}");
    }
    assert_eq!(rig.inside("ada", "cat /workspace/name"), "accepted");
    // Also when what was accepted is forgotten: the machine itself says what it has.
    let remembered = record(rig);
    fs::remove_file(rig.memory().join("sources.json")).unwrap();
    let held = rig.apply(3);
    assert_eq!(verdicts(&held), ["ada hold"]);
    assert!(reason(&held, "ada").contains("is not recorded"), "{held}");
    fs::write(rig.memory().join("sources.json"), remembered).unwrap();
    // Also when it went down: nothing starts on what somebody else has put there.
    rig.crash("ada");
    assert_eq!(verdicts(&rig.apply(3)), ["ada hold"]);
    // The way out is to say what is meant, or to put it back.
    sandbox(rig, &rig.tree, "ada", &other, "mount");
    assert_eq!(verdicts(&rig.apply(0)), ["ada replace"]);
    assert_eq!(rig.inside("ada", "cat /workspace/name"), "hostonly");
    rig.converged();
    assert!(!record(rig).contains("accepted\""), "{}", record(rig));
}

pub(super) fn what_leaves_makes_room_in_the_same_run(rig: &Rig) {
    let place = Place::new();
    let outer = place.folder("w");
    let inner = place.folder("w/sub");
    sandbox(rig, &rig.tree, "outer", &outer, "mount");
    rig.apply(0);
    rig.tree.remove("agents/outer.md");
    sandbox(rig, &rig.tree, "inner", &inner, "mount");
    // Looked at by itself, the other one stays, and with it what it can do.
    let alone = rig.apply_with(&["--only", "inner"]).exits(3).json();
    assert_eq!(verdicts(&alone), ["inner hold"]);
    assert!(reason(&alone, "inner").contains("sandbox outer"), "{alone}");
    assert_eq!(verdicts(&rig.apply(0)), ["inner create", "outer teardown"]);
    assert_eq!(rig.inside("inner", "cat /workspace/name"), "w/sub");
    rig.converged();
}

pub(super) fn a_path_that_others_can_change_is_held(rig: &Rig) {
    let place = Place::new();
    let open = place.folder("open");
    let work = place.folder("open/work");
    let mode = |mode| fs::set_permissions(&open, fs::Permissions::from_mode(mode)).unwrap();
    sandbox(rig, &rig.tree, "ada", &work, "mount");
    mode(0o777);
    let held = rig.apply(3);
    assert_eq!(verdicts(&held), ["ada hold"]);
    let said = held["diagnostics"].to_string();
    assert!(said.contains(&format!("chmod o-w {}", open.display())), "{said}");
    mode(0o1777);
    assert_eq!(verdicts(&rig.apply(0)), ["ada create"]);
    rig.converged();
}

/// The engine alone starts a container again: by its restart policy, or as after a reboot.
pub(super) fn a_restart_by_the_engine_mounts_what_was_accepted(rig: &Rig) {
    let place = Place::new();
    let (work, other) = (place.folder("work"), place.folder("hostonly"));
    sandbox(rig, &rig.tree, "ada", &work, "mount");
    rig.apply(0);
    let id = rig.container("ada");
    fs::rename(&work, place.1.join("moved")).unwrap();
    symlink(&other, &work).unwrap();
    docker(&["restart", "-t", "1", &id]);
    assert_eq!(docker(&["exec", &id, "cat", "/workspace/name"]), "work");
    // Put back, it goes on as if nothing had been.
    fs::remove_file(&work).unwrap();
    fs::rename(place.1.join("moved"), &work).unwrap();
    rig.apply(0);
    rig.converged();
    rig.inside("ada", "echo more > /workspace/more");
    assert_eq!(fs::read_to_string(work.join("more")).unwrap(), "more\n");
    // After a reboot our own mount is gone: the engine starts nothing, and the next run does.
    let source = docker(&["inspect", "-f", "{{(index .HostConfig.Mounts 0).Source}}", &id]);
    let source = source.trim();
    assert_ne!(Path::new(source), work);
    docker(&["stop", "-t", "1", &id]);
    let unmounted = std::process::Command::new("umount").args(["-l", source]).status().unwrap();
    assert!(unmounted.success());
    fs::remove_dir(source).unwrap();
    let started = std::process::Command::new("docker").args(["start", &id]).output().unwrap();
    assert!(!started.status.success());
    rig.apply(0);
    assert_eq!(rig.container("ada"), id);
    assert_eq!(rig.inside("ada", "cat /workspace/more"), "more");
    rig.converged();
    rig.cli.run(["down", &rig.tree.path().display().to_string(), "--yes"]).exits(0);
    assert!(!Path::new(source).exists());
}

/// Values come from no file that a sandbox, of whatever tree, can write.
pub(super) fn an_env_file_that_a_sandbox_can_write_is_refused(rig: &Rig) {
    let place = Place::new();
    let outer = place.folder("w");
    sandbox(rig, &rig.tree, "outer", &outer, "mount");
    rig.apply(0);
    let other = TempTree::new("asking");
    let (backend, image) = (rig.backend, rig.image());
    other.bottle("dev", &format!("backend: {backend}\nimage: {image}\nenv: {{KEY: \"?\"}}"));
    other.agent("asks", "dev", "", "x");
    rig.tree.bottle("ask", &format!("backend: {backend}\nimage: {image}\nenv: {{KEY: \"?\"}}"));
    rig.tree.agent("asks", "ask", "", "x");
    let secret = place.1.join("operators.env");
    fs::write(&secret, "KEY=of-the-operator\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    rig.inside("outer", "echo KEY=of-the-guest > /workspace/env; mkdir /workspace/deep");
    rig.inside("outer", &format!("ln -s {} /workspace/link", secret.display()));
    symlink(outer.join("env"), place.1.join("own")).unwrap();
    let mine = place.1.join("own").display().to_string();
    let all = ["env", "link", "deep/../../operators.env"].map(|name| outer.join(name));
    let all = all.iter().map(|path| path.display().to_string()).chain([mine]);
    let own = rig.tree.path().display().to_string();
    let theirs = other.path().display().to_string();
    for file in all {
        for tree in [&theirs, &own] {
            for command in [vec!["plan", tree], vec!["apply", tree, "--yes"]] {
                let ended = rig.cli.run(command.into_iter().chain(["--env-file", &file])).exits(1);
                let said = ended.stderr.replace('\n', " ");
                assert!(said.contains("--env-file") && said.contains("sandbox outer"), "{said}");
                assert!(!said.contains("of-the-"), "{said}");
            }
        }
    }
    // Beside it nobody can.
    let file = secret.display().to_string();
    rig.cli.run(["apply", &theirs, "--yes", "--env-file", &file]).exits(0);
    let given = ["--tree", &theirs, "exec", "asks", "--", "sh", "-c", "echo $KEY"];
    assert_eq!(rig.cli.run(given).exits(0).stdout.trim(), "of-the-operator");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o666)).unwrap();
    let ended = rig.cli.run(["plan", &theirs, "--env-file", &file]).exits(1);
    assert!(ended.stderr.contains("chmod o-w"), "{}", ended.stderr);
    rig.cli.run(["down", &theirs, "--yes"]).exits(0);
}

/// What another tree's machines can write is known without the record of that tree.
pub(super) fn a_lost_record_of_another_tree_opens_nothing_and_stops_nothing(rig: &Rig) {
    let place = Place::new();
    let outer = place.folder("w");
    sandbox(rig, &rig.tree, "outer", &outer, "mount");
    rig.apply(0);
    let other = TempTree::new("elsewhere");
    sandbox(rig, &other, "inner", &place.folder("w/sub"), "copy");
    sandbox(rig, &other, "beside", &place.folder("v"), "mount");
    let path = other.path().display().to_string();
    let record = rig.memory().join("sources.json");
    let whole = fs::read(&record).unwrap();
    for damage in [None, Some(""), Some("{"), Some("folder")] {
        let _ = fs::remove_file(&record);
        match damage {
            Some("folder") => fs::create_dir(&record).unwrap(),
            Some(text) => fs::write(&record, text).unwrap(),
            None => {}
        }
        let held = rig.cli.run(["-o", "json", "apply", &path, "--yes"]).exits(3).json();
        assert!(verdicts(&held).contains(&"inner hold".to_owned()), "{damage:?}: {held}");
        let said = held["diagnostics"].to_string();
        assert!(said.contains("sandbox outer of the tree"), "{damage:?}: {said}");
        assert!(said.contains(&record.display().to_string()), "{damage:?}: {said}");
        rig.cli.run(["check", &path]);
        rig.cli.run(["status", &path]).exits(0);
        if damage.is_some() {
            // Its own tree says what is damaged, in the first line, and does nothing.
            let name = record.display().to_string();
            let own = rig.tree.path().display().to_string();
            let refused = rig.cli.run(["apply", &own, "--yes"]).exits(1).stderr;
            let first = refused.lines().find(|line| line.starts_with("error:"));
            let refused = refused.replace("\n  ", "");
            assert!(first.is_some() && refused.contains(&name), "{refused}");
            let shown = rig.cli.run(["-o", "json", "status", &own]).exits(0).json();
            assert_eq!(shown["sandboxes"][0]["state"], "running", "{shown}");
            assert!(shown["diagnostics"].to_string().contains(&name), "{shown}");
            rig.plan().exits(3);
        }
        if record.is_dir() {
            fs::remove_dir(&record).unwrap();
        }
    }
    rig.cli.run(["down", &path, "--yes"]).exits(0);
    fs::write(&record, &whole).unwrap();
    rig.converged();
    // What goes needs no record.
    fs::write(&record, "{").unwrap();
    rig.down().exits(0);
}
