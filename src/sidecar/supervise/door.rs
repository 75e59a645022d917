//! Whether a request may be at the door at all, by its head.

use hyper::header::{
    ACCEPT, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, ORIGIN,
};
use hyper::{HeaderMap, Method, Response};

use crate::model::access::PROXY_PORT;
use crate::sidecar::{Authority, CanonicalPath, Code, Host};

/// Everything below it is the sidecar's own: no route of a bottle has it.
pub const PREFIX: &str = "/.bottle/";

/// The door.
pub const PATH: &str = "/.bottle/mcp";

/// The longest message.
pub const BODY: usize = 16 * 1024;

/// Whether a path is below the sidecar's own.
#[must_use]
pub fn is_own(path: &CanonicalPath) -> bool {
    path.path().starts_with(PREFIX)
}

/// Whether a sidecar with these names is the one that is meant. Its port matters: another one is another server.
#[must_use]
pub fn is_named(authority: &Authority, names: &[Host]) -> bool {
    authority.port() == PROXY_PORT && names.contains(authority.host())
}

/// Judges a head, after the host that it names: the first thing that is wrong with it.
///
/// # Errors
/// Why it is refused.
pub fn judge(
    method: &Method,
    path: &CanonicalPath,
    headers: &HeaderMap,
    names: &[Host],
) -> Result<(), Code> {
    if !own_origin(headers, names) {
        return Err(Code::OriginNotAllowed);
    }
    if path.as_str() != PATH {
        return Err(Code::RouteNotFound);
    }
    if *method != Method::POST {
        return Err(Code::MethodNotAllowed);
    }
    if !is_json(headers) || headers.contains_key(CONTENT_ENCODING) {
        return Err(Code::UnsupportedMediaType);
    }
    Ok(())
}

/// A page in a browser of the machine is no agent. What is no browser names no origin, or the sidecar's.
fn own_origin(headers: &HeaderMap, names: &[Host]) -> bool {
    let mut fields = headers.get_all(ORIGIN).iter();
    let (Some(origin), None) = (fields.next(), fields.next()) else {
        return headers.get(ORIGIN).is_none();
    };
    let authority = origin.as_bytes().strip_prefix(b"http://");
    // A browser leaves no port out but 80; without one the sidecar itself is meant.
    let authority = authority.map(|raw| Authority::parse(raw, Some(PROXY_PORT)));
    matches!(authority, Some(Ok(authority)) if is_named(&authority, names))
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut fields = headers.get_all(CONTENT_TYPE).iter();
    let (Some(kind), None) = (fields.next(), fields.next()) else { return false };
    let Ok(kind) = kind.to_str() else { return false };
    let (kind, parameters) = kind.split_once(';').unwrap_or((kind, ""));
    let parameters = parameters.trim();
    let plain = parameters.is_empty()
        || parameters.eq_ignore_ascii_case("charset=utf-8")
        || parameters.eq_ignore_ascii_case("charset=\"utf-8\"");
    kind.trim().eq_ignore_ascii_case("application/json") && plain
}

/// Whether an answer may come in events, so that it can be waited for.
#[must_use]
pub fn takes_events(headers: &HeaderMap) -> bool {
    let kinds = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = kinds.flat_map(|value| value.split(','));
    kinds.any(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("text/event-stream")
    })
}

/// The one field of this name, where there is one that is text.
///
/// # Errors
/// There are several, or it is none.
pub(super) fn field<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, ()> {
    let mut fields = headers.get_all(name).iter();
    match (fields.next(), fields.next()) {
        (None, _) => Ok(None),
        (Some(one), None) => one.to_str().map(|text| Some(text.trim())).map_err(drop),
        _ => Err(()),
    }
}

/// Says which method there is.
pub fn only_post<T>(response: &mut Response<T>) {
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, value.parse().unwrap());
        }
        map
    }

    fn names() -> Vec<Host> {
        ["sidecar", "localhost", "127.0.0.1"]
            .map(|name| Host::parse(name.as_bytes()).unwrap())
            .into()
    }

    fn judged(method: &Method, path: &str, fields: &[(&str, &str)]) -> Result<(), Code> {
        let path = CanonicalPath::parse(path.as_bytes()).unwrap();
        assert!(is_own(&path));
        judge(method, &path, &map(fields), &names())
    }

    const JSON: (&str, &str) = ("content-type", "application/json");

    #[test]
    fn the_port_is_part_of_the_name() {
        for (text, ok) in [
            ("sidecar:3128", true),
            ("SIDECAR.:3128", true),
            ("127.0.0.1:3128", true),
            ("sidecar:80", false),
            ("evil.test:3128", false),
            ("127.0.0.2:3128", false),
        ] {
            let authority = Authority::parse(text.as_bytes(), Some(80)).unwrap();
            assert_eq!(is_named(&authority, &names()), ok, "{text}");
        }
        let plain = Authority::parse(b"sidecar", Some(80)).unwrap();
        assert!(!is_named(&plain, &names()));
    }

    #[test]
    fn a_page_of_another_origin_is_no_agent() {
        for origin in ["http://sidecar:3128", "http://sidecar", "http://127.0.0.1:3128"] {
            assert_eq!(
                judged(&Method::POST, PATH, &[JSON, ("origin", origin)]),
                Ok(()),
                "{origin}"
            );
        }
        for origin in [
            "http://evil.test",
            "http://sidecar:80",
            "https://sidecar:3128",
            "http://sidecar:3128/",
            "null",
            "",
            "http://sidecar.evil.test:3128",
            "http://u@sidecar:3128",
        ] {
            let found = judged(&Method::POST, PATH, &[JSON, ("origin", origin)]);
            assert_eq!(found, Err(Code::OriginNotAllowed), "{origin}");
        }
        let two = [JSON, ("origin", "http://sidecar"), ("origin", "http://sidecar")];
        assert_eq!(judged(&Method::POST, PATH, &two), Err(Code::OriginNotAllowed));
    }

    #[test]
    fn one_thing_after_the_other() {
        assert_eq!(judged(&Method::POST, "/.bottle/other", &[JSON]), Err(Code::RouteNotFound));
        assert_eq!(judged(&Method::POST, "/.bottle/mcp?x", &[JSON]), Err(Code::RouteNotFound));
        assert_eq!(judged(&Method::GET, PATH, &[]), Err(Code::MethodNotAllowed));
        for wrong in [
            &[][..],
            &[("content-type", "text/plain")],
            &[("content-type", "application/json; charset=utf-16")],
            &[JSON, JSON],
            &[JSON, ("content-encoding", "gzip")],
            &[JSON, ("content-encoding", "identity")],
        ] {
            let found = judged(&Method::POST, PATH, wrong);
            assert_eq!(found, Err(Code::UnsupportedMediaType), "{wrong:?}");
        }
        let charset = [("content-type", "Application/JSON; charset=UTF-8")];
        assert_eq!(judged(&Method::POST, PATH, &charset), Ok(()));
    }

    #[test]
    fn who_takes_events_says_so() {
        let takes = |accept| takes_events(&map(&[("accept", accept)]));
        assert!(takes("application/json, text/event-stream"));
        assert!(takes("text/event-stream;q=0.5"));
        assert!(!takes("*/*") && !takes("application/json") && !takes_events(&HeaderMap::new()));
    }
}
