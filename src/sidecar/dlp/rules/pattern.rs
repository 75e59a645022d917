//! One regular expression of a rule: written for Go's RE2, run by `regex::bytes`.
//!
//! The two agree on nearly everything; [`translate`] rewrites what they read differently. A pattern
//! is compiled at its first use: a set of 200 rules would else cost 20 MB that clean traffic never
//! needs.

use std::sync::OnceLock;

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::hir::{Class, Hir, HirKind};

/// What one compiled pattern may take, so that one rule cannot take all memory.
const SIZE_LIMIT: usize = 16 << 20;

/// What the lazy automaton of one pattern may take, per thread. With many rules the sum counts.
const DFA_LIMIT: usize = 192 << 10;

/// So many ways to spell a match are followed before the search for a needed keyword gives up.
const SPELLINGS: usize = 256;

/// A pattern that is known to compile.
#[derive(Debug)]
pub(in crate::sidecar::dlp) struct Pattern {
    source: String,
    compiled: OnceLock<Regex>,
    /// The same in any case: for names, which have none.
    any_case: OnceLock<Regex>,
    groups: usize,
}

impl Pattern {
    /// Reads a pattern, and compiles it to see that this can be done.
    pub(super) fn new(go: &str) -> Result<Self, String> {
        let pattern = Self::parse(go)?;
        build(&pattern.source, false).map_err(|error| reason(&error.to_string()))?;
        Ok(pattern)
    }

    /// Reads a pattern of our own: a test compiles all of them.
    pub(super) fn trusted(go: &str) -> Result<Self, String> {
        Self::parse(go)
    }

    fn parse(go: &str) -> Result<Self, String> {
        let source = translate(go)?;
        let hir = syntax(&source)?;
        let groups = hir.properties().explicit_captures_len();
        Ok(Self { source, compiled: OnceLock::new(), any_case: OnceLock::new(), groups })
    }

    /// The compiled form.
    pub(in crate::sidecar::dlp) fn regex(&self) -> &Regex {
        self.compiled.get_or_init(|| {
            build(&self.source, false).expect("the same text compiled when the rules were read")
        })
    }

    /// The same for a text whose letters may have lost their case. A pattern that is too large in any
    /// case is taken as it is.
    pub(in crate::sidecar::dlp) fn regex_in(&self, any_case: bool) -> &Regex {
        if !any_case {
            return self.regex();
        }
        self.any_case
            .get_or_init(|| build(&self.source, true).unwrap_or_else(|_| self.regex().clone()))
    }

    /// The number of capture groups.
    pub(in crate::sidecar::dlp) const fn groups(&self) -> usize {
        self.groups
    }

    /// What is known of every match, if each holds one of the keywords.
    pub(super) fn reach(&self, keywords: &[String]) -> Option<Reach> {
        let hir = syntax(&self.source).ok()?;
        let spellings = spellings(&hir)?;
        let all = |exactly| {
            let held = |spelling: &Vec<Atom>| {
                keywords.iter().any(|keyword| holds(spelling, keyword.as_bytes(), exactly))
            };
            spellings.iter().all(held)
        };
        let longest = hir.properties().maximum_len()?;
        all(false).then(|| Reach { longest, exactly: all(true) })
    }
}

/// How the matches of a pattern lie around its keywords: only there it needs to be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sidecar::dlp) struct Reach {
    /// Bytes of the longest match.
    pub(in crate::sidecar::dlp) longest: usize,
    /// The keyword stands there in the case in which the rule spells it.
    pub(in crate::sidecar::dlp) exactly: bool,
}

fn syntax(source: &str) -> Result<Hir, String> {
    let mut parser = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build();
    parser.parse(source).map_err(|error| reason(&error.to_string()))
}

fn build(source: &str, any_case: bool) -> Result<Regex, regex::Error> {
    RegexBuilder::new(source)
        .case_insensitive(any_case)
        .unicode(false)
        .size_limit(SIZE_LIMIT)
        .dfa_size_limit(DFA_LIMIT)
        .build()
}

/// The last line of a syntax error is what is wrong; the lines before it draw an arrow.
fn reason(error: &str) -> String {
    let last = error.lines().last().unwrap_or(error);
    last.trim().trim_start_matches("error: ").to_owned()
}

/// Rewrites what Go's RE2 and `regex` read differently.
///
/// - `{` that begins no repetition is a literal in Go.
/// - Inside `[…]`, Go knows neither nested classes nor `&&`, `--`, `~~`.
/// - `\s` of Go has no vertical tab; `\Q…\E` quotes; `\<` and `\>` are literals.
fn translate(go: &str) -> Result<String, String> {
    const SPACE: &str = r"\t\n\f\r ";
    let bytes = go.as_bytes();
    let mut out = String::with_capacity(go.len() + 16);
    let mut class = false;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let rest = &go[at..];
        match byte {
            b'\\' => {
                let next = rest[1..].chars().next().ok_or("it ends with a backslash")?;
                let width = 1 + next.len_utf8();
                match next {
                    's' if class => out.push_str(SPACE),
                    's' => out.extend(["[", SPACE, "]"]),
                    'S' => out.extend(["[^", SPACE, "]"]),
                    '<' | '>' => out.push(next),
                    'Q' => {
                        let quoted = rest[2..].split(r"\E").next().unwrap_or_default();
                        out.push_str(&regex_syntax::escape(quoted));
                        at += 2 + quoted.len();
                        at += if go[at..].starts_with(r"\E") { 2 } else { 0 };
                        continue;
                    }
                    _ => out.push_str(&rest[..width]),
                }
                at += width;
                continue;
            }
            b'[' if !class => {
                class = true;
                out.push('[');
                at += 1;
                if bytes.get(at) == Some(&b'^') {
                    out.push('^');
                    at += 1;
                }
                // The first `]` of a class is a member of it.
                if bytes.get(at) == Some(&b']') {
                    out.push_str(r"\]");
                    at += 1;
                }
                continue;
            }
            b'[' => match rest.starts_with("[:").then(|| rest.find(":]")).flatten() {
                Some(end) => {
                    out.push_str(&rest[..end + 2]);
                    at += end + 2;
                    continue;
                }
                None => out.push_str(r"\["),
            },
            b']' if class => {
                class = false;
                out.push(']');
            }
            b'&' | b'~' if class => out.extend(['\\', char::from(byte)]),
            // Two in a row would be a difference of sets. One alone may be a range.
            b'-' if class && rest.starts_with("--") => out.push_str(r"\-"),
            b'{' if !class && !repetition(rest) => out.push_str(r"\{"),
            _ => {
                let next = rest.chars().next().unwrap_or_default();
                out.push(next);
                at += next.len_utf8();
                continue;
            }
        }
        at += 1;
    }
    Ok(out)
}

/// Whether this begins with `{n}`, `{n,}` or `{n,m}`.
fn repetition(rest: &str) -> bool {
    let Some(inner) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
        return false;
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match inner.0.split_once(',') {
        None => digits(inner.0),
        Some((least, most)) => digits(least) && (most.is_empty() || digits(most)),
    }
}

/// A piece of every match that is spelled in one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Atom {
    /// This byte.
    Byte(u8),
    /// This byte, here in lower case, in any case.
    AnyCase(u8),
    /// Something.
    Gap,
}

/// All the ways to spell a match, or nothing where there are too many.
fn spellings(hir: &Hir) -> Option<Vec<Vec<Atom>>> {
    let gap = || vec![vec![Atom::Gap]];
    let found = match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => vec![Vec::new()],
        HirKind::Literal(literal) => {
            vec![literal.0.iter().map(|byte| Atom::Byte(*byte)).collect()]
        }
        HirKind::Class(class) => {
            members(class).map_or_else(gap, |set| set.into_iter().map(|atom| vec![atom]).collect())
        }
        HirKind::Capture(capture) => spellings(&capture.sub)?,
        HirKind::Repetition(repetition) => match (repetition.min, repetition.max) {
            (0, Some(1)) => [vec![Vec::new()], spellings(&repetition.sub)?].concat(),
            (0, _) => gap(),
            (1, Some(1)) => spellings(&repetition.sub)?,
            _ => {
                let mut found = spellings(&repetition.sub)?;
                found.iter_mut().for_each(|spelling| spelling.push(Atom::Gap));
                found
            }
        },
        HirKind::Alternation(subs) => {
            let mut found = Vec::new();
            for sub in subs {
                found.extend(spellings(sub)?);
                if found.len() > SPELLINGS {
                    return None;
                }
            }
            found
        }
        HirKind::Concat(subs) => {
            let mut found = vec![Vec::new()];
            for sub in subs {
                let next = spellings(sub)?;
                // A part with many ways, such as a class of digits, is no keyword: skip over it.
                let next = if next.len() * found.len() > SPELLINGS { gap() } else { next };
                found = found
                    .iter()
                    .flat_map(|before| next.iter().map(|after| [&before[..], after].concat()))
                    .collect();
            }
            found
        }
    };
    Some(found)
}

/// The members of a small class; nothing if it is large.
fn members(class: &Class) -> Option<Vec<Atom>> {
    const SMALL: usize = 8;
    let class = match class {
        Class::Bytes(class) => class,
        // An alternation of single ASCII characters becomes one of these.
        Class::Unicode(class) => &class.to_byte_class()?,
    };
    let bytes = class.ranges().iter().flat_map(|range| range.start()..=range.end());
    let bytes: Vec<u8> = bytes.take(SMALL + 1).collect();
    if bytes.len() > SMALL {
        return None;
    }
    let both = |byte: &u8| bytes.contains(&(byte ^ 0x20)) && byte.is_ascii_alphabetic();
    let atom = |byte: &u8| match both(byte) {
        false => Some(Atom::Byte(*byte)),
        true => byte.is_ascii_lowercase().then_some(Atom::AnyCase(*byte)),
    };
    Some(bytes.iter().filter_map(atom).collect())
}

/// Whether every match of a spelling holds a keyword, in whichever case or just as it is written.
fn holds(spelling: &[Atom], keyword: &[u8], exactly: bool) -> bool {
    let same = |(atom, byte): (&Atom, &u8)| match atom {
        Atom::Byte(own) if exactly => own == byte,
        Atom::Byte(own) => own.eq_ignore_ascii_case(byte),
        Atom::AnyCase(own) => {
            own.eq_ignore_ascii_case(byte) && !(exactly && byte.is_ascii_alphabetic())
        }
        Atom::Gap => false,
    };
    !keyword.is_empty()
        && spelling.windows(keyword.len()).any(|run| run.iter().zip(keyword).all(same))
}

#[cfg(test)]
mod tests;
