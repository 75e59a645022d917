//! Where in a text an edit takes place, byte by byte.
//!
//! A block's own span ends where the next token begins, behind comments that belong to what follows: so the end
//! of its last child counts, and then the end of that line, with the comment on it.

use super::write::{self, Style};
use super::{Change, Edit, EditError, Item, Read};
use crate::manifest::source::Span;
use crate::manifest::yaml::{Entry, Node, Value};

/// What is to be changed, and what is left of a list or map of which the last entry goes.
pub(super) fn changes(read: &Read, edit: &Edit) -> Result<(Vec<Change>, Item), EditError> {
    let place = Place { text: read.source.text(), read, style: style(read), path: edit.path() };
    if edit.path().is_empty() {
        return Err(place.unsure());
    }
    match edit {
        Edit::Append { value, .. } => Ok((place.append(value)?, Item::Null)),
        Edit::Set { value, .. } => Ok((place.set(value)?, Item::Null)),
        Edit::Remove { matches, .. } => place.remove(matches),
    }
}

struct Place<'a> {
    text: &'a str,
    read: &'a Read,
    style: Style,
    path: &'a [String],
}

/// How far a path leads.
struct Reached<'n> {
    /// The last node on it that is there.
    node: &'n Node,
    /// The entry whose value that is; none: the front matter itself.
    entry: Option<&'n Entry>,
    /// The keys that are missing below it.
    missing: &'n [String],
    /// Brackets stand around it.
    flow: bool,
}

type Changes = Result<Vec<Change>, EditError>;

impl<'a> Place<'a> {
    fn unsure(&self) -> EditError {
        EditError::Unsure(self.path.join("."))
    }

    fn kind(&self, node: &Node) -> EditError {
        EditError::Kind { path: self.path.join("."), found: node.describe() }
    }

    fn reach(&self, path: &'a [String]) -> Result<Reached<'a>, EditError> {
        let mut reached =
            Reached { node: &self.read.root, entry: None, missing: path, flow: false };
        while let Some((key, rest)) = reached.missing.split_first() {
            reached.flow |= self.is_flow(reached.node);
            match &reached.node.value {
                Value::Map(entries) => {
                    let Some(entry) = entries.iter().find(|entry| entry.key == *key) else { break };
                    (reached.node, reached.entry, reached.missing) =
                        (&entry.value, Some(entry), rest);
                }
                Value::Null => break,
                _ => return Err(self.kind(reached.node)),
            }
        }
        Ok(reached)
    }

    fn append(&self, value: &Item) -> Changes {
        let reached = self.reach(self.path)?;
        if !reached.missing.is_empty() || reached.node.value == Value::Null {
            return self.create(&reached, Item::List(vec![value.clone()]));
        }
        let Value::List(items) = &reached.node.value else { return Err(self.kind(reached.node)) };
        if reached.flow || self.is_flow(reached.node) {
            return self.add_to_flow(reached.node, items.last(), write::flow(value));
        }
        let (Some(first), Some(last)) = (items.first(), items.last()) else {
            return Err(self.unsure());
        };
        // Where dashes stand below their key without being indented, the span of the list is no place of theirs.
        let dash = self.dash(first)?;
        let indent = self.column(dash);
        let gap = first.span.start - dash - 1;
        // An item that begins below its dash says nothing about the gap.
        let gap = if (1..8).contains(&gap) && !self.text[dash..first.span.start].contains('\n') {
            gap
        } else {
            1
        };
        let lines = write::block_item(value, indent, gap, self.style);
        Ok(vec![self.below(self.last_end(last, dash), &lines)])
    }

    fn set(&self, value: &Item) -> Changes {
        let reached = self.reach(self.path)?;
        let simple = write::scalar(value, false).ok_or_else(|| self.unsure())?;
        if !reached.missing.is_empty() {
            return self.create(&reached, value.clone());
        }
        let (node, Some(entry)) = (reached.node, reached.entry) else {
            return Err(self.kind(reached.node));
        };
        match &node.value {
            Value::List(_) | Value::Map(_) => Err(self.kind(node)),
            Value::Null => {
                let colon = self.colon(entry)?;
                let literal = self.literal_null(entry);
                let text = match reached.flow {
                    true => write::scalar(value, true).unwrap_or_default(),
                    false => simple,
                };
                Ok(vec![match literal {
                    Some(span) => Change { range: span.start..span.end, text },
                    None => Change { range: colon + 1..colon + 1, text: format!(" {text}") },
                }])
            }
            _ => {
                let old = &self.text[node.span.start..node.span.end];
                if old.contains('\n') || old.starts_with(['|', '>']) {
                    return Err(self.unsure());
                }
                let text = write::in_place_of(old, value, reached.flow);
                let range = node.span.start..node.span.end;
                Ok(vec![Change { range, text: text.ok_or_else(|| self.unsure())? }])
            }
        }
    }

    /// Makes what is missing of the path below what there is, with the value at its end.
    fn create(&self, reached: &Reached<'_>, value: Item) -> Changes {
        let open = matches!(value, Item::List(_));
        let mut value = value;
        let mut keys = reached.missing;
        // Into a map that is there goes an entry; where nothing is, all of it goes.
        let entries = match &reached.node.value {
            Value::Map(entries) => Some(entries),
            _ => None,
        };
        let first = match entries {
            Some(_) => {
                let (first, rest) = keys.split_first().ok_or_else(|| self.unsure())?;
                keys = rest;
                Some(first)
            }
            None => None,
        };
        for key in keys.iter().rev() {
            value = Item::Map(vec![(key.clone(), value)]);
        }
        match (entries, first) {
            (Some(entries), Some(key)) => {
                if reached.flow || self.is_flow(reached.node) {
                    let entry = write::flow_entry(&(key.clone(), value));
                    return self.add_to_flow(
                        reached.node,
                        entries.last().map(|it| &it.value),
                        entry,
                    );
                }
                let Some(last) = entries.last() else {
                    // The front matter is empty.
                    let lines = write::block_entry(key, &value, 0, self.style, open);
                    let at = self.read.yaml.end;
                    return Ok(vec![self.lines_at(at, &lines)]);
                };
                let indent = self.column(entries[0].key_span.start);
                let lines = write::block_entry(key, &value, indent, self.style, open);
                Ok(vec![self.below(self.entry_end(last)?, &lines)])
            }
            _ => {
                let entry = reached.entry.ok_or_else(|| self.unsure())?;
                self.fill(entry, value, reached.flow, open)
            }
        }
    }

    /// Puts a list or a map where a key has nothing.
    fn fill(&self, entry: &Entry, value: Item, flow: bool, open: bool) -> Changes {
        let colon = self.colon(entry)?;
        let literal = self.literal_null(entry);
        if flow {
            let text = write::flow(&value);
            return Ok(vec![match literal {
                Some(span) => Change { range: span.start..span.end, text },
                None => Change { range: colon + 1..colon + 1, text: format!(" {text}") },
            }]);
        }
        let indent = self.column(entry.key_span.start);
        let mut lines = write::block_entry(&entry.key, &value, indent, self.style, open);
        lines.remove(0);
        if lines.is_empty() {
            return Err(self.unsure());
        }
        let mut changes = vec![self.below(colon, &lines)];
        if let Some(span) = literal {
            changes.push(Change { range: colon + 1..span.end, text: String::new() });
        }
        Ok(changes)
    }

    /// Adds to what stands between brackets.
    fn add_to_flow(&self, node: &Node, last: Option<&Node>, text: String) -> Changes {
        let insert = |at: usize, text: String| Change { range: at..at, text };
        let close = node.span.end.checked_sub(1).ok_or_else(|| self.unsure())?;
        let Some(last) = last else {
            let (from, to) = (node.span.start + 1, close);
            let blank = self.text[from..to].trim_matches(' ').is_empty();
            return Ok(vec![if blank {
                Change { range: from..to, text }
            } else {
                insert(from, text)
            }]);
        };
        let end = last.span.end;
        let comma = self.comma(end, close);
        let own_line = self.text[end..close].contains('\n');
        if !own_line {
            return Ok(vec![match comma {
                Some(comma) => insert(comma + 1, format!(" {text},")),
                None => insert(end, format!(", {text}")),
            }]);
        }
        let indent = self.indent_of_line(last.span.start);
        let from = comma.unwrap_or(end);
        let tail = if comma.is_some() { "," } else { "" };
        let line = format!("{}{text}{tail}", " ".repeat(indent));
        let mut changes = vec![self.below(from, &[line])];
        if comma.is_none() {
            changes.push(insert(end, ",".to_owned()));
        }
        Ok(changes)
    }

    fn remove(&self, matches: &Item) -> Result<(Vec<Change>, Item), EditError> {
        let reached = self.reach(self.path)?;
        let not_found = || EditError::NotFound(self.path.join("."));
        let Some(entry) = reached.entry.filter(|_| reached.missing.is_empty()) else {
            return Err(not_found());
        };
        let flow = reached.flow || self.is_flow(reached.node);
        if let Value::List(items) = &reached.node.value
            && let Some(at) = items.iter().rposition(|item| Item::of(&item.value).means(matches))
        {
            if flow {
                let spans: Vec<Span> = items.iter().map(|item| item.span).collect();
                let empty = Item::List(Vec::new());
                return Ok((self.cut_from_flow(reached.node, &spans, at)?, empty));
            }
            let dash = self.dash(&items[at])?;
            let end = self.last_end(&items[at], dash);
            return Ok((vec![self.cut_from_block(dash, end)?], Item::Null));
        }
        if !Item::of(&reached.node.value).means(matches) {
            return Err(not_found());
        }
        let parents = &self.path[..self.path.len() - 1];
        let parent = self.reach(parents)?;
        let Value::Map(entries) = &parent.node.value else { return Err(self.unsure()) };
        if parent.flow || self.is_flow(parent.node) {
            let span = |it: &Entry| Span {
                start: it.key_span.start,
                end: it.value.span.end.max(it.key_span.end),
            };
            let spans: Vec<Span> = entries.iter().map(span).collect();
            let at = entries.iter().position(|it| it.key == entry.key);
            let at = at.ok_or_else(|| self.unsure())?;
            return Ok((self.cut_from_flow(parent.node, &spans, at)?, Item::Map(Vec::new())));
        }
        let end = self.entry_end(entry)?;
        Ok((vec![self.cut_from_block(entry.key_span.start, end)?], Item::Null))
    }

    /// Takes whole lines out.
    fn cut_from_block(&self, start: usize, end: usize) -> Result<Change, EditError> {
        let line = self.line_start(start);
        if !self.text[line..start].bytes().all(|b| b == b' ') {
            return Err(self.unsure());
        }
        Ok(Change { range: line..self.line_end(end), text: String::new() })
    }

    /// Takes one of these out of brackets, with the comma that it no longer needs.
    fn cut_from_flow(&self, node: &Node, spans: &[Span], at: usize) -> Changes {
        let cut = |from: usize, to: usize| Change { range: from..to, text: String::new() };
        let this = spans[at];
        let close = node.span.end.checked_sub(1).ok_or_else(|| self.unsure())?;
        let (before, after) = (at.checked_sub(1).map(|at| spans[at]), spans.get(at + 1).copied());
        let Some(before) = before else {
            return Ok(vec![match after {
                Some(after) => cut(this.start, after.start),
                None => cut(this.start, self.comma(this.end, close).map_or(this.end, |at| at + 1)),
            }]);
        };
        let line = self.line_start(this.start);
        let alone = self.text[line..this.start].trim().is_empty() && line > before.end;
        let comma = self.comma(this.end, after.map_or(close, |after| after.start));
        let rest = self.line_end(comma.unwrap_or(this.end));
        let to = after.map_or(close, |after| after.start);
        if !alone || rest > to {
            return Ok(vec![cut(before.end, this.end)]);
        }
        // A line of its own goes as a whole; what stands before it loses its comma where this had none.
        let mut changes = vec![cut(line, rest)];
        if comma.is_none() {
            let comma = self.comma(before.end, this.start).ok_or_else(|| self.unsure())?;
            changes.push(cut(comma, comma + 1));
        }
        Ok(changes)
    }

    /// Lines below the one in which `at` stands.
    fn below(&self, at: usize, lines: &[String]) -> Change {
        // What ends with its line break, as a block of text does, ends there.
        let after_break = at > self.read.yaml.start && self.text[..at].ends_with('\n');
        self.lines_at(if after_break { at } else { self.line_end(at) }, lines)
    }

    fn lines_at(&self, at: usize, lines: &[String]) -> Change {
        let end = if self.text[..at].ends_with("\r\n") { "\r\n" } else { "\n" };
        let text = lines.iter().map(|line| format!("{line}{end}")).collect();
        Change { range: at..at, text }
    }

    /// Behind the line break of the line in which `at` stands.
    fn line_end(&self, at: usize) -> usize {
        self.text[at..].find('\n').map_or(self.text.len(), |found| at + found + 1)
    }

    fn line_start(&self, at: usize) -> usize {
        self.text[..at].rfind('\n').map_or(0, |found| found + 1)
    }

    fn column(&self, at: usize) -> usize {
        column(self.text, at)
    }

    /// By how much the line in which `at` stands is indented.
    fn indent_of_line(&self, at: usize) -> usize {
        let line = &self.text[self.line_start(at)..];
        line.bytes().take_while(|b| *b == b' ').count()
    }

    fn is_flow(&self, node: &Node) -> bool {
        let collection = matches!(node.value, Value::List(_) | Value::Map(_));
        collection && self.text[node.span.start..].starts_with(['[', '{'])
    }

    /// Where the dash of an item stands.
    fn dash(&self, item: &Node) -> Result<usize, EditError> {
        dash(self.text, item.span.start).ok_or_else(|| self.unsure())
    }

    fn colon(&self, entry: &Entry) -> Result<usize, EditError> {
        let rest = &self.text[entry.key_span.end..];
        let at = entry.key_span.end + (rest.len() - rest.trim_start_matches(' ').len());
        match self.text[at..].starts_with(':') {
            true => Ok(at),
            false => Err(self.unsure()),
        }
    }

    /// Where nothing is written as `~` or `null`.
    fn literal_null(&self, entry: &Entry) -> Option<Span> {
        let span = entry.value.span;
        let text = self.text.get(span.start..span.end)?;
        let written = matches!(text, "~" | "null" | "Null" | "NULL");
        (entry.value.value == Value::Null && written).then_some(span)
    }

    /// The end of what is written last of an entry.
    fn entry_end(&self, entry: &Entry) -> Result<usize, EditError> {
        let colon = self.colon(entry)?;
        if entry.value.value == Value::Null {
            return Ok(self.literal_null(entry).map_or(colon + 1, |span| span.end));
        }
        Ok(self.last_end(&entry.value, colon + 1))
    }

    /// The end of what is written last of a value; `or`: of one that is not written at all.
    fn last_end(&self, node: &Node, or: usize) -> usize {
        if self.is_flow(node) {
            return node.span.end;
        }
        match &node.value {
            Value::Null => or,
            Value::List(items) => {
                items.last().map_or(node.span.end, |last| self.last_end(last, last.span.start))
            }
            Value::Map(entries) => entries
                .last()
                .map_or(node.span.end, |last| self.entry_end(last).unwrap_or(last.value.span.end)),
            _ => node.span.end,
        }
    }

    /// The first comma from here on that is in no comment.
    fn comma(&self, from: usize, to: usize) -> Option<usize> {
        let mut comment = false;
        for (at, c) in self.text.get(from..to)?.char_indices() {
            match c {
                '\n' => comment = false,
                '#' => comment = true,
                ',' if !comment => return Some(from + at),
                _ => {}
            }
        }
        None
    }
}

/// The dash before what begins here.
fn dash(text: &str, at: usize) -> Option<usize> {
    let before = text[..at].trim_end_matches([' ', '\n', '\r']);
    before.ends_with('-').then(|| before.len() - 1)
}

fn column(text: &str, at: usize) -> usize {
    let line = text[..at].rfind('\n').map_or(0, |found| found + 1);
    // A byte order mark is no column.
    text[line..at].chars().filter(|c| *c != '\u{feff}').count()
}

/// How blocks are indented in this file: as the first of each kind is.
fn style(read: &Read) -> Style {
    let text = read.source.text();
    let (mut map, mut list) = (None, None);
    let mut open = vec![&read.root];
    while let Some(node) = open.pop() {
        match &node.value {
            Value::Map(entries) => {
                for entry in entries {
                    let start = entry.value.span.start;
                    let block = !text[start..].starts_with(['[', '{']);
                    let below =
                        |at| column(text, at).checked_sub(column(text, entry.key_span.start));
                    match &entry.value.value {
                        Value::Map(_) if block => map = map.or(below(start).filter(|n| *n > 0)),
                        Value::List(items) if block => {
                            let dash = items.first().and_then(|item| dash(text, item.span.start));
                            list = list.or(dash.and_then(below));
                        }
                        _ => {}
                    }
                }
                open.extend(entries.iter().rev().map(|entry| &entry.value));
            }
            Value::List(items) => open.extend(items.iter().rev()),
            _ => {}
        }
    }
    let map = map.unwrap_or(2);
    Style { map, list: list.unwrap_or(map) }
}
