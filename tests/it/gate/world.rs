//! A gate, alive: the built program, with an upstream of the test's own, and a guest that is plain git.

use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bottle::sidecar::control;
use bottle::sidecar::git::keep::State;
use serde_json::{Value, json};

use super::upstream::{Repository, Upstream, Work, git, plain, said};

/// A gate with one upstream, which is named `app`.
pub(crate) struct World {
    pub(crate) upstream: Upstream,
    pub(crate) repository: Repository,
    /// The gate's own.
    pub(crate) folder: tempfile::TempDir,
    /// The guest's.
    pub(crate) guest: tempfile::TempDir,
    pub(crate) gate: Child,
    pub(crate) port: u16,
    listener: std::net::TcpListener,
    /// What it is told.
    pub(crate) document: Value,
}

impl World {
    /// `None`, and said, where there is no sshd.
    pub(crate) fn start() -> Option<Self> {
        Self::with(|_| {})
    }

    /// The same, with another policy of its upstream.
    pub(crate) fn with(change: impl FnOnce(&mut Value)) -> Option<Self> {
        let upstream = Upstream::start()?;
        let repository = upstream.repository("app.git");
        let folder = tempfile::tempdir().unwrap();
        let guest = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut app = json!({
            "name": "app",
            "user": upstream.user(),
            "host": "git.example.com",
            "port": upstream.port,
            "path": upstream.path("app.git"),
            "address": "127.0.0.1",
            "identity_file": upstream.path("identity"),
            "known_host_keys": [upstream.host_key()],
            "push": ["refs/heads/*", "refs/tags/*"],
            "max_push": 1 << 30,
            "max_file": 256 << 20,
        });
        change(&mut app);
        let document = json!({ "version": 1, "sandbox": "dev", "upstreams": [app] });
        let gate = spawn(&folder);
        let mut world =
            Self { upstream, repository, folder, guest, gate, port, listener, document };
        world.ready();
        world.load().expect("the document is in order");
        Some(world)
    }

    fn ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let listener = [self.listener.as_fd()];
            let told = tell(async { control::listen::<State>(&self.control(), &listener).await });
            match told {
                Ok(_) => return,
                Err(error) if Instant::now() > deadline => panic!("{error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    /// Loads the document as it is now.
    pub(crate) fn load(&mut self) -> Result<State, String> {
        let text = serde_json::to_vec(&self.document).unwrap();
        tell(async { control::load::<State>(&self.control(), &text).await })
            .map_err(|error| error.to_string())
    }

    /// Changes what its upstream's policy says, and loads it.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Value)) {
        change(&mut self.document["upstreams"][0]);
        self.load().expect("the document is in order");
    }

    pub(crate) fn state(&self) -> State {
        tell(async { control::state::<State>(&self.control()).await }).unwrap()
    }

    /// Ends the gate as if it had crashed, and starts another one.
    pub(crate) fn crash(&mut self) {
        self.gate.kill().unwrap();
        self.gate.wait().unwrap();
        self.gate = spawn(&self.folder);
        self.ready();
        self.load().expect("the document is in order");
    }

    /// Waits until what the upstream has said is too old to be told again.
    pub(crate) fn clear_cache(&self) {
        std::thread::sleep(Duration::from_millis(2100));
    }

    /// What the guest calls the upstream.
    pub(crate) fn url(&self) -> String {
        format!("git://127.0.0.1:{}/app", self.port)
    }

    /// A clone by the guest, through the gate.
    #[track_caller]
    pub(crate) fn clone_as(&self, name: &str) -> Work {
        let path = self.guest.path().join(name);
        git(self.guest.path(), &["clone", "-q", &self.url(), path.to_str().unwrap()]);
        Work(path)
    }

    /// Runs git as the guest, outside of any repository.
    pub(crate) fn run(&self, arguments: &[&str]) -> (bool, String) {
        said(&plain(self.guest.path(), arguments))
    }

    /// The lines of the log.
    pub(crate) fn log(&self) -> Vec<Value> {
        let text = self.log_text();
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        lines.map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
    }

    pub(crate) fn log_text(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// The guest pushes, and is refused: the upstream is as it was, and nothing holds `secret`.
    #[track_caller]
    pub(crate) fn refused(&self, work: &Work, arguments: &[&str], secret: &str) -> String {
        let before = self.repository.refs();
        let (ok, said) = work.run(arguments);
        assert!(!ok, "it was not refused: {said}");
        assert_eq!(self.repository.refs(), before, "{said}");
        assert!(!self.repository.holds(secret), "the upstream has it: {said}");
        assert!(!self.log_text().contains(secret), "the log has it");
        let incoming = self.mirror().join("objects").read_dir().unwrap();
        let left: Vec<_> = incoming.map(|entry| entry.unwrap().file_name()).collect();
        assert!(
            !left.iter().any(|name| name.to_str().unwrap().starts_with("incoming")),
            "{left:?}"
        );
        assert!(!Repository(self.mirror()).holds(secret), "the mirror has it");
        said
    }

    /// The mirror of the upstream.
    pub(crate) fn mirror(&self) -> PathBuf {
        let all = std::fs::read_dir(self.folder.path().join("git")).unwrap();
        let mut all = all.map(|entry| entry.unwrap().path());
        all.find(|path| path.extension().is_some_and(|end| end == "git")).expect("it was loaded")
    }

    /// The worker's number.
    pub(crate) fn worker(&self) -> u32 {
        let path = format!("/proc/{0}/task/{0}/children", self.gate.id());
        let children = std::fs::read_to_string(path).unwrap();
        children.split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.gate.kill();
        let _ = self.gate.wait();
    }
}

fn spawn(folder: &tempfile::TempDir) -> Child {
    let own = folder.path();
    Command::new(env!("CARGO_BIN_EXE_bottle"))
        .args(["gate", "keep", "--confine", "--control"])
        .arg(format!("unix:{}", own.join("control").display()))
        .arg("--log")
        .arg(own.join("log"))
        .arg("--folder")
        .arg(own)
        .current_dir(own)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// Says something to the gate.
fn tell<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(what)
}

/// A token that nobody has, and that looks like one; its letters differ from test to test.
pub(crate) fn token(what: &str) -> String {
    use sha2::Digest as _;
    let digest = hex::encode(sha2::Sha256::digest(format!("{}{what}", crate::support::run_id())));
    // Hexadecimal digits alone are less random than such a token is.
    let letters: String = digest
        .bytes()
        .zip("kQzWvXyTpLmNsRuJgHqYwVxZbKtPrMnSfDcG".bytes())
        .map(|(digit, letter)| if digit % 2 == 0 { char::from(digit) } else { char::from(letter) })
        .collect();
    format!("ghp_{letters}")
}
