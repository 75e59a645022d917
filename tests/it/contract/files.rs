//! Files into and out of machines.

use std::collections::BTreeMap;

use bottle::backend::{BackendError, GuestDir, Upload, guest_path};
use bottle::model::Instance;
use bytes::Bytes;

use super::tarball::{Kind, Packed, file, folder, pack, symlink, unpack};
use super::{Fixture, ada, create, exec, machine, only, running, start};

/// Large enough for all that the cases copy out.
const LIMIT: u64 = 8 << 20;

async fn copy_in(f: &dyn Fixture, to: &Instance, upload: Upload) -> Result<(), BackendError> {
    f.backend().copy_in(f.scope(), to, upload).await
}

async fn put(f: &dyn Fixture, to: &Instance, entries: &[(&str, Packed)]) {
    let upload = Upload { tar: pack(entries), ..Upload::default() };
    copy_in(f, to, upload).await.expect("copying in");
}

async fn take(f: &dyn Fixture, from: &Instance, path: &str) -> BTreeMap<String, Packed> {
    let tar = f.backend().copy_out(f.scope(), from, path, LIMIT).await;
    unpack(path, &tar.unwrap_or_else(|error| panic!("copying {path} out: {error:?}")))
}

async fn is_there(f: &dyn Fixture, on: &Instance, path: &str) -> bool {
    match f.backend().copy_out(f.scope(), on, path, LIMIT).await {
        Ok(_) => true,
        Err(BackendError::Failed { .. }) => false,
        Err(error) => panic!("copying {path} out: {error:?}"),
    }
}

/// A home with something in it.
fn skill() -> Vec<(&'static str, Packed)> {
    vec![
        ("home/node/s", folder(0o750, 1000)),
        ("home/node/s/empty", folder(0o700, 1000)),
        ("home/node/s/bin", file([0, 1, 255, b'\n', 0], 0o755, 1000)),
        ("home/node/s/secret", file("x", 0o600, 0)),
        ("home/node/s/link", symlink("bin", 1000)),
        ("home/node/s/dangling", symlink("../not/there", 1000)),
        ("home/node/s/nothing", file("", 0o444, 1000)),
        ("home/node/s/ünïcode name", file("u", 0o644, 1000)),
    ]
}

pub(crate) async fn copied_in_as_packed(f: &dyn Fixture) {
    let machine = running(f).await;
    let mut entries = skill();
    let long = format!("home/node/s/{}", "long-".repeat(30));
    entries.push((&long, file("l", 0o644, 1000)));
    entries.push(("home/node/s/big", file(vec![7; 3 << 20], 0o644, 1000)));
    put(f, &machine, &entries).await;
    let found = take(f, &machine, "/home/node/s").await;
    for (name, packed) in &entries {
        let name = name.strip_prefix("home/node/s").expect("all are there").trim_start_matches('/');
        let found = found.get(name).unwrap_or_else(|| panic!("{name} is missing"));
        assert!(found.kind == packed.kind, "{name}: another content");
        assert_eq!((found.uid, found.gid), (packed.uid, packed.gid), "{name}");
        assert_eq!(found.mode, packed.mode, "{name}: {:o}", found.mode);
    }
    assert_eq!(found.len(), entries.len());
    let read = exec(f, &machine, &["cat", "/home/node/s/link"], "").await;
    assert_eq!(read.stdout, [0, 1, 255, b'\n', 0]);
    let read = exec(f, &machine, &["cat", "/home/node/s/secret"], "").await;
    assert_ne!(read.code, 0, "it is root's alone");
    f.stop(&machine).await;
    start(f, &machine).await;
    assert_eq!(take(f, &machine, "/home/node/s/bin").await[""].mode, 0o755, "it lasts");
}

pub(crate) async fn copied_over_what_is_there(f: &dyn Fixture) {
    let machine = running(f).await;
    put(f, &machine, &skill()).await;
    put(f, &machine, &[("etc/target", file("target", 0o644, 0))]).await;
    put(f, &machine, &[("home/node/s/abs", symlink("/etc/target", 1000))]).await;
    put(
        f,
        &machine,
        &[
            ("home/node/s/bin", file("new", 0o640, 0)),
            ("home/node/s/abs", file("mine", 0o644, 1000)),
        ],
    )
    .await;
    let found = take(f, &machine, "/home/node/s").await;
    assert_eq!(found["bin"], file("new", 0o640, 0));
    assert_eq!(found["abs"], file("mine", 0o644, 1000), "a link in its place is replaced");
    assert_eq!(take(f, &machine, "/etc/target").await[""], file("target", 0o644, 0));
    assert_eq!(found["secret"], file("x", 0o600, 0), "the rest stays");
}

pub(crate) async fn wiped_before_it_is_unpacked(f: &dyn Fixture) {
    let machine = running(f).await;
    put(f, &machine, &skill()).await;
    put(f, &machine, &[("home/node/single", file("x", 0o644, 0))]).await;
    let upload = Upload {
        wipe: ["/home/node/s", "/home/node/single", "/home/node/absent", "/absent/below"]
            .map(str::to_owned)
            .to_vec(),
        tar: pack(&[
            ("home/node/s", folder(0o755, 1000)),
            ("home/node/s/only", file("one", 0o644, 1000)),
        ]),
        ..Upload::default()
    };
    copy_in(f, &machine, upload.clone()).await.expect("copying in");
    copy_in(f, &machine, upload).await.expect("copying in again");
    let found = take(f, &machine, "/home/node/s").await;
    assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), ["", "only"]);
    assert_eq!(found[""].mode, 0o755);
    assert!(!is_there(f, &machine, "/home/node/single").await);

    let wipe = vec!["/home/node/s".to_owned()];
    copy_in(f, &machine, Upload { wipe, ..Upload::default() }).await.expect("only wiping");
    assert!(!is_there(f, &machine, "/home/node/s").await);
    assert!(is_there(f, &machine, "/home/node").await);
    copy_in(f, &machine, Upload::default()).await.expect("nothing is fine");
}

pub(crate) async fn wiping_a_symlink_spares_its_target(f: &dyn Fixture) {
    let machine = running(f).await;
    put(
        f,
        &machine,
        &[
            ("home/node/kept", folder(0o755, 1000)),
            ("home/node/kept/file", file("x", 0o644, 1000)),
            ("home/node/way", symlink("kept", 1000)),
            ("home/node/etc", symlink("/etc", 1000)),
        ],
    )
    .await;
    let wipe = ["/home/node/way", "/home/node/etc"].map(str::to_owned).to_vec();
    copy_in(f, &machine, Upload { wipe, ..Upload::default() }).await.expect("wiping");
    assert!(!is_there(f, &machine, "/home/node/way").await);
    assert!(!is_there(f, &machine, "/home/node/etc").await);
    assert!(is_there(f, &machine, "/home/node/kept/file").await);
    assert!(is_there(f, &machine, "/etc/passwd").await);
}

pub(crate) async fn folders_that_exist_keep_owner_and_mode(f: &dyn Fixture) {
    let machine = running(f).await;
    put(f, &machine, &[("home/node/mine", folder(0o711, 0))]).await;
    let dir = |path: &str, mode| GuestDir { path: path.to_owned(), uid: 1000, gid: 1000, mode };
    let dirs = vec![
        dir("/home/node/mine", 0o700),
        dir("/home/node/mine/new", 0o750),
        dir("/home/node/mine/new/deeper", 0o700),
    ];
    let tar = pack(&[("home/node/mine/new/file", file("x", 0o644, 1000))]);
    let upload = Upload { dirs, tar, ..Upload::default() };
    for _ in 0..2 {
        copy_in(f, &machine, upload.clone()).await.expect("copying in");
    }
    let found = take(f, &machine, "/home/node/mine").await;
    assert_eq!(found[""], folder(0o711, 0));
    assert_eq!(found["new"], folder(0o750, 1000));
    assert_eq!(found["new/deeper"], folder(0o700, 1000));
    assert_eq!(found["new/file"], file("x", 0o644, 1000));
    let home = &take(f, &machine, "/home/node").await[""];
    assert_eq!((home.uid, home.gid), (1000, 1000), "what lies above is not touched");
}

pub(crate) async fn no_name_leads_out(f: &dyn Fixture) {
    let machine = running(f).await;
    let good = ("home/node/good", file("x", 0o644, 1000));
    for name in ["../out", "home/../../out", "home/node/..", "/etc/absolute"] {
        let tar = pack(&[good.clone(), (name, file("x", 0o644, 0))]);
        let ended = copy_in(f, &machine, Upload { tar, ..Upload::default() }).await;
        assert!(matches!(ended, Err(BackendError::Failed { .. })), "{name}: {ended:?}");
        assert!(!is_there(f, &machine, "/home/node/good").await, "{name}: half of it was unpacked");
    }
    for path in ["../out", "relative", "/home/../etc", "/"] {
        let wipe = vec![path.to_owned()];
        let ended = copy_in(f, &machine, Upload { wipe, ..Upload::default() }).await;
        assert!(matches!(ended, Err(BackendError::Failed { .. })), "wiping {path}: {ended:?}");
    }
    for path in ["../out", "relative", "/home/../etc"] {
        let dirs = vec![GuestDir { path: path.to_owned(), uid: 0, gid: 0, mode: 0o755 }];
        let ended = copy_in(f, &machine, Upload { dirs, ..Upload::default() }).await;
        assert!(matches!(ended, Err(BackendError::Failed { .. })), "making {path}: {ended:?}");
    }
    assert!(is_there(f, &machine, "/etc/passwd").await);
}

pub(crate) async fn no_symlink_leads_out(f: &dyn Fixture) {
    // What the host has under this path must neither be read, nor written, nor removed.
    let host = tempfile::tempdir().expect("a temporary folder can be made");
    let on_host = host.path().join("file");
    std::fs::write(&on_host, "the host's").expect("it can be written");
    let outside = host.path().to_str().expect("it is UTF-8");
    let up = format!("../../../../../../../../..{outside}");

    let machine = running(f).await;
    put(
        f,
        &machine,
        &[
            ("home/node/abs", symlink(outside, 1000)),
            ("home/node/up", symlink(&up, 1000)),
            ("home/node/file", symlink(on_host.to_str().expect("it is UTF-8"), 1000)),
        ],
    )
    .await;
    for way in ["abs", "up"] {
        let tar = pack(&[(&format!("home/node/{way}/planted"), file("x", 0o644, 0))]);
        copy_in(f, &machine, Upload { tar, ..Upload::default() }).await.ok();
        let wipe = vec![format!("/home/node/{way}/file")];
        copy_in(f, &machine, Upload { wipe, ..Upload::default() }).await.ok();
        let path = format!("/home/node/{way}/made");
        let dirs = vec![GuestDir { path, uid: 0, gid: 0, mode: 0o755 }];
        copy_in(f, &machine, Upload { dirs, ..Upload::default() }).await.ok();
    }
    for path in ["/home/node/file", "/home/node/abs/file", "/home/node/up/file"] {
        if let Ok(out) = f.backend().copy_out(f.scope(), &machine, path, LIMIT).await {
            let leaked = out.windows(10).any(|window| window == b"the host's");
            assert!(!leaked, "{path} leads to the host");
        }
    }
    assert_eq!(std::fs::read_to_string(&on_host).expect("it is still there"), "the host's");
    let names = std::fs::read_dir(host.path()).expect("it is still there").count();
    assert_eq!(names, 1, "something was made on the host");
}

pub(crate) async fn copied_out_as_it_is(f: &dyn Fixture) {
    let machine = running(f).await;
    put(f, &machine, &skill()).await;
    let single = take(f, &machine, "/home/node/s/bin").await;
    assert_eq!(single[""].kind, Kind::File(vec![0, 1, 255, b'\n', 0]));
    assert_eq!(single.len(), 1);
    let empty = take(f, &machine, "/home/node/s/empty").await;
    assert_eq!(empty, BTreeMap::from([(String::new(), folder(0o700, 1000))]));
    let wrote = exec(f, &machine, &["sh", "-c", "cat > /home/node/note"], "by the agent").await;
    assert_eq!(wrote.code, 0);
    let note = &take(f, &machine, "/home/node/note").await[""];
    assert_eq!((note.kind.clone(), note.uid), (Kind::File(b"by the agent".to_vec()), 1000));
    for path in ["/home/node/absent", "/absent/below", "/etc/passwd/below"] {
        let out = f.backend().copy_out(f.scope(), &machine, path, LIMIT).await;
        assert!(matches!(out, Err(BackendError::Failed { .. })), "{path}: {out:?}");
    }
}

/// Of any size, with the same names and contents, and no longer than somebody takes it.
pub(crate) async fn streamed_out_as_it_is(f: &dyn Fixture) {
    let machine = running(f).await;
    let mut entries = skill();
    entries.push(("home/node/s/big", file(vec![7; 3 << 20], 0o644, 1000)));
    put(f, &machine, &entries).await;
    let (send, mut pieces) = tokio::sync::mpsc::channel(2);
    let sending = f.backend().stream_out(f.scope(), &machine, "/home/node/s", send);
    let taking = async {
        let mut tar = Vec::new();
        while let Some(piece) = pieces.recv().await {
            tar.extend_from_slice(&piece);
        }
        tar
    };
    let (sent, tar) = tokio::join!(sending, taking);
    sent.expect("copying out");
    // Where the guest's own tar makes it, names begin with `./`.
    let named = |name: &str| name.trim_start_matches("./").to_owned();
    let names: Vec<String> = tar::Archive::new(tar.as_slice())
        .entries()
        .expect("it is a tar")
        .map(|entry| named(&entry.expect("it is whole").path().expect("a name").to_string_lossy()))
        .collect();
    assert!(names.iter().all(|name| name == "s" || name.starts_with("s/")), "{names:?}");
    assert_eq!(names.len(), entries.len(), "{names:?}");
    let big = tar.windows(1 << 20).step_by(512).any(|part| part.iter().all(|byte| *byte == 7));
    assert!(big, "its largest file is not in it");

    let (send, pieces) = tokio::sync::mpsc::channel(2);
    drop(pieces);
    let unwanted = f.backend().stream_out(f.scope(), &machine, "/home/node/s", send);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(60), unwanted).await;
    drop(ended.expect("it ends where nobody takes it"));
    for path in ["/home/node/absent", "/absent/below", "/etc/passwd/below"] {
        let (send, _pieces) = tokio::sync::mpsc::channel(2);
        let out = f.backend().stream_out(f.scope(), &machine, path, send).await;
        assert!(matches!(out, Err(BackendError::Failed { .. })), "{path}: {out:?}");
    }
}

pub(crate) async fn copied_out_up_to_a_limit(f: &dyn Fixture) {
    let machine = running(f).await;
    put(f, &machine, &[("home/node/big", file(vec![1; 1 << 20], 0o644, 1000))]).await;
    let out =
        async |limit| f.backend().copy_out(f.scope(), &machine, "/home/node/big", limit).await;
    for limit in [0, 512, 1 << 19, 1 << 20] {
        let ended = out(limit).await;
        assert!(matches!(ended, Err(BackendError::Failed { .. })), "{limit}: not refused");
    }
    assert_eq!(unpack("/home/node/big", &out(2 << 20).await.expect("it fits")).len(), 1);
}

pub(crate) async fn files_need_a_running_machine(f: &dyn Fixture) {
    let upload = Upload { tar: pack(&[("tmp/x", file("x", 0o644, 0))]), ..Upload::default() };
    let refused = async |machine: &Instance, state: &str| {
        let ended = copy_in(f, machine, upload.clone()).await;
        assert!(matches!(ended, Err(BackendError::NotRunning { .. })), "{state}: {ended:?}");
    };
    let machine = create(f, &machine(f, ada())).await;
    refused(&machine, "never started").await;
    start(f, &machine).await;
    copy_in(f, &machine, upload.clone()).await.expect("copying in");
    f.stop(&machine).await;
    refused(&machine, "stopped").await;
    f.remove(&only(f).await).await;
    refused(&machine, "gone").await;
}

pub(crate) async fn the_prompt_is_the_users_own(f: &dyn Fixture) {
    let machine = running(f).await;
    let identity = f.backend().identity(f.scope(), &machine).await.expect("it runs");
    let dirs = vec![GuestDir { path: "/etc/bottle".to_owned(), uid: 0, gid: 0, mode: 0o755 }];
    let name = guest_path::PROMPT.trim_start_matches('/');
    for prompt in ["Be brief.", ""] {
        let packed = file(prompt, 0o600, identity.uid.into());
        let tar: Bytes = pack(&[(name, packed.clone())]);
        let upload = Upload { dirs: dirs.clone(), tar, ..Upload::default() };
        copy_in(f, &machine, upload).await.expect("copying in");
        assert_eq!(take(f, &machine, guest_path::PROMPT).await[""], packed);
        let read = exec(f, &machine, &["cat", guest_path::PROMPT], "").await;
        assert_eq!((read.code, read.stdout.as_slice()), (0, prompt.as_bytes()));
    }
}

/// What goes in goes in as root, and a link of the guest's must not lead it to what is root's.
pub(crate) async fn a_users_link_leads_to_nothing_of_roots(f: &dyn Fixture) {
    let machine = running(f).await;
    put(f, &machine, &[("opt/lib/greet/x", file("root's", 0o644, 0))]).await;
    let home = |path: &str| GuestDir { path: path.to_owned(), uid: 1000, gid: 1000, mode: 0o755 };
    let dirs = || vec![home("/home/node/.claude"), home("/home/node/.claude/skills")];
    let upload = || Upload {
        wipe: vec!["/home/node/.claude/skills/greet".to_owned()],
        dirs: dirs(),
        tar: pack(&[
            ("home/node/.claude/skills/greet", folder(0o755, 1000)),
            ("home/node/.claude/skills/greet/y", file("y", 0o644, 1000)),
        ]),
        ..Upload::default()
    };
    copy_in(f, &machine, upload()).await.expect("copying in");
    for script in [
        "rm -r ~/.claude/skills && ln -s /opt/lib ~/.claude/skills",
        "rm -r ~/.claude && mkdir ~/d && ln -s /opt/lib ~/d/skills && ln -s d ~/.claude",
    ] {
        let script = format!("HOME=/home/node; {script}");
        let done = exec(f, &machine, &["sh", "-c", &script], "").await;
        assert_eq!(done.code, 0, "{done:?}");
        let error = copy_in(f, &machine, upload()).await.expect_err("it leads to root's");
        let text = format!("{:#}", anyhow::Error::from(error));
        assert!(text.contains("cannot remove") || text.contains("a link of user"), "{text}");
        let kept = take(f, &machine, "/opt/lib").await;
        assert!(kept.contains_key("greet/x") && !kept.contains_key("greet/y"), "{:?}", kept.keys());
    }
    // To the user's own it may.
    let script = "cd /home/node; rm -r .claude d; mkdir -p own/skills; ln -s own .claude";
    let done = exec(f, &machine, &["sh", "-c", script], "").await;
    assert_eq!(done.code, 0, "{done:?}");
    copy_in(f, &machine, upload()).await.expect("copying in");
    assert!(is_there(f, &machine, "/home/node/own/skills/greet/y").await);
}
