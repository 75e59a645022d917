//! Lines of text: broken, counted, and lists of names. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::ui::{harmless, paint};

/// Two parts of a line, or two lines where one does not hold them.
pub(super) fn beside(left: &str, right: &str, width: usize) -> String {
    let plain = anstream::adapter::strip_str(left).to_string();
    let fits = plain.chars().count() + 3 + right.chars().count() <= width;
    if fits { format!("{left} · {right}\n") } else { format!("{left}\n  {right}\n") }
}

/// Parts in one line where they fit, else each on a line of its own, broken where it must be.
pub(super) fn columns(parts: &[String], width: usize) -> Vec<String> {
    let one = parts.join("; ");
    if one.chars().count() <= width {
        return if one.is_empty() { Vec::new() } else { vec![one] };
    }
    parts.iter().flat_map(|part| wrap(part, width, 0)).collect()
}

/// Breaks a text at spaces; the first line is shorter by `taken`.
pub(super) fn wrap(text: &str, width: usize, taken: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut room = width.saturating_sub(taken);
    for word in text.split(' ') {
        let length = word.chars().count();
        let line_length = lines.last().map_or(0, |line| line.chars().count());
        if line_length > 0 && line_length + 1 + length > room {
            lines.push(String::new());
            room = width;
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

pub(super) fn note(
    text: &mut String,
    label: &str,
    colour: anstyle::Style,
    line: &str,
    width: usize,
) {
    let line = harmless(line).replace(['\n', '\t'], " ");
    let parts = wrap(&line, width.saturating_sub(2), label.chars().count().saturating_sub(1));
    for (index, part) in parts.iter().enumerate() {
        let _ = match index {
            0 => writeln!(text, "{} {part}", paint(colour, label)),
            _ => writeln!(text, "  {part}"),
        };
    }
}

/// Notes that several sandboxes share, with their names.
pub(super) fn by_note<'d>(
    all: impl Iterator<Item = (&'d str, &'d [String])>,
) -> BTreeMap<&'d str, Vec<&'d str>> {
    let mut notes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (sandbox, words) in all {
        for words in words {
            notes.entry(words).or_default().push(sandbox);
        }
    }
    notes
}

/// `ada, grace, linus and 17 more`.
pub(super) fn some_of(names: &[&str]) -> String {
    match names.len() {
        0..=6 => names.join(", "),
        more => format!("{} and {} more", names[..5].join(", "), more - 5),
    }
}

pub(super) fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_at_spaces() {
        assert_eq!(wrap("one two three", 7, 0), ["one two", "three"]);
        assert_eq!(wrap("one two three", 7, 4), ["one", "two", "three"]);
        assert_eq!(wrap("a-word-that-is-long x", 5, 0), ["a-word-that-is-long", "x"]);
        assert_eq!(wrap("", 5, 0), [""]);
    }

    #[test]
    fn parts_share_a_line_where_they_fit() {
        let parts = ["one two".to_owned(), "three".to_owned()];
        assert_eq!(columns(&parts, 14), ["one two; three"]);
        assert_eq!(columns(&parts, 13), ["one two", "three"]);
        assert_eq!(columns(&[], 13), Vec::<String>::new());
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(some_of(&["a", "b"]), "a, b");
        assert_eq!(some_of(&["a", "b", "c", "d", "e", "f", "g"]), "a, b, c, d, e and 2 more");
    }
}
