//! A repository in whatever state: the commit has one file, or there is none and nothing was changed.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::desk::{DEV, Desk};

const WANTED: &str = "      paths: [/simple/**]\n";

fn approved(desk: &Desk) {
    desk.ask_egress("r-aaaaaaaa");
    desk.approve("r-aaaaaaaa", &[]).exits(0);
    assert!(desk.file().contains(WANTED));
}

fn program(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn what_else_is_staged_or_changed_stays_so() {
    let desk = Desk::new("else");
    desk.tree.write("agents/grace.md", "---\nbottle: dev\n---\nChanged.\n");
    desk.tree.write("notes.txt", "staged\n");
    desk.git(&["add", "notes.txt"]);
    desk.tree.write("notes.txt", "staged, and changed since\n");
    desk.tree.write("loose.txt", "untracked\n");
    let before = desk.git(&["status", "--porcelain"]);
    approved(&desk);
    assert_eq!(desk.git(&["show", "--name-only", "--format=", "HEAD"]).trim(), "bottles/dev.md");
    assert_eq!(desk.git(&["status", "--porcelain"]), before);
    assert_eq!(desk.git(&["show", ":notes.txt"]), "staged\n");
    desk.git(&["fsck", "--strict"]);
}

#[test]
fn a_detached_head_moves_and_no_branch_does() {
    let desk = Desk::new("detached");
    desk.git(&["checkout", "-q", "--detach"]);
    let main = desk.git(&["rev-parse", "main"]);
    approved(&desk);
    assert_eq!(desk.git(&["rev-parse", "main"]), main);
    assert_eq!(desk.git(&["rev-parse", "HEAD^"]), main);
    assert_eq!(desk.record("r-aaaaaaaa")["edit"]["branch"], serde_json::Value::Null);
    assert_eq!(desk.git(&["status", "--porcelain"]), "");
}

#[test]
fn a_first_commit_has_no_parent_and_one_file() {
    let desk = Desk::plain("unborn");
    desk.git(&["init", "-q"]);
    desk.git(&["add", "."]);
    approved(&desk);
    assert_eq!(desk.git(&["rev-list", "--count", "HEAD"]).trim(), "1");
    assert_eq!(desk.git(&["ls-tree", "-r", "--name-only", "HEAD"]).trim(), "bottles/dev.md");
    assert!(desk.git(&["status", "--porcelain"]).contains("A  agents/ada.md"));
}

#[test]
fn a_tree_that_git_does_not_track_is_edited_all_the_same() {
    let plain = Desk::plain("plain");
    let ignored = Desk::plain("ignored");
    ignored.git(&["init", "-q"]);
    ignored.tree.write(".gitignore", "bottles/\n");
    ignored.git(&["add", "."]);
    ignored.git(&["commit", "-qm", "begin"]);
    let unasked = Desk::new("unasked");
    for (desk, more, why) in [
        (&plain, &[][..], "not tracked"),
        (&ignored, &[], "not tracked"),
        (&unasked, &["--no-commit"], "--no-commit"),
    ] {
        desk.ask_egress("r-aaaaaaaa");
        let ended = desk.approve("r-aaaaaaaa", more).exits(0);
        assert!(ended.stderr.contains("edited, not committed"), "{}", ended.stderr);
        assert!(desk.file().contains(WANTED));
        let made = desk.record("r-aaaaaaaa")["edit"].clone();
        assert!(made["commit"].is_null(), "{made}");
        assert!(made["untracked"].as_str().unwrap().contains(why), "{made}");
    }
    assert_eq!(unasked.git(&["rev-list", "--count", "HEAD"]).trim(), "1");
}

#[test]
fn a_file_with_changes_of_somebodys_is_left_alone() {
    let desk = Desk::new("dirty");
    let dirty = DEV.replace("# why", "# because");
    desk.tree.write("bottles/dev.md", &dirty);
    desk.ask_egress("r-aaaaaaaa");
    let refused = |desk: &Desk| {
        let head = desk.head();
        let ended = desk.approve("r-aaaaaaaa", &[]).exits(1);
        let told = "bottles/dev.md has changes that are not committed: commit them, or --no-commit";
        assert!(ended.stderr.contains(told), "{}", ended.stderr);
        assert_eq!((desk.head(), desk.state("r-aaaaaaaa").as_str()), (head, "pending"));
    };
    refused(&desk);
    assert_eq!(desk.file(), dirty);
    // Staged, and the file itself as it was.
    desk.git(&["add", "."]);
    refused(&desk);
    desk.tree.write("bottles/dev.md", DEV);
    refused(&desk);
    assert_eq!(desk.git(&["show", ":bottles/dev.md"]), dirty);
    desk.git(&["reset", "-q"]);
    desk.approve("r-aaaaaaaa", &[]).exits(0);
}

#[test]
fn nothing_is_committed_in_the_middle_of_a_merge_or_a_rebase() {
    let desk = Desk::new("merge");
    desk.git(&["checkout", "-qb", "side"]);
    desk.tree.write("agents/grace.md", "---\nbottle: dev\n---\nSide.\n");
    desk.git(&["commit", "-qam", "side"]);
    desk.git(&["checkout", "-q", "main"]);
    desk.tree.write("agents/grace.md", "---\nbottle: dev\n---\nMain.\n");
    desk.git(&["commit", "-qam", "main"]);
    desk.ask_egress("r-aaaaaaaa");
    for (begin, end, what) in [
        (&["merge", "side"][..], &["merge", "--abort"][..], "a merge is under way"),
        (&["rebase", "side"], &["rebase", "--abort"], "a rebase is under way"),
        (&["cherry-pick", "side"], &["cherry-pick", "--abort"], "a cherry-pick is under way"),
    ] {
        assert!(!desk.try_git(begin).0, "{begin:?} has a conflict");
        // The tree has to hold for a plan at all.
        desk.tree.write("agents/grace.md", "---\nbottle: dev\n---\nBoth.\n");
        let head = desk.head();
        let ended = desk.approve("r-aaaaaaaa", &[]).exits(1);
        assert!(ended.stderr.contains(what), "{}", ended.stderr);
        assert_eq!((desk.file().as_str(), desk.head()), (DEV, head));
        desk.git(end);
    }
    desk.approve("r-aaaaaaaa", &[]).exits(0);
}

#[test]
fn no_hook_and_no_filter_runs() {
    let desk = Desk::new("hooks");
    let ran = desk.cli.home().join("ran");
    let script = format!("#!/bin/sh\necho \"$0\" >> '{}'\ncat\n", ran.display());
    let hooks = desk.tree.join(".git/hooks");
    for hook in [
        "pre-commit",
        "commit-msg",
        "prepare-commit-msg",
        "post-commit",
        "post-index-change",
        "reference-transaction",
        "post-rewrite",
        "update",
        "pre-auto-gc",
    ] {
        program(&hooks.join(hook), &script);
    }
    program(&desk.tree.join("filter"), &script);
    let filter = desk.tree.join("filter");
    for (key, value) in [
        ("filter.f.clean", filter.to_str().unwrap()),
        ("filter.f.smudge", filter.to_str().unwrap()),
        ("filter.f.required", "true"),
        ("core.fsmonitor", filter.to_str().unwrap()),
    ] {
        desk.git(&["config", key, value]);
    }
    desk.tree.write(".gitattributes", "bottles/* filter=f\n");
    let _ = std::fs::remove_file(&ran);
    desk.ask_egress("r-aaaaaaaa");
    desk.approve("r-aaaaaaaa", &[]).exits(0);
    let ran = std::fs::read_to_string(&ran).unwrap_or_default();
    assert_eq!(ran, "", "these ran");
    assert!(desk.file().contains(WANTED));
}

#[test]
fn a_signature_that_fails_changes_nothing_and_a_repositorys_signer_never_runs() {
    let desk = Desk::new("signed");
    let (ran, signer) = (desk.cli.home().join("ran"), desk.cli.home().join("signer"));
    program(&signer, &format!("#!/bin/sh\ntouch '{}'\nexit 1\n", ran.display()));
    desk.git(&["config", "commit.gpgsign", "true"]);
    // What the repository itself says is not taken.
    desk.git(&["config", "gpg.program", signer.to_str().unwrap()]);
    let broken = desk.cli.home().join("broken");
    program(&broken, "#!/bin/sh\necho 'gpg: no secret key' >&2\nexit 2\n");
    desk.git(&["config", "--global", "gpg.program", broken.to_str().unwrap()]);
    desk.ask_egress("r-aaaaaaaa");
    let ended = desk.approve("r-aaaaaaaa", &[]).exits(1);
    assert!(ended.stderr.contains("git could not sign the commit (gpg"), "{}", ended.stderr);
    assert!(ended.stderr.contains("nothing was changed"), "{}", ended.stderr);
    assert_eq!((desk.file().as_str(), desk.state("r-aaaaaaaa").as_str()), (DEV, "pending"));
    assert!(!ran.exists(), "the repository's own signer ran");
    // One that works is used: commit-tree by itself would not sign.
    let works = desk.cli.home().join("works");
    program(
        &works,
        "#!/bin/sh\ncat > /dev/null\necho '[GNUPG:] SIG_CREATED D 1 1 1 1 1' >&2\nprintf -- '-----BEGIN PGP SIGNATURE-----\\n\\nx\\n-----END PGP SIGNATURE-----\\n'\n",
    );
    desk.git(&["config", "--global", "gpg.program", works.to_str().unwrap()]);
    desk.approve("r-aaaaaaaa", &[]).exits(0);
    assert!(desk.git(&["cat-file", "commit", "HEAD"]).contains("BEGIN PGP SIGNATURE"));
    assert!(!ran.exists());
}

#[test]
fn nobody_to_commit_as_is_said_and_changes_nothing() {
    let mut desk = Desk::new("nobody");
    desk.git(&["config", "--global", "--unset-all", "user.name"]);
    desk.git(&["config", "--global", "--unset-all", "user.email"]);
    desk.git(&["config", "--global", "user.useConfigOnly", "true"]);
    desk.cli.env("LANG", "C");
    desk.ask_egress("r-aaaaaaaa");
    let ended = desk.approve("r-aaaaaaaa", &[]).exits(1);
    assert!(ended.stderr.contains("git: "), "{}", ended.stderr);
    assert_eq!((desk.file().as_str(), desk.state("r-aaaaaaaa").as_str()), (DEV, "pending"));
}

#[test]
fn line_ends_of_the_folder_stay_there_and_those_of_git_in_git() {
    // Both have CRLF.
    let desk = Desk::plain("crlf");
    let crlf = DEV.replace('\n', "\r\n");
    desk.tree.write("bottles/dev.md", &crlf);
    desk.git(&["init", "-q"]);
    desk.git(&["add", "."]);
    desk.git(&["commit", "-qm", "begin"]);
    approved_crlf(&desk);
    assert_eq!(desk.git(&["show", "HEAD:bottles/dev.md"]), desk.file());
    // Git has LF, and the folder CRLF.
    let desk = Desk::new("autocrlf");
    desk.git(&["config", "core.autocrlf", "true"]);
    std::fs::remove_file(desk.tree.join("bottles/dev.md")).unwrap();
    desk.git(&["checkout", "-q", "--", "bottles/dev.md"]);
    assert_eq!(desk.file(), crlf);
    approved_crlf(&desk);
    let committed = desk.git(&["show", "HEAD:bottles/dev.md"]);
    assert_eq!(committed, desk.file().replace("\r\n", "\n"));
    assert_eq!(
        desk.git(&["diff", "--numstat", "HEAD^", "HEAD"]).split_whitespace().next(),
        Some("3")
    );
    assert_eq!(desk.git(&["status", "--porcelain"]), "");
}

fn approved_crlf(desk: &Desk) {
    desk.ask_egress("r-aaaaaaaa");
    desk.approve("r-aaaaaaaa", &[]).exits(0);
    let file = desk.file();
    assert!(file.contains("paths: [/simple/**]\r\n"), "{file:?}");
    assert_eq!(file.matches('\n').count(), file.matches("\r\n").count());
}

#[test]
fn a_tree_below_the_top_of_a_repository_and_a_worktree() {
    let desk = Desk::plain("below");
    let top = desk.path().to_owned();
    // A second tree: the same files below a folder of the repository.
    let below = top.join("ops/team");
    std::fs::create_dir_all(&below).unwrap();
    for folder in ["agents", "bottles"] {
        std::fs::create_dir(below.join(folder)).unwrap();
        for entry in std::fs::read_dir(top.join(folder)).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), below.join(folder).join(entry.file_name())).unwrap();
        }
    }
    std::fs::rename(top.join("bottle.yaml"), below.join("bottle.yaml")).unwrap();
    desk.git(&["init", "-q"]);
    desk.git(&["add", "."]);
    desk.git(&["commit", "-qm", "begin"]);
    desk.ask_egress("r-aaaaaaaa");
    let tree = below.to_str().unwrap();
    let run = |args: &[&str]| {
        let all: Vec<&str> = ["--tree", tree, "requests"].iter().chain(args).copied().collect();
        desk.cli.run(all)
    };
    let shown = run(&["show", "r-aaaaaaaa", "-o", "json"]).exits(0).json();
    let token = shown["review"].as_str().unwrap().to_owned();
    run(&["approve", "r-aaaaaaaa", "--no-apply", "--yes", "--review", &token]).exits(0);
    let names = desk.git(&["show", "--name-only", "--format=", "HEAD"]);
    assert_eq!(names.trim(), "ops/team/bottles/dev.md");
    assert_eq!(desk.git(&["status", "--porcelain"]), "");
}
