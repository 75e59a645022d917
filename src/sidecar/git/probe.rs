#![expect(clippy::disallowed_methods, reason = "tries what a worker must not do")]
//! For tests: tries, as a worker and as each git that one starts, what neither may do. No release knows it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::jail::{Layer, find};
use super::run::{Place, run};
use super::wire::Deadline;
use super::work::shut_in;
use crate::sidecar::confine;

/// Gives up what a worker gives up, and tries it: each by its name, and whether it was refused.
///
/// # Errors
/// When it cannot begin.
pub fn probe(
    folder: &Path,
    key: &Path,
    port: u16,
    socket: &Path,
) -> anyhow::Result<Vec<(String, bool)>> {
    let ssh = find("ssh");
    confine::keep_to_itself()?;
    let (git, _store) = shut_in(folder)?;
    let own = folder.join("git");
    let written = own.join("program");
    let _ = std::fs::write(&written, "#!/bin/sh\nexit 0\n");
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    let _ = std::fs::set_permissions(&written, permissions);
    let starts = |program: &Path| Command::new(program).stdin(Stdio::null()).output().is_ok();
    let mut tried: Vec<(String, bool)> = [
        ("read the key", std::fs::read(key).is_ok()),
        ("read /etc/passwd", std::fs::read("/etc/passwd").is_ok()),
        ("list /root", std::fs::read_dir("/root").is_ok()),
        ("list /proc", std::fs::read_dir("/proc").is_ok()),
        ("write beside its folder", std::fs::write(folder.join("pins-too"), "x").is_ok()),
        ("dial", std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()),
        ("listen", std::net::TcpListener::bind("127.0.0.1:0").is_ok()),
        ("send datagrams", std::net::UdpSocket::bind("127.0.0.1:0").is_ok()),
        ("have a pair for datagrams", std::os::unix::net::UnixDatagram::pair().is_ok()),
        ("dial with the first bytes", opens_with_bytes()),
        #[cfg(target_arch = "x86_64")]
        ("call by another ABI", calls_by_another_abi()),
        ("dial a unix socket", std::os::unix::net::UnixStream::connect(socket).is_ok()),
        ("start /bin/sh", starts(Path::new("/bin/sh"))),
        ("start ssh", ssh.as_deref().is_some_and(starts)),
        ("start what it wrote", starts(&written)),
        ("signal its parent", signals_parent()),
    ]
    .into_iter()
    .map(|(what, done)| (what.to_owned(), !done))
    .collect();
    let repository = own.join("probe.git");
    for folder in ["objects", "refs/heads", "incoming"] {
        std::fs::create_dir_all(repository.join(folder))?;
    }
    std::fs::write(repository.join("HEAD"), "ref: refs/heads/main\n")?;
    let incoming = repository.join("incoming");
    let jails: [(&str, Layer); 3] = [
        ("reading", Layer::writing(&[])?),
        ("quarantine", Layer::writing(&[&incoming])?),
        ("mirror", Layer::writing(&[&repository])?),
    ];
    let place = Place { repository: &repository, incoming: None, most: 1 << 30 };
    let key = key.to_string_lossy().into_owned();
    let url = format!("git://127.0.0.1:{port}/x");
    let outside = folder.join("git/escaped").to_string_lossy().into_owned();
    let tries: [(&str, Vec<&str>); 4] = [
        ("read the key", vec!["hash-object", "--no-filters", &key]),
        ("dial", vec!["-c", "protocol.allow=always", "ls-remote", &url]),
        ("start a shell", vec!["-c", "alias.x=!true", "x"]),
        ("write elsewhere", vec!["init", "-q", "--bare", &outside]),
    ];
    for (jail, layer) in &jails {
        for (what, arguments) in &tries {
            let mut command = git.command(place, arguments);
            command.env_remove("GIT_ALLOW_PROTOCOL");
            if *what == "write elsewhere" {
                command.env_remove("GIT_DIR");
            }
            let output = run(
                command,
                layer,
                &[],
                b"",
                1 << 20,
                Deadline::within(Duration::from_secs(20)),
                None,
            );
            tried.push((format!("git in the jail `{jail}`: {what}"), !output?.ok));
        }
    }
    // That it works at all: else all of this would say nothing.
    let command = git.command(place, &["rev-parse", "--git-dir"]);
    let output = run(
        command,
        &jails[0].1,
        &[],
        b"",
        1 << 20,
        Deadline::within(Duration::from_secs(20)),
        None,
    )?;
    tried.push(("git works".to_owned(), output.ok));
    tried.push(("its own folder can be read".to_owned(), std::fs::read(&written).is_ok()));
    Ok(tried)
}

/// Whether a call that does so comes as far as its descriptor, which is none.
#[expect(unsafe_code, reason = "no safe wrapper passes such flags")]
fn opens_with_bytes() -> bool {
    // SAFETY: there is no such descriptor, and nothing is sent.
    let sent =
        unsafe { libc::sendto(-1, std::ptr::null(), 0, libc::MSG_FASTOPEN, std::ptr::null(), 0) };
    sent == 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::EPERM)
}

/// Whether `getpid` of x32 is more than refused; a kernel that does not have it says that it knows no such call.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "no safe wrapper makes a call of another ABI")]
fn calls_by_another_abi() -> bool {
    // SAFETY: it takes no argument and changes nothing.
    let called = unsafe { libc::syscall(0x4000_0000 | libc::SYS_getpid) };
    called >= 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::EPERM)
}

fn signals_parent() -> bool {
    let parent = rustix::process::getppid();
    parent.is_some_and(|parent| rustix::process::test_kill_process(parent).is_ok())
}
