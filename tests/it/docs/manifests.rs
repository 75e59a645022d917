//! Manifests in the documentation are marked by the words after the fence:
//!
//! | words | the block is |
//! |---|---|
//! | `yaml bottle`, `yaml agent` | the front matter of one |
//! | `yaml bottle.yaml`, `markdown agents/ada.md` | the file of that path; those of a page are a tree |

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use bottle::manifest::{LoadOptions, load};

use super::markdown::{Fence, Page, pages};

/// A tree around what is shown: what the pages speak of without showing it is there.
struct Around(tempfile::TempDir);

impl Around {
    fn new() -> Self {
        let around = Self(tempfile::tempdir().expect("a temporary folder can be made"));
        around.write("home/code/site/index.html", "");
        let key = "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        around.write("home/.ssh/agent-key", key);
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(around.0.path().join("home/.ssh/agent-key"), private).expect("a mode");
        for program in ["claude", "codex", "gemini", "node", "opencode"] {
            let path = format!("home/.local/bin/{program}");
            around.write(&path, "#!/bin/sh\n");
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(around.0.path().join(path), mode).expect("a mode");
        }
        around.write("tree/bottles/dev.md", "---\nimage: node:22-slim\n---\n");
        around.write("tree/images/dev/Dockerfile", "FROM node:22-slim\n");
        around.write("tree/agents/other.md", "---\nbottle: dev\n---\n");
        for skill in ["review", "greet"] {
            around.write(&format!("tree/skills/{skill}/SKILL.md"), "Do.\n");
        }
        around
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("folders");
        fs::write(path, content).expect("a file");
    }

    /// What is wrong with the tree.
    fn findings(&self) -> Vec<String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let own = self.0.path().join("home/.local/bin");
        let folders = std::iter::once(own).chain(std::env::split_paths(&path));
        let options = LoadOptions {
            home: Some(self.0.path().join("home")),
            search_path: std::env::join_paths(folders).ok(),
            ..LoadOptions::new(self.0.path().join("tree"), self.0.path().join("state"))
        };
        match load(&options) {
            Ok(desired) => {
                let said = desired.diagnostics.iter();
                said.map(|d| format!("{}:{}: {}", d.file, d.line, d.message)).collect()
            }
            Err(error) => vec![error.to_string()],
        }
    }
}

pub(super) fn is_manifest(path: &str) -> bool {
    path == "bottle.yaml"
        || (Path::new(path).extension().is_some_and(|e| e == "md")
            && ["bottles/", "agents/", "skills/"].iter().any(|folder| path.starts_with(folder)))
}

/// The file that a block shows: of `yaml` under a page of Markdown the block is the front matter.
pub(super) fn file_of(fence: &Fence) -> String {
    let markdown = fence.info.split_whitespace().nth(1).is_some_and(|path| path.ends_with(".md"));
    if fence.info.starts_with("yaml") && markdown {
        return format!("---\n{}---\n", fence.content);
    }
    fence.content.clone()
}

/// How many manifests the page shows, and what is wrong with them.
fn check(page: &Page) -> (usize, Vec<String>) {
    let (mut count, mut wrong) = (0, Vec::new());
    let tree = Around::new();
    let mut files = Vec::new();
    for fence in page.fences() {
        let at = format!("{}:{}", page.path.display(), fence.line);
        let words: Vec<&str> = fence.info.split_whitespace().collect();
        let alone = |path: &str| {
            let around = Around::new();
            around.write(path, &format!("---\n{}---\n", fence.content));
            around.findings()
        };
        let found = match words[..] {
            ["yaml", "bottle"] => alone("tree/bottles/dev.md"),
            ["yaml", "agent"] => alone("tree/agents/ada.md"),
            ["yaml" | "markdown", path] if is_manifest(path) => {
                tree.write(&format!("tree/{path}"), &file_of(&fence));
                files.push(at.clone());
                Vec::new()
            }
            ["yaml" | "yml" | "markdown" | "md", ..] => {
                vec!["it is not said what this is: `yaml bottle`, `markdown agents/ada.md`".into()]
            }
            _ => continue,
        };
        count += 1;
        wrong.extend(found.into_iter().map(|finding| format!("{at}: {finding}")));
    }
    if !files.is_empty() {
        let found = tree.findings().into_iter();
        wrong.extend(found.map(|finding| format!("{}: {finding}", files.join(", "))));
    }
    (count, wrong)
}

#[test]
fn every_manifest_that_is_shown_loads() {
    let checked: Vec<_> = pages().iter().map(|page| (page.path.clone(), check(page))).collect();
    let wrong: Vec<&str> =
        checked.iter().flat_map(|(_, (_, wrong))| wrong).map(String::as_str).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for path in ["README.md", "docs/manifest.md"] {
        let shown = checked.iter().find(|(page, _)| page == Path::new(path));
        assert!(shown.is_some_and(|(_, (count, _))| *count > 0), "{path} shows no manifest");
    }
}
