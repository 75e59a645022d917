//! From inside, none of it works: as the sandbox's root and as its user.
//!
//! Each probe says `allowed`, and why, or `refused`. Where the host lets the same probe succeed it
//! is run there first, so that none passes because it is broken.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;

use bottle::backend::ExecUser;
use bottle::model::{Instance, MachineSpec};

use super::support::{Corner, machine, text};

const BOTH: [ExecUser; 2] = [ExecUser::Sandbox, ExecUser::Root];

/// Runs a probe inside, as both users; it has to say `refused`.
async fn refused(corner: &Corner, on: &Instance, what: &str, probe: &[&str]) {
    for user in BOTH {
        let output = corner.exec_as(user, on, probe).await;
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            said.starts_with("refused") && output.code == 0,
            "{what}, as {user:?}: {}",
            text(&output)
        );
    }
}

/// A system call, by perl, which every Debian has.
fn syscall(number: i64, arguments: &str) -> String {
    format!(
        "my @a = ({arguments}); my $r = syscall({number}, @a); \
         print $r < 0 ? \"refused $!\" : \"allowed $r\""
    )
}

async fn syscall_refused(corner: &Corner, on: &Instance, name: &str, number: i64, arguments: &str) {
    refused(corner, on, name, &["perl", "-e", &syscall(number, arguments)]).await;
}

/// X17: calls that would make namespaces, keys, rings or devices.
#[tokio::test]
async fn system_calls_that_reach_beyond() {
    let corner = Corner::new();
    let on = corner.run(&machine("ada")).await;
    let calls: &[(&str, i64, &str)] = &[
        ("mount", libc::SYS_mount, "\"none\", \"/tmp\", \"tmpfs\", 0, 0"),
        ("umount", libc::SYS_umount2, "\"/proc\", 2"),
        ("pivot_root", libc::SYS_pivot_root, "\"/\", \"/tmp\""),
        ("chroot", libc::SYS_chroot, "\"/tmp\""),
        ("fsopen", libc::SYS_fsopen, "\"tmpfs\", 0"),
        ("open_tree", libc::SYS_open_tree, "-100, \"/\", 1"),
        ("unshare -U", libc::SYS_unshare, "0x10000000"),
        ("unshare -n", libc::SYS_unshare, "0x40000000"),
        ("clone into a user namespace", libc::SYS_clone, "0x10000011, 0, 0, 0, 0"),
        ("clone3", libc::SYS_clone3, "\"\\0\" x 88, 88"),
        ("setns", libc::SYS_setns, "0, 0"),
        ("bpf", libc::SYS_bpf, "0, \"\\0\" x 128, 128"),
        ("perf_event_open", libc::SYS_perf_event_open, "\"\\0\" x 128, 0, -1, -1, 0"),
        ("keyctl", libc::SYS_keyctl, "0, -3, 1"),
        ("add_key", libc::SYS_add_key, "\"user\", \"x\", \"y\", 1, -3"),
        ("request_key", libc::SYS_request_key, "\"user\", \"x\", 0, 0"),
        ("io_uring_setup", libc::SYS_io_uring_setup, "1, \"\\0\" x 120"),
        ("userfaultfd", libc::SYS_userfaultfd, "1"),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, "-100, \"\\0\" x 128, 0"),
        ("init_module", libc::SYS_init_module, "\"x\", 1, \"\""),
        ("finit_module", libc::SYS_finit_module, "0, \"\", 0"),
        ("delete_module", libc::SYS_delete_module, "\"x\", 0"),
        ("kexec_load", libc::SYS_kexec_load, "0, 0, 0, 0"),
        ("reboot", libc::SYS_reboot, "0xfee1dead, 672274793, 0, 0"),
        ("swapon", libc::SYS_swapon, "\"/tmp/x\", 0"),
        ("sethostname", libc::SYS_sethostname, "\"x\", 1"),
        ("settimeofday", libc::SYS_settimeofday, "\"\\0\" x 16, 0"),
        ("clock_settime", libc::SYS_clock_settime, "0, \"\\0\" x 16"),
        ("syslog", libc::SYS_syslog, "3, \"\\0\" x 64, 64"),
        ("acct", libc::SYS_acct, "\"/tmp/x\""),
        ("quotactl", libc::SYS_quotactl, "0, 0, 0, 0"),
        ("personality with a broken layout", libc::SYS_personality, "0x0040000"),
        ("a vsock socket", libc::SYS_socket, "40, 1, 0"),
        ("a packet socket", libc::SYS_socket, "17, 3, 0"),
        ("an AF_ALG socket", libc::SYS_socket, "38, 5, 0"),
        ("a raw socket", libc::SYS_socket, "2, 3, 1"),
        ("what the host says of its devices", libc::SYS_socket, "16, 3, 15"),
        ("generic netlink", libc::SYS_socket, "16, 3, 16"),
        ("the audit log", libc::SYS_socket, "16, 3, 9"),
        ("TIOCSTI", libc::SYS_ioctl, "0, 0x5412, \"x\""),
        ("TIOCLINUX", libc::SYS_ioctl, "0, 0x541c, \"x\""),
        ("the x32 ABI", 0x4000_0000 + 39, "0"),
        ("a block device", libc::SYS_mknod, "\"/tmp/disk\", 060600, 0xfe00"),
        ("a character device", libc::SYS_mknod, "\"/tmp/mem\", 020600, 0x0101"),
        ("ptrace of init", libc::SYS_ptrace, "16, 1, 0, 0"),
    ];
    for (name, number, arguments) in calls {
        syscall_refused(&corner, &on, name, *number, arguments).await;
    }
    // A control: the filter does not refuse everything.
    let output = corner.exec_as(ExecUser::Sandbox, &on, &["perl", "-e", &syscall(39, "0")]).await;
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("allowed"), "{}", text(&output));
    corner.wipe().await;
}

#[tokio::test]
async fn the_32_bit_abi() {
    let corner = Corner::new();
    let on = corner.run(&machine("ada")).await;
    // `int 0x80` with getpid's number, as machine code in an executable mapping.
    let script = "import ctypes, mmap\n\
        m = mmap.mmap(-1, 4096, prot=7)\n\
        m.write(b'\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3')\n\
        f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\n\
        print('allowed', f())\n";
    for user in BOTH {
        let output = corner.exec_as(user, &on, &["/usr/bin/python3", "-c", script]).await;
        assert_eq!(output.code, 128 + 31, "it ends with SIGSYS: {}", text(&output));
    }
    corner.wipe().await;
}

/// X05, X17: nor its devices and the sockets of its engines.
#[tokio::test]
async fn files_of_the_host() {
    let corner = Corner::new();
    let secret = corner.beside().join("secret");
    std::fs::write(&secret, "the host's").unwrap();
    let ada = corner.run(&machine("ada")).await;
    let bob = corner.run(&machine("bob")).await;
    corner.say(&bob, "echo mine > /tmp/of-bob; echo mine > $HOME/of-bob").await;
    let native = corner.scope.data.join("native");
    let of_bob = native.join("bob/upper/root/tmp/of-bob");
    assert!(of_bob.exists(), "a control: it lies there");
    let mut paths = vec![
        "/etc/shadow".into(),
        "/etc/gshadow".into(),
        "/etc/sudoers".into(),
        "/etc/machine-id".into(),
        "/etc/ssh".into(),
        "/root/.bashrc".into(),
        "/root/.ssh".into(),
        "/root/.cargo".into(),
        "/srv/.".into(),
        "/boot/.".into(),
        "/mnt/sandboxing".into(),
        "/var/lib/dpkg".into(),
        "/var/run/docker.sock".into(),
        "/run/docker.sock".into(),
        "/tmp/of-bob".into(),
        "/home/agent/of-bob".into(),
        "/proc/1/root/etc/shadow".into(),
        "/proc/1/cwd/etc".into(),
        "/proc/1/exe".into(),
        "/proc/1/environ".into(),
        "/proc/1/mem".into(),
        "/proc/1/fd/3".into(),
        "/proc/1/map_files/.".into(),
        "/proc/kcore".into(),
        "/proc/keys".into(),
        "/proc/sysrq-trigger".into(),
        "/proc/kmsg".into(),
        "/dev/kvm".into(),
        "/dev/vda".into(),
        "/dev/sda".into(),
        "/dev/mem".into(),
        "/dev/kmsg".into(),
        "/dev/fuse".into(),
        "/dev/net/tun".into(),
        "/dev/loop-control".into(),
        secret,
        corner.scope.data.clone(),
        native.join("ada/machine.json"),
        of_bob,
    ];
    let homes = std::fs::read_dir("/home").into_iter().flatten().flatten();
    paths.extend(homes.map(|home| home.path()));
    for path in paths {
        let path = path.to_str().unwrap();
        // Read, and as a folder: neither may give a byte.
        let probe = format!(
            "if [ -d '{path}' ]; then ls -A '{path}' 2>/dev/null; else head -c 64 '{path}' 2>/dev/null; fi \
             | grep -q . && echo allowed || echo refused"
        );
        refused(&corner, &ada, path, &["sh", "-c", &probe]).await;
    }
    corner.wipe().await;
}

#[tokio::test]
async fn writing_what_the_kernel_listens_to() {
    let corner = Corner::new();
    let on = corner.run(&machine("ada")).await;
    for path in [
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/vm/drop_caches",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sysrq-trigger",
        "/proc/1/uid_map",
        "/sys/fs/cgroup/cgroup.procs",
        "/sys/fs/cgroup/memory/release_agent",
        "/sys/kernel/uevent_helper",
        "/dev/new",
        "/proc/1/fd/3",
        "/proc/1/mem",
    ] {
        let probe = format!("(echo 1 > {path}) 2>/dev/null && echo allowed || echo refused");
        refused(&corner, &on, path, &["sh", "-c", &probe]).await;
    }
    let probe = "mkdir /sys/fs/cgroup/x /sys/x /dev/x 2>/dev/null && echo allowed || echo refused";
    refused(&corner, &on, "mkdir", &["sh", "-c", probe]).await;
    corner.wipe().await;
}

/// X17: by path, by abstract name and by address.
#[tokio::test]
async fn sockets_of_the_host() {
    let corner = Corner::new();
    let shown = corner.beside().join("shown");
    std::fs::create_dir(&shown).unwrap();
    let _path = UnixListener::bind(shown.join("socket")).unwrap();
    let _tmp = UnixListener::bind(corner.beside().join("docker.sock")).unwrap();
    let name = format!("bottle-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
    let _abstract = UnixListener::bind_addr(&address).unwrap();
    let local = TcpListener::bind("127.0.0.1:0").unwrap();
    let all = TcpListener::bind("0.0.0.0:0").unwrap();
    let six = TcpListener::bind("[::]:0");
    let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
    udp.set_nonblocking(true).unwrap();

    let spec = MachineSpec { host_paths: vec![shown.clone()], ..machine("ada") };
    let on = corner.run(&spec).await;
    let tcp = |host: &str, port: u16| {
        format!(
            "use IO::Socket::IP; my $s = IO::Socket::IP->new(PeerHost => '{host}', PeerPort => {port}, \
             Timeout => 2); print $s ? 'allowed' : \"refused $!\""
        )
    };
    let unix = |path: &str| {
        format!(
            "use Socket; socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die; \
             print connect($s, pack_sockaddr_un(\"{path}\")) ? 'allowed' : \"refused $!\""
        )
    };
    let mut probes = vec![
        ("127.0.0.1", tcp("127.0.0.1", local.local_addr().unwrap().port())),
        ("0.0.0.0", tcp("127.0.0.1", all.local_addr().unwrap().port())),
        ("an abstract socket", unix(&format!("\\0{name}"))),
        ("a socket in a shown folder", unix(shown.join("socket").to_str().unwrap())),
        ("a socket elsewhere", unix(corner.beside().join("docker.sock").to_str().unwrap())),
    ];
    for address in addresses() {
        probes.push((OWN, tcp(&address, all.local_addr().unwrap().port())));
    }
    if let Ok(six) = &six {
        probes.push(("::1", tcp("::1", six.local_addr().unwrap().port())));
    }
    for (what, probe) in probes {
        let host = Command::new("perl").args(["-e", &probe]).output().unwrap();
        // Bridges of others come and go.
        if what == OWN && !addresses().iter().any(|address| probe.contains(&format!("'{address}'")))
        {
            continue;
        }
        assert_eq!(String::from_utf8_lossy(&host.stdout), "allowed", "a control: {what}");
        refused(&corner, &on, what, &["perl", "-e", &probe]).await;
    }
    // The socket itself is shown, as a file among others.
    assert_eq!(corner.say(&on, &format!("ls {}", shown.display())).await, "socket");
    for (what, host) in [("1.1.1.1", "1.1.1.1"), ("an IPv6 address", "2606:4700:4700::1111")] {
        refused(&corner, &on, what, &["perl", "-e", &tcp(host, 443)]).await;
    }
    let port = udp.local_addr().unwrap().port();
    let send = "use IO::Socket::IP; my $s = IO::Socket::IP->new(PeerHost => $ARGV[0], PeerPort => \
                $ARGV[1], Proto => 'udp'); print $s && $s->send('x') ? 'sent' : 'refused'";
    for address in addresses().iter().map(String::as_str).chain(["127.0.0.1"]) {
        for user in BOTH {
            corner.exec_as(user, &on, &["perl", "-e", send, address, &port.to_string()]).await;
        }
    }
    assert!(udp.recv(&mut [0; 8]).is_err(), "a datagram has arrived");
    let ping = "use Socket; print socket(my $s, AF_INET, SOCK_DGRAM, 1) && send($s, \"\\x08\\0\\0\\0\\0\\0\\0\\0\", \
                0, pack_sockaddr_in(0, inet_aton('1.1.1.1'))) ? 'allowed' : \"refused $!\"";
    refused(&corner, &on, "ICMP", &["perl", "-e", ping]).await;
    let dns = "getent ahosts example.com >/dev/null 2>&1 && echo allowed || echo refused";
    refused(&corner, &on, "DNS", &["sh", "-c", dns]).await;
    corner.wipe().await;
}

const OWN: &str = "an address of the host";

/// The host's own addresses, beside loopback.
fn addresses() -> Vec<String> {
    let output = Command::new("hostname").arg("-I").output().map(|o| o.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&output).into_owned();
    text.split_whitespace().filter(|address| !address.contains(':')).map(str::to_owned).collect()
}

/// X10: neither seen nor reached.
#[tokio::test]
async fn processes_of_others() {
    let corner = Corner::new();
    let ada = corner.run(&machine("ada")).await;
    let bob = corner.run(&machine("bob")).await;
    let mut sleeping = Sleeping::new();
    let seen = corner.say(&ada, "cat /proc/[0-9]*/comm | sort -u").await;
    let known = ["bottle-init", "cat", "sh", "sort"];
    assert!(seen.lines().all(|name| known.contains(&name)), "{seen}");
    // A number of the host's means nothing inside.
    for pid in [sleeping.0.id().to_string(), corner.init(&bob).to_string()] {
        let probe = format!("kill -9 {pid} 2>/dev/null && echo allowed || echo refused");
        refused(&corner, &ada, "kill", &["sh", "-c", &probe]).await;
        let attach = syscall(libc::SYS_ptrace, &format!("16, {pid}, 0, 0"));
        refused(&corner, &ada, "ptrace", &["perl", "-e", &attach]).await;
    }
    // Init is neither killed nor asked to end from inside, by whomever.
    for user in BOTH {
        for signal in ["KILL", "TERM", "INT", "HUP", "QUIT", "STOP"] {
            corner.exec_as(user, &ada, &["sh", "-c", &format!("kill -{signal} 1")]).await;
        }
    }
    assert!(sleeping.0.try_wait().unwrap().is_none());
    assert_eq!(corner.say(&ada, "echo lives").await, "lives");
    assert_eq!(corner.say(&bob, "echo lives").await, "lives");
    corner.wipe().await;
}

/// A process of the host, ended also when the test fails.
struct Sleeping(std::process::Child);

impl Sleeping {
    fn new() -> Self {
        let null = std::process::Stdio::null;
        let mut command = Command::new("sleep");
        Self(command.arg("600").stdin(null()).stdout(null()).stderr(null()).spawn().unwrap())
    }
}

impl Drop for Sleeping {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn a_setuid_program_gains_nothing() {
    let corner = Corner::new();
    let on = corner.run(&machine("ada")).await;
    let made = corner
        .exec_as(
            ExecUser::Root,
            &on,
            &["sh", "-c", "cp /usr/bin/id /tmp/id && chmod 6755 /tmp/id && stat -c %a /tmp/id"],
        )
        .await;
    assert_eq!(made.stdout, b"6755\n", "{}", text(&made));
    assert_eq!(corner.say(&on, "/tmp/id -u; /tmp/id -g").await, "1000\n1000");
    let state = "su -c 'id -u' </dev/null 2>/dev/null || true; \
                 for n in /proc/self/status; do grep -E 'Cap(Eff|Prm|Bnd|Inh|Amb)|NoNewPrivs|^Seccomp:' $n; done";
    for user in BOTH {
        let output = corner.exec_as(user, &on, &["sh", "-c", state]).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(said.matches("\t0000000000000000").count(), 5, "{said}");
        assert!(said.contains("NoNewPrivs:\t1") && said.contains("Seccomp:\t2"), "{said}");
    }
    corner.wipe().await;
}

#[tokio::test]
async fn what_init_holds() {
    let corner = Corner::new();
    let on = corner.run(&machine("ada")).await;
    let status = corner.say(&on, "grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid)' /proc/1/status").await;
    assert_eq!(status.matches("\t0000000000000000").count(), 5, "{status}");
    assert!(status.contains("Uid:\t1000\t1000\t1000\t1000"), "{status}");
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
    let command = corner.say(&on, "tr '\\0' ' ' < /proc/1/cmdline").await;
    let (mark, rest) = command.split_once(' ').unwrap();
    let words: Vec<&str> = mark.split(':').collect();
    assert_eq!((words.len(), &words[..3], words[4]), (5, &["bottle", "native", "init"][..], "ada"));
    let digest = words[3];
    assert!(digest.len() == 16 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{mark}");
    assert_eq!(rest, "__native", "it says nothing of the host");
    corner.wipe().await;
}

#[tokio::test]
async fn its_own_namespaces_every_one() {
    let corner = Corner::new();
    let on = corner.run(&machine("ada")).await;
    for kind in ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup"] {
        let host = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        let inside = corner.say(&on, &format!("readlink /proc/self/ns/{kind}")).await;
        assert_ne!(host.to_str().unwrap(), inside);
    }
    corner.wipe().await;
}

#[tokio::test]
async fn the_hosts_own_tools_work() {
    let corner = Corner::new();
    let on = corner.run(&machine("ada")).await;
    let mut script = String::from("set -e; ls / >/dev/null; git --version; perl -v >/dev/null; ");
    script += "cd $HOME; git init -q x; cd x; git config user.email a@b; git config user.name a; ";
    script += "echo 1 > f; git add f; git commit -qm f; git log --oneline | wc -l; ";
    script += "mkdir -p /tmp/d; df / >/dev/null; date >/dev/null; sleep 0; tty || true; ";
    script += "echo hi > /var/tmp/x; echo hi > /dev/shm/x; echo hi > /dev/null; head -c1 /dev/urandom | wc -c; ";
    script += "cat /etc/resolv.conf; grep -q localhost /etc/hosts; nproc >/dev/null";
    let output = corner.sh(&on, &script).await;
    assert_eq!(output.code, 0, "{}", text(&output));
    // What is shared can be changed, here alone.
    let root = corner
        .exec_as(ExecUser::Root, &on, &["sh", "-c", "echo x > /usr/of-ada && cat /usr/of-ada"])
        .await;
    assert_eq!(root.stdout, b"x\n", "{}", text(&root));
    assert!(!std::path::Path::new("/usr/of-ada").exists());
    corner.wipe().await;
}

/// Kept honest: what the probes above use of the standard library does what they think.
#[test]
fn an_abstract_name_is_reachable_on_the_host() {
    let name = format!("bottle-test-control-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let mut near = std::os::unix::net::UnixStream::connect_addr(&address).unwrap();
    near.write_all(b"x").unwrap();
    drop(near);
    let mut said = String::new();
    listener.accept().unwrap().0.read_to_string(&mut said).unwrap();
    assert_eq!(said, "x");
}

/// The tree and the state folder are hidden even where they lie among the host's programs.
#[tokio::test]
async fn what_is_hidden_is_absent_among_the_hosts_programs() {
    if !rustix::process::geteuid().is_root() {
        crate::support::left_out("hidden folders below /opt", "only root can make one");
        return;
    }
    let shown = tempfile::Builder::new().prefix("bottle-test-").tempdir_in("/opt").unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(shown.path(), open).unwrap();
    std::fs::create_dir(shown.path().join("tree")).unwrap();
    for file in ["tree/secret", "program"] {
        std::fs::write(shown.path().join(file), "x").unwrap();
    }
    let mut corner = Corner::new();
    corner.scope.hidden = vec![shown.path().join("tree")];
    let on = corner.run(&machine("ada")).await;
    let list = format!("cd {} && ls -A", shown.path().display());
    for user in BOTH {
        let output = corner.exec_as(user, &on, &["sh", "-c", &list]).await;
        assert_eq!(output.stdout, b"program\n", "{user:?}: {}", text(&output));
    }
}
