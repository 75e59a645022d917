//! The far end: a name server and a web server that write down what reaches them.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};

use bottle::sidecar::part::{AllowPart, PolicyPart};
use serde_json::json;

/// Where every name is, as the name server says: an address of the internet's, which nobody dials.
const ADDRESS: [u8; 4] = [93, 184, 216, 34];

/// What has reached the far end, a line each: `dns NAME`, `http HOST PATH`.
#[derive(Clone)]
pub(crate) struct Far {
    seen: Arc<Mutex<Vec<String>>>,
    dns: SocketAddr,
    http: SocketAddr,
}

impl Far {
    /// On the loopback of the host, until the test's process ends.
    pub(crate) fn new() -> Self {
        let dns = UdpSocket::bind("127.0.0.1:0").unwrap();
        let http = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = Self {
            seen: Arc::default(),
            dns: dns.local_addr().unwrap(),
            http: http.local_addr().unwrap(),
        };
        let seen = far.seen.clone();
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, from)) = dns.recv_from(&mut query) {
                if let Some((name, answer)) = answer(&query[..length]) {
                    seen.lock().unwrap().push(format!("dns {name}"));
                    dns.send_to(&answer, from).ok();
                }
            }
        });
        let seen = far.seen.clone();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = http.accept() {
                let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                let Some(first) = lines.next() else { continue };
                let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                let host = headers
                    .iter()
                    .find_map(|line| {
                        line.to_ascii_lowercase().strip_prefix("host: ").map(str::to_owned)
                    })
                    .unwrap_or_default();
                let path = first.split(' ').nth(1).unwrap_or_default();
                seen.lock().unwrap().push(format!("http {host} {path}"));
                let body = format!("far {host}\n");
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                (&stream).write_all((head + &body).as_bytes()).ok();
            }
        });
        far
    }

    /// What has arrived since the last call.
    pub(crate) fn seen(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }

    /// The document of a sidecar that lets these hosts pass, by HTTP.
    pub(crate) fn document(&self, sandbox: &str, hosts: &[&str]) -> bytes::Bytes {
        let allow = |host: &&str| AllowPart {
            host: (*host).to_owned(),
            port: 80,
            methods: Vec::new(),
            paths: Vec::new(),
            cidr: None,
            encoded_slash: false,
            expires: None,
        };
        let policy =
            PolicyPart { allow: hosts.iter().map(allow).collect(), ..PolicyPart::default() };
        let web = SocketAddr::from((ADDRESS, 80));
        let document = json!({
            "version": 1,
            "sandbox": sandbox,
            "policy": policy,
            "names": ["127.0.0.1"],
            "resolver": [self.dns],
            "testing": { "dial": { web.to_string(): self.http } },
        });
        document.to_string().into()
    }

    /// What a test lays over the documents that the program itself writes.
    pub(crate) fn overlay(&self) -> String {
        let web = SocketAddr::from((ADDRESS, 80));
        let dial = json!({ web.to_string(): self.http });
        json!({ "resolver": [self.dns], "testing": { "dial": dial } }).to_string()
    }
}

/// The name that is asked for, and an answer: the address for a query of type A, else none.
fn answer(query: &[u8]) -> Option<(String, Vec<u8>)> {
    let (mut at, mut name) = (12, String::new());
    loop {
        let length = usize::from(*query.get(at)?);
        if length == 0 {
            break;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name += std::str::from_utf8(query.get(at + 1..at + 1 + length)?).ok()?;
        at += length + 1;
    }
    let question = query.get(12..at + 5)?;
    let is_a = query.get(at + 1..at + 3)? == [0, 1];
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    answer.extend(question);
    if is_a {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(ADDRESS);
    }
    Some((name, answer))
}
