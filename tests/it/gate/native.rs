//! The whole way: a tree with `git`, a native sandbox, plain git inside, and a real `sshd` on the other side.

use super::place::{Place, kill, lives, secret};
use crate::native::full_disk::Small;
use crate::support::left_out;

#[test]
fn clone_commit_push_and_go() {
    let Some(place) = Place::new("    Push: [main, 'agent/{sandbox}/*']\n") else {
        return;
    };
    let applied = place.apply();
    assert!(applied.contains("widens: "), "{applied}");
    assert!(applied.contains("by SHA256:") && applied.contains("agent/ada/*"), "{applied}");
    place.nothing_to_do();
    let url = place.url();
    place.sh(&format!("git clone -q {url} app && cat app/README")).exits(0);
    let pushed = place.sh(
        "cd app && echo two >>README && git commit -qam two && git push origin HEAD:main HEAD:agent/ada/x && \
         git rev-parse HEAD origin/main && git remote -v",
    );
    let pushed = pushed.exits(0);
    let head = place.at("main");
    assert_eq!(place.at("agent/ada/x"), head);
    let lines: Vec<&str> = pushed.stdout.lines().collect();
    assert_eq!(lines[..2], [head.as_str(), head.as_str()], "the tracking ref moves");
    assert!(place.record().contains(&head), "{}", place.record());
    let bare = url.trim_end_matches(".git").to_owned();
    place.sh(&format!("git ls-remote {bare} refs/heads/main")).exits(0);
    let page = place.sh("cat /etc/bottle/git.md").exits(0).stdout;
    assert!(page.contains("agent/ada/*") && page.contains(&url), "{page}");
    let pid = place.gate();
    assert!(lives(pid));
    place.nothing_to_do();
    place.run(&["down", "--yes", "--allow-teardown", "all", "--discard", "all"]).exits(0);
    assert!(!lives(pid), "a gate goes with its sandbox");
    let mut find = std::process::Command::new("find");
    let left = find.arg(place.cli.state()).args(["-name", "*.git"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "", "and so do its mirrors");
}

#[test]
fn a_secret_goes_nowhere() {
    let Some(place) = Place::new("") else { return };
    place.apply();
    let (url, secret) = (place.url(), secret());
    let before = place.at("main");
    let push = place.sh(&format!(
        "git clone -q {url} app && cd app && mkdir conf && printf 'a\\nb\\ntoken={secret}\\n' >conf/app.env && git add . && \
         git commit -qm x && git rm -qr conf && git commit -qm y && git push origin HEAD:main"
    ));
    assert_ne!(push.code, Some(0), "{push:?}");
    assert!(push.stderr.contains("conf/app.env:3"), "{push:?}");
    assert!(!push.stderr.contains(&secret), "{push:?}");
    assert_eq!(place.at("main"), before);
    assert!(!place.app.holds(&secret));
    assert!(!place.record().contains(&secret));
    // The next one that is clean goes.
    place.sh("cd app && git reset -q --hard origin/main && echo z >z && git add z && git commit -qm z && git push -q origin HEAD:main")
        .exits(0);
    assert_ne!(place.at("main"), before);
}

#[test]
fn what_the_bottle_does_not_allow_is_refused_and_a_change_is_hot() {
    let Some(place) = Place::new("    Push: ['agent/{sandbox}/*']\n") else {
        return;
    };
    place.apply();
    let url = place.url();
    let push = place.sh(&format!(
        "git clone -q {url} app && cd app && echo x >x && git add x && git commit -qm x && git push origin HEAD:main"
    ));
    assert_ne!(push.code, Some(0), "{push:?}");
    assert!(push.stderr.contains("agent/ada/*"), "{push:?}");
    let other = place.sh(&format!("git ls-remote {}", place.url_of("other.git")));
    assert!(
        other.code != Some(0) && other.stderr.contains("none of this sandbox's repositories"),
        "{other:?}"
    );
    let before = place.gate();
    place.write(&place.entry("    Push: ['agent/{sandbox}/*', main]\n"));
    let planned = place.run(&["plan"]).exits(2).stdout;
    assert!(planned.contains("widens: "), "{planned}");
    place.apply();
    assert_eq!(place.gate(), before, "it was loaded, and not started anew");
    place.sh("cd app && git push -q origin HEAD:main").exits(0);
    place.nothing_to_do();
}

/// G28.
#[test]
fn without_a_pin_nothing_is_sent() {
    let Some(place) = Place::new("") else { return };
    let pin = format!("    KnownHostKey: {}\n", place.upstream.host_key());
    place.write(&place.entry("").replace(&pin, ""));
    let applied = place.run(&["apply", "--yes"]).exits(0);
    assert!(applied.stderr.contains("KnownHostKey") || applied.stdout.contains("KnownHostKey"));
    let url = place.url();
    let asked = place.sh(&format!("git ls-remote {url}"));
    assert!(asked.code != Some(0) && asked.stderr.contains("KnownHostKey"), "{asked:?}");
    // Another host's key is no better.
    let wrong = format!("    KnownHostKey: {}\n", place.upstream.other_host_key());
    place.write(&place.entry("").replace(&pin, &wrong));
    place.apply();
    let asked = place.sh(&format!("git ls-remote {url}"));
    assert!(asked.stderr.contains("another host key"), "{asked:?}");
}

#[test]
fn a_killed_gate_is_repaired_and_a_restart_attaches_again() {
    let Some(place) = Place::new("") else { return };
    place.apply();
    let url = place.url();
    place.sh(&format!("git clone -q {url} app")).exits(0);
    let first = place.gate();
    kill(first);
    let asked = place.sh("cd app && timeout 20 git fetch");
    assert_ne!(asked.code, Some(0), "{asked:?}");
    let planned = place.run(&["plan"]).exits(2).stdout;
    assert!(planned.contains("gate"), "{planned}");
    place.apply();
    assert_ne!(place.gate(), first);
    place.sh("cd app && git fetch && echo x >x && git add x && git commit -qm x && git push -q origin HEAD:main")
        .exits(0);
    place.nothing_to_do();
    place.run(&["restart", "ada"]).exits(0);
    place.sh("cd app && git fetch && git ls-remote origin main").exits(0);
    place.nothing_to_do();
}

/// Also where nothing else is granted, and beside an egress.
#[test]
fn it_stands_beside_a_sidecar() {
    let Some(place) = Place::new("") else { return };
    place.apply();
    let connected = place.sh("env | grep -ci proxy").stdout;
    assert_eq!(connected.trim(), "0", "without an egress there is no sidecar");
    let entry = place.entry("");
    let egress = "egress:\n  allowlist: [example.com]\n";
    place.tree.bottle("dev", &format!("backend: native\n{egress}git:\n{entry}"));
    place.run(&["apply", "--yes", "--allow-teardown", "all"]).exits(0);
    let url = place.url();
    place.sh(&format!("git ls-remote {url} main")).exits(0);
    place.nothing_to_do();
    place.tree.bottle("dev", &format!("backend: native\n{egress}"));
    place.apply();
    let asked = place.sh(&format!("timeout 20 git ls-remote {url} main; ls /etc/bottle/git.md"));
    assert_ne!(asked.code, Some(0), "{asked:?}");
    assert!(!asked.stdout.contains("git.md"), "{asked:?}");
    place.nothing_to_do();
}

/// A key that was put in the place of the one that the plan showed is used only once it was applied.
#[test]
fn another_key_in_its_place_is_not_used() {
    let Some(place) = Place::new("") else { return };
    place.apply();
    let url = place.url();
    place.sh(&format!("git clone -q {url} app")).exits(0);
    let identity = place.upstream.path("identity");
    let others = ["", ".pub"].map(|end| {
        let other = place.upstream.path(&format!("other-identity{end}"));
        let own = place.upstream.path(&format!("identity{end}"));
        (other, own)
    });
    for (other, own) in &others {
        std::fs::copy(other, own).unwrap();
    }
    // The upstream would take it.
    std::fs::copy(place.upstream.path("other-identity.pub"), place.upstream.path("authorized"))
        .unwrap();
    let asked = place.sh("sleep 2; cd app && git fetch");
    assert_ne!(asked.code, Some(0), "{asked:?}");
    let sentence = "the key of app is another than was applied: the operator has to apply again";
    assert!(asked.stderr.contains(sentence), "{asked:?}");
    assert!(!asked.stderr.contains(identity.to_str().unwrap()), "{asked:?}");
    assert!(place.record().contains("key_changed"), "{}", place.record());
    let planned = place.run(&["plan"]).exits(2).stdout;
    assert!(planned.contains("widens: "), "{planned}");
    place.apply();
    place.sh("cd app && git fetch").exits(0);
}

/// A gate has nothing of a machine's: one that is renamed, or made anew, finds the same gate.
#[test]
fn it_stays_when_its_machine_is_renamed_or_made_anew() {
    let Some(place) = Place::new("    Push: ['agent/{sandbox}/*']\n") else { return };
    place.apply();
    let url = place.url();
    place.sh(&format!("git clone -q {url} app")).exits(0);
    let gate = place.gate();
    place.tree.remove("agents/ada.md").agent("grace", "dev", "was: ada", "You are Grace.");
    place.apply();
    assert_eq!(place.gate(), gate);
    // What may be pushed goes by the name that it has now.
    let push = "cd; cd app && git push origin HEAD:refs/heads/agent/NAME/x";
    let of =
        |name: &str| place.run(&["exec", "grace", "--", "sh", "-c", &push.replace("NAME", name)]);
    assert!(of("ada").stderr.contains("agent/grace/*"), "{:?}", of("ada"));
    of("grace").exits(0);
    place.nothing_to_do();
    place.tree.remove("agents/grace.md").agent("ada", "dev", "was: grace", "You are Ada.");
    place.apply();
    let entry = place.entry("    Push: ['agent/{sandbox}/*']\n");
    place.write_with("host_paths: [/usr/share]\n", &entry);
    let all = ["apply", "--yes", "--allow-teardown", "all", "--discard", "all"];
    let planned = place.run(&["plan"]).exits(2).stdout;
    assert!(planned.contains("replace"), "{planned}");
    place.run(&all).exits(0);
    assert_eq!(place.gate(), gate);
    place.sh(&format!("rm -rf app; git clone -q {url} app && cd app && git push origin HEAD:refs/heads/agent/ada/y"))
        .exits(0);
    place.nothing_to_do();
}

/// Of two trees with the same names each has a gate of its own.
#[test]
fn another_tree_has_another_gate() {
    let Some(place) = Place::new("") else { return };
    let Some(other) = Place::new("") else { return };
    place.apply();
    other.apply();
    let (url, theirs) = (place.url(), other.url());
    let asked = theirs.trim_end_matches(".git").replace("ssh://", "git://git.bottle/");
    let ended = place.sh(&format!("git clone -q {url} app && git ls-remote {asked}"));
    assert!(ended.stderr.contains("none of this sandbox's repositories"), "{ended:?}");
    other.sh(&format!("git clone -q {theirs} app")).exits(0);
    let gate = other.gate();
    place.run(&["down", "--yes", "--allow-teardown", "all", "--discard", "all"]).exits(0);
    assert!(lives(gate));
    other.sh("cd app && git fetch").exits(0);
    other.nothing_to_do();
}

#[test]
fn a_full_disk_refuses_a_push_and_the_next_one_goes() {
    if !rustix::process::geteuid().is_root() {
        return left_out("a full disk", "as an ordinary user: no file system can be mounted");
    }
    let small = Small::new(96);
    let Some(mut place) = Place::new("") else { return };
    place.cli.env("BOTTLE_STATE_DIR", small.path().join("state"));
    place.apply();
    let url = place.url();
    // What the guest has on disk is in the state folder, too, and its /tmp is not.
    place.sh(&format!("cd /tmp && git clone -q {url} app && cd app && head -c 20000000 /dev/urandom >big && git add big && git commit -qm big"))
        .exits(0);
    let before = place.at("main");
    place.sh("cat /dev/zero >~/fill; true").exits(0);
    let push = place.sh("cd /tmp/app && git push origin HEAD:main");
    assert_ne!(push.code, Some(0), "{push:?}");
    assert_eq!(place.at("main"), before);
    assert!(!push.stderr.contains(small.path().to_str().unwrap()), "{push:?}");
    place.sh("rm ~/fill").exits(0);
    place.sh("cd /tmp/app && git push -q origin HEAD:main").exits(0);
    assert_ne!(place.at("main"), before);
    let mut find = std::process::Command::new("find");
    let left = find.arg(small.path()).args(["-name", "incoming-*"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "", "nothing is left of the first");
}
