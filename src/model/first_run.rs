//! What agents ask a person at their first start, and would wait for unattended: the answers, as they keep them.
//! Pure.
//!
//! Codex keeps its own in the file of its role ([`super::roles`]), Gemini CLI finds its in [`super::access::GEMINI`],
//! and OpenCode asks nothing.

use serde_json::{Map, Value, json};

use super::policy::RouteRole;
use super::roles::PLACEHOLDER;

/// A file of an agent's own state, in JSON, below the home folder of the sandbox's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answers {
    /// Its path, from there.
    pub path: &'static str,
    /// What is to stand in it.
    pub wanted: Value,
}

/// The answers that an agent of this role wants. `folders`: where its programs start.
///
/// Claude Code's are those that it writes itself (`hasCompletedOnboarding` and `projects` of `~/.claude.json`), and
/// what its documentation has for a key that stands in the environment and for its mode without questions.
#[must_use]
pub fn answers(role: RouteRole, folders: &[&str]) -> Vec<Answers> {
    if role != RouteRole::AnthropicBaseUrl {
        return Vec::new();
    }
    let trusted = |folder: &&str| ((*folder).to_owned(), json!({ "hasTrustDialogAccepted": true }));
    let projects: Map<String, Value> = folders.iter().map(trusted).collect();
    // It remembers a key by its last 20 characters.
    let key = &PLACEHOLDER[PLACEHOLDER.len().saturating_sub(20)..];
    let state = json!({
        "hasCompletedOnboarding": true,
        "projects": projects,
        "customApiKeyResponses": { "approved": [key] },
    });
    vec![
        Answers { path: ".claude.json", wanted: state },
        Answers {
            path: ".claude/settings.json",
            wanted: json!({ "skipDangerousModePermissionPrompt": true }),
        },
    ]
}

/// The file with the answers that it lacks. `None`: it lacks none, or is not the agent's: what somebody has answered
/// stays, whatever it was.
#[must_use]
pub fn answered(theirs: &str, wanted: &Value) -> Option<String> {
    let mut all: Value = match theirs.trim() {
        "" => json!({}),
        theirs => serde_json::from_str(theirs).ok()?,
    };
    // On one line: with an indent, a file of brackets that a guest has planted would grow a hundredfold.
    add(&mut all, wanted).then(|| format!("{all}\n"))
}

/// Adds what is lacking. Whether anything was.
fn add(all: &mut Value, wanted: &Value) -> bool {
    let mut added = false;
    match (all, wanted) {
        (Value::Object(all), Value::Object(wanted)) => {
            for (key, value) in wanted {
                added |= match all.get_mut(key) {
                    Some(there) => add(there, value),
                    None => all.insert(key.clone(), value.clone()).is_none(),
                };
            }
        }
        (Value::Array(all), Value::Array(wanted)) => {
            for value in wanted {
                if !all.contains(value) {
                    all.push(value.clone());
                    added = true;
                }
            }
        }
        _ => {}
    }
    added
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_lacks_is_added_and_what_it_has_stays() {
        let all = answers(RouteRole::AnthropicBaseUrl, &["/workspace", "/root"]);
        let state = &all[0].wanted;
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let new = answered("", state).unwrap();
        assert_eq!(read(&new), *state);
        assert_eq!(answered(&new, state), None, "a second time adds nothing");
        let theirs = r#"{"theme": "light", "hasCompletedOnboarding": false, "projects": {"/workspace":
            {"hasTrustDialogAccepted": false, "x": [1]}}, "customApiKeyResponses": {"approved": ["other"]}}"#;
        let both = read(&answered(theirs, state).unwrap());
        let expected = json!({
            "theme": "light",
            "hasCompletedOnboarding": false,
            "projects": {
                "/workspace": { "hasTrustDialogAccepted": false, "x": [1] },
                "/root": { "hasTrustDialogAccepted": true },
            },
            "customApiKeyResponses": { "approved": ["other", "added-by-the-sidecar"] },
        });
        assert_eq!(both, expected);
        let planted = format!("{{\"x\": {}{}}}", "[".repeat(100), "0,".repeat(1000));
        let planted = format!("{}0{}}}", &planted[..planted.len() - 1], "]".repeat(100));
        assert!(
            answered(&planted, state).unwrap().len() < planted.len() + 1000,
            "it does not grow"
        );
        // What is no file of its kind is left alone.
        for odd in [
            "[]",
            "{",
            "7",
            "{\"projects\": 1, \"hasCompletedOnboarding\": true, \"customApiKeyResponses\": 2}",
        ] {
            assert_eq!(answered(odd, state), None, "{odd}");
        }
        assert_eq!(answers(RouteRole::NpmRegistry, &["/workspace"]), []);
    }
}
