//! The grammar of what names a place: host names, addresses, ports, URLs, paths on the host.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Component, Path, PathBuf};

/// A regular expression for editors: the name of an environment variable.
pub(super) const ENV_NAME: &str = "^[A-Za-z_][A-Za-z0-9_]*$";

/// Whether this can be the name of an environment variable.
pub(super) fn is_env_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The name of a host as registries have it, in lower case.
///
/// # Errors
/// What is wrong with it, as the end of a sentence that starts with the name.
pub(super) fn host_name(text: &str) -> Result<String, String> {
    match text.contains('_') {
        true => Err("is not a host name: it has a `_`".into()),
        false => name(text),
    }
}

/// A DNS name, in lower case. It may have a `_`, as those of buckets and of services have:
/// `_acme.example.org`.
fn name(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("is empty: expected a host name".into());
    }
    if !text.is_ascii() {
        return Err("is not ASCII: write an internationalised name in its `xn--` form".into());
    }
    if text.ends_with('.') {
        return Err("ends with a dot: leave it out".into());
    }
    if text.len() > 253 {
        return Err("is longer than 253 characters".into());
    }
    let name = text.to_ascii_lowercase();
    for label in name.split('.') {
        let inner =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        if label.is_empty() || label.len() > 63 || !label.bytes().all(inner) {
            return Err(
                "is not a host name: expected letters, digits, `-` and `_`, in labels joined by dots"
                    .into(),
            );
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err("is not a host name: a label starts or ends with `-`".into());
        }
    }
    Ok(name)
}

/// Whether a resolver could read this as a numeric address: `127.1` and `0x7f000001` are.
pub(super) fn looks_numeric(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    (!last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()))
        || hex.is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
        || name.starts_with('[')
        || name.parse::<IpAddr>().is_ok()
}

/// A DNS name that is no numeric address.
///
/// # Errors
/// What is wrong with it, as the end of a sentence that starts with the name.
pub(super) fn dns_name(text: &str) -> Result<String, String> {
    if looks_numeric(text) {
        return Err("is an IP address: name the host".into());
    }
    name(text)
}

/// A DNS name, or an IPv4 address as everyone writes it.
///
/// # Errors
/// As [`dns_name`].
pub(super) fn host_or_ipv4(text: &str) -> Result<String, String> {
    if text.parse::<Ipv4Addr>().is_ok() { Ok(text.to_owned()) } else { dns_name(text) }
}

/// A port in digits, 1 to 65535, without leading zeros.
pub(super) fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| plain)
}

/// The authority and the path of a URL.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url<'t> {
    /// What stands before `@`.
    pub(super) user: Option<&'t str>,
    /// As written.
    pub(super) host: &'t str,
    /// What stands after `:`, as written.
    pub(super) port: Option<&'t str>,
    /// With its leading `/`; empty when there is none.
    pub(super) path: &'t str,
}

/// Splits what stands after `scheme://`. Judges nothing but the shape.
pub(super) fn split_url(rest: &str) -> Url<'_> {
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (user, host_port) = match authority.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, authority),
    };
    let (host, port) = match host_port.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (host_port, None),
    };
    Url { user, host, port, path }
}

/// Whether a URL path is canonical: no empty, dot or encoded-separator segments, nothing but
/// visible ASCII, and neither query nor fragment.
pub(super) fn is_canonical_path(path: &str) -> bool {
    let body = path.strip_prefix('/').unwrap_or(path);
    let body = body.strip_suffix('/').unwrap_or(body);
    let lower = path.to_ascii_lowercase();
    let encoded = ["%2f", "%5c", "%2e", "%25", "%00"].iter().any(|bad| lower.contains(bad));
    path.starts_with('/')
        && !path.contains("//")
        && path.bytes().all(|b| b.is_ascii_graphic() && !b"\\?#\"<>`{}|^".contains(&b))
        && !encoded
        && well_encoded(path)
        && (body.is_empty() || body.split('/').all(|part| !matches!(part, "" | "." | "..")))
}

/// Every `%` starts an encoded byte.
fn well_encoded(path: &str) -> bool {
    let hex = |b: Option<&u8>| b.is_some_and(u8::is_ascii_hexdigit);
    let bytes = path.as_bytes();
    let encoded = |i: usize| hex(bytes.get(i + 1)) && hex(bytes.get(i + 2));
    (0..bytes.len()).all(|i| bytes[i] != b'%' || encoded(i))
}

/// A network in CIDR notation, whose host bits are zero.
///
/// # Errors
/// What is wrong with it, as the end of a sentence that starts with the text.
pub(super) fn cidr(text: &str) -> Result<(IpAddr, u8), String> {
    let parsed = text.split_once('/').and_then(|(address, length)| {
        let address: IpAddr = address.parse().ok()?;
        let length = if length == "0" { 0 } else { u8::try_from(port(length)?).ok()? };
        Some((address, length))
    });
    let Some((address, length)) = parsed else {
        return Err("is not a network: expected `10.1.0.0/16`".into());
    };
    let (bits, width, masked): (u128, u8, fn(u128) -> IpAddr) = match address {
        IpAddr::V4(v4) => (u32::from(v4).into(), 32, |bits| {
            IpAddr::V4(u32::try_from(bits).unwrap_or_default().into())
        }),
        IpAddr::V6(v6) => (v6.into(), 128, |bits| IpAddr::V6(bits.into())),
    };
    if length > width {
        return Err(format!("is not a network: its length is at most {width}"));
    }
    let host = if length == 0 { u128::MAX } else { (1u128 << (width - length)) - 1 };
    let network = bits & !host & (if width == 32 { u128::from(u32::MAX) } else { u128::MAX });
    if network != bits {
        return Err(format!("has host bits: the network is `{}/{length}`", masked(network)));
    }
    Ok((address, length))
}

/// Whether a network lies in 198.18.0.0/15 (RFC 2544), where the default pool is cut from.
pub(super) fn is_benchmark(address: IpAddr, length: u8) -> bool {
    let IpAddr::V4(v4) = address else { return false };
    let [first, second, ..] = v4.octets();
    length >= 15 && first == 198 && second & 0xfe == 18
}

/// Whether a network lies in the ranges that are private by RFC 1918, RFC 6598 or RFC 4193.
pub(super) fn is_private(address: IpAddr, length: u8) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let bits = u32::from(v4);
            let within = |base: [u8; 4], prefix: u8| {
                length >= prefix
                    && bits >> (32 - prefix) == u32::from_be_bytes(base) >> (32 - prefix)
            };
            within([10, 0, 0, 0], 8)
                || within([172, 16, 0, 0], 12)
                || within([192, 168, 0, 0], 16)
                || within([100, 64, 0, 0], 10)
        }
        IpAddr::V6(v6) => length >= 7 && v6.segments()[0] & 0xfe00 == 0xfc00,
    }
}

/// Makes a path of the host absolute: `/…`, `~/…`, or `./…` from the folder of the file.
///
/// # Errors
/// What is wrong with it, as a sentence.
pub(super) fn host_path(text: &str, base: &Path, home: Option<&Path>) -> Result<PathBuf, String> {
    if text.chars().any(char::is_control) {
        return Err("there is a control character in this path".into());
    }
    if text == "~" || text.starts_with("~/") {
        let home = home.ok_or("`~` has no meaning here: HOME is not set")?;
        return Ok(home.join(text[1..].trim_start_matches('/')));
    }
    let relative = [".", ".."].contains(&text) || text.starts_with("./") || text.starts_with("../");
    if text.starts_with('/') || relative {
        // Rebuilt without its `.` parts.
        return Ok(base.join(text).components().collect());
    }
    Err("expected a path that starts with `/`, `~/` or `./`".into())
}

/// Whether a path of the guest is absolute and written in its shortest form.
pub(super) fn is_canonical_guest_path(text: &str) -> bool {
    let path = Path::new(text);
    let plain = path.components().skip(1).all(|part| matches!(part, Component::Normal(_)));
    // `components` forgives `//`, `/./` and a trailing slash: rebuilding shows them.
    let rebuilt: PathBuf = path.components().collect();
    path.is_absolute()
        && plain
        && rebuilt.as_os_str() == path.as_os_str()
        && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names() {
        for good in [
            "a",
            "api.github.com",
            "x-1.example",
            "API.GitHub.com",
            "1password.com",
            "_acme.example.org",
            "my_bucket.s3.example.com",
        ] {
            assert_eq!(dns_name(good), Ok(good.to_lowercase()), "{good}");
        }
        let long = format!("{}.com", "a".repeat(64));
        let bad = [
            "",
            ".",
            "a..b",
            ".a",
            "a.",
            "-a.b",
            "a-.b",
            "ä.de",
            "a b",
            "127.0.0.1",
            "127.1",
            "0x7f.1",
            "0x7f000001",
            "2130706433",
            "::1",
            "[::1]",
            "1.2.3.0x4",
            "a/b",
            "a@b",
            "a:1",
            long.as_str(),
        ];
        for bad in bad {
            assert!(dns_name(bad).is_err(), "{bad}");
        }
        assert!(host_name("a_b.c").is_err() && host_name("a-b.c").is_ok());
    }

    #[test]
    fn ports() {
        assert_eq!(port("443"), Some(443));
        for bad in ["", "0", "065", "65536", "+22", "-1", "ssh", " 22", "2 2"] {
            assert_eq!(port(bad), None, "{bad}");
        }
    }

    #[test]
    fn networks() {
        assert_eq!(cidr("10.0.0.0/8"), Ok(([10, 0, 0, 0].into(), 8)));
        assert!(cidr("0.0.0.0/0").is_ok());
        assert!(cidr("::/0").is_ok());
        assert_eq!(cidr("10.0.0.1/8"), Err("has host bits: the network is `10.0.0.0/8`".into()));
        for bad in
            ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/08", "x/8", "fc00::/129", "10.0.0.0/", "/8"]
        {
            assert!(cidr(bad).is_err(), "{bad}");
        }
        let private = |text: &str| cidr(text).map(|(a, l)| is_private(a, l));
        for text in ["10.0.0.0/8", "172.16.0.0/12", "192.168.3.0/24", "100.64.0.0/10", "fd00::/8"] {
            assert_eq!(private(text), Ok(true), "{text}");
        }
        for text in
            ["10.0.0.0/7", "8.0.0.0/8", "0.0.0.0/0", "::/0", "127.0.0.0/8", "169.254.0.0/16"]
        {
            assert_ne!(private(text), Ok(true), "{text}");
        }
    }

    #[test]
    fn the_default_pool_can_be_cut_smaller() {
        let fits = |text: &str| cidr(text).map(|(a, l)| is_benchmark(a, l));
        for text in ["198.18.192.0/20", "198.18.0.0/15", "198.19.4.0/24"] {
            assert_eq!(fits(text), Ok(true), "{text}");
        }
        for text in ["198.16.0.0/14", "198.20.0.0/16", "192.18.0.0/16", "fd00::/16"] {
            assert_eq!(fits(text), Ok(false), "{text}");
        }
    }

    #[test]
    fn canonical_paths() {
        for good in ["/", "/a", "/a/b/", "/a%20b", "/a~b/c.d"] {
            assert!(is_canonical_path(good), "{good}");
        }
        for bad in [
            "", "a", "//", "/a//b", "/a/../b", "/.", "/a%2fb", "/a%2Eb", "/a?b", "/a#b", "/a b",
            "/a\\b", "/%", "/%zz",
        ] {
            assert!(!is_canonical_path(bad), "{bad}");
        }
        for good in ["/", "/workspace", "/home/x/y"] {
            assert!(is_canonical_guest_path(good), "{good}");
        }
        for bad in ["", "a", "/a/", "//a", "/a//b", "/a/./b", "/a/../b", "/a\nb", "./a"] {
            assert!(!is_canonical_guest_path(bad), "{bad}");
        }
    }

    #[test]
    fn host_paths() {
        let (base, home) = (Path::new("/t/bottles"), Path::new("/h"));
        let path = |text| host_path(text, base, Some(home)).map(|p| p.display().to_string());
        assert_eq!(path("/x"), Ok("/x".into()));
        assert_eq!(path("~/x"), Ok("/h/x".into()));
        assert_eq!(path("./x"), Ok("/t/bottles/x".into()));
        for bad in ["x", "", "~other/x", "a\n", "~~"] {
            assert!(path(bad).is_err(), "{bad}");
        }
        assert!(host_path("~/x", base, None).is_err());
    }
}
