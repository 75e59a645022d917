//! Where tokens come from: each way leads to the upstream, also when the token changes, and a token is nowhere
//! to be seen on the way.

use serde_json::Value;

use super::internet::MIRROR;
use super::place::Place;

const ROUTES: &str = "\
cred_proxy:
  routes:
    - path: /env/
      upstream: https://mirror.example.com/env
      auth_scheme: Bearer
      token_ref: OF_A_LINE
    - path: /file/
      upstream: https://mirror.example.com/file
      auth_scheme: x-api-key
      token_from: {file: secrets/token}
    - path: /command/
      upstream: https://mirror.example.com/command
      auth_scheme: basic
      auth_user: oauth2
      token_from: {command: [sh, secrets/say, two words]}
";

/// Of three kinds, by number.
fn tokens(number: u8) -> [String; 3] {
    ["line", "file", "command"].map(|of| format!("of-a-{of}-{number}-0123456789-abcdefghijklm"))
}

/// Puts these where each is looked for.
fn put(place: &Place, tokens: &[String; 3]) -> String {
    let file = place.tree.join("env");
    std::fs::write(&file, format!("OF_A_LINE={}\n", tokens[0])).unwrap();
    place.tree.write("secrets/token", &format!("{}\n", tokens[1]));
    // It says nothing that it was not started for.
    let script = format!("[ \"$1\" = 'two words' ] && echo {}\n", tokens[2]);
    place.tree.write("secrets/say", &script);
    file.display().to_string()
}

#[test]
fn every_way_leads_there_and_a_new_token_follows() {
    for place in Place::each("tokens") {
        let env = put(&place, &tokens(1));
        place.bottle("dev", ROUTES);
        place.tree.agent("ada", "dev", "", "");
        let with = |args: &[&str]| place.run(&[args, &["--env-file", &env]].concat());
        with(&["apply", "--yes"]).exits(0);
        arrive(&place, &tokens(1));
        let log = place.record("ada");

        put(&place, &tokens(2));
        let plan = with(&["-o", "json", "plan"]).json();
        let actions: Vec<&Value> =
            plan["steps"].as_array().unwrap().iter().map(|step| &step["action"]).collect();
        assert_eq!(actions, ["load"], "{plan:#}");
        let said = with(&["apply", "--yes", "-v"]).exits(0);
        arrive(&place, &tokens(2));
        assert_eq!(
            place.record("ada").iter().filter(|line| line["event"] == "start").count(),
            log.iter().filter(|line| line["event"] == "start").count(),
            "the sidecar is the same"
        );
        let again = with(&["apply", "--yes"]).exits(0);
        assert!(again.stdout.contains("no changes"), "{again:?}");
        let shown =
            [plan.to_string(), said.stdout, said.stderr, format!("{:?}", place.record("ada"))];
        let kept = place.sh("ada", "env; cat /etc/bottle/* 2>/dev/null").stdout;
        for token in tokens(1).iter().chain(&tokens(2)) {
            assert!(!shown.iter().chain([&kept]).any(|text| text.contains(token)), "{token}");
            assert!(!anywhere(&place.cli.state(), token), "{token}");
        }
    }
}

#[track_caller]
fn arrive(place: &Place, tokens: &[String; 3]) {
    use base64::Engine as _;
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("oauth2:{}", tokens[2]));
    for (path, header, value) in [
        ("env", "authorization", format!("Bearer {}", tokens[0])),
        ("file", "x-api-key", tokens[1].clone()),
        ("command", "authorization", format!("Basic {basic}")),
    ] {
        place.say("ada", &format!("curl -sS https://{MIRROR}/{path}/x"));
        let arrived = place.internet.arrived();
        assert_eq!(arrived.len(), 1, "{path}");
        assert_eq!(arrived[0].header(header), [value], "{path}");
    }
}

/// A process that ends with the test, however that ends.
struct Watch(std::process::Child);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Under `watch` nobody has to ask for it: what says so lies where `watch` hears of nothing.
#[test]
fn a_new_token_is_loaded_by_the_next_pass_of_a_watch() {
    let place = Place::native("watchtoken");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let path = file.display();
    let env = file.to_str().unwrap();
    for (way, from, before) in [
        ("line", "token_ref: OF_A_LINE".to_owned(), "OF_A_LINE="),
        ("file", format!("token_from: {{file: {path}}}"), ""),
        ("command", format!("token_from: {{command: [cat, {path}]}}"), ""),
    ] {
        let text = |token: String| format!("{before}{token}\n");
        let token = |number: u8| format!("of-a-{way}-{number}-0123456789-abcdefghijklm");
        std::fs::write(&file, text(token(1))).unwrap();
        let mut options = vec!["--resync", "300ms"];
        if way == "line" {
            options.extend(["--env-file", env]);
        }
        place.bottle(
            "dev",
            &format!(
                "cred_proxy:\n  routes:\n    - path: /m/\n      upstream: https://{MIRROR}\n      \
                 auth_scheme: Bearer\n      {from}\n"
            ),
        );
        place.tree.agent("ada", "dev", "", "");
        let tree = place.tree.path().to_str().unwrap();
        let mut command = place.cli.command([&["watch", tree][..], &options].concat());
        command.stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let watch = Watch(command.spawn().unwrap());
        for number in [1, 2] {
            if number == 2 {
                // Long enough that nothing is left to do, and resyncs only look.
                std::thread::sleep(std::time::Duration::from_secs(3));
                std::fs::write(&file, text(token(2))).unwrap();
            }
            let expected = [format!("Bearer {}", token(number))];
            let begun = std::time::Instant::now();
            loop {
                place.sh("ada", &format!("curl -sS https://{MIRROR}/x"));
                let arrived = place.internet.arrived();
                if arrived.iter().any(|one| one.authorization() == expected) {
                    break;
                }
                assert!(begun.elapsed().as_secs() < 60, "{way} {number}: {arrived:?}");
                std::thread::sleep(std::time::Duration::from_millis(200));
            }
        }
        drop(watch);
    }
}

/// Whether a text stands in a file below a folder.
fn anywhere(folder: &std::path::Path, text: &str) -> bool {
    let found = std::process::Command::new("grep")
        .args(["-rqsF", "--devices=skip", text])
        .arg(folder)
        .status()
        .unwrap();
    found.success()
}

/// What holds a sandbox, and what is said about it.
fn held(place: &Place, from: &str) -> String {
    place.bottle(
        "dev",
        &format!(
            "cred_proxy:\n  routes:\n    - {{path: /m/, upstream: 'https://{MIRROR}', \
             auth_scheme: Bearer, token_from: {from}}}\n"
        ),
    );
    place.tree.agent("ada", "dev", "", "");
    let plan = place.run(&["-o", "json", "plan"]).json();
    assert!(plan["steps"].as_array().unwrap().is_empty(), "{from}: {plan:#}");
    let held: Vec<&Value> = plan["changes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|change| change["verdict"] == "hold")
        .collect();
    assert!(!held.is_empty(), "{from}: {plan:#}");
    let told = place.run(&["plan"]);
    // Lines are broken where the terminal ends.
    let words = format!("{} {}", told.stdout, told.stderr);
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn what_gives_no_token_holds_its_sandbox_and_says_why() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::native("notoken");
    let tree = place.tree.path().display().to_string();
    place.tree.write("fails", "echo of-no-use-0123456789; echo a-secret-word >&2; exit 3\n");
    place
        .tree
        .write("empty", "\n")
        .write("blanks", "with blanks 0123456789\n")
        .write("short", "x\n");
    for (from, what) in [
        ("{command: [sh, ./fails]}", "`sh` ended with exit status: 3"),
        ("{command: [no-such-program-here]}", "there is no program `no-such-program-here`"),
        ("{command: [./nowhere]}", "there is no `"),
        ("{file: nowhere}", "there is no `"),
        ("{file: empty}", "it is empty"),
        ("{file: blanks}", "cannot stand in a header"),
        ("{file: short}", "has 1 bytes"),
        ("{file: bottles}", "it is no file"),
    ] {
        let said = held(&place, from);
        assert!(said.contains(what), "{from}: {said}");
        assert!(said.contains("bottles/dev.md:"), "{from}: {said}");
        assert!(!said.contains("of-no-use") && !said.contains("a-secret-word"), "{said}");
    }
    // What others can change is neither read nor run.
    let mode = |path: &str, mode| {
        let path = place.tree.join(path);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let mark = place.tree.join("mark");
    place
        .tree
        .write("run", &format!("#!/bin/sh\n: > {}\necho of-no-use-0123456789\n", mark.display()));
    mode("run", 0o777);
    for from in [
        format!("{{command: [{tree}/run]}}"),
        "{command: [sh, ./run]}".to_owned(),
        "{file: run}".to_owned(),
    ] {
        let said = held(&place, &from);
        assert!(said.contains("chmod o-w"), "{from}: {said}");
    }
    assert!(!mark.exists(), "it was run");
    mode("run", 0o755);
    // Nor what a sandbox can write.
    let work = tempfile::tempdir().unwrap();
    std::fs::write(work.path().join("token"), "0123456789-of-the-guest").unwrap();
    std::fs::write(
        work.path().join("run"),
        format!("#!/bin/sh\n: > {}\necho of-no-use-0123456789\n", mark.display()),
    )
    .unwrap();
    let runs = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(work.path().join("run"), runs).unwrap();
    place
        .bottle("other", &format!("workspace: {{path: {}, mode: mount}}\n", work.path().display()));
    place.tree.agent("bob", "other", "", "");
    for from in [
        format!("{{file: {}/token}}", work.path().display()),
        format!("{{command: [{}/run]}}", work.path().display()),
        format!("{{command: [sh, {}/run]}}", work.path().display()),
    ] {
        let said = held(&place, &from);
        assert!(
            said.contains("from inside, it can be rewritten")
                || said.contains("from inside, anything"),
            "{from}: {said}"
        );
    }
    assert!(!mark.exists(), "it was run");
}

/// What stops or goes needs no token, and nobody is asked for one.
#[test]
fn what_stops_or_goes_asks_for_no_token() {
    let place = Place::native("goes");
    let mark = place.tree.join("mark");
    place.tree.write("say", "echo of-a-command-0123456789-abcdef\n");
    place.bottle(
        "dev",
        &format!(
            "cred_proxy:\n  routes:\n    - {{path: /m/, upstream: 'https://{MIRROR}', \
             auth_scheme: Bearer, token_from: {{command: [sh, ./say]}}}}\n"
        ),
    );
    place.tree.agent("ada", "dev", "", "");
    place.apply();
    place.tree.write("say", &format!(": > {}\nexit 1\n", mark.display()));
    place.run(&["plan"]);
    assert!(mark.exists(), "a control: a plan asks");
    std::fs::remove_file(&mark).unwrap();
    place.run(&["stop", "ada"]).exits(0);
    assert_ne!(place.sh("ada", "true").code, Some(0), "it has stopped");
    place.run(&["down", "--yes", "--allow-teardown", "all"]).exits(0);
    assert!(!mark.exists(), "it was asked");
}

/// All that is missing is named at once, with every way to give it.
#[test]
fn a_hint_names_the_ways_that_work() {
    let place = Place::native("hint");
    place.bottle(
        "dev",
        &format!(
            "env: {{ASKED_FOR: \"?\"}}\ncred_proxy:\n  routes:\n    - {{path: /m/, \
             upstream: 'https://{MIRROR}', auth_scheme: Bearer, token_ref: NO_SUCH_TOKEN}}\n"
        ),
    );
    place.tree.agent("ada", "dev", "", "");
    let told = place.run(&["plan"]).stdout;
    let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(told.contains("NO_SUCH_TOKEN") && told.contains("ASKED_FOR"), "{told}");
    assert!(told.contains("a line NO_SUCH_TOKEN=value in `--env-file FILE`"), "{told}");
    assert!(told.contains("`export NO_SUCH_TOKEN=…`"), "{told}");
    let env = place.tree.join("env");
    std::fs::write(&env, "NO_SUCH_TOKEN=0123456789-abcdef\nASKED_FOR=x\n").unwrap();
    let plan = place.run(&["-o", "json", "plan", "--env-file", env.to_str().unwrap()]).json();
    let waits = |plan: &Value| plan.to_string().contains("needs_input");
    assert!(!waits(&plan), "{plan:#}");
    let mut place = place;
    place.cli.env("BOTTLE_ENV_NO_SUCH_TOKEN", "0123456789-abcdef").env("BOTTLE_ENV_ASKED_FOR", "x");
    let plan = place.run(&["-o", "json", "plan"]).json();
    assert!(!waits(&plan), "{plan:#}");
}
