//! What is true of networks and names reaches what runs, also when it changes behind its back.

use super::internet::Internet;
use super::place::{OVERLAY, Place};
use crate::contract::docker::docker;

const API: &str = "api.example.com";

/// A laptop in another network: nothing of the sandbox is started anew.
#[test]
fn the_hosts_name_servers_are_loaded_when_they_change() {
    for mut place in Place::each("servers") {
        place.one(&[API], "");
        place.internet.put(API, "/x", "it is here\n");
        let office = Internet::start(place.internet.at());
        office.put(API, "/x", "it is there\n");
        let ask = format!("curl -sS https://{API}/x");
        assert_eq!(place.say("ada", &ask), "it is here", "{}", place.backend);
        let started = "read -r all < /proc/1/stat; set -- ${all##*) }; echo ${20}";
        let before = place.say("ada", started);
        place.run(&["plan"]).exits(0);

        place.cli.env(OVERLAY, office.overlay());
        let plan = place.run(&["plan"]).exits(2);
        assert!(plan.stdout.contains("host_names"), "{}: {}", place.backend, plan.stdout);
        place.apply();
        place.run(&["plan"]).exits(0);
        assert_eq!(place.say("ada", &ask), "it is there", "{}", place.backend);
        assert_eq!(place.say("ada", started), before);
        let starts = place.record("ada").iter().filter(|line| line["event"] == "start").count();
        assert_eq!(starts, 1, "{}", place.backend);
    }
}

/// An engine leaves the sidecar's name out of a container that it has put on its network again.
#[test]
fn a_machine_that_was_off_its_network_finds_its_sidecar() {
    let Some(place) = Place::docker("hosts") else { return };
    place.one(&[API], "");
    place.internet.put(API, "/x", "it is here\n");
    let name = format!("bottle-{}-ada", place.tree.owner);
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let address = docker(&["inspect", "--format", format, &name]).unwrap();
    let id = |name: &str| docker(&["inspect", "--format", "{{.Id}} {{.State.Pid}}", name]).unwrap();
    let before = id(&name);
    let ask = format!("curl -sS -m 10 https://{API}/x");
    for attached in [true, false] {
        docker(&["network", "disconnect", &name, &name]).unwrap();
        if attached {
            docker(&["network", "connect", "--ip", address.trim(), &name, &name]).unwrap();
        }
        // A newer engine keeps the line of a machine that comes back.
        let script = "grep -c sidecar /etc/hosts || true";
        let kept = docker(&["exec", &name, "sh", "-c", script]).unwrap().trim() == "1";
        let code = if attached && kept { 0 } else { 2 };
        // As root it is seen in the engine's own files; else the engine is asked.
        let plan = place.run(&["plan", "--deep"]).exits(code);
        if rustix::process::geteuid().is_root() {
            place.run(&["plan"]).exits(code);
        }
        if code == 2 {
            let known = if attached { "hosts none → " } else { "networks" };
            assert!(plan.stdout.contains(known), "{}", plan.stdout);
            let whole = place.run(&["plan", "--deep", "-o", "json"]).exits(code).stdout;
            assert!(!attached || whole.contains(" sidecar\""), "{whole}");
        }
        place.run(&["apply", "--deep", "--yes"]).exits(0);
        place.run(&["plan", "--deep"]).exits(0);
        assert_eq!(place.say("ada", "grep -c sidecar /etc/hosts"), "1");
        assert_eq!(place.say("ada", &ask), "it is here", "attached by hand: {attached}");
    }
    assert_eq!(id(&name), before, "it is the same machine, and runs on");
}
