//! The tree of a history: what it says of each agent, and how that comes into its files.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::writer;
use crate::reconcile::rig::Rig;

/// Where the paths of a bottle's own are that may be kept.
pub(super) const OWN: &str = "/var/tmp/kept";

/// What may be kept, by the letter that lines written there bear.
pub(super) const WORKSPACE: char = 'w';
pub(super) const HOME: char = 'h';
pub(super) const NAMED: char = 'k';

/// What stands in the way of an agent's next machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// There is no such image.
    NoImage,
    /// The image has no shell.
    NoShell,
    /// Nobody can make its home folder.
    NoHome,
    /// The agent's file cannot be read.
    Broken,
    /// There is no room for its snapshot.
    NoRoom,
    /// What is on its way cannot be written down.
    NoRecord,
}

/// What the tree says of one agent and its bottle.
#[derive(Debug, Clone)]
pub(super) struct Says {
    pub(super) backend: &'static str,
    pub(super) image: usize,
    pub(super) env: usize,
    pub(super) memory: usize,
    pub(super) command: usize,
    pub(super) restart: &'static str,
    pub(super) root: bool,
    pub(super) target: &'static str,
    /// The folder that is copied.
    pub(super) site: Option<&'static str>,
    /// That is mounted instead.
    pub(super) mounted: bool,
    pub(super) keep: BTreeSet<char>,
    pub(super) host: Option<usize>,
    pub(super) role: bool,
    /// A folder of the host's is shown, where the backend can.
    pub(super) shown: bool,
    pub(super) prompt: usize,
    pub(super) skill: bool,
    pub(super) fault: Option<Fault>,
}

/// One agent, under whatever name.
#[derive(Debug, Clone)]
pub(super) struct Agent {
    pub(super) name: String,
    /// Its bottle.
    pub(super) bottle: String,
    /// Which sandbox it is: another one once that was removed.
    pub(super) life: usize,
    /// The name that it had.
    pub(super) was: Option<String>,
    /// Its file is there.
    pub(super) declared: bool,
    /// The operator stopped it.
    pub(super) stopped: bool,
    pub(super) says: Says,
}

impl Says {
    pub(super) fn on(backend: &'static str, site: Option<&'static str>) -> Self {
        Self {
            backend,
            image: 0,
            env: 0,
            memory: 0,
            command: 0,
            restart: "on-failure",
            root: false,
            target: "/workspace",
            site,
            mounted: false,
            keep: BTreeSet::from([WORKSPACE, HOME, NAMED]),
            host: None,
            role: false,
            shown: false,
            prompt: 0,
            skill: true,
            fault: None,
        }
    }
}

/// The images that a backend can make machines of here.
pub(super) fn images(rig: &Rig, backend: &str) -> Vec<String> {
    let made = std::env::var_os("BOTTLE_TEST_IMAGES").filter(|value| !value.is_empty());
    let made = made.map(|folder| PathBuf::from(folder).canonicalize().unwrap());
    let root = made.map(|folder| folder.join("busybox-root").display().to_string());
    let first: &[&str] = match backend {
        "docker" => &["bottle-test-busybox:1", "bottle-test-user:1"],
        _ => &["host"],
    };
    // An ordinary user may not read all of what root has made.
    let readable = root.filter(|root| std::fs::read_dir(Path::new(root).join("root")).is_ok());
    assert!(rig.backend != "docker" || readable.is_some(), "tests/run makes the images");
    first.iter().map(|name| (*name).to_owned()).chain(readable).collect()
}

/// The folder of the host that is copied under this name.
pub(super) fn site(rig: &Rig, name: &str) -> PathBuf {
    let folder = rig.cli.home().join(name);
    if !folder.exists() {
        std::fs::create_dir(&folder).unwrap();
        // Where it is mounted, whoever works in it is another.
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::write(folder.join("given"), format!("{name}\n")).unwrap();
    }
    folder
}

/// A root folder with nothing in it that could be run.
fn empty(rig: &Rig) -> PathBuf {
    let folder = rig.cli.home().join("empty-root");
    if !folder.exists() {
        std::fs::create_dir_all(folder.join("etc")).unwrap();
        std::fs::write(folder.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    }
    folder
}

impl Agent {
    /// Writes its bottle and, where it is declared, its own file.
    pub(super) fn write(&self, rig: &Rig) {
        let says = &self.says;
        let images = images(rig, says.backend);
        let image = match says.fault {
            Some(Fault::NoImage) if says.backend == "docker" => {
                "docker:bottle-test-nowhere:1".to_owned()
            }
            Some(Fault::NoImage) => rig.cli.home().join("no-such-image.tar").display().to_string(),
            Some(Fault::NoShell) => empty(rig).display().to_string(),
            _ => images[says.image % images.len()].clone(),
        };
        let mut lines = vec![
            format!("backend: {}", says.backend),
            format!("image: {image}"),
            format!("resources:\n  pids: 64\n  memory: {}M", 128 + 16 * (says.memory % 4)),
            format!("env:\n  LEVEL: \"{}\"", says.env),
        ];
        if says.fault == Some(Fault::NoHome) {
            lines.push("  HOME: /proc/1".to_owned());
        }
        let folder = says.site.map(|name| site(rig, name));
        if let Some(folder) = &folder {
            let (path, target) = (folder.display(), says.target);
            let mode = if says.mounted { "mount" } else { "copy" };
            lines.push(format!("workspace:\n  path: {path}\n  mode: {mode}\n  target: {target}"));
        }
        let word = |root: &char| match *root {
            WORKSPACE => "workspace",
            HOME => "home",
            _ => OWN,
        };
        lines
            .push(format!("keep: [{}]", says.keep.iter().map(word).collect::<Vec<_>>().join(", ")));
        if says.root {
            lines.push("user: root".to_owned());
        }
        if let Some(host) = says.host {
            lines.push(format!("egress:\n  allowlist: [h{host}.example]"));
        }
        if says.role {
            lines.push(
                "cred_proxy:\n  routes:\n    - path: /git/\n      upstream: https://git.example\n      \
                 auth_scheme: Bearer\n      token_ref: HISTORY_TOKEN\n      role: git-insteadof"
                    .to_owned(),
            );
        }
        if says.shown && image == "host" {
            lines.push(format!("host_paths: [{}]", site(rig, "shown").display()));
        }
        rig.tree.bottle(&self.bottle, &lines.join("\n"));
        let file = format!("agents/{}.md", self.name);
        if !self.declared {
            if rig.tree.join(&file).exists() {
                rig.tree.remove(&file);
            }
            return;
        }
        if says.fault == Some(Fault::Broken) {
            rig.tree.write(&file, "---\nbottle: [\n");
            return;
        }
        let script = writer::script(self.life, says.command, folder.as_ref().map(|_| says.target));
        let mut lines =
            vec![format!("command: [sh, -c, {script:?}]"), format!("restart: {}", says.restart)];
        lines.extend(says.skill.then(|| "skills: [greet]".to_owned()));
        lines.extend(self.was.as_ref().map(|was| format!("was: {was}")));
        let prompt = format!("You are one of those that were told {} times.", says.prompt);
        rig.tree.agent(&self.name, &self.bottle, &lines.join("\n"), &prompt);
    }
}
