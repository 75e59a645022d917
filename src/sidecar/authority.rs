//! The one parser of hosts and ports.
//!
//! Never `http::Uri`, `url::Url` or `getaddrinfo` beside it: they disagree with each other about
//! numeric hosts, user info, fragments, Unicode and signs.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::code::Code;

/// The longest name of a host, without its trailing dot.
const MAX_NAME: usize = 253;
/// The longest label of a name.
const MAX_LABEL: usize = 63;

/// A host in its one canonical form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A name: lower case, ASCII, no trailing dot. Made by [`Host::parse`] only.
    Name(Name),
    /// An address, written as one. It is parsed so that it can be refused, not resolved.
    Ip(IpAddr),
}

/// The text of a canonical host name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<str>);

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Host {
    /// Reads a host without a port: a name, a dotted quad, or an IPv6 address in brackets.
    ///
    /// # Errors
    /// The [`Code`] with which to refuse it.
    pub fn parse(raw: &[u8]) -> Result<Self, Code> {
        if let [b'[', inner @ .., b']'] = raw {
            let text = std::str::from_utf8(inner).map_err(|_| Code::MalformedAuthority)?;
            let v6: Ipv6Addr = text.parse().map_err(|_| Code::MalformedAuthority)?;
            return Ok(Self::Ip(v6.into()));
        }
        let (name, dotted) = match raw {
            [name @ .., b'.'] => (name, true),
            name => (name, false),
        };
        if name.is_empty() || name.len() > MAX_NAME || !name.split(|b| *b == b'.').all(is_label) {
            return Err(Code::MalformedAuthority);
        }
        // Every byte is ASCII by now.
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        if !ends_in_a_number(&name) {
            return Ok(Self::Name(Name(name.into())));
        }
        // The standard library reads a canonical dotted quad only: no octal, no short forms.
        match name.parse::<Ipv4Addr>() {
            Ok(v4) if !dotted => Ok(Self::Ip(v4.into())),
            _ => Err(Code::AmbiguousIp),
        }
    }

    /// The name, unless it is an address.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name.as_str()),
            Self::Ip(_) => None,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name.as_str()),
            Self::Ip(IpAddr::V4(v4)) => write!(f, "{v4}"),
            Self::Ip(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
        }
    }
}

fn is_label(label: &[u8]) -> bool {
    let fine = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    (1..=MAX_LABEL).contains(&label.len())
        && label.iter().all(fine)
        && !label.starts_with(b"-")
        && !label.ends_with(b"-")
}

/// Whether a resolver may read the name as an address: `127.1`, `0x7f000001` and `0` are.
fn ends_in_a_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    match last.strip_prefix("0x") {
        Some(hex) => hex.bytes().all(|b| b.is_ascii_hexdigit()),
        None => last.bytes().all(|b| b.is_ascii_digit()),
    }
}

/// A host and a port: what an allowlist lists, what is dialled, and what the log says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Authority {
    host: Host,
    port: u16,
}

impl Authority {
    /// Reads `host` or `host:port`. Without a default the port must be there.
    ///
    /// # Errors
    /// [`Code::UserinfoForbidden`], [`Code::AmbiguousIp`] or [`Code::MalformedAuthority`].
    pub fn parse(raw: &[u8], default_port: Option<u16>) -> Result<Self, Code> {
        if raw.contains(&b'@') {
            return Err(Code::UserinfoForbidden);
        }
        // An IPv6 address has colons of its own, within its brackets.
        let host_end = if raw.starts_with(b"[") {
            raw.iter().position(|b| *b == b']').map_or(raw.len(), |end| end + 1)
        } else {
            raw.iter().position(|b| *b == b':').unwrap_or(raw.len())
        };
        let (host, rest) = raw.split_at(host_end);
        let port = match rest {
            [] => default_port.filter(|port| *port != 0).ok_or(Code::MalformedAuthority)?,
            [b':', digits @ ..] => port(digits).ok_or(Code::MalformedAuthority)?,
            _ => return Err(Code::MalformedAuthority),
        };
        Ok(Self { host: Host::parse(host)?, port })
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, never 0.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What to send as `Host` or `:authority`: the port is left out where it is the scheme's.
    #[must_use]
    pub fn to_header(&self, scheme_port: u16) -> String {
        if self.port == scheme_port { self.host.to_string() } else { self.to_string() }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// 1 to 65535 in plain digits: no sign, no leading zero.
fn port(digits: &[u8]) -> Option<u16> {
    let plain = (1..=5).contains(&digits.len())
        && digits[0] != b'0'
        && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(raw: &[u8]) -> Result<String, Code> {
        Authority::parse(raw, None).map(|authority| authority.to_string())
    }

    #[test]
    fn canonical_forms() {
        for (raw, expected) in [
            ("api.example.com:443", "api.example.com:443"),
            ("API.Example.COM:443", "api.example.com:443"),
            ("api.example.com.:443", "api.example.com:443"),
            ("_acme.example.com:8443", "_acme.example.com:8443"),
            ("xn--exmple-cua.com:443", "xn--exmple-cua.com:443"),
            ("a:1", "a:1"),
            ("a.b:65535", "a.b:65535"),
            ("1a.2b:80", "1a.2b:80"),
            ("0x7g:80", "0x7g:80"),
            ("127.0.0.1:8081", "127.0.0.1:8081"),
            ("[::1]:443", "[::1]:443"),
            ("[0:0::FFFF:127.0.0.1]:443", "[::ffff:127.0.0.1]:443"),
            ("[FE80::1]:1", "[fe80::1]:1"),
        ] {
            assert_eq!(canonical(raw.as_bytes()).as_deref(), Ok(expected), "{raw}");
        }
        let default = |raw: &str, port| Authority::parse(raw.as_bytes(), port);
        assert_eq!(default("a.b", Some(443)).map(|a| a.to_string()), Ok("a.b:443".into()));
        assert_eq!(default("[::]", Some(80)).map(|a| a.port()), Ok(80));
        assert_eq!(default("a.b", None), Err(Code::MalformedAuthority));
        assert_eq!(default("a.b", Some(0)), Err(Code::MalformedAuthority));
        let header = |port| default("a.b", Some(port)).map(|a| a.to_header(443));
        assert_eq!((header(443), header(80)), (Ok("a.b".into()), Ok("a.b:80".into())));
    }

    #[test]
    fn numbers_that_are_no_dotted_quad() {
        for host in [
            "2130706433",
            "0x7f000001",
            "0X7F000001",
            "0177.0.0.1",
            "127.1",
            "0",
            "127.0.0.1.",
            "127.0.0.256",
            "1.2.3.4.5",
            "0x7f.1",
            "127.0.0.0x1",
            "127.0.0.01",
            "0x",
            "example.0x",
            "example.1",
            "2130706433.",
            "00000000000000000000177.1",
        ] {
            let raw = format!("{host}:443");
            assert_eq!(canonical(raw.as_bytes()), Err(Code::AmbiguousIp), "{host}");
        }
    }

    #[test]
    fn user_info() {
        for raw in ["api.example.com@evil.test:80", "a:b@c:80", "@a:80", "a@:80", "a%40@b:1"] {
            assert_eq!(canonical(raw.as_bytes()), Err(Code::UserinfoForbidden), "{raw}");
        }
    }

    #[test]
    fn everything_else_is_malformed() {
        let long = format!("{}.example:443", "a".repeat(64));
        let longer = format!("{}a:443", "a.".repeat(127));
        for raw in [
            &b""[..],
            b":443",
            b"*:443",
            b"*.example.com:443",
            b"api.example.com..:443",
            b".:443",
            b".example.com:443",
            b"a..b:443",
            b"evil.test\0.api.example.com:443",
            b"evil.test%00.example.com:443",
            b"evil%2eexample.com:443",
            b"evil.test\\.api.example.com:443",
            b"a b:443",
            b" a:443",
            b"a :443",
            b"a:443 ",
            b"a\t:443",
            b"a\r\n:443",
            b"b\xc3\xbccher.example:443",
            b"a\xff:443",
            b"a\xe3\x80\x82b:443",
            b"api.example.com:443:80",
            b"api.example.com:",
            b"api.example.com",
            b"a:0",
            b"a:00",
            b"a:0443",
            b"a:+443",
            b"a:-1",
            b"a:65536",
            b"a:99999",
            b"a:100443",
            b"a:4294967739",
            b"a:https",
            b"a:4\xd9\xa3",
            b"[[::1]]:443",
            b"[api.example.com]:443",
            b"[127.0.0.1]:443",
            b"[::1:443",
            b"::1:443",
            b"::1",
            b"[]:443",
            b"[::1]443",
            b"[::1].:443",
            b"[::1]x:443",
            b"[fe80::1%eth0]:443",
            b"[fe80::1%25eth0]:443",
            b"[v1.x]:443",
            b"[::ffff:0177.0.0.1]:443",
            b"-a.example:443",
            b"a-.example:443",
            b"a/b:443",
            b"a?b:443",
            b"a#b:443",
            b"a,b:443",
            long.as_bytes(),
            longer.as_bytes(),
        ] {
            let shown = String::from_utf8_lossy(raw);
            assert_eq!(canonical(raw), Err(Code::MalformedAuthority), "{shown}");
        }
    }

    #[test]
    fn what_is_canonical_reads_as_itself() {
        for raw in ["a.b:1", "127.0.0.1:2", "[::ffff:1.2.3.4]:3", "A_b.C.:4"] {
            let once = Authority::parse(raw.as_bytes(), None).unwrap();
            let twice = Authority::parse(once.to_string().as_bytes(), None).unwrap();
            assert_eq!(once, twice);
        }
    }
}
