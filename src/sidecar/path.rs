//! Canonical paths: what would need normalising is refused, never normalised.
//!
//! A server behind the sidecar may decode once, twice, treat `\` as `/`, drop `;parameters` or
//! merge slashes. A path passes only if all of these readers see the same segments. The one
//! encoded slash that passes is the one of npm's scoped names, `/@scope%2fname`: npm sends it in
//! every request for such a package. Others pass where an entry of the allowlist says that its host
//! takes them for a part of a segment ([`CanonicalPath::parse_with_slashes`]).

use std::borrow::Cow;
use std::fmt;

use super::code::Code;

/// How often a path is decoded to see what a careless reader could. One that still changes
/// after this has no honest purpose.
const MAX_DECODINGS: usize = 4;

/// The path and the query of a request, in the one form that every reader agrees about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CanonicalPath {
    text: Box<str>,
    /// Where `?` stands, or the end.
    path_end: usize,
    /// A segment holds an encoded slash, and is no scoped name.
    encoded_slash: bool,
}

impl CanonicalPath {
    /// Reads `/path` or `/path?query`.
    ///
    /// # Errors
    /// [`Code::PathNotCanonical`].
    pub fn parse(raw: &[u8]) -> Result<Self, Code> {
        Self::parse_with_slashes(raw).and_then(|path| match path.encoded_slash {
            true => Err(Code::PathNotCanonical),
            false => Ok(path),
        })
    }

    /// The same of a path in whose segments slashes may stand encoded, once, between what is plain itself.
    ///
    /// # Errors
    /// [`Code::PathNotCanonical`].
    pub fn parse_with_slashes(raw: &[u8]) -> Result<Self, Code> {
        let path_end = memchr::memchr(b'?', raw).unwrap_or(raw.len());
        let (path, query) = raw.split_at(path_end);
        // What is left out is what the grammars and parsers of URLs quarrel about.
        let fine = path.iter().all(|b| b.is_ascii_graphic() && !b"#\\<>`".contains(b))
            && query.iter().all(|b| b.is_ascii_graphic() && !b"#\"<>".contains(b));
        let text = std::str::from_utf8(raw).map_err(|_| Code::PathNotCanonical)?;
        let rest = text[..path_end].strip_prefix('/').filter(|_| fine);
        let encoded_slash = rest.and_then(judged).ok_or(Code::PathNotCanonical)?;
        Ok(Self { text: text.into(), path_end, encoded_slash })
    }

    /// Whether a segment holds an encoded slash, beside those of npm's scoped names.
    #[must_use]
    pub fn has_encoded_slash(&self) -> bool {
        self.encoded_slash
    }

    /// The path, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text[..self.path_end]
    }

    /// What stands after `?`, if there is one.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.text.get(self.path_end + 1..)
    }

    /// Path and query, as they are forwarded.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The segments as an upstream sees them: the slash of `@scope%2fname` separates too.
    /// A trailing slash leaves an empty last segment.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.path()[1..].split('/').flat_map(|segment| {
            let (first, second) = match scoped(segment) {
                Some((scope, name)) => (scope, Some(name)),
                None => (segment, None),
            };
            std::iter::once(first).chain(second)
        })
    }
}

impl fmt::Display for CanonicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// Judges what stands after the leading slash: `None` where it is not canonical, else whether a segment holds an
/// encoded slash.
fn judged(rest: &str) -> Option<bool> {
    let (parents, last) = match rest.rsplit_once('/') {
        Some((parents, last)) => (Some(parents), last),
        None => (None, rest),
    };
    let mut slashes = false;
    let mut fine = |segment: &str, is_last: bool| {
        if scoped(segment).is_some() || is_plain(segment) {
            return true;
        }
        let holds = holds_slashes(segment, is_last);
        slashes |= holds;
        holds
    };
    let parents_fine =
        parents.is_none_or(|parents| parents.split('/').all(|s| !s.is_empty() && fine(s, false)));
    (parents_fine && (last.is_empty() || fine(last, true))).then_some(slashes)
}

/// Whether a segment is plain but for slashes that are encoded once. What a reader who decodes them sees has no
/// empty segment, but for one at the end of the whole path, and no dots.
fn holds_slashes(segment: &str, is_last: bool) -> bool {
    let upper = segment.replace("%2f", "%2F");
    let parts: Vec<&str> = upper.split("%2F").collect();
    let whole = match parts.as_slice() {
        [whole @ .., ""] if is_last => whole,
        whole => whole,
    };
    parts.len() > 1
        && !whole.is_empty()
        && whole.iter().all(|part| !part.is_empty() && is_plain(part))
}

/// Whether no reader sees anything but one segment.
fn is_plain(segment: &str) -> bool {
    if !segment.contains('%') {
        return !is_dots(segment.as_bytes());
    }
    if !is_well_encoded(segment.as_bytes()) {
        return false;
    }
    let mut seen = Cow::Borrowed(segment.as_bytes());
    for _ in 0..=MAX_DECODINGS {
        let separates = |b: &u8| b.is_ascii_control() || matches!(b, b'/' | b'\\');
        if is_dots(&seen) || seen.iter().any(separates) || std::str::from_utf8(&seen).is_err() {
            return false;
        }
        match decode(&seen) {
            Some(decoded) => seen = Cow::Owned(decoded),
            None => return true,
        }
    }
    false
}

/// Whether some reader takes it for `.` or `..`: with `;parameters`, or with spaces around.
fn is_dots(segment: &[u8]) -> bool {
    let end = memchr::memchr(b';', segment).unwrap_or(segment.len());
    matches!(segment[..end].trim_ascii(), b"." | b"..")
}

/// The two halves of npm's `@scope%2fname`.
fn scoped(segment: &str) -> Option<(&str, &str)> {
    let (scope, rest) = segment.split_once('%')?;
    let name = rest.strip_prefix("2f").or_else(|| rest.strip_prefix("2F"))?;
    let plain = |text: &str| {
        let fine = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        !text.is_empty() && text.bytes().all(fine) && !is_dots(text.as_bytes())
    };
    (plain(scope.strip_prefix('@')?) && plain(name)).then_some((scope, name))
}

/// Every `%` starts an encoded byte.
fn is_well_encoded(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'%', bytes).all(|at| encoded(&bytes[at..]).is_some())
}

/// The byte that an encoded triplet at the start stands for.
fn encoded(bytes: &[u8]) -> Option<u8> {
    let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    match bytes {
        [b'%', high, low, ..] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    }
}

/// Decodes once whatever can be decoded; nothing, if there is nothing.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(first) = rest.first() {
        let (byte, length) = encoded(rest).map_or((*first, 1), |byte| (byte, 3));
        decoded.push(byte);
        rest = &rest[length..];
    }
    (decoded.len() < bytes.len()).then_some(decoded)
}

/// Decodes as often as anyone might.
pub(super) fn decode_fully(text: &str) -> Vec<u8> {
    let mut seen = text.as_bytes().to_vec();
    for _ in 0..MAX_DECODINGS {
        match decode(&seen) {
            Some(decoded) => seen = decoded,
            None => break,
        }
    }
    seen
}

/// Which paths an entry of the allowlist covers: `*` is one segment, `**` any number, also none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    segments: Box<[Segment]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Is(Box<str>),
    One,
    Any,
}

impl PathPattern {
    /// Reads a pattern, itself a canonical path; `slashes`: with encoded ones.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence.
    pub fn parse(text: &str, slashes: bool) -> Result<Self, String> {
        let path = CanonicalPath::parse_with_slashes(text.as_bytes())
            .ok()
            .filter(|path| slashes || !path.has_encoded_slash())
            .filter(|path| path.query().is_none())
            .ok_or_else(|| format!("`{text}` is not a canonical path"))?;
        let segment = |text: &str| match text {
            "*" => Ok(Segment::One),
            "**" => Ok(Segment::Any),
            part if part.contains('*') => {
                Err(format!("`{part}` has a `*` within a segment: `*` is one whole segment"))
            }
            part => Ok(Segment::Is(part.into())),
        };
        Ok(Self { segments: path.segments().map(segment).collect::<Result<_, _>>()? })
    }

    /// Whether the path is covered.
    #[must_use]
    pub fn matches(&self, path: &CanonicalPath) -> bool {
        let path: Vec<&str> = path.segments().collect();
        let (mut at, mut of) = (0, 0);
        // Where to go on after the last `**` when what followed it did not fit.
        let mut retry = None;
        while at < path.len() {
            let fits = match self.segments.get(of) {
                Some(Segment::Any) => {
                    retry = Some((at, of));
                    of += 1;
                    continue;
                }
                Some(Segment::One) => !path[at].is_empty(),
                Some(Segment::Is(text)) => is_same(text, path[at]),
                None => false,
            };
            match (fits, retry) {
                (true, _) => (at, of) = (at + 1, of + 1),
                (false, Some((from, any))) => {
                    retry = Some((from + 1, any));
                    (at, of) = (from + 1, any + 1);
                }
                (false, None) => return false,
            }
        }
        self.segments[of..].iter().all(|segment| *segment == Segment::Any)
    }
}

/// Whether two segments are the same, in whichever case an encoded slash is written.
fn is_same(one: &str, other: &str) -> bool {
    one == other
        || (one.len() == other.len() && one.replace("%2f", "%2F") == other.replace("%2f", "%2F"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<CanonicalPath, Code> {
        CanonicalPath::parse(text.as_bytes())
    }

    #[test]
    fn canonical_paths_stay_as_they_are() {
        for text in [
            "/",
            "/a",
            "/a/",
            "/a/b.c/d~e",
            "/.a/a./a../..a/...",
            "/a%20b/%C3%A9",
            "/100%25",
            "/a:b@c;d=e,f+g!$&'()*[]{}|^\"",
            "/@babel%2fcore",
            "/@babel%2Fcore/-/core-7.0.0.tgz",
            "/a?",
            "/a?b=c&d",
            "/a?x=../..//%2e%2e%2f&y=%0d%0a&z=100%&w=\\?/?",
        ] {
            assert_eq!(parse(text).as_ref().map(CanonicalPath::as_str), Ok(text));
        }
        let path = parse("/a/b?c=d?e").unwrap();
        assert_eq!((path.path(), path.query()), ("/a/b", Some("c=d?e")));
        let path = parse("/a/@b%2Fc/").unwrap();
        assert_eq!((path.path(), path.query()), ("/a/@b%2Fc/", None));
        assert_eq!(path.segments().collect::<Vec<_>>(), ["a", "@b", "c", ""]);
    }

    #[test]
    fn whatever_would_need_normalising_is_refused() {
        for text in [
            "",
            "a",
            "*",
            "?a",
            "http://a/",
            "//",
            "//evil.test/x",
            "/a//b",
            "/a//",
            "/.",
            "/..",
            "/./a",
            "/anthropic/../gh/user",
            "/anthropic/%2e%2e/gh/user",
            "/anthropic/%2E./gh",
            "/anthropic/.%2e/gh",
            "/anthropic/%252e%252e/gh",
            "/anthropic/%25252e%2525252e/gh",
            "/anthropic/%%32%65%%32%65/gh",
            "/anthropic/%25%32%65%25%32%65/gh",
            "/a/..;/b",
            "/a/..;x=y/b",
            "/a/%2e%2e%3bx/b",
            "/a/..%20/b",
            "/a/..%00/b",
            "/anthropic%2f..%2fgh",
            "/anthropic%2fgh",
            "/anthropic%2Fgh",
            "/a%252fb",
            "/a%5cb",
            "/a%5Cb",
            "/a%255cb",
            "/a\\b",
            "/a%c0%aeb",
            "/a/%c0%ae%c0%ae/b",
            "/a/%e0%80%af/b",
            "/a/%ff",
            "/@a%2f..",
            "/@a%2f.",
            "/@.%2fb",
            "/@..%2fb",
            "/@%2fb",
            "/@a%2f",
            "/@a%2fb%2fc",
            "/@a%252fb",
            "/@a%5cb",
            "/x@a%2fb",
            "/a%00",
            "/a%0d%0aAuthorization:%20x",
            "/a%1f",
            "/a%7f",
            "/a%250a",
            "/%",
            "/%2",
            "/%zz",
            "/%u002e",
            "/a b",
            "/a\tb",
            "/a\r\nb",
            "/a\0",
            "/a\u{7f}",
            "/ä",
            "/a#b",
            "/a?b#c",
            "/a?b c",
            "/a?ä",
            "/a?\0",
            "/a?\r\n",
            "/a%25252525252525252541",
        ] {
            assert_eq!(parse(text), Err(Code::PathNotCanonical), "{text}");
        }
        assert!(CanonicalPath::parse(b"/\xff").is_err());
    }

    #[test]
    fn patterns() {
        let table: &[(&str, &[&str], &[&str])] = &[
            ("/", &["/", "/?a"], &["/a"]),
            ("/a", &["/a", "/a?b"], &["/", "/a/", "/ab", "/a/b", "/A"]),
            ("/a/*", &["/a/b", "/a/*"], &["/a", "/a/", "/a/b/", "/a/b/c"]),
            ("/repos/**", &["/repos", "/repos/", "/repos/a", "/repos/a/b/"], &["/reposx", "/"]),
            ("/**", &["/", "/a", "/a/b/"], &[]),
            ("/a/**/z", &["/a/z", "/a/b/z", "/a/z/z", "/a/b/c/z"], &["/a/", "/a/b", "/a/z/b"]),
            ("/**/a/*/b", &["/a/x/b", "/a/a/a/x/b", "/q/a/a/b"], &["/a/b", "/a/x/y/b"]),
            ("/@babel/*", &["/@babel/core", "/@babel%2fcore"], &["/@babel", "/@other%2fcore"]),
            ("/*", &["/core"], &["/@babel%2fcore"]),
            ("/a%20b", &["/a%20b"], &["/a", "/a%20c"]),
        ];
        for (pattern, covered, not) in table {
            let compiled = PathPattern::parse(pattern, false).unwrap();
            for path in *covered {
                assert!(compiled.matches(&parse(path).unwrap()), "{pattern} covers {path}");
            }
            for path in *not {
                assert!(!compiled.matches(&parse(path).unwrap()), "{pattern} misses {path}");
            }
        }
        for bad in ["", "a", "/a*", "/***", "/a?b", "/a/../b", "//"] {
            assert!(PathPattern::parse(bad, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_encoded_slash_is_a_part_of_its_segment_where_that_is_said() {
        let parse = |text: &str| CanonicalPath::parse_with_slashes(text.as_bytes());
        for text in [
            "/api/v4/projects/a%2Fb/issues",
            "/api/v4/projects/a%2fb%2fc",
            "/o/dir%2Fa%20b.txt?alt=media",
            "/o/dir%2F",
            "/o/.dir%2F..a",
        ] {
            let path = parse(text).unwrap_or_else(|_| panic!("{text}"));
            assert!(path.has_encoded_slash(), "{text}");
            assert_eq!(path.as_str(), text);
            assert!(CanonicalPath::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(!parse("/@a%2fb/x?y=%2F").unwrap().has_encoded_slash());
        for text in [
            "/a%2F..%2Fb",
            "/a%2F.%2Fb",
            "/a%2F%2e%2e",
            "/..%2Fa",
            "/a%2F..;x",
            "/%2Fa",
            "/a%2F%2Fb",
            "/a%2F/b",
            "/a%252Fb",
            "/a%2F%252e%252e",
            "/a%2Fb%5cc",
            "/a%2Fb%00",
            "/a%2F%ff",
            "/%2F",
            "/a%2Fb//c",
        ] {
            assert_eq!(parse(text), Err(Code::PathNotCanonical), "{text}");
        }
        let pattern = |text: &str| PathPattern::parse(text, true).unwrap();
        let covers = |of: &str, path: &str| pattern(of).matches(&parse(path).unwrap());
        assert!(covers("/projects/*/issues", "/projects/a%2Fb/issues"));
        assert!(!covers("/projects/*/*/issues", "/projects/a%2Fb/issues"));
        assert!(covers("/projects/a%2Fb/**", "/projects/a%2fb/issues"));
        assert!(!covers("/projects/a%2Fb/**", "/projects/a/b/issues"));
        assert!(!covers("/projects/a/b/**", "/projects/a%2Fb/issues"));
        assert!(PathPattern::parse("/projects/a%2Fb", false).is_err());
    }
}
