//! `egress`: what the machine can reach.

use std::path::Path;

use super::field::{Field, shorten};
use super::guard::Guard;
use super::host;
use super::keys::{Key, Shape, Table};
use super::services;
use super::source::Findings;
use super::suffix::{self, Public};
use super::tree::{self, Dir, Kind, Links, ReadError};
use super::yaml::Value;
use crate::model::policy::{AllowEntry, DlpAction, DlpAllow, Egress, HostPattern, RulesFile};
use crate::model::{Moment, Use};

/// The keys of `egress`.
pub(super) static TABLE: Table = Table {
    what: "`egress`",
    keys: &[
        Key::new(
            "allowlist",
            Shape::List(&Shape::Either(&[Shape::Text(None), Shape::Section(&ENTRY)])),
            "`host`, `host:port`, `*.host` (one label) or `**.host` (any labels); absent or empty: nothing",
        ),
        Key::new(
            "dlp_action",
            Shape::Word(&["block", "warn", "redact"]),
            "what happens to a request that holds a secret",
        ),
        Key::new(
            "dlp_rules",
            Shape::Text(None),
            "a file with leak rules of your own, in gitleaks' TOML",
        ),
        Key::new(
            "dlp_allow",
            Shape::List(&Shape::Section(&ALLOW)),
            "narrow exceptions from leak rules",
        ),
    ],
    removed: &[],
    instead: &[],
};

/// The keys of an allowlist entry that says more than a host.
static ENTRY: Table = Table {
    what: "an allowlist entry",
    keys: &[
        Key::required("host", Shape::Text(None), "`host`, `*.host` or `**.host`"),
        Key::new("port", Shape::Whole { min: 1, max: 65_535 }, "default 443"),
        Key::new(
            "methods",
            Shape::List(&Shape::Text(Some("^[A-Z]+$"))),
            "only these methods: `[GET, HEAD]`",
        ),
        Key::new(
            "paths",
            Shape::List(&Shape::Text(Some("^/"))),
            "only these paths: `*` is one segment, `**` any",
        ),
        Key::new("cidr", Shape::Text(None), "the private range that this host may resolve into"),
        Key::new(
            "encoded_slash",
            Shape::Flag,
            "`%2F` may stand in a segment of a path, as GitLab and Google Cloud Storage want it",
        ),
        Key::new("expires", Shape::Text(Some(END)), ENDS),
    ],
    removed: &[],
    instead: &[],
};

/// The keys of an exception from a leak rule.
static ALLOW: Table = Table {
    what: "an exception from a leak rule",
    keys: &[
        Key::required("rule", Shape::Text(None), "the rule's id"),
        Key::required("host", Shape::Text(None), "the host for which it is suppressed"),
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

const HTTPS: u16 = 443;

/// Reads `egress`.
pub(super) fn read(field: &Field<'_>, guard: &Guard<'_>, findings: &mut Findings<'_>) -> Egress {
    let Some(section) = field.section(&TABLE, findings) else { return Egress::default() };
    let mut egress = Egress::default();
    if let Some(list) = section.get("allowlist") {
        for (index, node) in list.list(findings).unwrap_or_default().iter().enumerate() {
            let item = list.item(index, node);
            let entry = match &node.value {
                Value::Map(_) => detailed(&item, findings),
                _ => short(&item, findings),
            };
            egress.allowlist.extend(entry);
        }
    }
    let actions =
        [("block", DlpAction::Block), ("warn", DlpAction::Warn), ("redact", DlpAction::Redact)];
    if let Some(action) = section.get("dlp_action").and_then(|f| f.choice(&actions, findings)) {
        egress.dlp_action = action;
    }
    egress.dlp_rules = section.get("dlp_rules").and_then(|field| {
        let path = guard.path(&field, findings)?;
        let path = guard.resolve(&field, &path, Use::Define, findings).unwrap_or(path);
        rules(&field, &path, findings)
    });
    if let Some(list) = section.get("dlp_allow") {
        for (index, node) in list.list(findings).unwrap_or_default().iter().enumerate() {
            egress.dlp_allow.extend(exception(&list.item(index, node), findings));
        }
    }
    egress
}

/// Larger than any set of rules that a person wrote.
const MAX_RULES: u64 = 4 << 20;

fn rules(field: &Field<'_>, path: &Path, findings: &mut Findings<'_>) -> Option<RulesFile> {
    let read = || -> Result<RulesFile, ReadError> {
        let path = tree::canonical(path)?;
        let (folder, name) =
            path.parent().zip(path.file_name()).ok_or(ReadError::Kind(Kind::Folder))?;
        let (bytes, _) = Dir::open(folder, Links::Follow)?.read(name, MAX_RULES)?;
        let text =
            String::from_utf8(bytes).map_err(|_| std::io::Error::other("it is not UTF-8"))?;
        Ok(RulesFile { path, text: text.into() })
    };
    match read() {
        Ok(file) => Some(file),
        Err(error) => {
            findings.add(field.error(format!("the file of rules: {error}")));
            None
        }
    }
}

/// `host`, `host:port` and their wildcards.
fn short(field: &Field<'_>, findings: &mut Findings<'_>) -> Option<AllowEntry> {
    if !matches!(field.node.value, Value::Text(_)) {
        findings.add(match field.node.value {
            // An unquoted address or a lone port reads as a number.
            Value::Number(_) => {
                field.error("an IP address or a number is not a host: name the host")
            }
            _ => field.mismatch("a host, or a map with the key `host`"),
        });
        return None;
    }
    let text = field.word(findings)?;
    match parse_short(text) {
        Ok((host, port)) => {
            let (methods, paths) = (Vec::new(), Vec::new());
            Some(AllowEntry {
                host,
                port,
                methods,
                paths,
                cidr: None,
                encoded_slash: false,
                expires: None,
            })
        }
        Err(reason) => {
            findings.add(field.refused(text, &reason));
            None
        }
    }
}

fn parse_short(text: &str) -> Result<(HostPattern, u16), String> {
    refuse_foreign(text)?;
    match text.split_once(':') {
        None => Ok((pattern(text)?, HTTPS)),
        Some((name, digits)) => {
            let port =
                host::port(digits).ok_or("has a port that is not a number from 1 to 65535")?;
            Ok((pattern(name)?, port))
        }
    }
}

/// What people write where a host belongs.
fn refuse_foreign(text: &str) -> Result<(), String> {
    if let Some((_, rest)) = text.split_once("://") {
        let host = rest.split(['/', ':']).next().unwrap_or_default();
        return Err(format!("has a scheme: name only the host, `{}`", shorten(host)));
    }
    if text.parse::<std::net::IpAddr>().is_ok() || text.starts_with('[') {
        return Err("is an IP address: name the host".into());
    }
    if host::cidr(text).is_ok() {
        return Err("is a network: name hosts".into());
    }
    if text.contains('/') {
        return Err("has a path: use the form `{host: …, paths: […]}`".into());
    }
    if text.contains('@') {
        return Err("has user info: name only the host".into());
    }
    Ok(())
}

/// A host, or a wildcard over one that is no public suffix.
fn pattern(text: &str) -> Result<HostPattern, String> {
    if matches!(text, "*" | "**" | "*." | "**.") {
        return Err("is every host: name those that are needed".into());
    }
    let (name, wrap): (&str, fn(String) -> HostPattern) =
        if let Some(name) = text.strip_prefix("**.") {
            (name, HostPattern::AnyLabels)
        } else if let Some(name) = text.strip_prefix("*.") {
            (name, HostPattern::OneLabel)
        } else {
            (text, HostPattern::Exact)
        };
    if name.contains('*') {
        return Err("has a `*` in the middle: a wildcard is `*.host` or `**.host`".into());
    }
    let name = host::dns_name(name)?;
    services::refuse_reserved(&name)?;
    let pattern = wrap(name.clone());
    let own = ["localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"];
    if own.contains(&name.as_str()) || name.ends_with(".localhost") {
        return Err("is the machine itself, of which a sandbox reaches only what \
                    `services: [{name, port}]` opens, as `NAME.host`"
            .into());
    }
    if !matches!(pattern, HostPattern::Exact(_))
        && let Some(by) = suffix::public(&name)
    {
        return Err(match by {
            Public::Registry => {
                format!("is a wildcard over `{name}`, under which anyone can register a name")
            }
            Public::Private => format!(
                "is a wildcard over `{name}`, which is in the private part of the Public Suffix \
                 List: its names belong to different people; name those that are needed"
            ),
            Public::Shared => format!(
                "is a wildcard over `{name}`, whose names belong to different people: name those \
                 that are needed"
            ),
        });
    }
    Ok(pattern)
}

/// The form with methods, paths or a private range.
fn detailed(field: &Field<'_>, findings: &mut Findings<'_>) -> Option<AllowEntry> {
    let section = field.section(&ENTRY, findings)?;
    let host = section.get("host").and_then(|field| {
        let text = field.word(findings)?;
        let fine = refuse_foreign(text).and_then(|()| {
            if text.contains(':') {
                Err("has a port: use the key `port`".into())
            } else {
                pattern(text)
            }
        });
        fine.map_err(|reason| findings.add(field.refused(text, &reason))).ok()
    });
    let port = match section.get("port") {
        None => Some(HTTPS),
        Some(field) => {
            let port = match &field.node.value {
                Value::Number(text) => host::port(text),
                _ => None,
            };
            if port.is_none() {
                findings.add(field.mismatch("a port from 1 to 65535"));
            }
            port
        }
    };
    let methods = section.get("methods").map(|f| some(&f, method, findings)).unwrap_or_default();
    let encoded_slash = section.get("encoded_slash").and_then(|field| field.flag(findings));
    let encoded_slash = encoded_slash.unwrap_or_default();
    let path = if encoded_slash { path_with_slashes } else { path };
    let paths = section.get("paths").map(|f| some(&f, path, findings)).unwrap_or_default();
    let cidr = section.get("cidr").and_then(|field| {
        let text = field.word(findings)?;
        let checked = host::cidr(text).and_then(|(address, length)| {
            if host::is_private(address, length) {
                Ok(text.to_owned())
            } else {
                Err("is no private range: loopback, link-local and public addresses are never an exception".to_owned())
            }
        });
        checked.map_err(|reason| findings.add(field.refused(text, &reason))).ok()
    });
    let expires = section.get("expires").and_then(|field| end(&field, findings));
    Some(AllowEntry { host: host?, port: port?, methods, paths, cidr, encoded_slash, expires })
}

/// When something ends: what the key takes.
pub(super) const END: &str = "^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].+)?$";
/// What it means.
pub(super) const ENDS: &str =
    "until then it is granted: `2026-11-28T21:00:00Z`, or the last day, `2026-11-28`, in UTC";

/// Reads when something ends.
pub(super) fn end(field: &Field<'_>, findings: &mut Findings<'_>) -> Option<Moment> {
    let text = field.word(findings)?;
    let end = Moment::end(text);
    if end.is_none() {
        let hint = "write `2026-11-28T21:00:00Z`, or a day: `2026-11-28`";
        findings.add(field.error(format!("`{}` is no moment", shorten(text))).hint(hint));
    }
    end
}

/// A list that restricts: an empty one would restrict nothing, so it is refused.
fn some(
    field: &Field<'_>,
    check: fn(&str) -> Result<(), String>,
    findings: &mut Findings<'_>,
) -> Vec<String> {
    if matches!(&field.node.value, Value::List(items) if items.is_empty()) {
        let problem = field.error("this list is empty");
        findings.add(problem.hint("leave the key out to allow all, or the entry to allow none"));
    }
    let mut kept = Vec::new();
    for (index, node) in field.list(findings).unwrap_or_default().iter().enumerate() {
        let item = field.item(index, node);
        let Some(text) = item.word(findings) else { continue };
        match check(text) {
            Err(reason) => findings.add(item.refused(text, &reason)),
            Ok(()) if kept.iter().any(|known| known == text) => {
                findings.add(item.warning(format!("`{}` stands here twice", shorten(text))));
            }
            Ok(()) => kept.push(text.to_owned()),
        }
    }
    kept
}

fn method(text: &str) -> Result<(), String> {
    let upper = text.to_ascii_uppercase();
    if text == "CONNECT" || text == "TRACE" {
        return Err("is never passed on".into());
    }
    if text.len() > 32 || !upper.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
        return Err("is not an HTTP method".into());
    }
    if text == upper { Ok(()) } else { Err(format!("is not an HTTP method: write `{upper}`")) }
}

/// A path in which a slash may stand encoded, within a segment.
fn path_with_slashes(text: &str) -> Result<(), String> {
    let slashes = |text: &str| text.replace("%2f", "%2F");
    let of_segment = |segment: &str| {
        let parts: Vec<String> = slashes(segment).split("%2F").map(str::to_owned).collect();
        let odd =
            |part: &String| part.is_empty() || matches!(part.as_str(), "." | ".." | "*" | "**");
        parts.len() > 1 && parts.iter().any(odd)
    };
    if text.split('/').any(of_segment) {
        return Err(
            "has an encoded slash at an end of a segment, or beside another one, a dot or a `*`"
                .into(),
        );
    }
    path(&slashes(text).replace("%2F", "-"))
}

fn path(text: &str) -> Result<(), String> {
    if !text.starts_with('/') {
        return Err("does not start with `/`".into());
    }
    if !host::is_canonical_path(text) {
        return Err(
            "is not canonical: no empty, `.` or `..` parts, no query, no encoded separators".into(),
        );
    }
    if text.split('/').any(|part| part.contains('*') && !matches!(part, "*" | "**")) {
        return Err("has a `*` within a segment: `*` is one whole segment, `**` any number".into());
    }
    Ok(())
}

fn exception(field: &Field<'_>, findings: &mut Findings<'_>) -> Option<DlpAllow> {
    let section = field.section(&ALLOW, findings)?;
    let place = |key: &'static str, findings: &Findings<'_>| {
        let found = section.get(key).map_or_else(|| field.error(""), |field| field.error(""));
        Box::new(findings.locate(found))
    };
    let places = [place("rule", findings), place("expires", findings)];
    let rule = section.get("rule").and_then(|f| f.word(findings).map(str::to_owned));
    let host = section.get("host").and_then(|field| {
        let text = field.word(findings)?;
        let name = host::dns_name(text);
        name.map_err(|reason| findings.add(field.refused(text, &reason))).ok()
    });
    let reason = section.get("reason").and_then(|f| f.word(findings).map(str::to_owned));
    let expires = section.get("expires").and_then(|field| {
        let text = field.word(findings)?;
        if !is_date(text) {
            findings.add(
                field.error(format!("`{}` is not a date such as `2027-01-31`", shorten(text))),
            );
            return None;
        }
        Some(text.to_owned())
    });
    Some(DlpAllow { rule: rule?, host: host?, reason: reason?, expires, places })
}

pub(super) fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [year, month, day] = parts[..] else { return false };
    let number = |text: &str, width: usize| {
        (text.len() == width && text.bytes().all(|b| b.is_ascii_digit()))
            .then(|| text.parse::<u32>().ok())?
    };
    let (Some(year), Some(month), Some(day)) = (number(year, 4), number(month, 2), number(day, 2))
    else {
        return false;
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return false,
    };
    (1..=days).contains(&day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_ports_and_wildcards() {
        let exact = |text: &str| HostPattern::Exact(text.into());
        assert_eq!(parse_short("API.GitHub.com"), Ok((exact("api.github.com"), 443)));
        assert_eq!(parse_short("a.b:8443"), Ok((exact("a.b"), 8443)));
        assert_eq!(
            parse_short("*.example.net"),
            Ok((HostPattern::OneLabel("example.net".into()), 443))
        );
        assert_eq!(parse_short("**.a.b:80"), Ok((HostPattern::AnyLabels("a.b".into()), 80)));
        for bad in [
            "*",
            "**",
            "*.",
            "**.",
            "*:443",
            "*.com",
            "**.com",
            "*.co.uk",
            "*.uk.com",
            "*.githubusercontent.com",
            "localhost",
            "localhost:3000",
            "*.localhost",
            "ip6-localhost",
            "localhost.localdomain",
            "a.localhost:80",
            "**.github.io",
            "*.s3.eu-west-1.amazonaws.com",
            "https://a.b",
            "a.b/c",
            "10.0.0.0/8",
            "10.0.0.1",
            "127.1",
            "0x7f.1",
            "::1",
            "[::1]:443",
            "a.b:0",
            "a.b:http",
            "a.b:",
            ":443",
            "a.*.b",
            "a*.b",
            "*a.b",
            "***.a.b",
            "u@a.b",
            "ä.de",
            "a.b.",
            "a b",
            "a.b:1:2",
            "2130706433",
        ] {
            assert!(parse_short(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn methods_and_paths() {
        assert!(method("GET").is_ok() && method("PROPFIND").is_ok());
        for bad in ["get", "CONNECT", "TRACE", "G T", "", "*"] {
            assert!(bad.is_empty() || method(bad).is_err(), "{bad}");
        }
        for good in ["/", "/repos/**", "/a/*/b", "/a%20b"] {
            assert_eq!(path(good), Ok(()), "{good}");
        }
        for bad in ["repos", "/a*", "/a/../b", "//", "/a?b", "/%2e%2e/", "/***"] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn dates() {
        assert!(is_date("2028-02-29") && is_date("2026-12-31"));
        for bad in [
            "2027-02-29",
            "2027-13-01",
            "2027-1-1",
            "27-01-01",
            "2027-00-10",
            "2027-01-00",
            "x",
            "2027-01-32",
            "2027-04-31",
        ] {
            assert!(!is_date(bad), "{bad}");
        }
    }
}
