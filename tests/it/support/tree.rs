//! Trees that are written in a line or two.

use std::path::{Path, PathBuf};

use super::unique;

/// A tree in a temporary folder, with an owner's name of its own.
#[derive(Debug)]
pub(crate) struct TempTree {
    dir: tempfile::TempDir,
    /// `name:` of its `bottle.yaml`.
    pub(crate) owner: String,
}

impl TempTree {
    /// An empty tree: `bottle.yaml`, `bottles/`, `agents/` and `skills/`.
    pub(crate) fn new(what: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let tree = Self { dir, owner: unique(what) };
        for folder in ["bottles", "agents", "skills"] {
            std::fs::create_dir(tree.join(folder)).expect("a folder can be made in a new one");
        }
        tree.write("bottle.yaml", &format!("name: {}\n", tree.owner));
        tree
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A path in it.
    pub(crate) fn join(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Writes any file, and the folders above it.
    pub(crate) fn write(&self, path: &str, content: &str) -> &Self {
        let path = self.join(path);
        let parent = path.parent().expect("a file in the tree has a folder");
        std::fs::create_dir_all(parent).expect("the folders above can be made");
        std::fs::write(&path, content).expect("a file in a temporary folder can be written");
        self
    }

    /// Writes `bottles/<name>.md`: its front matter, without the `---` lines.
    pub(crate) fn bottle(&self, name: &str, front_matter: &str) -> &Self {
        let content = format!("---\n{}\n---\nA bottle.\n", front_matter.trim_end());
        self.write(&format!("bottles/{name}.md"), &content)
    }

    /// Writes `agents/<name>.md`: its front matter beside `bottle:`, and its prompt.
    pub(crate) fn agent(&self, name: &str, bottle: &str, more: &str, prompt: &str) -> &Self {
        let front_matter = format!("bottle: {bottle}\n{more}");
        let content = format!("---\n{}\n---\n{prompt}\n", front_matter.trim_end());
        self.write(&format!("agents/{name}.md"), &content)
    }

    /// Writes one file of a skill.
    pub(crate) fn skill(&self, name: &str, file: &str, content: &str) -> &Self {
        self.write(&format!("skills/{name}/{file}"), content)
    }

    /// Removes a file or a folder.
    pub(crate) fn remove(&self, path: &str) -> &Self {
        let path = self.join(path);
        let removed = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        removed.unwrap_or_else(|error| panic!("removing {}: {error}", path.display()));
        self
    }
}
