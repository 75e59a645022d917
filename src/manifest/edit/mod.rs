//! The smallest change of a file's text that says something new: comments, quotes, line ends and all that was
//! not meant stay as they are. Pure.
//!
//! An edit is made by the spans of the one parser that reads manifests (`yaml`), read again by it, and compared
//! with the same edit of what the text meant before. Where that is not the same, nothing is written:
//! [`EditError::Unsure`].
//!
//! `place` finds the bytes, `write` spells values.

mod place;
#[cfg(test)]
mod tests;
mod write;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::frontmatter;
use super::source::{Findings, Source};
use super::yaml::{self, Node, Value};

/// A value that is to stand in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// Nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as it is written.
    Number(String),
    /// Text, whatever it looks like.
    Text(String),
    /// A list.
    List(Vec<Item>),
    /// A map, in this order.
    Map(Vec<(String, Item)>),
}

impl Item {
    /// Text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A list of texts.
    #[must_use]
    pub fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::List(texts.into_iter().map(Self::text).collect())
    }

    /// The value under a key, if this is a map that has it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, it)| it),
            _ => None,
        }
    }

    fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(flag) => Self::Bool(*flag),
            Value::Number(text) => Self::Number(text.clone()),
            Value::Text(text) => Self::Text(text.clone()),
            Value::List(items) => Self::List(items.iter().map(|it| Self::of(&it.value)).collect()),
            Value::Map(entries) => Self::Map(
                entries.iter().map(|it| (it.key.clone(), Self::of(&it.value.value))).collect(),
            ),
        }
    }

    /// Whether both mean the same: the order of a map's entries means nothing.
    #[must_use]
    pub fn means(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::List(a), Self::List(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.means(b))
            }
            (Self::Map(a), Self::Map(b)) => {
                a.len() == b.len()
                    && a.iter()
                        .all(|(key, a)| b.iter().any(|(other, b)| other == key && a.means(b)))
            }
            (a, b) => a == b,
        }
    }
}

/// One change. A path is the keys of maps from the top of the front matter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edit {
    /// Adds to the end of the list there, which is made where it is missing.
    Append {
        /// Where the list stands.
        path: Vec<String>,
        /// What is added.
        value: Item,
    },
    /// Has this value, which is neither a list nor a map, stand there.
    Set {
        /// Where.
        path: Vec<String>,
        /// What.
        value: Item,
    },
    /// Of a list there, takes out the last item that means this; of anything else the entry itself, if it does.
    Remove {
        /// Where.
        path: Vec<String>,
        /// What it has to be.
        matches: Item,
    },
}

impl Edit {
    /// Adds to a list.
    #[must_use]
    pub fn append(path: &[&str], value: Item) -> Self {
        Self::Append { path: owned(path), value }
    }

    /// Sets a value.
    #[must_use]
    pub fn set(path: &[&str], value: Item) -> Self {
        Self::Set { path: owned(path), value }
    }

    /// Takes something out.
    #[must_use]
    pub fn remove(path: &[&str], matches: Item) -> Self {
        Self::Remove { path: owned(path), matches }
    }

    /// Where it works.
    #[must_use]
    pub fn path(&self) -> &[String] {
        match self {
            Self::Append { path, .. } | Self::Set { path, .. } | Self::Remove { path, .. } => path,
        }
    }
}

fn owned(path: &[&str]) -> Vec<String> {
    path.iter().map(|key| (*key).to_owned()).collect()
}

/// Why a text is not edited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// It does not read as it stands.
    #[error("it does not read as it stands: {0}")]
    Unreadable(String),
    /// Something else stands there than the edit is for.
    #[error("`{path}` is {found} there")]
    Kind {
        /// Where.
        path: String,
        /// What is there.
        found: String,
    },
    /// What is to be taken out is not there.
    #[error("nothing at `{0}` is as it was written then")]
    NotFound(String),
    /// It cannot be said for sure that the edit would change this and nothing else.
    #[error("`{0}` is written in a way that is not edited by a program")]
    Unsure(String),
}

/// Bytes that something else takes the place of.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    range: Range<usize>,
    text: String,
}

/// What the front matter of a file says.
struct Read {
    source: Source,
    root: Node,
    yaml: Range<usize>,
    body: Range<usize>,
}

/// The text with these edits made, one after another.
///
/// # Errors
/// [`EditError`] when that cannot be done so that nothing else changes.
pub fn edit(text: &str, edits: &[Edit]) -> Result<String, EditError> {
    let mut text = text.to_owned();
    for one in edits {
        text = edit_once(&text, one)?;
    }
    Ok(text)
}

/// What stands at a path; nothing where there is nothing.
///
/// # Errors
/// [`EditError`] when the text does not read.
pub fn look(text: &str, path: &[&str]) -> Result<Item, EditError> {
    let read = read(text)?;
    let mut item = Item::of(&read.root.value);
    for key in path {
        item = item.get(key).cloned().unwrap_or(Item::Null);
    }
    Ok(item)
}

/// A value by itself, as people edit it: a map in a block, an entry a line.
#[must_use]
pub fn spelled(item: &Item) -> String {
    let style = write::Style { map: 2, list: 2 };
    let lines = match item {
        Item::Map(entries) if !entries.is_empty() => entries
            .iter()
            .flat_map(|(name, value)| write::block_entry(name, value, 0, style, false))
            .collect(),
        item => vec![write::flow(item)],
    };
    lines.into_iter().map(|line| line + "\n").collect()
}

/// The value that a text holds, in the YAML of manifests; [`Item::Null`] where it has only comments.
///
/// # Errors
/// [`EditError::Unreadable`], with the line.
pub fn item(text: &str) -> Result<Item, EditError> {
    let lines = text.lines().map(str::trim);
    if lines.into_iter().all(|line| line.is_empty() || line.starts_with('#')) {
        return Ok(Item::Null);
    }
    let source = Source::new("", text);
    let mut findings = Findings::new(&source);
    let node = yaml::parse(&mut findings, 0, text.len());
    match node {
        Some(node) if !findings.has_errors() => Ok(Item::of(&node.value)),
        _ => Err(unreadable(findings)),
    }
}

fn unreadable(findings: Findings<'_>) -> EditError {
    let first = findings.finish().into_iter().next();
    let said = first.map(|it| format!("line {}: {}", it.line, it.message));
    EditError::Unreadable(said.unwrap_or_default())
}

fn edit_once(text: &str, edit: &Edit) -> Result<String, EditError> {
    let before = read(text)?;
    let mut meant = Item::of(&before.root.value);
    let (changes, emptied) = place::changes(&before, edit)?;
    meant_by(&mut meant, edit, emptied)?;
    let unsure = || EditError::Unsure(edit.path().join("."));
    let after_text = apply(text, changes).ok_or_else(unsure)?;
    let after = read(&after_text).map_err(|_| unsure())?;
    let same_around = text[..before.yaml.start] == after_text[..after.yaml.start]
        && text[before.yaml.end..] == after_text[after.yaml.end..]
        && text[before.body] == after_text[after.body];
    match same_around && Item::of(&after.root.value) == meant {
        true => Ok(after_text),
        false => Err(unsure()),
    }
}

fn read(text: &str) -> Result<Read, EditError> {
    let source = Source::new("", text);
    let mut findings = Findings::new(&source);
    let parts = frontmatter::split(&mut findings);
    let node = parts
        .as_ref()
        .and_then(|parts| yaml::parse(&mut findings, parts.yaml.start, parts.yaml.end));
    match (parts, node) {
        (Some(parts), Some(root)) if !findings.has_errors() => {
            if !matches!(root.value, Value::Map(_)) {
                return Err(EditError::Unreadable("its front matter is no map".to_owned()));
            }
            Ok(Read { root, yaml: parts.yaml, body: parts.body, source })
        }
        _ => Err(unreadable(findings)),
    }
}

/// Makes changes that do not touch each other.
fn apply(text: &str, mut changes: Vec<Change>) -> Option<String> {
    changes.sort_by_key(|change| (change.range.start, change.range.end));
    let (mut out, mut at) = (String::with_capacity(text.len() + 64), 0);
    for change in changes {
        out.push_str(text.get(at..change.range.start)?);
        out.push_str(&change.text);
        at = change.range.end;
    }
    out.push_str(text.get(at..)?);
    Some(out)
}

/// The same edit of what the text means. `emptied` is what is left of a list or a map without entries.
fn meant_by(root: &mut Item, edit: &Edit, emptied: Item) -> Result<(), EditError> {
    let path = edit.path();
    let not_found = || EditError::NotFound(path.join("."));
    match edit {
        Edit::Append { value, .. } => {
            let list = reach(root, path).ok_or_else(not_found)?;
            if *list == Item::Null {
                *list = Item::List(Vec::new());
            }
            let Item::List(items) = list else { return Err(not_found()) };
            items.push(value.clone());
        }
        Edit::Set { value, .. } => *reach(root, path).ok_or_else(not_found)? = value.clone(),
        Edit::Remove { matches, .. } => {
            let (last, parents) = path.split_last().ok_or_else(not_found)?;
            let parent = reach(root, parents).ok_or_else(not_found)?;
            let Item::Map(entries) = parent else { return Err(not_found()) };
            let at = entries.iter().position(|(key, _)| key == last).ok_or_else(not_found)?;
            if let Item::List(items) = &mut entries[at].1
                && let Some(found) = items.iter().rposition(|item| item.means(matches))
            {
                items.remove(found);
                if items.is_empty() {
                    entries[at].1 = emptied;
                }
                return Ok(());
            }
            if !entries[at].1.means(matches) {
                return Err(not_found());
            }
            entries.remove(at);
            if entries.is_empty() {
                // The front matter itself is a map, also without entries.
                *parent = if parents.is_empty() { Item::Map(Vec::new()) } else { emptied };
            }
        }
    }
    Ok(())
}

/// The value at a path, with the maps on the way to it made where they are missing.
fn reach<'i>(root: &'i mut Item, path: &[String]) -> Option<&'i mut Item> {
    let mut item = root;
    for key in path {
        if *item == Item::Null {
            *item = Item::Map(Vec::new());
        }
        let Item::Map(entries) = item else { return None };
        let at = match entries.iter().position(|(name, _)| name == key) {
            Some(at) => at,
            None => {
                entries.push((key.clone(), Item::Null));
                entries.len() - 1
            }
        };
        item = &mut entries.get_mut(at)?.1;
    }
    Some(item)
}
