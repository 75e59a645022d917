//! The parts of a form that are text.

use std::ops::Range;

use super::Written;

/// A head of more bytes is none that somebody meant to send.
const HEAD: usize = 4 << 10;

/// Where the parts are that something can be taken out of, and how each is written. Nothing: it is not made of
/// such parts as its type says.
pub(super) fn texts(text: &[u8], boundary: &[u8]) -> Option<Vec<(Range<usize>, Written)>> {
    let line = [b"\r\n--", boundary].concat();
    let first = &line[2..];
    let mut at = match text.starts_with(first) {
        true => first.len(),
        // What stands before the first part is for nobody.
        false => memchr::memmem::find(text, &line)? + line.len(),
    };
    let mut all = Vec::new();
    loop {
        let rest = &text[at..];
        if rest.starts_with(b"--") {
            return Some(all);
        }
        let white = rest.iter().take_while(|byte| b" \t".contains(byte)).count();
        let head = rest[white..].strip_prefix(b"\r\n")?;
        // The fields, with the line break before each.
        let begin = at + white;
        let length = memchr::memmem::find(&text[begin..], b"\r\n\r\n")?;
        if length > HEAD || head.is_empty() {
            return None;
        }
        let body = begin + length + 4;
        // An empty part ends with the line break of its head.
        let end = memchr::memmem::find(&text[body - 2..], &line)? + body - 2;
        if end > body
            && let Some(written) = written(&text[begin..begin + length])
        {
            all.push((body..end, written));
        }
        at = end + line.len();
    }
}

/// How a part with this head is written, if it is text as it stands.
fn written(head: &[u8]) -> Option<Written> {
    let mut written = Some(Written::Text);
    for field in head.split(|byte| *byte == b'\n') {
        let field = field.trim_ascii_end();
        if field.is_empty() {
            continue;
        }
        let colon = field.iter().position(|byte| *byte == b':')?;
        let (name, value) = (&field[..colon], field[colon + 1..].trim_ascii());
        match name.to_ascii_lowercase().as_slice() {
            b"content-type" => {
                written = Written::of_type(value);
                if matches!(written, Some(Written::Parts(_))) {
                    return None;
                }
            }
            b"content-encoding" => return None,
            b"content-transfer-encoding" => {
                let value = value.to_ascii_lowercase();
                if ![&b"7bit"[..], b"8bit", b"binary"].contains(&value.as_slice()) {
                    return None;
                }
            }
            _ => {}
        }
        written.as_ref()?;
    }
    written
}
