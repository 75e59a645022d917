//! Files of a machine with a mounted workspace, where its container cannot be entered from here: on
//! another host, in a virtual machine, for a user who may use the engine and no more.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::*;

/// The folder of the host that a machine of this user has, and the machine.
async fn with_folder(
    corner: &Corner,
    user: &str,
    target: &str,
    owner: u32,
) -> (std::path::PathBuf, Instance) {
    let path = corner.folder.path().join("work");
    std::fs::create_dir(&path).expect("the folder is new");
    std::os::unix::fs::chown(&path, Some(owner), Some(owner)).expect("the tests run as root");
    let spec = MachineSpec {
        user: Some(user.to_owned()),
        workdir: Some(target.to_owned()),
        mount: Some(Workspace {
            path: path.clone(),
            mode: WorkspaceMode::Mount,
            target: target.to_owned(),
        }),
        ..busybox()
    };
    let machine = corner.run(&spec).await;
    (path, machine)
}

/// A backend to which no container opens.
fn away() -> Docker {
    Docker::new(Settings { helper: Some("/bin/false".into()), ..settings() })
}

/// An upload of one file, with the folder that it lies in.
fn one(path: &str, content: &[u8], owner: u32) -> Upload {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o640);
    header.set_uid(owner.into());
    header.set_gid(owner.into());
    header.set_size(content.len() as u64);
    let name = path.trim_start_matches('/');
    tar.append_data(&mut header, name, content).expect("it is in memory");
    let folder = Path::new(path).parent().and_then(Path::to_str).expect("it has one").to_owned();
    Upload {
        wipe: vec![path.to_owned()],
        dirs: vec![GuestDir { path: folder, uid: owner, gid: owner, mode: 0o750 }],
        tar: tar.into_inner().expect("it is in memory").into(),
        fresh: false,
    }
}

/// Owner, mode and content.
fn seen(path: &Path) -> (u32, u32, Vec<u8>) {
    let found = std::fs::metadata(path).expect("it is there");
    (found.uid(), found.mode() & 0o7777, std::fs::read(path).unwrap_or_default())
}

#[tokio::test]
async fn files_go_in_and_out_as_the_guests_user_does_it() {
    let Some(corner) = Corner::new("asguest") else { return };
    let away = away();
    let (path, machine) = with_folder(&corner, "node", "/home/node", 1000).await;
    let bytes: Vec<u8> = (0..=255).collect();
    for content in [&bytes[..], b"again"] {
        for at in ["/home/node/.x/y/file", "/tmp/z/file", "/run/bottle/env", "/etc/bottle/file"] {
            let upload = one(at, content, 1000);
            away.copy_in(&corner.scope, &machine, upload).await.expect(at);
            let tar = away.copy_out(&corner.scope, &machine, at, 4096).await.expect(at);
            let mut archive = tar::Archive::new(tar.as_ref());
            let mut entry = archive.entries().expect("a tar").next().expect("one").expect("whole");
            let mut found = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut found).expect("it is in memory");
            assert_eq!(
                (found.as_slice(), entry.header().uid().ok()),
                (content, Some(1000)),
                "{at}"
            );
            assert_eq!(entry.header().mode().ok(), Some(0o640), "{at}");
            let none = away.copy_out(&corner.scope, &machine, &format!("{at}.none"), 4096).await;
            let none = text(none.expect_err("it is not there"));
            assert!(none.contains("there is no"), "{none}");
        }
    }
    // A folder, with all that is in it, or not at all.
    let folder = async || away.copy_out(&corner.scope, &machine, "/home/node/.x", 4 << 20).await;
    let names = |tar: &Bytes| {
        let mut archive = tar::Archive::new(tar.as_ref());
        let entries = archive.entries().expect("a tar");
        let names = entries.map(|entry| entry.expect("whole").path().expect("a path").into_owned());
        names.map(|name| name.display().to_string()).collect::<BTreeSet<_>>()
    };
    let found = names(&folder().await.expect("it is read"));
    assert_eq!(
        found.iter().map(|name| name.trim_end_matches('/')).collect::<Vec<_>>(),
        [".x", ".x/y", ".x/y/file"]
    );
    corner.says(&machine, "echo x > ~/.x/closed; chmod 0 ~/.x/closed").await;
    let refused = text(folder().await.expect_err("a part cannot be read"));
    assert!(refused.contains("closed"), "{refused}");
    corner.says(&machine, "rm -f ~/.x/closed; head -c 2000000 /dev/zero > ~/.x/big").await;
    let refused = text(folder().await.expect_err("it is large"));
    assert!(refused.contains("larger than"), "{refused}");
    assert_eq!(seen(&path.join(".x/y/file")), (1000, 0o640, b"again".to_vec()));
    assert_eq!(seen(&path).0, 1000);
}

#[tokio::test]
async fn what_the_guest_planted_leads_to_nothing_that_it_cannot_do() {
    let Some(corner) = Corner::new("planted") else { return };
    let away = away();
    let (path, machine) = with_folder(&corner, "root", "/workspace", 1500).await;
    let private = path.join("private");
    std::fs::create_dir(&private).expect("it is new");
    let file = private.join("file");
    std::fs::write(&file, "theirs").expect("it can be written");
    for (path, mode) in [(&file, 0o600), (&private, 0o700)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
        std::os::unix::fs::chown(path, Some(1500), Some(1500)).expect("the tests run as root");
    }
    corner
        .says(
            &machine,
            "ln -s /workspace/private /root/x; mkdir -p /etc/bottle; mv /etc/bottle /etc/b; \
             ln -s /workspace/private /etc/bottle",
        )
        .await;
    for backend in [&away, &corner.backend] {
        for at in ["/root/x/file", "/etc/bottle/file", "/workspace/private/file"] {
            let put = backend.copy_in(&corner.scope, &machine, one(at, b"ours", 0)).await;
            let refused = text(put.expect_err(at));
            let why = ["enied", "leads into a mount", "not permitted"];
            assert!(why.iter().any(|why| refused.contains(why)), "{at}: {refused}");
            let got = backend.copy_out(&corner.scope, &machine, at, 4096).await;
            assert!(matches!(got, Err(BackendError::Failed { .. })), "{at}: {got:?}");
            let wipe = Upload { wipe: vec![at.to_owned()], ..Upload::default() };
            backend.copy_in(&corner.scope, &machine, wipe).await.ok();
            assert_eq!(seen(&file), (1500, 0o600, b"theirs".to_vec()), "{at}");
            assert_eq!((seen(&private).0, seen(&private).1), (1500, 0o700), "{at}");
        }
    }
}

/// An image may keep the home of its user on a volume, which is the container's alone.
#[tokio::test]
async fn a_volume_of_the_image_is_the_containers_own() {
    let Some(corner) = Corner::new("volume") else { return };
    let image = format!("{}:1", corner.name("image"));
    let id = docker(&["create", BUSYBOX, "sh"]).expect("it can be made");
    docker(&["commit", "--change", "VOLUME /home/node", id.trim(), &image]).expect("committed");
    docker(&["rm", id.trim()]).expect("it can be removed");
    let machine = corner.run(&machine(ImageRef::DockerLocal(image))).await;
    let at = "/home/node/.x/file";
    corner.backend.copy_in(&corner.scope, &machine, one(at, b"x", 1000)).await.expect("it goes in");
    assert_eq!(corner.says(&machine, "stat -c '%a %u' ~/.x/file; mount").await[..8], *"640 1000");
    assert!(corner.says(&machine, "mount").await.contains(" on /home/node "));
    corner.backend.copy_out(&corner.scope, &machine, at, 4096).await.expect("it comes out");
    // A link of the user's leads from there to nothing of anybody else's, as ever.
    corner.says(&machine, "rm -r ~/.x; ln -s /etc ~/.x").await;
    let refused = corner.backend.copy_in(&corner.scope, &machine, one(at, b"x", 1000)).await;
    assert!(text(refused.expect_err("it leads to root's")).contains("a link of user 1000"));
}

/// What is copied as it comes goes the same way as all else, and no link of the guest's leads it.
#[tokio::test]
async fn a_stream_goes_in_past_the_engine() {
    let Some(corner) = Corner::new("stream") else { return };
    let machine = corner.run(&busybox()).await;
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind, mode, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(1000);
        header.set_gid(1500);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content).expect("it is in memory");
    };
    add("home/node/w/", tar::EntryType::Directory, 0o2775, b"");
    add("home/node/w/file", tar::EntryType::Regular, 0o640, &[7; 200_000]);
    // Again for its time, as the copy of a workspace does it.
    add("home/node/w/", tar::EntryType::Directory, 0o2775, b"");
    let tar = Bytes::from(tar.into_inner().expect("it is in memory"));
    let stream = |backend| {
        let tar = tar.clone();
        let (corner, machine) = (&corner, &machine);
        async move {
            let backend: &Docker = backend;
            let (sender, receiver) = tokio::sync::mpsc::channel(1);
            let send = async {
                for at in (0..tar.len()).step_by(70_000) {
                    let part = tar.slice(at..tar.len().min(at + 70_000));
                    if sender.send(Ok(part)).await.is_err() {
                        break;
                    }
                }
                drop(sender);
            };
            let done = backend.stream_in(&corner.scope, machine, receiver);
            tokio::join!(done, send).0
        }
    };
    let away = away();
    for backend in [&corner.backend, &away] {
        stream(backend).await.expect("it goes in");
        let stat = "cd ~/w; stat -c '%a %u:%g %Y %s' . file | sed 's/ [0-9]*$//'; wc -c <file; cd; rm -r w";
        let said = corner.says(&machine, stat).await;
        assert_eq!(said, "2775 1000:1500 1000000000\n640 1000:1500 1000000000\n200000");
    }
    // The folder that it lies in is the guest's to swap.
    corner.says(&machine, "ln -s /etc ~/w").await;
    stream(&corner.backend).await.expect("a link in the place of a folder makes room");
    assert_eq!(corner.says(&machine, "[ ! -L ~/w ] && [ ! -e /etc/file ] && ls ~/w").await, "file");
    let mut below = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    header.set_uid(1000);
    header.set_gid(1000);
    header.set_mtime(0);
    below.append_data(&mut header, "home/node/w/file", &b"x"[..]).expect("it is in memory");
    let below = Bytes::from(below.into_inner().expect("it is in memory"));
    corner.says(&machine, "rm -r ~/w; ln -s /etc ~/w").await;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    sender.send(Ok(below)).await.expect("there is room for one");
    drop(sender);
    let done = corner.backend.stream_in(&corner.scope, &machine, receiver).await;
    let refused = text(done.expect_err("it leads to root's"));
    assert!(refused.contains("a link of user 1000"), "{refused}");
    corner.says(&machine, "[ ! -e /etc/file ]").await;
}
