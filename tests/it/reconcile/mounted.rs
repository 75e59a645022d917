//! What goes into a container beside a mounted workspace: all of it, and nothing of the host's with it.
//!
//! A guest may plant links in its own files and rename what lies in its folders, also what belongs to
//! other users of the host. What it could not do itself is not done for it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags};
use serde_json::Value;

use super::rig::{Rig, docker};
use crate::support;

/// A user of the host who is nobody in any sandbox.
const STRANGER: u32 = 1500;

/// A rig and a folder of the host that its one sandbox, `ada`, has as its workspace.
struct Shared {
    rig: Rig,
    folder: PathBuf,
    target: &'static str,
    user: &'static str,
    image: String,
    /// Changes the route, and so the settings of its role.
    route: u32,
    /// It has the route, and the route its role.
    routed: bool,
    role: bool,
    level: u32,
    skill: u32,
}

impl Shared {
    /// The folder belongs to `owner`.
    fn new(what: &str, user: &'static str, target: &'static str, owner: u32) -> Option<Self> {
        let mut rig = Rig::docker(what)?;
        rig.cli.env("MOUNTED_TOKEN", "t0ken-of-a-test");
        let folder = rig.cli.home().canonicalize().unwrap().join("shared");
        make(&folder, owner, 0o755);
        let image = rig.image().to_owned();
        let (route, level, skill) = (1, 1, 1);
        Some(Self {
            rig,
            folder,
            target,
            user,
            image,
            route,
            routed: false,
            role: true,
            level,
            skill,
        })
    }

    fn write(&self) {
        let Self { folder, target, user, image, route, level, skill, .. } = self;
        let role = if self.role { "      role: git-insteadof\n" } else { "" };
        let role = match self.routed {
            true => format!(
                "egress:\n  allowlist: [one.example]\ncred_proxy:\n  routes:\n    \
                 - path: /git{route}/\n      upstream: https://git.example\n      \
                 auth_scheme: Bearer\n      token_ref: MOUNTED_TOKEN\n{role}"
            ),
            false => String::new(),
        };
        self.rig.tree.bottle(
            "dev",
            &format!(
                "backend: docker\nimage: {image}\nuser: {user}\nresources:\n  pids: 64\n  \
                 memory: 128M\nenv:\n  LEVEL: \"{level}\"\nworkspace:\n  path: {}\n  mode: mount\n  \
                 target: {target}\n{role}",
                folder.display()
            ),
        );
        self.rig.tree.skill("greet", "SKILL.md", &format!("say {skill}\n"));
        self.rig.tree.agent("ada", "dev", "skills: [greet]", &format!("You are {level}."));
    }

    /// Applies, which must end with `code`, and says what it said.
    #[track_caller]
    fn apply(&self, code: i32) -> Value {
        self.write();
        self.rig.apply(code)
    }

    /// Applies, which must fail for a reason that names all of these.
    #[track_caller]
    fn refused(&self, words: &[&str]) {
        let said = self.apply(3).to_string();
        for word in words {
            assert!(said.contains(word), "{word}: {said}");
        }
    }

    /// As the guest's user, whatever bottle thinks of the sandbox.
    #[track_caller]
    fn guest(&self, script: &str) -> String {
        let id = self.rig.container("ada");
        docker(&["exec", &id, "sh", "-c", &format!("set -e; cd; {script}")]).trim().to_owned()
    }
}

fn make(folder: &Path, owner: u32, mode: u32) {
    fs::create_dir_all(folder).unwrap();
    chown(folder, Some(owner), Some(owner)).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
}

fn file(path: &Path, text: &str, owner: u32, mode: u32) {
    fs::write(path, text).unwrap();
    chown(path, Some(owner), Some(owner)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// All that is there: owner, mode and content, by its path.
fn all_of(folder: &Path) -> BTreeMap<String, (u32, u32, u32, String)> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    let mut note = |path: &Path| {
        let found = fs::symlink_metadata(path).unwrap();
        let text = match found.is_file() {
            true => fs::read_to_string(path).unwrap(),
            false => String::new(),
        };
        let name = path.strip_prefix(folder).unwrap().display().to_string();
        all.insert(name, (found.uid(), found.gid(), found.mode(), text));
        found.is_dir()
    };
    note(folder);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if note(&path) {
                folders.push(path);
            }
        }
    }
    all
}

/// X26: A folder of root's with something in it, in the place of a skill.
pub(super) fn a_folder_that_the_guest_may_not_enter_is_no_skill_of_its() {
    let Some(mut at) = Shared::new("no_skill_of_its", "node", "/home/node", 1000) else { return };
    at.apply(0);
    let vault = at.folder.join("vault");
    make(&vault, 0, 0o700);
    file(&vault.join("secret"), "of root's", 0, 0o644);
    let before = all_of(&vault);
    at.guest("mv .claude c2; mkdir .claude; ln -s /home/node .claude/skills; mv vault greet");
    let vault = at.folder.join("greet");
    at.skill = 2;
    at.refused(&["/home/node/.claude/skills/greet", "user 1000:1000", "denied"]);
    assert_eq!(all_of(&vault), before);
    // A machine that is made anew wipes nothing; nor does it dress what is there.
    docker(&["rm", "--force", &at.rig.container("ada")]);
    at.refused(&["home/node/.claude/skills/greet", "user 1000:1000", "denied"]);
    assert_eq!(all_of(&vault), before);

    at.guest("rm .claude/skills; mv greet vault");
    at.apply(0);
    at.rig.converged();
    assert_eq!(at.guest("cat .claude/skills/greet/SKILL.md"), "say 2");
    assert_eq!(all_of(&at.folder.join("vault")), before);
}

/// X26: Root inside has no capability, so another's folder is closed to it.
pub(super) fn roots_links_lead_into_no_folder_of_anothers() {
    let Some(mut at) = Shared::new("roots_links", "root", "/workspace", STRANGER) else { return };
    let private = at.folder.join("private");
    make(&private.join("skills/greet"), STRANGER, 0o755);
    make(&private.join("env"), STRANGER, 0o755);
    make(&private, STRANGER, 0o700);
    file(&private.join("skills/greet/mine"), "mine", STRANGER, 0o600);
    file(&private.join("env/mine"), "mine", STRANGER, 0o600);
    let before = all_of(&at.folder);
    at.apply(0);
    at.guest(
        "! ls /workspace/private 2>/dev/null; mv .claude c2; ln -s /workspace/private .claude",
    );
    at.skill = 2;
    at.refused(&["/root/.claude", "leads into a mount"]);
    assert_eq!(all_of(&at.folder), before);

    at.guest(
        "rm .claude; mv c2 .claude; mv /etc/bottle /etc/b2; ln -s /workspace/private /etc/bottle",
    );
    at.level = 2;
    at.refused(&["/etc/bottle", "leads into a mount"]);
    assert_eq!(all_of(&at.folder), before);

    // Where the workspace itself is no folder of the stranger's alone, it is no better a place.
    at.guest("rm /etc/bottle; ln -s /proc/self/cwd /etc/bottle");
    at.refused(&["/etc/bottle"]);
    at.guest("rm /etc/bottle; mv /etc/b2 /etc/bottle");
    at.apply(0);
    at.rig.converged();
    assert_eq!(all_of(&at.folder), before);
}

/// `$HOME` is a folder of the host: it is nobody's to give away.
pub(super) fn a_home_in_the_workspace_keeps_its_owner() {
    let Some(mut at) = Shared::new("keeps_its_owner", "node", "/home/node", STRANGER) else {
        return;
    };
    at.routed = true;
    let before = all_of(&at.folder);
    at.refused(&["/home/node/", "user 1000:1000", "Permission denied"]);
    assert_eq!(all_of(&at.folder), before);
    // Its owner lets others write.
    make(&at.folder, STRANGER, 0o777);
    at.apply(0);
    at.rig.converged();
    let found = fs::metadata(&at.folder).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o777), (STRANGER, 0o777));
    let config = at.folder.join(".config/git/config");
    assert!(fs::read_to_string(&config).unwrap().contains("git.example"));
    assert_eq!(fs::metadata(&config).unwrap().uid(), 1000);
}

/// X26: Settings are read with the guest's rights, and what was read is put nowhere else.
pub(super) fn settings_show_the_guest_nothing_of_others() {
    let Some(mut at) = Shared::new("settings_show", "node", "/home/node", 1000) else { return };
    at.routed = true;
    at.apply(0);
    let vault = at.folder.join("vault");
    make(&vault, 0, 0o700);
    file(&vault.join("config"), "TOPSECRET\n", 0, 0o644);
    let before = all_of(&vault);
    at.guest("mv .config/git .config/real; ln -s /home/node/vault .config/git");
    at.route = 2;
    at.refused(&["/home/node/.config/git/config", "user 1000:1000", "denied"]);
    assert_eq!(all_of(&vault), before);

    let stop = AtomicBool::new(false);
    let [real, link] = ["real", "git"].map(|name| at.folder.join(".config").join(name));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(CWD, &real, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                std::thread::sleep(std::time::Duration::from_micros(300));
            }
        });
        for route in 3..8 {
            at.route = route;
            at.write();
            let code = at.rig.apply_with(&[]).code;
            assert!(matches!(code, Some(0 | 3)), "{code:?}");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(all_of(&vault), before);
    for (path, (.., text)) in all_of(&at.folder) {
        assert!(path.starts_with("vault") || !text.contains("TOPSECRET"), "{path}: {text}");
    }
}

/// X26: A bundle of certificates that is a link into the workspace, before and after a failed run.
pub(super) fn a_bundle_in_the_workspace_is_left_alone() {
    let Some(mut at) = Shared::new("a_bundle", "root", "/workspace", STRANGER) else { return };
    at.routed = true;
    make(&at.folder.join("ssl/certs"), STRANGER, 0o755);
    for name in ["ssl/cert.pem", "ssl/ca-bundle.pem", "ssl/certs/ca-certificates.crt"] {
        file(&at.folder.join(name), "PRIVATEKEY\n", STRANGER, 0o600);
    }
    let before = all_of(&at.folder);
    at.apply(0);
    at.guest("ln -s /workspace/ssl /etc/ssl; rm -rf .config; mkfifo .config");
    at.route = 2;
    at.refused(&["/root/.config"]);
    at.guest("rm .config");
    // What a run that failed knew of the CA is not forgotten.
    at.apply(0);
    assert_eq!(all_of(&at.folder), before);
    // Where all is forgotten, the link is seen.
    let receipts = at.rig.memory().join("receipts");
    for entry in fs::read_dir(&receipts).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    at.refused(&["/etc/ssl", "leads into a mount"]);
    assert_eq!(all_of(&at.folder), before);
    at.guest("rm /etc/ssl; ! grep -r PRIVATEKEY /workspace /etc /root 2>/dev/null");
    at.apply(0);
    at.rig.converged();
    assert_eq!(all_of(&at.folder), before);
}

/// An image of busybox with a bundle of certificates, removed when it goes.
struct Bundled(String);

impl Bundled {
    fn new() -> Self {
        let name = format!("{}:1", support::unique("bundled"));
        let script = "mkdir -p /etc/ssl/certs; echo THEIRS > /etc/ssl/certs/ca-certificates.crt; \
                      chmod 640 /etc/ssl/certs/ca-certificates.crt; chgrp 1000 /etc/ssl/certs/*";
        let id = docker(&["create", "bottle-test-busybox:1", "sh", "-c", script]);
        let id = id.trim();
        docker(&["start", "--attach", id]);
        docker(&["commit", "--change", "CMD [\"sh\"]", id, &name]);
        docker(&["rm", id]);
        Self(name)
    }
}

impl Drop for Bundled {
    fn drop(&mut self) {
        let _ = std::process::Command::new("docker").args(["rmi", "-f", &self.0]).output();
    }
}

/// Everything arrives, by a first run and by later ones, and is the user's.
fn arrives(what: &str, user: &'static str, target: &'static str, bundled: bool) {
    // Taken apart in this order: the machine goes before its image.
    let image;
    let uid = if user == "root" { 0 } else { 1000 };
    let Some(mut at) = Shared::new(what, user, target, uid) else { return };
    image = bundled.then(Bundled::new);
    if let Some(image) = &image {
        at.image = image.0.clone();
    }
    let theirs = at.folder.join("theirs");
    make(&theirs, STRANGER, 0o700);
    file(&theirs.join("file"), "theirs", STRANGER, 0o600);
    let before = all_of(&theirs);
    at.routed = true;
    let prompt = |level: u32| format!("You are {level}.");
    for round in 1..4 {
        (at.level, at.skill, at.route) = (round, round, round);
        at.apply(0);
        at.rig.converged();
        let inside = |script: &str| at.rig.inside("ada", script);
        assert_eq!(inside("cat /etc/bottle/prompt.md"), prompt(round));
        assert_eq!(inside("cat ~/.claude/skills/greet/SKILL.md"), format!("say {round}"));
        assert_eq!(inside("echo $LEVEL"), round.to_string());
        let config = inside("cat ~/.config/git/config");
        assert!(config.contains(&format!("/git{round}/")), "{config}");
        assert!(inside("cat \"$SSL_CERT_FILE\"").contains("BEGIN CERTIFICATE"));
        for path in ["~/.claude/skills/greet/SKILL.md", "~/.config/git", "~/.claude/skills/greet"] {
            assert_eq!(inside(&format!("stat -c %u:%g {path}")), format!("{uid}:{uid}"), "{path}");
        }
        if bundled {
            let bundle = "/etc/ssl/certs/ca-certificates.crt";
            let text = inside(&format!("cat {bundle}"));
            assert!(text.starts_with("THEIRS\n") && text.contains("BEGIN CERTIFICATE"), "{text}");
            let stat = inside(&format!("stat -c '%a %u:%g' {bundle}"));
            assert_eq!(stat, "640 0:1000", "it is as it was");
        }
        // As another program of the guest's leaves it.
        inside("echo mine >> ~/.config/git/config; touch ~/own");
        assert_eq!(all_of(&theirs), before);
    }
    at.role = false;
    at.apply(0);
    at.rig.converged();
    assert_eq!(at.rig.inside("ada", "cat ~/.config/git/config").matches("mine").count(), 3);
    let found = fs::metadata(&at.folder).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o777), (uid, 0o755));
    assert_eq!(all_of(&theirs), before);
    drop(at);
    drop(image);
}

pub(super) fn all_arrives_for_a_user_with_its_home_inside() {
    arrives("node_inside", "node", "/home/node", false);
}

pub(super) fn all_arrives_for_a_user_with_its_home_outside() {
    arrives("node_outside", "node", "/workspace", true);
}

pub(super) fn all_arrives_for_root_with_its_home_inside() {
    arrives("root_inside", "root", "/root", false);
}

pub(super) fn all_arrives_for_root_with_its_home_outside() {
    arrives("root_outside", "root", "/work/space", false);
}

/// What is mounted below the workspace on the host is not the sandbox's, then or later.
pub(super) fn what_is_mounted_below_a_workspace_stays_outside() {
    let Some(at) = Shared::new("mounted_below", "root", "/workspace", 0) else { return };
    struct Below(PathBuf);
    impl Drop for Below {
        fn drop(&mut self) {
            let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
        }
    }
    let below = Below(at.folder.join("mnt"));
    make(&below.0, 0, 0o777);
    let other = at.rig.cli.home().join("other");
    make(&other.join("sub"), 0, 0o777);
    file(&other.join("sub/name"), "other", 0, 0o644);
    rustix::mount::mount_bind(&other, &below.0).unwrap();
    at.apply(0);
    at.rig.converged();
    assert_eq!(at.rig.inside("ada", "ls -A /workspace/mnt"), "");
    rustix::mount::unmount(&below.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    at.rig.inside("ada", "cd /workspace/mnt; ! mv sub old 2>/dev/null; touch seen");
    assert!(other.join("sub/name").exists() && below.0.join("seen").exists());
    at.rig.converged();
    drop(below);
}

/// Root inside makes the file of plain values as long as it likes.
pub(super) fn a_file_of_values_without_end_keeps_nobody_waiting() {
    let Some(mut at) = Shared::new("without_end", "root", "/workspace", 0) else { return };
    at.apply(0);
    at.guest(
        "i=0; while [ $i -lt 2000 ]; do echo \"export V$i=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"; \
         i=$((i+1)); done > /tmp/part; for n in $(seq 200); do cat /tmp/part; done > /etc/bottle/env",
    );
    let begun = std::time::Instant::now();
    let refused = at.rig.exec("ada", "echo never");
    assert_eq!((refused.code, refused.stdout.trim()), (Some(126), ""), "{}", refused.stderr);
    assert!(refused.stderr.contains("/etc/bottle/env is longer than 4 MiB"), "{}", refused.stderr);
    assert!(begun.elapsed() < std::time::Duration::from_secs(15), "{:?}", begun.elapsed());
    at.level = 2;
    at.apply(0);
    assert_eq!(at.rig.inside("ada", "echo $LEVEL"), "2");
}

/// What the operator copies in goes where the guest could have put it, whatever its links say.
pub(super) fn a_copy_goes_no_further_than_the_guest_could() {
    let Some(at) = Shared::new("no_further", "node", "/workspace", 1000) else { return };
    at.apply(0);
    let vault = at.folder.join("vault");
    make(&vault, STRANGER, 0o700);
    file(&vault.join("config"), "theirs", STRANGER, 0o600);
    let before = all_of(&vault);
    let home = at.guest("ln -s /workspace/vault out; mkdir own; pwd");
    let source = at.rig.cli.home().join("config");
    file(&source, "new", 0, 0o644);
    let tree = at.rig.tree.path().display().to_string();
    let cp = |to: &str| {
        let to = format!("ada:{to}");
        at.rig.cli.run(["--tree", &tree, "cp", source.to_str().unwrap(), &to])
    };
    for refused in ["out/config", "out"] {
        let ended = cp(&format!("{home}/{refused}"));
        assert_eq!(ended.code, Some(1), "{refused}: {}", ended.stderr);
        // A link in the way is what a file of that name replaces.
        at.guest("rm -f out; ln -s /workspace/vault out");
        assert_eq!(all_of(&vault), before, "{refused}");
    }
    for place in [&*format!("{home}/own"), "/workspace", "/tmp/x"] {
        cp(place).exits(0);
    }
    assert_eq!(at.guest("cat own/config /workspace/config /tmp/x"), "newnewnew");
    let copied = fs::metadata(at.folder.join("config")).unwrap();
    assert_eq!((copied.uid(), copied.mode() & 0o777), (1000, 0o644));
    assert_eq!(all_of(&vault), before);
    at.rig.converged();
}
