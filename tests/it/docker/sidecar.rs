//! The sidecar's container, its networks and its image: hardened, mended, and gone when they should be.

use std::path::PathBuf;

use bottle::model::{Fields, NetworkSpec, ResourceKind, SidecarSpec};

use super::*;
use crate::contract::sidecar::DOCUMENT;

/// A sandbox with a sidecar, all of it running.
pub(super) struct Sandbox {
    pub(super) network: Instance,
    pub(super) sidecar: Instance,
    pub(super) machine: Instance,
}

pub(super) fn network(name: &str) -> NetworkSpec {
    NetworkSpec { sandbox: named(name), fields: Fields::default(), pool: None }
}

fn sidecar(name: &str) -> ResourceSpec {
    let policy = Arc::default();
    ResourceSpec::Sidecar(SidecarSpec {
        sandbox: named(name),
        fields: Fields::default(),
        policy,
        proxy: None,
    })
}

fn connected(name: &str) -> MachineSpec {
    MachineSpec { sandbox: named(name), connected: true, ..busybox() }
}

impl Corner {
    pub(super) async fn network(&self, name: &str) -> Result<Instance, BackendError> {
        self.backend.create(&self.scope, &ResourceSpec::Network(network(name))).await
    }

    pub(super) async fn sidecar(&self, name: &str) -> Instance {
        let made = self.backend.create(&self.scope, &sidecar(name)).await.expect("creating");
        let sidecar = self.backend.start(&self.scope, &made).await.expect("starting");
        let loaded = self.backend.load(&self.scope, &sidecar, DOCUMENT.into()).await;
        loaded.expect("loading");
        sidecar
    }

    pub(super) async fn sandbox(&self, name: &str) -> Sandbox {
        self.prepare(&connected(name)).await.expect("preparing");
        let network = self.network(name).await.expect("creating the network");
        let sidecar = self.sidecar(name).await;
        let machine = self.run(&connected(name)).await;
        Sandbox { network, sidecar, machine }
    }

    async fn teardown(&self, parts: &[&Instance]) {
        for part in parts {
            self.backend.teardown(&self.scope, part).await.expect("tearing down");
        }
    }

    async fn part(&self, depth: Depth, kind: ResourceKind) -> Instance {
        let seen = self.observe(depth).await.instances;
        let mut parts = seen.into_iter().filter(|instance| instance.resource == kind);
        parts.next().expect("it is there")
    }

    fn carriers(&self) -> Vec<String> {
        let name = format!("name=^bottle-{}-.*.carrier$", self.scope.owner);
        let ids = docker(&["network", "ls", "--quiet", "--filter", &name]).expect("it lists");
        ids.lines().map(str::to_owned).collect()
    }

    fn uplinks(&self) -> Vec<String> {
        let name = format!("name=^bottle-{}.uplink$", self.scope.owner);
        let ids = docker(&["network", "ls", "--quiet", "--filter", &name]).expect("it lists");
        ids.lines().map(str::to_owned).collect()
    }

    /// A program of this corner's own: nobody else uses its image.
    fn own_program(&self) -> PathBuf {
        let mut bytes = std::fs::read(sidecar_program()).expect("it can be read");
        // What stands behind the end of an executable is nobody's business.
        bytes.extend_from_slice(self.scope.owner.as_str().as_bytes());
        let path = self.folder.path().join("program");
        std::fs::write(&path, bytes).expect("it can be written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("it is ours");
        path
    }

    fn with_program(mut self, program: PathBuf) -> Self {
        self.backend =
            Docker::new(Settings { sidecar_program: Some(program), ..Settings::from_env() });
        self
    }
}

pub(super) fn inspect(id: &str, format: &str) -> String {
    docker(&["inspect", "--format", format, id]).expect("it is there")
}

/// X09, X16: made of one file, known by its digest, and able to do nothing else.
#[tokio::test]
async fn the_sidecar_is_hardened() {
    let Some(corner) = Corner::new("hard") else { return };
    let made = corner.sandbox("ada").await;
    let id = made.sidecar.id.0.as_str();
    for (format, value) in [
        ("{{.Config.User}}", "65532:65532"),
        ("{{.HostConfig.ReadonlyRootfs}}", "true"),
        ("{{.HostConfig.Privileged}}", "false"),
        ("{{.HostConfig.CapDrop}} {{.HostConfig.CapAdd}}", "[ALL] []"),
        ("{{.HostConfig.SecurityOpt}}", "[no-new-privileges]"),
        ("{{.HostConfig.Binds}} {{.HostConfig.Devices}} {{.Mounts}}", "[] [] []"),
        (
            "{{len .HostConfig.Tmpfs}}{{range $path, $_ := .HostConfig.Tmpfs}} {{$path}}{{end}}",
            "1 /run/bottle",
        ),
        ("{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}}", "100663296 100663296"),
        ("{{.HostConfig.PidsLimit}} {{.HostConfig.NanoCpus}}", "128 1000000000"),
        ("{{.HostConfig.PidMode}}{{.HostConfig.UTSMode}}{{.HostConfig.UsernsMode}}", ""),
        ("{{.HostConfig.IpcMode}}", "private"),
        ("{{.HostConfig.RestartPolicy.Name}}", "always"),
        ("{{.HostConfig.PortBindings}} {{.NetworkSettings.Ports}}", "map[] map[]"),
        ("{{index .HostConfig.Sysctls \"net.ipv4.ip_forward\"}}", "0"),
    ] {
        assert_eq!(inspect(id, format), value, "{format}");
    }
    // By id, and what that id means is one file in an empty root.
    assert!(inspect(id, "{{.Config.Image}}").starts_with("sha256:"));
    let shell = corner.sh(&made.sidecar, "true").await;
    assert_eq!(shell.code, 127, "there is no shell: {shell:?}");
    let root = ExecSpec::new(["/bottle", "sidecar", "state", "--control", "/nowhere"]);
    let said = corner.backend.exec(&corner.scope, &made.sidecar, &root, Bytes::new()).await;
    assert_eq!(said.expect("it runs").code, 1);
    // The process itself, as the kernel has it.
    let pid = inspect(id, "{{.State.Pid}}");
    if let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) {
        let line = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(line("Uid:"), "65532 65532 65532 65532");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(u64::from_str_radix(&line(set), 16), Ok(0), "{set}");
        }
        assert_eq!((line("NoNewPrivs:").as_str(), line("Seccomp:").as_str()), ("1", "2"));
        support::keeps_to_itself(&pid);
    }
    assert_eq!(corner.part(Depth::Deep, ResourceKind::Sidecar).await.drift, []);
}

/// C17, X08: not in what the engine says of any part.
#[tokio::test]
async fn what_it_is_given_is_found_nowhere_on_the_engine() {
    let Some(corner) = Corner::new("canary") else { return };
    let made = corner.sandbox("ada").await;
    let canary = format!("canary{}", support::unique("value").replace('-', ""));
    let body = DOCUMENT.strip_suffix('}').expect("it is an object");
    let document = format!(r#"{body},"credentials":{{"TOKEN":"{canary}"}}}}"#);
    let loaded = corner.backend.load(&corner.scope, &made.sidecar, document.into()).await;
    loaded.expect("loading");
    // One that is refused says why, and not what it was.
    let refused = format!("[{canary}");
    let refused = corner.backend.load(&corner.scope, &made.sidecar, refused.into()).await;
    let refused = text(refused.expect_err("it is no document"));
    assert!(!refused.contains(&canary), "{refused}");
    let state = corner.backend.sidecar_state(&corner.scope, &made.sidecar).await.expect("asking");
    let mut places = vec![("state", String::from_utf8_lossy(&state).into_owned())];
    for part in [&made.sidecar, &made.machine, &made.network] {
        let id = part.id.0.as_str();
        places.push(("inspect", docker(&["inspect", id]).expect("it is there")));
        if part.resource == ResourceKind::Network {
            continue;
        }
        places.push(("logs", docker(&["logs", id]).expect("it has a log")));
        places.push(("changes", docker(&["diff", id]).expect("it can be compared")));
        places.push(("processes", docker(&["top", id, "axww"]).expect("it runs")));
        let image = inspect(id, "{{.Image}}");
        places.push(("image", docker(&["image", "inspect", &image]).expect("it is there")));
        places.push(("history", docker(&["history", "--no-trunc", &image]).expect("it is there")));
    }
    places.push((
        "guest",
        corner.says(&made.machine, "cat /proc/*/environ /proc/*/cmdline 2>&1; env").await,
    ));
    for (place, text) in places {
        assert!(!text.contains(&canary), "{place}: {text}");
    }
}

#[tokio::test]
async fn a_sidecar_that_was_killed_comes_again_and_has_forgotten() {
    let Some(corner) = Corner::new("killed") else { return };
    let made = corner.sandbox("ada").await;
    let pid = inspect(&made.sidecar.id.0, "{{.State.Pid}}").parse().expect("a number");
    let pid = rustix::process::Pid::from_raw(pid).expect("it runs");
    if rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_err() {
        support::left_out(
            "a sidecar that is killed",
            "only root may kill it, on the engine's own host",
        );
        return;
    }
    let again = async || {
        for _ in 0..300 {
            let seen = corner.part(Depth::Listing, ResourceKind::Sidecar).await;
            if seen.state == InstanceState::Running && seen.boot != made.sidecar.boot {
                return seen;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("it does not come again");
    };
    let seen = again().await;
    assert_eq!((&seen.id, &seen.mendable[..]), (&made.sidecar.id, &[][..]));
    corner.backend.load(&corner.scope, &seen, DOCUMENT.into()).await.expect("loading");
    let mode = inspect(&seen.id.0, "{{.HostConfig.Tmpfs}}");
    assert!(mode.contains("mode=0700"), "{mode}");
    let deep = corner.part(Depth::Deep, ResourceKind::Sidecar).await;
    assert_eq!((deep.drift, deep.mendable), (vec![], vec![]));
}

/// Stopped by a signal, or paused, while it is listed or while it is loaded: it is seen, it is started
/// again, it is loaded, and no other waits.
#[tokio::test]
async fn a_sidecar_that_hangs_is_started_again() {
    let Some(corner) = Corner::new("hangs") else { return };
    let made = corner.sandbox("ada").await;
    let other = corner.sandbox("bea").await;
    let id = made.sidecar.id.0.clone();
    let stop = || {
        let pid = inspect(&id, "{{.State.Pid}}").parse().expect("a number");
        let pid = rustix::process::Pid::from_raw(pid).expect("it runs");
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).is_ok()
    };
    if !stop() {
        let why = "only root may stop it, on the engine's own host";
        return support::left_out("a sidecar that hangs", why);
    }
    let seen = async || {
        let seen = corner.observe(Depth::Listing).await.instances;
        seen.into_iter().find(|instance| instance.id.0 == id).expect("it is there")
    };
    let hung = seen().await;
    assert_eq!(hung.state, InstanceState::Paused, "{hung:#?}");
    assert!(hung.notes.iter().any(|note| note.contains("does not answer")), "{hung:#?}");
    let begun = std::time::Instant::now();
    let started = corner.backend.start(&corner.scope, &hung).await.expect("starting");
    assert_ne!(started.boot, made.sidecar.boot, "its memory is gone, and that is told");
    corner.backend.load(&corner.scope, &started, DOCUMENT.into()).await.expect("loading");
    assert!(begun.elapsed() < std::time::Duration::from_secs(8), "{:?}", begun.elapsed());

    docker(&["pause", &id]).expect("it can be paused");
    let paused = seen().await;
    assert_eq!(paused.state, InstanceState::Paused);
    let started = corner.backend.start(&corner.scope, &paused).await.expect("starting");
    assert_eq!(started.state, InstanceState::Running);
    corner.backend.load(&corner.scope, &started, DOCUMENT.into()).await.expect("loading");

    // Between the look and the load.
    assert!(stop());
    let begun = std::time::Instant::now();
    let loading = corner.backend.load(&corner.scope, &started, DOCUMENT.into());
    let beside = async {
        let begun = std::time::Instant::now();
        let loaded = corner.backend.load(&corner.scope, &other.sidecar, DOCUMENT.into()).await;
        loaded.expect("loading the other");
        begun.elapsed()
    };
    let (loaded, beside) = tokio::join!(loading, beside);
    loaded.expect("loading");
    assert!(begun.elapsed() < std::time::Duration::from_secs(15), "{:?}", begun.elapsed());
    assert!(beside < std::time::Duration::from_secs(4), "{beside:?}");
    assert_eq!(seen().await.state, InstanceState::Running);
}

#[tokio::test]
async fn networks_that_were_changed_by_hand_are_seen_and_mended() {
    let Some(corner) = Corner::new("wired") else { return };
    let made = corner.sandbox("ada").await;
    let (own, uplink) =
        (made.network.name.as_str(), format!("bottle-{}.uplink", corner.scope.owner));
    let at = |id: &str| {
        let end = format!(
            "{{{{with index .NetworkSettings.Networks \"{own}\"}}}}{{{{.IPAddress}}}}{{{{end}}}}"
        );
        inspect(id, &end)
    };
    let places = (at(&made.sidecar.id.0), at(&made.machine.id.0));
    let carrier = format!("{own}.carrier");
    let disturb: [(&Instance, &[&[&str]]); 6] = [
        (&made.machine, &[&["connect", "bridge"]]),
        (&made.machine, &[&["disconnect", own]]),
        (&made.machine, &[&["disconnect", own], &["connect", "bridge"]]),
        (&made.sidecar, &[&["disconnect", &uplink]]),
        (&made.sidecar, &[&["disconnect", &carrier]]),
        (&made.sidecar, &[&["disconnect", own], &["connect", own]]),
    ];
    for (part, steps) in disturb {
        for step in steps {
            let id = part.id.0.as_str();
            let args = ["network", step[0], step[1], id];
            docker(&args).expect("it can be changed");
        }
        // Another address than its own is a difference too; where it got the same, there is none.
        let seen = corner.part(Depth::Listing, part.resource).await;
        let moved = at(&made.sidecar.id.0) != places.0 || at(&made.machine.id.0) != places.1;
        let names = inspect(&part.id.0, "{{len .NetworkSettings.Networks}}");
        let wrong =
            moved || names != if part.resource == ResourceKind::Sidecar { "3" } else { "1" };
        assert_eq!(!seen.mendable.is_empty(), wrong, "{steps:?}: {seen:#?}");
        assert_eq!(seen.drift, [], "{steps:?}");
        for _ in 0..2 {
            corner.backend.mend(&corner.scope, &seen).await.expect("mending");
        }
        let mended = corner.part(Depth::Deep, part.resource).await;
        assert_eq!((mended.drift, mended.mendable), (vec![], vec![]), "{steps:?}");
        assert_eq!((at(&made.sidecar.id.0), at(&made.machine.id.0)), places, "{steps:?}");
    }
    let alias = format!("{{{{(index .NetworkSettings.Networks \"{own}\").Aliases}}}}");
    assert!(inspect(&made.sidecar.id.0, &alias).contains("sidecar"));
}

/// The engine on a port, as one of another machine: its files cannot be read from here.
async fn far(settings: Settings) -> Docker {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        while let Ok((mut ours, _)) = listener.accept().await {
            tokio::spawn(async move {
                let engine = UnixStream::connect(super::socket()).await;
                let mut engine = engine.expect("the tests have a local engine");
                tokio::io::copy_bidirectional(&mut ours, &mut engine).await.ok();
            });
        }
    });
    Docker::new(Settings { host: Some(format!("tcp://127.0.0.1:{port}")), ..settings })
}

/// The hosts file is read and written with no program that the image puts first, and from no folder of its.
#[tokio::test]
async fn no_program_of_the_images_own_says_what_the_hosts_file_holds() {
    let Some(corner) = Corner::new("ownpath") else { return };
    let image = format!("{}:1", corner.name("path"));
    let id = docker(&["create", BUSYBOX, "sh", "-c", "mkdir /evil /gone"]).expect("it is made");
    let id = id.trim();
    docker(&["start", "--attach", id]).expect("it runs");
    let path = "ENV PATH=/evil:/usr/sbin:/usr/bin:/sbin:/bin";
    let changes = ["--change", path, "--change", "WORKDIR /gone", "--change", "CMD [\"sh\"]"];
    docker(&[&["commit"], &changes[..], &[id, &image]].concat()).expect("it can be committed");
    docker(&["rm", id]).expect("it can go");

    let spec =
        MachineSpec { image: ImageRef::DockerLocal(image), connected: true, ..connected("ada") };
    corner.prepare(&spec).await.expect("preparing");
    corner.network("ada").await.expect("creating the network");
    corner.sidecar("ada").await;
    let machine = corner.run(&spec).await;
    let root = |script: &str| {
        let script = format!("set -e; PATH=/usr/sbin:/usr/bin:/sbin:/bin; {script}");
        docker(&["exec", "-u", "0", "-w", "/", &machine.id.0, "/bin/sh", "-c", &script])
            .unwrap_or_else(|error| panic!("{script}: {error}"))
    };
    // The programs say that nothing is missing, and that all went well.
    let script = "grep sidecar /etc/hosts > /evil/line; \
         for name in cat printf sh; do \
         printf '#!/bin/sh\n: > /evil/ran\n/bin/cat /evil/line\n' > /evil/$name; chmod 755 /evil/$name; \
         done; grep -v sidecar /etc/hosts > /evil/rest; cat /evil/rest > /etc/hosts; rmdir /gone; \
         ! grep sidecar /etc/hosts";
    root(script);
    let far = far(settings()).await;
    let seen = far.observe(&corner.scope, Depth::Deep).await.expect("observing").instances;
    let seen = seen.into_iter().find(|part| part.id == machine.id).expect("it is there");
    assert_eq!(seen.mendable.len(), 1, "{seen:#?}");
    for _ in 0..2 {
        far.mend(&corner.scope, &seen).await.expect("mending");
        assert_eq!(root("grep -c sidecar /etc/hosts").trim(), "1");
    }
    root("[ ! -e /evil/ran ]");
    let mended = corner.part(Depth::Deep, ResourceKind::Machine).await;
    assert_eq!((mended.drift, mended.mendable), (vec![], vec![]));
}

#[tokio::test]
async fn what_outlived_its_networks_is_attached_to_the_new_ones() {
    let Some(corner) = Corner::new("stale") else { return };
    let made = corner.sandbox("ada").await;
    let wrote = corner.sh(&made.machine, "echo kept > /tmp/kept").await;
    assert_eq!(wrote.code, 0);
    docker(&["stop", &made.sidecar.id.0, &made.machine.id.0]).expect("they can be stopped");
    let uplink = corner.uplinks();
    let carrier = format!("{}.carrier", made.network.name);
    docker(&["network", "rm", &made.network.id.0, &carrier, &uplink[0]])
        .expect("nothing is on them");
    for kind in [ResourceKind::Sidecar, ResourceKind::Machine] {
        let seen = corner.part(Depth::Listing, kind).await;
        assert_eq!((seen.mendable.len(), seen.drift.len()), (1, 0), "{seen:#?}");
        assert!(seen.mendable[0].from.as_deref().unwrap_or_default().contains("removed since"));
    }
    // The new one is where the old one was: its parts have their addresses by heart.
    corner.network("ada").await.expect("creating the network again");
    for kind in [ResourceKind::Sidecar, ResourceKind::Machine] {
        let seen = corner.part(Depth::Listing, kind).await;
        assert_eq!((seen.mendable.len(), seen.drift.len()), (1, 0), "{seen:#?}");
        corner.backend.mend(&corner.scope, &seen).await.expect("mending");
        corner.backend.start(&corner.scope, &seen).await.expect("starting");
        let mended = corner.part(Depth::Deep, kind).await;
        assert_eq!((mended.drift, mended.mendable), (vec![], vec![]));
    }
    corner.backend.load(&corner.scope, &made.sidecar, DOCUMENT.into()).await.expect("loading");
    assert_eq!(corner.says(&made.machine, "cat /tmp/kept").await, "kept");

    // Where that subnet was taken meanwhile, they cannot follow, and are made anew.
    docker(&["rm", "--force", &made.sidecar.id.0]).expect("it can be removed");
    docker(&["stop", &made.machine.id.0]).expect("it can be stopped");
    let own = corner.part(Depth::Listing, ResourceKind::Network).await.id.0;
    let subnet = docker(&[
        "network",
        "inspect",
        "--format",
        "{{range .IPAM.Config}}{{.Subnet}}{{end}}",
        &own,
    ]);
    let subnet = subnet.expect("it is there");
    docker(&["network", "rm", &own]).expect("nothing is on it");
    let label = format!("io.bottle.test={}", support::run_id());
    let other = corner.name("thief");
    docker(&["network", "create", "--label", &label, "--subnet", &subnet, &other])
        .expect("it is free");
    let made = corner.network("ada").await;
    let seen = corner.part(Depth::Listing, ResourceKind::Machine).await;
    docker(&["network", "rm", &other]).expect("it was left alone");
    made.expect("there are other subnets");
    assert_eq!(seen.drift.len(), 1, "{seen:#?}");
    assert_eq!(seen.drift[0].path, "address");
}

#[tokio::test]
async fn a_network_that_lost_its_walls_is_made_anew_under_what_runs() {
    let Some(corner) = Corner::new("carried") else { return };
    let made = corner.sandbox("ada").await;
    assert_eq!(corner.sh(&made.machine, "echo kept > /tmp/kept").await.code, 0);
    let (own, sidecar) = (made.network.name.clone(), made.sidecar.id.0.clone());
    let carrier = format!("{own}.carrier");
    let all = [ResourceKind::Network, ResourceKind::Sidecar, ResourceKind::Machine];
    let losses: [&[&[&str]]; 2] = [
        &[&["disconnect", "--force", &carrier, &sidecar], &["rm", &carrier]],
        // The engine forgets what was on it: the bridge and the network, one after the other.
        &[
            &["disconnect", "--force", &carrier, &sidecar],
            &["disconnect", "--force", &own, &sidecar],
            &["rm", &carrier],
        ],
    ];
    for (turn, steps) in losses.into_iter().enumerate() {
        for step in steps {
            let args: Vec<&str> = ["network"].into_iter().chain(step.iter().copied()).collect();
            docker(&args).expect("it can be changed");
        }
        for kind in all {
            let seen = corner.part(Depth::Listing, kind).await;
            assert_eq!((seen.mendable.len(), seen.drift.len()), (1, 0), "{turn}: {seen:#?}");
        }
        for kind in all {
            let seen = corner.part(Depth::Listing, kind).await;
            corner.backend.mend(&corner.scope, &seen).await.expect("mending");
        }
        for kind in all {
            let mended = corner.part(Depth::Deep, kind).await;
            assert_eq!((mended.drift, mended.mendable), (vec![], vec![]), "{turn}: {kind}");
            assert_eq!(mended.state, InstanceState::Running, "{turn}: {kind}");
        }
        assert_eq!(corner.carriers().len(), 1, "{turn}");
        let machine = corner.part(Depth::Deep, ResourceKind::Machine).await;
        assert_eq!(machine.id, made.machine.id, "{turn}");
        assert_eq!(corner.says(&made.machine, "cat /tmp/kept").await, "kept", "{turn}");
    }
}

#[tokio::test]
async fn two_appliers_at_once_make_one_network_and_many_make_many() {
    let Some(corner) = Corner::new("race") else { return };
    let other = Docker::new(settings());
    let spec = ResourceSpec::Network(network("ada"));
    for _ in 0..5 {
        let (one, two) = tokio::join!(
            corner.backend.create(&corner.scope, &spec),
            other.create(&corner.scope, &spec)
        );
        let (one, two) = (one.expect("creating"), two.expect("creating"));
        assert_eq!(one.id, two.id);
        let seen = corner.observe(Depth::Listing).await.instances;
        assert_eq!(seen.len(), 1, "{seen:#?}");
        assert_eq!(corner.carriers().len(), 1);
        corner.teardown(&[&one, &two]).await;
        assert_eq!(corner.carriers(), [""; 0]);
    }
    let names: Vec<String> = (0..8).map(|n| format!("n{n}")).collect();
    let made = names.iter().map(|name| corner.network(name));
    let made = futures_util::future::join_all(made).await;
    let ids: Vec<String> = made.into_iter().map(|made| made.expect("creating").id.0).collect();
    let format = "{{range .IPAM.Config}}{{.Subnet}}{{end}} {{.Driver}} {{.Internal}} {{.EnableIPv6}} {{.Options}}";
    let mut args = vec!["network", "inspect", "--format", format];
    args.extend(ids.iter().map(String::as_str));
    let said = docker(&args).expect("they are there");
    let subnets: BTreeSet<&str> = said.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(subnets.len(), names.len(), "{said}");
    for line in said.lines() {
        let (subnet, rest) = line.split_once(' ').expect("it has several words");
        assert!(subnet.starts_with("198.18.") && subnet.ends_with("/29"), "{line}");
        assert!(rest.starts_with("macvlan true false map[parent:br-"), "{line}");
    }
    let carriers = corner.carriers();
    assert_eq!(carriers.len(), names.len());
    let mut args = vec!["network", "inspect", "--format", format];
    args.extend(carriers.iter().map(String::as_str));
    for line in docker(&args).expect("they are there").lines() {
        let (_, rest) = line.split_once(' ').expect("it has several words");
        assert!(rest.starts_with("bridge true false "), "{line}");
        assert!(rest.contains("bridge.inhibit_ipv4:true"), "{line}");
        assert!(rest.contains("bridge.gateway_mode_ipv4:isolated"), "{line}");
    }
    let seen = corner.observe(Depth::Deep).await;
    assert_eq!(seen.leftovers, []);
    assert!(seen.instances.iter().all(|network| network.drift.is_empty()), "{seen:#?}");
}

#[tokio::test]
async fn a_pool_that_is_used_up_says_so_and_a_name_that_is_taken_stays() {
    let Some(corner) = Corner::new("pool") else { return };
    let random = u32::from_str_radix(support::run_id().get(..4).unwrap_or("0"), 16).unwrap_or(7);
    let pool = format!("10.213.{}.{}/27", random & 255, random >> 13 << 5);
    let make = async |name: &str| {
        let spec = NetworkSpec { pool: Some(pool.clone()), ..network(name) };
        corner.backend.create(&corner.scope, &ResourceSpec::Network(spec)).await
    };
    for name in ["a", "b", "a"] {
        make(name).await.expect("there is room");
    }
    let refused = text(make("c").await.expect_err("there is no room"));
    assert!(refused.contains(&pool) && refused.contains("network_pool"), "{refused}");

    let taken = corner.scope.object_name(&named("d"));
    let label = format!("io.bottle.test={}", support::run_id());
    let foreign = docker(&["network", "create", "--internal", "--label", &label, &taken]);
    let foreign = foreign.expect("it can be made");
    let conflict = corner.network("d").await;
    let seen = corner.observe(Depth::Listing).await.instances;
    let still = docker(&["network", "rm", &foreign]);
    assert!(matches!(conflict, Err(BackendError::Conflict { .. })), "{conflict:?}");
    let seen = seen.iter().find(|instance| instance.id.0 == foreign).expect("it is seen");
    assert_eq!((&seen.ownership, seen.resource), (&Ownership::Foreign, ResourceKind::Network));
    still.expect("it was left alone");
}

#[tokio::test]
async fn a_network_that_somebody_uses_says_who() {
    let Some(corner) = Corner::new("busy") else { return };
    let network = corner.network("ada").await.expect("creating");
    let name = corner.name("guest");
    docker(&[
        "run",
        "--detach",
        "--name",
        &name,
        "--network",
        &network.name,
        BUSYBOX,
        "sleep",
        "100",
    ])
    .expect("it can be run");
    let refused = corner.backend.teardown(&corner.scope, &network).await;
    let refused = text(refused.expect_err("somebody is on it"));
    assert!(refused.contains(&name), "{refused}");
    docker(&["rm", "--force", &name]).expect("it can be removed");
    corner.teardown(&[&network, &network]).await;
    assert_eq!(corner.observe(Depth::Listing).await.instances, []);
}

#[tokio::test]
async fn what_sidecars_share_comes_with_the_first_and_goes_with_the_last() {
    let Some(corner) = Corner::new("shared") else { return };
    let program = corner.own_program();
    let corner = corner.with_program(program);
    assert_eq!(corner.uplinks(), [""; 0]);
    let (ada, bob) = (corner.sandbox("ada").await, corner.sandbox("bob").await);
    let uplinks = corner.uplinks();
    assert_eq!(uplinks.len(), 1);
    let image = inspect(&ada.sidecar.id.0, "{{.Image}}");
    assert_eq!(image, inspect(&bob.sidecar.id.0, "{{.Image}}"));
    let labels = docker(&["image", "inspect", "--format", "{{json .Config.Labels}}", &image]);
    assert_eq!(labels.expect("it is there"), "null", "labels of an image leak onto containers");
    corner.teardown(&[&ada.machine, &ada.sidecar, &ada.network]).await;
    assert_eq!(corner.uplinks(), uplinks);
    docker(&["image", "inspect", &image]).expect("the other one stands on it");
    corner.teardown(&[&bob.machine, &bob.sidecar, &bob.network]).await;
    assert_eq!(corner.uplinks(), [""; 0]);
    docker(&["image", "inspect", &image]).expect_err("nothing stands on it");
    let seen = corner.observe(Depth::Listing).await;
    assert_eq!((&seen.instances[..], &seen.leftovers[..]), (&[][..], &[][..]));
}

/// X19: networks and images.
#[tokio::test]
async fn what_a_run_that_was_cut_short_left_is_removed_by_the_next() {
    let Some(corner) = Corner::new("cut") else { return };
    let program = corner.own_program();
    let corner = corner.with_program(program);
    let made = corner.sandbox("ada").await;
    let image = inspect(&made.sidecar.id.0, "{{.Image}}");
    for id in [&made.machine.id.0, &made.sidecar.id.0] {
        docker(&["rm", "--force", id]).expect("it can be removed");
    }
    docker(&["network", "rm", &made.network.id.0]).expect("nothing is on it");
    let seen = corner.observe(Depth::Listing).await;
    assert_eq!(seen.instances, []);
    let names: Vec<&str> = seen.leftovers.iter().map(|left| left.name.as_str()).collect();
    let uplink = format!("bottle-{}.uplink", corner.scope.owner);
    let carrier = format!("{}.carrier", made.network.name);
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(names.contains(&uplink.as_str()) && names.contains(&carrier.as_str()), "{names:?}");
    assert!(names.iter().any(|name| name.starts_with("bottle-sidecar:")), "{names:?}");
    for _ in 0..2 {
        for leftover in &seen.leftovers {
            corner.backend.prune(&corner.scope, leftover).await.expect("pruning");
        }
    }
    assert_eq!(corner.observe(Depth::Listing).await.leftovers, []);
    assert_eq!((corner.uplinks(), corner.carriers()), (vec![], vec![]));
    docker(&["image", "inspect", &image]).expect_err("nothing stands on it");
}

#[tokio::test]
async fn another_program_is_seen_and_one_that_cannot_be_used_changes_nothing() {
    let Some(corner) = Corner::new("prog") else { return };
    let made = corner.sandbox("ada").await;
    let newer = corner.own_program();
    let other = |program: PathBuf| {
        Docker::new(Settings { sidecar_program: Some(program), ..Settings::from_env() })
    };
    let look = async |backend: &Docker| {
        let seen = backend.observe(&corner.scope, Depth::Listing).await.expect("observing");
        let mut seen = seen.instances;
        seen.retain(|instance| instance.resource == ResourceKind::Sidecar);
        seen.remove(0)
    };
    let seen = look(&other(newer)).await;
    assert_eq!(seen.drift.len(), 1, "{seen:#?}");
    assert_eq!(seen.drift[0].path, "sidecar.program");
    assert_ne!(seen.drift[0].from, seen.drift[0].to);

    // It is linked to libraries: what runs is left alone, and nothing new is begun.
    let linked = other("/bin/sh".into());
    let seen = look(&linked).await;
    assert_eq!(seen.drift, []);
    assert!(seen.notes[0].contains("libraries"), "{:?}", seen.notes);
    let refused = linked.prepare(&corner.scope, &connected("bob"), &Progress::silent()).await;
    let refused = text(refused.expect_err("it cannot be used"));
    for part in ["libraries", "BOTTLE_SIDECAR_PROGRAM", "docs/operations.md"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    linked.prepare(&corner.scope, &busybox(), &Progress::silent()).await.expect("it needs none");
    assert_eq!(corner.part(Depth::Deep, ResourceKind::Machine).await.boot, made.machine.boot);
}
