//! What is looked for in a message, whichever way it goes.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::{Bytes, BytesMut};

use super::frame::Kind;
use crate::sidecar::Code;
use crate::sidecar::credential::Redactor;
use crate::sidecar::dlp::Written;
use crate::sidecar::egress::case::Case;
use crate::sidecar::egress::search::{Reading, search_whole};
use crate::sidecar::egress::share::Share;
use crate::sidecar::egress::state::Loaded;

/// So much of what went before is searched again with the begin of what follows: who cuts a secret in two sends it in
/// two messages.
const BEFORE: usize = 4 * 1024;

/// The end of all that went one way.
#[derive(Default)]
struct Before(Vec<u8>);

impl Before {
    /// It, and the begin of what follows.
    fn with(&self, next: &[u8]) -> Option<Vec<u8>> {
        let begin = next.get(..BEFORE).unwrap_or(next);
        (!self.0.is_empty() && !begin.is_empty()).then(|| [&self.0, begin].concat())
    }

    fn follows(&mut self, text: &[u8]) {
        let end = text.len().saturating_sub(BEFORE);
        self.0.extend_from_slice(&text[end..]);
        let old = self.0.len().saturating_sub(BEFORE);
        self.0.drain(..old);
    }
}

/// The search of what a machine sends.
pub(super) struct Outward {
    case: Arc<Case>,
    loaded: Arc<Loaded>,
    before: Before,
}

impl Outward {
    pub(super) fn new(case: &Arc<Case>, loaded: &Arc<Loaded>) -> Self {
        Self { case: Arc::clone(case), loaded: Arc::clone(loaded), before: Before::default() }
    }

    /// What goes on of a message, or why none of it does.
    pub(super) async fn searched(
        &mut self,
        kind: Kind,
        payload: BytesMut,
        share: Share,
    ) -> Result<(BytesMut, Share), Code> {
        let written = (kind == Kind::Text && self.loaded.scan.takes_out()).then(|| {
            let begin = payload.iter().find(|byte| !byte.is_ascii_whitespace());
            if begin.is_some_and(|byte| b"{[\"".contains(byte)) {
                Written::Json
            } else {
                Written::Text
            }
        });
        let reading = Reading { codings: Vec::new(), written };
        let (payload, share) =
            search_whole(&self.case, &self.loaded, reading, payload, share).await?;
        if let Some(joint) = self.before.with(&payload) {
            let over = AtomicBool::new(false);
            let (report, _) = self.loaded.scan.whole_body(self.case.host(), &[], &joint, &over);
            report.findings.into_iter().try_for_each(|finding| self.loaded.scan.judge(finding))?;
        }
        self.before.follows(&payload);
        Ok((payload, share))
    }
}

/// The search of what an upstream sends, for credentials that come back.
pub(super) struct Inward {
    redactor: Redactor,
    before: Before,
}

impl Inward {
    pub(super) fn new(redactor: Redactor) -> Self {
        Self { redactor, before: Before::default() }
    }

    /// Whether nothing of a credential is in a message, nor in it with what came before.
    pub(super) fn is_clean(&mut self, payload: &[u8]) -> bool {
        let clean = self.passes(payload)
            && self.before.with(payload).is_none_or(|joint| self.passes(&joint));
        self.before.follows(payload);
        clean
    }

    fn passes(&self, text: &[u8]) -> bool {
        let mut redactor = self.redactor.again();
        let first = redactor.push(Bytes::copy_from_slice(text));
        let rest = redactor.finish();
        first.len() + rest.len() == text.len() && text.starts_with(&first) && text.ends_with(&rest)
    }
}
