//! The addresses of sandboxes' networks: blocks cut from a pool, each with a fixed place for the
//! sidecar and for the machine. Pure.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Where blocks come from when the tree names no `network_pool`: 4096 of them.
///
/// Benchmarking addresses (RFC 2544): nobody's upstream, and no exception of a policy opens them, so
/// that what a sidecar has on this side of it never hides an address on the other. The host gets no
/// address and no route in a sandbox's network, so nothing of the host's can collide with it.
const DEFAULT_POOL: Pool = Pool(Subnet { base: 0xC612_0000, length: 16 });

/// What one sandbox takes: a network for its machine and its sidecar, and one for what carries it.
const BLOCK: u8 = 28;

/// Room for the engine's own `.1`, a sidecar, a machine, and little else.
const LENGTH: u8 = 29;

/// An IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subnet {
    base: u32,
    length: u8,
}

impl Subnet {
    fn size(self) -> u64 {
        1 << (32 - u32::from(self.length))
    }

    pub(super) fn overlaps(self, other: Self) -> bool {
        let length = self.length.min(other.length);
        let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
        self.base & mask == other.base & mask
    }

    /// The sidecar's address. Engines before 28 leave a default route to `.1`, which is nobody's and
    /// must stay so.
    pub(super) fn sidecar(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 2)
    }

    /// The machine's address.
    pub(super) fn machine(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 3)
    }

    /// The block of the subnet in which something was given this address.
    pub(super) fn around(address: Ipv4Addr) -> Self {
        Self { base: u32::from(address) & !15, length: BLOCK }
    }

    /// The half of a block that the machine and its sidecar are in.
    pub(super) fn inner(self) -> Self {
        Self { base: self.base, length: LENGTH }
    }

    /// The other half.
    pub(super) fn carrier(self) -> Self {
        Self { base: self.base + 8, length: LENGTH }
    }

    /// It holds both addresses, and a broadcast address beyond them.
    pub(super) fn fits(self) -> bool {
        self.length <= LENGTH
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.length)
    }
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(address, length)| {
            let address: Ipv4Addr = address.parse().ok()?;
            let length: u8 = length.parse().ok().filter(|length| *length <= 32)?;
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            Some(Self { base: u32::from(address) & mask, length })
        });
        parsed.ok_or_else(|| format!("`{text}` is no IPv4 network: expected 10.213.0.0/16"))
    }
}

/// The range that subnets are cut from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pool(Subnet);

impl Pool {
    /// The pool that the tree names, or the default one.
    pub(super) fn of(text: Option<&str>) -> Result<Self, String> {
        let pool = text.map_or(Ok(DEFAULT_POOL), |text| text.parse().map(Self))?;
        if pool.0.length <= BLOCK {
            Ok(pool)
        } else {
            Err(format!("`{pool}` has no room for a /{BLOCK}: name a larger `network_pool`"))
        }
    }

    /// How many blocks it holds.
    pub(super) fn count(self) -> u64 {
        self.0.size() >> (32 - BLOCK)
    }

    /// The first block, in a round that begins at `start`, which nothing that is taken overlaps.
    /// Runs that begin at different places seldom meet.
    pub(super) fn free(self, start: u64, taken: &[Subnet]) -> Option<Subnet> {
        let taken: Vec<Subnet> = taken.iter().copied().filter(|t| t.overlaps(self.0)).collect();
        let count = self.count();
        (0..count)
            .map(|step| self.block((start % count + step) % count))
            .find(|block| !taken.iter().any(|other| other.overlaps(*block)))
    }

    fn block(self, index: u64) -> Subnet {
        let offset = u32::try_from(index << (32 - BLOCK)).unwrap_or(0);
        Subnet { base: self.0.base.wrapping_add(offset), length: BLOCK }
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn a_subnet_has_fixed_places_and_never_gives_away_the_first() {
        let block = subnet("198.18.7.16/28");
        let net = block.inner();
        assert_eq!(net.to_string(), "198.18.7.16/29");
        assert_eq!(block.carrier().to_string(), "198.18.7.24/29");
        assert_eq!(net.sidecar(), Ipv4Addr::new(198, 18, 7, 18));
        assert_eq!(net.machine(), Ipv4Addr::new(198, 18, 7, 19));
        assert_eq!((Subnet::around(net.sidecar()), Subnet::around(net.machine())), (block, block));
        assert_eq!(subnet("10.1.2.3/8").to_string(), "10.0.0.0/8");
        assert_eq!(subnet("1.2.3.4/0").to_string(), "0.0.0.0/0");
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "fd00::/64", "x/8", "10.0.0.0/-1"] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_taken_is_passed_over_whatever_its_size() {
        let pool = Pool::of(Some("10.213.0.0/24")).unwrap();
        assert_eq!(pool.count(), 16);
        let free = |start, taken: &[&str]| {
            let taken: Vec<Subnet> = taken.iter().map(|text| subnet(text)).collect();
            pool.free(start, &taken).map(|subnet| subnet.to_string())
        };
        assert_eq!(free(0, &[]).as_deref(), Some("10.213.0.0/28"));
        assert_eq!(free(17, &[]).as_deref(), Some("10.213.0.16/28"));
        assert_eq!(free(15, &["10.213.0.248/29"]).as_deref(), Some("10.213.0.0/28"));
        let taken = ["10.213.0.0/25", "172.17.0.0/16"];
        assert_eq!(free(0, &taken).as_deref(), Some("10.213.0.128/28"));
        assert_eq!(free(0, &["10.213.0.4/30"]).as_deref(), Some("10.213.0.16/28"));
        assert_eq!(free(5, &["10.0.0.0/8"]), None);
    }

    #[test]
    fn the_default_pool_fits_thousands_and_others_must_fit_one() {
        let pool = Pool::of(None).unwrap();
        assert_eq!((pool.to_string().as_str(), pool.count()), ("198.18.0.0/16", 4096));
        assert_eq!(pool.free(4095, &[]).unwrap().to_string(), "198.18.255.240/28");
        assert!(Pool::of(Some("10.0.0.0/29")).unwrap_err().contains("/28"));
        assert!(Pool::of(Some("nonsense")).is_err());
    }
}
