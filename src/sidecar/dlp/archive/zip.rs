//! What a zip holds, by its directory.

use super::Unscanned;

/// Members of one archive that are looked into.
const MEMBERS: usize = 10_000;

/// Ends of a directory that are tried: one that is stored in another has an end of its own.
const ENDS: usize = 64;

/// The data of one member.
pub(super) struct Member<'z> {
    pub(super) stored: bool,
    pub(super) data: &'z [u8],
}

/// What a zip holds that begins a text.
pub(super) struct Listing<'z> {
    /// A member that is encrypted, compressed otherwise, or not where the directory says, is the reason
    /// why it cannot be read.
    pub(super) members: Listed<'z>,
    /// Names, comments and what else stands beside the members, each in a line of its own: where they
    /// stand they touch each other.
    pub(super) names: Vec<u8>,
    /// Where it ends.
    pub(super) end: usize,
}

/// Reads the directory: why not, where there is none.
pub(super) fn listing(bytes: &[u8]) -> Result<Listing<'_>, Unscanned> {
    let ends = memchr::memmem::find_iter(bytes, b"PK\x05\x06").take(ENDS);
    for end in ends {
        let fields = [(10, 2), (12, 4), (16, 4)].map(|(at, width)| number(bytes, end + at, width));
        let [Some(count), Some(size), Some(told)] = fields else { break };
        // Offsets count from its own start, or from that of what stands before it.
        let before = end.checked_sub(size).and_then(|start| told.checked_sub(start));
        // It ends where its directory does, and its first member is where it begins: then it is this one's.
        let before = [0, before.unwrap_or(0)].into_iter().find(|before| {
            let walked = walk(bytes, told - before, count);
            walked.is_some_and(|(at, first)| at == end && (*before == 0 || first == *before))
        });
        let Some(before) = before else { continue };
        if count > MEMBERS {
            return Err(Unscanned::Many);
        }
        // What stands in it is taken over once it is known to be one.
        let all = directory(bytes, before, told - before, count);
        let Some((members, mut names)) = all else { continue };
        let comment = number(bytes, end + 20, 2).and_then(|length| span(bytes, end + 22, length));
        names.extend_from_slice(comment.unwrap_or_default());
        return Ok(Listing { members, names, end: end + 22 });
    }
    Err(Unscanned::Broken)
}

/// Members of an archive, or why one of them cannot be looked into.
pub(super) type Listed<'a> = Vec<Result<Member<'a>, Unscanned>>;

/// Where a directory ends, and the least offset of a member.
fn walk(bytes: &[u8], start: usize, count: usize) -> Option<(usize, usize)> {
    let (mut at, mut first) = (start, usize::MAX);
    for _ in 0..count {
        if bytes.get(at..at + 4)? != b"PK\x01\x02" {
            return None;
        }
        first = first.min(number(bytes, at + 42, 4)?);
        let lengths = [28, 30, 32].map(|length| number(bytes, at + length, 2));
        at += 46 + lengths.into_iter().sum::<Option<usize>>()?;
    }
    Some((at, first))
}

/// The members that a directory names, and all that stands beside them. `before` is what offsets count beside
/// it.
fn directory(
    bytes: &[u8],
    before: usize,
    start: usize,
    count: usize,
) -> Option<(Listed<'_>, Vec<u8>)> {
    let (mut members, mut names) = (Vec::new(), Vec::new());
    // Headers of members are in order. Where one is named again it is not read again.
    let mut headers = 0;
    let mut at = start;
    for _ in 0..count {
        if bytes.get(at..at + 4)? != b"PK\x01\x02" {
            return None;
        }
        members.push(member(bytes, before, at).unwrap_or(Err(Unscanned::Broken)));
        let header = number(bytes, at + 42, 4)?;
        at = fields(bytes, at + 46, at + 28, 3, &mut names)?;
        if let Some(header) = header.checked_sub(before).filter(|header| *header >= headers)
            && let Some(end) = fields(bytes, header + 30, header + 26, 2, &mut names)
        {
            headers = end;
        }
    }
    Some((members, names))
}

/// Takes over fields that stand behind each other, whose lengths stand elsewhere. Says where they end.
fn fields(
    bytes: &[u8],
    start: usize,
    lengths: usize,
    count: usize,
    out: &mut Vec<u8>,
) -> Option<usize> {
    let mut at = start;
    for field in 0..count {
        let text = span(bytes, at, number(bytes, lengths + 2 * field, 2)?)?;
        out.extend_from_slice(text);
        out.push(b'\n');
        at += text.len();
    }
    Some(at)
}

fn span(bytes: &[u8], at: usize, length: usize) -> Option<&[u8]> {
    bytes.get(at..at.checked_add(length)?)
}

fn member(bytes: &[u8], before: usize, entry: usize) -> Option<Result<Member<'_>, Unscanned>> {
    let encrypted = number(bytes, entry + 8, 2)? & 1 != 0;
    let method = number(bytes, entry + 10, 2)?;
    let length = number(bytes, entry + 20, 4)?;
    let header = number(bytes, entry + 42, 4)?.checked_sub(before)?;
    if encrypted {
        return Some(Err(Unscanned::Encrypted));
    }
    if !matches!(method, 0 | 8) {
        return Some(Err(Unscanned::Format));
    }
    if bytes.get(header..header + 4)? != b"PK\x03\x04" {
        return None;
    }
    let start = header + 30 + number(bytes, header + 26, 2)? + number(bytes, header + 28, 2)?;
    let data = bytes.get(start..start.checked_add(length)?)?;
    Some(Ok(Member { stored: method == 0, data }))
}

/// A little-endian number.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(width)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}
