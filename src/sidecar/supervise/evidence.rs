//! What the sidecar itself has seen of refusals, by host: the operator sees whether an agent's story is true.

use std::collections::{BTreeMap, VecDeque};

use crate::model::Moment;
use crate::model::supervise;

/// Hosts that are remembered; the one that was refused the longest ago makes room.
const HOSTS: usize = 64;
/// Refusals that are remembered one by one.
const LAST: usize = 64;
/// The longest path that is remembered.
const PATH: usize = 512;
/// Different codes of one host that are counted; there are not many more.
const CODES: usize = 24;

/// One refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The request's name in the log, and on its page.
    pub request_id: String,
    /// The canonical name of the host.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The request's method.
    pub method: Option<String>,
    /// The canonical path, where nothing was found in it.
    pub path: Option<String>,
    /// Why.
    pub code: String,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Evidence {
    hosts: BTreeMap<String, supervise::Evidence>,
    last: VecDeque<Refusal>,
}

impl Evidence {
    /// Something was refused.
    pub fn refused(&mut self, mut refusal: Refusal, at: Moment) {
        refusal.path = refusal.path.filter(|path| path.len() <= PATH);
        if !self.hosts.contains_key(&refusal.host) && self.hosts.len() >= HOSTS {
            let oldest = self.hosts.iter().min_by_key(|(_, seen)| seen.last);
            if let Some(oldest) = oldest.map(|(host, _)| host.clone()) {
                self.hosts.remove(&oldest);
            }
        }
        let seen = self.hosts.entry(refusal.host.clone()).or_default();
        seen.denied += 1;
        seen.last = Some(at);
        if seen.codes.len() < CODES || seen.codes.contains_key(&refusal.code) {
            *seen.codes.entry(refusal.code.clone()).or_default() += 1;
        }
        if self.last.len() >= LAST {
            self.last.pop_front();
        }
        self.last.push_back(refusal);
    }

    /// What was seen of a host.
    #[must_use]
    pub fn of(&self, host: &str) -> supervise::Evidence {
        self.hosts.get(host).cloned().unwrap_or_default()
    }

    /// The last refusal of something there.
    #[must_use]
    pub fn last(&self, host: &str, port: u16) -> Option<&Refusal> {
        self.last.iter().rev().find(|seen| seen.host == host && seen.port == port)
    }

    /// The methods that were refused there, sorted: of one refusal, where that is named and known. A tunnel says
    /// nothing of what would be asked in it, and who gets also asks for heads.
    #[must_use]
    pub fn methods(&self, host: &str, port: u16, request_id: Option<&str>) -> Vec<String> {
        let there = || self.last.iter().filter(|seen| seen.host == host && seen.port == port);
        let named = there().find(|seen| Some(seen.request_id.as_str()) == request_id);
        let seen: Vec<&Refusal> = named.map_or_else(|| there().collect(), |named| vec![named]);
        let mut methods: Vec<String> = seen
            .into_iter()
            .filter_map(|seen| seen.method.clone())
            .filter(|method| !crate::sidecar::allowlist::is_never_passed_on(method))
            .filter(|method| method.len() <= 16 && method.bytes().all(|b| b.is_ascii_uppercase()))
            .collect();
        if methods.iter().any(|method| method == "GET" || method == "HEAD") {
            methods.extend(["GET", "HEAD"].map(str::to_owned));
        }
        methods.sort();
        methods.dedup();
        methods.truncate(super::arguments::METHODS);
        methods
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(id: usize, host: &str, method: &str) -> Refusal {
        Refusal {
            request_id: id.to_string(),
            host: host.to_owned(),
            port: 443,
            method: Some(method.to_owned()),
            path: Some("/x".to_owned()),
            code: "host_not_allowed".to_owned(),
        }
    }

    #[test]
    fn refusals_are_counted_by_host() {
        let mut evidence = Evidence::default();
        for at in 0..3 {
            evidence.refused(refusal(0, "a.example", "GET"), Moment::of_seconds(at));
        }
        let seen = evidence.of("a.example");
        assert_eq!((seen.denied, seen.codes["host_not_allowed"]), (3, 3));
        assert_eq!(seen.last, Some(Moment::of_seconds(2)));
        assert_eq!(evidence.of("b.example"), supervise::Evidence::default());
    }

    #[test]
    fn it_is_bounded_whatever_is_refused() {
        let mut evidence = Evidence::default();
        for index in 0..10_000_usize {
            let mut one = refusal(index, &format!("h{index}.example"), "GET");
            one.path = Some("x".repeat(index));
            evidence.refused(one, Moment::of_seconds(index as u64));
        }
        assert_eq!((evidence.hosts.len(), evidence.last.len()), (HOSTS, LAST));
        assert_eq!(evidence.of("h9999.example").denied, 1);
        assert!(evidence.last.iter().all(|seen| seen.path.is_none()));
    }

    #[test]
    fn the_methods_that_were_refused_are_known() {
        let mut evidence = Evidence::default();
        let now = Moment::of_seconds(1);
        evidence.refused(refusal(1, "a.example", "CONNECT"), now);
        assert_eq!(evidence.methods("a.example", 443, None), [""; 0]);
        evidence.refused(refusal(2, "a.example", "GET"), now);
        evidence.refused(refusal(3, "a.example", "PUT"), now);
        assert_eq!(evidence.methods("a.example", 443, None), ["GET", "HEAD", "PUT"]);
        assert_eq!(evidence.methods("a.example", 443, Some("3")), ["PUT"]);
        assert_eq!(evidence.methods("a.example", 443, Some("x")), ["GET", "HEAD", "PUT"]);
        assert_eq!(evidence.methods("a.example", 8443, None), [""; 0]);
    }
}
