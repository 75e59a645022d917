//! Runs of base64 and hex.

use std::ops::Range;

use super::base64::{self, Decoder};
use super::text::looks_like_text;
use super::{Piece, Pieces, hex};

/// Shorter runs of base64 are words; gitleaks has the same bound.
const BASE64: usize = 16;

/// Shorter runs of hex are numbers.
const HEX: usize = 32;

/// So much is decoded to see whether a run is worth it.
const PROBE: usize = 64;

/// Lines of wrapped base64 are at least so long. 64 and 76 are usual, and others are as easily made.
const LINE: usize = 16;

/// So far a line of wrapped base64 may be indented, as in YAML.
const INDENT: usize = 32;

/// Finds them. A run that touches an encoded character is itself encoded, and waits until that
/// layer is off.
pub(super) fn find(bytes: &[u8], open_start: bool, characters: &[Piece], pieces: &mut Pieces) {
    let mut characters = characters;
    let mut from = 0;
    while let Some(run) = next_run(bytes, from, BASE64, base64::member) {
        from = run.end;
        while let [first, rest @ ..] = characters
            && first.encoded.end < run.start
        {
            characters = rest;
        }
        if characters.first().is_some_and(|first| first.encoded.start <= run.end) {
            continue;
        }
        let phases = if open_start && run.start == 0 { 0..4 } else { 0..1 };
        if find_hex(bytes, run.clone(), pieces) {
            continue;
        }
        for phase in phases {
            if let Some(end) = decode(bytes, run.start + phase..run.end, pieces) {
                from = end;
                break;
            }
        }
    }
}

/// The next run of at least so many members.
fn next_run(
    bytes: &[u8],
    from: usize,
    least: usize,
    member: fn(u8) -> bool,
) -> Option<Range<usize>> {
    let mut start = from;
    loop {
        // From the far end: the first byte that is no member shows where a run cannot begin.
        let probe = bytes.get(start..start + least)?;
        match probe.iter().rposition(|byte| !member(*byte)) {
            Some(at) => start += at + 1,
            None => break,
        }
    }
    let rest = &bytes[start + least..];
    let more = rest.iter().position(|byte| !member(*byte)).unwrap_or(rest.len());
    Some(start..start + least + more)
}

/// Decodes the hex in a run. Whether there was any.
fn find_hex(bytes: &[u8], run: Range<usize>, pieces: &mut Pieces) -> bool {
    let mut found = false;
    let mut from = run.start;
    while let Some(digits) = next_run(&bytes[..run.end], from, HEX, hex::member) {
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
                let end = start + (digits.end - start) / 2 * 2;
                // The mark of a number is no letter before what it stands for.
                let marked = bytes[..start].ends_with(b"0x") || bytes[..start].ends_with(b"0X");
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
fn decode(bytes: &[u8], run: Range<usize>, pieces: &mut Pieces) -> Option<usize> {
    let mark = pieces.text.len();
    let text = &bytes[run.clone()];
    Decoder::default().push(&text[..PROBE.min(text.len())], &mut pieces.text);
    let worth = text.len() >= BASE64 / 2 && looks_like_text(&pieces.text[mark..]);
    pieces.text.truncate(mark);
    if !worth {
        return None;
    }
    let mut decoder = Decoder::default();
    let mut line = run.clone();
    decoder.push(text, &mut pieces.text);
    while let Some(next) = next_line(bytes, &line) {
        decoder.push(&bytes[next.clone()], &mut pieces.text);
        line = next;
    }
    let padding = bytes[line.end..].iter().take(2).take_while(|byte| **byte == b'=').count();
    pieces.add(run.start..line.end + padding, mark);
    Some(line.end)
}

/// The next line of wrapped base64: the one before is long and whole, and only a line break, or
/// one as JSON writes it, stands between.
fn next_line(bytes: &[u8], line: &Range<usize>) -> Option<Range<usize>> {
    if line.len() < LINE || !line.len().is_multiple_of(4) {
        return None;
    }
    let rest = &bytes[line.end..];
    let breaks: [&[u8]; 4] = [b"\n", b"\r\n", br"\n", br"\r\n"];
    let start = line.end + breaks.into_iter().find(|text| rest.starts_with(text))?.len();
    let indent = bytes[start..].iter().take(INDENT).take_while(|b| b" \t".contains(b)).count();
    let start = start + indent;
    let length = bytes[start..].iter().take_while(|byte| base64::member(**byte)).count();
    (length > 0 && length <= line.len()).then(|| start..start + length)
}
