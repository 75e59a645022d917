//! The dashboard as an operator has it: the real program in a real terminal, with sandboxes that run and an agent that
//! asks.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::applied::{INDEX, Shop};
use crate::support;

/// Longer than keys are dropped for after what was chosen has moved, and after a question came.
const LOOKED: Duration = Duration::from_millis(600);

/// A tmux of the test's own, with a shell in it.
struct Tmux {
    name: String,
    command: Command,
}

impl Tmux {
    /// A shell of 80 columns and 24 rows, in the environment of the shop's own commands.
    fn open(shop: &Shop) -> Self {
        let like = shop.desk.cli.command(["--version"]);
        let mut command = Command::new("tmux");
        command.env_clear();
        for (name, value) in like.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command.env("LC_ALL", "C.UTF-8").env("TMUX_TMPDIR", shop.desk.cli.home()).env("PS1", "$ ");
        command.env("ENV", "").env("BOTTLE_TEST_PANIC", "1").env("RUST_BACKTRACE", "0");
        let tmux = Self { name: support::unique("tmux"), command };
        tmux.tmux(&["new-session", "-d", "-s", "it", "-x", "80", "-y", "24", "sh", "-i"]);
        tmux
    }

    fn tmux(&self, args: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.env_clear();
        for (name, value) in self.command.get_envs() {
            command.env(name, value.unwrap());
        }
        command.args(["-u", "-f", "/dev/null", "-L", &self.name]).args(args);
        let done = command.output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        said
    }

    fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys", "-t", "it"], keys].concat());
    }

    /// A line for the shell.
    fn line(&self, line: &str) {
        self.tmux(&["send-keys", "-t", "it", "-l", line]);
        self.keys(&["Enter"]);
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-J", "-t", "it"])
    }

    #[track_caller]
    fn shows(&self, what: &str) -> String {
        let mut screen = String::new();
        let begun = std::time::Instant::now();
        while !screen.contains(what) {
            assert!(begun.elapsed() < Duration::from_secs(60), "no {what:?} in\n{screen}");
            std::thread::sleep(Duration::from_millis(50));
            screen = self.screen();
        }
        screen
    }

    /// The terminal is a shell's again: no other screen, a cursor, and the same settings as before.
    #[track_caller]
    fn is_given_back(&self, before: &str) {
        let flags = "#{alternate_on} #{cursor_flag} #{bracket_paste_flag}";
        let state = self.tmux(&["display-message", "-p", "-t", "it", flags]);
        assert!(state.starts_with("0 1"), "{state}");
        self.line("printf '\\033[2J\\033[H'; stty -g");
        let after = self.shows(before);
        assert!(after.contains(before));
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

/// The process of the dashboard, below the shell of the terminal.
fn process_of(tmux: &Tmux) -> rustix::process::Pid {
    let shell = tmux.tmux(&["display-message", "-p", "-t", "it", "#{pane_pid}"]);
    let shell = shell.trim();
    let path = PathBuf::from(format!("/proc/{shell}/task/{shell}/children"));
    let children = std::fs::read_to_string(path).unwrap();
    let child: i32 = children.split_whitespace().next().unwrap().parse().unwrap();
    rustix::process::Pid::from_raw(child).unwrap()
}

fn settings(tmux: &Tmux) -> String {
    tmux.line("printf '\\033[2J\\033[H'; stty -g");
    let screen = tmux.shows(":");
    let line = screen.lines().find(|line| line.matches(':').count() > 10);
    line.unwrap_or_else(|| panic!("{screen}")).trim().to_owned()
}

/// `None`, and said, where there is no tmux.
fn terminal(shop: &Shop) -> Option<Tmux> {
    if Command::new("tmux").arg("-V").output().is_err() {
        support::left_out("requests::dashboard", "it needs tmux; tests/run brings it");
        return None;
    }
    let tmux = Tmux::open(shop);
    tmux.shows("$ ");
    Some(tmux)
}

/// The line that starts it.
fn start(shop: &Shop) -> String {
    let (program, tree) = (crate::native::program(), shop.desk.path().display());
    format!("{} --tree {tree} dashboard; echo left with $?", program.display())
}

/// Beside a `watch`: what that publishes is shown, and it applies what is decided.
#[test]
fn a_request_comes_and_is_decided_beside_watch() {
    let mut shop = Shop::open("dashboard_watch", "native", "host");
    let Some(tmux) = terminal(&shop) else { return };
    shop.watch();
    tmux.line(&start(&shop));
    tmux.shows("· watch");
    let screen = tmux.shows("as it should be");
    assert!(!screen.contains("requests ("), "{screen}");
    let asked = shop.call(
        "pipelock-block",
        r#""failed_url":"https://index.example.org/simple/x/","reason":"pip fails","wait_seconds":0"#,
    );
    let id = asked.split_whitespace().nth(1).unwrap_or_default().to_owned();
    tmux.shows("requests (1)");
    std::thread::sleep(LOOKED);
    tmux.keys(&["2"]);
    tmux.shows("nothing is lost");
    std::thread::sleep(LOOKED);
    tmux.keys(&["a"]);
    tmux.shows("y yes");
    std::thread::sleep(LOOKED);
    tmux.keys(&["y"]);
    tmux.shows(&format!("{id} applied"));
    assert_eq!(shop.desk.state(&id), "applied");
    tmux.shows("nobody asks for anything");
    std::thread::sleep(LOOKED);
    tmux.keys(&["q"]);
    tmux.shows("left with 0");
}

#[test]
fn an_operator_decides_in_a_terminal() {
    let shop = Shop::open("dashboard", "native", "host");
    let Some(tmux) = terminal(&shop) else { return };
    let asked = shop.call(
        "pipelock-block",
        r#""failed_url":"https://index.example.org/simple/x/","reason":"pip fails\nand fails","wait_seconds":0"#,
    );
    let id = asked.split_whitespace().nth(1).unwrap_or_default().to_owned();
    assert!(asked.starts_with("pending: r-"), "{asked}");

    let before = settings(&tmux);
    let start = start(&shop);
    tmux.line(&start);
    let screen = tmux.shows("ada");
    assert!(screen.contains("running") && screen.contains("as it should be"), "{screen}");
    tmux.shows("requests (1)");
    tmux.keys(&["2"]);
    let screen = tmux.shows("index.example.org:443");
    assert!(screen.contains(&id), "{screen}");
    let screen = tmux.shows("nothing is lost");
    assert!(screen.contains("│ │ and fails") && screen.contains("bottles/dev.md"), "{screen}");

    // Enter decides nothing, neither here nor at the question.
    std::thread::sleep(LOOKED);
    tmux.keys(&["a"]);
    let screen = tmux.shows("y yes");
    assert!(screen.contains(&format!("approve {id}: edits bottles/dev.md")), "{screen}");
    std::thread::sleep(LOOKED);
    tmux.keys(&["Enter"]);
    tmux.shows("nothing was changed");
    assert_eq!(shop.desk.state(&id), "pending");
    let head = shop.desk.head();

    // Smaller, smallest, and as it was.
    for (width, height, shows) in [("60", "15", &*id), ("30", "6", "too small"), ("80", "24", &id)]
    {
        tmux.tmux(&["resize-window", "-t", "it", "-x", width, "-y", height]);
        tmux.shows(shows);
    }

    std::thread::sleep(LOOKED);
    tmux.keys(&["a"]);
    tmux.shows("y yes");
    std::thread::sleep(LOOKED);
    tmux.keys(&["y"]);
    tmux.shows(&format!("{id} applied"));
    assert_eq!(shop.desk.state(&id), "applied");
    assert_eq!(shop.desk.record(&id)["decision"]["via"], "tui");
    assert!(shop.has("ada", INDEX) && shop.has("grace", INDEX));
    assert_ne!(shop.desk.head(), head);
    assert!(
        shop.desk.git(&["log", "-1", "--format=%B"]).contains(&format!("Bottle-Request: {id}"))
    );
    tmux.shows("nobody asks for anything");
    // What was chosen has gone: keys of that moment are dropped.
    std::thread::sleep(LOOKED);
    tmux.keys(&["4"]);
    tmux.shows(&format!("approved {id} (ada)"));

    // Suspended and continued, as a shell has it.
    tmux.keys(&["C-z"]);
    tmux.shows("topped");
    tmux.is_given_back(&before);
    tmux.line("fg");
    tmux.shows(&format!("approved {id} (ada)"));

    // A signal ends it, and it leaves nothing behind.
    rustix::process::kill_process(process_of(&tmux), rustix::process::Signal::TERM).unwrap();
    tmux.shows("$ ");
    tmux.is_given_back(&before);

    // So does a panic, which is told.
    tmux.line(&start);
    tmux.shows("as it should be");
    tmux.keys(&["C-p"]);
    let screen = tmux.shows("left with 101");
    assert!(screen.contains("a test asked for it"), "{screen}");
    tmux.is_given_back(&before);

    // And q.
    tmux.line(&start);
    tmux.shows("as it should be");
    tmux.keys(&["q"]);
    tmux.shows("left with 0");
    tmux.is_given_back(&before);
}

#[test]
fn it_is_for_a_terminal() {
    let desk = super::desk::Desk::plain("no-terminal");
    let ended = desk.cli.run(["--tree", desk.path().to_str().unwrap(), "dashboard"]).exits(2);
    assert_eq!(ended.stdout, "");
    assert!(ended.stderr.contains("needs a terminal"), "{}", ended.stderr);
}
