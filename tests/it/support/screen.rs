//! The other side of a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

/// A program on a terminal of its own, of 30 rows and 100 columns.
pub(crate) struct Screen {
    master: OwnedFd,
    seen: Arc<Mutex<String>>,
    child: Child,
    patience: Duration,
}

impl Screen {
    /// Starts the command, with its arguments, its folder and what was set of its environment.
    pub(crate) fn open(command: &Command, patience: Duration) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
        let side = || Stdio::from(slave.try_clone().unwrap());
        // As under `nohup`, or from a script's background: what the caller ignores is its own matter.
        let mut leader = Command::new("sh");
        leader
            .args(["-c", "trap '' INT QUIT HUP TSTP CHLD; exec setsid --ctty --wait \"$@\"", "sh"])
            .arg(command.get_program())
            .args(command.get_args());
        if let Some(folder) = command.get_current_dir() {
            leader.current_dir(folder);
        }
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => leader.env(name, value),
                None => leader.env_remove(name),
            };
        }
        let child = leader.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
        let seen = Arc::new(Mutex::new(String::new()));
        let (mut reader, writer) = (File::from(master.try_clone().unwrap()), seen.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = reader.read(&mut buffer) {
                writer.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        });
        let screen = Self { master, seen, child, patience };
        screen.resize(30, 100);
        screen
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.master, size).unwrap();
    }

    pub(crate) fn type_in(&self, text: &str) {
        File::from(self.master.try_clone().unwrap()).write_all(text.as_bytes()).unwrap();
    }

    /// Waits until `text` is on the screen, after what was waited for before.
    pub(crate) fn shows(&self, text: &str) {
        let began = Instant::now();
        loop {
            let mut seen = self.seen.lock().unwrap();
            if let Some(at) = seen.find(text) {
                seen.drain(..at + text.len());
                return;
            }
            assert!(began.elapsed() < self.patience, "no {text:?} in {seen:?}");
            drop(seen);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What follows on the line that it has begun.
    pub(crate) fn rest_of_line(&self) -> String {
        let began = Instant::now();
        loop {
            let mut seen = self.seen.lock().unwrap();
            if let Some(at) = seen.find('\n') {
                let line = seen.drain(..=at).collect::<String>();
                return line.trim_end().to_owned();
            }
            assert!(began.elapsed() < self.patience, "no end of the line {seen:?}");
            drop(seen);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The program's exit code, once it has ended.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(began.elapsed() < self.patience, "it does not end");
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
