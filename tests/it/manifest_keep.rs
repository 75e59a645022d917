//! `keep` of a bottle: what it may name, and what is said of the rest.

use std::fs;

use bottle::model::Keep;

use crate::manifest::{Scratch, id, said};

/// What becomes of a bottle with this in it, and what is said of it, after its place.
fn read(yaml: &str) -> (Option<Keep>, Vec<String>) {
    let scratch = Scratch::with_good_agent();
    fs::create_dir_all(scratch.path("home/site")).expect("a folder");
    scratch.write("tree/bottles/dev.md", format!("---\n{yaml}\n---\n"));
    let desired = scratch.load();
    let keep = desired.sandboxes.get(&id("good")).map(|spec| spec.keep.clone());
    let mut lines = said(&desired);
    lines.retain(|line| line.starts_with("bottles/"));
    (keep, lines.iter().map(|line| line.replace("bottles/dev.md:", "")).collect())
}

fn keep(workspace: bool, home: bool, paths: &[&str]) -> Option<Keep> {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    Some(Keep { workspace, home, paths })
}

#[test]
fn it_names_the_workspace_the_home_and_paths() {
    for (yaml, expected) in [
        ("image: x", Some(Keep::default())),
        ("image: x\nkeep:", Some(Keep::default())),
        ("image: x\nkeep: []", keep(false, false, &[])),
        ("image: x\nkeep: [home]", keep(false, true, &[])),
        ("image: x\nkeep: [workspace, /var/lib/db, /srv/state.db]", {
            keep(true, false, &["/srv/state.db", "/var/lib/db"])
        }),
        // Another spelling of the workspace.
        ("image: x\nworkspace: {path: ~/site}\nkeep: [/workspace]", keep(true, false, &[])),
        ("image: x\nkeep: [/workspace]", keep(false, false, &["/workspace"])),
        ("image: x\nkeep: [/etc/app, /usr/local, /run/app]", {
            keep(false, false, &["/etc/app", "/run/app", "/usr/local"])
        }),
    ] {
        assert_eq!(read(yaml), (expected, Vec::new()), "{yaml}");
    }
}

#[test]
fn what_cannot_be_kept_is_an_error_that_says_what_can() {
    for (text, says) in [
        ("/", "is the whole machine"),
        ("/proc", "is made anew with each machine"),
        ("/sys/kernel", "is made anew"),
        ("/dev/shm", "is made anew"),
        ("/run/bottle", "is made anew"),
        ("/run", "is made anew"),
        ("/etc", "is made anew"),
        ("/etc/bottle/env", "is made anew"),
        ("/etc/hosts", "is made anew"),
        ("/usr", "is the image's own"),
        ("/var", "is the image's own"),
        ("var/lib", "neither an absolute path nor `workspace` nor `home`"),
        ("./x", "neither an absolute path"),
        ("'~'", "neither an absolute path"),
        ("~/notes", "neither an absolute path"),
        ("Home", "neither an absolute path"),
        ("/a/../b", "without `.`, `..`, `//` or a `/` at its end"),
        ("/..", "without `.`, `..`"),
        ("/a//b", "without `.`, `..`"),
        ("/a/", "without `.`, `..`"),
        ("''", "expected text, found an empty one"),
    ] {
        let (keep, lines) = read(&format!("image: x\nkeep: [home, {text}]"));
        assert_eq!(keep, None, "{text} holds its agents");
        let [line] = lines.as_slice() else { panic!("{text}: {lines:?}") };
        assert!(line.starts_with("3:14 error ") && line.contains(says), "{text}: {line}");
    }
    for (yaml, says) in [
        ("keep: home", "3:7 error expected a list, found text"),
        ("keep: [5]", "3:8 error expected text, found the number `5`"),
        ("keep: {home: true}", "3:7 error expected a list, found a map"),
    ] {
        assert_eq!(read(&format!("image: x\n{yaml}")), (None, vec![says.to_owned()]));
    }
    let many: Vec<String> = (0..101).map(|n| format!("/srv/{n}")).collect();
    let (_, lines) = read(&format!("image: x\nkeep: [{}]", many.join(", ")));
    assert_eq!(lines, ["3:7 error `keep` has 101 items, and takes 100"]);
}

#[test]
fn hints_say_what_to_write() {
    let hint = |text: &str| {
        let scratch = Scratch::with_good_agent();
        scratch.write("tree/bottles/dev.md", format!("---\nimage: x\nkeep: [{text}]\n---\n"));
        let found = scratch.load().diagnostics.into_iter().find(|d| d.file.starts_with("bottles"));
        let found = found.expect("a finding");
        format!("{} {}", found.label.unwrap_or_default(), found.hint.unwrap_or_default())
    };
    for (text, says) in [
        ("~/notes", "`home` is all of the home folder"),
        ("Home", "did you mean `home`?"),
        ("worksapce", "did you mean `workspace`?"),
        ("data", "expected `workspace`, `home` or an absolute path"),
        ("/sys/x", "it lies in `/sys`"),
        ("/run", "it contains `/run/bottle`"),
        ("/usr", "name the folders in it"),
    ] {
        assert!(hint(text).contains(says), "{text}: {}", hint(text));
    }
}

#[test]
fn what_is_named_twice_or_lies_in_another_is_one() {
    let copy = "image: x\nworkspace: {path: ~/site}";
    let (kept, lines) =
        read(&format!("{copy}\nkeep: [home, home, /a, /a, /a/b, /workspace, workspace]"));
    assert_eq!(kept, keep(true, true, &["/a", "/a/b"]));
    assert_eq!(
        lines,
        [
            "4:14 warning `home` stands here twice",
            "4:24 warning `/a` stands here twice",
            "4:28 warning `/a/b` lies in `/a`, which is kept whole",
            "4:46 warning `workspace` stands here twice",
        ]
    );
    // A part of the workspace is nothing by itself.
    let (kept, lines) = read(&format!("{copy}\nkeep: [/workspace/out]"));
    assert_eq!(kept, None);
    assert!(lines[0].contains("kept whole or not at all"), "{lines:?}");
    let (kept, lines) = read(&format!("{copy}\nkeep: [/workspace/out, workspace]"));
    assert_eq!(kept, keep(true, false, &[]));
    assert!(lines[0].contains("warning `/workspace/out` lies in `/workspace`"), "{lines:?}");
}

#[test]
fn a_folder_of_the_host_is_said_not_to_be_kept() {
    let mount = "image: x\nworkspace: {path: ~/site, mode: mount, target: /work/site}";
    assert_eq!(read(&format!("{mount}\nkeep: [workspace, home]")), (keep(true, true, &[]), vec![]));
    let (kept, lines) = read(&format!("{mount}\nkeep: [/work/site/a, /work/other, /work]"));
    assert_eq!(kept, keep(false, false, &["/work", "/work/other", "/work/site/a"]));
    assert!(
        lines[0].contains("4:8 warning `/work/site/a` lies in the mounted workspace"),
        "{lines:?}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line.contains("the mounted workspace `/work/site` lies in `/work`"))
    );
    let shown = "backend: native\nhost_paths: [/opt]\nkeep: [/opt/x]";
    let (_, lines) = read(shown);
    assert!(lines[0].contains("lies in the host path `/opt`"), "{lines:?}");
}

#[test]
fn agents_of_an_overlay_have_that_of_their_bottle() {
    let scratch = Scratch::with_good_agent();
    scratch.write("tree/bottles/dev.md", "---\nimage: x\noverlay: true\nkeep: [/srv/x]\n---\n");
    scratch.write("project/agents/own.md", "---\nbottle: dev\n---\n");
    let mut options = scratch.options();
    options.overlay = Some(scratch.path("project"));
    let desired = bottle::manifest::load(&options).expect("it loads");
    let keep = keep(false, false, &["/srv/x"]).expect("it is one");
    for name in ["good", "own"] {
        assert_eq!(desired.sandboxes[&id(name)].keep, keep, "{name}");
    }
}
