//! What a git gate needs of this machine: git, ssh, and walls around what reads what a sandbox sends.

#![expect(
    clippy::disallowed_methods,
    reason = "programs are looked for, and asked for their version"
)]

use std::path::Path;
use std::process::{Command, Stdio};

use super::landlock;
use crate::backend::{Finding, Health};
use crate::model::gate::PROGRAM_FOLDERS;

/// The oldest versions that a gate was tried with.
const GIT: (u32, u32) = (2, 39);
const SSH: (u32, u32) = (8, 5);

/// Why none can be made here, and what to do about it. Nothing is started for it: it is asked in every pass.
pub(in crate::backend) fn missing() -> Option<String> {
    if !landlock::available() && !rustix::process::geteuid().is_root() {
        return Some("`git` needs Landlock (Linux 5.13) or root".to_owned());
    }
    let gone: Vec<&str> =
        ["git", "ssh"].into_iter().filter(|name| program(name).is_none()).collect();
    match gone[..] {
        [] => None,
        [name] => Some(format!("{name} is not installed here: install it")),
        _ => Some("git and ssh are not installed here: install them".to_owned()),
    }
}

fn program(name: &str) -> Option<std::path::PathBuf> {
    PROGRAM_FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
}

/// What `doctor` says of it.
pub(in crate::backend) fn finding() -> Finding {
    let what = "git gate".to_owned();
    if let Some(why) = missing() {
        // Nobody has to use one.
        let fix = Some("or leave `git` out of bottles".to_owned());
        return Finding { what, health: Health::Absent, detail: why, fix };
    }
    let git = version("git", &["--version"], "git version ");
    let ssh = version("ssh", &["-V"], "OpenSSH_");
    let old = |found: &Option<(u32, u32)>, least| found.is_none_or(|found| found < least);
    let told = |name: &str, found: Option<(u32, u32)>| match found {
        Some((major, minor)) => format!("{name} {major}.{minor}"),
        None => format!("{name} of an unknown version"),
    };
    let detail = format!("{}, {}", told("git", git), told("ssh", ssh));
    if old(&git, GIT) || old(&ssh, SSH) {
        let fix = Some("it was tried with git 2.39 and OpenSSH 8.5 and later".to_owned());
        return Finding { what, health: Health::Limited, detail, fix };
    }
    Finding { what, health: Health::Works, detail, fix: None }
}

/// The version that a program says it has, on stdout or stderr.
fn version(name: &str, arguments: &[&str], before: &str) -> Option<(u32, u32)> {
    let mut command = Command::new(program(name)?);
    let asked = command.args(arguments).stdin(Stdio::null()).output().ok()?;
    let said = [asked.stdout, asked.stderr].concat();
    number(&String::from_utf8_lossy(&said), before)
}

fn number(said: &str, before: &str) -> Option<(u32, u32)> {
    let rest = said.split_once(before)?.1;
    let digits = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse().ok()
    };
    let (major, minor) = rest.split_once('.')?;
    Some((digits(major)?, digits(minor)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(number("git version 2.47.3\n", "git version "), Some((2, 47)));
        assert_eq!(number("git version 2.39.5 (Apple Git-154)", "git version "), Some((2, 39)));
        assert_eq!(number("OpenSSH_10.0p2 Debian-7, OpenSSL 3.5", "OpenSSH_"), Some((10, 0)));
        assert_eq!(number("", "git version "), None);
    }
}
