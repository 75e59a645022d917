//! Typed access to the tree of one file: each mistake is told once, and reading goes on.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::keys::{Key, Shape, Table, nearest};
use super::source::{At, Findings, Problem, Span};
use super::yaml::{Entry, Node, Value};
use super::{agent, bottle};

/// A map whose keys a table tells.
pub(super) struct Section<'a> {
    table: &'static Table,
    /// By the first spelling of the key.
    entries: BTreeMap<&'static str, &'a Entry>,
    at: &'a At<'a>,
    /// Which keys were asked for: a key that nobody reads is a mistake of ours.
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Section<'a> {
    /// Checks the keys of a map against its table. `place` is where a missing key is told.
    pub(super) fn open(
        node: &'a Node,
        table: &'static Table,
        at: &'a At<'a>,
        place: Span,
        findings: &mut Findings<'_>,
    ) -> Option<Self> {
        let Value::Map(list) = &node.value else {
            let message =
                format!("expected {} as a map of keys, found {}", table.what, node.describe());
            findings.add(Problem::error(node.span, message).field(at).hint(allowed(table)));
            return None;
        };
        let mut entries: BTreeMap<&'static str, &'a Entry> = BTreeMap::new();
        for entry in list {
            match table.find(&entry.key) {
                None => findings.add(unknown(entry, table, at)),
                Some(key) => {
                    if let Some(first) = entries.get(key.name) {
                        let message =
                            format!("`{}` and `{}` are the same key", first.key, entry.key);
                        let problem = Problem::error(entry.key_span, message)
                            .field(&At::Key(at, &entry.key))
                            .hint("keep one of them");
                        findings.add(problem);
                    } else {
                        entries.insert(key.name, entry);
                    }
                }
            }
        }
        for key in table.keys.iter().filter(|key| key.required) {
            let found = entries.get(key.name);
            if found.is_none_or(|entry| entry.value.value == Value::Null) {
                findings.add(missing(key, found.copied(), table, at, place));
            }
        }
        Some(Self { table, entries, at, asked: RefCell::default() })
    }

    /// What stands under a key; nothing and null are the same.
    pub(super) fn get(&self, key: &'static str) -> Option<Field<'_>> {
        debug_assert!(self.table.find(key).is_some(), "`{key}` is not in the table");
        self.asked.borrow_mut().insert(key);
        let entry = self.entries.get(key)?;
        let field = Field {
            node: &entry.value,
            key_span: entry.key_span,
            at: At::Key(self.at, &entry.key),
        };
        (entry.value.value != Value::Null).then_some(field)
    }

    /// Whether a key stands in the map, whatever it holds.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// States that a key is accepted whatever it holds.
    pub(super) fn ignore(&self, key: &'static str) {
        self.asked.borrow_mut().insert(key);
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        let asked = self.asked.borrow();
        debug_assert!(
            std::thread::panicking() || self.table.names().all(|key| asked.contains(key)),
            "{}: a key of the table is never read; asked for: {asked:?}",
            self.table.what
        );
    }
}

fn allowed(table: &Table) -> String {
    format!("allowed: {}", table.names().collect::<Vec<_>>().join(", "))
}

fn unknown(entry: &Entry, table: &'static Table, at: &At<'_>) -> Problem {
    let at = At::Key(at, &entry.key);
    if let Some((key, instead)) = table.removed.iter().find(|(key, _)| *key == entry.key) {
        return Problem::error(
            entry.key_span,
            format!("`{key}` is no longer a key of {}", table.what),
        )
        .field(&at)
        .hint(*instead);
    }
    let problem =
        Problem::error(entry.key_span, format!("unknown key `{}`", shorten(&entry.key))).field(&at);
    if let Some((_, instead)) = table.instead.iter().find(|(key, _)| *key == entry.key) {
        return problem.hint(*instead);
    }
    if let Some(section) = table.section_of(&entry.key) {
        let line = format!("write it below `{section}`, further in");
        return problem.label(format!("belongs under `{section}`")).hint(line);
    }
    // The kinds of files are easily taken for each other.
    let files = [
        (&agent::TABLE, "write it in a file of agents/"),
        (&bottle::TABLE, "write it in a file of bottles/"),
        (&agent::SETTINGS, "write it in bottle.yaml, for the whole tree"),
    ];
    let is_file = files.iter().any(|(file, _)| std::ptr::eq(table, *file));
    for (other, hint) in files {
        let own = |key: &Key| !matches!(key.shape, Shape::Any | Shape::AnyText | Shape::Idle);
        if is_file && !std::ptr::eq(table, other) && other.find(&entry.key).is_some_and(own) {
            return problem.label(format!("is a key of {}", other.what)).hint(hint);
        }
    }
    let problem = problem.hint(allowed(table));
    let meant = table.keys.iter().filter(|key| !matches!(key.shape, Shape::Idle));
    let names = meant.flat_map(|key| [Some(key.name), key.alias]).flatten();
    if let Some(name) = nearest(&entry.key, names) {
        return problem.label(format!("did you mean `{name}`?"));
    }
    // What stands too far in.
    match bottle::TABLE.section_of(&entry.key) {
        _ if is_file => problem,
        _ if bottle::TABLE.find(&entry.key).is_some() => problem
            .label("is a key of a bottle")
            .hint("write it further out, where the line begins"),
        Some(section) => problem
            .label(format!("belongs under `{section}`"))
            .hint(format!("write it below `{section}`")),
        None => problem,
    }
}

fn missing(key: &Key, found: Option<&Entry>, table: &Table, at: &At<'_>, place: Span) -> Problem {
    let (span, message) = match found {
        Some(entry) => (entry.key_span, format!("`{}` says nothing", key.name)),
        None => (place, format!("{} needs the key `{}`", table.what, key.name)),
    };
    Problem::error(span, message).field(&At::Key(at, key.name)).hint(key.doc)
}

/// How a text is written that should be a list. Of several words, only whoever wrote it knows whether
/// they are one.
fn as_list(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let quoted = |word: &&str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '/' | '.');
        let begins = word.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '/');
        if begins && word.chars().all(plain) { (*word).to_owned() } else { format!("{word:?}") }
    };
    let shell = text.contains(['|', '&', ';', '>', '<', '$', '`', '*', '\'', '"', '\\']);
    match words[..] {
        [] | [_] => format!("write [{}]", shorten(text)),
        _ if shell => format!("write [sh, -c, {:?}]", shorten(text)),
        _ => {
            let list = words.iter().map(quoted).collect::<Vec<_>>().join(", ");
            format!("write [{}]", shorten(&list))
        }
    }
}

/// Text in a message, at a length that a message bears.
pub(super) fn shorten(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// One value and its path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) node: &'a Node,
    /// The key under which it stands; of an item, the item itself.
    pub(super) key_span: Span,
    pub(super) at: At<'a>,
}

impl<'a> Field<'a> {
    pub(super) fn span(&self) -> Span {
        self.node.span
    }

    /// An error about the value.
    pub(super) fn error(&self, message: impl Into<String>) -> Problem {
        Problem::error(self.node.span, message).field(&self.at)
    }

    /// An error about a text that is not what it should be, which `reason` says as the end of a
    /// sentence. A text that may hold a password is not repeated.
    pub(super) fn refused(
        &self,
        text: &str,
        reason: &(impl std::fmt::Display + ?Sized),
    ) -> Problem {
        let login =
            text.rsplit_once('@').map(|(login, _)| login.rsplit("//").next().unwrap_or(login));
        if login.is_some_and(|login| login.contains(':')) {
            return self.error(format!("this {reason}")).secret();
        }
        self.error(format!("`{}` {reason}", shorten(text)))
    }

    /// A warning about the value.
    pub(super) fn warning(&self, message: impl Into<String>) -> Problem {
        Problem::warning(self.node.span, message).field(&self.at)
    }

    /// Says that something of another type was expected.
    pub(super) fn mismatch(&self, expected: &str) -> Problem {
        self.error(format!("expected {expected}, found {}", self.node.describe()))
    }

    /// An item of this list.
    pub(super) fn item<'b>(&'b self, index: usize, node: &'b Node) -> Field<'b> {
        Field { node, key_span: node.span, at: At::Item(&self.at, index) }
    }

    /// A value of this map.
    pub(super) fn entry<'b>(&'b self, entry: &'b Entry) -> Field<'b> {
        let at = At::Key(&self.at, &entry.key);
        Field { node: &entry.value, key_span: entry.key_span, at }
    }

    /// The map under this key.
    pub(super) fn section<'b>(
        &'b self,
        table: &'static Table,
        findings: &mut Findings<'_>,
    ) -> Option<Section<'b>> {
        Section::open(self.node, table, &self.at, self.key_span, findings)
    }

    /// Text without NUL; a number or a boolean is not text.
    pub(super) fn text(&self, findings: &mut Findings<'_>) -> Option<&'a str> {
        match &self.node.value {
            Value::Text(text) if text.contains('\0') => {
                findings.add(self.error("there is a NUL character in this text"));
                None
            }
            Value::Text(text) => Some(text),
            Value::Number(text) => {
                findings.add(self.mismatch("text").hint(format!("quote it: \"{text}\"")));
                None
            }
            Value::Bool(flag) => {
                findings.add(self.mismatch("text").hint(format!("quote it: \"{flag}\"")));
                None
            }
            _ => {
                findings.add(self.mismatch("text"));
                None
            }
        }
    }

    /// Text that says something.
    pub(super) fn word(&self, findings: &mut Findings<'_>) -> Option<&'a str> {
        let text = self.text(findings)?;
        if text.is_empty() {
            findings.add(self.error("expected text, found an empty one"));
            return None;
        }
        Some(text)
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, findings: &mut Findings<'_>) -> Option<bool> {
        if let Value::Bool(flag) = self.node.value {
            return Some(flag);
        }
        let problem = self.mismatch("`true` or `false`");
        let meant = match &self.node.value {
            Value::Text(text) => match text.to_lowercase().as_str() {
                "yes" | "on" | "y" | "true" => Some("true"),
                "no" | "off" | "n" | "false" => Some("false"),
                _ => None,
            },
            _ => None,
        };
        findings.add(match meant {
            Some(word) => problem.label(format!("write `{word}`")),
            None => problem,
        });
        None
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &self,
        choices: &[(&'static str, T)],
        findings: &mut Findings<'_>,
    ) -> Option<T> {
        let words = || choices.iter().map(|(word, _)| *word);
        let list = || words().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
        let Value::Text(text) = &self.node.value else {
            findings.add(self.mismatch(&format!("one of {}", list())));
            return None;
        };
        let found = choices.iter().find(|(word, _)| word == text).map(|(_, choice)| *choice);
        if found.is_none() {
            let problem = self.error(format!("`{}` is none of {}", shorten(text), list()));
            findings.add(match nearest(text, words()) {
                Some(word) => problem.label(format!("did you mean `{word}`?")),
                None => problem,
            });
        }
        found
    }

    /// The items of a list.
    pub(super) fn list(&self, findings: &mut Findings<'_>) -> Option<&'a [Node]> {
        match &self.node.value {
            Value::List(items) => Some(items),
            Value::Text(text) => {
                let problem = self.mismatch("a list");
                findings.add(problem.hint(as_list(text)));
                None
            }
            _ => {
                findings.add(self.mismatch("a list"));
                None
            }
        }
    }

    /// The entries of a map with keys of the operator's choice.
    pub(super) fn entries(&self, findings: &mut Findings<'_>) -> Option<&'a [Entry]> {
        match &self.node.value {
            Value::Map(entries) => Some(entries),
            _ => {
                findings.add(self.mismatch("a map"));
                None
            }
        }
    }

    /// A list of texts; bad items are told and left out.
    pub(super) fn texts(&self, findings: &mut Findings<'_>) -> Vec<(&'a str, Span)> {
        let items = self.list(findings).unwrap_or_default();
        let mut texts = Vec::new();
        for (index, node) in items.iter().enumerate() {
            if self.item(index, node).text(findings).is_some()
                && let Value::Text(text) = &node.value
            {
                texts.push((text.as_str(), node.span));
            }
        }
        texts
    }

    /// A list of a program and its arguments.
    pub(super) fn argv(&self, findings: &mut Findings<'_>) -> Vec<String> {
        let argv: Vec<String> =
            self.texts(findings).into_iter().map(|(text, _)| text.to_owned()).collect();
        if argv.first().is_some_and(String::is_empty) {
            findings.add(self.error("the program's name is empty"));
        }
        argv
    }
}
