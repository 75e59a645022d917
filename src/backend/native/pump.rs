//! Moving bytes between a command in a sandbox and its caller, and the signals of the caller.
//!
//! Nothing of the caller's is given to the command. Whoever holds a terminal can read what is typed into
//! it, whoever holds a file can change its mode, whoever holds a folder can walk out of it; and a pipe
//! can be opened the other way round through `/proc`, or made non-blocking for everybody who has it.
//! Bytes go through pipes of the command's own, or through a terminal of the sandbox's.

#![expect(clippy::disallowed_methods, reason = "the clock is read")]

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

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

/// Towards the command, which may not be reading: what it has not taken yet is kept here, and
/// meanwhile nothing more is read.
struct Input {
    flow: Flow,
    pending: Vec<u8>,
    /// Nothing more comes; the other end stays open.
    over: bool,
}

/// What is moved while a command runs.
pub(super) struct Streams {
    /// Towards the command; its end is the command's end of file.
    input: Option<Input>,
    /// From the command; gone once it has ended, or once nobody takes any more of it.
    outputs: Vec<Option<Flow>>,
    /// Whose size is followed, and whose size follows.
    sizes: Option<(OwnedFd, OwnedFd)>,
    complaints: Option<OwnedFd>,
    /// Why what the command wrote could not be written on, where it could not.
    lost: Option<Errno>,
}

/// After the command has ended, what it left running in the background may go on writing, or hold the
/// other end in silence. So long is waited for something to come,
const SILENCE: Duration = Duration::from_millis(100);
/// and so long in all. What was in the pipes when the command ended is moved in any case.
const DRAIN: Duration = Duration::from_secs(1);

impl Streams {
    /// Between the caller's terminal and `master`.
    pub(super) fn terminal(input: OwnedFd, output: OwnedFd, master: OwnedFd) -> Self {
        // A command that does not read must not keep us from what it writes.
        let _ = rustix::io::ioctl_fionbio(&master, true);
        let twin = |fd: &OwnedFd| fd.try_clone().ok();
        let sizes = twin(&input).zip(twin(&master));
        let complaints = twin(&output);
        let input = twin(&master).map(|to| Input::new(input, to));
        Self {
            input,
            outputs: vec![Some(Flow { from: master, to: output })],
            sizes,
            complaints,
            lost: None,
        }
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
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
    let (their_input, ours) = pipe()?;
    // Only our ends: the flag is one of each end's, which the command has another of.
    rustix::io::ioctl_fionbio(&ours, true)?;
    let input = Some(Input::new(stdin, ours));
    let mut outputs = Vec::new();
    let mut outward = |to: OwnedFd| -> io::Result<OwnedFd> {
        let (from, theirs) = pipe()?;
        rustix::io::ioctl_fionbio(&from, true)?;
        outputs.push(Some(Flow { from, to }));
        Ok(theirs)
    };
    let ends = [Some(their_input), Some(outward(stdout)?), Some(outward(stderr)?)];
    Ok((Streams { input, outputs, sizes: None, complaints, lost: None }, ends))
}

/// What is still moved after the command has ended.
struct Drain {
    since: Instant,
    /// What was there of each output at that moment, and was not moved yet.
    owed: Vec<u64>,
}

impl Drain {
    fn begin(outputs: &[Option<Flow>]) -> Self {
        let there = |flow: &Option<Flow>| {
            let flow = flow.as_ref()?;
            rustix::io::ioctl_fionread(&flow.from).ok()
        };
        let owed = outputs.iter().map(|flow| there(flow).unwrap_or(0)).collect();
        Self { since: Instant::now(), owed }
    }

    /// So much was moved; `None`: nothing more comes.
    fn moved(&mut self, at: usize, moved: Option<u64>) {
        self.owed[at] = moved.map_or(0, |moved| self.owed[at].saturating_sub(moved));
    }

    fn is_over(&self) -> bool {
        self.since.elapsed() >= DRAIN && self.owed.iter().all(|owed| *owed == 0)
    }
}

/// Moves bytes and hands on signals until the command `pid` has ended and what it wrote was moved.
pub(super) fn until_exit(
    streams: &mut Streams,
    signals: &OwnedFd,
    pid: Pid,
    tty: bool,
) -> anyhow::Result<WaitStatus> {
    let mut ended: Option<(WaitStatus, Drain)> = None;
    loop {
        if let Some((status, drain)) = &ended
            && (drain.is_over() || streams.outputs.iter().all(Option::is_none))
        {
            return streams.end(*status, tty);
        }
        let mut polled = vec![PollFd::new(signals, PollFlags::IN)];
        for flow in streams.outputs.iter().flatten() {
            polled.push(PollFd::new(&flow.from, PollFlags::IN));
        }
        if ended.is_none()
            && let Some(input) = &streams.input
        {
            polled.push(input.waits_for());
        }
        let silence = Timespec::try_from(SILENCE)?;
        let ready = match rustix::event::poll(&mut polled, ended.is_some().then_some(&silence)) {
            Err(Errno::INTR) => continue,
            result => result?,
        };
        let mut happened = polled.iter().map(|fd| !fd.revents().is_empty()).skip(1);
        if let Some((status, _)) = &ended
            && ready == 0
        {
            return streams.end(*status, tty);
        }
        let readable: Vec<bool> = streams
            .outputs
            .iter()
            .map(|flow| flow.is_some() && happened.next().unwrap_or(false))
            .collect();
        let input_ready = happened.next().unwrap_or(false);
        drop(polled);
        for (at, _) in readable.iter().enumerate().filter(|(_, readable)| **readable) {
            let moved = match streams.outputs[at].as_ref().map_or(Ok(None), Flow::step) {
                Ok(moved) => moved,
                Err(error) => {
                    streams.lost.get_or_insert(error);
                    None
                }
            };
            if let Some((_, drain)) = &mut ended {
                drain.moved(at, moved);
            }
            if moved.is_none() {
                // Whoever writes on has a broken pipe, or a terminal that was hung up.
                streams.outputs[at] = None;
                if tty {
                    (streams.input, streams.sizes) = (None, None);
                }
            }
        }
        if input_ready && streams.input.as_mut().is_some_and(|input| !input.step()) {
            // To a terminal an end of file is a character, and closing would hang it up.
            match &mut streams.input {
                Some(input) if tty => input.over = true,
                input => *input = None,
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
        if ended.is_none() {
            ended = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG)?
                .map(|(_, status)| (status, Drain::begin(&streams.outputs)));
        }
    }
}

impl Streams {
    /// What is said of a command that has ended. What it wrote and nobody has is not passed over, but for
    /// what a reader that went away, or a terminal that was closed, did not want.
    fn end(&self, status: WaitStatus, tty: bool) -> anyhow::Result<WaitStatus> {
        match self.lost {
            Some(error) if !tty && !matches!(error, Errno::PIPE | Errno::CONNRESET) => {
                Err(anyhow::Error::from(error).context("writing what the command wrote"))
            }
            _ => Ok(status),
        }
    }

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
        Self { flow: Flow { from, to }, pending: Vec::new(), over: false }
    }

    fn waits_for(&self) -> PollFd<'_> {
        if self.over {
            // For nothing: places stay the same.
            PollFd::new(&self.flow.to, PollFlags::empty())
        } else if self.pending.is_empty() {
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
    /// Moves what is there, and says how much that was; `None` at the end. An error is that it cannot be
    /// written.
    fn step(&self) -> Result<Option<u64>, Errno> {
        let mut buffer = [0; 16 * 1024];
        match rustix::io::read(&self.from, &mut buffer) {
            // A terminal whose last holder has gone says EIO.
            Ok(0) | Err(Errno::IO) => Ok(None),
            Ok(length) => write_all(&self.to, &buffer[..length]).map(|()| Some(length as u64)),
            Err(Errno::INTR | Errno::AGAIN) => Ok(Some(0)),
            Err(_) => Ok(None),
        }
    }
}

fn write_all(to: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let _ = rustix::event::poll(&mut [PollFd::new(to, PollFlags::OUT)], None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(fd: &OwnedFd) -> (u64, u64) {
        let stat = rustix::fs::fstat(fd).unwrap();
        (stat.st_dev, stat.st_ino)
    }

    #[test]
    fn a_command_is_given_nothing_of_its_callers() {
        let pipe = || rustix::pipe::pipe().unwrap();
        let ((stdin, _in), (_out, stdout), (_err, stderr)) = (pipe(), pipe(), pipe());
        let callers = [&stdin, &stdout, &stderr].map(kept);
        let (streams, ends) = plain([stdin, stdout, stderr]).unwrap();
        for end in ends.iter().flatten() {
            assert!(!callers.contains(&kept(end)));
            rustix::io::ioctl_fionbio(end, true).unwrap();
        }
        let blocks = |fd: &OwnedFd| {
            !rustix::fs::fcntl_getfl(fd).unwrap().contains(rustix::fs::OFlags::NONBLOCK)
        };
        assert!(streams.outputs.iter().flatten().all(|flow| blocks(&flow.to)));
        assert!(blocks(&streams.input.unwrap().flow.from));
    }

    #[test]
    fn what_was_there_at_the_end_is_owed_and_no_more() {
        let (from, theirs) = rustix::pipe::pipe().unwrap();
        let (_reader, to) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&theirs, b"said").unwrap();
        let mut drain = Drain::begin(&[Some(Flow { from, to })]);
        assert_eq!(drain.owed, [4]);
        drain.since = Instant::now().checked_sub(DRAIN).unwrap();
        assert!(!drain.is_over(), "it is owed for as long as it takes");
        drain.moved(0, Some(3));
        assert!(!drain.is_over());
        drain.moved(0, Some(16));
        assert!(drain.is_over());
        drain.since = Instant::now();
        assert!(!drain.is_over(), "what runs on in the background has a moment");
    }
}
