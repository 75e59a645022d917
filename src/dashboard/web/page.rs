//! What is sent: the three files of the page, and the fields that every answer has.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{CONTENT_TYPE, HeaderName};
use hyper::{Response, StatusCode};

/// A body, whole or as it comes.
pub(super) type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

const HTML: &str = include_str!("index.html");
const STYLE: &str = include_str!("app.css");
const SCRIPT: &str = include_str!("app.js");
/// A bottle, for the browser's tab.
const ICON: &str = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>\
                    <path fill='#0a6b4a' d='M6 1h4v4l2 3v7H4V8l2-3z'/></svg>\n";

/// What the page may do: nothing but what this port sends, and no text becomes markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

const FIELDS: [(&str, &str); 7] = [
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("x-frame-options", "DENY"),
];

/// One of the page's files.
pub(super) fn file(path: &str) -> Option<Response<Body>> {
    let (kind, text) = match path {
        "/" => ("text/html; charset=utf-8", HTML),
        "/app.css" => ("text/css; charset=utf-8", STYLE),
        "/app.js" => ("text/javascript; charset=utf-8", SCRIPT),
        "/icon.svg" => ("image/svg+xml", ICON),
        _ => return None,
    };
    Some(answer(StatusCode::OK, kind, text))
}

/// A plain word.
pub(super) fn word(status: StatusCode, text: &'static str) -> Response<Body> {
    answer(status, "text/plain; charset=utf-8", text)
}

/// JSON.
pub(super) fn json(status: StatusCode, text: String) -> Response<Body> {
    answer(status, "application/json", text)
}

fn answer(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    of(status, kind, Full::new(text.into()).boxed_unsync())
}

/// With this body.
pub(super) fn of(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    for (name, value) in FIELDS {
        let value = hyper::header::HeaderValue::from_static(value);
        headers.insert(HeaderName::from_static(name), value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page is built of text nodes: where it does not name what makes markup of text, no text becomes any.
    #[test]
    fn no_text_becomes_markup() {
        for name in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("]
        {
            assert!(!SCRIPT.contains(name), "{name}");
        }
        for name in ["http://", "https://", "<script>", "style=", "onclick"] {
            assert!(!HTML.replace("http://www.w3.org", "").contains(name), "{name}");
        }
    }
}
