//! `IdentityFile` and `IdentityAgent`: by which key an upstream is spoken to, and whether it can work at all.
//!
//! Of a private key no more is read than what everybody may know: which kind of file it is, and its public half.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::manifest::field::{Field, Section};
use crate::manifest::guard::Guard;
use crate::manifest::source::Findings;
use crate::manifest::tree::{self, Dir, Kind, Links, ReadError};
use crate::model::Use;
use crate::model::policy::Identity;
use crate::model::policy::git::fingerprint;

/// No key is larger.
const LARGEST: u64 = 64 << 10;

/// What a file turned out to be.
#[derive(Debug, PartialEq, Eq)]
enum Key {
    Public { fingerprint: String },
    Private { fingerprint: Option<String>, encrypted: bool },
    Unknown,
}

/// Reads both keys of an upstream's section.
pub(super) fn read(
    section: &Section<'_>,
    guard: &Guard<'_>,
    findings: &mut Findings<'_>,
) -> Option<Identity> {
    let agent = section.get("IdentityAgent").and_then(|field| agent(&field, guard, findings));
    let field = section.get("IdentityFile")?;
    let file = guard.path(&field, findings)?;
    let found = guard.resolve(&field, &file, Use::Define, findings);
    // The gate uses what was looked at here, and not whatever a link on the way leads to then.
    let used = found.as_ref().map_or(file, Clone::clone);
    let stat = found.and_then(|found| tree::stat(&found).map(|stat| (found, stat)));
    let mut identity = Identity { file: used, agent, fingerprint: None };
    match stat {
        Ok((path, stat)) if stat.kind == Kind::File => match look(&path) {
            Ok((key, beside)) => {
                let readable = stat.mode & 0o077 != 0;
                identity.fingerprint =
                    check(&field, &key, readable, identity.agent.is_some(), findings);
                identity.fingerprint = identity.fingerprint.or(beside);
            }
            Err(error) => findings
                .add(field.warning(format!("the key cannot be read on this machine: {error}"))),
        },
        Ok((_, stat)) => {
            findings.add(field.error(format!("it is {}, not a key", stat.kind.describe())));
        }
        // The tree may be checked on a machine that has no keys.
        Err(error) => findings.add(field.warning(format!(
            "the key cannot be used on this machine: {}",
            tree::describe(&error)
        ))),
    }
    Some(identity)
}

fn agent(
    field: &Field<'_>,
    guard: &Guard<'_>,
    findings: &mut Findings<'_>,
) -> Option<std::path::PathBuf> {
    let path = guard.path(field, findings)?;
    let found = guard.resolve(field, &path, Use::Define, findings);
    match found.and_then(|found| tree::stat(&found)) {
        Ok(stat) if stat.kind == Kind::Socket => {}
        Ok(stat) => findings.add(
            field
                .error(format!("it is {}, not the socket of an ssh-agent", stat.kind.describe()))
                .hint("`echo $SSH_AUTH_SOCK` says where yours is; a key of its own is better than all of yours"),
        ),
        Err(error) => findings.add(field.warning(format!(
            "the agent cannot be used on this machine: {}",
            tree::describe(&error)
        ))),
    }
    Some(path)
}

/// Says what of a key will not work, and gives its fingerprint.
fn check(
    field: &Field<'_>,
    key: &Key,
    others_read: bool,
    agent: bool,
    findings: &mut Findings<'_>,
) -> Option<String> {
    match key {
        Key::Public { fingerprint } => {
            if !agent {
                findings.add(field.warning("this is the public half of a key, and the private one is wanted").hint(
                    "leave `.pub` out; or name the socket of an ssh-agent that has it in `IdentityAgent`",
                ));
            }
            Some(fingerprint.clone())
        }
        Key::Private { fingerprint, encrypted } => {
            if *encrypted && !agent {
                findings.add(
                    field.warning("the key has a passphrase, and nobody is there who could be asked for it").hint(
                        "name the socket of an ssh-agent that has it in `IdentityAgent`, or a key of its own without \
                         a passphrase",
                    ),
                );
            }
            if others_read {
                findings.add(
                    field
                        .warning("others may read this key, and ssh uses none that they may")
                        .hint(format!("`chmod 600 {}`", text(field))),
                );
            }
            fingerprint.clone()
        }
        Key::Unknown => {
            findings.add(field.warning("this is no key that ssh would read"));
            None
        }
    }
}

fn text<'a>(field: &Field<'a>) -> &'a str {
    match &field.node.value {
        crate::manifest::yaml::Value::Text(text) => text,
        _ => "KEY",
    }
}

/// What the file is; and, where it does not say so itself, the fingerprint of the public half beside it.
fn look(path: &Path) -> Result<(Key, Option<String>), ReadError> {
    let (folder, name) =
        path.parent().zip(path.file_name()).ok_or(ReadError::Kind(Kind::Folder))?;
    let folder = Dir::open(folder, Links::Follow)?;
    let (bytes, _) = folder.read(name, LARGEST)?;
    let bytes = Zeroizing::new(bytes);
    let key = parse(std::str::from_utf8(&bytes).unwrap_or_default());
    let mut beside = name.to_owned();
    beside.push(".pub");
    let beside = match &key {
        Key::Private { fingerprint: None, .. } => folder.read(&beside, LARGEST).ok(),
        _ => None,
    };
    let beside = beside.and_then(|(bytes, _)| match parse(std::str::from_utf8(&bytes).ok()?) {
        Key::Public { fingerprint } => Some(fingerprint),
        _ => None,
    });
    Ok((key, beside))
}

fn parse(text: &str) -> Key {
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
