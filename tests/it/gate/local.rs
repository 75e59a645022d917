//! `bottle git check`: the gate's search, before anything is pushed.

use super::upstream::{Work, git};
use super::world::token;
use crate::support::{Cli, TempTree};

#[test]
fn what_is_not_pushed_yet_is_searched() {
    let tree = TempTree::new("git");
    tree.bottle("dev", "image: host").agent("ada", "dev", "", "You are ada.");
    let cli = Cli::new();
    let folder = tempfile::tempdir().unwrap();
    git(folder.path(), &["init", "-q", "--bare", "-b", "main", "up.git"]);
    git(folder.path(), &["clone", "-q", "up.git", "work"]);
    let work = Work(folder.path().join("work"));
    let (old, secret) = (token("old"), token("new"));
    work.write("old.env", format!("KEY={old}\n"));
    work.commit("long ago");
    work.git(&["push", "-q", "origin", "HEAD:main"]);
    work.git(&["fetch", "-q"]);
    let check = || {
        let repository = work.0.to_str().unwrap();
        let tree = tree.path().to_str().unwrap();
        let ended = cli.run(["--tree", tree, "git", "check", "ada", repository]);
        (ended.code, ended.stdout)
    };
    work.write("old.env", format!("A=1\nKEY={old}\n"));
    work.commit("edited");
    let (code, said) = check();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("known upstream"), "{said}");
    work.write("new.env", format!("\nKEY={secret}\n"));
    let commit = work.commit("a secret");
    let (code, said) = check();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("new.env:2, commit {}", &commit[..12])), "{said}");
    assert!(!said.contains(&secret) && !said.contains(&old), "{said}");
}
