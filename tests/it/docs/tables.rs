//! Tables of the documentation that repeat what the program says: they and the program say the same.

use std::path::Path;

use super::markdown::{Page, code, root};
use crate::support::{Cli, TempTree};

/// The cells of the rows below a table's head that begins so.
fn rows<'p>(page: &'p Page, head: &str) -> Vec<(usize, Vec<&'p str>)> {
    let prose = page.prose();
    let mut rows = Vec::new();
    for (index, (_, line)) in prose.iter().enumerate() {
        if !line.starts_with(head) {
            continue;
        }
        let below = prose[index + 2..].iter().take_while(|(_, line)| line.starts_with('|'));
        rows.extend(below.map(|(number, line)| {
            let cells = line.trim_matches('|').split(" | ").map(str::trim);
            (*number, cells.collect())
        }));
    }
    rows
}

/// What `check` says of a key, as JSON.
fn told(key: &str, settings: bool) -> serde_json::Value {
    let tree = TempTree::new("compose");
    let line = format!("{key}: [x]\n");
    let (bottle, file) =
        if settings { ("", "bottle.yaml") } else { (line.as_str(), "bottles/dev.md") };
    tree.bottle("dev", &format!("image: host\n{bottle}")).agent("ada", "dev", "", "You are ada.");
    if settings {
        tree.write("bottle.yaml", &format!("name: {}\n{line}", tree.owner));
    }
    let checked = Cli::new().run(["-o", "json", "check", tree.path().to_str().expect("a path")]);
    let said = checked.json();
    let all = said["diagnostics"].as_array().cloned().unwrap_or_default();
    let of_it = |found: &serde_json::Value| found["file"] == file;
    all.into_iter().find(of_it).unwrap_or_default()
}

#[test]
fn every_key_of_compose_is_answered_by_the_program_too() {
    let page = Page::of("docs/compose.md");
    let rows = rows(&page, "| Compose | here");
    assert!(rows.len() > 40, "only {} keys were found", rows.len());
    let mut wrong = Vec::new();
    for (line, cells) in rows {
        let key = code(cells[0]).next().expect("a key");
        let answers = [false, true].iter().any(|settings| {
            let found = told(key, *settings);
            let message = found["message"].as_str().unwrap_or_default();
            let hint = found["hint"].as_str().unwrap_or_default();
            // A key of ours may well be wrong in another way: here it stands with a list.
            !message.contains("unknown key") || !hint.starts_with("allowed:")
        });
        if !answers {
            wrong.push(format!("docs/compose.md:{line}: the program has no answer to `{key}`"));
        }
        // A key that means the same is one of the program's.
        if code(cells[1]).next() == Some(key) && !cells[1].contains("agent") {
            let message = told(key, false)["message"].as_str().unwrap_or_default().to_owned();
            if message.contains("unknown key") {
                wrong.push(format!("docs/compose.md:{line}: there is no key `{key}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// All that the program can print, as far as it stands in its sources: each literal in one line.
fn words() -> String {
    let mut words = String::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("src can be listed") {
            let path = entry.expect("src can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                words.push_str(&std::fs::read_to_string(&path).expect("a source"));
            }
        }
    }
    let mut joined = String::with_capacity(words.len());
    let mut rest = words.as_str();
    while let Some((before, after)) = rest.split_once("\\\n") {
        joined.push_str(before);
        rest = after.trim_start();
    }
    joined.push_str(rest);
    joined.replace("\\\"", "\"")
}

#[test]
fn every_message_that_is_explained_is_one_of_the_programs() {
    let page = Page::of("docs/troubleshooting.md");
    let words = words();
    let codes = std::fs::read_to_string(root().join(Path::new("docs/egress.md"))).expect("a page");
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (line, cells) in rows(&page, "| you see ") {
        for message in code(cells[0]) {
            let parts = message.split('…').map(|part| part.trim_matches([' ', ',', ':']));
            for part in parts.filter(|part| !part.is_empty()) {
                count += 1;
                if !words.contains(part) && !codes.contains(&format!("`{part}`")) {
                    wrong.push(format!("docs/troubleshooting.md:{line}: nothing prints `{part}`"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 30, "only {count} messages were found");
}

#[cfg(target_os = "linux")]
#[test]
fn the_recorded_session_is_what_the_program_prints() {
    let script = root().join("docs/record/record.py");
    let python = std::process::Command::new("python3").arg("--version").output();
    if python.is_err() {
        return crate::support::left_out("the recorded session", "there is no python3");
    }
    let played = std::process::Command::new("python3")
        .arg(script)
        .arg(crate::native::program())
        .arg("--check")
        .output()
        .expect("python3");
    let said = [played.stdout, played.stderr].concat();
    assert!(played.status.success(), "{}", String::from_utf8_lossy(&said));
}
