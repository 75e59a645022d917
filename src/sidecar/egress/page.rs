//! The page that says why.

use bytes::Bytes;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

use super::dialect::Dialect;
use crate::sidecar::Code;

/// Says which code it is, so that a program need not read the page.
pub(super) const BLOCK: HeaderName = HeaderName::from_static("x-bottle-block");
/// The request's name in the log.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-bottle-request-id");

/// Says to clients of models whether to ask again.
const RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// What to do where the agent can ask for it.
const ASK: &str = "ask the operator: call the tool `pipelock-block` of the MCP server `bottle` as `ask` says, with the \
                   whole URL that failed and your reason";

const REFUSED: &str = "refused by the sandbox's sidecar";

#[derive(Serialize)]
struct Page<'a> {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    error: Value,
    /// What git's LFS shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'static str>,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    request_id: &'a str,
    next: &'a str,
    /// By which call it is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    ask: Option<&'a Value>,
}

/// What a refusal is about. Nothing of it was made by the machine but the canonical host.
#[derive(Default)]
pub(super) struct About<'a> {
    pub(super) host: Option<&'a str>,
    pub(super) route: Option<&'a str>,
    pub(super) request_id: &'a str,
    /// What to do, where there is more to say than for every case of the code.
    pub(super) next: Option<&'static str>,
    /// By which call the agent asks for it, where it can.
    pub(super) ask: Option<Value>,
    /// In which form it is understood, where that is not the page's own.
    pub(super) dialect: Option<Dialect>,
}

/// What a client of models shows of a refusal, in the form that it knows.
fn error(dialect: Dialect, code: &str, status: u16, next: &str) -> Value {
    let message = format!("{REFUSED}: {code}: {next}");
    let kind = dialect.kind(status);
    match dialect {
        Dialect::Anthropic => json!({ "type": kind, "message": message }),
        Dialect::OpenAi => {
            json!({ "message": message, "type": kind, "param": null, "code": code })
        }
        Dialect::Google => json!({ "code": status, "message": message, "status": kind }),
    }
}

/// The page for a refusal. `close`: nothing else is answered on this connection.
pub(super) fn page(code: &Code, about: &About<'_>, close: bool) -> Response<Bytes> {
    let text = code.as_str();
    let rule = match code {
        Code::Dlp { rule } => Some(&**rule),
        Code::KnownSecret { .. } => Some("known-secret"),
        _ => None,
    };
    let status = about.dialect.map_or(code.status(), |_| Dialect::status(code));
    let next = about.next.unwrap_or(code.next());
    let next = about.ask.as_ref().map_or(next, |_| ASK);
    let page = Page {
        kind: (about.dialect == Some(Dialect::Anthropic)).then_some("error"),
        error: match about.dialect {
            None => REFUSED.into(),
            Some(dialect) => error(dialect, &text, status, next),
        },
        message: (*code == Code::LargeFiles)
            .then_some("bottle: large files (LFS) are not passed on"),
        code: &text,
        rule,
        host: about.host,
        route: about.route,
        request_id: about.request_id,
        next,
        ask: about.ask.as_ref(),
    };
    // A page of strings is always written.
    let mut body = serde_json::to_vec(&page).unwrap_or_default();
    body.push(b'\n');
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    // git shows what is plain text to whoever pushes, and nothing else.
    let kind = if *code == Code::UseGitGate { "text/plain" } else { "application/json" };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert(BLOCK, value);
    }
    if let Ok(value) = HeaderValue::from_str(about.request_id) {
        headers.insert(REQUEST_ID, value);
    }
    if about.dialect.is_some() && status < 500 {
        headers.insert(RETRY, HeaderValue::from_static("false"));
    }
    if close || code.closes() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The page for a mistake of the sidecar's own, which says nothing about it.
pub(super) fn internal_error(request_id: &str) -> Response<Bytes> {
    let page = format!(
        "{{\"error\":\"the sandbox's sidecar made a mistake\",\"code\":\"internal_error\",\
         \"request_id\":\"{request_id}\",\"next\":\"tell the operator: its log says where\"}}\n"
    );
    let mut response = Response::new(Bytes::from(page));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(BLOCK, HeaderValue::from_static("internal_error"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
