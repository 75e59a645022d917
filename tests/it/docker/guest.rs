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

    for path in ["/var/run", "/run", "/"] {
        let refused = text(corner.prepare(&mount(path.as_ref())).await.expect_err("the socket"));
        assert!(refused.contains("socket"), "{path}: {refused}");
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
    header.set_size(1);
    tar.append_data(&mut header, "etc/bottle/ready", &b"x"[..]).expect("it fits");
    let tar: Bytes = tar.into_inner().expect("it is in memory").into();
    let upload = Upload { dirs, tar, ..Upload::default() };
    corner.backend.copy_in(&corner.scope, &machine, upload).await.expect("copying in");
    assert_eq!(corner.says(&machine, "ls /etc/bottle").await, "ready");
    let upload = Upload { wipe: vec!["/etc/bottle/ready".into()], ..Upload::default() };
    corner.backend.copy_in(&corner.scope, &machine, upload).await.expect("wiping");
    assert_eq!(corner.says(&machine, "ls /etc/bottle").await, "");
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
