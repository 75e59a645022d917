//! The door at which an agent asks its operator, as a program in a machine finds it: raw HTTP, and decisions that come
//! with documents.

mod answers;
mod ends;
mod flood;
mod protocol;
mod refused;
mod waiting;

use std::time::Duration;

use bottle::model::supervise::{Held, Request};
use serde_json::{Value, json};

use super::client::{Answer, Client};
use super::memory;
use super::world::{World, allowing};

const HOST: &str = "sidecar:3128";

/// All tools.
fn section() -> Value {
    json!({
        "tools": ["pipelock-block", "cred-proxy-block", "capability-block", "request-status"],
        "what": ["memory", "env"],
    })
}

/// A sidecar whose agent may ask.
async fn world() -> World {
    let mut world = World::start(allowing(&["api.example.com"])).await;
    world.document["supervise"] = section();
    world.load().await.unwrap();
    world
}

/// A request to the door with these fields beside those that every client sends.
fn post(target: &str, fields: &[(&str, &str)], body: &str) -> String {
    let mut head = format!("POST {target} HTTP/1.1\r\nContent-Length: {}\r\n", body.len());
    let given = |name: &str| fields.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
    for (name, value) in [("Host", HOST), ("Content-Type", "application/json")] {
        if !given(name) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    format!("{head}\r\n{body}")
}

fn message(id: u64, method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()
}

/// Sends a message by a connection of its own.
async fn send(world: &World, fields: &[(&str, &str)], body: &str) -> Answer {
    world.proxy().await.ask(post("/.bottle/mcp", fields, body)).await
}

/// The answer to a message, which is one JSON object.
async fn said(world: &World, method: &str, params: &Value) -> Value {
    let answer = send(world, &[], &message(1, method, params)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    serde_json::from_slice(&answer.body).unwrap()
}

/// What a tool says, and whether that is an error.
async fn called(world: &World, tool: &str, arguments: Value) -> (String, bool) {
    let said = said(world, "tools/call", &json!({"name": tool, "arguments": arguments})).await;
    text_of(&said)
}

fn text_of(said: &Value) -> (String, bool) {
    let result = &said["result"];
    assert_eq!(result["content"].as_array().map(Vec::len), Some(1), "{said}");
    assert!(result.get("structuredContent").is_none(), "{said}");
    let text = result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{said}"));
    (text.to_owned(), result["isError"] == true)
}

/// Asks without waiting.
async fn asks(world: &World, url: &str) -> String {
    let arguments = json!({"failed_url": url, "reason": "it fails", "wait_seconds": 0});
    let (text, is_error) = called(world, "pipelock-block", arguments).await;
    assert!(!is_error, "{text}");
    text
}

/// The request's name in what was said.
fn id_of(text: &str) -> String {
    let at = text.find("r-").unwrap_or_else(|| panic!("{text}"));
    text[at..at + 10].to_owned()
}

async fn held(world: &World) -> Held {
    world.state().await.requests
}

async fn pending(world: &World) -> Vec<Request> {
    held(world).await.pending
}

/// A decision, as the host tells it.
fn decided(request: &Request, state: &str, message: Option<&str>) -> Value {
    let mut decided = serde_json::to_value(&request.ask).unwrap();
    let object = decided.as_object_mut().unwrap();
    object.insert("id".into(), json!(request.id));
    object.insert("state".into(), state.into());
    object.insert("at".into(), bottle::sidecar::clock::moment().in_seconds().into());
    if let Some(message) = message {
        object.insert("message".into(), message.into());
    }
    decided
}

/// Loads a decision; with `grants`, also what it grants.
async fn decide(world: &mut World, request: &Request, state: &str, message: Option<&str>) {
    let told = decided(request, state, message);
    let all = world.document["supervise"]["requests"].take();
    let mut all = all.as_array().cloned().unwrap_or_default();
    all.retain(|other| other["id"] != told["id"]);
    all.insert(0, told);
    world.document["supervise"]["requests"] = all.into();
    world.load().await.unwrap();
}

/// Grants what a request asks for, and says so, in one document.
async fn apply(world: &mut World, request: &Request) {
    let bottle::model::supervise::Ask::Egress(ask) = &request.ask else { panic!("{request:?}") };
    let allow = world.document["policy"]["allow"].as_array_mut().unwrap();
    allow.push(serde_json::to_value(ask).unwrap());
    decide(world, request, "applied", None).await;
}

/// A call that waits, with events.
async fn waits(world: &World, tool: &str, arguments: Value, token: Option<&str>) -> Client {
    let mut params = json!({"name": tool, "arguments": arguments});
    if let Some(token) = token {
        params["_meta"] = json!({"progressToken": token});
    }
    let accept = ("Accept", "application/json, text/event-stream");
    let mut client = world.proxy().await;
    client.send(post("/.bottle/mcp", &[accept], &message(7, "tools/call", &params))).await;
    client
}

/// The events of an answer.
fn events(answer: &Answer) -> Vec<Value> {
    let text = answer.text();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits until so many requests are pending.
async fn until_pending(world: &World, count: usize) -> Vec<Request> {
    for _ in 0..500 {
        let pending = pending(world).await;
        if pending.len() >= count {
            assert_eq!(pending.len(), count);
            return pending;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{count} requests do not come");
}
