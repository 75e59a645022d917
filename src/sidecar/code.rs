//! Why something was refused.

use std::borrow::Cow;
use std::fmt;

/// Every reason for a refusal. Its text stands in `X-Bottle-Block`, in the log and in
/// `bottle policy check`, and is part of the product: it does not change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// No entry of the allowlist and no route names the host.
    HostNotAllowed,
    /// Under a wildcard, a name that looks like data.
    NameHoldsData,
    /// The host is listed, but not with this port.
    PortNotAllowed,
    /// Plain HTTP to a port where TLS is spoken.
    PlainHttpRefused,
    /// The method is never passed on here, or no entry of the host lists it.
    MethodNotAllowed,
    /// The host is listed, but not with this path.
    PathNotAllowed,
    /// What lets it pass has ended.
    GrantExpired,
    /// A page of another origin is at the door where agents ask.
    OriginNotAllowed,
    /// What came there is no JSON, or is packed.
    UnsupportedMediaType,
    /// What came there is too long.
    MessageTooLarge,
    /// What came there did not come in time.
    MessageTimeout,
    /// The agent asks too often. Only the log says so.
    TooManyRequests,
    /// The authority holds user info.
    UserinfoForbidden,
    /// The host is a number that resolvers read as an address.
    AmbiguousIp,
    /// The authority is not `host` or `host:port`.
    MalformedAuthority,
    /// The request is not well-formed HTTP/1.x.
    MalformedRequest,
    /// Two parsers could see different bodies.
    AmbiguousFraming,
    /// The path is not in the one form that every reader agrees about.
    PathNotCanonical,
    /// The address is not public, and no exception is declared.
    SsrfDenied,
    /// The TLS handshake names another host than the CONNECT, or none.
    SniMismatch,
    /// What came after a CONNECT is not TLS.
    NotTls,
    /// The request names another host than its connection, or none that the door answers to.
    AuthorityMismatch,
    /// A push through a credential route.
    UseGitGate,
    /// What git's LFS asks of the git gate, which passes no large files on.
    LargeFiles,
    /// A WebSocket that is not asked for in the one way that every server understands.
    WebsocketRefused,
    /// A leak rule matched.
    Dlp {
        /// The rule's id.
        rule: Box<str>,
    },
    /// The value of a credential was in the request.
    KnownSecret {
        /// The credential's name.
        name: Box<str>,
    },
    /// A body that cannot be scanned within the limits.
    DlpUnscannable,
    /// The request target is too long.
    UriTooLong,
    /// The head is too large, or has too many fields.
    HeaderTooLarge,
    /// The sandbox has too many connections open.
    TooManyConnections,
    /// No credential route has this path.
    RouteNotFound,
    /// The route's credential was not delivered.
    CredentialMissing,
    /// The sidecar has no policy yet.
    NotReady,
    /// The log cannot be written.
    AuditUnavailable,
    /// The name has no address.
    UpstreamDns,
    /// The upstream does not answer.
    UpstreamUnreachable,
    /// The upstream's certificate is not valid for its name.
    UpstreamTls,
    /// The upstream did not answer in time.
    UpstreamTimeout,
    /// The network's proxy does not answer, or not as one.
    ProxyUnreachable,
    /// The certificate of the network's proxy is not valid.
    ProxyTls,
    /// The network's proxy wants a login, or another one.
    ProxyLogin,
    /// The network's proxy does not let it pass.
    ProxyRefused,
    /// The network's proxy does not reach the upstream.
    ProxyFailed,
    /// The network's proxy did not answer in time.
    ProxyTimeout,
    /// A response whose body cannot be searched for credentials.
    ResponseRefused,
    /// A part of a response to a request with a credential: an echo cut to pieces is not found.
    PartialResponse,
    /// The head of a response is too large, or has too many fields.
    ResponseHeadTooLarge,
}

impl Code {
    /// Its stable text.
    #[must_use]
    pub fn as_str(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Dlp { rule } => return Cow::Owned(format!("dlp:{rule}")),
            Self::KnownSecret { name } => return Cow::Owned(format!("known-secret:{name}")),
            Self::HostNotAllowed => "host_not_allowed",
            Self::NameHoldsData => "name_holds_data",
            Self::PortNotAllowed => "port_not_allowed",
            Self::PlainHttpRefused => "plain_http_refused",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::PathNotAllowed => "path_not_allowed",
            Self::GrantExpired => "grant_expired",
            Self::OriginNotAllowed => "origin_not_allowed",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::MessageTooLarge => "message_too_large",
            Self::MessageTimeout => "message_timeout",
            Self::TooManyRequests => "too_many_requests",
            Self::UserinfoForbidden => "userinfo_forbidden",
            Self::AmbiguousIp => "ambiguous_ip",
            Self::MalformedAuthority => "malformed_authority",
            Self::MalformedRequest => "malformed_request",
            Self::AmbiguousFraming => "ambiguous_framing",
            Self::PathNotCanonical => "path_not_canonical",
            Self::SsrfDenied => "ssrf_denied",
            Self::SniMismatch => "sni_mismatch",
            Self::NotTls => "not_tls",
            Self::AuthorityMismatch => "authority_mismatch",
            Self::UseGitGate => "use_git_gate",
            Self::LargeFiles => "large_files",
            Self::WebsocketRefused => "websocket_refused",
            Self::DlpUnscannable => "dlp_unscannable",
            Self::UriTooLong => "uri_too_long",
            Self::HeaderTooLarge => "header_too_large",
            Self::TooManyConnections => "too_many_connections",
            Self::RouteNotFound => "route_not_found",
            Self::CredentialMissing => "credential_missing",
            Self::NotReady => "not_ready",
            Self::AuditUnavailable => "audit_unavailable",
            Self::UpstreamDns => "upstream_dns",
            Self::UpstreamUnreachable => "upstream_unreachable",
            Self::UpstreamTls => "upstream_tls",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::ProxyUnreachable => "proxy_unreachable",
            Self::ProxyTls => "proxy_tls",
            Self::ProxyLogin => "proxy_login",
            Self::ProxyRefused => "proxy_refused",
            Self::ProxyFailed => "proxy_failed",
            Self::ProxyTimeout => "proxy_timeout",
            Self::ResponseRefused => "response_refused",
            Self::PartialResponse => "partial_response",
            Self::ResponseHeadTooLarge => "response_head_too_large",
        })
    }

    /// The HTTP status of the page that says so.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::UserinfoForbidden
            | Self::AmbiguousIp
            | Self::MalformedAuthority
            | Self::MalformedRequest
            | Self::AmbiguousFraming
            | Self::PathNotCanonical
            | Self::NotTls => 400,
            Self::HostNotAllowed
            | Self::NameHoldsData
            | Self::PortNotAllowed
            | Self::PlainHttpRefused
            | Self::PathNotAllowed
            | Self::GrantExpired
            | Self::OriginNotAllowed
            | Self::SsrfDenied
            | Self::ProxyRefused
            | Self::UseGitGate
            | Self::WebsocketRefused
            | Self::Dlp { .. }
            | Self::KnownSecret { .. } => 403,
            Self::RouteNotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::MessageTimeout => 408,
            Self::DlpUnscannable | Self::MessageTooLarge => 413,
            Self::UriTooLong => 414,
            Self::UnsupportedMediaType => 415,
            Self::SniMismatch | Self::AuthorityMismatch => 421,
            Self::TooManyRequests => 429,
            Self::HeaderTooLarge => 431,
            Self::LargeFiles => 501,
            Self::UpstreamDns
            | Self::UpstreamUnreachable
            | Self::UpstreamTls
            | Self::ProxyUnreachable
            | Self::ProxyTls
            | Self::ProxyLogin
            | Self::ProxyFailed
            | Self::ResponseRefused
            | Self::PartialResponse
            | Self::ResponseHeadTooLarge => 502,
            Self::TooManyConnections
            | Self::CredentialMissing
            | Self::NotReady
            | Self::AuditUnavailable => 503,
            Self::UpstreamTimeout | Self::ProxyTimeout => 504,
        }
    }

    /// Whether the connection ends with this refusal, because nobody can say where the next
    /// request would begin, or because no page can be sent on it.
    #[must_use]
    pub fn closes(&self) -> bool {
        matches!(
            self,
            Self::UserinfoForbidden
                | Self::AmbiguousIp
                | Self::MalformedAuthority
                | Self::MalformedRequest
                | Self::AmbiguousFraming
                | Self::SniMismatch
                | Self::NotTls
                | Self::UriTooLong
                | Self::HeaderTooLarge
                | Self::TooManyConnections
        )
    }

    /// What the reader of a refusal can do about it.
    #[must_use]
    pub fn next(&self) -> &'static str {
        match self {
            Self::HostNotAllowed => {
                "ask the operator to add this host to `egress.allowlist` of the bottle"
            }
            Self::NameHoldsData => {
                "ask the operator to list this very name in `egress.allowlist`: a wildcard does not cover names that look like data"
            }
            Self::PortNotAllowed => {
                "ask the operator to add `host:port` to `egress.allowlist` of the bottle; an entry without a port means 443"
            }
            Self::PlainHttpRefused => "use `https://`: TLS is spoken at this port",
            Self::MethodNotAllowed => {
                "use a method that the bottle lists for this host; TRACE is never passed on, and CONNECT only by the proxy"
            }
            Self::PathNotAllowed => {
                "ask the operator to add this path to the host's `paths` in `egress.allowlist`"
            }
            Self::GrantExpired => {
                "ask the operator for more time: `expires` of its entry in the bottle is over"
            }
            Self::OriginNotAllowed => "ask by a program: a page in a browser is no agent",
            Self::UnsupportedMediaType => {
                "send `Content-Type: application/json`, and no `Content-Encoding`"
            }
            Self::MessageTooLarge => "send at most 16 KiB",
            Self::MessageTimeout => "send the whole message at once",
            Self::TooManyRequests => "wait for the operator's decisions before asking for more",
            Self::UserinfoForbidden => "leave out what stands before `@` in the URL",
            Self::AmbiguousIp => "name the host: numeric spellings of addresses are not accepted",
            Self::MalformedAuthority => "name one host, and its port if it is not the usual one",
            Self::MalformedRequest => "send a request that is well-formed HTTP/1.1",
            Self::AmbiguousFraming => {
                "send either one Content-Length or `Transfer-Encoding: chunked`, once"
            }
            Self::PathNotCanonical => {
                "send the path without `.` or `..` segments, `//`, encoded slashes or control characters; for a host that wants slashes encoded the operator writes `encoded_slash: true` in its entry of `egress.allowlist`"
            }
            Self::SsrfDenied => {
                "name the host: an address is never dialled as such, public or not; for a name with a private address the operator declares `{host, cidr}` in `egress.allowlist`"
            }
            Self::SniMismatch => "let the TLS handshake name the host of the CONNECT",
            Self::NotTls => "speak TLS after CONNECT: nothing else is tunnelled",
            Self::AuthorityMismatch => {
                "name one host: the connection's, in the Host header and in the URL"
            }
            Self::UseGitGate => {
                "push by the `ssh` URL of a repository that `git` of the bottle names; `https` pushes are refused"
            }
            Self::LargeFiles => "commit the pointers of large files only: LFS is not passed on",
            Self::WebsocketRefused => {
                "open the WebSocket by `GET` over HTTP/1.1, with `Upgrade: websocket` and version 13"
            }
            Self::Dlp { .. } => {
                "leave the secret out; for a false alarm the operator adds `{rule, host, reason}` to `egress.dlp_allow`"
            }
            Self::KnownSecret { .. } => {
                "leave the credential out: its route adds it where it belongs"
            }
            Self::DlpUnscannable => {
                "send a smaller body, or one that is not compressed: what cannot be searched for secrets is not passed on"
            }
            Self::UriTooLong => "send a shorter URL",
            Self::HeaderTooLarge => "send fewer or smaller header fields",
            Self::TooManyConnections => "close connections or wait for answers, or try again later",
            Self::RouteNotFound => "use the path of a route that `cred_proxy` in the bottle lists",
            Self::CredentialMissing => {
                "ask the operator to set the route's variable and run `bottle apply`"
            }
            Self::NotReady => "try again: the sidecar has no policy yet",
            Self::AuditUnavailable => {
                "ask the operator to look at the sidecar: its log cannot be written"
            }
            Self::UpstreamDns => "check the host's name: it has no address",
            Self::UpstreamUnreachable => "try again later: the upstream does not answer",
            Self::UpstreamTls => {
                "the upstream's certificate is not valid for its name: do not retry"
            }
            Self::UpstreamTimeout => "try again later: the upstream did not answer in time",
            Self::ProxyUnreachable => {
                "the proxy of this network does not answer: the operator looks at `proxy` in bottle.yaml; its log says why"
            }
            Self::ProxyTls => {
                "the certificate of this network's proxy is not valid: the operator names its authority in `ca` of `proxy` in bottle.yaml; its log says more"
            }
            Self::ProxyLogin => {
                "the proxy of this network wants a login: the operator gives it one in bottle.yaml, by `password_ref` or `password_from` of `proxy`"
            }
            Self::ProxyRefused => {
                "the proxy of this network does not let this host and port pass, and many let 443 pass alone: do not retry; the operator asks whoever runs it"
            }
            Self::ProxyFailed => {
                "try again later: the proxy of this network does not reach the upstream"
            }
            Self::ProxyTimeout => {
                "try again later: the proxy of this network did not answer in time"
            }
            Self::ResponseRefused => {
                "the response cannot be searched for credentials: ask for an uncompressed one"
            }
            Self::PartialResponse => {
                "ask for the whole: where a credential is added, no part of a response is passed on"
            }
            Self::ResponseHeadTooLarge => {
                "do not retry: the upstream's answer has more than 100 header fields, or more than 64 KiB of them"
            }
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.as_str())
    }
}

impl std::error::Error for Code {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_names_and_say_what_to_do() {
        let rule = Code::Dlp { rule: "aws-access-token".into() };
        assert_eq!(rule.to_string(), "dlp:aws-access-token");
        let known = Code::KnownSecret { name: "GH_TOKEN".into() };
        assert_eq!((known.to_string().as_str(), known.status()), ("known-secret:GH_TOKEN", 403));
        for code in [rule, known, Code::HostNotAllowed, Code::UriTooLong, Code::UpstreamTimeout] {
            assert!((400..=504).contains(&code.status()) && code.next().len() > 12, "{code}");
            assert!(code.as_str().bytes().all(|b| b.is_ascii_graphic()), "{code}");
        }
    }

    #[test]
    fn what_cannot_be_framed_ends_the_connection() {
        for code in [Code::AmbiguousFraming, Code::MalformedRequest, Code::NotTls] {
            assert!(code.closes(), "{code}");
        }
        for code in [Code::HostNotAllowed, Code::MethodNotAllowed, Code::UseGitGate] {
            assert!(!code.closes(), "{code}");
        }
    }
}
