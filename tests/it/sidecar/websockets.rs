//! WebSockets (T13): messages pass both ways, and each was searched before it did.

use serde_json::{Value, json};

use super::client::Client;
use super::packing::gzip;
use super::upstream::Upstream;
use super::world::{World, base64};

const SECRET: &str = "q8Zx1vN4-kP2sLm7tR8wB1nM4yHc0dJe6fUaGi5o";

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A token in the form of a vendor's, of random characters.
fn token() -> String {
    // Put together here, so that no scanner of sources takes it for one.
    ["ghp", "_", "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx"].concat()
}

fn policy(action: &str) -> Value {
    json!({
        "allow": [{ "host": "api.example.com", "port": 443 }, { "host": "other.example.com", "port": 443 },
            { "host": "cdn.example.net", "port": 80 }],
        "routes": [{
            "path": "/gh/", "host": "api.example.com", "port": 443, "upstream_path": "",
            "auth_scheme": "Bearer", "credential": "GH_TOKEN",
        }],
        "dlp": { "action": action },
    })
}

async fn world(action: &str) -> World {
    let mut world = World::unloaded(policy(action), Upstream::websocket().await, &[]).await;
    world.document["credentials"] = json!({ "GH_TOKEN": SECRET });
    world.load().await.unwrap();
    world
}

/// The head of a handshake, with more fields.
fn handshake(target: &str, host: &str, fields: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{fields}\r\n"
    )
}

/// A frame as clients write it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x11, 0x22, 0x33, 0x44];
    let mut out = vec![first];
    match payload.len() {
        short @ 0..126 => out.push(0x80 | short as u8),
        long @ 126..65_536 => {
            out.push(0x80 | 126);
            out.extend((long as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend((long as u64).to_be_bytes());
        }
    }
    out.extend(mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}

fn message(kind: u8, payload: &[u8]) -> Vec<u8> {
    frame(0x80 | kind, payload)
}

/// One end of an open WebSocket.
struct Socket(Client);

impl Socket {
    async fn open(world: &World, host: &str) -> Self {
        let mut client = world.inside(&format!("{host}:443")).await;
        let head = {
            client.send(handshake("/chat?x=y", host, "")).await;
            client.head().await
        };
        assert_eq!(head.status, 101, "{head:?}");
        assert_eq!(head.header("upgrade"), Some("websocket"));
        assert_eq!(head.header("connection"), Some("Upgrade"));
        Self(client)
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.send(bytes).await;
    }

    /// The next frame: its first byte, and its payload.
    async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let head = self.0.take(2).await?;
        assert_eq!(head[1] & 0x80, 0, "what comes from a server is not masked");
        let length = match head[1] {
            126 => u64::from(u16::from_be_bytes(self.0.take(2).await?.try_into().unwrap())),
            127 => u64::from_be_bytes(self.0.take(8).await?.try_into().unwrap()),
            short => u64::from(short),
        };
        Some((head[0], self.0.take(usize::try_from(length).unwrap()).await?))
    }

    /// The number and the words that it is closed with; nothing comes behind them.
    async fn closed(mut self) -> (u16, String) {
        let (first, payload) = self.next().await.expect("it is closed with a word");
        assert_eq!(first, 0x80 | CLOSE);
        assert_eq!(self.0.rest().await, b"", "nothing follows");
        let (number, words) = payload.split_at(2);
        let number = u16::from_be_bytes(number.try_into().unwrap());
        (number, String::from_utf8(words.to_vec()).unwrap())
    }
}

/// All that the upstream read of messages, in its order.
fn read(world: &World) -> Vec<u8> {
    world.upstream.arrived().iter().flat_map(|arrived| arrived.body.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_pass_both_ways_as_they_are() {
    messages_pass(world("block").await).await;
}

/// Where there is no credential that could come back, what an upstream sends passes as it comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_pass_where_there_is_no_credential() {
    let mut policy = policy("block");
    policy["routes"] = json!([]);
    messages_pass(World::with(policy, Upstream::websocket().await, &[]).await).await;
}

async fn messages_pass(world: World) {
    let mut client = world.inside("other.example.com:443").await;
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
        Sec-WebSocket-Protocol: chat\r\nOrigin: https://other.example.com\r\n";
    client.send(handshake("/chat?x=y", "other.example.com", offer)).await;
    let head = client.head().await;
    assert_eq!(head.status, 101, "{head:?}");
    assert_eq!(head.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(head.header("sec-websocket-extensions"), None);
    let mut socket = Socket(client);
    let long: Vec<u8> = (0..3 << 20).map(|at: u32| (at % 251) as u8).collect();
    for length in [0, 1, 125, 126, 65_535, 65_536, long.len()] {
        for kind in [TEXT, BINARY] {
            let payload = match kind {
                TEXT => "héllo wörld ".repeat(length / 14).into_bytes(),
                _ => long[..length].to_vec(),
            };
            socket.send(&message(kind, &payload)).await;
            assert!(socket.next().await.unwrap() == (0x80 | kind, payload), "{kind} {length}");
        }
    }
    // In pieces, with a ping between them, which does not wait for the rest.
    socket.send(&frame(TEXT, b"one ")).await;
    socket.send(&message(PING, b"are you there")).await;
    assert_eq!(socket.next().await.unwrap(), (0x80 | PONG, b"are you there".to_vec()));
    socket.send(&frame(0, b"and ")).await;
    socket.send(&frame(0x80, b"another")).await;
    assert_eq!(socket.next().await.unwrap(), (0x80 | TEXT, b"one and another".to_vec()));
    // Byte by byte.
    for byte in message(TEXT, b"slowly") {
        socket.send(&[byte]).await;
    }
    assert_eq!(socket.next().await.unwrap(), (0x80 | TEXT, b"slowly".to_vec()));
    socket.send(&message(CLOSE, &[&1000_u16.to_be_bytes()[..], b"done"].concat())).await;
    assert_eq!(socket.closed().await, (1000, "done".to_owned()));

    let asked = &world.upstream.arrived()[0];
    assert_eq!((&*asked.method, &*asked.target), ("GET", "/chat?x=y"));
    assert_eq!(asked.header("sec-websocket-extensions"), [""; 0]);
    assert_eq!(asked.header("sec-websocket-protocol"), ["chat"]);
    assert_eq!(asked.header("upgrade"), ["websocket"]);
    let lines = world.log("allow");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!((&lines[0]["method"], &lines[0]["path"]), (&json!("GET"), &json!("/chat")));
    assert!(world.log("deny").is_empty());
}

/// In each way to say it: none arrives, and the agent reads why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_not_leave_ends_it() {
    let token = token();
    let (one, other) = token.split_at(20);
    let json = json!({ "type": "input", "text": format!("A={token}") }).to_string();
    let of_token: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("text", vec![message(TEXT, json.as_bytes())]),
        ("binary", vec![message(BINARY, &[b"\x00\x01", token.as_bytes(), b"\x02"].concat())]),
        ("in pieces", vec![frame(TEXT, one.as_bytes()), frame(0x80, other.as_bytes())]),
        (
            "in pieces with a ping between",
            vec![frame(TEXT, one.as_bytes()), message(PING, b""), frame(0x80, other.as_bytes())],
        ),
        ("in two messages", vec![message(TEXT, one.as_bytes()), message(TEXT, other.as_bytes())]),
        (
            "in two with a ping between",
            vec![
                message(TEXT, one.as_bytes()),
                message(PING, b"xxxx"),
                message(TEXT, other.as_bytes()),
            ],
        ),
        (
            "in two pings with data between",
            vec![
                message(PING, one.as_bytes()),
                message(TEXT, b"xxxx"),
                message(PING, other.as_bytes()),
            ],
        ),
        (
            "in data and a ping",
            vec![message(TEXT, one.as_bytes()), message(PING, other.as_bytes())],
        ),
        ("in many", token.as_bytes().chunks(1).map(|byte| message(BINARY, byte)).collect()),
        ("ping", vec![message(PING, token.as_bytes())]),
        ("pong", vec![message(PONG, token.as_bytes())]),
        ("close", vec![message(CLOSE, &[b"\x03\xe8", token.as_bytes()].concat())]),
        ("base64", vec![message(TEXT, base64(format!("t={token}").as_bytes()).as_bytes())]),
        ("hex", vec![message(TEXT, hex::encode(&token).as_bytes())]),
        ("gzip", vec![message(BINARY, &gzip(json.as_bytes()))]),
    ];
    let known: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("text", vec![message(TEXT, SECRET.as_bytes())]),
        (
            "in two messages",
            vec![message(TEXT, &SECRET.as_bytes()[..18]), message(TEXT, &SECRET.as_bytes()[18..])],
        ),
    ];
    let all = of_token.into_iter().map(|case| (case, &token[..], "dlp:github-token"));
    let known = known.into_iter().map(|case| (case, SECRET, "known-secret:GH_TOKEN"));
    for ((name, frames), secret, code) in all.chain(known) {
        let world = world("block").await;
        let mut socket = Socket::open(&world, "other.example.com").await;
        for frame in &frames {
            socket.send(frame).await;
        }
        // What was sent before it came back.
        let end = loop {
            match socket.next().await {
                Some((first, payload)) if first == 0x80 | CLOSE => break payload,
                Some(_) => {}
                None => panic!("{name}: it ends without a word"),
            }
        };
        assert_eq!(&end[..2], &1008_u16.to_be_bytes(), "{name}: {end:?}");
        let said = String::from_utf8_lossy(&end[2..]).into_owned();
        assert_eq!(said, format!("bottle: {code}"), "{name}");
        assert_eq!(socket.0.rest().await, b"", "{name}");
        let lines = world.wait_for("deny", 1).await;
        assert_eq!(lines[0]["code"], code, "{name}: {lines:?}");
        let arrived = read(&world);
        assert!(!arrived.windows(secret.len()).any(|part| part == secret.as_bytes()), "{name}");
        let log = std::fs::read_to_string(world.folder.path().join("log")).unwrap();
        assert!(!log.contains(secret) && !log.contains(one), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_goes_on_without_what_is_taken_out() {
    let world = world("redact").await;
    let mut socket = Socket::open(&world, "other.example.com").await;
    for (text, marked) in [
        (
            json!({ "a": token() }).to_string(),
            json!({ "a": "<redacted:github-token>" }).to_string(),
        ),
        (format!("it is {}.", token()), "it is <redacted:github-token>.".to_owned()),
        // It only looks like JSON.
        (format!("[info] token={}", token()), "[info] token=<redacted:github-token>".to_owned()),
    ] {
        socket.send(&message(TEXT, text.as_bytes())).await;
        assert_eq!(socket.next().await.unwrap(), (0x80 | TEXT, marked.into_bytes()));
    }
    let lines = world.wait_for("redacted", 3).await;
    assert!(lines.iter().all(|line| line["code"] == "dlp:github-token"), "{lines:?}");
    // Of what is no text nothing can be taken out.
    socket.send(&message(BINARY, token().as_bytes())).await;
    assert_eq!(socket.closed().await, (1008, "bottle: dlp:github-token".to_owned()));
}

/// In warn mode all passes, and the log says what did, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cut_in_two_is_said_where_it_passes() {
    let world = world("warn").await;
    let mut socket = Socket::open(&world, "other.example.com").await;
    let token = token();
    for part in [&token[..20], &token[20..], "and more", "and more"] {
        socket.send(&message(TEXT, part.as_bytes())).await;
        assert_eq!(socket.next().await.unwrap(), (0x80 | TEXT, part.as_bytes().to_vec()));
    }
    let lines = world.wait_for("warn", 1).await;
    assert_eq!(lines[0]["code"], "dlp:github-token");
}

/// One that is as long as messages are, of letters alone: by a route, where all of it is searched for what could come
/// back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_message_takes_no_more_than_there_is() {
    let world = world("block").await;
    let mut socket = Socket::open(&world, "api.example.com").await;
    let long: Vec<u8> = (0..(4 << 20) - 64).map(|at: u32| b'a' + (at % 23) as u8).collect();
    for _ in 0..3 {
        socket.send(&message(TEXT, &long)).await;
        assert!(socket.next().await.unwrap() == (0x80 | TEXT, long.clone()));
    }
    super::memory::bounded(&world);
}

/// What is open goes on by the credentials and the rules that are loaded since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_loaded_later_counts() {
    const NEW: &str = "Zt7Kp2wQ-vR9mXc4bLs8dJh1nYg6fUaEi5oT3kPq";
    let mut world = world("warn").await;
    let mut by_route = Socket::open(&world, "api.example.com").await;
    let mut other = Socket::open(&world, "other.example.com").await;
    world.document["credentials"] = json!({ "GH_TOKEN": NEW });
    world.document["policy"]["dlp"]["action"] = json!("block");
    world.load().await.unwrap();
    // It was opened with a credential that is no more.
    by_route.send(b"").await;
    assert_eq!(by_route.closed().await.0, 1008);
    // The new one is known to what is open.
    other.send(&message(TEXT, NEW.as_bytes())).await;
    assert_eq!(other.closed().await, (1008, "bottle: known-secret:GH_TOKEN".to_owned()));
    let mut other = Socket::open(&world, "other.example.com").await;
    other.send(&message(TEXT, token().as_bytes())).await;
    assert_eq!(other.closed().await, (1008, "bottle: dlp:github-token".to_owned()));
}

/// The upstream of a route says what it was sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_does_not_come_back() {
    for asks in ["echo token", "echo base64", "echo halves", "echo ping"] {
        let world = world("block").await;
        let mut socket = Socket::open(&world, "api.example.com").await;
        let asked = &world.upstream.arrived()[0];
        assert_eq!(asked.header("authorization"), [format!("Bearer {SECRET}")]);
        socket.send(&message(TEXT, b"hello")).await;
        assert_eq!(socket.next().await.unwrap(), (0x80 | TEXT, b"hello".to_vec()));
        socket.send(&message(TEXT, asks.as_bytes())).await;
        let all = {
            let mut all = Vec::new();
            while let Some((_, payload)) = socket.next().await {
                all.extend(payload);
            }
            all
        };
        let text = String::from_utf8_lossy(&all).into_owned();
        assert!(text.contains("bottle: response_refused"), "{asks}: {text}");
        assert!(!text.contains(SECRET) && !text.contains(&base64(SECRET.as_bytes())), "{asks}");
        let lines = world.wait_for("deny", 1).await;
        assert_eq!(lines[0]["code"], "response_refused", "{asks}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_frame_ends_it() {
    let unmasked = [0x81, 2, b'h', b'i'];
    let cases: [(&[u8], u16); 8] = [
        (&unmasked, 1002),
        (&frame(0xc1, b"compressed"), 1002),
        (&frame(0x80, b"goes on with nothing"), 1002),
        (&[frame(TEXT, b"a"), message(TEXT, b"b")].concat(), 1002),
        (&frame(0x83, b""), 1002),
        (&frame(PING, b"in pieces"), 1002),
        (&[0x89, 0x80 | 126, 0, 126], 1002),
        // Longer than what is held.
        (&[0x82, 0x80 | 127, 0, 0, 0, 0, 0, 0x40, 0, 1, 0, 0, 0, 0], 1009),
    ];
    for (bytes, number) in cases {
        let world = world("block").await;
        let mut socket = Socket::open(&world, "other.example.com").await;
        socket.send(bytes).await;
        assert_eq!(socket.closed().await.0, number, "{bytes:x?}");
        assert_eq!(world.wait_for("deny", 1).await.len(), 1);
        // But for the word that it is over.
        assert!([&b""[..], &1001_u16.to_be_bytes()].contains(&&*read(&world)), "{bytes:x?}");
    }
    // The same of what an upstream sends.
    for asks in ["masked", "compressed"] {
        let world = world("block").await;
        let mut socket = Socket::open(&world, "other.example.com").await;
        socket.send(&message(TEXT, asks.as_bytes())).await;
        assert_eq!(socket.closed().await, (1002, "bottle: response_refused".to_owned()), "{asks}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_policy_ends_what_it_does_not_allow() {
    let mut world = world("block").await;
    let mut gone = Socket::open(&world, "other.example.com").await;
    let mut stays = Socket::open(&world, "api.example.com").await;
    world.document["policy"]["allow"] = json!([{ "host": "api.example.com", "port": 443 }]);
    world.load().await.unwrap();
    gone.send(b"").await;
    // The tunnel may be closed before the WebSocket in it.
    let _ = gone.0.rest().await;
    assert!(!world.log("revoked").is_empty());
    stays.send(&message(TEXT, b"still")).await;
    assert_eq!(stays.next().await.unwrap(), (0x80 | TEXT, b"still".to_vec()));
}

/// By every door; and where nothing comes of it, as any other request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_opened_at_every_door_and_refused_as_any_request() {
    let world = world("block").await;
    for (target, host) in
        [("http://cdn.example.net/chat", "cdn.example.net"), ("/gh/chat", "sidecar")]
    {
        let mut client = world.proxy().await;
        client.send(handshake(target, host, "")).await;
        let head = client.head().await;
        assert_eq!(head.status, 101, "{target}: {head:?}");
        let mut socket = Socket(client);
        socket.send(&message(TEXT, b"hello")).await;
        assert_eq!(socket.next().await.unwrap(), (0x80 | TEXT, b"hello".to_vec()), "{target}");
    }
    // The upstream says no.
    let mut client = world.inside("other.example.com:443").await;
    let answer = client.ask(handshake("/none", "other.example.com", "")).await;
    assert_eq!((answer.status, answer.text().as_str()), (404, "none"));
    assert_eq!(client.rest().await, b"", "the connection ends");
    // It agrees to what was not asked for.
    let mut client = world.inside("other.example.com:443").await;
    let answer = client.ask(handshake("/extended", "other.example.com", "")).await;
    assert_eq!((answer.status, answer.code()), (502, "response_refused"));
    // Secrets in the head, and hosts that nobody allows.
    let field = format!("X-Note: {}\r\n", token());
    let mut client = world.inside("other.example.com:443").await;
    let answer = client.ask(handshake("/chat", "other.example.com", &field)).await;
    assert_eq!((answer.status, answer.code()), (403, "dlp:github-token"));
    let mut client = world.proxy().await;
    let answer = client.ask(handshake("http://evil.test/", "evil.test", "")).await;
    assert_eq!((answer.status, answer.code()), (403, "host_not_allowed"));
    // A body: servers that read none would take it for frames.
    for (fields, body) in [
        ("Transfer-Encoding: chunked\r\n", "4\r\nbody\r\n0\r\n\r\n"),
        ("Content-Length: 4\r\n", "body"),
    ] {
        let mut client = world.inside("other.example.com:443").await;
        let asked = handshake("/body", "other.example.com", fields) + body;
        let answer = client.ask(asked).await;
        assert_eq!((answer.status, answer.code()), (400, "ambiguous_framing"), "{fields}");
    }
    // What comes behind the handshake belongs to it, and to no second request.
    let mut client = world.inside("other.example.com:443").await;
    let two = handshake("/none", "other.example.com", "")
        + "GET /second HTTP/1.1\r\nHost: other.example.com\r\n\r\n";
    assert_eq!(client.ask(two).await.status, 404);
    let _ = client.rest().await;
    let other = ["/second", "/body"];
    assert!(world.upstream.arrived().iter().all(|one| !other.contains(&&*one.target)));
}

/// Messages that are never whole, and answers that nobody reads: each takes its share of what all have, and the next is
/// turned away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_take_no_more_than_there_is() {
    let world = world("block").await;
    let mut all = Vec::new();
    for number in 0..96 {
        let mut socket = Socket::open(&world, "other.example.com").await;
        if number % 2 == 0 {
            let whole = message(BINARY, &vec![b'.'; 3 << 20]);
            socket.send(&whole[..2 << 20]).await;
        } else {
            socket.send(&message(TEXT, &vec![b'.'; 1 << 20])).await;
        }
        all.push(socket);
    }
    super::memory::bounded(&world);
    let refused = world.log("deny");
    assert!(!refused.is_empty(), "there is more than may be held");
    assert!(refused.iter().all(|line| line["code"] == "too_many_connections"), "{refused:?}");
    // Whoever sends little is served all the same.
    drop(all);
    let mut socket = Socket::open(&world, "other.example.com").await;
    socket.send(&message(TEXT, b"still here")).await;
    assert_eq!(socket.next().await.unwrap(), (0x80 | TEXT, b"still here".to_vec()));
    super::memory::bounded(&world);
}
