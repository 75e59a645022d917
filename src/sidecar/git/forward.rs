//! A push to the upstream, by our own hand: the commands, the objects that git packs, and what the upstream
//! says of them.

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::Stdio;
use std::time::Duration;

use super::jail::{self, Layer};
use super::listing::{advertised_ref, capabilities};
use super::mirror::ANSWER;
use super::pkt::{self, LONGEST, Pkt};
use super::push::{No, Push};
use super::refs::{Oid, Refs};
use super::report::Report;
use super::run::words;
use super::sentence::{LINES, harmless};
use super::stop::Stop;
use super::store::Quarantine;
use super::tunnel::{Service, Tunnel};
use super::wire::{Deadline, Out, Waited, Wire};

/// For all of it.
const ALL: Duration = Duration::from_secs(1200);
/// For the upstream to say something, while it has the objects.
const SILENCE: Duration = Duration::from_secs(600);
/// How often the agent is told that it goes on.
const ALIVE: Duration = Duration::from_secs(2);
/// Refs of an upstream's, hidden ones among them.
const LISTED: usize = 400_000;
/// What an upstream reports has at most so many bytes.
const REPORT: usize = 4 << 20;

/// What became of a push.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdicts {
    pub(super) unpack: Result<(), String>,
    /// Of each command, in their order.
    pub(super) refs: Vec<Result<(), String>>,
}

/// What the upstream's server of pushes begins with.
struct Server {
    refs: Refs,
    can: String,
}

impl Server {
    fn can(&self, what: &str) -> bool {
        self.can.split(' ').any(|word| word == what)
    }

    fn read(from: &mut impl io::Read) -> io::Result<Self> {
        let mut server = Self { refs: Refs::new(), can: String::new() };
        let mut first = true;
        for _ in 0..LISTED {
            match pkt::read(from, LONGEST)? {
                Some(Pkt::Line(line)) => {
                    let line = pkt::trim(&line);
                    if let Some(said) = line.strip_prefix(b"ERR ") {
                        return Err(io::Error::other(format!("ERR {}", harmless(said))));
                    }
                    if line == b"version 1" {
                        continue;
                    }
                    let (line, can) =
                        if first { capabilities(line) } else { (line.to_vec(), String::new()) };
                    if first {
                        server.can = can;
                    }
                    first = false;
                    if let Some((name, oid)) = advertised_ref(&line)? {
                        server.refs.insert(name, oid);
                    }
                }
                Some(Pkt::Flush) => return Ok(server),
                Some(Pkt::Delim | Pkt::End) => return Err(io::Error::other("it is no answer")),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        Err(io::Error::other("ERR it has too many refs"))
    }
}

/// Sends a push whose objects were searched.
pub(super) fn forward(push: &Push<'_>, quarantine: &Quarantine) -> Result<Verdicts, No> {
    let upstream = push.upstream;
    let tunnel =
        push.shared.tunnels.open(&upstream.name, push.loaded.generation, Service::Receive)?;
    let deadline = Deadline::within(ALL);
    let guest = Some(push.guest.0.as_fd());
    let mut wire = Wire { from: tunnel.socket.as_fd(), deadline: Deadline::within(ANSWER), guest };
    let server = match Server::read(&mut wire) {
        Ok(server) => server,
        Err(error) => return Err(tunnel.explain(error, upstream, ANSWER).into()),
    };
    in_time(push, &server)?;
    // What is gone upstream meanwhile is sent again, so it is searched as well.
    let before = push.known();
    let has: BTreeSet<Oid> = server.refs.values().copied().collect();
    let known: BTreeSet<Oid> = before.intersection(&has).copied().collect();
    if push.commands.has_pack() && known != before {
        push.searched(quarantine, &known)?;
    }
    let revs = push.revs(&known);
    let mut to = Out { to: tunnel.socket.as_fd(), deadline: deadline.or_within(ANSWER), guest };
    let begun = commands(push, &server)?;
    if let Err(error) = to.write_all(&begun) {
        return Err(tunnel.explain(error, upstream, ANSWER).into());
    }
    let outcome = carry(push, &server, &tunnel, (quarantine, revs), deadline);
    match outcome {
        Ok(verdicts) => Ok(verdicts),
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Err(Stop::Left.into()),
        // It may have taken it: never is that said without its word.
        Err(error) => {
            push.shared
                .failed(upstream, &Stop::Failed(io::Error::other(format!("pushing: {error}"))));
            let why = match error.to_string().strip_prefix("ERR ") {
                Some(words) => format!("{} says: {words}", upstream.host),
                None => format!("{} ended the connection", upstream.host),
            };
            let why = format!("{why}: fetch to see whether it took it");
            Ok(Verdicts {
                unpack: Ok(()),
                refs: push.commands.list.iter().map(|_| Err(why.clone())).collect(),
            })
        }
    }
}

/// Whether the upstream still has what the agent has seen.
fn in_time(push: &Push<'_>, server: &Server) -> Result<(), No> {
    let late = |command: &super::commands::Command| {
        let now = server.refs.get(&command.name).copied().unwrap_or(Oid::ZERO);
        (now != command.old).then(|| "fetch first".to_owned())
    };
    let reasons: Vec<Option<String>> = push.commands.list.iter().map(late).collect();
    if reasons.iter().any(Option::is_some) {
        return Err(No::Refs { code: "race", reasons, lines: Vec::new() });
    }
    let missing = [("report-status", true), ("atomic", push.commands.atomic)];
    if let Some((what, _)) = missing.into_iter().find(|(what, wanted)| *wanted && !server.can(what))
    {
        let reason = format!("{} does not know {what}", push.upstream.host);
        let reasons = push.commands.list.iter().map(|_| Some(reason.clone())).collect();
        return Err(No::Refs { code: "upstream", reasons, lines: Vec::new() });
    }
    Ok(())
}

/// What the push begins with.
fn commands(push: &Push<'_>, server: &Server) -> Result<Vec<u8>, No> {
    let mut can = vec!["report-status"];
    let wanted =
        [("side-band-64k", true), ("quiet", push.commands.quiet), ("atomic", push.commands.atomic)];
    can.extend(
        wanted.iter().filter(|(what, wanted)| *wanted && server.can(what)).map(|(what, _)| what),
    );
    if server.can("object-format=sha1") {
        can.push("object-format=sha1");
    }
    if server.can.contains("agent=") {
        can.push("agent=bottle");
    }
    let mut out = Vec::new();
    for (index, command) in push.commands.list.iter().enumerate() {
        let more = if index == 0 { format!("\0 {}", can.join(" ")) } else { String::new() };
        let line = format!("{} {} {}{more}", command.old, command.new, command.name);
        pkt::line(&mut out, line.as_bytes());
    }
    out.extend_from_slice(pkt::FLUSH);
    Ok(out)
}

/// Sends the objects, and hears the verdict.
fn carry(
    push: &Push<'_>,
    server: &Server,
    tunnel: &Tunnel,
    (quarantine, revs): (&Quarantine, String),
    deadline: Deadline,
) -> io::Result<Verdicts> {
    let side_band = server.can("side-band-64k");
    let packing = push.commands.has_pack();
    let mut packed = None;
    let mut complaints = None;
    if packing {
        let mut arguments = vec!["pack-objects", "--revs", "--stdout", "-q"];
        arguments.extend((!server.can("no-thin")).then_some("--thin"));
        arguments.extend(server.can("ofs-delta").then_some("--delta-base-offset"));
        let mut command = push.shared.git.command(push.place(quarantine), &arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::from(tunnel.socket.as_fd().try_clone_to_owned()?));
        let mut jailed = jail::start(command, &Layer::writing(&[])?, &[])?;
        complaints = jailed.child().stderr.take();
        let stdin = jailed.child().stdin.take();
        packed = Some((jailed, stdin));
    }
    std::thread::scope(|scope| {
        let (mut jailed, stdin) =
            packed.map_or((None, None), |(jailed, stdin)| (Some(jailed), stdin));
        // One that ends early says why itself.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(revs.as_bytes())));
        scope.spawn(move || complaints.map(|stderr| words(stderr, deadline)));
        let mut hearing = Hearing { push, tunnel, deadline, silent: Deadline::within(SILENCE) };
        let heard = hearing.hear(side_band, jailed.as_mut());
        drop(jailed);
        heard
    })
}

/// Hears what the upstream says.
struct Hearing<'a, 'p> {
    push: &'a Push<'p>,
    tunnel: &'a Tunnel,
    deadline: Deadline,
    silent: Deadline,
}

impl Hearing<'_, '_> {
    fn hear(
        &mut self,
        side_band: bool,
        mut packing: Option<&mut jail::Jailed>,
    ) -> io::Result<Verdicts> {
        let mut report = Report::new(self.push.guest, &self.push.commands);
        let mut words = Words::default();
        let mut said = Vec::new();
        loop {
            self.await_more(&mut packing, &mut report)?;
            if self.deadline.is_over() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let mut wire = Wire {
                from: self.tunnel.socket.as_fd(),
                deadline: self.deadline.or_within(SILENCE),
                guest: None,
            };
            match pkt::read(&mut wire, LONGEST)? {
                Some(Pkt::Line(line)) if side_band => match line.split_first() {
                    Some((1, data)) => said.extend_from_slice(data),
                    Some((2, text)) => words.take(text, &mut report)?,
                    Some((3, text)) => {
                        words.end(&mut report)?;
                        return Err(io::Error::other(format!("ERR {}", harmless(text))));
                    }
                    _ => return Err(io::Error::other("it is no answer")),
                },
                Some(Pkt::Line(line)) => pkt::line(&mut said, &line),
                Some(Pkt::Flush) => break,
                Some(_) => return Err(io::Error::other("it is no answer")),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
            if said.len() > REPORT {
                return Err(io::Error::other("it reports too much"));
            }
        }
        words.end(&mut report)?;
        if !side_band {
            said.extend_from_slice(pkt::FLUSH);
        }
        verdicts(self.push, &said)
    }

    /// Waits until the upstream says more; meanwhile the agent hears that it goes on, and the packing is looked
    /// after.
    fn await_more(
        &mut self,
        packing: &mut Option<&mut jail::Jailed>,
        report: &mut Report<'_>,
    ) -> io::Result<()> {
        use rustix::event::PollFlags;
        loop {
            let soon = self.deadline.or_within(ALIVE);
            match super::wire::wait(self.tunnel.socket.as_fd(), PollFlags::IN, None, soon)? {
                Waited::Ready => {
                    self.silent = Deadline::within(SILENCE);
                    return Ok(());
                }
                Waited::Left | Waited::Over => {}
            }
            if self.deadline.is_over() || self.silent.is_over() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if let Some(jailed) = packing {
                match jailed.wait(None, Deadline::within(Duration::ZERO))? {
                    Ok(status) if !status.success() => {
                        return Err(io::Error::other("packing failed"));
                    }
                    Ok(_) => *packing = None,
                    // Until the upstream has all of it, whoever left takes it back.
                    Err(_) if super::wire::has_left(self.push.guest.0.as_fd()) => {
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    }
                    Err(_) => {}
                }
            }
            // Whoever left need not hear it.
            let _ = report.alive();
        }
    }
}

/// The upstream's words, on their way to a person.
#[derive(Default)]
struct Words {
    held: Vec<u8>,
    lines: usize,
}

impl Words {
    fn take(&mut self, text: &[u8], report: &mut Report<'_>) -> io::Result<()> {
        self.held.extend_from_slice(text);
        while let Some(at) = self.held.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let line: Vec<u8> = self.held.drain(..=at).collect();
            self.say(&line, report)?;
        }
        if self.held.len() > LONGEST {
            let line = std::mem::take(&mut self.held);
            self.say(&line, report)?;
        }
        Ok(())
    }

    fn end(&mut self, report: &mut Report<'_>) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let line = std::mem::take(&mut self.held);
        self.say(&line, report)
    }

    fn say(&mut self, line: &[u8], report: &mut Report<'_>) -> io::Result<()> {
        let again = line.ends_with(b"\r");
        // How far it is comes again and again.
        self.lines += usize::from(!again);
        if self.lines > LINES {
            return Ok(());
        }
        let end = if again { '\r' } else { '\n' };
        // Whoever left need not hear it: the verdict counts.
        let _ = report.relay(format!("{}{end}", harmless(line)).as_bytes());
        Ok(())
    }
}

/// The verdict, as the upstream reports it.
fn verdicts(push: &Push<'_>, said: &[u8]) -> io::Result<Verdicts> {
    let wrong = || io::Error::other("it reports nothing that is understood");
    let mut from = said;
    let mut unpack = None;
    let mut told = std::collections::BTreeMap::new();
    while let Some(Pkt::Line(line)) = pkt::read(&mut from.by_ref(), LONGEST)? {
        let line = String::from_utf8_lossy(pkt::trim(&line)).into_owned();
        let (word, rest) = line.split_once(' ').ok_or_else(wrong)?;
        match word {
            "unpack" if rest == "ok" => unpack = Some(Ok(())),
            "unpack" => unpack = Some(Err(rest.to_owned())),
            "ok" => {
                told.insert(rest.to_owned(), Ok(()));
            }
            "ng" => {
                let (name, why) = rest.split_once(' ').unwrap_or((rest, "refused"));
                told.insert(name.to_owned(), Err(why.to_owned()));
            }
            _ => return Err(wrong()),
        }
    }
    let unpack = unpack.ok_or_else(wrong)?;
    let silent = || Err(format!("{} said nothing of it", push.upstream.host));
    let refs = push.commands.list.iter().map(|one| match &unpack {
        Ok(()) => told.remove(&one.name).unwrap_or_else(silent),
        Err(_) => match told.remove(&one.name) {
            Some(Err(why)) => Err(why),
            _ => Err("unpacker error".to_owned()),
        },
    });
    let refs = refs.collect();
    Ok(Verdicts { unpack, refs })
}
