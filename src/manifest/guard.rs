//! Which folders of the host a bottle may name.
//!
//! A sandbox that could write the tree would choose its own walls, one that could read the state
//! folder would learn what is kept there, and one that holds an engine's socket owns the host. Nor
//! does it need the kernel's own files, the sockets of what runs, or the operator's keys.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::field::Field;
use super::host;
use super::source::{Findings, shorten_path};
use super::tree::{self, Kind};
use super::trust::Trust;
use super::yaml::Value;
use crate::model::{HostSource, Located, Nesting, Place, Use};

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
    /// The operator's `PATH`.
    pub(super) search_path: Option<&'a OsStr>,
    /// The tree and the overlays, canonical, with what each is called.
    pub(super) trees: &'a [(PathBuf, &'static str)],
    /// Whom the operator's files may belong to.
    pub(super) trust: &'a Trust,
    /// What the file names of the host, as it was resolved.
    pub(super) sources: RefCell<Vec<HostSource>>,
}

impl Guard<'_> {
    /// The folder of the tree.
    pub(super) fn tree(&self) -> &Path {
        self.trees.first().map_or(self.base, |(tree, _)| tree)
    }

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

    /// What `path`, which `field` names, leads to, and that it is used so. It is an error when
    /// others can put something else in its place.
    ///
    /// # Errors
    /// When it does not exist or cannot be looked at.
    pub(super) fn resolve(
        &self,
        field: &Field<'_>,
        path: &Path,
        usage: Use,
        findings: &mut Findings<'_>,
    ) -> io::Result<PathBuf> {
        let walked = self.trust.walk(path)?;
        let mut exposed = walked.exposed;
        let stat = tree::stat_link(&walked.path)?;
        let kept = matches!(stat.kind, Kind::File | Kind::Folder);
        if usage == Use::Define && kept && exposed.is_none() {
            exposed = self.trust.own(&walked.path, &stat);
        }
        let shown = shorten_path(path);
        if let Some(exposed) = exposed {
            let at = shorten_path(&exposed.path);
            let message = format!("`{shown}` can be replaced by others: `{at}` {}", exposed.who);
            findings.add(field.error(message).hint(format!(
                "only you and root may be able to change what this path leads to: {}, or name \
                 another path",
                exposed.mend
            )));
        } else if walked.path.to_str().is_none() {
            let message = format!("`{shown}` leads to a path that is not UTF-8");
            findings.add(field.error(message).hint("rename it"));
        }
        let (line, column) = findings.source().position(field.span().start);
        // Of a file the content counts, wherever it lies: it may move.
        let text = match &field.node.value {
            Value::Text(text) if stat.kind == Kind::Folder => text.clone(),
            _ => walked.path.display().to_string(),
        };
        let mut source = HostSource {
            field: without_indices(&field.at.to_string()),
            base: text.starts_with('.').then(|| self.base.to_owned()),
            text,
            path: walked.path.clone(),
            via: walked.via,
            usage,
            place: Place { file: findings.source().name().to_owned(), line, column },
            located: Located::default(),
        };
        source.locate(&self.trust.mounts);
        self.sources.borrow_mut().push(source);
        Ok(walked.path)
    }

    /// An existing folder of the host that a sandbox may be given, with its links resolved.
    pub(super) fn folder(
        &self,
        field: &Field<'_>,
        usage: Use,
        findings: &mut Findings<'_>,
    ) -> Option<PathBuf> {
        let path = self.path(field, findings)?;
        let found = self
            .resolve(field, &path, usage, findings)
            .and_then(|path| Ok((tree::stat_link(&path)?.kind, path)));
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
        if usage == Use::Mount
            && let Some(socket) = tree::socket_in(&path)
        {
            let message = format!(
                "there is a unix socket in it (`{}`): whatever listens there can be talked to from \
                 inside, past the sidecar",
                shorten_path(&socket)
            );
            findings.add(
                field.warning(message).hint(
                    "move the socket elsewhere, or use `mode: copy`, which leaves sockets out",
                ),
            );
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
            self.trees.iter().cloned().chain(home).find(|(kept, _)| self.holds(path, kept))?;
        Some(format!("is or contains {what}: that is no root file system"))
    }

    /// How a canonical folder lies to another one, under whatever names they are mounted.
    fn nesting(&self, path: &Path, other: &Path) -> Option<Nesting> {
        self.trust.mounts.nesting(path, other)
    }

    /// Whether the folder holds this path: it is that, or contains it.
    fn holds(&self, path: &Path, other: &Path) -> bool {
        matches!(self.nesting(path, other), Some(Nesting::Same | Nesting::Around))
    }

    /// Why a canonical folder may not be given to a sandbox.
    pub(super) fn refuses(&self, path: &Path) -> Option<String> {
        if path == Path::new("/") {
            return Some("is the whole host".to_owned());
        }
        for (tree, what) in self.trees {
            let relation = match self.nesting(path, tree) {
                Some(Nesting::Same) => "is",
                Some(Nesting::Around) => "contains",
                Some(Nesting::Inside) => "lies in",
                None => continue,
            };
            return Some(format!("{relation} {what}: a sandbox may not see or change that"));
        }
        if let Some(home) = self.home.map(resolved).filter(|home| home != Path::new("/"))
            && self.holds(path, &home)
        {
            let is = self.nesting(path, &home) == Some(Nesting::Same);
            let relation = if is { "is" } else { "contains" };
            return Some(format!("{relation} your home folder"));
        }
        let system = ENGINE_SOCKETS.iter().map(PathBuf::from);
        let own = HOME_SOCKETS.iter().filter_map(|path| Some(self.home?.join(path)));
        let engine = system
            .chain(own)
            .map(|socket| resolved(&socket))
            .find(|socket| self.holds(path, socket) || self.trust.mounts.is_within(path, socket));
        if let Some(socket) = engine {
            let socket = socket.display();
            return Some(format!("gives access to a container engine (`{socket}`)"));
        }
        let within = |own: &str| self.trust.mounts.is_within(path, Path::new(own));
        if KERNEL.iter().any(|own| within(own)) {
            return Some("belongs to the kernel, which shows the whole host there".to_owned());
        }
        // What is plugged in is mounted below it, and is a person's own.
        if (within("/run") && !path.starts_with("/run/media")) || path == Path::new("/run/media") {
            return Some("holds sockets of what runs on this machine".to_owned());
        }
        if let Some(own) = SYSTEM.iter().find(|own| self.holds(path, Path::new(own))) {
            return Some(format!("is or contains `{own}`, which is the system's own"));
        }
        let keys =
            HOME_KEYS.iter().filter_map(|keys| Some((keys, resolved(&self.home?.join(keys)))));
        let mut near = keys.filter(|(_, at)| self.nesting(path, at).is_some());
        let (keys, _) = near.next()?;
        Some(format!("gives access to your keys (`~/{keys}`)"))
    }
}

/// The path of a field without places in lists: their order means nothing.
fn without_indices(path: &str) -> String {
    let mut out = String::new();
    let mut within = false;
    for c in path.chars() {
        match c {
            '[' => within = true,
            ']' => within = false,
            _ if within => {}
            c => out.push(c),
        }
    }
    out
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
