//! What is run in a machine, and what is told of it.

use super::Moment;

/// As whom to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecUser {
    /// As the sandbox's user.
    Sandbox,
    /// As the guest's root, for set-up.
    Root,
}

/// A command to run in a machine.
#[derive(Debug, Clone)]
pub struct ExecSpec {
    /// Program and arguments; never empty.
    pub argv: Vec<String>,
    /// Where to start; default: the machine's own working directory.
    pub workdir: Option<String>,
    /// As whom.
    pub user: ExecUser,
    /// Additional environment (never secrets).
    pub env: Vec<(String, String)>,
    /// With the values that were put into the machine: [`guest_path::ENV`](super::guest_path::ENV), and
    /// then [`guest_path::VALUES`](super::guest_path::VALUES). Where they are read by a shell they
    /// stand over `env`, too.
    pub values: bool,
}

impl ExecSpec {
    /// As the sandbox's user, where the machine's programs start.
    #[must_use]
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            workdir: None,
            user: ExecUser::Sandbox,
            env: Vec::new(),
            values: false,
        }
    }

    /// The command line as a shell loads the values for it, where it is to have them.
    pub(super) fn loading(&self) -> Vec<String> {
        let argv = self.argv.iter().cloned();
        if !self.values {
            return argv.collect();
        }
        let load = load_values();
        ["sh", "-c", &load, "sh"].into_iter().map(str::to_owned).chain(argv).collect()
    }
}

/// More than the values of a sandbox come to, and less than keeps a shell busy.
const MOST_VALUES: u64 = 4 << 20;

/// The shell that loads what values there are and becomes its arguments.
pub(super) fn load_values() -> String {
    let [values, asked] = [super::guest_path::VALUES, super::guest_path::ENV];
    // Nothing is opened that was put in a file's place: a fifo would keep it waiting. Root inside can
    // make the file as long as it likes; without `wc` it is taken as it is.
    let load = |file: &str| {
        format!(
            "if [ -f {file} ] && [ -r {file} ]; then \
             if [ \"$(wc -c <{file} 2>/dev/null || echo 0)\" -gt {MOST_VALUES} ]; then \
             echo 'bottle: {file} is longer than {} MiB, and values of this sandbox are not: something \
             inside wrote it. Apply with a changed value, or remove the file inside' >&2; exit 126; fi; \
             . {file}; fi",
            MOST_VALUES >> 20
        )
    };
    format!("{}; {}; exec \"$@\"", load(asked), load(values))
}

/// A process of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its number inside.
    pub pid: u32,
    /// That of the one that started it; 0: it was started from outside.
    pub parent: u32,
    /// It has ended, and nobody has asked how.
    pub ended: bool,
}

/// How a command ended, and what it said.
#[derive(Debug, Clone)]
pub struct ExecOutput {
    /// Its exit code; 128 + signal where one ended it; 126 and 127 where it could not be run.
    pub code: i32,
    /// The first mebibyte.
    pub stdout: Vec<u8>,
    /// The first mebibyte.
    pub stderr: Vec<u8>,
}

/// What of the caller's own stdio a command gets. stdout and stderr it always gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attach {
    /// Its stdin.
    pub stdin: bool,
    /// A terminal: the caller's is put into raw mode, and its size is followed.
    pub tty: bool,
}

/// Which lines of the main process's output.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogOptions {
    /// Go on as more is written.
    pub follow: bool,
    /// Only the last so many lines.
    pub tail: Option<u64>,
    /// Of those, only lines that were begun then or later.
    pub since: Option<Moment>,
    /// With the time at which it was begun before each line, and a space.
    pub timestamps: bool,
}

impl LogOptions {
    /// Whether the times of lines are needed.
    #[must_use]
    pub fn timed(&self) -> bool {
        self.since.is_some() || self.timestamps
    }
}

/// What a machine's `command` is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MainState {
    /// There is none: the machine waits for `bottle run`.
    Idle,
    /// It waits for provisioning, or for asked-for values that a restart lost.
    Waiting,
    /// It runs.
    Running,
    /// It ended well and is not restarted.
    Completed,
    /// It ended with this code and is not restarted.
    Failed(i32),
    /// It ended with this code, so many times in a row, and will be restarted.
    BackingOff {
        /// Its last exit code.
        code: i32,
        /// How many times in a row.
        times: u32,
    },
}

impl MainState {
    /// Parses the one line of [`guest_path::MAIN`](super::guest_path::MAIN): `running`, `waiting`, `completed`, `failed 7`,
    /// `backoff 7 3`. The guest could write anything there, so anything else is `None`.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words.as_slice() {
            ["idle"] => Some(Self::Idle),
            ["waiting"] => Some(Self::Waiting),
            ["running"] => Some(Self::Running),
            ["completed"] => Some(Self::Completed),
            ["failed", code] => Some(Self::Failed(code.parse().ok()?)),
            ["backoff", code, times] => {
                Some(Self::BackingOff { code: code.parse().ok()?, times: times.parse().ok()? })
            }
            _ => None,
        }
    }
}
