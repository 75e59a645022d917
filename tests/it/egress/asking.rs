//! Agents that ask their operator: the real programs, with a vendor whose model calls the tool. Each finds the door by what
//! provisioning has put in, beside what is its user's own, and hears of the decision by the call that asked.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::agents::{places, route_to};
use super::at_work::{CLIS, Cli};
use super::place::Place;
use super::vendors::{ASKED, ASKS, DONE};

/// A bottle's sections: what its program needs, and what it may reach.
fn sections(cli: &Cli, has: &str, allowed: &str) -> String {
    format!(
        "{has}supervise: true\negress:\n  allowlist: [{allowed}]\n{}",
        route_to(cli.host, cli.role)
    )
}

/// What a user of each program has set up for himself: a server that answers nothing.
fn own_server(program: &str) -> &'static str {
    match program {
        "claude" => "claude mcp add -s user --transport http mine http://127.0.0.1:9/mcp",
        "codex" => {
            "mkdir -p ~/.codex && printf '%s\\n' '[mcp_servers.mine]' 'url = \"http://127.0.0.1:9/mcp\"' \
                    'startup_timeout_sec = 2' >> ~/.codex/config.toml"
        }
        "gemini" => {
            "mkdir -p ~/.gemini && echo '{\"mcpServers\":{\"mine\":{\"httpUrl\":\"http://127.0.0.1:9/mcp\"}}}' \
                     > ~/.gemini/settings.json"
        }
        _ => {
            "mkdir -p ~/.config/opencode && echo '{\"mcp\":{\"mine\":{\"type\":\"remote\",\"url\":\
              \"http://127.0.0.1:9/mcp\",\"oauth\":false}}}' > ~/.config/opencode/opencode.json"
        }
    }
}

/// How it lists its servers.
fn listing(program: &str) -> &'static str {
    match program {
        "claude" => "claude mcp list",
        "codex" => "codex mcp list",
        "gemini" => "gemini mcp list",
        _ => "opencode mcp list",
    }
}

/// The operator says yes to what he is shown.
fn approve(place: &Place, id: &str) {
    let listed = place.run(&["requests", "list"]).exits(0);
    assert!(listed.stdout.contains(id), "{listed:?}");
    let shown = place.run(&["-o", "json", "requests", "show", id]).exits(0).json();
    let review = shown["review"].as_str().unwrap_or_else(|| panic!("{shown:#}")).to_owned();
    place.run(&["requests", "approve", id, "--yes", "--review", &review]).exits(0);
}

/// Waits for a line of the sidecar's record that says what is asked for.
fn until_asked(place: &Place) -> String {
    let begun = Instant::now();
    loop {
        let lines = place.record("ada");
        if let Some(asked) = lines.iter().find(|line| line["event"] == "request") {
            return asked["request_id"].as_str().unwrap().to_owned();
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "nothing is asked: {lines:#?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Checks 4, 6 and 7; and 5, where the wait is shorter than what the operator takes.
fn asks(cli: &Cli, mut place: Place, has: &str, patience_ms: Option<u64>) {
    let program = cli.program;
    place.cli.env("AGENTS_TOKEN", cli.token);
    if let Some(ms) = patience_ms {
        place.waits(ms);
    }
    place.bottle("dev", &sections(cli, has, ""));
    place.tree.agent("ada", "dev", "", "You are Ada.");
    place.apply();
    let line = format!("cd && timeout 150 {} '{ASKS}' </dev/null 2>&1", cli.begins);
    let ended = std::thread::scope(|scope| {
        let runs = scope.spawn(|| place.sh("ada", &line));
        let id = until_asked(&place);
        if let Some(ms) = patience_ms {
            // Its call has ended by then, with an answer that is no denial.
            std::thread::sleep(Duration::from_millis(ms + 2000));
        }
        approve(&place, &id);
        runs.join().unwrap()
    });
    let said = place.internet.bodies();
    let holds = |what: &str| said.iter().any(|body| body.contains(what));
    assert_eq!(ended.code, Some(0), "{program} on {}: {ended:?}", place.backend);
    assert!(ended.stdout.contains(DONE), "{program} on {}: {ended:?}", place.backend);
    assert!(holds(&format!("applied: {ASKED}")), "{program} on {} heard of it", place.backend);
    assert_eq!(patience_ms.is_some(), holds("It is not denied."), "{program}");
    // One request, whatever the agent did.
    let lines = place.record("ada");
    assert_eq!(lines.iter().filter(|line| line["event"] == "request").count(), 1, "{lines:#?}");
    place.say("ada", own_server(program));
    let listed = place.sh("ada", &format!("cd && timeout 60 {} 2>&1 </dev/null", listing(program)));
    assert!(
        listed.stdout.contains("bottle") && listed.stdout.contains("mine"),
        "{program}: {listed:?}"
    );
}

/// Natively, and in an image on Docker; each of the four programs.
#[test]
fn each_agent_asks_and_is_answered() {
    for cli in CLIS.iter().filter(|cli| cli.token != super::agents::SUBSCRIPTION) {
        for (place, has) in places(&format!("asks-{}", cli.program), cli.program) {
            asks(cli, place, &has, None);
        }
    }
}

/// The operator takes longer than a call waits: it ends as pending, and the next one waits again.
#[test]
fn each_agent_waits_again() {
    for cli in CLIS.iter().filter(|cli| cli.token != super::agents::SUBSCRIPTION) {
        for (place, has) in
            places(&format!("again-{}", cli.program), cli.program).into_iter().take(1)
        {
            asks(cli, place, &has, Some(1500));
        }
    }
}

/// Check 35: what a machine is told is true after every load, and is nobody's to change; it goes with the key.
#[test]
fn what_may_be_done_is_written_inside() {
    for place in Place::each("told") {
        let read = |name: &str| -> Value {
            let text = place.say("ada", &format!("cat /etc/bottle/current-config/{name}"));
            serde_json::from_str(&text).unwrap()
        };
        place.one(&["a.example.com"], "supervise: true\n");
        assert_eq!(read("policy.json")["allow"][0]["host"], "a.example.com");
        assert_eq!(read("machine.json")["backend"], place.backend);
        let modes = place
            .say("ada", "stat -c '%a %u' /etc/bottle/current-config /etc/bottle/current-config/*");
        assert_eq!(modes.lines().collect::<Vec<_>>(), ["555 0", "444 0", "444 0", "444 0"]);
        place.one(&["a.example.com", "b.example.com"], "supervise: true\n");
        assert_eq!(read("policy.json")["allow"][1]["host"], "b.example.com");
        let all = "cat /etc/bottle/current-config/* /etc/bottle/mcp.json /etc/codex/config.toml";
        let told = place.say("ada", all);
        assert!(told.contains("/.bottle/mcp"), "{told}");
        let host = place.tree.path().to_str().unwrap();
        assert!(!told.contains(host) && !told.contains("AGENTS_TOKEN"), "{told}");
        assert!(place.apply().stdout.contains("no changes"));
        place.one(&["a.example.com"], "");
        let left = "ls -d /etc/bottle/current-config /etc/bottle/mcp.json /etc/codex/config.toml \
                    /etc/opencode/opencode.json /etc/claude-code/managed-settings.d/50-bottle.json 2>/dev/null | wc -l";
        assert_eq!(place.say("ada", left), "0");
        assert!(place.apply().stdout.contains("no changes"));
    }
}

/// What stands there already is not bottle's: it stays, the plan says so, and the other programs are told.
#[test]
fn what_an_image_brings_stays() {
    for place in Place::each("brought") {
        place.one(&["a.example.com"], "user: root\n");
        let own = "model = \"mine\"";
        place.say("ada", &format!("mkdir -p /etc/codex && echo '{own}' > /etc/codex/config.toml"));
        for _ in 0..2 {
            place.one(&["a.example.com"], "user: root\nsupervise: true\n");
            assert_eq!(place.say("ada", "cat /etc/codex/config.toml"), own);
            assert!(place.say("ada", "cat /etc/opencode/opencode.json").contains("/.bottle/mcp"));
            let plan = place.run(&["plan"]).stdout;
            let plan = plan.split_whitespace().collect::<Vec<_>>().join(" ");
            let said = "supervise: /etc/codex/config.toml is the image's own: add the server there";
            assert!(plan.contains(said), "{plan}");
        }
        place.one(&["a.example.com"], "user: root\n");
        assert_eq!(place.say("ada", "cat /etc/codex/config.toml"), own);
        assert_eq!(place.say("ada", "ls /etc/opencode/opencode.json 2>/dev/null | wc -l"), "0");
    }
}
