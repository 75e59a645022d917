//! An upstream of a test's own: a real sshd on a port of loopback, with keys of its own, and bare repositories
//! in a folder of the test's. It needs nothing of a gate.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::left_out;

/// Where sshd is, on this machine.
fn sshd() -> Option<&'static str> {
    ["/usr/sbin/sshd", "/usr/local/sbin/sshd"].into_iter().find(|path| Path::new(path).exists())
}

/// A running sshd. Its user is the test's own, whose shell need not be there.
pub(crate) struct Upstream {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) port: u16,
    /// `None`: it was stopped.
    daemon: Option<Child>,
}

impl Upstream {
    /// `None`, and said, where there is no sshd.
    pub(crate) fn start() -> Option<Self> {
        if sshd().is_none() {
            left_out("the git gate against an upstream", "sshd is not installed");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path();
        for name in ["host", "other-host", "identity", "other-identity"] {
            keygen(&own.join(name), "");
        }
        keygen(&own.join("locked-identity"), "a passphrase");
        std::fs::copy(own.join("identity.pub"), own.join("authorized")).unwrap();
        let mut upstream = Self { folder, port: 0, daemon: None };
        upstream.run("host");
        Some(upstream)
    }

    /// Starts sshd, with this key of its own.
    pub(crate) fn run(&mut self, key: &str) {
        self.stop();
        let own = self.folder.path().to_owned();
        // sshd of a user has this of root's; in a fresh container it is missing.
        if rustix::process::geteuid().is_root() {
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let port = match self.port {
                0 => TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port(),
                port => port,
            };
            let config = format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {key}\nPidFile none\nUsePAM no\n\
                 AuthorizedKeysFile {authorized}\nStrictModes no\nPasswordAuthentication no\n\
                 KbdInteractiveAuthentication no\nPermitRootLogin yes\nAcceptEnv GIT_PROTOCOL\n\
                 MaxStartups 100\nLogLevel ERROR\n",
                key = own.join(key).display(),
                authorized = own.join("authorized").display(),
            );
            std::fs::write(own.join("sshd_config"), config).unwrap();
            let log = std::fs::File::options().create(true).append(true).open(own.join("sshd.log"));
            let mut daemon = Command::new(sshd().unwrap())
                .args(["-D", "-e", "-f"])
                .arg(own.join("sshd_config"))
                .stdin(Stdio::null())
                .stderr(log.unwrap())
                .spawn()
                .unwrap();
            while Instant::now() < deadline {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    self.port = port;
                    self.daemon = Some(daemon);
                    return;
                }
                if daemon.try_wait().unwrap().is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = daemon.kill();
            let _ = daemon.wait();
            assert!(
                Instant::now() < deadline,
                "sshd does not start: {}",
                std::fs::read_to_string(own.join("sshd.log")).unwrap_or_default()
            );
        }
    }

    /// Has sshd stand still, or go on: whoever connects meanwhile is accepted by the kernel, and hears nothing.
    pub(crate) fn stand_still(&self, still: bool) {
        use rustix::process::{Pid, Signal, kill_process};
        let signal = if still { Signal::STOP } else { Signal::CONT };
        let daemon = self.daemon.as_ref().expect("it runs");
        kill_process(Pid::from_child(daemon), signal).unwrap();
    }

    /// Stops sshd; what it has started goes on.
    pub(crate) fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The pinned key of its host, as a document and a manifest have it.
    pub(crate) fn host_key(&self) -> String {
        public(&self.path("host.pub"))
    }

    /// A key that the host does not have.
    pub(crate) fn other_host_key(&self) -> String {
        public(&self.path("other-host.pub"))
    }

    /// As whom it is spoken to.
    pub(crate) fn user(&self) -> String {
        let output = Command::new("id").arg("-un").output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Makes a bare repository with one commit, whose file is `README`.
    pub(crate) fn repository(&self, name: &str) -> Repository {
        let repository = self.empty(name);
        let work = repository.clone_of("seed");
        work.write("README", "hello\n");
        work.commit("first");
        work.git(&["push", "-q", "origin", "HEAD:refs/heads/main"]);
        repository
    }

    /// Makes a bare repository with nothing in it.
    pub(crate) fn empty(&self, name: &str) -> Repository {
        let path = self.path(name);
        git(self.folder.path(), &["init", "-q", "--bare", "-b", "main", path.to_str().unwrap()]);
        Repository(path)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop();
    }
}

fn keygen(path: &Path, passphrase: &str) {
    let output = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", passphrase, "-C", "test", "-f"])
        .arg(path)
        .output()
        .expect("ssh-keygen comes with sshd");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn public(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let mut words = text.split_whitespace();
    format!("{} {}", words.next().unwrap(), words.next().unwrap())
}

/// A bare repository, as it stands on the upstream's disk.
#[derive(Clone)]
pub(crate) struct Repository(pub(crate) PathBuf);

impl Repository {
    /// Runs git in it, and gives what it prints.
    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        git(&self.0, arguments)
    }

    /// What it has.
    pub(crate) fn refs(&self) -> String {
        self.git(&["for-each-ref", "--format=%(refname) %(objectname)"])
    }

    /// The object of a ref; empty: there is none.
    pub(crate) fn oid(&self, name: &str) -> String {
        self.git(&["for-each-ref", "--format=%(objectname)", name]).trim().to_owned()
    }

    /// Whether a text stands in any object of it.
    pub(crate) fn holds(&self, text: &str) -> bool {
        let all = self.git(&["cat-file", "--batch-all-objects", "--batch-check=%(objectname)"]);
        all.lines().any(|oid| {
            let output = plain(&self.0, &["cat-file", "-p", oid]);
            memchr::memmem::find(&output.stdout, text.as_bytes()).is_some()
        })
    }

    /// A hook of its own.
    pub(crate) fn hook(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.0.join("hooks").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A clone by somebody else, past any gate, beside it.
    pub(crate) fn clone_of(&self, name: &str) -> Work {
        let own = self.0.file_name().unwrap().to_str().unwrap();
        let path = self.0.with_file_name(format!("{own}-{name}"));
        git(Path::new("/"), &["clone", "-q", self.0.to_str().unwrap(), path.to_str().unwrap()]);
        Work(path)
    }
}

/// A working tree.
#[derive(Clone)]
pub(crate) struct Work(pub(crate) PathBuf);

impl Work {
    pub(crate) fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Commits all that there is, and gives the commit's name.
    pub(crate) fn commit(&self, message: &str) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.git(&["rev-parse", "HEAD"]).trim().to_owned()
    }

    /// Runs git in it, which has to go well, and gives what it prints.
    #[track_caller]
    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        git(&self.0, arguments)
    }

    /// Tries until that is so: what is fetched may be two seconds old.
    #[track_caller]
    pub(crate) fn until(&self, is: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is(self) {
            assert!(Instant::now() < deadline, "it did not come about");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs git in it, and gives whether it went well, and all that it says.
    pub(crate) fn run(&self, arguments: &[&str]) -> (bool, String) {
        said(&plain(&self.0, arguments))
    }
}

/// Whether it went well, and all that it says.
pub(crate) fn said(output: &Output) -> (bool, String) {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Runs git with nobody's settings.
pub(crate) fn plain(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().expect("git is installed")
}

/// The same, with this on its stdin.
pub(crate) fn fed(folder: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = command(folder, arguments);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("git is installed");
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// git, with nobody's settings.
pub(crate) fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command
        .current_dir(folder)
        .args(["-c", "protocol.file.allow=always"])
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", "/nonexistent")
        .env("LC_ALL", "C.UTF-8")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_AUTHOR_NAME", "Ada")
        .env("GIT_AUTHOR_EMAIL", "ada@example.com")
        .env("GIT_COMMITTER_NAME", "Ada")
        .env("GIT_COMMITTER_EMAIL", "ada@example.com")
        .stdin(Stdio::null());
    command
}

/// Runs git, which has to go well, and gives what it prints.
#[track_caller]
pub(crate) fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = plain(folder, arguments);
    assert!(
        output.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
