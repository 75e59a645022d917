//! The proxies that are measured, each a process of its own on loopback.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bottle::sidecar::{ca, control};
use serde_json::json;
use tokio::net::TcpStream;

use super::support::BOTTLE;
use super::upstream::{HOST, Upstream};

pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    /// None: the upstream itself.
    pub(crate) address: Option<SocketAddr>,
    /// What it is asked to connect to.
    pub(crate) target: String,
    pub(crate) host: &'static str,
    child: Option<Child>,
    /// What the sidecar was told, and where.
    pub(crate) told: Option<(PathBuf, serde_json::Value)>,
    _folder: Option<tempfile::TempDir>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Proxy {
    pub(crate) fn direct() -> Self {
        Self {
            name: "direct",
            address: None,
            target: String::new(),
            host: "localhost",
            child: None,
            told: None,
            _folder: None,
        }
    }

    fn of_process(&self, file: &str) -> String {
        let pid = self.child.as_ref().unwrap().id();
        std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap()
    }

    /// Resident memory, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most that was resident since [`Self::forget_peak`].
    pub(crate) fn peak(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// The peak begins anew.
    pub(crate) fn forget_peak(&self) {
        let pid = self.child.as_ref().unwrap().id();
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
    }

    fn status(&self, field: &str) -> u64 {
        let status = self.of_process("status");
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }

    /// User and system time so far; none for the upstream itself, which is within this process.
    pub(crate) fn core_time(&self) -> Duration {
        if self.child.is_none() {
            return Duration::ZERO;
        }
        let stat = self.of_process("stat");
        let fields: Vec<&str> = stat[stat.rfind(')').unwrap()..].split_whitespace().collect();
        let ticks: u64 = fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until something listens there.
async fn up(address: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(address).await.is_err() {
        assert!(Instant::now() < deadline, "nothing listens at {address}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The sidecar: TLS terminated, leaks looked for, a credential known.
pub(crate) async fn bottle(upstream: &Upstream) -> Proxy {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control");
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let child = Command::new(BOTTLE)
        .args(["sidecar", "serve", "--listen", &address.to_string(), "--control"])
        .arg(format!("unix:{}", socket.display()))
        .arg("--log")
        .arg(folder.path().join("log"))
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    up(address).await;
    let ca = ca::generate("bench").unwrap();
    let document = json!({
        "version": 1,
        "sandbox": "bench",
        "policy": {
            "allow": [{ "host": HOST, "port": 443 }],
            "routes": [],
            "dlp": { "action": "block" },
        },
        "ca": { "certificate": ca.certificate, "key": ca.key.reveal() },
        "roots": [STANDARD.encode(&upstream.root)],
        "credentials": { "BENCH_TOKEN": "a-token-that-nobody-has-ever-seen-before" },
        "resolver": [upstream.names],
        "testing": { "dial": { "93.184.216.34:443": upstream.address } },
    });
    control::load::<bottle::sidecar::egress::State>(
        &socket,
        &serde_json::to_vec(&document).unwrap(),
    )
    .await
    .unwrap();
    Proxy {
        name: "bottle",
        address: Some(address),
        target: format!("{HOST}:443"),
        host: HOST,
        child: Some(child),
        told: Some((socket, document)),
        _folder: Some(folder),
    }
}

fn missing(program: &str) -> bool {
    let there = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    let missing = !there.is_ok_and(|output| output.status.success());
    if missing {
        println!("{program} is not installed: left out");
    }
    missing
}

/// A blind tunnel.
pub(crate) async fn squid(upstream: &Upstream) -> Option<Proxy> {
    if missing("squid") {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let config = format!(
        "http_port 127.0.0.1:{port}\nhttp_access allow all\ncache deny all\naccess_log none\n\
         cache_log /dev/null\npid_filename none\nshutdown_lifetime 0 seconds\nmax_filedescriptors 4096\n\
         coredump_dir {0}\n",
        folder.path().display()
    );
    let file = folder.path().join("squid.conf");
    std::fs::write(&file, config).unwrap();
    open_to_all(folder.path());
    let child = rival(Command::new("squid").arg("-N").arg("-f").arg(&file));
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    up(address).await;
    Some(tunnel("squid", address, upstream, child, folder))
}

/// Interception, by far the most used for it.
pub(crate) async fn mitmproxy(upstream: &Upstream) -> Option<Proxy> {
    if missing("mitmdump") {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let child = rival(
        Command::new("mitmdump")
            .args(["-q", "--listen-host", "127.0.0.1", "-p", &port.to_string(), "--ssl-insecure"])
            .arg("--set")
            .arg(format!("confdir={}", folder.path().display())),
    );
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    up(address).await;
    Some(tunnel("mitmproxy", address, upstream, child, folder))
}

fn tunnel(
    name: &'static str,
    address: SocketAddr,
    upstream: &Upstream,
    child: Child,
    folder: tempfile::TempDir,
) -> Proxy {
    let target = format!("localhost:{}", upstream.address.port());
    let (address, child, folder) = (Some(address), Some(child), Some(folder));
    Proxy { name, address, target, host: "localhost", child, told: None, _folder: folder }
}

fn rival(command: &mut Command) -> Child {
    let (out, error) = (Stdio::null(), Stdio::null());
    command.stdin(Stdio::null()).stdout(out).stderr(error).spawn().unwrap()
}

/// squid reads its configuration as a user of its own.
fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)).unwrap();
}
