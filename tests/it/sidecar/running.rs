//! What a sidecar bears, and what it is told while it runs: R.

use std::time::{Duration, Instant};

use serde_json::json;

use super::client::{Client, dial};
use super::memory::bounded;
use super::upstream::{Certificate, Upstream};
use super::world::{World, allowing};

const HOSTS: &[&str] = &["api.example.com", "other.example.com"];
pub(super) const ECHO: &str = "GET /echo HTTP/1.1\r\nHost: api.example.com\r\n\r\n";

/// R01: those who say nothing make room, and are closed in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_keep_nobody_out() {
    let world = World::start(allowing(HOSTS)).await;
    assert_eq!(world.inside("api.example.com:443").await.ask(ECHO).await.status, 200);
    let mut silent = Vec::new();
    for _ in 0..1000 {
        let mut client = dial(world.address).await;
        client.send("C").await;
        silent.push(client);
    }
    let begun = Instant::now();
    for _ in 0..10 {
        assert_eq!(world.inside("api.example.com:443").await.ask(ECHO).await.status, 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    bounded(&world);
    for mut client in silent {
        assert!(client.rest().await.is_empty());
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

/// R02.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_are_bounded() {
    let world = World::start(allowing(HOSTS)).await;
    let field = format!("X: {}\r\n", "a".repeat(70_000));
    let fields = "X: a\r\n".repeat(1000);
    let path = format!("/{}", "a".repeat(65_000));
    for (count, (path, fields, status, code)) in [
        ("/", field.as_str(), 431, "header_too_large"),
        ("/", &fields, 431, "header_too_large"),
        (&path, "", 414, "uri_too_long"),
    ]
    .into_iter()
    .enumerate()
    {
        let request = format!("GET {path} HTTP/1.1\r\nHost: api.example.com\r\n{fields}\r\n");
        let answer = world.inside("api.example.com:443").await.ask(request).await;
        assert_eq!((answer.status, answer.code()), (status, code));
        world.wait_for("deny", count + 1).await;
        world.untouched();
    }
}

/// A stream that goes on and on, in a tunnel of its own.
async fn forever(world: &World, host: &str) -> Client {
    let mut client = world.inside(&format!("{host}:443")).await;
    client.send(format!("GET /forever HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    assert_eq!(client.head().await.status, 200);
    client
}

/// R05: whoever is still allowed loses nothing; whoever is not, ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_drop_no_stream_that_is_still_allowed() {
    let mut world = World::start(allowing(HOSTS)).await;
    let mut streams = Vec::new();
    for _ in 0..50 {
        streams.push(forever(&world, "api.example.com").await);
    }
    let mut others = Vec::new();
    for _ in 0..50 {
        others.push(forever(&world, "other.example.com").await);
    }
    for round in 0..100 {
        let host = format!("h{round}.example.com");
        world.document["policy"] = allowing(&["api.example.com", "other.example.com", &host]);
        let state = world.load().await.unwrap();
        assert_eq!(state.generation, round + 2);
    }
    let (_, head) = world.connect("h99.example.com:443").await;
    assert_eq!(head.status, 200, "the last one holds from the next request on");
    let (_, head) = world.connect("h98.example.com:443").await;
    assert_eq!(head.status, 403);
    for client in streams.iter_mut().chain(&mut others) {
        client.so_far();
        assert!(client.more().await.is_some(), "it goes on");
    }
    let reloads = world.log("config_reload");
    assert_eq!(reloads.len(), 101);
    assert_eq!(reloads[100]["from"], reloads[99]["to"]);
    world.document["policy"] = allowing(&["api.example.com"]);
    world.load().await.unwrap();
    for client in &mut others {
        client.rest().await;
    }
    for client in &mut streams {
        client.so_far();
        assert!(client.more().await.is_some(), "it goes on");
    }
    let revoked = world.wait_for("revoked", 50).await;
    assert!(revoked.iter().all(|line| line["host"] == "other.example.com:443"));
    bounded(&world);
}

/// A request under way whose path alone is forbidden by a new policy ends too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn narrowing_reaches_what_is_under_way() {
    let mut world = World::start(allowing(HOSTS)).await;
    let mut stream = forever(&world, "api.example.com").await;
    world.document["policy"]["allow"][0]["paths"] = json!(["/echo"]);
    world.load().await.unwrap();
    stream.rest().await;
    assert_eq!(world.inside("api.example.com:443").await.ask(ECHO).await.status, 200);
}

/// R06: a document that is wrong in any way changes nothing, and is told without its values.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_is_wrong_changes_nothing() {
    let mut world = World::start(allowing(HOSTS)).await;
    let good = world.document.clone();
    let secret = "q8Zx1vN4-kP2sLm7tR8wB1nM4yHc0dJe6fUaGi5o";
    let changes: &[(&str, serde_json::Value)] = &[
        ("/version", json!(2)),
        ("/policy/allow/0/host", json!("*")),
        ("/policy/allow/0/port", json!(0)),
        ("/policy/allow/0/cidr", json!("10.0.0.0/33")),
        ("/policy/dlp/action", json!("off")),
        ("/policy/dlp/rules", json!("[[rules]]\nid = \"a\"\nregex = \"a(\"")),
        ("/policy/dlp/allow", json!([{ "rule": "a", "host": "b", "reason": "c", "expires": "d" }])),
        ("/credentials", json!(secret)),
        ("/credentials", json!({ "A": [secret] })),
        ("/roots", json!(["!"])),
        ("/roots", json!(["AAAA"])),
        ("/ca/certificate", json!("no certificate")),
        ("/ca/key", json!(secret)),
        ("/names", json!(["a b"])),
    ];
    for (count, (place, value)) in changes.iter().enumerate() {
        world.document = good.clone();
        let (parent, field) = place.rsplit_once('/').unwrap();
        world.document.pointer_mut(parent).unwrap()[field] = value.clone();
        let error = world.load().await.expect_err(&format!("{place} {value}"));
        assert!(!error.contains(secret), "{error}");
        let rejected = world.wait_for("config_rejected", count + 1).await;
        assert!(!rejected[count].to_string().contains(secret));
    }
    assert_eq!(world.state().await.generation, 1);
    assert_eq!(world.inside("api.example.com:443").await.ask(ECHO).await.status, 200);
}

/// R07: what a machine says stays within its line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_of_the_log_are_whole() {
    let world = World::start(allowing(HOSTS)).await;
    let forged = "%0a{\"event\":\"allow\",\"host\":\"evil.test:443\"}";
    for target in
        [format!("/?a={forged}"), "/{\"event\":\"allow\"}".to_owned(), "/a'b\u{7f}".into()]
    {
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: api.example.com\r\nX: {forged}\r\n\r\n");
        world.inside("api.example.com:443").await.ask(request).await;
    }
    assert!(world.log("allow").iter().all(|line| line["host"] == "api.example.com:443"));
}

/// R07: what cannot be told is not done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_passes_that_the_log_cannot_tell() {
    let upstream = Upstream::start(Certificate::Good).await;
    // Four kilobytes of files, and no signal about it.
    let shell = "trap '' XFSZ; ulimit -f 4; exec \"$@\"";
    let world = World::wrapped(allowing(HOSTS), upstream, &["sh", "-c", shell, "sh"], &[]).await;
    let mut refused = 0;
    for _ in 0..60 {
        let mut client = world.inside("api.example.com:443").await;
        let answer = client.ask(ECHO).await;
        if answer.status == 503 {
            assert_eq!(answer.code(), "audit_unavailable");
            refused += 1;
        }
    }
    assert!(refused > 20, "{refused}");
    let text = std::fs::read_to_string(world.folder.path().join("log")).unwrap();
    let allowed = text.lines().filter(|line| line.contains("\"allow\"")).count();
    // The last line may have been cut short; what it is about was refused.
    assert!(world.upstream.arrived().len() <= allowed);
    let (_, head) = world.connect("evil.test:443").await;
    assert_eq!((head.status, head.code()), (503, "audit_unavailable"));
    assert!(world.state().await.lost > 20);
}

/// A mistake in one request ends that request alone, and tells nobody what it was about.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_ends_one_request() {
    let mut world = World::start(allowing(HOSTS)).await;
    world.document["testing"]["panic_path"] = json!("/boom");
    world.load().await.unwrap();
    let request = "GET /boom HTTP/1.1\r\nHost: api.example.com\r\nX-Secret: canary\r\n\r\n";
    let answer = world.inside("api.example.com:443").await.ask(request).await;
    assert_eq!((answer.status, answer.code()), (500, "internal_error"));
    assert!(!answer.text().contains("canary"));
    let errors = world.wait_for("error", 2).await;
    assert!(!format!("{errors:?}").contains("canary"));
    assert!(errors[0]["detail"].as_str().unwrap().starts_with("panic at src/"), "{errors:?}");
    assert_eq!(world.inside("api.example.com:443").await.ask(ECHO).await.status, 200);
}

/// A stream of events goes on event by event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_arrive_one_by_one() {
    let mut world = World::start(allowing(HOSTS)).await;
    let secret = "q8Zx1vN4-kP2sLm7tR8wB1nM4yHc0dJe6fUaGi5o";
    world.document["credentials"] = json!({ "API_TOKEN": secret });
    world.load().await.unwrap();
    let mut client = world.inside("api.example.com:443").await;
    client.send("GET /events HTTP/1.1\r\nHost: api.example.com\r\n\r\n").await;
    assert_eq!(client.head().await.header("content-type"), Some("text/event-stream"));
    let mut arrivals = Vec::new();
    let mut text = Vec::new();
    while String::from_utf8_lossy(&text).matches("data:").count() < 4 {
        client.more().await.unwrap();
        text.extend(client.so_far());
        arrivals.push(Instant::now());
    }
    let spread = *arrivals.last().unwrap() - arrivals[0];
    assert!(spread > Duration::from_millis(300), "{spread:?}: {arrivals:?}");
}

/// Confined as it is on a host, it does all that it has to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confined_it_still_serves() {
    let upstream = Upstream::start(Certificate::Good).await;
    let world = World::with(allowing(HOSTS), upstream, &["--confine"]).await;
    assert_eq!(world.inside("api.example.com:443").await.ask(ECHO).await.status, 200);
    let pid = world.child.id();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{status}");
    }
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        assert!(status.contains("Seccomp:\t2"), "{status}");
    }
    let stopped =
        bottle::sidecar::control::stop::<bottle::sidecar::egress::State>(&world.control())
            .await
            .unwrap();
    assert_eq!(stopped.counts["allow"], 1);
    world.wait_for("stop", 1).await;
}

/// One that crashes leaves nothing of what it held, whatever its host keeps of others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_crashes_leaves_no_core() {
    use std::os::unix::process::ExitStatusExt as _;
    let upstream = Upstream::start(Certificate::Good).await;
    let shell = "ulimit -c \"$(ulimit -Hc)\"; cd \"$0\"; exec \"$@\"";
    let folder = tempfile::tempdir().unwrap();
    let before = ["sh", "-c", shell, folder.path().to_str().unwrap()];
    let mut world = World::wrapped(allowing(HOSTS), upstream, &before, &[]).await;
    world.document["credentials"] = json!({ "API_TOKEN": "canary-q8Zx1vN4-kP2sLm7tR8wB1nM4" });
    world.load().await.unwrap();
    crate::support::keeps_to_itself(world.child.id());
    let pid = i32::try_from(world.child.id()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    // The first one of these is Rust's own, which looks whether a stack has run over.
    let deadline = Instant::now() + Duration::from_secs(60);
    let status = loop {
        rustix::process::kill_process(pid, rustix::process::Signal::SEGV).unwrap();
        if let Some(status) = world.child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "it goes on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(status.signal(), Some(rustix::process::Signal::SEGV.as_raw()));
    assert!(!status.core_dumped());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Told to end, it ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_when_it_is_told() {
    let mut world = World::start(allowing(HOSTS)).await;
    let stream = forever(&world, "api.example.com").await;
    bottle::sidecar::control::stop::<bottle::sidecar::egress::State>(&world.control())
        .await
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    let status = loop {
        match world.child.try_wait().unwrap() {
            Some(status) => break status,
            None => assert!(Instant::now() < deadline, "it goes on"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(status.success());
    assert_eq!(world.log("start").len() + world.log("stop").len(), 2);
    drop(stream);
}

/// A unix socket is a door as any other; what a process before it has left there is replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_is_a_door_too() {
    let folder = tempfile::tempdir().unwrap();
    let door = folder.path().join("door");
    drop(std::os::unix::net::UnixListener::bind(&door).unwrap());
    let listen = format!("unix:{}", door.display());
    let upstream = Upstream::start(Certificate::Good).await;
    let world = World::with(allowing(HOSTS), upstream, &["--listen", &listen]).await;
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&door).unwrap().permissions().mode() & 0o077, 0);
    let mut client = Client::new(tokio::net::UnixStream::connect(&door).await.unwrap());
    let request = "CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n";
    assert_eq!(client.ask(request).await.code(), "host_not_allowed");
    assert_eq!(world.state().await.counts["deny:host_not_allowed"], 1);
}

/// It is not told what to do by whoever reaches an address.
#[test]
fn it_is_controlled_over_a_unix_socket_alone() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_bottle"))
        .args(["sidecar", "serve", "--control", "127.0.0.1:0"])
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("anybody can reach an address"), "{error}");
}

/// What it is told, by the commands that a backend runs beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_say_what_it_says() {
    let upstream = Upstream::start(Certificate::Good).await;
    let mut world = World::unloaded(allowing(HOSTS), upstream, &[]).await;
    world.document["credentials"] = json!({ "API_TOKEN": "q8Zx1vN4-kP2sLm7tR8wB1nM4" });
    let run = |command: &str, input: Vec<u8>| {
        use std::io::Write as _;
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_bottle"))
            .args(["sidecar", command, "--control"])
            .arg(world.control())
            .env_clear()
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&input).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.success(), text, String::from_utf8(output.stderr).unwrap())
    };
    let (done, text, _) = run("load", serde_json::to_vec(&world.document).unwrap());
    assert!(done);
    let state: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&state["generation"], &state["credentials"]), (&json!(1), &json!(["API_TOKEN"])));
    let (done, _, error) = run("load", b"{}".to_vec());
    assert!(!done && error.contains("line 1, column 2"), "{error}");
    let (done, text, _) = run("state", Vec::new());
    assert!(done && text.contains("\"generation\":1"), "{text}");
    let (done, ..) = run("stop", Vec::new());
    assert!(done);
}
