//! One image, one agent, every backend: what arrives in the guest, and how commands end there, is the
//! same everywhere, byte by byte.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use crate::contract::docker::{docker, images};
use crate::support::{self, Cli, TempTree};

/// All that is compared, as one text. The owners are by number.
const LOOK: &str = r#"cat /etc/bottle/prompt.md; echo
stat -c '%n %F %a %u:%g' /etc/bottle/prompt.md "$HOME" "$PWD" draft
cd "$HOME/.claude/skills" && find . | sort | while read -r name; do
stat -c '%n %F %a %u:%g' "$name"
if [ -L "$name" ]; then readlink "$name"; elif [ -f "$name" ]; then sha256sum <"$name"; fi
done
tools/bin/run.sh
echo "$GREETING"; id -un; id -gn"#;

/// What it is, everywhere.
const LOOKED: &str = "\
You are ada.

Be brief: `exit 7`, ünïcode.
/etc/bottle/prompt.md regular file 600 1000:1000
/home/node directory 755 1000:1000
/workspace directory 755 1000:1000
draft regular file 644 1000:1000
. directory 755 1000:1000
./notes directory 755 1000:1000
./notes/SKILL.md regular file 644 1000:1000
a726812c4fc1481dd441710c49a725898ec21f802f429db239a0696b68fe5652  -
./tools directory 755 1000:1000
./tools/SKILL.md regular file 644 1000:1000
470cf868570e3290ee39c8d596c2e66bcae730019c75804076395ee227a315ba  -
./tools/bin directory 755 1000:1000
./tools/bin/run.sh regular file 755 1000:1000
e23628ed42e31358d7234aac753c38be5a80846413438c57305799b91760056f  -
./tools/data directory 755 1000:1000
./tools/data/binary regular file 644 1000:1000
9c7df6e83230db1b58af4587baa388abf9906d77b4c8bae8135d90bc069ebf6d  -
./tools/data/nothing regular empty file 644 1000:1000
e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  -
./tools/empty directory 755 1000:1000
./tools/link symbolic link 777 1000:1000
bin/run.sh
./tools/secret regular file 600 1000:1000
1ec1c26b50d5d3c58d9583181af8076655fe00756bf7285940ba3670f99fcba0  -
ran
it's = $HOME
node
node
";

/// Three mebibytes in which every byte occurs, and no two blocks are alike.
fn three_mebibytes() -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..3 << 17).flat_map(|_| next()).collect()
}

/// A tree for one backend, with every kind of thing that can be in a skill.
fn tree(backend: &str, workspace: &std::path::Path) -> TempTree {
    let tree = TempTree::new(backend);
    let image = images().join("busybox.tar").display().to_string();
    let limits = "resources:\n  cpus: 1\n  memory: 256M\n  pids: 64";
    let env = "env:\n  GREETING: \"it's = $HOME\"";
    let work = format!("workspace:\n  path: {}", workspace.display());
    tree.bottle("dev", &format!("backend: {backend}\nimage: {image}\n{limits}\n{env}\n{work}"));
    tree.agent(
        "ada",
        "dev",
        "skills: [notes, tools]",
        "You are ada.\n\nBe brief: `exit 7`, ünïcode.",
    );
    tree.skill("notes", "SKILL.md", "---\nname: notes\n---\n# Notes\n");
    tree.skill("tools", "SKILL.md", "# Tools\n").skill(
        "tools",
        "bin/run.sh",
        "#!/bin/sh\necho ran\n",
    );
    tree.skill("tools", "secret", "s3cret").skill("tools", "data/nothing", "");
    std::fs::write(tree.join("skills/tools/data/binary"), three_mebibytes()).unwrap();
    std::fs::create_dir(tree.join("skills/tools/empty")).unwrap();
    symlink("bin/run.sh", tree.join("skills/tools/link")).unwrap();
    for (path, mode) in [("bin/run.sh", 0o755), ("secret", 0o600)] {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(tree.join("skills/tools").join(path), mode).unwrap();
    }
    tree
}

/// The backends that there are here; for what is not here, `what` is said to be left out.
pub(crate) fn backends(what: &str) -> Vec<&'static str> {
    let mut found = Vec::new();
    if !images().join("busybox.tar").exists() {
        support::left_out(what, "it needs an image; tests/run makes it");
        return found;
    }
    if cfg!(target_os = "linux") {
        found.push("native");
    }
    if support::docker(&format!("{what}, on docker")) {
        found.push("docker");
    }
    if support::smolvm(&format!("{what}, on smolmachines")).is_some() {
        found.push("smolmachines");
    }
    found
}

/// Lets the runs of `cli` find the microVMs that there are.
pub(crate) fn environment(cli: &mut Cli) {
    if let Some(program) = std::env::var_os("BOTTLE_TEST_SMOLVM") {
        cli.env("BOTTLE_SMOLVM", program);
    }
    for name in ["SMOLVM_DATA_DIR", "SMOLVM_AGENT_READY_TIMEOUT_SECS", "SMOLVM_START_TIMEOUT_SECS"]
    {
        if let Some(value) = std::env::var_os(name) {
            cli.env(name, value);
        }
    }
}

#[test]
fn the_same_arrives_on_every_backend() {
    for backend in backends("what arrives in a guest") {
        arrives(backend);
    }
}

fn arrives(backend: &str) {
    let workspace = tempfile::tempdir().unwrap();
    std::fs::write(workspace.path().join("draft"), "work\n").unwrap();
    let tree = tree(backend, workspace.path());
    let mut cli = Cli::new();
    cli.patience(Duration::from_secs(900));
    environment(&mut cli);
    let rig = Down { cli, tree };
    let run = |args: &[&str], stdin: &[u8]| {
        let mut all = vec!["--tree", rig.tree.path().to_str().unwrap()];
        all.extend(args);
        rig.cli.run_with(all, stdin)
    };
    run(&["apply", "--yes"], b"").exits(0);
    let looked = run(&["exec", "ada", "--", "sh", "-c", LOOK], b"").exits(0);
    assert_eq!((looked.stdout.as_str(), looked.stderr.as_str()), (LOOKED, ""), "{backend}");
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)] {
        run(&["exec", "ada", "--", "sh", "-c", script], b"").exits(code);
    }
    run(&["exec", "ada", "--", "no-such-program"], b"").exits(127);
    let sent = three_mebibytes();
    let echoed = run(&["exec", "-i", "ada", "--", "sha256sum"], &sent).exits(0).stdout;
    let digest = bottle::model::SpecHash::of_bytes(&sent).to_string();
    assert_eq!(echoed.split_whitespace().next(), Some(digest.as_str()), "{backend}");
}

/// Removes what `down` keeps for the next time: the images that were imported for a tree.
pub(crate) fn forget_imports(tree: &TempTree) {
    if std::env::var_os("BOTTLE_TEST_DOCKER").is_none_or(|value| value.is_empty()) {
        return;
    }
    let repository = format!("bottle-{}", tree.owner);
    let names = ["image", "ls", "--format", "{{.Repository}}:{{.Tag}}", repository.as_str()];
    for name in docker(&names).unwrap_or_default().lines() {
        drop(docker(&["image", "rm", name]));
    }
}

/// What was made goes with the test.
struct Down {
    cli: Cli,
    tree: TempTree,
}

impl Drop for Down {
    fn drop(&mut self) {
        let tree = self.tree.path().to_str().unwrap();
        self.cli.run([
            "--tree",
            tree,
            "down",
            "--yes",
            "--allow-teardown",
            "all",
            "--discard",
            "all",
            "-q",
        ]);
        forget_imports(&self.tree);
    }
}
