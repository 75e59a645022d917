//! Which characters make text look other than it is: those that reorder it, that take no room, or that
//! carry what nobody sees. Unicode's own properties say which, in the tables of `regex-syntax`.

use std::iter;
use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

/// Control and format characters, the two separators of lines, what a renderer is to leave out where it does
/// not know it (variation selectors, fillers, tags), and what is no character at all. A few format characters
/// can be seen, such as U+110BD: what they do to the number behind them cannot be.
///
/// The last row is blank by its look alone, and so has no property: the empty Braille pattern, what joins and
/// blanks hieroglyphs, the note without a head, a filler of Khitan.
const UNSEEN: &str = r"[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\p{Noncharacter_Code_Point}
    \x{2800}\x{13440}-\x{13455}\x{1D159}\x{16FE4}]";

/// What can be asked to look like an emoji, and digits among it.
const EMOJI: &str = r"\p{Emoji}";

/// Asks for the emoji in colour that stands before it. There it is harmless: it moves nothing, and without it
/// there is the same picture. Behind anything else nobody sees it, and it could carry a bit for each letter.
/// U+200D, which makes one emoji of several, stays hidden: how wide that is each terminal knows otherwise, so
/// that what follows moves, and between letters nobody sees it.
const STYLE: char = '\u{fe0f}';
/// Encloses the digit before it in a key: `1`, [`STYLE`], and this.
const KEY: char = '\u{20e3}';

/// Sorted, without a gap between two that could be one.
type Ranges = Vec<(char, char)>;

fn ranges(class: &str) -> Ranges {
    let class: String = class.split_whitespace().collect();
    match regex_syntax::parse(&class).map(regex_syntax::hir::Hir::into_kind) {
        Ok(HirKind::Class(Class::Unicode(class))) => {
            class.iter().map(|range| (range.start(), range.end())).collect()
        }
        // It is written above and can be read. If not, nothing but ASCII would be shown.
        _ => vec![('\0', '\u{1f}'), ('\u{7f}', char::MAX)],
    }
}

fn holds(ranges: &Ranges, c: char) -> bool {
    let after = ranges.partition_point(|(begin, _)| *begin <= c);
    after.checked_sub(1).is_some_and(|at| c <= ranges[at].1)
}

/// Whether it is not to be shown, whatever stands around it.
pub(super) fn unseen(c: char) -> bool {
    static RANGES: LazyLock<Ranges> = LazyLock::new(|| ranges(UNSEEN));
    if c.is_ascii() { c.is_ascii_control() } else { holds(&RANGES, c) }
}

fn is_emoji(c: char) -> bool {
    static RANGES: LazyLock<Ranges> = LazyLock::new(|| ranges(EMOJI));
    holds(&RANGES, c)
}

/// Whether a character between these two is not to be shown.
pub(super) fn hidden(before: Option<char>, c: char, after: Option<char>) -> bool {
    let styles = |before: char| is_emoji(before) && (!before.is_ascii() || after == Some(KEY));
    unseen(c) && !(c == STYLE && before.is_some_and(styles))
}

/// What stands on the character before it.
const MARKS: &str = r"\p{M}";

/// Whether it stands on the character before it, and takes no room of its own.
pub(super) fn is_mark(c: char) -> bool {
    static RANGES: LazyLock<Ranges> = LazyLock::new(|| ranges(MARKS));
    !c.is_ascii() && holds(&RANGES, c)
}

/// Whether what follows decides about it.
pub(super) fn waits(c: char) -> bool {
    c == STYLE
}

/// Each character with its place, and whether it is not to be shown.
pub(super) fn each(text: &str) -> impl Iterator<Item = (usize, char, bool)> {
    let mut before = None;
    let mut rest = text.char_indices().peekable();
    iter::from_fn(move || {
        let (at, c) = rest.next()?;
        let hidden = hidden(before, c, rest.peek().map(|(_, after)| *after));
        before = Some(c);
        Some((at, c, hidden))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where each begins and ends, and why it is one.
    const ROWS: [(u32, u32, &str); 37] = [
        (0x0, 0x1f, "C0 controls"),
        (0x7f, 0x9f, "delete, C1 controls"),
        (0xad, 0xad, "soft hyphen"),
        (0x34f, 0x34f, "combining grapheme joiner"),
        (0x600, 0x605, "Arabic signs before numbers"),
        (0x61c, 0x61c, "Arabic letter mark"),
        (0x6dd, 0x6dd, "Arabic end of ayah"),
        (0x70f, 0x70f, "Syriac abbreviation mark"),
        (0x890, 0x891, "Arabic pound and piastre marks"),
        (0x8e2, 0x8e2, "Arabic disputed end of ayah"),
        (0x115f, 0x1160, "Hangul fillers"),
        (0x17b4, 0x17b5, "Khmer inherent vowels"),
        (0x180b, 0x180f, "Mongolian variation selectors"),
        (0x200b, 0x200f, "zero width, joiners, marks of direction"),
        (0x2028, 0x202e, "separators of lines, embeddings, overrides"),
        (0x2060, 0x206f, "word joiner, invisible operators, isolates"),
        (0x2800, 0x2800, "empty Braille pattern"),
        (0x3164, 0x3164, "Hangul filler"),
        (0xfdd0, 0xfdef, "no characters"),
        (0xfe00, 0xfe0f, "variation selectors"),
        (0xfeff, 0xfeff, "byte order mark"),
        (0xffa0, 0xffa0, "halfwidth Hangul filler"),
        (0xfff0, 0xfffb, "reserved, interlinear annotation"),
        (0xfffe, 0xffff, "no characters"),
        (0x110bd, 0x110bd, "Kaithi number sign"),
        (0x110cd, 0x110cd, "Kaithi number sign above"),
        (0x13430, 0x13455, "joiners and blanks of hieroglyphs"),
        (0x16fe4, 0x16fe4, "Khitan filler"),
        (0x1bca0, 0x1bca3, "shorthand format controls"),
        (0x1d159, 0x1d159, "note without a head"),
        (0x1d173, 0x1d17a, "beams, slurs and phrases"),
        (0x1fffe, 0x1ffff, "no characters"),
        (0x2fffe, 0x2ffff, "no characters"),
        (0xdfffe, 0xe0fff, "no characters, tags, variation selectors supplement"),
        (0xefffe, 0xeffff, "no characters"),
        (0xffffe, 0xfffff, "no characters"),
        (0x0010_fffe, 0x0010_ffff, "no characters"),
    ];

    #[test]
    fn what_nobody_sees_is_hidden_from_end_to_end() {
        for (begin, end, name) in ROWS {
            for code in begin..=end {
                let c = char::from_u32(code).unwrap();
                assert!(unseen(c), "U+{code:04X}: {name}");
            }
            for beside in [begin.checked_sub(1), end.checked_add(1)] {
                let beside = beside.and_then(char::from_u32);
                assert!(!beside.is_some_and(unseen), "beside U+{begin:04X}: {name}");
            }
        }
    }

    #[test]
    fn what_is_seen_is_not_hidden() {
        let seen = "aZ~ \u{a0}äß日本語한국어العربيةहिन्दी→█▓✓⚠😀🏽🇩🇪\u{301}\u{20e3}\u{3000}\u{fffd}\u{e0b0}⠿";
        assert_eq!(seen.chars().find(|c| unseen(*c)), None);
    }

    #[test]
    fn an_emoji_may_be_in_colour_and_nothing_else_is() {
        let hidden = |text: &str| each(text).filter(|(.., hidden)| *hidden).count();
        for text in ["⚠\u{fe0f} ok", "1\u{fe0f}\u{20e3}", "©\u{fe0f}", "❤\u{fe0f}❤\u{fe0f}"]
        {
            assert_eq!(hidden(text), 0, "{text:?}");
        }
        for text in
            ["\u{fe0f}", "a\u{fe0f}", "1\u{fe0f}", "1\u{fe0f}2", "⚠\u{fe0f}\u{fe0f}", "⚠\u{fe0e}"]
        {
            assert_eq!(hidden(text), 1, "{text:?}");
        }
        assert_eq!(hidden("👨\u{200d}👩"), 1);
    }
}
