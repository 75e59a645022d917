//! Values as they are spelled in YAML: plain where nobody can read that otherwise, else in quotes.

use super::Item;
use crate::manifest::yaml;

/// How a block is indented in a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    /// By how much a map is indented below its key.
    pub(super) map: usize,
    /// By how much the dashes of a list are.
    pub(super) list: usize,
}

/// A text, a number or the like.
pub(super) fn scalar(item: &Item, flow: bool) -> Option<String> {
    Some(match item {
        Item::Null => "null".to_owned(),
        Item::Bool(flag) => flag.to_string(),
        Item::Number(text) => text.clone(),
        Item::Text(text) if is_plain(text, flow) => text.clone(),
        Item::Text(text) => quoted(text),
        Item::List(_) | Item::Map(_) => return None,
    })
}

/// The same where something in quotes stood: they stay.
pub(super) fn in_place_of(old: &str, item: &Item, flow: bool) -> Option<String> {
    match (old.chars().next(), item) {
        (Some('"'), Item::Text(text)) => Some(quoted(text)),
        (Some('\''), Item::Text(text)) if !text.chars().any(char::is_control) => {
            Some(format!("'{}'", text.replace('\'', "''")))
        }
        _ => scalar(item, flow),
    }
}

/// What JSON quotes so, YAML reads as the same text.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Whether a text can stand without quotes, by a narrow rule.
fn is_plain(text: &str, flow: bool) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "_./*+-@=%~$".contains(c);
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric() || c == '/');
    // `host:8443` and `https://host` are texts, and `host: 8443` is a map.
    let colon = |(at, c): (usize, char)| c == ':' && !flow && at + 1 < text.len();
    first
        && text.char_indices().all(|(at, c)| inner(c) || colon((at, c)))
        && yaml::is_text(text)
        && !matches!(text.to_ascii_lowercase().as_str(), "yes" | "no" | "on" | "off" | "y" | "n")
}

/// A key.
pub(super) fn key(text: &str, flow: bool) -> String {
    if is_plain(text, flow) && !text.contains(':') { text.to_owned() } else { quoted(text) }
}

/// In one line, between brackets or not.
pub(super) fn flow(item: &Item) -> String {
    match item {
        Item::List(items) => {
            let items: Vec<String> = items.iter().map(flow).collect();
            format!("[{}]", items.join(", "))
        }
        Item::Map(entries) => {
            let entries: Vec<String> = entries.iter().map(flow_entry).collect();
            format!("{{{}}}", entries.join(", "))
        }
        item => scalar(item, true).unwrap_or_default(),
    }
}

/// `key: value` between brackets.
pub(super) fn flow_entry((name, value): &(String, Item)) -> String {
    format!("{}: {}", key(name, true), flow(value))
}

/// Whether it stands in the line of its key or its dash.
fn in_line(item: &Item) -> bool {
    match item {
        Item::List(items) => items.iter().all(|item| !matches!(item, Item::List(_) | Item::Map(_))),
        Item::Map(entries) => entries.is_empty(),
        _ => true,
    }
}

fn one_line(item: &Item) -> String {
    scalar(item, false).unwrap_or_else(|| flow(item))
}

/// The lines of `key: value` in a block that is indented by `indent`. A list that is to grow (`open`) stands
/// item by item.
pub(super) fn block_entry(
    name: &str,
    value: &Item,
    indent: usize,
    style: Style,
    open: bool,
) -> Vec<String> {
    let mut lines = Vec::new();
    let head = format!("{}{}:", " ".repeat(indent), key(name, false));
    match value {
        Item::List(items) if (open || !in_line(value)) && !items.is_empty() => {
            lines.push(head);
            for item in items {
                lines.extend(block_item(item, indent + style.list, 1, style));
            }
        }
        Item::Map(entries) if !entries.is_empty() => {
            lines.push(head);
            for (name, value) in entries {
                lines.extend(block_entry(name, value, indent + style.map, style, open));
            }
        }
        value => lines.push(format!("{head} {}", one_line(value))),
    }
    lines
}

/// The lines of an item of a list whose dashes are indented by `indent`, with so many spaces behind them.
pub(super) fn block_item(item: &Item, indent: usize, gap: usize, style: Style) -> Vec<String> {
    let dash = format!("{}-{}", " ".repeat(indent), " ".repeat(gap));
    match item {
        Item::Map(entries) if !entries.is_empty() => {
            let inner = indent + 1 + gap;
            let mut lines: Vec<String> = entries
                .iter()
                .flat_map(|(name, value)| block_entry(name, value, inner, style, false))
                .collect();
            if let Some(first) = lines.first_mut() {
                *first = format!("{dash}{}", first.trim_start());
            }
            lines
        }
        item if in_line(item) => vec![format!("{dash}{}", one_line(item))],
        item => vec![format!("{dash}{}", flow(item))],
    }
}
