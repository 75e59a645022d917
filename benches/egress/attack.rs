//! What others notice of an attack on the sidecar: how long small requests take that have nothing to do
//! with it, and how much memory the sidecar holds meanwhile.
//!
//! The attacker's threads give way to everything else on the machine, so that what is measured is the work
//! they cause and not the work they are.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bottle::sidecar::control;
use bytes::Bytes;
use flate2::write::GzEncoder;
use flate2::{Compression, Crc};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use super::load::{Attempt, Client, Protocol, secure, tunnel};
use super::proxies::Proxy;
use super::support::mib;
use super::upstream::Upstream;

/// How long one attack lasts.
const ROUND: Duration = Duration::from_secs(6);
/// Others: so many connections, each of which asks so often.
const OTHERS: usize = 4;
const PACE: Duration = Duration::from_millis(5);
/// What they may notice: so many times what a request takes otherwise.
const SLOWER: f64 = 5.0;
/// What the sidecar may hold.
const MEMORY: u64 = 64 << 20;

#[derive(Debug, Clone, Copy)]
enum Attack {
    None,
    Slowloris,
    ResponseBomb,
    UploadBomb,
    RapidReset,
    LargeUpload,
    NeverAnswered,
    SlowReaders,
    Reloads,
}

impl Attack {
    const ALL: [Self; 9] = [
        Self::None,
        Self::Slowloris,
        Self::ResponseBomb,
        Self::UploadBomb,
        Self::RapidReset,
        Self::LargeUpload,
        Self::NeverAnswered,
        Self::SlowReaders,
        Self::Reloads,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::None => "idle",
            Self::Slowloris => "slowloris, 1,000 connections",
            Self::ResponseBomb => "responses of 10 GiB in gzip",
            Self::UploadBomb => "uploads of 10 GiB in gzip",
            Self::RapidReset => "HTTP/2 rapid reset",
            Self::LargeUpload => "uploads of 1 GB",
            Self::NeverAnswered => "100 requests never answered",
            Self::SlowReaders => "300 responses that nobody reads",
            Self::Reloads => "100 reloads, 100 open streams",
        }
    }

    /// How many do it at once.
    const fn attackers(self) -> usize {
        match self {
            Self::None => 0,
            Self::Slowloris => 1000,
            Self::ResponseBomb | Self::UploadBomb => 4,
            Self::RapidReset | Self::LargeUpload => 2,
            Self::NeverAnswered | Self::Reloads => 100,
            Self::SlowReaders => 300,
        }
    }
}

/// All of them, one after the other; or `only` those in whose names there is one of these words.
pub(crate) async fn all(upstream: &Arc<Upstream>, bottle: &Arc<Proxy>, only: &[String]) {
    println!("\n{:<34} {:>9} {:>9} {:>8}  {:>10}", "under attack", "p99 µs", "of idle", "", "peak");
    let attacker = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .on_thread_start(give_way)
        .build()
        .unwrap();
    let mut idle = None;
    let named = |attack: &Attack| only.iter().any(|word| attack.name().contains(word));
    let some = Attack::ALL.iter().any(named);
    let chosen = |attack: &Attack| !some || matches!(attack, Attack::None) || named(attack);
    for attack in Attack::ALL.into_iter().filter(chosen) {
        bottle.forget_peak();
        let mut attackers = JoinSet::new();
        for _ in 0..attack.attackers() {
            let (upstream, bottle) = (Arc::clone(upstream), Arc::clone(bottle));
            attackers.spawn_on(
                async move {
                    loop {
                        // Whoever is sent away comes again.
                        let _ = once(attack, &upstream, &bottle).await;
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                attacker.handle(),
            );
        }
        // What an attack begins with counts too, but for the first moments of its own clients.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let reloads = matches!(attack, Attack::Reloads).then(|| reloads(Arc::clone(bottle)));
        let reloads = reloads.map(tokio::spawn);
        let p99 = others(upstream, bottle).await;
        if let Some(reloads) = reloads {
            reloads.await.unwrap();
        }
        let peak = bottle.peak();
        attackers.shutdown().await;
        let idle = *idle.get_or_insert(p99);
        let (slower, met) = (p99 / idle, |met| if met { "met" } else { "MISSED" });
        println!(
            "{:<34} {p99:>9.0} {slower:>9.1} {:>8}  {:>10} {:>8}",
            attack.name(),
            met(slower <= SLOWER),
            mib(peak),
            met(peak <= MEMORY)
        );
    }
    attacker.shutdown_background();
}

/// An attacker is another machine, which is not here: its threads run only where nothing else would.
/// A higher `nice` does not do: Linux lets such a thread end its slice, of 3 ms, before one that wakes.
fn give_way() {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let ended = std::process::Command::new("chrt").args(["--idle", "--pid", "0", &thread]).status();
    assert!(ended.is_ok_and(|ended| ended.success()), "chrt, of util-linux, does not work");
}

/// The 99th percentile, in microseconds, of requests that have nothing to do with it. One whose
/// connection was closed is asked again on another, which counts.
async fn others(upstream: &Arc<Upstream>, bottle: &Arc<Proxy>) -> f64 {
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..OTHERS {
        let (upstream, bottle) = (Arc::clone(upstream), Arc::clone(bottle));
        tasks.spawn(async move {
            let mut times = Vec::new();
            let mut client = Client::connect(&upstream, &bottle, Protocol::Http1).await.ok();
            let mut pace = tokio::time::interval(PACE);
            while begun.elapsed() < ROUND {
                pace.tick().await;
                let asked = Instant::now();
                loop {
                    client = match client {
                        Some(client) => Some(client),
                        None => Client::connect(&upstream, &bottle, Protocol::Http1).await.ok(),
                    };
                    let Some(there) = &mut client else { continue };
                    if there.get(1 << 10).await.is_ok() {
                        break;
                    }
                    client = None;
                }
                times.push(asked.elapsed().as_secs_f64() * 1e6);
            }
            times
        });
    }
    let mut times: Vec<f64> = tasks.join_all().await.into_iter().flatten().collect();
    times.sort_by(f64::total_cmp);
    times[times.len() * 99 / 100]
}

/// What one attacker does until it is sent away.
async fn once(attack: Attack, upstream: &Upstream, bottle: &Proxy) -> Attempt<()> {
    let host = bottle.host;
    let within =
        |protocol| async move { secure(tunnel(upstream, bottle).await?, host, protocol).await };
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    match attack {
        Attack::None => {}
        Attack::Slowloris => {
            let address = bottle.address.ok_or("it has an address")?;
            let mut stream = tokio::net::TcpStream::connect(address).await?;
            for byte in get("/slow").bytes() {
                stream.write_all(&[byte]).await?;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
        Attack::ResponseBomb => {
            let mut stream = within(Protocol::Http1).await?;
            let mut received = vec![0; 64 << 10];
            stream.write_all(get("/bomb").repeat(100).as_bytes()).await?;
            while stream.read(&mut received).await? > 0 {}
        }
        Attack::UploadBomb => {
            let bomb = bomb();
            for _ in 0..100 {
                let mut stream = within(Protocol::Http1).await?;
                let head = format!(
                    "POST /0 HTTP/1.1\r\nHost: {host}\r\nContent-Encoding: gzip, gzip\r\n\
                     Content-Length: {}\r\n\r\n",
                    bomb.len()
                );
                stream.write_all(head.as_bytes()).await?;
                stream.write_all(&bomb).await?;
                let mut status = [0; 12];
                stream.read_exact(&mut status).await?;
                assert_eq!(&status, b"HTTP/1.1 413");
            }
        }
        Attack::RapidReset => {
            let mut stream = within(Protocol::Http2).await?;
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
            stream.write_all(&frame(4, 0, 0, &[])).await?;
            for first in (1..400_000).step_by(400) {
                let resets = (first..first + 400).step_by(2).flat_map(|stream| {
                    let reset = frame(3, 0, stream, &8_u32.to_be_bytes());
                    [frame(1, 5, stream, &head_of_never(host)), reset].concat()
                });
                stream.write_all(&resets.collect::<Vec<u8>>()).await?;
            }
        }
        Attack::LargeUpload => {
            let mut stream = within(Protocol::Http1).await?;
            let head =
                format!("POST /0 HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            let line = b"fn main() { let answer: u32 = 41 + 1; println!(\"{answer}\", 7); }\n";
            let text: Vec<u8> = line.iter().copied().cycle().take(64 << 10).collect();
            let chunk = [b"10000\r\n", &text[..], b"\r\n"].concat();
            for _ in 0..1_000_000_000 / text.len() {
                stream.write_all(&chunk).await?;
            }
        }
        Attack::NeverAnswered => {
            let mut stream = within(Protocol::Http1).await?;
            stream.write_all(get("/never").as_bytes()).await?;
            stream.read_u8().await?;
        }
        Attack::SlowReaders => {
            let mut stream = within(Protocol::Http1).await?;
            stream.write_all(get("/1048576").repeat(50).as_bytes()).await?;
            std::future::pending::<()>().await;
        }
        Attack::Reloads => {
            let mut stream = within(Protocol::Http1).await?;
            stream.write_all(get("/forever").as_bytes()).await?;
            let mut received = [0; 4 << 10];
            while stream.read(&mut received).await? > 0 {}
        }
    }
    Ok(())
}

/// A hundred new policies, spread over the round.
async fn reloads(bottle: Arc<Proxy>) {
    let (socket, mut document) = bottle.told.clone().unwrap();
    let mut pace = tokio::time::interval(ROUND / 110);
    for number in 0..100 {
        pace.tick().await;
        let other = json!({ "host": format!("h{number}.example.com"), "port": 443 });
        document["policy"]["allow"] = json!([document["policy"]["allow"][0], other]);
        control::load::<bottle::sidecar::egress::State>(
            &socket,
            &serde_json::to_vec(&document).unwrap(),
        )
        .await
        .unwrap();
    }
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `GET https://host/never`, as HPACK writes it without its tables.
fn head_of_never(host: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x87, 0x04, 6];
    block.extend(b"/never");
    block.extend([0x01, u8::try_from(host.len()).unwrap()]);
    block.extend(host.as_bytes());
    block
}

/// A gzip of a gzip of ten gigabytes of zeros: some ten kilobytes.
pub(crate) fn bomb() -> Bytes {
    const PART: usize = 64 << 20;
    const PARTS: u32 = 160;
    // The same part again and again: each ends at a whole byte, and none is the last.
    let mut encoder = flate2::Compress::new(Compression::best(), false);
    let zeros = vec![0; PART];
    let mut part = Vec::with_capacity(1 << 20);
    encoder.compress_vec(&zeros, &mut part, flate2::FlushCompress::Full).unwrap();
    let mut of_part = Crc::new();
    of_part.update(&zeros);
    let mut sum = Crc::new();
    let mut inner = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    for _ in 0..PARTS {
        inner.extend_from_slice(&part);
        sum.combine(&of_part);
    }
    inner.extend([3, 0]);
    inner.extend(sum.sum().to_le_bytes());
    inner.extend(sum.amount().to_le_bytes());
    let mut outer = GzEncoder::new(Vec::new(), Compression::best());
    outer.write_all(&inner).unwrap();
    outer.finish().unwrap().into()
}
