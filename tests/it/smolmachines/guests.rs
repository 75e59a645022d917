//! What only a real guest shows: a packed machine, a mounted workspace, limits, a terminal, a probe.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;

use super::rig::Rig;
use crate::contract::docker::images;

fn busybox() -> String {
    format!("image: {}", images().join("busybox.tar").display())
}

/// A folder that may be mounted, of this owner.
fn workspace(rig: &Rig, name: &str, uid: u32) -> PathBuf {
    let folder = rig.data().join(name);
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    chown(&folder, Some(uid), Some(uid)).expect("the owners of a mount are tested as root");
    folder
}

fn mounted(folder: &std::path::Path) -> String {
    format!("{}\nworkspace:\n  path: {}\n  mode: mount", busybox(), folder.display())
}

#[test]
fn a_mounted_workspace_limits_and_a_terminal() {
    let Some(rig) = Rig::new("a mounted workspace, limits and a terminal on microVMs") else {
        return;
    };
    let (open, closed) = (workspace(&rig, "open", 1000), workspace(&rig, "closed", 0));
    rig.bottle("dev", "256M", &mounted(&open));
    // The smallest there is.
    let path = rig.tree.join("bottles/dev.md");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("  cpus: 1\n", "  cpus: 1\n  pids: 16\n")).unwrap();
    rig.tree.agent("ada", "dev", "run: [sh, -c, \"echo run as $(id -u); exit 3\"]", "You are ada.");
    std::fs::write(open.join("draft"), "from the host\n").unwrap();
    rig.run(&["apply", "--yes"]).exits(0);

    // The workspace is the host's, both ways, with one owner.
    assert_eq!(
        rig.say("ada", "pwd; cat draft; echo from the guest > note"),
        "/workspace\nfrom the host"
    );
    let note = open.join("note");
    assert_eq!(std::fs::read_to_string(&note).unwrap(), "from the guest\n");
    assert_eq!(note.metadata().unwrap().uid(), 1000);

    // More processes than there may be are not started, and those that there are go on.
    let many = "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 60 & done";
    let refused = rig.run(&["exec", "ada", "--", "sh", "-c", many]);
    assert_ne!(refused.code, Some(0));
    assert!(refused.stderr.contains("can't fork"), "{}", refused.stderr);
    // One command needs no other process, and so it finds its way in.
    rig.run(&["exec", "ada", "--", "killall", "sleep"]).exits(0);

    // A terminal, for a command and for the agent's own program.
    let terminal = |args: &[&str]| {
        let command = rig.cli.command(rig.args(args));
        crate::support::Screen::open(&command, std::time::Duration::from_secs(120))
    };
    let mut screen = terminal(&["exec", "-i", "-t", "ada", "--", "sh"]);
    screen.shows("$ ");
    screen.type_in("tty; stty size; echo co''de\n");
    screen.shows("/dev/pts/");
    screen.shows("30 100");
    screen.shows("code");
    screen.type_in("exit 7\n");
    assert_eq!(screen.ended(), Some(7));
    let mut screen = terminal(&["run", "ada"]);
    screen.shows("run as 1000");
    assert_eq!(screen.ended(), Some(3));

    // One that its user could not write is refused, and says why.
    rig.bottle("dev", "256M", &mounted(&closed));
    let refused = rig.run(&["apply", "--yes", "--allow-teardown", "all"]);
    assert_ne!(refused.code, Some(0));
    let said = format!("{}{}", refused.stdout, refused.stderr);
    assert!(said.contains("(uid 1000) cannot write the mounted workspace"), "{said}");
}

#[test]
fn a_packed_machine_is_an_image() {
    let Some(rig) = Rig::new("a packed machine") else { return };
    let pack = rig.data().join("made");
    rig.smolvm(&["machine", "create", "--name", "source", "--cpus", "1", "--mem", "256"]);
    rig.smolvm(&["machine", "start", "--name", "source"]);
    let write = "echo packed > /root/marker; sync";
    rig.smolvm(&["machine", "exec", "--name", "source", "--", "sh", "-c", write]);
    rig.smolvm(&["machine", "stop", "--name", "source"]);
    rig.smolvm(&["pack", "create", "--from-vm", "source", "-o", pack.to_str().unwrap()]);
    rig.smolvm(&["machine", "delete", "--force", "--name", "source"]);
    let packed = format!("image: {}.smolmachine", pack.display());
    rig.bottle("dev", "320M", &packed);
    rig.tree.agent("ada", "dev", "", "You are ada.");
    rig.run(&["apply", "--yes"]).exits(0);
    assert_eq!(
        rig.say("ada", "cat /root/marker; cat /etc/bottle/prompt.md"),
        "packed\nYou are ada."
    );
    assert_eq!(rig.machine("ada")["memory_mib"], 320);
    rig.run(&["plan"]).exits(0);
    rig.run(&["down", "--yes", "--allow-teardown", "all"]).exits(0);
    rig.nothing_is_left_over();
}

#[test]
fn doctor_boots_one() {
    let Some(rig) = Rig::new("doctor --boot") else { return };
    let said = rig.run(&["doctor", "--boot"]).stdout;
    assert!(said.contains("made, started, used and removed"), "{said}");
    assert!(rig.machines().is_empty());
    rig.nothing_is_left_over();
}

/// A microVM of this machine's own programs, git among them: what was committed in it comes out.
#[test]
fn commits_come_out_of_a_microvm() {
    let what = "commits that come out of a microVM";
    let Some(rig) = Rig::new(what) else { return };
    let Some(root) = crate::egress::world::root(what, rig.data()) else { return };
    let folder = rig.data().join("site");
    std::fs::create_dir(&folder).unwrap();
    let git = |args: &[&str]| {
        let mut git = std::process::Command::new("git");
        git.arg("-C").arg(&folder).args(["-c", "user.name=t", "-c", "user.email=t@example.com"]);
        let ended = git.args(args).env("HOME", "/nonexistent").output().unwrap();
        assert!(ended.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ended.stderr));
        String::from_utf8(ended.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "-q", "-b", "main"]);
    std::fs::write(folder.join("a"), "one\n").unwrap();
    git(&["add", "-A"]);
    git(&["commit", "-qm", "one"]);
    let workspace = format!("workspace:\n  path: {}\n  mode: copy", folder.display());
    rig.bottle("dev", "512M", &format!("image: {}\n{workspace}", root.display()));
    rig.tree.agent("ada", "dev", "", "You are ada.");
    rig.run(&["apply", "--yes"]).exits(0);
    let script = "cd /workspace && git config user.name a && git config user.email a@example.com && \
                  git config core.hooksPath /nonexistent && echo two >> a && git commit -qam two && \
                  echo loose > loose && git rev-parse HEAD";
    let commit = rig.say("ada", script);
    let ended = rig.run(&["sync", "ada"]).exits(0);
    assert!(ended.stdout.contains("1 new commit"), "{}", ended.stdout);
    assert!(ended.stderr.contains("1 file is not committed"), "{}", ended.stderr);
    assert_eq!(git(&["rev-parse", "refs/bottle/ada/main"]), commit);
    assert_eq!(git(&["status", "--porcelain"]), "");
    assert_eq!(rig.say("ada", "ls -A /tmp | grep -c bottle-sync || true"), "0");
}
