//! The native backend's side of the contract that every backend passes.
//!
//! Its image is made of the host's own programs: plain files, so nothing has to be installed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use async_trait::async_trait;
use bottle::backend::native::Native;
use bottle::backend::{Backend, Scope};
use bottle::model::{ImageRef, Instance, OwnerId, Resources, SpecHash};

use super::support::program;
use crate::contract::{Capability, Fixture};

/// What the cases run.
const PROGRAMS: &[&str] = &[
    "cat", "cut", "echo", "grep", "id", "ln", "ls", "mkdir", "mv", "printenv", "pwd", "rm", "sed",
    "sh", "sleep", "stat", "tail", "true", "wc",
];

/// A root file system with those programs of the host and what they are linked to, root and node.
fn userland(root: &Path) {
    for folder in ["usr/bin", "etc", "home/node", "tmp", "proc", "sys", "dev", "root", "run"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    symlink("usr/bin", root.join("bin")).unwrap();
    let passwd = "root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n";
    fs::write(root.join("etc/passwd"), passwd).unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nnode:x:1000:\n").unwrap();
    let mut libraries = BTreeSet::new();
    for name in PROGRAMS {
        let host = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(name));
        let host = host.iter().find(|path| path.exists()).unwrap_or_else(|| panic!("no {name}"));
        fs::copy(host, root.join("usr/bin").join(name)).unwrap();
        let linked = Command::new("ldd").arg(host).output().expect("ldd is part of the C library");
        let linked = String::from_utf8(linked.stdout).unwrap();
        let paths = linked.split_whitespace().filter(|word| word.starts_with('/'));
        libraries.extend(paths.map(PathBuf::from));
    }
    for library in libraries {
        let inside = root.join(library.strip_prefix("/").unwrap());
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::copy(&library, &inside).unwrap();
    }
}

/// The image as a folder and as `docker save` would write it, made once.
fn images() -> &'static [ImageRef; 2] {
    static IMAGES: OnceLock<(tempfile::TempDir, [ImageRef; 2])> = OnceLock::new();
    let made = IMAGES.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        userland(&root);
        let mut layer = tar::Builder::new(Vec::new());
        layer.follow_symlinks(false);
        layer.append_dir_all(".", &root).unwrap();
        let layer = owned_by_node(&layer.into_inner().unwrap());
        let mut save = tar::Builder::new(Vec::new());
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            save.append_data(&mut header, name, bytes).unwrap();
        };
        add("config.json", br#"{"config":{"Env":["FROM_IMAGE=1"]}}"#);
        add("layer.tar", &layer);
        add(
            "manifest.json",
            br#"[{"Config":"config.json","RepoTags":null,"Layers":["layer.tar"]}]"#,
        );
        let bytes = save.into_inner().unwrap();
        let path = folder.path().join("image.tar");
        fs::write(&path, &bytes).unwrap();
        let tar = ImageRef::Tar { path, digest: SpecHash::of_bytes(&bytes) };
        let digest =
            SpecHash::of_bytes(b"a folder is known by its content, which its reader hashes");
        (folder, [tar, ImageRef::Folder { path: root, digest }])
    });
    &made.1
}

/// A layer in which node owns its home, whoever made it.
fn owned_by_node(layer: &[u8]) -> Vec<u8> {
    let mut archive = tar::Archive::new(layer);
    let mut out = tar::Builder::new(Vec::new());
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let mut header = entry.header().clone();
        let owner = if path.ends_with("home/node") { 1000 } else { 0 };
        header.set_uid(owner);
        header.set_gid(owner);
        match entry.link_name().unwrap() {
            Some(to) => out.append_link(&mut header, &path, to).unwrap(),
            None => out.append_data(&mut header, &path, entry).unwrap(),
        }
    }
    out.into_inner().unwrap()
}

struct OnNative {
    backend: Native,
    folder: tempfile::TempDir,
    scopes: [Scope; 3],
}

/// A corner of its own.
pub(crate) async fn fixture() -> Option<Box<dyn Fixture>> {
    let folder = tempfile::tempdir().unwrap();
    let scope = |owner: &str, state: &str| {
        let data = folder.path().join(owner);
        fs::create_dir_all(&data).unwrap();
        Scope {
            owner: OwnerId::new(owner).unwrap(),
            state: state.to_owned(),
            adopted: BTreeSet::new(),
            data,
            hidden: Vec::new(),
            places: Default::default(),
        }
    };
    let scopes = [scope("team", "here"), scope("others", "here"), scope("team", "there")];
    let backend = Native::with_helper(&program());
    Some(Box::new(OnNative { backend, folder, scopes }))
}

impl OnNative {
    fn folders(&self) -> impl Iterator<Item = PathBuf> {
        let owners = fs::read_dir(self.folder.path()).unwrap();
        let native = owners.flat_map(|owner| {
            let data = owner.unwrap().path();
            [data.join("native"), data.join("sidecars/native")]
        });
        native
            .flat_map(|native| fs::read_dir(native).into_iter().flatten())
            .map(|e| e.unwrap().path())
    }

    fn record(folder: &Path) -> Option<serde_json::Value> {
        let read = |name: &str| fs::read(folder.join(name)).ok();
        let bytes = read("machine.json").or_else(|| read("sidecar.json"))?;
        serde_json::from_slice(&bytes).ok()
    }

    fn find(&self, id: &str) -> Option<PathBuf> {
        self.folders().find(|folder| Self::record(folder).is_some_and(|r| r["id"] == id))
    }
}

#[async_trait]
impl Fixture for OnNative {
    fn backend(&self) -> &dyn Backend {
        &self.backend
    }

    fn lacks(&self) -> &[Capability] {
        // Its objects lie in folders of their owner's own, and it is never far.
        &[Capability::Outsiders, Capability::Unreachable, Capability::Pause]
    }

    fn scope(&self) -> &Scope {
        &self.scopes[0]
    }

    fn other_owner(&self) -> &Scope {
        &self.scopes[1]
    }

    fn other_state(&self) -> &Scope {
        &self.scopes[2]
    }

    fn image(&self) -> ImageRef {
        images()[0].clone()
    }

    fn absent_image(&self) -> ImageRef {
        ImageRef::Tar { path: "/nowhere/image.tar".into(), digest: SpecHash::of_bytes(b"absent") }
    }

    fn imports(&self) -> Vec<ImageRef> {
        images().to_vec()
    }

    async fn stop(&self, machine: &Instance) {
        let folder = self.find(&machine.id.0).expect("it is there");
        let run: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.join("run.json")).unwrap()).unwrap();
        let pid = run["pid"].as_i64().or_else(|| run["process"]["pid"].as_i64()).unwrap();
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        let init = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        rustix::process::pidfd_send_signal(&init, rustix::process::Signal::KILL).unwrap();
        let mut ended = [rustix::event::PollFd::new(&init, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut ended, None).unwrap();
    }

    async fn pause(&self, _: &Instance) {
        unreachable!("it is lacked");
    }

    async fn remove(&self, machine: &Instance) {
        self.backend.teardown(self.scope(), machine).await.expect("tearing down");
    }

    async fn add_foreign(&self, _: &str) -> String {
        unreachable!("it is lacked");
    }

    async fn describe(&self, id: &str) -> Option<String> {
        let folder = self.find(id)?;
        let run = fs::read_to_string(folder.join("run.json")).unwrap_or_default();
        Some(format!("{:?} {run}", Self::record(&folder)))
    }

    fn unreachable(&self) -> Box<dyn Backend> {
        unreachable!("it is lacked");
    }

    async fn limits(&self, machine: &Instance) -> Resources {
        super::limits::of(machine)
    }

    async fn cleanup(&self) {
        let left: Vec<PathBuf> = self.folders().collect();
        let left: Vec<_> = left.iter().filter(|path| !path.ends_with(".lock")).collect();
        assert!(left.is_empty(), "{left:?} is left");
    }
}

crate::contract::contract_suite!(on_native, crate::native::contract::fixture, lacks: [Outsiders, Unreachable, Pause]);

/// Where there is only one id, everything is the user's own.
#[tokio::test]
async fn a_users_link_leads_to_nothing_of_roots() {
    use crate::contract::{files, run};
    if rustix::process::geteuid().is_root() {
        let made = fixture().await;
        run("on_native", "a_users_link", &[], made, |f| {
            Box::pin(files::a_users_link_leads_to_nothing_of_roots(f))
        })
        .await;
    }
}
