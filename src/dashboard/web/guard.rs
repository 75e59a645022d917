//! Who may ask for what. Pure: a request's head in, a yes or the answer that refuses it out.
//!
//! Another program of this user could do all of this by itself. What is kept out is another *page* in the same browser:
//! one of the internet that made its name lead here (`Host`), one on another port of this machine (cookies and sites
//! do not tell ports apart), a form that posts (`Origin`, `Content-Type`, a header of our own).

use hyper::header::{CONTENT_TYPE, COOKIE, HOST, ORIGIN};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, StatusCode};

/// The longest body.
pub(super) const BODY: u64 = 16 << 10;

/// What a request is checked against.
pub(super) struct Own {
    pub(super) port: u16,
    /// What the browser has been given.
    pub(super) cookie: String,
}

/// What all requests have to keep to, whatever they ask for.
pub(super) fn head(parts: &Parts, own: &Own) -> Result<(), StatusCode> {
    let names = [format!("127.0.0.1:{}", own.port), format!("localhost:{}", own.port)];
    let is_own = |name: &str| names.iter().any(|own| own.eq_ignore_ascii_case(name));
    let host = only(&parts.headers, HOST.as_str()).map_err(|()| StatusCode::MISDIRECTED_REQUEST)?;
    if !host.is_some_and(is_own) || parts.uri.authority().is_some_and(|it| !is_own(it.as_str())) {
        return Err(StatusCode::MISDIRECTED_REQUEST);
    }
    match only(&parts.headers, "sec-fetch-site") {
        Ok(None | Some("same-origin" | "none")) => {}
        _ => return Err(StatusCode::FORBIDDEN),
    }
    match parts.method {
        Method::GET => Ok(()),
        Method::POST => post(parts, &names),
        _ => Err(StatusCode::METHOD_NOT_ALLOWED),
    }
}

fn post(parts: &Parts, names: &[String]) -> Result<(), StatusCode> {
    let headers = &parts.headers;
    let origin = only(headers, ORIGIN.as_str()).ok().flatten();
    let origin = origin.and_then(|origin| origin.strip_prefix("http://"));
    if !origin.is_some_and(|origin| names.iter().any(|own| own == origin)) {
        return Err(StatusCode::FORBIDDEN);
    }
    if only(headers, "x-bottle") != Ok(Some("1")) {
        return Err(StatusCode::FORBIDDEN);
    }
    let kind = only(headers, CONTENT_TYPE.as_str()).ok().flatten().unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    Ok(())
}

/// Whether the browser has the cookie.
pub(super) fn is_known(headers: &HeaderMap, own: &Own) -> bool {
    let name = name(own.port);
    let fields = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    fields
        .flat_map(|field| field.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .any(|(key, value)| key == name && same(value, &own.cookie))
}

/// What the cookie is called: another port's has another name.
pub(super) fn name(port: u16) -> String {
    format!("bottle-{port}")
}

/// Compares in a time that does not tell where they differ.
pub(super) fn same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let differs = one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b));
    one.len() == other.len() && std::hint::black_box(differs) == 0
}

/// The value of a field that comes at most once.
fn only<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, ()> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(());
    }
    first.map(|value| value.to_str().map_err(drop)).transpose()
}

/// The value of a parameter of a query, as it stands: what is asked for here needs no escapes.
pub(super) fn parameter<'q>(query: Option<&'q str>, name: &str) -> Option<&'q str> {
    let mut pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn own() -> Own {
        Own { port: 4711, cookie: "c".repeat(64) }
    }

    fn asked(method: &str, uri: &str, fields: &[(&str, &str)]) -> Result<(), u16> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        head(&parts, &own()).map_err(|status| status.as_u16())
    }

    const HERE: (&str, &str) = ("host", "127.0.0.1:4711");

    #[test]
    fn only_a_page_of_this_port_asks() {
        assert_eq!(asked("GET", "/", &[HERE]), Ok(()));
        assert_eq!(asked("GET", "/", &[("host", "LOCALHOST:4711")]), Ok(()));
        assert_eq!(asked("GET", "http://127.0.0.1:4711/", &[HERE]), Ok(()));
        for (uri, fields) in [
            ("/", &[][..]),
            ("/", &[("host", "evil.test:4711")]),
            ("/", &[("host", "127.0.0.1")]),
            ("/", &[("host", "127.0.0.1:4712")]),
            ("/", &[("host", "127.0.0.1:4711.evil.test")]),
            ("/", &[HERE, HERE]),
            ("http://evil.test:4711/", &[HERE]),
        ] {
            assert_eq!(asked("GET", uri, fields), Err(421), "{uri} {fields:?}");
        }
        for site in ["same-origin", "none"] {
            assert_eq!(asked("GET", "/", &[HERE, ("sec-fetch-site", site)]), Ok(()));
        }
        for site in ["same-site", "cross-site", "", "Same-Origin", "none, none"] {
            assert_eq!(asked("GET", "/", &[HERE, ("sec-fetch-site", site)]), Err(403), "{site}");
        }
        let twice = [HERE, ("sec-fetch-site", "none"), ("sec-fetch-site", "none")];
        assert_eq!(asked("GET", "/", &twice), Err(403));
        for method in ["PUT", "DELETE", "OPTIONS", "HEAD", "TRACE"] {
            assert_eq!(asked(method, "/", &[HERE]), Err(405), "{method}");
        }
    }

    #[test]
    fn only_the_pages_own_script_posts() {
        let origin = ("origin", "http://127.0.0.1:4711");
        let (kind, mark) = (("content-type", "application/json"), ("x-bottle", "1"));
        assert_eq!(asked("POST", "/", &[HERE, origin, kind, mark]), Ok(()));
        let with = ("content-type", "Application/JSON; charset=utf-8");
        assert_eq!(asked("POST", "/", &[HERE, origin, with, mark]), Ok(()));
        for (fields, status) in [
            (vec![HERE, kind, mark], 403),
            (vec![HERE, ("origin", "null"), kind, mark], 403),
            (vec![HERE, ("origin", "http://127.0.0.1:4712"), kind, mark], 403),
            (vec![HERE, ("origin", "https://127.0.0.1:4711"), kind, mark], 403),
            (vec![HERE, ("origin", "http://evil.test"), kind, mark], 403),
            (vec![HERE, origin, origin, kind, mark], 403),
            (vec![HERE, origin, kind], 403),
            (vec![HERE, origin, kind, ("x-bottle", "2")], 403),
            (vec![HERE, origin, mark], 415),
            (vec![HERE, origin, mark, ("content-type", "text/plain")], 415),
            (vec![HERE, origin, mark, ("content-type", "application/x-www-form-urlencoded")], 415),
        ] {
            assert_eq!(asked("POST", "/", &fields), Err(status), "{fields:?}");
        }
    }

    #[test]
    fn the_cookie_is_this_ports() {
        let known = |cookies: &[&str]| {
            let mut headers = HeaderMap::new();
            for cookie in cookies {
                headers.append(COOKIE, cookie.parse().unwrap());
            }
            is_known(&headers, &own())
        };
        let right = format!("bottle-4711={}", "c".repeat(64));
        assert!(known(&[&right]));
        assert!(known(&[&format!("a=b; bottle-4711=old; {right}")]));
        assert!(known(&["a=b", &right]));
        assert!(!known(&[]));
        assert!(!known(&["bottle-4711="]));
        assert!(!known(&[&format!("bottle-4712={}", "c".repeat(64))]));
        assert!(!known(&[&format!("bottle-4711={}", "c".repeat(63))]));
        assert!(!known(&[&format!("bottle-4711={}d", "c".repeat(63))]));
    }

    #[test]
    fn parameters_are_found() {
        assert_eq!(parameter(Some("t=abc"), "t"), Some("abc"));
        assert_eq!(parameter(Some("a=1&t="), "t"), Some(""));
        assert_eq!(parameter(Some("at=1"), "t"), None);
        assert_eq!(parameter(None, "t"), None);
    }
}
