//! X14: what stands in the environment of whoever runs `bottle` stays there.

use super::place::Place;
use crate::support;

/// Names that change what programs load, whom they talk to, or who they say they are.
const NAMES: &[&str] = &[
    "LD_LIBRARY_PATH",
    "LD_AUDIT_X",
    "BASH_ENV",
    "ENV",
    "PROMPT_COMMAND",
    "IFS_X",
    "GIT_SSH_COMMAND",
    "GIT_ASKPASS",
    "GIT_CONFIG_GLOBAL",
    "GIT_DIR",
    "SSH_AUTH_SOCK",
    "SSH_ASKPASS",
    "GPG_AGENT_INFO",
    "DOCKER_CONFIG",
    "DOCKER_CERT_PATH",
    "KUBECONFIG",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "FTP_PROXY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GH_TOKEN",
    "GITHUB_TOKEN",
    "ANTHROPIC_API_KEY",
    "NPM_TOKEN",
    "NODE_OPTIONS",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PERL5LIB",
    "PERL5OPT",
    "RUBYOPT",
    "JAVA_TOOL_OPTIONS",
    "SSL_CERT_FILE_X",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "TMUX",
    "SUDO_USER",
    "NOTIFY_SOCKET",
    "ROUTE_TOKEN",
];

#[test]
fn nothing_of_it_gets_inside() {
    for mut place in Place::each("environment") {
        let marker = format!("mark{}", support::unique("x").replace('-', ""));
        for name in NAMES {
            place.cli.env(name, format!("/nowhere/{marker}"));
        }
        // Loaded into every process that is started from here, if anybody passes it on.
        place.cli.env("LD_PRELOAD", format!("/nowhere/{marker}.so"));
        place.tree.agent("ada", "dev", "command: [sh, -c, \"while :; do sleep 1; done\"]\n", "");
        place.bottle(
            "dev",
            "env: {PLAIN: as-it-is}\negress:\n  allowlist: [api.example.com]\ncred_proxy:\n  routes:\n    \
             - {path: /m/, upstream: 'https://mirror.example.com', auth_scheme: Bearer, token_ref: ROUTE_TOKEN}\n",
        );
        place.apply();
        let seen = place.say(
            "ada",
            "env; for pid in /proc/[0-9]*; do tr '\\0' '\\n' <$pid/environ; \
             tr '\\0' '\\n' <$pid/cmdline; done 2>/dev/null; cat /run/bottle/env 2>/dev/null; true",
        );
        assert!(seen.contains("PLAIN=as-it-is"), "a control: {seen}");
        assert!(!seen.contains(&marker), "{}: {seen}", place.backend);
        for name in ["SSH_AUTH_SOCK", "GH_TOKEN", "ROUTE_TOKEN", "LD_PRELOAD", "AWS_ACCESS_KEY_ID"]
        {
            assert!(!seen.contains(&format!("{name}=")), "{}: {name}: {seen}", place.backend);
        }
    }
}
