//! How a machine reaches its sidecar: the address, and the environment that leads programs there.

use std::collections::BTreeMap;

use super::id::{BackendKind, SandboxId};
use super::policy::{CredentialRoute, Policy, RouteRole};
use super::roles::PLACEHOLDER;

/// The port on which a sidecar listens, as its machine sees it.
pub const PROXY_PORT: u16 = 3128;

/// The sandbox's own CA, alone.
pub const CA_PATH: &str = "/etc/bottle/ca.pem";

/// The same as a JVM reads it.
pub const CA_STORE_PATH: &str = "/etc/bottle/java/ca.p12";

/// The folder of that: what a person shows with `cat /etc/bottle/*` is text.
pub const CA_STORE_FOLDER: &str = "/etc/bottle/java";

/// What leads a Node.js to the sidecar that is too old to be told of a proxy; see [`environment`].
pub const NODE_PROXY_PATH: &str = "/etc/bottle/node-proxy.cjs";

/// Its content.
pub const NODE_PROXY: &str = include_str!("node-proxy.cjs");

/// Settings that Gemini CLI reads before all others, where a role leads it to a route.
pub const GEMINI_PATH: &str = "/etc/bottle/gemini.json";

/// Their content: how to log in. Where the base URL is another, it would take a way that needs no key, and then
/// refuse that. And it asks nobody whether it may trust the folder: the sandbox is what holds it.
pub const GEMINI: &str = "{\"security\": {\"auth\": {\"selectedType\": \"gemini-api-key\"}, \
                          \"folderTrust\": {\"enabled\": false}}}\n";

/// By this a Node.js is told to heed the variables that name a proxy (22.21, 24.5 and later).
const NODE_USE_ENV_PROXY: &str = "NODE_USE_ENV_PROXY";

/// The name of the sidecar on a network of its own.
pub const SIDECAR_NAME: &str = "sidecar";

/// The gateway's address inside a microVM: the one address that its sidecar answers on.
pub const MICROVM_GATEWAY: &str = "100.96.0.1";

/// Variables that name the file of trusted certificates, of the programs that do not share one:
/// OpenSSL, Node.js, Python's requests, curl, git, pip, cargo, the AWS tools, Deno, Nix.
const CA_VARIABLES: &[&str] = &[
    "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "DENO_CERT",
    "NIX_SSL_CERT_FILE",
];

/// Where a machine of this backend finds its sidecar.
#[must_use]
pub fn sidecar_host(backend: BackendKind) -> &'static str {
    match backend {
        BackendKind::Native => "127.0.0.1",
        BackendKind::Smolmachines => MICROVM_GATEWAY,
        // On the sandbox's own network the engine resolves this name, and asks nobody else for it.
        _ => SIDECAR_NAME,
    }
}

/// The base URL of the sidecar, without a trailing `/`.
#[must_use]
pub fn sidecar_url(backend: BackendKind) -> String {
    format!("http://{}:{PROXY_PORT}", sidecar_host(backend))
}

/// The base URL of a credential route, as its machine uses it: without a trailing `/`.
#[must_use]
pub fn route_url(backend: BackendKind, route: &CredentialRoute) -> String {
    format!("{}{}", sidecar_url(backend), route.path.trim_end_matches('/'))
}

/// The base URL of a route for a client of OpenAI's API, whose paths begin behind the version: an upstream
/// without a path of its own has it at `/v1`.
#[must_use]
pub fn openai_url(backend: BackendKind, route: &CredentialRoute) -> String {
    let version = if route.upstream_path.is_empty() { "/v1" } else { "" };
    format!("{}{version}", route_url(backend, route))
}

/// OpenCode's configuration of the routes that it has: it wants each API's version in the base URL. Nothing in
/// a route needs an escape in JSON.
fn opencode(routes: &[CredentialRoute], backend: BackendKind) -> Option<String> {
    let mut providers = Vec::new();
    for route in routes.iter().filter(|route| route.roles.contains(&RouteRole::Opencode)) {
        let Some(name) = route.opencode_provider() else { continue };
        let with = |version: &str| {
            let version = if route.upstream_path.ends_with(version) { "" } else { version };
            format!("{}{version}", route_url(backend, route))
        };
        let url = match name {
            "openai" => openai_url(backend, route),
            "google" => with("/v1beta"),
            _ => with("/v1"),
        };
        let options = format!("{{\"baseURL\":\"{url}\",\"apiKey\":\"{PLACEHOLDER}\"}}");
        providers.push(format!("\"{name}\":{{\"options\":{options}}}"));
    }
    let all = providers.join(",");
    (!providers.is_empty()).then(|| format!("{{\"provider\":{{{all}}}}}"))
}

/// What leads a JVM to the sidecar, whose programs heed no variable of these, and makes it trust it: Gradle, Maven and
/// sbt are such programs. Maven's newer transports heed the settings only where they are told to.
fn java(backend: BackendKind, host_name: &SandboxId) -> String {
    let host = sidecar_host(backend);
    let direct = format!("localhost|127.*|[::1]|0.0.0.0|{host_name}|{host}");
    let settings = [
        ("http.proxyHost", host),
        ("http.proxyPort", &PROXY_PORT.to_string()),
        ("https.proxyHost", host),
        ("https.proxyPort", &PROXY_PORT.to_string()),
        ("http.nonProxyHosts", &direct),
        ("javax.net.ssl.trustStore", CA_STORE_PATH),
        ("javax.net.ssl.trustStoreType", "PKCS12"),
        ("aether.transport.http.useSystemProperties", "true"),
        ("aether.connector.http.useSystemProperties", "true"),
    ];
    settings.map(|(name, value)| format!("-D{name}={value}")).join(" ")
}

/// Whether a name that a policy grants is this one, or ends with it.
fn ends_a_grant(policy: &Policy, own: &str) -> bool {
    let ends = |host: &str| host == own || host.ends_with(&format!(".{own}"));
    let listed = policy.egress.allowlist.iter().map(|entry| entry.host.to_string());
    let routes = policy.routes.iter().map(|route| route.host.clone());
    listed.chain(routes).any(|host| ends(&host)) || (own == "host" && !policy.services.is_empty())
}

/// What leads a machine's programs to its sidecar and makes them trust it. Nothing here is secret.
#[must_use]
pub fn environment(
    policy: &Policy,
    backend: BackendKind,
    host_name: &SandboxId,
) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let mut set = |name: &str, value: &str| env.insert(name.to_owned(), value.to_owned());
    let proxy = sidecar_url(backend);
    // Programs differ in which spelling they read, and curl reads `http_proxy` in lower case only.
    for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"]
    {
        set(name, &proxy);
    }
    // What is served inside: by whichever address of the loopback, and by the machine's own name. Some programs
    // know networks, and others names and addresses alone.
    let mut direct = vec!["localhost", "127.0.0.1", "::1", "0.0.0.0", "127.0.0.0/8"];
    for own in [host_name.as_str(), sidecar_host(backend)] {
        // Many programs take a name for all that ends with it: one called `io` would cut off crates.io.
        if !direct.contains(&own) && !ends_a_grant(policy, own) {
            direct.push(own);
        }
    }
    let direct = direct.join(",");
    set("NO_PROXY", &direct);
    set("no_proxy", &direct);
    set(NODE_USE_ENV_PROXY, "1");
    // Distributions ship older ones, which know no proxy at all. Without this file Node.js would
    // not start; it lies beside the certificate, is put there by the same provisioning, which
    // `command` waits for, and belongs to root: who removes it could remove Node.js as well, and
    // the error names the file.
    set("NODE_OPTIONS", &format!("--require={NODE_PROXY_PATH}"));
    for name in CA_VARIABLES {
        set(name, CA_PATH);
    }
    set("JAVA_TOOL_OPTIONS", &java(backend, host_name));
    for route in &policy.routes {
        let has = |role| route.roles.contains(&role);
        // Programs want a credential to start; the sidecar throws it away.
        if has(RouteRole::AnthropicBaseUrl) {
            set("ANTHROPIC_BASE_URL", &route_url(backend, route));
            set(route.anthropic_variable(), PLACEHOLDER);
            // Claude Code works as root without questions only where it is told that it is in one.
            set("IS_SANDBOX", "1");
        }
        if has(RouteRole::OpenaiBaseUrl) {
            set("OPENAI_BASE_URL", &openai_url(backend, route));
            set("OPENAI_API_KEY", PLACEHOLDER);
        }
        if has(RouteRole::GeminiBaseUrl) {
            set("GOOGLE_GEMINI_BASE_URL", &route_url(backend, route));
            set("GEMINI_API_KEY", PLACEHOLDER);
            set("GEMINI_CLI_SYSTEM_DEFAULTS_PATH", GEMINI_PATH);
        }
    }
    if let Some(configuration) = opencode(&policy.routes, backend) {
        set("OPENCODE_CONFIG_CONTENT", &configuration);
    }
    env
}

/// Whether programs have this variable only because there is a sidecar: a constant of this program's,
/// which another version may set otherwise.
#[must_use]
pub fn is_constant(backend: BackendKind, host_name: &SandboxId, name: &str, value: &str) -> bool {
    environment(&Policy::default(), backend, host_name).get(name).is_some_and(|own| own == value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::policy::AuthScheme;

    fn ada() -> SandboxId {
        SandboxId::new("ada").unwrap()
    }

    #[test]
    fn who_is_asked_directly_stands_there_once() {
        for (backend, direct) in [
            (BackendKind::Native, ""),
            (BackendKind::Docker, ",sidecar"),
            (BackendKind::Smolmachines, ",100.96.0.1"),
        ] {
            let env = environment(&Policy::default(), backend, &ada());
            let direct = format!("localhost,127.0.0.1,::1,0.0.0.0,127.0.0.0/8,ada{direct}");
            let direct = direct.as_str();
            assert_eq!((env["NO_PROXY"].as_str(), env["no_proxy"].as_str()), (direct, direct));
        }
    }

    /// Claude Code sends a credential as the variable says in which it found it.
    #[test]
    fn the_agent_finds_its_credential_where_its_kind_belongs() {
        let name = |host: &str, auth_scheme: AuthScheme| {
            let route = CredentialRoute {
                path: "/anthropic/".into(),
                host: host.into(),
                port: 443,
                upstream_path: String::new(),
                auth_scheme,
                token_ref: "KEY".into(),
                token_from: None,
                roles: vec![RouteRole::AnthropicBaseUrl],
                expires: None,
            };
            let policy = Policy { routes: vec![route], ..Policy::default() };
            let env = environment(&policy, BackendKind::Native, &ada());
            assert_eq!(env["ANTHROPIC_BASE_URL"], "http://127.0.0.1:3128/anthropic");
            let set = env.into_iter().filter(|(_, value)| value == PLACEHOLDER);
            set.map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(name("api.anthropic.com", AuthScheme::ApiKey), ["ANTHROPIC_API_KEY"]);
        assert_eq!(name("api.anthropic.com", AuthScheme::Bearer), ["CLAUDE_CODE_OAUTH_TOKEN"]);
        assert_eq!(name("gateway.example.com", AuthScheme::Bearer), ["ANTHROPIC_AUTH_TOKEN"]);
        assert_eq!(name("gateway.example.com", AuthScheme::ApiKey), ["ANTHROPIC_API_KEY"]);
    }

    #[test]
    fn each_tool_finds_its_route_and_no_credential() {
        let route =
            |path: &str, host: &str, upstream_path: &str, roles: &[RouteRole]| CredentialRoute {
                path: path.into(),
                upstream_path: upstream_path.into(),
                roles: roles.to_vec(),
                ..CredentialRoute::to(host)
            };
        let env = |routes: &[CredentialRoute]| {
            let policy = Policy { routes: routes.to_vec(), ..Policy::default() };
            environment(&policy, BackendKind::Native, &ada())
        };
        let all = env(&[
            route("/o/", "api.openai.com", "", &[RouteRole::OpenaiBaseUrl, RouteRole::Opencode]),
            route("/a/", "api.anthropic.com", "", &[RouteRole::Opencode]),
            route(
                "/g/",
                "generativelanguage.googleapis.com",
                "",
                &[RouteRole::GeminiBaseUrl, RouteRole::Opencode],
            ),
        ]);
        let expected = [
            ("OPENAI_BASE_URL", "http://127.0.0.1:3128/o/v1"),
            ("OPENAI_API_KEY", PLACEHOLDER),
            ("GOOGLE_GEMINI_BASE_URL", "http://127.0.0.1:3128/g"),
            ("GEMINI_API_KEY", PLACEHOLDER),
            ("GEMINI_CLI_SYSTEM_DEFAULTS_PATH", "/etc/bottle/gemini.json"),
        ];
        for (name, value) in expected {
            assert_eq!(all[name], value, "{name}");
        }
        assert!(!all.contains_key("ANTHROPIC_BASE_URL"));
        let said: serde_json::Value =
            serde_json::from_str(&all["OPENCODE_CONFIG_CONTENT"]).unwrap();
        for (name, path) in [("openai", "o/v1"), ("anthropic", "a/v1"), ("google", "g/v1beta")] {
            let options = &said["provider"][name]["options"];
            assert_eq!(options["baseURL"], format!("http://127.0.0.1:3128/{path}"), "{name}");
            assert_eq!(options["apiKey"], PLACEHOLDER);
        }
        // Where a path is written, the version stands in it or there is none.
        let gateway = env(&[
            route("/o/", "gw.example", "/openai", &[RouteRole::OpenaiBaseUrl, RouteRole::Opencode]),
            route(
                "/a/",
                "gw.example",
                "/x/v1",
                &[RouteRole::AnthropicBaseUrl, RouteRole::Opencode],
            ),
        ]);
        assert_eq!(gateway["OPENAI_BASE_URL"], "http://127.0.0.1:3128/o");
        let said = &gateway["OPENCODE_CONFIG_CONTENT"];
        assert!(said.contains(":3128/o\"") && said.contains(":3128/a\""), "{said}");
        assert!(
            !env(&[route("/x/", "x.example", "", &[])]).contains_key("OPENCODE_CONFIG_CONTENT")
        );
    }

    #[test]
    fn what_old_versions_cannot_parse_is_not_in_the_preload() {
        // Each of these is younger than the oldest Node.js that loads it.
        for young in ["?.", "??", "catch {", "#private", "import "] {
            assert!(!NODE_PROXY.contains(young), "{young}");
        }
    }
}
