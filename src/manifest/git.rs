//! `git`: what the git gate may talk to, by which key, and what may be pushed there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use self::host_key::Server;
use super::egress::is_date;
use super::field::{Field, Section, shorten};
use super::guard::Guard;
use super::host;
use super::keys::{Key, Shape, Table};
use super::limits;
use super::source::{Findings, Problem};
use super::tree::{Dir, Links};
use crate::model::policy::git::{MAX_FILE, MAX_PUSH};
use crate::model::policy::{GitAllow, GitUpstream};

mod host_key;
mod identity;
mod refs;

const NAME: &str = "^[A-Za-z0-9][A-Za-z0-9._-]*$";
const FINGERPRINT: &str = "^[0-9a-f]{12}$";
const REFS: Shape = Shape::List(&Shape::Text(None));

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
        Key::new(
            "IdentityAgent",
            Shape::Text(None),
            "the socket of an ssh-agent that holds the key; `IdentityFile` is its public half then",
        )
        .or("identity_agent"),
        Key::new(
            "KnownHostKey",
            Shape::Either(&[Shape::Text(None), Shape::List(&Shape::Text(None))]),
            "the host's public key, or a list of them: `ssh-ed25519 AAAA…`; without one nothing is sent",
        )
        .or("known_host_key"),
        Key::new(
            "ExtraHosts",
            Shape::Names { key: "^[A-Za-z0-9.-]+$", value: &Shape::Text(None) },
            "host names that resolve to fixed addresses",
        )
        .or("extra_hosts"),
        Key::new(
            "Push",
            REFS,
            "what may be created, or moved forward: `agent/*`, `refs/tags/*` (default: branches and tags; `[]`: nothing)",
        )
        .or("push"),
        Key::new("Force", REFS, "where history may be rewritten (default: nowhere)").or("force"),
        Key::new("Delete", REFS, "what may be deleted (default: nothing)").or("delete"),
        Key::new("Refs", REFS, "what is fetched beside branches and tags: `refs/pull/*/head`")
            .or("refs"),
        Key::new(
            "MaxPush",
            Shape::Text(Some(limits::AMOUNT)),
            "how much one push may have: `500M` (default `1G`)",
        )
        .or("max_push"),
        Key::new(
            "MaxFile",
            Shape::Text(Some(limits::AMOUNT)),
            "how much one file may have that is pushed (default `256M`)",
        )
        .or("max_file"),
        Key::new("Allow", Shape::List(&Shape::Section(&ALLOW)), "findings that are no secrets")
            .or("allow"),
    ],
    removed: &[],
    instead: &[],
};

/// The keys of a finding that is none.
static ALLOW: Table = Table {
    what: "an exception of a git upstream",
    keys: &[
        Key::required("rule", Shape::Text(None), "the rule's id, as the refusal names it"),
        Key::required("path", Shape::Text(None), "the path of the file, as the refusal names it"),
        Key::required(
            "fingerprint",
            Shape::Text(Some(FINGERPRINT)),
            "the 12 digits by which the refusal names the value",
        ),
        Key::required("reason", Shape::Text(None), "why; it is logged"),
        Key::new(
            "expires",
            Shape::Text(Some("^[0-9]{4}-[0-9]{2}-[0-9]{2}$")),
            "the last day on which it holds",
        ),
    ],
    removed: &[],
    instead: &[],
};

/// Less is no file worth a limit.
const LEAST: u64 = 64 << 10;
const MOST_PUSH: u64 = 64 << 30;
const MOST_FILE: u64 = 4 << 30;

/// Reads the list of upstreams.
pub(super) fn read(
    field: &Field<'_>,
    guard: &Guard<'_>,
    findings: &mut Findings<'_>,
) -> Vec<GitUpstream> {
    let mut names = BTreeSet::new();
    let mut upstreams: Vec<GitUpstream> = Vec::new();
    for (index, node) in field.list(findings).unwrap_or_default().iter().enumerate() {
        let item = field.item(index, node);
        let Some(found) = upstream(&item, guard, &mut names, findings) else { continue };
        match upstreams.iter().find(|other| other.place() == found.place()) {
            Some(other) => {
                let message = format!("this is the repository of `{}`", other.name);
                findings.add(item.error(message).hint("one entry says all about a repository"));
            }
            None => upstreams.push(found),
        }
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
    let identity = identity::read(&section, guard, findings);
    let server = url.as_ref().map(|(_, host, port, _)| Server { host, port: *port });
    let pinned = section.get("KnownHostKey");
    let known_host_keys =
        pinned.as_ref().map(|field| host_key::read(field, server, findings)).unwrap_or_default();
    if let (None, Some(server), Some(field)) = (pinned, server, section.get("Upstream")) {
        findings.add(unpinned(&field, server, guard));
    }
    let extra_hosts =
        section.get("ExtraHosts").map(|field| extra_hosts(&field, findings)).unwrap_or_default();
    let refs = refs::read(&section, findings);
    let mut amount = |key: &'static str, most: u64| {
        let field = section.get(key)?;
        limits::amount_between(&field, LEAST..=most, findings)
    };
    let max_push = amount("MaxPush", MOST_PUSH).unwrap_or(MAX_PUSH);
    let max_file = amount("MaxFile", MOST_FILE).unwrap_or(MAX_FILE);
    let allow = section.get("Allow").map(|field| allow(&field, findings)).unwrap_or_default();
    let (user, host, port, path) = url?;
    Some(GitUpstream {
        name: name?,
        user,
        host,
        port,
        path,
        identity: identity?,
        known_host_keys,
        extra_hosts,
        refs,
        max_push,
        max_file,
        allow,
    })
}

/// That no key is pinned, with the line that pins it where the operator's own ssh knows it.
fn unpinned(field: &Field<'_>, server: Server<'_>, guard: &Guard<'_>) -> Problem {
    /// More than any such file has.
    const LARGEST: u64 = 4 << 20;
    let read = || {
        let folder = Dir::open(&guard.home?.join(".ssh"), Links::Follow).ok()?;
        String::from_utf8(folder.read("known_hosts".as_ref(), LARGEST).ok()?.0).ok()
    };
    let known = read().map(|text| host_key::known(&text, server)).unwrap_or_default();
    let hint = match known.first() {
        Some(key) => format!("your known_hosts has it: `KnownHostKey: {key}`"),
        None => format!(
            "`ssh-keygen -F '{}'` prints it if you know it; {}",
            server.known(),
            server.scan()
        ),
    };
    let name = server.known();
    field
        .warning(format!("no `KnownHostKey` says who `{name}` is: nothing is fetched or pushed"))
        .hint(hint)
}

/// Twelve hexadecimal digits in lower case.
fn is_fingerprint(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn allow(field: &Field<'_>, findings: &mut Findings<'_>) -> Vec<GitAllow> {
    let mut all = Vec::new();
    for (index, node) in field.list(findings).unwrap_or_default().iter().enumerate() {
        let item = field.item(index, node);
        if let Some(section) = item.section(&ALLOW, findings) {
            all.extend(exception(&item, &section, findings));
        }
    }
    all
}

fn exception(
    item: &Field<'_>,
    section: &Section<'_>,
    findings: &mut Findings<'_>,
) -> Option<GitAllow> {
    let place = |key: &'static str, findings: &Findings<'_>| {
        let found = section.get(key).map_or_else(|| item.error(""), |field| field.error(""));
        Box::new(findings.locate(found))
    };
    let places = [place("rule", findings), place("expires", findings)];
    let mut word = |key: &'static str| {
        section.get(key).and_then(|field| field.word(findings).map(str::to_owned))
    };
    let (rule, reason) = (word("rule"), word("reason"));
    let mut checked = |key: &'static str, good: fn(&str) -> bool, what: &str| {
        let field = section.get(key)?;
        let text = field.word(findings)?;
        if !good(text) {
            findings.add(field.error(format!("`{}` is not {what}", shorten(text))));
            return None;
        }
        Some(text.to_owned())
    };
    let plain = |text: &str| !text.starts_with('/') && !text.contains(char::is_control);
    let path = checked("path", plain, "the path of a file in a repository");
    let fingerprint = checked("fingerprint", is_fingerprint, "the 12 digits that a refusal names");
    let expires = checked("expires", is_date, "a date such as `2027-01-31`");
    Some(GitAllow {
        rule: rule?,
        path: path?,
        fingerprint: fingerprint?,
        reason: reason?,
        expires,
        places,
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

fn extra_hosts(field: &Field<'_>, findings: &mut Findings<'_>) -> BTreeMap<String, IpAddr> {
    let mut hosts = BTreeMap::new();
    for entry in field.entries(findings).unwrap_or_default() {
        let value = field.entry(entry);
        let name = host::dns_name(&entry.key);
        if let Err(reason) = &name {
            let message = format!("`{}` {reason}", shorten(&entry.key));
            findings.add(Problem::error(entry.key_span, message).field(&value.at));
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
