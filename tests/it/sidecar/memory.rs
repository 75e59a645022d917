//! What a machine and its upstreams can make a sidecar hold: R.

use std::time::Duration;

use super::upstream::{Certificate, Upstream, bomb};
use super::world::{World, allowing};

const HOSTS: &[&str] = &["api.example.com"];
const ECHO: &str = "GET /echo HTTP/1.1\r\nHost: api.example.com\r\n\r\n";

/// Without optimisation the program, and what it compiles of its rules, take more.
const BOUND: u64 = if cfg!(debug_assertions) { 96 << 20 } else { 64 << 20 };

/// It never held more than it may, since it was started.
#[track_caller]
pub(super) fn bounded(world: &World) {
    let peak = status(world, "VmHWM:");
    assert!(peak <= BOUND, "{} MiB", peak >> 20);
}

/// A number of bytes that the kernel tells of the process.
fn status(world: &World, field: &str) -> u64 {
    let path = format!("/proc/{}/status", world.child.id());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// The code by which a policy was compiled is given back, also by a process that is confined: with it the
/// program's own pages are more than before, without it less.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_code_that_compiled_a_policy_is_given_back() {
    for options in [&[][..], &["--confine"]] {
        let upstream = Upstream::start(Certificate::Good).await;
        let mut world = World::unloaded(allowing(HOSTS), upstream, options).await;
        let before = status(&world, "RssFile:");
        world.load().await.unwrap();
        let loaded = status(&world, "RssFile:");
        assert!(loaded < before, "{before} {loaded} {options:?}");
        others_are_served(&world).await;
    }
}

async fn others_are_served(world: &World) {
    assert_eq!(world.inside("api.example.com:443").await.ask(ECHO).await.status, 200);
}

/// Sends more than it may hold in chunks; what is answered.
async fn endless(world: &World) -> String {
    let mut client = world.inside("api.example.com:443").await;
    let head =
        "POST /length HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(head).await;
    let line = b"let answer = 42; // of nothing in particular\n";
    let text: Vec<u8> = line.iter().copied().cycle().take(1 << 20).collect();
    let chunk = [b"100000\r\n", &text[..], b"\r\n"].concat();
    for _ in 0..=BOUND >> 20 {
        client.send(&chunk).await;
    }
    client
        .send("0\r\n\r\nGET /echo HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n")
        .await;
    String::from_utf8_lossy(&client.rest().await).into_owned()
}

/// R04: an upload passes as it comes, or is refused as soon as it is too long to be searched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_without_end() {
    let mut world = World::start(allowing(HOSTS)).await;
    endless(&world).await;
    let denied = world.wait_for("deny", 1).await;
    assert_eq!(denied[0]["code"], "dlp_unscannable");
    others_are_served(&world).await;
    world.document["policy"]["dlp"]["action"] = "warn".into();
    world.load().await.unwrap();
    let answer = endless(&world).await;
    let length = ((BOUND >> 20) + 1) << 20;
    assert!(answer.contains(&format!("\r\n\r\n{length}")), "{answer}");
    bounded(&world);
}

/// R04: what is packed a thousandfold passes packed, or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_in_both_directions() {
    let world = World::start(allowing(HOSTS)).await;
    let bomb = bomb();
    for _ in 0..4 {
        let get = "GET /bomb HTTP/1.1\r\nHost: api.example.com\r\n\r\n";
        let answer = world.inside("api.example.com:443").await.ask(get).await;
        assert_eq!((answer.status, answer.body == bomb), (200, true));
        let mut client = world.inside("api.example.com:443").await;
        client
            .send(format!(
                "POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Encoding: gzip\r\n\
                 Content-Length: {}\r\n\r\n",
                bomb.len()
            ))
            .await;
        let answer = client.ask(&bomb).await;
        assert_eq!((answer.status, answer.code()), (413, "dlp_unscannable"));
    }
    others_are_served(&world).await;
    bounded(&world);
}

/// R04: requests that are never answered hold little.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_never_answered() {
    let world = World::start(allowing(HOSTS)).await;
    let mut waiting = Vec::new();
    for _ in 0..100 {
        let mut client = world.inside("api.example.com:443").await;
        client.send("GET /never HTTP/1.1\r\nHost: api.example.com\r\n\r\n").await;
        waiting.push(client);
    }
    world.wait_for("allow", 100).await;
    others_are_served(&world).await;
    bounded(&world);
}

/// R04: of a response that nobody reads, little is fetched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_that_nobody_reads() {
    let world = World::start(allowing(HOSTS)).await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        let mut client = world.inside("api.example.com:443").await;
        client.send("GET /bytes?2000000 HTTP/1.1\r\nHost: api.example.com\r\n\r\n").await;
        silent.push(client);
    }
    world.wait_for("allow", 300).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    others_are_served(&world).await;
    bounded(&world);
}

/// R04: uploads that their upstream does not take have a share of memory, and those after them wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_nobody_takes() {
    let world = World::start(allowing(HOSTS)).await;
    let mut stalled = Vec::new();
    let text = vec![b' '; (1 << 20) + (64 << 10)];
    for _ in 0..80 {
        let mut client = world.inside("api.example.com:443").await;
        let head = format!(
            "POST /stall HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: {}\r\n\r\n",
            8 << 20
        );
        client.send(head).await;
        // Whoever waits for its share is not read from.
        let sent = tokio::time::timeout(Duration::from_millis(200), client.send(&text)).await;
        stalled.push((client, sent.is_ok()));
    }
    others_are_served(&world).await;
    bounded(&world);
}
