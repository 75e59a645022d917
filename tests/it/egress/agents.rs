//! Agents that log in: each finds its vendor by a role, in the way that this vendor documents, and the
//! upstream sees what it documents. With the real programs, where `BOTTLE_TEST_AGENTS` names a folder in which
//! `npm install --prefix` has put them.

use std::path::PathBuf;

use super::internet::Arrived;
use super::place::Place;
use super::vendors::{ANTHROPIC, OPENAI};
use super::world;
use crate::support;

pub(super) const KEY: &str = "sk-ant-api03-a1B2c3D4e5F6g7H8i9J0-kLmNoPqRsT";
pub(super) const SUBSCRIPTION: &str = "sk-ant-oat01-a1B2c3D4e5F6g7H8i9J0-kLmNoPqRsT";

const ROUTE: &str = "\
cred_proxy:
  routes:
    - path: /anthropic/
      upstream: https://api.anthropic.com
      token_ref: AGENTS_TOKEN
      role: anthropic-base-url
";

/// That route to another host, with another role.
pub(super) fn route_to(host: &str, role: &str) -> String {
    ROUTE.replace(ANTHROPIC, host).replace("anthropic-base-url", role)
}

/// What Claude Code, or a script in its place, asks its upstream: with the credential that the variables say.
const ASK: &str = "curl -sS -d '{}' \
    ${ANTHROPIC_API_KEY:+-H \"x-api-key: $ANTHROPIC_API_KEY\"} \
    ${CLAUDE_CODE_OAUTH_TOKEN:+-H \"authorization: Bearer $CLAUDE_CODE_OAUTH_TOKEN\"} \
    $ANTHROPIC_BASE_URL/v1/messages; env | grep -c -e ^ANTHROPIC_API_KEY= -e ^CLAUDE_CODE_OAUTH_TOKEN=";

/// The kind of a token says how it is sent and where the agent looks for it; another kind is a change in place.
#[test]
fn the_kind_of_a_token_is_followed() {
    for mut place in Place::each("kinds") {
        place.cli.env("AGENTS_TOKEN", KEY);
        place.one(&[], ROUTE);
        place.say("ada", "echo mine > /tmp/mine");
        place.internet.put(ANTHROPIC, "/v1/messages", "{}\n");
        let machine =
            |place: &Place| place.record("ada").iter().filter(|l| l["event"] == "start").count();
        let starts = machine(&place);
        for (token, header, value, variable) in [
            (KEY, "x-api-key", KEY.to_owned(), "ANTHROPIC_API_KEY"),
            (
                SUBSCRIPTION,
                "authorization",
                format!("Bearer {SUBSCRIPTION}"),
                "CLAUDE_CODE_OAUTH_TOKEN",
            ),
            (KEY, "x-api-key", KEY.to_owned(), "ANTHROPIC_API_KEY"),
        ] {
            place.cli.env("AGENTS_TOKEN", token);
            let plan = place.run(&["-o", "json", "plan"]).json();
            for change in plan["changes"].as_array().unwrap() {
                let verdict = change["verdict"].as_str().unwrap();
                assert!(["keep", "reprovision"].contains(&verdict), "{plan:#}");
            }
            assert!(!plan.to_string().contains(token), "{plan:#}");
            place.apply();
            assert_eq!(place.say("ada", ASK), "{}\n1");
            let arrived = place.internet.arrived();
            assert_eq!(arrived[0].header(header), [value], "{arrived:?}");
            let other = if header == "x-api-key" { "authorization" } else { "x-api-key" };
            assert!(arrived[0].header(other).is_empty(), "{arrived:?}");
            assert_eq!(place.say("ada", &format!("echo ${variable}")), "added-by-the-sidecar");
            assert_eq!(place.say("ada", "cat /tmp/mine"), "mine");
            assert!(place.apply().stdout.contains("no changes"));
            // That it is not at hand for once is waited for, and is no other kind.
            place.cli.env("AGENTS_TOKEN", "");
            let waits = place.run(&["-o", "json", "plan"]).json();
            let fields = |change: &serde_json::Value| change["fields"].as_array().unwrap().len();
            let changed: usize = waits["changes"].as_array().unwrap().iter().map(fields).sum();
            assert!(waits.to_string().contains("needs_input") && changed == 0, "{waits:#}");
        }
        assert_eq!(machine(&place), starts, "nothing was started anew");
        place.nothing_was_refused("ada");
    }
}

/// What cannot work is said before anything is made.
#[test]
fn a_scheme_that_the_token_cannot_have_holds_its_sandbox() {
    let mut place = Place::native("misfit");
    for (scheme, token, mend) in [
        ("Bearer", KEY, "auth_scheme: x-api-key"),
        ("x-api-key", SUBSCRIPTION, "auth_scheme: Bearer"),
    ] {
        place.cli.env("AGENTS_TOKEN", token);
        let route = ROUTE
            .replace("      token_ref", &format!("      auth_scheme: {scheme}\n      token_ref"));
        place.bottle("dev", &route);
        place.tree.agent("ada", "dev", "", "");
        let ended = place.run(&["apply", "--yes"]);
        let said = format!("{} {}", ended.stdout, ended.stderr);
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(ended.code, Some(3), "{said}");
        assert!(said.contains("AGENTS_TOKEN") && said.contains(mend), "{said}");
        assert!(!said.contains(token), "{said}");
        assert_ne!(place.sh("ada", "true").code, Some(0), "it was made");
    }
}

/// One token may have two uses: only where it does not fit is anything held. All that is wrong is said at once.
#[test]
fn what_is_wrong_holds_whom_it_concerns() {
    let mut place = Place::native("concerns");
    place.cli.env("AGENTS_TOKEN", KEY);
    place.bottle("good", ROUTE);
    let wrong = ROUTE.replace("      token_ref", "      auth_scheme: Bearer\n      token_ref");
    let more = "    - path: /more/\n      upstream: https://more.example.com\n      auth_scheme: Bearer\n      \
                token_from: {file: nowhere}\n";
    place.bottle("wrong", &format!("{wrong}{more}"));
    place.tree.agent("ada", "good", "", "").agent("bob", "wrong", "", "");
    let ended = place.run(&["apply", "--yes"]);
    let said = format!("{} {}", ended.stdout, ended.stderr);
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(place.say("ada", "echo $ANTHROPIC_API_KEY"), "added-by-the-sidecar", "{said}");
    assert_ne!(place.sh("bob", "true").code, Some(0), "it was made");
    assert!(said.contains("auth_scheme: x-api-key") && said.contains("nowhere"), "{said}");
    assert!(said.contains("bottles/wrong.md:"), "{said}");
}

/// What a role has put in goes with it, in place, and what the agent wrote into the same file stays.
#[test]
fn settings_of_agents_come_and_go() {
    for mut place in Place::each("settings") {
        place.cli.env("AGENTS_TOKEN", "of-a-gateway-0123456789-abcdefghijklm");
        let bottle = |roles: &str| {
            let route = format!(
                "egress:\n  allowlist: [other.example.com]\ncred_proxy:\n  routes:\n    - path: /ai/\n      \
                 upstream: https://ai.example.com\n      auth_scheme: Bearer\n      \
                 token_ref: AGENTS_TOKEN\n{roles}"
            );
            place.bottle("dev", &route);
            place.apply();
        };
        place.tree.agent("ada", "dev", "", "");
        bottle("");
        let mine = "model = \"mine\"\n\n[tui]\ntheme = \"dark\"";
        place.say(
            "ada",
            &format!("mkdir -p ~/.codex && printf '%s\\n' '{mine}' > ~/.codex/config.toml"),
        );
        bottle("      role: [openai-base-url, gemini-base-url, opencode]\n");
        let config = place.say("ada", "cat ~/.codex/config.toml");
        let table: toml::Table = config.parse().unwrap();
        assert_eq!(table["model_provider"].as_str(), Some("bottle"), "{config}");
        assert!(config.contains(mine), "{config}");
        // Nobody is there to be asked, and what was answered stays.
        let asked = place.say("ada", "cat ~/.claude.json 2>/dev/null || echo none");
        assert_eq!(asked, "none", "a role of Claude Code's is none of these");
        let provider = &table["model_providers"]["bottle"];
        assert!(provider["base_url"].as_str().unwrap().ends_with(":3128/ai/v1"), "{config}");
        assert_eq!(provider["env_key"].as_str(), Some("OPENAI_API_KEY"));
        let gemini = place.say("ada", "cat $GEMINI_CLI_SYSTEM_DEFAULTS_PATH");
        assert!(gemini.contains("gemini-api-key"), "{gemini}");
        let set = "env | grep -E '^(OPENAI|GEMINI|GOOGLE|OPENCODE)_' | wc -l";
        assert_eq!(place.say("ada", set), "6");
        assert!(place.apply().stdout.contains("no changes"));

        bottle("");
        assert_eq!(place.say("ada", "cat ~/.codex/config.toml"), mine);
        assert_eq!(place.say("ada", "ls /etc/bottle | grep -c gemini || true"), "0");
        assert_eq!(place.say("ada", set), "0");
        assert!(place.apply().stdout.contains("no changes"));
    }
}

/// The folder of `node_modules`, and where a sandbox finds this program.
pub(super) fn installed(what: &str, program: &str) -> Option<(PathBuf, String)> {
    let folder = std::env::var_os("BOTTLE_TEST_AGENTS").map(PathBuf::from);
    let folder = folder.map(|folder| folder.join("node_modules"));
    let found = folder.filter(|folder| folder.join(".bin").join(program).exists());
    let Some(folder) = found else {
        let why = format!("BOTTLE_TEST_AGENTS names no folder where npm has installed {program}");
        support::left_out(what, &why);
        return None;
    };
    let path = format!("{}/.bin:/usr/local/bin:/usr/bin:/bin", folder.display());
    Some((folder, path))
}

/// Where the program is: shown to a native sandbox, and in the image of a container.
pub(super) fn places(what: &str, program: &str) -> Vec<(Place, String)> {
    let Some((folder, path)) = installed(what, program) else { return Vec::new() };
    let shown = format!("host_paths: ['{}']\nenv: {{PATH: '{path}'}}\n", folder.display());
    let mut places = vec![(Place::native(what), shown)];
    if let Some((place, image)) = Place::docker(what).zip(world::image_with(what, &folder)) {
        places.push((place.of_image(image), format!("env: {{PATH: '{path}'}}\n")));
    }
    places
}

/// A sandbox that has the program, and a route; one a backend.
fn with(what: &str, program: &str, route: &str, token: &str) -> Vec<Place> {
    let made = places(what, program).into_iter().map(|(mut place, has)| {
        place.cli.env("AGENTS_TOKEN", token);
        place.one(&[], &format!("{has}{route}"));
        place
    });
    made.collect()
}

/// Neither its files nor what runs in it has the token.
fn has_nowhere(place: &Place, token: &str) {
    // Not as it is, so that the search does not find itself.
    let (first, rest) = token.split_at(1);
    let look = format!(
        "grep -rlE '[{first}]{rest}' ~ /etc /tmp /run /var/tmp 2>/dev/null; \
         cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -cE '[{first}]{rest}'"
    );
    assert_eq!(place.sh("ada", &look).stdout.trim(), "0", "{}", place.backend);
}

fn to<'a>(arrived: &'a [Arrived], host: &str, path: &str) -> Vec<&'a Arrived> {
    let there = |one: &&Arrived| one.host == host && one.target.starts_with(path);
    arrived.iter().filter(there).collect()
}

#[test]
fn claude_code_sends_what_anthropic_documents() {
    for (token, key) in [(KEY, true), (SUBSCRIPTION, false)] {
        for place in with("claude", "claude", ROUTE, token) {
            // What becomes of it is not the point: the answer is none of Anthropic's.
            place.sh("ada", "cd && timeout 60 claude -p hi </dev/null");
            let arrived = place.internet.arrived();
            let messages = to(&arrived, ANTHROPIC, "/v1/messages");
            assert!(!messages.is_empty(), "{}: {arrived:#?}", place.backend);
            for one in messages {
                let beta = one.header("anthropic-beta").join(",");
                if key {
                    assert_eq!(one.header("x-api-key"), [KEY]);
                    assert!(one.authorization().is_empty(), "{one:?}");
                    assert!(!beta.contains("oauth-"), "{beta}");
                } else {
                    assert_eq!(one.authorization(), [format!("Bearer {SUBSCRIPTION}")]);
                    assert!(one.header("x-api-key").is_empty(), "{one:?}");
                    assert!(beta.contains("oauth-"), "{beta}");
                }
            }
            has_nowhere(&place, token);
        }
    }
}

#[test]
fn codex_finds_its_provider() {
    let route = ROUTE
        .replace("/anthropic/", "/openai/")
        .replace(ANTHROPIC, OPENAI)
        .replace("anthropic-base-url", "openai-base-url");
    let token = "sk-proj-a1B2c3D4e5F6g7H8i9J0kLmNoPqRsTuV";
    for place in with("codex", "codex", &route, token) {
        let said =
            place.sh("ada", "cd && timeout 60 codex exec --skip-git-repo-check hi </dev/null 2>&1");
        let arrived = place.internet.arrived();
        let asked = to(&arrived, OPENAI, "/v1/responses");
        assert!(!asked.is_empty(), "{}: {arrived:#?} {said:?}", place.backend);
        for one in asked {
            assert_eq!(one.authorization(), [format!("Bearer {token}")]);
        }
        has_nowhere(&place, token);
    }
}

#[test]
fn gemini_cli_finds_its_vendor() {
    let google = "generativelanguage.googleapis.com";
    let route = ROUTE
        .replace("/anthropic/", "/gemini/")
        .replace(ANTHROPIC, google)
        .replace("anthropic-base-url", "gemini-base-url");
    let token = "AIzaSyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q";
    for place in with("gemini", "gemini", &route, token) {
        let said = place.sh(
            "ada",
            "mkdir -p ~/x && cd ~/x && timeout 60 gemini --skip-trust -p hi </dev/null 2>&1",
        );
        let arrived = place.internet.arrived();
        let asked = to(&arrived, google, "/v1beta/models/");
        assert!(!asked.is_empty(), "{}: {arrived:#?} {said:?}", place.backend);
        for one in asked {
            assert_eq!(one.header("x-goog-api-key"), [token]);
            assert!(one.authorization().is_empty() && !one.target.contains("key="), "{one:?}");
        }
        has_nowhere(&place, token);
    }
}

#[test]
fn opencode_finds_its_provider() {
    let route = ROUTE.replace("anthropic-base-url", "opencode");
    for place in with("opencode", "opencode", &route, KEY) {
        let ask = "mkdir -p ~/x && cd ~/x && timeout 90 opencode run -m anthropic/claude-sonnet-4-5 hi </dev/null 2>&1";
        let said = place.sh("ada", ask);
        let arrived = place.internet.arrived();
        let asked = to(&arrived, ANTHROPIC, "/v1/messages");
        assert!(!asked.is_empty(), "{}: {arrived:#?} {said:?}", place.backend);
        for one in asked {
            assert_eq!(one.header("x-api-key"), [KEY]);
        }
        has_nowhere(&place, KEY);
    }
}

/// Nobody is there to answer: each comes up with its prompt, whatever it asks a person at its first start.
#[test]
fn no_agent_asks_at_its_first_start() {
    let cases = [
        ("claude", "anthropic-base-url", ANTHROPIC, KEY),
        ("codex", "openai-base-url", OPENAI, "sk-proj-a1B2c3D4e5F6g7H8i9J0kLmNoPqRsTuV"),
        (
            "gemini",
            "gemini-base-url",
            "generativelanguage.googleapis.com",
            "AIzaSyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q",
        ),
    ];
    for (program, role, host, token) in cases {
        let route = route_to(host, role);
        let what = format!("first-{program}");
        for (mut place, has) in places(&what, program).into_iter().take(1) {
            place.cli.env("AGENTS_TOKEN", token);
            let work = place.cli.home().join("work");
            std::fs::create_dir(&work).unwrap();
            let copy = format!("{has}workspace: {{path: '{}'}}\n{route}", work.display());
            place.one(&[], &copy);
            // All three have the word beneath their prompt.
            let start = format!(
                "cd /workspace && sleep 100 | script -qefc 'stty cols 110 rows 35; exec {program}' /tmp/screen >/dev/null & \
             for i in $(seq 120); do grep -q shortcuts /tmp/screen && break; sleep 0.5; done; \
             cat /tmp/screen; kill %1 2>/dev/null || pkill script; true"
            );
            let screen = place.sh("ada", &start).stdout;
            assert!(screen.contains("shortcuts"), "{program}: {screen:?}");
            let asked = screen.to_lowercase();
            assert!(
                !asked.contains("trust") || program == "gemini" && !asked.contains("do you trust"),
                "{screen:?}"
            );
        }
    }
}
