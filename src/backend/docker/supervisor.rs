//! What runs first in a machine: a loader, which the container is made with, and the supervisor of the bottle's command,
//! a file. An engine repeats the whole command line of a container in every listing; of 300 it would be most of one.

use std::path::Path;

use tar::{Archive, Builder, Header};

use crate::backend::{Upload, guest_path};
use crate::model::MachineSpec;

/// What the container is made with, as a person may read it.
const LOADER_SH: &str = include_str!("loader.sh");

/// What it loads, likewise.
const MAIN_SH: &str = include_str!("main.sh");

/// Where that lies: root's, on the machine's disk.
const FILE: &str = "etc/bottle/main";

/// The main process of a machine and what it is told; its command comes after.
pub(super) fn entrypoint(spec: &MachineSpec) -> Vec<String> {
    let waits = if spec.waits_for_env { "1" } else { "0" };
    let words = ["/bin/sh", "-c", &bare(LOADER_SH), "bottle", spec.restart.as_str(), waits];
    words.map(str::to_owned).into()
}

/// A script as it is sent.
fn bare(script: &str) -> String {
    let lines = script.lines().map(str::trim_start);
    lines.filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n")
}

/// The same upload, with the supervisor before the marker that lets a command start.
///
/// # Errors
/// When the archive is none.
pub(super) fn equipped(mut upload: Upload) -> std::io::Result<Upload> {
    let ready = Path::new(guest_path::READY.trim_start_matches('/'));
    let mut brings_ready = upload.dirs.iter().any(|dir| dir.path == guest_path::READY);
    for entry in Archive::new(upload.tar.as_ref()).entries()? {
        let entry = entry?;
        let path = entry.path()?;
        brings_ready |= path.strip_prefix(".").unwrap_or(&path) == ready;
    }
    if brings_ready {
        let script = bare(MAIN_SH);
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(script.len() as u64);
        let mut first = Builder::new(Vec::new());
        first.append_data(&mut header, FILE, script.as_bytes())?;
        upload.tar = if upload.tar.is_empty() {
            first.into_inner()?.into()
        } else {
            // Without the end of an archive, which is that of the other one.
            [first.get_ref().as_slice(), &upload.tar].concat().into()
        };
    }
    Ok(upload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::GuestDir;
    use crate::backend::docker::labels::tests::machine;

    fn names(upload: &Upload) -> Vec<String> {
        let mut archive = Archive::new(upload.tar.as_ref());
        let entries = archive.entries().unwrap().map(|entry| entry.unwrap());
        entries.map(|entry| entry.path().unwrap().display().to_string()).collect()
    }

    fn upload(files: &[&str]) -> Upload {
        let mut tar = Builder::new(Vec::new());
        for name in files {
            let mut header = Header::new_gnu();
            header.set_size(1);
            tar.append_data(&mut header, name, &b"x"[..]).unwrap();
        }
        Upload { tar: tar.into_inner().unwrap().into(), ..Upload::default() }
    }

    #[test]
    fn the_loader_is_short_and_has_the_arguments() {
        // What both need of an image is sh and sleep.
        assert!(!MAIN_SH.contains("$(date") && !LOADER_SH.contains("$(cat"));
        let mut spec = machine("ada");
        spec.waits_for_env = true;
        let words = entrypoint(&spec);
        assert_eq!(words[..2], ["/bin/sh", "-c"]);
        assert_eq!(words[3..], ["bottle", "on-failure", "1"]);
        assert!(!words[2].lines().any(|line| line.trim().starts_with('#')));
        assert!(words[2].len() < 500, "{}", words[2].len());
    }

    #[test]
    fn the_supervisor_comes_with_the_marker_and_before_it() {
        let there = equipped(upload(&["etc/bottle/prompt.md", "etc/bottle/ready"])).unwrap();
        assert_eq!(names(&there), ["etc/bottle/main", "etc/bottle/prompt.md", "etc/bottle/ready"]);
        let dotted = equipped(upload(&["./etc/bottle/ready"])).unwrap();
        assert_eq!(names(&dotted).len(), 2);
        for other in [&["etc/bottle/ready.not"][..], &[]] {
            assert_eq!(names(&equipped(upload(other)).unwrap()), other);
        }
        assert!(equipped(Upload::default()).unwrap().tar.is_empty());
        let folder = GuestDir { path: guest_path::READY.to_owned(), uid: 0, gid: 0, mode: 0o755 };
        let there = equipped(Upload { dirs: vec![folder], ..Upload::default() }).unwrap();
        assert_eq!(names(&there), ["etc/bottle/main"]);
    }
}
