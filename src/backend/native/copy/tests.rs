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
        let _ = unpack_layer(&root, tar_of(case));
        let left: Vec<_> =
            fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["kept"], "{case:?}");
        let kept = fs::metadata(outside.join("kept")).unwrap();
        assert_eq!((kept.len(), std::os::unix::fs::MetadataExt::nlink(&kept)), (4, 1), "{case:?}");
        assert!(!root.join("d").exists(), "a device");
    }
}
