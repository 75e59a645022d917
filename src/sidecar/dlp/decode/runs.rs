//! Runs of base64 and hex.

use std::ops::Range;

use super::base64::{self, Decoder};
use super::text::looks_like_text;
use super::{Covered, Piece, Pieces, hex};

/// Shorter runs of base64 are words; gitleaks has the same bound. [`blocks::runs`] knows it.
const BASE64: usize = 16;

/// Shorter runs of hex are numbers.
const HEX: usize = 32;

/// So much is decoded to see whether a run is worth it.
const PROBE: usize = 64;

/// Lines of wrapped base64 are at least so long. 64 and 76 are usual, and others are as easily made.
const LINE: usize = 16;

/// A line so long that another follows is one of base64 also where it is no text. Shorter ones are where
/// the next one is as long.
const LONG_LINE: usize = 60;

/// So far a line of wrapped base64 may be indented, as in YAML.
const INDENT: usize = 32;

/// Finds them. A run that touches an encoded character is itself encoded, and waits until that
/// layer is off.
pub(super) fn find(
    bytes: &[u8],
    runs: &[Range<usize>],
    open_start: bool,
    characters: &[Piece],
    pieces: &mut Pieces,
    covered: &mut Covered,
) {
    let mut characters = characters;
    let mut from = 0;
    for run in runs {
        // It may have been a line of one before.
        if run.start < from {
            continue;
        }
        while let [first, rest @ ..] = characters
            && first.encoded.end < run.start
        {
            characters = rest;
        }
        if characters.first().is_some_and(|first| first.encoded.start <= run.end) {
            continue;
        }
        let run = after_escape(bytes, run.clone());
        let phases = if open_start && run.start == 0 { 0..4 } else { 0..1 };
        if find_hex(bytes, run.clone(), pieces, covered) {
            continue;
        }
        for phase in phases {
            if let Some(end) = decode(bytes, run.start + phase..run.end, pieces, covered) {
                from = end;
                break;
            }
        }
    }
}

/// A run without the letter of an escape before it: `\n` in JSON.
pub(in crate::sidecar::dlp) fn after_escape(bytes: &[u8], run: Range<usize>) -> Range<usize> {
    let escaped = bytes[..run.start].ends_with(b"\\") && b"nrt".contains(&bytes[run.start]);
    run.start + usize::from(escaped)..run.end
}

/// The next run of at least so many digits of hex.
fn next_hex(bytes: &[u8], from: usize) -> Option<Range<usize>> {
    let mut start = from;
    loop {
        // From the far end: the first byte that is no digit shows where a run cannot begin.
        let probe = bytes.get(start..start + HEX)?;
        match probe.iter().rposition(|byte| !hex::member(*byte)) {
            Some(at) => start += at + 1,
            None => break,
        }
    }
    let rest = &bytes[start + HEX..];
    let more = rest.iter().position(|byte| !hex::member(*byte)).unwrap_or(rest.len());
    Some(start..start + HEX + more)
}

/// Decodes the hex in a run. Whether there was any.
fn find_hex(bytes: &[u8], run: Range<usize>, pieces: &mut Pieces, covered: &mut Covered) -> bool {
    let mut found = false;
    let mut from = run.start;
    while let Some(digits) = next_hex(&bytes[..run.end], from) {
        from = digits.end;
        // A digit before the first pair may belong to what stands before.
        for start in [digits.start, digits.start + 1] {
            let text = &bytes[start..digits.end];
            let mark = pieces.text.len();
            hex::decode(&text[..PROBE.min(text.len())], &mut pieces.text);
            let worth = looks_like_text(&pieces.text[mark..]);
            pieces.text.truncate(mark);
            if worth {
                hex::decode(text, &mut pieces.text);
                covered.add(start..digits.end, 2);
                let end = start + (digits.end - start) / 2 * 2;
                // The mark of a number is no letter before what it stands for.
                let marked = bytes[..start].ends_with(b"0x") || bytes[..start].ends_with(b"0X");
                // Its digit may be the last one of what stands before.
                let marked =
                    marked && pieces.list.last().is_none_or(|last| last.encoded.end <= start - 2);
                let start = if marked { start - 2 } else { start };
                pieces.add(start..end, mark);
                found = true;
                break;
            }
        }
    }
    found
}

/// Decodes base64 that begins at a run and may go on over further lines. Says where it ends.
fn decode(
    bytes: &[u8],
    run: Range<usize>,
    pieces: &mut Pieces,
    covered: &mut Covered,
) -> Option<usize> {
    let mark = pieces.text.len();
    let text = &bytes[run.clone()];
    Decoder::default().push(&text[..PROBE.min(text.len())], &mut pieces.text);
    let worth = text.len() >= BASE64 / 2 && looks_like_text(&pieces.text[mark..]);
    let worth = worth || is_wrapped(bytes, &run);
    pieces.text.truncate(mark);
    if !worth {
        return None;
    }
    let mut decoder = Decoder::default();
    let mut line = run.clone();
    decoder.push(text, &mut pieces.text);
    covered.add(line.clone(), 4);
    while let Some(next) = next_line(bytes, &line) {
        decoder.push(&bytes[next.clone()], &mut pieces.text);
        covered.add(next.clone(), 4);
        line = next;
    }
    let padding = bytes[line.end..].iter().take(2).take_while(|byte| **byte == b'=').count();
    pieces.add(run.start..line.end + padding, mark);
    Some(line.end)
}

/// Whether this is a line of base64 whatever it stands for. Sums in hex stand in lines, too.
fn is_wrapped(bytes: &[u8], line: &Range<usize>) -> bool {
    next_line(bytes, line).is_some_and(|next| line.len() >= LONG_LINE || next.len() == line.len())
        && !bytes[line.clone()].iter().all(|byte| hex::member(*byte))
}

/// The next line of wrapped base64: the one before is long and whole, and only a line break, or
/// one as JSON writes it, also in JSON, stands between.
fn next_line(bytes: &[u8], line: &Range<usize>) -> Option<Range<usize>> {
    if line.len() < LINE || !line.len().is_multiple_of(4) {
        return None;
    }
    let rest = &bytes[line.end..];
    let breaks: [&[u8]; 6] = [b"\n", b"\r\n", br"\n", br"\r\n", br"\\n", br"\\r\\n"];
    let start = line.end + breaks.into_iter().find(|text| rest.starts_with(text))?.len();
    let indent = bytes[start..].iter().take(INDENT).take_while(|b| b" \t".contains(b)).count();
    let start = start + indent;
    let length = bytes[start..].iter().take_while(|byte| base64::member(**byte)).count();
    // The boundary of a form, whose dashes are letters too, is no line of it.
    let ends = bytes[start..].starts_with(b"--");
    (length > 0 && length <= line.len() && !ends).then(|| start..start + length)
}
