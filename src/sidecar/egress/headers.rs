//! Fields of a head that end at the sidecar, and those that go on.

use hyper::StatusCode;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, EXPECT, HOST, HeaderMap, HeaderName,
    HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

use super::limits;
use crate::sidecar::framing::asks_for_a_part;
use crate::sidecar::{Authority, Route};

/// What belongs to one connection, and never to the next.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authorization"),
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Takes out what belongs to this connection, and what its `Connection` field says does.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let nominated: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    for name in nominated.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// The fields of a request that go on. Its host and the length of its body are written anew, from
/// what was decided and scanned.
pub(super) fn strip_request(headers: &mut HeaderMap) {
    let trailers = headers
        .get_all(TE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"));
    strip_hop_by_hop(headers);
    for name in [HOST, CONTENT_LENGTH, EXPECT, TE, HeaderName::from_static("http2-settings")] {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Takes out what asks for a part of a response, or for the difference to another one. A server that
/// does not know such a field ignores it, so the whole is what everybody has to expect.
pub(super) fn strip_partial(headers: &mut HeaderMap) {
    let partial: Vec<HeaderName> =
        headers.keys().filter(|name| asks_for_a_part(name.as_str())).cloned().collect();
    for name in partial {
        headers.remove(name);
    }
}

/// Whether a response is a part of one, or the difference to another.
pub(super) fn is_partial(status: StatusCode, headers: &HeaderMap) -> bool {
    let parts = |value: &HeaderValue| {
        let kind = value.as_bytes().trim_ascii_start();
        kind.get(..20).is_some_and(|kind| kind.eq_ignore_ascii_case(b"multipart/byteranges"))
    };
    status == StatusCode::PARTIAL_CONTENT
        || status == StatusCode::IM_USED
        || headers.contains_key(CONTENT_RANGE)
        || headers.get_all(CONTENT_TYPE).iter().any(parts)
}

/// Whether the head of a response is more than is passed on.
pub(super) fn is_head_too_large(headers: &HeaderMap) -> bool {
    let size = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    headers.len() > limits::RESPONSE_FIELDS
        || headers.iter().map(size).sum::<usize>() > limits::RESPONSE_HEAD_SIZE
}

/// The fields of a response that go on. Of those that come behind the body, HTTP/1.1 passes on what is
/// named in front of it.
pub(super) fn strip_response(headers: &mut HeaderMap) {
    let late: Vec<HeaderValue> = headers.get_all(TRAILER).iter().cloned().collect();
    strip_hop_by_hop(headers);
    for names in late {
        headers.append(TRAILER, names);
    }
    headers.remove(TE);
    // It names ways around the sidecar, which lead nowhere.
    headers.remove(HeaderName::from_static("alt-svc"));
}

/// Where at the path door the place is that a route's upstream names.
pub(super) fn door_location(location: &str, route: &Route) -> Option<String> {
    let path = match location.strip_prefix("https://") {
        Some(rest) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let authority = Authority::parse(&rest.as_bytes()[..end], Some(443)).ok()?;
            if authority != *route.upstream() {
                return None;
            }
            &rest[end..]
        }
        None if location.starts_with('/') && !location.starts_with("//") => location,
        None => return None,
    };
    let rest = path.strip_prefix(route.upstream_path())?;
    match rest.strip_prefix('/') {
        Some(rest) => Some(format!("{}{rest}", route.path())),
        None if rest.is_empty() || rest.starts_with(['?', '#']) => {
            Some(format!("{}{rest}", route.path()))
        }
        None => None,
    }
}

/// Where a place is for the machine that a service names by its own address.
pub(super) fn service_location(location: &str, port: u16, asked: &Authority) -> Option<String> {
    let own = [format!("http://localhost:{port}"), format!("http://127.0.0.1:{port}")];
    let rest = own.iter().find_map(|own| location.strip_prefix(own.as_str()))?;
    let ends = rest.is_empty() || rest.starts_with(['/', '?', '#']);
    ends.then(|| format!("http://{}{rest}", asked.to_header(80)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        map
    }

    #[test]
    fn what_belongs_to_a_connection_stays_on_it() {
        let mut headers = map(&[
            ("connection", "X-Foo, authorization"),
            ("connection", "close"),
            ("x-foo", "1"),
            ("x-bar", "1"),
            ("authorization", "Bearer x"),
            ("proxy-authorization", "Basic x"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip"),
            ("upgrade", "foo"),
            ("expect", "100-continue"),
            ("host", "a"),
            ("content-length", "3"),
            ("transfer-encoding", "chunked"),
        ]);
        strip_request(&mut headers);
        assert_eq!(headers, map(&[("x-bar", "1")]));
        let mut headers = map(&[("te", " Trailers "), ("trailer", "x")]);
        strip_request(&mut headers);
        assert_eq!(headers, map(&[("te", "trailers")]));
    }

    #[test]
    fn nothing_that_asks_for_a_part_goes_on() {
        let mut headers = map(&[
            ("range", "bytes=0-9"),
            ("if-range", "x"),
            ("request-range", "bytes=0-9"),
            ("x-ms-range", "bytes=0-9"),
            ("a-im", "range"),
            ("content-range", "bytes 0-9/10"),
            ("accept-ranges", "none"),
        ]);
        strip_partial(&mut headers);
        // A part of what is uploaded is none of what comes back.
        assert_eq!(headers, map(&[("content-range", "bytes 0-9/10"), ("accept-ranges", "none")]));
    }

    #[test]
    fn parts_are_seen() {
        let fine = map(&[("content-type", "multipart/form-data"), ("accept-ranges", "bytes")]);
        assert!(!is_partial(StatusCode::OK, &fine));
        assert!(is_partial(StatusCode::PARTIAL_CONTENT, &fine));
        assert!(is_partial(StatusCode::IM_USED, &fine));
        for (name, value) in [
            ("content-range", "bytes 0-9/10"),
            ("content-type", " Multipart/ByteRanges; boundary=x"),
        ] {
            assert!(is_partial(StatusCode::OK, &map(&[(name, value)])), "{name}: {value}");
        }
    }

    #[test]
    fn a_service_names_itself() {
        let asked = Authority::parse(b"web.host:3000", None).unwrap();
        let at = |location| service_location(location, 3000, &asked);
        assert_eq!(at("http://localhost:3000/a?b").as_deref(), Some("http://web.host:3000/a?b"));
        assert_eq!(at("http://127.0.0.1:3000").as_deref(), Some("http://web.host:3000"));
        for other in
            ["/a", "http://localhost:30001/", "https://localhost:3000/", "http://localhost/"]
        {
            assert_eq!(at(other), None, "{other}");
        }
    }
}
