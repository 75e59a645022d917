//! What `bottle watch` publishes on its socket, and what `bottle status` makes of it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::rig::{Rig, wait_for};
use super::watch::Watch;

fn socket(rig: &Rig) -> PathBuf {
    rig.memory().join("status.socket")
}

/// Somebody who listens.
struct Reader(BufReader<UnixStream>);

impl Reader {
    fn new(rig: &Rig) -> Self {
        let stream = UnixStream::connect(socket(rig)).expect("watch listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self(BufReader::new(stream))
    }

    /// The next line; `None` at the end.
    fn line(&mut self) -> Option<Value> {
        let mut line = String::new();
        (self.0.read_line(&mut line).expect("a line comes") > 0)
            .then(|| serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}")))
    }

    /// The next status of which this is so.
    fn until(&mut self, what: &str, so: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..1000 {
            let line = self.line().unwrap_or_else(|| panic!("it ended before {what}"));
            assert_eq!(line["version"], 1, "{line}");
            if line["heartbeat"].is_null() && so(&line) {
                return line;
            }
        }
        panic!("{what} did not come")
    }
}

fn status(rig: &Rig) -> Value {
    rig.cli.run(["-o", "json", "status", &rig.tree_path()]).exits(0).json()
}

fn sandbox<'a>(status: &'a Value, name: &str) -> &'a Value {
    let all = status["sandboxes"].as_array().unwrap();
    all.iter().find(|it| it["sandbox"] == name).unwrap_or_else(|| panic!("{status}"))
}

/// What takes no part in the comparison: it moves by itself.
fn still(mut status: Value) -> Value {
    for sandbox in status["sandboxes"].as_array_mut().unwrap() {
        sandbox["age"] = Value::Null;
    }
    status["watch"]["last_pass"] = Value::Null;
    status
}

pub(super) fn a_reader_hears_what_status_says(rig: &Rig) {
    rig.agents(2);
    rig.apply(0);
    assert_eq!(status(rig)["watch"], Value::Null);
    let mut watch = Watch::start(rig);
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(socket(rig)), mode(rig.memory())), (0o600, 0o700));
    let mut reader = Reader::new(rig);
    let first = reader.line().unwrap();
    assert_eq!(first["version"], 1, "the first line is a status: {first}");
    assert_eq!(first["watch"]["pid"], watch.pid(), "{first}");
    assert!(first["watch"]["since"].is_u64() && first["watch"]["last_pass"].is_u64(), "{first}");
    for name in ["a0", "a1"] {
        assert_eq!(sandbox(&first, name)["state"], "running", "{first}");
    }
    // The command hears the same.
    let told = status(rig);
    let (first, told) = (still(first), still(told));
    assert_eq!(first, told);
    // A change is a line.
    rig.agent("fresh", "You are new.");
    let is_there = |status: &Value| {
        let mut all = status["sandboxes"].as_array().unwrap().iter();
        all.any(|it| {
            it["sandbox"] == "fresh" && it["state"] == "running" && it["verdict"] == "keep"
        })
    };
    reader.until("the new sandbox", is_there);
    rig.crash("a1");
    let since = |status: &Value| sandbox(status, "a1")["since"].is_u64();
    let again = reader.until("a1 to run again", |status| {
        sandbox(status, "a1")["state"] == "running" && since(status)
    });
    assert_eq!(sandbox(&again, "a0")["since"], Value::Null, "that was so before: {again}");
    assert_eq!(watch.stop(), Some(0));
    while reader.line().is_some() {}
    assert!(!socket(rig).exists(), "it goes with its watch");
    assert_eq!(status(rig)["watch"], Value::Null);
}

pub(super) fn what_a_killed_watch_left_is_replaced(rig: &Rig) {
    rig.agents(1);
    rig.apply(0);
    drop(Watch::start(rig));
    assert!(socket(rig).exists(), "it was killed");
    assert_eq!(status(rig)["watch"], Value::Null, "nobody answers, and that is no error");
    let watch = Watch::start(rig);
    assert_eq!(Reader::new(rig).line().unwrap()["watch"]["pid"], watch.pid());
}

pub(super) fn a_watch_that_does_not_answer_is_not_waited_for(rig: &Rig) {
    rig.agents(1);
    rig.apply(0);
    let watch = Watch::start(rig);
    watch.signal("-STOP");
    let told = status(rig);
    watch.signal("-CONT");
    assert_eq!(told["watch"]["pid"], watch.pid());
    assert_eq!(told["watch"]["since"], Value::Null, "nobody has said so: {told}");
    assert_eq!(sandbox(&told, "a0")["state"], "running");
}

pub(super) fn only_so_many_listen(rig: &Rig) {
    rig.agents(1);
    rig.apply(0);
    let _watch = Watch::start(rig);
    let mut readers: Vec<Reader> = (0..16).map(|_| Reader::new(rig)).collect();
    for reader in &mut readers {
        assert!(reader.line().unwrap()["sandboxes"].is_array());
    }
    let mut one_more = Reader::new(rig);
    let told = one_more.line().unwrap();
    assert!(told["error"].as_str().is_some_and(|why| why.contains("too many")), "{told}");
    assert!(one_more.line().is_none());
    // Whoever cannot listen looks.
    assert_eq!(sandbox(&status(rig), "a0")["state"], "running");
    drop(readers);
    wait_for("a place", || Reader::new(rig).line().is_some_and(|it| it["sandboxes"].is_array()));
    // Who says something is nobody who listens.
    let mut talker = Reader::new(rig);
    std::io::Write::write_all(talker.0.get_mut(), b"x").unwrap();
    let mut rest = Vec::new();
    talker.0.read_to_end(&mut rest).unwrap();
}
