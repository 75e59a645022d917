//! Names of objects and refs, as strictly as they are read here.

use std::collections::BTreeMap;
use std::fmt;

/// No name of a ref is longer.
pub(super) const LONGEST: usize = 200;

/// The name of an object: forty hexadecimal digits in lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Oid([u8; 20]);

impl Oid {
    /// What stands for no object.
    pub(super) const ZERO: Self = Self([0; 20]);

    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let digits = text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let mut bytes = [0; 20];
        (digits && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(Self(bytes))
    }

    pub(super) fn is_zero(self) -> bool {
        self == Self::ZERO
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Oid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// What refs there are, and what each names.
pub(super) type Refs = BTreeMap<String, Oid>;

/// Whether this can be the name of a ref: by git's own rules, and stricter where a name could be taken
/// for something else.
pub(super) fn is_name(name: &str) -> bool {
    let component = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '-'])
            && !part.ends_with('.')
            && !part.to_ascii_lowercase().ends_with(".lock")
            && part != "HEAD"
            && part != "@"
    };
    let allowed = |letter: char| {
        !letter.is_control() && !matches!(letter, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\')
    };
    name.len() <= LONGEST
        && name.starts_with("refs/")
        && name.split('/').count() > 2
        && name.split('/').all(component)
        && name.chars().all(allowed)
        && !name.contains("..")
        && !name.contains("@{")
}

/// Whether this can be a pattern of names: a name of a ref in which `*` may stand for anything.
pub(super) fn is_pattern(pattern: &str) -> bool {
    is_name(&pattern.replace('*', "x"))
}

/// Whether a pattern means a name.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    let mut rest = rest;
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

/// Whether any of these patterns means a name.
pub(super) fn any(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, name))
}

/// A ref as people write it: `main` for `refs/heads/main`.
pub(super) fn short(name: &str) -> &str {
    name.strip_prefix("refs/heads/").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["refs/heads/main", "refs/heads/a/b.c", "refs/notes/x", "refs/heads/ä"] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "HEAD",
            "main",
            "refs/heads",
            "refs/heads/",
            "refs/heads/-x",
            "refs/heads/--upload-pack=x",
            "refs/heads/HEAD",
            "refs/heads/.x",
            "refs/heads/a..b",
            "refs/heads/x.lock",
            "refs/heads/x.lock/y",
            "refs/heads/x.LOCK",
            "refs/heads/a b",
            "refs/heads/a\u{1b}b",
            "refs/heads/a\nb",
            "refs/heads/a*",
            "refs/heads/@{1}",
            "refs/heads//x",
            "refs/../heads/x",
            "/refs/heads/x",
        ] {
            assert!(!is_name(name), "{name}");
        }
        assert!(!is_name(&format!("refs/heads/{}", "x".repeat(LONGEST))));
    }

    #[test]
    fn patterns() {
        for (pattern, name, is) in [
            ("refs/heads/*", "refs/heads/main", true),
            ("refs/heads/*", "refs/heads/a/b", true),
            ("refs/heads/*", "refs/tags/main", false),
            ("refs/heads/agent/*", "refs/heads/agent", false),
            ("refs/heads/agent/*", "refs/heads/agent/x", true),
            ("refs/heads/main", "refs/heads/main", true),
            ("refs/heads/main", "refs/heads/main2", false),
            ("refs/pull/*/head", "refs/pull/7/head", true),
            ("refs/pull/*/head", "refs/pull/7/merge", false),
            ("refs/*a*a", "refs/xa", false),
        ] {
            assert_eq!(matches(pattern, name), is, "{pattern} {name}");
        }
        assert!(is_pattern("refs/heads/*") && !is_pattern("*") && !is_pattern("heads/*"));
    }

    #[test]
    fn objects() {
        let text = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(Oid::parse(text.as_bytes()).unwrap().to_string(), text);
        for wrong in [&text[1..], &text.to_uppercase(), "--upload-pack=xxxxxxxxxxxxxxxxxxxxxxxxxxx"]
        {
            assert_eq!(Oid::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
