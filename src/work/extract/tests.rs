#![expect(clippy::disallowed_methods, reason = "makes folders and looks at them")]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::*;

/// An entry as a guest might write it: no name is checked on the way into the archive.
struct Made<'a> {
    kind: EntryType,
    name: &'a str,
    link: &'a str,
    mode: u32,
    content: &'a [u8],
}

fn made<'a>(kind: EntryType, name: &'a str, link: &'a str) -> Made<'a> {
    Made { kind, name, link, mode: 0o644, content: b"" }
}

fn file<'a>(name: &'a str, content: &'a [u8]) -> Made<'a> {
    Made { kind: EntryType::Regular, name, link: "", mode: 0o644, content }
}

fn dir(name: &str) -> Made<'_> {
    Made { kind: EntryType::Directory, name, link: "", mode: 0o755, content: b"" }
}

fn link<'a>(name: &'a str, to: &'a str) -> Made<'a> {
    made(EntryType::Symlink, name, to)
}

fn hard<'a>(name: &'a str, to: &'a str) -> Made<'a> {
    made(EntryType::Link, name, to)
}

fn archive(entries: &[Made<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(12345);
        header.set_gid(12345);
        header.set_mtime(1_000_000_000);
        header.set_size(entry.content.len() as u64);
        let old = header.as_old_mut();
        old.name[..entry.name.len()].copy_from_slice(entry.name.as_bytes());
        old.linkname[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_cksum();
        builder.append(&header, entry.content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A folder to copy into, beside one that nothing may touch.
struct Corner {
    folder: tempfile::TempDir,
}

impl Corner {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("dest")).unwrap();
        std::fs::create_dir(folder.path().join("outside")).unwrap();
        std::fs::write(folder.path().join("outside/kept"), "kept").unwrap();
        Self { folder }
    }

    fn dest(&self) -> std::path::PathBuf {
        self.folder.path().join("dest")
    }

    fn extract(&self, entries: &[Made<'_>]) -> Extracted {
        let place = Place { folder: self.dest(), name: Some("w".into()), owners: false };
        extract(&archive(entries)[..], &place).unwrap()
    }

    /// Nothing lies beside `dest`, nothing in it leads out, and nothing in it raises rights.
    fn holds(&self) {
        let beside: Vec<_> = std::fs::read_dir(self.folder.path()).unwrap().flatten().collect();
        assert_eq!(beside.len(), 2, "{beside:?}");
        let outside = self.folder.path().join("outside");
        let names: Vec<_> = std::fs::read_dir(&outside).unwrap().flatten().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        let kept = outside.join("kept");
        assert_eq!(std::fs::read(&kept).unwrap(), b"kept");
        assert_eq!(std::fs::metadata(kept).unwrap().nlink(), 1);
        let root = self.dest().canonicalize().unwrap();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                let found = entry.path().symlink_metadata().unwrap();
                let name = entry.file_name();
                assert!(!name.as_bytes().starts_with(b".bottle-"), "{name:?}");
                if found.is_symlink() {
                    if let Ok(to) = entry.path().canonicalize() {
                        assert!(to.starts_with(&root), "{:?} leads to {to:?}", entry.path());
                    }
                    continue;
                }
                assert_eq!(found.mode() & 0o7022, 0, "{:?}", entry.path());
                if found.is_dir() {
                    folders.push(entry.path());
                } else {
                    assert!(found.is_file(), "{:?}", entry.path());
                }
            }
        }
    }
}

#[test]
fn a_tree_comes_out_as_it_is() {
    let corner = Corner::new();
    let done = corner.extract(&[
        dir("src/"),
        Made { mode: 0o555, ..dir("src/ro/") },
        file("src/ro/a", b"a"),
        link("src/ro/up", "../run.sh"),
        Made { mode: 0o755, ..file("src/run.sh", b"#!/bin/sh\n") },
        link("src/l", "ro/a"),
        hard("src/b", "src/ro/a"),
        file("src/empty", b""),
    ]);
    assert_eq!((done.refusals, done.entries, done.bytes), (0, 8, 11), "{:?}", done.refused);
    let at = |path: &str| corner.dest().join("w").join(path);
    let meta = |path: &str| std::fs::symlink_metadata(at(path)).unwrap();
    assert_eq!(std::fs::read(at("l")).unwrap(), b"a");
    assert_eq!(std::fs::read(at("ro/up")).unwrap(), b"#!/bin/sh\n");
    assert_eq!(meta("b").ino(), meta("ro/a").ino());
    let modes = ["ro", "ro/a", "run.sh"].map(|path| meta(path).permissions().mode() & 0o7777);
    assert_eq!(modes, [0o555, 0o644, 0o755]);
    for path in ["", "ro", "ro/a", "l", "empty"] {
        assert_eq!(meta(path).mtime(), 1_000_000_000, "{path}");
    }
    assert_eq!(meta("ro/a").uid(), rustix::process::geteuid().as_raw());
    corner.holds();
}

#[test]
fn what_would_leave_or_raise_rights_is_left_out_and_listed() {
    let device = |kind| made(kind, "w/x", "");
    let cases: &[(&str, &[Made<'_>], &str)] = &[
        ("an absolute name", &[file("/outside/new", b"x")], "absolute"),
        ("`..` first", &[file("../outside/new", b"x")], "leads out"),
        ("`..` in between", &[file("w/../../outside/new", b"x")], "leads out"),
        ("`..` last", &[dir("w/..")], "leads out"),
        ("an absolute link", &[link("w/l", "/etc/passwd")], "absolute path"),
        ("a link out", &[link("w/l", "../../outside/kept")], "leads out"),
        ("a link beside", &[link("w/l", "../other")], "leads out"),
        ("a link to `..`", &[link("w/l", "..")], "leads out"),
        ("out behind a name", &[link("w/l", "a/../../../outside/kept")], "behind a name"),
        (
            "out through a link that goes up",
            &[dir("w/a/"), dir("w/a/b/"), link("w/a/b/up", "../.."), link("w/a/l", "b/up/../x")],
            "behind a name",
        ),
        (
            "a file through a link",
            &[dir("w/a/"), link("w/l", "a"), file("w/l/f", b"x")],
            "no folder",
        ),
        ("a folder through a link", &[dir("w/a/"), link("w/l", "a"), dir("w/l/d/")], "no folder"),
        ("a link instead of the root", &[link("w", "../outside"), file("w/f", b"x")], "leads out"),
        ("a hard link to the host", &[hard("w/h", "/etc/passwd")], "absolute"),
        ("a hard link out", &[hard("w/h", "../outside/kept")], "leads out"),
        ("a hard link to what is not there", &[hard("w/h", "w/none")], "did not bring"),
        ("a hard link to a link", &[link("w/l", "x"), hard("w/h", "w/l")], "did not bring"),
        ("a hard link to a folder", &[dir("w/d/"), hard("w/h", "w/d")], "did not bring"),
        ("a hard link to the root", &[hard("w/h", "w")], "did not bring"),
        ("a setuid file", &[Made { mode: 0o4755, ..file("w/s", b"x") }], "set-id"),
        ("a setgid file", &[Made { mode: 0o2755, ..file("w/s", b"x") }], "set-id"),
        ("a character device", &[device(EntryType::Char)], "device"),
        ("a block device", &[device(EntryType::Block)], "device"),
        ("a FIFO", &[device(EntryType::Fifo)], "FIFO"),
        ("what nobody knows", &[device(EntryType::new(b'D'))], "unknown kind"),
        ("a folder over a file", &[file("w/f", b"x"), file("w/f/g", b"y")], "no folder"),
        (
            "a file over a folder",
            &[dir("w/d/"), file("w/d/g", b"y"), file("w/d", b"x")],
            "a folder",
        ),
        ("a link over a folder", &[dir("w/d/"), file("w/d/g", b"y"), link("w/d", "g")], "a folder"),
    ];
    for (what, entries, why) in cases {
        let corner = Corner::new();
        let mut entries: Vec<&Made<'_>> = entries.iter().collect();
        let after = file("w/after", b"still there");
        entries.push(&after);
        let entries: Vec<Made<'_>> = entries.iter().map(|e| Made { ..**e }).collect();
        let done = corner.extract(&entries);
        assert!(done.refusals >= 1, "{what}");
        let said = &done.refused[0].why;
        assert!(said.contains(why), "{what}: {said}");
        let after = std::fs::read(corner.dest().join("w/after"));
        assert_eq!(after.unwrap(), b"still there", "{what}");
        corner.holds();
    }
}

#[test]
fn nothing_is_written_through_what_the_operator_has_there() {
    let corner = Corner::new();
    let outside = corner.folder.path().join("outside");
    std::fs::create_dir(corner.dest().join("w")).unwrap();
    std::os::unix::fs::symlink(outside.join("kept"), corner.dest().join("w/f")).unwrap();
    std::os::unix::fs::symlink(&outside, corner.dest().join("w/d")).unwrap();
    std::fs::hard_link(outside.join("kept"), corner.dest().join("w/h")).unwrap();
    let done = corner.extract(&[
        file("w/f", b"new"),
        file("w/d/kept", b"new"),
        file("w/h", b"new"),
        hard("w/g", "w/none"),
    ]);
    assert_eq!(done.refusals, 2, "{:?}", done.refused);
    assert_eq!(std::fs::read(outside.join("kept")).unwrap(), b"kept");
    assert!(!corner.dest().join("w/f").is_symlink());
    assert_eq!(std::fs::read(corner.dest().join("w/h")).unwrap(), b"new");
    std::fs::remove_file(corner.dest().join("w/d")).unwrap();
    corner.holds();
}

#[test]
fn a_folder_that_is_there_keeps_its_mode_and_nothing_half_done_stays() {
    let corner = Corner::new();
    let there = corner.dest().join("w");
    std::fs::create_dir(&there).unwrap();
    std::fs::set_permissions(&there, std::fs::Permissions::from_mode(0o700)).unwrap();
    let done =
        corner.extract(&[Made { mode: 0o777, ..dir("w/") }, file("w/f", b"x"), dir("w/new/")]);
    assert_eq!((done.refusals, done.entries), (0, 3), "{:?}", done.refused);
    let mode = |path: &str| std::fs::metadata(there.join(path)).unwrap().permissions().mode();
    assert_eq!((mode("") & 0o7777, mode("new") & 0o7777), (0o700, 0o755));
    let place = Place { folder: corner.dest(), name: Some("w".into()), owners: false };
    let whole = archive(&[file("w/cut", &[1; 5000])]);
    assert!(extract(&whole[..1500], &place).is_err());
    assert_eq!(std::fs::read_dir(&there).unwrap().count(), 2);
}

#[test]
fn a_hole_stays_one_and_what_is_listed_has_a_bound() {
    let corner = Corner::new();
    let mut content = vec![0; 4 << 20];
    content.extend_from_slice(b"end");
    corner.extract(&[file("w/sparse", &content)]);
    let found = std::fs::metadata(corner.dest().join("w/sparse")).unwrap();
    assert_eq!(found.len(), content.len() as u64);
    assert!(found.blocks() * 512 < 1 << 20, "{}", found.blocks());
    assert_eq!(std::fs::read(corner.dest().join("w/sparse")).unwrap(), content);

    let names: Vec<String> = (0..5000).map(|at| format!("w/{at}")).collect();
    let entries: Vec<Made<'_>> = names.iter().map(|n| made(EntryType::Fifo, n, "")).collect();
    let done = corner.extract(&entries);
    assert_eq!((done.refusals, done.refused.len(), done.entries), (5000, LISTED, 0));

    // Names of a size that only an archive has.
    let mut builder = tar::Builder::new(Vec::new());
    for at in 0..600 {
        let name = format!("w/{}/{at}", "x".repeat(100_000));
        builder.append_pax_extensions([("path", name.as_bytes())]).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::Fifo);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_size(0);
        header.set_cksum();
        builder.append(&header, io::empty()).unwrap();
    }
    let place = Place { folder: corner.dest(), name: Some("w".into()), owners: false };
    let done = extract(&builder.into_inner().unwrap()[..], &place).unwrap();
    assert_eq!(done.refusals, 600);
    let bytes: usize = done.refused.iter().map(|refused| refused.path.len()).sum();
    assert!(bytes < 1 << 21 && done.refused.len() > 100, "{bytes} {}", done.refused.len());
    assert!(done.refused[7].path.ends_with("xx/7"));
}

#[test]
fn depth_and_damage_end_with_a_reason() {
    let corner = Corner::new();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::Directory);
    header.set_mode(0o755);
    header.set_size(0);
    builder.append_data(&mut header, "d/".repeat(300), io::empty()).unwrap();
    let tar = builder.into_inner().unwrap();
    let place = Place { folder: corner.dest(), name: None, owners: false };
    let done = extract(&tar[..], &place).unwrap();
    assert!(done.refused[0].why.contains("256 folders deep"), "{:?}", done.refused);

    let whole = archive(&[file("w/a", &[b'a'; 2000]), file("w/b", b"b")]);
    let error = extract(&whole[..1024], &place).unwrap_err();
    assert!(format!("{error:#}").contains("unpacking w/a"), "{error:#}");
    assert_eq!(std::fs::read_dir(corner.dest()).unwrap().count(), 0);
    assert!(extract(&b"no archive at all".repeat(100)[..], &place).is_err());
}

#[test]
fn places_are_as_with_other_tools() {
    let corner = Corner::new();
    let dest = corner.dest();
    let at = |path: &Path, contents| {
        Place::at(path, OsStr::new("src"), contents, false, &Writable::default())
    };
    let into = at(&dest, false).unwrap();
    assert_eq!((into.folder, into.name), (dest.clone(), Some("src".into())));
    let contents = at(&dest, true).unwrap();
    assert_eq!((contents.folder, contents.name), (dest.clone(), None));
    let named = at(&dest.join("new"), false).unwrap();
    assert_eq!((named.folder, named.name), (dest.clone(), Some("new".into())));
    for wrong in [dest.join("new/"), dest.join("none/new")] {
        let error = at(&wrong, false).unwrap_err();
        assert!(error.to_string().contains("make it first"), "{error}");
    }
}

#[test]
fn holes_are_no_zeros_and_zeros_without_end_are_refused() {
    let corner = Corner::new();
    let place = Place { folder: corner.dest(), name: Some("w".into()), owners: false };
    let sparse = |size: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_path("w/disk").unwrap();
        header.set_entry_type(EntryType::GNUSparse);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(4);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.set_real_size(size);
        gnu.sparse[0].set_offset(4096);
        gnu.sparse[0].set_length(4);
        gnu.sparse[1].set_offset(size);
        gnu.sparse[1].set_length(0);
        header.set_cksum();
        let mut builder = tar::Builder::new(Vec::new());
        builder.append(&header, &b"data"[..]).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        builder.append_data(&mut header, "w/next", &b"n"[..]).unwrap();
        builder.into_inner().unwrap()
    };
    let done = extract(&sparse(1 << 40)[..], &place).unwrap();
    assert_eq!((done.entries, done.bytes, done.refusals), (2, (1 << 40) + 1, 0));
    let found = std::fs::metadata(corner.dest().join("w/disk")).unwrap();
    assert!(found.len() == 1 << 40 && found.blocks() < 64, "{} blocks", found.blocks());
    // Longer than any file can be: that one is left out.
    let done = extract(&sparse(u64::MAX / 2)[..], &place).unwrap();
    assert_eq!((done.entries, done.refusals), (1, 1), "{:?}", done.refused);

    let mut header = tar::Header::new_gnu();
    header.set_path("w/zeros").unwrap();
    header.set_size(1 << 40);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    let endless = header.as_bytes().chain(io::repeat(0));
    let error = format!("{:#}", extract(endless, &place).unwrap_err());
    assert!(error.contains("w/zeros") && error.contains("hole"), "{error}");
    assert!(!corner.dest().join("w/zeros").exists());
    corner.holds();
}
