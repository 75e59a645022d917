//! A guest that writes without an end and without a line: what `bottle` holds of it is bounded.

use std::io::Read as _;
use std::process::Stdio;

use super::working::{Rig, Running};

/// More than enough to be seen in what is held.
const FLOOD: usize = 64 << 20;
/// Some pieces of output. What the program itself takes depends on how it is built, and is measured.
const HELD: u64 = 24 << 20;

/// The most that a process has held so far.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

/// Reads so much of what `bottle` writes, and says what it has held until then.
fn held(rig: &Rig, args: &[&str], expected: usize) -> u64 {
    let all = ["--tree", rig.path()].into_iter().chain(args.iter().copied());
    let mut running =
        Running(rig.cli.command(all).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut out = running.0.stdout.take().unwrap();
    let mut piece = vec![0; 1 << 20];
    let mut read = 0;
    while read < expected {
        let count = out.read(&mut piece).unwrap();
        assert!(count > 0, "{args:?} ended after {read} bytes");
        assert!(piece[..count].iter().all(|byte| *byte == b'x'), "{args:?}");
        read += count;
    }
    peak(running.0.id())
}

#[test]
fn a_line_without_an_end_is_not_held() {
    let rig = Rig::new();
    let flood = format!("head -c {FLOOD} /dev/zero | tr '\\0' x; sleep 600");
    rig.tree.agent(
        "ada",
        "dev",
        &format!("command: [sh, -c, \"{}\"]", flood.replace('\\', "\\\\")),
        "",
    );
    rig.run(&["apply", "--yes"]).exits(0);
    let little = "printf x; sleep 600";
    let alone = held(&rig, &["exec", "ada", "--", "sh", "-c", little], 1);
    let exec = held(&rig, &["exec", "ada", "--", "sh", "-c", &flood], FLOOD);
    assert!(exec < alone + HELD, "exec held {exec}, and without output {alone}");
    // Of a log so much is kept as its two files hold.
    let logs = held(&rig, &["logs", "--follow", "ada"], 4 << 20);
    assert!(logs < alone + HELD, "logs held {logs}, and exec without output {alone}");
}
