//! What an agent reads, when something does not go: sentences of ours, and an upstream's own words made
//! harmless. Pure.

use serde::{Deserialize, Serialize};

use super::document::Upstream;

/// Lines of an upstream's that are passed on.
pub(super) const LINES: usize = 200;

/// Letters of one of them.
const LETTERS: usize = 400;

/// What ended the connection to an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Trouble {
    /// It showed another key than the one that is pinned.
    HostKey,
    /// No key is pinned.
    NoPin,
    /// It does not take the identity.
    Denied,
    /// The identity is none that can be used.
    Identity,
    /// It is another one than what was applied.
    AnotherKey,
    /// It cannot be reached.
    Unreachable,
    /// It did not answer in time.
    Silent,
    /// It said something, or broke off.
    Upstream,
}

impl Trouble {
    /// Its stable name in the log.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::HostKey => "host_key",
            Self::NoPin => "no_pin",
            Self::Denied => "key_refused",
            Self::Identity => "key_unusable",
            Self::AnotherKey => "key_changed",
            Self::Unreachable => "unreachable",
            Self::Silent => "timeout",
            Self::Upstream => "upstream",
        }
    }

    /// What the agent reads.
    pub(super) fn sentence(self, upstream: &Upstream, seconds: u64, words: &[String]) -> String {
        let (host, name) = (&upstream.host, &upstream.name);
        match self {
            Self::HostKey => format!(
                "{host} showed another host key than KnownHostKey. Nothing was sent. Tell the operator."
            ),
            Self::NoPin => {
                format!("no KnownHostKey is set for {name}: the operator has to pin {host}")
            }
            Self::Denied => format!("{host} does not accept the key of {name}"),
            Self::Identity => format!("the key of {name} cannot be used"),
            Self::AnotherKey => {
                format!(
                    "the key of {name} is another than was applied: the operator has to apply again"
                )
            }
            Self::Unreachable => format!("{host} cannot be reached"),
            Self::Silent => format!("{host} did not answer in {seconds} s"),
            Self::Upstream => match words.first() {
                None => format!("{host} ended the connection"),
                Some(_) => format!("{host} says: {}", words.join(" ")),
            },
        }
    }
}

/// What ssh's own text means; `None`: nothing of it is ssh's.
pub(super) fn classify(text: &str) -> Option<Trouble> {
    const MEANINGS: &[(&str, Trouble)] = &[
        ("REMOTE HOST IDENTIFICATION HAS CHANGED", Trouble::HostKey),
        ("Host key verification failed", Trouble::HostKey),
        ("no matching host key type found", Trouble::HostKey),
        ("host key is known", Trouble::HostKey),
        ("Permission denied (", Trouble::Denied),
        ("Too many authentication failures", Trouble::Denied),
        ("UNPROTECTED PRIVATE KEY FILE", Trouble::Identity),
        ("not accessible", Trouble::Identity),
        ("invalid format", Trouble::Identity),
        ("error in libcrypto", Trouble::Identity),
        ("Could not resolve hostname", Trouble::Unreachable),
        ("Connection refused", Trouble::Unreachable),
        ("Connection timed out", Trouble::Unreachable),
        ("Operation timed out", Trouble::Unreachable),
        ("No route to host", Trouble::Unreachable),
        ("Network is unreachable", Trouble::Unreachable),
        ("Connection reset by", Trouble::Unreachable),
        ("Connection closed by", Trouble::Unreachable),
        ("kex_exchange_identification", Trouble::Unreachable),
        ("banner exchange", Trouble::Unreachable),
        ("Timeout, server", Trouble::Silent),
    ];
    // The identity first: ssh goes on without one, and is then refused.
    let of = |wanted: fn(Trouble) -> bool| {
        MEANINGS.iter().find(|(words, trouble)| wanted(*trouble) && text.contains(words))
    };
    let found = of(|trouble| trouble == Trouble::Identity).or_else(|| of(|_| true));
    found.map(|(_, trouble)| *trouble)
}

/// One line of somebody else's, harmless in a terminal.
pub(super) fn harmless(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let plain = text.trim_end_matches(['\n', '\r']).chars().map(|letter| match letter {
        '\t' => ' ',
        letter if is_harmful(letter) => '?',
        letter => letter,
    });
    plain.take(LETTERS).collect()
}

/// Controls, and what changes how the text around it is shown.
fn is_harmful(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A number of bytes as people say it.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: &[(u64, &str)] = &[(1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB")];
    let unit = UNITS.iter().find(|(unit, _)| bytes >= *unit);
    unit.map_or_else(
        || format!("{bytes} bytes"),
        |(unit, name)| format!("{} {name}", bytes.div_ceil(*unit)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_is_understood() {
        for (text, trouble) in [
            ("Host key verification failed.", Some(Trouble::HostKey)),
            ("git@h: Permission denied (publickey).", Some(Trouble::Denied)),
            (
                "Load key \"/home/o/k\": invalid format\ngit@h: Permission denied (publickey).",
                Some(Trouble::Identity),
            ),
            ("ssh: connect to host h port 22: Connection refused", Some(Trouble::Unreachable)),
            ("ERROR: Repository not found.", None),
        ] {
            assert_eq!(classify(text), trouble, "{text}");
        }
    }

    #[test]
    fn words_of_others_are_harmless() {
        assert_eq!(harmless(b"a\x1b[2Jb\x07\n"), "a?[2Jb?");
        assert_eq!(harmless("x\u{202e}y\u{200b}z\u{9b}".as_bytes()), "x?y?z?");
        assert_eq!(harmless(&[b'x'; 1000]).len(), LETTERS);
        assert_eq!(harmless(&[0xff, b'a']), "\u{fffd}a");
    }

    #[test]
    fn sizes() {
        assert_eq!(
            (size(300 << 20), size(1 << 30), size(12)),
            ("300 MB".into(), "1 GB".into(), "12 bytes".into())
        );
    }
}
