//! The examples: what a newcomer copies has to be right, and to stay what it was.

mod image;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bottle::manifest::{LoadOptions, load};
use bottle::model::{BackendChoice, BackendKind, Desired};
use serde_json::Value;

use crate::contract::docker::sidecar_program;
use crate::support::{self, Cli, Ended};

/// What each example's sandboxes are made from.
///
/// A hash that moves here moves for everyone: a machine's means that every existing machine with
/// such a spec is replaced by the next version, unless that one knows it by its fields; a guest's that it is provisioned again. Where the
/// example itself was edited, or that is meant, write the new hash and say so in the changelog.
/// Where neither is so, the encoding of specs was changed by accident.
const HASHES: &[(&str, &str, &str)] = &[
    (
        "agents/claude-docker/ada",
        "30a214743cef9146002e45af8e3627d4fda38ac1b4dc129f431d9a7a855899ad",
        "63253e2fe929f4bf5f9f5bc0e5dcbee14841dc60ea346c4f2c7fff4b90e81dac",
    ),
    (
        "agents/claude-native/ada",
        "13ca2a4c123e698c76b497dd64ad9a0ccf4a7fbac9d66b6ce782c0963487a440",
        "63253e2fe929f4bf5f9f5bc0e5dcbee14841dc60ea346c4f2c7fff4b90e81dac",
    ),
    (
        "agents/codex-docker/ada",
        "c2b008e672dbf6e7fd324bdcd47b163b37521d61ddef3229949533378e228934",
        "33abf91404d67d759bb44a08aaab31f124996c2067a5ed91115d52e9cc16fcbe",
    ),
    (
        "agents/codex-native/ada",
        "2a7478725231d907c4d9ef3b67e8d66ea1b003903d2542b58e5314ce8aec258f",
        "33abf91404d67d759bb44a08aaab31f124996c2067a5ed91115d52e9cc16fcbe",
    ),
    (
        "agents/gemini-docker/ada",
        "5f93e80b786f506893b86c123f39ebaef971b4e953573d2fff890f532f89383a",
        "ae7b1ab0b09982a659dc6b53e63b0a674fd99a7a269458f48d383d2fb1c79b0c",
    ),
    (
        "agents/gemini-native/ada",
        "74175278f289b9aac3899fb389f58d41d556295964cb755ecb7689314bee7df7",
        "ae7b1ab0b09982a659dc6b53e63b0a674fd99a7a269458f48d383d2fb1c79b0c",
    ),
    (
        "agents/opencode-docker/ada",
        "13a4885bc69fd979ec72a69923bc67aa88399a8e57e7639c428126a51089e58d",
        "ddab919cd69554da4ead83934021171ff9a21fc072079cb3facc1026c44b8d01",
    ),
    (
        "agents/opencode-native/ada",
        "1ed7ae04be257e7ed068ff37c9503d6f100f1896f2d4e813b5e357e36e25cfca",
        "ddab919cd69554da4ead83934021171ff9a21fc072079cb3facc1026c44b8d01",
    ),
    (
        "minimal/ada",
        "7c38c13621f0ce9e0450692c7d31d16b5e614fa0473cdd1a797a1956f5ebad3d",
        "2d5f98887ad2aaeb41c668965c907f52b48e805e3e369dc0765c2ae8e57ee5f5",
    ),
    (
        "quickstart/ada",
        "7c38c13621f0ce9e0450692c7d31d16b5e614fa0473cdd1a797a1956f5ebad3d",
        "4357543da0d8f11c36532a4aa0386f4bb5fac572c2ccf5a9f655d004d9bc6474",
    ),
    (
        "quickstart/tick",
        "7c38c13621f0ce9e0450692c7d31d16b5e614fa0473cdd1a797a1956f5ebad3d",
        "82569bb89e950ff838fa1de3a8996d1fd9ac7c8c133448144c3661b5f0b08ebb",
    ),
    (
        "team/ada",
        "350e91363924f6ae5fee037b22de5cfc3a799081e4655d0f820176b79b062342",
        "b5f7da32727f63256d4fe03cd839bff6763f41f822d82a0212c73f41514d49cf",
    ),
    (
        "team/grace",
        "350e91363924f6ae5fee037b22de5cfc3a799081e4655d0f820176b79b062342",
        "0d273536cabeb4b08f0f6c4945ffbc7480415a2d9fb964e1ad250b26ca72efdd",
    ),
    (
        "team/linus",
        "7c38c13621f0ce9e0450692c7d31d16b5e614fa0473cdd1a797a1956f5ebad3d",
        "ed698aa95742ecc2387030f6e280d9218d9df86966dd9e1a873c8661c70bbd6d",
    ),
];

/// A copy of an example, and an environment of its own to use it in.
struct Example {
    cli: Cli,
    dir: tempfile::TempDir,
}

impl Example {
    /// Copied with the permissions that a checkout has under the usual umask: they are part of a
    /// skill's hash.
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        copy(&examples().join(name), &dir.path().join("tree"));
        Self { cli: Cli::new(), dir }
    }

    /// The same under a name of this test's own, to be applied.
    fn named(name: &str) -> Self {
        let example = Self::new(name);
        let owner = support::unique(&name.replace(['/', '-'], ""));
        example.write("bottle.yaml", &format!("name: {owner}\n"));
        example
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    fn write(&self, path: &str, content: &str) {
        fs::write(self.tree().join(path), content).expect("a file of the copy can be written");
    }

    fn edit(&self, path: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.tree().join(path)).expect("a file of the copy");
        assert!(text.contains(from), "{path} does not hold `{from}`");
        self.write(path, &text.replace(from, to));
    }

    fn load(&self) -> Desired {
        let state = self.dir.path().join("state");
        let options = LoadOptions {
            search_path: Some(self.programs().into()),
            ..LoadOptions::new(self.tree(), state)
        };
        load(&options).expect("an example can be read")
    }

    /// A `PATH` with the agents, as far as examples name them: each says how it was called.
    fn programs(&self) -> String {
        let folder = self.dir.path().join("programs/bin");
        fs::create_dir_all(&folder).expect("a folder for programs");
        for name in ["claude", "codex", "gemini", "node", "opencode"] {
            let path = folder.join(name);
            fs::write(&path, format!("#!/bin/sh\necho {name} \"$@\"\n")).expect("a program");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
        }
        format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default())
    }

    fn run(&self, args: &[&str]) -> Ended {
        let tree = self.tree();
        self.cli.run([&["--tree", tree.to_str().expect("a plain path")], args].concat())
    }

    /// Applies, looks, applies again, tears down; `look` sees the sandboxes.
    fn lives(&self, agents: usize, look: impl FnOnce(&Self)) {
        let applied = Applied(self);
        let first = self.run(&["-o", "json", "apply", "--yes"]).exits(0).json();
        assert_eq!(first["summary"]["create"], agents, "{first}");
        look(self);
        let second = self.run(&["-o", "json", "apply", "--yes"]).exits(0).json();
        assert_eq!(second["summary"]["keep"], agents, "{second}");
        assert_eq!(second["steps"].as_array().map(Vec::len), Some(0), "{second}");
        drop(applied);
        let after = self.run(&["-o", "json", "plan"]).exits(2).json();
        assert_eq!(after["summary"]["create"], agents, "{after}");
        let kept = |change: &&Value| change["reason"]["kind"] != "not_found";
        let left: Vec<_> = after["changes"].as_array().into_iter().flatten().filter(kept).collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(after["steps"].to_string().matches("prune").count(), 0, "{after}");
    }
}

/// Tears down at the end of a test, also of one that fails.
struct Applied<'e>(&'e Example);

impl Drop for Applied<'_> {
    fn drop(&mut self) {
        let down = self.0.run(&["down", "--yes", "--allow-teardown", "all"]);
        if !std::thread::panicking() {
            down.exits(0);
        }
    }
}

/// The folder of examples that are of agents.
const AGENTS: &str = "agents";

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

fn names() -> Vec<String> {
    let list = |folder: &Path| -> Vec<String> {
        let entries = fs::read_dir(folder).expect("examples can be listed");
        let names = entries.map(|entry| entry.expect("examples can be listed").file_name());
        names.filter_map(|name| name.into_string().ok()).collect()
    };
    let mut names = list(&examples());
    names.retain(|name| name != AGENTS);
    names.extend(list(&examples().join(AGENTS)).iter().map(|name| format!("{AGENTS}/{name}")));
    names.sort();
    names
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder of the copy can be made");
    for entry in fs::read_dir(from).expect("an example can be listed") {
        let entry = entry.expect("an example can be listed");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
            continue;
        }
        fs::copy(&from, &to).expect("a file of an example can be copied");
        let mode = fs::metadata(&from).expect("a file of an example").permissions().mode();
        let mode = if mode & 0o100 == 0 { 0o644 } else { 0o755 };
        fs::set_permissions(&to, fs::Permissions::from_mode(mode)).expect("a file of the copy");
    }
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).expect("a folder of the copy");
}

#[test]
fn every_example_is_right_as_it_stands() {
    let names = names();
    assert!(names.len() >= 3, "{names:?}");
    for name in names {
        // The folder itself, by the command that a reader would run.
        let path = examples().join(&name);
        let example = Example::new(&name);
        let mut cli = Cli::new();
        cli.env("PATH", example.programs());
        let checked = cli.run(["-o", "json", "check", path.to_str().expect("a plain path")]);
        let checked = checked.exits(0).json();
        assert_eq!(checked["diagnostics"], Value::Array(Vec::new()), "{name}");
        assert_ne!(checked["agents"], Value::Array(Vec::new()), "{name}");
    }
}

#[test]
fn the_hashes_of_every_example_are_what_they_were() {
    let mut are = Vec::new();
    for name in names() {
        for (id, spec) in Example::new(&name).load().sandboxes {
            let backend = match spec.backend {
                BackendChoice::Fixed(kind) => kind,
                BackendChoice::Auto { .. } => BackendKind::Native,
            };
            let machine = spec.machine(backend).expect("the backend suits").hash();
            are.push((
                format!("{name}/{id}"),
                machine.to_string(),
                spec.guest(BackendKind::Docker).hash().to_string(),
            ));
        }
    }
    let were: BTreeMap<_, _> =
        HASHES.iter().map(|(sandbox, machine, guest)| (*sandbox, (*machine, *guest))).collect();
    let same = are.len() == were.len()
        && are.iter().all(|(sandbox, machine, guest)| {
            were.get(sandbox.as_str()) == Some(&(machine.as_str(), guest.as_str()))
        });
    let line = |(sandbox, machine, guest): &(String, String, String)| {
        format!(
            "    (\n        \"{sandbox}\",\n        \"{machine}\",\n        \"{guest}\",\n    ),"
        )
    };
    let table: Vec<String> = are.iter().map(line).collect();
    assert!(same, "the hashes are now\n{}", table.join("\n"));
}

#[test]
fn minimal_lives_on_this_machine() {
    let example = Example::named("minimal");
    example.lives(1, |example| {
        let said = example.run(&["exec", "ada", "--", "cat", "/etc/bottle/prompt.md"]).exits(0);
        assert_eq!(said.stdout, "You are Ada. You work in /home/agent and nowhere else.");
    });
}

#[test]
fn quickstart_lives_on_this_machine() {
    let example = Example::named("quickstart");
    example.lives(2, |example| {
        let greet = ["exec", "ada", "--", "sh", "-c", "$HOME/.claude/skills/greet/greet.sh"];
        assert_eq!(example.run(&greet).exits(0).stdout, "hello from ada\n");
    });
}

#[test]
fn team_lives_on_an_engine_and_this_machine() {
    if !support::docker("examples::team_lives_on_an_engine_and_this_machine") {
        return;
    }
    let mut example = Example::named("team");
    // What sidecars run on an engine is static, and the program under test is not.
    example.cli.env("BOTTLE_SIDECAR_PROGRAM", sidecar_program());
    example.edit("bottles/dev.md", "node:22-slim", "bottle-test-busybox:1");
    example.lives(3, |example| {
        for (agent, skill) in [("ada", "release-notes"), ("grace", "review"), ("linus", "review")] {
            let script = format!("cat $HOME/.claude/skills/{skill}/SKILL.md");
            let said = example.run(&["exec", agent, "--", "sh", "-c", &script]).exits(0).stdout;
            assert!(said.contains(&format!("name: {skill}")), "{agent}: {said}");
        }
    });
}

/// Natively each agent is the one of the operator's `PATH`, with what its role sets up.
#[test]
fn agents_live_on_this_machine() {
    for (agent, variable, set) in [
        ("claude", "ANTHROPIC_TOKEN", "ANTHROPIC_BASE_URL"),
        ("codex", "OPENAI_TOKEN", "OPENAI_BASE_URL"),
        ("gemini", "GEMINI_TOKEN", "GOOGLE_GEMINI_BASE_URL"),
        ("opencode", "ANTHROPIC_TOKEN", "HTTPS_PROXY"),
    ] {
        let mut example = Example::named(&format!("agents/{agent}-native"));
        let programs = example.programs();
        example
            .cli
            .env("PATH", programs)
            .env(variable, "sk-ant-api03-a1B2c3D4e5F6g7H8i9J0-kLmNoPqRsT");
        example.lives(1, |example| {
            let said = example.run(&["run", "ada", "--", "hello"]).exits(0).stdout;
            assert!(said.starts_with(agent) && said.trim_end().ends_with("hello"), "{said}");
            example
                .run(&["exec", "ada", "--", "sh", "-c", &format!("test -n \"${set}\"")])
                .exits(0);
        });
    }
}

/// `init --agent` writes them as they stand there, over nothing, and what it says next is right.
#[test]
fn init_writes_the_examples_of_agents() {
    for agent in ["claude", "codex", "gemini", "opencode"] {
        for backend in ["native", "docker"] {
            let name = format!("{AGENTS}/{agent}-{backend}");
            let mut example = Example::new(&name);
            let programs = example.programs();
            example.cli.env("PATH", programs);
            let new = example.cli.home().join("new");
            let dir = new.to_str().expect("a plain path");
            let args = ["--backend", backend, "init", dir, "--agent", agent];
            let ended = example.cli.run(args).exits(0);
            let next = ended.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(next.contains(&format!("`bottle apply {dir}`")), "{next}");
            assert!(next.contains(&format!("`bottle --tree {dir} run ada`")), "{next}");
            let bottle =
                fs::read_to_string(new.join(format!("bottles/{agent}.md"))).expect("a bottle");
            let variable = bottle.lines().find_map(|line| line.trim().strip_prefix("token_ref: "));
            assert!(next.contains(variable.expect("a token")), "{next}");
            let mut there = vec![format!("bottles/{agent}.md"), "agents/ada.md".to_owned()];
            there.extend((backend == "docker").then(|| format!("images/{agent}/Dockerfile")));
            for file in &there {
                let of = |folder: &Path| fs::read_to_string(folder.join(file)).expect("a file");
                assert_eq!(of(&new), of(&examples().join(&name)), "{file}");
            }
            assert_eq!(ended.stdout.lines().count(), there.len() + 1, "{}", ended.stdout);
            example.cli.run(["check", dir]).exits(0);
            let again = example.cli.run(args).exits(1).stderr;
            assert!(again.contains("exists; nothing was written"), "{again}");
        }
    }
    let refused = Cli::new().run(["--backend", "smolmachines", "init", "x", "--agent", "claude"]);
    assert!(refused.exits(1).stderr.contains("for native and docker"));
}

/// The images of examples have the versions that were tried.
#[test]
fn agents_in_images_are_those_that_were_tried() {
    let tried = include_str!("../support/agents.sh");
    let tried = tried.lines().find_map(|line| line.strip_prefix("agents=(")?.strip_suffix(')'));
    let tried: Vec<&str> = tried.expect("a list of packages").split(' ').collect();
    let mut named = Vec::new();
    for name in names().iter().filter(|name| name.ends_with("-docker")) {
        for image in fs::read_dir(examples().join(name).join("images")).expect("images") {
            let file = image.expect("an image").path().join("Dockerfile");
            let text = fs::read_to_string(file).expect("a Dockerfile");
            let package = text.split("npm install --global ").nth(1).expect("an installation");
            named.push(package.split(' ').next().unwrap_or_default().to_owned());
        }
    }
    assert_eq!(named.len(), 4);
    assert!(named.iter().all(|package| tried.contains(&package.as_str())), "{named:?} {tried:?}");
}
