//! Moves messages between a machine and its upstream, each when it was searched.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf as _, BytesMut};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf, split,
};
use tokio::time::Sleep;

use super::Session;
use super::frame::{self, Head, Kind};
use super::message::{Inward, Outward};
use crate::sidecar::Code;
use crate::sidecar::egress::case::Case;
use crate::sidecar::egress::limits;
use crate::sidecar::egress::relaying::Relaying;
use crate::sidecar::egress::share::{Budget, Share};

/// What is read at once.
const PIECE: usize = 4 * 1024;

/// So much is to be taken of what is written before the next of it is.
const TAKEN: usize = 16 * 1024;

/// What closes a connection (RFC 6455, section 7.4.1).
mod close {
    pub(super) const GOING_AWAY: u16 = 1001;
    pub(super) const PROTOCOL: u16 = 1002;
    pub(super) const POLICY: u16 = 1008;
    pub(super) const TOO_BIG: u16 = 1009;
    pub(super) const TRY_LATER: u16 = 1013;
}

/// How one way ends.
enum End {
    /// Whoever sends has closed.
    Closed,
    /// The connection broke.
    Broken,
    Refused(Code),
}

/// Why what moves one way moves no more.
type Moved<T> = Result<T, End>;

/// Where frames are written.
struct Sink<S> {
    half: WriteHalf<S>,
    /// Nothing of a frame is written whose rest is not.
    whole: bool,
    /// What is written is masked.
    masks: bool,
    /// What it is counted in while it writes: in a crowd each keeps little.
    relaying: Arc<Relaying>,
}

/// Where frames come from.
struct Source<S> {
    half: ReadHalf<S>,
    read: BytesMut,
    /// What is read is masked.
    masked: bool,
    /// The message that is not at its end.
    open: Option<Kind>,
}

/// A message, or a frame of control, with its share of the memory of all.
type Message = (Kind, BytesMut, Share);

/// The message that is not whole yet, and until when it has to be: it keeps others waiting for its memory.
#[derive(Default)]
struct Open {
    held: Option<Message>,
    until: Option<Pin<Box<Sleep>>>,
}

impl Open {
    async fn in_time<T>(&mut self, work: impl Future<Output = Moved<T>>) -> Moved<T> {
        let Some(until) = &mut self.until else { return work.await };
        tokio::select! {
            biased;
            done = work => done,
            () = until => Err(End::Refused(Code::TooManyConnections)),
        }
    }
}

impl Session {
    /// Relays until one of both ends it, or it may go on no more. `before` is what came of the machine's already.
    pub(in crate::sidecar::egress) async fn run<S>(self, machine: S, before: BytesMut)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let Self { case, budget, route, mut revoked, upstream, working, room } = self;
        let upstream = tokio::select! {
            upstream = upstream => upstream,
            () = &mut revoked => return,
        };
        let Ok(upstream) = upstream else { return };
        let (from_machine, to_machine) = split(machine);
        let (from_upstream, to_upstream) = split::<TokioIo<Upgraded>>(TokioIo::new(upstream));
        let mut machine = Source::new(from_machine, before, true);
        let mut upstream = Source::new(from_upstream, BytesMut::new(), false);
        let relaying = &case.shared.relaying;
        let mut to_machine = Sink::new(to_machine, false, relaying);
        let mut to_upstream = Sink::new(to_upstream, true, relaying);
        let moves = AtomicBool::new(true);
        let end = {
            let mut search = Outward::new(&case);
            let out = machine.outward(&mut to_upstream, &mut search, &budget, &moves);
            let by = (&case, route.is_some());
            let back = upstream.inward(&mut to_machine, by, &budget, &moves);
            let (mut out, mut back) = (std::pin::pin!(out), std::pin::pin!(back));
            tokio::select! {
                end = &mut out => match end {
                    // The other side may have something to say yet.
                    End::Closed => {
                        let rest = tokio::time::timeout(limits::LINGER_IDLE, &mut back).await;
                        Some(rest.unwrap_or(End::Closed))
                    }
                    other => Some(other),
                },
                end = &mut back => Some(end),
                () = &mut revoked => None,
                () = idle(&moves) => Some(End::Closed),
            }
        };
        let code = match &end {
            None => Some((close::POLICY, "the policy has changed".to_owned())),
            Some(End::Refused(code)) => {
                case.deny_later(code);
                Some((closes(code), format!("bottle: {}", code.as_str())))
            }
            Some(End::Closed | End::Broken) => None,
        };
        if let Some((number, why)) = &code {
            let _ = tokio::time::timeout(limits::LINGER_IDLE, async {
                to_machine.closed(*number, why).await;
                // Nobody else is told what was found.
                to_upstream.closed(close::GOING_AWAY, "").await;
            })
            .await;
        }
        let _ = tokio::time::timeout(limits::LINGER_IDLE, async {
            let _ = to_upstream.half.shutdown().await;
            let _ = to_machine.half.shutdown().await;
            if code.is_some() {
                // Closed with something unread, a connection is reset, and its client never reads why.
                machine.drained().await;
            }
        })
        .await;
        drop((working, room));
    }
}

/// By which number a refusal closes a connection.
fn closes(code: &Code) -> u16 {
    match code {
        Code::MalformedRequest | Code::ResponseRefused => close::PROTOCOL,
        Code::DlpUnscannable => close::TOO_BIG,
        Code::TooManyConnections => close::TRY_LATER,
        _ => close::POLICY,
    }
}

/// Waits until nothing has moved for long.
async fn idle(moves: &AtomicBool) {
    loop {
        tokio::time::sleep(limits::WEBSOCKET_IDLE).await;
        if !moves.swap(false, Ordering::Relaxed) {
            return;
        }
    }
}

impl<S: AsyncRead> Source<S> {
    fn new(half: ReadHalf<S>, read: BytesMut, masked: bool) -> Self {
        Self { half, read, masked, open: None }
    }

    /// Reads more; whether there was any.
    async fn more(&mut self) -> Moved<bool> {
        if self.read.is_empty() {
            // A connection that waits keeps no buffer.
            self.read = BytesMut::new();
            let mut first = [0; 1];
            match self.half.read(&mut first).await {
                Ok(0) => return Ok(false),
                Ok(_) => self.read.extend_from_slice(&first),
                Err(_) => return Err(End::Broken),
            }
        }
        self.read.reserve(PIECE);
        Ok(true)
    }

    /// Reads the next head. `None`: nothing comes any more.
    async fn head(&mut self, code: &Code, moves: &AtomicBool) -> Moved<Option<Head>> {
        loop {
            let malformed = |_| End::Refused(code.clone());
            if let Some(head) = frame::head(&self.read, self.masked).map_err(malformed)? {
                self.read.advance(head.size);
                self.follows(head).ok_or_else(|| End::Refused(code.clone()))?;
                moves.store(true, Ordering::Relaxed);
                return Ok(Some(head));
            }
            let begun = !self.read.is_empty();
            if begun {
                self.read.reserve(frame::HEAD);
                match self.half.read_buf(&mut self.read).await {
                    Ok(0) | Err(_) => return Err(End::Broken),
                    Ok(_) => {}
                }
            } else if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// Whether this frame may stand here; then what is open is known.
    fn follows(&mut self, head: Head) -> Option<()> {
        match (head.kind, self.open) {
            (kind, _) if kind.is_control() => {}
            (Kind::Continuation, Some(_)) if head.last => self.open = None,
            (Kind::Continuation, Some(_)) => {}
            (Kind::Continuation, None) | (_, Some(_)) => return None,
            (kind, None) => self.open = Some(kind).filter(|_| !head.last),
        }
        Some(())
    }

    /// Takes a piece of a payload of which so much is left, without its mask.
    async fn piece(&mut self, head: &Head, left: u64) -> Moved<BytesMut> {
        if self.read.is_empty() {
            self.read.reserve(PIECE);
            match self.half.read_buf(&mut self.read).await {
                Ok(0) | Err(_) => return Err(End::Broken),
                Ok(_) => {}
            }
        }
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(self.read.len());
        let mut piece = self.read.split_to(count);
        if let Some(mask) = head.mask {
            frame::mask(&mut piece, mask, head.length - left);
        }
        Ok(piece)
    }

    /// Appends a whole payload.
    async fn payload(&mut self, head: &Head, to: &mut BytesMut) -> Moved<()> {
        let mut left = head.length;
        while left > 0 {
            let piece = self.piece(head, left).await?;
            left -= piece.len() as u64;
            to.extend_from_slice(&piece);
        }
        Ok(())
    }

    /// Reads the next message, or frame of control, as a whole. `None`: nothing comes any more.
    async fn message(
        &mut self,
        open: &mut Open,
        budget: &Arc<Budget>,
        malformed: &Code,
        moves: &AtomicBool,
    ) -> Moved<Option<Message>> {
        loop {
            let Some(head) = open.in_time(self.head(malformed, moves)).await? else {
                return Ok(None);
            };
            let length = usize::try_from(head.length).unwrap_or(usize::MAX);
            if head.kind.is_control() {
                // Too little to be counted: whoever holds something waits for nothing.
                let share = budget.take(0).await.map_err(End::Refused)?;
                let mut payload = BytesMut::with_capacity(length);
                open.in_time(self.payload(&head, &mut payload)).await?;
                return Ok(Some((head.kind, payload, share)));
            }
            let mut held = match open.held.take() {
                Some(held) => held,
                None => {
                    let share = budget.take(length.min(PIECE)).await;
                    let share = share.map_err(End::Refused)?;
                    open.until = Some(Box::pin(tokio::time::sleep(limits::WEBSOCKET_MESSAGE_TIME)));
                    (head.kind, BytesMut::new(), share)
                }
            };
            if held.1.len().saturating_add(length) > limits::WEBSOCKET_MESSAGE {
                return Err(End::Refused(Code::DlpUnscannable));
            }
            let mut left = head.length;
            while left > 0 {
                let piece = open.in_time(self.piece(&head, left)).await?;
                left -= piece.len() as u64;
                // As it comes: a head alone takes nothing.
                if !budget.grow(&mut held.2, held.1.len() + piece.len()) {
                    return Err(End::Refused(Code::TooManyConnections));
                }
                held.1.extend_from_slice(&piece);
            }
            if head.last {
                open.until = None;
                return Ok(Some(held));
            }
            open.held = Some(held);
        }
    }

    /// Reads what still comes, for nobody.
    async fn drained(&mut self) {
        let mut piece = [0; PIECE];
        while self.half.read(&mut piece).await.is_ok_and(|count| count > 0) {}
    }
}

impl<S: AsyncRead> Source<S> {
    /// Sends on what the machine sends.
    async fn outward<T: AsyncWrite>(
        &mut self,
        to: &mut Sink<T>,
        search: &mut Outward,
        budget: &Arc<Budget>,
        moves: &AtomicBool,
    ) -> End {
        let mut open = Open::default();
        loop {
            let next = self.message(&mut open, budget, &Code::MalformedRequest, moves).await;
            let (kind, payload, share) = match next {
                Ok(Some(message)) => message,
                Ok(None) => return End::Closed,
                Err(end) => return end,
            };
            match search.searched(kind, payload, share).await {
                Ok((payload, share)) => {
                    if !to.message(kind, payload).await {
                        return End::Broken;
                    }
                    drop(share);
                }
                Err(code) => return End::Refused(code),
            }
        }
    }

    /// Sends on what the upstream sends: as it comes, as long as there is no credential that could come back.
    async fn inward<T: AsyncWrite>(
        &mut self,
        to: &mut Sink<T>,
        (case, by_route): (&Arc<Case>, bool),
        budget: &Arc<Budget>,
        moves: &AtomicBool,
    ) -> End {
        let mut open = Open::default();
        let mut search = None;
        loop {
            // Of a message that has begun to pass the rest does, too.
            if self.open.is_none() {
                let Some(loaded) = case.shared.loaded() else { return End::Broken };
                search = Inward::now(search.take(), &loaded, by_route);
            }
            let done = match search.take() {
                None => self.passed_on(to, moves).await,
                Some(by) => match self.searched(to, by, &mut open, budget, moves).await {
                    Ok(by) => {
                        search = Some(by);
                        Ok(())
                    }
                    Err(end) => Err(end),
                },
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    /// Sends on the next message, if nothing of a credential is in it.
    async fn searched<T: AsyncWrite>(
        &mut self,
        to: &mut Sink<T>,
        by: Inward,
        open: &mut Open,
        budget: &Arc<Budget>,
        moves: &AtomicBool,
    ) -> Moved<Inward> {
        let next = self.message(open, budget, &Code::ResponseRefused, moves).await?;
        let Some((kind, payload, share)) = next else { return Err(End::Closed) };
        let (by, payload, share) = by.searched(kind, payload, share).await.map_err(End::Refused)?;
        if !to.message(kind, payload).await {
            return Err(End::Broken);
        }
        drop(share);
        Ok(by)
    }

    /// Sends on the next frame, as it comes.
    async fn passed_on<T: AsyncWrite>(
        &mut self,
        to: &mut Sink<T>,
        moves: &AtomicBool,
    ) -> Moved<()> {
        let Some(head) = self.head(&Code::ResponseRefused, moves).await? else {
            return Err(End::Closed);
        };
        let _turn = to.relaying.begin(None);
        to.whole = false;
        let mut out = BytesMut::with_capacity(frame::HEAD);
        frame::write_same(&mut out, &head);
        to.write(&out).await?;
        let mut left = head.length;
        while left > 0 {
            let piece = self.piece(&head, left).await?;
            left -= piece.len() as u64;
            to.write(&piece).await?;
        }
        to.whole = true;
        if self.read.is_empty() {
            to.flush().await?;
        }
        Ok(())
    }
}

impl<S: AsyncWrite> Sink<S> {
    fn new(half: WriteHalf<S>, masks: bool, relaying: &Arc<Relaying>) -> Self {
        Self { half, whole: true, masks, relaying: Arc::clone(relaying) }
    }

    /// Writes, as long as whoever reads takes some of it now and then: what waits here keeps others waiting.
    async fn write(&mut self, bytes: &[u8]) -> Moved<()> {
        for piece in bytes.chunks(TAKEN) {
            let written = self.half.write_all(piece);
            match tokio::time::timeout(limits::WEBSOCKET_MESSAGE_TIME, written).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(End::Broken),
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Moved<()> {
        let flushed = tokio::time::timeout(limits::WEBSOCKET_MESSAGE_TIME, self.half.flush()).await;
        if matches!(flushed, Ok(Ok(()))) { Ok(()) } else { Err(End::Broken) }
    }

    /// Writes a whole message, or a frame of control; whether that went well.
    async fn message(&mut self, kind: Kind, mut payload: BytesMut) -> bool {
        let mask = match self.masks.then(fresh_mask) {
            None => None,
            Some(Some(mask)) => Some(mask),
            Some(None) => return false,
        };
        let mut head = BytesMut::with_capacity(frame::HEAD);
        frame::write_head(&mut head, kind, payload.len(), mask);
        if let Some(mask) = mask {
            frame::mask(&mut payload, mask, 0);
        }
        let _turn = self.relaying.begin(None);
        self.whole = false;
        // In one piece where it is short, as most are.
        let written = if payload.len() <= TAKEN {
            head.extend_from_slice(&payload);
            self.write(&head).await
        } else {
            match self.write(&head).await {
                Ok(()) => self.write(&payload).await,
                broken => broken,
            }
        };
        self.whole = written.is_ok() && self.flush().await.is_ok();
        self.whole
    }

    /// Says why it is closed, where that is not within something else.
    async fn closed(&mut self, number: u16, why: &str) {
        if !self.whole {
            return;
        }
        let mut payload = BytesMut::from(&number.to_be_bytes()[..]);
        payload.extend_from_slice(why.as_bytes());
        payload.truncate(frame::CONTROL);
        self.message(Kind::Close, payload).await;
    }
}

fn fresh_mask() -> Option<[u8; 4]> {
    let mut mask = [0; 4];
    getrandom::fill(&mut mask).ok()?;
    Some(mask)
}
