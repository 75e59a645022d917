use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::markdown::{Page, pages, root};

/// Targets of links, with the lines that they stand in.
fn links(page: &Page) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for (number, line) in page.prose() {
        // What stands in `code` is no link.
        let text: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for rest in text.split("](").skip(1) {
            let target = rest.split(')').next().unwrap_or_default();
            links.push((number, target.to_owned()));
        }
    }
    links
}

fn is_elsewhere(target: &str) -> bool {
    ["https://", "http://", "mailto:"].iter().any(|scheme| target.starts_with(scheme))
}

/// `docs/decisions/../cli.md` → `docs/cli.md`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                assert!(normal.pop(), "{} leads out of the repository", path.display());
            }
            part => normal.push(part),
        }
    }
    normal
}

#[test]
fn every_relative_link_leads_somewhere() {
    let pages = pages();
    let mut wrong = Vec::new();
    for page in &pages {
        for (line, target) in links(page) {
            if is_elsewhere(&target) {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let folder = page.path.parent().unwrap_or(Path::new(""));
            let path = if file.is_empty() { page.path.clone() } else { normal(&folder.join(file)) };
            let at = format!("{}:{line}: {target}", page.path.display());
            if !root().join(&path).exists() {
                wrong.push(format!("{at}: there is no such file"));
            } else if !anchor.is_empty() {
                let known = pages.iter().find(|other| other.path == path);
                if !known.is_some_and(|page| page.anchors().iter().any(|known| known == anchor)) {
                    wrong.push(format!("{at}: there is no such heading"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_page_can_be_reached_from_the_readme() {
    let pages = pages();
    let mut reached = BTreeSet::from([PathBuf::from("README.md")]);
    loop {
        let mut next = reached.clone();
        for page in pages.iter().filter(|page| reached.contains(&page.path)) {
            let folder = page.path.parent().unwrap_or(Path::new(""));
            let targets = links(page).into_iter().map(|(_, target)| target);
            for target in targets.filter(|target| !is_elsewhere(target)) {
                let file = target.split('#').next().unwrap_or_default();
                next.insert(normal(&folder.join(file)));
            }
        }
        if next == reached {
            break;
        }
        reached = next;
    }
    let lost: Vec<_> = pages.iter().filter(|page| !reached.contains(&page.path)).collect();
    let lost: Vec<String> = lost.iter().map(|page| page.path.display().to_string()).collect();
    assert!(lost.is_empty(), "no link leads to {}", lost.join(", "));
}
