//! A folder with a Dockerfile: which of its files an engine is sent, and what their content is.
//!
//! Whoever reads the folder for a plan and whoever sends it do so by the rules here, so that what is built is what was
//! planned.

use regex::bytes::Regex;
use sha2::{Digest, Sha256};

use super::hash::SpecHash;

/// What says how the image is built.
pub const DOCKERFILE: &str = "Dockerfile";

/// What says which files are no part of it.
pub const IGNORE: &str = ".dockerignore";

/// So many bytes of such a file are read.
pub const MOST_TEXT: u64 = 1 << 20;

/// So many bytes of files are sent.
pub const MOST_BYTES: u64 = 2 << 30;

/// So many patterns are matched.
const MOST_PATTERNS: usize = 1000;

/// The patterns of a `.dockerignore`.
#[derive(Debug, Default)]
pub struct Ignore {
    /// In their order: the last one that matches counts. `true`: it is an exception, and brings back.
    patterns: Vec<(Regex, bool)>,
}

impl Ignore {
    /// Reads the file's text.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut patterns = Vec::new();
        for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (pattern, exception) = match line.strip_prefix('!') {
                Some(rest) => (rest.trim(), true),
                None => (line, false),
            };
            let pattern = clean(pattern);
            if pattern.is_empty() {
                continue;
            }
            if patterns.len() == MOST_PATTERNS {
                return Err(format!("has more than {MOST_PATTERNS} patterns"));
            }
            let regex = Regex::new(&translate(&pattern))
                .map_err(|_| format!("line {}: is no pattern", number + 1))?;
            patterns.push((regex, exception));
        }
        Ok(Self { patterns })
    }

    /// Whether this path, relative to the folder, is left out: it matches, or a folder that it is in does.
    #[must_use]
    pub fn leaves_out(&self, path: &[u8]) -> bool {
        if path == DOCKERFILE.as_bytes() || path == IGNORE.as_bytes() {
            return false;
        }
        let parents =
            path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| &path[..at]);
        let names: Vec<&[u8]> = parents.chain([path]).collect();
        let last = self.patterns.iter().rev();
        let mut found = last.filter(|(regex, _)| names.iter().any(|name| regex.is_match(name)));
        found.next().is_some_and(|(_, exception)| !exception)
    }

    /// Whether something may be brought back that is in a folder that is left out.
    #[must_use]
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|(_, exception)| *exception)
    }
}

/// Without what says nothing: `./a//b/` is `a/b`.
fn clean(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// As a regular expression: `*` and `?` stay in one name, `**` goes through any number of folders.
fn translate(pattern: &str) -> String {
    let mut out = String::from("(?s-u)^");
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '*' if rest.peek() == Some(&'*') => {
                rest.next();
                if rest.peek() == Some(&'/') {
                    rest.next();
                    out.push_str("(?:.*/)?");
                } else {
                    out.push_str(".*");
                }
            }
            '*' => out.push_str("[^/]*"),
            '?' => out.push_str("[^/]"),
            // A class is written in both alike, but for what some regular expressions read into one.
            '[' => out.push('['),
            ']' | '-' | '^' => out.push(c),
            '\\' => out.push_str(&literal(rest.next().unwrap_or('\\'))),
            c => out.push_str(&literal(c)),
        }
    }
    out.push('$');
    out
}

fn literal(c: char) -> String {
    let mut bytes = [0; 4];
    let bytes = c.encode_utf8(&mut bytes).as_bytes();
    bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}

/// What an entry of the folder is.
#[derive(Debug, Clone, Copy)]
pub enum Part<'a> {
    /// A folder.
    Folder,
    /// A file with this content.
    File(SpecHash),
    /// A link to this, whatever it leads to: it is sent as a link.
    Symlink(&'a [u8]),
}

/// The digest of what is sent: names, kinds, modes and content, in the order of names, a folder before what is in
/// it. Owners and times are no part of it: in the image all is root's.
#[derive(Debug)]
pub struct Content(Sha256);

impl Default for Content {
    fn default() -> Self {
        let mut content = Self(Sha256::new());
        content.part(b"bottle.build.v1");
        content
    }
}

impl Content {
    fn part(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// Takes the next entry in.
    pub fn add(&mut self, path: &[u8], mode: u32, part: Part<'_>) {
        self.part(path);
        match part {
            Part::Folder => self.part(format!("folder {mode:o}").as_bytes()),
            Part::File(digest) => self.part(format!("file {mode:o} {digest}").as_bytes()),
            Part::Symlink(target) => {
                self.part(b"link");
                self.part(target);
            }
        }
    }

    /// The digest of all that was taken in.
    #[must_use]
    pub fn digest(self) -> SpecHash {
        SpecHash::from_digest(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_docker() {
        let ignore = Ignore::parse(
            "\u{feff}# a comment\n\n/build/\n*.log\n**/*.tmp\nsecret*\n!secret.pub\na/b?c\n  \
             keep/**\n!keep/me\nlit[0-9]\nplain\\*\nd.t\n",
        )
        .unwrap();
        for out in [
            "build",
            "build/x/y",
            "a.log",
            "x.tmp",
            "d/e/x.tmp",
            "secret",
            "secret.key",
            "a/bXc",
            "keep/other",
            "lit4",
            "plain*",
            "d.t",
        ] {
            assert!(ignore.leaves_out(out.as_bytes()), "{out}");
        }
        for kept in [
            "src/build",
            "d/a.log",
            "secret.pub",
            "a/b/c",
            "keep/me",
            "keep/me/too",
            "litx",
            "plainX",
            "dxt",
            "Dockerfile",
            ".dockerignore",
        ] {
            assert!(!ignore.leaves_out(kept.as_bytes()), "{kept}");
        }
        assert!(ignore.has_exceptions());
        // What says how it is built is always sent, as the engine's own client does.
        let all = Ignore::parse("**").unwrap();
        assert!(!all.leaves_out(b"Dockerfile") && all.leaves_out(b"x/y") && !all.has_exceptions());
        assert!(!Ignore::parse("./\n/\n!").unwrap().leaves_out(b"x"));
        assert_eq!(Ignore::parse("ok\n[z-a]").unwrap_err(), "line 2: is no pattern");
        assert!(Ignore::parse(&"x\n".repeat(2000)).unwrap_err().contains("1000"));
    }

    #[test]
    fn the_digest_tells_names_modes_and_content_apart() {
        let of = |entries: &[(&str, u32, Part<'_>)]| {
            let mut content = Content::default();
            entries
                .iter()
                .for_each(|(path, mode, part)| content.add(path.as_bytes(), *mode, *part));
            content.digest()
        };
        let (one, two) = (SpecHash::of_bytes(b"1"), SpecHash::of_bytes(b"2"));
        let all = [
            of(&[]),
            of(&[("a", 0o644, Part::File(one))]),
            of(&[("a", 0o755, Part::File(one))]),
            of(&[("a", 0o644, Part::File(two))]),
            of(&[("b", 0o644, Part::File(one))]),
            of(&[("a", 0o644, Part::Folder)]),
            of(&[("a", 0o644, Part::Symlink(b"1"))]),
            of(&[("a", 0o644, Part::Symlink(b"2"))]),
        ];
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
    }
}
