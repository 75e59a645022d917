//! Secrets do not leave: D.

use serde_json::json;

use super::client::Answer;
use super::packing::gzip;
use super::world::{World, allowing, base64};

/// A token in the form of a vendor's, of random characters.
fn token() -> String {
    // Put together here, so that no scanner of sources takes it for one.
    ["ghp", "_", "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx"].concat()
}

fn rule(answer: &Answer) -> &str {
    assert_eq!(answer.status, 403, "{answer:?}");
    answer.code().strip_prefix("dlp:").unwrap_or_else(|| panic!("{answer:?}"))
}

fn request(target: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: api.example.com\r\n{fields}Content-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// D01 to D04, D06, D10, D20, D22, D23.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_found_wherever_it_stands() {
    let world = World::start(allowing(&["api.example.com"])).await;
    let token = token();
    let percent: String = token.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let utf16: Vec<u8> =
        format!("token={token}\n").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let url_safe = base64(format!("??>{token}??>").as_bytes()).replace('+', "-").replace('/', "_");
    let json_body = format!("{{\"a\":[1,2],\"b\":\"{token}\"}}");
    let multipart = format!(
        "--x\r\nContent-Disposition: form-data; name=\"f\"; filename=\"f\"\r\n\r\n{token}\r\n--x--\r\n"
    );
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("D01 query", request(&format!("/?k={token}"), "", b"")),
        ("D02 path", request(&format!("/a/{token}/b"), "", b"")),
        ("D02 field", request("/", &format!("X-Data: {token}\r\n"), b"")),
        ("D02 cookie", request("/", &format!("Cookie: a=b; c={token}\r\n"), b"")),
        (
            "D02 basic",
            request(
                "/",
                &format!("Authorization: Basic {}\r\n", base64(format!("u:{token}").as_bytes())),
                b"",
            ),
        ),
        ("D03 json", request("/", "Content-Type: application/json\r\n", json_body.as_bytes())),
        (
            "D03 form",
            request(
                "/",
                "Content-Type: application/x-www-form-urlencoded\r\n",
                format!("a=1&b={token}").as_bytes(),
            ),
        ),
        (
            "D03 multipart",
            request("/", "Content-Type: multipart/form-data; boundary=x\r\n", multipart.as_bytes()),
        ),
        ("D03 text", request("/", "", format!("the token is {token}.").as_bytes())),
        ("D04 base64", request("/", "", base64(format!("x {token} y").as_bytes()).as_bytes())),
        ("D04 base64url", request("/", "", url_safe.as_bytes())),
        ("D04 hex", request("/", "", hex::encode(&token).as_bytes())),
        ("D04 percent", request("/", "", percent.as_bytes())),
        ("D04 query base64", request(&format!("/?q={}", base64(token.as_bytes())), "", b"")),
        ("D04 query hex", request(&format!("/?q={}", hex::encode(&token)), "", b"")),
        ("D04 query percent", request(&format!("/?q={percent}"), "", b"")),
        ("D06 gzip", request("/", "Content-Encoding: gzip\r\n", &gzip(token.as_bytes()))),
        ("D10 type", request("/", "Content-Type: image/png\r\n", json_body.as_bytes())),
        ("D20 utf-16", request("/", "", &utf16)),
        ("D22 gzip file", request("/", "", &gzip(token.as_bytes()))),
    ];
    for (count, (case, request)) in cases.into_iter().enumerate() {
        let answer = world.inside("api.example.com:443").await.ask(request).await;
        assert!(rule(&answer).contains("github"), "{case}: {answer:?}");
        let denials = world.wait_for("deny", count + 1).await;
        assert_eq!(denials[count]["code"], answer.code(), "{case}");
        world.untouched();
        // D23: the page and the line name the rule, and nothing of what was found.
        let line = denials[count].to_string();
        for text in [answer.text(), format!("{:?}", answer.headers), line] {
            assert!(!text.contains(&token[4..12]), "{case}: {text}");
        }
    }
}

/// D02: names have no case, and many tokens are in capitals. It is found before DNS is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_in_a_name_is_not_asked_for() {
    let world = World::start(allowing(&["**.wild.example.com"])).await;
    let key = ["AKIA", "QYLPMN5HHHFPZAM2"].concat();
    let mut denials = 0;
    for key in [key.to_ascii_lowercase(), key] {
        for host in [
            format!("{key}.wild.example.com"),
            format!("a.{}.{}.wild.example.com", &key[..11], &key[11..]),
        ] {
            let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let answer = world.inside(&format!("{host}:443")).await.ask(request).await;
            assert_eq!(rule(&answer), "aws-access-key-id", "{host}");
            denials += 1;
            let line = world.wait_for("deny", denials).await[denials - 1].to_string();
            assert!(!line.to_ascii_lowercase().contains("qylpm"), "{line}");
        }
    }
    assert!(world.names.asked().is_empty(), "{:?}", world.names.asked());
    world.untouched();
}

/// D09: pieces of a body are one body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_in_pieces_is_one_secret() {
    let world = World::start(allowing(&["api.example.com"])).await;
    let head = "POST / HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = world.inside("api.example.com:443").await;
    client.send(head).await;
    for byte in token().bytes() {
        client.send(format!("1\r\n{}\r\n", char::from(byte))).await;
    }
    let answer = client.ask("0\r\n\r\n").await;
    assert!(rule(&answer).contains("github"));
    world.refused(answer.code());
    // Far behind the part of a body that is held, astride two windows.
    let mut body = vec![b'.'; 3 << 20];
    let at = (2 << 20) - 17;
    body[at..at + 40].copy_from_slice(token().as_bytes());
    let mut client = world.inside("api.example.com:443").await;
    let answer = client.ask(request("/echo", "", &body)).await;
    assert!(rule(&answer).contains("github"));
    assert_eq!(world.wait_for("deny", 2).await[1]["code"], answer.code());
    let arrived = world.upstream.wait_for_one().await;
    assert!(!arrived.whole && arrived.body.len() <= at, "{} of {at}", arrived.body.len());
}

/// D16, D17: what is too large to be searched, also when it is unpacked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_searched_is_refused() {
    let world = World::start(allowing(&["api.example.com"])).await;
    let mut client = world.inside("api.example.com:443").await;
    let head = "POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 1073741824\r\n\
                Expect: 100-continue\r\n\r\n";
    let answer = client.ask(head).await;
    assert_eq!((answer.status, answer.code()), (413, "dlp_unscannable"));
    world.refused("dlp_unscannable");
    // A thousand times as large as it says.
    let bomb = gzip(&vec![0; 8 << 20]);
    let begun = std::time::Instant::now();
    for (count, fields) in
        ["Content-Encoding: gzip\r\n", "Content-Encoding: snappy\r\n", "Content-Encoding: br\r\n"]
            .iter()
            .enumerate()
    {
        let mut client = world.inside("api.example.com:443").await;
        let answer = client.ask(request("/", fields, &bomb)).await;
        assert_eq!((answer.status, answer.code()), (413, "dlp_unscannable"), "{fields}");
        world.wait_for("deny", count + 2).await;
        world.untouched();
    }
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    // Chunked, its length shows only as it comes.
    let head = "POST /echo HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = world.inside("api.example.com:443").await;
    client.send(head).await;
    let chunk = [b"100000\r\n".to_vec(), vec![b'a'; 1 << 20], b"\r\n".to_vec()].concat();
    for _ in 0..66 {
        client.send(&chunk).await;
    }
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.code()), (413, "dlp_unscannable"));
    assert!(!world.upstream.wait_for_one().await.whole);
}

/// In warn mode what a rule finds passes, with a word in the log; a credential never does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn warning_passes_on_all_but_credentials() {
    let mut policy = allowing(&["api.example.com"]);
    policy["dlp"]["action"] = json!("warn");
    let mut world = World::start(policy).await;
    let secret = "q8Zx1vN4-kP2sLm7tR8wB1nM4yHc0dJe6fUaGi5o";
    world.document["credentials"] = json!({ "API_TOKEN": secret });
    world.load().await.unwrap();
    let mut client = world.inside("api.example.com:443").await;
    let answer = client.ask(request("/echo", "", token().as_bytes())).await;
    assert_eq!(answer.status, 200);
    assert_eq!(world.upstream.one().body, token().as_bytes());
    let warned = world.wait_for("warn", 1).await;
    assert!(warned[0]["code"].as_str().unwrap().starts_with("dlp:github"), "{warned:?}");
    // D16
    let answer = client.ask(request("/echo", "", &vec![b'a'; 65 << 20])).await;
    assert_eq!(answer.status, 200);
    assert_eq!(world.wait_for("allow", 2).await[1]["unscanned"], true);
    assert_eq!(world.upstream.arrived()[1].body.len(), 65 << 20);
    // D13, C24
    let both = format!("{} {secret}", token());
    let forms =
        [secret.to_owned(), base64(format!("user:{secret}").as_bytes()), hex::encode(secret), both];
    for (count, form) in forms.iter().enumerate() {
        for request in [
            request("/echo", "", form.as_bytes()),
            request("/echo", &format!("X-A: {form}\r\n"), b""),
        ] {
            let answer = world.inside("api.example.com:443").await.ask(request).await;
            assert_eq!((answer.status, answer.code()), (403, "known-secret:API_TOKEN"), "{count}");
        }
    }
    let target = format!("/echo?q={}", base64(secret.as_bytes()));
    let answer = world.inside("api.example.com:443").await.ask(request(&target, "", b"")).await;
    assert_eq!((answer.status, answer.code()), (403, "known-secret:API_TOKEN"));
    let log = std::fs::read_to_string(world.folder.path().join("log")).unwrap();
    assert!(!log.contains(secret));
    assert_eq!(world.upstream.arrived().len(), 2);
}

/// A suppression holds for its rule and its host.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suppression_is_narrow() {
    let mut policy = allowing(&["api.example.com", "other.example.com"]);
    let mut world = World::start(policy.clone()).await;
    let answer =
        world.inside("api.example.com:443").await.ask(request("/", "", token().as_bytes())).await;
    let found = rule(&answer).to_owned();
    policy["dlp"]["allow"] = json!([
        { "rule": found, "host": "api.example.com", "reason": "a token of the tests" }
    ]);
    world.document["policy"] = policy;
    world.load().await.unwrap();
    let answer =
        world.inside("api.example.com:443").await.ask(request("/", "", token().as_bytes())).await;
    assert_eq!(answer.status, 200);
    let text = String::from_utf8(request("/", "", token().as_bytes())).unwrap();
    let other = text.replace("api.example.com", "other.example.com");
    let answer = world.inside("other.example.com:443").await.ask(other).await;
    assert_eq!(answer.status, 403);
}
