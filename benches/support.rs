//! What the benches share: samples, the machine that they are from, and a child's peak memory.

use std::io;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

/// The program that is measured.
pub(crate) const BOTTLE: &str = env!("CARGO_BIN_EXE_bottle");

/// What one run of a program cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    /// Peak resident memory of the process itself, in bytes.
    pub(crate) memory: u64,
}

/// Runs a program to its end; one that fails is an error.
///
/// The kernel counts the peak of whoever starts it into the child's, so a bench stays small.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<Cost> {
    let shown = format!("{command:?}");
    let begun = Instant::now();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| shown.clone())?;
    let (status, memory) = wait(child.id())?;
    let wall = begun.elapsed();
    anyhow::ensure!(status == 0, "{shown} ended with wait status {status:#x}");
    Ok(Cost { wall, memory })
}

/// Waits for a child of ours and returns its status and its peak resident memory.
#[allow(unsafe_code)]
fn wait(pid: u32) -> io::Result<(i32, u64)> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut status = 0;
    // SAFETY: plain integers, for which all zeroes is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live values of the types that the call writes. The standard
        // library's handle of this child is dropped without being waited for.
        if unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) } == pid {
            return Ok((status, u64::try_from(usage.ru_maxrss).unwrap_or(0) << 10));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Runs a program several times.
pub(crate) async fn runs(
    times: usize,
    mut command: impl FnMut() -> Command,
) -> anyhow::Result<Vec<Cost>> {
    let mut costs = Vec::new();
    for _ in 0..times {
        costs.push(run(&mut command())?);
        // A signal that came meanwhile is seen here.
        tokio::task::yield_now().await;
    }
    Ok(costs)
}

/// The middle one.
pub(crate) fn median<T: Ord + Copy>(values: impl IntoIterator<Item = T>) -> T {
    let mut values: Vec<T> = values.into_iter().collect();
    values.sort();
    values[values.len() / 2]
}

pub(crate) fn wall(costs: &[Cost]) -> Duration {
    median(costs.iter().map(|cost| cost.wall))
}

pub(crate) fn memory(costs: &[Cost]) -> u64 {
    median(costs.iter().map(|cost| cost.memory))
}

pub(crate) fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

pub(crate) fn mib(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let mib = bytes as f64 / f64::from(1 << 20);
    format!("{mib:.1} MiB")
}

/// One line of a table.
pub(crate) fn row(
    what: &str,
    ours: &str,
    rival: &str,
    ratio: &str,
    bound: &str,
    met: Option<bool>,
) {
    let met = met.map_or("", |met| if met { "met" } else { "MISSED" });
    println!("{what:<34}  {ours:>11}  {rival:>11}  {ratio:>7}  {bound:<12}  {met}");
}

pub(crate) fn head(title: &str, rival: &str) {
    println!("\n{title}");
    row("", "bottle", rival, "ratio", "bound", None);
}

/// Where and when the numbers are from, and what else the machine was doing.
pub(crate) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": ?");
    format!(
        "{cores} cores ({}), Linux {}, load {}",
        cpu.trim_start_matches([' ', '\t', ':']),
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/loadavg").split(' ').take(2).collect::<Vec<_>>().join(" "),
    )
}

/// A name that nothing else has.
pub(crate) fn own_name() -> String {
    format!("bench-{:x}", std::process::id())
}

/// Does the work until it ends or a signal comes: what follows it, the clean-up, runs in any case.
pub(crate) async fn until_stopped<T>(
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        biased;
        _ = interrupt.recv() => anyhow::bail!("interrupted"),
        _ = terminate.recv() => anyhow::bail!("interrupted"),
        done = work => done,
    }
}
