//! The binary, run in an environment of the test's own.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longer than any test's command takes: what is still running then hangs.
const DEADLINE: Duration = Duration::from_secs(120);

/// A home, a state folder and a working directory for runs of the binary.
#[derive(Debug)]
pub(crate) struct Cli {
    home: tempfile::TempDir,
    env: Vec<(OsString, OsString)>,
    patience: Duration,
}

impl Cli {
    /// With nothing in its home.
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().expect("a temporary folder can be made");
        std::fs::create_dir(home.path().join("cwd")).expect("a folder can be made in a new one");
        Self { home, env: Vec::new(), patience: DEADLINE }
    }

    /// `$HOME` of the runs.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// `$BOTTLE_STATE_DIR` of the runs.
    pub(crate) fn state(&self) -> PathBuf {
        self.home.path().join("state")
    }

    /// Where the runs start.
    pub(crate) fn cwd(&self) -> PathBuf {
        self.home.path().join("cwd")
    }

    /// Sets a variable for the runs from now on.
    pub(crate) fn env(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Gives the runs longer than any ordinary one takes.
    pub(crate) fn patience(&mut self, patience: Duration) -> &mut Self {
        self.patience = patience;
        self
    }

    /// The command, ready to be run: nothing of the caller's environment but where programs and the
    /// engine are.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(crate::native::program());
        command.env_clear().current_dir(self.cwd()).args(args).stdin(Stdio::null());
        for name in ["PATH", "TMPDIR", "DOCKER_HOST", "DOCKER_CONTEXT", "RUST_BACKTRACE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if std::env::var_os("BOTTLE_TEST_DOCKER").is_some() {
            // The binary under test is linked to libraries, which no sidecar's image has.
            command.env("BOTTLE_SIDECAR_PROGRAM", crate::contract::docker::sidecar_program());
        }
        command.env("HOME", self.home()).env("BOTTLE_STATE_DIR", self.state()).env("NO_COLOR", "1");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs the binary to its end.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ended {
        self.run_with(args, b"")
    }

    /// Runs the binary to its end, with these bytes as its stdin.
    pub(crate) fn run_with<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        stdin: &[u8],
    ) -> Ended {
        let mut command = self.command(args);
        if !stdin.is_empty() {
            command.stdin(Stdio::piped());
        }
        let shown = format!("{:?}", command.get_args().collect::<Vec<_>>());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.expect("the binary that cargo built can be started");
        finish(child, stdin, &shown, self.patience)
    }
}

/// Feeds and reads a child until it ends; one that does not is killed, and the test fails.
fn finish(mut child: Child, stdin: &[u8], shown: &str, patience: Duration) -> Ended {
    let input = child.stdin.take();
    let (out, err) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        let feed = input.map(|mut input| scope.spawn(move || input.write_all(stdin)));
        let out = scope.spawn(move || read(out));
        let err = scope.spawn(move || read(err));
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().expect("our own child can be waited for") {
                break Some(status);
            }
            if begun.elapsed() > patience {
                child.kill().expect("our own child can be killed");
                child.wait().expect("our own child can be waited for");
                break None;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        if let Some(feed) = feed {
            // A child that did not want its stdin closed it.
            feed.join().expect("the feeding thread does not panic").ok();
        }
        let stdout = out.join().expect("the reading thread does not panic");
        let stderr = err.join().expect("the reading thread does not panic");
        let Some(status) = status else {
            panic!("bottle {shown} did not end within {patience:?}\n{stdout}\n{stderr}");
        };
        Ended { code: status.code(), stdout, stderr, shown: shown.to_owned() }
    })
}

fn read(stream: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        stream.read_to_end(&mut bytes).expect("a pipe can be read");
    }
    String::from_utf8(bytes).expect("the output is UTF-8")
}

/// How a run ended, and what it said.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    /// `None`: a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    shown: String,
}

impl Ended {
    /// The same, which must have exited with `code`.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "bottle {}\n--- stdout\n{}\n--- stderr\n{}",
            self.shown,
            self.stdout,
            self.stderr
        );
        self
    }

    /// stdout, which must be one JSON document.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| {
            panic!("bottle {}: stdout is no JSON: {error}\n{}", self.shown, self.stdout)
        })
    }
}
