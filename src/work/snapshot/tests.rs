use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use tar::{Builder, EntryType, Header};

use super::*;
use crate::backend::pax;
use crate::model::{Receipt, ResourceKind};
use crate::work::{self, Place};

fn meta() -> Meta {
    Meta {
        version: VERSION,
        tree: "team".to_owned(),
        sandbox: SandboxId::new("ada").unwrap(),
        backend: BackendKind::Native,
        image: Some("host".to_owned()),
        when: 1_796_123_456,
        why: Why::Manual,
        paths: vec!["/home/node".to_owned(), "/workspace".to_owned()],
        workspace: Some("/workspace".to_owned()),
        home: "/home/node".to_owned(),
        user: (1000, 1001),
        commit: None,
        delivered: vec!["x".to_owned()],
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(1000);
    header.set_gid(1001);
    header.set_mtime(981_173_106);
    header.set_size(size);
    header
}

/// What a sandbox hands out of `/workspace`.
fn workspace() -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    let folder = |tar: &mut Builder<Vec<u8>>, name: &str| {
        let mut header = header(EntryType::Directory, 0o750, 0);
        tar.append_data(&mut header, name, std::io::empty()).unwrap();
    };
    let file = |tar: &mut Builder<Vec<u8>>, name: &str, mode: u32, content: &[u8]| {
        let mut header = header(EntryType::Regular, mode, content.len() as u64);
        tar.append_data(&mut header, name, content).unwrap();
    };
    folder(&mut tar, "workspace/");
    file(&mut tar, "workspace/a", 0o640, b"one");
    file(&mut tar, &format!("workspace/{}/deep", "long-".repeat(40)), 0o600, b"deep");
    let (extension, content) =
        pax::extension(&[("mtime", b"981173106.5"), ("SCHILY.xattr.user.x", b"v")]).unwrap();
    tar.append(&extension, &*content).unwrap();
    file(&mut tar, "workspace/run", 0o4755, b"#!/bin/sh\n");
    file(&mut tar, "workspace/node_modules/x/index.js", 0o644, b"x");
    file(&mut tar, "workspace/zeros", 0o644, &[0; 3 << 20]);
    let mut link = header(EntryType::Symlink, 0o777, 0);
    tar.append_link(&mut link, "workspace/link", "/etc/passwd").unwrap();
    let mut link = header(EntryType::Link, 0o640, 0);
    tar.append_link(&mut link, "workspace/same", "workspace/a").unwrap();
    let mut fifo = header(EntryType::Fifo, 0o644, 0);
    tar.append_data(&mut fifo, "workspace/fifo", std::io::empty()).unwrap();
    // A name that the library itself would not write.
    let mut out = header(EntryType::Regular, 0o644, 3);
    out.as_gnu_mut().unwrap().name[..16].copy_from_slice(b"workspace/../out");
    out.set_cksum();
    tar.append(&out, &b"out"[..]).unwrap();
    tar.into_inner().unwrap()
}

fn home() -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for name in ["./node/.bashrc", "./node/.cache/big", "./node/x/.cache/kept"] {
        let mut header = header(EntryType::Regular, 0o644, 4);
        tar.append_data(&mut header, name, &b"home"[..]).unwrap();
    }
    tar.into_inner().unwrap()
}

fn part(path: &str, all: bool) -> Part {
    Part { path: path.to_owned(), folder: true, all, named: Vec::new(), without: Vec::new() }
}

/// A snapshot of both, and the folder that it is in.
fn made(all: bool) -> (tempfile::TempDir, Store, SnapshotId, LeftOut) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::of(folder.path());
    let (id, mut packer) = store.begin(&meta(), u64::MAX).unwrap();
    packer.add(&part("/workspace", all), &*workspace()).unwrap();
    packer.add(&part("/home/node", all), &*home()).unwrap();
    let left = packer.left_out().clone();
    assert!(store.list(None).unwrap().is_empty(), "what is half done is not listed");
    let bytes = packer.finish().unwrap();
    assert_eq!(store.find("ada").unwrap().bytes, bytes);
    (folder, store, id, left)
}

fn names(store: &Store, id: &SnapshotId) -> Vec<String> {
    let path = store.find(&id.to_string()).unwrap().path;
    let file = std::io::BufReader::new(File::open(path).unwrap());
    let mut archive = tar::Archive::new(crate::backend::zstd::Frames::new(file));
    archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().to_str().unwrap().to_owned())
        .collect()
}

#[test]
fn what_is_kept_stands_under_its_own_path() {
    let (_folder, store, id, left) = made(false);
    assert_eq!(id.to_string(), "ada/20261201T111056Z");
    let deep = format!("workspace/{}/deep", "long-".repeat(40));
    let expected = [
        "meta.json",
        "workspace",
        "workspace/a",
        &deep,
        "workspace/run",
        "workspace/zeros",
        "workspace/link",
        "workspace/same",
        "home/node/.bashrc",
        "home/node/x/.cache/kept",
    ];
    assert_eq!(names(&store, &id), expected);
    assert_eq!((left.count, left.built), (2, 2));
    let why: Vec<&str> = left.named.iter().map(|(_, why)| *why).collect();
    assert_eq!(why, ["it is a FIFO", "its name leads out"]);
    let one = store.find("ada").unwrap();
    assert_eq!(one.meta.unwrap(), meta());
    let counted = census(&one.path).unwrap();
    assert_eq!((counted.entries, counted.bytes), (9, 3 + 4 + 10 + (3 << 20) + 4 + 4));
    assert!(one.bytes < 16 << 10, "zeros take no room: {}", one.bytes);
    assert_eq!(std::fs::metadata(&one.path).unwrap().mode() & 0o7777, 0o600);
}

/// As the packer for native sandboxes writes it: GNU's own way.
#[test]
fn holes_are_zeros_and_take_no_room() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::of(folder.path());
    let (_, mut packer) = store.begin(&meta(), u64::MAX).unwrap();
    let mut sparse = header(EntryType::GNUSparse, 0o644, 6);
    let gnu = sparse.as_gnu_mut().unwrap();
    gnu.name[..14].copy_from_slice(b"workspace/hole");
    gnu.set_real_size(1 << 30);
    gnu.sparse[0].set_offset(4096);
    gnu.sparse[0].set_length(3);
    gnu.sparse[1].set_offset((1 << 30) - 3);
    gnu.sparse[1].set_length(3);
    sparse.set_cksum();
    let mut tar = Builder::new(Vec::new());
    tar.append(&sparse, &b"onetwo"[..]).unwrap();
    packer.add(&part("/workspace", false), &*tar.into_inner().unwrap()).unwrap();
    packer.finish().unwrap();
    let one = store.find("ada").unwrap();
    assert!(one.bytes < 1 << 20, "{}", one.bytes);
    let file = std::io::BufReader::new(File::open(&one.path).unwrap());
    let mut archive = tar::Archive::new(crate::backend::zstd::Frames::new(file));
    let mut entry = archive.entries().unwrap().nth(1).unwrap().unwrap();
    assert_eq!(entry.size(), 1 << 30);
    let mut content = std::io::Read::take(&mut entry, 8192);
    let mut begin = Vec::new();
    std::io::Read::read_to_end(&mut content, &mut begin).unwrap();
    assert_eq!((&begin[4096..4099], begin[4099]), (&b"one"[..], 0));
    let mut last = [0; 3];
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = std::io::Read::read(&mut entry, &mut buffer).unwrap();
        if count == 0 {
            break;
        }
        for byte in &buffer[..count] {
            last = [last[1], last[2], *byte];
        }
    }
    assert_eq!(&last, b"two");
}

#[test]
fn all_is_kept_where_that_is_asked_for() {
    let (_folder, store, id, left) = made(true);
    let names = names(&store, &id);
    for name in ["workspace/node_modules/x/index.js", "home/node/.cache/big"] {
        assert!(names.iter().any(|found| found == name), "{name} is not in {names:?}");
    }
    assert_eq!(left.built, 0);
}

#[test]
fn it_comes_out_into_a_folder_and_does_no_harm_there() {
    let (folder, store, _, _) = made(false);
    let out = folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let paths = vec![("/".to_owned(), "/all".to_owned())];
    let landing =
        Landing { paths, without: Vec::new(), not_into: Vec::new(), owners: None, set_id: false };
    let mut tar = Vec::new();
    replay(&store.find("ada").unwrap().path, &landing, &mut tar).unwrap();
    let place = Place { folder: out.clone(), name: None, owners: false };
    let done = work::extract(&*tar, &place).unwrap();
    assert_eq!(std::fs::read(out.join("workspace/a")).unwrap(), b"one");
    assert_eq!(std::fs::read(out.join("workspace/zeros")).unwrap(), vec![0; 3 << 20]);
    let found = std::fs::metadata(out.join("workspace/run")).unwrap();
    assert_eq!(found.permissions().mode() & 0o7777, 0o755);
    assert_eq!((found.mtime(), found.mtime_nsec()), (981_173_106, 500_000_000));
    let same = std::fs::metadata(out.join("workspace/same")).unwrap();
    assert_eq!(same.ino(), std::fs::metadata(out.join("workspace/a")).unwrap().ino());
    assert!(!out.join("workspace/link").is_symlink(), "a link that leads out stays behind");
    assert_eq!(done.refusals, 1);
}

#[test]
fn it_goes_to_the_places_and_the_user_of_another_sandbox() {
    let (_folder, store, _, _) = made(false);
    let landing = Landing {
        paths: vec![
            ("/home/node".to_owned(), "/root".to_owned()),
            ("/workspace".to_owned(), "/src/app".to_owned()),
        ],
        without: vec!["/home/node/x".to_owned()],
        not_into: vec!["/src/app/sub".to_owned()],
        owners: Some(((1000, 1001), (0, 7))),
        set_id: false,
    };
    let mut tar = Vec::new();
    replay(&store.find("ada").unwrap().path, &landing, &mut tar).unwrap();
    let mut archive = tar::Archive::new(&*tar);
    let mut seen = std::collections::BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let link = entry.link_name().unwrap().map(|link| link.to_str().unwrap().to_owned());
        let fraction = entry
            .pax_extensions()
            .unwrap()
            .map(|all| all.map(|one| one.unwrap().key().unwrap().to_owned()).collect::<Vec<_>>());
        let header = entry.header();
        let who = (header.uid().unwrap(), header.gid().unwrap());
        assert_eq!(who, (0, 7), "{name}");
        seen.insert(name, (header.mode().unwrap(), link, fraction));
    }
    assert_eq!(seen["src/app/run"].0, 0o755, "set-id bits stay behind");
    let kept = seen["src/app/run"].2.as_ref().unwrap();
    assert_eq!(kept, &["mtime", "SCHILY.xattr.user.x"]);
    assert_eq!(seen["src/app/same"].1.as_deref(), Some("src/app/a"));
    assert_eq!(seen["src/app/link"].1.as_deref(), Some("/etc/passwd"));
    assert!(seen.contains_key("root/.bashrc"), "{:?}", seen.keys());
    assert!(!seen.contains_key("root/x/.cache/kept"), "{:?}", seen.keys());
}

#[test]
fn one_that_is_broken_off_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::of(folder.path());
    let (_, mut packer) = store.begin(&meta(), u64::MAX).unwrap();
    let tar = workspace();
    packer.add(&part("/workspace", false), &tar[..tar.len() / 2]).unwrap_err();
    drop(packer);
    assert!(store.list(None).unwrap().is_empty());
    let left = std::fs::read_dir(folder.path().join("snapshots/ada")).unwrap().count();
    assert_eq!(left, 0, "no piece of it stays");
}

/// As after a kill: nobody holds it any more.
#[test]
fn what_a_killed_run_left_goes_with_the_next() {
    let (folder, store, id, _) = made(false);
    let left = folder.path().join("snapshots/ada/20260101T000000Z.tar.new");
    std::fs::write(&left, "half").unwrap();
    let (_, other) = store.begin(&meta(), u64::MAX).unwrap();
    assert!(!left.exists());
    let (_, third) = store.begin(&meta(), u64::MAX).unwrap();
    other.finish().unwrap();
    third.finish().unwrap();
    std::fs::write(&left, "half").unwrap();
    store.remove(&id).unwrap();
    assert!(!left.exists());
    assert_eq!(store.list(None).unwrap().len(), 2, "what is worked on stays");
}

#[test]
fn two_of_one_second_are_two() {
    let (folder, store, first, _) = made(false);
    let (second, packer) = store.begin(&meta(), u64::MAX).unwrap();
    let (third, other) = store.begin(&meta(), u64::MAX).unwrap();
    assert_eq!(first.to_string() + "-2", second.to_string());
    assert_eq!(first.to_string() + "-3", third.to_string());
    packer.finish().unwrap();
    other.finish().unwrap();
    assert_eq!(store.list(None).unwrap().len(), 3);
    assert_eq!(store.find("ada").unwrap().id, third, "the newest");
    for id in [first, second, third] {
        store.remove(&id).unwrap();
        store.remove(&id).unwrap_err();
    }
    assert!(!folder.path().join("snapshots").exists());
}

#[test]
fn what_is_damaged_is_listed_with_what_is_wrong() {
    let (folder, store, id, _) = made(false);
    let of = |name: &str| folder.path().join("snapshots/ada").join(format!("{name}.tar.zst"));
    std::fs::write(of("empty"), "").unwrap();
    std::fs::write(of("noise"), "no tar at all, and certainly no zstd").unwrap();
    let whole = std::fs::read(of(&id.time)).unwrap();
    std::fs::write(of("cut"), &whole[..40]).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, of("fifo"), rustix::fs::Mode::RUSR).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", of("link")).unwrap();
    let newer = Meta { version: VERSION + 1, ..meta() };
    let (newer, packer) = store.begin(&newer, u64::MAX).unwrap();
    packer.finish().unwrap();
    let found = store.list(None).unwrap();
    let wrong: std::collections::BTreeMap<_, _> = found
        .iter()
        .filter_map(|one| Some((one.id.time.as_str(), one.meta.as_ref().err()?.as_str())))
        .collect();
    assert_eq!(wrong.len(), 6, "{wrong:?}");
    assert_eq!(wrong["fifo"], "it is no file");
    assert_eq!(wrong["link"], "it is no file");
    assert!(wrong[newer.time.as_str()].contains("of version 2"), "{wrong:?}");
    for name in ["../x/y", "ada/../x", "ada/", "ada/a b", "", "Ada/x"] {
        assert!(SnapshotId::parse(name).is_none(), "{name}");
    }
}

/// Whoever can write to the folder may have put a file there that is not of ours.
#[test]
fn names_that_lead_out_of_a_snapshot_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::of(folder.path());
    let mut tar = Builder::new(Vec::new());
    let text = serde_json::to_vec(&meta()).unwrap();
    let mut first = header(EntryType::Regular, 0o600, text.len() as u64);
    tar.append_data(&mut first, "meta.json", &*text).unwrap();
    let mut out = header(EntryType::Regular, 0o644, 3);
    out.as_gnu_mut().unwrap().name[..6].copy_from_slice(b"../out");
    out.set_cksum();
    tar.append(&out, &b"out"[..]).unwrap();
    let tar = tar.into_inner().unwrap();
    let path = folder.path().join("snapshots/ada/x.tar.zst");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let packed =
        ruzstd::encoding::compress_to_vec(&*tar, ruzstd::encoding::CompressionLevel::Fastest);
    File::create(&path).unwrap().write_all(&packed).unwrap();
    let one = store.find("ada").unwrap();
    assert_eq!(one.meta, Ok(meta()));
    let error = format!("{:#}", census(&one.path).unwrap_err());
    assert!(error.contains("leads out"), "{error}");
}

/// A name in a tar is read whole before anybody sees how long it is.
#[test]
fn a_name_without_end_is_not_unpacked() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::of(folder.path());
    let mut tar = Builder::new(Vec::new());
    let name = vec![b'a'; 8 << 20];
    tar.append(&header(EntryType::GNULongName, 0o600, name.len() as u64), &*name).unwrap();
    let text = serde_json::to_vec(&meta()).unwrap();
    let mut first = header(EntryType::Regular, 0o600, text.len() as u64);
    tar.append_data(&mut first, "meta.json", &*text).unwrap();
    let path = folder.path().join("snapshots/ada/x.tar.zst");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let packed = ruzstd::encoding::compress_to_vec(
        &*tar.into_inner().unwrap(),
        ruzstd::encoding::CompressionLevel::Fastest,
    );
    assert!(packed.len() < 64 << 10);
    std::fs::write(&path, packed).unwrap();
    // All of it would be a file of that name.
    let wrong = store.find("ada").unwrap().meta.unwrap_err();
    assert!(wrong.contains("no tar in zstd"), "{wrong}");
}

/// Of a machine into which nothing was put.
pub(super) fn receipt() -> Receipt {
    Receipt {
        kind: ResourceKind::Machine,
        instance: crate::model::InstanceId("x".to_owned()),
        backend: BackendKind::Docker,
        sandbox: SandboxId::new("ada").unwrap(),
        guest: None,
        fields: Default::default(),
        skills: Default::default(),
        skills_dir: None,
        env: Default::default(),
        boot: None,
        workspace: false,
        copied_from: None,
        files: Default::default(),
        under_way: Default::default(),
        ca: None,
        names: None,
        settings: Default::default(),
        requests: Default::default(),
    }
}

/// A snapshot of nothing, made at `when` days of the epoch.
fn one(store: &Store, name: &str, when: u64, why: Why) -> SnapshotId {
    let sandbox = SandboxId::new(name).unwrap();
    let meta = Meta { sandbox, why, when: when * 86_400, ..meta() };
    let (id, packer) = store.begin(&meta, u64::MAX).unwrap();
    packer.finish().unwrap();
    id
}

#[test]
fn those_that_were_made_by_themselves_go_beyond_the_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::of(folder.path());
    let asked_for = one(&store, "ada", 10, Why::Manual);
    let pinned = one(&store, "ada", 11, Why::Replace);
    let old = one(&store, "ada", 50, Why::Teardown);
    let other = one(&store, "bob", 50, Why::Teardown);
    let later = one(&store, "ada", 60, Why::Replace);
    let bounds = Bounds { keep: 2, days: 30, bytes: 1 << 30 };
    let now = 70 * 86_400;
    let ada = SandboxId::new("ada").unwrap();
    let (goes, room) =
        store.beyond(&ada, Why::Teardown, bounds, now, &[pinned.to_string()]).unwrap();
    assert_eq!(goes, []);
    let once = Bounds { keep: 1, ..bounds };
    let (goes, room_of_one) = store.beyond(&ada, Why::Teardown, once, now, &[]).unwrap();
    assert_eq!(goes, [old.clone(), pinned.clone()]);
    assert!(room_of_one > room);
    let (goes, _) = store.beyond(&ada, Why::Replace, once, now, &[]).unwrap();
    assert_eq!(goes, [later.clone(), pinned.clone()]);
    let taken: u64 = store.list(None).unwrap().iter().map(|one| one.bytes).sum();
    assert!((bounds.bytes - taken..bounds.bytes).contains(&room), "{room}");
    // The age of all others is beyond it; what somebody asked for stays.
    let (goes, _) =
        store.beyond(&ada, Why::Teardown, Bounds { days: 5, ..bounds }, now, &[]).unwrap();
    assert_eq!(goes, [later, other, old.clone(), pinned]);
    store.let_go(&goes).unwrap();
    store.let_go(&[old]).unwrap();
    let left: Vec<_> = store.list(None).unwrap().into_iter().map(|one| one.id).collect();
    assert_eq!(left, [asked_for]);
    // What has no room is no snapshot.
    let (_, room) =
        store.beyond(&ada, Why::Teardown, Bounds { bytes: 10, ..bounds }, now, &[]).unwrap();
    assert_eq!(room, 0);
    let (_, packer) = store.begin(&meta(), room).unwrap();
    let error = format!("{:#}", packer.finish().unwrap_err());
    assert!(error.contains("`bottle snapshot remove` makes some"), "{error}");
    assert_eq!(store.list(None).unwrap().len(), 1);
}

#[test]
fn a_link_in_the_place_of_a_kept_folder_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (_, mut packer) = Store::of(folder.path()).begin(&meta(), u64::MAX).unwrap();
    let mut builder = Builder::new(Vec::new());
    let mut link = header(EntryType::Symlink, 0o777, 0);
    builder.append_link(&mut link, "node", "/elsewhere").unwrap();
    let tar = builder.into_inner().unwrap();
    let error = format!("{:#}", packer.add(&part("/home/node", true), &*tar).unwrap_err());
    assert!(error.contains("/home/node is no folder"), "{error}");
}

/// A snapshot of what a sandbox hands out of one path: the names in it, and what was left out.
fn kept(part: &Part, entries: &[(EntryType, &str)]) -> (Vec<String>, Vec<&'static str>) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::of(folder.path());
    let (id, mut packer) = store.begin(&meta(), u64::MAX).unwrap();
    let mut tar = Builder::new(Vec::new());
    for (kind, name) in entries {
        let mut header = header(*kind, 0o755, 0);
        match kind {
            EntryType::Symlink => tar.append_link(&mut header, name, "/etc").unwrap(),
            _ => tar.append_data(&mut header, name, std::io::empty()).unwrap(),
        }
    }
    packer.add(part, &*tar.into_inner().unwrap()).unwrap();
    let left = packer.left_out().named.iter().map(|(_, why)| *why).collect();
    packer.finish().unwrap();
    (names(&store, &id).split_off(1), left)
}

#[test]
fn a_path_may_be_a_file_and_a_link_in_its_place_is_left_out() {
    let named = Part { folder: false, ..part("/srv/state.db", false) };
    let (names, left) = kept(&named, &[(EntryType::Regular, "state.db")]);
    assert_eq!((names, left), (vec!["srv/state.db".to_owned()], vec![]));
    let (names, left) = kept(&named, &[(EntryType::Symlink, "state.db")]);
    assert_eq!((names.len(), left), (0, vec!["it is a link, which is not followed"]));
}

#[test]
fn what_is_the_hosts_or_can_be_made_again_is_left_out_unless_it_was_named() {
    use EntryType::{Directory, Regular};
    let entries = [
        (Directory, "node"),
        (Directory, "node/site"),
        (Regular, "node/site/a"),
        (Regular, "node/sites"),
        (Directory, "node/.cache"),
        (Regular, "node/.cache/x"),
        (Directory, "node/.cache/models"),
        (Regular, "node/.cache/models/m"),
        (Regular, "node/.cache/models/node_modules/x"),
        (Regular, "node/node_modules/x"),
    ];
    let own = |list: &[&str]| list.iter().map(|path| (*path).to_owned()).collect();
    let home = Part { without: own(&["/home/node/site"]), ..part("/home/node", false) };
    let (names, _) = kept(&home, &entries);
    assert_eq!(names, ["home/node", "home/node/sites"]);
    let (names, _) = kept(&Part { named: own(&["/home/node/.cache/models"]), ..home }, &entries);
    let cache = ["home/node/.cache", "home/node/.cache/models", "home/node/.cache/models/m"];
    assert_eq!(names, [&["home/node", "home/node/sites"], &cache[..]].concat());
    // By itself it is what was asked for, whatever it is called.
    let modules = part("/srv/node_modules", false);
    let (names, _) = kept(&modules, &[(Directory, "node_modules"), (Regular, "node_modules/x")]);
    assert_eq!(names, ["srv/node_modules", "srv/node_modules/x"]);
}
