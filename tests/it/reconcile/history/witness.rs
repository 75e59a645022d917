//! What sandboxes have said, from outside: the output of every machine that there was, to its end.
//!
//! A native machine's output is a file, which is read on when it has no name any more; a container's is followed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::reconcile::rig::{Rig, docker, wait_for};

/// How often the files are read.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Default)]
struct Heard {
    /// Lines that nobody has asked for yet, and which machine said them.
    lines: Mutex<Vec<(String, String)>>,
    /// How many follow the output of a container.
    following: Mutex<BTreeMap<String, usize>>,
    rounds: AtomicU64,
    over: AtomicBool,
}

/// Listens until it is dropped.
pub(super) struct Witness {
    heard: Arc<Heard>,
    reader: Option<JoinHandle<()>>,
    events: Option<(Child, JoinHandle<()>)>,
    native: PathBuf,
    owner: Option<String>,
}

impl Witness {
    pub(super) fn of(rig: &Rig) -> Self {
        let heard = Arc::new(Heard::default());
        let native = rig.memory().join("native");
        let (folder, to) = (native.clone(), heard.clone());
        let reader = Some(std::thread::spawn(move || read(&folder, &to)));
        let owner = (rig.backend == "docker").then(|| rig.tree.owner.clone());
        let events = owner.as_ref().map(|owner| listen(owner, &heard));
        Self { heard, reader, events, native, owner }
    }

    /// All machines that there are now, those that were set aside too.
    pub(super) fn machines(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for entry in std::fs::read_dir(&self.native).into_iter().flatten().flatten() {
            all.extend(machine(&entry.path()));
        }
        if let Some(owner) = &self.owner {
            let owner = format!("label=io.bottle.owner={owner}");
            let machine = "label=io.bottle.resource=machine";
            let all_of =
                ["ps", "-aq", "--no-trunc", "--filter", owner.as_str(), "--filter", machine];
            all.extend(docker(&all_of).split_whitespace().map(str::to_owned));
        }
        all
    }

    /// What was said since the last time, and by which machine: of those that are not in `there` to the end.
    pub(super) fn hear(&self, there: &BTreeSet<String>) -> Vec<(String, String)> {
        let seen = self.heard.rounds.load(Ordering::SeqCst);
        wait_for("the output of machines to be read", || {
            let gone = |id: &String| !there.contains(id);
            self.heard.rounds.load(Ordering::SeqCst) > seen + 1
                && !self.heard.following.lock().unwrap().keys().any(gone)
        });
        std::mem::take(&mut self.heard.lines.lock().unwrap())
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.heard.over.store(true, Ordering::SeqCst);
        if let Some((mut child, thread)) = self.events.take() {
            let _ = child.kill();
            let _ = child.wait();
            let _ = thread.join();
        }
        let _ = self.reader.take().map(JoinHandle::join);
    }
}

/// The id of the native machine in a folder.
fn machine(folder: &Path) -> Option<String> {
    let record = std::fs::read(folder.join("machine.json")).ok()?;
    let record: serde_json::Value = serde_json::from_slice(&record).ok()?;
    record["id"].as_str().map(str::to_owned)
}

/// Hands on each whole line.
struct Lines {
    id: String,
    rest: Vec<u8>,
}

impl Lines {
    fn add(&mut self, bytes: &[u8], heard: &Heard) {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            heard.lines.lock().unwrap().push((self.id.clone(), line));
        }
    }
}

/// Reads the files of native machines.
fn read(native: &Path, heard: &Heard) {
    let mut open: HashMap<(u64, u64), (File, Lines)> = HashMap::new();
    while !heard.over.load(Ordering::SeqCst) {
        for entry in std::fs::read_dir(native).into_iter().flatten().flatten() {
            let Ok(file) = File::open(entry.path().join("log")) else { continue };
            let Ok(found) = file.metadata() else { continue };
            let Some(id) = machine(&entry.path()) else { continue };
            let lines = Lines { id, rest: Vec::new() };
            open.entry((found.dev(), found.ino())).or_insert((file, lines));
        }
        for (file, lines) in open.values_mut() {
            let mut bytes = Vec::new();
            if file.read_to_end(&mut bytes).is_ok() {
                lines.add(&bytes, heard);
            }
        }
        heard.rounds.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(LOOK);
    }
}

/// Follows each container of this owner from when it starts.
fn listen(owner: &str, heard: &Arc<Heard>) -> (Child, JoinHandle<()>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut events = Command::new("docker")
        .args(["events", "--since", &now.to_string(), "--format", "{{.ID}}"])
        .args(["--filter", "type=container", "--filter", "event=start"])
        .args(["--filter", &format!("label=io.bottle.owner={owner}")])
        .args(["--filter", "label=io.bottle.resource=machine"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the docker client can be run");
    let said = BufReader::new(events.stdout.take().expect("it is a pipe"));
    let heard = heard.clone();
    let thread = std::thread::spawn(move || {
        for id in said.lines().map_while(Result::ok) {
            *heard.following.lock().unwrap().entry(id.clone()).or_default() += 1;
            let heard = heard.clone();
            std::thread::spawn(move || {
                follow(&id, &heard);
                let mut following = heard.following.lock().unwrap();
                match following.get_mut(&id) {
                    Some(count) if *count > 1 => *count -= 1,
                    _ => drop(following.remove(&id)),
                }
            });
        }
    });
    (events, thread)
}

fn follow(id: &str, heard: &Heard) {
    let mut logs = Command::new("docker")
        .args(["logs", "--follow", id])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the docker client can be run");
    let mut lines = Lines { id: id.to_owned(), rest: Vec::new() };
    let mut said = logs.stdout.take().expect("it is a pipe");
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = said.read(&mut piece) {
        lines.add(&piece[..count], heard);
    }
    let _ = logs.wait();
}
