//! The one place that reads YAML: text → a small tree in which everything knows where it stands.
//!
//! Built on the event stream of `serde_yaml` (see `docs/decisions/0002-yaml.md`) rather than on
//! serde, which stops at the first error and forgets positions. What manifests have no use for is
//! refused: anchors, aliases, tags, directives, several documents, duplicate keys, deep nesting.

use std::collections::BTreeMap;

use serde_yaml::granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Tag, options};

use super::field::shorten;
use super::source::{At, Findings, Problem, Span};

/// Deepest nesting of lists and maps; a manifest needs six.
const MAX_DEPTH: usize = 16;

/// Most values in one file.
const MAX_NODES: usize = 20_000;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) span: Span,
}

/// What a node is. Plain scalars are read by YAML 1.2's core schema: `yes`, `no` and `on` are text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// A number, as written.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One entry of a map.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_span: Span,
    pub(super) value: Node,
}

impl Node {
    /// What it is, for people: `a list`, `the number 5`.
    pub(super) fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(flag) => format!("the boolean `{flag}`"),
            Value::Number(text) => format!("the number `{text}`"),
            Value::Text(_) => "text".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        }
    }
}

/// Reads the YAML that stands in the file from byte `from` up to byte `to`.
///
/// `None` after an error that leaves no tree to look at; errors that leave one are only added.
/// An empty document is an empty map.
pub(super) fn parse(findings: &mut Findings<'_>, from: usize, to: usize) -> Option<Node> {
    let text = findings.source().text().get(from..to)?;
    parse_text(findings, text, from, to)
}

/// The same, for a file in which another program's keys may stand as that program takes them.
///
/// Claude Code reads a `description` with `: ` in it, or `tools: *`, which YAML refuses. Where the
/// text is not YAML as it stands, the values of the keys in `free` are blanked, which nothing here
/// reads. The keys stay, so that it is still seen which of them are there.
pub(super) fn parse_with(
    findings: &mut Findings<'_>,
    from: usize,
    to: usize,
    free: &[&str],
) -> Option<Node> {
    let text = findings.source().text().get(from..to)?;
    let mut trial = Findings::new(findings.source());
    match parse_text(&mut trial, text, from, to) {
        Some(node) if !trial.has_errors() => Some(node),
        _ => parse_text(findings, &blanked(text, free), from, to),
    }
}

/// How lines of an example dialogue begin, which descriptions hold and which look like keys where they are
/// not indented.
const DIALOGUE: [&str; 3] = ["user", "assistant", "Context"];

/// The text with the values of these top-level keys replaced by spaces, byte for byte.
fn blanked(text: &str, keys: &[&str]) -> String {
    let mut blanked = String::with_capacity(text.len());
    let mut inside = false;
    for line in text.split_inclusive('\n') {
        let key = top_level_key(line);
        let kept = match key {
            Some(key) if inside && DIALOGUE.contains(&key) => 0,
            Some(key) => {
                inside = keys.contains(&key);
                if inside { key.len() + 1 } else { line.len() }
            }
            None if inside => 0,
            None => line.len(),
        };
        blanked.push_str(&line[..kept]);
        let rest = line[kept..].bytes();
        blanked.extend(rest.map(|b| if matches!(b, b'\n' | b'\r') { char::from(b) } else { ' ' }));
    }
    blanked
}

/// The key with which a line begins at its first column.
fn top_level_key(line: &str) -> Option<&str> {
    let (key, rest) = line.split_once(':')?;
    let named = key.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    (named && rest.bytes().next().is_none_or(|b| b.is_ascii_whitespace())).then_some(key)
}

fn parse_text(findings: &mut Findings<'_>, text: &str, from: usize, to: usize) -> Option<Node> {
    let mut options = options! {
        disallow_directives: true,
        emit_unresolved_aliases: true,
        flow_nesting_limit: 2 * MAX_DEPTH,
        block_nesting_limit: 2 * MAX_DEPTH,
    };
    options.set_emit_comments(false);
    let mut builder = Builder { findings, base: from, stack: Vec::new(), root: None, nodes: 0 };
    for event in Parser::new_from_str_with_options(text, options) {
        let step = match event {
            Ok((event, span)) => {
                let range = span.byte_range().unwrap_or(0..0);
                builder.event(event, Span { start: from + range.start, end: from + range.end })
            }
            Err(error) => Err(Box::new(scan_problem(&error, from, to))),
        };
        if let Err(problem) = step {
            builder.findings.add(*problem);
            return None;
        }
    }
    let empty = Node { value: Value::Map(Vec::new()), span: Span::at(from) };
    Some(builder.root.filter(|root| root.value != Value::Null).unwrap_or(empty))
}

enum Frame {
    List { start: usize, items: Vec<Node> },
    Map { start: usize, entries: Vec<Entry>, seen: BTreeMap<String, usize>, key: Option<Key> },
}

struct Key {
    text: String,
    span: Span,
    /// It stood there before: its value is read and dropped.
    again: bool,
}

struct Builder<'f, 's> {
    findings: &'f mut Findings<'s>,
    base: usize,
    stack: Vec<Frame>,
    root: Option<Node>,
    nodes: usize,
}

type Step = Result<(), Box<Problem>>;

impl Builder<'_, '_> {
    fn event(&mut self, event: Event<'_>, span: Span) -> Step {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.properties(span, anchor, tag.as_deref());
                self.scalar(&text, style, span)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.properties(span, anchor, tag.as_deref());
                self.open(span, Frame::List { start: span.start, items: Vec::new() })
            }
            Event::MappingStart(_, anchor, tag) => {
                self.properties(span, anchor, tag.as_deref());
                let (entries, seen) = (Vec::new(), BTreeMap::new());
                self.open(span, Frame::Map { start: span.start, entries, seen, key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Frame::List { start, items }) => {
                    self.place(Value::List(items), Span { start, end: span.end })
                }
                Some(Frame::Map { start, entries, .. }) => {
                    self.place(Value::Map(entries), Span { start, end: span.end })
                }
                None => Ok(()),
            },
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                let problem = Problem::error(span, "a YAML alias cannot be used here");
                let text = self.findings.source().rest_of_line(span.start);
                // `*` begins a pattern for everybody but YAML.
                let word = text.split([' ', ',', ']', '\t']).next().unwrap_or_default();
                let is_pattern = word.trim_start_matches('*').starts_with('.');
                let (hint, value) = if is_pattern {
                    let value = Value::Text(word.to_owned());
                    (format!("quote it: \"{}\"", shorten(word)), value)
                } else {
                    let hint = "write the value out, or quote it if the `*` is meant";
                    (hint.to_owned(), Value::Null)
                };
                self.findings.add(problem.hint(hint));
                if self.wants_key() { Err(complex_key(span)) } else { self.place(value, span) }
            }
            Event::DocumentStart(..) if self.root.is_some() => {
                Err(Box::new(Problem::error(span, "a second YAML document starts here")))
            }
            _ => Ok(()),
        }
    }

    /// Anchors and tags are refused, and reading goes on.
    fn properties(&mut self, span: Span, anchor: usize, tag: Option<&Tag>) {
        if anchor != 0 {
            let problem = Problem::error(span, "this value has a YAML anchor (`&name`)");
            self.findings.add(problem.hint("write the value out wherever it is needed"));
        }
        if let Some(tag) = tag {
            let message = format!("this value has a YAML tag (`{}`)", tag.original());
            self.findings.add(Problem::error(span, message).hint("remove the tag"));
        }
    }

    fn wants_key(&self) -> bool {
        matches!(self.stack.last(), Some(Frame::Map { key: None, .. }))
    }

    fn count(&mut self, span: Span) -> Step {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            let message = format!("there are more than {MAX_NODES} values in this file");
            return Err(Box::new(Problem::error(span, message)));
        }
        Ok(())
    }

    fn open(&mut self, span: Span, frame: Frame) -> Step {
        self.count(span)?;
        if self.wants_key() {
            return Err(complex_key(span));
        }
        if self.stack.len() >= MAX_DEPTH {
            return Err(Box::new(too_deep(span)));
        }
        self.stack.push(frame);
        Ok(())
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, span: Span) -> Step {
        self.count(span)?;
        if self.wants_key() {
            self.key(text, span);
            return Ok(());
        }
        let plain = matches!(style, ScalarStyle::Plain);
        let value = if plain { resolve(text) } else { Value::Text(text.to_owned()) };
        self.place(value, span)
    }

    fn key(&mut self, text: &str, span: Span) {
        let line = self.findings.source().line_number(span.start);
        let at = self.field();
        let Some(Frame::Map { seen, key, .. }) = self.stack.last_mut() else { return };
        let first = *seen.entry(text.to_owned()).or_insert(span.start);
        let again = first != span.start;
        *key = Some(Key { text: text.to_owned(), span, again });
        if again {
            let first = self.findings.source().line_number(first);
            let place =
                if first == line { "on this line".into() } else { format!("on line {first}") };
            let problem = Problem::error(span, format!("the key `{text}` stands here twice"))
                .label(format!("first {place}"))
                .field(&At::Key(&At::Root, &join(&at, text)));
            self.findings.add(problem);
        }
    }

    /// The path of the map that is open, as far as keys tell it.
    fn field(&self) -> String {
        let keys = self.stack.iter().filter_map(|frame| match frame {
            Frame::Map { key: Some(key), .. } => Some(key.text.as_str()),
            _ => None,
        });
        keys.collect::<Vec<_>>().join(".")
    }

    fn place(&mut self, value: Value, span: Span) -> Step {
        let node = Node { value, span };
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Frame::List { items, .. }) => items.push(node),
            Some(Frame::Map { entries, key, .. }) => {
                let Some(Key { text, span: key_span, again }) = key.take() else {
                    return Err(complex_key(span));
                };
                if !again {
                    entries.push(Entry { key: text, key_span, value: node });
                }
            }
        }
        debug_assert!(self.base <= span.start);
        Ok(())
    }
}

fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
}

fn complex_key(span: Span) -> Box<Problem> {
    Box::new(Problem::error(span, "expected a key, and found a list, a map or an alias"))
}

fn too_deep(span: Span) -> Problem {
    Problem::error(span, format!("this is nested more than {MAX_DEPTH} levels deep"))
}

/// Whether a plain scalar is read as text.
pub(super) fn is_text(text: &str) -> bool {
    matches!(resolve(text), Value::Text(_))
}

/// A plain scalar by the core schema, with booleans in lower case only.
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ if is_number(text) => Value::Number(text.to_owned()),
        _ => Value::Text(text.to_owned()),
    }
}

fn is_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if let Some(hex) = text.strip_prefix("0x") {
        return !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit());
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return !octal.is_empty() && octal.bytes().all(|b| (b'0'..b'8').contains(&b));
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let exponent_fits =
        exponent.is_none_or(|text| digits(text.strip_prefix(['-', '+']).unwrap_or(text)));
    let mantissa_fits = match mantissa.split_once('.') {
        None => digits(mantissa),
        Some((whole, "")) => digits(whole),
        Some((whole, part)) => (whole.is_empty() || digits(whole)) && digits(part),
    };
    mantissa_fits && exponent_fits
}

/// A scanner's error in our words, where they are better.
fn scan_problem(error: &ScanError, from: usize, to: usize) -> Problem {
    let offset = error.marker().byte_offset().map_or(to, |offset| from + offset).min(to);
    let span = Span { start: offset, end: offset + 1 };
    match error.kind() {
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabAtBlockScalarStart => {
            Problem::error(span, "a tab is used for indentation").hint("indent with spaces")
        }
        ErrorKind::UnclosedQuotedScalar => Problem::error(span, "a quote is never closed"),
        ErrorKind::UnclosedFlowCollection { open } => {
            Problem::error(span, format!("the bracket `{open}` is never closed"))
        }
        ErrorKind::MismatchedFlowCollectionEnd { open, close } => {
            Problem::error(span, format!("the bracket `{open}` is closed by `{close}`"))
        }
        ErrorKind::MappingValueNotAllowed => {
            Problem::error(span, "`:` cannot stand here").hint("quote the text that contains it")
        }
        ErrorKind::RecursionLimitExceeded => too_deep(span),
        ErrorKind::DirectiveDisallowed => {
            Problem::error(span, "YAML directives (`%…`) cannot be used here")
        }
        ErrorKind::UnexpectedCharacter { character } => {
            Problem::error(span, format!("`{character}` cannot stand here"))
                .hint("quote the text that contains it")
        }
        kind => Problem::error(span, format!("this is not YAML: {kind}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::Source;
    use super::*;
    use crate::model::Diagnostic;

    fn read(text: &str) -> (Option<Node>, Vec<Diagnostic>) {
        let source = Source::new("x.md", text);
        let mut findings = Findings::new(&source);
        let node = parse(&mut findings, 0, text.len());
        (node, findings.finish())
    }

    fn entries(text: &str) -> Vec<Entry> {
        match read(text).0.map(|node| node.value) {
            Some(Value::Map(entries)) => entries,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn scalars_are_read_by_the_core_schema() {
        let cases = [
            ("yes", Value::Text("yes".into())),
            ("NO", Value::Text("NO".into())),
            ("True", Value::Text("True".into())),
            ("true", Value::Bool(true)),
            ("\"true\"", Value::Text("true".into())),
            ("~", Value::Null),
            ("", Value::Null),
            ("1.10", Value::Number("1.10".into())),
            ("0777", Value::Number("0777".into())),
            ("0x1F", Value::Number("0x1F".into())),
            ("-1e5", Value::Number("-1e5".into())),
            ("1.2.3", Value::Text("1.2.3".into())),
            ("12:30", Value::Text("12:30".into())),
            ("2026-01-02", Value::Text("2026-01-02".into())),
            ("512M", Value::Text("512M".into())),
            ("e5", Value::Text("e5".into())),
            (".", Value::Text(".".into())),
        ];
        for (text, value) in cases {
            assert_eq!(entries(&format!("k: {text}\n"))[0].value.value, value, "{text}");
        }
    }

    #[test]
    fn what_another_program_reads_need_not_be_yaml() {
        let with = |text: &str| {
            let source = Source::new("x.md", text);
            let mut findings = Findings::new(&source);
            let node = parse_with(&mut findings, 0, text.len(), &["description", "tools"]);
            let keys = node.map(|node| match node.value {
                Value::Map(entries) => {
                    entries.iter().map(|e| (e.key.clone(), e.key_span.start)).collect()
                }
                other => panic!("{other:?}"),
            });
            let told: Vec<_> = findings.finish().iter().map(|d| (d.line, d.column)).collect();
            (keys.unwrap_or_default(), told)
        };
        let keys = |expected: &[(&str, usize)]| -> Vec<(String, usize)> {
            expected.iter().map(|(key, at)| ((*key).to_owned(), *at)).collect()
        };
        for (text, expected) in [
            ("bottle: b\ndescription: Use it: now\n", &[("bottle", 0), ("description", 10)][..]),
            ("tools: *\nbottle: b\n", &[("tools", 0), ("bottle", 9)]),
            (
                "description: a\nunindented, \"quoted\nbottle: b\n",
                &[("description", 0), ("bottle", 35)],
            ),
            (
                "description: Käse: x\r\n  more: y\r\nbottle: b",
                &[("description", 0), ("bottle", 34)],
            ),
        ] {
            assert_eq!(with(text), (keys(expected), Vec::new()), "{text:?}");
        }
        // Mistakes elsewhere are found where they stand, and nothing is said of what is blanked.
        assert_eq!(with("description: a: b\nbottle: [b\n").1.first().map(|at| at.0), Some(2));
        assert_eq!(with("description: a: b\nbottle: &x b\n").1[0].0, 2);
        // Text that is YAML is read as it stands.
        let two = with("description: |\n  a: b\n  bottle: c\nbottle: b\n");
        assert_eq!(two, (keys(&[("description", 0), ("bottle", 34)]), Vec::new()));
    }

    #[test]
    fn everything_knows_where_it_stands() {
        let text = "a: [x, yy]\nb:\n  c: \"d e\"\n";
        let entries = entries(text);
        let Value::List(items) = &entries[0].value.value else { panic!() };
        assert_eq!(&text[items[1].span.start..items[1].span.end], "yy");
        let Value::Map(inner) = &entries[1].value.value else { panic!() };
        assert_eq!(&text[inner[0].key_span.start..inner[0].key_span.end], "c");
        assert_eq!(&text[inner[0].value.span.start..inner[0].value.span.end], "\"d e\"");
    }

    #[test]
    fn duplicate_keys_are_all_told() {
        let (_, found) = read("a: 1\nb: {c: 1, c: 2}\na: 3\n");
        let places: Vec<_> = found.iter().map(|d| (d.line, d.column)).collect();
        assert_eq!(places, [(2, 11), (3, 1)]);
        assert_eq!(found[0].field.as_deref(), Some("b.c"));
        assert_eq!(found[1].label.as_deref(), Some("first on line 1"));
    }

    #[test]
    fn what_manifests_do_not_need_is_refused() {
        for text in [
            "a: &x 1\n",
            "a: *x\n",
            "a: &x 1\nb: *x\n",
            "a: !!str 1\n",
            "a: !foo [b]\n",
            "%YAML 1.2\n---\na: 1\n",
            "a: 1\n...\nb: 2\n",
            "? [a]\n: b\n",
            "{a: 1}: 2\n",
            "*x : 2\n",
            "a: [1, 2\n",
            "a: \"b\n",
            "a: b: c\n",
            "a:\n\t- b\n",
            "a: @b\n",
        ] {
            assert!(!read(text).1.is_empty(), "{text}");
        }
    }

    #[test]
    fn nesting_and_size_are_bounded() {
        for text in ["[".repeat(100_000), "{a: ".repeat(50_000), "- ".repeat(100_000)] {
            let (node, found) = read(&text);
            assert!(node.is_none());
            assert_eq!(found.len(), 1, "{found:?}");
        }
        let (node, found) = read(&format!("a: [{}]\n", "1,".repeat(MAX_NODES)));
        assert!(node.is_none());
        assert!(found[0].message.contains("more than"), "{found:?}");
    }

    #[test]
    fn a_pattern_without_quotes_is_told_once_and_how_to_write_it() {
        for (text, quoted) in [
            ("a: [*.example.org]", "quote it: \"*.example.org\""),
            ("a:\n  - **.example.org # both\n", "quote it: \"**.example.org\""),
        ] {
            let (node, found) = read(text);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].hint.as_deref(), Some(quoted));
            // It is read as what is meant, so that nothing follows from it.
            let Some(Value::Map(entries)) = node.map(|node| node.value) else { panic!("a map") };
            let Value::List(items) = &entries[0].value.value else { panic!("a list") };
            assert!(matches!(&items[0].value, Value::Text(text) if quoted.contains(text.as_str())));
        }
    }

    #[test]
    fn an_empty_document_is_an_empty_map() {
        for text in ["", "\n", "# only a comment\n", "null\n"] {
            let (node, found) = read(text);
            assert_eq!(node.map(|n| n.value), Some(Value::Map(Vec::new())), "{text:?}");
            assert!(found.is_empty());
        }
    }
}
