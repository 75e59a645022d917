//! Whether a document is in order, before any of it holds. Pure.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest as _, Sha256};

use super::document::{Document, Upstream, VERSION};
use super::refs::is_pattern;

/// The types of host keys that are pinned, each with the algorithms by which it may sign.
const KEYS: &[(&str, &str)] = &[
    ("ssh-ed25519", "ssh-ed25519"),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256"),
    ("ecdsa-sha2-nistp384", "ecdsa-sha2-nistp384"),
    ("ecdsa-sha2-nistp521", "ecdsa-sha2-nistp521"),
    ("ssh-rsa", "rsa-sha2-512,rsa-sha2-256"),
    ("sk-ssh-ed25519@openssh.com", "sk-ssh-ed25519@openssh.com"),
    ("sk-ecdsa-sha2-nistp256@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"),
];

/// Reads a document. What a parser says about a wrong value would hold it, so only its place is told.
pub(super) fn parse(text: &[u8]) -> Result<Document, String> {
    let document: Document = serde_json::from_slice(text).map_err(|error| {
        format!(
            "the document cannot be read at line {}, column {}: a field is unknown, missing or of \
             the wrong type",
            error.line(),
            error.column()
        )
    })?;
    if document.version != VERSION {
        return Err(format!("`version` is {}: this gate reads {VERSION}", document.version));
    }
    let mut names = BTreeSet::new();
    let mut places = BTreeSet::new();
    for upstream in &document.upstreams {
        check(upstream).map_err(|what| format!("upstream `{}`: {what}", upstream.name))?;
        if !names.insert(&upstream.name) {
            return Err(format!("two upstreams are named `{}`", upstream.name));
        }
        if !places.insert(upstream.place()) {
            return Err(format!("two upstreams are {}", upstream.place()));
        }
    }
    Ok(document)
}

/// SHA-256 of a document, in hex, so that whoever delivered it sees which one holds.
pub(super) fn digest(document: &Document) -> Result<String, String> {
    let text = serde_json::to_vec(document).map_err(|error| format!("writing it: {error}"))?;
    Ok(hex::encode(Sha256::digest(text)))
}

fn check(upstream: &Upstream) -> Result<(), String> {
    let Upstream { name, user, host, path, .. } = upstream;
    let plain = |text: &str, more: &str| {
        !text.is_empty()
            && text.len() <= 255
            && text.starts_with(|first: char| first.is_ascii_alphanumeric() || more.contains(first))
            && text
                .chars()
                .all(|one| one.is_ascii_alphanumeric() || "-_.".contains(one) || more.contains(one))
    };
    if !plain(name, "") || name.ends_with(".git") || name.ends_with('.') || name.len() > 64 {
        return Err("its name is none of letters, digits, `-`, `_` and `.`".to_owned());
    }
    if !plain(user, "_") {
        return Err("its user is none".to_owned());
    }
    if !plain(host, ":") {
        return Err("its host is none".to_owned());
    }
    let strange = |one: char| one.is_control() || "'\\!`\"".contains(one);
    if !path.starts_with('/') || path.len() < 2 || path.len() > 1024 || path.contains(strange) {
        return Err("its path is none that is passed on".to_owned());
    }
    let whole = |path: &std::path::Path| {
        let text = path.to_str().filter(|text| {
            !text.contains(|one: char| one.is_control() || one == '%' || one == '$')
        });
        path.is_absolute() && text.is_some()
    };
    if !whole(&upstream.identity_file) || !upstream.identity_agent.as_deref().is_none_or(whole) {
        return Err("its identity is no absolute path that ssh reads as it is".to_owned());
    }
    for key in &upstream.known_host_keys {
        host_key(key).ok_or("a host's key is not `type base64`")?;
    }
    let patterns = [&upstream.push, &upstream.force, &upstream.delete, &upstream.refs];
    if let Some(pattern) = upstream.refs.iter().find(|pattern| pattern.matches('*').count() > 1) {
        return Err(format!("`{pattern}` has more than one `*`, and git fetches by one alone"));
    }
    match patterns.into_iter().flatten().find(|pattern| !is_pattern(pattern)) {
        Some(pattern) => Err(format!("`{pattern}` is no pattern of refs")),
        None => Ok(()),
    }
}

/// The algorithms by which a pinned key, `type base64`, may sign.
pub(super) fn host_key(key: &str) -> Option<&'static str> {
    let (kind, text) = key.split_once(' ')?;
    let (_, algorithms) = KEYS.iter().find(|(name, _)| *name == kind)?;
    let bytes = BASE64_STANDARD.decode(text).ok()?;
    // The key says itself what it is.
    let length = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?);
    let named = bytes.get(4..4 + usize::try_from(length).ok()?)?;
    (named == kind.as_bytes()).then_some(algorithms)
}

/// A pinned key as ssh shows it.
pub(super) fn fingerprint(key: &str) -> Option<String> {
    let (_, text) = key.split_once(' ')?;
    let digest = Sha256::digest(BASE64_STANDARD.decode(text).ok()?);
    Some(format!("SHA256:{}", base64::prelude::BASE64_STANDARD_NO_PAD.encode(digest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::git::testing::{HOST_KEY, upstream};

    fn document(change: impl FnOnce(&mut Upstream)) -> Result<Document, String> {
        let mut one = upstream("app");
        change(&mut one);
        let document = Document {
            version: VERSION,
            sandbox: "dev".into(),
            upstreams: vec![one],
            rules: None,
            dlp_allow: Vec::new(),
        };
        parse(&serde_json::to_vec(&document).unwrap())
    }

    #[test]
    fn what_could_be_an_option_or_a_command_is_refused() {
        assert!(document(|_| {}).is_ok());
        for name in ["", "-x", "a/b", "..", "a.git", "a b", "a\n"] {
            assert!(document(|one| one.name = name.into()).is_err(), "{name}");
        }
        for host in ["", "-oProxyCommand=x", "a b", "a;b", "a\nb", "a/b"] {
            assert!(document(|one| one.host = host.into()).is_err(), "{host}");
        }
        for user in ["", "-l", "a@b", "a b"] {
            assert!(document(|one| one.user = user.into()).is_err(), "{user}");
        }
        for path in ["", "/", "o/app", "/o'app", "/o\nx", "/a`b`"] {
            assert!(document(|one| one.path = path.into()).is_err(), "{path}");
        }
        for file in ["key", "/k\ney", "/home/%h", "/x/${A}"] {
            assert!(document(|one| one.identity_file = file.into()).is_err(), "{file}");
        }
        for key in [
            "",
            "SHA256:abc",
            "ssh-ed25519",
            "ssh-ed25519 !!",
            &HOST_KEY.replace("ssh-ed25519 ", "ssh-rsa "),
        ] {
            assert!(document(|one| one.known_host_keys = vec![key.into()]).is_err(), "{key}");
        }
        for pattern in ["main", "refs/heads/-*", "refs/heads/a..b", "+refs/heads/*"] {
            assert!(document(|one| one.push = vec![pattern.into()]).is_err(), "{pattern}");
        }
    }

    #[test]
    fn pins() {
        assert_eq!(host_key(HOST_KEY), Some("ssh-ed25519"));
        assert!(fingerprint(HOST_KEY).unwrap().starts_with("SHA256:"));
    }
}
