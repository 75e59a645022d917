//! Images: what fits, what does not, and what is left of them.

use bottle::model::{InstanceId, Leftover};

use super::*;

/// An image of these files, made past the backend.
fn import(corner: &Corner, what: &str, files: &[(&str, &str)], change: &str) -> String {
    let name = format!("{}:1", corner.name(what));
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content.as_bytes()).expect("it fits");
    }
    let file = corner.folder.path().join("image.tar");
    std::fs::write(&file, tar.into_inner().expect("it is in memory")).expect("it can be written");
    let file = file.to_str().expect("it is UTF-8");
    docker(&["import", "--change", change, file, &name]).expect("it can be imported");
    name
}

async fn nothing_is_left(corner: &Corner) {
    let seen = corner.observe(Depth::Listing).await;
    assert!(seen.instances.is_empty() && seen.leftovers.is_empty(), "{seen:#?}");
}

#[tokio::test]
async fn an_image_without_a_shell_is_refused_before_anything_is_made() {
    let Some(corner) = Corner::new("nosh") else { return };
    let passwd = "root:x:0:0::/root:/bin/sh\n";
    let image = import(&corner, "nosh", &[("etc/passwd", passwd)], "USER 0");
    let refused = corner.prepare(&machine(ImageRef::Registry(image.clone()))).await;
    let Err(BackendError::Image { image: said, reason }) = refused else { panic!("{refused:?}") };
    assert_eq!(said, image);
    assert!(reason.contains("/bin/sh"), "{reason}");
    nothing_is_left(&corner).await;
}

#[tokio::test]
async fn the_user_is_the_bottles_the_images_the_usual_or_root() {
    let Some(corner) = Corner::new("user") else { return };
    let rootonly = ImageRef::Registry("bottle-test-rootonly:1".to_owned());
    let machine_root = corner.run(&machine(rootonly.clone())).await;
    assert_eq!(corner.says(&machine_root, "id -u; cat /run/bottle/main").await, "0\nidle");
    let facts = corner.observe(Depth::Listing).await.facts;
    assert_eq!(facts.root_images, BTreeSet::from([rootonly.to_string()]));
    // Root without capabilities: what it does not own it may not read.
    let spec = MachineSpec {
        sandbox: named("node"),
        ..machine(ImageRef::DockerLocal("bottle-test-user:1".to_owned()))
    };
    let node = corner.run(&spec).await;
    assert_eq!(corner.says(&node, "id -u; echo $HOME").await, "1000\n/home/node");
    let nobody = MachineSpec { user: Some("nobody".to_owned()), ..busybox() };
    let refused = text(corner.prepare(&nobody).await.expect_err("there is none"));
    assert!(refused.contains("no user `nobody`; it has: root, node"), "{refused}");
}

#[tokio::test]
async fn groups_of_the_user_are_kept() {
    let Some(corner) = Corner::new("group") else { return };
    let folder = corner.folder.path().join("root");
    copy_root(&folder);
    std::fs::write(folder.join("etc/group"), "root:x:0:\nnode:x:1000:\naudio:x:29:node\n")
        .expect("it is ours");
    let digest = SpecHash::of_bytes(b"groups");
    let made = corner.run(&machine(ImageRef::Folder { path: folder, digest })).await;
    assert_eq!(corner.says(&made, "id -G").await, "1000 29");
    assert_eq!(corner.only(Depth::Deep).await.drift, []);
}

/// The busybox root, as the test's own copy.
fn copy_root(to: &std::path::Path) {
    let from = images().join("busybox-root");
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.expect("cp runs").success());
}

#[tokio::test]
async fn a_folder_with_devices_and_sockets_is_imported_without_them() {
    let Some(corner) = Corner::new("dev") else { return };
    let folder = corner.folder.path().join("root");
    copy_root(&folder);
    let _socket = std::os::unix::net::UnixListener::bind(folder.join("run/socket"));
    let made = std::process::Command::new("mknod")
        .arg(folder.join("tmp/zero"))
        .args(["c", "1", "5"])
        .status();
    assert!(made.expect("mknod runs").success(), "the tests run as root");
    std::fs::hard_link(folder.join("etc/passwd"), folder.join("etc/passwd2")).expect("it is ours");
    let digest = SpecHash::of_bytes(b"devices");
    let made = corner.run(&machine(ImageRef::Folder { path: folder, digest })).await;
    assert_eq!(corner.sh(&made, "ls /tmp/zero").await.code, 1);
    assert_eq!(corner.says(&made, "stat -c %h /etc/passwd2").await, "2");
    assert_eq!(corner.sh(&made, "ls /run/socket").await.code, 1);
}

#[tokio::test]
async fn a_tar_moves_no_name_and_what_is_no_image_says_so() {
    let Some(corner) = Corner::new("tar") else { return };
    let id = || docker(&["image", "inspect", "--format", "{{.Id}}", BUSYBOX]);
    let before = id().expect("tests/support/images.sh made it");
    let path = images().join("busybox.tar");
    let bytes = std::fs::read(&path).expect("tests/support/images.sh made it");
    let digest = SpecHash::of_bytes(&bytes);
    corner.run(&machine(ImageRef::Tar { path: path.clone(), digest })).await;
    assert_eq!(id().as_ref(), Ok(&before));

    let changed = SpecHash::of_bytes(b"another");
    let refused = text(
        corner.prepare(&machine(ImageRef::Tar { path, digest: changed })).await.expect_err("it"),
    );
    assert!(refused.contains("changed since the plan"), "{refused}");

    for (name, bytes) in [("text", &b"not a tar at all"[..]), ("empty", b""), ("zeros", &[0; 2048])]
    {
        let path = corner.folder.path().join(name);
        std::fs::write(&path, bytes).expect("it can be written");
        let digest = SpecHash::of_bytes(bytes);
        let spec = machine(ImageRef::Tar { path: path.clone(), digest });
        let refused = corner.prepare(&spec).await;
        let Err(BackendError::Image { image, .. }) = &refused else { panic!("{refused:?}") };
        assert_eq!(image, &path.display().to_string());
        assert!(corner.prepare(&spec).await.is_err(), "nothing of it was taken for the image");
    }
    let path = corner.folder.path().join("gone.tar");
    let refused = text(
        corner.prepare(&machine(ImageRef::Tar { path, digest: changed })).await.expect_err("gone"),
    );
    assert!(refused.contains("gone.tar"), "{refused}");
}

#[tokio::test]
async fn many_at_once_import_one_image() {
    let Some(corner) = Corner::new("many") else { return };
    let path = images().join("busybox-root");
    let digest = SpecHash::of_bytes(b"many");
    let spec = |n: usize| MachineSpec {
        sandbox: named(&format!("m{n}")),
        ..machine(ImageRef::Folder { path: path.clone(), digest })
    };
    let specs: Vec<MachineSpec> = (0..6).map(spec).collect();
    let prepared = specs.iter().map(|spec| corner.prepare(spec));
    for prepared in futures_util::future::join_all(prepared).await {
        prepared.expect("preparing");
    }
    let seen = corner.observe(Depth::Listing).await;
    assert_eq!((seen.instances.len(), seen.leftovers.len()), (0, 1), "{seen:#?}");
    let dangling = docker(&["images", "--quiet", "--filter", "dangling=true"]);
    let before: BTreeSet<String> = dangling.expect("it lists").lines().map(str::to_owned).collect();
    let id = docker(&["image", "inspect", "--format", "{{.Id}}", &seen.leftovers[0].name]);
    assert!(!before.iter().any(|short| id.as_ref().is_ok_and(|id| id.contains(short))));
}

#[tokio::test]
async fn our_name_on_somebody_elses_image_is_taken_back() {
    let Some(corner) = Corner::new("taken") else { return };
    let digest = SpecHash::of_bytes(b"taken");
    let spec = machine(ImageRef::Folder { path: images().join("busybox-root"), digest });
    corner.prepare(&spec).await.expect("preparing");
    let name = corner.observe(Depth::Listing).await.leftovers[0].name.clone();
    docker(&["tag", "bottle-test-rootonly:1", &name]).expect("it can be tagged");
    let made = corner.run(&spec).await;
    assert_eq!(corner.says(&made, "id -u").await, "1000", "it is ours, and not rootonly");
}

#[tokio::test]
async fn a_probe_that_was_left_is_scratch_and_goes() {
    let Some(corner) = Corner::new("probe") else { return };
    let labels = [
        format!("io.bottle.owner={}", corner.scope.owner),
        "io.bottle.state=here".to_owned(),
        "io.bottle.resource=probe".to_owned(),
    ];
    let mut args = vec!["create"];
    args.extend(labels.iter().flat_map(|label| ["--label", label.as_str()]));
    args.extend([BUSYBOX, "sh"]);
    let id = docker(&args).expect("it can be made");
    let seen = corner.observe(Depth::Listing).await;
    let [leftover] = seen.leftovers.as_slice() else { panic!("{seen:#?}") };
    assert_eq!((leftover.kind, &leftover.id.0), (LeftoverKind::Scratch, &id));
    for _ in 0..2 {
        corner.backend.prune(&corner.scope, leftover).await.expect("pruning");
    }
    nothing_is_left(&corner).await;
}

/// Trees of one engine share the sidecar's image, and two of them may end at once.
#[tokio::test]
async fn an_image_that_many_remove_at_once_is_gone_for_each_of_them() {
    let Some(corner) = Corner::new("many") else { return };
    for round in 0..20 {
        let made = import(&corner, "many", &[("round", &round.to_string())], "USER 0");
        let id = docker(&["image", "inspect", "--format", "{{.Id}}", &made]).expect("it is there");
        let name = format!("bottle-sidecar:{}", corner.name("many"));
        docker(&["tag", &made, &name]).expect("it can be tagged");
        docker(&["image", "rm", &made]).expect("it has another name");
        let leftover = Leftover {
            backend: BackendKind::Docker,
            kind: LeftoverKind::Image,
            id: InstanceId(id.trim().to_owned()),
            name,
            digest: None,
        };
        let prune = || corner.backend.prune(&corner.scope, &leftover);
        let all = tokio::join!(prune(), prune(), prune(), prune());
        for ended in [all.0, all.1, all.2, all.3] {
            ended.unwrap_or_else(|e| panic!("round {round}: {}", text(e)));
        }
        docker(&["image", "inspect", id.trim()]).expect_err("it is gone");
    }
}
