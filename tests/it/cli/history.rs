//! What a tree's past means for its present: commits, and names that it has had.

use super::working::Rig;

#[test]
fn a_commit_that_changes_nothing_is_applied_too() {
    let rig = Rig::new();
    rig.tree.agent("ada", "dev", "", "You are ada.");
    let git = |args: &[&str]| {
        let mut git = std::process::Command::new("git");
        git.arg("-C").arg(rig.path()).args(["-c", "user.name=x", "-c", "user.email=x@x.invalid"]);
        let ended = git.args(args).output().unwrap();
        assert!(ended.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ended.stderr));
    };
    git(&["init", "-q"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "one"]);
    rig.run(&["apply", "--yes"]).exits(0);
    rig.tree.write("README.md", "words\n");
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "two"]);
    let behind = rig.run(&["-o", "json", "status"]).exits(0).json();
    assert_ne!(behind["last_commit"], behind["tree"]["commit"]);
    rig.run(&["apply", "--yes"]).exits(0);
    let status = rig.run(&["-o", "json", "status"]).exits(0).json();
    assert_eq!(status["last_commit"], status["tree"]["commit"]);
}

#[test]
fn a_tree_under_a_new_name_is_told_what_it_leaves_behind() {
    let rig = Rig::new();
    rig.tree.agent("ada", "dev", "", "You are ada.");
    rig.run(&["apply", "--yes"]).exits(0);
    let (old, new) = (rig.tree.owner.clone(), format!("{}-new", rig.tree.owner));
    rig.tree.write("bottle.yaml", &format!("name: {new}\n"));
    let plan = rig.run(&["-o", "json", "plan"]).exits(2).json();
    let told = plan["diagnostics"][0]["message"].as_str().unwrap();
    assert!(told.contains(&format!("went by the name `{old}` before")), "{told}");
    rig.tree.write("bottle.yaml", &format!("name: {old}\n"));
    rig.run(&["down", "--yes"]).exits(0);
    // Nothing of it is left, so nothing is told, and the name is free.
    rig.tree.write("bottle.yaml", &format!("name: {new}\n"));
    let plan = rig.run(&["-o", "json", "plan"]).exits(2).json();
    assert_eq!(plan["diagnostics"].as_array().map(Vec::len), Some(0), "{plan}");
}
