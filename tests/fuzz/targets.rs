//! What must hold of any bytes at all. Both drivers call these: `cargo fuzz`, and the bounded run
//! in `tests/it/fuzz.rs`.

use std::sync::{Arc, LazyLock};

use bottle::sidecar::credential::{Redactions, Redactor};
use bottle::sidecar::dlp::coding::{Coding, Limits as Bounds};
use bottle::sidecar::dlp::{Known, Rules, Scanner};
use bottle::sidecar::document::Document;
use bottle::sidecar::framing::{Framing, Limits};
use bottle::sidecar::{
    Allowed, Authority, CanonicalPath, Code, Host, PathPattern, Policy, PolicyPart, Transport,
    decide, decide_connect, decide_path_door,
};
use bytes::Bytes;
use time::Date;

/// One of them.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    /// Also its folder in the corpus.
    pub(crate) name: &'static str,
    /// Panics where something does not hold.
    pub(crate) run: fn(&[u8]),
    /// How many inputs of the cheapest target one of this costs, roughly.
    pub(crate) cost: u32,
}

/// Every target.
pub(crate) const TARGETS: &[Target] = &[
    Target { name: "authority", run: authority, cost: 1 },
    Target { name: "body", run: body, cost: 10 },
    Target { name: "document", run: document, cost: 1 },
    Target { name: "framing", run: framing, cost: 1 },
    Target { name: "path", run: path, cost: 1 },
    Target { name: "policy", run: policy, cost: 1 },
    Target { name: "redact", run: redact, cost: 2 },
    Target { name: "rules", run: rules, cost: 10 },
    Target { name: "scan", run: scan, cost: 10 },
];

/// A host that passes is one that nobody reads as another.
pub(crate) fn authority(data: &[u8]) {
    let Ok(authority) = Authority::parse(data, Some(443)) else { return };
    assert_ne!(authority.port(), 0);
    let shown = authority.to_string();
    assert_eq!(Authority::parse(shown.as_bytes(), None).as_ref(), Ok(&authority));
    // What it says is in the bytes: nothing was decoded or made up.
    let raw = String::from_utf8(data.to_vec()).expect("only ASCII passes").to_ascii_lowercase();
    match authority.host() {
        Host::Name(name) => {
            let name = name.as_str();
            assert!(raw.starts_with(name), "{raw:?} {name}");
            assert!(name.len() <= 253 && name.parse::<std::net::IpAddr>().is_err());
            let last = name.rsplit('.').next().expect("there is a label");
            assert!(!last.bytes().all(|b| b.is_ascii_digit()) && last != "0x", "{name}");
            let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
            assert!(name.bytes().all(fine) && !name.contains("..") && !name.ends_with('.'));
        }
        Host::Ip(ip) => assert!(raw.contains(['.', ':']), "{raw:?} {ip}"),
    }
}

/// A path that passes is the same one to a reader that decodes, however often.
pub(crate) fn path(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(pattern) = PathPattern::parse(&text, true) {
        let own = CanonicalPath::parse_with_slashes(data).expect("a pattern is a canonical path");
        assert!(pattern.matches(&own) || text.contains('*'), "{text}");
    }
    let Ok(path) = CanonicalPath::parse(data) else { return };
    assert_eq!(path.as_str().as_bytes(), data);
    assert!(PathPattern::parse("/**", false).is_ok_and(|all| all.matches(&path)), "{path}");
    // The parser of the requests agrees about where the query begins, and drops nothing.
    let other: hyper::http::uri::PathAndQuery = path.as_str().parse().expect("it is a path");
    assert_eq!((other.path(), other.query()), (path.path(), path.query()));
    let mut seen = path.path().as_bytes().to_vec();
    for round in 0..6 {
        let mut segments: Vec<&[u8]> = seen[1..].split(|b| matches!(b, b'/' | b'\\')).collect();
        if segments.last() == Some(&&b""[..]) {
            segments.pop();
        }
        let shown = String::from_utf8_lossy(&seen);
        assert!(segments.iter().all(|s| !matches!(*s, b"" | b"." | b"..")), "{path} {shown}");
        assert!(!seen.iter().any(u8::is_ascii_control), "{path} {shown}");
        // The slash of npm's scoped names is the only one that decoding adds.
        assert!(round == 0 || segments.len() == path.segments().filter(|s| !s.is_empty()).count());
        seen = decode(&seen);
    }
}

/// A decoder of the test's own.
fn decode(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).and_then(|two| std::str::from_utf8(two).ok());
        let byte = digits
            .filter(|two| bytes[at] == b'%' && two.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|two| u8::from_str_radix(two, 16).ok());
        out.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    out
}

/// Pieces make no difference, nothing is added, and what passes is framed in one way only. The
/// first byte says how large the pieces are.
pub(crate) fn framing(data: &[u8]) {
    let Some((size, input)) = data.split_first() else { return };
    let whole = pass(input, input.len().max(1));
    let pieces = pass(input, usize::from(*size).max(1));
    assert_eq!(whole, pieces);
    let (passed, _) = whole;
    assert!(input.starts_with(&input[..passed]));
    // What passed would pass again.
    assert_eq!(pass(&input[..passed], input.len().max(1)), (passed, None));
}

/// How many bytes pass, and how it ended.
fn pass(input: &[u8], size: usize) -> (usize, Option<Code>) {
    let mut framing = Framing::new(Limits::default());
    let (mut from, mut received) = (0, 0);
    while received < input.len() {
        received = input.len().min(received + size);
        match framing.push(&input[from..received]) {
            Ok(length) => from += length,
            Err(code) => return (from, Some(code)),
        }
        assert!(from <= received);
        if let Some(code) = framing.refusal() {
            return (from, Some(code.clone()));
        }
    }
    (from, None)
}

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    let part = r#"{
        "allow": [
            {"host": "a.example", "port": 443, "methods": ["GET"], "paths": ["/pub/**", "/x/*"]},
            {"host": "*.b.example", "port": 80},
            {"host": "**.c.example", "port": 443, "cidr": "10.0.0.0/8"}
        ],
        "routes": [
            {"path": "/gh/", "host": "api.example", "port": 443, "auth_scheme": "token",
             "credential": "GH"},
            {"path": "/gh/deep/", "host": "api.example", "port": 443, "upstream_path": "/v3",
             "auth_scheme": "Bearer", "credential": "DEEP"}
        ],
        "dlp": {"action": "block"}
    }"#;
    let part: PolicyPart = serde_json::from_str(part).expect("the policy can be read");
    Policy::compile(&part).expect("the policy compiles")
});

/// Nothing that passes is outside of what was granted. Lines: the method, the authority, the path.
pub(crate) fn policy(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.splitn(3, '\n');
    let (Some(method), Some(host), Some(target)) = (lines.next(), lines.next(), lines.next())
    else {
        return;
    };
    let Ok(path) = CanonicalPath::parse(target.as_bytes()) else { return };
    let decoded = |path: &str| {
        let seen = decode(&decode(&decode(path.as_bytes())));
        String::from_utf8_lossy(&seen).to_ascii_lowercase()
    };
    let push = |path: &CanonicalPath| {
        let ends = ["/git-receive-pack", "/git-receive-pack/"];
        ends.iter().any(|end| decoded(path.path()).ends_with(end))
            || path.query().is_some_and(|query| decoded(query) == "service=git-receive-pack")
    };
    let echoes = ["TRACE", "OPTIONS", "CONNECT"].contains(&method);
    if let Ok(request) = decide_path_door(&POLICY, method, &path) {
        assert!(!echoes && !push(&request.upstream_path), "{method} {path}");
        assert!(path.path().starts_with(request.route.path()));
        let own = &path.as_str()[request.route.path().len()..];
        let upstream = format!("{}/{own}", request.route.upstream_path());
        assert_eq!(request.upstream_path.as_str(), upstream);
        let deep = path.path().starts_with("/gh/deep/");
        assert_eq!(request.route.credential(), if deep { "DEEP" } else { "GH" });
    }
    for transport in [Transport::Http, Transport::Https] {
        let port = Some(transport.default_port());
        let Ok(authority) = Authority::parse(host.as_bytes(), port) else { return };
        let connect = decide_connect(&POLICY, &authority);
        let answer = decide(&POLICY, &authority, transport, method, &path);
        let Ok(Allowed { grant, route }) = answer else { continue };
        assert!(connect.is_ok(), "{authority}");
        let name = authority.host().name().expect("an address never passes");
        assert!(!["TRACE", "CONNECT"].contains(&method));
        if let Some(route) = &route {
            assert!(transport == Transport::Https && !echoes && !push(&path), "{method} {path}");
            assert_eq!((name, authority.port()), ("api.example", 443));
            let deep = path.path() == "/v3" || path.path().starts_with("/v3/");
            assert_eq!(route.credential(), if deep { "DEEP" } else { "GH" });
            continue;
        }
        let labels = |suffix: &str| name.strip_suffix(suffix).map(|rest| rest.split('.').count());
        let listed = match authority.port() {
            443 if name == "a.example" => {
                method == "GET" && ["/pub", "/x/"].iter().any(|p| path.path().starts_with(p))
            }
            443 => labels(".c.example").is_some(),
            80 => labels(".b.example") == Some(1),
            _ => false,
        };
        assert!(listed, "{method} {authority} {path}");
        assert_eq!(grant.exceptions.len(), usize::from(name.ends_with(".c.example")));
    }
}

/// A document is read whole or not at all, what was read is written the same, and its policy
/// grants no address.
pub(crate) fn document(data: &[u8]) {
    let Ok(document) = serde_json::from_slice::<Document>(data) else { return };
    let text = serde_json::to_vec(&document).expect("it can be written");
    let again: Document = serde_json::from_slice(&text).expect("it can be read again");
    assert_eq!((&again.policy, &again.names), (&document.policy, &document.names));
    for (name, value) in &document.credentials {
        let shown = format!("{document:?}");
        assert!(value.reveal().len() < 8 || !shown.contains(value.reveal()), "{name} is shown");
    }
    let Ok(policy) = Policy::compile(&document.policy) else { return };
    let address = Authority::parse(b"127.0.0.1:443", None).expect("it is one");
    assert_eq!(decide_connect(&policy, &address), Err(Code::SsrfDenied));
}

/// Rules in TOML are read, or the error says where; then they search anything.
pub(crate) fn rules(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Rules::from_toml(&text) {
        Err(error) => assert!(error.line >= 1 && !error.what.is_empty(), "{error}"),
        Ok(rules) => {
            let known = Known::new([("TOKEN", TOKEN)]).expect("it is long enough");
            let scanner = Scanner::new(Arc::new(rules), Arc::new(known), Vec::new());
            let _ = scanner.scan("a.example", TODAY, data);
        }
    }
}

static SCANNER: LazyLock<Arc<Scanner>> = LazyLock::new(|| {
    let known = Known::new([("TOKEN", TOKEN)]).expect("it is long enough");
    let nothing = Rules::from_toml("").expect("no rule is fine");
    let rules = Rules::builtin().merge(&nothing);
    Arc::new(Scanner::new(Arc::new(rules), Arc::new(known), Vec::new()))
});

const TODAY: Date = Date::MIN;

/// A text in pieces holds what the whole holds, and a known value is always found. The first
/// byte says how large the pieces are.
pub(crate) fn scan(data: &[u8]) {
    let Some((size, input)) = data.split_first() else { return };
    let whole = SCANNER.scan("a.example", TODAY, input);
    let mut stream = SCANNER.stream("a.example", TODAY);
    for piece in input.chunks(usize::from(*size).max(1)) {
        let _ = stream.push(piece);
    }
    let mut pieces = stream.end();
    pieces.sort();
    pieces.dedup();
    assert_eq!(pieces, whole);
    if memchr::memmem::find(input, TOKEN).is_some() {
        assert!(whole.iter().any(|finding| finding.known && finding.rule == "TOKEN"));
    }
}

/// An encoded or packed body is decoded within its bounds, or it is said that it cannot be. The
/// first byte says how it is encoded.
pub(crate) fn body(data: &[u8]) {
    let Some((kind, input)) = data.split_first() else { return };
    let all = [Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd];
    let codings: Vec<Coding> = all.get(usize::from(kind % 5)).copied().into_iter().collect();
    let bounds = Bounds { output: 64 * 1024, ratio: 100 };
    let _ = SCANNER.scan_body("a.example", TODAY, &codings, input, bounds);
    let mut decoded = 0;
    let _ = bottle::sidecar::dlp::coding::decode(&codings, input, bounds, &mut |piece| {
        decoded += piece.len();
    });
    assert!(decoded <= 128 * 1024, "{decoded}");
}

const TOKEN: &[u8] = b"ghp_Zm9v/YmFy+0123456789";

static REDACTIONS: LazyLock<Arc<Redactions>> = LazyLock::new(|| {
    let values = [("TOKEN", TOKEN), ("OTHER", &b"sk-\"other\\value\""[..])];
    Arc::new(Redactions::new(values).expect("two values are not too many"))
});

/// No value remains, and pieces make no difference. The first byte says how large they are.
pub(crate) fn redact(data: &[u8]) {
    let Some((size, input)) = data.split_first() else { return };
    let stream = |size: usize| {
        let mut redactor = Redactor::new(Arc::clone(&REDACTIONS));
        let mut out = Vec::new();
        for piece in input.chunks(size) {
            out.extend_from_slice(&redactor.push(Bytes::copy_from_slice(piece)));
        }
        out.extend_from_slice(&redactor.finish());
        out
    };
    let whole = stream(input.len().max(1));
    assert_eq!(stream(usize::from(*size).max(1)), whole);
    assert!(memchr::memmem::find(&whole, TOKEN).is_none());
    assert!(REDACTIONS.redact(&whole).is_none());
}
