//! What roles write into a file that is the agent's as well. Pure.
//!
//! Ours stands between two marks, beside what others wrote. Programs rewrite such files and drop
//! comments, so what is ours is known by its content: what was written, as the receipt remembers it.
//! What others wrote stays byte by byte, and ours gets line ends as theirs has them.

use std::collections::BTreeSet;

use crate::model::roles::PLACEHOLDER;

mod toml;

pub(super) const BEGIN: &str = "# bottle: begin, written by bottle";
pub(super) const END: &str = "# bottle: end";

/// Where a credential route or the git gate is, as settings of ours begin: nobody else's lead there.
const HOSTS: [&str; 3] = ["//sidecar:3128", "//127.0.0.1:3128", GATE];

/// Where the git gate is.
const GATE: &str = "//git.bottle/";

/// The file at `path`, below the home folder, with `new` in the place of what is ours in it. `old` is
/// all of ours that may be inside; `None`: that is not known.
pub(super) fn merged(path: &str, theirs: &str, old: Option<&str>, new: Option<&str>) -> String {
    // Each with its end, which the last may lack.
    let lines: Vec<&str> = theirs.split_inclusive('\n').collect();
    let end_of_line =
        if lines.first().is_some_and(|line| line.ends_with("\r\n")) { "\r\n" } else { "\n" };
    if path.ends_with(".toml") {
        return toml::merged(&lines, old, new, end_of_line);
    }
    let begin = lines.iter().position(|line| line.trim() == BEGIN);
    let end = lines.iter().position(|line| line.trim() == END);
    let marked = match (begin, end) {
        (Some(begin), Some(end)) if begin < end => &lines[begin + 1..end],
        _ => &[][..],
    };
    let old: Vec<&str> = old.map_or_else(|| marked.to_vec(), |old| old.lines().collect());
    let mark = |line: &&str| matches!(line.trim(), BEGIN | END);
    // What stands before the marks stays before what is new.
    let (before, after) = lines.split_at(begin.unwrap_or(lines.len()));
    if path.ends_with(".yml") {
        let plain: Vec<&str> = lines.iter().filter(|line| !mark(line)).copied().collect();
        return logins(&without_logins(&plain, &old), new, end_of_line);
    }
    let strip = if path == ".npmrc" { without_lines } else { without_sections };
    // One part at a time: a section ends where our own began.
    let [before, after] = [before, after].map(|part| {
        let plain: Vec<&str> = part.iter().filter(|line| !mark(line)).copied().collect();
        strip(&plain, &old)
    });
    let mut text = before.concat();
    if let Some(new) = new {
        block(&mut text, new, "", end_of_line);
    }
    text + &after.concat()
}

/// Adds ours to a text, on lines of its own.
fn block(text: &mut String, new: &str, indent: &str, end_of_line: &str) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push_str(end_of_line);
    }
    for line in [BEGIN].into_iter().chain(new.lines()).chain([END]) {
        text.extend([indent, line, end_of_line]);
    }
}

fn ours(line: &str) -> bool {
    HOSTS.iter().any(|host| line.contains(host))
}

/// Of an `.npmrc`: every line is a setting of its own.
fn without_lines<'t>(lines: &[&'t str], old: &[&str]) -> Vec<&'t str> {
    let old: BTreeSet<&str> = old.iter().map(|line| line.trim()).collect();
    let token = format!("_authToken={PLACEHOLDER}");
    let gone = |line: &&&str| {
        let line = line.trim();
        let legacy = ours(line) && (line.ends_with(&token) || line.starts_with("registry=http:"));
        legacy || (!line.is_empty() && old.contains(line))
    };
    lines.iter().filter(|line| !gone(line)).copied().collect()
}

/// Of git's configuration: a line is ours beneath a header that is ours; a header goes when nothing
/// stands beneath it any more.
fn without_sections<'t>(lines: &[&'t str], old: &[&str]) -> Vec<&'t str> {
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
        if plain.starts_with('[') {
            header = plain;
            pending = None;
            if known.contains(&(header, header)) || (header.starts_with("[url ") && ours(header)) {
                pending = Some(line);
                continue;
            }
        } else {
            let pushes = header.contains(GATE) && plain.starts_with("pushInsteadOf");
            let leads = plain.starts_with("insteadOf") || pushes;
            let legacy = header.starts_with("[url ") && ours(header) && leads;
            if known.contains(&(header, plain)) && !plain.is_empty() || legacy {
                continue;
            }
            if plain.is_empty() && pending.is_some() {
                continue;
            }
            if let Some(header) = pending.take() {
                kept.push(header);
            }
        }
        kept.push(line);
    }
    kept
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// A key's value of a login, as tea or we write it.
fn value<'a>(item: &[&'a str], key: &str) -> Option<&'a str> {
    item.iter().find_map(|line| {
        let line = line.trim().trim_start_matches("- ").trim();
        let value = line.strip_prefix(key)?.strip_prefix(':')?;
        Some(value.trim().trim_matches('"'))
    })
}

/// The item that begins at `lines[at]`, if one does there: how many lines it has.
fn item(lines: &[&str], at: usize) -> Option<usize> {
    let first = lines[at];
    let deep = indent(first);
    if !first.trim().starts_with("- ") {
        return None;
    }
    let rest = &lines[at + 1..];
    let more = rest.iter().take_while(|line| !line.trim().is_empty() && indent(line) > deep);
    Some(1 + more.count())
}

/// Of tea's configuration: logins that lead to a route, by address and token.
fn without_logins<'t>(lines: &[&'t str], old: &[&str]) -> Vec<&'t str> {
    let urls: BTreeSet<&str> = old.iter().filter_map(|line| value(&[line], "url")).collect();
    let mut kept = Vec::new();
    let mut list: Option<usize> = None;
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        let top = !line.trim().is_empty() && indent(line) == 0 && !line.starts_with(['-', '#']);
        if top {
            drop_empty(&mut kept, &mut list);
            if line.trim_end() == "logins:" {
                list = Some(kept.len());
            }
        }
        let length = item(lines, at).filter(|_| list.is_some());
        let one = &lines[at..at + length.unwrap_or(1)];
        at += one.len();
        let leads = |url: &str| urls.contains(url) || ours(url);
        if length.is_some()
            && value(one, "token") == Some(PLACEHOLDER)
            && value(one, "url").is_some_and(leads)
        {
            continue;
        }
        kept.extend(one);
    }
    drop_empty(&mut kept, &mut list);
    kept
}

/// Drops `logins:` when nothing is left beneath it.
fn drop_empty(kept: &mut Vec<&str>, list: &mut Option<usize>) {
    if let Some(header) = list.take()
        && kept[header + 1..].iter().all(|line| line.trim().is_empty())
    {
        kept.truncate(header);
    }
}

fn logins(kept: &[&str], new: Option<&str>, end_of_line: &str) -> String {
    let mut text = String::new();
    let Some(new) = new else { return kept.concat() };
    let header = kept.iter().position(|line| {
        line.strip_prefix("logins:").is_some_and(|rest| matches!(rest.trim(), "" | "[]"))
    });
    let Some(header) = header else {
        text.extend(kept.iter().copied());
        block(&mut text, new, "", end_of_line);
        return text;
    };
    let first = kept[header + 1..].iter().find(|line| line.trim_start().starts_with("- "));
    let deep = " ".repeat(first.map_or(0, |line| indent(line)));
    text.extend(kept[..header].iter().copied());
    // An empty list gets its items.
    let empty = kept[header].trim_end().ends_with("[]");
    text.extend(if empty { ["logins:", end_of_line] } else { [kept[header], ""] });
    let theirs = kept.iter().any(|line| line.trim() == "default: true");
    let mut ours = String::new();
    for line in new.lines().filter(|line| *line != "logins:") {
        let line =
            if theirs { line.replace("default: true", "default: false") } else { line.to_owned() };
        ours.extend([&line, "\n"]);
    }
    block(&mut text, &ours, &deep, end_of_line);
    text.extend(kept[header + 1..].iter().copied());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const NPM: &str = "registry=http://127.0.0.1:3128/npm/\n\
                       //127.0.0.1:3128/npm/:_authToken=added-by-the-sidecar\n";
    const GIT: &str =
        "[url \"http://127.0.0.1:3128/gh/\"]\n\tinsteadOf = \"https://github.com/\"\n";
    const TEA: &str = "logins:\n- name: \"t\"\n  url: \"http://127.0.0.1:3128/t\"\n  \
                       token: \"added-by-the-sidecar\"\n  ssh_host: \"t.example\"\n  default: true\n";

    fn block(text: &str) -> String {
        format!("{BEGIN}\n{text}{END}\n")
    }

    #[test]
    fn what_others_wrote_stays_byte_by_byte() {
        let dos = |text: &str| text.replace('\n', "\r\n");
        for (path, ours, theirs) in [
            (".npmrc", NPM, "fund=false\n\n ; mine \n"),
            (".config/git/config", GIT, "[user]\n\tname = Ada \n\n"),
            (".config/tea/config.yml", TEA, "preferences:\n    editor: false\n"),
            (".config/tea/config.yml", TEA, "logins: \n  - name: mine\n    url: https://m\n"),
        ] {
            let both = merged(path, &dos(theirs), Some(""), Some(ours));
            assert_eq!(both.matches('\n').count(), both.matches("\r\n").count(), "{both:?}");
            assert!(both.contains("127.0.0.1:3128"), "{both:?}");
            assert_eq!(merged(path, &both, Some(ours), Some(ours)), both, "{path}: again");
            assert_eq!(merged(path, &both, Some(ours), None), dos(theirs), "{path}: gone");
            assert_eq!(merged(path, &both, None, None), dos(theirs), "{path}: not remembered");
            // Some of their lines end in one way and some in the other, and the last has no end.
            let odd = format!("{theirs}# a\r\n# b\n# c");
            assert_eq!(merged(path, &odd, Some(ours), None), odd, "{path}: nothing of ours");
            let both = merged(path, &odd, Some(""), Some(ours));
            let without = merged(path, &both, Some(ours), None);
            assert_eq!(without.trim_end_matches('\n'), odd, "{path}: odd line ends");
        }
    }

    #[test]
    fn ours_comes_beside_theirs_and_goes_alone() {
        for (path, ours, theirs) in [
            (".npmrc", NPM, "fund=false\n"),
            (".config/git/config", GIT, "[user]\n\tname = Ada\n"),
            (".config/tea/config.yml", TEA, "preferences:\n    editor: false\n"),
        ] {
            let both = merged(path, theirs, Some(""), Some(ours));
            assert_eq!(both, format!("{theirs}{}", block(ours)), "{path}");
            assert_eq!(merged(path, &both, Some(ours), Some(ours)), both, "{path}: again");
            assert_eq!(merged(path, &both, None, Some(ours)), both, "{path}: nothing remembered");
            let more = format!("{both}{theirs}");
            assert_eq!(
                merged(path, &more, Some(ours), None),
                format!("{theirs}{theirs}"),
                "{path}"
            );
            assert_eq!(merged(path, &both, None, None), theirs, "{path}: gone, nothing remembered");
            // A whole file of an earlier version, to which the agent has added.
            let old = format!("{ours}{theirs}");
            let new = merged(path, &old, None, Some(ours));
            assert_eq!(new, format!("{theirs}{}", block(ours)), "{path}: of before");
            assert_eq!(merged(path, &old, None, None), theirs, "{path}: of before, gone");
            assert_eq!(merged(path, ours, None, None), "", "{path}: nothing but ours");
        }
    }

    #[test]
    fn what_others_changed_within_ours_stays() {
        let changed =
            block(NPM).replace("registry=http://127.0.0.1:3128/npm/", "registry=https://e/");
        assert_eq!(merged(".npmrc", &changed, Some(NPM), None), "registry=https://e/\n");
        // npm writes the file anew, without comments.
        let anew = format!("fund=false\n{NPM}");
        assert_eq!(merged(".npmrc", &anew, Some(NPM), None), "fund=false\n");
        let more = block(&format!("{GIT}\tpushInsteadOf = x\n"));
        let kept = "[url \"http://127.0.0.1:3128/gh/\"]\n\tpushInsteadOf = x\n";
        assert_eq!(merged(".config/git/config", &more, Some(GIT), None), kept);
    }

    #[test]
    fn tea_writes_its_file_anew() {
        let path = ".config/tea/config.yml";
        let anew = "logins:\n    - name: t\n      url: http://127.0.0.1:3128/t\n      \
                    token: added-by-the-sidecar\n      default: true\n      insecure: false\n    \
                    - name: mine\n      url: https://mine\n      token: x\npreferences:\n    a: b\n";
        let mine = "logins:\n    - name: mine\n      url: https://mine\n      token: x\n\
                    preferences:\n    a: b\n";
        assert_eq!(merged(path, anew, Some(TEA), None), mine);
        let both = merged(path, mine, Some(""), Some(TEA));
        let indented =
            "logins:\n    # bottle: begin, written by bottle\n    - name: \"t\"\n      url:";
        assert!(both.starts_with(indented), "{both}");
        assert_eq!(merged(path, &both, Some(TEA), None), mine);
    }
}
