//! kill -9 at each step of an approval: the next command finds it as it was, or all of it done.

use super::desk::{DEV, Desk};

/// The steps at which a testing build lets itself be killed.
const STEPS: [(&str, bool); 6] = [
    ("after the commit is made", false),
    ("before the files", false),
    ("between records", false),
    ("after the files", true),
    ("before the index", true),
    ("before it is said", true),
];

#[test]
fn an_approval_that_is_killed_is_undone_or_done() {
    for tracked in [true, false] {
        for (step, goes_on) in STEPS {
            if !tracked && step == "before the index" {
                continue;
            }
            let mut desk = if tracked { Desk::new("kill") } else { Desk::plain("kill") };
            desk.ask_egress("r-aaaaaaaa");
            let token = desk.token(&["r-aaaaaaaa"], &[]);
            let approve = ["approve", "r-aaaaaaaa", "--no-apply", "--yes", "--review", &token];
            desk.cli.env("BOTTLE_TEST_KILLED", step);
            assert_eq!(desk.requests(&approve).code, None, "{step}: it was to be killed");
            desk.cli.env("BOTTLE_TEST_KILLED", "");
            // Any command of these finds it.
            desk.requests(&["list"]).exits(0);
            let state = desk.state("r-aaaaaaaa");
            if goes_on {
                assert_eq!(state, "approved", "{step}");
                assert_eq!(desk.file().matches("index.example.org").count(), 1, "{step}");
                if tracked {
                    assert_eq!(desk.git(&["rev-list", "--count", "HEAD"]).trim(), "2", "{step}");
                    assert_eq!(desk.git(&["status", "--porcelain"]), "", "{step}");
                    assert_eq!(desk.record("r-aaaaaaaa")["edit"]["commit"], desk.head(), "{step}");
                }
                desk.requests(&["undo", "r-aaaaaaaa", "--no-apply"]).exits(0);
                assert_eq!(desk.file(), DEV, "{step}");
            } else {
                assert_eq!((desk.file().as_str(), state.as_str()), (DEV, "pending"), "{step}");
                if tracked {
                    assert_eq!(desk.git(&["rev-list", "--count", "HEAD"]).trim(), "1", "{step}");
                    assert_eq!(desk.git(&["status", "--porcelain"]), "", "{step}");
                }
                let token = desk.token(&["r-aaaaaaaa"], &[]);
                let approve = ["approve", "r-aaaaaaaa", "--no-apply", "--yes", "--review", &token];
                desk.requests(&approve).exits(0);
            }
        }
    }
}

#[test]
fn an_undo_that_is_killed_is_done_or_not() {
    for (step, goes_on) in STEPS {
        let mut desk = Desk::new("killundo");
        desk.ask_egress("r-aaaaaaaa");
        desk.approve("r-aaaaaaaa", &[]).exits(0);
        let granted = desk.file();
        desk.cli.env("BOTTLE_TEST_KILLED", step);
        let undo = ["undo", "r-aaaaaaaa", "--no-apply"];
        assert_eq!(desk.requests(&undo).code, None, "{step}: it was to be killed");
        desk.cli.env("BOTTLE_TEST_KILLED", "");
        desk.requests(&["list"]).exits(0);
        if goes_on {
            assert_eq!((desk.file().as_str(), desk.state("r-aaaaaaaa").as_str()), (DEV, "undone"));
            assert_eq!(desk.git(&["rev-list", "--count", "HEAD"]).trim(), "3", "{step}");
        } else {
            assert_eq!((desk.file(), desk.state("r-aaaaaaaa").as_str()), (granted, "approved"));
            assert_eq!(desk.git(&["rev-list", "--count", "HEAD"]).trim(), "2", "{step}");
            desk.requests(&undo).exits(0);
        }
        assert_eq!(desk.git(&["status", "--porcelain"]), "", "{step}");
    }
}

#[test]
fn somebody_commits_between_the_kill_and_the_next_command() {
    let mut desk = Desk::new("between");
    desk.ask_egress("r-aaaaaaaa");
    let token = desk.token(&["r-aaaaaaaa"], &[]);
    desk.cli.env("BOTTLE_TEST_KILLED", "after the files");
    let approve = ["approve", "r-aaaaaaaa", "--no-apply", "--yes", "--review", &token];
    assert_eq!(desk.requests(&approve).code, None);
    desk.cli.env("BOTTLE_TEST_KILLED", "");
    desk.tree.write("notes.txt", "x\n");
    desk.git(&["add", "notes.txt"]);
    desk.git(&["commit", "-qm", "notes"]);
    desk.requests(&["list"]).exits(0);
    assert_eq!(desk.state("r-aaaaaaaa"), "approved");
    assert_eq!(desk.git(&["log", "--format=%s"]).lines().count(), 3);
    assert_eq!(desk.git(&["show", "--name-only", "--format=", "HEAD"]).trim(), "bottles/dev.md");
    assert!(desk.git(&["log", "-1", "--format=%B"]).contains("Bottle-Request: r-aaaaaaaa"));
    assert_eq!(desk.git(&["status", "--porcelain"]), "");
}
