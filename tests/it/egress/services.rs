//! Services of the host, from inside a sandbox: by the variables that lead programs to the sidecar, and by nothing else.

use super::place::Place;

/// What was said, however it was broken into lines.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn bottle(port: u16) -> String {
    format!("services: [{{name: web, port: {port}}}]\n")
}

/// They come and go in place; nothing of a running sandbox is made anew.
fn comes_and_goes(place: &Place) {
    let port = place.internet.plain_port();
    place.internet.put("localhost", "/x", "of the host\n");
    place.one(&["api.example.com"], "");
    place.say("ada", "echo mine > /tmp/mine");
    let asks = format!("curl -sS -m 30 http://web.host:{port}/x");
    assert!(!place.sh("ada", &asks).stdout.contains("of the host"));

    place.bottle("dev", &format!("egress: {{allowlist: [api.example.com]}}\n{}", bottle(port)));
    let plan = place.run(&["plan"]);
    let said = one_line(&plan.stdout);
    let widens = format!("widens: it reaches 127.0.0.1:{port} of this machine, as web.host:{port}");
    assert!(said.contains(&widens), "{said}");
    let document = place.run(&["-o", "json", "plan"]).json();
    for change in document["changes"].as_array().unwrap() {
        let verdict = change["verdict"].as_str().unwrap();
        assert!(["keep", "reprovision"].contains(&verdict), "{document:#}");
    }
    place.apply();
    assert!(place.apply().stdout.contains("no changes"));
    assert_eq!(place.say("ada", &asks), "of the host");
    let tunnelled = format!("curl -sS -m 30 -p http://web.host:{port}/x");
    assert_eq!(place.say("ada", &tunnelled), "of the host");
    let secure = format!("curl -sS -m 30 https://web.host:{port}/x");
    assert_eq!(place.say("ada", &secure), "of the host");
    // By its own name and address it is not there.
    for other in [format!("http://localhost:{port}/x"), format!("http://127.0.0.1:{port}/x")] {
        for how in ["", "--noproxy '*'"] {
            let ended = place.sh("ada", &format!("curl -sS -m 10 {how} {other}"));
            assert!(!ended.stdout.contains("of the host"), "{other} {how}: {ended:?}");
        }
    }
    assert!(place.internet.asked().iter().all(|name| !name.contains("host")));
    let arrived = place.internet.arrived();
    assert!(
        arrived.iter().all(|one| one.header("host") == [format!("localhost:{port}")]),
        "{arrived:?}"
    );
    assert_eq!(place.say("ada", "cat /tmp/mine"), "mine");
    let url = format!("http://web.host:{port}/x");
    let asked = place.run(&["policy", "check", "ada", &url]).exits(0);
    assert!(asked.stdout.contains("service web"), "{asked:?}");

    place.bottle("dev", "egress: {allowlist: [api.example.com]}\n");
    place.apply();
    assert!(!place.sh("ada", &asks).stdout.contains("of the host"));
    assert_eq!(place.say("ada", "cat /tmp/mine"), "mine");
}

#[test]
fn a_service_comes_and_goes_natively() {
    comes_and_goes(&Place::native("services"));
}

#[test]
fn a_service_comes_and_goes_in_a_microvm() {
    if let Some(place) = Place::smolmachines("services") {
        comes_and_goes(&place);
    }
}

/// A bottle that has nothing else has a sidecar for it.
#[test]
fn a_service_alone_is_enough() {
    let place = Place::native("service");
    let port = place.internet.plain_port();
    place.internet.put("localhost", "/x", "of the host\n");
    place.bottle("dev", &bottle(port));
    place.tree.agent("ada", "dev", "", "");
    let said = one_line(&place.run(&["plan"]).stdout);
    assert!(said.contains("widens: it reaches 127.0.0.1:"), "{said}");
    place.apply();
    assert_eq!(
        place.say("ada", &format!("curl -sS -m 30 http://web.host:{port}/x")),
        "of the host"
    );
    assert!(place.apply().stdout.contains("no changes"));
}

/// With Docker it is said before anything is made, and what runs is left as it is.
#[test]
fn docker_has_no_services() {
    let Some(place) = Place::docker("services") else { return };
    place.one(&["api.example.com"], "");
    place.say("ada", "echo mine > /tmp/mine");
    place.bottle("dev", &bottle(11_434));
    let ended = place.run(&["check"]);
    let said = one_line(&format!("{} {}", ended.stdout, ended.stderr));
    assert!(
        ended.code == Some(1) && said.contains("`services` opens ports of this machine's loopback"),
        "{said}"
    );
    assert!(said.contains("backend: native"), "{said}");
    assert_eq!(place.run(&["apply", "--yes"]).code, Some(3));
    assert_eq!(place.say("ada", "cat /tmp/mine"), "mine");
}
