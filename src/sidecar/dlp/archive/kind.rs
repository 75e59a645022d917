//! What something packed is, and how it is packed and written.

use crate::sidecar::dlp::coding::Coding;

/// Something packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sidecar) enum Kind {
    /// In a format that content codings have too.
    Coded(Coding),
    /// Members of their own.
    Zip,
    /// An archive whose format is not read.
    Opaque,
    /// More than one of these, or one that has no first bytes.
    Layers(Layers),
}

/// How something is packed and written: what was applied first stands first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sidecar) struct Layers {
    pub(super) codings: [Coding; LAYERS],
    pub(super) length: usize,
    /// It is a zip that is written so.
    pub(in crate::sidecar) zip: bool,
    /// A head says so.
    pub(super) said: bool,
    /// It breaks soon, or may do so: it may be noise.
    pub(super) cut: bool,
}

/// Three codings, and how what they give is written.
const LAYERS: usize = 4;

impl Default for Layers {
    fn default() -> Self {
        Self { codings: [Coding::Gzip; LAYERS], length: 0, zip: false, said: false, cut: false }
    }
}

impl Layers {
    /// Adds one that was applied later. Nothing: there are too many.
    pub(super) fn push(&mut self, coding: Coding) -> Option<()> {
        *self.codings.get_mut(self.length)? = coding;
        self.length += 1;
        Some(())
    }

    /// Whether it breaks soon, so that it may be noise.
    pub(in crate::sidecar) const fn is_cut(&self) -> bool {
        self.cut
    }

    pub(in crate::sidecar) fn codings(&self) -> &[Coding] {
        &self.codings[..self.length]
    }

    /// Whether what looks so may be something else.
    pub(in crate::sidecar::dlp) const fn begins_by_chance(&self) -> bool {
        !self.zip && !self.said
    }

    /// Whether it is packed, and not only written in another way.
    pub(in crate::sidecar) fn is_packed(&self) -> bool {
        self.zip || self.codings().iter().any(|coding| !coding.is_writing())
    }
}
