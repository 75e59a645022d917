//! As much of Markdown as the documentation uses.

use std::path::{Path, PathBuf};

/// One page, by its path relative to the repository.
pub(super) struct Page {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// A fenced block.
#[derive(Debug)]
pub(super) struct Fence {
    /// What stands after the opening fence.
    pub(super) info: String,
    pub(super) content: String,
    /// Of the opening fence, from 1.
    pub(super) line: usize,
}

/// Where the repository lies.
pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README.md, CHANGELOG.md and everything in docs/, sorted.
pub(super) fn pages() -> Vec<Page> {
    let mut paths = vec![PathBuf::from("CHANGELOG.md"), PathBuf::from("README.md")];
    walk(Path::new("docs"), &mut paths);
    paths.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(root().join(&path)).expect("a page can be read");
        Page { path, text }
    };
    paths.into_iter().map(read).collect()
}

fn walk(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(root().join(folder)).expect("docs/ can be listed") {
        let path = folder.join(entry.expect("docs/ can be listed").file_name());
        if root().join(&path).is_dir() {
            walk(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            paths.push(path);
        }
    }
}

impl Page {
    /// The page of this path.
    pub(super) fn of(path: &str) -> Self {
        let page = pages().into_iter().find(|page| page.path == Path::new(path));
        page.unwrap_or_else(|| panic!("there is no {path}"))
    }

    pub(super) fn fences(&self) -> Vec<Fence> {
        self.parts().0
    }

    /// The lines outside of fences, numbered from 1.
    pub(super) fn prose(&self) -> Vec<(usize, &str)> {
        self.parts().1
    }

    fn parts(&self) -> (Vec<Fence>, Vec<(usize, &str)>) {
        let (mut fences, mut prose) = (Vec::new(), Vec::new());
        let mut open: Option<(String, Fence)> = None;
        for (number, line) in (1..).zip(self.text.lines()) {
            let ticks: String = line.chars().take_while(|c| *c == '`').collect();
            match &mut open {
                Some((fence, _)) if ticks == *fence && line == ticks => {
                    fences.extend(open.take().map(|(_, fence)| fence));
                }
                Some((_, fence)) => {
                    fence.content.push_str(line);
                    fence.content.push('\n');
                }
                None if ticks.len() >= 3 => {
                    let info = line[ticks.len()..].trim().to_owned();
                    open = Some((ticks, Fence { info, content: String::new(), line: number }));
                }
                None => prose.push((number, line)),
            }
        }
        assert!(open.is_none(), "{}: a fence is never closed", self.path.display());
        (fences, prose)
    }

    /// The names by which headings of this page can be linked to.
    pub(super) fn anchors(&self) -> Vec<String> {
        let headings = self.prose().into_iter().filter(|(_, line)| line.starts_with('#'));
        headings.map(|(_, line)| anchor(line.trim_start_matches('#').trim())).collect()
    }
}

/// As forges make it of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// What stands in `code` in a line.
pub(super) fn code(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}
