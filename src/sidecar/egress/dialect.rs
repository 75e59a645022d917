//! In which form a refusal is understood: clients of models show their user the message of an error only where it
//! has the form that its vendor documents, and take some statuses for a login that failed.
//!
//! This shapes pages and decides nothing else, so it may be told by what a request looks like.

use hyper::HeaderMap;

use crate::sidecar::Code;

/// Whose errors a client understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `{"type": "error", "error": {"type", "message"}}`,
    /// <https://docs.anthropic.com/en/api/errors>.
    Anthropic,
    /// `{"error": {"message", "type", "param", "code"}}`,
    /// <https://platform.openai.com/docs/guides/error-codes>; also of all who offer the same interface.
    OpenAi,
    /// `{"error": {"code", "message", "status"}}`,
    /// <https://cloud.google.com/apis/design/errors>.
    Google,
}

impl Dialect {
    /// Of a request, by its path, its fields and its host, whichever of those it has. A gateway has hosts of its own.
    pub(super) fn of(path: &str, headers: &HeaderMap, host: &str) -> Option<Self> {
        let ends = |ends: &[&str]| ends.iter().any(|end| path.ends_with(end));
        if headers.contains_key("anthropic-version")
            || host == "api.anthropic.com"
            || ends(&["/v1/messages", "/v1/messages/count_tokens"])
        {
            return Some(Self::Anthropic);
        }
        let method = path.rsplit('/').next().and_then(|last| last.split_once(':'));
        if headers.contains_key("x-goog-api-client") && path.contains("/models/")
            || host == "generativelanguage.googleapis.com"
            || method.is_some_and(|(_, method)| {
                ["generateContent", "streamGenerateContent", "countTokens", "embedContent"]
                    .contains(&method)
            })
        {
            return Some(Self::Google);
        }
        let openai = host == "api.openai.com"
            || ends(&["/responses", "/chat/completions", "/v1/completions", "/v1/embeddings"]);
        openai.then_some(Self::OpenAi)
    }

    /// The status of a refusal. What asking again would not change is a mistake of the request: 401 and 403 are taken for a
    /// login that failed, 404 for a model that there is not, 413 for a conversation that is too long; and of what comes
    /// after several attempts some clients show no reason.
    pub(super) fn status(code: &Code) -> u16 {
        match code {
            Code::CredentialMissing
            | Code::UpstreamTls
            | Code::ResponseRefused
            | Code::PartialResponse
            | Code::ResponseHeadTooLarge => 400,
            code if code.status() < 500 => 400,
            code => code.status(),
        }
    }

    /// What its errors are called.
    pub(super) fn kind(self, status: u16) -> &'static str {
        match (self, status) {
            (Self::Anthropic | Self::OpenAi, 400) => "invalid_request_error",
            (Self::Anthropic, _) => "api_error",
            (Self::OpenAi, _) => "server_error",
            (Self::Google, 400) => "INVALID_ARGUMENT",
            (Self::Google, 504) => "DEADLINE_EXCEEDED",
            (Self::Google, _) => "UNAVAILABLE",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_by_what_it_asks() {
        let none = HeaderMap::new();
        let mut anthropic = HeaderMap::new();
        anthropic.insert("anthropic-version", "2023-06-01".parse().unwrap());
        let of = |path, host| Dialect::of(path, &none, host);
        assert_eq!(of("/gateway/v1/messages", ""), Some(Dialect::Anthropic));
        assert_eq!(Dialect::of("/v1/models", &anthropic, ""), Some(Dialect::Anthropic));
        assert_eq!(of("/x", "api.anthropic.com"), Some(Dialect::Anthropic));
        assert_eq!(of("/openai/v1/responses", ""), Some(Dialect::OpenAi));
        assert_eq!(of("/v1/chat/completions", "ollama.host"), Some(Dialect::OpenAi));
        let google = "/gemini/v1beta/models/gemini-pro:streamGenerateContent";
        assert_eq!(of(google, ""), Some(Dialect::Google));
        for path in ["/", "/v1/messages/x", "/a:b/c", "/models/x:predict", "/repos/responses/x"] {
            assert_eq!(of(path, "api.example.com"), None, "{path}");
        }
    }

    #[test]
    fn nothing_reads_as_a_login_that_failed() {
        for code in [
            Code::HostNotAllowed,
            Code::Dlp { rule: "x".into() },
            Code::RouteNotFound,
            Code::DlpUnscannable,
            Code::CredentialMissing,
        ] {
            assert_eq!(Dialect::status(&code), 400, "{code}");
        }
        for code in [Code::NotReady, Code::UpstreamTimeout, Code::UpstreamUnreachable] {
            assert_eq!(Dialect::status(&code), code.status(), "{code}");
        }
    }
}
