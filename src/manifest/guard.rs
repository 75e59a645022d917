//! Which folders of the host a bottle may name.
//!
//! A sandbox that could write the tree would choose its own walls, one that could read the state
//! folder would learn what is kept there, and one that holds an engine's socket owns the host. Nor
//! does it need the kernel's own files, the sockets of what runs, or the operator's keys.

use std::path::{Path, PathBuf};

use super::field::Field;
use super::host;
use super::source::{Findings, shorten_path};
use super::tree::{self, Kind};

/// Sockets that give whoever can write to them the whole host.
const ENGINE_SOCKETS: [&str; 7] = [
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/podman/podman.sock",
    "/run/crio/crio.sock",
    "/var/lib/docker",
    "/var/lib/containerd",
];

/// The same below the home folder.
const HOME_SOCKETS: [&str; 4] =
    [".docker/run", ".docker/desktop", ".colima", ".local/share/containers/podman/machine"];

/// What the kernel shows of itself and of every process.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Of the system itself: who may log in, and what boots.
const SYSTEM: [&str; 5] = ["/etc/shadow", "/etc/ssh", "/etc/ssl/private", "/boot", "/var/lib"];

/// Where tools keep keys and tokens, below the home folder.
const HOME_KEYS: [&str; 15] = [
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".kube",
    ".docker",
    ".oci",
    ".password-store",
    ".config/gcloud",
    ".config/gh",
    ".config/git/credentials",
    ".config/containers",
    ".config/sops",
    ".config/op",
    ".local/share/keyrings",
];

/// What stands around the file that is read.
#[derive(Debug)]
pub(super) struct Guard<'a> {
    /// The folder of the file: `./` starts here.
    pub(super) base: &'a Path,
    /// The operator's home folder.
    pub(super) home: Option<&'a Path>,
    /// The tree and the overlays, canonical, with what each is called.
    pub(super) trees: &'a [(PathBuf, &'static str)],
}

impl Guard<'_> {
    /// The absolute path that a field names.
    pub(super) fn path(&self, field: &Field<'_>, findings: &mut Findings<'_>) -> Option<PathBuf> {
        let text = field.word(findings)?;
        match host::host_path(text, self.base, self.home) {
            Ok(path) => Some(path),
            Err(reason) => {
                findings.add(field.error(reason));
                None
            }
        }
    }

    /// An existing folder of the host that a sandbox may be given, with its links resolved.
    pub(super) fn folder(&self, field: &Field<'_>, findings: &mut Findings<'_>) -> Option<PathBuf> {
        let path = self.path(field, findings)?;
        let found = tree::canonical(&path).and_then(|path| Ok((tree::stat(&path)?.kind, path)));
        let (kind, path) = match found {
            Ok(found) => found,
            Err(error) => {
                let message = format!("`{}`: {}", shorten_path(&path), tree::describe(&error));
                findings.add(field.error(message));
                return None;
            }
        };
        if kind != Kind::Folder {
            let message = format!("`{}` is {}, not a folder", shorten_path(&path), kind.describe());
            findings.add(field.error(message));
            return None;
        }
        if let Some(reason) = self.refuses(&path) {
            let message = format!("`{}` {reason}", shorten_path(&path));
            findings.add(
                field.error(message).hint("name a folder that holds only what the agent is to see"),
            );
            return None;
        }
        Some(path)
    }

    /// Why a canonical folder may not be the image of a sandbox, which gets a copy of it: it may
    /// lie in the tree, beside its bottle.
    pub(super) fn refuses_image(&self, path: &Path) -> Option<String> {
        if path == Path::new("/") {
            return Some("is the whole host".to_owned());
        }
        if KERNEL.iter().any(|own| path.starts_with(own)) {
            return Some("belongs to the kernel: that is no root file system".to_owned());
        }
        let home = self.home.map(|home| (resolved(home), "your home folder"));
        let (_, what) =
            self.trees.iter().cloned().chain(home).find(|(kept, _)| kept.starts_with(path))?;
        Some(format!("is or contains {what}: that is no root file system"))
    }

    /// Why a canonical folder may not be given to a sandbox.
    pub(super) fn refuses(&self, path: &Path) -> Option<String> {
        if path == Path::new("/") {
            return Some("is the whole host".to_owned());
        }
        for (tree, what) in self.trees {
            let relation = if path == tree {
                "is"
            } else if tree.starts_with(path) {
                "contains"
            } else if path.starts_with(tree) {
                "lies in"
            } else {
                continue;
            };
            return Some(format!("{relation} {what}: a sandbox may not see or change that"));
        }
        if let Some(home) = self.home.map(resolved).filter(|home| home != Path::new("/"))
            && home.starts_with(path)
        {
            let relation = if home == path { "is" } else { "contains" };
            return Some(format!("{relation} your home folder"));
        }
        let system = ENGINE_SOCKETS.iter().map(PathBuf::from);
        let own = HOME_SOCKETS.iter().filter_map(|path| Some(self.home?.join(path)));
        let engine = system
            .chain(own)
            .map(|socket| resolved(&socket))
            .find(|socket| socket.starts_with(path) || path.starts_with(socket));
        if let Some(socket) = engine {
            let socket = socket.display();
            return Some(format!("gives access to a container engine (`{socket}`)"));
        }
        if KERNEL.iter().any(|own| path.starts_with(own)) {
            return Some("belongs to the kernel, which shows the whole host there".to_owned());
        }
        // What is plugged in is mounted below it, and is a person's own.
        let run = |path: &Path| path.starts_with("/run") && !path.starts_with("/run/media");
        if run(path) || path == Path::new("/run/media") {
            return Some("holds sockets of what runs on this machine".to_owned());
        }
        if let Some(own) = SYSTEM.iter().find(|own| Path::new(own).starts_with(path)) {
            return Some(format!("is or contains `{own}`, which is the system's own"));
        }
        let keys =
            HOME_KEYS.iter().filter_map(|keys| Some((keys, resolved(&self.home?.join(keys)))));
        let mut near = keys.filter(|(_, at)| at.starts_with(path) || path.starts_with(at));
        let (keys, _) = near.next()?;
        Some(format!("gives access to your keys (`~/{keys}`)"))
    }
}

/// A path with its links resolved as far as it exists.
pub(super) fn resolved(path: &Path) -> PathBuf {
    if let Ok(path) = tree::canonical(path) {
        return path;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => resolved(parent).join(name),
        _ => path.to_owned(),
    }
}
