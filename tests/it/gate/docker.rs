//! The same with Docker: the gate is on this machine, and its relay fetches the connections out of the sidecar's
//! container.

use std::path::Path;
use std::time::{Duration, Instant};

use super::place::{NATIVE, Place, kill, lives, secret};
use crate::contract::docker::docker;
use crate::egress::world;
use crate::support;

/// How a bottle on Docker begins; `None`, and said, where that cannot be.
fn begins(what: &str) -> Option<String> {
    if !support::docker(what) {
        return None;
    }
    if std::env::var_os("BOTTLE_TEST_STATIC").is_none() {
        support::left_out(what, "it needs a static test build: BOTTLE_TEST_STATIC names one");
        return None;
    }
    Some(format!("backend: docker\nimage: docker:{}\n", world::image(what)?))
}

impl Place {
    fn docker(what: &str, more: &str) -> Option<Self> {
        let mut place = Self::on(&begins(what)?, more)?;
        place.cli.patience(Duration::from_secs(300));
        Some(place)
    }

    /// A container of this tree's.
    fn container(&self, sandbox: &str, kind: &str) -> String {
        let owner = format!("label=io.bottle.owner={}", self.tree.owner);
        let sandbox = format!("label=io.bottle.sandbox={sandbox}");
        let kind = format!("label=io.bottle.resource={kind}");
        let filters = ["--filter", &owner, "--filter", &sandbox, "--filter", &kind];
        docker(&[&["ps", "-q", "--no-trunc"], &filters[..]].concat()).expect("it lists")
    }

    /// The process of the relay: a child of the gate's.
    fn relay(&self) -> i32 {
        let gate = self.gate();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let found = children(gate).into_iter().find(|pid| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                line.split(|byte| *byte == 0).any(|word| word == b"relay")
            });
            match found {
                Some(pid) => return pid,
                None => assert!(Instant::now() < deadline, "there is no relay"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Tries until it goes well: what was killed comes again by itself.
    #[track_caller]
    fn soon(&self, script: &str) {
        let deadline = Instant::now() + Duration::from_secs(40);
        loop {
            let tried = self.sh(script);
            if tried.code == Some(0) {
                return;
            }
            assert!(Instant::now() < deadline, "{tried:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

fn children(of: i32) -> Vec<i32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let parent = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<i32>().ok()
    };
    pids.filter(|pid| parent(pid) == Some(of)).collect()
}

#[test]
fn clone_commit_push_and_go() {
    let more = "    Push: [main, 'agent/{sandbox}/*']\n";
    let Some(place) = Place::docker("git on docker", more) else { return };
    let applied = place.apply();
    assert!(applied.contains("widens: ") && applied.contains("agent/ada/*"), "{applied}");
    place.nothing_to_do();
    let url = place.url();
    let without = place.sh("command -v ssh");
    assert_ne!(without.code, Some(0), "the image has no ssh");
    place.sh(&format!("git clone -q {url} app && cat app/README")).exits(0);
    let pushed = place.sh(
        "cd app && echo two >>README && git commit -qam two && git push origin HEAD:main HEAD:agent/ada/x && \
         git rev-parse HEAD origin/main",
    );
    let pushed = pushed.exits(0);
    let head = place.at("main");
    assert_eq!(place.at("agent/ada/x"), head);
    let lines: Vec<&str> = pushed.stdout.lines().collect();
    assert_eq!(lines[..2], [head.as_str(), head.as_str()], "the tracking ref moves");
    assert!(place.record().contains(&head), "{}", place.record());
    let page = place.sh("cat /etc/bottle/git.md").exits(0).stdout;
    assert!(page.contains("agent/ada/*") && page.contains(&url), "{page}");
    // It is somebody else's push, and seen at once.
    let other = place.app.clone_of("other");
    other.write("more", "x");
    let theirs = other.commit("theirs");
    other.git(&["push", "-q", "origin", "HEAD:main"]);
    std::thread::sleep(Duration::from_millis(2100));
    let fetched = place.sh("cd app && git fetch -q && git rev-parse origin/main").exits(0);
    assert_eq!(fetched.stdout.trim(), theirs);
    place.nothing_to_do();
    let pid = place.gate();
    let relay = place.relay();
    place.run(&["down", "--yes", "--allow-teardown", "all", "--discard", "all"]).exits(0);
    assert!(!lives(pid) && !lives(relay), "a gate goes with its sandbox");
    let mut find = std::process::Command::new("find");
    let left = find.arg(place.cli.state()).args(["-name", "*.git"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "", "and so do its mirrors");
}

/// G30: the identity, and where it lies, are not on the engine; nothing is mounted or published for it.
#[test]
fn the_engine_knows_nothing_of_the_key() {
    let Some(place) = Place::docker("where a key is, on docker", "") else { return };
    place.apply();
    let url = place.url();
    place.sh(&format!("git clone -q {url} app")).exits(0);
    let identity = place.upstream.path("identity");
    let key = std::fs::read_to_string(&identity).unwrap();
    let canaries =
        [identity.to_str().unwrap(), key.lines().nth(1).unwrap(), key.lines().nth(3).unwrap()];
    let mut places = Vec::new();
    for kind in ["sidecar", "machine"] {
        let id = place.container("ada", kind);
        places.push(docker(&["inspect", &id]).unwrap());
        places.push(docker(&["logs", &id]).unwrap());
        places.push(docker(&["diff", &id]).unwrap());
        places.push(docker(&["top", &id, "axww"]).unwrap());
        let format = "{{.HostConfig.Binds}} {{.Mounts}} {{.HostConfig.PortBindings}} {{.NetworkSettings.Ports}}";
        let given = docker(&["inspect", "--format", format, &id]).unwrap();
        assert_eq!(given, "[] [] map[] map[]", "{kind}");
    }
    places.push(place.sh("cat /proc/*/environ /proc/*/cmdline 2>/dev/null; env").stdout);
    places.push(place.record());
    // The commands that wait in the sidecar's container, as the kernel has them.
    let waiting = docker(&["top", &place.container("ada", "sidecar"), "axww"]).unwrap();
    assert!(waiting.contains("sidecar gate"), "{waiting}");
    for line in waiting.lines() {
        let Some(pid) = line.split_whitespace().next().filter(|pid| pid.parse::<u32>().is_ok())
        else {
            continue;
        };
        for file in ["environ", "cmdline"] {
            let bytes = std::fs::read(Path::new("/proc").join(pid).join(file)).unwrap_or_default();
            places.push(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    for text in places {
        for canary in canaries {
            assert!(!text.contains(canary), "{canary}: {text}");
        }
    }
    // The relay itself has a way to the engine, and none to the key.
    let relay = place.relay();
    let environ = std::fs::read(format!("/proc/{relay}/environ")).unwrap_or_default();
    let environ = String::from_utf8_lossy(&environ);
    assert!(!canaries.iter().any(|canary| environ.contains(canary)), "{environ}");
    let status = std::fs::read_to_string(format!("/proc/{relay}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim().to_owned()
    };
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1".to_owned(), "2".to_owned()));
}

#[test]
fn a_secret_goes_nowhere_and_the_upstream_is_heard() {
    let Some(place) = Place::docker("a secret in a push, on docker", "") else { return };
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
    assert!(!place.app.holds(&secret) && !place.record().contains(&secret));
    // A branch that the upstream protects.
    place.app.hook(
        "pre-receive",
        "#!/bin/sh\nprintf 'main is \\033[31mprotected\\033[0m\\n' >&2\nexit 1\n",
    );
    let clean =
        "cd app && git reset -q --hard origin/main && echo z >z && git add z && git commit -qm z";
    let push = place.sh(&format!("{clean} && git push origin HEAD:main"));
    assert_ne!(push.code, Some(0), "{push:?}");
    assert!(push.stderr.contains("protected") && push.stderr.contains("hook declined"), "{push:?}");
    assert!(!push.stderr.contains('\u{1b}'), "{push:?}");
    assert_eq!(place.at("main"), before);
    std::fs::remove_file(place.app.0.join("hooks/pre-receive")).unwrap();
    place.sh("cd app && git push -q origin HEAD:main").exits(0);
    assert_ne!(place.at("main"), before);
}

/// G29: what is killed is told within five seconds, and comes again.
#[test]
fn whatever_is_killed_is_told_and_comes_again() {
    let Some(place) = Place::docker("a gate that is killed, on docker", "") else { return };
    place.apply();
    let url = place.url();
    place.sh(&format!("git clone -q {url} app")).exits(0);
    let gate = place.gate();
    // The relay is started again by the gate.
    let relay = place.relay();
    kill(relay);
    place.soon("cd app && git fetch -q");
    assert_ne!(place.relay(), relay);
    assert_eq!(place.gate(), gate);
    place.nothing_to_do();
    // The gate takes its relay along, and git is told.
    let relay = place.relay();
    kill(gate);
    let begun = Instant::now();
    let asked = place.sh("cd app && timeout 30 git fetch");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_ne!(asked.code, Some(0), "{asked:?}");
    let sentence = "remote error: bottle: the git gate does not answer: ";
    assert!(asked.stderr.contains(sentence), "{asked:?}");
    assert!(!lives(relay), "it has ended with the gate");
    let planned = place.run(&["plan"]).exits(2).stdout;
    assert!(planned.contains("gate") && !planned.contains("machine"), "{planned}");
    place.apply();
    place.soon("cd app && git fetch -q && echo x >x && git add x && git commit -qm x && git push -q origin HEAD:main");
    place.nothing_to_do();
    // The sidecar's process: the engine starts it again, and the gate stays.
    let gate = place.gate();
    let sidecar = place.container("ada", "sidecar");
    docker(&["kill", &sidecar]).unwrap();
    docker(&["start", &sidecar]).unwrap();
    place.soon("cd app && git fetch -q");
    assert_eq!(place.gate(), gate);
    // Another container in its place.
    docker(&["rm", "--force", &sidecar]).unwrap();
    place.apply();
    assert_ne!(place.container("ada", "sidecar"), sidecar);
    assert_eq!(place.gate(), gate);
    place.soon("cd app && git fetch -q && git ls-remote origin main");
    place.run(&["restart", "ada"]).exits(0);
    place.soon("cd app && git fetch -q");
    assert_eq!(place.gate(), gate);
    place.nothing_to_do();
}

/// One whose relay cannot reach the engine any more, and does not know it: trap of a connection that is swallowed.
#[test]
fn a_relay_that_stands_still_swallows_nothing() {
    let Some(place) = Place::docker("a relay that stands still", "") else { return };
    place.apply();
    let url = place.url();
    place.sh(&format!("git clone -q {url} app")).exits(0);
    let relay = place.relay();
    let pid = rustix::process::Pid::from_raw(relay).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let begun = Instant::now();
    let asked = place.sh("cd app && timeout 30 git fetch");
    let took = begun.elapsed();
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    assert!(asked.stderr.contains("the git gate does not answer"), "{asked:?}");
    assert!(took < Duration::from_secs(8), "{took:?}");
    place.soon("cd app && git fetch -q");
    assert_eq!(place.relay(), relay);
}

#[test]
fn much_at_once_is_carried_byte_for_byte() {
    let Some(place) = Place::docker("much through a relay", "") else { return };
    place.apply();
    let url = place.url();
    let made = place.sh(&format!(
        "git clone -q {url} app && cd app && head -c 60000000 /dev/urandom >big && sha256sum <big && \
         git add big && git commit -qm big && git push -q origin HEAD:main"
    ));
    let made = made.exits(0).stdout;
    let digest = made.split_whitespace().next().unwrap();
    let pushed = place.app.clone_of("check");
    let mut sum = std::process::Command::new("sha256sum");
    let there = sum.arg(pushed.0.join("big")).output().unwrap();
    assert!(
        String::from_utf8_lossy(&there.stdout).starts_with(digest),
        "what was pushed is another"
    );
    let cloned = place.sh(&format!("git clone -q {url} again && sha256sum <again/big")).exits(0);
    assert!(cloned.stdout.starts_with(digest), "what was cloned is another");
    // Five at once, each a connection, and more than wait at any time.
    let five = "for n in 1 2 3 4 5; do (git clone -q --depth 1 URL at-$n && sha256sum <at-$n/big >sum-$n) & done; wait; \
                cat sum-1 sum-2 sum-3 sum-4 sum-5";
    let five = place.sh(&five.replace("URL", &url)).exits(0).stdout;
    assert_eq!(five.lines().filter(|line| line.starts_with(digest)).count(), 5, "{five}");
}

/// G24: an agent that hangs up ends what was begun for it.
#[test]
fn who_hangs_up_ends_what_was_begun() {
    let Some(place) = Place::docker("an agent that hangs up", "") else { return };
    place.apply();
    let url = place.url();
    place.sh(&format!("git clone -q {url} app")).exits(0);
    // An upstream that says nothing: ssh by itself would wait for fifteen seconds.
    std::thread::sleep(Duration::from_millis(2100));
    place.upstream.stand_still(true);
    place.sh("cd app && (timeout -s KILL 3 git fetch -q; true)").exits(0);
    let gate = place.gate();
    let deadline = Instant::now() + Duration::from_secs(6);
    let ssh = || {
        let mut all = children(gate);
        all.extend(all.clone().into_iter().flat_map(children));
        all.into_iter().any(|pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            matches!(name.trim(), "ssh" | "git")
        })
    };
    while ssh() {
        assert!(Instant::now() < deadline, "its ssh goes on");
        std::thread::sleep(Duration::from_millis(100));
    }
    place.upstream.stand_still(false);
    place.sh("cd app && git fetch -q").exits(0);
}

/// G30: of another sandbox, and of another tree with the same names.
#[test]
fn nobody_reaches_the_gate_of_another() {
    let Some(place) = Place::docker("gates of two sandboxes", "") else { return };
    place.tree.agent("ben", "dev", "", "You are Ben.");
    place.apply();
    let Some(other) = Place::docker("gates of two trees", "") else { return };
    other.apply();
    let (url, theirs) = (place.url(), other.url());
    place.sh(&format!("git clone -q {url} app")).exits(0);
    let asked = url.trim_end_matches(".git").replace("ssh://", "git://git.bottle/");
    let ended = other.sh(&format!("git clone -q {theirs} app && git ls-remote {asked}"));
    assert!(ended.stderr.contains("none of this sandbox's repositories"), "{ended:?}");
    // The sidecars of the others, by their addresses.
    let address = |of: &Place, sandbox: &str| {
        let network = format!("bottle-{}-{sandbox}", of.tree.owner);
        let format = format!("{{{{(index .NetworkSettings.Networks {network:?}).IPAddress}}}}");
        docker(&["inspect", "--format", &format, &of.container(sandbox, "sidecar")]).unwrap()
    };
    for at in [address(&place, "ben"), address(&other, "ada")] {
        let tried =
            place.sh(&format!("timeout 4 bash -c 'exec 3<>/dev/tcp/{at}/9418 && echo reached'"));
        assert!(!tried.stdout.contains("reached"), "{at}: {tried:?}");
    }
    let own = address(&place, "ada");
    place.sh(&format!("bash -c 'exec 3<>/dev/tcp/{own}/9418'")).exits(0);
}

#[test]
fn it_moves_with_its_sandbox() {
    let Some(docker) = begins("a gate that moves") else { return };
    let Some(mut place) = Place::on(NATIVE, "") else { return };
    place.cli.patience(Duration::from_secs(300));
    let move_to = |place: &mut Place, begins: &str| {
        place.moves(begins);
        place.write(&place.entry(""));
        place.run(&["apply", "--yes", "--allow-teardown", "all", "--discard", "all"]).exits(0);
        place.nothing_to_do();
    };
    let url = place.url();
    let works =
        format!("rm -rf app && git clone -q {url} app && cd app && git ls-remote origin main");
    place.apply();
    place.sh(&works).exits(0);
    let native = place.gate();
    move_to(&mut place, &docker);
    assert!(!lives(native));
    place.sh(&works).exits(0);
    let there = place.gate();
    // Renamed, it keeps what it has.
    place.tree.remove("agents/ada.md").agent("grace", "dev", "was: ada", "You are Grace.");
    place.run(&["apply", "--yes"]).exits(0);
    assert_eq!(place.gate(), there, "it stays");
    let asked = place.run(&["exec", "grace", "--", "sh", "-c", &format!("cd; {works}")]);
    asked.exits(0);
    place.tree.remove("agents/grace.md").agent("ada", "dev", "was: grace", "You are Ada.");
    place.run(&["apply", "--yes"]).exits(0);
    move_to(&mut place, NATIVE);
    assert!(!lives(there));
    place.sh(&works).exits(0);
}

/// A section that comes to a sandbox that has an egress replaces nothing, and leaves nothing when it goes.
#[test]
fn it_comes_and_goes_while_the_machine_stays() {
    let Some(begins) = begins("a gate that comes") else { return };
    let Some(place) = Place::on(&begins, "") else { return };
    let egress = "egress:\n  allowlist: [example.com]\n";
    place.tree.bottle("dev", &format!("{begins}{egress}"));
    place.apply();
    let (machine, sidecar) = (place.container("ada", "machine"), place.container("ada", "sidecar"));
    let url = place.url();
    let entry = place.entry("");
    place.write_with(egress, &entry);
    let planned = place.run(&["plan"]).exits(2).stdout;
    assert!(planned.contains("widens: "), "{planned}");
    place.apply();
    assert_eq!(place.container("ada", "machine"), machine);
    assert_eq!(place.container("ada", "sidecar"), sidecar);
    place.sh(&format!("git ls-remote {url} main")).exits(0);
    place.nothing_to_do();
    let gate = place.gate();
    place.tree.bottle("dev", &format!("{begins}{egress}"));
    place.apply();
    assert!(!lives(gate));
    assert_eq!(place.container("ada", "sidecar"), sidecar);
    let asked = place.sh(&format!("timeout 20 git ls-remote {url} main; ls /etc/bottle/git.md"));
    assert!(!asked.stdout.contains("git.md"), "{asked:?}");
    place.nothing_to_do();
}

/// A way to the engine over TCP, which can be cut.
struct Way {
    port: u16,
    open: std::sync::Arc<std::sync::Mutex<Option<Vec<std::net::TcpStream>>>>,
}

impl Way {
    fn open() -> Self {
        use std::os::unix::net::UnixStream;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let open = std::sync::Arc::new(std::sync::Mutex::new(Some(Vec::new())));
        let of = std::sync::Arc::clone(&open);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let mut open = of.lock().unwrap();
                let Some(all) = open.as_mut() else { continue };
                let Ok(far) = UnixStream::connect(crate::contract::docker::socket()) else {
                    continue;
                };
                all.push(near.try_clone().unwrap());
                let (mut from_near, mut to_far) =
                    (near.try_clone().unwrap(), far.try_clone().unwrap());
                std::thread::spawn(move || {
                    std::io::copy(&mut from_near, &mut to_far).ok();
                    to_far.shutdown(std::net::Shutdown::Write).ok();
                });
                let (mut from_far, mut to_near) = (far, near);
                std::thread::spawn(move || {
                    std::io::copy(&mut from_far, &mut to_near).ok();
                    to_near.shutdown(std::net::Shutdown::Both).ok();
                });
            }
        });
        Self { port, open }
    }

    /// Ends all that go over it, and lets no other come.
    fn cut(&self) {
        for stream in self.open.lock().unwrap().take().into_iter().flatten() {
            stream.shutdown(std::net::Shutdown::Both).ok();
        }
    }

    fn mend(&self) {
        *self.open.lock().unwrap() = Some(Vec::new());
    }
}

/// An engine at an address, and one that was away for a while, as in a restart.
#[test]
fn an_engine_elsewhere_may_go_and_come() {
    let Some(mut place) = Place::docker("a gate of an engine elsewhere", "") else { return };
    let way = Way::open();
    place.cli.env("DOCKER_HOST", format!("tcp://127.0.0.1:{}", way.port));
    place.apply();
    let url = place.url();
    place.sh(&format!("git clone -q {url} app && cd app && echo x >x && git add x && git commit -qm x && git push -q origin HEAD:main"))
        .exits(0);
    let (gate, relay) = (place.gate(), place.relay());
    way.cut();
    // Inside, somebody still fetches; the engine knows of no client.
    let machine = place.container("ada", "machine");
    let inside =
        |script: &str| docker(&["exec", &machine, "sh", "-c", &format!("cd; cd app; {script}")]);
    let begun = Instant::now();
    let told = inside("timeout 30 git fetch").expect_err("the way is cut");
    assert!(told.contains("the git gate does not answer"), "{told}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    way.mend();
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(said) = inside("timeout 30 git fetch -q") {
        assert!(Instant::now() < deadline, "{said}");
    }
    assert_eq!((place.gate(), place.relay()), (gate, relay), "neither was started anew");
    place.nothing_to_do();
    let record = place.record();
    assert!(record.contains("\"relay\"") && record.contains("no connections come: "), "{record}");
    // Another way to it is another engine, as far as anybody knows: the relay is told, and the gate stays.
    let other = Way::open();
    place.cli.env("DOCKER_HOST", format!("tcp://127.0.0.1:{}", other.port));
    let planned = place.run(&["plan"]).exits(2).stdout;
    assert!(planned.contains("is not attached") && !planned.contains("replace"), "{planned}");
    place.apply();
    way.cut();
    assert_eq!(place.gate(), gate);
    place.soon("cd app && git fetch -q");
    place.nothing_to_do();
}
