//! Credential routes: where each leads, how it writes its token, and where that comes from.

use std::fmt;
use std::path::PathBuf;

use crate::model::Moment;
use crate::model::source::Place;

/// How a route's credential is written into a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthScheme {
    /// `Authorization: Bearer …`
    Bearer,
    /// `Authorization: token …`
    Token,
    /// `Authorization: Basic …`, for this user: what git servers want over HTTPS.
    Basic {
        /// `x-access-token` at GitHub, `oauth2` at GitLab; no colon.
        user: String,
    },
    /// `x-api-key: …`: what Anthropic wants of an API key.
    ApiKey,
    /// As Anthropic wants a token of its kind, which is not known before the token is: see
    /// [`CredentialRoute::settle`].
    OfToken,
    /// The credential alone, in a header of this name.
    Header {
        /// In lower case: `x-goog-api-key`, `api-key`, `private-token`.
        name: String,
    },
}

impl AuthScheme {
    /// As the manifest spells it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Bearer => "Bearer",
            Self::Token => "token",
            Self::Basic { .. } => "basic",
            Self::ApiKey => "x-api-key",
            Self::OfToken => "as the token's kind wants it",
            Self::Header { .. } => "header",
        }
    }
}

/// What may stand in an [`AuthScheme`]: judged when a manifest is read, and again by the sidecar.
pub mod auth {
    /// Headers that frame or route a request, or say how its connection is used: a credential in
    /// one of them would change what is sent where.
    const RESERVED: [&str; 31] = [
        "accept",
        "accept-encoding",
        "alt-svc",
        "connection",
        "content-encoding",
        "content-length",
        "content-location",
        "content-range",
        "content-type",
        "cookie",
        "date",
        "expect",
        "forwarded",
        "host",
        "http2-settings",
        "if-range",
        "keep-alive",
        "max-forwards",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "range",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
    ];

    /// Whether a header of this name, in lower case, can carry a credential.
    #[must_use]
    pub fn is_header(name: &str) -> bool {
        let token = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
        let plain = (1..=64).contains(&name.len()) && name.bytes().all(token);
        plain && !RESERVED.contains(&name)
    }

    /// Whether this can be the user of a Basic credential: a colon would end it.
    #[must_use]
    pub fn is_user(user: &str) -> bool {
        (1..=128).contains(&user.len()) && user.bytes().all(|b| b.is_ascii_graphic() && b != b':')
    }
}

/// What a route also sets up on the agent's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteRole {
    /// `ANTHROPIC_BASE_URL`.
    AnthropicBaseUrl,
    /// npm's `registry`.
    NpmRegistry,
    /// git's `url.<base>.insteadOf`.
    GitInsteadof,
    /// tea's login.
    TeaLogin,
    /// `OPENAI_BASE_URL`, and Codex's own configuration.
    OpenaiBaseUrl,
    /// `GOOGLE_GEMINI_BASE_URL`.
    GeminiBaseUrl,
    /// OpenCode's provider.
    Opencode,
}

impl RouteRole {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::AnthropicBaseUrl,
        Self::NpmRegistry,
        Self::GitInsteadof,
        Self::TeaLogin,
        Self::OpenaiBaseUrl,
        Self::GeminiBaseUrl,
        Self::Opencode,
    ];

    /// Whether one route of a bottle may have it: what it sets up has one place.
    #[must_use]
    pub fn is_alone(self) -> bool {
        matches!(
            self,
            Self::AnthropicBaseUrl | Self::NpmRegistry | Self::OpenaiBaseUrl | Self::GeminiBaseUrl
        )
    }

    /// As the manifest spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AnthropicBaseUrl => "anthropic-base-url",
            Self::NpmRegistry => "npm-registry",
            Self::GitInsteadof => "git-insteadof",
            Self::TeaLogin => "tea-login",
            Self::OpenaiBaseUrl => "openai-base-url",
            Self::GeminiBaseUrl => "gemini-base-url",
            Self::Opencode => "opencode",
        }
    }
}

/// Anthropic's own API: it tells keys from subscriptions' tokens by the header that they come in.
pub const ANTHROPIC: &str = "api.anthropic.com";

/// One `cred_proxy` route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialRoute {
    /// Starts and ends with `/`, unique in the bottle.
    pub path: String,
    /// Host of the `https://` upstream, lower case.
    pub host: String,
    /// Port of the upstream, 443 unless it says otherwise.
    pub port: u16,
    /// Path prefix of the upstream, without a trailing `/`.
    pub upstream_path: String,
    /// How the token is written.
    pub auth_scheme: AuthScheme,
    /// The name of the token: of the host's environment variable that holds it, or one made of
    /// [`CredentialRoute::token_from`].
    pub token_ref: String,
    /// Where the token comes from, when not by its name.
    pub token_from: Option<TokenFrom>,
    /// What else it sets up.
    pub roles: Vec<RouteRole>,
    /// From then on nothing goes by it.
    pub expires: Option<Moment>,
}

impl CredentialRoute {
    /// A route to all of a host, by `/route/`, with a `Bearer` token that `TOKEN` names.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn to(host: &str) -> Self {
        Self {
            path: "/route/".into(),
            host: host.into(),
            port: 443,
            upstream_path: String::new(),
            auth_scheme: AuthScheme::Bearer,
            token_ref: "TOKEN".into(),
            token_from: None,
            roles: Vec::new(),
            expires: None,
        }
    }

    /// The variable in which Claude Code looks for a credential of this kind.
    #[must_use]
    pub fn anthropic_variable(&self) -> &'static str {
        match &self.auth_scheme {
            AuthScheme::ApiKey | AuthScheme::OfToken => "ANTHROPIC_API_KEY",
            // With any other variable it leaves out the beta header that such a token needs.
            AuthScheme::Bearer if self.host == ANTHROPIC => "CLAUDE_CODE_OAUTH_TOKEN",
            _ => "ANTHROPIC_AUTH_TOKEN",
        }
    }

    /// What OpenCode calls the API that the upstream speaks: as another role of the route says, or as its
    /// host is known to.
    #[must_use]
    pub fn opencode_provider(&self) -> Option<&'static str> {
        let of_role = |role: &RouteRole| match role {
            RouteRole::AnthropicBaseUrl => Some("anthropic"),
            RouteRole::OpenaiBaseUrl => Some("openai"),
            RouteRole::GeminiBaseUrl => Some("google"),
            _ => None,
        };
        self.roles.iter().find_map(of_role).or(match &*self.host {
            ANTHROPIC => Some("anthropic"),
            "api.openai.com" => Some("openai"),
            "generativelanguage.googleapis.com" => Some("google"),
            _ => None,
        })
    }

    /// Decides what only the token can tell: how it is written, where the manifest leaves that to its kind.
    /// Of the token nothing but its kind is kept.
    ///
    /// # Errors
    /// [`Misfit`] where the upstream is known not to take such a token so.
    pub fn settle(&mut self, token: &str) -> Result<(), Misfit> {
        if self.host != ANTHROPIC {
            return Ok(());
        }
        let subscription = token.starts_with("sk-ant-oat");
        let key = token.starts_with("sk-ant-api");
        if subscription && self.roles.contains(&RouteRole::Opencode) {
            return Err(Misfit {
                what: "is a subscription's token (sk-ant-oat…), which OpenCode cannot use",
                mend: "use an API key (sk-ant-api…), or take the role `opencode` from the route",
            });
        }
        match self.auth_scheme {
            AuthScheme::OfToken if subscription => self.auth_scheme = AuthScheme::Bearer,
            AuthScheme::OfToken => self.auth_scheme = AuthScheme::ApiKey,
            AuthScheme::Bearer if key => {
                return Err(Misfit {
                    what: "is an API key (sk-ant-api…), and `auth_scheme: Bearer` is for a \
                           subscription's token",
                    mend: "write `auth_scheme: x-api-key`, or leave it out: with the role \
                           `anthropic-base-url` it follows the token",
                });
            }
            AuthScheme::ApiKey if subscription => {
                return Err(Misfit {
                    what: "is a subscription's token (sk-ant-oat…), and `auth_scheme: x-api-key` is \
                           for an API key",
                    mend: "write `auth_scheme: Bearer`, or leave it out: with the role \
                           `anthropic-base-url` it follows the token",
                });
            }
            _ => {}
        }
        Ok(())
    }
}

/// A token that its route's upstream does not take as the route would write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Misfit {
    /// What the token is, as the end of a sentence that names it.
    pub what: &'static str,
    /// What to do.
    pub mend: &'static str,
}

/// Where a route's token comes from, and where the manifest says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenFrom {
    /// What is asked for it.
    pub source: TokenSource,
    /// The tree's folder, in which a command runs.
    pub tree: PathBuf,
    /// Where the bottle names it.
    pub place: Place,
}

/// What is asked for a token.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TokenSource {
    /// A program, with its arguments: the token is what it writes to its standard output. A program with a
    /// `/` in it is an absolute path.
    Command(Vec<String>),
    /// A file that holds the token and nothing else: an absolute path.
    File(PathBuf),
}

impl fmt::Display for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(argv) => write!(f, "command {argv:?}"),
            Self::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "sk-ant-api03-0123456789";
    const SUBSCRIPTION: &str = "sk-ant-oat01-0123456789";

    fn settled(host: &str, auth_scheme: AuthScheme, token: &str) -> Result<AuthScheme, Misfit> {
        let roles = vec![RouteRole::AnthropicBaseUrl];
        let mut route = CredentialRoute { auth_scheme, roles, ..CredentialRoute::to(host) };
        route.settle(token).map(|()| route.auth_scheme)
    }

    #[test]
    fn a_token_of_anthropics_is_written_as_its_kind_wants() {
        let of_token = |token| settled(ANTHROPIC, AuthScheme::OfToken, token);
        assert_eq!(of_token(KEY), Ok(AuthScheme::ApiKey));
        assert_eq!(of_token(SUBSCRIPTION), Ok(AuthScheme::Bearer));
        assert_eq!(of_token("something-else"), Ok(AuthScheme::ApiKey));
    }

    #[test]
    fn what_cannot_work_is_said() {
        let explicit = |scheme, token| settled(ANTHROPIC, scheme, token);
        assert!(explicit(AuthScheme::Bearer, KEY).unwrap_err().mend.contains("x-api-key"));
        assert!(explicit(AuthScheme::ApiKey, SUBSCRIPTION).unwrap_err().mend.contains("Bearer"));
        assert_eq!(explicit(AuthScheme::Bearer, SUBSCRIPTION), Ok(AuthScheme::Bearer));
        assert_eq!(explicit(AuthScheme::ApiKey, KEY), Ok(AuthScheme::ApiKey));
        // A gateway has its own mind.
        assert_eq!(settled("gw.example.com", AuthScheme::Bearer, KEY), Ok(AuthScheme::Bearer));
        let roles = vec![RouteRole::AnthropicBaseUrl, RouteRole::Opencode];
        let auth_scheme = AuthScheme::OfToken;
        let mut both = CredentialRoute { auth_scheme, roles, ..CredentialRoute::to(ANTHROPIC) };
        assert!(both.clone().settle(SUBSCRIPTION).is_err());
        assert_eq!(both.settle(KEY), Ok(()));
    }
}
