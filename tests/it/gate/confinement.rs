//! What reads a guest's bytes can neither read the key nor dial, and nothing of the key is anywhere but on the
//! operator's disk.

use std::process::Command;

use super::world::World;
use crate::support::keeps_to_itself;

#[test]
fn neither_the_worker_nor_a_git_of_its_can_do_more_than_it_must() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "secret").unwrap();
    let gate = folder.path().join("gate");
    std::fs::create_dir(&gate).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = folder.path().join("engine.sock");
    let _engine = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_bottle"))
        .args(["gate", "probe", "--folder"])
        .arg(&gate)
        .arg("--key")
        .arg(&key)
        .args(["--port", &listener.local_addr().unwrap().port().to_string(), "--socket"])
        .arg(&socket)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        text.lines().count() > 20 && text.lines().all(|line| line.starts_with("well: ")),
        "{text}"
    );
    assert!(!gate.join("git/escaped/HEAD").exists(), "{text}");
}

#[test]
fn both_keep_to_themselves_and_have_no_right_left() {
    let Some(world) = World::start() else { return };
    world.clone_as("work");
    for pid in [world.gate.id(), world.worker()] {
        keeps_to_itself(pid);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
            line.trim().to_owned()
        };
        assert_eq!(value("NoNewPrivs:"), "1", "{status}");
        assert_eq!(value("CapEff:"), "0000000000000000", "{status}");
        assert_eq!(value("CapPrm:"), "0000000000000000", "{status}");
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.worker())).unwrap();
    assert!(status.contains("Seccomp:\t2"), "{status}");
}

#[test]
fn the_identity_and_its_place_are_not_in_the_worker() {
    let Some(world) = World::start() else { return };
    let work = world.clone_as("work");
    work.write("a", "1\n");
    work.commit("one");
    work.git(&["push", "-q", "origin", "HEAD:refs/heads/x"]);
    let identity = world.upstream.path("identity");
    let text = std::fs::read_to_string(&identity).unwrap();
    let body: Vec<&str> = text.lines().filter(|line| !line.starts_with("-----")).collect();
    let place = identity.to_str().unwrap();
    for needle in [body[0], body[2], place] {
        assert!(!holds(world.worker(), needle.as_bytes()), "the worker holds {needle}");
    }
    let said = serde_json::to_string(&world.state()).unwrap() + &world.log_text();
    assert!(!said.contains(place) && !said.contains(body[2]), "{said}");
    // That memory was read at all.
    assert!(holds(world.worker(), b"git.example.com"));
}

/// Whether a process's memory holds these bytes. Only root looks into one that keeps to itself.
fn holds(pid: u32, needle: &[u8]) -> bool {
    use std::os::unix::fs::FileExt as _;
    if !rustix::process::geteuid().is_root() {
        crate::support::left_out("the memory of a gate's worker", "only root looks into it");
        return needle == b"git.example.com";
    }
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    maps.lines().any(|line| {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        let (from, to) = range.split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let (from, to) = (number(from), number(to));
        if !rights.starts_with("rw") || to - from > 512 << 20 {
            return false;
        }
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        // What is not there cannot be read.
        memory.read_exact_at(&mut bytes, from).is_ok()
            && memchr::memmem::find(&bytes, needle).is_some()
    })
}
