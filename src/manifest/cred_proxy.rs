//! `cred_proxy`: credentials that the agent can use but never sees.

use std::collections::{BTreeMap, BTreeSet};

use super::field::{Field, Section, shorten};
use super::host;
use super::keys::{Key, Shape, Table};
use super::source::Findings;
use super::yaml::Value;
use crate::model::policy::{ANTHROPIC, AuthScheme, CredentialRoute, RouteRole, auth};

/// The keys of `cred_proxy`.
pub(super) static TABLE: Table = Table {
    what: "`cred_proxy`",
    keys: &[Key::required(
        "routes",
        Shape::List(&Shape::Section(&ROUTE)),
        "a list of routes, each a path and where it leads",
    )],
    removed: &[("tokens", "use `routes`: the proxy adds the token, and the agent never sees it")],
    instead: &[],
};

/// The keys of one route.
static ROUTE: Table = Table {
    what: "a route",
    keys: &[
        Key::required(
            "path",
            Shape::Text(Some("^/(.*/)?$")),
            "starts and ends with `/`, once in the bottle",
        ),
        Key::required("upstream", Shape::Text(Some("^https://")), "`https://host[:port][/path]`"),
        Key::required(
            "auth_scheme",
            Shape::Word(&["Bearer", "token", "basic", "x-api-key", "header"]),
            "how the upstream wants the token: `Authorization: Bearer …`, `token …`, `Basic …`, or a header of its own",
        ),
        Key::new(
            "auth_user",
            Shape::Text(None),
            "with `basic`, the user: `x-access-token` at GitHub, `oauth2` at GitLab",
        ),
        Key::new(
            "auth_header",
            Shape::Text(Some("^[A-Za-z0-9._-]{1,64}$")),
            "with `header`, its name: `x-goog-api-key`, `api-key`, `PRIVATE-TOKEN`",
        ),
        Key::required(
            "token_ref",
            Shape::Text(Some(host::ENV_NAME)),
            "the name of the host's environment variable that holds the token",
        ),
        Key::new(
            "role",
            Shape::Either(&[ROLE, Shape::List(&ROLE)]),
            "what else the route sets up in the guest",
        ),
    ],
    removed: &[(
        "token",
        "use `token_ref`: the name of the environment variable that holds the token",
    )],
    instead: &[],
};

const ROLE: Shape =
    Shape::Word(&["anthropic-base-url", "npm-registry", "git-insteadof", "tea-login"]);

const ROLES: [(&str, RouteRole); 4] = [
    ("anthropic-base-url", RouteRole::AnthropicBaseUrl),
    ("npm-registry", RouteRole::NpmRegistry),
    ("git-insteadof", RouteRole::GitInsteadof),
    ("tea-login", RouteRole::TeaLogin),
];

/// How tokens begin: what begins so is no name of a variable.
const TOKEN_PREFIXES: [&str; 14] = [
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat",
    "npm_",
    "sk_",
    "xox",
    "hf_",
    "pypi",
    "AKIA",
    "eyJ",
];

/// What was seen in the routes before this one.
#[derive(Default)]
struct Seen {
    paths: BTreeSet<String>,
    /// Roles that one route may have, by the path that has them.
    roles: BTreeMap<RouteRole, String>,
}

/// Reads the routes.
pub(super) fn read(field: &Field<'_>, findings: &mut Findings<'_>) -> Vec<CredentialRoute> {
    let Some(section) = field.section(&TABLE, findings) else { return Vec::new() };
    let Some(list) = section.get("routes") else { return Vec::new() };
    let mut seen = Seen::default();
    let mut routes = Vec::new();
    for (index, node) in list.list(findings).unwrap_or_default().iter().enumerate() {
        routes.extend(route(&list.item(index, node), &mut seen, findings));
    }
    routes
}

fn route(
    field: &Field<'_>,
    seen: &mut Seen,
    findings: &mut Findings<'_>,
) -> Option<CredentialRoute> {
    let section = field.section(&ROUTE, findings)?;
    let path = section.get("path").and_then(|field| path(&field, seen, findings));
    let upstream = section.get("upstream").and_then(|field| upstream(&field, findings));
    let auth_scheme = auth_scheme(&section, findings);
    let token_ref = section.get("token_ref").and_then(|field| token_ref(&field, findings));
    let shown = path.as_deref().unwrap_or_default();
    let roles =
        section.get("role").map(|field| roles(&field, shown, seen, findings)).unwrap_or_default();
    let (host, port, upstream_path) = upstream?;
    let (auth_scheme, token_ref) = (auth_scheme?, token_ref?);
    check_roles(&section, &auth_scheme, &host, &roles, findings);
    Some(CredentialRoute { path: path?, host, port, upstream_path, auth_scheme, token_ref, roles })
}

/// The scheme with what goes with it: a user only with `basic`, a header only with `header`.
fn auth_scheme(section: &Section<'_>, findings: &mut Findings<'_>) -> Option<AuthScheme> {
    let words = ["Bearer", "token", "basic", "x-api-key", "header"];
    let field = section.get("auth_scheme");
    let (user, header) = (section.get("auth_user"), section.get("auth_header"));
    let field = field?;
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
fn check_roles(
    section: &Section<'_>,
    scheme: &AuthScheme,
    host: &str,
    roles: &[RouteRole],
    findings: &mut Findings<'_>,
) {
    let Some(field) = section.get("auth_scheme") else { return };
    let word = scheme.as_str();
    if roles.contains(&RouteRole::GitInsteadof) {
        let user = match host {
            "github.com" => Some("x-access-token"),
            "gitlab.com" => Some("oauth2"),
            _ => None,
        };
        if let Some(user) = user
            && !matches!(scheme, AuthScheme::Basic { .. })
        {
            let message = format!("git at {host} takes no `{word}`: it wants Basic");
            let hint = format!("write `auth_scheme: basic` and `auth_user: {user}`");
            findings.add(field.error(message).hint(hint));
        }
    }
    if roles.contains(&RouteRole::AnthropicBaseUrl)
        && host == ANTHROPIC
        && !matches!(scheme, AuthScheme::ApiKey | AuthScheme::Bearer)
    {
        let message = format!("{ANTHROPIC} takes no `{word}`");
        let hint = "write `x-api-key` for an API key (sk-ant-api…), `Bearer` for a subscription's \
                    token (sk-ant-oat…)";
        findings.add(field.error(message).hint(hint));
    }
}

fn path(field: &Field<'_>, seen: &mut Seen, findings: &mut Findings<'_>) -> Option<String> {
    let text = field.word(findings)?;
    if !text.starts_with('/') || !text.ends_with('/') {
        let problem = field.error(format!("`{}` does not start and end with `/`", shorten(text)));
        let meant = format!("/{}/", text.trim_matches('/'));
        findings.add(problem.label(format!("write `{}`", shorten(&meant))));
        return None;
    }
    if !host::is_canonical_path(text) || text.contains('%') {
        let problem = field.error(format!("`{}` is not a plain path", shorten(text)));
        findings.add(problem.hint("no empty, `.` or `..` parts, no query, nothing encoded"));
        return None;
    }
    if !seen.paths.insert(text.to_owned()) {
        findings.add(field.error(format!("another route of this bottle has the path `{text}`")));
        return None;
    }
    Some(text.to_owned())
}

fn upstream(field: &Field<'_>, findings: &mut Findings<'_>) -> Option<(String, u16, String)> {
    let text = field.word(findings)?;
    match parse_upstream(text) {
        Ok(upstream) => Some(upstream),
        Err(reason) => {
            let problem = field.refused(text, &reason);
            findings.add(problem.hint("expected `https://host[:port][/path]`"));
            None
        }
    }
}

fn parse_upstream(text: &str) -> Result<(String, u16, String), String> {
    let rest = text.strip_prefix("https://").ok_or("is not an `https://` URL")?;
    let url = host::split_url(rest);
    if url.user.is_some() || rest.contains('@') {
        return Err("holds user info: the token comes from `token_ref`".into());
    }
    if rest.contains(['?', '#']) {
        return Err("holds a query or a fragment".into());
    }
    let name = host::dns_name(url.host).map_err(|reason| format!("has a host that {reason}"))?;
    let port = match url.port {
        None => 443,
        Some(text) => host::port(text).ok_or("has a port that is not a number from 1 to 65535")?,
    };
    if !url.path.is_empty() && !host::is_canonical_path(url.path) {
        return Err("has a path that is not canonical: empty, `.`, `..` or encoded parts".into());
    }
    Ok((name, port, url.path.trim_end_matches('/').to_owned()))
}

fn token_ref(field: &Field<'_>, findings: &mut Findings<'_>) -> Option<String> {
    let text = match field.node.value {
        Value::Text(_) => field.word(findings)?,
        _ => {
            findings.add(field.mismatch("the name of an environment variable").secret());
            return None;
        }
    };
    let token = TOKEN_PREFIXES.iter().any(|prefix| text.starts_with(prefix));
    if token || !host::is_env_name(text) {
        // It may be the token itself: it must not end up in a log.
        let problem = field
            .error("this cannot name an environment variable")
            .hint("`token_ref` is the name of the host's variable, never the token itself")
            .secret();
        findings.add(problem);
        return None;
    }
    Some(text.to_owned())
}

fn roles(
    field: &Field<'_>,
    path: &str,
    seen: &mut Seen,
    findings: &mut Findings<'_>,
) -> Vec<RouteRole> {
    let mut roles = Vec::new();
    let mut add = |item: &Field<'_>, findings: &mut Findings<'_>| {
        let Some(role) = item.choice(&ROLES, findings) else { return };
        if roles.contains(&role) {
            findings.add(item.warning("this role stands here twice"));
            return;
        }
        if role == RouteRole::NpmRegistry && path.contains('=') {
            let message = "npm cannot use a route whose path holds `=`";
            let label = "npm reads such a path as the end of a key of its `.npmrc`";
            findings
                .add(item.error(message).label(label).hint("give the route a path without `=`"));
        }
        if matches!(role, RouteRole::AnthropicBaseUrl | RouteRole::NpmRegistry)
            && let Some(other) = seen.roles.insert(role, path.to_owned())
        {
            let message = "this role may stand on one route only";
            findings
                .add(item.error(message).label(format!("`{}` has it already", shorten(&other))));
        }
        roles.push(role);
    };
    if let Value::List(items) = &field.node.value {
        for (index, node) in items.iter().enumerate() {
            add(&field.item(index, node), findings);
        }
    } else {
        add(field, findings);
    }
    roles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams() {
        let url = |host: &str, port, path: &str| Ok((host.to_owned(), port, path.to_owned()));
        assert_eq!(parse_upstream("https://api.github.com"), url("api.github.com", 443, ""));
        assert_eq!(parse_upstream("https://API.x.com:8443/v1/"), url("api.x.com", 8443, "/v1"));
        for bad in [
            "http://x.com",
            "https://",
            "https:///a",
            "https://u@x.com",
            "https://u:p@x.com",
            "https://x.com?a",
            "https://x.com#a",
            "https://x.com/a/../b",
            "https://127.0.0.1",
            "https://[::1]/",
            "https://x.com:/",
            "https://x.com:0",
            "https://x.com//",
            "https://x.com/%2e%2e/",
            "HTTPS://x.com",
            "https://x.com\\@y.com",
            "https://x.com /",
        ] {
            assert!(parse_upstream(bad).is_err(), "{bad}");
        }
    }
}
