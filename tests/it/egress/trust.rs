//! A sandbox trusts its own authority and no other sandbox's, and has no key to sign with.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bottle::model::access::CA_PATH;

use super::place::{Place, host_program};
use super::search::Search;
use crate::support;

const API: &str = "api.example.com";

/// The proxy's variable and nothing that names a file of certificates.
const BARE: &str = "env -i PATH=$PATH https_proxy=$https_proxy";

#[test]
fn through_the_bundle_alone() {
    for place in Place::each("bundle") {
        place.one(&[API], "");
        place.internet.put(API, "/x", "it is here\n");
        assert_eq!(place.say("ada", &format!("{BARE} curl -sS https://{API}/x")), "it is here");
        let bundle = place.say("ada", "cat /etc/ssl/certs/ca-certificates.crt");
        let own = place.say("ada", &format!("cat {CA_PATH}"));
        assert_eq!(bundle.matches(&own).count(), 1);
        assert!(bundle.matches("BEGIN CERTIFICATE").count() > 1, "the others are still there");
        // Again, and it is not there twice.
        place.bottle("dev", &format!("egress:\n  allowlist: [{API}, more.example.com]\n"));
        place.apply();
        let again = place.say("ada", "cat /etc/ssl/certs/ca-certificates.crt");
        assert_eq!(again, bundle);
    }
}

/// T19: one trusts its own.
#[test]
fn of_one_sandbox_only() {
    for place in Place::each("others") {
        place.tree.agent("bob", "dev", "", "");
        place.one(&[API], "");
        place.internet.put(API, "/x", "it is here\n");
        let own = place.say("ada", &format!("cat {CA_PATH}"));
        let others = place.say("bob", &format!("cat {CA_PATH}"));
        assert_ne!(own, others);
        for (pem, works) in [(&own, true), (&others, false)] {
            let ask = format!(
                "printf '%s\\n' '{pem}' >/tmp/one.pem; {BARE} curl -sS --cacert /tmp/one.pem https://{API}/x"
            );
            let ended = place.sh("ada", &ask);
            // 60: whoever signed is not known.
            assert_eq!(ended.code, Some(if works { 0 } else { 60 }), "{ended:?}");
        }
    }
}

/// T19: what its certificate says.
#[test]
fn the_life_of_its_machine_and_no_authority_beneath() {
    if host_program("openssl").is_none() {
        support::left_out("what a sandbox's authority says", "openssl is not there");
        return;
    }
    let place = Place::native("authority");
    place.one(&[API], "");
    let pem = place.cli.home().join("ca.pem");
    std::fs::write(&pem, place.say("ada", &format!("cat {CA_PATH}"))).unwrap();
    let openssl = |args: &[&str]| {
        let mut command = std::process::Command::new("openssl");
        let output = command.args(["x509", "-noout", "-in"]).arg(&pem).args(args).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (_, text) = openssl(&["-text"]);
    assert!(text.contains("CA:TRUE, pathlen:0"), "{text}");
    assert!(text.contains("ASN1 OID: prime256v1"), "{text}");
    let day = 24 * 60 * 60_i64;
    // Longer than machines live: programs read it once, and it signs for this one guest only.
    for (seconds, valid) in [(0, true), (3600 * day, true), (3700 * day, false)] {
        assert_eq!(openssl(&["-checkend", &seconds.to_string()]).0, valid, "in {seconds} s");
    }
}

/// What runs has read its authority once: no other takes its place while its machine runs.
#[test]
fn one_that_is_damaged_is_no_new_one_while_its_machine_runs() {
    let place = Place::native("damaged");
    place.one(&[API], "");
    place.internet.put(API, "/x", "it is here\n");
    place.say("ada", &format!("cp {CA_PATH} /tmp/begun.pem"));
    // As a program does that has read it when it was started.
    let ask = format!("{BARE} curl -sS --cacert /tmp/begun.pem https://{API}/x");
    let goes_on = |when: &str| assert_eq!(place.say("ada", &ask), "it is here", "{when}");
    let path = place.cli.state().join("trees").join(&place.tree.owner).join("ca/ada.json");
    let whole = std::fs::read_to_string(&path).unwrap();
    let half = &whole[..whole.len() / 2];
    for (what, damaged) in [("half", Some(half)), ("empty", Some("")), ("removed", None)] {
        match damaged {
            Some(text) => std::fs::write(&path, text).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let held = place.run(&["apply", "--yes"]).exits(3);
        let said = format!("{}{}", held.stdout, held.stderr);
        for words in [path.to_str().unwrap(), "put a copy", "--replace-unknown ada"] {
            assert!(said.contains(words), "{what}: {said}");
        }
        goes_on(what);
    }
    std::fs::write(&path, &whole).unwrap();
    place.apply();
    // Its key is whole: what is made of it is trusted like the old one.
    std::fs::write(&path, whole.replace("BEGIN CERTIFICATE", "BEGIN")).unwrap();
    place.apply();
    goes_on("extended");
    let again = place.run(&["plan"]).exits(0);
    assert!(again.stdout.contains("no changes"), "{}", again.stdout);
    // Given up, it is another machine with another authority.
    std::fs::write(&path, "").unwrap();
    place.run(&["apply", "--yes", "--replace-unknown", "ada"]).exits(0);
    assert_eq!(place.sh("ada", "test -e /tmp/begun.pem").code, Some(1));
    let fresh = format!("{BARE} curl -sS --cacert {CA_PATH} https://{API}/x");
    assert_eq!(place.say("ada", &fresh), "it is here");
}

/// T19: it is found where it is kept, and not inside.
#[test]
fn the_key_is_not_in_the_guest() {
    for place in Place::each("key") {
        place.bottle("top", &format!("user: root\negress:\n  allowlist: [{API}]\n"));
        place.tree.agent("rosa", "top", "", "");
        place.one(&[API], "");
        let mut search = Search::of_forms(keys(&place));
        for agent in ["ada", "rosa"] {
            search.guest(&place, agent);
        }
        assert_eq!(search.found(), Vec::<String>::new());
        search.folder(&place.cli.state());
        assert!(!search.found().is_empty(), "it is found where it is");
        let keys = "grep -rls 'PRIVATE KEY' /etc /home /root /run /tmp /var; true";
        assert_eq!(place.say("rosa", keys), "");
    }
}

/// X19: with the sandbox its authority goes, and every value that was given to it.
#[test]
fn nothing_of_it_outlives_its_sandbox() {
    for mut place in Place::each("outlived") {
        let value = "q8Zx1vN4-kP2sLm7tR8wB1nM4yHc0dJe6fUaGi5o";
        place.cli.env("ROUTE_TOKEN", value);
        place.one(
            &[API],
            "cred_proxy:\n  routes:\n    - {path: /m/, upstream: 'https://mirror.example.com', \
             auth_scheme: Bearer, token_ref: ROUTE_TOKEN}\n",
        );
        let mut search = Search::of_forms(keys_of(&place, 1));
        search.folder(&place.cli.state());
        assert!(!search.found().is_empty(), "it is found where it is");
        place.run(&["down", "--yes", "--allow-teardown", "all"]).exits(0);
        search.folder(&place.cli.state());
        assert_eq!(search.found(), Vec::<String>::new(), "{}", place.backend);
        let mut search = Search::of(value);
        search.folder(&place.cli.state());
        search.folder(place.cli.home());
        search.processes();
        assert_eq!(search.found(), Vec::<String>::new(), "{}", place.backend);
    }
}

fn keys(place: &Place) -> Vec<(String, Vec<u8>)> {
    keys_of(place, 2)
}

/// Every authority's key: each line of it in PEM, and all of it in DER.
fn keys_of(place: &Place, count: usize) -> Vec<(String, Vec<u8>)> {
    let mut forms = Vec::new();
    for tree in std::fs::read_dir(place.cli.state().join("trees")).unwrap().flatten() {
        // Beside the trees a backend keeps what is for all of them.
        if tree.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        for entry in std::fs::read_dir(tree.path().join("ca")).unwrap().flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            let kept: serde_json::Value = serde_json::from_str(&text).unwrap();
            let pem = kept["key"].as_str().unwrap();
            let lines: Vec<&str> = pem.lines().filter(|line| !line.starts_with('-')).collect();
            let der = STANDARD.decode(lines.concat()).unwrap();
            // Its first bytes say what kind of key it is, as of every other of that kind.
            forms.push(("in DER".to_owned(), der[36..].to_vec()));
            forms.extend(
                lines.iter().skip(1).map(|line| ("in PEM".to_owned(), line.as_bytes().to_vec())),
            );
        }
    }
    assert_eq!(forms.iter().filter(|(form, _)| form == "in DER").count(), count);
    forms
}
