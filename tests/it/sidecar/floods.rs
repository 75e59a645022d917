//! More than anybody asks for: R03.

use std::time::Duration;

use super::client::Client;
use super::memory::bounded;
use super::running::ECHO;
use super::world::{World, allowing};

const HOSTS: &[&str] = &["api.example.com", "other.example.com"];

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `GET https://api.example.com/never`, as HPACK writes it without its tables.
fn get() -> Vec<u8> {
    let mut block = vec![0x82, 0x87, 0x04, 6];
    block.extend(b"/never");
    block.extend([0x01, 15]);
    block.extend(b"api.example.com");
    block
}

/// R03: floods end their own connection, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_end_their_connection() {
    let world = World::start(allowing(HOSTS)).await;
    let resets = (0..20_000_u32)
        .flat_map(|number| {
            let stream = 2 * number + 1;
            [frame(1, 5, stream, &get()), frame(3, 0, stream, &8_u32.to_be_bytes())].concat()
        })
        .collect::<Vec<u8>>();
    let endless = [frame(1, 1, 1, &get()), frame(9, 0, 1, &[b'x'; 16_000]).repeat(200)].concat();
    // One indexed field of four kilobytes, thirty thousand times: a bomb of a hundred megabytes.
    let mut block = get();
    block.extend([0x40, 1, b'a', 0x7f, 0xa1, 0x1e]);
    block.extend([b'b'; 4000]);
    block.extend([0xbe; 12_000]);
    let bomb = frame(1, 5, 1, &block);
    for (name, flood) in [("rapid reset", resets), ("continuation", endless), ("hpack", bomb)] {
        let mut client = Client::new(world.inside_http2("api.example.com:443").await);
        client.send(PREFACE).await;
        client.send(frame(4, 0, 0, &[])).await;
        for part in flood.chunks(64 * 1024) {
            client.send(part).await;
        }
        if name != "hpack" {
            let rest = client.rest().await;
            assert!(!rest.is_empty(), "{name}: it says that it goes away");
        }
        bounded(&world);
        assert_eq!(world.inside("api.example.com:443").await.ask(ECHO).await.status, 200, "{name}");
    }
    // More streams than there may be, bodies of nothing, settings, windows and priorities: what is
    // beyond the bound is refused, and nobody else notices.
    let streams: Vec<u8> =
        (0..10_000_u32).flat_map(|number| frame(1, 4, 2 * number + 1, &get())).collect();
    let nothing = [frame(1, 4, 1, &get()), frame(0, 0, 1, &[]).repeat(50_000)].concat();
    let settings = frame(4, 0, 0, &[0, 4, 0, 0, 255, 255]).repeat(50_000);
    let windows = frame(8, 0, 0, &1_u32.to_be_bytes()).repeat(50_000);
    let overflow = frame(8, 0, 0, &0x7fff_ffff_u32.to_be_bytes()).repeat(10);
    let priorities = frame(2, 0, 1, &[0, 0, 0, 0, 1]).repeat(50_000);
    let unknown = frame(0x77, 0, 0, &[0; 100]).repeat(20_000);
    for (name, flood) in [
        ("streams", streams),
        ("empty bodies", nothing),
        ("settings", settings),
        ("windows", windows),
        ("a window too far", overflow),
        ("priorities", priorities),
        ("unknown frames", unknown),
    ] {
        let mut client = Client::new(world.inside_http2("api.example.com:443").await);
        client.send([PREFACE, &frame(4, 0, 0, &[])].concat()).await;
        // Whoever does not read what is answered is not read for ever either.
        let _ = tokio::time::timeout(Duration::from_secs(3), client.send(flood)).await;
        bounded(&world);
        assert_eq!(world.inside("api.example.com:443").await.ask(ECHO).await.status, 200, "{name}");
    }
    // Pings are answered one by one, and whoever does not read the answers is not written to.
    let mut client = Client::new(world.inside_http2("api.example.com:443").await);
    client.send([PREFACE, &frame(4, 0, 0, &[])].concat()).await;
    let pings = frame(6, 0, 0, &[0; 8]).repeat(50_000);
    let sent = tokio::time::timeout(Duration::from_secs(3), client.send(pings)).await;
    bounded(&world);
    assert_eq!(world.inside("api.example.com:443").await.ask(ECHO).await.status, 200, "{sent:?}");
}

/// R03: there is a bound for the requests of all connections together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_nobody_answers_are_so_many_and_no_more() {
    let world = World::start(allowing(HOSTS)).await;
    // All are open before the first one asks: with the bound reached, none more would be.
    let mut waiting = Vec::new();
    for _ in 0..7 {
        waiting.push(Client::new(world.inside_http2("api.example.com:443").await));
    }
    for client in &mut waiting {
        let requests: Vec<u8> =
            (0..100).flat_map(|number| frame(1, 5, 2 * number + 1, &get())).collect();
        client.send([PREFACE, &frame(4, 0, 0, &[]), &requests].concat()).await;
    }
    let becomes = async |status: u16| {
        for _ in 0..1200 {
            let (_, head) = world.connect("api.example.com:443").await;
            if head.status == status {
                return head;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("it never became {status}");
    };
    let refused = becomes(503).await;
    assert_eq!(refused.code(), "too_many_connections");
    bounded(&world);
    drop(waiting);
    becomes(200).await;
    assert_eq!(world.inside("api.example.com:443").await.ask(ECHO).await.status, 200);
}
