//! Addresses that may be dialled.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::code::Code;

/// A socket address that passed the filter. Dialling takes nothing else, so an address that
/// was checked and one that is dialled cannot differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CheckedAddr(SocketAddr);

impl CheckedAddr {
    /// Passes a public address; a private one only within a declared exception. Never one of
    /// `forbidden`, which are the sidecar's own and its gateways'.
    ///
    /// # Errors
    /// [`Code::SsrfDenied`].
    pub fn check(
        address: SocketAddr,
        exceptions: &[Cidr],
        forbidden: &[IpAddr],
    ) -> Result<Self, Code> {
        let ip = address.ip();
        let same = |other: &IpAddr| other.to_canonical() == reached(ip);
        let excepted = || exceptions.iter().any(|cidr| cidr.contains(ip));
        let open = match class(ip) {
            Class::Public => true,
            Class::Private => excepted(),
            Class::Never => false,
        };
        if !open || address.port() == 0 || forbidden.iter().any(same) {
            return Err(Code::SsrfDenied);
        }
        // Rebuilt, so that no scope and no flow label of an answer is carried along.
        Ok(Self(SocketAddr::new(ip, address.port())))
    }

    /// The port of the host's loopback that an operator has declared as a service. Nothing else of it passes.
    #[must_use]
    pub fn of_service(port: u16) -> Self {
        Self(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port))
    }

    /// An address that was not checked: upstreams of tests listen on the loopback.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn unchecked_for_tests(address: SocketAddr) -> Self {
        Self(address)
    }

    /// The address to dial.
    #[must_use]
    pub fn get(self) -> SocketAddr {
        self.0
    }
}

/// What a range is to a sandbox.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Globally reachable.
    Public,
    /// A declared exception can open it.
    Private,
    /// Nothing opens it.
    Never,
}

use Class::{Never, Private, Public};

/// Whether a declared range can open this address at all.
#[must_use]
pub fn is_excepted_by_a_range(ip: IpAddr) -> bool {
    class(ip) == Class::Private
}

/// What IANA's registry of special IPv4 addresses says is not global; the first match counts.
/// Some of its small anycast blocks are called global and are refused all the same: no API lives there.
const V4: &[(Ipv4Addr, u8, Class)] = &[
    // Addresses of clouds' own that answer with credentials. Two look public or private.
    (Ipv4Addr::new(168, 63, 129, 16), 32, Never),
    (Ipv4Addr::new(100, 100, 100, 200), 32, Never),
    (Ipv4Addr::new(0, 0, 0, 0), 8, Never),
    (Ipv4Addr::new(10, 0, 0, 0), 8, Private),
    (Ipv4Addr::new(100, 64, 0, 0), 10, Private),
    (Ipv4Addr::new(127, 0, 0, 0), 8, Never),
    (Ipv4Addr::new(169, 254, 0, 0), 16, Never),
    (Ipv4Addr::new(172, 16, 0, 0), 12, Private),
    (Ipv4Addr::new(192, 0, 0, 0), 24, Never),
    (Ipv4Addr::new(192, 0, 2, 0), 24, Never),
    (Ipv4Addr::new(192, 31, 196, 0), 24, Never),
    (Ipv4Addr::new(192, 52, 193, 0), 24, Never),
    (Ipv4Addr::new(192, 88, 99, 0), 24, Never),
    (Ipv4Addr::new(192, 168, 0, 0), 16, Private),
    (Ipv4Addr::new(192, 175, 48, 0), 24, Never),
    (Ipv4Addr::new(198, 18, 0, 0), 15, Never),
    (Ipv4Addr::new(198, 51, 100, 0), 24, Never),
    (Ipv4Addr::new(203, 0, 113, 0), 24, Never),
    // Multicast, reserved, broadcast.
    (Ipv4Addr::new(224, 0, 0, 0), 3, Never),
];

/// The same for IPv6. What no line names is refused: only 2000::/3 was ever given out.
const V6: &[(Ipv6Addr, u8, Class)] = &[
    // Clouds' metadata within the unique local range.
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0), 32, Never),
    (Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128, Never),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, Private),
    // Protocol assignments, with Teredo, benchmarking and ORCHID.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, Never),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, Never),
    // 6to4: an IPv4 address in disguise.
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, Never),
    (Ipv6Addr::new(0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0), 48, Never),
    (Ipv6Addr::new(0x3ffe, 0, 0, 0, 0, 0, 0, 0), 16, Never),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, Never),
    (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3, Public),
];

/// The well-known prefix by which hosts with IPv6 only reach IPv4.
const NAT64: (Ipv6Addr, u8) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

fn class(ip: IpAddr) -> Class {
    match ip {
        IpAddr::V4(v4) => {
            let found = V4.iter().find(|(base, length, _)| {
                let shift = 32 - u32::from(*length);
                u32::from(v4) >> shift == u32::from(*base) >> shift
            });
            found.map_or(Public, |(.., class)| *class)
        }
        IpAddr::V6(v6) => {
            if let Some(v4) = nat64(v6) {
                // No exception reaches through a translator.
                return if class(v4.into()) == Public { Public } else { Never };
            }
            let found = V6.iter().find(|(base, length, _)| within(v6, *base, *length));
            found.map_or(Never, |(.., class)| *class)
        }
    }
}

fn within(v6: Ipv6Addr, base: Ipv6Addr, length: u8) -> bool {
    let shift = 128 - u32::from(length);
    u128::from(v6) >> shift == u128::from(base) >> shift
}

/// The IPv4 address behind a translator's.
fn nat64(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let [.., a, b, c, d] = v6.octets();
    within(v6, NAT64.0, NAT64.1).then(|| Ipv4Addr::new(a, b, c, d))
}

/// The machine that an address reaches in the end.
fn reached(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => nat64(v6).map_or(ip.to_canonical(), IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

/// A network, such as `10.1.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    base: IpAddr,
    length: u8,
}

impl Cidr {
    /// Reads `address/length`, whose host bits are zero.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let malformed = || format!("`{text}` is not a network: expected `10.1.0.0/16`");
        let (base, digits) = text.split_once('/').ok_or_else(malformed)?;
        let base: IpAddr = base.parse().map_err(|_| malformed())?;
        let plain = digits.bytes().all(|b| b.is_ascii_digit())
            && (digits == "0" || !digits.starts_with('0'));
        let length: u8 = digits.parse().ok().filter(|_| plain).ok_or_else(malformed)?;
        let (bits, width) = bits(base);
        if length > width {
            return Err(format!("`{text}` is not a network: its length is at most {width}"));
        }
        if length == 0 && bits != 0
            || length > 0 && bits.trailing_zeros() < u32::from(width - length)
        {
            return Err(format!("`{text}` is not a network: it has host bits"));
        }
        Ok(Self { base, length })
    }

    /// Whether it holds this address. An IPv4 network holds no IPv6 address, mapped or not.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ((own, own_width), (other, width)) = (bits(self.base), bits(ip));
        let shift = u32::from(width.saturating_sub(self.length));
        let cut = |value: u128| value.checked_shr(shift).unwrap_or(0);
        own_width == width && cut(own) == cut(other)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.length)
    }
}

fn bits(ip: IpAddr) -> (u128, u8) {
    match ip {
        IpAddr::V4(v4) => (u32::from(v4).into(), 32),
        IpAddr::V6(v6) => (v6.into(), 128),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ip: &str, exceptions: &[&str], forbidden: &[&str]) -> bool {
        let exceptions: Vec<Cidr> = exceptions.iter().map(|t| Cidr::parse(t).unwrap()).collect();
        let forbidden: Vec<IpAddr> = forbidden.iter().map(|t| t.parse().unwrap()).collect();
        let address = SocketAddr::new(ip.parse().unwrap(), 443);
        let checked = CheckedAddr::check(address, &exceptions, &forbidden);
        let passed = checked.is_ok();
        match checked {
            Ok(checked) => assert_eq!(checked.get(), address),
            Err(code) => assert_eq!(code, Code::SsrfDenied),
        }
        passed
    }

    const EVERYTHING: &[&str] = &["0.0.0.0/0", "::/0"];

    #[test]
    fn public_addresses_pass() {
        for ip in [
            "93.184.216.34",
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:2800:220:1:248:1893:25c8:1946",
            "2001:4860:4860::8888",
            "2a00::1",
            "64:ff9b::5db8:d822",
        ] {
            assert!(check(ip, &[], &[]), "{ip}");
        }
    }

    #[test]
    fn private_addresses_need_an_exception_that_holds_them() {
        for (ip, range) in [
            ("10.0.0.5", "10.0.0.0/24"),
            ("172.31.255.255", "172.16.0.0/12"),
            ("192.168.1.1", "192.168.1.1/32"),
            ("100.64.0.1", "100.64.0.0/10"),
            ("fc00::1", "fc00::/7"),
            ("fd12:3456::1", "fd12:3456::/32"),
        ] {
            assert!(!check(ip, &[], &[]), "{ip}");
            assert!(!check(ip, &["10.200.0.0/16", "fd99::/16"], &[]), "{ip}");
            assert!(check(ip, &["10.200.0.0/16", range], &[]), "{ip}");
            assert!(!check(ip, &[range], &[ip]), "{ip}");
        }
    }

    #[test]
    fn nothing_opens_these() {
        for ip in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "169.254.170.2",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::10.0.0.1",
            "::93.184.216.34",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.5",
            "::ffff:169.254.169.254",
            "::ffff:93.184.216.34",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:5",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a00:5",
            "64:ff9b:1::5db8:d822",
            "100::1",
            "2001::1",
            "2001:0:7f00:1::",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:a00:5::1",
            "2002:5db8:d822::1",
            "3ffe::1",
            "3fff::1",
            "5f00::1",
            "4000::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "ff0e::1",
        ] {
            assert!(!check(ip, EVERYTHING, &[]), "{ip}");
        }
    }

    #[test]
    fn the_sidecars_own_addresses_are_forbidden_in_every_form() {
        assert!(!check("93.184.216.34", &[], &["93.184.216.34"]));
        assert!(!check("93.184.216.34", &[], &["::ffff:93.184.216.34"]));
        assert!(!check("64:ff9b::5db8:d822", &[], &["93.184.216.34"]));
        assert!(!check("2a00::1", &[], &["93.184.216.34", "2a00::1"]));
        assert!(check("93.184.216.35", &[], &["93.184.216.34"]));
    }

    #[test]
    fn nothing_is_carried_along() {
        let scoped = std::net::SocketAddrV6::new("2a00::1".parse().unwrap(), 443, 7, 3);
        let checked = CheckedAddr::check(scoped.into(), &[], &[]).unwrap().get();
        assert_eq!(checked, "[2a00::1]:443".parse().unwrap());
        let zero = "93.184.216.34:0".parse().unwrap();
        assert_eq!(CheckedAddr::check(zero, &[], &[]), Err(Code::SsrfDenied));
    }

    #[test]
    fn networks() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "::/0", "fd00::/8", "192.168.1.1/32", "fd00::1/128"]
        {
            assert_eq!(Cidr::parse(text).map(|cidr| cidr.to_string()).as_deref(), Ok(text));
        }
        for text in [
            "",
            "/",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.1/8",
            "128.0.0.0/0",
            "10.0.0/8",
            "010.0.0.0/8",
            "10.0.0.0/8/8",
            " 10.0.0.0/8",
            "fd00::/129",
            "fd00::1/64",
            "[fd00::]/8",
        ] {
            assert!(Cidr::parse(text).is_err(), "{text}");
        }
        let ten = Cidr::parse("10.0.0.0/8").unwrap();
        assert!(ten.contains("10.255.0.1".parse().unwrap()));
        assert!(!ten.contains("11.0.0.1".parse().unwrap()));
        assert!(!ten.contains("::ffff:10.0.0.1".parse().unwrap()));
        assert!(!ten.contains("a00::1".parse().unwrap()));
    }
}
