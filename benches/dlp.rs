//! How fast clean bodies are scanned, on one core: the built-in rules, a few known values, every
//! decoder on. Prints megabytes a second (over all runs) and what the scanner itself takes.
//!
//! `cargo bench --bench dlp`
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bottle::sidecar::dlp::{Known, Rules, Scanner};
use time::{Date, Month};

/// So many that a tick of the clock, of a few milliseconds, is nothing.
const RUNS: u32 = 25;
const SIZE: usize = 8 << 20;

/// Text without a secret, and mostly without ASCII.
const SCRIPTS: &str = "Проверка русского текста, в котором ничего нет: одни слова — длинные, короткие. 数据库连接 と 日本語 😀\n";

/// Noise that is the same in every run.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32 & 0xff) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Rust sources: this program's, again and again.
fn sources(folder: &Path, out: &mut Vec<u8>) {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.extend(std::fs::read(&path).unwrap());
        }
    }
}

/// Time that this one thread has had a core for: other work on the machine does not count.
fn on_core() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

/// Resident memory, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse().ok()).unwrap_or(0) << 10
}

fn main() {
    let before = resident();
    let begun = Instant::now();
    let known = (0..8).map(|number| (format!("TOKEN_{number}"), hex::encode(noise(20 + number))));
    let known = Arc::new(Known::new(known).unwrap());
    let rules = Arc::new(Rules::builtin().merge(&Rules::default()));
    let scanner = Scanner::new(rules, known, Vec::new());
    println!(
        "{} rules: ready in {:.0} ms, {:.1} MiB resident",
        Rules::builtin().len(),
        begun.elapsed().as_secs_f64() * 1000.0,
        (resident() - before) as f64 / f64::from(1 << 20),
    );

    let mut source = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut source);
    let source = source.iter().copied().cycle().take(SIZE).collect::<Vec<u8>>();
    let messages = source
        .chunks(4000)
        .map(|text| serde_json::json!({"role": "user", "content": String::from_utf8_lossy(text)}));
    let json = serde_json::to_vec(&messages.collect::<Vec<_>>()).unwrap();
    let bodies = [
        ("JSON of sources", json),
        ("base64 of noise", STANDARD.encode(noise(SIZE / 4 * 3)).into_bytes()),
        ("base64 of sources", STANDARD.encode(&source[..SIZE / 4 * 3]).into_bytes()),
        ("hex of noise", hex::encode(&noise(SIZE)[SIZE / 2..]).into_bytes()),
        ("noise", noise(SIZE)),
        ("other scripts", SCRIPTS.bytes().cycle().take(SIZE).collect()),
        ("sources", source),
    ];
    let today = Date::from_calendar_date(2030, Month::January, 1).unwrap();
    for (name, body) in &bodies {
        let begun = on_core();
        for _ in 0..RUNS {
            let found = scanner.scan("api.example.com", today, body);
            assert!(found.is_empty(), "{name}: {found:?}");
        }
        let each = (on_core() - begun).as_secs_f64() / f64::from(RUNS);
        println!("{name:>17}: {:5.0} MB/s", body.len() as f64 / 1e6 / each);
    }
}
