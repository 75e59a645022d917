//! Requests on their way: out of sidecars, and decisions back into them. The engine is in memory, and says what a
//! sidecar would.

use std::sync::Arc;

use bottle::apply::{Deadlines, Stop};
use bottle::backend::memory::{Fault, Image, MemoryBackend, When};
use bottle::backend::{Backend, BackendError, Backends, Depth};
use bottle::manifest::LoadOptions;
use bottle::model::supervise::{Ask, RequestId};
use bottle::model::{BackendKind, OwnerId, ResourceKind, SandboxId};
use bottle::plan::Options;
use bottle::reconcile::requests::propose::Terms;
use bottle::reconcile::requests::{By, now};
use bottle::reconcile::{Reconciler, Sources, State, TreeState, View};
use serde_json::{Value, json};

use super::desk::index;
use crate::support::TempTree;

const BOTTLE: &str = "backend: docker\nimage: image:1\nsupervise: true\negress:\n  allowlist: [packages.example.org]\nresources:\n  memory: 1G";

struct Office {
    tree: TempTree,
    engine: Arc<MemoryBackend>,
    reconciler: Reconciler,
    _state: tempfile::TempDir,
}

fn id(name: &str) -> SandboxId {
    SandboxId::new(name).unwrap()
}

fn request(text: &str) -> RequestId {
    text.parse().unwrap()
}

fn op() -> By {
    By { name: "op".to_owned(), uid: 0, via: "cli" }
}

/// A request as a sidecar tells it.
fn pending(id: &str, kind: &str, ask: &Value) -> Value {
    let digest =
        serde_json::from_value::<Ask>(json!({ "kind": kind, "ask": ask })).unwrap().digest();
    let tool = if kind == "egress" { "pipelock-block" } else { "capability-block" };
    json!({
        "id": id, "tool": tool, "kind": kind, "ask": ask, "reason": "it fails", "asked": 1,
        "first": now(), "last": now(), "generation": 1,
        "evidence": { "denied": 3, "codes": { "host_not_allowed": 3 } }, "digest": digest.to_string(),
    })
}

impl Office {
    async fn new(what: &str) -> Self {
        let tree = TempTree::new(what);
        tree.bottle("dev", BOTTLE);
        tree.agent("ada", "dev", "", "x").agent("grace", "dev", "", "x");
        let engine = Arc::new(MemoryBackend::new(BackendKind::Docker, 7));
        engine.publish_image("image:1", Image::default());
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let backend: Arc<dyn Backend> = engine.clone();
        let reconciler = Reconciler {
            load: LoadOptions::new(tree.path(), &state),
            state: State::open(&state).unwrap(),
            backends: [(backend.kind(), backend)].into_iter().collect::<Backends>(),
            sources: Sources::default(),
            depth: Depth::Listing,
            jobs: None,
            deadlines: Deadlines::default(),
        };
        let office = Self { tree, engine, reconciler, _state: folder };
        office.pass().await;
        office
    }

    async fn look(&self) -> View {
        self.reconciler.look(Options::default()).await.unwrap()
    }

    /// One pass, and whether all of it was done.
    async fn pass(&self) -> bool {
        let view = self.look().await;
        let done = self.reconciler.carry_out(&view, &Stop::default(), Arc::new(|_| {})).await;
        done.unwrap().succeeded()
    }

    fn says(&self, sandbox: &str, pending: &[Value]) {
        let state = json!({ "loaded": true, "requests": { "pending": pending, "known": [] } });
        self.engine.says(&id(sandbox), &state.to_string());
    }

    fn memory(&self) -> TreeState {
        self.reconciler.state.tree(&OwnerId::new(&self.tree.owner).unwrap()).unwrap()
    }

    fn state(&self, request_id: &str) -> String {
        let record = self.memory().request(&request(request_id)).unwrap();
        record.map_or_else(|| "none".to_owned(), |record| record.state.to_string())
    }

    /// What the sidecar of a sandbox was last given.
    fn document(&self, sandbox: &str) -> Value {
        let objects = self.engine.objects();
        let of = |o: &&bottle::backend::memory::Object| {
            o.resource == ResourceKind::Sidecar
                && o.labels.as_ref().is_some_and(|labels| labels.sandbox == id(sandbox))
        };
        let sidecar = objects.iter().find(of).unwrap();
        serde_json::from_slice(sidecar.loaded.as_ref().unwrap()).unwrap()
    }

    fn told(&self, sandbox: &str) -> Vec<(String, String)> {
        let document = self.document(sandbox);
        let requests = document["supervise"]["requests"].as_array().cloned().unwrap_or_default();
        let pair = |it: &Value| {
            (it["id"].as_str().unwrap().to_owned(), it["state"].as_str().unwrap().to_owned())
        };
        requests.iter().map(pair).collect()
    }

    async fn approve(&mut self, request_id: &str) {
        let ids = [request(request_id)];
        let review = self.reconciler.review(&ids, &Terms::default()).await.unwrap();
        assert_eq!(review.blocked, None);
        let (token, terms) = (review.token.clone(), Terms::default());
        self.reconciler.approve(&ids, &terms, &token, Some(&review), &op(), false).await.unwrap();
    }
}

fn broken() -> BackendError {
    BackendError::failed("it", anyhow::anyhow!("test-boom"))
}

fn one(id: &str, state: &str) -> Vec<(String, String)> {
    vec![(id.to_owned(), state.to_owned())]
}

#[tokio::test]
async fn what_a_sidecar_holds_is_written_down_once() {
    let office = Office::new("pulled").await;
    let ask = index();
    office.says("ada", &[pending("r-aaaaaaaa", "egress", &ask)]);
    office.pass().await;
    let record = office.memory().request(&request("r-aaaaaaaa")).unwrap().unwrap();
    assert_eq!((record.sandbox, record.bottle.as_str()), (id("ada"), "dev"));
    assert_eq!((record.evidence.denied, record.asked), (3, 1));
    // The same again is the same request.
    let mut again = pending("r-aaaaaaaa", "egress", &ask);
    again["asked"] = json!(50);
    office.says("ada", &[again]);
    office.pass().await;
    assert_eq!(office.memory().requests().unwrap().len(), 1);
    assert_eq!(office.memory().request(&request("r-aaaaaaaa")).unwrap().unwrap().asked, 50);
    // A sidecar that was started anew holds nothing, and nothing is lost.
    office.says("ada", &[]);
    office.pass().await;
    assert_eq!(office.state("r-aaaaaaaa"), "pending");
    assert!(office.look().await.plan.is_empty(), "that something waits, a sidecar knows");
}

#[tokio::test]
async fn a_sidecar_is_believed_of_its_own_sandbox_and_no_further() {
    let office = Office::new("believed").await;
    let good = pending("r-aaaaaaaa", "egress", &index());
    office.says("ada", std::slice::from_ref(&good));
    office.pass().await;
    let with = |key: &str, value: Value| {
        let mut bad = pending("r-bbbbbbbb", "egress", &index());
        bad[key] = value;
        bad
    };
    let mut wide = index();
    wide["host"] = json!("evil.example.org");
    for bad in [
        with("digest", json!("0".repeat(64))),
        with("ask", wide),
        with("reason", json!("x".repeat(5000))),
        with("reason", json!("\n".repeat(50))),
    ] {
        office.says("grace", std::slice::from_ref(&bad));
        office.pass().await;
        assert_eq!(office.state("r-bbbbbbbb"), "none", "{bad}");
    }
    // Another's request is not taken over, and the path of no file is made of a name.
    let mut stolen = good;
    stolen["asked"] = json!(9);
    office.says("grace", &[stolen]);
    office.says("ada", &[with("id", json!("../../../x"))]);
    office.pass().await;
    let record = office.memory().request(&request("r-aaaaaaaa")).unwrap().unwrap();
    assert_eq!((record.sandbox, record.asked), (id("ada"), 1));
    // No flood: so many as wait at a time.
    let many: Vec<Value> = ('a'..='z')
        .map(|c| pending(&format!("r-{}", c.to_string().repeat(8)), "egress", &index()))
        .collect();
    office.says("grace", &many);
    office.pass().await;
    assert!(office.memory().requests().unwrap().len() <= 6);
    // A bottle that does not say so has no agents that ask.
    let plain = BOTTLE.replace("supervise: true\n", "");
    office.tree.bottle("dev", &plain);
    office.says("ada", &[pending("r-77777777", "egress", &index())]);
    office.pass().await;
    assert_eq!(office.state("r-77777777"), "none");
    assert!(office.document("ada")["supervise"].is_null());
}

#[tokio::test]
async fn a_yes_is_told_with_the_very_policy_that_has_it() {
    let mut office = Office::new("told").await;
    office.says("ada", &[pending("r-aaaaaaaa", "egress", &index())]);
    office.pass().await;
    office.approve("r-aaaaaaaa").await;
    assert_eq!(office.state("r-aaaaaaaa"), "approved");
    assert!(office.told("ada").is_empty(), "nothing is told before it is in force");
    assert!(office.pass().await);
    assert_eq!(office.state("r-aaaaaaaa"), "applied");
    assert_eq!(office.told("ada"), one("r-aaaaaaaa", "applied"));
    let policy = office.document("ada")["policy"].to_string();
    assert!(policy.contains("index.example.org"), "{policy}");
    // Whoever shares the bottle has the grant, and hears nothing of another's request.
    assert!(office.document("grace")["policy"].to_string().contains("index.example.org"));
    assert!(office.told("grace").is_empty());
    assert!(office.look().await.plan.is_empty());
    // And back.
    office.reconciler.undo(&request("r-aaaaaaaa"), &op(), false).await.unwrap();
    office.pass().await;
    assert_eq!(office.told("ada"), one("r-aaaaaaaa", "undone"));
    assert!(!office.document("ada")["policy"].to_string().contains("index.example.org"));
    assert!(office.look().await.plan.is_empty());
}

#[tokio::test]
async fn a_no_is_a_load_and_nothing_else() {
    let office = Office::new("denied").await;
    office.says("ada", &[pending("r-aaaaaaaa", "egress", &index())]);
    office.pass().await;
    let word = "use packages.example.org".to_owned();
    office.reconciler.deny(&[request("r-aaaaaaaa")], &word, &op()).await.unwrap();
    let view = office.look().await;
    let fields: Vec<String> = view
        .plan
        .changes
        .iter()
        .flat_map(|change| &change.fields)
        .map(|field| format!("{}: {}", field.path, field.to.clone().unwrap_or_default()))
        .collect();
    assert_eq!(fields, ["decision r-aaaaaaaa: denied"]);
    let actions: Vec<&str> = view.plan.steps.iter().map(|step| step.action.name()).collect();
    assert_eq!(actions, ["load"]);
    office.reconciler.load_only(&view, &Stop::default()).await;
    assert_eq!(office.told("ada"), one("r-aaaaaaaa", "denied"));
    let said = &office.document("ada")["supervise"]["requests"][0]["message"];
    assert_eq!(said, "use packages.example.org");
    assert!(office.look().await.plan.is_empty());
    // Muted, and not any more.
    let until = bottle::model::Moment::of_seconds(now().seconds() + 3600);
    office.reconciler.mute(&id("ada"), Some(until)).await.unwrap();
    office.pass().await;
    assert_eq!(office.document("ada")["supervise"]["muted_until"], json!(until));
    assert!(office.look().await.plan.is_empty());
    office.reconciler.mute(&id("ada"), None).await.unwrap();
    office.pass().await;
    assert!(office.document("ada")["supervise"]["muted_until"].is_null());
    assert!(office.look().await.plan.is_empty());
}

#[tokio::test]
async fn what_fails_is_failed_until_a_later_pass_does_it() {
    let mut office = Office::new("failed").await;
    office.says("ada", &[pending("r-aaaaaaaa", "egress", &index())]);
    office.pass().await;
    office.approve("r-aaaaaaaa").await;
    // Both sandboxes of the bottle are loaded: each may meet it.
    for _ in 0..2 {
        office.engine.fault(Fault::fail("load", When::Before, broken()));
    }
    assert!(!office.pass().await);
    assert_eq!(office.state("r-aaaaaaaa"), "failed");
    assert!(office.memory().request(&request("r-aaaaaaaa")).unwrap().unwrap().error.is_some());
    assert!(office.told("ada").is_empty());
    office.engine.no_faults();
    assert!(office.pass().await);
    assert_eq!(office.state("r-aaaaaaaa"), "applied");
    assert_eq!(office.told("ada"), one("r-aaaaaaaa", "applied"));
}

#[tokio::test]
async fn more_memory_is_told_once_the_machine_has_it() {
    let mut office = Office::new("memory").await;
    let ask = json!({ "what": "memory", "value": "4G" });
    office.says("ada", &[pending("r-aaaaaaaa", "capability", &ask)]);
    office.pass().await;
    let machine = |office: &Office| {
        let view = office.engine.objects();
        view.iter()
            .filter(|o| o.resource == ResourceKind::Machine)
            .map(|o| o.id.to_string())
            .collect::<Vec<_>>()
    };
    let before = machine(&office);
    office.approve("r-aaaaaaaa").await;
    assert!(office.pass().await);
    assert_eq!(office.state("r-aaaaaaaa"), "applied");
    assert_eq!(machine(&office), before, "the same machine");
    assert!(office.pass().await);
    assert_eq!(office.told("ada"), one("r-aaaaaaaa", "applied"));
    assert!(office.look().await.plan.is_empty());
}

#[tokio::test]
async fn memory_that_the_machine_cannot_give_up_is_a_failed_request() {
    let mut office = Office::new("shrink").await;
    let ask = json!({ "what": "memory", "value": "64M" });
    office.says("ada", &[pending("r-aaaaaaaa", "capability", &ask)]);
    office.pass().await;
    office.approve("r-aaaaaaaa").await;
    for _ in 0..2 {
        office.engine.fault(Fault::fail("adjust", When::Before, broken()));
    }
    assert!(!office.pass().await);
    assert_eq!(office.state("r-aaaaaaaa"), "failed");
    office.engine.no_faults();
    office.pass().await;
    office.pass().await;
    assert_eq!(office.state("r-aaaaaaaa"), "applied");
}

#[tokio::test]
async fn a_tree_that_grants_it_by_itself_answers_it() {
    let office = Office::new("byitself").await;
    office.says("ada", &[pending("r-aaaaaaaa", "egress", &index())]);
    office.pass().await;
    office.tree.bottle(
        "dev",
        &BOTTLE.replace("[packages.example.org]", "[packages.example.org, \"*.example.org\"]"),
    );
    office.pass().await;
    office.pass().await;
    assert_eq!(office.state("r-aaaaaaaa"), "applied");
    let record = office.memory().request(&request("r-aaaaaaaa")).unwrap().unwrap();
    assert_eq!(record.decision.unwrap().by, "hand");
    assert_eq!(office.told("ada"), one("r-aaaaaaaa", "applied"));
}

#[tokio::test]
async fn what_the_backend_cannot_give_ends_and_touches_nothing() {
    let office = Office::new("cannot").await;
    let ask = json!({ "what": "disk", "value": "40G" });
    office.says("ada", &[pending("r-aaaaaaaa", "capability", &ask)]);
    office.pass().await;
    let calls = office.engine.mutating_calls();
    office.pass().await;
    assert_eq!(office.state("r-aaaaaaaa"), "unsupported");
    assert_eq!(office.engine.mutating_calls(), calls + 1, "a load that says so");
    assert_eq!(office.told("ada"), one("r-aaaaaaaa", "unsupported"));
}
