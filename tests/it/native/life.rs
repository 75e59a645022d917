//! A sandbox comes, is used, stops, is started again, and goes.

use std::time::Duration;

use bottle::backend::{Backend, Depth, ExecUser, MainState, Progress};
use bottle::model::{ImageRef, InstanceState, MachineSpec, SpecHash};

use super::support::{self, Corner, chain, machine};

#[tokio::test]
async fn it_comes_and_goes() {
    let corner = Corner::new();
    let made = corner.create(&machine("ada")).await;
    assert_eq!(corner.only().await.state, InstanceState::Created);
    let started = corner.start(&made).await;
    assert_eq!(started.state, InstanceState::Running);
    assert_eq!(corner.only().await.boot, started.boot);
    let said = corner.say(&started, "id -u; id -un; pwd; echo $HOME; hostname; uname -s").await;
    assert_eq!(said, "1000\nagent\n/home/agent\n/home/agent\nada\nLinux");
    let root = corner.exec_as(ExecUser::Root, &started, &["id", "-u"]).await;
    assert_eq!(root.stdout, b"0\n");
    assert_eq!(corner.sh(&started, "exit 7").await.code, 7);
    assert_eq!(corner.sh(&started, "kill -9 $$").await.code, 137);
    corner.teardown(&started).await;
    corner.wipe().await;
}

/// The last image that is removed takes the folder of images with it, and not the one that just comes.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_comes_while_the_last_one_goes() {
    let corner = Corner::new();
    let image = |name: String| {
        let path = corner.beside().join(&name);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("file"), "x").unwrap();
        let digest = SpecHash::of_bytes(name.as_bytes());
        MachineSpec { image: ImageRef::Folder { path, digest }, ..machine("ada") }
    };
    let prepare = async |spec: &MachineSpec| {
        let prepared = corner.backend.prepare(&corner.scope, spec, &Progress::silent()).await;
        prepared.unwrap_or_else(|error| panic!("preparing: {}", chain(&error)));
    };
    let leftovers = async || {
        let seen = corner.backend.observe(&corner.scope, Depth::Listing).await.unwrap().leftovers;
        seen.into_iter().filter(|left| left.id.0.starts_with(".images/")).collect::<Vec<_>>()
    };
    prepare(&image("first".to_owned())).await;
    for round in 0..20 {
        let next = image(format!("next-{round}"));
        let goes = async {
            for left in leftovers().await.into_iter().filter(|l| l.digest != next.image.digest()) {
                corner.backend.prune(&corner.scope, &left).await.unwrap();
            }
        };
        tokio::join!(prepare(&next), goes);
        let digest = next.image.digest();
        let there = leftovers().await.iter().any(|left| left.digest == digest);
        assert!(there, "round {round}");
    }
    corner.wipe().await;
}

/// The folder of a sandbox in the state folder.
fn folder(corner: &Corner, name: &str) -> std::path::PathBuf {
    corner.scope.data.join("native").join(name)
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_unknown_and_costs_nothing() {
    let corner = Corner::new();
    let ada = corner.run(&machine("ada")).await;
    corner.say(&ada, "echo precious > ~/f").await;
    let record = folder(&corner, "ada").join("machine.json");
    let whole = std::fs::read(&record).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    let newer = text.replacen("\"version\":2", "\"version\":99", 1);
    assert_ne!(newer, text);
    for damage in ["", &text[..text.len() / 2], "\u{1}\u{2}", &newer] {
        std::fs::write(&record, damage).unwrap();
        let seen = corner.only().await;
        let InstanceState::Unknown(why) = &seen.state else { panic!("{damage:?}: {seen:#?}") };
        assert!(why.contains("native/ada/machine.json"), "{why}");
        // Whoever believes that it knows it is not told that it is gone.
        let refused = corner.backend.teardown(&corner.scope, &ada).await.unwrap_err();
        assert!(support::chain(&refused).contains("machine.json"), "{refused}");
    }
    std::fs::write(&record, &whole).unwrap();
    assert_eq!(corner.only().await.state, InstanceState::Running);
    assert_eq!(corner.say(&ada, "cat ~/f").await, "precious");
    // Given up, all of it goes, its cgroups too.
    let cgroups = corner.cgroups(&ada);
    std::fs::write(&record, "").unwrap();
    corner.teardown(&corner.only().await).await;
    assert!(cgroups.iter().all(|path| !path.exists()), "{cgroups:?}");
    corner.wipe().await;
}

#[tokio::test]
async fn an_init_whose_receipt_is_lost_is_found_and_not_started_twice() {
    let corner = Corner::new();
    let ada = corner.run(&machine("ada")).await;
    let init = corner.init(&ada);
    let receipt = folder(&corner, "ada").join("run.json");
    for damage in [Some(""), Some("{\"pid\":"), Some("\u{0}\u{ff}"), None] {
        match damage {
            Some(damage) => std::fs::write(&receipt, damage).unwrap(),
            None => std::fs::remove_file(&receipt).unwrap(),
        }
        assert_eq!(corner.only().await.state, InstanceState::Running, "{damage:?}");
        let again = corner.start(&ada).await;
        assert_eq!((again.boot, corner.init(&ada)), (ada.boot.clone(), init), "{damage:?}");
    }
    // What it wrote itself is lost too: what runs is ended before anything else is on its files.
    corner.say(&ada, "echo kept > ~/f").await;
    let status = NAMES.map(|name| folder(&corner, "ada").join(name));
    let remove_status = || status.iter().for_each(|name| std::fs::remove_file(name).unwrap());
    let (mut boot, mut init) = (ada.boot, init);
    for removed in [false, true] {
        std::fs::remove_file(&receipt).unwrap();
        if removed {
            remove_status();
        } else {
            std::fs::write(&status[0], "").unwrap();
        }
        let again = corner.start(&corner.only().await).await;
        assert_ne!(again.boot, boot);
        assert_eq!(corner.say(&again, "cat ~/f").await, "kept");
        assert!(std::fs::read_link(format!("/proc/{init}/exe")).is_err(), "the first has ended");
        (boot, init) = (again.boot.clone(), corner.init(&again));
    }
    // The receipt of a run of before was put back, and what init wrote is not there.
    std::fs::write(&receipt, r#"{"pid":1,"start_time":1,"host_boot":"another"}"#).unwrap();
    remove_status();
    let again = corner.start(&corner.only().await).await;
    assert_ne!(again.boot, boot);
    assert!(std::fs::read_link(format!("/proc/{init}/exe")).is_err(), "it has ended");
    // And so it is when it is taken away.
    let init = corner.init(&again);
    std::fs::remove_file(&receipt).unwrap();
    remove_status();
    corner.teardown(&corner.only().await).await;
    assert!(std::fs::read_link(format!("/proc/{init}/exe")).is_err(), "none is left behind");
    corner.wipe().await;
}

/// The names of the file in which an init says that it is ready.
const NAMES: [&str; 2] = ["main", "main.same"];

/// What somebody does to a file of the state folder.
fn damage(path: &std::path::Path, how: &str) {
    match how {
        "empty" => return std::fs::write(path, "").unwrap(),
        "garbage" => return std::fs::write(path, "\u{1}x\n".repeat(99)).unwrap(),
        "half" => {
            let whole = std::fs::read(path).unwrap();
            return std::fs::write(path, &whole[..whole.len() - 3]).unwrap();
        }
        "of before" => {
            let text = std::fs::read_to_string(path).unwrap();
            let boot = text.lines().nth(1).unwrap();
            let older = format!("1{boot}").replacen(boot, &boot.replace('.', ".1"), 1);
            return std::fs::write(path, text.replace(boot, &older)).unwrap();
        }
        _ => std::fs::remove_file(path).unwrap(),
    }
    match how {
        "folder" => std::fs::create_dir_all(path.join("full")).unwrap(),
        "fifo" => {
            rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU).unwrap();
        }
        "link" => std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
        "other file" => std::fs::write(path, "running\n1.2.x\nfile 1:2\n").unwrap(),
        "gone" => {}
        _ => panic!("{how}"),
    }
}

/// An ordinary user may not read it then, and may give itself the right again.
#[tokio::test]
async fn a_word_that_nobody_may_read_becomes_readable() {
    let corner = Corner::new();
    let ada = corner.run(&machine("ada")).await;
    corner.say(&ada, "echo kept > ~/f").await;
    let close = || {
        for name in NAMES {
            let nobody = std::os::unix::fs::PermissionsExt::from_mode(0o000);
            std::fs::set_permissions(folder(&corner, "ada").join(name), nobody).unwrap();
        }
    };
    close();
    let seen = corner.only().await;
    assert_eq!((&seen.state, &seen.boot), (&InstanceState::Running, &ada.boot));
    corner.backend.mend(&corner.scope, &seen).await.unwrap();
    assert!(corner.only().await.mendable.is_empty());
    assert_eq!(corner.start(&ada).await.boot, ada.boot);
    // Where it does not run, it starts.
    close();
    let init = rustix::process::Pid::from_raw(corner.init(&ada)).unwrap();
    rustix::process::kill_process(init, rustix::process::Signal::KILL).unwrap();
    while corner.only().await.state == InstanceState::Running {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let again = corner.start(&corner.only().await).await;
    assert_eq!(corner.say(&again, "cat ~/f").await, "kept");
    corner.wipe().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_whose_word_is_damaged_runs_on_and_says_it_again() {
    let corner = Corner::new();
    let command = ["sh", "-c", "sleep 0.3; test -e ~/go && exit 3; exec sleep 600"];
    let spec = MachineSpec {
        command: command.map(str::to_owned).to_vec(),
        restart: bottle::model::Restart::Never,
        ..machine("ada")
    };
    let ada = corner.run(&spec).await;
    corner.ready(&ada).await;
    corner.main_becomes(&ada, |state| *state == MainState::Running).await;
    let init = corner.init(&ada);
    let path = |name: &str| folder(&corner, "ada").join(name);
    let hows =
        ["empty", "garbage", "half", "of before", "gone", "folder", "fifo", "link", "other file"];
    for (how, name) in hows.iter().flat_map(|how| NAMES.map(|name| (*how, name))) {
        damage(&path(name), how);
        let seen = corner.only().await;
        assert_eq!(seen.state, InstanceState::Running, "{how} {name}");
        assert_eq!(seen.boot, ada.boot, "{how} {name}");
        // A start of it changes nothing, and neither does a teardown that is not asked for.
        assert_eq!(corner.start(&ada).await.boot, ada.boot, "{how} {name}");
        corner.backend.mend(&corner.scope, &corner.only().await).await.unwrap();
        let seen = corner.only().await;
        assert_eq!((seen.mendable, seen.boot), (Vec::new(), ada.boot.clone()), "{how} {name}");
        assert_eq!(corner.init(&ada), init, "{how} {name}");
        let said = corner.backend.main_state(&corner.scope, &ada).await.unwrap();
        assert_eq!(said, Some(MainState::Running), "{how} {name}");
        // Both names again: of the second one that is lost alone nothing is said.
        damage(&path("main"), "empty");
        corner.backend.mend(&corner.scope, &corner.only().await).await.unwrap();
    }
    // It is the file of the init, which says there what comes later.
    corner.say(&ada, "pkill sleep || kill $(pidof sleep)").await;
    corner.main_becomes(&ada, |state| matches!(state, MainState::Failed(_))).await;
    // Where nothing tells whether it runs on these files, nothing is done about it.
    NAMES.iter().for_each(|name| damage(&path(name), "gone"));
    let InstanceState::Unknown(why) = corner.only().await.state else { panic!("it is known") };
    assert!(why.contains("native/ada/main is missing or damaged"), "{why}");
    assert!(corner.backend.start(&corner.scope, &ada).await.is_err());
    assert!(std::path::Path::new(&format!("/proc/{init}/exe")).symlink_metadata().is_ok());
    corner.teardown(&corner.only().await).await;
    assert!(std::fs::read_link(format!("/proc/{init}/exe")).is_err(), "it has ended");
    corner.wipe().await;
}

/// Whatever a guest calls a process of its own, it is no process of ours that was left behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_bears_a_mark_is_no_stray() {
    let corner = Corner::new();
    let ada = corner.run(&machine("ada")).await;
    let first = |pid: &str| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(first).into_owned()
    };
    let init = corner.init(&ada).to_string();
    let own = first(&init);
    assert!(own.contains(":init:") && own.ends_with(":ada"), "{own}");
    let sidecar = own.replace(":init:", ":sidecar:");
    let marks = [own.clone(), sidecar.clone(), sidecar.replace(":ada", ":zz")];
    corner.say(&ada, "cd ~; echo 'sleep 600; :' > sidecar").await;
    for mark in &marks {
        let script =
            format!("cd ~; (bash -c 'exec -a {mark} sh sidecar serve' > /dev/null 2>&1) &");
        corner.say(&ada, &script).await;
        let there = || {
            let all = std::fs::read_dir("/proc").unwrap().flatten();
            let names = all.filter_map(|entry| entry.file_name().into_string().ok());
            names.filter(|name| *name != init).any(|name| first(&name) == *mark)
        };
        for _ in 0..400 {
            if there() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        assert!(there(), "{mark}");
        let seen = corner.backend.observe(&corner.scope, Depth::Listing).await.unwrap();
        assert_eq!(seen.leftovers, [], "{mark}");
    }
    assert_eq!(corner.start(&ada).await.boot, ada.boot);
    corner.teardown(&ada).await;
    corner.wipe().await;
}
