//! What a sandbox is handed, or can leave behind, of the host: descriptors, files that are not
//! everyone's, files that gain rights where they lie.

use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use bottle::backend::{Backend, ExecUser};
use bottle::model::{MachineSpec, Workspace, WorkspaceMode};

use super::support::{Corner, chain, machine, text};

const BOTH: [ExecUser; 2] = [ExecUser::Sandbox, ExecUser::Root];

#[tokio::test]
async fn descriptors_that_the_caller_inherited() {
    let corner = Corner::new();
    let command = vec!["sh".into(), "-c".into(), "ls /proc/self/fd".into()];
    let spec = MachineSpec { command, restart: bottle::model::Restart::Never, ..machine("ada") };
    let created = corner.create(&spec).await;
    // Such as a CI runner's: open over `exec`, on a folder of the host.
    let folder = std::fs::File::open("/").unwrap();
    let high = rustix::io::fcntl_dupfd_cloexec(folder.as_fd(), 700).unwrap();
    rustix::io::fcntl_setfd(&high, rustix::io::FdFlags::empty()).unwrap();
    let on = corner.start(&created).await;
    corner.ready(&on).await;
    // 3 is the folder that `ls` lists.
    for user in BOTH {
        let output = corner.exec_as(user, &on, &["ls", "/proc/self/fd"]).await;
        assert_eq!(output.stdout, b"0\n1\n2\n3\n", "{}", text(&output));
    }
    corner.main_becomes(&on, |state| *state == bottle::backend::MainState::Completed).await;
    assert_eq!(corner.log(&on).await, "0\n1\n2\n3\n");
    drop(high);
    corner.wipe().await;
}

/// Among the programs lie files that people keep for themselves. Their numbers mean others inside.
#[tokio::test]
async fn what_a_person_owns_among_the_programs() {
    if !rustix::process::geteuid().is_root() || !std::path::Path::new("/opt").is_dir() {
        crate::support::left_out("private files in /opt", "only root can put them there");
        return;
    }
    let folder = tempfile::Builder::new().prefix("bottle-test-").tempdir_in("/opt").unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let write = |name: &str, mode: u32| {
        let path = folder.path().join(name);
        std::fs::write(&path, "a person's").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        chown(&path, Some(1000), Some(1000)).unwrap();
        path
    };
    let (private, public) = (write("private", 0o600), write("public", 0o644));
    let corner = Corner::new();
    let on = corner.run(&machine("ada")).await;
    for user in BOTH {
        let output = corner.exec_as(user, &on, &["cat", private.to_str().unwrap()]).await;
        assert_ne!(output.code, 0, "{user:?}: {}", text(&output));
        let output = corner.exec_as(user, &on, &["cat", public.to_str().unwrap()]).await;
        assert_eq!(output.stdout, b"a person's", "a control: {}", text(&output));
    }
    corner.wipe().await;
}

/// The workspace's owner is the sandbox's user: a setuid file there would be one of that owner, on
/// the host, where setuid counts.
#[tokio::test]
async fn a_setuid_file_in_the_workspace() {
    let corner = Corner::new();
    let path = corner.beside().join("work");
    std::fs::create_dir(&path).unwrap();
    let mount = Workspace { path: path.clone(), mode: WorkspaceMode::Mount, target: "/w".into() };
    let on = corner.run(&MachineSpec { mount: Some(mount), ..machine("ada") }).await;
    assert_eq!(
        corner.say(&on, "cp /bin/true /w/file && chmod 755 /w/file && echo made").await,
        "made"
    );
    for (name, number, arguments) in [
        ("chmod", libc::SYS_chmod, "\"/w/file\", 04755"),
        ("fchmodat", libc::SYS_fchmodat, "-100, \"/w/file\", 04755"),
        ("fchmodat2", 452, "-100, \"/w/file\", 04755, 0"),
        ("open", libc::SYS_open, "\"/w/new\", 0101, 04755"),
        ("openat", libc::SYS_openat, "-100, \"/w/new\", 0101, 04755"),
        ("openat of no name", libc::SYS_openat, "-100, \"/w\", 020200001, 04755"),
        ("openat2", libc::SYS_openat2, "-100, \"/w/new\", pack(\"QQQ\", 0101, 04755, 0), 24"),
        ("creat", libc::SYS_creat, "\"/w/new\", 04755"),
        ("mknod", libc::SYS_mknod, "\"/w/new\", 0104755, 0"),
        ("mknodat", libc::SYS_mknodat, "-100, \"/w/new\", 0104755, 0"),
    ] {
        let probe = format!(
            "my @a = ({arguments}); my $r = syscall({number}, @a); \
             print $r < 0 ? \"refused $!\" : \"allowed $r\""
        );
        for user in BOTH {
            let output = corner.exec_as(user, &on, &["perl", "-e", &probe]).await;
            assert!(output.stdout.starts_with(b"refused"), "{name}: {}", text(&output));
        }
        for entry in std::fs::read_dir(&path).unwrap() {
            let mode = entry.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o4000, 0, "{name}");
        }
    }
    corner.wipe().await;
}

/// A folder that was judged, and is another by the time it is mounted.
#[tokio::test]
async fn a_folder_that_becomes_a_symlink_before_the_start() {
    let corner = Corner::new();
    let secret = corner.beside().join("secret");
    std::fs::create_dir(&secret).unwrap();
    for shown in [false, true] {
        let path = corner.beside().join("folder");
        std::fs::create_dir(&path).unwrap();
        let spec = if shown {
            MachineSpec { host_paths: vec![path.clone()], ..machine("ada") }
        } else {
            let mode = WorkspaceMode::Mount;
            let mount = Some(Workspace { path: path.clone(), mode, target: "/w".into() });
            MachineSpec { mount, ..machine("ada") }
        };
        let created = corner.create(&spec).await;
        std::fs::remove_dir(&path).unwrap();
        symlink(&secret, &path).unwrap();
        let error = corner.backend.start(&corner.scope, &created).await.expect_err("it starts");
        assert!(chain(&error).contains("symlink"), "{}", chain(&error));
        std::fs::remove_file(&path).unwrap();
        corner.teardown(&created).await;
    }
    corner.wipe().await;
}
