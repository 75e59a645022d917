//! A stand-in for `bottle sidecar`, for tests of what is around a sidecar: it listens, it is loaded and
//! asked, it says what it was called with, and it lets nothing through. Only the standard library, so
//! that it is linked statically within a second.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::exit;
use std::sync::{Arc, Mutex};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str| {
        let at = args.iter().position(|arg| arg == name).map(|at| at + 1);
        at.and_then(|at| args.get(at)).cloned().unwrap_or_default()
    };
    let control = flag("--control");
    // Who serves says what kind of place it is; who asks, only where.
    let control = control.strip_prefix("unix:").unwrap_or(&control);
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["sidecar", "serve", ..] => serve(&flag("--listen"), control),
        ["sidecar", "load", ..] => {
            let mut document = Vec::new();
            std::io::stdin().read_to_end(&mut document).unwrap();
            ask(control, b'L', &document);
        }
        ["sidecar", "state", ..] => ask(control, b'S', b""),
        _ => refuse("it is none of serve, load, state"),
    }
}

fn refuse(why: &str) -> ! {
    eprintln!("{why}");
    exit(1)
}

fn ask(control: &str, what: u8, document: &[u8]) {
    let Ok(mut stream) = UnixStream::connect(control) else { refuse("no sidecar answers") };
    stream.write_all(&[what]).unwrap();
    stream.write_all(document).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    match answer.strip_prefix("error ") {
        Some(why) => refuse(why),
        None => println!("{answer}"),
    }
}

fn serve(listen: &str, control: &str) {
    // Slower than a program that has nothing to do, as the real one may be.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let door = TcpListener::bind(listen).unwrap_or_else(|e| refuse(&format!("{listen}: {e}")));
    let loaded = Arc::new(Mutex::new(None::<usize>));
    std::thread::spawn(move || {
        for stream in door.incoming().flatten() {
            let mut stream = stream;
            let from = stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
            println!("{{\"event\":\"connection\",\"from\":\"{from}\"}}");
            let mut head = [0; 1024];
            drop(stream.read(&mut head));
            let page = "HTTP/1.1 503 Service Unavailable\r\nX-Bottle-Block: not_ready\r\n\
                        Content-Length: 9\r\nConnection: close\r\n\r\nnot_ready";
            drop(stream.write_all(page.as_bytes()));
        }
    });
    let socket = UnixListener::bind(control).unwrap_or_else(|e| refuse(&format!("{control}: {e}")));
    let forwards = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap_or_default();
    println!("{{\"event\":\"start\",\"listen\":\"{listen}\",\"forwards\":{}}}", forwards.trim());
    for mut stream in socket.incoming().flatten() {
        let mut message = Vec::new();
        drop(stream.read_to_end(&mut message));
        let answer = match message.split_first() {
            Some((b'L', document)) if document.starts_with(b"{") => {
                *loaded.lock().unwrap() = Some(document.len());
                "ok".to_owned()
            }
            Some((b'L', _)) => "error the document is no JSON".to_owned(),
            _ => match *loaded.lock().unwrap() {
                Some(length) => format!("{{\"loaded\":true,\"length\":{length}}}"),
                None => "{\"loaded\":false}".to_owned(),
            },
        };
        drop(stream.write_all(answer.as_bytes()));
    }
}
