//! What a container's own layer holds, read where the engine keeps it. The engine tells the same, and takes some
//! twenty milliseconds to: for that it mounts the layer and walks it.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use bollard::models::ContainerInspectResponse;
use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// So many entries of a layer are looked at, so many folders deep. Whoever left more has worked there, and there the
/// engine is asked.
const ENTRIES: usize = 4096;
const DEPTH: usize = 64;

/// The paths of all that a container's layer holds: what was written, removed or given other rights, and the folders that
/// it is in. `None`: the layer does not lie open to this process, or there is too much of it.
pub(super) fn paths(container: &ContainerInspectResponse) -> Option<Vec<String>> {
    let driver = container.graph_driver.as_ref()?;
    let data: &HashMap<String, String> = &driver.data;
    let upper = data.get("UpperDir").filter(|_| driver.name == "overlay2")?;
    walk(Path::new(upper))
}

/// A guest writes there all the time: nothing that it puts in the place of a folder is followed.
const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn walk(upper: &Path) -> Option<Vec<String>> {
    let top = rustix::fs::open(upper, FOLDER, Mode::empty()).ok()?;
    let mut found = Vec::new();
    below(&top, "", 0, &mut found)?;
    Some(found)
}

fn below(folder: &OwnedFd, at: &str, depth: usize, found: &mut Vec<String>) -> Option<()> {
    for entry in Dir::read_from(folder).ok()? {
        let entry = entry.ok()?;
        let name: &CStr = entry.file_name();
        if [c".", c".."].contains(&name) {
            continue;
        }
        let path = format!("{at}/{}", name.to_string_lossy());
        if matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
            match rustix::fs::openat(folder, name, FOLDER, Mode::empty()) {
                Ok(_) if depth == DEPTH => return None,
                Ok(inner) => below(&inner, &path, depth + 1, found)?,
                // No folder, or none any more.
                Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => {}
                Err(_) => return None,
            }
        }
        found.push(path);
        if found.len() > ENTRIES {
            return None;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "makes a layer")]

    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn all_that_the_layer_holds_is_named_and_no_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let upper = folder.path().join("diff");
        fs::create_dir_all(upper.join("home/node/src")).unwrap();
        fs::write(upper.join("home/node/src/a b"), "x").unwrap();
        fs::create_dir(folder.path().join("secret")).unwrap();
        fs::write(folder.path().join("secret/key"), "x").unwrap();
        symlink(folder.path().join("secret"), upper.join("home/out")).unwrap();
        let mut found = walk(&upper).unwrap();
        found.sort();
        let expected = ["/home", "/home/node", "/home/node/src", "/home/node/src/a b", "/home/out"];
        assert_eq!(found, expected);
        // The layer itself may be no link either.
        symlink(&upper, folder.path().join("link")).unwrap();
        assert_eq!(walk(&folder.path().join("link")), None);
    }

    #[test]
    fn a_layer_without_end_is_left_to_the_engine() {
        let folder = tempfile::tempdir().unwrap();
        let mut deep = folder.path().to_owned();
        for _ in 0..=DEPTH + 1 {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        assert_eq!(walk(folder.path()), None);
        let folder = tempfile::tempdir().unwrap();
        for number in 0..=ENTRIES {
            fs::write(folder.path().join(number.to_string()), "").unwrap();
        }
        assert_eq!(walk(folder.path()), None);
    }
}
