//! What was changed from outside is seen, and mended where that can be.

use super::*;

fn paths(changes: &[bottle::model::FieldChange]) -> Vec<&str> {
    changes.iter().map(|change| change.path.as_str()).collect()
}

#[tokio::test]
async fn a_network_attached_by_hand_is_seen_in_the_listing_and_mended() {
    let Some(corner) = Corner::new("net") else { return };
    let machine = corner.run(&busybox()).await;
    for running in [true, false] {
        docker(&["network", "disconnect", "none", &machine.id.0]).ok();
        docker(&["network", "connect", "bridge", &machine.id.0]).expect("it can be connected");
        if !running {
            docker(&["stop", &machine.id.0]).expect("it can be stopped");
        }
        let seen = corner.only(Depth::Listing).await;
        assert_eq!(seen.drift, []);
        assert_eq!(paths(&seen.mendable), ["networks"]);
        assert_eq!(seen.mendable[0].from.as_deref(), Some("bridge"));
        for _ in 0..2 {
            corner.backend.mend(&corner.scope, &seen).await.expect("mending");
        }
        let mended = corner.only(Depth::Deep).await;
        assert_eq!((mended.drift, mended.mendable), (vec![], vec![]));
        assert_eq!(mended.id, machine.id);
    }
    let again = corner.backend.start(&corner.scope, &machine).await.expect("starting");
    assert_eq!(corner.says(&again, "ls /sys/class/net").await.replace("\n", " "), "lo");
}

#[tokio::test]
async fn limits_that_were_updated_are_seen_deep_and_mended() {
    let Some(corner) = Corner::new("upd") else { return };
    let machine = corner.run(&busybox()).await;
    docker(&[
        "update",
        "--memory",
        "300m",
        "--memory-swap",
        "600m",
        "--cpus",
        "1",
        "--pids-limit",
        "99",
        "--restart",
        "no",
        &machine.id.0,
    ])
    .expect("it can be updated");
    assert_eq!(paths(&corner.only(Depth::Listing).await.mendable), [""; 0]);
    let seen = corner.only(Depth::Deep).await;
    assert_eq!(
        paths(&seen.mendable),
        ["memory_swap", "resources.cpus", "resources.memory", "resources.pids", "restart_policy"]
    );
    let memory = &seen.mendable[2];
    assert_eq!((memory.from.as_deref(), memory.to.as_deref()), (Some("300M"), Some("256M")));
    assert_eq!(seen.drift, []);
    corner.backend.mend(&corner.scope, &seen).await.expect("mending");
    let mended = corner.only(Depth::Deep).await;
    assert_eq!((mended.mendable, mended.drift), (vec![], vec![]));
    assert_eq!(mended.boot, machine.boot, "it was not restarted");

    // What an update cannot take back is drift.
    docker(&["update", "--cpu-shares", "5", &machine.id.0]).expect("it can be updated");
    assert_eq!(paths(&corner.only(Depth::Deep).await.drift), ["cpu_shares"]);
}

#[tokio::test]
async fn a_machine_made_by_hand_with_our_labels_is_seen_through() {
    let Some(corner) = Corner::new("hand") else { return };
    let made = corner.create(&busybox()).await;
    let labels = docker(&["inspect", "--format", "{{json .Config.Labels}}", &made.id.0]);
    let labels: BTreeMap<String, String> =
        serde_json::from_str(&labels.expect("it is there")).expect("it is JSON");
    docker(&["rm", &made.id.0]).expect("it can be removed");
    let other = corner.name("image");
    docker(&["tag", "bottle-test-rootonly:1", &other]).expect("it can be tagged");
    let mut run: Vec<String> =
        ["run", "--detach", "--pid=host", "--volume", "/etc:/host", "--name", &made.name]
            .map(str::to_owned)
            .to_vec();
    for (name, value) in &labels {
        run.extend(["--label".to_owned(), format!("{name}={value}")]);
    }
    run.extend([other, "sleep".to_owned(), "1000".to_owned()]);
    docker(&run.iter().map(String::as_str).collect::<Vec<_>>()).expect("it can be run");
    let seen = corner.only(Depth::Listing).await;
    assert_eq!(seen.ownership, Ownership::Ours);
    assert_eq!(paths(&seen.drift), ["mounts", "image"]);
    assert_eq!(paths(&seen.mendable), ["networks"]);
    let deep = corner.only(Depth::Deep).await;
    let drift: BTreeSet<&str> = paths(&deep.drift).into_iter().collect();
    for path in ["pid_mode", "cap_drop", "security_opt", "user", "entrypoint", "binds", "init"] {
        assert!(drift.contains(path), "{path}: {drift:?}");
    }
}

#[tokio::test]
async fn a_committed_copy_is_not_ours_and_a_renamed_machine_is() {
    let Some(corner) = Corner::new("copy") else { return };
    let machine = corner.run(&busybox()).await;
    let image = corner.name("commit");
    docker(&["commit", &machine.id.0, &image]).expect("it can be committed");
    let copy = docker(&["create", "--name", &corner.name("copy"), &image]).expect("it can be made");
    assert_eq!(corner.only(Depth::Listing).await.id, machine.id);
    let mut pretended = machine.clone();
    pretended.id.0.clone_from(&copy);
    let torn = corner.backend.teardown(&corner.scope, &pretended).await;
    torn.expect("what is nothing to us is as good as gone");
    docker(&["inspect", &copy]).expect("it is still there");

    docker(&["rename", &machine.id.0, &corner.name("renamed")]).expect("it can be renamed");
    let seen = corner.only(Depth::Listing).await;
    assert_eq!((&seen.id, seen.sandbox.as_str()), (&machine.id, "ada"));
}

#[tokio::test]
async fn the_listing_costs_as_many_calls_for_many_machines_as_for_none() {
    let Some(corner) = Corner::new("calls") else { return };
    let (proxy, calls) = counting_proxy(&corner).await;
    let counted = async || {
        let before = calls.load(Ordering::SeqCst);
        proxy.observe(&corner.scope, Depth::Listing).await.expect("observing");
        calls.load(Ordering::SeqCst) - before
    };
    // One less where the engine has nobody else's containers: those under our names are not asked for then.
    let few = |calls| (4..=5).contains(&calls);
    counted().await;
    assert!(few(counted().await));
    for name in ["a", "b", "c"] {
        corner.create(&MachineSpec { sandbox: named(name), ..busybox() }).await;
    }
    assert!(few(counted().await));
}

#[tokio::test]
async fn a_fresh_machine_is_provisioned_in_one_call() {
    let Some(corner) = Corner::new("fresh") else { return };
    let (proxy, calls) = counting_proxy(&corner).await;
    let spec = MachineSpec { workdir: Some("/workspace".to_owned()), ..busybox() };
    // Every pass begins with a look, which also tells what the engine is.
    proxy.observe(&corner.scope, Depth::Listing).await.expect("observing");
    proxy.prepare(&corner.scope, &spec, &Progress::silent()).await.expect("preparing");
    let at = |calls: &AtomicUsize| calls.load(Ordering::SeqCst);
    let before = at(&calls);
    let made = proxy.create(&corner.scope, &ResourceSpec::Machine(spec)).await.expect("creating");
    assert_eq!(at(&calls) - before, 1);
    let made = proxy.start(&corner.scope, &made).await.expect("starting");
    assert_eq!(at(&calls) - before, 3);
    let identity = proxy.identity(&corner.scope, &made).await.expect("it is known");
    let dir =
        |path: &str, owner, mode| GuestDir { path: path.to_owned(), uid: owner, gid: owner, mode };
    let dirs = vec![
        dir("/etc/bottle", 0, 0o755),
        dir(&identity.home, 1000, 0o700),
        dir(&format!("{}/.claude", identity.home), 1000, 0o755),
        dir(&format!("{}/.claude/skills", identity.home), 1000, 0o755),
        dir("/workspace", 1000, 0o750),
    ];
    let upload = Upload { dirs, fresh: true, ..Upload::default() };
    proxy.copy_in(&corner.scope, &made, upload).await.expect("copying in");
    assert_eq!(at(&calls) - before, 4);
    let stat = "stat -c '%n %a %u' /etc/bottle /home/node /home/node/.claude/skills /workspace";
    assert_eq!(
        corner.says(&made, stat).await,
        "/etc/bottle 755 0\n/home/node 755 1000\n/home/node/.claude/skills 755 1000\n\
         /workspace 750 1000"
    );
}

/// The backend by way of a socket that counts the calls.
async fn counting_proxy(corner: &Corner) -> (Docker, Arc<AtomicUsize>) {
    let socket = corner.folder.path().join("counting.sock");
    let listener = UnixListener::bind(&socket).expect("the folder is ours");
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    tokio::spawn(async move {
        // One call a connection: the client keeps none.
        while let Ok((mut ours, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let engine = UnixStream::connect(super::socket()).await;
                let mut engine = engine.expect("the tests have a local engine");
                tokio::io::copy_bidirectional(&mut ours, &mut engine).await.ok();
            });
        }
    });
    let host = Some(format!("unix://{}", socket.display()));
    (Docker::new(Settings { host, ..settings() }), calls)
}
