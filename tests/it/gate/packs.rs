//! Packs that no git makes: what comes with a push and is no part of it goes nowhere.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::upstream::{Repository, Work, fed};
use super::world::{World, token};

/// Pushes one ref with a pack of these objects, and gives what is answered.
fn push(world: &World, work: &Work, name: &str, new: &str, objects: &str) -> String {
    let pack = fed(&work.0, &["pack-objects", "--stdout", "-q"], objects.as_bytes());
    assert!(pack.status.success());
    let begin = "git-receive-pack /app\0host=git.bottle\0";
    let command = format!("{} {new} {name}\0 report-status side-band-64k", "0".repeat(40));
    let mut says = format!("{:04x}{begin}{:04x}{command}0000", begin.len() + 4, command.len() + 4);
    let mut stream = TcpStream::connect(("127.0.0.1", world.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(says.as_bytes()).unwrap();
    stream.write_all(&pack.stdout).unwrap();
    says.clear();
    let mut said = Vec::new();
    // It may be cut off as it is closed.
    let _ = stream.read_to_end(&mut said);
    String::from_utf8_lossy(&said).into_owned()
}

#[test]
fn what_nothing_names_goes_nowhere() {
    let Some(world) = World::start() else { return };
    let secret = token("unnamed");
    let work = world.clone_as("work");
    work.write("fine", "x\n");
    let commit = work.commit("fine");
    let hidden =
        fed(&work.0, &["hash-object", "-w", "--stdin"], format!("key = {secret}\n").as_bytes());
    let hidden = String::from_utf8(hidden.stdout).unwrap();
    let listed =
        work.git(&["rev-list", "--objects", "--no-object-names", "HEAD", "--not", "origin/main"]);
    let said = push(&world, &work, "refs/heads/x", &commit, &(listed + &hidden));
    assert!(said.contains("ok refs/heads/x"), "{said}");
    assert_eq!(world.repository.oid("refs/heads/x"), commit);
    assert!(!world.repository.holds(&secret), "the upstream has it");
    assert!(!Repository(world.mirror()).holds(&secret), "the mirror has it");
    Repository(world.mirror()).git(&["fsck", "--strict"]);
    // Named later, it is searched.
    work.write("named", format!("key = {secret}\n"));
    work.commit("named");
    let said = world.refused(&work, &["push", "origin", "HEAD:refs/heads/y"], &secret);
    assert!(said.contains("named:1"), "{said}");
}

#[test]
fn a_push_of_a_part_is_taken_over_whole() {
    let Some(world) = World::start() else { return };
    let work = world.clone_as("work");
    let text: String =
        (0..2000).map(|n| format!("line {n} of a file that changes little\n")).collect();
    work.write("long", &text);
    work.commit("long");
    work.git(&["push", "-q", "origin", "HEAD:refs/heads/x"]);
    // A thin pack: its delta's base is the upstream's.
    work.write("long", text.replace("line 7 ", "line seven "));
    let commit = work.commit("changed");
    work.git(&["push", "-q", "origin", "HEAD:refs/heads/x"]);
    assert_eq!(world.repository.oid("refs/heads/x"), commit);
    let mirror = Repository(world.mirror());
    assert_eq!(mirror.oid("refs/heads/x"), commit);
    mirror.git(&["fsck", "--strict"]);
    let again = world.clone_as("again");
    assert_eq!(again.git(&["rev-parse", "origin/x"]).trim(), commit);
}
