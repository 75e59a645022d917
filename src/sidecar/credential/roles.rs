//! What a machine is set up with, so that its tools use a route without being told.
//!
//! Every setting leads to the path door and holds no credential. Where a tool refuses to start
//! without one it gets [`PLACEHOLDER`], which the sidecar throws away.

use std::fmt::Write as _;

use crate::model::policy::{CredentialRoute, RouteRole};
use crate::sidecar::Authority;

/// What stands where a tool wants a credential.
pub const PLACEHOLDER: &str = "added-by-the-sidecar";

/// One setting of the guest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    /// A variable of the environment.
    Env {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// A file below the home folder of the sandbox's user.
    File {
        /// Its path, from there.
        path: &'static str,
        /// All of it.
        content: String,
    },
}

/// The settings of all roles, in the order of the routes; of a file one for all routes.
#[must_use]
pub fn settings(routes: &[CredentialRoute], door: &Authority) -> Vec<Setting> {
    let base = |route: &CredentialRoute| format!("http://{door}{}", route.path);
    let of = |role: RouteRole| routes.iter().filter(move |route| route.roles.contains(&role));
    let mut settings = Vec::new();
    for route in of(RouteRole::AnthropicBaseUrl) {
        // The client puts `/v1/…` behind it.
        let value = base(route).trim_end_matches('/').to_owned();
        settings.push(Setting::Env { name: "ANTHROPIC_BASE_URL", value });
        let value = PLACEHOLDER.to_owned();
        settings.push(Setting::Env { name: "ANTHROPIC_AUTH_TOKEN", value });
    }
    let mut add = |path: &'static str, content: String| {
        if !content.is_empty() {
            settings.push(Setting::File { path, content });
        }
    };
    add(".npmrc", of(RouteRole::NpmRegistry).map(|route| npm(&base(route))).collect());
    add(
        ".config/git/config",
        of(RouteRole::GitInsteadof).map(|route| git(&base(route), &upstream(route))).collect(),
    );
    let mut logins = String::new();
    for (index, route) in of(RouteRole::TeaLogin).enumerate() {
        logins.push_str(if index == 0 { "logins:\n" } else { "" });
        logins.push_str(&tea(route, base(route).trim_end_matches('/'), index == 0));
    }
    add(".config/tea/config.yml", logins);
    settings
}

/// The upstream as an agent would write it.
fn upstream(route: &CredentialRoute) -> String {
    let port = if route.port == 443 { String::new() } else { format!(":{}", route.port) };
    format!("https://{}{port}{}/", route.host, route.upstream_path)
}

fn npm(base: &str) -> String {
    let place = base.trim_start_matches("http:");
    format!("registry={base}\n{place}:_authToken={PLACEHOLDER}\n")
}

/// In quotes, because `;` would begin a comment; nothing in a canonical path ends them.
fn git(base: &str, upstream: &str) -> String {
    format!("[url \"{base}\"]\n\tinsteadOf = \"{upstream}\"\n")
}

fn tea(route: &CredentialRoute, base: &str, default: bool) -> String {
    let mut text = String::new();
    let name = route.path.trim_matches('/').replace('/', "-");
    let name = if name.is_empty() { &route.host } else { &name };
    let lines = [
        ("- name", name.as_str()),
        ("  url", base),
        ("  token", PLACEHOLDER),
        // By this it knows which checkout is meant.
        ("  ssh_host", &route.host),
    ];
    for (key, value) in lines {
        // What is a string to Rust's Debug is one to YAML, for these characters.
        let _ = writeln!(text, "{key}: {value:?}");
    }
    let _ = writeln!(text, "  default: {default}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::policy::AuthScheme;

    fn route(path: &str, host: &str, upstream_path: &str, roles: &[RouteRole]) -> CredentialRoute {
        CredentialRoute {
            path: path.into(),
            host: host.into(),
            port: 443,
            upstream_path: upstream_path.into(),
            auth_scheme: AuthScheme::Bearer,
            token_ref: "SECRET_NAME".into(),
            roles: roles.to_vec(),
        }
    }

    #[test]
    fn every_role() {
        let door = Authority::parse(b"sidecar:8081", None).unwrap();
        let mut far = route("/far/", "far.example", "/org", &[RouteRole::GitInsteadof]);
        far.port = 8443;
        let routes = [
            route("/llm/", "llm.example", "", &[RouteRole::AnthropicBaseUrl]),
            route("/npm/", "npm.example", "", &[RouteRole::NpmRegistry]),
            route("/g/t/", "git.example", "", &[RouteRole::GitInsteadof, RouteRole::TeaLogin]),
            far,
            route("/", "root.example", "/sub", &[RouteRole::TeaLogin]),
            route("/plain/", "plain.example", "", &[]),
        ];
        let settings = settings(&routes, &door);
        let env = |name, value: &str| Setting::Env { name, value: value.into() };
        let file = |path, content: &str| Setting::File { path, content: content.into() };
        let expected = [
            env("ANTHROPIC_BASE_URL", "http://sidecar:8081/llm"),
            env("ANTHROPIC_AUTH_TOKEN", PLACEHOLDER),
            file(
                ".npmrc",
                "registry=http://sidecar:8081/npm/\n//sidecar:8081/npm/:_authToken=added-by-the-sidecar\n",
            ),
            file(
                ".config/git/config",
                "[url \"http://sidecar:8081/g/t/\"]\n\tinsteadOf = \"https://git.example/\"\n\
                 [url \"http://sidecar:8081/far/\"]\n\tinsteadOf = \"https://far.example:8443/org/\"\n",
            ),
            file(
                ".config/tea/config.yml",
                "logins:\n- name: \"g-t\"\n  url: \"http://sidecar:8081/g/t\"\n  \
                 token: \"added-by-the-sidecar\"\n  ssh_host: \"git.example\"\n  default: true\n\
                 - name: \"root.example\"\n  url: \"http://sidecar:8081\"\n  \
                 token: \"added-by-the-sidecar\"\n  ssh_host: \"root.example\"\n  default: false\n",
            ),
        ];
        assert_eq!(settings, expected);
        assert!(!format!("{settings:?}").contains("SECRET_NAME"));
    }

    #[test]
    fn no_role_is_no_setting() {
        let door = Authority::parse(b"10.0.0.2:8081", None).unwrap();
        assert_eq!(settings(&[route("/a/", "a.example", "", &[])], &door), []);
        let ip = settings(&[route("/a/", "a.example", "", &[RouteRole::GitInsteadof])], &door);
        assert!(format!("{ip:?}").contains("http://10.0.0.2:8081/a/"), "{ip:?}");
    }
}
