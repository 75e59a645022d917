//! Bytes → text, and a Markdown file → its YAML front matter and its body.

use std::ops::Range;

use super::source::{Findings, Problem, Source, Span};
use crate::model::text::first_unseen;

/// A file in its two parts, as ranges of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parts {
    /// The opening `---`.
    pub(super) open: Span,
    /// What stands between the two `---` lines.
    pub(super) yaml: Range<usize>,
    /// What stands after the second one.
    pub(super) body: Range<usize>,
}

/// Text whose bad bytes are replaced, and where the first of them stood.
///
/// A byte-order mark stays in the text, so that offsets are the file's.
pub(super) fn decode(bytes: Vec<u8>) -> (String, Option<Span>) {
    match String::from_utf8(bytes) {
        Ok(text) => (text, None),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            (text, Some(Span { start: at, end: at + 1 }))
        }
    }
}

/// Says where a file is not UTF-8.
pub(super) fn not_utf8(span: Span, text: &str) -> Problem {
    let problem = Problem::error(span, "this is not UTF-8");
    // A UTF-16 byte-order mark is two bytes that UTF-8 never has.
    if span.start == 0 && text.starts_with("\u{fffd}\u{fffd}") {
        return problem.hint("it looks like UTF-16: save it as UTF-8");
    }
    problem.hint("save the file as UTF-8")
}

/// Where the text starts, after a byte-order mark.
pub(super) fn start(source: &Source) -> usize {
    if source.text().starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 }
}

/// Splits a file by its first two `---` lines.
pub(super) fn split(findings: &mut Findings<'_>) -> Option<Parts> {
    let source = findings.source();
    let text = source.text();
    let start = start(source);
    let mut lines = Lines { text, at: start };
    let first = lines.next().unwrap_or(start..start);
    if !is_fence(&text[first.clone()]) {
        let span = Span { start: first.start, end: first.end };
        let message = if text[start..].trim().is_empty() {
            "the file is empty"
        } else {
            "expected the front matter to start here, with a line `---`"
        };
        findings
            .add(Problem::error(span, message).hint("the file starts with `---`, its keys, `---`"));
        return None;
    }
    let open = Span { start: first.start, end: first.start + 3 };
    let yaml_start = lines.at;
    let Some(close) = lines.by_ref().find(|line| is_fence(&text[line.clone()])) else {
        let problem = Problem::error(open, "the front matter that starts here never ends");
        findings.add(problem.hint("close it with a second line `---`"));
        return None;
    };
    let parts = Parts { open, yaml: yaml_start..close.start, body: lines.at..text.len() };
    // Such a file is not read further: what would be said of it could not be believed.
    check_characters(findings, parts.yaml.clone())?;
    if let Some(at) = text[parts.body.clone()].find('\0') {
        let at = parts.body.start + at;
        findings.add(Problem::error(Span { start: at, end: at + 1 }, "there is a NUL byte here"));
    }
    Some(parts)
}

/// Refuses control characters, and those that hide or reorder text: in front matter nothing may
/// look other than it is.
pub(super) fn check_characters(findings: &mut Findings<'_>, range: Range<usize>) -> Option<()> {
    let text = findings.source().text();
    let Some((at, c)) = first_unseen(&text[range.clone()], "\t\n\r") else { return Some(()) };
    let span = Span { start: range.start + at, end: range.start + at + c.len_utf8() };
    let message = format!("there is an invisible character here (U+{:04X})", u32::from(c));
    findings.add(Problem::error(span, message).hint("remove it"));
    None
}

fn is_fence(line: &str) -> bool {
    line.trim_end_matches(['\r', ' ', '\t']) == "---"
}

/// The lines of a text as ranges, without their line feeds.
struct Lines<'t> {
    text: &'t str,
    at: usize,
}

impl Iterator for Lines<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let rest = self.text.get(self.at..).filter(|rest| !rest.is_empty())?;
        let start = self.at;
        let end = rest.find('\n').map_or(self.text.len(), |at| start + at);
        self.at = (end + 1).min(self.text.len());
        Some(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Result<(String, String), String> {
        let source = Source::new("x.md", text);
        let mut findings = Findings::new(&source);
        let parts = split(&mut findings);
        let found = findings.finish();
        match (parts, found.first()) {
            (Some(p), None) => Ok((text[p.yaml].to_owned(), text[p.body].to_owned())),
            (_, Some(d)) => Err(format!("{}:{} {}", d.line, d.column, d.message)),
            (None, None) => panic!("nothing was said about {text:?}"),
        }
    }

    #[test]
    fn a_file_has_two_parts() {
        let both = |yaml: &str, body: &str| Ok((yaml.to_owned(), body.to_owned()));
        assert_eq!(parts("---\na: 1\n---\nbody\n"), both("a: 1\n", "body\n"));
        assert_eq!(parts("---\r\na: 1\r\n---\r\nbody"), both("a: 1\r\n", "body"));
        assert_eq!(parts("\u{feff}---\na: 1\n---"), both("a: 1\n", ""));
        assert_eq!(parts("---\n---\n"), both("", ""));
        assert_eq!(parts("--- \na: 1\n---\t\nb\n---\nc"), both("a: 1\n", "b\n---\nc"));
        assert_eq!(parts("---\na: '\n----\n --- '\n---\n"), both("a: '\n----\n --- '\n", ""));
    }

    #[test]
    fn a_missing_fence_is_told_with_its_place() {
        for (text, expected) in [
            ("", "1:1 the file is empty"),
            (" \n\n", "1:1 the file is empty"),
            ("a: 1\n", "1:1 expected the front matter"),
            ("----\na: 1\n---\n", "1:1 expected the front matter"),
            ("---\na: 1\n", "1:1 the front matter that starts here never ends"),
            ("---", "1:1 the front matter that starts here never ends"),
            ("---\ra: 1\r---\r", "1:1 expected the front matter"),
        ] {
            let error = parts(text).expect_err(text);
            assert!(error.starts_with(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn invisible_characters_are_refused() {
        for (text, expected) in [
            ("---\na: \0\n---\n", "2:4 there is an invisible character here (U+0000)"),
            ("---\na: \u{1b}\n---\n", "2:4 there is an invisible character here (U+001B)"),
            ("---\na: x\u{202e}\n---\n", "2:5 there is an invisible character here (U+202E)"),
            ("---\na: 1\n---\nx\0\n", "4:2 there is a NUL byte here"),
        ] {
            assert_eq!(parts(text).expect_err(text), expected);
        }
    }

    #[test]
    fn bad_bytes_have_a_place() {
        let (text, at) = decode(b"---\na: \xff\n---\n".to_vec());
        assert_eq!(at.map(|span| span.start), Some(7));
        assert_eq!(text.chars().nth(7), Some('\u{fffd}'));
    }
}
