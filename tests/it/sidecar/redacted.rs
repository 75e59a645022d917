//! Secrets that are taken out on their way: what goes on is what it was without them, and what they cannot be taken
//! out of does not.

use serde_json::{Value, json};

use super::packing::gzip;
use super::world::{World, allowing, base64};

const SECRET: &str = "q8Zx1vN4-kP2sLm7tR8wB1nM4yHc0dJe6fUaGi5o";
const MARK: &str = "<redacted:github-token>";

/// A token in the form of a vendor's, of random characters.
fn token() -> String {
    // Put together here, so that no scanner of sources takes it for one.
    ["ghp", "_", "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx"].concat()
}

async fn world() -> World {
    let mut policy = allowing(&["api.example.com"]);
    policy["dlp"]["action"] = json!("redact");
    let mut world = World::start(policy).await;
    world.document["credentials"] = json!({ "API_TOKEN": SECRET });
    world.load().await.unwrap();
    world
}

fn post(target: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: api.example.com\r\n{fields}Content-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

const JSON: &str = "Content-Type: application/json\r\n";

/// D14: the whole of a conversation, also in an answer of a tool, within escapes and chunked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_with_a_secret_in_it_goes_on() {
    let world = world().await;
    let of = |secret: &str, known: &str| {
        let inner = json!({ "file": format!("A={secret}\nB=\"{known}\"\n") }).to_string();
        json!({ "messages": [{ "content": format!("it is {secret}") }, { "arguments": inner }] })
    };
    let body = of(&token(), SECRET).to_string();
    let chunked = format!(
        "POST /echo HTTP/1.1\r\nHost: api.example.com\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n\
         {:x}\r\n{}\r\n{:x}\r\n{}\r\n0\r\n\r\n",
        50,
        &body[..50],
        body.len() - 50,
        &body[50..]
    );
    let mut client = world.inside("api.example.com:443").await;
    for (count, request) in [
        post("/echo", JSON, body.as_bytes()),
        chunked.into_bytes(),
        post("/echo", "", body.as_bytes()),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = client.ask(request).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let arrived = &world.upstream.arrived()[count];
        let got: Value = serde_json::from_slice(&arrived.body).unwrap();
        assert_eq!(got, of(MARK, "<redacted:API_TOKEN>"));
        assert!(arrived.whole);
        // The log says what was taken out and how often, and no more.
        let lines = world.wait_for("redacted", 2 * (count + 1)).await;
        let [known, rule] = &lines[2 * count..] else { panic!("{lines:?}") };
        assert_eq!(
            (&known["code"], &known["count"]),
            (&json!("known-secret:API_TOKEN"), &json!(1))
        );
        assert_eq!((&rule["code"], &rule["count"]), (&json!("dlp:github-token"), &json!(2)));
        assert_eq!(
            (&rule["host"], &rule["path"]),
            (&json!("api.example.com:443"), &json!("/echo"))
        );
    }
    assert!(world.log("deny").is_empty() && world.log("warn").is_empty());
    let log = std::fs::read_to_string(world.folder.path().join("log")).unwrap();
    assert!(!log.contains(SECRET) && !log.contains(&token()));
    let counts = world.state().await.counts;
    assert_eq!(counts["redacted:dlp:github-token"], 3);
}

/// Longer than any other body is held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_conversation_is_one_too() {
    let world = world().await;
    let filler = "fn main() {\n\tprintln!(\"hello\");\n}\n".repeat(44_000);
    let of = |secret: &str| json!([filler, format!("{secret} {filler}"), secret]).to_string();
    let body = of(&token());
    assert!(body.len() > 3 << 20 && body.len() < 4 << 20, "{}", body.len());
    let mut client = world.inside("api.example.com:443").await;
    let answer = client.ask(post("/echo", JSON, body.as_bytes())).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(world.upstream.one().body == of(MARK).as_bytes());
    assert_eq!(world.wait_for("redacted", 1).await[0]["count"], 2);
}

/// Forms, their parts and plain text.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_text_stays_what_it_is() {
    let world = world().await;
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let parts = "Content-Type: multipart/form-data; boundary=x\r\n";
    let of = |secret: &str| {
        [
            ("Content-Type: text/plain\r\n", format!("the token is {secret}.")),
            (
                "Content-Type: application/x-ndjson\r\n",
                format!("{{\"a\":1}}\n{{\"b\":\"{secret}\"}}\n"),
            ),
            (
                form,
                format!(
                    "a=1&b={}&c=%20",
                    secret.replace('<', "%3C").replace('>', "%3E").replace(':', "%3A")
                ),
            ),
            (
                parts,
                format!(
                    "--x\r\nContent-Disposition: form-data; name=\"f\"; filename=\"f\"\r\n\r\n{secret}\r\n--x\r\n\
                     Content-Type: image/png\r\n\r\n\0\u{1}\r\n--x--\r\n"
                ),
            ),
        ]
    };
    let mut client = world.inside("api.example.com:443").await;
    for (count, ((fields, body), (_, left))) in of(&token()).into_iter().zip(of(MARK)).enumerate() {
        let answer = client.ask(post("/echo", fields, body.as_bytes())).await;
        assert_eq!(answer.status, 200, "{fields}: {answer:?}");
        let arrived = &world.upstream.arrived()[count];
        assert_eq!(String::from_utf8_lossy(&arrived.body), left);
    }
    world.wait_for("redacted", 4).await;
}

/// D14: what cannot be taken out is refused, as in block mode.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_cannot_be_taken_out_of_is_refused() {
    let world = world().await;
    let (token, both) =
        (token(), json!({ "a": token(), "b": base64(token().as_bytes()) }).to_string());
    let text = json!({ "a": token }).to_string();
    let octets = "Content-Type: application/octet-stream\r\n";
    let mut cases: Vec<(&str, Vec<u8>)> = vec![
        ("query", post(&format!("/?k={token}"), "", b"")),
        ("field", post("/", &format!("X-Data: {token}\r\n"), b"")),
        (
            "base64",
            post("/", JSON, json!({ "a": base64(token.as_bytes()) }).to_string().as_bytes()),
        ),
        ("beside base64", post("/", JSON, both.as_bytes())),
        ("hex", post("/", JSON, json!({ "a": hex::encode(&token) }).to_string().as_bytes())),
        ("coded", post("/", &format!("{JSON}Content-Encoding: gzip\r\n"), &gzip(text.as_bytes()))),
        ("packed", post("/", "", &gzip(text.as_bytes()))),
        ("binary", post("/", octets, text.as_bytes())),
        (
            "xml",
            post("/", "Content-Type: application/xml\r\n", format!("<a>{token}</a>").as_bytes()),
        ),
        ("no JSON", post("/", JSON, format!("{{a: {token}}}").as_bytes())),
        ("a digest", post("/", &format!("{JSON}Content-MD5: x\r\n"), text.as_bytes())),
        ("signed", post("/", &format!("{JSON}X-Amz-Content-Sha256: x\r\n"), text.as_bytes())),
        ("two types", post("/", &format!("{JSON}{JSON}"), text.as_bytes())),
        ("a number", post("/", JSON, b"[1]")),
    ];
    cases.pop();
    for (count, (case, request)) in cases.into_iter().enumerate() {
        let answer = world.inside("api.example.com:443").await.ask(request).await;
        assert_eq!((answer.status, answer.code()), (403, "dlp:github-token"), "{case}: {answer:?}");
        world.wait_for("deny", count + 1).await;
        world.untouched();
    }
    let known = json!({ "a": base64(format!("xx{SECRET}").as_bytes()) }).to_string();
    let answer =
        world.inside("api.example.com:443").await.ask(post("/", JSON, known.as_bytes())).await;
    assert_eq!((answer.status, answer.code()), (403, "known-secret:API_TOKEN"));
    world.untouched();
    assert!(world.log("redacted").is_empty());
}

/// D14: beyond what is held it is refused as it passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_streams_is_refused() {
    let world = world().await;
    let mut body = vec![b'.'; 6 << 20];
    body[5 << 20..][..41].copy_from_slice(format!(" {}", token()).as_bytes());
    let mut client = world.inside("api.example.com:443").await;
    let answer = client.ask(post("/echo", "Content-Type: text/plain\r\n", &body)).await;
    assert_eq!((answer.status, answer.code()), (403, "dlp:github-token"), "{answer:?}");
    let arrived = world.upstream.wait_for_one().await;
    assert!(!arrived.whole && arrived.body.len() <= 5 << 20);
    assert!(world.log("redacted").is_empty());
}

/// Clients of models are refused in a form that they show; all others as ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_have_the_form_of_the_vendor() {
    let world = World::start(allowing(&["api.example.com"])).await;
    let body = json!({ "a": token() }).to_string();
    for (count, (path, kind, pointer)) in [
        ("/gw/v1/messages", "invalid_request_error", "/error/type"),
        ("/v1/responses", "dlp:github-token", "/error/code"),
        ("/v1beta/models/g:streamGenerateContent", "INVALID_ARGUMENT", "/error/status"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = world.inside("api.example.com:443").await;
        let answer = client.ask(post(path, JSON, body.as_bytes())).await;
        assert_eq!((answer.status, answer.code()), (400, "dlp:github-token"), "{path}: {answer:?}");
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        let page: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(page.pointer(pointer), Some(&json!(kind)), "{page:#}");
        let message = page["error"]["message"].as_str().unwrap();
        assert!(message.contains("sidecar: dlp:github-token: leave the secret out"), "{message}");
        assert_eq!(
            (&page["code"], &page["rule"]),
            (&json!("dlp:github-token"), &json!("github-token"))
        );
        assert_eq!(world.wait_for("deny", count + 1).await[count]["code"], "dlp:github-token");
    }
    let answer =
        world.inside("api.example.com:443").await.ask(post("/", JSON, body.as_bytes())).await;
    let page: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((answer.status, &page["error"]), (403, &json!("refused by the sandbox's sidecar")));
    assert!(answer.header("x-should-retry").is_none());
}
