//! Engines that go away, hang up or never were; events; doctor.

use super::*;

/// The backend of an engine that answers every call with these bytes and hangs up.
async fn broken(folder: &tempfile::TempDir, answer: &'static [u8]) -> Docker {
    let socket = folder.path().join("broken.sock");
    let listener = UnixListener::bind(&socket).expect("the folder is ours");
    tokio::spawn(async move {
        while let Ok((mut call, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let Ok(_) = call.read(&mut request).await else { return };
                call.write_all(answer).await.ok();
            });
        }
    });
    let host = Some(format!("unix://{}", socket.display()));
    Docker::new(Settings { host, ..Settings::default() })
}

fn nowhere(folder: &tempfile::TempDir) -> Scope {
    Scope {
        owner: OwnerId::new("team").expect("the name is valid"),
        state: "here".to_owned(),
        adopted: BTreeSet::new(),
        data: folder.path().join("data"),
        hidden: Vec::new(),
        places: Default::default(),
    }
}

#[tokio::test]
async fn an_engine_that_breaks_off_is_unreachable_and_not_empty() {
    for answer in [
        &b""[..],
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n[{\"Id\":",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n[{\"I\r\n",
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 56\r\n\r\n{\"message\":\"grpc: the client connection is closing: u\"}\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let backend = broken(&folder, answer).await;
        let seen = backend.observe(&nowhere(&folder), Depth::Listing).await;
        let shown = String::from_utf8_lossy(answer);
        let Err(BackendError::Unreachable { reason, .. }) = seen else {
            panic!("{shown:?}: {seen:?}");
        };
        assert!(reason.contains("broken.sock"), "{reason}");
    }
}

/// What listens on the socket answers for ever: in whatever form, and after however many good answers.
#[tokio::test]
async fn an_answer_without_an_end_is_cut_and_named() {
    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let ping = |request: &str| request.contains("/_ping");
    let cases: [(&str, String, String); 3] = [
        (
            "in chunks",
            format!("{OK}Transfer-Encoding: chunked\r\n\r\n"),
            format!("10000\r\n{}\r\n", "[".repeat(0x10000)),
        ),
        ("until it closes", format!("{OK}\r\n[\""), "x".repeat(0x10000)),
        (
            "as an error",
            "HTTP/1.1 500 Internal Server Error\r\n\r\n".to_owned(),
            "x".repeat(0x10000),
        ),
    ];
    for greets in [true, false] {
        for (what, head, more) in cases.clone() {
            let folder = tempfile::tempdir().expect("a temporary folder can be made");
            let socket = folder.path().join("endless.sock");
            let listener = UnixListener::bind(&socket).expect("the folder is ours");
            tokio::spawn(async move {
                while let Ok((mut call, _)) = listener.accept().await {
                    let (head, more) = (head.clone(), more.clone());
                    tokio::spawn(async move {
                        let mut request = [0; 4096];
                        let Ok(count) = call.read(&mut request).await else { return };
                        if greets && ping(&String::from_utf8_lossy(&request[..count])) {
                            let hello = format!("{OK}Content-Length: 2\r\n\r\nOK");
                            call.write_all(hello.as_bytes()).await.ok();
                            return;
                        }
                        call.write_all(head.as_bytes()).await.ok();
                        while call.write_all(more.as_bytes()).await.is_ok() {}
                    });
                }
            });
            let host = Some(format!("unix://{}", socket.display()));
            let backend = Docker::new(Settings { host, ..Settings::default() });
            let seen = backend.observe(&nowhere(&folder), Depth::Listing).await;
            let Err(BackendError::Unreachable { reason, .. }) = seen else {
                panic!("{what}: {seen:?}");
            };
            assert!(
                reason.contains("endless.sock") && reason.contains("64 MiB"),
                "{what}: {reason}"
            );
            let findings = backend.doctor(false).await;
            assert!(findings.iter().any(|f| f.health != Health::Works), "{what}: {findings:?}");
        }
    }
}

#[tokio::test]
async fn an_engine_that_was_not_there_is_found_when_it_comes() {
    let Some(corner) = Corner::new("late") else { return };
    let socket = corner.folder.path().join("late.sock");
    let host = Some(format!("unix://{}", socket.display()));
    let backend = Docker::new(Settings { host, ..Settings::default() });
    for _ in 0..2 {
        let seen = backend.observe(&corner.scope, Depth::Listing).await;
        let Err(BackendError::Unreachable { reason, .. }) = seen else { panic!("{seen:?}") };
        assert!(reason.contains("late.sock"), "{reason}");
    }
    let findings = backend.doctor(false).await;
    assert_eq!(findings[0].health, Health::Absent);
    std::os::unix::fs::symlink(super::socket(), &socket).expect("the folder is ours");
    backend.observe(&corner.scope, Depth::Listing).await.expect("observing");
    std::fs::remove_file(&socket).expect("we made it");
    let seen = backend.observe(&corner.scope, Depth::Listing).await;
    assert!(matches!(seen, Err(BackendError::Unreachable { .. })), "{seen:?}");
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_resolved_is_unreachable() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let config_dir = Some(folder.path().to_owned());
    let context = Some("nowhere".to_owned());
    let backend = Docker::new(Settings { context, config_dir, ..Settings::default() });
    let seen = backend.observe(&nowhere(&folder), Depth::Listing).await;
    let Err(BackendError::Unreachable { reason, .. }) = seen else { panic!("{seen:?}") };
    assert!(reason.contains("DOCKER_CONTEXT `nowhere`"), "{reason}");
}

#[tokio::test]
async fn events_are_of_this_owner_and_not_of_commands() {
    let Some(corner) = Corner::new("evt") else { return };
    let Some(other) = Corner::new("evt") else { return };
    let machine = corner.run(&busybox()).await;
    let theirs = other.run(&busybox()).await;
    let mut events = corner.backend.events(&corner.scope).await.expect("asking for events");
    // The stream connects when it is polled.
    let next = tokio::spawn(async move {
        let hint = events.next().await;
        (hint, events)
    });
    let acting = async {
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            corner.sh(&machine, "true").await;
            docker(&["pause", &theirs.id.0]).expect("it can be paused");
            docker(&["pause", &machine.id.0]).expect("it can be paused");
            docker(&["unpause", &machine.id.0]).expect("it can be unpaused");
            docker(&["unpause", &theirs.id.0]).expect("it can be unpaused");
        }
    };
    let hinted = tokio::select! {
        ended = next => ended.expect("the task does not panic").0,
        () = acting => unreachable!("it never ends"),
    };
    let hint = hinted.expect("the stream goes on").expect("the engine is there");
    assert!(hint.what.contains(&machine.name), "{hint:?}");
    assert!(hint.what.contains("pause"), "{hint:?}");
}

#[tokio::test]
async fn events_end_in_an_error() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let backend = broken(
        &folder,
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 21\r\n\r\n{\"ApiVersion\":\"1.41\"}",
    )
    .await;
    let mut events = backend.events(&nowhere(&folder)).await.expect("it answers so far");
    let mut last = None;
    while let Some(event) = events.next().await {
        last = Some(event);
    }
    assert!(matches!(last, Some(Err(BackendError::Unreachable { .. }))), "{last:?}");
}

#[tokio::test]
async fn doctor_boots_a_machine_and_leaves_nothing() {
    let Some(corner) = Corner::new("doctor") else { return };
    let findings = corner.backend.doctor(true).await;
    let health = |what: &str| {
        let found = findings.iter().find(|finding| finding.what == what);
        found.unwrap_or_else(|| panic!("{what}: {findings:#?}")).health
    };
    for what in ["engine", "seccomp", "machine"] {
        assert_eq!(health(what), Health::Works, "{findings:#?}");
    }
    let left = docker(&["ps", "--all", "--filter", "name=bottle_doctor_", "--quiet"]);
    assert_eq!(left.as_deref(), Ok(""));
    assert!(!docker(&["images"]).expect("it lists").contains("bottle_doctor_"));
}

#[tokio::test]
async fn a_removal_that_somebody_else_began_is_waited_for() {
    let Some(corner) = Corner::new("race") else { return };
    for _ in 0..3 {
        let machine = corner.run(&busybox()).await;
        let id = machine.id.0.clone();
        let outside = std::thread::spawn(move || docker(&["rm", "--force", &id]));
        corner.backend.teardown(&corner.scope, &machine).await.expect("tearing down");
        assert!(corner.observe(Depth::Listing).await.instances.is_empty());
        // The name is free at once.
        let again = corner.create(&busybox()).await;
        assert_eq!(again.state, InstanceState::Created);
        outside.join().expect("the thread does not panic").ok();
        corner.backend.teardown(&corner.scope, &again).await.expect("tearing down");
    }
}

/// What listens on the socket sends one line, one frame or one error without an end where a log or what a
/// command says should be. All of one is held, so it is cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_piece_of_output_without_an_end_is_cut() {
    const LOG: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n";
    const EXEC: &str = "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    const FRAME: &[u8] = b"\x01\0\0\0\xff\xff\xff\xff";
    const FAILS: &str = "HTTP/1.1 500 Internal Server Error\r\n\r\n";
    let cases: [(&str, &str, &[u8], usize); 5] = [
        ("a line of a log", LOG, b"x", 4),
        ("a frame of a log", LOG, FRAME, 4),
        ("an error in the place of a log", FAILS, b"x", 64),
        ("a frame of a command", EXEC, FRAME, 4),
        ("an error in the place of a command", FAILS, b"x", 64),
    ];
    for (what, head, begin, mib) in cases {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let socket = folder.path().join("endless.sock");
        let listener = UnixListener::bind(&socket).expect("the folder is ours");
        let taken = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&taken);
        tokio::spawn(async move {
            while let Ok((mut call, _)) = listener.accept().await {
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    let Ok(count) = call.read(&mut request).await else { return };
                    let request = String::from_utf8_lossy(&request[..count]).into_owned();
                    let json = "Content-Type: application/json\r\nContent-Length:";
                    if request.contains("/containers/json?") {
                        let listed = LISTED;
                        let length = listed.len();
                        let listed = format!("HTTP/1.1 200 OK\r\n{json} {length}\r\n\r\n{listed}");
                        call.write_all(listed.as_bytes()).await.ok();
                    } else if request.starts_with("POST") && request.contains("/exec HTTP") {
                        let made =
                            format!("HTTP/1.1 201 Created\r\n{json} 10\r\n\r\n{{\"Id\":\"e\"}}");
                        call.write_all(made.as_bytes()).await.ok();
                    } else if !request.contains("/logs?") && !request.contains("/start HTTP") {
                        let hello = format!("HTTP/1.1 200 OK\r\n{json} 2\r\n\r\nOK");
                        call.write_all(hello.as_bytes()).await.ok();
                    } else {
                        call.write_all(head.as_bytes()).await.ok();
                        call.write_all(begin).await.ok();
                        while call.write_all(&[b'x'; 0x10000]).await.is_ok() {
                            counted.fetch_add(0x10000, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let host = Some(format!("unix://{}", socket.display()));
        let backend = Docker::new(Settings { host, ..Settings::default() });
        let (scope, machine) = (nowhere(&folder), unseen());
        let ended = if what.ends_with("log") {
            let options = LogOptions { follow: false, tail: None, ..LogOptions::default() };
            backend.logs(&scope, &machine, options, &mut tokio::io::sink()).await
        } else {
            let spec = ExecSpec::new(["true"]);
            backend.exec(&scope, &machine, &spec, Bytes::new()).await.map(drop)
        };
        let error = format!("{:?}", ended.expect_err(what));
        assert!(error.contains(&format!("longer than {mib} MiB")), "{what}: {error}");
        // What the kernel and the client's own buffer hold comes on top.
        let taken = taken.load(Ordering::Relaxed);
        assert!(taken <= (mib << 20) + (2 << 20), "{what}: {taken}");
    }
}

/// It, as an engine lists it.
const LISTED: &str = r#"[{"Id": "unseen", "Names": ["/bottle-team-ada"], "State": "running", "Labels": {
    "io.bottle.owner": "team", "io.bottle.state": "here", "io.bottle.version": "1",
    "io.bottle.resource": "machine", "io.bottle.sandbox": "ada"
}}]"#;

/// A machine that no engine has.
fn unseen() -> Instance {
    Instance {
        id: InstanceId("unseen".to_owned()),
        backend: BackendKind::Docker,
        resource: ResourceKind::Machine,
        sandbox: SandboxId::new("ada").expect("the name is valid"),
        place: None,
        name: "bottle-team-ada".to_owned(),
        ownership: Ownership::Ours,
        hash: None,
        fields: Fields::default(),
        state: InstanceState::Running,
        boot: None,
        drift: Vec::new(),
        mendable: Vec::new(),
        notes: Vec::new(),
        image: None,
        created: None,
        overlay: None,
    }
}
