//! The file in which an init says what its command does, and which run of the sandbox is ready. It has
//! two names in the folder of the sandbox: one that is lost or overwritten is put back while the init
//! runs on, which keeps writing into the file that it opened.

#![expect(clippy::disallowed_methods, reason = "a file of the state folder")]

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::fs::FlockOperation;
use rustix::process::Signal;

use super::state::{Folder, Run};
use super::stray;
use crate::backend::{MainState, durable};

/// Name of the file: a line of [`STATUS_LINE`] bytes that says what the command does, a line that says
/// which run is ready, a line that says which file it is, and one that says which command it is.
pub(super) const MAIN: &str = "main";
/// All its names.
pub(super) const NAMES: [&str; 2] = [MAIN, SECOND];
const SECOND: &str = "main.same";
/// Length of the first line.
pub(super) const STATUS_LINE: usize = 32;
/// What the third line begins with.
const FILE_LINE: &str = "file ";
/// What the last line begins with.
pub(super) const COMMAND_LINE: &str = "command ";
/// What the line after it begins with: how often init has ended all that ran but itself.
pub(super) const RESTS_LINE: &str = "rests ";
/// So much is read, and more than is ever written.
const LENGTH: u64 = 4096;
/// Name of the lock of who starts a sandbox or takes it away.
pub(super) const LOCK: &str = "lock";
/// How long an init may take until it has written what it is asked for.
const WRITING: Duration = Duration::from_secs(2);

/// What makes an init write the file again, and read again what its command is. One of an earlier version
/// takes no notice, or writes only.
pub(super) const LOOK_AGAIN: Signal = Signal::CONT;

/// What makes an init end all that runs but itself. One of an earlier version takes no notice.
pub(super) const REST: Signal = Signal::POWER;

/// Which file this is, as init says it in it: a copy of the file says it of another.
pub(super) fn file_line(file: &File) -> Option<String> {
    let found = file.metadata().ok()?;
    Some(format!("{FILE_LINE}{}:{}", found.dev(), found.ino()))
}

/// How it stands with a run that a receipt names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Runs,
    Over,
    /// It lives, and nothing says whether it is on the files that are here.
    Unclear,
}

/// What one name of the file says.
enum Said {
    /// As an init wrote it into this very file.
    Init { main: String, boot: String },
    /// It was written into another file.
    Copy { main: String },
    /// Nothing of a run.
    Nothing { main: String },
}

impl Said {
    fn by(path: &Path) -> Self {
        let (file, text) = read(path);
        let mut lines = text.split_inclusive('\n');
        let main = lines.next().unwrap_or_default().trim().to_owned();
        let boot = lines.next().and_then(|line| line.strip_suffix('\n'));
        let Some(boot) = boot.filter(|boot| is_boot(boot)).map(str::to_owned) else {
            return Self::Nothing { main };
        };
        let written = lines.next().filter(|line| line.starts_with(FILE_LINE));
        match (written, file.as_ref().and_then(file_line)) {
            // Cut short.
            (Some(written), _) if !written.ends_with('\n') => Self::Nothing { main },
            (Some(written), Some(is)) if written.trim_end() != is => Self::Copy { main },
            _ => Self::Init { main, boot },
        }
    }

    fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing { .. })
    }

    fn says(&self, run: &Run) -> bool {
        matches!(self, Self::Init { boot, .. } if *boot == run.boot())
    }
}

/// The file of this name, where it is one, and what it says.
fn read(path: &Path) -> (Option<File>, String) {
    let mut text = String::new();
    // What is there instead of it, a FIFO say, is not waited for.
    let is_file = fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
    let file = if is_file { File::open(path).ok() } else { None };
    if let Some(file) = &file {
        let _ = file.take(LENGTH).read_to_string(&mut text);
    }
    (file, text)
}

/// Whether this can be what a run calls itself.
fn is_boot(text: &str) -> bool {
    let mut parts = text.split('.');
    let mut number = || parts.next().is_some_and(|part| part.parse::<u64>().is_ok());
    number() && number() && parts.next().is_some_and(|host| !host.is_empty())
}

impl Folder {
    fn said(&self) -> [Said; 2] {
        NAMES.map(|name| Said::by(&self.join(name)))
    }

    /// What the command does, and which run of the sandbox is ready: as init wrote it, last. A file that
    /// init has not written is a copy, in a state folder that was put back: then none is.
    pub(super) fn status(&self) -> (String, String) {
        match self.said().into() {
            (Said::Init { main, boot }, _) | (_, Said::Init { main, boot }) => (main, boot),
            (Said::Copy { main }, _) | (_, Said::Copy { main }) | (Said::Nothing { main }, _) => {
                (main, String::new())
            }
        }
    }

    /// How often the init of this run has ended all that ran but itself. `None`: it does not say, as one of an
    /// earlier version.
    pub(super) fn rests(&self, run: &Run) -> Option<u32> {
        NAMES.iter().map(|name| self.join(name)).find_map(|path| {
            let says = Said::by(&path).says(run);
            let (_, text) = says.then(|| read(&path))?;
            text.lines().find_map(|line| line.strip_prefix(RESTS_LINE))?.parse().ok()
        })
    }

    /// Whether what stands under the first name is what the init of this run wrote.
    pub(super) fn is_said_by(&self, run: &Run) -> bool {
        Said::by(&self.join(MAIN)).says(run)
    }

    /// Whether `run` is alive, and not only about to be: an init that is set up dies with its helper
    /// until it is ready, and says so last. What it said may be damaged since; then it is ready when it
    /// has claimed the file and nobody else is starting it. `held`: the caller has that lock.
    pub(super) fn life(&self, run: &Run, host_boot: &str, held: bool) -> Life {
        if !run.alive(host_boot) {
            return Life::Over;
        }
        if self.said().iter().any(|said| said.says(run)) {
            return Life::Runs;
        }
        let starting = !held && self.is_being_started();
        let said = self.said();
        if said.iter().any(|said| said.says(run)) {
            // It has become ready between the two looks.
            Life::Runs
        } else if starting || !run.alive(host_boot) {
            Life::Over
        } else if NAMES.iter().any(|name| stray::is_claimed(&self.join(name), run.pid)) {
            Life::Runs
        } else if said.iter().all(Said::is_nothing) {
            Life::Unclear
        } else {
            Life::Over
        }
    }

    /// Whether somebody holds the lock of who starts it. Asked without making it.
    fn is_being_started(&self) -> bool {
        let path = self.join(LOCK);
        let is_file = fs::symlink_metadata(&path).is_ok_and(|found| found.is_file());
        let Some(file) = is_file.then(|| File::open(&path).ok()).flatten() else { return false };
        let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared);
        locked == Err(rustix::io::Errno::WOULDBLOCK)
    }

    /// Opens the file for an init that is about to start. A link or a folder in its place is in the way;
    /// what is left of it under its other name is the file.
    pub(super) fn open_status(&self) -> io::Result<File> {
        let path = self.join(MAIN);
        if Said::by(&path).is_nothing() && !Said::by(&self.join(SECOND)).is_nothing() {
            self.link_again(SECOND, MAIN)?;
        }
        clear(&path)?;
        let open = || {
            let mut options = File::options();
            options.create(true).truncate(false).read(true).write(true).mode(0o600).open(&path)
        };
        let file = match open() {
            // Ours, whose mode somebody took away.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
                open()?
            }
            opened => opened?,
        };
        // Where the file system has no second names, there is none.
        let _ = self.link_again(MAIN, SECOND);
        Ok(file)
    }

    /// Makes `to` a name of the file that is called `from`.
    fn link_again(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to, new) = (self.join(from), self.join(to), self.join(&format!("{to}.new")));
        let is = |path: &Path| fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()));
        if is(&to).is_ok_and(|to| is(&from).is_ok_and(|from| from == to)) {
            return Ok(());
        }
        let _ = fs::remove_file(&new);
        fs::hard_link(&from, &new)?;
        clear(&to)?;
        fs::rename(&new, &to)
    }

    /// Puts the file right that the init of this run has open.
    pub(super) fn mend_status(&self, run: &Run) -> anyhow::Result<()> {
        let lock = durable::lock_file(&self.join(LOCK))?;
        lock.lock()?;
        let path = self.join(MAIN);
        let claimed = |name: &str| stray::is_claimed(&self.join(name), run.pid);
        if !self.is_said_by(run) && !claimed(MAIN) {
            anyhow::ensure!(claimed(SECOND), "the file that its init has open is lost");
            self.link_again(SECOND, MAIN)?;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        if !self.is_said_by(run)
            && let Some(init) = run.pidfd()?
        {
            rustix::process::pidfd_send_signal(&init, LOOK_AGAIN)?;
            let until = Instant::now() + WRITING;
            while !self.is_said_by(run) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(10));
            }
            if !self.is_said_by(run) {
                write_for(&path, run).context("writing it for its init")?;
            }
        }
        let _ = self.link_again(MAIN, SECOND);
        Ok(())
    }
}

/// Writes what is known of a run whose init does not write it again. What its command does is said by its
/// init when that changes.
fn write_for(path: &Path, run: &Run) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut line = [0; STATUS_LINE];
    let length = file.read_at(&mut line, 0)?;
    let known = std::str::from_utf8(&line[..length]).ok().map(str::trim);
    let known = known.filter(|line| MainState::parse(line).is_some()).unwrap_or_default();
    let width = STATUS_LINE - 1;
    let is = file_line(&file).unwrap_or_default();
    let text = format!("{known:<width$}\n{}\n{is}\n", run.boot());
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)
}

/// Takes away what is no file.
fn clear(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(found) if !found.is_file() => fs::remove_file(path),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder(temporary.path().to_owned());
        (temporary, folder)
    }

    #[test]
    fn a_copy_of_what_init_wrote_says_of_no_run_that_it_is_ready() {
        let (_temporary, folder) = folder();
        let status = |text: &str| {
            fs::write(folder.join(MAIN), text).unwrap();
            folder.status()
        };
        let said = |boot: &str| ("running".to_owned(), boot.to_owned());
        fs::write(folder.join(MAIN), "").unwrap();
        let own = file_line(&File::open(folder.join(MAIN)).unwrap()).unwrap();
        assert_eq!(status(&format!("running   \n7.99.x\n{own}\n")), said("7.99.x"));
        assert_eq!(status("running   \n7.99.x\nfile 1:2\n"), said(""));
        // As an earlier version wrote it; the rest of what stood there before is nothing.
        assert_eq!(status("running   \n7.99.x\n"), said("7.99.x"));
        assert_eq!(status("running   \n7.99.x\nle 1:2\n"), said("7.99.x"));
        // Cut short, or other bytes: nobody said it.
        for cut in ["running   \n7.99.x", "running   \n7.99.x\nfile 1", "running   \n7.x\n"] {
            assert_eq!(status(cut), said(""), "{cut:?}");
        }
        assert_eq!(status(""), (String::new(), String::new()));
    }

    #[test]
    fn what_stands_under_one_name_is_found_under_the_other() {
        let (_temporary, folder) = folder();
        let file = folder.open_status().unwrap();
        let own = file_line(&file).unwrap();
        file.write_all_at(format!("completed \n7.99.x\n{own}\n").as_bytes(), 0).unwrap();
        let said = ("completed".to_owned(), "7.99.x".to_owned());
        for name in NAMES {
            let path = folder.join(name);
            for damage in ["gone", "folder", "fifo", "other"] {
                fs::remove_file(&path).unwrap();
                match damage {
                    "folder" => fs::create_dir_all(path.join("x")).unwrap(),
                    "fifo" => {
                        let mode = rustix::fs::Mode::RWXU;
                        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
                    }
                    "other" => fs::write(&path, "x\ny\nz\n").unwrap(),
                    _ => {}
                }
                assert_eq!(folder.status(), said, "{name} {damage}");
                let opened = folder.open_status().unwrap();
                assert_eq!(file_line(&opened).unwrap(), own, "{name} {damage}");
            }
        }
    }
}
