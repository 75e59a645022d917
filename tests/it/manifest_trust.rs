//! Files of a tree that others than the operator and root can change.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use bottle::manifest::{LoadError, identify, load};

use crate::manifest::{Scratch, id, said};

fn mode(scratch: &Scratch, path: &str, mode: u32) {
    fs::set_permissions(scratch.path(path), Permissions::from_mode(mode)).expect("a mode");
}

/// Whether nothing of the agent is used, and a finding names this file and this command.
#[track_caller]
fn holds(scratch: &Scratch, what: &str, mend: &str) {
    let desired = scratch.load();
    assert!(desired.held.contains_key(&id("good")), "{what}: {:?}", said(&desired));
    assert!(!desired.sandboxes.contains_key(&id("good")), "{what}");
    let all = format!("{:?}", desired.diagnostics);
    assert!(all.contains(what), "{what}: {all}");
    let mend = format!("{mend} {}", scratch.path("").canonicalize().unwrap().display());
    assert!(all.contains(&mend), "{mend}: {all}");
}

#[test]
fn a_file_that_others_can_write_holds_what_it_concerns() {
    for file in ["tree/bottles/dev.md", "tree/agents/good.md"] {
        let scratch = Scratch::with_good_agent();
        scratch.write("tree/agents/other.md", "---\nbottle: two\n---\n");
        scratch.write("tree/bottles/two.md", "---\nimage: alpine\n---\n");
        mode(&scratch, file, 0o666);
        holds(&scratch, file.trim_start_matches("tree/"), "chmod o-w");
        assert!(scratch.load().sandboxes.contains_key(&id("other")));
        mode(&scratch, file, 0o644);
        assert_eq!(said(&scratch.load()), [""; 0]);
    }
}

#[test]
fn a_folder_that_others_can_write_is_no_tree() {
    for folder in ["tree", "tree/agents", "tree/bottles", "."] {
        let scratch = Scratch::with_good_agent();
        mode(&scratch, folder, 0o777);
        let errors = [load(&scratch.options()).err(), identify(&scratch.options()).err()];
        for error in errors {
            let error = error.expect("it is refused");
            assert!(matches!(error, LoadError::Untrusted { .. }), "{folder}: {error}");
            let text = error.to_string();
            assert!(text.contains("chmod o-w") && text.contains("mode 0777"), "{text}");
        }
        mode(&scratch, folder, 0o755);
        assert_eq!(said(&scratch.load()), [""; 0]);
    }
}

#[test]
fn a_link_out_of_the_tree_is_judged_by_where_it_leads() {
    let scratch = Scratch::with_good_agent();
    let real = scratch.write("open/good.md", "---\nbottle: dev\n---\n");
    fs::remove_file(scratch.path("tree/agents/good.md")).unwrap();
    symlink(&real, scratch.path("tree/agents/good.md")).unwrap();
    assert_eq!(said(&scratch.load()), [""; 0]);
    mode(&scratch, "open", 0o777);
    holds(&scratch, "agents/good.md", "chmod o-w");
    mode(&scratch, "open", 0o755);
    mode(&scratch, "open/good.md", 0o622);
    holds(&scratch, "agents/good.md", "chmod o-w");
}

/// Who owns a link decides where it leads, in a folder of root's as well.
#[test]
fn a_link_of_another_user_holds() {
    if !rustix::process::geteuid().is_root() {
        return; // nobody else can give a link away
    }
    let scratch = Scratch::with_good_agent();
    let real = scratch.write("open/good.md", "---\nbottle: dev\n---\n");
    fs::remove_file(scratch.path("tree/agents/good.md")).unwrap();
    symlink(&real, scratch.path("tree/agents/good.md")).unwrap();
    std::os::unix::fs::lchown(scratch.path("tree/agents/good.md"), Some(1000), None).unwrap();
    holds(&scratch, "agents/good.md", "chown -h 0");
}

#[test]
fn settings_and_skills_that_others_can_write_hold() {
    let scratch = Scratch::with_good_agent();
    scratch.write("tree/bottle.yaml", "name: x\n");
    mode(&scratch, "tree/bottle.yaml", 0o666);
    assert!(matches!(load(&scratch.options()), Err(LoadError::Settings { .. })));
    mode(&scratch, "tree/bottle.yaml", 0o644);
    for (place, file) in [("tree/skills", "SKILL.md"), ("home/.claude/skills", "SKILL.md")] {
        let scratch = Scratch::with_good_agent();
        scratch.write(&format!("{place}/review/{file}"), "x");
        scratch.write("tree/agents/good.md", "---\nbottle: dev\nskills: [review]\n---\n");
        assert_eq!(said(&scratch.load()), [""; 0]);
        for path in [format!("{place}/review/{file}"), format!("{place}/review"), place.to_owned()]
        {
            mode(&scratch, &path, 0o777);
            holds(&scratch, "others can change it", "chmod o-w");
            mode(&scratch, &path, 0o755);
        }
    }
}

/// Only root can give a file away.
#[test]
fn a_tree_of_another_owner_says_how_to_use_it() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let scratch = Scratch::with_good_agent();
    chown(scratch.path("tree/agents/good.md"), Some(4321), None).unwrap();
    let desired = scratch.load();
    let all = format!("{:?}", desired.diagnostics);
    assert!(desired.held.contains_key(&id("good")), "{all}");
    assert!(
        all.contains("belongs to user 4321") && all.contains("run bottle as user 4321"),
        "{all}"
    );
    chown(scratch.path("tree"), Some(4321), None).unwrap();
    let error = load(&scratch.options()).unwrap_err().to_string();
    assert!(
        error.contains("run bottle as user 4321")
            && error.contains("from a copy that belongs to root"),
        "{error}"
    );
    // A group with somebody else in it, or that nobody knows, is not the owner's own.
    let scratch = Scratch::with_good_agent();
    chown(scratch.path("tree/agents/good.md"), None, Some(4321)).unwrap();
    mode(&scratch, "tree/agents/good.md", 0o664);
    holds(&scratch, "agents/good.md", "chmod g-w");
    chown(scratch.path("tree/agents/good.md"), None, Some(0)).unwrap();
    assert_eq!(said(&scratch.load()), [""; 0]);
}

#[test]
fn an_overlays_agents_get_skills_of_the_tree_only() {
    let scratch = Scratch::new();
    scratch.write("tree/bottles/dev.md", "---\nimage: alpine\noverlay: true\n---\n");
    scratch.write("home/.claude/skills/mine/SKILL.md", "x");
    scratch.write("tree/skills/ours/SKILL.md", "x");
    scratch.write("tree/agents/good.md", "---\nbottle: dev\nskills: [mine]\n---\n");
    scratch.write("project/agents/a.md", "---\nbottle: dev\nskills: [mine]\n---\n");
    scratch.write("project/agents/b.md", "---\nbottle: dev\nskills: [ours]\n---\n");
    let options = bottle::manifest::LoadOptions {
        overlay: Some(scratch.path("project")),
        ..scratch.options()
    };
    let desired = load(&options).expect("the tree can be read");
    assert!(desired.sandboxes.contains_key(&id("good")));
    assert!(desired.sandboxes.contains_key(&id("b")), "{:?}", said(&desired));
    assert!(desired.held.contains_key(&id("a")), "{:?}", said(&desired));
}

#[test]
fn a_socket_in_a_mounted_workspace_is_said() {
    let scratch = Scratch::with_good_agent();
    fs::create_dir_all(scratch.path("work/run")).unwrap();
    let bottle = |mode: &str| {
        let path = scratch.path("work");
        let text = format!(
            "---\nimage: alpine\nworkspace: {{path: {}, mode: {mode}}}\n---\n",
            path.display()
        );
        scratch.write("tree/bottles/dev.md", text);
    };
    bottle("mount");
    assert_eq!(said(&scratch.load()), [""; 0]);
    let _socket =
        std::os::unix::net::UnixListener::bind(scratch.path("work/run/app.sock")).unwrap();
    let found = said(&scratch.load());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("bottles/dev.md:3:") && found[0].contains("run/app.sock"));
    // A copy leaves it out.
    bottle("copy");
    assert_eq!(said(&scratch.load()), [""; 0]);
}

/// What such a copy, or mount, has of git is a file that leads nowhere: it is said where it is asked for.
#[test]
fn a_workspace_whose_repository_lies_elsewhere_is_said() {
    let scratch = Scratch::with_good_agent();
    let git = |folder: &str, args: &[&str]| {
        let done = std::process::Command::new("git")
            .arg("-C")
            .arg(scratch.path(folder))
            .args(["-c", "user.name=x", "-c", "user.email=x@example.org"])
            .args(args)
            .output()
            .unwrap();
        assert!(done.status.success(), "{args:?}: {done:?}");
    };
    fs::create_dir_all(scratch.path("main")).unwrap();
    git("main", &["init", "-q"]);
    git("main", &["commit", "-q", "--allow-empty", "-m", "one"]);
    git("main", &["worktree", "add", "-q", "../linked"]);
    git("main", &["clone", "-q", "--shared", ".", "../shared"]);
    git("main", &["clone", "-q", "--no-local", ".", "../alone"]);
    fs::create_dir_all(scratch.path("workdir")).unwrap();
    symlink(scratch.path("main/.git"), scratch.path("workdir/.git")).unwrap();
    // One that moves with its folder is whole.
    fs::create_dir_all(scratch.path("moved")).unwrap();
    fs::rename(scratch.path("alone/.git"), scratch.path("moved/repository")).unwrap();
    fs::write(scratch.path("moved/.git"), "gitdir: ./x/../repository\n").unwrap();
    git("main", &["clone", "-q", "--no-local", ".", "../alone"]);
    fs::create_dir_all(scratch.path("odd")).unwrap();
    fs::write(scratch.path("odd/.git"), "gitdir: ../a\u{1b}[2Jb\n").unwrap();
    for (folder, words) in [
        ("main", ""),
        ("alone", ""),
        ("moved", ""),
        ("linked", "is a worktree or submodule, whose repository is not in it"),
        ("odd", "is a worktree or submodule, whose repository is not in it"),
        ("shared", "has objects of a repository that is not in it"),
        ("workdir", "has a link to its repository"),
    ] {
        for mode in ["copy", "mount"] {
            let path = scratch.path(folder);
            let path = path.display();
            let text = format!("---\nworkspace:\n  path: {path}\n  mode: {mode}\n---\n");
            scratch.write("tree/bottles/dev.md", text);
            let desired = scratch.load();
            assert!(desired.held.is_empty(), "{folder}: {:?}", said(&desired));
            let found = said(&desired);
            if words.is_empty() {
                assert_eq!(found, [""; 0], "{folder}");
                continue;
            }
            assert_eq!(found.len(), 1, "{folder}: {found:?}");
            assert!(found[0].starts_with("bottles/dev.md:3:"), "{folder}: {found:?}");
            assert!(
                found[0].contains(words) && !found[0].contains('\u{1b}'),
                "{folder}: {found:?}"
            );
            let hint = desired.diagnostics[0].hint.clone().unwrap_or_default();
            assert!(hint.contains("git clone"), "{hint}");
        }
    }
}
