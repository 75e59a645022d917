//! Vendors of models: each answers as it documents, with a stream of events. A conversation in which somebody says
//! [`TASK`] is answered with a call of the agent's own tool for commands, once; one in which somebody says [`ASKS`] with calls
//! of the tools by which its operator is asked, until he has decided; every other with [`DONE`].

use std::convert::Infallible;

use bytes::Bytes;
use hyper::Response;
use serde_json::{Value, json};

use super::internet::{Body, full, pieces};

pub(super) const ANTHROPIC: &str = "api.anthropic.com";
pub(super) const OPENAI: &str = "api.openai.com";
pub(super) const GOOGLE: &str = "generativelanguage.googleapis.com";

/// What a prompt says so that a tool is called.
pub(super) const TASK: &str = "please use-the-tool";
/// The command that the tool is to run.
const COMMAND: &str = "echo made > /workspace/made";
/// What a prompt says so that the operator is asked.
pub(super) const ASKS: &str = "please ask-the-operator";
/// For which host.
pub(super) const ASKED: &str = "asked.example.com";

/// What the model calls next, of the tools by which the operator is asked: a name, and with what. `said`: the
/// conversation, as text.
fn question(said: &str) -> Option<(&'static str, Value)> {
    // What a tool has said may stand in JSON in JSON.
    let said = said.replace('\\', "");
    if !said.contains(ASKS) || said.contains("applied: ") || said.contains("denied: by") {
        return None;
    }
    Some(match said.rfind("pending: r-") {
        Some(at) => {
            let at = at + "pending: ".len();
            ("request-status", json!({ "id": said[at..at + 10] }))
        }
        None => {
            let url = format!("https://{ASKED}/simple/x/");
            ("pipelock-block", json!({ "failed_url": url, "reason": "it was refused" }))
        }
    })
}

/// The name of a tool as an agent gives it to its model: with something before it, and another sign in it.
fn given(tools: &Value, name: &str) -> Option<String> {
    let plain = |text: &str| text.replace('-', "_");
    match tools {
        Value::Array(all) => all.iter().find_map(|tool| given(tool, name)),
        Value::Object(all) => {
            let own = all.get("name").and_then(Value::as_str);
            own.filter(|own| plain(own).ends_with(&plain(name))).map(str::to_owned).or_else(|| {
                all.values().find_map(|value| value.is_array().then(|| given(value, name))?)
            })
        }
        _ => None,
    }
}

/// What the model says in the end, word by word.
const WORDS: [&str; 3] = ["all ", "is ", "done"];
pub(super) const DONE: &str = "all is done";

/// Milliseconds between two events.
const PAUSE_MS: u64 = 20;

/// The answer of a vendor; `None`: this host is none, or documents nothing there.
pub(super) fn answer(host: &str, path: &str, body: &Bytes) -> Option<Response<Body>> {
    let asked = || serde_json::from_slice::<Value>(body).ok();
    match (host, path) {
        (ANTHROPIC, "/v1/messages") => Some(anthropic(&asked()?)),
        (OPENAI, "/v1/responses") => Some(openai(&asked()?)),
        (GOOGLE, path) if path.ends_with(":streamGenerateContent") => {
            let parts = google(&asked()?);
            Some(events(&[(None, candidates(&parts))]))
        }
        // Which model is to be asked.
        (GOOGLE, path) if path.ends_with(":generateContent") => {
            let chosen = json!({ "complexity_reasoning": "it is", "complexity_score": 50 });
            let response = Response::builder().header("content-type", "application/json");
            let answer = candidates(&json!([{ "text": chosen.to_string() }]));
            Some(response.body(full(answer.to_string())).unwrap())
        }
        _ => None,
    }
}

/// Whether the tool is still to be called: nothing in the conversation is what it said.
fn is_to_call(all: &Value, result: &str) -> bool {
    let all = all.to_string();
    all.contains(TASK) && !all.contains(result)
}

fn events(all: &[(Option<&str>, Value)]) -> Response<Body> {
    let event = |(name, data): &(Option<&str>, Value)| {
        let name = name.map(|name| format!("event: {name}\n")).unwrap_or_default();
        format!("{name}data: {data}\n\n")
    };
    let all: Vec<String> = all.iter().map(event).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let response: Result<_, Infallible> = Ok(pieces(&all, PAUSE_MS));
    let Ok(body) = response;
    Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
}

/// <https://docs.anthropic.com/en/docs/build-with-claude/streaming>
fn anthropic(asked: &Value) -> Response<Body> {
    let model = &asked["model"];
    let usage = json!({ "input_tokens": 10, "output_tokens": 1 });
    let tools = asked["tools"].as_array().into_iter().flatten();
    let mut names = tools.filter_map(|tool| tool["name"].as_str());
    let shell = names.find(|name| name.eq_ignore_ascii_case("bash"));
    let shell = shell.filter(|_| is_to_call(&asked["messages"], "tool_result"));
    let input = json!({ "command": COMMAND, "description": "makes it" });
    let mut call = shell.map(|shell| (shell.to_owned(), input));
    if let Some((name, input)) = question(&asked["messages"].to_string())
        && let Some(name) = given(&asked["tools"], name)
    {
        call = Some((name, input));
    }
    let turn = asked["messages"].as_array().map_or(0, Vec::len);
    let message = |content: Value, stop: Value| {
        json!({ "id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": content,
                "stop_reason": stop, "stop_sequence": null, "usage": usage })
    };
    if asked["stream"] != true {
        let answer = message(json!([{ "type": "text", "text": DONE }]), json!("end_turn"));
        let response = Response::builder().header("content-type", "application/json");
        return response.body(full(answer.to_string())).unwrap();
    }
    let delta = |delta: Value| {
        let data = json!({ "type": "content_block_delta", "index": 0, "delta": delta });
        (Some("content_block_delta"), data)
    };
    let start = |block: Value| {
        let data = json!({ "type": "content_block_start", "index": 0, "content_block": block });
        (Some("content_block_start"), data)
    };
    let begun = json!({ "type": "message_start", "message": message(json!([]), Value::Null) });
    let mut all = vec![(Some("message_start"), begun)];
    let stop = match call {
        Some((name, input)) => {
            let id = format!("toolu_{turn}");
            all.push(start(json!({ "type": "tool_use", "id": id, "name": name, "input": {} })));
            let input = input.to_string();
            all.push(delta(json!({ "type": "input_json_delta", "partial_json": input })));
            "tool_use"
        }
        None => {
            all.push(start(json!({ "type": "text", "text": "" })));
            all.extend(WORDS.map(|word| delta(json!({ "type": "text_delta", "text": word }))));
            "end_turn"
        }
    };
    all.push((Some("content_block_stop"), json!({ "type": "content_block_stop", "index": 0 })));
    let end = json!({ "type": "message_delta", "delta": { "stop_reason": stop, "stop_sequence": null },
                      "usage": { "output_tokens": 5 } });
    all.push((Some("message_delta"), end));
    all.push((Some("message_stop"), json!({ "type": "message_stop" })));
    events(&all)
}

/// <https://platform.openai.com/docs/api-reference/responses-streaming>
fn openai(asked: &Value) -> Response<Body> {
    // The tool that Codex gives its models is a program of theirs, which calls its other tools.
    let question = question(&asked["input"].to_string());
    let calls = is_to_call(&asked["input"], "call_output\"") || question.is_some();
    let program = match question {
        None => format!("text((await tools.exec_command({{cmd: \"{COMMAND}\"}})).output)"),
        Some((name, input)) => {
            let name = name.replace('-', "_");
            format!(
                "// @exec: {{\"yield_time_ms\": 120000}}\ntext(JSON.stringify(await tools.mcp__bottle__{name}({input})))"
            )
        }
    };
    let turn = asked["input"].as_array().map_or(0, Vec::len);
    let item = match calls {
        true => {
            json!({ "type": "custom_tool_call", "id": format!("ctc_{turn}"), "call_id": format!("call_{turn}"),
                    "name": "exec", "input": program, "status": "completed" })
        }
        false => {
            json!({ "type": "message", "id": "m_1", "role": "assistant", "status": "completed",
                         "content": [{ "type": "output_text", "text": DONE, "annotations": [] }] })
        }
    };
    let response = |status: &str, output: Value| {
        json!({ "id": "resp_1", "object": "response", "created_at": 1, "status": status,
                "model": asked["model"], "output": output,
                "usage": { "input_tokens": 1, "input_tokens_details": { "cached_tokens": 0 },
                           "output_tokens": 1, "output_tokens_details": { "reasoning_tokens": 0 },
                           "total_tokens": 2 } })
    };
    let mut all = vec![
        ("response.created", json!({ "response": response("in_progress", json!([])) })),
        ("response.output_item.added", json!({ "output_index": 0, "item": item })),
    ];
    if !calls {
        let word = |word| json!({ "item_id": "m_1", "output_index": 0, "content_index": 0, "delta": word });
        all.extend(WORDS.map(|text| ("response.output_text.delta", word(text))));
    }
    all.push(("response.output_item.done", json!({ "output_index": 0, "item": item })));
    all.push(("response.completed", json!({ "response": response("completed", json!([item])) })));
    let all: Vec<(Option<&str>, Value)> = all
        .into_iter()
        .map(|(name, mut data)| {
            data["type"] = json!(name);
            (Some(name), data)
        })
        .collect();
    events(&all)
}

/// <https://ai.google.dev/api/generate-content>
fn google(asked: &Value) -> Value {
    if let Some((name, input)) = question(&asked["contents"].to_string())
        && let Some(name) = given(&asked["tools"], name)
    {
        return json!([{ "functionCall": { "name": name, "args": input } }]);
    }
    match is_to_call(&asked["contents"], "functionResponse") {
        true => json!([{ "functionCall": { "name": "run_shell_command",
                                           "args": { "command": COMMAND, "description": "makes it" } } }]),
        false => json!([{ "text": DONE }]),
    }
}

fn candidates(parts: &Value) -> Value {
    json!({
        "candidates": [{ "content": { "role": "model", "parts": parts }, "finishReason": "STOP", "index": 0 }],
        "usageMetadata": { "promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2 },
        "modelVersion": "gemini",
    })
}
