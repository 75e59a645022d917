//! Text that a file, an engine or a guest wrote, made harmless for a terminal. Pure.

mod spelled;
mod unseen;

use std::fmt::Write as _;

pub use spelled::{columns_of, quoted_lines, spelled, spelled_line};

/// What stands in the place of a character that is not shown.
pub const REPLACEMENT: char = '\u{fffd}';

/// The first character of a text that is not to be shown, beside those of `also`, and where it stands:
/// control characters, and whatever makes text look other than it is.
#[must_use]
pub fn first_unseen(text: &str, also: &str) -> Option<(usize, char)> {
    unseen::each(text).find_map(|(at, c, hidden)| (hidden && !also.contains(c)).then_some((at, c)))
}

/// Text with something else in the place of what is not to be shown, beside the characters of `also`.
#[must_use]
pub fn replaced(text: &str, also: &str, by: char) -> String {
    let shown = |(_, c, hidden): (usize, char, bool)| {
        if hidden && !also.contains(c) { by } else { c }
    };
    unseen::each(text).map(shown).collect()
}

/// Text as a terminal shows it without being moved by it; line ends and tabs stay.
#[must_use]
pub fn harmless(text: &str) -> String {
    replaced(text, "\n\t", REPLACEMENT)
}

/// The same in one line.
#[must_use]
pub fn harmless_line(text: &str) -> String {
    replaced(text, "", REPLACEMENT)
}

/// Our own text, in which colours are and what others wrote should have been made harmless: the last
/// look before it is written. Plain colours (`ESC [ … m`) pass.
#[must_use]
pub fn only_colours(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut colour_ends = 0;
    for (at, c, hidden) in unseen::each(text) {
        if at >= colour_ends
            && let Some(length) = colour(&text.as_bytes()[at..])
        {
            colour_ends = at + length;
        }
        let keep = at < colour_ends || !hidden || matches!(c, '\n' | '\t');
        out.push(if keep { c } else { REPLACEMENT });
    }
    out
}

/// How long the colour sequence is that this begins with.
fn colour(bytes: &[u8]) -> Option<usize> {
    let parameters = bytes.strip_prefix(b"\x1b[")?;
    let length = parameters.iter().take_while(|b| b.is_ascii_digit() || **b == b';').count();
    (length <= 32 && parameters.get(length) == Some(&b'm')).then_some(length + 3)
}

/// JSON in which what a terminal would obey or hide stands as `\u….`: the same document.
#[must_use]
pub fn escaped_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for (_, c, hidden) in unseen::each(json) {
        if c.is_ascii() && c != '\u{7f}' || !hidden {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    out
}

/// Makes a stream of bytes harmless, piece by piece: characters and sequences may be cut anywhere.
/// Colours are dropped, all else that a terminal would obey or hide is replaced.
#[derive(Debug, Default)]
pub struct Harmless {
    held: Vec<u8>,
    /// The last character that went on.
    before: Option<char>,
}

impl Harmless {
    /// No sequence that is dropped is longer.
    const LONGEST: usize = 40;

    /// What of these bytes can be shown by now.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        self.take(false)
    }

    /// What was held back for what did not come.
    pub fn finish(&mut self) -> String {
        self.take(true)
    }

    fn take(&mut self, last: bool) -> String {
        let held = std::mem::take(&mut self.held);
        let mut out = String::with_capacity(held.len());
        let mut rest: &[u8] = &held;
        while let Some(first) = rest.first() {
            if *first == 0x1b {
                if let Some(length) = colour(rest) {
                    rest = &rest[length..];
                    continue;
                }
                if !last && rest.len() < Self::LONGEST && may_become_a_colour(rest) {
                    break;
                }
            }
            if *first == b'\r' && !last && rest.len() == 1 {
                break;
            }
            if rest.starts_with(b"\r\n") {
                rest = &rest[1..];
                continue;
            }
            let Some((c, length)) = decoded(rest, last) else { break };
            let after = decoded(&rest[length..], last);
            if after.is_none() && !last && unseen::waits(c) {
                break;
            }
            rest = &rest[length..];
            let after = after.map(|(c, _)| c);
            let keep = matches!(c, '\n' | '\t') || !unseen::hidden(self.before, c, after);
            out.push(if keep { c } else { REPLACEMENT });
            self.before = Some(c);
        }
        self.held = rest.to_vec();
        out
    }
}

/// The first character of these bytes, and how many of them it is. None: more have to come.
fn decoded(bytes: &[u8], last: bool) -> Option<(char, usize)> {
    let chunk = bytes.get(..bytes.len().min(4)).unwrap_or_default().utf8_chunks().next()?;
    if let Some(c) = chunk.valid().chars().next() {
        return Some((c, c.len_utf8()));
    }
    let length = chunk.invalid().len();
    // Only what ends in the middle of a character may become one.
    let cut = std::str::from_utf8(chunk.invalid()).is_err_and(|error| error.error_len().is_none());
    (last || !cut || length < bytes.len()).then_some((REPLACEMENT, length))
}

fn may_become_a_colour(bytes: &[u8]) -> bool {
    match bytes {
        [0x1b] => true,
        [0x1b, b'[', parameters @ ..] => {
            parameters.iter().all(|b| b.is_ascii_digit() || *b == b';')
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a terminal must not get, by name.
    const HOSTILE: [(&str, &str); 21] = [
        ("OSC 52", "\u{1b}]52;c;QUJD\u{7}"),
        ("OSC 0", "\u{1b}]0;title\u{1b}\\"),
        ("CSI 2J", "\u{1b}[2J"),
        ("private CSI", "\u{1b}[?1049h"),
        ("CSI with an intermediate", "\u{1b}[1;2;3 m"),
        ("C1 CSI", "\u{9b}2J"),
        ("C1 OSC", "\u{9d}0;x\u{9c}"),
        ("bell and backspace", "\u{7}\u{8}"),
        ("carriage return", "a\rb"),
        ("delete", "\u{7f}"),
        ("bidi", "\u{202e}\u{2066}\u{200f}"),
        ("Arabic letter mark", "\u{61c}"),
        ("tags", "\u{e0041}\u{e007f}"),
        ("zero width", "\u{200b}\u{2060}\u{feff}"),
        ("variation selectors", "\u{fe01}\u{e0100}\u{e01ef}"),
        ("line separators", "\u{2028}\u{2029}\u{85}"),
        ("fillers", "\u{3164}\u{115f}\u{ffa0}\u{ad}"),
        ("annotations", "\u{fff9}\u{fffb}"),
        ("blanks", "\u{2800}\u{13441}\u{17b4}"),
        ("no characters", "\u{fffe}\u{ffff}\u{fdd0}\u{10ffff}"),
        ("the style of emoji elsewhere", "a\u{fe0f}b1\u{fe0f}2"),
    ];

    fn clean(text: &str) -> bool {
        first_unseen(text, "\n\t").is_none()
    }

    #[test]
    fn nothing_hostile_reaches_a_terminal() {
        for (name, text) in HOSTILE {
            assert!(clean(&harmless(text)), "{name}");
            assert!(clean(&harmless_line(text)), "{name}");
            assert!(clean(&only_colours(text)), "{name}");
            let mut stream = Harmless::default();
            let shown = stream.push(text.as_bytes()) + &stream.finish();
            assert!(clean(&shown), "{name}: {shown:?}");
            // Cut at every byte.
            let mut shown = String::new();
            for byte in text.as_bytes() {
                shown.push_str(&stream.push(&[*byte]));
            }
            shown.push_str(&stream.finish());
            assert!(clean(&shown), "{name}, cut: {shown:?}");
        }
    }

    #[test]
    fn what_is_plain_stays() {
        for text in ["käse\tund\nBrot", "日本語", "⚠\u{fe0f} ok 1\u{fe0f}\u{20e3}", "e\u{301}"]
        {
            assert_eq!(harmless(text), text);
            assert_eq!(only_colours(text), text);
            let mut stream = Harmless::default();
            let shown: String = text.bytes().map(|b| stream.push(&[b])).collect();
            assert_eq!(shown + &stream.finish(), text);
        }
        assert_eq!(only_colours("\u{1b}[1;31mred\u{1b}[0m"), "\u{1b}[1;31mred\u{1b}[0m");
        let mut stream = Harmless::default();
        assert_eq!(stream.push(b"\x1b[1;31mred\x1b[0m\r\nx\xff\xc3"), "red\nx\u{fffd}");
        assert_eq!(stream.push(b"\xa4"), "ä");
        assert_eq!(stream.push(b"\x1b"), "");
        assert_eq!(stream.finish(), "\u{fffd}");
    }

    #[test]
    fn json_says_the_same_without_being_obeyed() {
        for (name, text) in HOSTILE {
            let json = serde_json::to_string_pretty(&[text]).unwrap();
            let escaped = escaped_json(&json);
            assert!(clean(&escaped), "{name}: {escaped}");
            assert_eq!(serde_json::from_str::<Vec<String>>(&escaped).unwrap(), [text], "{name}");
        }
    }
}
