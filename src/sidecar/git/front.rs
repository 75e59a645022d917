//! How a connection begins: one line, which names a service and a repository. The repository's name is
//! compared with those that there are, and never becomes a path.

use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use std::io::Write as _;

use super::document::Upstream;
use super::entry::Entry;
use super::mirror::{FRESH, Mirror};
use super::pkt::{self, Pkt};
use super::sentence::harmless;
use super::stop::Stop;
use super::wire::{Deadline, Guest};
use super::work::{Loaded, Room, Shared};
use super::{jail, push};

/// For the line to come.
const FIRST: Duration = Duration::from_secs(10);
/// No line is longer.
const LINE: usize = 2048;
/// For all of a fetch.
const FETCH: Duration = Duration::from_secs(600);
/// Who fetches at once.
const FETCHES: usize = 4;
/// What is read of one that is refused, so that it reads why.
const PARTING: u64 = 1 << 20;

/// What is asked for.
struct Asked {
    receive: bool,
    path: String,
    protocol: Option<&'static str>,
}

/// Serves one connection.
pub(super) fn serve(shared: &Arc<Shared>, socket: OwnedFd) {
    let guest = Guest(socket);
    if let Err(stop) = begin(shared, &guest)
        && stop.code().is_some()
    {
        refuse(&guest, &stop.sentence());
    }
}

/// Says that there are too many, to whoever reads it at once: nobody waits for them.
pub(super) fn busy(socket: &OwnedFd) {
    let mut line = Vec::new();
    pkt::line(&mut line, b"ERR bottle: too many connections at once");
    let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
    // Whoever left needs no reason.
    let _ = rustix::net::send(socket, &line, flags);
}

/// Says why not, in git's own way, which any git prints.
fn refuse(guest: &Guest, sentence: &str) {
    let mut line = Vec::new();
    pkt::line(&mut line, format!("ERR bottle: {sentence}").as_bytes());
    // Whoever left needs no reason.
    let _ = guest.writing(Deadline::within(FIRST)).write_all(&line);
    guest.part(PARTING, Deadline::within(Duration::from_secs(2)));
}

fn begin(shared: &Arc<Shared>, guest: &Guest) -> Result<(), Stop> {
    let nothing =
        || Stop::told("protocol", "this is git's own protocol, and nothing else is spoken here");
    let line = match pkt::read(&mut guest.reading(Deadline::within(FIRST)), LINE) {
        Ok(Some(Pkt::Line(line))) => line,
        Ok(None) => return Err(Stop::Left),
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
            return Err(Stop::told("timeout", "nothing was asked for in 10 s"));
        }
        Ok(_) | Err(_) => return Err(nothing()),
    };
    let asked = Asked::parse(&line).ok_or_else(nothing)??;
    let Some(loaded) = shared.loaded() else {
        return Err(Stop::told(
            "not_ready",
            "the git gate has no policy yet: ask again in a moment",
        ));
    };
    let Some(upstream) = find(&loaded, &asked.path) else {
        return Err(undeclared(shared, &loaded, &asked.path));
    };
    let mirror = shared
        .mirror(&upstream.name)
        .ok_or_else(|| Stop::told("not_ready", "the git gate is not ready"))?;
    let served = if asked.receive {
        push::serve(shared, &loaded, upstream, &mirror, guest)
    } else {
        fetch(shared, (loaded.generation, upstream), &mirror, guest, asked.protocol)
    };
    if let Err(stop) = &served {
        shared.failed(upstream, stop);
    }
    served
}

impl Asked {
    /// `None`: it is no such line. An error: it is one that is not answered.
    fn parse(line: &[u8]) -> Option<Result<Self, Stop>> {
        let line = std::str::from_utf8(line).ok()?;
        let (service, rest) = line.split_once(' ')?;
        let receive = match service {
            "git-upload-pack" => false,
            "git-receive-pack" => true,
            other if other.starts_with("git-") => {
                return Some(Err(Stop::told("service", "this service is not offered here")));
            }
            _ => return None,
        };
        let mut parts = rest.split('\0');
        let path = parts.next()?.trim_end_matches('\n').to_owned();
        let protocol = parts.find_map(|part| match part {
            "version=1" => Some("version=1"),
            "version=2" => Some("version=2"),
            _ => None,
        });
        Some(Ok(Self { receive, path, protocol }))
    }
}

/// The upstream that a path names.
fn find<'a>(loaded: &'a Loaded, path: &str) -> Option<&'a Upstream> {
    // As people end a URL now and then.
    let path = path.strip_suffix('/').unwrap_or(path);
    let bare = path.strip_suffix(".git").unwrap_or(path);
    loaded.document.upstreams.iter().find(|upstream| {
        let name = &upstream.name;
        bare == format!("/{name}")
            || (bare != path && bare == format!("/git/{name}"))
            || bare == format!("/{}", upstream.place())
    })
}

fn undeclared(shared: &Shared, loaded: &Loaded, path: &str) -> Stop {
    let bare = path.strip_suffix(".git").unwrap_or(path);
    let asked = harmless(bare.trim_start_matches('/').as_bytes());
    let places: Vec<String> = loaded.document.upstreams.iter().map(Upstream::place).collect();
    let has = if places.is_empty() { "none".to_owned() } else { places.join(", ") };
    let clean = loaded.scanner.scan("", super::work::today(), path.as_bytes()).is_empty();
    let asked = if clean { asked } else { "this".to_owned() };
    let entry = Entry {
        event: "deny".to_owned(),
        code: Some("undeclared".to_owned()),
        detail: Some(asked.clone()),
        ..Entry::default()
    };
    // It is refused whether or not the log can say so.
    let _ = shared.log(&entry);
    Stop::told(
        "undeclared",
        format!("{asked} is none of this sandbox's repositories: it has {has}"),
    )
}

/// Has git serve what the mirror has.
fn fetch(
    shared: &Arc<Shared>,
    (generation, upstream): (u64, &Upstream),
    mirror: &Mirror,
    guest: &Guest,
    protocol: Option<&str>,
) -> Result<(), Stop> {
    let begun = Deadline::within(FETCH);
    let socket = guest.0.as_fd();
    mirror.sync(shared.with(generation, upstream, Some(socket)), FRESH)?;
    let _room = loop {
        if let Some(room) = Room::take(shared, |shared| &shared.fetching, FETCHES) {
            break room;
        }
        if super::wire::has_left(socket) {
            return Err(Stop::Left);
        }
        if begun.is_over() {
            return Err(Stop::told("busy", "too many fetches at once"));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let ms = || u64::try_from((FETCH - begun.left()).as_millis()).unwrap_or(u64::MAX);
    let repository = mirror.repository.to_str().unwrap_or_default();
    let arguments = ["upload-pack", "--strict", "--timeout=300", repository];
    let mut command = shared.git.command(mirror.place(upstream), &arguments);
    command.stdin(Stdio::from(socket.try_clone_to_owned()?));
    command.stdout(Stdio::from(socket.try_clone_to_owned()?));
    command.stderr(Stdio::null());
    if let Some(protocol) = protocol {
        command.env("GIT_PROTOCOL", protocol);
    }
    let mut jailed = jail::start(command, &jail::Layer::writing(&[])?, &[])?;
    let ended = jailed.wait(None, begun)?;
    drop(jailed);
    let ok = ended.is_ok_and(|status| status.success());
    mirror.note(|activity| {
        activity.fetches += 1;
        activity.last_fetch = Some(crate::sidecar::record::timestamp());
    });
    let entry = Entry {
        event: "fetch".to_owned(),
        upstream: Some(upstream.name.clone()),
        code: (!ok).then(|| "broken_off".to_owned()),
        ms: Some(ms()),
        ..Entry::default()
    };
    // It was fetched already.
    let _ = shared.log(&entry);
    if let Err(stop) = mirror.tidy(shared.with(generation, upstream, None)) {
        shared.failed(upstream, &stop);
    }
    // What git said is all that the guest is told.
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line() {
        let line = b"git-upload-pack /app.git\0host=git.bottle\0\0version=2\0";
        let asked = Asked::parse(line).unwrap().unwrap();
        assert_eq!(
            (asked.receive, asked.path.as_str(), asked.protocol),
            (false, "/app.git", Some("version=2"))
        );
        let odd =
            Asked::parse(b"git-receive-pack /a\0host=x\0\0version=2:hooks=1\0").unwrap().unwrap();
        assert_eq!((odd.receive, odd.protocol), (true, None));
        assert!(Asked::parse(b"git-upload-archive /a\0").unwrap().is_err());
        assert!(Asked::parse(b"GET / HTTP/1.1").is_none() && Asked::parse(b"\xff\xfe").is_none());
    }
}
