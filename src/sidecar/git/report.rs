//! What the agent is told of a push: words for a person, and the verdict on each ref.

use std::io::{self, Write as _};
use std::time::Duration;

use super::commands::Commands;
use super::forward::Verdicts;
use super::pkt;
use super::push::flush;
use super::sentence::harmless;
use super::wire::{Deadline, Guest};

/// For the guest to take what is said.
const PATIENCE: Duration = Duration::from_secs(60);

/// Says it.
pub(super) struct Report<'a> {
    guest: &'a Guest,
    commands: &'a Commands,
}

impl<'a> Report<'a> {
    pub(super) fn new(guest: &'a Guest, commands: &'a Commands) -> Self {
        Self { guest, commands }
    }

    fn send(&self, band: u8, bytes: &[u8]) -> io::Result<()> {
        if !self.commands.side_band {
            return Ok(());
        }
        pkt::band(&mut self.guest.writing(Deadline::within(PATIENCE)), band, bytes)
    }

    /// Says something of ours to whoever pushes.
    pub(super) fn say(&mut self, line: &str) -> io::Result<()> {
        self.send(2, format!("bottle: {line}\n").as_bytes())
    }

    /// Says how far it is, if that is wanted.
    pub(super) fn progress(&mut self, line: &str) -> io::Result<()> {
        if self.commands.quiet {
            self.alive()
        } else {
            self.send(2, format!("bottle: {line}\r").as_bytes())
        }
    }

    /// Passes on what the upstream says.
    pub(super) fn relay(&mut self, text: &[u8]) -> io::Result<()> {
        self.send(2, text)
    }

    /// Says that it goes on.
    pub(super) fn alive(&mut self) -> io::Result<()> {
        if !self.commands.side_band {
            return Ok(());
        }
        self.guest.writing(Deadline::within(PATIENCE)).write_all(b"0005\x01")
    }

    /// The objects were not taken.
    pub(super) fn unpack(&mut self, why: &str) -> io::Result<()> {
        let refs = self.commands.list.iter().map(|_| Err("unpacker error".to_owned())).collect();
        self.verdicts(&Verdicts { unpack: Err(why.to_owned()), refs })
    }

    /// The same reason for each ref.
    pub(super) fn all(&mut self, why: &str) -> io::Result<()> {
        let refs = self.commands.list.iter().map(|_| Err(why.to_owned())).collect();
        self.verdicts(&Verdicts { unpack: Ok(()), refs })
    }

    /// The verdict, with which it ends.
    pub(super) fn verdicts(&mut self, verdicts: &Verdicts) -> io::Result<()> {
        let mut out = Vec::new();
        match &verdicts.unpack {
            Ok(()) => pkt::line(&mut out, b"unpack ok\n"),
            Err(why) => {
                pkt::line(&mut out, format!("unpack {}\n", harmless(why.as_bytes())).as_bytes())
            }
        }
        for (command, verdict) in self.commands.list.iter().zip(&verdicts.refs) {
            let line = match verdict {
                Ok(()) => format!("ok {}\n", command.name),
                Err(why) => format!("ng {} {}\n", command.name, harmless(why.as_bytes())),
            };
            pkt::line(&mut out, line.as_bytes());
        }
        flush(&mut out);
        let mut to = self.guest.writing(Deadline::within(PATIENCE));
        match (self.commands.report, self.commands.side_band) {
            (true, true) => {
                pkt::band(&mut to, 1, &out)?;
                to.write_all(pkt::FLUSH)
            }
            (true, false) => to.write_all(&out),
            (false, true) => to.write_all(pkt::FLUSH),
            (false, false) => Ok(()),
        }
    }
}
