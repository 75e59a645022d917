//! Codex's configuration, in TOML: what stands at the top of such a file belongs to no table, and whatever
//! follows a table's header belongs to that. So ours is in two places, each between marks: keys before all
//! else, tables behind it.

use std::collections::BTreeSet;

use super::{BEGIN, END, block};

/// The file with `new` in the place of what is ours in it.
pub(super) fn merged(
    lines: &[&str],
    old: Option<&str>,
    new: Option<&str>,
    end_of_line: &str,
) -> String {
    let old = old.map_or_else(|| marked(lines), |old| old.lines().collect());
    let theirs = without(lines, &old);
    let new: Vec<&str> = new.map(|new| new.lines().collect()).unwrap_or_default();
    let (keys, tables) = parts(&new);
    // A key stands in a file once: where they have chosen, that counts. So does a table.
    let top = theirs.iter().take_while(|line| !line.trim_start().starts_with('['));
    let chosen: BTreeSet<&str> = top.filter_map(|line| key(line)).collect();
    let keys: Vec<&str> = keys
        .iter()
        .copied()
        .filter(|line| key(line).is_none_or(|key| !chosen.contains(key)))
        .collect();
    let is_header = |line: &&&str| line.trim_start().starts_with('[');
    let headers: BTreeSet<&str> = theirs.iter().filter(is_header).map(|line| line.trim()).collect();
    let mut theirs_too = false;
    let tables: Vec<&str> = tables
        .iter()
        .copied()
        .filter(|line| {
            if is_header(&line) {
                theirs_too = headers.contains(line.trim());
            }
            !theirs_too
        })
        .collect();
    let mut text = String::new();
    if !keys.is_empty() {
        block(&mut text, &keys.join("\n"), "", end_of_line);
    }
    text.extend(theirs.iter().copied());
    if !tables.is_empty() {
        block(&mut text, &tables.join("\n"), "", end_of_line);
    }
    text
}

/// What stands between marks.
fn marked<'t>(lines: &[&'t str]) -> Vec<&'t str> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in lines {
        match line.trim() {
            BEGIN => inside = true,
            END => inside = false,
            _ if inside => found.push(*line),
            _ => {}
        }
    }
    found
}

/// Keys without a table, and tables.
fn parts<'l, 't>(lines: &'l [&'t str]) -> (&'l [&'t str], &'l [&'t str]) {
    let first = lines.iter().position(|line| line.trim_start().starts_with('['));
    lines.split_at(first.unwrap_or(lines.len()))
}

/// The key that a line sets.
fn key(line: &str) -> Option<&str> {
    let line = line.trim();
    let (key, _) = line.split_once('=').filter(|_| !line.starts_with('#'))?;
    Some(key.trim().trim_matches(['"', '\'']))
}

/// What others wrote: without the marks, and without each line of ours beneath the header that is ours. A
/// header goes when nothing stands beneath it any more.
fn without<'t>(lines: &[&'t str], old: &[&str]) -> Vec<&'t str> {
    let mut known: BTreeSet<(&str, &str)> = BTreeSet::new();
    let mut header = "";
    for line in old.iter().map(|line| line.trim()) {
        if line.starts_with('[') {
            header = line;
        }
        known.insert((header, line));
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut header = "";
    // Ours, and not known to have anything else beneath it.
    let mut pending: Option<&str> = None;
    for line in lines.iter().copied() {
        let plain = line.trim();
        if matches!(plain, BEGIN | END) {
            continue;
        }
        if plain.starts_with('[') {
            header = plain;
            pending = known.contains(&(header, header)).then_some(line);
            if pending.is_some() {
                continue;
            }
        } else if !plain.is_empty() {
            if known.contains(&(header, plain)) {
                continue;
            }
            kept.extend(pending.take());
        } else if pending.is_some() {
            continue;
        }
        kept.push(line);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::super::merged;
    use super::{BEGIN, END};
    use crate::model::policy::{CredentialRoute, RouteRole};
    use crate::model::{BackendKind, roles};

    const PATH: &str = ".codex/config.toml";

    fn ours(path: &str) -> String {
        ours_in(path, None)
    }

    fn ours_in(path: &str, workdir: Option<&str>) -> String {
        let route = CredentialRoute {
            path: path.into(),
            roles: vec![RouteRole::OpenaiBaseUrl],
            ..CredentialRoute::to("api.openai.com")
        };
        let files = roles::files(&[route], BackendKind::Native, workdir);
        assert_eq!(files[0].path, PATH);
        files[0].content.clone()
    }

    fn value<'v>(text: &'v toml::Table, path: &[&str]) -> Option<&'v str> {
        let (last, folders) = path.split_last()?;
        let table = folders.iter().try_fold(text, |table, name| table.get(*name)?.as_table());
        table?.get(*last)?.as_str()
    }

    #[test]
    fn both_writers_are_read_as_they_meant() {
        let theirs =
            "model = \"gpt\"\n# a word\n\n[projects.\"/workspace\"]\ntrust_level = \"trusted\"\n";
        let url = |table: &toml::Table| {
            value(table, &["model_providers", "bottle", "base_url"]).map(str::to_owned)
        };
        let one = merged(PATH, theirs, Some(""), Some(&ours("/o/")));
        let table: toml::Table = one.parse().unwrap();
        assert_eq!(value(&table, &["model_provider"]), Some("bottle"));
        assert_eq!(value(&table, &["model"]), Some("gpt"));
        assert_eq!(value(&table, &["projects", "/workspace", "trust_level"]), Some("trusted"));
        assert_eq!(url(&table).as_deref(), Some("http://127.0.0.1:3128/o/v1"));
        assert!(one.contains(theirs), "byte by byte: {one}");
        // Again, changed, and gone.
        assert_eq!(merged(PATH, &one, Some(&ours("/o/")), Some(&ours("/o/"))), one);
        let two = merged(PATH, &one, Some(&ours("/o/")), Some(&ours("/p/")));
        let table: toml::Table = two.parse().unwrap();
        assert_eq!(url(&table).as_deref(), Some("http://127.0.0.1:3128/p/v1"));
        assert_eq!(merged(PATH, &two, Some(&ours("/p/")), None), theirs);
        assert_eq!(merged(PATH, &two, None, None), theirs, "the marks tell, too");
        // Without marks, and with what Codex adds behind ours.
        let plain: String =
            two.split_inclusive('\n').filter(|l| ![BEGIN, END].contains(&l.trim())).collect();
        let more = format!("{plain}[tui]\nx = 1\n");
        assert_eq!(
            merged(PATH, &more, Some(&ours("/p/")), None),
            format!("{theirs}[tui]\nx = 1\n")
        );
        assert_eq!(
            merged(PATH, "", Some(""), Some(&ours("/o/"))).parse::<toml::Table>().unwrap().len(),
            2
        );
        assert_eq!(merged(PATH, &ours("/o/"), Some(&ours("/o/")), None), "");
    }

    #[test]
    fn what_they_chose_themselves_counts() {
        let theirs = "model_provider = 'mine'\n[model_providers.mine]\nname = \"x\"\n";
        let text = merged(PATH, theirs, Some(""), Some(&ours("/o/")));
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(value(&table, &["model_provider"]), Some("mine"));
        assert!(value(&table, &["model_providers", "bottle", "base_url"]).is_some());
        let theirs = "[model_providers.bottle]\nname = \"x\"\n";
        let text = merged(PATH, theirs, Some(""), Some(&ours("/o/")));
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(value(&table, &["model_providers", "bottle", "name"]), Some("x"));
        let theirs = "model = \"gpt\"\r\n";
        let text = merged(PATH, theirs, Some(""), Some(&ours("/o/")));
        assert!(text.lines().count() > 5 && text.matches("\r\n").count() == text.lines().count());
    }

    /// Codex writes down itself what it was answered: a table that stands twice would keep it from starting.
    #[test]
    fn each_table_stands_once() {
        let ours = ours_in("/o/", Some("/workspace"));
        let trust = ["projects", "/workspace", "trust_level"];
        let new: toml::Table = merged(PATH, "", Some(""), Some(&ours)).parse().unwrap();
        assert_eq!(value(&new, &trust), Some("trusted"));
        let theirs = "[projects.\"/workspace\"]\ntrust_level = \"untrusted\"\n";
        let text = merged(PATH, theirs, Some(""), Some(&ours));
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(value(&table, &trust), Some("untrusted"), "their own answer counts");
        assert!(value(&table, &["model_providers", "bottle", "base_url"]).is_some());
        assert_eq!(merged(PATH, &text, Some(&ours), Some(&ours)), text);
        assert_eq!(merged(PATH, &text, Some(&ours), None), theirs);
    }
}
