//! Upstreams, keys and guests that do not do what they should: a sentence each, and nothing left behind.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::world::World;

/// What a guest is told at once.
fn told(world: &World, says: &[u8]) -> (String, Duration) {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", world.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(says).unwrap();
    let mut said = Vec::new();
    // It may be cut off as it is closed.
    let _ = stream.read_to_end(&mut said);
    (String::from_utf8_lossy(&said).into_owned(), begun.elapsed())
}

fn asked(service: &str, path: &str) -> Vec<u8> {
    let line = format!("{service} {path}\0host=git.bottle\0");
    format!("{:04x}{line}", line.len() + 4).into_bytes()
}

/// G26.
#[test]
fn only_declared_repositories_and_two_services_are_there() {
    let Some(world) = World::start() else { return };
    let place = world.document["upstreams"][0]["path"].as_str().unwrap().to_owned();
    let place =
        format!("{}@git.example.com:{}{}", world.upstream.user(), world.upstream.port, place);
    for path in [
        "/app",
        "/app.git",
        "/git/app.git",
        &format!("/{place}"),
        &format!("/{}", place.trim_end_matches(".git")),
    ] {
        let (said, _) = {
            let (ok, said) =
                world.run(&["ls-remote", &format!("git://127.0.0.1:{}{path}", world.port)]);
            assert!(ok, "{path}: {said}");
            (said, ())
        };
        assert!(said.contains("refs/heads/main"), "{path}: {said}");
    }
    for path in [
        "/../../etc",
        "/~root",
        "~root",
        "/git/app",
        "app",
        "/app//",
        "/app.git.git",
        "//app",
        "/--upload-pack=x",
        "/o/other",
        "",
    ] {
        let (said, _) = told(&world, &asked("git-upload-pack", path));
        assert!(said.contains("ERR bottle: "), "{path}: {said}");
        assert!(said.contains("none of this sandbox's repositories: it has"), "{path}: {said}");
        assert_eq!(said.matches("ERR").count(), 1, "{path}: {said}");
    }
    for (says, expected) in [
        (asked("git-upload-archive", "/app"), "not offered"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "git's own protocol"),
        (b"\x16\x03\x01\x02\x00".to_vec(), "git's own protocol"),
        (b"fff0".to_vec(), "git's own protocol"),
        (asked("sh", "/app"), "git's own protocol"),
    ] {
        let (said, _) = told(&world, &says);
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_guest_that_says_nothing_is_not_waited_for() {
    let Some(world) = World::start() else { return };
    let silent = std::thread::spawn({
        let port = world.port;
        move || {
            let begun = Instant::now();
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let mut said = String::new();
            stream.read_to_string(&mut said).unwrap();
            (said, begun.elapsed())
        }
    });
    // The refs come, and then commands are waited for.
    let (said, time) = told(&world, &asked("git-receive-pack", "/app"));
    assert!(said.contains("refs/heads/main") && said.contains("did not begin in 10 s"), "{said}");
    assert!(time < Duration::from_secs(16), "{time:?}");
    let (said, time) = silent.join().unwrap();
    assert!(
        said.contains("nothing was asked for in 10 s") && time < Duration::from_secs(16),
        "{said} {time:?}"
    );
    let (ok, said) = world.run(&["ls-remote", &world.url()]);
    assert!(ok, "{said}");
}

#[test]
fn an_upstream_that_is_not_there_fails_with_a_sentence() {
    let Some(mut world) = World::start() else { return };
    let work = world.clone_as("work");
    world.upstream.stop();
    let begun = Instant::now();
    let fetched = std::cell::RefCell::new(String::new());
    work.until(|work| {
        let (ok, said) = work.run(&["fetch", "origin"]);
        *fetched.borrow_mut() = said;
        !ok
    });
    let said = fetched.into_inner();
    assert!(said.contains("remote error: bottle: git.example.com cannot be reached"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    work.write("a", "1\n");
    work.commit("one");
    let (ok, said) = work.run(&["push", "origin", "HEAD:refs/heads/x"]);
    assert!(!ok && said.contains("cannot be reached"), "{said}");
    world.upstream.run("host");
    let (ok, said) = work.run(&["push", "origin", "HEAD:refs/heads/x"]);
    assert!(ok, "{said}");
}

#[test]
fn an_upstream_that_says_nothing_is_given_up() {
    let Some(mut world) = World::start() else { return };
    let work = world.clone_as("work");
    // It takes the connection, and that is all.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    world.change(|app| app["port"] = port.into());
    let begun = Instant::now();
    let (ok, said) = work.run(&["fetch", "origin"]);
    assert!(!ok && said.contains("remote error: bottle: git.example.com"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    let children = format!("/proc/{}/task", world.gate.id());
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let tasks = std::fs::read_dir(&children).unwrap().map(|task| task.unwrap().path());
        let count: usize = tasks
            .map(|task| std::fs::read_to_string(task.join("children")).unwrap_or_default())
            .map(|text| text.split_whitespace().count())
            .sum();
        if count == 1 {
            break; // the worker alone
        }
        assert!(Instant::now() < deadline, "an ssh is left");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn keys_that_do_not_fit_are_told_without_a_path() {
    let Some(mut world) = World::start() else { return };
    let folder = world.upstream.folder.path().display().to_string();
    let own = world.document["upstreams"][0].clone();
    let (locked, other) =
        (world.upstream.path("locked-identity"), world.upstream.path("other-identity"));
    let wrong = world.upstream.other_host_key();
    let cases: [(&str, serde_json::Value, &str); 5] = [
        (
            "known_host_keys",
            serde_json::json!([wrong]),
            "showed another host key than KnownHostKey. Nothing was sent. Tell the operator.",
        ),
        (
            "known_host_keys",
            serde_json::json!([]),
            "no KnownHostKey is set for app: the operator has to pin git.example.com",
        ),
        (
            "identity_file",
            serde_json::json!(other),
            "git.example.com does not accept the key of app",
        ),
        ("identity_file", serde_json::json!(locked), "the key of app cannot be used"),
        ("identity_file", serde_json::json!("/nonexistent/key"), "the key of app cannot be used"),
    ];
    for (key, value, says) in cases {
        world.document["upstreams"][0] = own.clone();
        world.change(|app| app[key] = value.clone());
        world.clear_cache();
        let (ok, said) = world.run(&["ls-remote", &world.url()]);
        assert!(!ok && said.contains(says), "{key} {value}: {said}");
        assert!(!said.contains("/nonexistent") && !said.contains("identity"), "{said}");
        assert!(!said.contains(&folder), "{said}");
    }
    let log = world.log_text();
    assert!(log.contains("it showed SHA256:") || log.contains("host_key"), "{log}");
    world.document["upstreams"][0] = own;
    world.load().unwrap();
    let (ok, said) = world.run(&["ls-remote", &world.url()]);
    assert!(ok, "{said}");
}

#[test]
fn packs_that_are_none_are_refused_and_the_next_push_works() {
    let Some(mut world) = World::start() else { return };
    world.change(|app| {
        app["max_push"] = (1 << 20).into();
        app["max_file"] = (300 << 10).into();
    });
    let work = world.clone_as("work");
    let random = |length: usize| {
        let mut bytes = vec![0; length];
        getrandom::fill(&mut bytes).unwrap();
        bytes
    };
    work.write("x.bin", random(400 << 10));
    work.commit("large");
    let said = world.refused(&work, &["push", "origin", "HEAD:refs/heads/x"], "no such text");
    assert!(said.contains("not looked through") || said.contains("are looked through"), "{said}");
    work.git(&["reset", "-q", "--hard", "origin/main"]);
    for n in 0..8 {
        work.write(&format!("{n}.bin"), random(200 << 10));
    }
    work.commit("many");
    let said = world.refused(&work, &["push", "origin", "HEAD:refs/heads/x"], "no such text");
    assert!(said.contains("at most 1 MB are pushed at once"), "{said}");
    work.git(&["reset", "-q", "--hard", "origin/main"]);
    let head = work.git(&["rev-parse", "HEAD"]).trim().to_owned();
    let command = format!(
        "{} {head} refs/heads/garbage\0 report-status side-band-64k agent=x",
        "0".repeat(40)
    );
    let mut says = asked("git-receive-pack", "/app");
    says.extend(format!("{:04x}{command}0000", command.len() + 4).into_bytes());
    says.extend(b"PACK\0\0\0\x02\0\0\0\x01garbage that is none, and ends nowhere");
    says.extend(random(64));
    let (said, _) = told(&world, &says);
    assert!(said.contains("unpack bottle: ") && said.contains("ng refs/heads/garbage"), "{said}");
    // An object that is nowhere.
    let missing = format!(
        "{} {} refs/heads/missing\0 report-status side-band-64k",
        "0".repeat(40),
        "1".repeat(40)
    );
    let mut says = asked("git-receive-pack", "/app");
    says.extend(format!("{:04x}{missing}0000", missing.len() + 4).into_bytes());
    let empty = super::upstream::fed(&work.0, &["pack-objects", "--stdout", "-q"], b"");
    says.extend(empty.stdout);
    let (said, _) = told(&world, &says);
    assert!(said.contains("objects are missing"), "{said}");
    work.write("fine", "x\n");
    work.commit("fine");
    let (ok, said) = work.run(&["push", "origin", "HEAD:refs/heads/x"]);
    assert!(ok, "{said}");
}

#[test]
fn what_somebody_else_pushes_is_seen() {
    let Some(world) = World::start() else { return };
    let work = world.clone_as("work");
    let other = world.repository.clone_of("other");
    other.write("theirs", "x\n");
    let commit = other.commit("theirs");
    other.git(&["push", "-q", "origin", "HEAD:refs/heads/main", "HEAD:refs/heads/dir/a"]);
    work.until(|work| {
        work.git(&["fetch", "-q", "--prune", "origin"]);
        work.git(&["rev-parse", "origin/main"]).trim() == commit
    });
    // A branch becomes a folder, and the other way around.
    other.git(&["push", "-q", "origin", ":refs/heads/dir/a", "HEAD:refs/heads/dir"]);
    work.until(|work| {
        work.git(&["fetch", "-q", "--prune", "origin"]);
        work.run(&["rev-parse", "--verify", "-q", "refs/remotes/origin/dir"]).0
    });
}

#[test]
fn an_empty_repository_and_its_first_branch() {
    let Some(mut world) = World::start() else { return };
    let empty = world.upstream.empty("empty.git");
    let path = world.upstream.path("empty.git");
    world.change(|app| app["path"] = serde_json::json!(path));
    let work = world.clone_as("work");
    work.write("a", "1\n");
    let commit = work.commit("first");
    let (ok, said) = work.run(&["push", "-u", "origin", "HEAD:refs/heads/main"]);
    assert!(ok, "{said}");
    assert_eq!(empty.oid("refs/heads/main"), commit);
}

#[test]
fn shallow_partial_atomic_and_with_lease() {
    let Some(mut world) = World::start() else { return };
    world.change(|app| app["force"] = serde_json::json!(["refs/heads/agent/*"]));
    let other = world.repository.clone_of("other");
    for n in 0..5 {
        other.write("n", format!("{n}\n"));
        other.commit(&format!("number {n}"));
    }
    other.git(&["push", "-q", "origin", "HEAD:refs/heads/main"]);
    world.clear_cache();
    for (name, how) in [("shallow", "--depth=2"), ("partial", "--filter=blob:none")] {
        let path = world.guest.path().join(name);
        let (ok, said) = world.run(&["clone", "-q", how, &world.url(), path.to_str().unwrap()]);
        assert!(ok, "{how}: {said}");
        let work = super::upstream::Work(path);
        work.write("mine", name);
        let commit = work.commit(name);
        let branch = format!("refs/heads/agent/{name}");
        let (ok, said) = work.run(&[
            "push",
            "--atomic",
            "origin",
            &format!("HEAD:{branch}"),
            "HEAD:refs/heads/second",
        ]);
        assert!(ok || name == "partial", "{how}: {said}");
        if name == "shallow" {
            assert_eq!(world.repository.oid(&branch), commit);
            work.git(&["fetch", "-q", "origin"]);
            work.git(&["commit", "-q", "--amend", "-m", "again"]);
            let lease = format!("--force-with-lease={branch}:{commit}");
            let (ok, said) = work.run(&["push", &lease, "origin", &format!("HEAD:{branch}")]);
            assert!(ok, "{said}");
            let (ok, said) = work.run(&["push", &lease, "origin", &format!("HEAD~1:{branch}")]);
            assert!(!ok && said.contains("stale info"), "{said}");
        }
    }
}
