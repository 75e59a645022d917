//! The manifest layer from outside: a tree on disk in, what is desired and what was said out.

use std::fs;
use std::path::PathBuf;

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
