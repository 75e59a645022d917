//! `git`: what the git gate may talk to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::field::{Field, shorten};
use super::guard::Guard;
use super::host;
use super::keys::{Key, Shape, Table};
use super::source::Findings;
use super::tree::{self, Kind};
use crate::model::Use;
use crate::model::policy::GitUpstream;

const NAME: &str = "^[A-Za-z0-9][A-Za-z0-9._-]*$";

/// The keys of one upstream.
pub(super) static TABLE: Table = Table {
    what: "a git upstream",
    keys: &[
        Key::required("Name", Shape::Text(Some(NAME)), "the name by which the agent knows it")
            .or("name"),
        Key::required("Upstream", Shape::Text(Some("^ssh://")), "`ssh://user@host[:port]/path`")
            .or("upstream"),
        Key::required(
            "IdentityFile",
            Shape::Text(None),
            "the private key on the host; `~` is your home folder",
        )
        .or("identity_file"),
        Key::new("KnownHostKey", Shape::Text(None), "the host's public key: `ssh-ed25519 AAAA…`")
            .or("known_host_key"),
        Key::new(
            "ExtraHosts",
            Shape::Names { key: "^[A-Za-z0-9.-]+$", value: &Shape::Text(None) },
            "host names that resolve to fixed addresses",
        )
        .or("extra_hosts"),
    ],
    removed: &[],
    instead: &[],
};

const KEY_TYPES: [&str; 7] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// Reads the list of upstreams.
pub(super) fn read(
    field: &Field<'_>,
    guard: &Guard<'_>,
    findings: &mut Findings<'_>,
) -> Vec<GitUpstream> {
    let mut names = BTreeSet::new();
    let mut upstreams = Vec::new();
    for (index, node) in field.list(findings).unwrap_or_default().iter().enumerate() {
        let item = field.item(index, node);
        upstreams.extend(upstream(&item, guard, &mut names, findings));
    }
    upstreams
}

fn upstream(
    field: &Field<'_>,
    guard: &Guard<'_>,
    names: &mut BTreeSet<String>,
    findings: &mut Findings<'_>,
) -> Option<GitUpstream> {
    let section = field.section(&TABLE, findings)?;
    let name = section.get("Name").and_then(|field| name(&field, names, findings));
    let url = section.get("Upstream").and_then(|field| url(&field, findings));
    let identity = section.get("IdentityFile").and_then(|field| {
        let path = guard.path(&field, findings)?;
        // The key that is used is whatever the path leads to then.
        let found = guard.resolve(&field, &path, Use::Define, findings);
        match found.and_then(|found| tree::stat(&found)).map(|stat| stat.kind) {
            Ok(Kind::File) => {}
            Ok(other) => {
                findings.add(field.error(format!("it is {}, not a key", other.describe())))
            }
            // The tree may be checked on a machine that has no keys.
            Err(error) => findings.add(field.warning(format!(
                "the key cannot be used on this machine: {}",
                tree::describe(&error)
            ))),
        }
        Some(path)
    });
    let known_host_key = section.get("KnownHostKey").and_then(|field| host_key(&field, findings));
    let extra_hosts =
        section.get("ExtraHosts").map(|field| extra_hosts(&field, findings)).unwrap_or_default();
    let (user, host, port, path) = url?;
    let identity_file = identity?;
    Some(GitUpstream {
        name: name?,
        user,
        host,
        port,
        path,
        identity_file,
        known_host_key,
        extra_hosts,
    })
}

fn name(
    field: &Field<'_>,
    names: &mut BTreeSet<String>,
    findings: &mut Findings<'_>,
) -> Option<String> {
    let text = field.word(findings)?;
    let good = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && text.len() <= 100;
    if !good {
        let problem = field.error(format!("`{}` cannot name an upstream", shorten(text)));
        findings.add(
            problem.hint("expected letters, digits, `.`, `_` and `-`, a letter or digit first"),
        );
        return None;
    }
    if !names.insert(text.to_owned()) {
        findings.add(field.error(format!("another upstream of this bottle is named `{text}`")));
        return None;
    }
    Some(text.to_owned())
}

type SshUrl = (String, String, u16, String);

fn url(field: &Field<'_>, findings: &mut Findings<'_>) -> Option<SshUrl> {
    let text = field.word(findings)?;
    match parse_url(text) {
        Ok(url) => Some(url),
        Err(reason) => {
            let problem = field.refused(text, &reason);
            let hint = scp_form(text).map_or_else(
                || "expected `ssh://user@host[:port]/path`".to_owned(),
                |url| format!("write `{url}`"),
            );
            findings.add(problem.hint(hint));
            None
        }
    }
}

fn parse_url(text: &str) -> Result<SshUrl, String> {
    let rest = text.strip_prefix("ssh://").ok_or("is not an `ssh://` URL")?;
    if rest.starts_with(':') || rest.contains('[') {
        return Err("names no host: expected a name or an IPv4 address".into());
    }
    let url = host::split_url(rest);
    let user = url.user.filter(|user| !user.is_empty()).ok_or("names no user")?;
    // The user reaches ssh's command line: it may not look like an option.
    let first = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let good_user = user.bytes().next().is_some_and(first)
        && user.bytes().all(|b| first(b) || b == b'.' || b == b'-');
    if user.contains(':') {
        return Err("holds a password: the key in `IdentityFile` is used instead".into());
    }
    if !good_user {
        return Err("has a user that is not a plain name".into());
    }
    let name =
        host::host_or_ipv4(url.host).map_err(|reason| format!("has a host that {reason}"))?;
    let port = match url.port {
        None => 22,
        Some(text) => host::port(text).ok_or("has a port that is not a number from 1 to 65535")?,
    };
    let path = url.path;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._~/+@-".contains(&b);
    if path.len() < 2 {
        return Err("names no path".into());
    }
    if !path.bytes().all(plain) || !host::is_canonical_path(path) {
        return Err(
            "has a path that is not plain: letters, digits, `.`, `_`, `~`, `+`, `@`, `-`, `/`"
                .into(),
        );
    }
    Ok((user.to_owned(), name, port, path.to_owned()))
}

/// `git@host:path`, as `ssh://` would have it.
fn scp_form(text: &str) -> Option<String> {
    let (login, path) = text.split_once(':')?;
    let url = format!("ssh://{login}/{}", path.trim_start_matches('/'));
    (login.contains('@') && parse_url(&url).is_ok()).then_some(url)
}

fn host_key(field: &Field<'_>, findings: &mut Findings<'_>) -> Option<String> {
    let text = field.word(findings)?;
    let mut words = text.split_ascii_whitespace();
    let kind = words.next().filter(|kind| KEY_TYPES.contains(kind));
    let base64 = |b: u8| b.is_ascii_alphanumeric() || b"+/=".contains(&b);
    let body = words
        .next()
        .filter(|body| body.starts_with("AAAA") && body.len() % 4 == 0 && body.bytes().all(base64));
    let (Some(kind), Some(body)) = (kind, body) else {
        let problem = field.error("this is not an SSH public key");
        findings.add(
            problem.hint(
                "expected `ssh-ed25519 AAAA…`, as `ssh-keyscan HOST` prints it after the host",
            ),
        );
        return None;
    };
    Some(format!("{kind} {body}"))
}

fn extra_hosts(field: &Field<'_>, findings: &mut Findings<'_>) -> BTreeMap<String, IpAddr> {
    let mut hosts = BTreeMap::new();
    for entry in field.entries(findings).unwrap_or_default() {
        let value = field.entry(entry);
        let name = host::dns_name(&entry.key);
        if let Err(reason) = &name {
            let message = format!("`{}` {reason}", shorten(&entry.key));
            findings.add(super::source::Problem::error(entry.key_span, message).field(&value.at));
        }
        let address = value.text(findings).and_then(|text| {
            let address = text.parse::<IpAddr>().ok();
            if address.is_none() {
                findings.add(value.error(format!("`{}` is not an IP address", shorten(text))));
            }
            address
        });
        if let (Ok(name), Some(address)) = (name, address) {
            hosts.insert(name, address);
        }
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_urls() {
        let url = |user: &str, host: &str, port, path: &str| {
            Ok((user.to_owned(), host.to_owned(), port, path.to_owned()))
        };
        assert_eq!(
            parse_url("ssh://git@github.com/a/b.git"),
            url("git", "github.com", 22, "/a/b.git")
        );
        assert_eq!(parse_url("ssh://git@GitHub.com:2222/a"), url("git", "github.com", 2222, "/a"));
        assert_eq!(parse_url("ssh://g@10.0.0.1/a"), url("g", "10.0.0.1", 22, "/a"));
        for bad in [
            "git@github.com:a/b",
            "https://git@github.com/a",
            "ssh://github.com/a",
            "ssh://@github.com/a",
            "ssh://git@/a",
            "ssh://git@github.com",
            "ssh://git@github.com/",
            "ssh://git@github.com:/a",
            "ssh://git@github.com:ssh/a",
            "ssh://git@github.com:0/a",
            "ssh://git@github.com:70000/a",
            "ssh://-oProxyCommand=x@h/a",
            "ssh://git:pw@h/a",
            "ssh://git@h/a b",
            "ssh://git@h/a?b",
            "ssh://git@h/../a",
            "ssh://git@h//a",
            "ssh://git@-h/a",
            "ssh://git@h/a;b",
            "ssh://git@h/$(x)",
            "ssh://a@b@c/d",
            "ssh://git@[::1]/a",
            "ssh://git@0x7f.1/a",
            "SSH://git@h/a",
            "ssh://git@hä/a",
            "",
        ] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
        assert_eq!(
            scp_form("git@github.com:a/b.git").as_deref(),
            Some("ssh://git@github.com/a/b.git")
        );
    }
}
