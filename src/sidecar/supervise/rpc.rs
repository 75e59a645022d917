//! JSON-RPC, and the versions of the protocol on top of it.

use hyper::HeaderMap;
use hyper::header::HeaderName;
use serde_json::{Map, Value, json};

use super::{door, json};

/// The one without an opening: each message says all about itself.
pub const STATELESS: &str = "2026-07-28";

/// Those that begin with `initialize`, the newest first.
const OPENED: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");

/// Where a message says its version beside the header.
const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";

/// A message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// What its answer is known by; without it there is none.
    pub id: Option<Value>,
    /// What it wants.
    pub method: String,
    /// With what.
    pub params: Map<String, Value>,
}

/// Which kind of version a message speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// One with an opening.
    Opened,
    /// [`STATELESS`].
    Stateless,
}

/// Why a message is answered with an error.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// The status of the HTTP answer.
    pub status: u16,
    /// JSON-RPC's, or the protocol's.
    pub code: i64,
    /// For a person.
    pub message: String,
    /// What more there is.
    pub data: Option<Value>,
}

impl Fault {
    fn new(status: u16, code: i64, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), data: None }
    }

    /// What is asked for is not there.
    #[must_use]
    pub fn unknown_method(era: Era) -> Self {
        let status = if era == Era::Stateless { 404 } else { 200 };
        Self::new(status, -32601, "Method not found")
    }

    /// What is asked for is asked for wrongly.
    #[must_use]
    pub fn params(message: impl Into<String>) -> Self {
        Self::new(200, -32602, message)
    }

    fn mismatch(message: impl Into<String>) -> Self {
        Self::new(400, -32020, message)
    }
}

/// Reads a message.
///
/// # Errors
/// With the id, where one was read: [`Fault`] as JSON-RPC has it.
pub fn read(body: &[u8]) -> Result<Message, (Option<Value>, Fault)> {
    let value = json::parse(body)
        .map_err(|why| (None, Fault::new(400, -32700, format!("Parse error: {why}"))))?;
    let invalid = |why: &str| Fault::new(400, -32600, format!("Invalid Request: {why}"));
    let Value::Object(mut all) = value else {
        return Err((None, invalid("one object is one message, and there are no batches")));
    };
    let id = match all.remove("id") {
        None => None,
        Some(id) if id.is_string() || id.is_i64() || id.is_u64() => Some(id),
        Some(_) => return Err((None, invalid("`id` is neither a string nor a whole number"))),
    };
    if all.get("jsonrpc") != Some(&Value::from("2.0")) {
        return Err((id, invalid("`jsonrpc` is not \"2.0\"")));
    }
    let Some(Value::String(method)) = all.remove("method") else {
        return Err((id, invalid("there is no `method`")));
    };
    let params = match all.remove("params") {
        None => Map::new(),
        Some(Value::Object(params)) => params,
        Some(_) => return Err((id, invalid("`params` is no object"))),
    };
    Ok(Message { id, method, params })
}

/// Which version a message speaks, by its head and by itself.
///
/// # Errors
/// None that is known, or the two say different things.
pub fn era(headers: &HeaderMap, message: &Message) -> Result<Era, Fault> {
    let one = |name: &HeaderName| {
        let twice = || Fault::mismatch(format!("Header mismatch: {name} is not one text"));
        door::field(headers, name).map_err(|()| twice())
    };
    let version = one(&VERSION)?;
    match version {
        // Some clients of the older versions never say which.
        None => return Ok(Era::Opened),
        Some(version) if OPENED.contains(&version) => return Ok(Era::Opened),
        Some(STATELESS) => {}
        Some(version) => {
            let requested: String = version.chars().take(32).collect();
            return Err(Fault {
                data: Some(json!({"supported": supported(), "requested": requested})),
                ..Fault::new(400, -32022, "Unsupported protocol version")
            });
        }
    }
    // What has no answer says no more than that it was accepted.
    if message.id.is_none() {
        return Ok(Era::Stateless);
    }
    let meta = message.params.get("_meta").and_then(|meta| meta.get(META_VERSION));
    if meta.is_some_and(|meta| meta != STATELESS) {
        return Err(Fault::mismatch("Header mismatch: the body speaks another version"));
    }
    if one(&METHOD)? != Some(&*message.method) {
        return Err(Fault::mismatch("Header mismatch: Mcp-Method is not the method of the body"));
    }
    if message.method == "tools/call"
        && one(&NAME)? != message.params.get("name").and_then(Value::as_str)
    {
        return Err(Fault::mismatch("Header mismatch: Mcp-Name is not the name in the body"));
    }
    Ok(Era::Stateless)
}

/// All versions, the newest first.
#[must_use]
pub fn supported() -> Vec<&'static str> {
    [STATELESS].into_iter().chain(OPENED).collect()
}

/// What is said about this server.
fn server_info() -> Value {
    json!({"name": "bottle", "version": env!("CARGO_PKG_VERSION")})
}

/// The answer to `initialize`.
#[must_use]
pub fn opening(params: &Map<String, Value>, instructions: &str) -> Value {
    let asked = params.get("protocolVersion").and_then(Value::as_str);
    let version = asked.filter(|asked| OPENED.contains(asked)).unwrap_or(OPENED[0]);
    json!({
        "protocolVersion": version,
        "capabilities": {"tools": {}},
        "serverInfo": server_info(),
        "instructions": instructions,
    })
}

/// The answer to `server/discover`.
#[must_use]
pub fn discovered(instructions: &str) -> Value {
    json!({
        "resultType": "complete",
        "supportedVersions": supported(),
        "capabilities": {"tools": {}},
        "_meta": {"io.modelcontextprotocol/serverInfo": server_info()},
        "instructions": instructions,
        "ttlMs": TTL,
        "cacheScope": "private",
    })
}

/// How long a list may be kept, in milliseconds.
const TTL: u32 = 60_000;

/// The answer to `tools/list`.
#[must_use]
pub fn listed(era: Era, tools: Vec<Value>) -> Value {
    match era {
        Era::Opened => json!({"tools": tools}),
        Era::Stateless => json!({
            "resultType": "complete", "tools": tools, "ttlMs": TTL, "cacheScope": "private",
        }),
    }
}

/// The answer to `tools/call`: one part of text, for clients differ in which other part they show their model.
#[must_use]
pub fn said(era: Era, text: &str, is_error: bool) -> Value {
    let mut said = json!({"content": [{"type": "text", "text": text}], "isError": is_error});
    if let (Era::Stateless, Some(said)) = (era, said.as_object_mut()) {
        said.insert("resultType".to_owned(), "complete".into());
    }
    said
}

/// A whole answer.
#[must_use]
pub fn answer(id: &Value, result: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

/// A whole answer that is an error.
#[must_use]
pub fn failed(id: Option<&Value>, fault: &Fault) -> Value {
    let mut error = json!({"code": fault.code, "message": fault.message});
    if let (Some(data), Some(error)) = (&fault.data, error.as_object_mut()) {
        error.insert("data".to_owned(), data.clone());
    }
    json!({"jsonrpc": "2.0", "id": id, "error": error})
}

/// By what progress of a call is known, where its caller wants to hear of it.
#[must_use]
pub fn progress_token(params: &Map<String, Value>) -> Option<Value> {
    let token = params.get("_meta")?.get("progressToken")?;
    (token.is_string() || token.is_i64() || token.is_u64()).then(|| token.clone())
}

/// That a call goes on.
#[must_use]
pub fn progress(token: &Value, count: u64, text: &str) -> Value {
    json!({
        "jsonrpc": "2.0",
        "method": "notifications/progress",
        "params": {"progressToken": token, "progress": count, "message": text},
    })
}

/// One event of a stream. JSON has no line ends of its own.
#[must_use]
pub fn event(message: &Value) -> String {
    format!("event: message\ndata: {message}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Message {
        read(text.as_bytes()).unwrap()
    }

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        map
    }

    #[test]
    fn what_is_no_message_is_told_so() {
        for (text, code) in [
            ("", -32700),
            (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#, -32700),
            ("[]", -32600),
            (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, -32600),
            (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, -32600),
            (r#"{"id":1,"method":"ping"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#, -32600),
        ] {
            let (_, fault) = read(text.as_bytes()).unwrap_err();
            assert_eq!((fault.code, fault.status), (code, 400), "{text}");
        }
        assert_eq!(message(r#"{"jsonrpc":"2.0","method":"x"}"#).id, None);
    }

    #[test]
    fn versions_are_told_apart() {
        let ping = message(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
        for version in OPENED {
            assert_eq!(era(&headers(&[("mcp-protocol-version", version)]), &ping), Ok(Era::Opened));
        }
        assert_eq!(era(&HeaderMap::new(), &ping), Ok(Era::Opened));
        let unknown = era(&headers(&[("mcp-protocol-version", "2027-01-01")]), &ping).unwrap_err();
        assert_eq!((unknown.code, unknown.status), (-32022, 400));
        assert_eq!(unknown.data.unwrap()["supported"][0], STATELESS);
    }

    #[test]
    fn a_message_that_says_all_about_itself_says_it_twice() {
        let now = ("mcp-protocol-version", STATELESS);
        let call = message(
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"request-status"}}"#,
        );
        let (method, name) = (("mcp-method", "tools/call"), ("mcp-name", "request-status"));
        assert_eq!(era(&headers(&[now, method, name]), &call), Ok(Era::Stateless));
        for wrong in [
            &[now, name][..],
            &[now, ("mcp-method", "tools/list"), name],
            &[now, method],
            &[now, method, ("mcp-name", "pipelock-block")],
            &[now, method, method, name],
        ] {
            let fault = era(&headers(wrong), &call).unwrap_err();
            assert_eq!((fault.code, fault.status), (-32020, 400), "{wrong:?}");
        }
        let discover = r#"{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{"_meta":
            {"io.modelcontextprotocol/protocolVersion":"VERSION"}}}"#;
        let head = headers(&[now, ("mcp-method", "server/discover")]);
        let said = |version| era(&head, &message(&discover.replace("VERSION", version)));
        assert_eq!(said(STATELESS), Ok(Era::Stateless));
        assert_eq!(said("2025-11-25").unwrap_err().code, -32020);
    }

    #[test]
    fn an_opening_echoes_what_it_knows() {
        let open = |version: &str| {
            let params = json!({"protocolVersion": version});
            opening(params.as_object().unwrap(), "x")["protocolVersion"].clone()
        };
        assert_eq!(open("2024-11-05"), "2024-11-05");
        assert_eq!(open("2026-07-28"), "2025-11-25");
        assert_eq!(open("x"), "2025-11-25");
    }

    #[test]
    fn an_event_is_two_lines_whatever_is_in_it() {
        let event = event(&said(Era::Opened, "a\nb\r\n\ndata: x", false));
        assert_eq!(event.lines().count(), 3, "{event}");
        assert!(event.ends_with("\n\n"));
    }
}
