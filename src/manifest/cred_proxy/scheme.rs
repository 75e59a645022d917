//! How a route writes its token.

use crate::manifest::field::{Field, Section};
use crate::manifest::source::Findings;
use crate::model::policy::{ANTHROPIC, AuthScheme, RouteRole, auth};

/// The header in which Google wants an API key.
const GOOGLE: &str = "x-goog-api-key";

/// The scheme with what goes with it: a user only with `basic`, a header only with `header`. Without one it
/// is the scheme that the route's roles are known to want.
pub(super) fn read(
    route: &Field<'_>,
    section: &Section<'_>,
    host: Option<&str>,
    roles: &[RouteRole],
    findings: &mut Findings<'_>,
) -> Option<AuthScheme> {
    let words = ["Bearer", "token", "basic", "x-api-key", "header"];
    let field = section.get("auth_scheme");
    let (user, header) = (section.get("auth_user"), section.get("auth_header"));
    let Some(field) = field else {
        for (other, key, of) in [(&user, "auth_user", "basic"), (&header, "auth_header", "header")]
        {
            if let Some(other) = other {
                let message = format!("`{key}` goes with `auth_scheme: {of}`, which is not there");
                findings.add(other.error(message).hint(format!("write `auth_scheme: {of}`")));
                return None;
            }
        }
        let host = host?;
        let wanted = wanted(host, roles);
        if wanted.is_none() {
            let message = "a route needs the key `auth_scheme`";
            let hint = "how the upstream wants the token: `Bearer`, `token`, `basic` with \
                        `auth_user`, `x-api-key`, or `header` with `auth_header`";
            findings.add(route.error(message).hint(hint));
        }
        return wanted;
    };
    let word = field.choice(&words.map(|word| (word, word)), findings)?;
    for (other, key, of) in [(&user, "auth_user", "basic"), (&header, "auth_header", "header")] {
        if let Some(other) = other
            && word != of
        {
            let message = format!("`{key}` goes with `auth_scheme: {of}`, and this is `{word}`");
            findings.add(other.error(message).hint(format!("remove it, or write `{of}`")));
            return None;
        }
    }
    let missing = |key: &str, example: &str| {
        field.error(format!("`auth_scheme: {word}` needs `{key}`")).hint(example.to_owned())
    };
    match word {
        "Bearer" => Some(AuthScheme::Bearer),
        "token" => Some(AuthScheme::Token),
        "x-api-key" => Some(AuthScheme::ApiKey),
        "basic" => {
            let Some(user) = user else {
                let example = "`auth_user: x-access-token` at GitHub, `oauth2` at GitLab";
                findings.add(missing("auth_user", example));
                return None;
            };
            let text = user.word(findings)?;
            if !auth::is_user(text) {
                let problem = user.refused(text, "cannot be the user of a Basic credential");
                findings.add(problem.hint("expected printable ASCII without spaces and colons"));
                return None;
            }
            Some(AuthScheme::Basic { user: text.to_owned() })
        }
        _ => {
            let Some(header) = header else {
                let example = "`auth_header: x-goog-api-key`, `api-key`, `PRIVATE-TOKEN`";
                findings.add(missing("auth_header", example));
                return None;
            };
            let text = header.word(findings)?;
            let name = text.to_ascii_lowercase();
            if !auth::is_header(&name) {
                let problem = header.refused(text, "cannot be a header for a credential");
                findings.add(problem.hint(
                    "expected letters, digits and `-`, and none that frames or routes a request",
                ));
                return None;
            }
            // One thing has one name, whichever way it is written.
            Some(if name == "x-api-key" { AuthScheme::ApiKey } else { AuthScheme::Header { name } })
        }
    }
}

/// Says where a role and a scheme cannot work together, before anything is made.
pub(super) fn check_roles(
    section: &Section<'_>,
    scheme: &AuthScheme,
    host: &str,
    roles: &[RouteRole],
    findings: &mut Findings<'_>,
) {
    let Some(field) = section.get("auth_scheme") else { return };
    let word = scheme.as_str();
    if roles.contains(&RouteRole::GitInsteadof) {
        // Of a server of one's own nobody knows what stands before it.
        let user = git_user(host).filter(|_| matches!(host, "github.com" | "gitlab.com"));
        if let Some(user) = user
            && !matches!(scheme, AuthScheme::Basic { .. })
        {
            let message = format!("git at {host} takes no `{word}`: it wants Basic");
            let hint = format!(
                "write `auth_scheme: basic` and `auth_user: {user}`, or leave `auth_scheme` out"
            );
            findings.add(field.error(message).hint(hint));
        }
    }
    if roles.contains(&RouteRole::AnthropicBaseUrl)
        && host == ANTHROPIC
        && !matches!(scheme, AuthScheme::ApiKey | AuthScheme::Bearer)
    {
        let message = format!("{ANTHROPIC} takes no `{word}`");
        let hint = "leave it out: it follows the token; or write `x-api-key` for an API key \
                    (sk-ant-api…), `Bearer` for a subscription's token (sk-ant-oat…)";
        findings.add(field.error(message).hint(hint));
    }
}

/// Whom a git server wants before the token, where it is known.
fn git_user(host: &str) -> Option<&'static str> {
    match host {
        "github.com" => Some("x-access-token"),
        // GitLab's is the same wherever it runs, and it mostly runs under its name.
        _ if host.split('.').any(|label| label == "gitlab") => Some("oauth2"),
        _ => None,
    }
}

/// The scheme that all of a route's roles want. `None`: one of them wants what only the operator knows, or two
/// want different ones.
fn wanted(host: &str, roles: &[RouteRole]) -> Option<AuthScheme> {
    let google = || AuthScheme::Header { name: GOOGLE.to_owned() };
    let of_host = || match host {
        ANTHROPIC => Some(AuthScheme::OfToken),
        "api.openai.com" => Some(AuthScheme::Bearer),
        "generativelanguage.googleapis.com" => Some(google()),
        _ => None,
    };
    let of_role = |role: &RouteRole| match role {
        RouteRole::AnthropicBaseUrl => (host == ANTHROPIC).then_some(AuthScheme::OfToken),
        RouteRole::GitInsteadof => {
            git_user(host).map(|user| AuthScheme::Basic { user: user.to_owned() })
        }
        RouteRole::NpmRegistry | RouteRole::OpenaiBaseUrl => Some(AuthScheme::Bearer),
        RouteRole::TeaLogin => Some(AuthScheme::Token),
        RouteRole::GeminiBaseUrl => Some(google()),
        // It speaks what another role of the route, or the host, says.
        RouteRole::Opencode => of_host(),
    };
    let mut roles = roles.iter().filter(|role| {
        // An API that another role names has the scheme of that one.
        let api = |other: &RouteRole| {
            matches!(
                other,
                RouteRole::AnthropicBaseUrl | RouteRole::OpenaiBaseUrl | RouteRole::GeminiBaseUrl
            )
        };
        **role != RouteRole::Opencode || !roles.iter().any(api)
    });
    let first = of_role(roles.next()?)?;
    roles.all(|role| of_role(role).as_ref() == Some(&first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use RouteRole::{
        AnthropicBaseUrl, GeminiBaseUrl, GitInsteadof, NpmRegistry, OpenaiBaseUrl, Opencode,
        TeaLogin,
    };

    #[test]
    fn a_role_knows_what_its_upstream_wants() {
        let basic = |user: &str| Some(AuthScheme::Basic { user: user.to_owned() });
        let google = || Some(AuthScheme::Header { name: GOOGLE.to_owned() });
        for (host, roles, expected) in [
            (ANTHROPIC, &[AnthropicBaseUrl][..], Some(AuthScheme::OfToken)),
            ("gateway.example", &[AnthropicBaseUrl], None),
            ("github.com", &[GitInsteadof], basic("x-access-token")),
            ("gitlab.com", &[GitInsteadof], basic("oauth2")),
            ("gitlab.example.org", &[GitInsteadof], basic("oauth2")),
            ("notgitlab.example.org", &[GitInsteadof], None),
            ("git.example.org", &[GitInsteadof], None),
            ("git.example.org", &[TeaLogin], Some(AuthScheme::Token)),
            ("git.example.org", &[GitInsteadof, TeaLogin], None),
            ("npm.example.org", &[NpmRegistry], Some(AuthScheme::Bearer)),
            ("npm.example.org", &[NpmRegistry, TeaLogin], None),
            ("api.openai.com", &[OpenaiBaseUrl, Opencode], Some(AuthScheme::Bearer)),
            ("gateway.example", &[OpenaiBaseUrl, Opencode], Some(AuthScheme::Bearer)),
            ("generativelanguage.googleapis.com", &[GeminiBaseUrl], google()),
            ("generativelanguage.googleapis.com", &[Opencode], google()),
            (ANTHROPIC, &[Opencode], Some(AuthScheme::OfToken)),
            ("gateway.example", &[Opencode], None),
            ("github.com", &[], None),
        ] {
            assert_eq!(wanted(host, roles), expected, "{host} {roles:?}");
        }
    }
}
