//! What stands in the place of a secret that was taken out of a text.

use std::ops::Range;

use super::rules::Rules;

const BEGIN: &[u8] = b"<redacted:";
const END: &[u8] = b">";

/// The same as a form writes it.
const FORM_BEGIN: &[u8] = b"%3Credacted%3A";
const FORM_END: &[u8] = b"%3E";

/// The marker for a rule, or for a known value: text that is safe within a string of JSON, a header and a form.
pub(super) fn marker(name: &str, in_form: bool) -> Vec<u8> {
    let (begin, end) = if in_form { (FORM_BEGIN, FORM_END) } else { (BEGIN, END) };
    [begin, safe(name).as_bytes(), end].concat()
}

/// A marker that is longer is none.
const LONGEST: usize = 256;

/// Whether a part of a text is a marker for one of these rules, or of one, and nothing more: rules for passwords
/// take it for one.
pub(super) fn is_marker(rules: &Rules, text: &[u8], part: Range<usize>) -> bool {
    [(BEGIN, END), (FORM_BEGIN, FORM_END)].into_iter().any(|(begin, end)| {
        let from = part.start.saturating_sub(LONGEST);
        let before = &text[from..text.len().min(part.start + begin.len())];
        let Some(at) = memchr::memmem::rfind(before, begin) else { return false };
        let name = from + at + begin.len();
        let rest = &text[name..text.len().min(name + LONGEST)];
        let Some(length) = memchr::memmem::find(rest, end) else { return false };
        let of_rule = |id: &str| safe(id).as_bytes() == &rest[..length];
        part.end <= name + length + end.len() && rules.ids().any(of_rule)
    })
}

/// An operator's own rules may have any id.
fn safe(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '_' };
    name.chars().map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_marker_of_a_rule_is_one() {
        let rules = "[[rules]]\nid = 'a \"b'\nregex = 'x'\n[[rules]]\nid = 'c-d.e'\nregex = 'x'";
        let rules = Rules::from_toml(rules).unwrap();
        let whole = |text: &[u8]| is_marker(&rules, text, 0..text.len());
        for in_form in [false, true] {
            assert!(whole(&marker("a \"b", in_form)));
            assert!(whole(&marker("c-d.e", in_form)));
            assert!(!whole(&marker("hunter2", in_form)));
        }
        let text = b"a <redacted:c-d.e> <redacted:c-d.e>b";
        for (part, is) in [
            (2..18, true),
            (3..18, true),
            (5..9, true),
            (1..18, false),
            (2..19, false),
            (19..36, false),
            (0..1, false),
        ] {
            assert_eq!(is_marker(&rules, text, part.clone()), is, "{part:?}");
        }
        assert_eq!(marker("a \"b", false), b"<redacted:a__b>");
        assert_eq!(marker("c-d.e", true), b"%3Credacted%3Ac-d.e%3E");
        for other in
            ["<redacted:c-d.e", "<redacted:c-d.e>x", "x<redacted:c-d.e>", "<redacted:>", ""]
        {
            assert!(!whole(other.as_bytes()), "{other}");
        }
    }
}
