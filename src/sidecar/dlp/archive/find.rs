//! Where something packed begins in a text: as it stands, or written in base64, hex or escapes.

mod anywhere;
mod escapes;
mod zlib;

use std::borrow::Borrow;
use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

pub(in crate::sidecar::dlp) use self::anywhere::anywhere;
pub(in crate::sidecar::dlp) use self::escapes::begins_in_escapes;
use self::escapes::{begins_escaped, unescape};
#[cfg(test)]
pub(super) use self::zlib::TRIED;
pub(super) use self::zlib::TRIED_BYTES;
pub(in crate::sidecar::dlp) use self::zlib::Tries;
use self::zlib::{Inflates, begins_zlib, inflates, soon};
pub(in crate::sidecar::dlp) use super::Kind;
use super::{Layers, part};
use crate::sidecar::dlp::coding::Coding;
use crate::sidecar::dlp::decode;
use crate::sidecar::unpack::{Letters, Way};

/// A shorter run of base64 or hex holds no token in anything packed.
const SHORTEST: usize = 40;

/// What stands at the beginning of each kind. Those of zlib are so short that what follows is tried.
const MAGICS: [(&[u8], Kind); 13] = [
    (b"\x1f\x8b\x08", Kind::Coded(Coding::Gzip)),
    (b"\x28\xb5\x2f\xfd", Kind::Coded(Coding::Zstd)),
    (b"PK\x03\x04", Kind::Zip),
    (b"BZh", Kind::Opaque),
    (b"\xfd7zXZ\0", Kind::Opaque),
    (b"7z\xbc\xaf\x27\x1c", Kind::Opaque),
    (b"Rar!\x1a\x07", Kind::Opaque),
    (b"\x04\x22\x4d\x18", Kind::Opaque),
    (b"\x78\x01", Kind::Coded(Coding::Deflate)),
    (b"\x78\x5e", Kind::Coded(Coding::Deflate)),
    (b"\x78\x9c", Kind::Coded(Coding::Deflate)),
    (b"\x78\xda", Kind::Coded(Coding::Deflate)),
    (b"\x5d\0\0", Kind::Opaque),
];

static AUTOMATON: LazyLock<AhoCorasick> = LazyLock::new(|| {
    let magics = MAGICS.iter().map(|(magic, _)| magic);
    AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostFirst)
        .build(magics)
        .expect("a few short literals")
});

/// All places from there on where something packed begins, in order. One is none if zlib may begin there and
/// behind it, and cannot be tried any more.
pub(in crate::sidecar::dlp) fn places(
    bytes: &[u8],
    from: usize,
    tries: impl Borrow<Tries>,
) -> impl Iterator<Item = Option<(usize, Kind)>> {
    let mut told = false;
    AUTOMATON.find_iter(&bytes[from..]).filter_map(move |found| {
        let kind = MAGICS[found.pattern().as_usize()].1;
        let at = from + found.start();
        if kind == Kind::Coded(Coding::Deflate) {
            // What is packed in a picture is the picture.
            if bytes[..at].ends_with(b"IDAT") || !begins_zlib(&bytes[at..]) {
                return None;
            }
            if !tries.borrow().take() {
                return (!std::mem::replace(&mut told, true)).then_some(None);
            }
            return match inflates(&bytes[at..]) {
                Inflates::No => None,
                Inflates::Soon => Some(Some((at, soon(None)?))),
                Inflates::Well => Some(Some((at, kind))),
            };
        }
        is(kind, &bytes[at..]).then_some(Some((at, kind)))
    })
}

/// Where a text packed in gzip or zlib begins in this one.
pub(in crate::sidecar) fn begins_packed(bytes: &[u8]) -> Option<usize> {
    let coded = [Kind::Coded(Coding::Gzip), Kind::Coded(Coding::Deflate)];
    let mut places = places(bytes, 0, Tries::default()).flatten();
    places.find(|(_, kind)| coded.contains(kind)).map(|(at, _)| at)
}

/// What a text is by its first bytes.
pub(super) fn kind(bytes: &[u8]) -> Option<Kind> {
    let mut kinds = MAGICS.iter().filter(|(magic, _)| bytes.starts_with(magic));
    kinds.find(|(_, kind)| is(*kind, bytes)).map(|(_, kind)| *kind)
}

/// Whether what begins with the first bytes of a kind is of that kind, where they are not enough.
fn is(kind: Kind, bytes: &[u8]) -> bool {
    match bytes {
        _ if kind == Kind::Coded(Coding::Deflate) => inflates(bytes) == Inflates::Well,
        [b'B', b'Z', b'h', _, rest @ ..] => rest.starts_with(b"\x31\x41\x59\x26\x53\x59"),
        // That of lzma, with a dictionary of a usual size, and no length or a small one.
        [0x5d, 0, 0, one, two, length @ ..] => {
            let small = |length: &[u8]| length.starts_with(&[0xff; 8]) || length[4..] == [0; 4];
            (*two, one.is_power_of_two()) == (0, true) && length.get(..8).is_some_and(small)
        }
        _ => true,
    }
}

/// All places in a text that streams where something packed begins, in order: as it stands, in base64 or
/// hex, and in parts of forms that say so. A place may be none where there are too many to try.
pub(in crate::sidecar::dlp) fn streamed(
    bytes: &[u8],
    runs: &[Range<usize>],
) -> impl Iterator<Item = Option<(usize, Kind)>> {
    let mut others: Vec<(usize, Kind)> = Vec::new();
    let mut many = false;
    for part in part::parts(bytes) {
        let Some(part) = part else {
            many = true;
            break;
        };
        // A shorter one is none yet.
        if bytes.len() < part.start + BEGIN || part.layers.is_some_and(|all| !all.is_packed()) {
            continue;
        }
        others.push((part.start, part.layers.map_or(Kind::Opaque, Kind::Layers)));
    }
    for place in written_places(bytes, runs) {
        match place {
            Some(place) => others.push(place),
            None => many = true,
        }
    }
    // What a head says goes before what it looks like.
    others.sort_by_key(|(at, _)| *at);
    others.dedup_by_key(|(at, _)| *at);
    let mut others = others.into_iter().peekable();
    let mut magics = places(bytes, 0, Tries::default()).peekable();
    std::iter::from_fn(move || {
        if std::mem::take(&mut many) {
            return Some(None);
        }
        let first = others.peek().map(|(at, _)| *at);
        match (first, magics.peek()) {
            (Some(at), Some(Some((magic, _)))) if *magic < at => magics.next(),
            (Some(_), _) => others.next().map(Some),
            (None, _) => magics.next(),
        }
    })
}

/// By so much a decoder knows how much memory it takes.
const BEGIN: usize = 16;

/// First bytes of gzip, zip, zstd and zlib as they look in base64.
const WRITTEN: [&str; 19] = [
    "H4sI", "UEsDB", "KLUv", "eAE", "eAF", "eAG", "eAH", "eF4", "eF5", "eF6", "eF7", "eJw", "eJx",
    "eJy", "eJz", "eNo", "eNp", "eNq", "eNr",
];

// None of them begins another. Only such an automaton skips through a text by what they begin with.
static WRITTEN_BEGINS: LazyLock<AhoCorasick> = LazyLock::new(|| {
    let builder = &mut AhoCorasick::builder();
    builder.match_kind(MatchKind::LeftmostFirst).build(WRITTEN).expect("a few literals")
});

/// So much is decoded to see what begins there. Of zlib more is tried.
const PROBE: usize = 96;
const PROBE_ZLIB: usize = 3 * TRIED_BYTES;

/// Where something packed begins that is written in base64 or hex. One is none if zlib may begin there, and
/// cannot be tried any more.
fn written_places(
    bytes: &[u8],
    runs: &[Range<usize>],
) -> impl Iterator<Item = Option<(usize, Kind)>> {
    let of_runs = joined(bytes, runs).map(move |run| {
        let way = if is_hex(&bytes[run.clone()]) { Way::Hex } else { Way::Base64 };
        (run.start, way, PROBE)
    });
    // An escape may cut a run short that begins so.
    let begins = WRITTEN_BEGINS.find_iter(bytes).filter_map(move |found| {
        let at = found.start();
        let before = bytes[..at].last().is_some_and(|byte| decode::is_member(*byte));
        let escape = before && decode::after_escape(bytes, at - 1..at).is_empty();
        let sure = found.pattern().as_usize() < 3;
        (!before || escape).then_some((at, Way::Base64, if sure { 16 } else { PROBE_ZLIB }))
    });
    let tries = Tries::default();
    let mut told = false;
    of_runs.chain(begins).filter_map(move |(at, way, probe)| {
        let begin = |length: usize| Letters::begin(way, &bytes[at..bytes.len().min(at + length)]);
        let begun = begin(PROBE.min(probe));
        let coding = if way == Way::Hex { Coding::Hex } else { Coding::Base64 };
        let mut layers = Layers::default();
        if let [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..] = begun[..] {
            if !begins_zlib(&begun) {
                return None;
            }
            if !tries.take() {
                return (!std::mem::replace(&mut told, true)).then_some(None);
            }
            match inflates(&begin(PROBE_ZLIB)) {
                Inflates::No => return None,
                Inflates::Soon => return Some(Some((at, soon(Some(coding))?))),
                Inflates::Well => layers.push(Coding::Deflate)?,
            }
        } else {
            // Only what begins there.
            let kind = kind(&begun)?;
            match kind {
                Kind::Coded(coding) => layers.push(coding)?,
                Kind::Zip => layers.zip = true,
                Kind::Opaque | Kind::Layers(_) => return Some(Some((at, kind))),
            }
        }
        layers.push(coding)?;
        Some(Some((at, Kind::Layers(layers))))
    })
}

/// Whether something packed begins in a text that is not held as a whole, as it stands or written in
/// another way. By its first bytes alone.
pub(in crate::sidecar::dlp) fn begins_in(bytes: &[u8], runs: &[Range<usize>]) -> bool {
    // What may be noise is none, and what cannot be tried may be any.
    let surely = |place: Option<(usize, Kind)>| !matches!(place, Some((_, Kind::Layers(layers))) if layers.is_cut());
    places(bytes, 0, Tries::default()).any(surely)
        || written_places(bytes, runs).any(surely)
        || begins_in_escapes(bytes)
}

/// What may be base64 or hex and is long enough to be something packed, by the [`decode::runs()`]. Lines of
/// one text are one.
fn joined(bytes: &[u8], runs: &[Range<usize>]) -> impl Iterator<Item = Range<usize>> {
    let mut lines = runs.iter().peekable();
    std::iter::from_fn(move || {
        let mut run = decode::after_escape(bytes, lines.next()?.clone());
        while let Some(next) = lines.peek() {
            let between = &bytes[run.end..next.start];
            let escaped = matches!(between, b"\\" | b"\\\\" | b"\\r\\" | b"\\\\r\\\\")
                && bytes.get(next.start) == Some(&b'n');
            let breaks = matches!(between, b"\n" | b"\r\n" | b"=\n" | b"=\r\n") || escaped;
            // The boundary of a form, whose dashes are members of base64 too, is none of its lines.
            if !breaks || bytes[next.start..].starts_with(b"--") {
                break;
            }
            run.end = next.end;
            lines.next();
        }
        // The last line may be short.
        let rest = &bytes[run.end..];
        let breaks: [&[u8]; 6] = [b"\n", b"\r\n", br"\n", br"\r\n", br"\\n", br"\\r\\n"];
        if let Some(line) = breaks.into_iter().find_map(|text| rest.strip_prefix(text)) {
            let length = line.iter().take_while(|byte| decode::is_member(**byte)).count();
            if (1..16).contains(&length) && !line.starts_with(b"--") {
                run.end += rest.len() - line.len() + length;
            }
        }
        Some(run)
    })
    .filter(|run| run.len() >= SHORTEST)
}

/// Whether a run is of hex, by its first line.
fn is_hex(text: &[u8]) -> bool {
    let line = text.iter().position(|byte| !byte.is_ascii_alphanumeric()).unwrap_or(text.len());
    // What base64 has beside letters and digits ends no line.
    let ends = text.get(line).is_none_or(|byte| !decode::is_member(*byte));
    ends && line >= 2 && text[..line.min(64)].iter().all(u8::is_ascii_hexdigit)
}

/// What a run of base64 or hex stands for.
fn decoded(bytes: &[u8], run: Range<usize>) -> Vec<u8> {
    let text = &bytes[run];
    if is_hex(text) {
        let digits: Vec<u8> = text.iter().copied().filter(u8::is_ascii_hexdigit).collect();
        return ::hex::decode(&digits[..digits.len() / 2 * 2]).unwrap_or_default();
    }
    let mut kept = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b'-' => kept.push(b'+'),
            b'_' => kept.push(b'/'),
            // A line break, as JSON writes it, also in JSON.
            b'\\' => at += 1 + usize::from(text.get(at + 1) == Some(&b'\\')),
            b'\r' | b'\n' | b'=' => {}
            byte => kept.push(*byte),
        }
        at += 1;
    }
    kept.truncate(kept.len() / 4 * 4 + if kept.len() % 4 > 1 { kept.len() % 4 } else { 0 });
    let lenient = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone);
    GeneralPurpose::new(&STANDARD, lenient).decode(kept).unwrap_or_default()
}

/// A text that was written in another way.
pub(in crate::sidecar::dlp) struct Rewritten {
    pub(in crate::sidecar::dlp) bytes: Vec<u8>,
    /// Its [`decode::runs()`].
    pub(in crate::sidecar::dlp) runs: Vec<Range<usize>>,
    /// Before this place nothing packed begins as it stands.
    pub(in crate::sidecar::dlp) from: usize,
    /// It is what base64 or hex stands for. Of what escapes stand for some may be none.
    pub(in crate::sidecar::dlp) exact: bool,
}

/// Every text that is written in another way within a text, if something packed may be in it. `runs` are the
/// [`decode::runs()`] of that. `head`: it is one, in which all percent is undone, and short runs count.
pub(in crate::sidecar::dlp) fn written(
    bytes: &[u8],
    runs: &[Range<usize>],
    tries: &Tries,
    head: bool,
) -> Vec<Rewritten> {
    let first = begins_escaped(bytes);
    // What is part of base64 and is escaped, so that it ends there.
    let breaks: [(u8, &[&[u8]]); 3] = [
        (b'%', &[b"%2B", b"%2b", b"%2F", b"%2f", b"%0A", b"%0a", b"%0D", b"%0d"]),
        (b'=', &[b"=\n", b"=\r\n", b"=3D"]),
        (b'\\', &[b"\\/", b"\\u002"]),
    ];
    let broken = |text: &&[u8]| memchr::memmem::find(bytes, text).is_some();
    let marks = breaks
        .into_iter()
        .filter(|(mark, breaks)| first || head && *mark == b'%' || breaks.iter().any(broken));
    let marks: Vec<u8> = marks.map(|(mark, _)| mark).collect();
    // A run that ends at an escape goes on behind it: it is read where that is undone.
    let cut = |run: &Range<usize>| {
        let rest = &bytes[run.end..];
        let escape = match rest {
            [b'%', high, low, ..] => high.is_ascii_hexdigit() && low.is_ascii_hexdigit(),
            [b'\\', next, ..] => b"ux/bfnrt\"\\".contains(next),
            _ => false,
        };
        escape && marks.contains(&rest[0])
    };
    let joined = joined(bytes, runs).filter(|run| !cut(run)).map(|run| decoded(bytes, run));
    let mut all: Vec<Rewritten> =
        joined.filter_map(|text| may_hold(text, true, tries, head)).collect();
    for mark in marks {
        let mut text = Vec::new();
        if unescape(bytes, mark, &mut text) {
            all.extend(may_hold(text, false, tries, head));
        }
    }
    all
}

/// The text, if something packed may be in it. What was tried for that is not tried again.
fn may_hold(bytes: Vec<u8>, exact: bool, tries: &Tries, head: bool) -> Option<Rewritten> {
    let runs = decode::runs(&bytes);
    let mut from = 0;
    if (!head || runs.is_empty())
        && joined(&bytes, &runs).next().is_none()
        && !begins_escaped(&bytes)
    {
        // Where it could not be tried, whoever goes on from there is told.
        let first = places(&bytes, 0, tries).next()?;
        from = first.map_or(from, |(at, _)| at);
    }
    Some(Rewritten { bytes, runs, from, exact })
}
