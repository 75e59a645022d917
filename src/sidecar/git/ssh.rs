#![expect(clippy::disallowed_methods, reason = "starts ssh, and writes the pins that it reads")]
//! ssh to an upstream: its arguments, which hold nothing that a guest has said, and what it says.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::check::{fingerprint, host_key};
use super::document::Upstream;
use super::jail::{self, Files};
use super::run::words;
use super::sentence::{LINES, Trouble, classify, harmless};
use super::tunnel::{Ended, Service};
use super::wire::{Deadline, Waited};
use crate::model::key::{self, Key};

/// No connection lasts longer.
const LONGEST: Duration = Duration::from_secs(1800);

/// ssh as it is on this host.
#[derive(Debug, Clone)]
pub(super) struct Ssh {
    program: PathBuf,
}

impl Ssh {
    pub(super) fn find() -> io::Result<Self> {
        let program = jail::find("ssh").ok_or_else(|| io::Error::other("ssh is not installed"))?;
        Ok(Self { program })
    }

    /// What ssh may do with files, to reach this upstream.
    fn files(&self, upstream: &Upstream, pin: &Path) -> Files {
        const READ: &[&str] = &[
            "/etc/passwd",
            "/etc/group",
            "/etc/nsswitch.conf",
            "/etc/host.conf",
            "/etc/hosts",
            "/etc/resolv.conf",
            "/etc/gai.conf",
            "/etc/services",
            "/etc/protocols",
            "/etc/ssl",
            "/etc/pki",
            "/etc/crypto-policies",
            "/etc/localtime",
            "/usr/share/zoneinfo",
            "/usr/share/crypto-policies",
            "/run/systemd/resolve",
            "/run/nscd",
            "/var/run/nscd",
            "/var/lib/sss",
            "/run/resolvconf",
            "/sys/class/hidraw",
            "/sys/devices",
        ];
        let mut execute = vec![self.program.clone()];
        execute.extend(jail::loader(&self.program));
        let mut read: Vec<PathBuf> = READ.iter().map(PathBuf::from).collect();
        read.extend(jail::libraries());
        read.push(pin.to_owned());
        for end in ["", ".pub", "-cert.pub"] {
            let mut path = upstream.identity_file.clone().into_os_string();
            path.push(end);
            read.push(path.into());
        }
        Files { execute, read, write: Vec::new() }
    }

    fn command(&self, upstream: &Upstream, service: Service, pin: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear();
        command.envs([("PATH", "/usr/bin:/bin"), ("HOME", "/nonexistent"), ("LC_ALL", "C.UTF-8")]);
        if service == Service::Upload {
            command.env("GIT_PROTOCOL", "version=2");
        }
        command.args(arguments(upstream, service, pin)).current_dir("/");
        command
    }
}

/// The file that holds an upstream's pinned keys.
pub(super) fn pin(pins: &Path, upstream: &Upstream) -> PathBuf {
    pins.join(&upstream.name)
}

/// Writes the pins of upstreams.
pub(super) fn write_pins(pins: &Path, upstreams: &[Upstream]) -> io::Result<()> {
    if pins.exists() {
        std::fs::remove_dir_all(pins)?;
    }
    std::fs::create_dir_all(pins)?;
    for upstream in upstreams {
        let line = |key: &String| format!("{} {key}\n", alias(upstream));
        let text: String = upstream.known_host_keys.iter().map(line).collect();
        let aside = pins.join(format!(".{}", upstream.name));
        std::fs::write(&aside, text)?;
        std::fs::rename(aside, pin(pins, upstream))?;
    }
    Ok(())
}

fn alias(upstream: &Upstream) -> String {
    format!("bottle-{}", upstream.name)
}

/// ssh's command line. All of it comes from the operator's policy, which was checked.
fn arguments(upstream: &Upstream, service: Service, pin: &Path) -> Vec<String> {
    let algorithms: Vec<&str> =
        upstream.known_host_keys.iter().filter_map(|key| host_key(key)).collect();
    let host =
        upstream.address.map_or_else(|| upstream.host.clone(), |address| address.to_string());
    let agent = upstream.identity_agent.as_ref();
    let agent = agent.map_or_else(|| "none".to_owned(), |socket| quoted(socket));
    let options = [
        "BatchMode=yes".to_owned(),
        "StrictHostKeyChecking=yes".to_owned(),
        format!("UserKnownHostsFile={}", quoted(pin)),
        "GlobalKnownHostsFile=/dev/null".to_owned(),
        "UpdateHostKeys=no".to_owned(),
        "VerifyHostKeyDNS=no".to_owned(),
        "CheckHostIP=no".to_owned(),
        format!("HostKeyAlias={}", alias(upstream)),
        format!("HostKeyAlgorithms={}", algorithms.join(",")),
        "IdentitiesOnly=yes".to_owned(),
        format!("IdentityAgent={agent}"),
        "PreferredAuthentications=publickey".to_owned(),
        "PasswordAuthentication=no".to_owned(),
        "KbdInteractiveAuthentication=no".to_owned(),
        "GSSAPIAuthentication=no".to_owned(),
        "HostbasedAuthentication=no".to_owned(),
        "NumberOfPasswordPrompts=0".to_owned(),
        "AddKeysToAgent=no".to_owned(),
        "ProxyCommand=none".to_owned(),
        "ProxyJump=none".to_owned(),
        "PermitLocalCommand=no".to_owned(),
        "ForwardAgent=no".to_owned(),
        "ForwardX11=no".to_owned(),
        "ClearAllForwardings=yes".to_owned(),
        "Tunnel=no".to_owned(),
        "CanonicalizeHostname=no".to_owned(),
        "EscapeChar=none".to_owned(),
        "ControlMaster=no".to_owned(),
        "ControlPath=none".to_owned(),
        "ConnectTimeout=15".to_owned(),
        "ConnectionAttempts=1".to_owned(),
        "ServerAliveInterval=15".to_owned(),
        "ServerAliveCountMax=4".to_owned(),
        "LogLevel=ERROR".to_owned(),
        "SendEnv=GIT_PROTOCOL".to_owned(),
        format!("HostName={host}"),
    ];
    let mut words: Vec<String> = ["-F", "/dev/null", "-T", "-x", "-a"].map(str::to_owned).into();
    for option in options {
        words.extend(["-o".to_owned(), option]);
    }
    let identity = upstream.identity_file.to_string_lossy().into_owned();
    words.extend(["-i".to_owned(), identity, "-p".to_owned(), upstream.port.to_string()]);
    words.extend(["-l".to_owned(), upstream.user.clone(), "--".to_owned(), upstream.host.clone()]);
    let program = match service {
        Service::Upload => "git-upload-pack",
        Service::Receive => "git-receive-pack",
    };
    // As git does: `/~user/x` is somebody's home.
    let path = upstream.path.strip_prefix('/').filter(|path| path.starts_with('~'));
    words.push(format!("{program} '{}'", path.unwrap_or(&upstream.path)));
    words
}

/// A path as one word of an option's.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('"', "\\\""))
}

/// What became of a connection: for the worker, and for the log.
pub(super) struct Outcome {
    pub(super) ended: Ended,
    /// Both keys, where the host's was another.
    pub(super) detail: Option<String>,
}

/// Opens a connection to an upstream and waits for its end, which comes also when nobody wants to know of
/// it any more. Called by a thread that does nothing else, for ssh ends with it.
pub(super) fn connect(
    ssh: &Ssh,
    upstream: &Upstream,
    service: Service,
    pins: &Path,
    socket: OwnedFd,
    status: BorrowedFd<'_>,
) -> Outcome {
    let trouble = |trouble| Outcome {
        ended: Ended { trouble: Some(trouble), words: Vec::new() },
        detail: None,
    };
    if upstream.known_host_keys.is_empty() {
        return trouble(Trouble::NoPin);
    }
    if upstream.identity_agent.is_none() && !is_usable(&upstream.identity_file) {
        return trouble(Trouble::Identity);
    }
    if !is_the_same(upstream) {
        return trouble(Trouble::AnotherKey);
    }
    match run(ssh, upstream, service, pins, socket, status) {
        Ok((code, text)) => understood(upstream, code, &text),
        Err(error) => Outcome { detail: Some(error.to_string()), ..trouble(Trouble::Upstream) },
    }
}

fn run(
    ssh: &Ssh,
    upstream: &Upstream,
    service: Service,
    pins: &Path,
    socket: OwnedFd,
    status: BorrowedFd<'_>,
) -> io::Result<(Option<i32>, String)> {
    let pin = pin(pins, upstream);
    let mut command = ssh.command(upstream, service, &pin);
    command.stdin(Stdio::from(socket.try_clone()?)).stdout(Stdio::from(socket));
    command.stderr(Stdio::piped());
    let layer = ssh.files(upstream, &pin).layer()?;
    let mut jailed = jail::start(command, &layer, &[])?;
    let deadline = Deadline::within(LONGEST);
    let stderr = jailed.child().stderr.take();
    std::thread::scope(|scope| {
        let text =
            scope.spawn(move || stderr.map(|stderr| words(stderr, deadline)).unwrap_or_default());
        let ended = jailed.wait(Some(status), deadline);
        drop(jailed);
        let text = text.join().unwrap_or_default();
        match ended? {
            Ok(status) => Ok((status.code(), text)),
            Err(Waited::Over) => Err(io::ErrorKind::TimedOut.into()),
            Err(_) => Ok((Some(0), String::new())),
        }
    })
}

/// With this ssh ends where it failed itself; else it ends as the upstream's program did.
const OWN: i32 = 255;

/// What ssh's end and words mean. Of the words those go on that are none of ssh's: what ssh says holds paths
/// and addresses.
fn understood(upstream: &Upstream, code: Option<i32>, text: &str) -> Outcome {
    let of_ssh = code == Some(OWN);
    let trouble = if of_ssh { classify(text) } else { None };
    let detail = (trouble == Some(Trouble::HostKey)).then(|| {
        let pinned: Vec<String> =
            upstream.known_host_keys.iter().filter_map(|key| fingerprint(key)).collect();
        let shown = text.split_whitespace().find(|word| word.starts_with("SHA256:"));
        let shown = shown.map_or("a key of another type", |word| word.trim_end_matches('.'));
        format!("it showed {}, and {} is pinned", harmless(shown.as_bytes()), pinned.join(" or "))
    });
    let mut words = Vec::new();
    if !of_ssh {
        let secret = [Some(&upstream.identity_file), upstream.identity_agent.as_ref()];
        let secret: Vec<String> =
            secret.into_iter().flatten().map(|path| path.display().to_string()).collect();
        let own = |line: &str| {
            secret.iter().any(|path| line.contains(path.as_str()))
                || line.contains(&alias(upstream))
                || ["Warning: ", "debug", "@@@"].iter().any(|begin| line.starts_with(begin))
        };
        let lines = text.lines().filter(|line| !line.trim().is_empty() && !own(line));
        words.extend(lines.take(LINES).map(|line| harmless(line.as_bytes())));
    }
    Outcome { ended: Ended { trouble, words }, detail }
}

/// Whether the key is the one that the operator was shown, where that is known.
fn is_the_same(upstream: &Upstream) -> bool {
    let Some(wanted) = &upstream.identity_fingerprint else { return true };
    let file = &upstream.identity_file;
    match read_key(file) {
        // Older forms do not say it, and the public half beside them does.
        Key::Private { fingerprint: None, .. } => {
            let mut beside = file.clone().into_os_string();
            beside.push(".pub");
            read_key(Path::new(&beside)).fingerprint() == Some(wanted)
        }
        key => key.fingerprint() == Some(wanted),
    }
}

fn read_key(path: &Path) -> Key {
    use std::io::Read as _;
    // Never grown while it is filled: what a growing one leaves behind is not wiped.
    let mut text = zeroize::Zeroizing::new(String::with_capacity(64 << 10));
    let read =
        std::fs::File::open(path).and_then(|file| file.take(48 << 10).read_to_string(&mut text));
    read.map_or(Key::Unknown, |_| key::parse(&text))
}

/// Whether this is a key that needs no passphrase, as far as that can be seen.
fn is_usable(identity: &Path) -> bool {
    use std::io::Read as _;
    let Ok(file) = std::fs::File::open(identity) else { return false };
    let mut text = zeroize::Zeroizing::new(String::with_capacity(64 << 10));
    if file.take(48 << 10).read_to_string(&mut text).is_err() {
        return false;
    }
    if text.contains("ENCRYPTED") {
        return false;
    }
    let begun = text.split_once("-----BEGIN OPENSSH PRIVATE KEY-----");
    let Some((_, body)) = begun else { return true };
    // The first of it says by which cipher: a magic word, a length, a name.
    let letters = body.chars().filter(|letter| !letter.is_whitespace()).take(64);
    let letters = zeroize::Zeroizing::new(letters.collect::<String>());
    let bytes =
        zeroize::Zeroizing::new(BASE64_STANDARD.decode(letters.as_bytes()).unwrap_or_default());
    bytes.starts_with(b"openssh-key-v1\0\0\0\0\x04none")
}

/// Tells the worker how a connection has ended.
pub(super) fn tell(status: &OwnedFd, ended: &Ended) -> io::Result<()> {
    use std::io::Write as _;
    let deadline = Deadline::within(Duration::from_secs(5));
    let mut to = super::wire::Out { to: status.as_fd(), deadline, guest: None };
    to.write_all(&serde_json::to_vec(ended)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::git::testing::upstream;

    #[test]
    fn the_command_line_is_the_operators() {
        let mut of = upstream("app");
        let words = arguments(&of, Service::Receive, Path::new("/s/pins/app"));
        assert_eq!(words[..2], ["-F", "/dev/null"]);
        assert_eq!(
            words[words.len() - 3..],
            ["--", "git.example.com", "git-receive-pack '/o/app.git'"]
        );
        let has = |words: &[String], option: &str| words.iter().any(|word| word == option);
        assert!(has(&words, "HostKeyAlias=bottle-app") && has(&words, "IdentityAgent=none"));
        assert!(
            has(&words, "HostKeyAlgorithms=ssh-ed25519") && has(&words, "HostName=git.example.com")
        );
        of.address = "10.1.2.3".parse().ok();
        of.identity_agent = Some("/run/agent".into());
        of.path = "/~ada/x".into();
        let words = arguments(&of, Service::Upload, Path::new("/s/pins/app"));
        assert!(has(&words, "HostName=10.1.2.3") && has(&words, "IdentityAgent=\"/run/agent\""));
        assert_eq!(words.last().unwrap(), "git-upload-pack '~ada/x'");
    }

    #[test]
    fn what_ssh_says_goes_no_further() {
        let of = upstream("app");
        let outcome = understood(
            &of,
            Some(OWN),
            "Load key \"/k/id\": invalid format\r\ngit@h: Permission denied (publickey).",
        );
        assert_eq!(outcome.ended.trouble, Some(Trouble::Identity));
        assert!(outcome.ended.words.is_empty());
        let outcome =
            understood(&of, Some(128), "remote:\u{1b}[31mno\nidentity /keys/id_app is odd\n");
        assert_eq!(
            (outcome.ended.trouble, outcome.ended.words),
            (None, vec!["remote:?[31mno".to_owned()])
        );
        let text = "The fingerprint for the ED25519 key sent by the remote host is\nSHA256:abc.\nHost key verification failed.";
        assert!(
            understood(&of, Some(OWN), text)
                .detail
                .unwrap()
                .contains("it showed SHA256:abc, and SHA256:")
        );
    }
}
