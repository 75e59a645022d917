//! Files that a machine is set up with, so that its tools use a credential route without being
//! told. What is set by variables stands in [`super::access`].
//!
//! Every setting leads to the sidecar and holds no credential. Where a tool refuses to start
//! without one it gets [`PLACEHOLDER`], which the sidecar throws away.

use std::fmt::Write as _;

use super::access::{openai_url, route_url};
use super::gate::GUEST_FIELDS;
use super::id::BackendKind;
use super::policy::{CredentialRoute, RouteRole};

/// What stands where a tool wants a credential.
pub const PLACEHOLDER: &str = "added-by-the-sidecar";

/// Every path that [`files`] may give.
pub const PATHS: [&str; 4] = [".npmrc", GIT, ".config/tea/config.yml", ".codex/config.toml"];

/// The configuration of git.
pub const GIT: &str = ".config/git/config";

/// How the fields of a guest begin that say what a role sets up: its name and a dot. As a role's, what leads git to its
/// gate stands in a file of the agent's.
pub const NAMES: [&str; 8] = [
    "anthropic-base-url.",
    "npm-registry.",
    "git-insteadof.",
    "tea-login.",
    "openai-base-url.",
    "gemini-base-url.",
    "opencode.",
    GUEST_FIELDS,
];

/// A file below the home folder of the sandbox's user.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoleFile {
    /// Its path, from there.
    pub path: &'static str,
    /// All of it.
    pub content: String,
}

/// The files of all roles; one of a kind for all routes. `workdir`: where the sandbox's programs start.
#[must_use]
pub fn files(
    routes: &[CredentialRoute],
    backend: BackendKind,
    workdir: Option<&str>,
) -> Vec<RoleFile> {
    let base = |route: &CredentialRoute| route_url(backend, route);
    let of = |role: RouteRole| routes.iter().filter(move |route| route.roles.contains(&role));
    let npm: String = of(RouteRole::NpmRegistry).map(|route| npm(&base(route))).collect();
    let git: String = of(RouteRole::GitInsteadof).map(|route| git(&base(route), route)).collect();
    let mut tea = String::new();
    for (index, route) in of(RouteRole::TeaLogin).enumerate() {
        tea.push_str(if index == 0 { "logins:\n" } else { "" });
        tea.push_str(&login(&base(route), route, index == 0));
    }
    let codex: String =
        of(RouteRole::OpenaiBaseUrl).map(|route| codex(route, backend, workdir)).collect();
    let files = PATHS.into_iter().zip([npm, git, tea, codex]);
    let files = files.filter(|(_, content)| !content.is_empty());
    files.map(|(path, content)| RoleFile { path, content }).collect()
}

/// The upstream as an agent would write it.
pub(super) fn upstream(route: &CredentialRoute) -> String {
    let port = if route.port == 443 { String::new() } else { format!(":{}", route.port) };
    format!("https://{}{port}{}/", route.host, route.upstream_path)
}

/// By npm's own rules for such files.
fn npm(base: &str) -> String {
    // `;` would begin a comment; `=` cannot stand in a key at all, so a manifest with one is refused.
    let base = base.replace(';', "\\;");
    let place = base.trim_start_matches("http:");
    format!("registry={base}/\n{place}/:_authToken={PLACEHOLDER}\n")
}

/// In quotes, because `;` would begin a comment; nothing in a canonical path ends them.
fn git(base: &str, route: &CredentialRoute) -> String {
    format!("[url \"{base}/\"]\n\tinsteadOf = \"{}\"\n", upstream(route))
}

/// A provider of ours beside those that Codex has: what it has for OpenAI wants a login of its own, and reads
/// no variable with a key. It asks nobody whether it may trust the workspace: the sandbox is what holds it.
fn codex(route: &CredentialRoute, backend: BackendKind, workdir: Option<&str>) -> String {
    let base = openai_url(backend, route);
    // What is a string to Rust's Debug is one to TOML, for what a path may hold here.
    let trusted =
        workdir.map(|folder| format!("[projects.{folder:?}]\ntrust_level = \"trusted\"\n"));
    let provider = format!(
        "model_provider = \"bottle\"\n[model_providers.bottle]\nname = \"{}\"\n\
         base_url = \"{base}\"\nenv_key = \"OPENAI_API_KEY\"\nwire_api = \"responses\"\n",
        route.host
    );
    provider + &trusted.unwrap_or_default()
}

fn login(base: &str, route: &CredentialRoute, default: bool) -> String {
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
            token_from: None,
            roles: roles.to_vec(),
            expires: None,
        }
    }

    #[test]
    fn every_role() {
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
        let npm = "registry=http://sidecar:3128/npm/\n\
                   //sidecar:3128/npm/:_authToken=added-by-the-sidecar\n";
        let git = "[url \"http://sidecar:3128/g/t/\"]\n\tinsteadOf = \"https://git.example/\"\n\
                   [url \"http://sidecar:3128/far/\"]\n\
                   \tinsteadOf = \"https://far.example:8443/org/\"\n";
        let tea = r#"logins:
- name: "g-t"
  url: "http://sidecar:3128/g/t"
  token: "added-by-the-sidecar"
  ssh_host: "git.example"
  default: true
- name: "root.example"
  url: "http://sidecar:3128"
  token: "added-by-the-sidecar"
  ssh_host: "root.example"
  default: false
"#;
        let file = |path, content: &str| RoleFile { path, content: content.into() };
        let expected = [
            file(".npmrc", npm),
            file(".config/git/config", git),
            file(".config/tea/config.yml", tea),
        ];
        let files = files(&routes, BackendKind::Docker, None);
        assert_eq!(files, expected);
        assert!(!format!("{files:?}").contains("SECRET_NAME"));
    }

    #[test]
    fn no_role_is_no_file() {
        let plain = [route("/a/", "a.example", "", &[])];
        assert_eq!(files(&plain, BackendKind::Native, None), []);
        let git = [route("/a/", "a.example", "", &[RouteRole::GitInsteadof])];
        let files = files(&git, BackendKind::Native, None);
        assert!(files[0].content.contains("http://127.0.0.1:3128/a/"), "{files:?}");
    }
}
