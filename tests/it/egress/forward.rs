//! Ports of sandboxes, from this machine: what listens inside is reached by one port of the loopback here, for as long
//! as the command runs.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::place::{Place, has};

/// Gives back what it is sent, as it comes, and says at its end how much that was.
const ECHO: &str = r#"
import socket, sys, threading
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((sys.argv[1], int(sys.argv[2])))
s.listen(128)
def serve(c):
    n = 0
    while True:
        d = c.recv(65536)
        if not d: break
        n += len(d)
        c.sendall(d)
    c.sendall(b"|%d" % n)
    c.close()
print("listens", flush=True)
while True:
    c, _ = s.accept()
    threading.Thread(target=serve, args=(c,), daemon=True).start()
"#;

/// A port of its own inside each sandbox.
const PORT: u16 = 38_017;

struct Forward {
    child: Child,
    address: SocketAddr,
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Forward {
    fn start(place: &Place, ports: &str) -> Self {
        let tree = place.tree.path().to_str().unwrap();
        let mut command = place.cli.command(["--tree", tree, "forward", "ada", ports]);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().parse();
        let address = address.unwrap_or_else(|_| panic!("{line:?}: {}", said(&mut child)));
        Self { child, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Ends it as a person does, and says how it ended.
    fn interrupted(mut self) -> (Option<i32>, String) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::INT).unwrap();
        (self.child.wait().unwrap().code(), said(&mut self.child))
    }

    /// Waits until it ends by itself.
    fn ended(mut self) -> (Option<i32>, String) {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code(), said(&mut self.child));
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "it goes on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn said(child: &mut Child) -> String {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

/// Starts what listens inside, and waits until it does.
fn listen(place: &Place, address: &str) -> Child {
    let script = format!("echo $$ >/tmp/echo; exec python3 -u -c '{ECHO}' {address} {PORT}");
    let mut child = place.begin("ada", &script);
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    if line != "listens\n" {
        let _ = child.kill();
        panic!("{line:?} on {address}: {}", said(&mut child));
    }
    child
}

/// All that is sent comes back, both ways at once, and the end of one way is not that of the other.
fn echoed(mut stream: TcpStream, count: usize) {
    let sent: Vec<u8> = (0..count).map(|at| (at * 31 % 251) as u8).collect();
    let mut writing = stream.try_clone().unwrap();
    let copy = sent.clone();
    let writer = std::thread::spawn(move || {
        for piece in copy.chunks(70_001) {
            writing.write_all(piece).unwrap();
        }
        writing.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    writer.join().unwrap();
    let end = format!("|{count}");
    assert_eq!(received.len(), count + end.len());
    assert!(received.starts_with(&sent) && received.ends_with(end.as_bytes()));
}

fn works(place: &Place) {
    place.bottle("dev", "");
    place.tree.agent("ada", "dev", "", "");
    place.apply();
    let mut server = listen(place, "127.0.0.1");
    let forward = Forward::start(place, &format!("{PORT}:0"));
    assert!(forward.address.ip().is_loopback());
    echoed(forward.connect(), 0);
    echoed(forward.connect(), 3_000_000);
    let many: Vec<_> = (0..24)
        .map(|number| {
            let stream = forward.connect();
            std::thread::spawn(move || echoed(stream, 1_000 * number))
        })
        .collect();
    many.into_iter().for_each(|one| one.join().unwrap());
    // What is said first by whoever listens comes without a question.
    let mut stream = forward.connect();
    stream.write_all(b"x").unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    drop(stream);

    // Whoever begins later is reached then.
    place.say("ada", "true");
    let _ = server.kill();
    let _ = server.wait();
    place.sh("ada", "kill $(cat /tmp/echo)");
    let begun = Instant::now();
    loop {
        let mut rest = Vec::new();
        let mut stream = forward.connect();
        let _ = stream.read_to_end(&mut rest);
        if rest.is_empty() {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
    // Without a network, a container has no IPv6.
    let other = if place.backend == "docker" { "0.0.0.0" } else { "::1" };
    let mut server = listen(place, other);
    echoed(forward.connect(), 100_000);
    let address = forward.address;
    let (code, said) = forward.interrupted();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("leads to port 38017 of ada"), "{said}");
    assert!(said.contains("nothing listens on port 38017 of ada"), "{said}");
    assert!(TcpStream::connect(address).is_err(), "it listens on");
    let _ = server.kill();
    let _ = server.wait();
    assert!(place.apply().stdout.contains("no changes"), "it leaves something");

    // The port here is somebody's.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = taken.local_addr().unwrap().port();
    let ended = place.run(&["forward", "ada", &format!("{PORT}:{host}")]).exits(1);
    assert!(ended.stderr.contains(&format!("listening on 127.0.0.1:{host}")), "{ended:?}");
    assert!(ended.stderr.contains("something else listens there"), "{ended:?}");
    place.run(&["forward", "ada", "0"]).exits(2);
    place.run(&["forward", "nobody", "80:0"]).exits(1);

    // It ends with its machine.
    let forward = Forward::start(place, &format!("{PORT}:0"));
    place.run(&["stop", "ada"]).exits(0);
    let begun = Instant::now();
    let mut forward = Some(forward);
    while begun.elapsed() < Duration::from_secs(30) && forward.is_some() {
        let current = forward.as_mut().unwrap();
        let _ = TcpStream::connect(current.address).map(|mut s| s.read_to_end(&mut Vec::new()));
        if current.child.try_wait().unwrap().is_some() {
            let (code, said) = forward.take().unwrap().ended();
            assert_eq!(code, Some(1), "{said}");
            assert!(said.contains("stopped") || said.contains("gone"), "{said}");
        }
    }
    assert!(forward.is_none(), "it goes on without its machine");
    let ended = place.run(&["forward", "ada", &format!("{PORT}:0")]).exits(1);
    assert!(ended.stderr.contains("`bottle start NAME` starts it"), "{ended:?}");
}

#[test]
fn a_port_is_forwarded_natively() {
    if has("forwarding a port", "python3") {
        works(&Place::native("forward"));
    }
}

#[test]
fn a_port_is_forwarded_from_a_container() {
    if let Some(place) = Place::docker("forward") {
        works(&place);
    }
}

#[test]
fn a_port_is_forwarded_from_a_microvm() {
    if let Some(place) = Place::smolmachines("forward") {
        works(&place);
    }
}
