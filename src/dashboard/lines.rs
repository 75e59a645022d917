//! Lines of records as people read them: what sidecars decided, and what was done to the tree. Pure.

use serde::Deserialize;

use crate::model::Moment;

/// A line of a sidecar's record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Passed {
    /// Whose sidecar wrote it; no part of the line.
    #[serde(skip)]
    pub sandbox: String,
    /// When, as RFC 3339 has it.
    #[serde(default)]
    pub time: String,
    /// `allow`, `deny`, …
    #[serde(default)]
    pub event: String,
    /// The method of the request.
    #[serde(default)]
    pub method: Option<String>,
    /// Host and port.
    #[serde(default)]
    pub host: Option<String>,
    /// The path.
    #[serde(default)]
    pub path: Option<String>,
    /// Why.
    #[serde(default)]
    pub code: Option<String>,
    /// The name of the request.
    #[serde(default)]
    pub request_id: Option<String>,
    /// In words.
    #[serde(default)]
    pub detail: Option<String>,
}

impl Passed {
    /// Reads a line of the record of this sandbox; `None`: it is none.
    #[must_use]
    pub fn read(sandbox: &str, line: &str) -> Option<Self> {
        let passed: Self = serde_json::from_str(line).ok()?;
        Some(Self { sandbox: sandbox.to_owned(), ..passed })
    }

    /// The same in words, beside the sandbox's name: `19:02:03 deny GET host:443/path code`.
    #[must_use]
    pub fn text(&self) -> String {
        let time = self.time.get(11..19).unwrap_or(&self.time);
        let mut text = format!("{time} {:<8} {:<5}", self.sandbox, self.event);
        if let Some(method) = &self.method {
            text.push_str(&format!(" {method}"));
        }
        if let Some(host) = &self.host {
            text.push_str(&format!(" {host}{}", self.path.as_deref().unwrap_or_default()));
        }
        for part in [&self.code, &self.detail].into_iter().flatten() {
            text.push_str(&format!("  {part}"));
        }
        text
    }

    /// Something was refused, or went wrong.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        matches!(self.event.as_str(), "deny" | "revoked" | "error" | "config_rejected")
    }
}

/// A line of the audit record, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Audited {
    #[serde(default)]
    at: u64,
    event: String,
    #[serde(default)]
    action: Option<String>,
    #[serde(default)]
    sandbox: Option<String>,
    #[serde(default)]
    request: Option<String>,
    #[serde(default)]
    by: Option<String>,
    #[serde(default)]
    commit: Option<String>,
    #[serde(default)]
    error: Option<String>,
}

/// A line of the audit record in words: `2026-11-28 19:02:31 op approved r-7f3k2q9d (ada) → 3f2c1a9`.
#[must_use]
pub fn audited(line: &str) -> Option<String> {
    let line: Audited = serde_json::from_str(line).ok()?;
    let at = Moment::of_seconds(line.at).in_seconds();
    let mut text = at.trim_end_matches('Z').replacen('T', " ", 1);
    if let Some(by) = &line.by {
        text.push_str(&format!(" {by}"));
    }
    match (&line.action, &line.sandbox) {
        (Some(action), Some(sandbox)) => {
            text.push_str(&format!(" {sandbox}: {action} {}", line.event));
        }
        (Some(action), None) => text.push_str(&format!(" {action} {}", line.event)),
        (None, sandbox) => {
            text.push_str(&format!(" {}", line.event));
            match (&line.request, sandbox) {
                (Some(request), Some(sandbox)) => {
                    text.push_str(&format!(" {request} ({sandbox})"));
                }
                (Some(one), None) | (None, Some(one)) => text.push_str(&format!(" {one}")),
                (None, None) => {}
            }
        }
    }
    if let Some(commit) = &line.commit {
        text.push_str(&format!(" → {}", commit.get(..7).unwrap_or(commit)));
    }
    if let Some(error) = &line.error {
        text.push_str(&format!(": {error}"));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read() {
        let line = r#"{"time":"2026-11-28T19:02:03.123Z","event":"deny","request_id":"8d2f0c","method":"GET","host":"index.example.org:443","path":"/simple/","code":"host_not_allowed"}"#;
        let passed = Passed::read("ada", line).unwrap();
        assert!(passed.is_bad());
        assert_eq!(
            passed.text(),
            "19:02:03 ada      deny  GET index.example.org:443/simple/  host_not_allowed"
        );
        assert_eq!(Passed::read("ada", "no JSON"), None);
    }

    #[test]
    fn audit_lines_are_read() {
        let at = 1_764_356_551;
        let line = format!(
            r#"{{"at":{at},"pid":1,"event":"approved","request":"r-7f3k2q9d","sandbox":"ada","by":"op","via":"tui","commit":"3f2c1a9e0b"}}"#
        );
        assert_eq!(
            audited(&line).unwrap(),
            "2025-11-28 19:02:31 op approved r-7f3k2q9d (ada) → 3f2c1a9"
        );
        let line = format!(
            r#"{{"at":{at},"pid":1,"run":0,"event":"failed","step":2,"action":"create","backend":"native","sandbox":"ada","error":"no room"}}"#
        );
        assert_eq!(audited(&line).unwrap(), "2025-11-28 19:02:31 ada: create failed: no room");
    }
}
