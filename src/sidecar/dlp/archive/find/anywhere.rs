//! Something packed that is written in base64 or hex behind letters of base64 that are no part of it: in a
//! URL `/`, `-` and `_` stand between words.

use std::ops::Range;

use super::{Inflates, begins_zlib, inflates, kind};
use super::{PROBE, PROBE_ZLIB, Rewritten, SHORTEST, Tries, WRITTEN};
use crate::sidecar::dlp::decode;
use crate::sidecar::unpack::{Letters, Way};

/// A value of eight bytes is no shorter in anything that packs it.
const LEAST: usize = 16;

/// First bytes of gzip, zip, zstd and zlib as they look in hex.
const HEX: [&str; 7] = ["1f8b08", "504b0304", "28b52ffd", "7801", "785e", "789c", "78da"];

/// Every text that begins within one of the [`decode::runs()`] and is packed, or is text again behind a
/// separator. One is none if zlib may begin there, and cannot be tried any more.
pub(in crate::sidecar::dlp) fn anywhere(
    bytes: &[u8],
    runs: &[Range<usize>],
    tries: &Tries,
) -> impl Iterator<Item = Option<Rewritten>> {
    runs.iter().flat_map(move |run| {
        // A long one is read from its first letter on in any case.
        let first = decode::after_escape(bytes, run.clone()).start;
        let first = first + usize::from(run.len() >= SHORTEST);
        (first..run.end).filter_map(move |at| begun(bytes, at..run.end, tries))
    })
}

fn begun(bytes: &[u8], run: Range<usize>, tries: &Tries) -> Option<Option<Rewritten>> {
    let text = &bytes[run.clone()];
    let way = match text[0] {
        b'e' | b'H' | b'K' | b'U' if WRITTEN.iter().any(|first| begins(text, first, false)) => {
            Way::Base64
        }
        b'1' | b'2' | b'5' | b'7' if HEX.iter().any(|first| begins(text, first, true)) => Way::Hex,
        _ => return words(bytes, run).map(Some),
    };
    let begin = |length: usize| Letters::begin(way, &text[..text.len().min(length)]);
    let begun = begin(PROBE);
    if begun.len() < LEAST {
        return None;
    }
    if begun[0] == 0x78 {
        if !begins_zlib(&begun) {
            return None;
        }
        if !tries.take() {
            return Some(None);
        }
        if inflates(&begin(PROBE_ZLIB)) == Inflates::No {
            return None;
        }
    } else {
        kind(&begun)?;
    }
    Some(Some(rewritten(begin(text.len()))))
}

/// Base64 of text behind a separator, in which something packed may be written again.
fn words(bytes: &[u8], run: Range<usize>) -> Option<Rewritten> {
    let before = bytes[..run.start].last()?;
    if run.len() < SHORTEST || !b"/-_+".contains(before) {
        return None;
    }
    let text = &bytes[run];
    let plain = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    let begun = Letters::begin(Way::Base64, &text[..text.len().min(PROBE)]);
    begun.iter().all(plain).then(|| rewritten(Letters::begin(Way::Base64, text)))
}

fn rewritten(bytes: Vec<u8>) -> Rewritten {
    let runs = decode::runs(&bytes);
    Rewritten { bytes, runs, from: 0, exact: true }
}

fn begins(text: &[u8], with: &str, any_case: bool) -> bool {
    let Some(first) = text.get(..with.len()) else { return false };
    if any_case { first.eq_ignore_ascii_case(with.as_bytes()) } else { first == with.as_bytes() }
}
