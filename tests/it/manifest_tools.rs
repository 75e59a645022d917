//! `tools`: which folders are shown for a program of the operator's, and what is refused.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use bottle::manifest::{LoadOptions, load};
use bottle::model::{BackendKind, Desired, Tool};

use crate::manifest::{Scratch, id, said};

/// A home folder with programs, and a `PATH`.
struct Host {
    scratch: Scratch,
    path: Vec<String>,
}

impl Host {
    fn new(path: &[&str]) -> Self {
        let scratch = Scratch::with_good_agent();
        Self { scratch, path: path.iter().map(|folder| (*folder).to_owned()).collect() }
    }

    /// A program below the home folder.
    fn program(&self, path: &str, text: &str) -> &Self {
        let path = self.scratch.write(&format!("home/{path}"), text);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a mode");
        self
    }

    /// A link there, to another path there.
    fn link(&self, path: &str, to: &str) -> &Self {
        let path = self.scratch.path(&format!("home/{path}"));
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        symlink(to, path).expect("a link");
        self
    }

    fn home(&self, path: &str) -> PathBuf {
        self.scratch.path("home").canonicalize().expect("the home folder").join(path)
    }

    fn load(&self, bottle: &str) -> Desired {
        self.scratch.write("tree/bottles/dev.md", format!("---\n{bottle}\n---\n"));
        let folders = self.path.iter().map(|folder| match folder.strip_prefix("~/") {
            Some(own) => self.home(own),
            None => PathBuf::from(folder),
        });
        let search_path: OsString = std::env::join_paths(folders).expect("a PATH");
        load(&LoadOptions { search_path: Some(search_path), ..self.scratch.options() })
            .expect("the tree can be read")
    }

    /// Each folder that is shown, from the home folder.
    fn shown(&self, names: &str) -> Vec<String> {
        let desired = self.load(&format!("tools: [{names}]"));
        assert_eq!(said(&desired), Vec::<String>::new(), "{names}");
        let tools = desired.sandboxes[&id("good")].tools.values();
        let folders = tools.flat_map(|tool| tool.folders.clone()).map(|folder| {
            let own = folder.strip_prefix(self.home("")).map(PathBuf::from);
            own.unwrap_or(folder).display().to_string()
        });
        let mut folders: Vec<String> = folders.collect();
        folders.dedup();
        folders
    }

    #[track_caller]
    fn wrong(&self, bottle: &str, words: &[&str]) {
        let desired = self.load(bottle);
        let found = desired.diagnostics.iter().map(|d| {
            let hint = d.hint.clone().unwrap_or_default();
            format!("{}:{}: {} | {hint}", d.file, d.line, d.message)
        });
        let found = found.collect::<Vec<_>>().join("\n");
        for word in words {
            assert!(found.contains(word), "{bottle}: no `{word}` in {found}");
        }
        assert!(desired.sandboxes.is_empty(), "{bottle}");
    }
}

const SHELL: &str = "#!/bin/sh\necho hello\n";
const NODE: &str = "#!/usr/bin/env node-of-a-test\n";

#[test]
fn the_smallest_folder_that_holds_it_is_shown() {
    let host = Host::new(&[
        "~/.local/bin",
        "~/.npm-global/bin",
        "~/.nvm/versions/node/v1/bin",
        "~/code/node_modules/.bin",
        "~/apps/thing/bin",
        "relative",
        "/usr/bin",
    ]);
    host.program(".local/bin/plain", SHELL)
        .program(".local/share/claude/versions/2.1", SHELL)
        .link(".local/bin/claude", "../share/claude/versions/2.1")
        .program(".npm-global/lib/node_modules/@openai/codex/bin/codex.js", SHELL)
        .link(".npm-global/bin/codex", "../lib/node_modules/@openai/codex/bin/codex.js")
        .program(".npm-global/lib/node_modules/opencode/main", SHELL)
        .link(".npm-global/bin/opencode", "../lib/node_modules/opencode/main")
        .program(".nvm/versions/node/v1/bin/node-of-a-test", SHELL)
        .program(".nvm/versions/node/v1/bin/node", SHELL)
        .program(".nvm/versions/node/v1/lib/node_modules/npm/cli.js", NODE)
        .link(".nvm/versions/node/v1/bin/npm", "../lib/node_modules/npm/cli.js")
        .program("code/node_modules/gemini/bundle.js", NODE)
        .link("code/node_modules/.bin/gemini", "../gemini/bundle.js")
        .program("apps/thing/bin/thing", SHELL)
        .program("apps/thing/lib/part", "")
        .program("relative/ls", SHELL);
    for (names, folders) in [
        ("plain", &[".local/bin"][..]),
        ("claude", &[".local/share/claude/versions"]),
        ("codex", &[".npm-global/lib/node_modules/@openai/codex"]),
        ("opencode", &[".npm-global/lib/node_modules/opencode"]),
        ("npm, node-of-a-test", &[".nvm/versions/node/v1"]),
        ("gemini, node-of-a-test", &["code/node_modules", ".nvm/versions/node/v1"]),
        ("thing", &["apps/thing"]),
        ("ls", &[]),
    ] {
        assert_eq!(host.shown(names), folders, "{names}");
    }
    let desired = host.load("tools: [claude, ls]");
    let spec = &desired.sandboxes[&id("good")];
    assert_eq!(spec.tools["claude"].program, host.home(".local/share/claude/versions/2.1"));
    assert!(spec.tools["ls"].program.starts_with("/usr"), "{:?}", spec.tools["ls"]);
    // Another place is the same machine, and another tool is another one.
    let machine = |desired: &Desired| {
        desired.sandboxes[&id("good")].machine(BackendKind::Native).expect("a machine")
    };
    let first = machine(&desired);
    let mut moved = first.clone();
    moved.tools.insert("claude".to_owned(), Tool::default());
    assert_eq!(moved.hash(), first.hash());
    assert_ne!(moved.fields(), first.fields());
    assert_ne!(machine(&host.load("tools: [claude]")).hash(), first.hash());
    // What decides what it is can be judged: the link, the program and the folder.
    let sources = spec.sources.iter().filter(|source| source.field == "tools.claude");
    let sources: Vec<_> = sources.collect();
    assert!(sources.iter().any(|s| s.via.contains(&host.home(".local/bin/claude"))), "{sources:?}");
    assert!(sources.iter().any(|s| s.path == host.home(".local/share/claude/versions")));
}

#[test]
fn what_holds_secrets_or_too_much_is_not_shown() {
    let host = Host::new(&["~/on-path", "/usr/bin"]);
    let wide = "may hold secrets, and holds more than programs";
    for (number, (place, why)) in [
        ("tool", "is your home folder"),
        (".ssh/tool", "gives access to your keys"),
        (".config/tool", "gives access to your keys"),
        (".config/some/tool", wide),
        (".claude/tool", "holds secrets"),
        (".claude/local/tool", "holds secrets"),
        (".codex/bin/tool", "holds secrets"),
        (".gemini/tool", "holds secrets"),
        (".aws/bin/tool", "gives access to your keys"),
        (".local/share/tool", "gives access to"),
        (".local/share/some/tool", wide),
        (".cargo/tool", wide),
        ("Downloads/tool", wide),
        ("../tree/skills/x/tool", "lies in the tree"),
        ("../state/tool", "is the state folder"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("tool{number}");
        host.program(place, SHELL);
        host.link(&format!("on-path/{name}"), host.home(place).to_str().expect("a path"));
        host.wrong(&format!("tools: [{name}]"), &["bottles/dev.md:2", &format!("`{name}`"), why]);
    }
    host.program("bin/own", SHELL).link("on-path/own", "../bin/own");
    assert_eq!(host.shown("own"), ["bin"]);
    // A project's folder, which a link of npm leads to.
    for (number, keys) in [".env", ".git/config", ".npmrc"].into_iter().enumerate() {
        let (place, name) = (format!("src/p{number}"), format!("project{number}"));
        host.scratch.write(&format!("home/{place}/{keys}"), "token");
        host.program(&format!("{place}/cli.js"), SHELL);
        host.link(&format!("on-path/{name}"), &format!("../{place}/cli.js"));
        host.wrong(&format!("tools: [{name}]"), &["in it, which may hold secrets"]);
    }
}

#[test]
fn what_cannot_be_shown_says_what_to_do() {
    let host = Host::new(&["~/a/bin", "~/open", "/usr/bin"]);
    host.program("a/bin/script", NODE).program("a/bin/odd", "#!/nowhere/at/all\n");
    host.program(".pyenv/shims/python9", SHELL).program(".cargo/bin/rustup", SHELL);
    host.link("a/bin/rustc", "../../.cargo/bin/rustup").program("open/loose", SHELL);
    host.scratch.write("home/a/bin/no-program", "");
    host.wrong(
        "tools: [nowhere]",
        &["`nowhere` is not on your PATH", "PATH was `", "/a/bin:", "command -v nowhere"],
    );
    host.wrong("tools: [no-program]", &["is not on your PATH"]);
    host.wrong(
        "tools: [script]",
        &[
            "`script` is run by `node-of-a-test`, which the sandbox does not have",
            "write `tools: [script, node-of-a-test]`",
        ],
    );
    host.wrong("tools: [odd]", &["`/nowhere/at/all`: it does not exist"]);
    host.wrong("tools: [rustc]", &["which only starts another program", "`rustup which`"]);
    host.wrong("tools: [./x]", &["is not the name of a program", "host_paths"]);
    host.wrong("tools: [\"\"]", &["bottles/dev.md:2"]);
    host.wrong("tools: claude", &["expected a list"]);
    for (bottle, backend) in [
        ("image: alpine", ""),
        ("image: alpine", "docker"),
        ("", "smolmachines"),
        ("image: ./root", "native"),
    ] {
        fs::create_dir_all(host.scratch.path("tree/bottles/root")).expect("a folder");
        let backend =
            if backend.is_empty() { String::new() } else { format!("backend: {backend}\n") };
        host.wrong(
            &format!("{backend}{bottle}\ntools: [ls]"),
            &["`tools` works with the `host` image of the native backend only", "image: {build:"],
        );
    }
    let loose = host.home("open");
    fs::set_permissions(&loose, fs::Permissions::from_mode(0o777)).expect("a mode");
    host.wrong(
        "tools: [loose]",
        &["others can replace that", "can be written by everyone", "chmod o-w"],
    );
    // A manifest cannot say where programs are looked for.
    host.wrong(
        &format!("env: {{PATH: '{}'}}\ntools: [python9]", host.home(".pyenv/shims").display()),
        &["is not on your PATH"],
    );
    let desired = host.load("tools: [ls, ls]");
    assert!(said(&desired).join("").contains("stands here twice"), "{:?}", said(&desired));
}
