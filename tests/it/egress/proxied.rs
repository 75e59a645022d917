//! A network that lets nothing out but by its proxy: what `bottle.yaml` says of it reaches every sidecar, and its
//! login nobody else.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::internet::{GIT, MIRROR};
use super::place::{OVERLAY, Place};
use crate::support::proxy::{Manner, Proxy};

const API: &str = "api.example.com";
const OTHER: &str = "other.example.com";
const PASSWORD: &str = "p:ss w@rd-0123456789-of-the-proxy";

/// What is laid over the documents: as it is, but nothing can be dialled, and what `with_root` leaves out nobody
/// vouches for.
fn overlay(place: &Place, with_root: bool) -> (String, Vec<(String, SocketAddr)>, String) {
    let mut overlay: Value = serde_json::from_str(&place.internet.overlay()).unwrap();
    let root = overlay["roots"][0].as_str().unwrap().to_owned();
    let dial = overlay["testing"]["dial"].as_object_mut().unwrap();
    let leads = dial
        .iter_mut()
        .map(|(at, to)| {
            let leads = to.as_str().unwrap().parse().unwrap();
            *to = "127.0.0.1:1".into();
            (at.clone(), leads)
        })
        .collect();
    if !with_root {
        overlay["roots"] = Value::Array(Vec::new());
    }
    (overlay.to_string(), leads, root)
}

/// The proxy of this place, with what its sidecars can reach by address and by name.
fn proxy(
    place: &Place,
    leads: &[(String, SocketAddr)],
    login: Option<&str>,
    secure: bool,
) -> Proxy {
    let tls = leads.iter().find(|(at, _)| at == "93.184.216.34:443").unwrap().1;
    let mut all: Vec<(&str, SocketAddr)> =
        leads.iter().map(|(at, to)| (at.as_str(), *to)).collect();
    let by_name = [API, OTHER, MIRROR, GIT].map(|host| format!("{host}:443"));
    all.extend(by_name.iter().map(|place| (place.as_str(), tls)));
    Proxy::new(place.internet.at(), &all, login, secure)
}

fn settings(place: &Place, proxy: &str) {
    place.tree.write("bottle.yaml", &format!("name: {}\nproxy: {proxy}\n", place.tree.owner));
}

/// What plan would do, by its actions.
#[track_caller]
fn actions(place: &Place) -> Vec<String> {
    let plan = place.run(&["-o", "json", "plan"]).json();
    assert!(!plan.to_string().contains("p:ss"), "{plan:#}");
    let steps = plan["steps"].as_array().unwrap_or_else(|| panic!("{plan:#}"));
    steps.iter().map(|step| step["action"].as_str().unwrap().to_owned()).collect()
}

fn starts(place: &Place) -> usize {
    place.record("ada").iter().filter(|line| line["event"] == "start").count()
}

/// Whether a text stands in a file below a folder.
fn anywhere(folder: &std::path::Path, text: &str) -> bool {
    let mut grep = std::process::Command::new("grep");
    grep.args(["-rqsF", "--devices=skip", text]).arg(folder).status().unwrap().success()
}

#[test]
fn tools_reach_what_they_may_and_the_login_reaches_the_proxy_alone() {
    for mut place in Place::each("proxied").into_iter().chain(Place::smolmachines("a proxy")) {
        let (text, leads, _) = overlay(&place, true);
        place.cli.env(OVERLAY, text).env("PROXY_PASSWORD", PASSWORD);
        let with = proxy(&place, &leads, Some(&format!("ada:{PASSWORD}")), false);
        let at = with.address;
        settings(&place, &format!("{{url: 'http://ada@{at}', password_ref: PROXY_PASSWORD}}"));
        place.internet.put(API, "/x", "it is here\n");
        place.internet.put(OTHER, "/x", "and here\n");
        place.cli.env("MIRRORED", "of-the-mirror-0123456789-abcdefghijklm");
        let route = format!(
            "cred_proxy:\n  routes:\n    - {{path: /m/, upstream: 'https://{MIRROR}', auth_scheme: Bearer, \
             token_ref: MIRRORED}}\n"
        );
        place.one(&[API, OTHER, "\"other.example.com:80\""], &route);
        assert_eq!(place.say("ada", &format!("curl -sS https://{API}/x")), "it is here");
        assert_eq!(place.say("ada", &format!("curl -sS http://{OTHER}/x")), "and here");
        place.say("ada", &format!("curl -sS https://{MIRROR}/x"));
        let arrived = place.internet.arrived();
        let credential = arrived.last().unwrap().authorization();
        assert_eq!(credential, ["Bearer of-the-mirror-0123456789-abcdefghijklm"]);
        assert!(arrived.iter().all(|one| one.header("proxy-authorization").is_empty()));
        let asked = with.asked();
        assert_eq!(asked.len(), 3, "{asked:?}");
        assert!(asked.iter().all(|one| one.login == Some(format!("ada:{PASSWORD}"))), "{asked:?}");
        place.nothing_was_refused("ada");
        let by_proxy =
            |line: &&Value| line["event"] == "allow" && line["via"].as_str() == Some("proxy");
        assert_eq!(place.record("ada").iter().filter(by_proxy).count(), 3);
        let evil = place.sh("ada", "curl -sSf https://evil.test/ && echo reached").stdout;
        assert!(!evil.contains("reached"), "{evil}");
        assert_eq!(with.asked(), []);

        // Neither the guest nor anything that is kept or shown has the login or the proxy's place.
        let inside =
            place.sh("ada", "env; cat /proc/*/environ /etc/bottle/* 2>/dev/null | tr '\\0' '\\n'");
        let shown = [
            inside.stdout,
            format!("{:?}", place.record("ada")),
            place.run(&["policy", "show", "ada"]).exits(0).stdout,
            place.run(&["-o", "json", "status"]).stdout,
        ];
        let basic = STANDARD.encode(format!("ada:{PASSWORD}"));
        for secret in [PASSWORD, &basic] {
            assert!(!shown.iter().any(|text| text.contains(secret)), "{shown:?}");
            assert!(!anywhere(&place.cli.state(), secret));
        }
        assert!(!shown[0].contains(&at.to_string()), "{}", shown[0]);
        assert!(shown[2].contains(&format!("http://{at}, with a login")), "{}", shown[2]);
        assert!(place.apply().stdout.contains("no changes"));

        // Another password is loaded, and nothing else happens.
        let before = starts(&place);
        place.cli.env("PROXY_PASSWORD", "another-word-0123456789");
        assert_eq!(actions(&place), ["load"]);
        place.apply();
        let refused = place.sh("ada", &format!("curl -sS https://{API}/x")).stdout;
        assert!(refused.contains("proxy_login") && !refused.contains("another-word"), "{refused}");
        let denied = place.record("ada");
        let denied = denied.iter().rfind(|line| line["event"] == "deny").unwrap();
        assert!(denied["detail"].as_str().unwrap().contains("answers 407"), "{denied}");
        assert_eq!(with.places().len(), 1, "it was asked, and refused");

        // So is another proxy, over TLS, whose authority and whose upstreams' only its file names.
        let (text, _, root) = overlay(&place, false);
        place.cli.env(OVERLAY, text);
        let secure = proxy(&place, &leads, None, true);
        let pem = format!(
            "{}-----BEGIN CERTIFICATE-----\n{root}\n-----END CERTIFICATE-----\n",
            secure.authority
        );
        place.tree.write("corp.pem", &pem);
        let url = format!("https://{}", secure.address);
        settings(&place, &format!("{{url: '{url}', ca: corp.pem, resolve: proxy}}"));
        assert_eq!(actions(&place), ["load"]);
        place.apply();
        assert_eq!(place.say("ada", &format!("curl -sS https://{API}/x")), "it is here");
        assert_eq!(secure.places(), [format!("{API}:443")]);
        assert_eq!(with.places(), Vec::<String>::new());

        // And none.
        place.tree.write("bottle.yaml", &format!("name: {}\n", place.tree.owner));
        assert_eq!(actions(&place), ["load"]);
        place.apply();
        let dialled = place.sh("ada", &format!("curl -sS https://{API}/x")).stdout;
        assert!(dialled.contains("upstream_unreachable"), "{dialled}");
        assert_eq!((secure.places(), with.places()), (vec![], vec![]));
        assert_eq!(starts(&place), before, "the sidecar is the same");
        assert!(place.apply().stdout.contains("no changes"));
    }
}

/// A login from a file and a command, and one that is not there.
#[test]
fn a_login_comes_from_where_tokens_come_from() {
    let mut place = Place::native("proxylogin");
    let (text, leads, _) = overlay(&place, true);
    place.cli.env(OVERLAY, text);
    let proxy = proxy(&place, &leads, Some(&format!("ada:{PASSWORD}")), false);
    let at = proxy.address;
    place.internet.put(API, "/x", "it is here\n");
    place.tree.write("secrets/proxy", &format!("ada:{PASSWORD}\n"));
    let words = |ended: crate::support::Ended| {
        let all = format!("{} {}", ended.stdout, ended.stderr);
        all.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    settings(&place, &format!("{{url: 'http://{at}', password_ref: PROXY_LOGIN}}"));
    place.bottle("dev", &format!("egress:\n  allowlist: [{API}]\n"));
    place.tree.agent("ada", "dev", "", "");
    let said = words(place.run(&["plan"]));
    assert!(said.contains("waits for a value of PROXY_LOGIN"), "{said}");
    // Without a user it is none.
    place.cli.env("PROXY_LOGIN", "sesame-0123456789");
    let said = words(place.run(&["plan"]));
    assert!(said.contains("names no user") && said.contains("bottle.yaml:2:"), "{said}");
    assert!(!said.contains("sesame"), "{said}");
    let encoded = "p%3Ass%20w%40rd-0123456789-of-the-proxy";
    for login in [
        format!("{{url: 'http://{at}', password_from: {{file: secrets/proxy}}}}"),
        format!("{{url: 'http://{at}', password_from: {{command: [cat, secrets/proxy]}}}}"),
        format!("{{url: 'http://ada:{encoded}@{at}'}}"),
    ] {
        settings(&place, &login);
        place.apply();
        assert_eq!(place.say("ada", &format!("curl -sS https://{API}/x")), "it is here", "{login}");
        assert_eq!(proxy.places().len(), 1);
        assert!(place.apply().stdout.contains("no changes"));
        assert!(!anywhere(&place.cli.state(), PASSWORD) && !anywhere(&place.cli.state(), encoded));
    }
    // One that refuses is told as that; what is kept of the document before would not ask it.
    proxy.behaves(Manner::Says("HTTP/1.1 403 Forbidden\r\n\r\n"));
    settings(&place, &format!("{{url: 'http://{at}'}}"));
    place.apply();
    let refused = place.sh("ada", &format!("curl -sS https://{API}/x")).stdout;
    assert!(refused.contains("proxy_refused"), "{refused}");
}

/// The loopback of the host is none of a container's: that is said before anything is made.
#[test]
fn a_proxy_on_the_loopback_is_no_containers() {
    let Some(place) = Place::docker("proxyloop") else { return };
    settings(&place, "{url: 'http://127.0.0.1:3128'}");
    place.bottle("dev", &format!("egress:\n  allowlist: [{API}]\n"));
    place.tree.agent("ada", "dev", "", "");
    let check = place.run(&["check"]).exits(1);
    let said = check.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("has one of its own"), "{said}");
    let plan = place.run(&["-o", "json", "plan"]).json();
    assert!(plan["steps"].as_array().unwrap().is_empty(), "{plan:#}");
    assert!(plan.to_string().contains("has one of its own"), "{plan:#}");
    // What needs no sidecar needs no proxy.
    place.bottle("dev", "");
    place.run(&["check"]).exits(0);
}
