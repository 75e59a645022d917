//! A credential is nowhere but in the memory of the sidecar: one that is used in every way, also in
//! those that go wrong, is looked for in everything that anybody could read.

use super::internet::{CLOSED, MIRROR, PANIC, WRONG};
use super::place::Place;
use super::search::Search;
use crate::contract::docker::docker;

/// Who uses it: a user, and root. Of a microVM, which is slow where it is emulated, root alone, who
/// sees all of it.
fn agents(place: &Place) -> &'static [&'static str] {
    if place.backend == "smolmachines" { &["rosa"] } else { &["ada", "rosa"] }
}

/// Forty random characters.
fn random() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    const LETTERS: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789";
    let letter = |_| {
        let number = RandomState::new().hash_one(0) % LETTERS.len() as u64;
        char::from(LETTERS[usize::try_from(number).unwrap()])
    };
    (0..40).map(letter).collect()
}

const ROUTES: &str = "\
cred_proxy:
  routes:
    - {path: /m/, upstream: 'https://mirror.example.com', auth_scheme: Bearer, token_ref: CANARY}
    - {path: /closed/, upstream: 'https://closed.example.com', auth_scheme: token, token_ref: CANARY}
    - {path: /wrong/, upstream: 'https://wrong.example.com', auth_scheme: token, token_ref: CANARY}
";

/// What the sandbox has, with every answer kept in it: each path by both doors, as it comes and
/// unpacked, and what the upstream is never asked.
fn uses() -> String {
    let mut script = "cd; base=${http_proxy%/}; code() { printf '%s ' \"$1\"; shift; \
                      curl -sS -m 20 -i -w '\\n%{http_code}\\n' \"$@\" >>answers 2>&1; \
                      tail -n 1 answers; }\n"
        .to_owned();
    for door in [format!("https://{MIRROR}"), "$base/m".to_owned()] {
        for path in ["/echo", "/header", "/halves", "/base64", "/hex", "/gzip", "/fails", "/slow"] {
            script += &format!("code {path} {door}{path}\ncode {path} --compressed {door}{path}\n");
        }
        script += &format!("code {PANIC} {door}{PANIC}\n");
        script += &format!("code posted -d 'x=1' {door}/echo\n");
        script += &format!("code trace -v -H 'Authorization: Bearer mine' {door}/echo\n");
    }
    for door in [format!("https://{CLOSED}"), "$base/closed".to_owned()] {
        script += &format!("code unreachable {door}/x\n");
    }
    for door in [format!("https://{WRONG}"), "$base/wrong".to_owned()] {
        script += &format!("code untrusted {door}/x\n");
    }
    script
}

/// C17, X08: after every use of a credential, on every backend.
#[test]
fn it_is_nowhere() {
    for place in Place::each("canary") {
        nowhere(place);
    }
}

#[test]
fn it_is_nowhere_in_a_microvm() {
    if let Some(place) = Place::smolmachines("canary") {
        nowhere(place);
    }
}

fn nowhere(mut place: Place) {
    let canary = random();
    place.cli.env("CANARY", &canary);
    place.impatient();
    let policy = |more: &str| format!("egress:\n  allowlist: [{more}]\n{ROUTES}");
    let mut said = String::new();
    let mut keep = |place: &Place, args: &[&str]| {
        let ended = place.run(args);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        said += &ended.stdout;
        said += &ended.stderr;
    };
    let agents = agents(&place);
    for (name, user) in [("dev", ""), ("top", "user: root\n")] {
        place.bottle(name, &format!("{user}{}", policy("")));
    }
    for agent in agents {
        place.tree.agent(agent, if *agent == "rosa" { "top" } else { "dev" }, "", "");
    }
    keep(&place, &["-vvv", "apply", "--yes"]);
    for agent in agents {
        used(&place, agent, &canary);
    }
    // The policy is loaded anew, into the same processes.
    place.bottle("dev", &policy("more.example.com"));
    place.bottle("top", &format!("user: root\n{}", policy("more.example.com")));
    keep(&place, &["-vvv", "apply", "--yes"]);
    for agent in agents {
        used(&place, agent, &canary);
        keep(&place, &["-vvv", "logs", agent]);
        keep(&place, &["-vvv", "logs", agent, "--sidecar"]);
        keep(&place, &["-vvv", "policy", "show", agent]);
    }
    for format in ["text", "json"] {
        keep(&place, &["-vvv", "-o", format, "status"]);
        keep(&place, &["-vvv", "-o", format, "plan", "--deep"]);
    }

    let mut search = Search::of(&canary);
    search.bytes("what bottle says", said.as_bytes());
    everywhere(&place, &mut search);
    assert_eq!(search.found(), Vec::<String>::new());
    planted(&place);
}

/// Uses it, and looks at what came of that.
fn used(place: &Place, agent: &str, canary: &str) {
    place.internet.arrived();
    let told = place.say(agent, &uses());
    let answered = |what: &str| -> Vec<String> {
        let lines = told.lines().filter_map(|line| line.strip_prefix(what));
        lines.map(|code| code.trim().to_owned()).collect()
    };
    for path in ["/echo", "/header", "/halves", "/base64", "/hex"] {
        assert_eq!(answered(path), ["200"; 4], "{path}: {told}");
    }
    // It was asked for without, and what is packed cannot be redacted.
    assert_eq!(answered("/gzip"), ["502"; 4], "{told}");
    assert_eq!(answered("/fails"), ["500"; 4], "{told}");
    assert_eq!(answered("/slow"), ["504"; 4], "{told}");
    assert_eq!(answered(PANIC), ["500"; 2], "{told}");
    assert_eq!(answered("unreachable"), ["502"; 2], "{told}");
    assert_eq!(answered("untrusted"), ["502"; 2], "{told}");
    assert_eq!(answered("posted"), ["200"; 2], "{told}");
    // It was really there, each time, and alone.
    let arrived = place.internet.arrived();
    assert!(arrived.len() >= 32, "{}", arrived.len());
    for one in arrived {
        assert_eq!(one.authorization(), [format!("Bearer {canary}")]);
    }
    let answers = place.say(agent, "cat ~/answers");
    assert!(answers.contains("<redacted:CANARY>"), "{answers}");
}

/// All that somebody could read, but for the memory of a sidecar.
fn everywhere(place: &Place, search: &mut Search) {
    for agent in agents(place) {
        search.guest(place, agent);
    }
    search.folder(&place.cli.state());
    search.folder(place.cli.home());
    search.processes();
    if place.backend == "docker" {
        containers(place, search);
    }
    assert!(search.seen > 1 << 20, "{} bytes were looked at", search.seen);
}

/// What the engine tells and keeps of each container.
fn containers(place: &Place, search: &mut Search) {
    let owner = format!("label=io.bottle.owner={}", place.tree.owner);
    let ids = docker(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &owner]).unwrap();
    assert_eq!(ids.lines().count(), 4, "two machines and two sidecars: {ids}");
    let mut images = std::collections::BTreeSet::new();
    let mut run = |what: &str, args: &[&str]| {
        let mut command = std::process::Command::new("docker");
        search.command(&format!("docker {what}"), command.args(args));
    };
    for id in ids.lines() {
        run("inspect", &["inspect", id]);
        run("logs", &["logs", "--details", id]);
        run("export", &["export", id]);
        run("top", &["top", id, "-eo", "pid,args"]);
        images
            .insert(docker(&["inspect", "--format", "{{.Image}}", id]).unwrap().trim().to_owned());
    }
    for image in &images {
        run("image inspect", &["image", "inspect", image]);
        run("history", &["history", "--no-trunc", image]);
        run("save", &["save", image]);
    }
}

/// The search finds what is there: another value, planted wherever it looks.
fn planted(place: &Place) {
    let value = random();
    let mut search = Search::of(&value);
    let (first, second) = value.split_at(20);
    for agent in agents(place) {
        // In the arguments of a process too: another one's environment is not shown everywhere.
        place.say(agent, &format!("printf %s%s {first} {second} | base64 >~/planted"));
        let mut child = place
            .begin(agent, "export PLANTED=$(base64 -d ~/planted); sh -c 'sleep 60; :' $PLANTED & echo ready; wait");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
        search.guest(place, agent);
        let found = search.found().join("\n");
        assert!(found.contains(&format!("files in {agent}: in base64")), "{found}");
        assert!(found.contains(&format!("processes in {agent}: raw")), "{found}");
        if place.backend != "smolmachines" {
            search.processes();
            let found = search.found().join("\n");
            assert!(found.contains("environ of process"), "{found}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    if place.backend == "smolmachines" {
        // What runs in a microVM is no process here, but the microVM is one.
        let mut sleep = std::process::Command::new("sleep");
        let mut child = sleep.arg("60").env("PLANTED", &value).spawn().unwrap();
        search.processes();
        let found = search.found().join("\n");
        assert!(found.contains("environ of process"), "{found}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let file = place.cli.state().join("planted");
    let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(&file, hex).unwrap();
    search.folder(&place.cli.state());
    let found = search.found().join("\n");
    assert!(found.contains("planted: in hex"), "{found}");
    if place.backend == "docker" {
        containers(place, &mut search);
        let found = search.found().join("\n");
        assert!(found.contains("docker export: in base64"), "{found}");
    }
}
