//! What a machine may write to a folder of the host, and that its programs work all the same.

use std::os::unix::fs::MetadataExt;

use bottle::backend::{ExecUser, MainState};

use super::*;
use crate::egress::world;

/// A machine of the host's own programs with a mounted workspace.
async fn mounted(corner: &Corner) -> Option<(Instance, std::path::PathBuf)> {
    let image = world::image("set-id files in a container's workspace")?;
    let path = corner.folder.path().join("work");
    std::fs::create_dir(&path).expect("the folder is new");
    let anybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&path, anybody).expect("it is ours");
    let mode = WorkspaceMode::Mount;
    let mount = Workspace { path: path.clone(), mode, target: "/workspace".to_owned() };
    let spec = MachineSpec {
        workdir: Some(mount.target.clone()),
        mount: Some(mount),
        ..machine(ImageRef::DockerLocal(image.to_owned()))
    };
    Some((corner.run(&spec).await, path))
}

/// X20: by every call, flag and ABI, as root and as anybody.
#[tokio::test]
async fn no_set_id_file_comes_to_be_in_a_mounted_workspace() {
    let Some(corner) = Corner::new("setid") else { return };
    let Some((on, path)) = mounted(&corner).await else { return };
    for user in [ExecUser::Root, ExecUser::Sandbox] {
        let spec = ExecSpec { user, ..ExecSpec::new(["python3", "-c", support::SET_ID]) };
        let said = corner.backend.exec(&corner.scope, &on, &spec, Bytes::new()).await;
        let said = said.expect("it runs");
        let text = String::from_utf8_lossy(&said.stdout);
        let complaints = String::from_utf8_lossy(&said.stderr);
        assert_eq!((said.code, text.trim()), (0, ""), "{user:?}: {complaints}");
    }
    let mut seen = 0;
    for entry in std::fs::read_dir(&path).expect("it is there") {
        let entry = entry.expect("it can be read");
        let mode = entry.metadata().expect("it is there").mode();
        assert_eq!(mode & 0o6000, 0, "{:?} is {mode:o}", entry.path());
        seen += 1;
    }
    assert!(seen > 40, "{seen} files were made");
    // And the engine's way to say what was set is no drift.
    let only = corner.only(Depth::Deep).await;
    assert_eq!((only.drift.len(), only.state), (0, InstanceState::Running), "{:?}", only.drift);
}

/// What works under the engine's own profile works under ours.
#[tokio::test]
async fn programs_work_in_a_mounted_workspace() {
    let Some(corner) = Corner::new("tools") else { return };
    let Some((on, _)) = mounted(&corner).await else { return };
    let script = "set -e; cd /workspace; mkdir -m 1777 -p a/b; echo x >a/b/file; chmod 0755 a/b/file; \
        cp -a a c; tar -cf t.tar a; mkdir d; tar -xpf t.tar -C d; test -x d/a/b/file; \
        export HOME=/tmp; git init -q r; cd r; git config user.email a@b; git config user.name a; \
        cp -r ../a .; git add .; git commit -qm one; git log --oneline | wc -l; cd ..; \
        python3 -c 'import subprocess, tempfile, threading; \
            t = threading.Thread(target=print); t.start(); t.join(); \
            open(tempfile.mkstemp(dir=\"/workspace\")[1]); \
            subprocess.run([\"true\"], check=True)'; \
        if command -v node; then node -e 'require(\"fs\").writeFileSync(\"/workspace/n\", \"x\")'; fi; \
        echo done";
    let said = corner.sh(&on, script).await;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.code == 0 && text.ends_with("done\n"), "{said:?}");
}

/// X24: neither to a file nor to the host's handler of them.
#[tokio::test]
async fn a_machine_dumps_no_core() {
    let Some(corner) = Corner::new("core") else { return };
    let on = corner.run(&machine(ImageRef::DockerLocal(BUSYBOX.to_owned()))).await;
    assert_eq!(corner.says(&on, "ulimit -c; ulimit -Hc").await, "0\n0");
    let limits =
        corner.says(&on, "grep -i core /proc/1/limits; grep -i core /proc/self/limits").await;
    assert!(limits.lines().all(|line| line.split_whitespace().any(|word| word == "1")), "{limits}");
    assert_eq!(corner.only(Depth::Deep).await.drift, []);
}

/// X25: whatever the guest puts there, nobody waits for it, and no process of ours stays.
#[tokio::test]
async fn what_a_command_does_is_asked_and_not_waited_for() {
    let Some(corner) = Corner::new("asked") else { return };
    let command = ["sh", "-c", "exit 3"].map(str::to_owned).to_vec();
    let spec = MachineSpec {
        command,
        restart: Restart::Never,
        ..machine(ImageRef::DockerLocal(BUSYBOX.to_owned()))
    };
    let on = corner.run(&spec).await;
    let state = async || corner.backend.main_state(&corner.scope, &on).await.expect("it runs");
    for _ in 0..200 {
        if state().await == Some(MainState::Waiting) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(state().await, Some(MainState::Waiting), "a control");
    for planted in ["mkfifo", "mkdir", "ln -s /dev/zero"] {
        corner.says(&on, &format!("rm -rf /run/bottle/main; {planted} /run/bottle/main")).await;
        let began = std::time::Instant::now();
        assert_eq!(state().await, None, "{planted}");
        assert!(began.elapsed().as_secs() < 5, "{planted}: {:?}", began.elapsed());
    }
    let running = corner.says(&on, "ps | grep -c 'run/bottle/mai[n] \\]' || true").await;
    assert_eq!(running, "0");
    // The supervisor itself goes on where a fifo waits for it.
    corner.says(&on, "mkfifo /run/bottle/main.new; rm -rf /run/bottle/main").await;
    let ready = Upload { tar: ready(), ..Upload::default() };
    corner.backend.copy_in(&corner.scope, &on, ready).await.expect("copying");
    for _ in 0..200 {
        if state().await == Some(MainState::Failed(3)) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the command is {:?}", state().await);
}

/// What the end of provisioning puts in.
fn ready() -> Bytes {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    tar.append_data(&mut header, "etc/bottle/ready", std::io::empty()).expect("it fits");
    tar.into_inner().expect("it is whole").into()
}
