//! From inside, only the proxy's port leads anywhere: with the variables that name it and without,
//! as the sandbox's root and as its user. What arrives is measured at the far end.

use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;

use bottle::backend::{Backend, Progress};
use bottle::model::{Instance, MachineSpec};

use super::{BOTH, alive, connected};
use crate::native::support::{Corner, text};
use crate::support::Far;

async fn refused(corner: &Corner, on: &Instance, what: &str, script: &str) {
    for user in BOTH {
        let output = corner.exec_as(user, on, &["perl", "-e", script]).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.starts_with("refused"), "{what}, as {user:?}: {}", text(&output));
    }
}

fn tcp(host: &str, port: u16) -> String {
    format!(
        "use IO::Socket::IP; my $s = IO::Socket::IP->new(PeerHost => '{host}', PeerPort => {port}, \
         Timeout => 2); print $s ? 'allowed' : \"refused $!\""
    )
}

fn unix(path: &str) -> String {
    format!(
        "use Socket; socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die; \
         print connect($s, pack_sockaddr_un(\"{path}\")) ? 'allowed' : \"refused $!\""
    )
}

fn on_host(script: &str) -> String {
    let output = Command::new("perl").args(["-e", script]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The host's own addresses, beside loopback: among them docker's bridge, where there is one.
fn addresses() -> Vec<String> {
    let output = Command::new("hostname").arg("-I").output().map(|o| o.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).split_whitespace().map(str::to_owned).collect()
}

/// N13, N14: past the proxy nothing arrives.
#[tokio::test]
async fn everything_but_the_proxy() {
    let (corner, far) = (Corner::new(), Far::new());
    corner.way_out("ada", &far, &["allowed.test"]).await;
    let ada = corner.run(&connected("ada")).await;
    let plain = MachineSpec { env: Default::default(), ..connected("bob") };
    corner.way_out("bob", &far, &["allowed.test"]).await;
    let bob = corner.run(&plain).await;

    let name = format!("bottle-test-sidecar-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
    let by_name = UnixListener::bind_addr(&address).unwrap();
    let by_path = corner.beside().join("socket");
    let by_path = (UnixListener::bind(&by_path).unwrap(), by_path);
    let local = TcpListener::bind("127.0.0.1:0").unwrap();
    let every = TcpListener::bind("0.0.0.0:0").unwrap();
    let six = TcpListener::bind("[::]:0").ok();
    let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
    let udp6 = UdpSocket::bind("[::]:0").ok();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();

    let mut probes = vec![
        ("127.0.0.1".to_owned(), tcp("127.0.0.1", port(&local))),
        ("0.0.0.0".to_owned(), tcp("0.0.0.0", port(&every))),
        ("an abstract socket".to_owned(), unix(&format!("\\0{name}"))),
        ("a socket by its path".to_owned(), unix(by_path.1.to_str().unwrap())),
    ];
    for address in addresses() {
        match &six {
            _ if !address.contains(':') => {
                probes.push((address.clone(), tcp(&address, port(&every))));
            }
            Some(six) => probes.push((address.clone(), tcp(&address, port(six)))),
            None => {}
        }
    }
    if let Some(six) = &six {
        probes.push(("::1".to_owned(), tcp("::1", port(six))));
    }
    let listeners = [&local, &every].into_iter().chain(&six);
    let heard = || {
        let mut heard = 0;
        for listener in listeners.clone() {
            listener.set_nonblocking(true).unwrap();
            while listener.accept().is_ok() {
                heard += 1;
            }
        }
        for listener in [&by_name, &by_path.0] {
            listener.set_nonblocking(true).unwrap();
            while listener.accept().is_ok() {
                heard += 1;
            }
        }
        heard
    };
    for (what, probe) in &probes {
        assert_eq!(on_host(probe), "allowed", "a control: {what}");
    }
    assert_eq!(heard(), probes.len(), "a control: the far end hears");
    for on in [&ada, &bob] {
        for (what, probe) in &probes {
            refused(&corner, on, what, probe).await;
        }
        for (what, host) in [
            ("an address of the internet's", "93.184.216.34"),
            ("an address of IPv6", "2606:4700:4700::1111"),
            ("metadata", "169.254.169.254"),
            ("docker's bridge", "172.17.0.1"),
            ("a microVM's gateway", "100.96.0.1"),
        ] {
            refused(&corner, on, what, &tcp(host, 80)).await;
        }
        let send = "use IO::Socket::IP; my $s = IO::Socket::IP->new(PeerHost => $ARGV[0], PeerPort => \
                    $ARGV[1], Proto => 'udp'); print $s && $s->send('x') ? 'sent' : 'refused'";
        for address in addresses().iter().map(String::as_str).chain(["127.0.0.1", "::1"]) {
            let socket = if address.contains(':') { udp6.as_ref() } else { Some(&udp) };
            let Some(socket) = socket else { continue };
            let port = socket.local_addr().unwrap().port().to_string();
            for user in BOTH {
                corner.exec_as(user, on, &["perl", "-e", send, address, &port]).await;
            }
        }
        let ping = "use Socket; print socket(my $s, AF_INET, SOCK_DGRAM, 1) && \
                    send($s, \"\\x08\\0\\0\\0\\0\\0\\0\\0\", 0, pack_sockaddr_in(0, \
                    inet_aton('1.1.1.1'))) ? 'allowed' : \"refused $!\"";
        refused(&corner, on, "ICMP", ping).await;
        let names = "print gethostbyname('allowed.test') ? 'allowed' : 'refused'";
        refused(&corner, on, "DNS", names).await;
        // Past the proxy, also to what it would let pass.
        for user in BOTH {
            let get = ["curl", "-sS", "-m", "5", "--noproxy", "*", "http://allowed.test/"];
            assert_ne!(corner.exec_as(user, on, &get).await.code, 0);
        }
    }
    assert_eq!(heard(), 0, "something has arrived");
    for socket in [Some(&udp), udp6.as_ref()].into_iter().flatten() {
        socket.set_nonblocking(true).unwrap();
        assert!(socket.recv(&mut [0; 8]).is_err(), "a datagram has arrived");
    }
    assert_eq!(far.seen(), Vec::<String>::new());
    // The way out is there all the while, for whoever takes it by hand.
    let by_hand =
        ["curl", "-sS", "-m", "10", "-x", "http://127.0.0.1:3128", "http://allowed.test/"];
    for user in BOTH {
        let output = corner.exec_as(user, &bob, &by_hand).await;
        assert_eq!(output.stdout, b"far allowed.test\n", "{}", text(&output));
    }
    corner.wipe().await;
}

/// N17, N19: a sidecar answers its own machine alone.
#[tokio::test]
async fn the_sidecars_of_others() {
    let (corner, far) = (Corner::new(), Far::new());
    corner.way_out("ada", &far, &["for-ada.test"]).await;
    corner.way_out("bob", &far, &["for-bob.test"]).await;
    let ada = corner.run(&connected("ada")).await;
    let bob = corner.run(&connected("bob")).await;
    for (on, own, other) in
        [(&ada, "for-ada.test", "for-bob.test"), (&bob, "for-bob.test", "for-ada.test")]
    {
        assert_eq!(corner.get(on, &format!("http://{own}/")).await.0, "200");
        assert_eq!(corner.get(on, &format!("http://{other}/")).await.0, "403");
    }
    // Without one of its own there is none, whatever is beside it.
    let eve = corner.run(&connected("eve")).await;
    assert_eq!(corner.get(&eve, "http://for-ada.test/").await.0, "000");
    corner.wipe().await;
}

/// X10: neither its files nor its process nor its control socket.
#[tokio::test]
async fn the_sidecar_itself() {
    let (corner, far) = (Corner::new(), Far::new());
    corner.way_out("ada", &far, &["allowed.test"]).await;
    // Shown the folders around it, as an operator may do by mistake.
    let shown = MachineSpec { host_paths: vec![corner.beside().to_owned()], ..connected("bob") };
    let on = corner.run(&connected("ada")).await;
    let (folder, pid) = (corner.folder("ada"), corner.process("ada"));
    let mut corners = vec![on];
    // The state folder lies in there, so this is refused, or shows nothing of it.
    let prepared = corner.backend.prepare(&corner.scope, &shown, &Progress::silent()).await;
    if prepared.is_ok() {
        corners.push(corner.run(&shown).await);
    }
    for on in &corners {
        for name in ["", "sidecar.json", "run.json", "own", "own/log", "own/control"] {
            let path = folder.join(name);
            let probe = format!("print -e '{}' ? 'allowed' : 'refused'", path.display());
            refused(&corner, on, name, &probe).await;
        }
        let control = folder.join("own/control");
        refused(&corner, on, "its control socket", &unix(control.to_str().unwrap())).await;
        for place in ["", "/fd", "/mem", "/environ", "/root", "/cwd/log", "/ns/net"] {
            let probe = format!("print -e '/proc/{pid}{place}' ? 'allowed' : 'refused'");
            refused(&corner, on, place, &probe).await;
        }
        for signal in ["KILL", "TERM", "STOP", "HUP"] {
            let probe = format!("print kill('{signal}', {pid}) ? 'allowed' : 'refused'");
            refused(&corner, on, signal, &probe).await;
        }
        for (what, number, arguments) in [
            ("ptrace", libc::SYS_ptrace, format!("16, {pid}, 0, 0")),
            ("pidfd_open", libc::SYS_pidfd_open, format!("{pid}, 0")),
            (
                "process_vm_readv",
                libc::SYS_process_vm_readv,
                format!("{pid}, pack('PQ', 'x' x 8, 8), 1, pack('QQ', 65536, 8), 1, 0"),
            ),
        ] {
            let probe = format!(
                "my @a = ({arguments}); print syscall({number}, @a) < 0 ? \"refused $!\" : 'allowed'"
            );
            refused(&corner, on, what, &probe).await;
        }
    }
    // By the socket that it listens on inside, nothing of it is reached but the proxy.
    let probe = "use IO::Socket::IP; my $s = IO::Socket::IP->new(PeerHost => '127.0.0.1', PeerPort => 3128) \
                 or die; print $s \"{\\\"op\\\":\\\"state\\\"}\\n\"; $s->shutdown(1); my $r = join('', <$s>); \
                 print $r =~ /generation/ ? 'allowed' : \"refused $r\"";
    refused(&corner, &corners[0], "the control protocol", probe).await;
    assert!(alive(pid));
    assert_eq!(corner.get(&corners[0], "http://allowed.test/").await.0, "200");
    corner.wipe().await;
}
