//! Whom a sidecar becomes where root starts it.

use std::fs;

use rustix::thread::CapabilitySet;

/// Above what systemd and container engines set aside, below what is no user at all. Each sidecar is
/// a user of its own: so none can signal another, or read what is another's.
const FIRST: u32 = 0x7000_0000;
const RANGE: u32 = 0x0fff_0000;

/// `nobody`: where the user namespace has no ids up there.
const NOBODY: u32 = 65534;

/// A user of the host without any rights, where this process can become one.
pub(super) fn unprivileged() -> Option<u32> {
    let needed = CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::CHOWN;
    let able = rustix::process::geteuid().is_root()
        && rustix::thread::capabilities(None).is_ok_and(|held| held.effective.contains(needed));
    if !able {
        return None;
    }
    let map = fs::read_to_string("/proc/self/uid_map").ok()?;
    let mut random = [0; 4];
    getrandom::fill(&mut random).ok()?;
    let random = FIRST + u32::from_ne_bytes(random) % RANGE;
    [random, NOBODY].into_iter().find(|id| has(&map, *id))
}

/// The first of the ids that sandboxes have; those of sidecars are above them.
const FIRST_OF_ALL: u32 = 0x4000_0000;

/// Whether a process of bottle's may have this user. Of an ordinary user it is that one; of root it is root
/// itself, or one of the ids that no login has.
pub(super) fn may_be_of_bottle(uid: u32) -> bool {
    let own = rustix::process::geteuid();
    if !own.is_root() {
        return uid == own.as_raw();
    }
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    uid == 0 || uid >= FIRST_OF_ALL || (uid == NOBODY && !has(&map, FIRST))
}

/// Whether the map of a user namespace has this id.
fn has(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> =
            line.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [first, _, count] = numbers[..] else { return false };
        (first..first.saturating_add(count)).contains(&u64::from(id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_of_this_host_is_nobody_of_bottles() {
        let own = rustix::process::geteuid().as_raw();
        assert!(may_be_of_bottle(own));
        assert!(!may_be_of_bottle(own + 1000));
        assert_eq!(may_be_of_bottle(FIRST), own == 0);
    }

    #[test]
    fn only_ids_that_exist_are_taken() {
        let all = "         0          0 4294967295\n";
        assert!(has(all, FIRST) && has(all, FIRST + RANGE) && has(all, NOBODY));
        let some = "0 100000 65536\n";
        assert!(!has(some, FIRST) && has(some, NOBODY));
        assert!(!has("0 1000 1\n", NOBODY) && !has("", 0) && !has("x y z", 0));
    }
}
