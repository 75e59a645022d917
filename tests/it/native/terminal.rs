//! A command on the caller's stdio: descriptors, and a real terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bottle::backend::{Attach, Backend, ExecSpec};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::support::{Corner, PROGRAM, machine, program};

#[tokio::test]
async fn nothing_that_a_caller_left_open_gets_inside() {
    let corner = Corner::new();
    let folder = File::open(corner.beside()).unwrap();
    // Not marked close-on-exec: every child of this process has it.
    let leaked = rustix::io::dup(&folder).unwrap();
    let mut spec = machine("ada");
    spec.command = ["sh", "-c", "ls -l /proc/self/fd"].map(str::to_owned).to_vec();
    spec.restart = bottle::model::Restart::Never;
    let on = corner.run(&spec).await;
    corner.ready(&on).await;
    corner.main_becomes(&on, |state| *state == bottle::backend::MainState::Completed).await;
    let inside = corner.say(&on, "ls -l /proc/self/fd").await;
    let main = corner.log(&on).await;
    for said in [inside, main] {
        // stdin, stdout, stderr, and the folder that is being listed.
        assert_eq!(said.matches(" -> ").count(), 4, "{said}");
        assert!(!said.contains(corner.beside().to_str().unwrap()), "{said}");
    }
    drop(leaked);
    corner.wipe().await;
}

/// In which folder the process below finds the sandbox.
const FOLDER: &str = "BOTTLE_TEST_TERMINAL";

/// Not a test by itself: started by the one below, on a terminal.
#[tokio::test]
async fn on_a_terminal() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let corner = std::mem::ManuallyDrop::new(Corner::in_folder(folder.as_ref()));
    let on = corner.only().await;
    let spec = ExecSpec::new(["bash", "--norc", "--noprofile"]);
    let attach = Attach { stdin: true, tty: true };
    let code = corner.backend.attach(&corner.scope, &on, &spec, attach).await.unwrap();
    println!("ended with {code}");
}

/// The other side of a terminal.
struct Screen {
    master: OwnedFd,
    seen: Arc<Mutex<String>>,
    child: Child,
}

impl Screen {
    fn open(corner: &Corner) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
        let side = || Stdio::from(slave.try_clone().unwrap());
        // As under `nohup`, or from a script's background: what the caller ignores is its own matter.
        let child = Command::new("sh")
            .args(["-c", "trap '' INT QUIT HUP TSTP CHLD; exec setsid --ctty --wait \"$@\"", "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "native::terminal::on_a_terminal", "--nocapture"])
            .env(FOLDER, corner.beside())
            .env(PROGRAM, program())
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .unwrap();
        let seen = Arc::new(Mutex::new(String::new()));
        let (mut reader, writer) = (File::from(master.try_clone().unwrap()), seen.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = reader.read(&mut buffer) {
                writer.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        });
        let screen = Self { master, seen, child };
        screen.resize(30, 100);
        screen
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.master, size).unwrap();
    }

    fn type_in(&self, text: &str) {
        File::from(self.master.try_clone().unwrap()).write_all(text.as_bytes()).unwrap();
    }

    /// Waits until `text` is on the screen, after what was waited for before.
    fn shows(&self, text: &str) {
        let began = Instant::now();
        loop {
            let mut seen = self.seen.lock().unwrap();
            if let Some(at) = seen.find(text) {
                seen.drain(..at + text.len());
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "no {text:?} in {seen:?}");
            drop(seen);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn size_signals_and_job_control() {
    let corner = Corner::new();
    corner.run(&machine("ada")).await;
    let screen = Screen::open(&corner);
    screen.shows("$ ");
    screen.type_in("tty; stty size\n");
    screen.shows("/dev/pts/0");
    screen.shows("30 100");
    screen.resize(41, 123);
    // The change is followed, not only seen at the start.
    screen.type_in("sleep 0.3; stty size\n");
    screen.shows("41 123");
    // It says so itself when it has the terminal: before, a key would reach the shell.
    screen.type_in("sh -c 'echo fore''ground; exec sleep 50'\n");
    screen.shows("foreground");
    screen.type_in("\x03");
    screen.type_in("echo co''de $?\n");
    screen.shows("code 130");
    screen.type_in("sh -c 'echo fore''ground; exec sleep 60'\n");
    screen.shows("foreground");
    screen.type_in("\x1a");
    screen.shows("Stopped");
    screen.type_in("kill %1; fg; echo re''gained\n");
    screen.shows("regained");
    screen.type_in("exit 7\n");
    screen.shows("ended with 7");
    drop(screen);
    corner.wipe().await;
}
