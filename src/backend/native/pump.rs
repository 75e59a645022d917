//! Moving bytes between a command in a sandbox and its caller, and the signals of the caller.
//!
//! A pipe or a file of the caller's is given to the command as it is. A terminal is not: whoever
//! holds a terminal can read what is typed into it. Its bytes go through a pipe, or through a
//! terminal of the sandbox's own.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec};
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

/// What is moved while a command runs.
pub(super) struct Streams {
    /// Towards the command; its end is the command's end of file.
    input: Option<Flow>,
    /// From the command.
    outputs: Vec<Flow>,
    /// Whose size is followed, and whose size follows.
    sizes: Option<(OwnedFd, OwnedFd)>,
    complaints: Option<OwnedFd>,
}

impl Streams {
    /// Between the caller's terminal and `master`.
    pub(super) fn terminal(input: OwnedFd, output: OwnedFd, master: OwnedFd) -> Self {
        let twin = |fd: &OwnedFd| fd.try_clone().ok();
        let sizes = twin(&input).zip(twin(&master));
        let complaints = twin(&output);
        let input = twin(&master).map(|to| Flow { from: input, to });
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
    let stdin = if rustix::termios::isatty(&stdin) {
        let (theirs, ours) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        streams.input = Some(Flow { from: stdin, to: ours });
        theirs
    } else {
        stdin
    };
    let mut outward = |fd: OwnedFd| -> io::Result<OwnedFd> {
        if !rustix::termios::isatty(&fd) {
            return Ok(fd);
        }
        let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        streams.outputs.push(Flow { from: ours, to: fd });
        Ok(theirs)
    };
    let ends = [Some(stdin), Some(outward(stdout)?), Some(outward(stderr)?)];
    Ok((streams, ends))
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
        if reading && let Some(flow) = &streams.input {
            polled.push(PollFd::new(&flow.from, PollFlags::IN));
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
            && streams.input.as_ref().is_some_and(|flow| !flow.step())
        {
            reading = false;
            // To a terminal an end of file is a character, and closing would hang it up.
            if !tty {
                streams.input = None;
            }
        }
        while let Some(number) = sys::read_signal(signals) {
            match Signal::from_named_raw(number) {
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
