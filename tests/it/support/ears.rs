//! The far end of what should not arrive: listeners, and a look at every packet.

use std::collections::{BTreeMap as Map, BTreeSet};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, eth, sockopt};

/// Listeners of the host, on all of its addresses, TCP and UDP, and how often each was reached.
pub(crate) struct Host {
    port: u16,
    reached: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Host {
    pub(crate) fn listen() -> Self {
        let any = (Ipv6Addr::UNSPECIFIED, 0);
        let tcp = TcpListener::bind(any).expect("a port is free");
        let port = tcp.local_addr().expect("it is bound").port();
        let udp = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).expect("the port is free");
        tcp.set_nonblocking(true).expect("it is ours");
        udp.set_nonblocking(true).expect("it is ours");
        let (reached, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, ended) = (reached.clone(), stop.clone());
        std::thread::spawn(move || {
            while !ended.load(Ordering::SeqCst) {
                let mut packet = [0; 64];
                if tcp.accept().is_ok() || udp.recv(&mut packet).is_ok() {
                    count.fetch_add(1, Ordering::SeqCst);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Self { port, reached, stop }
    }

    /// Where it listens, on every address.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How often anybody was heard.
    pub(crate) fn reached(&self) -> usize {
        self.reached.load(Ordering::SeqCst)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Everything that the kernel sees, on every interface, of one sender or with one word in it.
pub(crate) struct Sniffer {
    /// Where packets from the machine's address went, and how many.
    sent: Arc<Mutex<Map<String, usize>>>,
    /// Where packets with the word went.
    told: Arc<Mutex<BTreeSet<String>>>,
    stop: Arc<AtomicBool>,
}

impl Sniffer {
    /// None where packets may not be looked at. Without a machine only the word counts.
    pub(crate) fn start(machine: Option<Ipv4Addr>, word: &str) -> Option<Self> {
        let all = Some(eth::ALL);
        let socket = rustix::net::socket(AddressFamily::PACKET, SocketType::RAW, all).ok()?;
        let patience = Some(Duration::from_millis(50));
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, patience).expect("it is ours");
        // All tests' packets pass here: as many as may wait do, until they are looked at.
        sockopt::set_socket_recv_buffer_size_force(&socket, 32 << 20)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, 32 << 20))
            .expect("it is ours");
        let (sent, told) = (Arc::new(Mutex::default()), Arc::new(Mutex::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let this = Self { sent: sent.clone(), told: told.clone(), stop: stop.clone() };
        let (mac, word) = (machine.map(mac_of), word.as_bytes().to_vec());
        let mut socket = std::fs::File::from(socket);
        std::thread::spawn(move || {
            let mut frame = vec![0; 64 * 1024];
            while !stop.load(Ordering::SeqCst) {
                let Ok(length) = socket.read(&mut frame) else { continue };
                let frame = &frame[..length];
                let Some((to, from)) = ends(frame) else { continue };
                let sender = |machine| from == IpAddr::V4(machine);
                if machine.is_some_and(sender) || mac.is_some_and(|mac| frame[6..12] == mac) {
                    *sent.lock().expect("no panics").entry(to.clone()).or_default() += 1;
                }
                if frame.windows(word.len()).any(|part| part == word) {
                    told.lock().expect("no panics").insert(to);
                }
            }
        });
        Some(this)
    }

    /// What was seen until now.
    pub(crate) fn seen(&self) -> (Map<String, usize>, BTreeSet<String>) {
        let sent = self.sent.lock().expect("no panics").clone();
        (sent, self.told.lock().expect("no panics").clone())
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// The engine makes a container's MAC of its address.
fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}

/// Receiver and sender of an IP packet in an Ethernet frame. What asks for an address (ARP) is none.
fn ends(frame: &[u8]) -> Option<(String, IpAddr)> {
    let v4 = |at: usize| {
        let bytes: [u8; 4] = frame.get(at..at + 4)?.try_into().ok()?;
        Some(IpAddr::from(bytes))
    };
    let v6 = |at: usize| {
        let bytes: [u8; 16] = frame.get(at..at + 16)?.try_into().ok()?;
        Some(IpAddr::from(bytes))
    };
    match frame.get(12..14)? {
        [0x08, 0x00] => Some((v4(30)?.to_string(), v4(26)?)),
        [0x86, 0xdd] => Some((v6(38)?.to_string(), v6(22)?)),
        _ => None,
    }
}

/// The addresses of the host, of both families, those of its bridges among them.
pub(crate) fn host_addresses() -> Vec<IpAddr> {
    let mut found = BTreeSet::new();
    let table = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let lines: Vec<&str> = table.lines().collect();
    for pair in lines.windows(2) {
        let local = pair[1].trim_start().starts_with("/32 host LOCAL");
        let address = pair[0].trim_start_matches([' ', '|', '-', '+']).parse::<Ipv4Addr>();
        found.extend(address.ok().filter(|_| local).map(IpAddr::V4));
    }
    let table = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    for line in table.lines() {
        let bits = u128::from_str_radix(line.split(' ').next().unwrap_or_default(), 16);
        found.extend(bits.ok().map(|bits| IpAddr::V6(Ipv6Addr::from(bits))));
    }
    found.retain(|address| !address.is_loopback());
    found.into_iter().collect()
}
