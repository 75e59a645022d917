//! `cred_proxy`: credentials that the agent can use but never sees.

use std::collections::{BTreeMap, BTreeSet};

use super::egress;
use super::field::{Field, Section, shorten};
use super::guard::Guard;
use super::host;
use super::keys::{Key, Shape, Table};
use super::services;
use super::source::Findings;
use super::yaml::Value;
use crate::model::policy::{CredentialRoute, RouteRole};

mod scheme;
pub(super) mod token;

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
        Key::new(
            "auth_scheme",
            Shape::Word(&["Bearer", "token", "basic", "x-api-key", "header"]),
            "how the upstream wants the token: `Authorization: Bearer …`, `token …`, `Basic …`, or a header of its own; a role may know it",
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
        Key::new(
            "token_ref",
            Shape::Text(Some(host::ENV_NAME)),
            "the name of the token: in the `--env-file`, else of the host's environment variable that holds it",
        ),
        Key::new(
            "token_from",
            Shape::Section(&token::TABLE),
            "instead of `token_ref`: a command that writes the token, or a file that holds it",
        ),
        Key::new(
            "role",
            Shape::Either(&[ROLE, Shape::List(&ROLE)]),
            "what else the route sets up in the guest",
        ),
        Key::new("expires", Shape::Text(Some(egress::END)), egress::ENDS),
    ],
    removed: &[(
        "token",
        "use `token_ref`: the name of the environment variable that holds the token",
    )],
    instead: &[],
};

const ROLE: Shape = Shape::Word(&[
    "anthropic-base-url",
    "npm-registry",
    "git-insteadof",
    "tea-login",
    "openai-base-url",
    "gemini-base-url",
    "opencode",
]);

const ROLES: [(&str, RouteRole); 7] = [
    ("anthropic-base-url", RouteRole::AnthropicBaseUrl),
    ("npm-registry", RouteRole::NpmRegistry),
    ("git-insteadof", RouteRole::GitInsteadof),
    ("tea-login", RouteRole::TeaLogin),
    ("openai-base-url", RouteRole::OpenaiBaseUrl),
    ("gemini-base-url", RouteRole::GeminiBaseUrl),
    ("opencode", RouteRole::Opencode),
];

/// Paths of the sidecar itself, where an agent asks its operator.
const OWN: &str = "/.bottle/";

/// What was seen in the routes before this one.
#[derive(Default)]
struct Seen {
    paths: BTreeSet<String>,
    /// Roles that one route may have, by the path that has them.
    roles: BTreeMap<RouteRole, String>,
    /// The same for what OpenCode calls a provider.
    providers: BTreeMap<&'static str, String>,
}

/// Reads the routes.
pub(super) fn read(
    field: &Field<'_>,
    guard: &Guard<'_>,
    findings: &mut Findings<'_>,
) -> Vec<CredentialRoute> {
    let Some(section) = field.section(&TABLE, findings) else { return Vec::new() };
    let Some(list) = section.get("routes") else { return Vec::new() };
    let mut seen = Seen::default();
    let mut routes = Vec::new();
    for (index, node) in list.list(findings).unwrap_or_default().iter().enumerate() {
        routes.extend(route(&list.item(index, node), &mut seen, guard, findings));
    }
    routes
}

fn route(
    field: &Field<'_>,
    seen: &mut Seen,
    guard: &Guard<'_>,
    findings: &mut Findings<'_>,
) -> Option<CredentialRoute> {
    let section = field.section(&ROUTE, findings)?;
    let path = section.get("path").and_then(|field| path(&field, seen, findings));
    let upstream = section.get("upstream").and_then(|field| upstream(&field, findings));
    let token = token::read(field, &section, path.as_deref(), guard, findings);
    let shown = path.as_deref().unwrap_or_default();
    let roles =
        section.get("role").map(|field| roles(&field, shown, seen, findings)).unwrap_or_default();
    // Which scheme an upstream takes depends on who it is.
    let host = upstream.as_ref().map(|(host, _, _)| host.as_str());
    let auth_scheme = scheme::read(field, &section, host, &roles, findings);
    let expires = section.get("expires").and_then(|field| egress::end(&field, findings));
    let (host, port, upstream_path) = upstream?;
    let ((token_ref, token_from), auth_scheme) = (token?, auth_scheme?);
    scheme::check_roles(&section, &auth_scheme, &host, &roles, findings);
    let route = CredentialRoute {
        path: path?,
        host,
        port,
        upstream_path,
        auth_scheme,
        token_ref,
        token_from,
        roles,
        expires,
    };
    check_opencode(&section, &route, seen, findings);
    Some(route)
}

/// OpenCode has to know which API an upstream speaks, and has one place for each.
fn check_opencode(
    section: &Section<'_>,
    route: &CredentialRoute,
    seen: &mut Seen,
    findings: &mut Findings<'_>,
) {
    let Some(field) = section.get("role") else { return };
    if !route.roles.contains(&RouteRole::Opencode) {
        return;
    }
    match route.opencode_provider() {
        None => {
            let message = format!("which API {} speaks is not known to OpenCode", route.host);
            let hint = "say it with a second role: `[opencode, anthropic-base-url]`, or \
                        `openai-base-url`, or `gemini-base-url`";
            findings.add(field.error(message).hint(hint));
        }
        Some(provider) => {
            if let Some(other) = seen.providers.insert(provider, route.path.clone()) {
                let message =
                    format!("OpenCode has one route for {provider}, and here is another one");
                let label = format!("`{}` has it already", shorten(&other));
                findings.add(field.error(message).label(label).hint("take the role from one"));
            }
        }
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
    if text.starts_with(OWN) {
        findings.add(field.error(format!("`{OWN}` is the sidecar's own: no route has it")));
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
    let name = host::dns_name(url.host)
        .and_then(|name| services::refuse_reserved(&name).map(|()| name))
        .map_err(|reason| format!("has a host that {reason}"))?;
    let port = match url.port {
        None => 443,
        Some(text) => host::port(text).ok_or("has a port that is not a number from 1 to 65535")?,
    };
    if !url.path.is_empty() && !host::is_canonical_path(url.path) {
        return Err("has a path that is not canonical: empty, `.`, `..` or encoded parts".into());
    }
    Ok((name, port, url.path.trim_end_matches('/').to_owned()))
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
        if role.is_alone()
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
