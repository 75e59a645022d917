//! Packs that are small and become large: refused in bounded time and memory, and the next push works.

use std::time::{Duration, Instant};

use super::world::World;

/// The most memory that a process has had, in bytes.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

/// G21.
#[test]
fn a_file_that_unpacks_to_much_more() {
    let Some(mut world) = World::start() else { return };
    world.change(|app| app["max_file"] = (64 << 20).into());
    let work = world.clone_as("work");
    let file = std::fs::File::create(work.0.join("zeros")).unwrap();
    file.set_len(512 << 20).unwrap();
    work.commit("zeros");
    let begun = Instant::now();
    let said = world.refused(&work, &["push", "origin", "HEAD:refs/heads/x"], "no such text");
    assert!(said.contains("looked through"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    assert!(peak(world.worker()) < 128 << 20, "{}", peak(world.worker()));
    work.git(&["reset", "-q", "--hard", "origin/main"]);
    work.commit("fine");
    let (ok, said) = work.run(&["push", "origin", "HEAD:refs/heads/x"]);
    assert!(ok, "{said}");
}

#[test]
fn a_large_file_is_searched_to_its_end() {
    let Some(world) = World::start() else { return };
    let secret = super::world::token("large");
    let work = world.clone_as("work");
    let mut text = "a line of no meaning\n".repeat(1_000_000);
    text.push_str(&format!("key = {secret}\n"));
    work.write("large.txt", text);
    work.commit("large");
    let said = world.refused(&work, &["push", "origin", "HEAD:refs/heads/x"], &secret);
    assert!(said.contains("large.txt:1000001"), "{said}");
    assert!(peak(world.worker()) < 128 << 20, "{}", peak(world.worker()));
}
