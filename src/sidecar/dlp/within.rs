//! Every text that is written or packed within a text, for whoever looks for something in answers: the
//! decoders are those of the leak search.

use std::ops::Range;
use std::rc::Rc;

use super::archive::find::{self, Kind, Tries};
use super::archive::part;
use super::coding::{self, Coding, Limits};
use super::decode;
use crate::sidecar::unpack::zstd_window;

/// So many layers are taken off.
const DEPTH: usize = 4;

/// Packed parts that are opened.
const PLACES: usize = 16;

/// What is decoded of any text, beyond [`RATIO`] for each of its bytes.
const ANY: usize = 1 << 20;
/// See [`ANY`].
const RATIO: usize = 8;

/// A decoder of zstd takes its window at once.
const ZSTD: usize = 1 << 20;

/// What may still be decoded.
struct Left {
    bytes: usize,
    places: usize,
    /// How often zlib may be tried, in all texts together.
    tries: Rc<Tries>,
}

impl Left {
    fn take(&mut self, text: &[u8]) -> bool {
        let left = self.bytes.checked_sub(text.len());
        self.bytes = left.unwrap_or(0);
        left.is_some()
    }
}

/// Whether a text within this one, at whatever depth, has what is looked for. The text itself is not
/// asked about. `open`: it is the end of a longer one.
pub(in crate::sidecar) fn any_within(text: &[u8], open: bool, has: &dyn Fn(&[u8]) -> bool) -> bool {
    let bytes = ANY + RATIO * text.len();
    let mut left = Left { bytes, places: PLACES, tries: Rc::default() };
    within(text, &decode::runs(text), 0, open, DEPTH, &mut left, has)
}

/// `runs` are the [`decode::runs()`] of the text; nothing packed begins before `from`.
fn within(
    text: &[u8],
    runs: &[Range<usize>],
    from: usize,
    open: bool,
    depth: usize,
    left: &mut Left,
    has: &dyn Fn(&[u8]) -> bool,
) -> bool {
    if depth == 0 || left.bytes == 0 {
        return false;
    }
    let deeper = |inner: &[u8], left: &mut Left| {
        left.take(inner)
            && (has(inner)
                || depth > 1 && within(inner, &decode::runs(inner), 0, false, depth - 1, left, has))
    };
    for part in part::parts(text).into_iter().flatten() {
        let packed = part.layers.filter(|_| left.places > 0).map(Kind::Layers);
        left.places = left.places.saturating_sub(usize::from(packed.is_some()));
        let unpacked = packed.and_then(|kind| unpacked(part.body(text), kind, left.bytes));
        if unpacked.is_some_and(|inner| deeper(&inner, left)) {
            return true;
        }
    }
    for place in find::places(text, from, Rc::clone(&left.tries)) {
        if left.places == 0 {
            break;
        }
        let Some((at, kind)) = place else { continue };
        // What breaks soon is noise more often than not.
        let cut = matches!(kind, Kind::Layers(layers) if layers.is_cut());
        left.places -= usize::from(!cut);
        if unpacked(&text[at..], kind, left.bytes).is_some_and(|inner| deeper(&inner, left)) {
            return true;
        }
    }
    let tries = Rc::clone(&left.tries);
    let mut written = find::written(text, runs, &tries, false).into_iter();
    let deeper_yet = |text: find::Rewritten, left: &mut Left| {
        let find::Rewritten { bytes, runs, from, .. } = text;
        left.take(&bytes)
            && (has(&bytes) || within(&bytes, &runs, from, false, depth - 1, left, has))
    };
    if written.any(|inner| deeper_yet(inner, left)) {
        return true;
    }
    let (texts, _) = decode::decode(text, runs, open);
    texts.into_iter().any(|inner| deeper(&inner.bytes, left))
}

/// What is packed here, as far as it is there.
fn unpacked(bytes: &[u8], kind: Kind, most: usize) -> Option<Vec<u8>> {
    let (codings, from) = match &kind {
        Kind::Coded(coding) => (std::slice::from_ref(coding), 0),
        Kind::Layers(layers) => (layers.codings(), 0),
        Kind::Zip => (&[Coding::RawDeflate][..], deflated_member(bytes)?),
        Kind::Opaque => return None,
    };
    // Of what is within another coding the window is not known.
    let small = zstd_window(bytes).is_some_and(|window| window <= ZSTD);
    if codings.contains(&Coding::Zstd) && !(small && codings.len() == 1) {
        return None;
    }
    let output = u64::try_from(most).unwrap_or(u64::MAX);
    let mut out = Vec::new();
    // It may well be cut off: then it is what came before.
    let _ = coding::decode(
        codings,
        bytes.get(from..)?,
        Limits { output, ratio: u64::MAX },
        &mut |piece| {
            out.extend_from_slice(piece);
        },
    );
    Some(out)
}

/// Where the data of a zip's member begins whose header this is, if it is deflated.
fn deflated_member(header: &[u8]) -> Option<usize> {
    let number =
        |at: usize| Some(usize::from(u16::from_le_bytes([*header.get(at)?, *header.get(at + 1)?])));
    (number(8)? == 8).then_some(30 + number(26)? + number(28)?)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn work_is_bounded_whatever_is_in_a_text() {
        let mut bomb = vec![0; 32 << 20];
        for _ in 0..3 {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(&bomb).unwrap();
            bomb = encoder.finish().unwrap();
            bomb = STANDARD.encode(&bomb).into_bytes();
        }
        let most = ANY + RATIO * bomb.len();
        let asked = std::cell::Cell::new(0);
        let has = |text: &[u8]| {
            asked.set(asked.get() + text.len());
            false
        };
        assert!(!any_within(&bomb, false, &has));
        assert!(asked.get() <= most, "{} of {most}", asked.get());
        assert!(!any_within(b"", true, &has) && !any_within(b"PK\x03\x04", true, &has));
    }
}
