//! A name server that remembers what it was asked.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;

/// What a name is answered with, question after question; the last answer goes on.
type Answers = BTreeMap<String, VecDeque<Vec<IpAddr>>>;

pub(super) struct Names {
    pub(super) address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    answers: Arc<Mutex<Answers>>,
    aliases: Arc<Mutex<Aliases>>,
}

/// The names that lead from one to its addresses.
type Aliases = BTreeMap<String, Vec<String>>;

impl Names {
    pub(super) async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answers = Arc::new(Mutex::new(Answers::new()));
        let aliases = Arc::new(Mutex::new(Aliases::new()));
        let said = (Arc::clone(&answers), Arc::clone(&aliases));
        tokio::spawn(serve(socket, Arc::clone(&asked), said));
        Self { address, asked, answers, aliases }
    }

    /// From now on a name is another name for these, one after the other; its addresses are the
    /// last one's.
    pub(super) fn alias(&self, name: &str, aliases: &[&str]) {
        let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
        self.aliases.lock().unwrap().insert(name.to_owned(), aliases);
    }

    /// From now on a name has these addresses: the first list at the first question for each of its
    /// two kinds, and so on.
    pub(super) fn set(&self, name: &str, answers: &[&[&str]]) {
        let answers =
            answers.iter().map(|list| list.iter().map(|ip| ip.parse().unwrap()).collect());
        self.answers.lock().unwrap().insert(name.to_owned(), answers.collect());
    }

    /// The names that were asked for, each kind of question once.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    socket: UdpSocket,
    asked: Arc<Mutex<Vec<String>>>,
    (answers, aliases): (Arc<Mutex<Answers>>, Arc<Mutex<Aliases>>),
) {
    let mut bytes = [0; 1500];
    while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
        let Some((name, kind, end)) = question(&bytes[..length]) else { continue };
        asked.lock().unwrap().push(name.clone());
        let addresses = {
            let mut answers = answers.lock().unwrap();
            answers.get_mut(&name).map(|list| {
                // Both kinds are asked for each time; the question for IPv4 goes on to the next.
                let next = list.front().cloned().unwrap_or_default();
                if kind == 1 && list.len() > 1 {
                    list.pop_front();
                }
                next
            })
        };
        let mut reply = bytes[..2].to_vec();
        let code = if addresses.is_some() { 0 } else { 3 };
        let fitting: Vec<IpAddr> = addresses
            .unwrap_or_default()
            .into_iter()
            .filter(|ip| (kind == 1 && ip.is_ipv4()) || (kind == 28 && ip.is_ipv6()))
            .collect();
        let aliases = aliases.lock().unwrap().get(&name).cloned().unwrap_or_default();
        let count = u8::try_from(fitting.len() + aliases.len()).unwrap();
        reply.extend([0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
        reply.extend(&bytes[12..end]);
        let mut owner = vec![0xc0, 12];
        for alias in aliases {
            let target: Vec<u8> = alias
                .split('.')
                .flat_map(|label| {
                    [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat()
                })
                .chain([0])
                .collect();
            reply.extend(&owner);
            reply.extend([0, 5, 0, 1, 0, 0, 0, 0, 0, u8::try_from(target.len()).unwrap()]);
            reply.extend(&target);
            owner = target;
        }
        for ip in fitting {
            let data = match ip {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            // Whose it is, its kind, of the internet, gone at once.
            reply.extend(&owner);
            reply.extend([0, u8::try_from(kind).unwrap(), 0, 1, 0, 0, 0, 0, 0]);
            reply.push(u8::try_from(data.len()).unwrap());
            reply.extend(data);
        }
        let _ = socket.send_to(&reply, from).await;
    }
}

/// The name and the kind of the one question, and where it ends.
fn question(bytes: &[u8]) -> Option<(String, u16, usize)> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(bytes.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]);
    Some((labels.join("."), kind, at + 4))
}
