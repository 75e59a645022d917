//! Inside machines: the workspace, what the guest may have done to its files, the main process.

use super::*;

#[tokio::test]
async fn the_workspace_is_mounted_and_nothing_else() {
    let Some(corner) = Corner::new("mount") else { return };
    let folder = corner.folder.path().join("project");
    std::fs::create_dir(&folder).expect("the folder is ours");
    std::os::unix::fs::chown(&folder, Some(1000), Some(1000)).expect("the tests run as root");
    let mount = |path: &std::path::Path| MachineSpec {
        workdir: Some("/workspace".to_owned()),
        mount: Some(Workspace {
            path: path.to_owned(),
            mode: WorkspaceMode::Mount,
            target: "/workspace".to_owned(),
        }),
        ..busybox()
    };
    let machine = corner.run(&mount(&folder)).await;
    assert_eq!(corner.says(&machine, "pwd; echo hi > note").await, "/workspace");
    assert_eq!(std::fs::read_to_string(folder.join("note")).expect("it is there"), "hi\n");
    let seen = corner.only(Depth::Deep).await;
    assert_eq!((seen.drift, seen.mendable), (vec![], vec![]));

    // The engine's own, by whichever of its folders.
    let (named, real) = (socket(), socket().canonicalize().expect("the engine is local"));
    for path in named.parent().into_iter().chain(real.ancestors().skip(1)) {
        let refused = text(corner.prepare(&mount(path)).await.expect_err("the socket"));
        assert!(refused.contains("socket"), "{}: {refused}", path.display());
    }
    let gone = corner.folder.path().join("gone");
    let refused = text(corner.prepare(&mount(&gone)).await.expect_err("it is not there"));
    assert!(refused.contains("gone"), "{refused}");
}

#[tokio::test]
async fn what_the_guest_did_to_its_files_does_not_stop_a_wipe() {
    let Some(corner) = Corner::new("wipe") else { return };
    let machine = corner.run(&busybox()).await;
    corner
        .says(
            &machine,
            "mkdir -p ~/a/b/c ~/target; echo x > ~/a/b/c/f; echo x > ~/target/f; \
             ln -s ~/target ~/a/link; chmod 0 ~/a/b/c/f ~/a/b/c; chmod 555 ~/a/b ~/a; \
             chmod 500 ~/target; ln -s ~/target ~/way",
        )
        .await;
    let wipe = ["/home/node/a/b", "/home/node/a/link", "/home/node/way"].map(str::to_owned);
    let upload = Upload { wipe: wipe.to_vec(), ..Upload::default() };
    corner.backend.copy_in(&corner.scope, &machine, upload).await.expect("wiping");
    assert_eq!(
        corner.says(&machine, "ls -A ~/a; ls -d ~/way 2>/dev/null; cat ~/target/f").await,
        "x"
    );
    assert_eq!(corner.says(&machine, "stat -c %a ~/target").await, "500");
}

#[tokio::test]
async fn what_root_put_there_is_wiped_too() {
    let Some(corner) = Corner::new("rootwipe") else { return };
    let machine = corner.run(&busybox()).await;
    let dirs = vec![GuestDir { path: "/etc/bottle".into(), uid: 0, gid: 0, mode: 0o755 }];
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(1);
    tar.append_data(&mut header, "etc/bottle/ready", &b"x"[..]).expect("it fits");
    let tar: Bytes = tar.into_inner().expect("it is in memory").into();
    let upload = Upload { dirs, tar, ..Upload::default() };
    corner.backend.copy_in(&corner.scope, &machine, upload).await.expect("copying in");
    assert_eq!(corner.says(&machine, "ls /etc/bottle").await, "main\nready");
    let upload = Upload { wipe: vec!["/etc/bottle/ready".into()], ..Upload::default() };
    corner.backend.copy_in(&corner.scope, &machine, upload).await.expect("wiping");
    assert_eq!(corner.says(&machine, "ls /etc/bottle").await, "main");
}

#[tokio::test]
async fn the_working_directory_is_the_users_also_when_provisioning_comes_late() {
    let Some(corner) = Corner::new("workdir") else { return };
    let spec = MachineSpec { workdir: Some("/workspace".to_owned()), ..busybox() };
    let machine = corner.run(&spec).await;
    let dirs = vec![GuestDir { path: "/workspace".into(), uid: 1000, gid: 1000, mode: 0o755 }];
    let upload = Upload { dirs, ..Upload::default() };
    corner.backend.copy_in(&corner.scope, &machine, upload).await.expect("copying in");
    assert_eq!(corner.says(&machine, "stat -c '%a %u %g' /workspace").await, "755 1000 1000");
}

#[tokio::test]
async fn secrets_reach_the_tmpfs_and_no_disk() {
    let Some(corner) = Corner::new("tmpfs") else { return };
    let machine = corner.run(&busybox()).await;
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in [("run/bottle/env", "export A='s3cret'\n"), ("tmp/plain", "plain")] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o600);
        header.set_uid(1000);
        header.set_gid(1000);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, name, text.as_bytes()).expect("it fits");
    }
    let tar = tar.into_inner().expect("it is in memory").into();
    let upload = Upload { tar, ..Upload::default() };
    corner.backend.copy_in(&corner.scope, &machine, upload).await.expect("copying in");
    assert_eq!(
        corner.says(&machine, "cat /run/bottle/env /tmp/plain; stat -c %a /run/bottle/env").await,
        "export A='s3cret'\nplain600"
    );
    docker(&["stop", &machine.id.0]).expect("it can be stopped");
    let exported = corner.folder.path().join("export.tar");
    let exported = exported.to_str().expect("it is UTF-8");
    docker(&["export", "--output", exported, &machine.id.0]).expect("it can be exported");
    let bytes = std::fs::read(exported).expect("it was written");
    assert!(!bytes.windows(6).any(|window| window == b"s3cret"));
}

#[tokio::test]
async fn the_main_process_ends_at_once_and_a_completed_one_stays_so() {
    let Some(corner) = Corner::new("main") else { return };
    let spec = MachineSpec {
        command: ["sh", "-c", "echo run >> ~/runs"].map(str::to_owned).to_vec(),
        ..busybox()
    };
    let machine = corner.run(&spec).await;
    let begun = std::time::Instant::now();
    docker(&["restart", &machine.id.0]).expect("it can be restarted");
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "it heeds TERM");
    let dirs = vec![GuestDir { path: "/etc/bottle/ready".into(), uid: 0, gid: 0, mode: 0o755 }];
    let upload = Upload { dirs, ..Upload::default() };
    corner.backend.copy_in(&corner.scope, &machine, upload).await.expect("copying in");
    let state = "until grep -q completed /run/bottle/main; do sleep 0.1; done; cat ~/runs";
    assert_eq!(corner.says(&machine, state).await, "run");
    docker(&["restart", &machine.id.0]).expect("it can be restarted");
    assert_eq!(corner.says(&machine, state).await, "run", "it is not run again");
}

#[tokio::test]
async fn a_command_is_told_to_end_before_the_machine_does() {
    let Some(corner) = Corner::new("term") else { return };
    let folder = corner.folder.path().join("project");
    std::fs::create_dir(&folder).expect("the folder is ours");
    std::os::unix::fs::chown(&folder, Some(1000), Some(1000)).expect("the tests run as root");
    let script = "trap 'echo bye > /workspace/said; exit 0' TERM; echo up > /workspace/up; \
                  while :; do sleep 0.1; done";
    let spec = MachineSpec {
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        workdir: Some("/workspace".to_owned()),
        mount: Some(Workspace {
            path: folder.clone(),
            mode: WorkspaceMode::Mount,
            target: "/workspace".to_owned(),
        }),
        ..busybox()
    };
    let machine = corner.run(&spec).await;
    let dirs = vec![GuestDir { path: "/etc/bottle/ready".into(), uid: 0, gid: 0, mode: 0o755 }];
    let upload = Upload { dirs, ..Upload::default() };
    corner.backend.copy_in(&corner.scope, &machine, upload).await.expect("copying in");
    corner.says(&machine, "until [ -e /workspace/up ]; do sleep 0.1; done").await;
    corner.backend.teardown(&corner.scope, &machine).await.expect("tearing down");
    assert_eq!(std::fs::read_to_string(folder.join("said")).expect("it had time"), "bye\n");
}

/// Commands begin while their machine is killed: each ends as it did, or in an error of ours, and no
/// code of the engine's is taken for one of the command's.
#[tokio::test]
async fn a_command_that_never_ran_has_no_exit_code() {
    let Some(corner) = Corner::new("kill") else { return };
    let mut machine = corner.run(&busybox()).await;
    let (mut ended, mut failed) = (0, 0);
    for round in 0..6 {
        let killing = async {
            tokio::time::sleep(std::time::Duration::from_millis(60 + 15 * round)).await;
            let id = machine.id.0.clone();
            let kill = move || docker(&["kill", &id]).expect("it can be killed");
            tokio::task::spawn_blocking(kill).await.expect("the task does not panic");
        };
        let commands = futures_util::future::join_all((0..24).map(async |n: u64| {
            tokio::time::sleep(std::time::Duration::from_millis(n * 8)).await;
            let spec = ExecSpec::new(["sh", "-c", "exit 3"]);
            corner.backend.exec(&corner.scope, &machine, &spec, Bytes::new()).await
        }));
        let (outputs, ()) = tokio::join!(commands, killing);
        for output in outputs {
            match output {
                Ok(output) => {
                    assert!(matches!(output.code, 3 | 137), "{output:?}");
                    ended += 1;
                }
                Err(_) => failed += 1,
            }
        }
        machine = corner.backend.start(&corner.scope, &machine).await.expect("starting");
    }
    assert!(ended > 0 && failed > 0, "{ended} ended, {failed} failed");
    for (command, code) in [("exit 128", 128), ("exit 126", 126), ("nowhere-at-all", 127)] {
        assert_eq!(corner.sh(&machine, command).await.code, code, "{command}");
    }
    let missing = ExecSpec::new(["/nowhere/at/all"]);
    let output = corner.backend.exec(&corner.scope, &machine, &missing, Bytes::new()).await;
    assert_eq!(output.expect("it is told by its code").code, 127);
}

/// An engine without a container that can be entered from here: the guest's own shell helps, and what
/// goes in is the same.
#[tokio::test]
async fn files_go_in_also_where_no_container_can_be_entered() {
    let Some(corner) = Corner::new("outside") else { return };
    let machine = corner.run(&busybox()).await;
    let away = Docker::new(Settings { helper: Some("/bin/false".into()), ..settings() });
    for (backend, content) in [(&away, "one"), (&corner.backend, "two"), (&away, "three")] {
        let mut tar = tar::Builder::new(Vec::new());
        for path in ["etc/bottle/prompt.md", "run/bottle/env"] {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o600);
            header.set_uid(1000);
            header.set_gid(1000);
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, path, content.as_bytes()).expect("it is in memory");
        }
        let dir = GuestDir { path: "/tmp/new".into(), uid: 1000, gid: 1000, mode: 0o750 };
        let upload = Upload {
            wipe: vec!["/etc/bottle/prompt.md".into(), "/tmp/new".into()],
            dirs: vec![dir],
            tar: tar.into_inner().expect("it is in memory").into(),
            fresh: false,
        };
        backend.copy_in(&corner.scope, &machine, upload).await.expect("copying in");
        let said = corner.says(&machine, "cat /etc/bottle/prompt.md /run/bottle/env").await;
        assert_eq!(said, content.repeat(2));
        let stat = "stat -c '%a %u' /etc/bottle/prompt.md /run/bottle/env /tmp/new";
        assert_eq!(corner.says(&machine, stat).await, "600 1000\n600 1000\n750 1000");
    }
    let env = corner.backend.copy_out(&corner.scope, &machine, "/run/bottle/env", 4096).await;
    assert!(env.expect("it is read past the engine").len() > 512);
    let none = corner.backend.copy_out(&corner.scope, &machine, "/run/bottle/none", 4096).await;
    assert!(matches!(none, Err(BackendError::Failed { .. })), "{none:?}");
}

/// A container with a mounted workspace is removed by hand: the mount that held the folder goes with
/// the next pass, and that of a machine that is there stays.
#[tokio::test]
async fn a_mount_whose_container_was_removed_is_a_leftover() {
    let Some(corner) = Corner::new("pins") else { return };
    let folder = corner.folder.path().canonicalize().expect("it is there").join("w");
    std::fs::create_dir(&folder).expect("the folder is ours");
    std::os::unix::fs::chown(&folder, Some(1000), Some(1000)).expect("the tests run as root");
    let spec = |name: &str| MachineSpec {
        sandbox: SandboxId::new(name).expect("the name is valid"),
        workdir: Some("/workspace".to_owned()),
        mount: Some(Workspace {
            path: folder.clone(),
            mode: WorkspaceMode::Mount,
            target: "/workspace".to_owned(),
        }),
        ..busybox()
    };
    let (gone, stays) = (corner.run(&spec("ada")).await, corner.run(&spec("bea")).await);
    let held = || {
        let held = std::path::Path::new("/run/bottle-mounts").join(&corner.scope.state);
        let names = std::fs::read_dir(held).into_iter().flatten().flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let prefix = format!("{}.", corner.scope.owner);
        names.filter(|name| name.starts_with(&prefix)).count()
    };
    if held() == 0 {
        return support::left_out("a mount that is left over", "only root mounts");
    }
    assert_eq!(held(), 2);
    assert_eq!(corner.observe(Depth::Listing).await.leftovers, []);
    docker(&["rm", "--force", &gone.id.0]).expect("it can be removed");
    let left = corner.observe(Depth::Listing).await.leftovers;
    assert_eq!(left.len(), 1, "{left:#?}");
    assert!(left[0].name.contains(".ada."), "{left:#?}");
    corner.backend.prune(&corner.scope, &left[0]).await.expect("pruning");
    assert_eq!((held(), corner.observe(Depth::Listing).await.leftovers), (1, vec![]));
    // One that is in use, whatever the caller believes.
    let mut wrong = left[0].clone();
    for part in [&mut wrong.id.0, &mut wrong.name] {
        *part = part
            .replace(".ada.", ".bea.")
            .replace(&spec("ada").hash().short(), &spec("bea").hash().short());
    }
    corner.backend.prune(&corner.scope, &wrong).await.expect("it is left alone");
    assert_eq!(held(), 1);
    corner.says(&stays, "touch /workspace/x").await;

    // Taken away by hand: a restart would give it the empty folder below.
    assert!(corner.observe(Depth::Listing).await.instances[0].notes.is_empty());
    let format = "{{range .Mounts}}{{.Source}}{{end}}";
    let source = docker(&["inspect", "--format", format, &stays.id.0]).expect("it is there");
    let status = std::process::Command::new("umount").arg(source.trim()).status();
    assert!(status.expect("umount is there").success());
    let seen = corner.observe(Depth::Listing).await.instances.remove(0);
    assert!(seen.notes.len() == 1 && seen.notes[0].contains("was unmounted"), "{seen:#?}");
    assert_eq!((seen.drift, seen.mendable), (vec![], vec![]), "nothing is lost for it");
}

/// What ends with its machine has no exit code of its own; what is killed by itself has.
#[tokio::test]
async fn a_command_that_ends_with_its_machine_has_no_exit_code() {
    let Some(corner) = Corner::new("killed") else { return };
    let mut machine = corner.run(&busybox()).await;
    assert_eq!(corner.sh(&machine, "kill -9 $$").await.code, 137);
    let spec = ExecSpec::new(["sh", "-c", "while :; do sleep 0.01; done"]);
    for round in 0..6 {
        let loops: Vec<_> = (0..4)
            .map(|_| corner.backend.exec(&corner.scope, &machine, &spec, Bytes::new()))
            .collect();
        let id = machine.id.0.clone();
        let kill = async {
            tokio::time::sleep(std::time::Duration::from_millis(150 + 60 * round)).await;
            let killed = tokio::task::spawn_blocking(move || docker(&["kill", &id])).await;
            killed.expect("it does not panic").expect("it can be killed");
        };
        let (ended, ()) = tokio::join!(futures_util::future::join_all(loops), kill);
        for ended in ended {
            assert!(ended.is_err(), "{round}: {ended:?}");
        }
        machine = corner.backend.start(&corner.scope, &machine).await.expect("starting");
    }
}
