//! Tries to get out of a machine: each argument is one try, and is answered by a line. Only the standard
//! library, so that it is linked statically within a second and runs in any image.
//!
//!     tcp:ADDRESS:PORT   connects and says something
//!     udp:ADDRESS:PORT   says something
//!     dns:SERVER:NAME    asks a name server, past the system's own configuration
//!     name:NAME          asks the system

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_millis(700);

fn main() {
    let tries = Mutex::new(std::env::args().skip(1).collect::<Vec<_>>().into_iter());
    // As many at once as a small machine may have threads.
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                loop {
                    let Some(what) = tries.lock().unwrap().next() else { return };
                    println!("{what} {}", attempt(&what));
                }
            });
        }
    });
}

fn attempt(what: &str) -> String {
    let begun = Instant::now();
    let (kind, rest) = what.split_once(':').unwrap();
    let ended = match kind {
        "tcp" => tcp(rest.parse().unwrap()),
        "udp" => udp(rest.parse().unwrap(), b"out"),
        "dns" => {
            let (server, name) = rest.rsplit_once(':').unwrap();
            udp(format!("{server}:53").parse().unwrap(), &query(name))
        }
        _ => (rest, 80).to_socket_addrs().map(|found| {
            found.map(|address| address.ip().to_string()).collect::<Vec<_>>().join(",")
        }),
    };
    match ended {
        Ok(said) => format!("answered {said}"),
        Err(error) => format!("failed after {} ms: {error}", begun.elapsed().as_millis()),
    }
}

fn tcp(to: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut answer = [0; 64];
    let count = stream.read(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

fn udp(to: SocketAddr, message: &[u8]) -> std::io::Result<String> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_broadcast(true)?;
    socket.connect(to)?;
    socket.send(message)?;
    // Once more: of a neighbour that is not there the first packet only tells.
    std::thread::sleep(Duration::from_millis(50));
    socket.send(message)?;
    let mut answer = [0; 512];
    let count = socket.recv(&mut answer)?;
    // Of a name server: the code of the answer.
    Ok(format!("{count} bytes, {}", answer[3] & 15))
}

/// A question for the address of a name.
fn query(name: &str) -> Vec<u8> {
    let mut message = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    message
}
