//! Looks where all that was written is: in sandboxes, and in snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;

use bottle::work::snapshot::{Landing, replay};
use serde_json::Value;

use super::ledger::{Ledger, Must};
use super::tree::{Agent, WORKSPACE};
use super::writer::{self, HOLE, TIME};
use crate::reconcile::rig::Rig;

/// What snapshots hold. A snapshot does not change: each is read once.
#[derive(Default)]
pub(super) struct Snapshots {
    read: BTreeMap<(String, u64), BTreeSet<String>>,
}

/// What a sandbox holds: as the ledger writes it, by path.
pub(super) fn inside(rig: &Rig, agent: &Agent) -> BTreeMap<char, Vec<String>> {
    let said = rig.inside(&agent.name, &writer::look());
    let mut found: BTreeMap<char, Vec<String>> = BTreeMap::new();
    let mut under = WORKSPACE;
    for line in said.lines() {
        if let Some(root) = line.strip_prefix("= ") {
            under = root.chars().next().expect("it names a path");
        } else if let Some(rest) = line.strip_prefix("special ") {
            let name = rest.split(' ').next().unwrap_or_default();
            // One that is just being made is nobody's yet.
            if line == writer::special(name) {
                found.entry(under).or_default().push(format!("special {name}"));
            } else {
                found.entry(under).or_default().push(format!("other {line}"));
            }
        } else {
            found.entry(under).or_default().extend(wrote(line));
        }
    }
    found
}

/// The whole lines of a file.
fn wrote(text: &str) -> impl Iterator<Item = String> {
    let whole = |line: &&str| writer::parse(line).is_some();
    text.lines().filter(whole).map(|line| format!("wrote {line}"))
}

impl Snapshots {
    /// All that the snapshots hold that there are.
    pub(super) fn hold(&mut self, rig: &Rig) -> BTreeSet<String> {
        let tree = rig.tree_path();
        let run = |args: &[&str]| rig.cli.run([&["--tree", &tree, "-o", "json"], args].concat());
        let listed = run(&["snapshot", "list"]).exits(0).json();
        let mut all = BTreeSet::new();
        for one in listed["snapshots"].as_array().expect("a list has snapshots") {
            if one.get("unreadable").is_some() {
                continue;
            }
            // By what it is of and when, whatever its sandbox is called by now.
            let file = one["path"].as_str().expect("it has a file");
            let ino = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(file).unwrap());
            let key = (one["when"].to_string(), ino);
            let held = self.read.entry(key).or_insert_with(|| {
                let held = read(one);
                let to = tempfile::tempdir().unwrap();
                let folder = to.path().join("out").display().to_string();
                let id = one["id"].as_str().expect("it has a name");
                run(&["snapshot", "restore", id, "--to", &folder]).exits(0);
                let mut out = BTreeSet::new();
                lines_below(Path::new(&folder), &mut out);
                let wrote = |line: &&String| line.starts_with("wrote ");
                let inside: BTreeSet<&String> = held.iter().filter(wrote).collect();
                assert_eq!(out.iter().collect::<BTreeSet<_>>(), inside, "{id} comes out whole");
                held
            });
            all.extend(held.iter().cloned());
        }
        all
    }
}

/// Lines of all files of that name below a folder of this machine.
fn lines_below(folder: &Path, into: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            lines_below(&entry.path(), into);
        } else if entry.file_name() == "lines" {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            into.extend(wrote(&text));
        }
    }
}

/// Reads a snapshot's file: what was written, with owners, modes and times.
fn read(one: &Value) -> BTreeSet<String> {
    let landing = Landing {
        paths: vec![("/".to_owned(), "/".to_owned())],
        without: Vec::new(),
        not_into: Vec::new(),
        owners: None,
        set_id: true,
    };
    let user = one["user"][0].as_u64().expect("it names its user");
    let mut tar = Vec::new();
    replay(Path::new(one["path"].as_str().unwrap()), &landing, &mut tar).unwrap();
    let mut held = BTreeSet::new();
    let mut special: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in tar::Archive::new(&*tar).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let names: Vec<String> =
            path.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        if names.last().is_some_and(|name| name == "lines") {
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            held.extend(wrote(&text));
            continue;
        }
        let Some(at) = names.iter().position(|name| name.starts_with("x.l")) else { continue };
        let header = entry.header();
        assert_eq!(header.uid().unwrap(), user, "the owner of {}", path.display());
        let link = entry.link_name().unwrap().map(|to| to.display().to_string());
        let link = link.map(|to| to.rsplit('/').next().unwrap_or_default().to_owned());
        let name = names.get(at + 1).map_or("", String::as_str);
        let (mode, time, size) =
            (header.mode().unwrap() & 0o7777, header.mtime().unwrap(), entry.size());
        let part = match (header.entry_type(), link) {
            (tar::EntryType::Symlink, Some(to)) => format!("{name} -> {to}"),
            (tar::EntryType::Link, Some(to)) => format!("{} = {to}", "ab".replace(&to, "")),
            _ if name == "s" => format!("s {mode:o} {time} {size}"),
            _ => format!("{name} {mode:o} {time}"),
        };
        special.entry(names[at].clone()).or_default().insert(part);
    }
    for (folder, parts) in special {
        let file = |name: &str| format!("{name} 640 {TIME}");
        let either =
            |one: &str, other: &str| [file(one), format!("{other} = {one}")].map(String::from);
        let rest = [format!(" 750 {TIME}"), "c -> a".to_owned(), format!("s 600 {TIME} {HOLE}")];
        let whole = [either("a", "b"), either("b", "a")]
            .into_iter()
            .any(|two| parts == two.into_iter().chain(rest.clone()).collect());
        let line = folder.trim_start_matches("x.");
        held.insert(if whole {
            format!("special {line}")
        } else {
            format!("other {line} {parts:?}")
        });
    }
    held
}

/// Whether all is where it must be; else what is wrong.
pub(super) fn compare(
    ledger: &Ledger,
    live: &BTreeMap<usize, BTreeMap<char, Vec<String>>>,
    out_of_sight: &BTreeSet<usize>,
    kept: &BTreeSet<String>,
) -> Result<(), String> {
    let mut wrong = Vec::new();
    for (life, found) in live {
        for lines in found.values() {
            let wrote: Vec<_> = lines.iter().filter(|line| line.starts_with("wrote ")).collect();
            let once: BTreeSet<_> = wrote.iter().collect();
            if once.len() != wrote.len() {
                wrong.push(format!("{life} has lines twice"));
            }
            let of = |line: &&&String| writer::parse(&line["wrote ".len()..]).map(|(of, _)| of);
            wrong.extend(
                wrote
                    .iter()
                    .filter(|line| of(line) != Some(*life))
                    .map(|line| format!("{life} has what is another's: {line}")),
            );
        }
    }
    let live_lines: BTreeMap<(usize, char), BTreeSet<&str>> = live
        .iter()
        .flat_map(|(life, found)| {
            found
                .iter()
                .map(|(root, lines)| ((*life, *root), lines.iter().map(String::as_str).collect()))
        })
        .collect();
    for (line, of, must) in ledger.all() {
        let lives = live_lines.get(&of).is_some_and(|lines| lines.contains(line));
        let good = match must {
            Must::Live => lives || out_of_sight.contains(&of.0),
            Must::Kept => lives || kept.contains(line),
        };
        if !good {
            let name = line.split_once(' ').map_or(line, |(_, name)| name);
            let like = |other: &&str| other.contains(name);
            let there: Vec<&str> =
                live_lines.get(&of).into_iter().flatten().copied().filter(like).collect();
            let also: Vec<&str> = kept.iter().map(String::as_str).filter(like).collect();
            wrong.push(format!("{must:?} {line}: in the sandbox {there:?}, in snapshots {also:?}"));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let count = wrong.len();
    wrong.truncate(12);
    Err(format!("{count} things are not where they must be:\n{}", wrong.join("\n")))
}
