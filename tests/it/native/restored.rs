//! An older copy of the state folder is put back while sandboxes run: what runs is found, nothing runs
//! twice, and nothing is left behind.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::support::{Cli, TempTree};

struct World {
    cli: Cli,
    tree: TempTree,
}

impl World {
    fn new() -> Self {
        let world = Self { cli: Cli::new(), tree: TempTree::new("restored") };
        world.tree.bottle("plain", "backend: native\nresources:\n  pids: 64");
        world.tree.bottle(
            "linked",
            "backend: native\nresources:\n  pids: 64\negress:\n  allowlist: [example.com]",
        );
        world.tree.skill("greet", "SKILL.md", "say hi\n");
        world.tree.agent("ada", "plain", "skills: [greet]", "You are ada.");
        world.tree.agent("bob", "linked", "", "You are bob.");
        world
    }

    fn run(&self, words: &[&str]) -> crate::support::Ended {
        let tree = self.tree.path().display().to_string();
        let mut all = vec!["--tree", &tree];
        all.extend(words);
        self.cli.run(all)
    }

    fn apply(&self) {
        self.run(&["apply", "--yes", "--allow-teardown", "all"]).exits(0);
    }

    fn inside(&self, name: &str, script: &str) -> String {
        self.run(&["exec", name, "--", "sh", "-c", script]).exits(0).stdout.trim().to_owned()
    }

    fn copy(&self, from: &Path, to: &Path) {
        // Without what the kernel keeps to itself below `work`, which is always empty.
        let script = "mkdir -p \"$2\" && chmod 700 \"$2\" && tar -C \"$1\" --xattrs \
            --xattrs-include='user.*' --warning=no-file-ignored \
            --exclude='./trees/*/native/*/work/*/*' -cf - . | tar -C \"$2\" --xattrs \
            --xattrs-include='user.*' -xpf -";
        let copied = Command::new("sh").args(["-c", script, "sh"]).arg(from).arg(to).status();
        assert!(copied.unwrap().success(), "{} → {}", from.display(), to.display());
    }

    /// What the kernel keeps to itself below `work` is empty, and nobody but root may look into it: `rm` does without.
    fn remove(&self, folder: &Path) {
        assert!(Command::new("rm").arg("-rf").arg(folder).status().unwrap().success());
    }

    /// The inits and the sidecars of this tree that are alive, by what they bear.
    fn alive(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
            let mark = String::from_utf8_lossy(first).into_owned();
            if mark.starts_with("bottle:native:") && self.is_ours(&mark) {
                found.push(mark);
            }
        }
        found.sort();
        found
    }

    /// Other tests run beside this one.
    fn is_ours(&self, mark: &str) -> bool {
        let trees = self.cli.state().join("trees").join(&self.tree.owner);
        let data = std::fs::canonicalize(trees).unwrap();
        let id = std::fs::read_to_string(self.cli.state().join("id")).unwrap();
        let mut digest = Sha256::new();
        digest.update(data.as_os_str().as_encoded_bytes());
        digest.update([0]);
        digest.update(id.trim().as_bytes());
        mark.contains(&format!(":{}:", &hex::encode(digest.finalize())[..16]))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let down = self.run(&["down", "--yes", "--allow-teardown", "all"]);
        if !std::thread::panicking() {
            assert_eq!(down.code, Some(0), "{}", down.stderr);
        }
    }
}

/// How the copy comes back.
#[derive(Debug, Clone, Copy)]
enum Back {
    /// What was there goes first.
    Instead,
    /// Over what is there, file by file.
    Over,
}

fn an_older_copy(back: Back, made_anew: bool) {
    let world = World::new();
    world.apply();
    world.inside("ada", "echo old > ~/mine");
    let state = world.cli.state();
    let copy = world.cli.home().join("copy");
    world.copy(&state, &copy);
    // Life goes on: other prompts and skills, other files, one sandbox more, all of them made anew.
    if made_anew {
        world.run(&["down", "--yes", "--allow-teardown", "all"]).exits(0);
    }
    world.tree.agent("ada", "plain", "skills: [greet]", "You are ada, and older.");
    world.tree.skill("greet", "more.md", "say more\n");
    world.tree.agent("cyd", "linked", "", "You are cyd.");
    world.apply();
    world.inside("ada", "echo new > ~/mine");
    assert_eq!(world.alive().len(), 5, "{:?}", world.alive());

    match back {
        Back::Instead => {
            // To an ordinary user the kernel's own folders below `work` are closed.
            let gone = "chmod -R u+rwx \"$1\" && rm -rf \"$1\"";
            assert!(
                Command::new("sh").args(["-c", gone, "sh"]).arg(&state).status().unwrap().success()
            );
            world.copy(&copy, &state);
        }
        Back::Over => world.copy(&copy, &state),
    }
    world.apply();
    world.run(&["plan"]).exits(0);
    assert_eq!(world.alive().len(), 5, "{back:?}: {:?}", world.alive());
    for name in ["ada", "bob", "cyd"] {
        assert_eq!(world.inside(name, "echo here"), "here", "{back:?}");
    }
    assert!(world.inside("ada", "cat /etc/bottle/prompt.md").contains("and older"));
    assert_eq!(world.inside("ada", "cat ~/mine").lines().count(), 1, "one of both");
    world.run(&["down", "--yes", "--allow-teardown", "all"]).exits(0);
    assert_eq!(world.alive(), Vec::<String>::new(), "{back:?}");
    assert_eq!(std::fs::metadata(&state).unwrap().mode() & 0o077, 0);
}

#[test]
fn an_older_copy_instead() {
    an_older_copy(Back::Instead, false);
}

#[test]
fn an_older_copy_over_what_is_there() {
    an_older_copy(Back::Over, false);
}

#[test]
fn an_older_copy_of_sandboxes_that_were_made_anew() {
    an_older_copy(Back::Instead, true);
}

/// All that is known of the tree is gone while its sandboxes run, and comes back: nothing is made in the
/// place of what runs, and what runs is named. Without it, the operator has to say so.
#[test]
fn a_tree_whose_records_are_gone_is_held() {
    let world = World::new();
    world.apply();
    world.inside("ada", "echo mine > ~/mine");
    let before = world.alive();
    assert_eq!(before.len(), 3, "{before:?}");
    let trees = world.cli.state().join("trees");
    let (there, away) = (trees.join(&world.tree.owner), world.cli.home().join("away"));
    std::fs::rename(&there, &away).unwrap();
    let held = world.run(&["-o", "json", "apply", "--yes", "--allow-teardown", "all"]).exits(3);
    let said = held.json();
    for name in ["ada", "bob"] {
        let of = |change: &&serde_json::Value| {
            change["sandbox"] == name && change["resource"] == "machine"
        };
        let change = said["changes"].as_array().unwrap().iter().find(of).unwrap();
        assert_eq!(change["verdict"], "hold", "{change}");
        assert!(change.to_string().contains("put the folder back"), "{change}");
    }
    assert_eq!(world.alive(), before, "they run on");
    // What that run wrote down goes, and the folder comes back: as if nothing had been.
    std::fs::remove_dir_all(&there).unwrap();
    std::fs::rename(&away, &there).unwrap();
    world.apply();
    world.run(&["plan"]).exits(0);
    assert_eq!((world.alive(), world.inside("ada", "cat ~/mine")), (before, "mine".to_owned()));

    // It does not come back.
    std::fs::rename(&there, &away).unwrap();
    let anew = ["apply", "--yes", "--allow-teardown", "all", "--replace-unknown", "ada"];
    world.run(&anew).exits(3);
    assert_eq!(world.inside("ada", "cat ~/mine 2>/dev/null || echo new"), "new");
    assert_eq!(world.alive().len(), 3, "one of each: {:?}", world.alive());
    world.run(&["apply", "--yes", "--allow-teardown", "all", "--replace-unknown", "bob"]).exits(0);
    world.run(&["plan"]).exits(0);
    assert_eq!(world.alive().len(), 3, "one of each: {:?}", world.alive());
    world.run(&["down", "--yes", "--allow-teardown", "all"]).exits(0);
    assert_eq!(world.alive(), Vec::<String>::new());
}

/// What runs and has no record is named by `doctor`, with where its files are.
#[test]
fn doctor_names_what_runs_without_a_record() {
    let world = World::new();
    world.apply();
    let (state, aside) = (world.cli.state(), world.cli.home().join("aside"));
    let processes = || {
        let said = world.cli.run(["-o", "json", "doctor"]).json();
        let host = said["host"].as_array().unwrap().clone();
        let found = host.into_iter().find(|finding| finding["what"] == "processes");
        found.map(|found| format!("{} → {}", found["detail"], found["fix"])).unwrap_or_default()
    };
    let pid = |name: &str| {
        let mark = world.alive().into_iter().find(|mark| mark.ends_with(&format!(":{name}")));
        let mark = mark.unwrap();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let of = |entry: &std::fs::DirEntry| {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            line.starts_with(mark.as_bytes())
        };
        entries.filter(of).map(|entry| entry.file_name().into_string().unwrap()).next().unwrap()
    };
    let ada = format!("ada (process {})", pid("ada"));
    assert!(!processes().contains(&ada), "{}", processes());

    std::fs::rename(&state, &aside).unwrap();
    let said = processes();
    assert!(said.contains(&ada) && said.contains("bob (process "), "{said}");
    assert!(said.contains(&aside.display().to_string()), "{said}");
    assert!(said.contains("put the folder back"), "{said}");
    world.remove(&state);
    std::fs::rename(&aside, &state).unwrap();
    assert!(!processes().contains(&ada), "{}", processes());

    world.copy(&state, &aside);
    world.remove(&state);
    let said = processes();
    assert!(said.contains(&ada) && said.contains("the files are gone"), "{said}");
    assert!(said.contains("kill -9"), "{said}");
    world.remove(&state);
    std::fs::rename(&aside, &state).unwrap();
}
