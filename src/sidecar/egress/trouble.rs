//! Why a request is not answered, with more to say than its code.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::sidecar::Code;
use crate::sidecar::address::is_excepted_by_a_range;

/// A code, what to do about this case of it, and what only the operator is told.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) code: Code,
    pub(super) next: Option<&'static str>,
    pub(super) detail: Option<String>,
}

impl From<Code> for Trouble {
    fn from(code: Code) -> Self {
        Self { code, next: None, detail: None }
    }
}

impl Trouble {
    /// A connection ended while a request with a body was under way. What its upstream may have said is
    /// read; but a system that resets a connection throws away what it had not sent yet.
    pub(super) fn closed_early() -> Self {
        let next = "the upstream closed the connection without an answer that arrived: it may refuse a body of this size; send less at once, or try again later";
        Self { code: Code::UpstreamUnreachable, next: Some(next), detail: None }
    }

    /// What is packed in a head gives more than is searched.
    pub(super) fn packed_head() -> Self {
        let next = "the URL or a header field holds something compressed that unpacks to more than is searched: send it in the body, or plain";
        Self { code: Code::DlpUnscannable, next: Some(next), detail: None }
    }

    /// There is no name server to ask: whichever name it is, it has no address.
    pub(super) fn no_name_server(why: String) -> Self {
        let next = "the sidecar knows no name server that it can ask: the operator looks at the host's `/etc/resolv.conf`; its log says why";
        Self { code: Code::UpstreamDns, next: Some(next), detail: Some(why) }
    }

    /// No name server answers: whether the name has an address is not known.
    pub(super) fn name_servers_silent(servers: &str, why: &str) -> Self {
        let next = "the name servers do not answer, so the host's address is not known: trying again may help; the operator's log says which servers and why";
        let detail = plain(&format!("no answer from {servers}: {why}"));
        Self { code: Code::UpstreamDns, next: Some(next), detail: Some(detail) }
    }

    /// A name server answers that it cannot say, or does not want to.
    pub(super) fn name_servers_fail(servers: &str, why: &str) -> Self {
        let next = "the name servers answer with an error, so the host's address is not known: trying again may help; the operator's log says which servers and why";
        let detail = plain(&format!("an error from {servers}: {why}"));
        Self { code: Code::UpstreamDns, next: Some(next), detail: Some(detail) }
    }

    /// The same, where upstreams are reached by a proxy that may know more names.
    pub(super) fn where_a_proxy_may_know(self) -> Self {
        let next = "the host's address is not known here, and upstreams are reached by the network's proxy: where only that resolves names, the operator writes `resolve: proxy` below `proxy` in bottle.yaml; the log says more";
        let detail = self.detail.or_else(|| Some("the name has no address here".to_owned()));
        Self { code: self.code, next: Some(next), detail }
    }

    /// An upstream that `no_proxy` excepts from the network's proxy does not answer.
    pub(super) fn not_by_proxy(code: Code) -> Self {
        let next = "the upstream does not answer; it is dialled without the network's proxy, because `no_proxy` in bottle.yaml covers it: the operator looks whether it should";
        Self { code, next: Some(next), detail: Some("dialled without the proxy".to_owned()) }
    }

    /// A name has addresses, and none of them may be dialled.
    pub(super) fn denied(addresses: &[IpAddr], forbidden: &[IpAddr]) -> Self {
        let openable = |ip: &IpAddr| is_excepted_by_a_range(*ip) && !forbidden.contains(ip);
        let next = if addresses.iter().any(openable) {
            "the name has a private address: the operator declares `{host, cidr}` for it in `egress.allowlist`; its log has the address"
        } else {
            "the name has an address that nothing opens, of this machine, its network or a cloud's own services: `cidr` does not help; the operator's log has the address"
        };
        let mut detail = "it resolves to".to_owned();
        for (count, address) in addresses.iter().take(8).enumerate() {
            let comma = if count == 0 { "" } else { "," };
            // Writing to a string does not fail.
            let _ = write!(detail, "{comma} {address}");
        }
        Self { code: Code::SsrfDenied, next: Some(next), detail: Some(detail) }
    }
}

/// A text with names and words of others in it, as it may stand in the log.
pub(super) fn plain(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(300).collect()
}
