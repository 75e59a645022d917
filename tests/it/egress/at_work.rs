//! Agents at work, unattended: the real programs with a vendor that answers as it documents. Each logs in by its role,
//! is shown its skill, runs a command by its own tool, reads an answer that streams, and goes on where it was.

use super::agents::{KEY, SUBSCRIPTION, installed, places, route_to};
use super::clock::{self, PRELOADED};
use super::place::Place;
use super::vendors::{ANTHROPIC, DONE, GOOGLE, OPENAI, TASK};

/// An agent's program, and how it is run without a person.
pub(super) struct Cli {
    pub(super) program: &'static str,
    pub(super) role: &'static str,
    pub(super) host: &'static str,
    pub(super) token: &'static str,
    /// The header that its vendor documents, and what stands there before the token.
    header: (&'static str, &'static str),
    /// How it begins, and how it goes on: what it is told comes last.
    pub(super) begins: &'static str,
    pub(super) goes_on: &'static str,
}

pub(super) const CLIS: [Cli; 5] = [
    Cli {
        program: "claude",
        role: "anthropic-base-url",
        host: ANTHROPIC,
        token: KEY,
        header: ("x-api-key", ""),
        begins: "claude --dangerously-skip-permissions -p",
        goes_on: "claude -c -p",
    },
    Cli {
        program: "claude",
        role: "anthropic-base-url",
        host: ANTHROPIC,
        token: SUBSCRIPTION,
        header: ("authorization", "Bearer "),
        begins: "claude --dangerously-skip-permissions -p",
        goes_on: "claude -c -p",
    },
    Cli {
        program: "codex",
        role: "openai-base-url",
        host: OPENAI,
        token: "sk-proj-a1B2c3D4e5F6g7H8i9J0kLmNoPqRsTuV",
        header: ("authorization", "Bearer "),
        begins: "codex exec --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox",
        goes_on: "codex exec resume --skip-git-repo-check --last",
    },
    Cli {
        program: "gemini",
        role: "gemini-base-url",
        host: GOOGLE,
        token: "AIzaSyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q",
        header: ("x-goog-api-key", ""),
        begins: "gemini --yolo -p",
        goes_on: "gemini -r latest -p",
    },
    Cli {
        program: "opencode",
        role: "opencode",
        host: ANTHROPIC,
        token: KEY,
        header: ("x-api-key", ""),
        begins: "opencode run -m anthropic/claude-sonnet-4-5",
        goes_on: "opencode run -c -m anthropic/claude-sonnet-4-5",
    },
];

/// Its program is in the sandbox by what its bottle `has`.
fn works(cli: &Cli, mut place: Place, has: &str) {
    let (kind, program) = (&cli.token[..cli.token.len().min(9)], cli.program);
    place.cli.env("AGENTS_TOKEN", cli.token);
    let work = place.cli.home().join("work");
    std::fs::create_dir(&work).unwrap();
    let skill = "---\nname: greet\ndescription: Greets in the manner of the house, canary-4711\n---\nSay hello.\n";
    place.tree.write("skills/greet/SKILL.md", skill);
    let bottle = |place: &Place, allowed: &str| {
        let (work, route) = (work.display(), route_to(cli.host, cli.role));
        let egress = format!("egress: {{allowlist: [{allowed}]}}\n");
        place.bottle("dev", &format!("{has}workspace: {{path: '{work}'}}\n{egress}{route}"));
    };
    bottle(&place, "");
    place.tree.agent("ada", "dev", "skills: [greet]", "You are Ada.");
    place.apply();

    let say = |place: &Place, line: String| {
        let ended =
            place.sh("ada", &format!("cd /workspace && timeout 100 {line} </dev/null 2>&1"));
        assert_eq!(ended.code, Some(0), "{program} {kind}: {ended:?}");
        assert!(ended.stdout.contains(DONE), "{program} {kind}: {ended:?}");
    };
    say(&place, format!("{} '{TASK}'", cli.begins));
    assert_eq!(place.say("ada", "cat /workspace/made"), "made", "{program}: its tool was run");
    let begun = place.internet.bodies();
    assert!(begun.iter().any(|body| body.contains(TASK)), "{program}");
    assert!(begun.iter().any(|body| body.contains("canary-4711")), "{program} knows its skill");
    say(&place, format!("{} 'and again'", cli.goes_on));
    let both = |body: &String| body.contains("and again") && body.contains(TASK);
    assert!(place.internet.bodies().iter().any(both), "{program} knows what was said before");
    // It is logged in an hour later, too, by every clock, and what was allowed has changed meanwhile.
    clock::put(&place, "ada");
    for minutes in [30, 60] {
        let internet = place.internet.overlay();
        clock::pass(&mut place, &internet, minutes * 60);
        bottle(&place, &format!("minute{minutes}.example.com"));
        place.apply();
        clock::pass_inside(&place, "ada", minutes * 60);
        say(&place, format!("env {PRELOADED} {} 'after {minutes} minutes'", cli.goes_on));
        let later = format!("after {minutes} minutes");
        let all = |body: &String| body.contains(&later) && body.contains(TASK);
        assert!(place.internet.bodies().iter().any(all), "{program} after {minutes} minutes");
    }

    let (name, before) = cli.header;
    let arrived = place.internet.arrived();
    let arrived: Vec<_> = arrived.iter().filter(|one| one.method == "POST").collect();
    assert!(!arrived.is_empty());
    for one in arrived {
        assert_eq!(one.header(name), [format!("{before}{}", cli.token)], "{program}: {one:?}");
    }
    // Not where it could be read inside: neither in a file that it has, nor in what it was started with.
    let found = "grep -rlF \"$1\" ~ /workspace /tmp /var/tmp /etc/bottle /run/bottle /proc/[0-9]*/environ 2>/dev/null; true";
    let looked =
        place.sh("ada", &format!("set -- '{}''{}'; {found}", &cli.token[..9], &cli.token[9..]));
    // The shell that looks has it among its arguments, and nobody else.
    assert_eq!(looked.stdout, "", "{program}: {looked:?}");
    assert!(!place.sh("ada", "env").stdout.contains(cli.token));
}

/// Natively, and in an image on Docker.
#[test]
fn each_agent_works() {
    for cli in &CLIS {
        for (place, has) in places(&format!("work-{}", cli.program), cli.program) {
            works(cli, place, &has);
        }
    }
}

/// What the documentation has for an agent that starts with its sandbox: its prompt is its task.
#[test]
fn an_agent_works_alone_until_it_is_done() {
    let Some((folder, path)) = installed("alone", "claude") else { return };
    let mut place = Place::native("alone");
    place.cli.env("AGENTS_TOKEN", KEY);
    let work = place.cli.home().join("work");
    std::fs::create_dir(&work).unwrap();
    place.bottle(
        "dev",
        &format!(
            "host_paths: ['{}']\nenv: {{PATH: '{path}'}}\nworkspace: {{path: '{}'}}\n{}",
            folder.display(),
            work.display(),
            route_to(ANTHROPIC, "anthropic-base-url")
        ),
    );
    let command = "command: [sh, -c, 'claude --dangerously-skip-permissions -p \"$(cat /etc/bottle/prompt.md)\"']";
    place.tree.agent("ada", "dev", command, TASK);
    place.apply();
    let status = || place.run(&["-o", "json", "status"]).json()["sandboxes"][0].clone();
    let begun = std::time::Instant::now();
    while status()["state"] != "completed" {
        assert!(
            begun.elapsed().as_secs() < 100,
            "{:#} {:?}",
            status(),
            place.run(&["logs", "ada"])
        );
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    assert_eq!(place.say("ada", "cat /workspace/made"), "made");
    assert!(place.run(&["logs", "ada"]).stdout.contains(DONE));
    assert!(place.apply().stdout.contains("no changes"));
}
