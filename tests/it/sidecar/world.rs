//! One sidecar and all that is around it.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bottle::sidecar::ca;
use bottle::sidecar::control;
use bottle::sidecar::document::CaPart;
use bottle::sidecar::egress::State;
use serde_json::{Value, json};

use super::client::{Answer, Client, Stream, dial};
use super::names::Names;
use super::upstream::{Certificate, Upstream};

/// The address of names that are upstreams of the test's, as the name server tells it.
pub(super) const PUBLIC: &str = "93.184.216.34";

pub(super) struct World {
    pub(super) folder: tempfile::TempDir,
    pub(super) child: Child,
    pub(super) names: Names,
    pub(super) upstream: Upstream,
    pub(super) ca: CaPart,
    pub(super) address: SocketAddr,
    pub(super) document: Value,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An allowlist of whole hosts, at port 443.
pub(super) fn allowing(hosts: &[&str]) -> Value {
    let allow: Vec<Value> = hosts.iter().map(|host| json!({ "host": host, "port": 443 })).collect();
    json!({ "allow": allow, "routes": [], "dlp": { "action": "block" } })
}

impl World {
    /// A sidecar with this policy.
    pub(super) async fn start(policy: Value) -> Self {
        Self::with(policy, Upstream::start(Certificate::Good).await, &[]).await
    }

    /// A sidecar before any document.
    pub(super) async fn with(policy: Value, upstream: Upstream, options: &[&str]) -> Self {
        let mut world = Self::unloaded(policy, upstream, options).await;
        world.load().await.expect("the document is in order");
        world
    }

    /// With something of its own in front of the program.
    pub(super) async fn wrapped(
        policy: Value,
        upstream: Upstream,
        before: &[&str],
        options: &[&str],
    ) -> Self {
        let mut world = Self::spawn(policy, upstream, before, options).await;
        world.load().await.expect("the document is in order");
        world
    }

    pub(super) async fn unloaded(policy: Value, upstream: Upstream, options: &[&str]) -> Self {
        Self::spawn(policy, upstream, &[], options).await
    }

    async fn spawn(policy: Value, upstream: Upstream, before: &[&str], options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let control = folder.path().join("control");
        let mut words = before.iter().copied().chain([env!("CARGO_BIN_EXE_bottle")]);
        let child = Command::new(words.next().unwrap())
            .args(words)
            .args(["sidecar", "serve", "--control"])
            .arg(format!("unix:{}", control.display()))
            .arg("--log")
            .arg(folder.path().join("log"))
            .args(options)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let names = Names::start().await;
        for name in ["api.example.com", "other.example.com", "cdn.example.net"] {
            names.set(name, &[&[PUBLIC]]);
        }
        let ca = ca::generate("dev").unwrap();
        let document = json!({
            "version": 1,
            "sandbox": "dev",
            "policy": policy,
            "names": ["sidecar", "127.0.0.1"],
            "forbidden": ["93.184.216.99"],
            "ca": { "certificate": ca.certificate, "key": ca.key.reveal() },
            "roots": [base64(&upstream.root)],
            "credentials": {},
            "resolver": [names.address],
            "testing": { "dial": {
                format!("{PUBLIC}:443"): upstream.secure,
                format!("{PUBLIC}:80"): upstream.plain,
                format!("{PUBLIC}:8443"): upstream.secure,
                format!("[2606:2800:220:1::1]:443"): upstream.secure,
                "93.184.216.35:443": "127.0.0.1:1",
            } },
        });
        let world = Self { folder, child, names, upstream, ca, address, document };
        world.hand_in(&listener).await;
        world
    }

    /// Hands a listening socket in, as soon as the sidecar answers.
    async fn hand_in(&self, listener: &std::net::TcpListener) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match control::listen::<State>(&self.control(), &[listener.as_fd()]).await {
                Ok(_) => return,
                Err(error) if Instant::now() > deadline => panic!("{error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    pub(super) fn control(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    /// Loads the document as it is now.
    pub(super) async fn load(&mut self) -> Result<State, String> {
        let text = serde_json::to_vec(&self.document).unwrap();
        control::load(&self.control(), &text).await.map_err(|error| error.to_string())
    }

    pub(super) async fn state(&self) -> State {
        control::state(&self.control()).await.unwrap()
    }

    /// The lines of the log with this event.
    pub(super) fn log(&self, event: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.path().join("log")).unwrap();
        // The last may be on its way.
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str::<Value>(line).expect("each line is JSON"))
            .filter(|line| line["event"] == event)
            .collect()
    }

    /// Waits for so many lines with this event.
    pub(super) async fn wait_for(&self, event: &str, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let lines = self.log(event);
            if lines.len() >= count || Instant::now() > deadline {
                assert_eq!(lines.len(), count, "{lines:#?}");
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A connection to the proxy.
    pub(super) async fn proxy(&self) -> Client {
        dial(self.address).await
    }

    /// A CONNECT and its answer.
    pub(super) async fn connect(&self, authority: &str) -> (Client, Answer) {
        let mut client = self.proxy().await;
        client.send(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n")).await;
        let head = client.head().await;
        (client, head)
    }

    /// HTTP/1 in a tunnel to a host that is allowed.
    pub(super) async fn inside(&self, authority: &str) -> Client {
        let (client, head) = self.connect(authority).await;
        assert_eq!(head.status, 200, "{head:?}");
        let name = authority.split(':').next().unwrap();
        Client::new(client.secure(&self.ca.certificate, name, &[b"http/1.1"]).await.unwrap())
    }

    /// TLS in a tunnel, ready for HTTP/2.
    pub(super) async fn inside_http2(
        &self,
        authority: &str,
    ) -> tokio_rustls::client::TlsStream<Box<dyn Stream>> {
        let (client, head) = self.connect(authority).await;
        assert_eq!(head.status, 200, "{head:?}");
        let name = authority.split(':').next().unwrap();
        client.secure(&self.ca.certificate, name, &[b"h2"]).await.unwrap()
    }

    /// Nothing of it went anywhere, and the log says so once.
    #[track_caller]
    pub(super) fn refused(&self, code: &str) {
        let denials = self.log("deny");
        assert_eq!(denials.len(), 1, "{denials:#?}");
        assert_eq!(denials[0]["code"], code, "{denials:#?}");
        self.untouched();
    }

    /// Nothing was resolved, and nothing reached the upstream.
    #[track_caller]
    pub(super) fn untouched(&self) {
        assert_eq!(self.names.asked(), Vec::<String>::new());
        assert_eq!(self.upstream.connections(), 0);
        assert!(self.log("allow").is_empty());
    }
}

pub(super) fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::prelude::BASE64_STANDARD.encode(bytes)
}
