//! Moving bytes between a command in a sandbox and its caller, and the signals of the caller.
//!
//! A pipe of the caller's is given to the command as it is, and nothing else: whoever holds a
//! terminal can read what is typed into it, whoever holds a file can change its mode, whoever holds
//! a folder can walk out of it. Their bytes go through a pipe, or through a terminal of the
//! sandbox's own.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use super::sys;

const SIGNALS: [Signal; 9] = [
    Signal::CHILD,
    Signal::WINCH,
    Signal::TERM,
    Signal::INT,
    Signal::HUP,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    // Never handed on; blocked so that a broken pipe is an error, not an end.
    Signal::PIPE,
];

/// The signals that [`until_exit`] waits for, as a descriptor. They are blocked from now on.
pub(super) fn signals() -> io::Result<OwnedFd> {
    sys::block_signals(&SIGNALS)?;
    sys::signal_fd(&SIGNALS)
}

/// One direction.
struct Flow {
    from: OwnedFd,
    to: OwnedFd,
}

/// Towards the command, which may not be reading: what it has not taken yet is kept here, and
/// meanwhile nothing more is read.
struct Input {
    flow: Flow,
    pending: Vec<u8>,
}

/// What is moved while a command runs.
pub(super) struct Streams {
    /// Towards the command; its end is the command's end of file.
    input: Option<Input>,
    /// From the command.
    outputs: Vec<Flow>,
    /// Whose size is followed, and whose size follows.
    sizes: Option<(OwnedFd, OwnedFd)>,
    complaints: Option<OwnedFd>,
}

impl Streams {
    /// Between the caller's terminal and `master`.
    pub(super) fn terminal(input: OwnedFd, output: OwnedFd, master: OwnedFd) -> Self {
        // A command that does not read must not keep us from what it writes.
        let _ = rustix::io::ioctl_fionbio(&master, true);
        let twin = |fd: &OwnedFd| fd.try_clone().ok();
        let sizes = twin(&input).zip(twin(&master));
        let complaints = twin(&output);
        let input = twin(&master).map(|to| Input::new(input, to));
        Self { input, outputs: vec![Flow { from: master, to: output }], sizes, complaints }
    }

    /// Where the caller reads what went wrong.
    pub(super) fn complaints(&self) -> Option<&OwnedFd> {
        self.complaints.as_ref()
    }
}

/// Without a terminal inside: what to move, and what the command gets.
pub(super) fn plain(stdio: [OwnedFd; 3]) -> io::Result<(Streams, [Option<OwnedFd>; 3])> {
    let [stdin, stdout, stderr] = stdio;
    let complaints = stderr.try_clone().ok();
    let mut streams = Streams { input: None, outputs: Vec::new(), sizes: None, complaints };
    let stdin = if harmless(&stdin)? {
        stdin
    } else {
        let (theirs, ours) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        // Only our end.
        rustix::io::ioctl_fionbio(&ours, true)?;
        streams.input = Some(Input::new(stdin, ours));
        theirs
    };
    let mut outward = |fd: OwnedFd| -> io::Result<OwnedFd> {
        if harmless(&fd)? {
            return Ok(fd);
        }
        let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        streams.outputs.push(Flow { from: ours, to: fd });
        Ok(theirs)
    };
    let ends = [Some(stdin), Some(outward(stdout)?), Some(outward(stderr)?)];
    Ok((streams, ends))
}

/// Whether a descriptor gives no more than its bytes: a pipe, or a file that has no name.
fn harmless(fd: &OwnedFd) -> io::Result<bool> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo => true,
        FileType::RegularFile => stat.st_nlink == 0,
        _ => false,
    })
}

/// Moves bytes and hands on signals until the command `pid` has ended and what it wrote was moved.
pub(super) fn until_exit(
    streams: &mut Streams,
    signals: &OwnedFd,
    pid: Pid,
    tty: bool,
) -> anyhow::Result<WaitStatus> {
    let mut reading = streams.input.is_some();
    let mut open: Vec<bool> = vec![true; streams.outputs.len()];
    let mut status = None;
    loop {
        if let Some(status) = status
            && (open.iter().all(|open| !open))
        {
            return Ok(status);
        }
        let mut polled = vec![PollFd::new(signals, PollFlags::IN)];
        // Closed ones are polled for nothing, so that places stay the same.
        for (flow, open) in streams.outputs.iter().zip(&open) {
            polled.push(PollFd::new(
                &flow.from,
                if *open { PollFlags::IN } else { PollFlags::empty() },
            ));
        }
        if reading && let Some(input) = &streams.input {
            polled.push(input.waits_for());
        }
        // After its end only what is there already counts: something it left running in the
        // background may hold the other end for ever.
        let grace = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let ready = match rustix::event::poll(&mut polled, status.is_some().then_some(&grace)) {
            Err(Errno::INTR) => continue,
            result => result?,
        };
        let happened: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
        drop(polled);
        if let Some(status) = status
            && ready == 0
        {
            return Ok(status);
        }
        for (at, flow) in streams.outputs.iter().enumerate() {
            if open[at] && !happened[at + 1].is_empty() {
                open[at] = flow.step();
            }
        }
        if let Some(events) = happened.get(streams.outputs.len() + 1)
            && !events.is_empty()
            && streams.input.as_mut().is_some_and(|input| !input.step())
        {
            reading = false;
            // To a terminal an end of file is a character, and closing would hang it up.
            if !tty {
                streams.input = None;
            }
        }
        while let Some(received) = sys::read_signal(signals) {
            match Signal::from_named_raw(received.number) {
                Some(Signal::CHILD | Signal::PIPE) | None => {}
                Some(Signal::WINCH) => streams.follow_size(),
                Some(signal) => {
                    let _ = rustix::process::kill_process_group(pid, signal);
                }
            }
        }
        if status.is_none() {
            status =
                rustix::process::waitpid(Some(pid), WaitOptions::NOHANG)?.map(|(_, status)| status);
        }
    }
}

impl Streams {
    fn follow_size(&self) {
        if let Some((caller, master)) = &self.sizes
            && let Ok(size) = rustix::termios::tcgetwinsize(caller)
        {
            let _ = rustix::termios::tcsetwinsize(master, size);
        }
    }
}

impl Input {
    fn new(from: OwnedFd, to: OwnedFd) -> Self {
        Self { flow: Flow { from, to }, pending: Vec::new() }
    }

    fn waits_for(&self) -> PollFd<'_> {
        if self.pending.is_empty() {
            PollFd::new(&self.flow.from, PollFlags::IN)
        } else {
            PollFd::new(&self.flow.to, PollFlags::OUT)
        }
    }

    /// Moves what is there and what is taken; `false` at the end.
    fn step(&mut self) -> bool {
        if self.pending.is_empty() {
            let mut buffer = [0; 16 * 1024];
            match rustix::io::read(&self.flow.from, &mut buffer) {
                Ok(0) => return false,
                Ok(length) => self.pending.extend_from_slice(&buffer[..length]),
                Err(Errno::INTR | Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        match rustix::io::write(&self.flow.to, &self.pending) {
            Ok(length) => drop(self.pending.drain(..length)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => return false,
        }
        true
    }
}

impl Flow {
    /// Moves what is there; `false` at the end.
    fn step(&self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match rustix::io::read(&self.from, &mut buffer) {
            // A terminal whose last holder has gone says EIO.
            Ok(0) | Err(Errno::IO) => false,
            Ok(length) => write_all(&self.to, &buffer[..length]),
            Err(Errno::INTR | Errno::AGAIN) => true,
            Err(_) => false,
        }
    }
}

fn write_all(to: &OwnedFd, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let _ = rustix::event::poll(&mut [PollFd::new(to, PollFlags::OUT)], None);
            }
            Err(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "tests of descriptors")]

    use super::*;

    #[test]
    fn a_command_is_given_pipes_and_nothing_that_leads_further() {
        let folder = tempfile::tempdir().unwrap();
        let named = folder.path().join("file");
        std::fs::write(&named, "").unwrap();
        let open = |path: &std::path::Path| OwnedFd::from(std::fs::File::open(path).unwrap());
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let (pipe, _end) = rustix::pipe::pipe().unwrap();
        for (what, fd, expected) in [
            ("a pipe", pipe, true),
            ("bytes of our own", crate::backend::native::in_memory(b"x").unwrap().into(), true),
            ("a file", open(&named), false),
            ("a folder", open(folder.path()), false),
            ("a device", open("/dev/null".as_ref()), false),
            ("a socket", socket.into(), false),
        ] {
            assert_eq!(harmless(&fd).unwrap(), expected, "{what}");
        }
    }
}
