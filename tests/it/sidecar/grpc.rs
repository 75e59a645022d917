//! gRPC, and whatever else answers before it was asked all: with a credential loaded, and searched.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::json;
use tokio::sync::mpsc;

use super::tunnel::handshake;
use super::upstream::{Certificate, Upstream};
use super::world::{World, allowing};

/// Longer than anything here takes, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(60);
const TOKEN: &str = "q8Zx1vN4-kP2sLm7tR8wB1nM4yHc0dJe6fUaGi5o";

async fn world() -> World {
    let mut policy = allowing(&["api.example.com"]);
    policy["routes"] = json!([{
        "path": "/gh/", "host": "api.example.com", "port": 443, "upstream_path": "/gh",
        "auth_scheme": "Bearer", "credential": "GH_TOKEN",
    }]);
    let mut world = World::unloaded(policy, Upstream::start(Certificate::Good).await, &[]).await;
    world.document["credentials"] = json!({ "GH_TOKEN": TOKEN });
    world.load().await.unwrap();
    world
}

/// Whatever a message ends in, and in whatever pieces it comes: it is whole, and its trailers follow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_follow_every_last_byte() {
    let world = world().await;
    let (mut sender, connection) = handshake(world.inside_http2("api.example.com:443").await).await;
    tokio::spawn(connection);
    for size in [1, 4, 9, 10] {
        for last in 0..=255_u8 {
            let uri = format!("https://api.example.com/unary?{last}-{size}");
            let request = hyper::Request::post(uri)
                .header("te", "trailers")
                .body(Bytes::from_static(b"\0\0\0\0\x02hi").into())
                .unwrap();
            let answer = sender.send_request(request).await.unwrap();
            let body = answer.into_body().collect().await.unwrap();
            let trailers = body.trailers().cloned().unwrap_or_default();
            assert_eq!(
                trailers.get("grpc-status").map(|s| s.as_bytes()),
                Some(&b"0"[..]),
                "{last}"
            );
            assert_eq!(body.to_bytes(), [&b"\0\0\0\0\x05last"[..], &[last]].concat());
        }
    }
}

/// Many messages to one request, each with another last byte, and their trailers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_answers_is_whole() {
    let world = world().await;
    let (mut sender, connection) = handshake(world.inside_http2("api.example.com:443").await).await;
    tokio::spawn(connection);
    let request = hyper::Request::post("https://api.example.com/answers")
        .header("te", "trailers")
        .body(Bytes::from_static(b"\0\0\0\0\x02hi").into())
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let body = tokio::time::timeout(PATIENCE, answer.into_body().collect()).await.unwrap().unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    let expected: Vec<u8> =
        (0..=255_u8).flat_map(|last| [&b"\0\0\0\0\x05last"[..], &[last]].concat()).collect();
    assert_eq!(body.to_bytes(), expected);
    assert_eq!(world.log("allow").len(), 1);
}

/// Many messages of one request, each with another last byte, and one answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_questions_is_whole() {
    for action in ["block", "warn"] {
        let mut world = world().await;
        world.document["policy"]["dlp"]["action"] = json!(action);
        world.load().await.unwrap();
        let mut sender = open_sender(&world).await;
        let (pieces, body) = open();
        let request = hyper::Request::post("https://api.example.com/unary?0-4")
            .header("te", "trailers")
            .body(body)
            .unwrap();
        let answer = tokio::spawn(async move { sender.send_request(request).await.unwrap() });
        let mut expected = Vec::new();
        for last in 0..=255_u8 {
            let message = [&b"\0\0\0\0\x05last"[..], &[last]].concat();
            expected.extend_from_slice(&message);
            pieces.send(message.into()).await.unwrap();
            if last.is_multiple_of(32) {
                // Longer than what is held waits for the next one.
                tokio::time::sleep(Duration::from_millis(150)).await;
            }
        }
        drop(pieces);
        let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap();
        let body = answer.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(body.to_bytes(), &b"\0\0\0\0\x05last\0"[..]);
        let arrived = world.upstream.one();
        assert!(arrived.whole && arrived.body == expected, "{}", arrived.body.len());
    }
}

type Open = BoxBody<Bytes, Infallible>;

/// A body that goes on for as long as the sender is there.
fn open() -> (mpsc::Sender<Bytes>, Open) {
    let (sender, receiver) = mpsc::channel::<Bytes>(4);
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(piece)), receiver))
    });
    (sender, BoxBody::new(StreamBody::new(frames)))
}

async fn open_sender(world: &World) -> hyper::client::conn::http2::SendRequest<Open> {
    let stream = world.inside_http2("api.example.com:443").await;
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Open>(executor, io).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// An open request, and the answer to it, which begins before anything is sent.
async fn talk(world: &World) -> (mpsc::Sender<Bytes>, Incoming) {
    let mut sender = open_sender(world).await;
    let (pieces, body) = open();
    let request = hyper::Request::post("https://api.example.com/bidi")
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(body)
        .unwrap();
    let answer = tokio::time::timeout(PATIENCE, sender.send_request(request));
    let answer = answer.await.expect("an answer in time").unwrap();
    assert_eq!(answer.status(), 200);
    (pieces, answer.into_body())
}

/// So much of the answer.
async fn hear(answer: &mut Incoming, count: usize) -> Vec<u8> {
    let mut heard = Vec::new();
    while heard.len() < count {
        let frame = tokio::time::timeout(PATIENCE, answer.frame());
        let frame = frame.await.unwrap_or_else(|_| panic!("after {} bytes", heard.len()));
        heard.extend_from_slice(frame.unwrap().unwrap().data_ref().unwrap());
    }
    heard
}

/// A talk in turns: nobody says anything before they heard the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_talk_in_turns_goes_on() {
    for action in ["block", "warn"] {
        let mut world = world().await;
        world.document["policy"]["dlp"]["action"] = json!(action);
        world.load().await.unwrap();
        let (pieces, mut answer) = talk(&world).await;
        assert_eq!(world.log("allow").len(), 1, "it has its line before it ends");
        for turn in 0..20_u8 {
            // The last byte may begin the credential, plain or in UTF-16.
            let last = [b'q', 0, b'8', turn][usize::from(turn % 4)];
            let said = [&b"\0\0\0\0\x06turn"[..], &[turn, last]].concat();
            pieces.send(Bytes::from(said.clone())).await.unwrap();
            assert_eq!(hear(&mut answer, said.len()).await, said);
        }
        drop(pieces);
        let end = answer.collect().await.unwrap();
        assert_eq!(end.trailers().unwrap()["grpc-status"], "0");
        assert!(world.upstream.open()[0].whole);
        assert_eq!(world.log("allow").len() + world.log("deny").len(), 1);
    }
}

/// What stands in these chunks: what may begin the credential comes a moment later, in one of its own.
fn unchunked(chunks: &[u8]) -> String {
    String::from_utf8_lossy(chunks).split("\r\n").skip(1).step_by(2).collect()
}

/// The same over HTTP/1.1, in chunks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_talk_in_turns_goes_on_in_chunks() {
    let world = world().await;
    let mut client = world.inside("api.example.com:443").await;
    let head = "POST /bidi HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(head).await;
    assert_eq!(client.head().await.status, 200);
    for turn in 0..5 {
        client.send(format!("6\r\nturn {turn}\r\n")).await;
        let mut heard = Vec::new();
        while !unchunked(&heard).contains(&format!("turn {turn}")) {
            let more = tokio::time::timeout(PATIENCE, client.more());
            more.await.expect("it is heard").expect("it goes on");
            heard.extend(client.so_far());
        }
    }
}

/// A secret in a later message ends the stream, whole or in two messages; it is never sent whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_in_a_talk_ends_it() {
    let found = ["ghp", "_", "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx"].concat();
    for (secret, code) in [(found.as_str(), "dlp:"), (TOKEN, "known-secret:GH_TOKEN")] {
        for cut in [0, 12, 30] {
            let world = world().await;
            let (pieces, mut answer) = talk(&world).await;
            let begin = format!("hello {}", &secret[..cut]);
            pieces.send(begin.clone().into()).await.unwrap();
            // More than half of a credential is as good as all of it: it ends at that.
            let half = secret == TOKEN && 2 * cut >= secret.len();
            if !half {
                hear(&mut answer, "hello ".len()).await;
            }
            let _ = pieces.send(format!("{} and more", &secret[cut..]).into()).await;
            let ended = tokio::time::timeout(PATIENCE, answer.collect()).await;
            assert!(ended.expect("it ends").is_err(), "{secret} {cut}");
            let deny = &world.wait_for("deny", 1).await[0];
            assert!(deny["code"].as_str().unwrap().starts_with(code), "{deny}");
            let arrived = &world.upstream.open()[0];
            let text = String::from_utf8_lossy(&arrived.body).into_owned();
            assert!(!arrived.whole && !text.contains(secret), "{cut}: {text}");
            assert!(!text.contains("and more"), "{cut}: {text}");
        }
    }
}

/// Whoever goes away before all was sent has a line too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_never_ends_has_a_line() {
    let world = world().await;
    let mut client = world.inside("api.example.com:443").await;
    client
        .send("POST /x HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 100\r\n\r\nten bytes.")
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(client);
    let line = &world.wait_for("abandoned", 1).await[0];
    assert_eq!((&line["host"], &line["path"]), (&json!("api.example.com:443"), &json!("/x")));
    // One that stays is sent as far as it goes.
    let (mut stays, head) =
        (world.inside("api.example.com:443").await, "Transfer-Encoding: chunked");
    stays
        .send(format!("POST /bidi HTTP/1.1\r\nHost: api.example.com\r\n{head}\r\n\r\n2\r\nhi\r\n"))
        .await;
    world.wait_for("allow", 1).await;
}

/// So has one that its client resets, whenever it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_reset_has_a_line() {
    use super::floods::{PREFACE, frame};
    let world = world().await;
    // `POST https://api.example.com/bidi`, and how long its body is.
    let mut block = vec![0x83, 0x87, 0x04, 5];
    block.extend(b"/bidi\x01\x0fapi.example.com\x0f\x0d\x03100");
    for (count, pause) in [0, 0, 20, 300].into_iter().enumerate() {
        let mut client =
            super::client::Client::new(world.inside_http2("api.example.com:443").await);
        let ask = [frame(1, 4, 1, &block), frame(0, 0, 1, b"ten bytes.")].concat();
        client.send([PREFACE, &frame(4, 0, 0, &[]), &ask].concat()).await;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        client.send(frame(3, 0, 1, &8_u32.to_be_bytes())).await;
        let deadline = std::time::Instant::now() + PATIENCE;
        let lines = || world.log("abandoned").len() + world.log("allow").len();
        while lines() <= count {
            assert!(std::time::Instant::now() < deadline, "{pause} ms");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(lines(), count + 1);
    }
}
