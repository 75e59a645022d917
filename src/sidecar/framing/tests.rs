use proptest::prelude::*;

use super::*;

mod parity;

/// Passes bytes in pieces of these lengths, then the rest, as a caller does. Gives what passed
/// and how it ended.
fn feed(input: &[u8], cuts: &[usize]) -> (Vec<u8>, Option<Code>) {
    let mut framing = Framing::new(Limits::default());
    let (mut passed, mut waiting, mut rest) = (Vec::new(), Vec::new(), input);
    let mut cuts = cuts.iter();
    while !rest.is_empty() {
        let length = cuts.next().map_or(rest.len(), |cut| (*cut).clamp(1, rest.len()));
        waiting.extend_from_slice(&rest[..length]);
        rest = &rest[length..];
        match framing.push(&waiting) {
            Ok(length) => passed.extend(waiting.drain(..length)),
            Err(code) => return (passed, Some(code)),
        }
        if let Some(code) = framing.refusal() {
            return (passed, Some(code.clone()));
        }
    }
    (passed, None)
}

fn whole(input: &str) -> Result<usize, Code> {
    let (passed, code) = feed(input.as_bytes(), &[]);
    code.map_or(Ok(passed.len()), Err)
}

/// A head in short: lines without their breaks, and the empty one that ends it.
fn head(lines: &[&str]) -> String {
    let mut text = lines.join("\r\n");
    text.push_str("\r\n\r\n");
    text
}

#[test]
fn what_is_canonical_passes_whole() {
    for input in [
        head(&["GET / HTTP/1.1", "Host: a.example"]),
        head(&["GET /x?y=z&a=%0d%0a HTTP/1.1", "host:\ta.example:8443\t", "X:", "Y: \u{e9} b"]),
        head(&["OPTIONS /a HTTP/1.1", "HOST: a.example", "Connection: keep-alive, x"]),
        head(&["TRACE http://a.example/ HTTP/1.1", "Host: a.example"]),
        head(&["GET http://a.example HTTP/1.1", "Host: A.EXAMPLE.:80"]),
        head(&["GET https://a.example:8443/x HTTP/1.1", "Host: a.example:8443"]),
        head(&["GET http://a.example/ HTTP/1.0"]),
        head(&["GET / HTTP/1.0", "Host: a.example"]),
        head(&["CONNECT a.example:443 HTTP/1.1", "Host: a.example:443"]),
        head(&["CONNECT a.example:443 HTTP/1.1", "Host: a.example"]),
        head(&["CONNECT a.example:8443 HTTP/1.0"]),
        head(&["GET / HTTP/1.1", "Host: a.example", "Upgrade: websocket", "Connection: upgrade"]),
        head(&["POST / HTTP/1.1", "Host: a.example", "Content-Length: 0"]),
        head(&["POST / HTTP/1.1", "Host: a", "Content-Length:  5 "]) + "ab\0\ncGET / HTTP/1.1\r\n",
        head(&["POST / HTTP/1.1", "Host: a", "Expect: 100-continue", "content-length: 005"])
            + "abc",
        head(&["POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"])
            + "5\r\nab\r\nc\r\n00A;x=\"y\"\r\n0123456789\r\n0\r\n\r\n"
            + &head(&["GET /next HTTP/1.1", "Host: a"]),
        head(&["PUT / HTTP/1.1", "Host: a", "transfer-encoding: chunked"])
            + "1\r\na\r\n0;last\r\nDigest: x\r\nX-Check: y\r\n\r\n",
    ] {
        let unfinished = input.rfind("\r\n\r\n").map(|at| &input[at + 4..]);
        let passed = whole(&input);
        // The begun head at the end of one input waits for its rest.
        let held = unfinished.filter(|rest| rest.contains("GET")).map_or(0, |_| 16);
        assert_eq!(passed, Ok(input.len() - held), "{input}");
    }
}

#[test]
fn ambiguous_framing() {
    let with = |fields: &[&str]| {
        let mut lines = vec!["POST / HTTP/1.1", "Host: a.example"];
        lines.extend(fields);
        whole(&head(&lines))
    };
    for fields in [
        &["Content-Length: 5", "Transfer-Encoding: chunked"][..],
        &["Transfer-Encoding: chunked", "Content-Length: 5"],
        &["transfer-encoding: chunked", "CONTENT-LENGTH: 0"],
        &["Content-Length: 5", "Content-Length: 50"],
        &["Content-Length: 5", "Content-Length: 5"],
        &["Content-Length: 5, 5"],
        &["Content-Length: +5"],
        &["Content-Length: -0"],
        &["Content-Length: 0x5"],
        &["Content-Length: 5 5"],
        &["Content-Length: 5\t;"],
        &["Content-Length:"],
        &["Content-Length: \u{ff15}"],
        &["Content-Length: 99999999999999999999"],
        &["Content-Length: 18446744073709551616"],
        &["Transfer-Encoding: gzip, chunked"],
        &["Transfer-Encoding: chunked, identity"],
        &["Transfer-Encoding: identity"],
        &["Transfer-Encoding: xchunked"],
        &["Transfer-Encoding: Chunked"],
        &["Transfer-Encoding: \"chunked\""],
        &["Transfer-Encoding: chunked;x"],
        &["Transfer-Encoding:"],
        &["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
    ] {
        assert_eq!(with(fields), Err(Code::AmbiguousFraming), "{fields:?}");
    }
    let old = head(&["POST http://a/ HTTP/1.0", "Transfer-Encoding: chunked"]);
    assert_eq!(whole(&old), Err(Code::AmbiguousFraming));
    for field in ["Content-Length: 5", "Transfer-Encoding: chunked", "Content-Length: 0"] {
        let connect = head(&["CONNECT a:443 HTTP/1.1", "Host: a:443", field]);
        assert_eq!(whole(&connect), Err(Code::AmbiguousFraming), "{field}");
    }
}

#[test]
fn chunks() {
    let start = head(&["POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"]);
    let with = |body: &str| whole(&format!("{start}{body}"));
    for body in [
        "\r\n",
        "g\r\n",
        " 5\r\n",
        "5 \r\nabcde\r\n",
        "+5\r\nabcde\r\n",
        "-1\r\n",
        "0x5\r\nabcde\r\n",
        "5\nabcde\r\n",
        "5\r\nabcde\n0\r\n\r\n",
        "5\r\nabcdeX",
        "5\r\nabcde\rX",
        "5\rX",
        "5;a\nb\r\n",
        "5;a\tb\r\n",
        "5;\0\r\n",
        "fffffffffffffffff\r\n",
        "10000000000000000\r\n",
        "0\r\nContent-Length: 5\r\n\r\n",
        "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "0\r\nAuthorization: x\r\n\r\n",
        "0\r\nhost: x\r\n\r\n",
        "0\r\nX-Api-Key: x\r\n\r\n",
        "0\r\nX: a\nY: b\r\n\r\n",
    ] {
        // What comes before the fault has passed, and nothing after it.
        let (passed, code) = feed(format!("{start}{body}").as_bytes(), &[]);
        assert_eq!(code, Some(Code::AmbiguousFraming), "{body:?}");
        assert!(passed.len() < start.len() + body.len(), "{body:?}");
    }
    for body in ["0\r\nX : a\r\n\r\n", "0\r\n a\r\n\r\n", "0\r\nX\r\n\r\n", "0\r\nX: \x01\r\n\r\n"]
    {
        assert_eq!(with(body), Err(Code::MalformedRequest), "{body:?}");
    }
    assert_eq!(with(&format!("1;{}\r\n", "x".repeat(300))), Err(Code::AmbiguousFraming));
    let extended = format!("1;{}\r\na\r\n", "x".repeat(200)).repeat(30);
    assert_eq!(with(&extended), Err(Code::AmbiguousFraming));
    let many = format!("0\r\n{}", "X: a\r\n".repeat(17));
    assert_eq!(with(&many), Err(Code::HeaderTooLarge));
    let long = format!("0\r\nX: {}", "a".repeat(9000));
    assert_eq!(with(&long), Err(Code::HeaderTooLarge));
    let sum = format!("0\r\n{}", format!("X: {}\r\n", "a".repeat(1000)).repeat(9));
    assert_eq!(with(&sum), Err(Code::HeaderTooLarge));
}

#[test]
fn malformed_heads() {
    let host = "Host: a.example";
    for lines in [
        // Lines that two parsers end in different places.
        &["GET / HTTP/1.1\nHost: a.example"][..],
        &["GET / HTTP/1.1", "Host: a.example\nX: y"],
        &["GET / HTTP/1.1", "Host: a.example", "X: a\rb"],
        &["GET / HTTP/1.1", host, "X: a", " b"],
        &["GET / HTTP/1.1", host, "X: a", "\tb"],
        &["GET / HTTP/1.1", " Host: a.example"],
        &["GET / HTTP/1.1", host, "X: a\0b"],
        // Names.
        &["GET / HTTP/1.1", host, "Content-Length : 5"],
        &["GET / HTTP/1.1", host, "Content-Length\t: 5"],
        &["GET / HTTP/1.1", host, "Authorization : x"],
        &["GET / HTTP/1.1", host, ": x"],
        &["GET / HTTP/1.1", host, "no colon"],
        &["GET / HTTP/1.1", host, "X(y): z"],
        &["GET / HTTP/1.1", host, "X\u{e9}: z"],
        &["GET / HTTP/1.1", host, "X: a\x0bb"],
        &["GET / HTTP/1.1", host, "X: a\x7fb"],
        &["GET / HTTP/1.1", host, "X: a\x1bb"],
        // One Host.
        &["GET / HTTP/1.1"],
        &["GET / HTTP/1.0"],
        &["CONNECT a.example:443 HTTP/1.1"],
        &["GET / HTTP/1.1", host, host],
        &["GET / HTTP/1.1", host, "HOST: b.example"],
        &["GET http://a.example/ HTTP/1.1", "Host: b.example"],
        &["GET http://a.example/ HTTP/1.1", "Host: a.example:8080"],
        &["GET https://a.example/ HTTP/1.1", "Host: a.example:80"],
        &["CONNECT a.example:443 HTTP/1.1", "Host: b.example:443"],
        &["CONNECT a.example:443 HTTP/1.1", "Host: a.example:80"],
        // The request line.
        &["GET /"],
        &["GET  / HTTP/1.1", host],
        &["GET /  HTTP/1.1", host],
        &["GET / HTTP/1.1 ", host],
        &[" GET / HTTP/1.1", host],
        &["", "GET / HTTP/1.1", host],
        &["GET\t/ HTTP/1.1", host],
        &["GET / HTTP/1.1\t", host],
        &["GET /a b HTTP/1.1", host],
        &["GET /\u{e9} HTTP/1.1", host],
        &["GET /a#b HTTP/1.1", host],
        &["GET /a\x7f HTTP/1.1", host],
        &["get / HTTP/1.1", host],
        &["Trace / HTTP/1.1", host],
        &["G@T / HTTP/1.1", host],
        &["GET / HTTP/0.9", host],
        &["GET / HTTP/1.2", host],
        &["GET / HTTP/2.0", host],
        &["GET / HTTP/3.0", host],
        &["GET http://a.example HTTP/9.9", host],
        &["GET / http/1.1", host],
        &["GET / HTTP/1.10", host],
        &["GET / HTTP/01.1", host],
        &["GET / HTTPS/1.1", host],
        &["GET a.example/ HTTP/1.1", host],
        &["GET ftp://a.example/ HTTP/1.1", host],
        &["GET HTTP://a.example/ HTTP/1.1", host],
        &["GET file:///etc/passwd HTTP/1.1", host],
        &["GET http:/a.example/ HTTP/1.1", host],
        // Another protocol.
        &["PRI * HTTP/2.0", "", "SM"],
        &["GET / HTTP/1.1", host, "Upgrade: h2c"],
        &["GET / HTTP/1.1", host, "upgrade: foo, H2C"],
        &["GET / HTTP/1.1", host, "Upgrade: HTTP/2.0"],
        &["GET / HTTP/1.1", host, "HTTP2-Settings: AAMAAABkAAQAAP__"],
        &["SSH-2.0-x"],
    ] {
        assert_eq!(whole(&head(lines)), Err(Code::MalformedRequest), "{lines:?}");
    }
}

#[test]
fn authorities_are_judged_at_once() {
    for (lines, code) in [
        (&["GET http://a.example@evil.test/ HTTP/1.1"][..], Code::UserinfoForbidden),
        (&["CONNECT a.example@evil.test:443 HTTP/1.1"], Code::UserinfoForbidden),
        (&["GET http://evil.test\\@a.example/ HTTP/1.1"], Code::UserinfoForbidden),
        (&["GET http://evil.test\\.a.example/ HTTP/1.1"], Code::MalformedAuthority),
        (&["GET http://2130706433/ HTTP/1.1"], Code::AmbiguousIp),
        (&["GET http:///x HTTP/1.1"], Code::MalformedAuthority),
        (&["GET http://a.example?x HTTP/1.1"], Code::PathNotCanonical),
        (&["CONNECT :443 HTTP/1.1"], Code::MalformedAuthority),
        (&["CONNECT *:443 HTTP/1.1"], Code::MalformedAuthority),
        (&["CONNECT a.example HTTP/1.1"], Code::MalformedAuthority),
        (&["CONNECT a.example:443:80 HTTP/1.1"], Code::MalformedAuthority),
        (&["CONNECT http://a.example/ HTTP/1.1"], Code::MalformedAuthority),
        (&["CONNECT / HTTP/1.1"], Code::MalformedAuthority),
        (&["GET / HTTP/1.1", "Host:"], Code::MalformedAuthority),
        (&["GET / HTTP/1.1", "Host: a,b"], Code::MalformedAuthority),
        (&["GET / HTTP/1.1", "Host: a b"], Code::MalformedAuthority),
        (&["GET / HTTP/1.1", "Host: a/b"], Code::MalformedAuthority),
        (&["GET / HTTP/1.1", "Host: u@a"], Code::UserinfoForbidden),
        (&["GET / HTTP/1.1", "Host: 127.1"], Code::AmbiguousIp),
        (&["OPTIONS * HTTP/1.1"], Code::MethodNotAllowed),
    ] {
        // Without the line that would end the head: nobody is waited for.
        let begun = lines.join("\r\n") + "\r\n";
        assert_eq!(whole(&begun), Err(code), "{lines:?}");
    }
    let nul = b"CONNECT evil.test\0.a.example:443 HTTP/1.1\r\n";
    assert_eq!(feed(nul, &[]).1, Some(Code::MalformedRequest));
    // A TLS handshake, where HTTP was expected, does not wait for a line either.
    for start in [&b"\x16\x03\x01"[..], b"\x16", b"\n", b"GET\n", b"\r\n", b"\0"] {
        assert_eq!(feed(start, &[]).1, Some(Code::MalformedRequest), "{start:?}");
    }
    assert_eq!(feed(&[b'A'; 33], &[]).1, Some(Code::MalformedRequest));
}

#[test]
fn sizes() {
    let target =
        |length: usize| head(&[&format!("GET /{} HTTP/1.1", "a".repeat(length - 1)), "Host: a"]);
    assert!(whole(&target(16 * 1024)).is_ok());
    assert_eq!(whole(&target(16 * 1024 + 1)), Err(Code::UriTooLong));
    assert_eq!(whole(&target(128 * 1024)), Err(Code::UriTooLong));
    assert_eq!(whole(&format!("GET /{}", "a".repeat(17 * 1024))), Err(Code::UriTooLong));
    let fields = |count: usize| {
        let many: Vec<String> = (1..count).map(|n| format!("X-{n}: y")).collect();
        let mut lines = vec!["GET / HTTP/1.1", "Host: a"];
        lines.extend(many.iter().map(String::as_str));
        whole(&head(&lines))
    };
    assert!(fields(128).is_ok());
    assert_eq!(fields(129), Err(Code::HeaderTooLarge));
    assert_eq!(fields(1000), Err(Code::HeaderTooLarge));
    let large = |length: usize| {
        let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        format!("{start}{}\r\n\r\n", "a".repeat(length - start.len() - 4))
    };
    assert_eq!(whole(&large(64 * 1024)), Ok(64 * 1024));
    assert_eq!(whole(&large(64 * 1024 + 1)), Err(Code::HeaderTooLarge));
    assert_eq!(whole(&large(80 * 1024)[..70 * 1024]), Err(Code::HeaderTooLarge));
}

#[test]
fn a_tunnel_waits_for_its_answer() {
    let connect = head(&["CONNECT a:443 HTTP/1.1", "Host: a:443"]);
    let input = format!("{connect}\x16\x03anything\n");
    let mut framing = Framing::new(Limits::default());
    assert_eq!(framing.push(input.as_bytes()), Ok(connect.len()));
    let rest = &input.as_bytes()[connect.len()..];
    assert_eq!(framing.push(rest), Ok(0));
    framing.open_tunnel();
    assert_eq!(framing.push(rest), Ok(rest.len()));
    let mut refused = Framing::new(Limits::default());
    assert_eq!(refused.push(input.as_bytes()), Ok(connect.len()));
    assert!(!refused.is_between_requests());
    refused.refuse_tunnel();
    assert!(refused.is_between_requests());
    assert_eq!(refused.push(rest), Err(Code::MalformedRequest));
    // Neither word does anything at another time.
    let mut framing = Framing::new(Limits::default());
    framing.open_tunnel();
    assert_eq!(framing.push(b"x"), Err(Code::MalformedRequest));
}

#[test]
fn what_came_before_a_refusal_passes() {
    let good = head(&["GET /1 HTTP/1.1", "Host: a"]);
    let mut framing = Framing::new(Limits::default());
    let input = format!("{good}GET /2 HTTP/1.1\nHost: a\r\n\r\n");
    assert_eq!(framing.push(input.as_bytes()), Ok(good.len()));
    assert_eq!(framing.refusal(), Some(&Code::MalformedRequest));
    assert_eq!(framing.push(good.as_bytes()), Err(Code::MalformedRequest));
}

/// Requests in a row, some with a fault in them.
fn requests() -> impl Strategy<Value = Vec<u8>> {
    let fields = prop::sample::select(vec![
        "Host: a.example\r\n",
        "Host: b.example\r\n",
        "Accept: */*\r\n",
        "Content-Length: 0\r\n",
        "Content-Length: 7\r\n",
        "Transfer-Encoding: chunked\r\n",
        "X: y\n",
        "X : y\r\n",
        "Connection: close, host\r\n",
    ]);
    let lines = prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "POST http://a.example/x HTTP/1.1\r\n",
        "PUT /%20?x HTTP/1.0\r\n",
        "GET  / HTTP/1.1\r\n",
    ]);
    let bodies = prop::sample::select(vec![
        "",
        "1234567",
        "3\r\nabc\r\n0\r\n\r\n",
        "7;x=y\r\n\r\n\r\n\r\n\0\r\n0\r\nDigest: z\r\n\r\n",
        "0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
    ]);
    let one =
        (lines, prop::collection::vec(fields, 0..4), bodies).prop_map(|(line, fields, body)| {
            format!("{line}Host: a.example\r\n{}\r\n{body}", fields.concat())
        });
    let good = prop::sample::select(vec![
        "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "POST /p HTTP/1.1\r\nHost: a.example\r\nContent-Length: 7\r\n\r\n1234567",
        "POST /c HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ]);
    (prop::collection::vec(good, 0..4), prop::collection::vec(one, 0..3))
        .prop_map(|(good, rest)| (good.concat() + &rest.concat()).into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_make_no_difference(
        input in requests(),
        cuts in prop::collection::vec(1_usize..40, 0..200),
    ) {
        let whole = feed(&input, &[]);
        prop_assert_eq!(feed(&input, &cuts), whole.clone());
        prop_assert_eq!(feed(&input, &vec![1; input.len()]), whole);
    }

    #[test]
    fn noise_neither_panics_nor_passes(
        input in prop::collection::vec(any::<u8>(), 0..300),
        cuts in prop::collection::vec(1_usize..40, 0..50),
    ) {
        prop_assert_eq!(feed(&input, &cuts), feed(&input, &[]));
    }
}
