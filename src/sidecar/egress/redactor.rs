//! Stands in until the redaction of credentials is joined.
use bytes::Bytes;

pub(super) struct Redactor;

impl Redactor {
    pub(super) fn push(&mut self, data: Bytes) -> Bytes {
        data
    }
    pub(super) fn finish(self) -> Bytes {
        Bytes::new()
    }
    pub(super) fn again(&self) -> Self {
        Self
    }
}
