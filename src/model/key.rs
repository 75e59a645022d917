//! Files of ssh's keys: which kind one is, and its public half. Of a private key no more is read than what everybody may know.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::policy::git::fingerprint;

/// What a file turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Key {
    /// The public half of a key.
    Public {
        /// `SHA256:…`.
        fingerprint: String,
    },
    /// A private key.
    Private {
        /// That of its public half, where it has that in the clear.
        fingerprint: Option<String>,
        /// It has a passphrase.
        encrypted: bool,
    },
    /// No key that ssh would read.
    Unknown,
}

impl Key {
    /// Its fingerprint, where the file says it.
    #[must_use]
    pub fn fingerprint(&self) -> Option<&str> {
        match self {
            Self::Public { fingerprint } => Some(fingerprint),
            Self::Private { fingerprint, .. } => fingerprint.as_deref(),
            Self::Unknown => None,
        }
    }
}

/// Reads what a file says of itself.
#[must_use]
pub fn parse(text: &str) -> Key {
    let text = text.trim();
    if let Some(body) = armoured(text, "OPENSSH PRIVATE KEY") {
        return openssh(body).unwrap_or(Key::Unknown);
    }
    let Some(begin) = text.strip_prefix("-----BEGIN ").and_then(|rest| rest.split_once("-----"))
    else {
        let mut words = text.split_ascii_whitespace();
        let body = words.nth(1).filter(|body| body.starts_with("AAAA"));
        return body
            .and_then(fingerprint)
            .map_or(Key::Unknown, |fingerprint| Key::Public { fingerprint });
    };
    // Older forms do not say their public half without more ado.
    let encrypted = begin.0 == "ENCRYPTED PRIVATE KEY" || text.contains("Proc-Type: 4,ENCRYPTED");
    match begin.0.ends_with("PRIVATE KEY") {
        true => Key::Private { fingerprint: None, encrypted },
        false => Key::Unknown,
    }
}

/// What stands between the lines that say what it is.
fn armoured<'a>(text: &'a str, what: &str) -> Option<&'a str> {
    let body = text.strip_prefix(&*format!("-----BEGIN {what}-----"))?;
    body.split_once(&*format!("-----END {what}-----")).map(|(body, _)| body)
}

/// OpenSSH's own form: the cipher's name, how its key is derived, and the public key stand in the clear.
fn openssh(body: &str) -> Option<Key> {
    let body: Zeroizing<String> = Zeroizing::new(body.split_ascii_whitespace().collect());
    let bytes = Zeroizing::new(STANDARD.decode(body.as_bytes()).ok()?);
    let mut rest = bytes.strip_prefix(b"openssh-key-v1\0")?;
    let mut next = || {
        let (length, after) = rest.split_at_checked(4)?;
        let length = usize::try_from(u32::from_be_bytes(length.try_into().ok()?)).ok()?;
        let (part, after) = after.split_at_checked(length)?;
        rest = after;
        Some(part)
    };
    let cipher = next()?;
    let (_derived, _with) = (next()?, next()?);
    let encrypted = cipher != b"none";
    let (_keys, after) = rest.split_at_checked(4)?;
    rest = after;
    let next = || {
        let (length, after) = rest.split_at_checked(4)?;
        let length = usize::try_from(u32::from_be_bytes(length.try_into().ok()?)).ok()?;
        after.get(..length)
    };
    let fingerprint = fingerprint(&STANDARD.encode(next()?));
    Some(Key::Private { fingerprint, encrypted })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key of OpenSSH's that says no more than it has to.
    fn private(cipher: &str) -> String {
        let mut bytes = b"openssh-key-v1\0".to_vec();
        let mut add = |part: &[u8]| {
            bytes.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
            bytes.extend(part);
        };
        add(cipher.as_bytes());
        add(b"none");
        add(b"");
        bytes.extend(1_u32.to_be_bytes());
        let public = STANDARD
            .decode("AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl")
            .unwrap();
        bytes.extend(u32::try_from(public.len()).unwrap().to_be_bytes());
        bytes.extend(public);
        bytes.extend(4_u32.to_be_bytes());
        bytes.extend(b"rest");
        let body = STANDARD.encode(bytes);
        let (begin, end) =
            ("-----BEGIN OPENSSH PRIVATE KEY-----", "-----END OPENSSH PRIVATE KEY-----");
        format!("{begin}\n{}\n{}\n{end}\n", &body[..40], &body[40..])
    }

    #[test]
    fn a_key_says_what_everybody_may_know() {
        let print = "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU".to_owned();
        for (cipher, encrypted) in [("none", false), ("aes256-ctr", true)] {
            let expected = Key::Private { fingerprint: Some(print.clone()), encrypted };
            assert_eq!(parse(&private(cipher)), expected);
        }
        let public =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me";
        assert_eq!(parse(public), Key::Public { fingerprint: print });
        let pem = |kind: &str, more: &str| {
            parse(&format!("-----BEGIN {kind}-----\n{more}\nAAAA\n-----END {kind}-----\n"))
        };
        let private = |encrypted| Key::Private { fingerprint: None, encrypted };
        assert_eq!(pem("RSA PRIVATE KEY", ""), private(false));
        assert_eq!(pem("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED"), private(true));
        assert_eq!(pem("ENCRYPTED PRIVATE KEY", ""), private(true));
        for other in ["", "key", "ssh-ed25519", "-----BEGIN CERTIFICATE-----\nAAAA"] {
            assert_eq!(parse(other), Key::Unknown, "{other}");
        }
        assert_eq!(pem("OPENSSH PRIVATE KEY", ""), Key::Unknown);
    }
}
