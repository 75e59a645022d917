//! The parser behind the filter reads what passed as the filter did.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// How many whole requests the filter let pass, and their bytes.
fn by_the_filter(input: &[u8]) -> (usize, Vec<u8>) {
    let mut framing = Framing::new(Limits::default());
    let (mut waiting, mut passed, mut requests) = (Vec::new(), Vec::new(), 0);
    for byte in input {
        waiting.push(*byte);
        let Ok(length) = framing.push(&waiting) else { break };
        passed.extend(waiting.drain(..length));
        requests += usize::from(length > 0 && framing.is_between_requests());
    }
    (requests, passed)
}

/// How many whole requests the parser reads of these bytes.
async fn by_the_parser(input: Vec<u8>) -> usize {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let read = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&read);
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let counted = Arc::clone(&counted);
        async move {
            if request.into_body().collect().await.is_ok() {
                *counted.lock().unwrap() += 1;
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let mut builder = http1::Builder::new();
    builder.max_headers(Limits::default().fields).half_close(true);
    let serve = builder.serve_connection(TokioIo::new(server), service);
    let drive = async {
        client.write_all(&input).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answers = Vec::new();
        client.read_to_end(&mut answers).await.unwrap();
    };
    // It may end with an error: a last request can lack its end.
    let _ = tokio::join!(serve, drive);
    let read = read.lock().unwrap();
    *read
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_parser_reads_as_many_requests(input in requests()) {
        let (requests, passed) = by_the_filter(&input);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let text = String::from_utf8_lossy(&passed).into_owned();
        let read = runtime.block_on(by_the_parser(passed));
        // The parser ends a connection after some requests, and reads no further then.
        if text.contains("HTTP/1.0") || text.contains("close") {
            prop_assert!(read <= requests, "{}", text);
        } else {
            prop_assert_eq!(read, requests, "{}", text);
        }
    }
}
