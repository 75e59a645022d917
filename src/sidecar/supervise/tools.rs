//! What an agent finds in its list of tools, and what all of it is for.

use serde_json::{Value, json};

use super::arguments::{CAP, METHODS, REQUEST_ID, UPSTREAM, URL, VALUE};
use crate::model::policy::RouteRole;
use crate::model::supervise::{REASON, Section, Tool};

/// What an agent is told before it asks for anything.
pub const INSTRUCTIONS: &str = "\
What this sandbox refuses can be asked for: pipelock-block for the network, cred-proxy-block for a credential, \
capability-block for the machine itself.\n\
What it may do now is written in /etc/bottle/current-config.\n\
pending is not denied: the operator decides later. Do other work meanwhile, and wait again by request-status.";

/// The tools of a sandbox, as `tools/list` has them.
#[must_use]
pub fn list(section: &Section) -> Vec<Value> {
    section.tools.iter().map(|tool| described(*tool, section)).collect()
}

fn described(tool: Tool, section: &Section) -> Value {
    let (description, properties, required) = match tool {
        Tool::PipelockBlock => (
            "Something was refused by the network sandbox. Ask the operator to allow it. Give the URL that failed. \
             Waits for the decision; pending is not a denial.",
            json!({
                "failed_url": {
                    "type": "string",
                    "maxLength": URL,
                    "description": "The URL that was refused, e.g. https://index.example.org/simple/x/",
                },
                "methods": methods("Default: the methods that were refused, else GET and HEAD"),
                "whole_host": {
                    "type": "boolean",
                    "description": "true: every path; default: only the path's first segments",
                },
                "request_id": {
                    "type": "string",
                    "maxLength": REQUEST_ID,
                    "description": "X-Bottle-Request-Id of the refusal",
                },
                "reason": reason(),
                "wait_seconds": wait(),
            }),
            &["failed_url", "reason"][..],
        ),
        Tool::CredProxyBlock => (
            "A service needs a credential that the sandbox does not have, or refuses the one it has. Ask the operator \
             for it. Never send a credential here. Waits for the decision; pending is not a denial.",
            json!({
                "upstream": {
                    "type": "string",
                    "maxLength": UPSTREAM,
                    "description": "The https URL below which the service is, e.g. https://api.example.com/v1",
                },
                "problem": {"type": "string", "enum": ["missing", "rejected"]},
                "methods": methods("The methods that will be used"),
                "role": {
                    "type": "string",
                    "enum": RouteRole::ALL.map(RouteRole::as_str),
                    "description": "What else is to be set up to use it",
                },
                "reason": reason(),
                "wait_seconds": wait(),
            }),
            &["upstream", "problem", "reason"][..],
        ),
        Tool::CapabilityBlock => (
            "The sandbox itself lacks something. Ask the operator to change it. `what` lists what can be changed here. \
             A package is mostly had by pipelock-block for a mirror of it, and installed below the home folder. Waits \
             for the decision; pending is not a denial.",
            json!({
                "what": {
                    "type": "string",
                    "enum": section.what.iter().map(|what| what.as_str()).collect::<Vec<_>>(),
                },
                "value": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": VALUE,
                    "description": "To what: 4G, NAME=value, ripgrep",
                },
                "reason": reason(),
                "wait_seconds": wait(),
            }),
            &["what", "value", "reason"][..],
        ),
        Tool::RequestStatus => (
            "How a request stands, and, while it is pending, a wait for its decision. Without an id: the last requests \
             of this sandbox, and what it may do now.",
            json!({
                "id": {
                    "type": "string",
                    "pattern": "^r-[a-z2-7]{8}$",
                    "description": "The request, as pending named it",
                },
                "wait_seconds": wait(),
            }),
            &[][..],
        ),
    };
    json!({
        "name": tool.as_str(),
        "description": description,
        "inputSchema": {
            "type": "object",
            "additionalProperties": false,
            "required": required,
            "properties": properties,
        },
        "annotations": {
            "readOnlyHint": tool == Tool::RequestStatus,
            "destructiveHint": false,
            "idempotentHint": true,
            "openWorldHint": false,
        },
        // Else one client hides it until its model searches for it.
        "_meta": {"anthropic/alwaysLoad": true},
    })
}

fn methods(description: &str) -> Value {
    json!({
        "type": "array",
        "maxItems": METHODS,
        "items": {"type": "string", "pattern": "^[A-Z]{1,16}$"},
        "description": description,
    })
}

fn reason() -> Value {
    json!({
        "type": "string",
        "minLength": 3,
        "maxLength": REASON,
        "description": "Why, for the operator to read",
    })
}

fn wait() -> Value {
    json!({"type": "integer", "minimum": 0, "maximum": CAP})
}

/// What the tools of the protocol's own conformance tests answer: text, and whether it is an error.
#[cfg(any(test, feature = "testing"))]
#[must_use]
pub fn fixture(name: &str) -> Option<(&'static str, bool)> {
    match name {
        "test_simple_text" => Some(("This is a simple text response for testing.", false)),
        "test_error_handling" => {
            Some(("This tool intentionally returns an error for testing", true))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::supervise::What;

    #[test]
    fn each_backend_has_the_tools_of_what_it_can_change() {
        let names = |section: &Section| -> Vec<String> {
            list(section).iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
        };
        let all = Section::new(vec![What::Memory, What::Env]);
        assert_eq!(
            names(&all),
            ["pipelock-block", "cred-proxy-block", "capability-block", "request-status"]
        );
        let what = &list(&all)[2]["inputSchema"]["properties"]["what"]["enum"];
        assert_eq!(what, &json!(["memory", "env"]));
        let few = Section::new(Vec::new());
        assert_eq!(names(&few), ["pipelock-block", "cred-proxy-block", "request-status"]);
        for tool in list(&all) {
            assert_eq!(tool["inputSchema"]["additionalProperties"], false);
            assert_eq!(tool["_meta"]["anthropic/alwaysLoad"], true);
        }
        assert_eq!(INSTRUCTIONS.lines().count(), 3);
    }
}
