//! What must not leave, wherever in a push it is: a finding in any new object stops all of it.

use std::io::Write as _;

use super::upstream::Work;
use super::world::{World, token};

/// A world, a token, and a clone of the guest's.
fn begin(what: &str) -> Option<(World, String, Work)> {
    let world = World::start()?;
    let work = world.clone_as("work");
    Some((world, token(what), work))
}

const PUSH: &[&str] = &["push", "origin", "HEAD:refs/heads/x"];

#[test]
fn one_that_was_added_and_taken_out_again_is_of_its_first_commit() {
    let Some((world, secret, work)) = begin("again") else { return };
    work.write("a", format!("key = {secret}\n"));
    let first = work.commit("one");
    work.write("b", "more\n");
    work.commit("two");
    std::fs::remove_file(work.0.join("a")).unwrap();
    work.commit("three");
    let said = world.refused(&work, PUSH, &secret);
    assert!(said.contains(&format!("a:1, commit {}", &first[..12])), "{said}");
}

#[test]
fn messages_are_searched() {
    let Some((world, secret, work)) = begin("message") else { return };
    work.write("a", "x\n");
    work.commit(&format!("use {secret}"));
    let said = world.refused(&work, PUSH, &secret);
    assert!(said.contains("commit message"), "{said}");
    work.git(&["reset", "-q", "--hard", "origin/main"]);
    work.git(&["tag", "-a", "-m", &format!("released with {secret}"), "v1"]);
    let said = world.refused(&work, &["push", "origin", "v1"], &secret);
    assert!(said.contains("tag message"), "{said}");
}

/// G07.
#[test]
fn what_only_a_merge_has_is_found() {
    let Some((world, secret, work)) = begin("merge") else { return };
    work.git(&["checkout", "-q", "-b", "side"]);
    work.write("side", "1\n");
    work.commit("side");
    work.git(&["checkout", "-q", "-b", "x", "origin/main"]);
    work.write("main", "1\n");
    work.commit("main");
    work.git(&["merge", "-q", "--no-commit", "--no-ff", "side"]);
    work.write("evil", format!("{secret}\n"));
    work.commit("merge");
    let said = world.refused(&work, PUSH, &secret);
    assert!(said.contains("evil:1"), "{said}");
}

#[test]
fn no_coding_and_no_attribute_hides_it() {
    use base64::Engine as _;
    let Some((world, secret, work)) = begin("hidden") else { return };
    let text = format!("key = {secret}\n");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(text.as_bytes()).unwrap();
    let base64 = base64::prelude::BASE64_STANDARD.encode(&text);
    let forms: [(&str, Vec<u8>); 4] = [
        ("binary", [b"\0\x01\x02\0", text.as_bytes(), b"\0\0"].concat()),
        ("file.gz", packed.finish().unwrap()),
        ("encoded", base64.into_bytes()),
        ("plain", text.into_bytes()),
    ];
    for (name, bytes) in forms {
        work.write(".gitattributes", "* -diff -text binary\n");
        work.write(name, bytes);
        work.commit(name);
        let said = world.refused(&work, PUSH, &secret);
        assert!(said.contains(name), "{said}");
        work.git(&["reset", "-q", "--hard", "origin/main"]);
    }
}

#[test]
fn nothing_in_a_repository_excuses_it() {
    let Some((world, secret, work)) = begin("excuse") else { return };
    work.write("a", format!("key = {secret} # gitleaks:allow\n"));
    work.write(".gitleaks.toml", "[allowlist]\npaths = ['''.*''']\n");
    work.write(".gitleaksignore", "a:github-token:1\n");
    work.commit("excused");
    world.refused(&work, PUSH, &secret);
}

/// G15.
#[test]
fn names_are_searched_and_withheld() {
    let Some((world, secret, work)) = begin("names") else { return };
    work.write(&secret, "x\n");
    work.commit("a file");
    let said = world.refused(&work, PUSH, &secret);
    assert!(!said.contains(&secret) && said.contains("file names"), "{said}");
    work.git(&["reset", "-q", "--hard", "origin/main"]);
    work.write(&format!("{secret}/x"), format!("other {}\n", token("inside")));
    work.commit("a folder");
    let said = world.refused(&work, PUSH, &secret);
    assert!(!said.contains(&secret) && said.contains("a name that is withheld"), "{said}");
    work.git(&["reset", "-q", "--hard", "origin/main"]);
    work.commit("empty");
    // git itself names the ref that was refused.
    let branch = format!("HEAD:refs/heads/{secret}");
    let said = world.refused(&work, &["push", "origin", &branch], &secret);
    let ours: Vec<&str> = said.lines().filter(|line| line.starts_with("remote:")).collect();
    assert!(ours.iter().all(|line| !line.contains(&secret)), "{said}");
    assert!(said.contains("secret in the name of a ref"), "{said}");
}

#[test]
fn what_the_upstream_has_is_no_finding_and_another_value_is() {
    let Some((world, secret, work)) = begin("known") else { return };
    let other = world.repository.clone_of("other");
    other.write("old.env", format!("A=1\nKEY={secret}\n"));
    other.commit("long ago");
    other.git(&["push", "-q", "origin", "HEAD:refs/heads/main"]);
    work.until(|work| {
        work.git(&["pull", "-q", "origin", "main"]);
        work.0.join("old.env").exists()
    });
    work.write("old.env", format!("A=2\nB=3\nKEY={secret}\n"));
    work.commit("edited");
    let (ok, said) = work.run(PUSH);
    assert!(ok, "{said}");
    let log = world.log();
    let known = log.iter().any(|line| line["findings"][0]["passes"] == "known_upstream");
    assert!(known, "{log:#?}");
    let another = token("another");
    work.write("old.env", format!("A=2\nB=3\nKEY={secret}\nKEY={another}\n"));
    work.commit("one more");
    let said = world.refused(&work, PUSH, &another);
    assert!(said.contains("old.env:4"), "{said}");
    work.git(&["reset", "-q", "--hard", "HEAD~1"]);
    work.write("elsewhere.env", format!("KEY={secret}\n"));
    work.commit("in another place");
    let (ok, said) = work.run(PUSH);
    assert!(!ok && said.contains("elsewhere.env:1"), "{said}");
}

#[test]
fn an_exception_is_of_one_value_in_one_place_and_ends() {
    let Some((mut world, secret, work)) = begin("exception") else { return };
    work.write("fixture.txt", format!("{secret}\n"));
    work.commit("a fixture");
    let said = world.refused(&work, PUSH, &secret);
    let fingerprint = said.split("fingerprint ").nth(1).unwrap()[..12].to_owned();
    let rule = said.split("bottle:   ").nth(1).unwrap().split(':').next().unwrap().to_owned();
    let exception = |path: &str, expires: u64| {
        serde_json::json!([{ "rule": rule, "path": path, "fingerprint": fingerprint,
            "reason": "a fixture", "expires": expires }])
    };
    for (path, expires) in [("other.txt", 1 << 40), ("fixture.txt", 1_000_000_000)] {
        world.change(|app| app["allow"] = exception(path, expires));
        world.refused(&work, PUSH, &secret);
    }
    world.change(|app| app["allow"] = exception("fixture.txt", 1 << 40));
    let (ok, said) = work.run(PUSH);
    assert!(ok, "{said}");
}

/// G23.
#[test]
fn one_dirty_ref_stops_the_other() {
    let Some((world, secret, work)) = begin("two") else { return };
    work.git(&["checkout", "-q", "-b", "clean"]);
    work.write("clean", "x\n");
    work.commit("clean");
    work.git(&["checkout", "-q", "-b", "dirty"]);
    work.write("dirty", format!("{secret}\n"));
    work.commit("dirty");
    let said = world.refused(&work, &["push", "origin", "clean", "dirty"], &secret);
    assert!(said.matches("secret found").count() == 2, "{said}");
}

#[test]
fn the_operators_rules_hold_also_those_about_names() {
    let Some((mut world, secret, work)) = begin("rules") else { return };
    world.document["rules"] = serde_json::json!(
        "[[rules]]\nid = \"store\"\npath = '''\\.p12$'''\n\n[[rules]]\nid = \"yaml-word\"\n\
         regex = '''word: ([a-z]{8})'''\npath = '''\\.ya?ml$'''\nkeywords = [\"word\"]\n"
    );
    world.load().expect("the document is in order");
    for (path, text, says) in [
        ("keys/own.p12", "anything", "store: keys/own.p12,"),
        ("a/b.yaml", "x: y\nword: abcdefgh\n", "yaml-word: a/b.yaml:2,"),
    ] {
        work.write(path, text);
        work.commit(path);
        let said = world.refused(&work, PUSH, &secret);
        assert!(said.contains(says), "{said}");
        work.git(&["reset", "-q", "--hard", "origin/main"]);
    }
    work.write("a/b.txt", "x: y\nword: abcdefgh\n");
    work.commit("another name");
    let (ok, said) = work.run(PUSH);
    assert!(ok, "{said}");
    world.document["rules"] = serde_json::json!("[[rules]]\nid = 7\n");
    assert!(world.load().unwrap_err().contains("`rules`"));
}

/// A key of its own, as ssh-keygen writes it.
fn key(folder: &std::path::Path, name: &str) -> String {
    let path = folder.join(name);
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "x", "-f"])
        .arg(&path)
        .status()
        .unwrap();
    assert!(made.success());
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn another_key_in_the_place_of_one_that_the_upstream_has_is_another() {
    let Some((mut world, _, work)) = begin("keys") else { return };
    let (old, new) = (key(world.guest.path(), "old"), key(world.guest.path(), "new"));
    let other = world.repository.clone_of("other");
    other.write("fixture.pem", &old);
    other.commit("long ago");
    other.git(&["push", "-q", "origin", "HEAD:refs/heads/main"]);
    work.until(|work| {
        work.git(&["pull", "-q", "origin", "main"]);
        work.0.join("fixture.pem").exists()
    });
    work.write("fixture.pem", format!("# edited\n{old}"));
    work.commit("edited");
    let (ok, said) = work.run(PUSH);
    assert!(ok, "{said}");
    work.write("fixture.pem", &new);
    work.commit("replaced");
    let body = new.lines().nth(3).unwrap().to_owned();
    let said = world.refused(&work, PUSH, &body);
    assert!(said.contains("private-key: fixture.pem:2"), "{said}");
    // Nor does an exception for one let the other pass.
    let fingerprint = said.split("fingerprint ").nth(1).unwrap()[..12].to_owned();
    world.change(|app| {
        app["allow"] = serde_json::json!([{ "rule": "private-key", "path": "fixture.pem",
            "fingerprint": fingerprint, "reason": "a fixture" }]);
    });
    let third = key(world.guest.path(), "third");
    work.write("fixture.pem", &third);
    work.git(&["commit", "-q", "-a", "--amend", "-m", "another"]);
    world.refused(&work, PUSH, third.lines().nth(3).unwrap());
}

#[test]
fn what_is_packed_behind_an_old_secret_is_found() {
    let Some((world, old, work)) = begin("behind") else { return };
    let new = token("packed");
    let other = world.repository.clone_of("other");
    other.write("old.env", format!("KEY={old}\n"));
    other.commit("long ago");
    other.git(&["push", "-q", "origin", "HEAD:refs/heads/main"]);
    work.until(|work| {
        work.git(&["pull", "-q", "origin", "main"]);
        work.0.join("old.env").exists()
    });
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(format!("KEY={new}\n").repeat(3).as_bytes()).unwrap();
    let text = [format!("KEY={old}\n").into_bytes(), packed.finish().unwrap()].concat();
    work.write("old.env", text);
    work.commit("packed");
    world.refused(&work, PUSH, &new);
}

#[test]
fn what_is_packed_and_too_large_to_be_unpacked_is_not_sent() {
    let Some((world, secret, work)) = begin("too large") else { return };
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let zeros = vec![b'\n'; 1 << 20];
    for _ in 0..80 {
        packed.write_all(&zeros).unwrap();
    }
    packed.write_all(format!("KEY={secret}\n").as_bytes()).unwrap();
    work.write("bomb.gz", packed.finish().unwrap());
    work.commit("a bomb");
    let said = world.refused(&work, PUSH, &secret);
    assert!(said.contains("not looked through") && said.contains("bomb.gz"), "{said}");
}
