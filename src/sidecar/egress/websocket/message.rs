//! What is looked for in a message, whichever way it goes.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::{Bytes, BytesMut};

use super::frame::Kind;
use crate::sidecar::Code;
use crate::sidecar::credential::Redactor;
use crate::sidecar::dlp::Written;
use crate::sidecar::egress::aside::{Gone, aside};
use crate::sidecar::egress::case::Case;
use crate::sidecar::egress::limits;
use crate::sidecar::egress::search::{Reading, search_whole};
use crate::sidecar::egress::share::Share;
use crate::sidecar::egress::state::Loaded;

/// So much of what went before is searched again with the begin of what follows: who cuts a secret in two sends it in
/// two messages.
const BEFORE: usize = 4 * 1024;

/// So much is searched together of what an upstream sends.
const PIECE: usize = 16 * 1024;

/// The end of what went one way.
#[derive(Default)]
struct Before(Vec<u8>);

impl Before {
    /// It, and the begin of what follows.
    fn with(&self, next: &[u8]) -> Option<Vec<u8>> {
        let begin = begin(next);
        (!self.0.is_empty() && !begin.is_empty()).then(|| [&self.0, begin].concat())
    }

    fn follows(&mut self, text: &[u8]) {
        let end = text.len().saturating_sub(BEFORE);
        self.0.extend_from_slice(&text[end..]);
        let old = self.0.len().saturating_sub(BEFORE);
        self.0.drain(..old);
    }
}

fn begin(text: &[u8]) -> &[u8] {
    text.get(..BEFORE).unwrap_or(text)
}

/// The ends of all that went before: some servers read data and nothing else, and others all that comes.
#[derive(Default)]
struct Ends {
    data: Before,
    control: Before,
    all: Before,
}

impl Ends {
    /// Each of them that a frame of this kind goes on, with the begin of that.
    fn with<'a>(&'a self, kind: Kind, next: &[u8]) -> impl Iterator<Item = (&'a [u8], Vec<u8>)> {
        let own = if kind.is_control() { &self.control } else { &self.data };
        let same = own.0 == self.all.0;
        let both = [Some(own), (!same).then_some(&self.all)];
        let joint: Vec<_> = both
            .into_iter()
            .flatten()
            .filter_map(|before| Some((&*before.0, before.with(next)?)))
            .collect();
        joint.into_iter()
    }

    fn follows(&mut self, kind: Kind, text: &[u8]) {
        let own = if kind.is_control() { &mut self.control } else { &mut self.data };
        own.follows(text);
        self.all.follows(text);
    }
}

/// The search of what a machine sends.
pub(super) struct Outward {
    case: Arc<Case>,
    ends: Ends,
}

impl Outward {
    pub(super) fn new(case: &Arc<Case>) -> Self {
        Self { case: Arc::clone(case), ends: Ends::default() }
    }

    /// What goes on of a message, or why none of it does; by what is loaded now.
    pub(super) async fn searched(
        &mut self,
        kind: Kind,
        payload: BytesMut,
        share: Share,
    ) -> Result<(BytesMut, Share), Code> {
        let loaded = self.case.shared.loaded().ok_or(Code::NotReady)?;
        let written = (kind == Kind::Text && loaded.scan.takes_out()).then_some(Written::Text);
        let reading = Reading { codings: Vec::new(), written };
        let (payload, share) = search_whole(&self.case, &loaded, reading, payload, share).await?;
        let found = |text: &[u8]| {
            let over = AtomicBool::new(false);
            loaded.scan.whole_body(self.case.host(), &[], text, &over).0.findings
        };
        for (before, joint) in self.ends.with(kind, &payload) {
            let all = found(&joint);
            if all.is_empty() {
                continue;
            }
            // What stands in one of both alone was judged with it.
            let mut alone = found(before);
            alone.extend(found(begin(&payload)));
            let new = all.into_iter().filter(|finding| !alone.contains(finding));
            new.collect::<Vec<_>>()
                .into_iter()
                .try_for_each(|finding| self.case.judge(&loaded, finding))?;
        }
        self.ends.follows(kind, &payload);
        Ok((payload, share))
    }
}

/// The search of what an upstream sends, for credentials that come back.
pub(super) struct Inward {
    redactor: Redactor,
    /// Of which document it has the credentials.
    generation: u64,
    ends: Ends,
}

impl Inward {
    /// By what is loaded now, if there is a credential; it goes on where the one before it was.
    pub(super) fn now(before: Option<Self>, loaded: &Loaded, by_route: bool) -> Option<Self> {
        match before {
            Some(same) if same.generation == loaded.generation => Some(same),
            before => loaded.scan.redactor(by_route).map(|redactor| Self {
                redactor,
                generation: loaded.generation,
                ends: before.map(|before| before.ends).unwrap_or_default(),
            }),
        }
    }

    /// Whether nothing of a credential is in a message, nor in it with what came before. What takes long goes beside
    /// what else there is to do.
    pub(super) async fn searched(
        mut self,
        kind: Kind,
        payload: BytesMut,
        share: Share,
    ) -> Result<(Self, BytesMut, Share), Code> {
        let small = payload.len() <= limits::SEARCHED_AT_ONCE;
        let search = move || {
            let clean = self.passes(&payload)
                && self.ends.with(kind, &payload).all(|(_, joint)| self.passes(&joint));
            self.ends.follows(kind, &payload);
            (clean, self, payload, share)
        };
        let done = if small { Ok(search()) } else { aside(Gone::default(), search).await };
        match done {
            Ok((true, search, payload, share)) => Ok((search, payload, share)),
            // A panic on the way is no reason to let it pass.
            Ok((false, ..)) | Err(_) => Err(Code::ResponseRefused),
        }
    }

    /// In pieces, as what searches them is made for.
    fn passes(&self, text: &[u8]) -> bool {
        let mut redactor = self.redactor.again();
        let mut left = text;
        for piece in text.chunks(PIECE) {
            match left.strip_prefix(&*redactor.push(Bytes::copy_from_slice(piece))) {
                Some(rest) => left = rest,
                None => return false,
            }
        }
        *redactor.finish() == *left
    }
}
