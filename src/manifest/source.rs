//! One file's text, and what was found in it.

use std::fmt;
use std::path::Path;

use crate::model::text::{REPLACEMENT, harmless_line, replaced};
use crate::model::{Diagnostic, Severity};

/// So many findings of one file are told one by one; of the rest only their number.
const MAX_FINDINGS: usize = 50;

/// Longest source line that is kept for the caret.
const MAX_SOURCE_LINE: usize = 4096;

/// A range of bytes in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// The first byte.
    pub(super) start: usize,
    /// The byte after the last one.
    pub(super) end: usize,
}

impl Span {
    /// Nothing, at one place.
    pub(super) fn at(offset: usize) -> Self {
        Self { start: offset, end: offset }
    }
}

/// A file's name, as diagnostics show it, and its text.
#[derive(Debug)]
pub(super) struct Source {
    name: String,
    text: String,
    /// Where each line starts.
    lines: Vec<usize>,
}

impl Source {
    /// What stands from here to the end of the line.
    pub(super) fn rest_of_line(&self, from: usize) -> &str {
        self.text.get(from..).and_then(|rest| rest.lines().next()).unwrap_or_default()
    }

    pub(super) fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let starts = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1);
        let lines = std::iter::once(0).chain(starts).collect();
        Self { name: name.into(), text, lines }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The index of the line that holds `offset`, and that line without its line break.
    fn line_of(&self, offset: usize) -> (usize, &str) {
        let index = self.lines.partition_point(|start| *start <= offset).saturating_sub(1);
        let end = self.lines.get(index + 1).copied().unwrap_or(self.text.len());
        let line = self.text.get(self.lines[index]..end).unwrap_or_default();
        (index, line.trim_end_matches(['\n', '\r']))
    }

    /// Puts dots over what of a shown line may be a secret, one for each character.
    fn hide(&self, secrets: &[Span], line: usize, shown: &mut String) {
        let start = self.lines[line - 1];
        for secret in secrets.iter().filter(|secret| self.line_number(secret.start) == line) {
            let (_, text) = self.line_of(secret.start);
            let from = chars(text, secret.start - start);
            let to = chars(text, secret.end.max(secret.start) - start);
            let dots = |(i, c)| if (from..to).contains(&i) { '•' } else { c };
            *shown = shown.chars().enumerate().map(dots).collect();
        }
    }

    /// 1-based line and column of a byte.
    pub(super) fn position(&self, offset: usize) -> (usize, usize) {
        let (index, line) = self.line_of(offset);
        (index + 1, chars(line, offset - self.lines[index]) + 1)
    }

    /// 1-based line of a byte.
    pub(super) fn line_number(&self, offset: usize) -> usize {
        self.line_of(offset).0 + 1
    }
}

/// The path of a field: `egress.allowlist[2].host`.
#[derive(Debug, Clone, Copy)]
pub(super) enum At<'a> {
    /// The file's own level.
    Root,
    /// Under this key.
    Key(&'a At<'a>, &'a str),
    /// In this place of a list.
    Item(&'a At<'a>, usize),
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(key),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// One finding, before it knows its line.
#[derive(Debug)]
pub(super) struct Problem {
    span: Span,
    severity: Severity,
    message: String,
    label: Option<String>,
    hint: Option<String>,
    field: Option<String>,
    cause: Option<String>,
    secret: bool,
}

impl Problem {
    /// Holds what the file describes.
    pub(super) fn error(span: Span, message: impl Into<String>) -> Self {
        Self {
            span,
            severity: Severity::Error,
            message: message.into(),
            label: None,
            hint: None,
            field: None,
            cause: None,
            secret: false,
        }
    }

    /// Is only said.
    pub(super) fn warning(span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(span, message) }
    }

    /// What stands beside the caret.
    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// What to do about it.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The path of the field.
    pub(super) fn field(mut self, at: &At<'_>) -> Self {
        let path = at.to_string();
        self.field = (!path.is_empty()).then_some(path);
        self
    }

    /// The file whose own findings are why.
    pub(super) fn cause(mut self, file: &str) -> Self {
        self.cause = Some(file.to_owned());
        self
    }

    /// What stands under the caret may be a secret: it is not shown.
    pub(super) fn secret(mut self) -> Self {
        self.secret = true;
        self
    }
}

/// What was found in one file.
#[derive(Debug)]
pub(super) struct Findings<'s> {
    source: &'s Source,
    list: Vec<Diagnostic>,
    errors: usize,
    untold: usize,
    /// Where secrets may stand, for every finding of the same line.
    secrets: Vec<Span>,
}

impl<'s> Findings<'s> {
    pub(super) fn new(source: &'s Source) -> Self {
        Self { source, list: Vec::new(), errors: 0, untold: 0, secrets: Vec::new() }
    }

    pub(super) fn source(&self) -> &'s Source {
        self.source
    }

    /// Whether anything holds what the file describes.
    pub(super) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    pub(super) fn add(&mut self, problem: Problem) {
        if problem.severity == Severity::Error {
            self.errors += 1;
        }
        if problem.secret {
            self.secrets.push(problem.span);
        }
        if self.list.len() >= MAX_FINDINGS {
            self.untold += 1;
            return;
        }
        let found = self.locate(problem);
        self.list.push(found);
    }

    /// What stands there may be a secret: no finding shows it.
    pub(super) fn conceal(&mut self, secret: Span) {
        self.secrets.push(secret);
    }

    /// A finding with its line, which is not told here.
    pub(super) fn locate(&self, problem: Problem) -> Diagnostic {
        let Problem { span, severity, message, label, hint, field, cause, secret: _ } = problem;
        let (index, line) = self.source.line_of(span.start);
        let from = (span.start - self.source.lines[index]).min(line.len());
        let to = (span.end.max(span.start) - self.source.lines[index]).min(line.len());
        let column = chars(line, from) + 1;
        let width = (chars(line, to) + 1).saturating_sub(column).max(1);
        Diagnostic {
            file: self.source.name.clone(),
            line: index + 1,
            column,
            severity,
            message: printable(&message),
            hint: hint.map(|text| printable(&text)),
            field,
            label: label.map(|text| printable(&text)),
            cause,
            source_line: (line.len() <= MAX_SOURCE_LINE).then(|| printable_line(line)),
            width,
        }
    }

    /// The findings in the order of the file.
    pub(super) fn finish(mut self) -> Vec<Diagnostic> {
        self.list.sort_by_key(|d| (d.line, d.column));
        for found in &mut self.list {
            if let Some(shown) = &mut found.source_line {
                self.source.hide(&self.secrets, found.line, shown);
            }
        }
        if self.untold > 0 {
            let message = format!("{} more findings in this file are not shown", self.untold);
            let error = Diagnostic::error(&self.source.name, message);
            self.list.push(error.with_hint("mend the first ones and look again"));
        }
        self.list
    }
}

/// How many characters stand before a byte of a line.
fn chars(line: &str, offset: usize) -> usize {
    line.char_indices().take_while(|(i, _)| *i < offset).count()
}

/// Text of one line that a terminal shows as it is: what would move its cursor is replaced,
/// one character for one.
pub(super) fn printable(text: &str) -> String {
    harmless_line(text)
}

/// The same for a source line, in which tabs stay.
fn printable_line(text: &str) -> String {
    replaced(text, "\t", REPLACEMENT)
}

/// A path as messages show it.
pub(super) fn shorten_path(path: &Path) -> String {
    printable(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str, span: Span) -> Diagnostic {
        let source = Source::new("a.md", text);
        let mut findings = Findings::new(&source);
        findings.add(Problem::error(span, "x"));
        findings.finish().remove(0)
    }

    #[test]
    fn positions_are_counted_in_characters() {
        let found = one("a\r\nkäse: 1\r\n", Span { start: 3, end: 8 });
        assert_eq!((found.line, found.column, found.width), (2, 1, 4));
        let found = one("a\nkäse: 1\n", Span { start: 2 + 7, end: 2 + 8 });
        assert_eq!((found.line, found.column, found.width), (2, 7, 1));
        assert_eq!(found.source_line.as_deref(), Some("käse: 1"));
    }

    #[test]
    fn a_span_ends_with_its_line() {
        let found = one("key: |\n  long\n  text\n", Span { start: 5, end: 20 });
        assert_eq!((found.line, found.column, found.width), (1, 6, 1));
        let found = one("", Span::at(0));
        assert_eq!((found.line, found.column, found.width), (1, 1, 1));
    }

    #[test]
    fn control_characters_are_never_shown() {
        let found = one("a\u{1b}[31m\u{202e}b", Span::at(0));
        assert_eq!(found.source_line.as_deref(), Some("a\u{fffd}[31m\u{fffd}b"));
    }

    #[test]
    fn a_secret_is_masked_in_every_finding_of_its_line() {
        let source = Source::new("a.md", "token_ref: ghp_secret # x");
        let mut findings = Findings::new(&source);
        findings.add(Problem::error(Span { start: 0, end: 9 }, "x"));
        findings.add(Problem::error(Span { start: 11, end: 21 }, "x").secret());
        for found in findings.finish() {
            assert_eq!(found.source_line.as_deref(), Some("token_ref: •••••••••• # x"));
        }
    }

    #[test]
    fn the_number_of_findings_is_bounded() {
        let source = Source::new("a.md", "x");
        let mut findings = Findings::new(&source);
        for _ in 0..1000 {
            findings.add(Problem::error(Span::at(0), "x"));
        }
        let found = findings.finish();
        assert_eq!(found.len(), MAX_FINDINGS + 1);
        assert!(found[MAX_FINDINGS].message.starts_with("950 more"));
    }
}
