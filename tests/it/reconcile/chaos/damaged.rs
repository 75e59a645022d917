//! Files of the state folder that are damaged, one at a time: bottle repairs it by itself, or holds
//! what it cannot know and names the file. No sandbox loses a file of its own, and none runs twice.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::rounds;
use crate::reconcile::rig::{Rig, docker};
use crate::support::{self, Ended};

/// What happens to a file.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Harm {
    Emptied,
    CutInHalf,
    RandomBytes,
    Unreadable,
    NewerVersion,
    Removed,
    AFolder,
    ADanglingLink,
    AFifo,
    AnotherType,
}

const HARMS: [Harm; 10] = [
    Harm::Emptied,
    Harm::CutInHalf,
    Harm::RandomBytes,
    Harm::Unreadable,
    Harm::NewerVersion,
    Harm::Removed,
    Harm::AFolder,
    Harm::ADanglingLink,
    Harm::AFifo,
    Harm::AnotherType,
];

impl Harm {
    /// Does it; false where this file cannot be harmed so.
    fn to(self, path: &Path) -> bool {
        let bytes = fs::read(path).unwrap();
        match self {
            Self::Emptied => fs::write(path, "").unwrap(),
            Self::CutInHalf => fs::write(path, &bytes[..bytes.len() / 2]).unwrap(),
            Self::RandomBytes => {
                let noise = (0..bytes.len().max(16)).map(|n| (n * 7919 % 251) as u8 ^ 0xa5);
                fs::write(path, noise.collect::<Vec<_>>()).unwrap();
            }
            Self::Unreadable => {
                // Nothing is unreadable to root; to others this is.
                fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
                return !rustix::process::geteuid().is_root();
            }
            Self::NewerVersion => {
                let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(&bytes) else {
                    return false;
                };
                let Some(version) = value.get_mut("version") else { return false };
                *version = 999.into();
                fs::write(path, value.to_string()).unwrap();
            }
            Self::Removed => fs::remove_file(path).unwrap(),
            Self::AFolder => {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            }
            Self::ADanglingLink => {
                fs::remove_file(path).unwrap();
                symlink("/nonexistent/bottle", path).unwrap();
            }
            Self::AFifo => {
                fs::remove_file(path).unwrap();
                rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU).unwrap();
            }
            // Whole, and of no use to anybody.
            Self::AnotherType => fs::write(path, "[17]").unwrap(),
        }
        true
    }
}

/// A file as it was.
struct Kept {
    path: PathBuf,
    bytes: Vec<u8>,
    mode: u32,
}

impl Kept {
    fn of(path: &Path) -> Self {
        let mode = fs::metadata(path).unwrap().permissions().mode();
        Self { path: path.to_owned(), bytes: fs::read(path).unwrap(), mode }
    }

    /// As who finds the damage would: what is in the way goes, a copy comes back.
    fn put_back(&self) {
        match fs::symlink_metadata(&self.path) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(&self.path).unwrap(),
            Ok(_) => fs::remove_file(&self.path).unwrap(),
            Err(_) => {}
        }
        fs::create_dir_all(self.path.parent().unwrap()).unwrap();
        fs::write(&self.path, &self.bytes).unwrap();
        fs::set_permissions(&self.path, fs::Permissions::from_mode(self.mode)).unwrap();
    }
}

/// Two sandboxes, one of them with a sidecar, each with a file of its own.
fn world(rig: &Rig) {
    rig.agents(1);
    let (backend, image) = (rig.backend, rig.image());
    rig.tree.bottle(
        "linked",
        &format!("backend: {backend}\nimage: {image}\negress:\n  allowlist: [example.com]"),
    );
    rig.tree.agent("b0", "linked", "", "You are linked.");
    rig.apply(0);
    // As it is after an `--adopt` of what is gone since.
    fs::write(rig.memory().join("adopted.json"), r#"["0123456789abcdef"]"#).unwrap();
    for name in SANDBOXES {
        rig.inside(name, &format!("echo {name} > /var/tmp/mine"));
    }
    // A second pass writes what only a second pass does.
    rig.converged();
}

const SANDBOXES: [&str; 2] = ["a0", "b0"];

/// The records: every file in the state folder but what belongs to guests, whatever it is called, so that
/// a new one is tried as well.
fn records(state: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![state.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let kind = entry.file_type().unwrap();
            // Files of guests, files of images, and room for records, in which nothing stands.
            let not_ours = ["upper", "work", "stage", ".bases", "root", ".reserve"];
            if kind.is_dir() && !not_ours.contains(&name.as_str()) {
                folders.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// The first processes of each native sandbox of this rig, by their descriptors.
fn inits(rig: &Rig) -> BTreeMap<String, Vec<i32>> {
    let native = rig.memory().join("native");
    let mut pids = BTreeMap::<String, Vec<i32>>::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let process = entry.path();
        let Ok(stat) = fs::read_to_string(process.join("stat")) else { continue };
        if !stat.contains("(bottle-init) ") || stat.contains("(bottle-init) Z") {
            continue;
        }
        let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        let name = open.filter_map(|fd| fs::read_link(fd.path()).ok()).find_map(|path| {
            let inside = path.strip_prefix(&native).ok()?;
            inside.components().next()?.as_os_str().to_str().map(str::to_owned)
        });
        if let (Some(name), Ok(pid)) = (name, entry.file_name().to_string_lossy().parse()) {
            pids.entry(name).or_default().push(pid);
        }
    }
    pids
}

/// A sandbox's own file, seen from the host, whatever its state.
fn own_file_is_there(rig: &Rig, name: &str) -> bool {
    if rig.backend == "docker" {
        let label = format!("label=io.bottle.sandbox={name}");
        let ids =
            rig.containers(&["--filter", &label, "--filter", "label=io.bottle.resource=machine"]);
        return ids.iter().any(|id| docker(&["exec", id, "cat", "/var/tmp/mine"]).trim() == name);
    }
    let mut folders = vec![rig.memory().join("native")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            } else if entry.path().ends_with("var/tmp/mine")
                && fs::read_to_string(entry.path()).is_ok_and(|text| text.trim() == name)
            {
                return true;
            }
        }
    }
    false
}

/// What is wrong after `file` was harmed and applied once; nothing, where all is as it must be.
fn wrongs(rig: &Rig, file: &Path, plan: &Ended, apply: &Ended) -> Vec<String> {
    let mut wrongs = Vec::new();
    for ended in [plan, apply] {
        let said = format!("{}{}", ended.stdout, ended.stderr);
        if !matches!(ended.code, Some(0..=3)) || said.contains("panicked") {
            wrongs.push(format!("exit {:?}", ended.code));
        }
    }
    for name in SANDBOXES {
        if !own_file_is_there(rig, name) {
            wrongs.push(format!("{name} has lost its file"));
        }
    }
    if rig.backend == "native" {
        for (name, pids) in inits(rig) {
            if pids.len() > 1 {
                wrongs.push(format!("{name} runs {} times", pids.len()));
            }
        }
    }
    if apply.code == Some(0) {
        // It says that it is well, or has repaired itself: then it is.
        let again = rig.plan();
        if again.code != Some(0) {
            wrongs.push(format!("apply ended 0, and a plan after it {:?}", again.code));
        }
        for name in SANDBOXES {
            let there = rig.exec(name, "cat /var/tmp/mine");
            if there.stdout.trim() != name {
                wrongs.push(format!("apply ended 0, and {name} does not answer: {}", there.stderr));
            }
        }
    } else {
        let said = format!("{}{}", apply.stdout, apply.stderr);
        let short = file.file_name().unwrap().to_str().unwrap();
        if !said.contains(short) && !said.contains("--adopt") {
            wrongs.push(format!("exit {:?} does not name {short}: {said}", apply.code));
        }
    }
    wrongs
}

/// One file, one harm, a rig of its own.
fn one(rig: &Rig, which: &Path, harm: Harm) -> Option<Vec<String>> {
    let path = rig.cli.state().join(which);
    let kept = Kept::of(&path);
    if !harm.to(&path) {
        kept.put_back();
        return None;
    }
    let plan = rig.plan();
    let apply = rig.apply_with(&[]);
    let mut wrongs = wrongs(rig, &path, &plan, &apply);
    if apply.code != Some(0) {
        // The way out for who has a copy. (Else the message has named another.)
        kept.put_back();
        let after = rig.apply_with(&[]);
        if after.code != Some(0) {
            wrongs.push(format!(
                "put back, apply ends {:?}: {}{}",
                after.code, after.stdout, after.stderr
            ));
        }
        for name in SANDBOXES {
            let there = rig.exec(name, "cat /var/tmp/mine");
            if there.stdout.trim() != name {
                wrongs.push(format!("put back, {name} does not answer: {}", there.stderr));
            }
        }
    }
    let down = rig.down();
    if down.code != Some(0) {
        wrongs.push(format!("down ends {:?}: {}", down.code, down.stderr));
        end(rig);
    }
    Some(wrongs)
}

/// Ends what bottle did not, so that the rest of the test is not disturbed by it.
fn end(rig: &Rig) {
    for (_, pids) in inits(rig) {
        for pid in pids {
            let pid = rustix::process::Pid::from_raw(pid).expect("a pid is positive");
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
        }
    }
    rig.down();
}

/// Every record with every harm, or a sample that is spread over both.
pub(in crate::reconcile) fn every_record_that_is_damaged_is_repaired_or_held(rig: &Rig) {
    world(rig);
    let state = rig.cli.state();
    // What has a random name is named by its place.
    let of = |rig: &Rig| -> Vec<PathBuf> {
        let state = rig.cli.state();
        records(&state).iter().map(|path| path.strip_prefix(&state).unwrap().to_owned()).collect()
    };
    let files = of(rig);
    assert!(files.len() >= 5, "{files:?}");
    let all = files.len() * HARMS.len();
    let wanted = rounds(if rig.backend == "docker" { 8 } else { 24 });
    println!("{}: {} files below {}: {files:?}", rig.backend, files.len(), state.display());
    let (mut tried, mut found) = (0, Vec::new());
    // A step that shares no factor with either length meets every pair in the end.
    let step = (all / wanted.max(1)).max(1) | 1;
    for round in 0.. {
        if tried >= wanted || round >= all {
            break;
        }
        let at = (round * step + round * step / all) % all;
        let (index, harm) = (at / HARMS.len(), HARMS[at % HARMS.len()]);
        let fresh = Rig::like(rig);
        world(&fresh);
        let now = of(&fresh);
        assert_eq!(now.len(), files.len(), "{now:?} {files:?}");
        let Some(wrongs) = one(&fresh, &now[index], harm) else { continue };
        tried += 1;
        if !wrongs.is_empty() {
            let file = now[index].display();
            found.push(format!("{} {file} {harm:?}: {}", rig.backend, wrongs.join("; ")));
            support::say(&found[found.len() - 1]);
        }
    }
    println!("{}: {tried} damaged files of {all}", rig.backend);
    assert!(found.is_empty(), "{} of {tried}:\n{}", found.len(), found.join("\n"));
}
