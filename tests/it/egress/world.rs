//! An image of the host's own programs, for containers and for microVMs: what a Debian has, without a
//! registry to fetch one from.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use bottle::model::SpecHash;

use super::place::host_program;
use crate::contract::docker::docker;
use crate::support;

const NAME: &str = "bottle-test-world:1";
const RECIPE: &str = "io.bottle.test.recipe";

/// What shells and tests call.
const PROGRAMS: &[&str] = &[
    "sh",
    "base64",
    "basename",
    "bash",
    "busybox",
    "cat",
    "chmod",
    "chown",
    "cp",
    "curl",
    "dirname",
    "env",
    "find",
    "git",
    "grep",
    "head",
    "id",
    "kill",
    "ln",
    "ls",
    "mkdir",
    "mkfifo",
    "mount",
    "mv",
    "node",
    "npm",
    "pip",
    "printf",
    "python3",
    "readlink",
    "rm",
    "script",
    "sed",
    "seq",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "stty",
    "tail",
    "tar",
    "test",
    "timeout",
    "touch",
    "tr",
    "true",
    "uname",
    "wc",
    "wget",
];

/// What those need beside their libraries, where the host has it.
const FOLDERS: &[&str] = &[
    "/usr/lib/git-core",
    "/usr/local/libexec/git-core",
    "/usr/share/git-core/templates",
    "/usr/local/share/git-core/templates",
    "/usr/lib/node_modules/npm",
    "/usr/share/nodejs",
    "/usr/lib/python3.11",
    "/usr/lib/python3.13",
    "/usr/lib/python3/dist-packages/pip",
];

const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Its name, once it is made; where it cannot be, `what` is said to be left out.
pub(crate) fn image(what: &str) -> Option<&'static str> {
    static MADE: OnceLock<bool> = OnceLock::new();
    debian(what).then(|| MADE.get_or_init(make)).map(|_| NAME)
}

/// The same with a folder of the host's, at its own path; where it cannot be, `what` is said to be left out.
pub(crate) fn image_with(what: &str, folder: &Path) -> Option<&'static str> {
    const WITH: &str = "bottle-test-agents:1";
    static MADE: OnceLock<()> = OnceLock::new();
    let base = image(what)?;
    MADE.get_or_init(|| {
        let id = docker(&["image", "inspect", "-f", "{{.Id}}", base]).expect("it is there");
        let found = std::fs::symlink_metadata(folder).unwrap();
        let recipe = format!("{} {} {:?}", id.trim(), folder.display(), found.modified().unwrap());
        let recipe = SpecHash::of_bytes(recipe.as_bytes()).to_string();
        let format = format!("{{{{index .Config.Labels {RECIPE:?}}}}}");
        if docker(&["image", "inspect", "-f", &format, WITH]).is_ok_and(|it| it.trim() == recipe) {
            return;
        }
        let container = docker(&["create", base, "true"]).expect("it is created");
        let container = container.trim();
        let made = || -> Result<String, String> {
            // A folder that is missing on the way is made with the first that is copied.
            let parents = folder.parent().unwrap().strip_prefix("/").unwrap();
            let bones = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(bones.path().join(parents)).unwrap();
            docker(&["cp", &format!("{}/.", bones.path().display()), &format!("{container}:/")])?;
            let to = format!("{container}:{}", folder.parent().unwrap().display());
            docker(&["cp", folder.to_str().unwrap(), &to])?;
            let change = format!("--change=LABEL {RECIPE}={recipe}");
            docker(&["commit", &change, container, WITH])
        };
        let made = made();
        docker(&["rm", container]).expect("it is removed");
        made.expect("it is made");
    });
    Some(WITH)
}

/// The same as a root folder, in `folder`; where it cannot be, `what` is said to be left out.
pub(crate) fn root(what: &str, folder: &Path) -> Option<PathBuf> {
    if !debian(what) {
        return None;
    }
    let tar = tarball(&files(), folder);
    let root = folder.join("root");
    std::fs::create_dir(&root).unwrap();
    run(Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(&root), b"");
    std::fs::remove_file(tar).unwrap();
    Some(root)
}

fn debian(what: &str) -> bool {
    let is = Path::new(BUNDLE).exists() && Path::new("/bin").is_symlink();
    if !is {
        support::left_out(what, "its image is made of a Debian's programs, and this is none");
    }
    is
}

fn make() -> bool {
    let files = files();
    let mut recipe = include_str!("world.rs").to_owned();
    for file in &files {
        let found = std::fs::symlink_metadata(file).unwrap();
        recipe += &format!("{}{}{:?}", file.display(), found.len(), found.modified().unwrap());
    }
    let recipe = SpecHash::of_bytes(recipe.as_bytes()).to_string();
    let format = format!("{{{{index .Config.Labels {RECIPE:?}}}}}");
    if docker(&["image", "inspect", "-f", &format, NAME]).is_ok_and(|it| it.trim() == recipe) {
        return true;
    }
    let folder = tempfile::tempdir().unwrap();
    let tar = tarball(&files, folder.path());
    let change = format!("--change=LABEL {RECIPE}={recipe}");
    docker(&["import", &change, tar.to_str().unwrap(), NAME]).expect("it is imported");
    true
}

fn run(command: &mut Command, stdin: &[u8]) {
    let mut child = command.stdin(Stdio::piped()).spawn().expect("tar is there");
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    assert!(child.wait().unwrap().success(), "{command:?}");
}

/// All of it, as one archive in a folder.
fn tarball(files: &BTreeSet<PathBuf>, folder: &Path) -> PathBuf {
    let bones = folder.join("skeleton");
    std::fs::create_dir(&bones).unwrap();
    skeleton(&bones);
    let tar = folder.join("all.tar");
    let owned = ["--numeric-owner", "--owner=0", "--group=0"];
    let mut command = Command::new("tar");
    let skeleton = ["bin", "sbin", "lib", "lib64", "etc", "root", "run", "tmp", "var", "home"];
    command.arg("-cf").arg(&tar).args(owned).arg("-C").arg(&bones).args(skeleton);
    run(&mut command, b"");
    let inside = |file: &PathBuf| file.strip_prefix("/").unwrap().display().to_string();
    let list: String = files.iter().map(|file| inside(file) + "\n").collect();
    let mut command = Command::new("tar");
    command.arg("-rf").arg(&tar).args(owned).args(["-C", "/", "-T", "-"]);
    run(&mut command, list.as_bytes());
    tar
}

/// The rest of a root folder.
fn skeleton(root: &Path) {
    let folder = |path: &str| std::fs::create_dir_all(root.join(path)).unwrap();
    for name in ["etc/ssl", "root", "run", "tmp", "var/tmp", "home/node"] {
        folder(name);
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{name}"), root.join(name)).unwrap();
    }
    // Alpine's name for the same bundle.
    std::os::unix::fs::symlink("certs/ca-certificates.crt", root.join("etc/ssl/cert.pem")).unwrap();
    let write = |path: &str, text: &str| std::fs::write(root.join(path), text).unwrap();
    write("etc/passwd", "root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n");
    write("etc/group", "root:x:0:\nnode:x:1000:\n");
    for open in ["tmp", "var/tmp", "home/node"] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
        std::fs::set_permissions(root.join(open), mode).unwrap();
    }
}

/// The programs, what they link to, and their folders; each where it really is.
fn files() -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::from([BUNDLE.into()]);
    let folders = FOLDERS.iter().map(PathBuf::from).filter(|folder| folder.exists());
    files.extend(folders);
    for program in PROGRAMS.iter().filter_map(|name| host_program(name)) {
        let real = add(&mut files, &program);
        libraries(&mut files, &real);
    }
    for helper in
        ["/usr/lib/git-core/git-remote-https", "/usr/local/libexec/git-core/git-remote-https"]
    {
        libraries(&mut files, Path::new(helper));
    }
    let loaded = Path::new("/usr/lib/x86_64-linux-gnu");
    // Loaded by name and linked by nobody; and what programs of elsewhere link to, which every Debian has.
    let older = ["libdl.so.2", "libm.so.6", "libpthread.so.0", "librt.so.1"];
    for library in
        ["libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2"].into_iter().chain(older)
    {
        if loaded.join(library).exists() {
            add(&mut files, &loaded.join(library));
        }
    }
    let within =
        |file: &Path| FOLDERS.iter().any(|it| file != Path::new(it) && file.starts_with(it));
    files.retain(|file| !within(file));
    files
}

fn libraries(files: &mut BTreeSet<PathBuf>, program: &Path) {
    let Ok(output) = Command::new("ldd").arg(program).output() else { return };
    for word in String::from_utf8_lossy(&output.stdout).split_whitespace() {
        if word.starts_with('/') && Path::new(word).exists() {
            add(files, Path::new(word));
        }
    }
}

/// Adds a file, and what it leads to; says what that is.
fn add(files: &mut BTreeSet<PathBuf>, path: &Path) -> PathBuf {
    let folder = std::fs::canonicalize(path.parent().unwrap()).unwrap();
    let path = folder.join(path.file_name().unwrap());
    files.insert(path.clone());
    match std::fs::read_link(&path) {
        Ok(to) => add(files, &folder.join(to)),
        Err(_) => path,
    }
}
