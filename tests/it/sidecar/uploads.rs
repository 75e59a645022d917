//! Uploads: many at once, large ones, slow ones, and those that are refused: R, D.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;

use super::client::{Answer, Client};
use super::memory::bounded;
use super::packing::{brotli, gzip, zlib};
use super::tunnel::handshake;
use super::upstream::{Certificate, Upstream};
use super::world::{World, allowing};

const HOST: &str = "api.example.com";
const MIB: usize = 1024 * 1024;

fn secret() -> String {
    ["ghp", "_", "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx"].concat()
}

fn post(path: &str, length: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n")
}

/// Text in which there is nothing to find.
fn text(length: usize) -> Vec<u8> {
    b"nothing to see here, only words\n".iter().copied().cycle().take(length).collect()
}

/// Sends all of it before it looks at the answer, as many clients do.
async fn send_then_look(world: &World, head: &str, pieces: &[&[u8]]) -> Option<Answer> {
    let mut client = world.inside("api.example.com:443").await;
    client.send(head).await;
    for piece in pieces {
        client.send(piece).await;
    }
    client.try_answer().await
}

/// Forty at once, each of a megabyte in slow pieces: nobody waits for what another one holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_uploads_at_once_all_arrive() {
    let world = std::sync::Arc::new(World::start(allowing(&[HOST])).await);
    let body = Bytes::from(text(MIB));
    let begun = Instant::now();
    let mut uploads = tokio::task::JoinSet::new();
    for number in 0..40 {
        let (world, body) = (std::sync::Arc::clone(&world), body.clone());
        uploads.spawn(async move {
            let mut client = world.inside("api.example.com:443").await;
            // Every other one does not say how long it is.
            let chunked = number % 2 == 0;
            if chunked {
                let head = format!(
                    "POST /length HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n"
                );
                client.send(head).await;
            } else {
                client.send(post("/length", body.len())).await;
            }
            for piece in body.chunks(64 * 1024) {
                if chunked {
                    client.send(format!("{:x}\r\n", piece.len())).await;
                }
                client.send(piece).await;
                if chunked {
                    client.send("\r\n").await;
                }
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            if chunked {
                client.send("0\r\n\r\n").await;
            }
            client.answer().await
        });
    }
    while let Some(answer) = uploads.join_next().await {
        let answer = answer.unwrap();
        assert_eq!((answer.status, answer.text()), (200, MIB.to_string()));
    }
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
}

/// The same on one connection of HTTP/2.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_uploads_on_one_connection_all_arrive() {
    let world = World::start(allowing(&[HOST])).await;
    let (sender, connection) = handshake(world.inside_http2("api.example.com:443").await).await;
    tokio::spawn(connection);
    let body = Bytes::from(text(MIB));
    let mut uploads = tokio::task::JoinSet::new();
    for _ in 0..60 {
        let (mut sender, body) = (sender.clone(), body.clone());
        uploads.spawn(async move {
            let request =
                hyper::Request::post("https://api.example.com/length").body(body.into()).unwrap();
            sender.ready().await.unwrap();
            sender.send_request(request).await.unwrap().status()
        });
    }
    while let Some(status) = uploads.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
}

/// D: what streams is searched to its end, as far as the bound, and passes if there is nothing in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_body_is_searched_as_it_streams() {
    let world = World::start(allowing(&[HOST])).await;
    let piece = text(MIB);
    let clean: Vec<&[u8]> = vec![&piece; 60];
    let answer = send_then_look(&world, &post("/length", 60 * MIB), &clean).await.unwrap();
    assert_eq!((answer.status, answer.text()), (200, (60 * MIB).to_string()));
    assert!(world.log("allow")[0].get("unscanned").is_none());
    let secret = secret();
    world.upstream.forget();
    let mut pieces: Vec<&[u8]> = vec![&piece; 30];
    pieces.push(secret.as_bytes());
    let length = 30 * MIB + secret.len();
    let answer = send_then_look(&world, &post("/length", length), &pieces).await.unwrap();
    assert_eq!((answer.status, answer.code()), (403, "dlp:github-token"));
    assert!(world.upstream.arrived().iter().all(|arrived| !arrived.whole));
}

/// R: a refusal reaches whoever sends all of its body before it looks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_of_an_upload_is_read() {
    let world = World::start(allowing(&[HOST])).await;
    let piece = text(MIB);
    let secret = secret();
    let mut begins = vec![secret.as_bytes()];
    begins.extend(vec![&piece[..]; 40]);
    let length = 40 * MIB + secret.len();
    let answer = send_then_look(&world, &post("/length", length), &begins).await.unwrap();
    assert_eq!((answer.status, answer.code()), (403, "dlp:github-token"));
    // More than is searched.
    let large: Vec<&[u8]> = vec![&piece; 65];
    let answer = send_then_look(&world, &post("/length", 65 * MIB), &large).await.unwrap();
    assert_eq!((answer.status, answer.code()), (413, "dlp_unscannable"));
    // What is refused before any of the body is read: another path, another host.
    let head = post("/length", 20 * MIB).replace(HOST, "evil.test");
    let answer = send_then_look(&world, &head, &large[..20]).await.unwrap();
    assert_eq!((answer.status, answer.code()), (421, "authority_mismatch"));
    // By the front door, without TLS.
    let mut client = world.proxy().await;
    client
        .send(format!(
            "POST http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\nContent-Length: {}\r\n\r\n",
            20 * MIB
        ))
        .await;
    for piece in &large[..20] {
        client.send(piece).await;
    }
    assert_eq!(client.answer().await.code(), "host_not_allowed");
}

/// R: the same over HTTP/2, where the rest of a body is still taken from its sender.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_of_an_upload_is_read_over_http2() {
    let world = World::start(allowing(&[HOST])).await;
    let (mut sender, connection) = handshake(world.inside_http2("api.example.com:443").await).await;
    tokio::spawn(connection);
    for (length, begin, status) in [(70 * MIB, String::new(), 413), (20 * MIB, secret(), 403)] {
        let mut body = begin.into_bytes();
        body.resize(length, b' ');
        let request =
            hyper::Request::post("https://api.example.com/length").body(Bytes::from(body).into());
        let answer = sender.send_request(request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), status);
        let page = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
        let page: serde_json::Value = serde_json::from_slice(&page).unwrap();
        assert!(page["next"].is_string());
    }
}

/// The same text in each coding: as much as is searched of it, and what it ends in.
fn coded(end: &str) -> Vec<(&'static str, Vec<u8>)> {
    let mut noise = vec![0; MIB];
    getrandom::fill(&mut noise).unwrap();
    let all = [hex::encode(&noise).as_bytes(), &text(MIB), b"\n", end.as_bytes()].concat();
    let once = gzip(&all);
    assert!(once.len() > MIB, "more than is held: {}", once.len());
    let twice = gzip(&once);
    vec![
        ("gzip", once),
        ("deflate", zlib(&all)),
        ("gzip, gzip", twice),
        ("zstd", zstd(&all)),
        ("br", brotli(&all)),
        // Twenty megabytes, which takes long to unpack where it is not stored.
        ("zstd", zstd(&[&text(20 * MIB)[..], end.as_bytes()].concat())),
    ]
}

/// With a window of a megabyte.
fn zstd(body: &[u8]) -> Vec<u8> {
    super::packing::zstd(body, 10, 100_000)
}

/// What arrived at this path, once it has. A body that ends early is known to be over only when its
/// connection is, after its sender has its answer.
async fn arrived_at(world: &World, path: &str) -> super::upstream::Arrived {
    let find = || world.upstream.arrived().into_iter().find(|arrived| arrived.target == path);
    until(path, || find().is_some()).await;
    find().unwrap()
}

/// D: a compressed body is searched as it streams, without its codings, and nothing of a secret leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_compressed_body_is_searched_as_it_streams() {
    let world = World::start(allowing(&[HOST])).await;
    for (end, status) in [("", 200), (&*secret(), 403)] {
        for (number, (coding, body)) in coded(end).into_iter().enumerate() {
            let path = format!("/length?{status}-{number}");
            let fields = format!("Content-Encoding: {coding}\r\n\r\n");
            let head = post(&path, body.len()).replace("\r\n\r\n", &format!("\r\n{fields}"));
            let answer = send_then_look(&world, &head, &[&body]).await.unwrap();
            assert_eq!(answer.status, status, "{coding}: {}", answer.text());
            let arrived = arrived_at(&world, &path).await;
            if status == 200 {
                assert!(arrived.body == body && arrived.whole, "{coding}");
                assert_eq!(arrived.header("content-length"), [body.len().to_string()]);
                continue;
            }
            assert_eq!(answer.code(), "dlp:github-token", "{coding}");
            // Its end, in which the secret is, was not sent.
            let sent = arrived.body.len();
            assert!(
                sent + 16 < body.len() && !arrived.whole && arrived.body == body[..sent],
                "{coding}: {sent} of {}, {}",
                body.len(),
                arrived.whole
            );
        }
        world.upstream.forget();
    }
    bounded(&world);
    assert!(world.log("allow").iter().all(|line| line.get("unscanned").is_none()));
}

/// D: the same wherever in it a secret is, and over every protocol. Here it is stored, so that it is seen
/// whether it was among what arrived.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_secret_in_the_middle_of_a_compressed_body_leaves() {
    let world = World::start(allowing(&[HOST])).await;
    let (sender, connection) = handshake(world.inside_http2("api.example.com:443").await).await;
    tokio::spawn(connection);
    let all = [&text(MIB + MIB / 2)[..], secret().as_bytes(), b"\n", &text(3 * MIB)].concat();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    std::io::Write::write_all(&mut gzip, &all).unwrap();
    let gzip = gzip.finish().unwrap();
    for (coding, body) in [("zstd", zstd(&all)), ("br", brotli(&all)), ("gzip", gzip)] {
        for form in ["length", "chunks", "http2"] {
            let path = format!("/length?{form}-{coding}");
            let head =
                format!("POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Encoding: {coding}\r\n");
            let answered = match form {
                "length" => {
                    let head = format!("{head}Content-Length: {}\r\n\r\n", body.len());
                    send_then_look(&world, &head, &[&body]).await.unwrap().status
                }
                "chunks" => {
                    let head = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
                    let chunk = format!("{:x}\r\n", body.len());
                    let pieces = [chunk.as_bytes(), &body, b"\r\n0\r\n\r\n"];
                    send_then_look(&world, &head, &pieces).await.unwrap().status
                }
                _ => {
                    let request = hyper::Request::post(format!("https://{HOST}{path}"))
                        .header("content-encoding", coding)
                        .body(Bytes::from(body.clone()).into());
                    let mut sender = sender.clone();
                    sender.send_request(request.unwrap()).await.unwrap().status().as_u16()
                }
            };
            assert_eq!(answered, 403, "{path}");
            let arrived = arrived_at(&world, &path).await;
            let holds = |text: &[u8]| memchr::memmem::find(&arrived.body, text).is_some();
            assert!(!arrived.whole && !holds(&secret().as_bytes()[..20]), "{path}");
        }
    }
    bounded(&world);
}

/// D17: what is no such coding, is cut off, followed by something, or unpacks to too much, is refused
/// wherever that shows, and passes in warn mode with a word about it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compressed_body_that_cannot_be_searched_to_its_end_is_refused() {
    let mut world = World::start(allowing(&[HOST])).await;
    let mut cases = Vec::new();
    for (coding, body) in coded("").into_iter().take(5) {
        cases.push((coding, body[..body.len() - 1].to_vec()));
        cases.push((coding, [&body[..], b"and more"].concat()));
        let mut broken = body;
        let half = broken.len() / 2;
        broken[half..].fill(0xff);
        // Stored bytes are what they are.
        if !["zstd", "br"].contains(&coding) {
            cases.push((coding, broken));
        }
    }
    // More than is unpacked of so much, and two megabytes that come to nothing at all.
    let repeated = |count: usize| {
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3];
        for number in 0..count {
            let head = u32::from(number + 1 == count) | 1 << 1 | (128 << 10) << 3;
            frame.extend_from_slice(&head.to_le_bytes()[..3]);
            frame.push(0);
        }
        frame
    };
    cases.push(("zstd", [zstd(&text(MIB + MIB / 8)), repeated(160)].concat()));
    let empty = [0, 0, 0, 0xff, 0xff].repeat(2 * MIB / 5);
    cases.push(("gzip", [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &empty].concat()));
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3];
    cases.push(("zstd", [&window[..], &zstd(&text(2 * MIB))[6..]].concat()));
    for action in ["block", "warn"] {
        world.document["policy"]["dlp"]["action"] = json!(action);
        world.load().await.unwrap();
        for (number, (coding, body)) in cases.iter().enumerate() {
            let fields = format!("Content-Encoding: {coding}\r\n\r\n");
            let head = post("/length", body.len()).replace("\r\n\r\n", &format!("\r\n{fields}"));
            let answer = send_then_look(&world, &head, &[body]).await.unwrap();
            let seen = (answer.status, answer.code());
            if action == "block" {
                assert_eq!(seen, (413, "dlp_unscannable"), "{number}: {coding}");
                continue;
            }
            assert_eq!(
                (seen.0, answer.text()),
                (200, body.len().to_string()),
                "{number}: {coding}"
            );
        }
    }
    let said = |event: &str| {
        let unscanned = |line: &serde_json::Value| line["unscanned"] == true;
        world.log(event).iter().filter(|line| unscanned(line)).count()
    };
    assert_eq!(said("allow") + said("warn"), cases.len());
    bounded(&world);
}

/// R04: many compressed uploads at once share the memory of their decoders, and all of them arrive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_compressed_uploads_at_once_all_arrive() {
    let world = std::sync::Arc::new(World::start(allowing(&[HOST])).await);
    let mut noise = vec![0; MIB + MIB / 2];
    getrandom::fill(&mut noise).unwrap();
    // Of the largest windows that there may be; but one of them is in the way of another.
    let mut large = zstd(&noise);
    large[5] = 13 << 3;
    let mut uploads = tokio::task::JoinSet::new();
    for number in 0..24 {
        let (coding, body) = match number % 4 {
            0 => ("zstd", Bytes::from(large.clone())),
            _ => ("br", Bytes::from(brotli(&noise))),
        };
        let world = std::sync::Arc::clone(&world);
        uploads.spawn(async move {
            let fields = format!("Content-Encoding: {coding}\r\n\r\n");
            let head = post("/length", body.len()).replace("\r\n\r\n", &format!("\r\n{fields}"));
            let answer = send_then_look(&world, &head, &[&body]).await.unwrap();
            assert_eq!((answer.status, answer.text()), (200, body.len().to_string()), "{coding}");
        });
    }
    while let Some(done) = uploads.join_next().await {
        done.unwrap();
    }
    bounded(&world);
}

/// R: what moves is waited for, however long it takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_upload_is_no_timeout() {
    let mut world = World::start(allowing(&[HOST])).await;
    world.document["testing"]["response_head_ms"] = json!(1000);
    world.load().await.unwrap();
    let mut client = world.inside("api.example.com:443").await;
    client.send(post("/length", 40)).await;
    for _ in 0..40 {
        client.send("x").await;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "40"));
}

const TOO_LARGE: &str =
    "HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large";

/// An upstream that has refused an upload is what its sender hears.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_refuses_an_upload_is_heard() {
    is_heard(&World::with(allowing(&[HOST]), Upstream::saying(TOO_LARGE).await, &[]).await, 5)
        .await;
}

/// Also one whose connection is reset behind its answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_refuses_an_upload_and_is_gone_is_heard() {
    is_heard(&World::with(allowing(&[HOST]), Upstream::abrupt(TOO_LARGE).await, &[]).await, 20)
        .await;
}

/// One that is gone without a word is told from one that was never reached.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_is_gone_without_a_word_is_told() {
    let world = World::with(allowing(&[HOST]), Upstream::abrupt("").await, &[]).await;
    let body = text(2 * MIB);
    let answer = send_then_look(&world, &post("/", body.len()), &[&body]).await.unwrap();
    assert_eq!((answer.status, answer.code()), (502, "upstream_unreachable"));
    assert!(answer.text().contains("closed the connection without an answer"), "{answer:?}");
}

/// Uploads of several sizes, over both protocols, are answered with [`TOO_LARGE`], every time.
async fn is_heard(world: &World, times: usize) {
    let (mut sender, connection) = handshake(world.inside_http2("api.example.com:443").await).await;
    tokio::spawn(connection);
    for body in [text(600_000), text(2 * MIB)] {
        for _ in 0..times {
            let answer = send_then_look(world, &post("/", body.len()), &[&body]).await.unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (413, "too large"));
        }
        for _ in 0..times {
            let request = hyper::Request::post("https://api.example.com/")
                .body(Bytes::from(body.clone()).into());
            let answer = sender.send_request(request.unwrap()).await.unwrap();
            assert_eq!(answer.status(), 413);
            let said =
                http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
            assert_eq!(said, "too large");
        }
    }
}

/// R05: what always has more to say ends too, when a policy forbids it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn narrowing_ends_what_never_pauses() {
    let mut world = World::start(allowing(&[HOST])).await;
    let mut client: Client = world.inside("api.example.com:443").await;
    client.send(format!("GET /bytes?2000000000 HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await;
    assert_eq!(client.head().await.status, 200);
    let reading = tokio::spawn(async move {
        let mut count = 0;
        while client.more().await.is_some() {
            count += client.so_far().len();
        }
        count
    });
    world.document["policy"]["allow"][0]["paths"] = json!(["/echo"]);
    world.load().await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(20), reading).await;
    assert!(read.expect("it ends").unwrap() < 2_000_000_000);
}

/// R05: so does an upload that never pauses, also when its answer has ended long before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn narrowing_ends_an_upload_that_never_pauses() {
    for door in ["front", "http1", "http2"] {
        let mut policy = allowing(&[HOST]);
        policy["allow"] = json!([{ "host": HOST, "port": 443 }, { "host": HOST, "port": 80 }]);
        policy["dlp"]["action"] = json!("warn");
        let mut world = World::start(policy).await;
        let piece = Bytes::from(text(64 * 1024));
        let going = match door {
            "http2" => {
                let stream = world.inside_http2("api.example.com:443").await;
                tokio::spawn(http2_without_end(stream, piece))
            }
            _ => {
                let (mut client, url) = match door {
                    "front" => (world.proxy().await, format!("http://{HOST}/heeded")),
                    _ => (world.inside("api.example.com:443").await, "/heeded".to_owned()),
                };
                let fields = format!("Host: {HOST}\r\nTransfer-Encoding: chunked");
                client.send(format!("POST {url} HTTP/1.1\r\n{fields}\r\n\r\n")).await;
                let chunk = [b"10000\r\n", &piece[..], b"\r\n"].concat();
                tokio::spawn(async move {
                    while tokio::io::AsyncWriteExt::write_all(&mut client.stream, &chunk)
                        .await
                        .is_ok()
                    {}
                })
            }
        };
        let arrived = || world.upstream.open().first().cloned();
        let count = || {
            let arrived = arrived()?;
            String::from_utf8_lossy(&arrived.body).parse::<usize>().ok()
        };
        until(door, || count().is_some_and(|count| count > 4 * MIB)).await;
        world.document["policy"]["allow"] = json!([]);
        world.load().await.unwrap();
        world.wait_for("revoked", 1).await;
        until(door, || world.upstream.open()[0].target == "ended").await;
        going.abort();
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A body that always has more, over HTTP/2.
async fn http2_without_end(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    piece: Bytes,
) {
    use hyper::body::Frame;
    let (executor, io) =
        (hyper_util::rt::TokioExecutor::new(), hyper_util::rt::TokioIo::new(stream));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let connection = tokio::spawn(connection);
    let pieces = futures_util::stream::repeat(Ok::<_, std::convert::Infallible>(piece));
    let pieces = futures_util::StreamExt::map(pieces, |piece| piece.map(Frame::data));
    let body = http_body_util::StreamBody::new(pieces);
    let request = hyper::Request::post("https://api.example.com/heeded").body(body).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let _ = connection.await;
}

/// A small answer keeps its length while credentials are loaded; one in which something is taken out
/// has a new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_keeps_its_length() {
    let mut policy = allowing(&[]);
    policy["routes"] = json!([{
        "path": "/gh/", "host": HOST, "port": 443, "upstream_path": "",
        "auth_scheme": "Bearer", "credential": "GH_TOKEN",
    }]);
    let mut world = World::unloaded(policy, Upstream::start(Certificate::Good).await, &[]).await;
    world.document["credentials"] =
        json!({ "GH_TOKEN": "q8Zx1vN4-kP2sLm7tR8wB1nM4yHc0dJe6fUaGi5o" });
    world.load().await.unwrap();
    for path in ["/bytes?1000", "/bytes?60000", "/reflect"] {
        let request = format!("GET /gh{path} HTTP/1.1\r\nHost: sidecar\r\n\r\n");
        let answer = world.proxy().await.ask(&request).await;
        let length = answer.header("content-length").map(str::to_owned);
        assert_eq!(length, Some(answer.body.len().to_string()), "{path}: {:?}", answer.headers);
        assert!(path != "/reflect" || answer.text().contains("<redacted:GH_TOKEN>"));
    }
}
