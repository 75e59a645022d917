//! The manifest layer from outside: a tree on disk in, what is desired and what was said out.

use std::fs;
use std::path::PathBuf;

use bottle::manifest::diagnostic::{Drawing, render_all};
use bottle::manifest::{LoadOptions, load};
use bottle::model::{AgentsFolder, BackendChoice, Desired, ImageRef, SandboxId, Severity};

/// A tree, a home folder, a state folder and whatever else a test needs, removed at its end.
pub(crate) struct Scratch {
    root: tempfile::TempDir,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        for folder in ["tree/bottles", "tree/agents", "home", "state"] {
            fs::create_dir_all(root.path().join(folder)).expect("folders");
        }
        Self { root }
    }

    /// A tree with a bottle `dev` and an agent `good` that is always right.
    pub(crate) fn with_good_agent() -> Self {
        let scratch = Self::new();
        scratch.write("tree/bottles/dev.md", "---\nimage: alpine\n---\n");
        scratch.write("tree/agents/good.md", "---\nbottle: dev\n---\nBe good.\n");
        scratch
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.path().join(relative)
    }

    pub(crate) fn write(&self, relative: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("folders");
        fs::write(&path, content).expect("a file");
        path
    }

    pub(crate) fn options(&self) -> LoadOptions {
        LoadOptions {
            home: Some(self.path("home")),
            ..LoadOptions::new(self.path("tree"), self.path("state"))
        }
    }

    pub(crate) fn load(&self) -> Desired {
        load(&self.options()).expect("the tree can be read")
    }
}

pub(crate) fn id(name: &str) -> SandboxId {
    SandboxId::new(name).expect("a name")
}

/// Every finding as `file:line:column severity message`.
pub(crate) fn said(desired: &Desired) -> Vec<String> {
    let line = |d: &bottle::model::Diagnostic| {
        let severity = if d.severity == Severity::Error { "error" } else { "warning" };
        format!("{}:{}:{} {severity} {}", d.file, d.line, d.column, d.message)
    };
    desired.diagnostics.iter().map(line).collect()
}

#[test]
fn a_small_tree_is_read() {
    let scratch = Scratch::with_good_agent();
    let desired = scratch.load();
    assert_eq!(said(&desired), Vec::<String>::new());
    assert_eq!(desired.agents, AgentsFolder::Present);
    assert!(desired.held.is_empty());
    let spec = &desired.sandboxes[&id("good")];
    assert_eq!(spec.bottle, "dev");
    assert_eq!(spec.source, "agents/good.md");
    assert_eq!(&*spec.prompt, "Be good.");
    assert_eq!(spec.image, Some(ImageRef::Registry("alpine".into())));
    assert_eq!(spec.backend, BackendChoice::Auto { default: None });
    assert_eq!(spec.run, ["claude"]);
    assert!(spec.network.is_none() && spec.sidecar.is_none());
}

fn drawn(scratch: &Scratch) -> String {
    render_all(&scratch.load().diagnostics, Drawing::default())
}

#[test]
fn findings_are_drawn_with_their_line_and_a_caret() {
    let scratch = Scratch::with_good_agent();
    scratch.write(
        "tree/agents/dennis.md",
        "---\nbottle: dve\nskils: [review]\nrun: review\ncommand: [sleep, 10]\n---\n",
    );
    let expected = "\
error: there is no bottle `dve`
  ┌─ agents/dennis.md:2:9
2 │ bottle: dve
  │         ^^^ did you mean `dev`?
  = bottles: dev

error: unknown key `skils`
  ┌─ agents/dennis.md:3:1
3 │ skils: [review]
  │ ^^^^^ did you mean `skills`?
  = allowed: bottle, skills, command, restart, run, suspend, was, name,
    description, tools, disallowedTools, model, permissionMode, maxTurns,
    mcpServers, hooks, memory, background, effort, isolation, color,
    initialPrompt

error: expected a list, found text
  ┌─ agents/dennis.md:4:6
4 │ run: review
  │      ^^^^^^
  = write [review]

error: expected text, found the number `10`
  ┌─ agents/dennis.md:5:18
5 │ command: [sleep, 10]
  │                  ^^
  = quote it: \"10\"
";
    assert_eq!(drawn(&scratch), expected);
}

#[test]
fn a_token_in_the_wrong_place_is_shown_by_nobody() {
    let scratch = Scratch::with_good_agent();
    let routes =
        "{path: gh, upstream: \"https://u:p4ss@x.com\", auth_scheme: basic, token_ref: ghp_S3cret}";
    let yaml = format!(
        "---
cred_proxy: {{routes: [{routes}]}}
git: [{{Name: a, Upstream: 'ssh://git:p4ss@h/a', IdentityFile: /nowhere}}]
egress: {{allowlist: ['https://u:p4ss@h', {{host: 'u:p4ss@h'}}]}}
---
"
    );
    scratch.write("tree/bottles/x.md", yaml);
    scratch.write("tree/agents/x.md", "---\nbottle: x\n---\n");
    let desired = scratch.load();
    assert_eq!(desired.diagnostics.len(), 9, "{:#?}", said(&desired));
    let all = format!("{}{:?}", drawn(&scratch), desired);
    assert!(!all.contains("S3cret") && !all.contains("p4ss"), "{all}");
    assert!(all.contains("••••"));
}
