//! kill -9 of `watch` and of sidecars while requests are asked and decided: after one pass all of it happened, or
//! nothing did. `BOTTLE_TEST_CHAOS=<n>` kills that often.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use super::applied::{Shop, wait_for};
use crate::reconcile::chaos::rounds;

/// The name of a request, by number.
fn id(round: usize) -> String {
    let digit = |at: u32| char::from(b'a' + u8::try_from((round / 16_usize.pow(at)) % 16).unwrap());
    format!("r-zzzz{}", (0..4).rev().map(digit).collect::<String>())
}

fn host(round: usize) -> String {
    format!("h{round}.example.org")
}

/// A moment of an approval, another one in each round: it takes some 300 ms.
fn moment(round: usize) -> Duration {
    Duration::from_millis((round as u64 * 137) % 600)
}

/// Approves in the background.
fn approve(shop: &Shop, id: &str) -> std::process::Child {
    let token = shop.desk.token(&[id], &[]);
    let args = shop.desk.command(&["approve", id, "--yes", "--review", &token]);
    let mut command = shop.desk.cli.command(args);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// After one pass the request is granted: in the file, in one commit of its own, and in force.
#[track_caller]
fn is_done(shop: &Shop, round: usize, id: &str) {
    shop.bottle(&["apply", "--yes"]).exits(0);
    assert_eq!(shop.desk.state(id), "applied", "round {round}");
    assert_eq!(shop.desk.file().matches(&host(round)).count(), 1, "round {round}");
    let trailer = format!("Bottle-Request: {id}");
    assert_eq!(
        shop.desk.git(&["log", "--format=%B"]).matches(&trailer).count(),
        1,
        "round {round}"
    );
    assert_eq!(shop.desk.git(&["status", "--porcelain"]), "", "round {round}");
    let field = format!("egress.allowlist.{}:443", host(round));
    assert!(shop.has("ada", &field) && shop.has("grace", &field), "round {round}");
    shop.converged();
}

#[test]
fn watch_is_killed_while_it_applies() {
    let mut shop = Shop::open("crashed_watch", "native", "host");
    for round in 0..rounds(5) {
        shop.watch();
        let id = id(round);
        let ask = json!({ "host": host(round), "port": 443, "methods": [], "paths": [] });
        shop.desk.ask(&id, "ada", "egress", ask);
        let mut approving = approve(&shop, &id);
        std::thread::sleep(moment(round));
        let mut watching = shop.watching.take().unwrap();
        watching.kill().unwrap();
        watching.wait().unwrap();
        let code = approving.wait().unwrap().code();
        assert!(matches!(code, Some(0 | 3)), "round {round}: {code:?}");
        is_done(&shop, round, &id);
    }
}

/// The sidecars of a shop that live.
fn sidecars(shop: &Shop) -> Vec<rustix::process::Pid> {
    let state = shop.desk.cli.state().canonicalize().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let ours = |pid: &i32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
        words.windows(2).any(|pair| pair == [b"sidecar", &b"serve"[..]])
            && std::fs::read_link(format!("/proc/{pid}/cwd"))
                .is_ok_and(|cwd| cwd.starts_with(&state))
    };
    pids.filter(ours).filter_map(rustix::process::Pid::from_raw).collect()
}

fn kill(pids: Vec<rustix::process::Pid>) {
    for pid in pids {
        // It may have ended by itself.
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
    }
}

#[test]
fn sidecars_are_killed_while_requests_are_asked_and_granted() {
    let shop = Shop::open("crashed_sidecar", "native", "host");
    assert_eq!(sidecars(&shop).len(), 2);
    for round in 0..rounds(5) {
        let asks = format!(
            r#""failed_url":"https://{}/","reason":"it fails","wait_seconds":0"#,
            host(round)
        );
        let said = shop.call("pipelock-block", &asks);
        assert!(said.starts_with("pending: r-"), "round {round}: {said}");
        let id = said.split_whitespace().nth(1).unwrap().to_owned();
        // A pass has seen it: from here on it is the host's.
        let list = shop.desk.requests(&["list", "-o", "json"]).exits(0).json();
        assert!(has(&list, &id), "round {round}: {list}");
        if round % 2 == 0 {
            kill(sidecars(&shop));
            wait_for("them to end", || sidecars(&shop).is_empty());
        }
        let list = shop.desk.requests(&["list", "-o", "json"]).exits(0).json();
        assert!(has(&list, &id), "round {round}: {list}");
        let mut approving = approve(&shop, &id);
        std::thread::sleep(moment(round));
        kill(sidecars(&shop));
        let code = approving.wait().unwrap().code();
        assert!(matches!(code, Some(0 | 3)), "round {round}: {code:?}");
        is_done(&shop, round, &id);
        // And the agent hears it from the sidecar that there is now.
        let told = shop.call("request-status", &format!(r#""id":"{id}","wait_seconds":0"#));
        assert!(told.starts_with("applied"), "round {round}: {told}");
    }
}

fn has(list: &Value, id: &str) -> bool {
    list["requests"].as_array().unwrap().iter().any(|it| it["id"] == id)
}
