//! A push: taken into a quarantine, judged by the policy, searched, and only then sent to the upstream, whose
//! verdict is passed on. Only what the upstream has taken is taken over.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::process::Stdio;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::commands::{self, Command, Commands};
use super::document::Upstream;
use super::entry::{Entry, RefEntry};
use super::forward::{self, Verdicts};
use super::jail::{self, Layer};
use super::judge;
use super::mirror::Mirror;
use super::pkt;
use super::policy::{self, Wish};
use super::refs::{Oid, Refs};
use super::report::Report;
use super::run::{Place, run, words};
use super::search::{Found, SEARCH, Search};
use super::sentence::size;
use super::stop::Stop;
use super::store::Quarantine;
use super::wire::{Deadline, Guest, Waited};
use super::work::{Loaded, Shared};

/// For the commands to come.
const COMMANDS: Duration = Duration::from_secs(10);
/// For an answer to be taken.
const ANSWER: Duration = Duration::from_secs(30);
/// For another push to the same upstream to end.
const TURN: Duration = Duration::from_secs(600);
/// For the objects to come.
const PACK: Duration = Duration::from_secs(600);
/// What git may allocate at once, however small files have to be: it needs some for itself.
const MEMORY: u64 = 64 << 20;
/// How often it is said that it goes on.
const ALIVE: Duration = Duration::from_secs(2);

/// One push.
pub(super) struct Push<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) loaded: &'a Loaded,
    pub(super) upstream: &'a Upstream,
    pub(super) mirror: &'a Mirror,
    pub(super) guest: &'a Guest,
    pub(super) commands: Commands,
    /// What the upstream had when it was told.
    pub(super) refs: Refs,
    begun: Deadline,
}

/// Why nothing of a push is passed on.
pub(super) enum No {
    /// The objects are none.
    Unpack { code: &'static str, why: String },
    /// A reason for each ref, and what is said before.
    Refs { code: &'static str, reasons: Vec<Option<String>>, lines: Vec<String> },
    /// It ends here.
    Stop(Stop),
}

impl<T: Into<Stop>> From<T> for No {
    fn from(stop: T) -> Self {
        Self::Stop(stop.into())
    }
}

/// Serves one push.
pub(super) fn serve(
    shared: &Arc<Shared>,
    loaded: &Loaded,
    upstream: &Upstream,
    mirror: &Mirror,
    guest: &Guest,
) -> Result<(), Stop> {
    if upstream.push.is_empty() {
        return Err(Stop::told(
            "read_only",
            format!("bottle allows no push to {}", upstream.place()),
        ));
    }
    let refs = mirror
        .sync(shared.with(loaded.generation, upstream, Some(guest.0.as_fd())), Duration::ZERO)?;
    let mut to = guest.writing(Deadline::within(ANSWER));
    to.write_all(&commands::advertisement(&refs))?;
    let mut from = guest.reading(Deadline::within(COMMANDS));
    let commands = match commands::read(&mut from) {
        Ok(Some(commands)) => commands,
        Ok(None) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            return Err(Stop::told("timeout", "the push did not begin in 10 s"));
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(Stop::told("protocol", "this push is none that is understood here"));
        }
        Err(error) => return Err(error.into()),
    };
    let begun = Deadline::within(Duration::from_secs(24 * 3600));
    let push = Push { shared, loaded, upstream, mirror, guest, commands, refs, begun };
    push.answer()
}

impl Push<'_> {
    fn guest(&self) -> BorrowedFd<'_> {
        self.guest.0.as_fd()
    }

    /// Carries it out, and says what came of it.
    fn answer(&self) -> Result<(), Stop> {
        let outcome = self.go();
        let mut report = Report::new(self.guest, &self.commands);
        let parting = Deadline::within(ANSWER);
        let most = self.upstream.max_push;
        let told = match outcome {
            Ok(verdicts) => {
                // It was logged before it was sent.
                report.verdicts(&verdicts)
            }
            Err(No::Unpack { code, why }) => {
                self.refused(code, None);
                report.unpack(&why)
            }
            Err(No::Refs { code, reasons, lines }) => {
                self.refused(code, Some(&reasons));
                lines.iter().try_for_each(|line| report.say(line)).and_then(|()| {
                    let other = "not pushed: another ref was refused";
                    let reason = |reason: &Option<String>| {
                        Err(reason.clone().unwrap_or_else(|| other.to_owned()))
                    };
                    report.verdicts(&Verdicts {
                        unpack: Ok(()),
                        refs: reasons.iter().map(reason).collect(),
                    })
                })
            }
            Err(No::Stop(Stop::Left)) => return Err(Stop::Left),
            Err(No::Stop(stop)) => {
                self.refused(stop.code().unwrap_or("failed"), None);
                self.shared.failed(self.upstream, &stop);
                let sentence = stop.sentence();
                report.say(&sentence).and_then(|()| report.all(&sentence))
            }
        };
        told?;
        self.guest.part(most, parting);
        let with = self.shared.with(self.loaded.generation, self.upstream, None);
        if let Err(stop) = self.mirror.tidy(with) {
            self.shared.failed(self.upstream, &stop);
        }
        Ok(())
    }

    /// Writes down that it is refused.
    fn refused(&self, code: &str, reasons: Option<&[Option<String>]>) {
        self.mirror.note(|activity| activity.refusals += 1);
        let reason =
            |index: usize| reasons.and_then(|reasons| reasons.get(index).cloned().flatten());
        let entry = Entry {
            event: "deny".to_owned(),
            code: Some(code.to_owned()),
            ..self.entry(|index| reason(index).map(|_| "refused".to_owned()))
        };
        // It is refused whether or not the log can say so.
        let _ = self.shared.log(&entry);
    }

    fn entry(&self, verdict: impl Fn(usize) -> Option<String>) -> Entry {
        let of = |(index, command): (usize, &Command)| RefEntry {
            name: self.shown(&command.name),
            old: command.old.to_string(),
            new: command.new.to_string(),
            verdict: verdict(index),
        };
        Entry {
            event: "push".to_owned(),
            upstream: Some(self.upstream.name.clone()),
            refs: self.commands.list.iter().enumerate().map(of).collect(),
            ms: Some(self.ms()),
            ..Entry::default()
        }
    }

    fn ms(&self) -> u64 {
        let all = Duration::from_secs(24 * 3600);
        u64::try_from((all - self.begun.left()).as_millis()).unwrap_or(u64::MAX)
    }

    /// A ref's name, as it can be told.
    fn shown(&self, name: &str) -> String {
        match self.loaded.is_clean(self.upstream, name) {
            true => super::sentence::harmless(name.as_bytes()),
            false => "a name that is withheld".to_owned(),
        }
    }

    fn go(&self) -> Result<Verdicts, No> {
        if let Some(wrong) = &self.commands.wrong {
            let reasons = self.commands.list.iter().map(|_| Some(wrong.clone())).collect();
            return Err(No::Refs { code: "commands", reasons, lines: Vec::new() });
        }
        self.named()?;
        let _turn = self.turn()?;
        let quarantine = Quarantine::new(&self.mirror.repository)?;
        if self.commands.has_pack() {
            self.take(&quarantine)?;
        }
        self.allowed(&quarantine)?;
        let found = if self.commands.has_pack() {
            self.searched(&quarantine, &self.known())?
        } else {
            (Found::default(), Vec::new())
        };
        // What was loaded meanwhile holds for what was not sent yet.
        let same = self.shared.loaded().is_some_and(|now| now.generation == self.loaded.generation);
        if !same {
            return Err(
                Stop::told("reloaded", "the policy has changed meanwhile: push again").into()
            );
        }
        let (found, findings) = found;
        let entry = Entry {
            objects: Some(found.objects),
            bytes: Some(found.bytes),
            unscanned: Some(found.unscanned).filter(|count| *count > 0),
            findings,
            code: Some("forwarding".to_owned()),
            ..self.entry(|_| None)
        };
        // What cannot be written down is not sent.
        self.shared.log(&entry)?;
        let verdicts = forward::forward(self, &quarantine)?;
        self.settle(&verdicts, &quarantine);
        Ok(verdicts)
    }

    /// What can be said by the names alone.
    fn named(&self) -> Result<(), No> {
        let mut secret = false;
        let reasons: Vec<Option<String>> = self
            .commands
            .list
            .iter()
            .map(|command| {
                policy::named(&command.name)?;
                if !self.loaded.is_clean(self.upstream, &command.name) {
                    secret = true;
                    return Err("secret found".to_owned());
                }
                let there = self.refs.get(&command.name).copied();
                if there.unwrap_or(Oid::ZERO) != command.old {
                    return Err("fetch first".to_owned());
                }
                match (command.old.is_zero(), command.new.is_zero()) {
                    (true, true) => Err("there is nothing to delete".to_owned()),
                    (_, true) => policy::decide(self.upstream, &command.name, Wish::Delete),
                    (true, _) => policy::decide(self.upstream, &command.name, Wish::Create),
                    _ => policy::decide(self.upstream, &command.name, Wish::Forward),
                }
            })
            .map(Result::err)
            .collect();
        let lines = if secret {
            vec![
                format!(
                    "1 secret in the name of a ref. Nothing was sent to {}.",
                    self.upstream.host
                ),
                "give it another name and push again.".to_owned(),
            ]
        } else {
            Vec::new()
        };
        refs(if secret { "secret" } else { "policy" }, reasons, lines)
    }

    /// Waits for others that push there.
    fn turn(&self) -> Result<MutexGuard<'_, ()>, No> {
        let deadline = Deadline::within(TURN);
        let mut report = Report::new(self.guest, &self.commands);
        let mut soon = Deadline::within(ALIVE);
        loop {
            match self.mirror.pushing.try_lock() {
                Ok(turn) => return Ok(turn),
                Err(std::sync::TryLockError::Poisoned(turn)) => {
                    return Ok(PoisonError::into_inner(turn));
                }
                Err(std::sync::TryLockError::WouldBlock) => {}
            }
            if super::wire::has_left(self.guest()) {
                return Err(Stop::Left.into());
            }
            if deadline.is_over() {
                return Err(Stop::told("busy", "another push takes too long").into());
            }
            if soon.is_over() {
                report.alive()?;
                soon = Deadline::within(ALIVE);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(super) fn place<'p>(&'p self, quarantine: &'p Quarantine) -> Place<'p> {
        let most = self.upstream.max_file.max(MEMORY);
        let repository = &self.mirror.repository;
        Place { repository, incoming: Some(quarantine.folder()), most }
    }

    /// Takes the objects into the quarantine.
    fn take(&self, quarantine: &Quarantine) -> Result<(), No> {
        // Old histories have such, and nobody can change them.
        const OLD: &str = "--strict=badDate=ignore,badDateOverflow=ignore,badEmail=ignore,badName=ignore,\
            badTimezone=ignore,missingEmail=ignore,missingNameBeforeEmail=ignore,missingSpaceBeforeDate=ignore,\
            missingSpaceBeforeEmail=ignore,zeroPaddedDate=ignore,zeroPaddedFilemode=ignore,\
            missingAuthor=ignore,multipleAuthors=ignore";
        let most = format!("--max-input-size={}", self.upstream.max_push);
        let arguments = ["index-pack", "--stdin", "--fix-thin", OLD, &most];
        let mut command = self.shared.git.command(self.place(quarantine), &arguments);
        command.stdin(Stdio::from(self.guest().try_clone_to_owned()?));
        let layer = Layer::writing(&[quarantine.folder()])?;
        let mut jailed = jail::start(command, &layer, &[])?;
        let deadline = Deadline::within(PACK);
        let stderr = jailed.child().stderr.take();
        let mut report = Report::new(self.guest, &self.commands);
        let (ended, said) = std::thread::scope(|scope| {
            let said = scope
                .spawn(move || stderr.map(|stderr| words(stderr, deadline)).unwrap_or_default());
            let ended = loop {
                match jailed.wait(None, deadline.or_within(ALIVE)) {
                    Ok(Err(Waited::Over)) if !deadline.is_over() => {
                        if let Err(error) = report.alive() {
                            break Err(error);
                        }
                    }
                    other => break other,
                }
            };
            drop(jailed);
            (ended, said.join().unwrap_or_default())
        });
        match ended? {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => Err(self.no_pack(&said)),
            Err(_) => Err(Stop::told("timeout", "the objects did not come in 600 s").into()),
        }
    }

    /// Why these are no objects.
    fn no_pack(&self, said: &str) -> No {
        let unpack = |code, why: &str| No::Unpack { code, why: format!("bottle: {why}") };
        if super::wire::has_left(self.guest()) {
            return Stop::Left.into();
        }
        if said.contains("maximum allowed size") {
            let most = size(self.upstream.max_push);
            return unpack("too_large", &format!("at most {most} are pushed at once"));
        }
        if said.contains("attempting to allocate")
            || said.contains("out of memory")
            || said.contains("Out of memory")
        {
            let most = size(self.upstream.max_file);
            return unpack("too_large", &format!("at most {most} of a file are looked through"));
        }
        if said.contains("unresolved deltas")
            || said.contains("missing")
            || said.contains("did not receive expected object")
        {
            return unpack("incomplete", "objects are missing");
        }
        unpack("pack", "the objects are broken, or such as git's own checks refuse")
    }

    /// What the policy says of what the objects are.
    fn allowed(&self, quarantine: &Quarantine) -> Result<(), No> {
        let mut reasons = Vec::new();
        for command in &self.commands.list {
            let reason =
                if command.new.is_zero() { Ok(()) } else { self.moves(command, quarantine)? };
            reasons.push(reason.err());
        }
        refs("policy", reasons, Vec::new())
    }

    /// Whether a ref may move so.
    fn moves(&self, command: &Command, quarantine: &Quarantine) -> Result<Result<(), String>, No> {
        let input = format!("{}\n{}\n", command.new, command.old);
        let kinds =
            self.ask(quarantine, &["cat-file", "--batch-check=%(objecttype)"], input.as_bytes())?;
        let kinds = String::from_utf8_lossy(&kinds.1).into_owned();
        let mut kinds = kinds.lines();
        let (new, old) = (kinds.next().unwrap_or_default(), kinds.next().unwrap_or_default());
        if new.ends_with("missing") {
            return Err(No::Unpack {
                code: "incomplete",
                why: "bottle: objects are missing".to_owned(),
            });
        }
        if command.name.starts_with("refs/heads/") && new != "commit" {
            return Ok(Err("a branch has to be a commit".to_owned()));
        }
        if command.old.is_zero() {
            return Ok(Ok(()));
        }
        let forward = if command.name.starts_with("refs/tags/")
            || (old, new) != ("commit", "commit")
        {
            false
        } else {
            let arguments =
                ["merge-base", "--is-ancestor", &command.old.to_string(), &command.new.to_string()];
            let (code, _) = self.ask(quarantine, &arguments, b"")?;
            match code {
                Some(0) => true,
                Some(1) => false,
                _ => {
                    return Err(No::Unpack {
                        code: "incomplete",
                        why: "bottle: objects are missing".to_owned(),
                    });
                }
            }
        };
        let wish = if forward { Wish::Forward } else { Wish::Rewrite };
        Ok(policy::decide(self.upstream, &command.name, wish))
    }

    /// Asks git something of what is in the quarantine.
    pub(super) fn ask(
        &self,
        quarantine: &Quarantine,
        arguments: &[&str],
        input: &[u8],
    ) -> Result<(Option<i32>, Vec<u8>), No> {
        let command = self.shared.git.command(self.place(quarantine), arguments);
        let layer = Layer::writing(&[])?;
        let deadline = Deadline::within(Duration::from_secs(120));
        let output = run(command, &layer, &[], input, 1 << 20, deadline, Some(self.guest()))?;
        Ok((output.code, output.stdout))
    }

    /// Searches all that is reachable and not from what is known. Gives what was let through, for the log.
    pub(super) fn searched(
        &self,
        quarantine: &Quarantine,
        known: &BTreeSet<Oid>,
    ) -> Result<(Found, Vec<super::entry::FindingEntry>), No> {
        let tips = self.revs(known);
        let not: [&str; 0] = [];
        let search = Search {
            git: &self.shared.git,
            place: self.place(quarantine),
            scanner: &self.loaded.scanner,
            host: &self.upstream.host,
            max_file: self.upstream.max_file,
            guest: Some(self.guest()),
            deadline: Deadline::within(SEARCH),
        };
        let mut report = Report::new(self.guest, &self.commands);
        let mut soon = Deadline::within(ALIVE);
        let mut pulse = |objects: u64| {
            if soon.is_over() {
                report.progress(&format!("looked through {objects} objects"))?;
                soon = Deadline::within(ALIVE);
            }
            Ok(())
        };
        let found = match search.run(&tips, &not, &mut pulse) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(No::Unpack {
                    code: "incomplete",
                    why: "bottle: objects are missing".to_owned(),
                });
            }
            Err(error)
                if error.to_string().contains("missing")
                    || error.to_string().contains("bad object") =>
            {
                return Err(No::Unpack {
                    code: "incomplete",
                    why: "bottle: objects are missing".to_owned(),
                });
            }
            Err(error) => return Err(error.into()),
        };
        let all =
            |reason: &str| self.commands.list.iter().map(|_| Some(reason.to_owned())).collect();
        if let Some((path, length)) = &found.too_large {
            let most = size(self.upstream.max_file);
            let line = format!(
                "{} has {}; at most {most} are looked through",
                self.shown(path),
                size(*length)
            );
            return Err(No::Refs {
                code: "too_large",
                reasons: all("not looked through"),
                lines: vec![line],
            });
        }
        for (path, why, _) in &found.skipped {
            report.say(&format!("{} was not looked into: {why}", self.shown(path)))?;
        }
        if found.skipped.iter().any(|(_, _, refused)| *refused) {
            let line = "what is packed and larger than is unpacked is not sent on".to_owned();
            return Err(No::Refs {
                code: "too_large",
                reasons: all("not looked through"),
                lines: vec![line],
            });
        }
        if found.too_many {
            let line = "more than 1000000 objects are not looked through at once".to_owned();
            return Err(No::Refs {
                code: "too_many",
                reasons: all("not looked through"),
                lines: vec![line],
            });
        }
        let judged = judge::judge(&search, &found, &self.upstream.allow, &tips, &not)?;
        let entry = |hit, why: Option<&str>| judge::entry(&search, hit, why);
        if judged.refused.is_empty() && !found.more {
            let passed = judged.passed.iter().map(|(hit, why)| entry(hit, Some(why)));
            let passed = passed.collect();
            return Ok((found, passed));
        }
        let findings = judged.refused.iter().take(100).map(|hit| entry(hit, None)).collect();
        let line = Entry {
            event: "finding".to_owned(),
            upstream: Some(self.upstream.name.clone()),
            objects: Some(found.objects),
            bytes: Some(found.bytes),
            findings,
            ..Entry::default()
        };
        // It is refused whether or not the log can say so.
        let _ = self.shared.log(&line);
        let lines = judge::lines(&search, &judged.refused, found.more);
        Err(No::Refs { code: "secret", reasons: all("secret found"), lines })
    }

    /// What the upstream had when it was asked, and the mirror has: what is searched, and what is sent, is all
    /// that is reachable and not from these.
    pub(super) fn known(&self) -> BTreeSet<Oid> {
        self.refs.values().copied().collect()
    }

    /// What `rev-list` and `pack-objects` read: the new tips, without what is known.
    pub(super) fn revs(&self, known: &BTreeSet<Oid>) -> String {
        let new = self.commands.list.iter().filter(|command| !command.new.is_zero());
        let new = new.map(|command| format!("{}\n", command.new));
        new.chain(known.iter().map(|oid| format!("^{oid}\n"))).collect()
    }

    /// Keeps what was searched, packed anew: with it may have come what nothing names, which was searched by
    /// nobody. That goes with the quarantine.
    fn keep(&self, quarantine: &Quarantine) -> io::Result<()> {
        if !self.commands.has_pack() {
            return Ok(());
        }
        let base = self.mirror.repository.join("objects/pack/pack");
        let base = base.to_str().ok_or(io::ErrorKind::InvalidInput)?;
        let arguments = ["pack-objects", "--revs", "-q", "--delta-base-offset", base];
        let command = self.shared.git.command(self.place(quarantine), &arguments);
        let revs = self.revs(&self.known());
        let layer = Layer::writing(&[&self.mirror.repository])?;
        let deadline = Deadline::within(PACK);
        run(command, &layer, &[], revs.as_bytes(), 1 << 20, deadline, None)?.well("packing")?;
        Ok(())
    }

    /// Takes over what the upstream has taken, if it has taken all, and writes down what came of it.
    fn settle(&self, verdicts: &Verdicts, quarantine: &Quarantine) {
        let all = verdicts.unpack.is_ok() && verdicts.refs.iter().all(Result::is_ok);
        if all {
            let changes = self.commands.list.iter().map(|one| (one.name.clone(), one.old, one.new));
            let changes: Vec<_> = changes.collect();
            let with = self.shared.with(self.loaded.generation, self.upstream, None);
            if let Err(stop) = self.mirror.adopt(with, &changes, || self.keep(quarantine)) {
                // It is fetched with the next question.
                self.shared.failed(self.upstream, &stop);
            }
        }
        self.mirror.note(|activity| {
            if all {
                activity.pushes += 1;
                activity.last_push = Some(crate::sidecar::record::timestamp());
            }
        });
        let verdict = |index: usize| match verdicts.refs.get(index) {
            Some(Ok(())) => Some("ok".to_owned()),
            Some(Err(why)) => Some(self.shown(why)),
            None => None,
        };
        let entry = Entry { code: (!all).then(|| "upstream".to_owned()), ..self.entry(verdict) };
        // The upstream has it already.
        let _ = self.shared.log(&entry);
    }
}

/// Nothing goes if one ref is refused.
fn refs(code: &'static str, reasons: Vec<Option<String>>, lines: Vec<String>) -> Result<(), No> {
    if reasons.iter().all(Option::is_none) {
        Ok(())
    } else {
        Err(No::Refs { code, reasons, lines })
    }
}

/// A frame that says nothing.
pub(super) fn flush(out: &mut Vec<u8>) {
    out.extend_from_slice(pkt::FLUSH);
}
