//! Becoming a program inside a sandbox: environment, folder, descriptors, `exec`.

#![expect(clippy::disallowed_methods, reason = "it executes programs")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::limits::{self, Cgroups};
use super::state::{Record, User};
use super::sys;
use crate::backend::guest_path;
use crate::model::Resources;
use crate::model::spec::LANGUAGE;
use crate::model::tool::TOOLS;

/// A program to become. The process is forked, confined, and has nothing else to do.
pub(super) struct Program<'a> {
    pub(super) argv: &'a [String],
    pub(super) env: BTreeMap<String, String>,
    pub(super) workdir: Option<&'a str>,
    pub(super) home: &'a str,
}

impl Program<'_> {
    /// Becomes it, with these as its stdin, stdout and stderr (none: `/dev/null`). It gets a
    /// session of its own. Ends with 126 or 127 where that cannot be, as a shell does.
    pub(super) fn run(
        &self,
        stdio: [Option<BorrowedFd<'_>>; 3],
        resources: &Resources,
        cgroups: &Cgroups,
    ) -> ! {
        let code = match self.become_it(stdio, resources, cgroups) {
            Ok(never) => match never {},
            Err(Failed { what, error, code }) => {
                let text = format!("bottle: {what}: {error}\n");
                let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
                code
            }
        };
        sys::exit_now(code)
    }

    fn become_it(
        &self,
        stdio: [Option<BorrowedFd<'_>>; 3],
        resources: &Resources,
        cgroups: &Cgroups,
    ) -> Result<std::convert::Infallible, Failed> {
        let failed = |what: &str, error| Failed { what: what.to_owned(), error, code: 126 };
        let set_up = |error| failed("setting up the command", error);
        // Of a terminal the session was made before.
        let _ = rustix::process::setsid();
        redirect(stdio).map_err(set_up)?;
        // Nothing of ours, and nothing of the host's, whoever forgot to mark it.
        sys::close_all_but(&[0, 1, 2]);
        sys::block_signals(&[]).map_err(set_up)?;
        limits::set_rlimits(resources, cgroups).map_err(set_up)?;
        match self.workdir {
            // Not 127: the program was not even looked for.
            Some(folder) => rustix::process::chdir(folder).map_err(|error| {
                failed(&format!("entering the working directory {folder}"), error.into())
            })?,
            None => rustix::process::chdir(self.home)
                .or_else(|_| rustix::process::chdir("/"))
                .map_err(|error| set_up(error.into()))?,
        }
        let Some((name, arguments)) = self.argv.split_first() else {
            return Err(failed("running nothing", io::ErrorKind::InvalidInput.into()));
        };
        let mut command = Command::new(name);
        let error = command.args(arguments).env_clear().envs(&self.env).exec();
        let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
        Err(Failed { what: name.clone(), error, code })
    }
}

/// Why a program did not start, and the exit code that says so.
struct Failed {
    what: String,
    error: io::Error,
    code: i32,
}

/// Moves descriptors to where programs look for them. The sources may be 0, 1 and 2 themselves, in
/// any order, so they are moved out of the way first.
fn redirect(stdio: [Option<BorrowedFd<'_>>; 3]) -> io::Result<()> {
    let mut moved = Vec::with_capacity(3);
    for source in stdio {
        let source = match source {
            Some(fd) => rustix::io::fcntl_dupfd_cloexec(fd, 3)?,
            None => {
                let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
                rustix::io::fcntl_dupfd_cloexec(&null, 3)?
            }
        };
        moved.push(source);
    }
    rustix::stdio::dup2_stdin(&moved[0])?;
    rustix::stdio::dup2_stdout(&moved[1])?;
    rustix::stdio::dup2_stderr(&moved[2])?;
    Ok(())
}

/// Where programs are looked for when nothing else says so.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The environment of a program: the usual, the image's, what the machine was made with, the
/// asked-for and the plain values if it is to have `values`, `more`, and the tools first on `PATH`.
pub(super) fn environment(
    record: &Record,
    user: &User,
    more: &[(String, String)],
    values: bool,
) -> BTreeMap<String, String> {
    let usual = [
        ("PATH", PATH),
        ("HOME", user.home.as_str()),
        ("USER", user.name.as_str()),
        ("LOGNAME", user.name.as_str()),
        ("HOSTNAME", record.sandbox.as_str()),
        ("LANG", LANGUAGE),
    ];
    let mut env: BTreeMap<String, String> =
        usual.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    env.extend(record.env.iter().cloned());
    let files = [guest_path::ENV, guest_path::VALUES];
    for text in files.into_iter().filter(|_| values).filter_map(read_inside) {
        for (name, value) in exports(&text) {
            match value {
                Some(value) => env.insert(name, value),
                None => env.remove(&name),
            };
        }
    }
    env.extend(more.iter().cloned());
    if !record.tools.is_empty() {
        let path = env.get("PATH").filter(|path| !path.is_empty()).map_or(PATH, String::as_str);
        env.insert("PATH".to_owned(), format!("{TOOLS}:{path}"));
    }
    env
}

/// No environment that a kernel takes is longer.
const LONGEST: u64 = 8 << 20;

/// Reads a file that the sandbox's user may have put another in the place of: nothing is followed, and
/// nothing that is no file is waited for.
pub(super) fn read_inside(path: &str) -> Option<String> {
    use rustix::fs::{FileType, Mode, OFlags};
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&file).ok()?.st_mode);
    if kind != FileType::RegularFile {
        return None;
    }
    let mut text = String::new();
    File::from(file).take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

/// What the lines of [`guest_path::VALUES`] and [`guest_path::ENV`] set, last one first: `export NAME='it'\''s'` and
/// `unset NAME` (a `None`). No shell is asked: an image may have none.
fn exports(text: &str) -> BTreeMap<String, Option<String>> {
    let mut found = BTreeMap::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix("export ") {
            let Some((name, after)) = after.split_once('=') else { return found };
            let Some((value, after)) = word(after) else { return found };
            found.insert(name.to_owned(), Some(value));
            rest = after;
        } else if let Some(after) = rest.strip_prefix("unset ") {
            let (name, after) = after.split_once('\n').unwrap_or((after, ""));
            found.insert(name.trim().to_owned(), None);
            rest = after;
        } else if let Some((_, after)) = rest.split_once('\n') {
            rest = after;
        } else {
            return found;
        }
    }
}

/// One word of a shell, of single quotes, escapes and bare characters, and what follows its line.
fn word(mut text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    loop {
        if let Some(quoted) = text.strip_prefix('\'') {
            let (inner, after) = quoted.split_once('\'')?;
            value.push_str(inner);
            text = after;
        } else if let Some(escaped) = text.strip_prefix('\\') {
            let mut characters = escaped.chars();
            value.extend(characters.next());
            text = characters.as_str();
        } else {
            let end = text.find(['\'', '\\', '\n']).unwrap_or(text.len());
            value.push_str(&text[..end]);
            text = &text[end..];
            if !text.starts_with(['\'', '\\']) {
                return Some((value, text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asked_for_values_are_read_as_a_shell_would() {
        let text = "export A='plain'\nexport B='it'\\''s'\nexport C='two\nlines = export X='\n\
                    export D=\nexport GONE='x'\nunset GONE\nexport A='again'\n";
        let found = exports(text);
        let value = |name: &str| found[name].as_deref();
        assert_eq!(value("A"), Some("again"));
        assert_eq!(value("B"), Some("it's"));
        assert_eq!(value("C"), Some("two\nlines = export X="));
        assert_eq!(value("D"), Some(""));
        assert_eq!(value("GONE"), None);
        assert_eq!(found.len(), 5);
        assert!(exports("export broken='never ends").is_empty());
    }
}
