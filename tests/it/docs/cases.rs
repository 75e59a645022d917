//! The catalogue of attacks: the tests that it names are there, and every case that a test names is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::markdown::{Page, code, root};

/// One letter and two digits.
fn is_id(word: &str) -> bool {
    let bytes = word.as_bytes();
    bytes.len() == 3
        && b"HNTSDCGMXR".contains(&bytes[0])
        && bytes[1..].iter().all(u8::is_ascii_digit)
}

/// The cases that a text names.
fn ids(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| is_id(word))
}

struct Row {
    line: usize,
    ids: Vec<String>,
    tests: Vec<String>,
}

fn rows(page: &Page) -> Vec<Row> {
    let lines = page.prose().into_iter().filter(|(_, text)| text.starts_with("| "));
    let rows = lines.filter_map(|(line, text)| {
        let cells: Vec<&str> = text.trim_matches('|').split(" | ").collect();
        let [first, _, happens, shown] = cells[..] else {
            panic!("{}:{line}: a row has four columns", page.path.display())
        };
        let ids: Vec<String> = ids(first).map(str::to_owned).collect();
        assert!(!happens.trim().is_empty(), "{}:{line}", page.path.display());
        (!ids.is_empty()).then(|| Row {
            line,
            ids,
            tests: code(shown).map(str::to_owned).collect(),
        })
    });
    rows.collect()
}

/// Every file of Rust below a folder, with its text.
fn sources(folder: &Path, found: &mut BTreeMap<PathBuf, String>) {
    for entry in std::fs::read_dir(root().join(folder)).expect("it can be listed") {
        let path = folder.join(entry.expect("it can be listed").file_name());
        if root().join(&path).is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(root().join(&path)).expect("it can be read");
            found.insert(path, text);
        }
    }
}

/// The files in which a module's functions may stand.
fn files(module: &[&str]) -> Vec<PathBuf> {
    let (base, module) = match module {
        ["bottle", rest @ ..] => (Path::new("src"), rest),
        all => (Path::new("tests/it"), all),
    };
    let file = |parts: &[&str]| {
        let path: PathBuf = base.iter().chain(parts.iter().map(std::ffi::OsStr::new)).collect();
        path.with_extension("rs")
    };
    let mut files = vec![file(module)];
    // Tests within their module's own file.
    if let [outer @ .., "tests"] = module {
        files.push(file(outer));
        let folder: Vec<&str> = outer.iter().copied().chain(["mod"]).collect();
        files.push(file(&folder));
    }
    files
}

/// Whether a text has this test: a function with the attribute, or one that a list of tests names.
fn has_test(text: &str, lists: &str, listed: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let starts = [format!("fn {name}("), format!("async fn {name}(")];
    let mut places = (0..lines.len()).filter(|at| {
        let line = lines[*at].trim_start_matches("pub(super) ").trim_start_matches("pub(crate) ");
        starts.iter().any(|start| line.starts_with(start.as_str()))
    });
    places.any(|at| {
        let above = lines[..at].iter().rev().take_while(|line| line.starts_with(['#', '/']));
        let mut attributes = above.filter(|line| line.starts_with('#'));
        attributes.any(|line| line.contains("test")) || lists.contains(listed)
    })
}

#[test]
fn every_test_that_is_named_is_there() {
    let page = Page::of("docs/security-cases.md");
    let mut all = BTreeMap::new();
    sources(Path::new("src"), &mut all);
    sources(Path::new("tests"), &mut all);
    let (mut wrong, mut count) = (Vec::new(), 0);
    for row in rows(&page) {
        let at = format!("{}:{}: {}", page.path.display(), row.line, row.ids.join(", "));
        if row.tests.is_empty() {
            wrong.push(format!("{at}: no test shows it"));
        }
        let mut named = BTreeSet::new();
        for test in &row.tests {
            count += 1;
            let parts: Vec<&str> = test.split("::").collect();
            let [module @ .., name] = &parts[..] else { unreachable!("a split has a part") };
            // A list of tests stands in the file above.
            let above = files(&module[..module.len().saturating_sub(1)]);
            let lists: String = above.iter().filter_map(|file| all.get(file)).cloned().collect();
            let listed = format!("{}::{name},", module.last().copied().unwrap_or_default());
            let texts: Vec<&String> =
                files(module).iter().filter_map(|file| all.get(file)).collect();
            if !texts.iter().any(|text| has_test(text, &lists, &listed, name)) {
                wrong.push(format!("{at}: there is no test `{test}`"));
            }
            named.extend(texts.iter().flat_map(|text| ids(text)).map(str::to_owned));
        }
        // Who looks for a case in the tests finds it, where it is built.
        let one = row.ids.len() == 1;
        for id in row.ids.iter().filter(|id| one && !named.contains(*id)) {
            wrong.push(format!("{at}: none of the files with its tests names {id}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 100, "only {count} tests were found: is the reader of tables right?");
}

#[test]
fn every_case_that_a_test_names_is_in_it_once() {
    let page = Page::of("docs/security-cases.md");
    let mut rows_of = BTreeMap::new();
    for row in rows(&page) {
        for id in row.ids {
            let before = rows_of.insert(id.clone(), row.line);
            assert_eq!(before, None, "{id} has two rows");
        }
    }
    let mut all = BTreeMap::new();
    sources(Path::new("src"), &mut all);
    sources(Path::new("tests"), &mut all);
    let mut wrong = Vec::new();
    for (path, text) in &all {
        for (number, line) in (1..).zip(text.lines()) {
            // In comments, and at the beginning of a table's row.
            let comment = line.split_once("//").map(|(_, comment)| comment);
            let row = line.trim_start().strip_prefix('(').unwrap_or(line.trim_start());
            let row = row.strip_prefix('"').and_then(|row| row.split('"').next());
            let named = [comment, row.filter(|row| row.len() < 40)].into_iter().flatten();
            for id in named.flat_map(ids).filter(|id| !rows_of.contains_key(*id)) {
                wrong.push(format!("{}:{number}: {id} has no row", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
