//! What an agent says to a person, so that nothing of it is lost and nothing of it acts: what would not be
//! seen is spelled out. Every surface shows it by these.

use std::fmt::Write as _;

use super::unseen;

/// So many marks may stand on one character; more of them reach into other lines.
const MARKS: usize = 4;

/// Text in which `\u{…}` stands for whatever is not shown. Line ends stay.
#[must_use]
pub fn spelled(text: &str) -> String {
    spell(text, "\n")
}

/// The same in one line.
#[must_use]
pub fn spelled_line(text: &str) -> String {
    spell(text, "")
}

fn spell(text: &str, also: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut marks = 0;
    for (_, c, hidden) in unseen::each(text) {
        marks = if unseen::is_mark(c) { marks + 1 } else { 0 };
        // A mark without anything before it would stand on what we write.
        let loose = marks > 0 && (marks > MARKS || out.is_empty() || out.ends_with('\n'));
        if (hidden && !also.contains(c)) || loose {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// A block of its own for what somebody else says: each line begins with `bar`, none is wider than `width`
/// columns with it, and there are at most so many, the last of which says how many are left out.
#[must_use]
pub fn quoted_lines(text: &str, bar: &str, width: usize, most: usize) -> Vec<String> {
    let room = width.saturating_sub(bar.chars().count()).max(8);
    let text = spelled(text);
    let mut lines = Vec::new();
    for line in text.trim_matches('\n').split('\n') {
        let mut rest = String::new();
        let mut columns = 0;
        for c in line.chars() {
            let wide = columns_of(c);
            if columns + wide > room {
                lines.push(std::mem::take(&mut rest));
                columns = 0;
            }
            rest.push(c);
            columns += wide;
        }
        lines.push(rest);
    }
    let left = lines.len().saturating_sub(most);
    if left > 0 {
        lines.truncate(most.saturating_sub(1));
        lines.push(format!("… {} more lines", left + 1));
    }
    lines.iter().map(|line| format!("{bar}{line}").trim_end().to_owned()).collect()
}

/// How many columns a character takes at most.
#[must_use]
pub fn columns_of(c: char) -> usize {
    match c {
        _ if c.is_ascii() => 1,
        _ if unseen::is_mark(c) => 0,
        // Latin, Greek, Cyrillic and the like.
        '\u{80}'..='\u{10ff}' => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::super::first_unseen;
    use super::*;

    #[test]
    fn what_would_act_is_spelled_out() {
        for (text, shown) in [
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("a\rb\tc", "a\\u{d}b\\u{9}c"),
            ("\u{9b}2J", "\\u{9b}2J"),
            ("\u{202e}x\u{61c}", "\\u{202e}x\\u{61c}"),
            ("\u{e0041}\u{3164}\u{ad}", "\\u{e0041}\\u{3164}\\u{ad}"),
            ("käse\n日本", "käse\n日本"),
            ("e\u{301}\u{301}\u{301}\u{301}\u{301}", "e\u{301}\u{301}\u{301}\u{301}\\u{301}"),
            ("\u{301}x", "\\u{301}x"),
            ("a\n\u{301}x", "a\n\\u{301}x"),
        ] {
            assert_eq!(spelled(text), shown, "{text:?}");
            assert_eq!(first_unseen(&spelled(text), "\n"), None);
            assert_eq!(first_unseen(&spelled_line(text), ""), None);
        }
    }

    #[test]
    fn a_block_stays_behind_its_bar() {
        let text = format!("{}\n{}[y] approve", "x".repeat(300), "\n".repeat(300));
        let lines = quoted_lines(&text, "  │ ", 40, 20);
        assert_eq!(lines.len(), 20);
        for line in &lines {
            assert!(line.starts_with("  │") && line.chars().count() <= 40, "{line:?}");
        }
        assert!(lines[19].ends_with("more lines"), "{lines:?}");
        assert_eq!(quoted_lines("a", "│ ", 80, 20), ["│ a"]);
        assert_eq!(quoted_lines("日本日本日本", "│ ", 10, 20), ["│ 日本日本", "│ 日本"]);
    }
}
