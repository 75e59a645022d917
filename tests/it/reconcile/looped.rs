//! The loop in this process, on an engine in memory: what hangs here hangs for good.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bottle::apply::{Deadlines, Stop};
use bottle::backend::docker::Docker;
use bottle::backend::memory::{Fault, Image, MemoryBackend, When};
use bottle::backend::{Backend, Backends, Depth};
use bottle::manifest::LoadOptions;
use bottle::model::{BackendKind, OwnerId, ResourceKind, SandboxId};
use bottle::plan::Options;
use bottle::reconcile::{self, Published, Reconciler, Sources, State, WatchConfig};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use crate::support::TempTree;

/// A tree, an engine, and a loop between them.
struct Looped {
    tree: TempTree,
    state: tempfile::TempDir,
    engine: Arc<MemoryBackend>,
    others: Vec<Arc<dyn Backend>>,
    stop: Stop,
    /// Why there was no plan, each time that there was none.
    no_plan: Arc<Mutex<Vec<String>>>,
    watching: Option<tokio::task::JoinHandle<anyhow::Result<()>>>,
}

impl Looped {
    fn new(what: &str) -> Self {
        Self::on(what, BackendKind::Docker)
    }

    fn on(what: &str, kind: BackendKind) -> Self {
        let engine = Arc::new(MemoryBackend::new(kind, 7));
        engine.publish_image("image:1", Image::default());
        let looped = Self {
            tree: TempTree::new(what),
            state: tempfile::tempdir().expect("a temporary folder can be made"),
            engine,
            stop: Stop::default(),
            others: Vec::new(),
            no_plan: Arc::default(),
            watching: None,
        };
        for name in ["a", "b"] {
            looped.policy(name, "example.com");
            looped.tree.agent(name, name, "", "You are an agent.");
        }
        looped
    }

    /// Writes the bottle of an agent, which may reach this host.
    fn policy(&self, name: &str, host: &str) {
        let kind = self.engine.kind();
        let egress = format!("backend: {kind}\nimage: image:1\negress:\n  allowlist: [{host}]");
        self.tree.bottle(name, &egress);
    }

    fn watch(&mut self) {
        let state = self.state.path().join("state");
        let engine: Arc<dyn Backend> = self.engine.clone();
        let deadlines = Deadlines {
            small: Duration::from_secs(30),
            setup: Duration::from_millis(500),
            ..Deadlines::default()
        };
        let reconciler = Reconciler {
            load: LoadOptions::new(self.tree.path(), &state),
            state: State::open(&state).expect("the state folder opens"),
            backends: self
                .others
                .iter()
                .cloned()
                .chain([engine])
                .map(|backend| (backend.kind(), backend))
                .collect::<Backends>(),
            sources: Sources::default(),
            depth: Depth::Listing,
            jobs: None,
            deadlines,
        };
        let owner = OwnerId::new(&self.tree.owner).expect("the name is valid");
        let (stop, no_plan) = (self.stop.clone(), self.no_plan.clone());
        self.watching = Some(tokio::spawn(async move {
            let config =
                WatchConfig { debounce: Duration::from_millis(50), ..WatchConfig::default() };
            let publish: reconcile::daemon::Publish = Arc::new(move |what| {
                if let Published::NoPlan { error, .. } = what {
                    no_plan.lock().expect("nobody panics with it").push(format!("{error:#}"));
                }
            });
            let watching = Arc::new(reconciler);
            reconcile::watch(watching, &owner, Options::default(), config, &stop, publish).await
        }));
    }

    /// How often a call was made for a sandbox.
    fn calls(&self, name: &str, sandbox: &str) -> usize {
        let id = SandboxId::new(sandbox).expect("the name is valid");
        let calls = self.engine.calls();
        calls.iter().filter(|c| c.name == name && c.sandbox.as_ref() == Some(&id)).count()
    }

    fn machines(&self) -> Vec<String> {
        let objects = self.engine.objects();
        let machines = objects.iter().filter(|object| object.resource == ResourceKind::Machine);
        machines.map(|object| object.id.to_string()).collect()
    }

    /// Whether each sandbox has a receipt that says that all is in.
    fn provisioned(&self) -> usize {
        let receipts =
            self.state.path().join("state/trees").join(&self.tree.owner).join("receipts");
        let Ok(entries) = std::fs::read_dir(receipts) else { return 0 };
        let whole = |entry: &std::fs::DirEntry| {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let receipt: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            receipt["guest"].is_string()
        };
        entries.flatten().filter(whole).count()
    }

    async fn stop(&mut self) {
        self.stop.drain.cancel();
        self.stop.now.cancel();
        let watching = self.watching.take().expect("it was started");
        watching.await.expect("the loop does not panic").expect("the loop ends well");
    }
}

async fn until(what: &str, within: Duration, mut so: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < within, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    begun.elapsed()
}

const LONG: Duration = Duration::from_secs(20);

/// An engine that accepts and says nothing more, but for `greeting` to the first question of each
/// connection where that is a greeting.
fn hanging(folder: &std::path::Path, greeting: &'static [u8]) -> Docker {
    let socket = folder.join("hanging.sock");
    let listener = UnixListener::bind(&socket).expect("the folder is ours");
    tokio::spawn(async move {
        while let Ok((mut call, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let count = call.read(&mut request).await.unwrap_or(0);
                if memchr::memmem::find(&request[..count], b"/_ping").is_some() {
                    call.write_all(greeting).await.ok();
                }
                std::future::pending::<()>().await;
            });
        }
    });
    let host = Some(format!("unix://{}", socket.display()));
    Docker::new(bottle::backend::docker::Settings { host, ..Default::default() })
}

/// Another engine hangs, from the first question on or after its greeting: what is wanted elsewhere is
/// made, and what a sidecar there is no longer to allow is in force, before the question at that engine
/// is over, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_hangs_keeps_no_policy_of_another_from_going_in() {
    for greeting in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"] {
        let mut looped = Looped::on("slow", BackendKind::Smolmachines);
        let engine = hanging(looped.state.path(), greeting);
        looped.others.push(Arc::new(engine));
        looped.watch();
        until("both sandboxes", LONG / 2, || looped.provisioned() == 4).await;
        for host in ["one.example.com", "two.example.com", "three.example.com"] {
            let loads = looped.calls("load", "b");
            looped.policy("b", host);
            let took =
                until("the policy", Duration::from_secs(5), || looped.calls("load", "b") > loads);
            let took = took.await;
            println!("{host} took {took:?}");
            assert!(took < Duration::from_secs(1), "{host} took {took:?}");
        }
        let begun = Instant::now();
        looped.stop().await;
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
}

/// A command of a setup does not end: its machine is stopped, and the next pass begins anew. On every kind of backend.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setup_that_never_ends_is_ended() {
    for kind in [BackendKind::Smolmachines, BackendKind::Docker, BackendKind::Native] {
        let mut looped = Looped::on("endless", kind);
        let source = std::path::Path::new("/images/a.tar");
        looped.engine.add_source(source, Image::default());
        let image = if kind == BackendKind::Native { "host" } else { "image:1" };
        let setup = format!("backend: {kind}\nimage: {image}\nsetup: [exit 0, [\"true\"]]");
        looped.tree.bottle("a", &setup).remove("agents/b.md");
        let a = SandboxId::new("a").expect("the name is valid");
        looped.engine.fault(Fault::hang("exec", When::Before).of(&a));
        looped.watch();
        looped.engine.hung().await;
        until("the stop", LONG, || looped.calls("stop", "a") > 0).await;
        until("another try", LONG, || looped.provisioned() == 1).await;
        let machine =
            looped.engine.objects().into_iter().find(|o| o.resource == ResourceKind::Machine);
        let machine = machine.expect("it is there");
        let marked = machine.files.read("/etc/bottle/setup.done").expect("it is marked");
        assert_eq!(marked.len(), 65, "{marked:?}");
        // Nothing of it again.
        let runs = looped.calls("exec", "a");
        looped.tree.agent("a", "a", "", "You are CHANGED.");
        let copies = looped.calls("copy_in", "a");
        until("the prompt", LONG, || looped.calls("copy_in", "a") > copies).await;
        assert_eq!(looped.calls("exec", "a"), runs, "{kind}");
        looped.stop().await;
    }
}

/// The guest of `a` never answers: `b` is provisioned and loses what it may no longer reach, and so
/// does the sidecar of `a` itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_hangs_keeps_no_policy_from_going_in() {
    let mut looped = Looped::new("hanging");
    looped.watch();
    until("both sandboxes", LONG, || looped.provisioned() == 4).await;
    let a = SandboxId::new("a").expect("the name is valid");
    looped.engine.fault(Fault::hang("copy_in", When::Before).of(&a));
    looped.tree.agent("a", "a", "", "You are CHANGED.");
    looped.engine.hung().await;
    let (loads, own) = (looped.calls("load", "b"), looped.calls("load", "a"));
    looped.policy("b", "other.example.com");
    looped.policy("a", "other.example.com");
    let soon = Duration::from_secs(4);
    until("the policy of b", soon, || looped.calls("load", "b") > loads).await;
    until("the policy of a itself", soon, || looped.calls("load", "a") > own).await;
    looped.tree.agent("b", "b", "", "You are CHANGED, too.");
    let copies = looped.calls("copy_in", "b");
    until("the prompt of b", soon, || looped.calls("copy_in", "b") > copies).await;
    looped.stop().await;
}

/// Its programs never answer: what goes in by files goes in, and the certificate where one would look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_program_of_a_guest_is_asked_to_provision_it() {
    let mut looped = Looped::new("files");
    for sandbox in ["a", "b"] {
        let id = SandboxId::new(sandbox).expect("the name is valid");
        looped.engine.fault(Fault::hang("exec", When::Before).of(&id));
    }
    looped.watch();
    until("both sandboxes", LONG, || looped.provisioned() == 4).await;
    assert_eq!((looped.calls("exec", "a"), looped.calls("exec", "b")), (0, 0));
    looped.stop().await;
}

/// An agent's file that is gone for longer than the debounce, because it is being written anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_takes_two_readings() {
    let mut looped = Looped::new("readings");
    looped.watch();
    until("both sandboxes", LONG, || looped.provisioned() == 4).await;
    let before = looped.machines();
    for _ in 0..3 {
        looped.tree.remove("agents/a.md");
        // An edit of another file meanwhile is carried out.
        tokio::time::sleep(Duration::from_millis(700)).await;
        looped.tree.agent("a", "a", "", "You are back.");
        tokio::time::sleep(Duration::from_millis(300)).await;
        // A bottle that reads as another one for a moment would be a replace.
        looped.tree.bottle("b", "backend: docker\nimage: image:1");
        tokio::time::sleep(Duration::from_millis(700)).await;
        looped.policy("b", "example.com");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let teardowns = looped.engine.calls().iter().filter(|call| call.name == "teardown").count();
    assert_eq!((teardowns, looped.machines()), (0, before));
    looped.tree.remove("agents/a.md");
    let took = until("the removal", LONG, || looped.machines().len() == 1).await;
    assert!(took > Duration::from_millis(1900), "gone after {took:?}");
    looped.stop().await;
}

/// What cannot be read is not empty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_cannot_be_read_yields_no_plan() {
    let mut looped = Looped::new("unreadable");
    looped.watch();
    until("both sandboxes", LONG, || looped.provisioned() == 4).await;
    let before = looped.machines();
    for folder in ["agents", "bottles"] {
        let (at, away) = (looped.tree.join(folder), looped.tree.join("away"));
        std::fs::rename(&at, &away).expect("a folder can be renamed");
        std::os::unix::fs::symlink(&at, &at).expect("a link can lead round in a circle");
        let said = |error: &String| error.contains(&format!("/{folder}"));
        let told = || looped.no_plan.lock().expect("nobody panics with it").iter().any(said);
        until("the error", LONG, told).await;
        std::fs::remove_file(&at).expect("the link can be removed");
        std::fs::rename(&away, &at).expect("a folder can be renamed");
    }
    let prompts = looped.calls("copy_in", "a");
    looped.tree.agent("a", "a", "", "You are read again.");
    until("an edit after that", LONG, || looped.calls("copy_in", "a") > prompts).await;
    assert_eq!(looped.machines(), before);
    looped.stop().await;
}
