//! What may be pushed where, and that the upstream's own verdict is what the agent sees.

use super::upstream::Work;
use super::world::World;

fn begin() -> Option<(World, Work)> {
    let world = World::start()?;
    let work = world.clone_as("work");
    Some((world, work))
}

#[track_caller]
fn refused(world: &World, work: &Work, arguments: &[&str], says: &str) {
    let said = world.refused(work, arguments, "no such text");
    assert!(said.contains(says), "{arguments:?}: {said}");
}

#[track_caller]
fn passes(work: &Work, arguments: &[&str]) -> String {
    let (ok, said) = work.run(arguments);
    assert!(ok, "{arguments:?}: {said}");
    said
}

#[test]
fn history_tags_and_deleting_need_their_own_word() {
    let Some((mut world, work)) = begin() else { return };
    work.write("a", "1\n");
    work.commit("one");
    work.git(&["tag", "v1"]);
    passes(&work, &["push", "-q", "origin", "HEAD:refs/heads/x", "v1"]);
    work.git(&["commit", "-q", "--amend", "-m", "other"]);
    refused(
        &world,
        &work,
        &["push", "-f", "origin", "HEAD:refs/heads/x"],
        "not fast-forward: bottle does not allow",
    );
    refused(&world, &work, &["push", "origin", ":refs/heads/x"], "bottle does not allow deleting");
    work.git(&["tag", "-f", "v1"]);
    refused(&world, &work, &["push", "-f", "origin", "v1"], "bottle does not allow moving a tag");
    world.change(|app| {
        app["force"] = serde_json::json!(["refs/heads/x", "refs/tags/*"]);
        app["delete"] = serde_json::json!(["refs/heads/x"]);
    });
    passes(&work, &["push", "-f", "origin", "HEAD:refs/heads/x", "v1"]);
    refused(
        &world,
        &work,
        &["push", "-f", "origin", "HEAD~1:refs/heads/main", "HEAD:refs/heads/-x"],
        "does not allow this name",
    );
    passes(&work, &["push", "origin", ":refs/heads/x"]);
    assert_eq!(world.repository.oid("refs/heads/x"), "");
}

#[test]
fn a_refusal_names_what_is_allowed_and_the_command() {
    let Some((mut world, work)) = begin() else { return };
    world.change(|app| app["push"] = serde_json::json!(["refs/heads/agent/ada/*"]));
    work.write("a", "1\n");
    work.commit("one");
    refused(
        &world,
        &work,
        &["push", "origin", "HEAD:refs/heads/main"],
        "bottle allows pushes to agent/ada/* only: git push origin HEAD:agent/ada/main",
    );
    passes(&work, &["push", "origin", "HEAD:agent/ada/main"]);
    world.change(|app| app["push"] = serde_json::json!([]));
    refused(&world, &work, &["push", "origin", "HEAD:agent/ada/two"], "bottle allows no push to");
}

/// G19.
#[test]
fn other_namespaces_and_odd_names_are_refused() {
    let Some((world, work)) = begin() else { return };
    work.write("a", "1\n");
    work.commit("one");
    let own = "bottle allows pushes to * only";
    for (name, says) in [
        ("refs/replace/0123456789abcdef0123456789abcdef01234567", own),
        ("refs/meta/config", own),
        ("refs/pull/1/head", own),
        ("refs/changes/01/1/1", own),
        ("refs/notes/commits", own),
        ("refs/heads/-x", "bottle does not allow this name"),
        ("refs/heads/--upload-pack=x", "bottle does not allow this name"),
        ("refs/heads/HEAD", "bottle does not allow this name"),
    ] {
        let (ok, said) = work.run(&["push", "origin", &format!("HEAD:{name}")]);
        assert!(!ok && said.contains(says.trim_end_matches(" to * only")), "{name}: {said}");
        assert_eq!(world.repository.refs().lines().count(), 1, "{name}");
    }
}

#[test]
fn the_upstreams_verdict_is_its_own_words_made_harmless() {
    let Some((world, work)) = begin() else { return };
    world.repository.hook(
        "update",
        "#!/bin/sh\n[ \"$1\" = refs/heads/protected ] || exit 0\n\
         printf 'GH006: \\033[31mprotected\\033[0m \\302\\233branch\\n' >&2\nexit 1\n",
    );
    work.write("a", "1\n");
    let commit = work.commit("one");
    let (ok, said) =
        work.run(&["push", "origin", "HEAD:refs/heads/protected", "HEAD:refs/heads/open"]);
    assert!(!ok && !said.contains('\u{1b}') && !said.contains('\u{9b}'), "{said}");
    assert!(said.contains("remote: GH006: ?[31mprotected"), "{said}");
    assert!(said.contains("[remote rejected] HEAD -> protected (hook declined)"), "{said}");
    assert_eq!(world.repository.oid("refs/heads/open"), commit);
    let both = ["push", "--atomic", "origin", "HEAD:refs/heads/protected", "HEAD:refs/heads/other"];
    let (ok, said) = work.run(&both);
    assert!(!ok, "{said}");
    assert_eq!(world.repository.oid("refs/heads/other"), "");
    passes(&work, &["fetch", "-q"]);
    assert_eq!(work.git(&["rev-parse", "origin/open"]).trim(), commit);
}

#[test]
fn of_six_at_once_one_wins() {
    let Some((world, _)) = begin() else { return };
    let works: Vec<Work> = (0..6).map(|n| world.clone_as(&format!("work-{n}"))).collect();
    for (n, work) in works.iter().enumerate() {
        work.write("a", format!("{n}\n"));
        work.commit(&format!("of {n}"));
    }
    let pushes: Vec<_> = works
        .iter()
        .cloned()
        .map(|work| {
            std::thread::spawn(move || work.run(&["push", "origin", "HEAD:refs/heads/main"]))
        })
        .collect();
    let ended: Vec<_> = pushes.into_iter().map(|push| push.join().unwrap()).collect();
    assert_eq!(ended.iter().filter(|(ok, _)| *ok).count(), 1, "{ended:#?}");
    for (_, said) in ended.iter().filter(|(ok, _)| !ok) {
        assert!(said.contains("fetch first"), "{said}");
    }
    let winner = ended.iter().position(|(ok, _)| *ok).unwrap();
    let commit = works[winner].git(&["rev-parse", "HEAD"]);
    assert_eq!(world.repository.oid("refs/heads/main"), commit.trim());
}

#[test]
fn what_is_not_offered_is_refused_cleanly() {
    let Some((world, work)) = begin() else { return };
    work.write("a", "1\n");
    work.commit("one");
    refused(
        &world,
        &work,
        &["push", "-o", "ci.skip", "origin", "HEAD:refs/heads/x"],
        "does not support",
    );
    refused(
        &world,
        &work,
        &["push", "--signed", "origin", "HEAD:refs/heads/x"],
        "does not support",
    );
    let mut refs = String::new();
    let head = work.git(&["rev-parse", "HEAD"]);
    for n in 0..20_000 {
        refs.push_str(&format!("create refs/heads/many/{n} {head}"));
    }
    let fed = super::upstream::fed(&work.0, &["update-ref", "--stdin"], refs.as_bytes());
    assert!(fed.status.success());
    refused(
        &world,
        &work,
        &["push", "origin", "refs/heads/many/*"],
        "at most 1000 refs are pushed at once",
    );
    passes(&work, &["push", "-q", "origin", "HEAD:refs/heads/x"]);
}
