#![expect(clippy::disallowed_methods, reason = "tests of a file system module")]

use std::fs;

use super::*;

type Made = (&'static str, EntryType, String);

fn tar_of(entries: &[Made]) -> OwnedFd {
    let mut builder = Builder::new(Vec::new());
    for (name, kind, to) in entries {
        let mut header = Header::new_old();
        header.set_entry_type(*kind);
        header.set_mode(0o666);
        header.set_size(0);
        header.set_uid(rustix::process::geteuid().as_raw().into());
        header.set_gid(rustix::process::getegid().as_raw().into());
        // Not by the builder's own means, which refuse such names.
        let raw = header.as_old_mut();
        raw.name[..name.len()].copy_from_slice(name.as_bytes());
        raw.linkname[..to.len()].copy_from_slice(to.as_bytes());
        header.set_cksum();
        builder.append(&header, io::empty()).unwrap();
    }
    crate::backend::native::in_memory(&builder.into_inner().unwrap()).unwrap().into()
}

/// X11: links, devices and whiteouts that aim outside.
#[test]
fn no_layer_leads_out_of_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "kept").unwrap();
    let at = |name: &str| outside.join(name).to_str().unwrap().to_owned();
    let (file, link, hard) = (EntryType::Regular, EntryType::Symlink, EntryType::Link);
    let none = String::new;
    let cases: Vec<Vec<Made>> = vec![
        vec![("../outside/new", file, none())],
        vec![("a/../../outside/new", file, none())],
        vec![("s", link, at("")), ("s/new", file, none())],
        vec![("s", link, "../outside".into()), ("s/new", file, none())],
        vec![("s", link, at("kept")), ("s", file, none())],
        vec![("s", link, at("kept")), ("s", EntryType::Directory, none())],
        vec![("h", hard, at("kept")), ("h", file, none())],
        vec![("h", hard, "../outside/kept".into())],
        vec![("s", link, at("")), ("h", hard, "s/kept".into())],
        vec![("s", link, at("")), ("s/.wh.kept", file, none())],
        vec![("s", link, at("")), ("s/.wh..wh..opq", file, none())],
        vec![(".wh...", file, none())],
        vec![("d", EntryType::Block, none())],
    ];
    for (number, case) in cases.iter().enumerate() {
        let root = folder.path().join(format!("root{number}"));
        fs::create_dir(&root).unwrap();
        // Refused, or harmless: what counts is what lies outside afterwards.
        let _ = unpack_layer(&root, tar_of(case), true);
        let left: Vec<_> =
            fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["kept"], "{case:?}");
        let kept = fs::metadata(outside.join("kept")).unwrap();
        assert_eq!((kept.len(), std::os::unix::fs::MetadataExt::nlink(&kept)), (4, 1), "{case:?}");
        assert!(!root.join("d").exists(), "a device");
    }
}

/// Each whiteout once looked at everything that its layer had brought.
#[test]
fn whiteouts_take_time_by_their_number_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut builder = Builder::new(Vec::new());
    let mut add = |name: String| {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(rustix::process::geteuid().as_raw().into());
        header.set_gid(rustix::process::getegid().as_raw().into());
        header.set_size(0);
        builder.append_data(&mut header, name, io::empty()).unwrap();
    };
    let count = 6000;
    (0..count).for_each(|n| add(format!("d/sub/f{n}")));
    (0..count).for_each(|n| add(format!("d/sub/.wh.g{n}")));
    // What the layer itself brought stays, and so does the folder that it lies in.
    add("d/.wh.sub".into());
    add("d/.wh..wh..opq".into());
    let tar = crate::backend::native::in_memory(&builder.into_inner().unwrap()).unwrap();
    let mut brought = Brought::default();
    brought.add(OsStr::new("a/b/c"));
    let has = |path: &str| brought.has(OsStr::new(path));
    assert!(has("a") && has("a/b") && !has("a/b/c/d") && !has("x"));
    unpack_layer(folder.path(), tar.into(), true).unwrap();
    assert_eq!(fs::read_dir(folder.path().join("d/sub")).unwrap().count(), count);
}

#[test]
fn a_layer_is_bounded_in_bytes_and_entries() {
    let folder = tempfile::tempdir().unwrap();
    let root = Inside::new(folder.path().to_str().unwrap()).unwrap();
    let tar = || {
        tar_of(&[
            ("a", EntryType::Regular, String::new()),
            ("b", EntryType::Regular, String::new()),
        ])
    };
    let unpack = |bytes, entries| {
        let left = Some(Bounds { bytes, entries });
        Unpacking {
            root: &root,
            layer: Some(Brought::default()),
            left,
            folders: Vec::new(),
            room: FOLDERS,
        }
        .all(File::from(tar()))
    };
    assert!(unpack(0, 2).is_ok());
    let error = format!("{:#}", unpack(0, 1).unwrap_err());
    assert!(error.contains("entries, which is the limit"), "{error}");
    let mut bounds = Bounds { bytes: 10, entries: 9 };
    bounds.take(10).unwrap();
    let error = format!("{:#}", bounds.take(1).unwrap_err());
    assert!(error.contains("GiB, which is the limit"), "{error}");
}

#[test]
fn a_folder_of_the_operators_has_no_bound() {
    let folder = tempfile::tempdir().unwrap();
    // An entry that says how large it is, and has nothing.
    let mut header = Header::new_gnu();
    header.set_path("large").unwrap();
    header.set_size(oci::LAYER_BYTES + 1);
    header.set_mode(0o644);
    header.set_cksum();
    let unpack = |archived| {
        let tar = crate::backend::native::in_memory(header.as_bytes()).unwrap();
        let unpacked = unpack_layer(folder.path(), tar.into(), archived);
        unpacked.err().map(|error| format!("{error:#}")).unwrap_or_default()
    };
    assert!(unpack(true).contains("which is the limit"));
    let error = unpack(false);
    assert!(!error.contains("the limit"), "{error}");
}

#[test]
fn what_is_only_zeros_takes_no_room() {
    use std::os::unix::fs::MetadataExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    for (begin, zeros, end) in
        [(&b"begin"[..], 8 << 20, &b"end"[..]), (b"", 3 << 20, b""), (b"x", 0, b""), (b"", 0, b"")]
    {
        let mut file = std::fs::File::create(&path).unwrap();
        let content = begin.chain(io::repeat(0).take(zeros)).chain(end);
        fill(&mut file, &mut { content }).unwrap();
        let mut read = Vec::new();
        std::fs::File::open(&path).unwrap().read_to_end(&mut read).unwrap();
        let middle = vec![0; usize::try_from(zeros).unwrap()];
        assert!(read == [begin, &middle, end].concat(), "{begin:?}");
        assert!(file.metadata().unwrap().blocks() * 512 <= 256 << 10);
    }
}
