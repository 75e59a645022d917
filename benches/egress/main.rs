//! What a request costs on its way through the sidecar, with TLS terminated and leaks looked for, against
//! what a user would pick instead: `squid` (a blind CONNECT tunnel) and `mitmproxy` (interception).
//!
//! `cargo bench --features testing --bench egress`. Debian has both as packages; a rival that is not
//! installed is left out, and that is said. Everything stays on loopback, and the load generator shares
//! the cores with what it measures, the same for all.
//!
//! Words after `--` choose parts of it: `1kib-h1`, `1kib-h2`, `1mib-h1`, `1mib-h2`, `uploads`,
//! `attack`, and after that words of the attacks' names. `hold` measures nothing: it says where the sidecar
//! and its upstream are, for clients of your own, until its input ends.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods)]

use std::sync::Arc;
use std::time::Duration;

mod attack;
mod load;
mod proxies;
#[path = "../support.rs"]
#[allow(dead_code)]
mod support;
mod upstream;

use load::{Protocol, Result, Shape};
use proxies::Proxy;
use support::{machine, mib};

/// Long enough for some thousand requests of the slowest.
const ROUND: Duration = Duration::from_secs(4);
/// Rounds a proxy; the best counts, so that other work on the machine counts least.
const ROUNDS: usize = 3;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(bench());
}

/// The parts that were asked for; none: all of them.
struct Chosen(Vec<String>);

impl Chosen {
    fn read() -> Self {
        // What begins with a dash is cargo's.
        Self(std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect())
    }

    fn has(&self, part: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|word| word == part)
    }
}

async fn bench() {
    let chosen = Chosen::read();
    println!("{}", machine());
    let upstream = Arc::new(upstream::start().await);
    let direct = Proxy::direct();
    let bottle = Arc::new(proxies::bottle(&upstream).await);
    println!("idle, loaded with a policy: {} resident", mib(bottle.resident()));
    // Without a rival to be compared with, none is started.
    let compares = chosen.0.is_empty()
        || chosen.0.iter().any(|word| word.contains("ib-") || word == "uploads");
    let squid = if compares { proxies::squid(&upstream).await } else { None };
    let mitmproxy = if compares { proxies::mitmproxy(&upstream).await } else { None };
    let rivals = [squid.as_ref(), mitmproxy.as_ref()];
    let all: Vec<&Proxy> =
        [Some(&direct), Some(&*bottle)].into_iter().chain(rivals).flatten().collect();
    for shape in [Shape::SMALL, Shape::LARGE] {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            if !chosen.has(&format!("{}-{}", shape.id, protocol.id())) {
                continue;
            }
            println!("\n{} bodies, {protocol:?}, {} connections", shape.name, shape.connections);
            println!(
                "{:<12} {:>10} {:>10} {:>10} {:>12} {:>12} {:>12}",
                "", "req/s", "p50 µs", "p99 µs", "added p50", "MB/s", "own core µs"
            );
            let mut results: Vec<(&str, Result)> = Vec::new();
            for proxy in &all {
                let mut best: Option<Result> = None;
                for _ in 0..ROUNDS {
                    let result = load::run(&upstream, proxy, protocol, shape, ROUND).await;
                    if best.as_ref().is_none_or(|best| result.rate > best.rate) {
                        best = Some(result);
                    }
                }
                results.push((proxy.name, best.unwrap()));
            }
            report(&results, shape);
        }
    }
    if chosen.has("uploads") {
        uploads(&upstream, &bottle, &all).await;
    }
    if chosen.0.iter().any(|word| word == "hold") {
        let address = bottle.address.unwrap();
        println!("https://{} by http://{address}; the same as", bottle.target);
        println!("https://localhost:{} without the sidecar", upstream.address.port());
        let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await;
    }
    if chosen.has("attack") {
        attack::all(&upstream, &bottle, &chosen.0).await;
    }
    println!("\nafter all of it: {} resident", mib(bottle.resident()));
}

fn report(results: &[(&str, Result)], shape: Shape) {
    let of = |name: &str| results.iter().find(|(n, _)| *n == name).map(|(_, result)| result);
    let base = of("direct").map_or(0.0, |result| result.p50);
    for (name, result) in results {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let bytes = result.rate * shape.bytes as f64 / 1e6;
        println!(
            "{name:<12} {:>10.0} {:>10.0} {:>10.0} {:>12.0} {bytes:>12.0} {:>12.0}",
            result.rate,
            result.p50,
            result.p99,
            result.p50 - base,
            result.core
        );
    }
    let Some(ours) = of("bottle") else { return };
    for rival in ["squid", "mitmproxy"] {
        if let Some(theirs) = of(rival) {
            println!("bottle / {rival}: {:.2} of its requests a second", ours.rate / theirs.rate);
        }
    }
}

/// Clean uploads: what the sidecar's own core time lets through, and large ones beside what carries them
/// without a look at them.
async fn uploads(upstream: &upstream::Upstream, bottle: &Proxy, others: &[&Proxy]) {
    let before = bottle.core_time();
    let small = (1 << 20, 2);
    let rate = load::uploads(upstream, bottle, Protocol::Http1, small, ROUND * 2).await;
    let spent = bottle.core_time() - before;
    println!(
        "\nclean uploads of 1 MiB, scanned: {:.0} MB/s by the clock, {:.0} MB a second of the sidecar's core time",
        rate / 1e6,
        rate * (ROUND * 2).as_secs_f64() / 1e6 / spent.as_secs_f64()
    );
    println!("\nclean uploads of 60 MiB");
    let columns = ["", "client", "at once", "protocol", "MB/s", "of direct"];
    println!("{}", columns.map(|column| format!("{column:>12}")).concat());
    for (client, protocol) in [
        ("hyper", Protocol::Http1),
        ("hyper", Protocol::Http2),
        ("curl", Protocol::Http1),
        ("curl", Protocol::Http2),
    ] {
        for at_once in [1, 4] {
            let shape = (60 << 20, at_once);
            let mut best = vec![0.0_f64; others.len()];
            // They take turns.
            for _ in 0..ROUNDS {
                for (best, proxy) in best.iter_mut().zip(others) {
                    let rate = match client {
                        "curl" => load::curl(upstream, proxy, protocol, shape).await,
                        _ => Some(load::uploads(upstream, proxy, protocol, shape, ROUND / 2).await),
                    };
                    *best = best.max(rate.unwrap_or(0.0));
                }
            }
            for (rate, proxy) in best.iter().zip(others) {
                println!(
                    "{:>12}{client:>12}{at_once:>12}{:>12}{:>12.0}{:>12.2}",
                    proxy.name,
                    protocol.id(),
                    rate / 1e6,
                    rate / best[0]
                );
            }
        }
    }
}
