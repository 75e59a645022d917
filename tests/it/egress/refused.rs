//! What a person sees of a refusal in the agents' own programs: the reason, and no login that failed. And that none
//! is needed where a secret can be taken out.

use super::agents::{installed, route_to};
use super::at_work::CLIS;
use super::place::Place;
use super::vendors::DONE;

/// A token in the form of a vendor's, of random characters.
fn token() -> String {
    // Put together here, so that no scanner of sources takes it for one.
    ["ghp", "_", "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx"].concat()
}

/// A native sandbox of each program, and what a prompt is behind.
fn each(what: &str, action: &str, check: impl Fn(&Place, &str, [&str; 2])) {
    for cli in &CLIS {
        let Some((folder, path)) = installed(what, cli.program) else { return };
        let mut place = Place::native(&format!("{what}-{}", cli.program));
        place.cli.env("AGENTS_TOKEN", cli.token);
        let work = place.cli.home().join("work");
        std::fs::create_dir(&work).unwrap();
        place.bottle(
            "dev",
            &format!(
                "host_paths: ['{}']\nenv: {{PATH: '{path}'}}\nworkspace: {{path: '{}'}}\n\
                 egress: {{dlp_action: {action}}}\n{}",
                folder.display(),
                work.display(),
                route_to(cli.host, cli.role)
            ),
        );
        place.tree.agent("ada", "dev", "", "");
        place.apply();
        check(&place, cli.program, [cli.begins, cli.goes_on]);
    }
}

#[test]
fn each_agent_says_why_it_was_refused() {
    each("refused", "block", |place, program, [begins, _]| {
        let line =
            format!("cd /workspace && timeout 100 {begins} 'use {}' </dev/null 2>&1", token());
        let ended = place.sh("ada", &line);
        let said = ended.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains("dlp:github-token: leave the secret out"), "{program}: {ended:?}");
        let said = said.to_lowercase();
        for wrong in ["login", "log in", "sign in", "authenticat", "unauthorized"] {
            assert!(!said.contains(wrong), "{program}: {wrong}: {ended:?}");
        }
        let record = place.record("ada");
        let denied = record.iter().filter(|line| line["event"] == "deny");
        let denied: Vec<_> = denied.filter(|line| line["code"] == "dlp:github-token").collect();
        assert!((1..=4).contains(&denied.len()), "{program} asks again and again: {denied:#?}");
        assert!(!place.internet.bodies().iter().any(|body| body.contains(&token())));
    });
}

#[test]
fn each_agent_goes_on_with_a_secret_in_its_conversation() {
    each("redacted", "redact", |place, program, [begins, goes_on]| {
        for line in [format!("{begins} 'use {}'", token()), format!("{goes_on} 'and again'")] {
            let line = format!("cd /workspace && timeout 100 {line} </dev/null 2>&1");
            let ended = place.sh("ada", &line);
            assert!(ended.code == Some(0) && ended.stdout.contains(DONE), "{program}: {ended:?}");
        }
        let bodies = place.internet.bodies();
        let mark = "use <redacted:github-token>";
        let both = |body: &String| body.contains(mark) && body.contains("and again");
        assert!(bodies.iter().any(both), "{program} knows what was said before: {bodies:#?}");
        assert!(!bodies.iter().any(|body| body.contains(&token())), "{program}");
        let record = place.record("ada");
        assert!(record.iter().any(|line| line["event"] == "redacted"), "{program}: {record:#?}");
        // What else it asks for is on no list.
        let denied = record.iter().filter(|line| line["event"] == "deny");
        let leaks = denied.filter(|line| line["code"] != "host_not_allowed").count();
        assert_eq!(leaks, 0, "{program}: {record:#?}");
    });
}
