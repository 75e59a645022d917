//! What works as it does without a gate, and what a refusal is.

use super::world::{World, token};

#[test]
fn a_clone_a_commit_a_push() {
    let Some(world) = World::start() else { return };
    let work = world.clone_as("work");
    assert_eq!(std::fs::read_to_string(work.0.join("README")).unwrap(), "hello\n");
    work.write("src/main.rs", "fn main() {}\n");
    let commit = work.commit("second");
    let (ok, said) = work.run(&["push", "origin", "HEAD:refs/heads/main"]);
    assert!(ok, "{said}");
    assert_eq!(world.repository.oid("refs/heads/main"), commit);
    assert_eq!(work.git(&["rev-parse", "origin/main"]).trim(), commit);
    let (ok, said) = work.run(&["push", "origin", "HEAD:refs/heads/main"]);
    assert!(ok && said.contains("Everything up-to-date"), "{said}");
    let pushes: Vec<_> = world.log().into_iter().filter(|line| line["event"] == "push").collect();
    assert_eq!(pushes.last().unwrap()["refs"][0]["verdict"], "ok", "{pushes:#?}");
    assert_eq!(world.state().upstreams["app"].pushes, 1);
}

#[test]
fn a_secret_is_refused() {
    let Some(world) = World::start() else { return };
    let secret = token("basic");
    let work = world.clone_as("work");
    work.write("conf/app.env", format!("# settings\n\nTOKEN={secret}\n"));
    let commit = work.commit("settings");
    let said = world.refused(&work, &["push", "origin", "HEAD:refs/heads/c1"], &secret);
    assert!(
        said.contains("1 secret in what is pushed. Nothing was sent to git.example.com."),
        "{said}"
    );
    assert!(said.contains(&format!("conf/app.env:3, commit {}", &commit[..12])), "{said}");
    assert!(said.contains("[remote rejected] HEAD -> c1 (secret found)"), "{said}");
    work.git(&["reset", "-q", "--hard", "HEAD~1"]);
    work.write("fine", "nothing\n");
    work.commit("fine");
    let (ok, said) = work.run(&["push", "-q", "origin", "HEAD:refs/heads/c1"]);
    assert!(ok && said.is_empty(), "{said}");
}
