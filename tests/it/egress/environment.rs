//! X14: what stands in the environment of whoever runs `bottle` stays there.

use std::time::Duration;

use super::place::{Place, has};
use crate::support::{self, Screen};

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

/// What a person's terminal can show is said to a program on it, and to no other.
#[test]
fn a_program_on_a_terminal_knows_its_colours() {
    for mut place in Place::each("colours") {
        place.cli.env("COLORTERM", "truecolor");
        place.one(&["api.example.com"], "");
        let tree = place.tree.path().to_str().unwrap();
        let script = "echo got=$COLORTERM=$LANG=";
        let args = ["--tree", tree, "exec", "-it", "ada", "--", "sh", "-c", script];
        let screen = Screen::open(&place.cli.command(args), Duration::from_secs(60));
        screen.shows("got=truecolor=C.UTF-8=");
        assert_eq!(place.say("ada", script), "got==C.UTF-8=");
        // Nothing but a word goes on.
        place.cli.env("COLORTERM", "a b;c");
        let screen = Screen::open(&place.cli.command(args), Duration::from_secs(60));
        screen.shows("got==C.UTF-8=");
        // A bottle's own word counts.
        place.bottle("dev", "env: {LANG: de_DE.UTF-8}\negress:\n  allowlist: [api.example.com]\n");
        place.apply();
        assert_eq!(place.say("ada", script), "got==de_DE.UTF-8=");
    }
}

/// What listens inside is asked directly, by whichever name or address of the machine's own.
#[test]
fn a_machine_reaches_itself_without_its_sidecar() {
    if !has("a machine that asks itself", "python3") {
        return;
    }
    for place in Place::each("itself") {
        place.one(&["api.example.com"], "");
        let serve = "cd /tmp && echo mine >here && (python3 -m http.server 8123 >/dev/null 2>&1 </dev/null &)";
        place.say("ada", serve);
        for host in ["localhost", "127.0.0.1", "127.0.0.2", "0.0.0.0", "ada"] {
            let ask = format!(
                "curl -sS --retry 20 --retry-connrefused --retry-delay 1 http://{host}:8123/here"
            );
            assert_eq!(place.say("ada", &ask), "mine", "{}: {host}", place.backend);
        }
        let denied = place.record("ada");
        assert!(!denied.iter().any(|line| line["event"] == "deny"), "{denied:#?}");
    }
}
