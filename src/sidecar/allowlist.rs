//! The compiled allowlist: what a bottle's `egress.allowlist` grants, and nothing else.

use std::collections::BTreeMap;

use super::address::Cidr;
use super::authority::{Authority, Host};
use super::clock::moment;
use super::code::Code;
use super::path::{CanonicalPath, PathPattern};
use super::random::holds_data;
use crate::model::Moment;
use crate::model::policy::{AllowEntry, HostPattern};

/// The entries by the names they cover. The default grants nothing.
#[derive(Debug, Clone, Default)]
pub struct Allowlist {
    exact: Entries,
    one_label: Entries,
    any_labels: Entries,
}

type Entries = BTreeMap<Box<str>, Vec<Entry>>;

#[derive(Debug, Clone)]
struct Entry {
    /// As it is shown: `*.example.com:443`.
    text: Box<str>,
    port: u16,
    /// Empty: all.
    methods: Box<[Box<str>]>,
    /// Empty: all.
    paths: Box<[PathPattern]>,
    cidr: Option<Cidr>,
    encoded_slash: bool,
    expires: Option<Moment>,
}

/// What let a request pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The entry or the route, for the log.
    pub entry: Box<str>,
    /// The private ranges into which the host may resolve: those of every entry for it.
    pub exceptions: Vec<Cidr>,
    /// It is this port of the host's loopback, and no name to resolve.
    pub service: Option<u16>,
}

impl Allowlist {
    /// Compiles the entries.
    ///
    /// # Errors
    /// What is wrong with one of them, as a sentence.
    pub fn compile(entries: &[AllowEntry]) -> Result<Self, String> {
        let mut list = Self::default();
        for entry in entries {
            let (table, prefix, name) = match &entry.host {
                HostPattern::Exact(name) => (&mut list.exact, "", name),
                HostPattern::OneLabel(name) => (&mut list.one_label, "*.", name),
                HostPattern::AnyLabels(name) => (&mut list.any_labels, "**.", name),
            };
            let text = format!("{prefix}{name}:{}", entry.port);
            let named = |reason: &str| format!("allowlist entry `{text}`: {reason}");
            let canonical = Host::parse(name.as_bytes());
            if canonical.ok().as_ref().and_then(Host::name) != Some(name) {
                return Err(named("this is not a host name in lower case"));
            }
            if entry.port == 0 {
                return Err(named("0 is not a port"));
            }
            for method in &entry.methods {
                if !is_method(method.as_bytes()) || is_never_passed_on(method) {
                    return Err(named(&format!("`{method}` is not a method that can be listed")));
                }
            }
            let slash = entry.encoded_slash;
            let paths = entry.paths.iter().map(|path| PathPattern::parse(path, slash));
            let cidr = entry.cidr.as_deref().map(Cidr::parse).transpose();
            let compiled = Entry {
                port: entry.port,
                methods: entry.methods.iter().map(|method| method.as_str().into()).collect(),
                paths: paths.collect::<Result<_, _>>().map_err(|reason| named(&reason))?,
                cidr: cidr.map_err(|reason| named(&reason))?,
                text: text.as_str().into(),
                encoded_slash: slash,
                expires: entry.expires,
            };
            table.entry(name.as_str().into()).or_default().push(compiled);
        }
        Ok(list)
    }

    /// Whether host and port are listed, with whatever methods and paths.
    ///
    /// # Errors
    /// [`Code::SsrfDenied`] for an address, [`Code::HostNotAllowed`], [`Code::NameHoldsData`],
    /// [`Code::PortNotAllowed`].
    pub fn authority(&self, authority: &Authority) -> Result<Grant, Code> {
        let entries = self.entries(authority)?;
        match entries.iter().find(|entry| entry.holds()) {
            Some(entry) => Ok(grant(&entries, entry)),
            None if entries.is_empty() => Err(Code::PortNotAllowed),
            None => Err(Code::GrantExpired),
        }
    }

    /// Whether some entry lists this request.
    ///
    /// # Errors
    /// As [`Self::authority`], then [`Code::MethodNotAllowed`], [`Code::PathNotAllowed`]. [`Code::GrantExpired`]: an entry
    /// has listed it, and has ended.
    pub fn request(
        &self,
        authority: &Authority,
        method: &str,
        path: &CanonicalPath,
    ) -> Result<Grant, Code> {
        let entries = self.entries(authority)?;
        let mut refusal = Code::PortNotAllowed;
        for entry in &entries {
            if path.has_encoded_slash() && !entry.encoded_slash {
                if refusal == Code::PortNotAllowed {
                    refusal = Code::PathNotCanonical;
                }
                continue;
            }
            let ended = refusal == Code::GrantExpired;
            let listed = entry.methods.is_empty() || entry.methods.iter().any(|m| **m == *method);
            if !listed || is_never_passed_on(method) {
                // That a path is wrong says more than that another entry has other methods.
                if refusal != Code::PathNotAllowed && !ended {
                    refusal = Code::MethodNotAllowed;
                }
            } else if !entry.paths.is_empty() && !entry.paths.iter().any(|p| p.matches(path)) {
                if !ended {
                    refusal = Code::PathNotAllowed;
                }
            } else if !entry.holds() {
                // Nothing says more than that.
                refusal = Code::GrantExpired;
            } else {
                return Ok(grant(&entries, entry));
            }
        }
        Err(refusal)
    }

    /// Whether any entry lets an encoded slash pass.
    #[must_use]
    pub fn passes_encoded_slashes(&self) -> bool {
        let tables = [&self.exact, &self.one_label, &self.any_labels];
        tables.into_iter().flat_map(BTreeMap::values).flatten().any(|entry| entry.encoded_slash)
    }

    /// When entries end.
    pub(super) fn ends(&self) -> impl Iterator<Item = Moment> {
        let tables = [&self.exact, &self.one_label, &self.any_labels];
        tables.into_iter().flat_map(BTreeMap::values).flatten().filter_map(|entry| entry.expires)
    }

    /// The private ranges that the entries of a host and port declare.
    #[must_use]
    pub fn exceptions(&self, authority: &Authority) -> Vec<Cidr> {
        self.entries(authority).map(|entries| exceptions(&entries)).unwrap_or_default()
    }

    /// The entries of the host with this port; an error when there are none of the host at all.
    fn entries(&self, authority: &Authority) -> Result<Vec<&Entry>, Code> {
        let name = authority.host().name().ok_or(Code::SsrfDenied)?;
        // `b.c`, then `c`, for `a.b.c`.
        let parents = || memchr::memchr_iter(b'.', name.as_bytes()).map(|dot| &name[dot + 1..]);
        let found = [self.exact.get(name), parents().next().and_then(|p| self.one_label.get(p))];
        let deeper = parents().map(|parent| self.any_labels.get(parent));
        let all: Vec<&Entry> = found.into_iter().chain(deeper).flatten().flatten().collect();
        if all.is_empty() {
            return Err(Code::HostNotAllowed);
        }
        // What has ended lists no name, so that a wildcard has to cover it.
        let holds = |entries: &Entries, name: &str| {
            entries.get(name).is_some_and(|all| all.iter().any(Entry::holds))
        };
        if all.iter().any(|entry| entry.holds()) && !holds(&self.exact, name) {
            // Of several wildcards the one that stands for the least.
            let listed =
                |parent: &&str| holds(&self.one_label, parent) || holds(&self.any_labels, parent);
            let parent = parents().find(listed).unwrap_or_default();
            let labels = name.strip_suffix(parent).unwrap_or(name).trim_end_matches('.');
            if holds_data(labels) {
                return Err(Code::NameHoldsData);
            }
        }
        Ok(all.into_iter().filter(|entry| entry.port == authority.port()).collect())
    }
}

fn grant(entries: &[&Entry], entry: &Entry) -> Grant {
    Grant { entry: entry.text.clone(), exceptions: exceptions(entries), service: None }
}

fn exceptions(entries: &[&Entry]) -> Vec<Cidr> {
    entries.iter().filter(|entry| entry.holds()).filter_map(|entry| entry.cidr).collect()
}

impl Entry {
    /// Whether it has not ended.
    fn holds(&self) -> bool {
        holds(self.expires)
    }
}

/// Whether what ends then has not ended.
#[must_use]
pub fn holds(expires: Option<Moment>) -> bool {
    expires.is_none_or(|end| moment() < end)
}

/// Whether this can be an HTTP method here: in capitals, because servers differ about the others.
#[must_use]
pub fn is_method(text: &[u8]) -> bool {
    (1..=32).contains(&text.len()) && text.iter().all(|b| b.is_ascii_uppercase() || *b == b'-')
}

/// Methods that no upstream ever sees.
#[must_use]
pub fn is_never_passed_on(method: &str) -> bool {
    matches!(method, "CONNECT" | "TRACE")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(host: &str) -> AllowEntry {
        let host = match (host.strip_prefix("**."), host.strip_prefix("*.")) {
            (Some(name), _) => HostPattern::AnyLabels(name.into()),
            (_, Some(name)) => HostPattern::OneLabel(name.into()),
            _ => HostPattern::Exact(host.into()),
        };
        let (methods, paths) = (Vec::new(), Vec::new());
        AllowEntry {
            host,
            port: 443,
            methods,
            paths,
            cidr: None,
            encoded_slash: false,
            expires: None,
        }
    }

    fn list(hosts: &[&str]) -> Allowlist {
        Allowlist::compile(&hosts.iter().map(|host| entry(host)).collect::<Vec<_>>()).unwrap()
    }

    fn at(authority: &str) -> Authority {
        Authority::parse(authority.as_bytes(), Some(443)).unwrap()
    }

    #[test]
    fn names() {
        let denied = Err(Code::HostNotAllowed);
        let table: &[(&[&str], &str, Result<&str, Code>)] = &[
            (&["example.com", "*.example.com"], "evil-example.com", denied.clone()),
            (&["example.com", "*.example.com"], "example.com.evil.test", denied.clone()),
            (&["example.com", "*.example.com"], "example.com", Ok("example.com:443")),
            (&["example.com", "*.example.com"], "a.example.com", Ok("*.example.com:443")),
            (&["*.cdn.example.net"], "cdn.example.net", denied.clone()),
            (&["*.cdn.example.net"], "a.b.cdn.example.net", denied.clone()),
            (&["*.cdn.example.net"], "acdn.example.net", denied.clone()),
            (&["**.cdn.example.net"], "a.b.cdn.example.net", Ok("**.cdn.example.net:443")),
            (&["**.cdn.example.net"], "a.cdn.example.net", Ok("**.cdn.example.net:443")),
            (&["**.cdn.example.net"], "cdn.example.net", denied.clone()),
            (&["**.cdn.example.net"], "a-cdn.example.net", denied.clone()),
            (&["api.example.com"], "API.Example.COM", Ok("api.example.com:443")),
            (&["api.example.com"], "api.example.com.", Ok("api.example.com:443")),
            (&["example.com"], "xn--exmple-cua.com", denied.clone()),
            (&["example.com"], "a.example.com", denied.clone()),
            (&[], "example.com", denied.clone()),
            (&["evil.test"], "deadbeefdeadbeef.evil.test", denied.clone()),
            (&["example.com"], "metadata.google.internal:80", denied),
            (&["example.com"], "example.com:22", Err(Code::PortNotAllowed)),
            (&["example.com"], "example.com:8443", Err(Code::PortNotAllowed)),
            (&["example.com"], "127.0.0.1:8081", Err(Code::SsrfDenied)),
            (&["example.com"], "[::1]", Err(Code::SsrfDenied)),
            (&["example.com"], "[::ffff:127.0.0.1]", Err(Code::SsrfDenied)),
            (&["example.com"], "169.254.169.254:80", Err(Code::SsrfDenied)),
        ];
        for (hosts, asked, expected) in table {
            let answer = list(hosts).authority(&at(asked)).map(|grant| grant.entry);
            assert_eq!(answer.as_deref().map_err(Clone::clone), *expected, "{hosts:?} {asked}");
        }
    }

    #[test]
    fn data_in_a_name_passes_under_no_wildcard_but_where_it_is_listed() {
        let data = "0123456789abcdefghijklmnopqrstuvwxyz0123456789";
        let name = format!("{data}.example.com");
        let refused = Err(Code::NameHoldsData);
        for wildcard in ["*.example.com", "**.example.com", "**.com"] {
            let answer = list(&[wildcard]).authority(&at(&name));
            assert_eq!(answer.map(|grant| grant.entry), refused, "{wildcard}");
        }
        assert!(list(&["*.example.com", &name]).authority(&at(&name)).is_ok());
        assert!(list(&[&format!("*.{name}")]).authority(&at(&format!("a.{name}"))).is_ok());
    }

    #[test]
    fn entries_for_a_host_add_up() {
        let mut read = entry("api.example.com");
        read.methods = vec!["GET".into(), "HEAD".into()];
        let mut write = entry("*.example.com");
        write.methods = vec!["POST".into()];
        write.paths = vec!["/graphql".into(), "/upload/**".into()];
        write.cidr = Some("10.1.0.0/16".into());
        let mut other = entry("api.example.com");
        other.port = 8443;
        other.cidr = Some("10.2.0.0/16".into());
        let list = Allowlist::compile(&[read, write, other]).unwrap();
        let ask = |authority: &str, method: &str, path: &str| {
            let path = CanonicalPath::parse(path.as_bytes()).unwrap();
            list.request(&at(authority), method, &path).map(|grant| grant.entry.into_string())
        };
        let api = "api.example.com";
        assert_eq!(ask(api, "GET", "/anything?x"), Ok("api.example.com:443".into()));
        assert_eq!(ask(api, "POST", "/graphql"), Ok("*.example.com:443".into()));
        assert_eq!(ask(api, "POST", "/upload/a/b"), Ok("*.example.com:443".into()));
        assert_eq!(ask(api, "POST", "/other"), Err(Code::PathNotAllowed));
        assert_eq!(ask(api, "DELETE", "/graphql"), Err(Code::MethodNotAllowed));
        assert_eq!(ask(api, "TRACE", "/"), Err(Code::MethodNotAllowed));
        assert_eq!(ask("api.example.com:8443", "TRACE", "/"), Err(Code::MethodNotAllowed));
        assert_eq!(ask("api.example.com:8443", "PUT", "/"), Ok("api.example.com:8443".into()));
        assert_eq!(ask("api.example.com:80", "GET", "/"), Err(Code::PortNotAllowed));
        assert_eq!(ask("b.example.com", "GET", "/"), Err(Code::MethodNotAllowed));
        // The exception is of the host and the port, whichever entry lets the request pass.
        let cidrs = |authority: &str| {
            list.exceptions(&at(authority)).iter().map(Cidr::to_string).collect::<Vec<_>>()
        };
        assert_eq!(cidrs(api), ["10.1.0.0/16"]);
        assert_eq!(cidrs("api.example.com:8443"), ["10.2.0.0/16"]);
        assert_eq!(cidrs("example.com"), [""; 0]);
        assert_eq!(list.authority(&at(api)).unwrap().exceptions.len(), 1);
    }

    #[test]
    fn what_does_not_compile() {
        let with = |change: fn(&mut AllowEntry)| {
            let mut entry = entry("a.example");
            change(&mut entry);
            Allowlist::compile(&[entry]).map(drop)
        };
        assert_eq!(with(|_| ()), Ok(()));
        let changes: &[fn(&mut AllowEntry)] = &[
            |e| e.host = HostPattern::Exact("A.example".into()),
            |e| e.host = HostPattern::Exact("a.example.".into()),
            |e| e.host = HostPattern::Exact("127.0.0.1".into()),
            |e| e.host = HostPattern::Exact("127.1".into()),
            |e| e.host = HostPattern::Exact("".into()),
            |e| e.host = HostPattern::AnyLabels("*".into()),
            |e| e.host = HostPattern::OneLabel("*.a".into()),
            |e| e.port = 0,
            |e| e.methods = vec!["get".into()],
            |e| e.methods = vec!["TRACE".into()],
            |e| e.methods = vec!["CONNECT".into()],
            |e| e.paths = vec!["a".into()],
            |e| e.paths = vec!["/a/../b".into()],
            |e| e.cidr = Some("10.0.0.1/8".into()),
        ];
        for change in changes {
            let error = with(*change).unwrap_err();
            assert!(error.starts_with("allowlist entry `"), "{error}");
        }
    }

    #[test]
    fn what_has_ended_grants_nothing() {
        let past = Some(Moment::of_seconds(1_600_000_000));
        let future = Some(Moment::of_seconds(4_000_000_000));
        let path = |text: &str| CanonicalPath::parse(text.as_bytes()).unwrap();
        let at = |name: &str| Authority::parse(name.as_bytes(), Some(443)).unwrap();
        let compile = |entries: Vec<AllowEntry>| Allowlist::compile(&entries).unwrap();
        let over = |host: &str| AllowEntry { expires: past, ..entry(host) };
        let list = compile(vec![over("a.example")]);
        assert_eq!(list.authority(&at("a.example")).unwrap_err(), Code::GrantExpired);
        let asked = list.request(&at("a.example"), "GET", &path("/x"));
        assert_eq!(asked.unwrap_err(), Code::GrantExpired);
        assert_eq!(list.authority(&at("a.example:8443")).unwrap_err(), Code::PortNotAllowed);
        // Another entry that has not ended does.
        let list = compile(vec![
            over("a.example"),
            AllowEntry { expires: future, paths: vec!["/y/**".into()], ..entry("a.example") },
        ]);
        assert!(list.request(&at("a.example"), "GET", &path("/y/z")).is_ok());
        let asked = list.request(&at("a.example"), "GET", &path("/x"));
        assert_eq!(asked.unwrap_err(), Code::GrantExpired);
        // What it declared has ended with it.
        let cidr = Some("10.0.0.0/8".to_owned());
        let list = compile(vec![AllowEntry { cidr, ..over("a.example") }, entry("a.example")]);
        assert!(list.authority(&at("a.example")).unwrap().exceptions.is_empty());
        // A name of data that was listed is one that a wildcard has to cover again.
        let data = "da39a3ee5e6b4b0d3255bfef95601890da39a3ee5e6b4b0d3255bfef9560189.w.example";
        let list = compile(vec![over(data), entry("*.w.example")]);
        assert_eq!(list.authority(&at(data)).unwrap_err(), Code::NameHoldsData);
        let list = compile(vec![entry(data), entry("*.w.example")]);
        assert!(list.authority(&at(data)).is_ok());
    }
}
