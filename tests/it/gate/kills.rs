//! A gate that is killed, at whatever step of a push: never was "ok" said for what the upstream lacks, and the next
//! push goes.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::upstream::Repository;
use super::world::World;

/// After a crash: what was said is true, and the next push makes it so.
#[track_caller]
fn heals(world: &mut World, work: &super::upstream::Work, commit: &str, ok: bool, said: &str) {
    if ok {
        assert_eq!(world.repository.oid("refs/heads/x"), commit, "it said ok: {said}");
    }
    world.crash();
    let (again, words) = work.run(&["push", "origin", "HEAD:refs/heads/x"]);
    assert!(again, "after {said}: {words}");
    assert_eq!(world.repository.oid("refs/heads/x"), commit, "{words}");
    let mirror = Repository(world.mirror());
    mirror.git(&["fsck", "--strict", "--connectivity-only"]);
    let left = std::fs::read_dir(world.mirror().join("objects")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_str().unwrap().starts_with("incoming")), "{left:?}");
}

#[test]
fn at_any_moment_of_a_push() {
    let Some(mut world) = World::start() else { return };
    let work = world.clone_as("work");
    for round in 0..16_u64 {
        work.write("n", format!("{round}\n"));
        let commit = work.commit(&format!("round {round}"));
        let pushing = {
            let work = work.clone();
            std::thread::spawn(move || work.run(&["push", "origin", "HEAD:refs/heads/x"]))
        };
        // From before the first question to after the last answer.
        std::thread::sleep(Duration::from_millis(round * 53));
        let pid = if round % 2 == 0 { world.gate.id() } else { world.worker() };
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        // One that is not accepted yet waits for the next gate.
        world.crash();
        let (ok, said) = pushing.join().unwrap();
        heals(&mut world, &work, &commit, ok, &said);
    }
}

#[test]
fn while_the_upstream_takes_it_or_has_taken_it() {
    let Some(mut world) = World::start() else { return };
    let work = world.clone_as("work");
    let reached = world.upstream.path("reached");
    for hook in ["pre-receive", "post-receive"] {
        let text = format!("#!/bin/sh\ncat >/dev/null\n: > {}\nsleep 1\n", reached.display());
        world.repository.hook(hook, &text);
        work.write("n", hook);
        let commit = work.commit(hook);
        let pushing = {
            let work = work.clone();
            std::thread::spawn(move || work.run(&["push", "origin", "HEAD:refs/heads/x"]))
        };
        work.until(|_| reached.exists());
        world.gate.kill().unwrap();
        let (ok, said) = pushing.join().unwrap();
        assert!(!ok, "{said}");
        std::fs::remove_file(world.repository.0.join("hooks").join(hook)).unwrap();
        // What the upstream has begun it ends by itself, one way or the other.
        std::thread::sleep(Duration::from_millis(1500));
        heals(&mut world, &work, &commit, ok, &said);
        let _ = std::fs::remove_file(&reached);
    }
}

#[test]
fn what_is_left_of_a_gate_does_not_block_the_next() {
    let Some(mut world) = World::start() else { return };
    let work = world.clone_as("work");
    world.gate.kill().unwrap();
    let mirror = world.mirror();
    std::fs::create_dir_all(mirror.join("objects/incoming-7/pack")).unwrap();
    for name in ["refs/heads/main.lock", "packed-refs.lock", "objects/pack/tmp_pack_x", "HEAD.lock"]
    {
        std::fs::write(mirror.join(name), "x").unwrap();
    }
    work.write("a", "1\n");
    let commit = work.commit("one");
    heals(&mut world, &work, &commit, false, "nothing");
    assert!(
        !mirror.join("refs/heads/main.lock").exists()
            && !mirror.join("objects/incoming-7").exists()
    );
}

#[test]
fn a_guest_that_leaves_ends_what_was_begun_for_it() {
    let Some(world) = World::start() else { return };
    let work = world.clone_as("work");
    world.repository.hook("pre-receive", "#!/bin/sh\ncat >/dev/null\nsleep 2\nexit 0\n");
    work.write("a", "1\n");
    work.commit("one");
    let mut push =
        super::upstream::command(&work.0, &["push", "-q", "origin", "HEAD:refs/heads/x"])
            .spawn()
            .unwrap();
    std::thread::sleep(Duration::from_millis(600));
    push.kill().unwrap();
    push.wait().unwrap();
    work.until(|_| world.state().connections == 0);
    let left = std::fs::read_dir(world.mirror().join("objects")).unwrap();
    assert!(
        left.map(|entry| entry.unwrap().file_name())
            .all(|name| !name.to_str().unwrap().starts_with("incoming"))
    );
    std::fs::remove_file(world.repository.0.join("hooks/pre-receive")).unwrap();
    let (ok, said) = work.run(&["push", "origin", "HEAD:refs/heads/x"]);
    assert!(ok, "{said}");
}
