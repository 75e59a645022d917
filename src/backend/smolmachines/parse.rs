//! What `smolvm` prints, read. Pure, and lenient: releases add fields and states, and leave some out.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::model::text::replaced;

/// One machine of `machine ls --json`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Row {
    pub name: String,
    pub state: String,
    pub reason: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub image: Option<String>,
    pub pid: Option<u32>,
    pub cpus: Option<u64>,
    pub memory_mib: Option<u64>,
    pub mounts: Option<u64>,
    pub ports: Option<u64>,
    pub network: bool,
    /// What it may reach, and where it looks names up, in the program's own words.
    pub reach: BTreeSet<String>,
    pub created: Option<u64>,
}

/// The listing. What is no machine in it is left out; what is no listing is an error.
pub(super) fn listing(bytes: &[u8]) -> Result<Vec<Row>, String> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|e| format!("it printed no JSON ({e}): `{}`", start_of(bytes)))?;
    let Value::Array(rows) = value else {
        return Err(format!("it printed no list of machines: `{}`", start_of(bytes)));
    };
    Ok(rows.iter().filter_map(row).collect())
}

fn start_of(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(240)]);
    replaced(text.trim(), "", ' ').chars().take(60).collect()
}

fn row(value: &Value) -> Option<Row> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let number = |name: &str| value.get(name).and_then(Value::as_u64);
    let labels = value.get("labels").and_then(Value::as_object);
    let labels = labels.into_iter().flatten();
    Some(Row {
        name: text("name").filter(|name| !name.is_empty())?,
        state: text("state").unwrap_or_default(),
        reason: text("state_reason"),
        labels: labels
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect(),
        image: text("image"),
        pid: number("pid").and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0),
        cpus: number("cpus"),
        memory_mib: number("memory_mib"),
        mounts: number("mounts"),
        ports: number("ports"),
        network: value.get("network").and_then(Value::as_bool).unwrap_or_default(),
        reach: reach(value),
        created: number("created_at"),
    })
}

/// Releases that show nothing of it have nothing here.
fn reach(value: &Value) -> BTreeSet<String> {
    let list = |name: &str| value.get(name).and_then(Value::as_array).into_iter().flatten();
    let allowed = list("allowed_cidrs").chain(list("allowed_hosts")).filter_map(Value::as_str);
    let dns = value.get("dns").and_then(Value::as_str).map(|server| format!("dns {server}"));
    allowed.map(str::to_owned).chain(dns).collect()
}

/// Why `smolvm` itself failed, by the last line of its stderr that says so in JSON; `None`: it was
/// the command that ended so.
pub(super) fn failure(stderr: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(stderr);
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    let value: Value = serde_json::from_str(last).ok()?;
    let error = value.get("error")?;
    let message = error.get("message").and_then(Value::as_str)?;
    error.get("code").and_then(Value::as_str)?;
    Some(message.to_owned())
}

/// What it said, for people: its JSON's message, else the last line; not more than can be read.
pub(super) fn words(stderr: &[u8]) -> String {
    let message = failure(stderr).unwrap_or_else(|| {
        let text = String::from_utf8_lossy(stderr);
        let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
        let last = last.unwrap_or("it said nothing");
        last.strip_prefix("Error: ").unwrap_or(last).to_owned()
    });
    if message.chars().count() <= LONGEST_WORDS {
        return message;
    }
    let start: String = message.chars().take(LONGEST_WORDS).collect();
    format!("{start}…")
}

/// The longest message of the program that is passed on whole, in characters.
const LONGEST_WORDS: usize = 600;

#[cfg(test)]
mod tests;
