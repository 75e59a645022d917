//! What a push wants: the commands that it begins with.

use std::io::{self, Read};

use super::pkt::{self, LONGEST, Pkt};
use super::refs::{Oid, Refs};

/// Commands of one push.
pub(super) const MOST: usize = 1000;
/// Of more than those so many bytes are read, so that they can be refused.
const BYTES: usize = 16 << 20;

/// What we say that we can do.
pub(super) const CAPABILITIES: &str = "report-status delete-refs side-band-64k quiet atomic ofs-delta object-format=sha1 agent=bottle";

/// One ref that is to be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) name: String,
    pub(super) old: Oid,
    pub(super) new: Oid,
}

/// All of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Commands {
    pub(super) list: Vec<Command>,
    pub(super) report: bool,
    pub(super) side_band: bool,
    pub(super) quiet: bool,
    pub(super) atomic: bool,
    /// Why none of them is carried out.
    pub(super) wrong: Option<String>,
}

impl Commands {
    /// Whether objects come with them.
    pub(super) fn has_pack(&self) -> bool {
        self.list.iter().any(|command| !command.new.is_zero())
    }
}

/// What the upstream has, as a server of pushes says it.
pub(super) fn advertisement(refs: &Refs) -> Vec<u8> {
    let mut out = Vec::new();
    let mut first = true;
    for (name, oid) in refs {
        let more = if first { format!("\0{CAPABILITIES}") } else { String::new() };
        pkt::line(&mut out, format!("{oid} {name}{more}\n").as_bytes());
        first = false;
    }
    if first {
        pkt::line(
            &mut out,
            format!("{} capabilities^{{}}\0{CAPABILITIES}\n", Oid::ZERO).as_bytes(),
        );
    }
    out.extend_from_slice(pkt::FLUSH);
    out
}

/// Reads the commands; `None`: there are none, for nothing is to be pushed.
///
/// # Errors
/// When they break off, or are no commands.
pub(super) fn read(from: &mut impl Read) -> io::Result<Option<Commands>> {
    let mut commands = Commands::default();
    let mut first = true;
    let mut left = BYTES;
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "it is no command of a push");
    loop {
        let line = match pkt::read(from, LONGEST)? {
            Some(Pkt::Line(line)) => line,
            Some(Pkt::Flush) => return Ok((!first).then_some(commands)),
            None if first => return Ok(None),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(_) => return Err(wrong()),
        };
        left = left.checked_sub(line.len()).ok_or_else(wrong)?;
        // Whether its parents are here is seen of the objects themselves.
        if line.starts_with(b"shallow ") {
            continue;
        }
        if line.starts_with(b"push-cert") {
            return Err(wrong());
        }
        let line = if first {
            let (line, can) = super::listing::capabilities(&line);
            commands.capabilities(&can);
            line
        } else {
            line
        };
        first = false;
        let line = pkt::trim(&line);
        let command = command(line).ok_or_else(wrong)?;
        if commands.list.len() < MOST {
            if commands.list.iter().any(|other| other.name == command.name) {
                commands.wrong = Some("a ref is named twice".to_owned());
            }
            commands.list.push(command);
        } else {
            commands.wrong = Some(format!("at most {MOST} refs are pushed at once"));
        }
    }
}

fn command(line: &[u8]) -> Option<Command> {
    let old = line.get(..40).and_then(Oid::parse)?;
    let new = line.get(41..81).and_then(Oid::parse)?;
    if line.get(40) != Some(&b' ') || line.get(81) != Some(&b' ') {
        return None;
    }
    let name = std::str::from_utf8(line.get(82..)?).ok()?;
    let tidy =
        !name.is_empty() && !name.contains(|letter: char| letter.is_control() || letter == ' ');
    (tidy && name.len() < 4096).then(|| Command { name: name.to_owned(), old, new })
}

impl Commands {
    fn capabilities(&mut self, can: &str) {
        for word in can.split(' ').filter(|word| !word.is_empty()) {
            match word {
                "report-status" => self.report = true,
                "side-band-64k" => self.side_band = true,
                "quiet" => self.quiet = true,
                "atomic" => self.atomic = true,
                "push-options" => self.wrong = Some("options are not passed on".to_owned()),
                word => {
                    if word.strip_prefix("object-format=").is_some_and(|format| format != "sha1") {
                        self.wrong = Some("its objects are named otherwise".to_owned());
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "0123456789abcdef0123456789abcdef01234567";

    fn heard(lines: &[String]) -> io::Result<Option<Commands>> {
        let mut text = Vec::new();
        for line in lines {
            pkt::line(&mut text, line.as_bytes());
        }
        text.extend_from_slice(pkt::FLUSH);
        read(&mut text.as_slice())
    }

    #[test]
    fn commands() {
        let zero = Oid::ZERO;
        let line =
            format!("{zero} {A} refs/heads/x\0 report-status side-band-64k atomic agent=git/2\n");
        let commands = heard(&[format!("shallow {A}\n"), line, format!("{A} {zero} refs/heads/y")]);
        let commands = commands.unwrap().unwrap();
        assert!(commands.report && commands.side_band && commands.atomic && !commands.quiet);
        assert_eq!(commands.list.len(), 2);
        assert!(commands.has_pack() && commands.wrong.is_none());
        assert_eq!(heard(&[]).unwrap(), None);
    }

    #[test]
    fn what_is_none() {
        let zero = Oid::ZERO;
        for line in [
            "x".to_owned(),
            format!("{A} {A}"),
            format!("{A} {A} "),
            format!("{A} {A} refs/heads/a b"),
            format!("{A} {A} refs/heads/\u{1b}"),
            format!("{A}  {A} refs/heads/a"),
            "push-cert\0".to_owned(),
        ] {
            assert!(heard(std::slice::from_ref(&line)).is_err(), "{line}");
        }
        let many: Vec<String> = (0..20_000).map(|n| format!("{zero} {A} refs/heads/{n}")).collect();
        let many = heard(&many).unwrap().unwrap();
        assert!(many.wrong.is_some() && many.list.len() == MOST);
        let twice = vec![format!("{zero} {A} refs/heads/a"); 2];
        assert!(heard(&twice).unwrap().unwrap().wrong.is_some());
    }
}
