//! `plan()` over many agents in memory: a no-op, and a pass in which everything is new. Prints
//! milliseconds (the median of several runs) and how the time grows.
//!
//! `cargo bench --bench plan`
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use bottle::model::spec::ResourceSpec;
use bottle::model::{
    AgentsFolder, BackendChoice, BackendFacts, BackendKind, Desired, ImageRef, Instance,
    InstanceId, InstanceState, Observed, OwnerId, Ownership, Policy, Receipt, ResourceKind,
    Resources, Restart, SandboxId, SandboxSpec, Tree,
};
use bottle::plan::{Options, plan};

const RUNS: usize = 7;

fn spec(number: usize) -> SandboxSpec {
    SandboxSpec {
        id: SandboxId::new(format!("agent-{number}")).unwrap(),
        host_name: SandboxId::new(format!("agent-{number}")).unwrap(),
        bottle: "dev".to_owned(),
        source: format!("agents/agent-{number}.md"),
        overlay: None,
        backend: BackendChoice::Fixed(BackendKind::Docker),
        image: Some(ImageRef::Registry("node:22-slim".to_owned())),
        host_paths: Vec::new(),
        tools: Default::default(),
        setup: Default::default(),
        sources: Vec::new(),
        env: BTreeMap::from([("LANG".to_owned(), "C.UTF-8".to_owned())]),
        asked_env: BTreeSet::new(),
        resources: Resources::default(),
        workspace: None,
        keep: Default::default(),
        user: None,
        policy: Policy::default(),
        command: Vec::new(),
        restart: Restart::default(),
        network: None,
        sidecar: None,
        gate: None,
        run: vec!["claude".to_owned()],
        suspend: false,
        prompt: "You review changes. ".repeat(50).into(),
        skills: BTreeMap::new(),
        skills_dir: None,
    }
}

fn desired(count: usize) -> Desired {
    Desired {
        tree: Tree {
            owner: OwnerId::new("bench").unwrap(),
            path: "/tree".into(),
            network_pool: None,
            snapshots: Some(bottle::model::Bounds::default()),
            proxy: None,
            notify: Vec::new(),
        },
        sandboxes: (0..count).map(spec).map(|spec| (spec.id.clone(), spec)).collect(),
        held: BTreeMap::new(),
        unread: BTreeMap::new(),
        diagnostics: Vec::new(),
        agents: AgentsFolder::Present,
        overlays: BTreeSet::new(),
        was: BTreeMap::new(),
    }
}

fn nothing() -> Observed {
    let facts = BTreeMap::from([(BackendKind::Docker, BackendFacts::default())]);
    Observed { facts, ..Observed::default() }
}

fn everything(desired: &Desired) -> Observed {
    let mut observed = nothing();
    for spec in desired.sandboxes.values() {
        let machine = ResourceSpec::Machine(spec.machine(BackendKind::Docker).unwrap());
        let id = InstanceId(format!("{:064x}", observed.instances.len()));
        let guest = spec.guest(BackendKind::Docker);
        observed.receipts.insert(
            id.clone(),
            Receipt {
                kind: bottle::model::ResourceKind::Machine,
                instance: id.clone(),
                backend: BackendKind::Docker,
                sandbox: spec.id.clone(),
                guest: Some(guest.hash()),
                fields: guest.fields(),
                skills: BTreeSet::new(),
                skills_dir: None,
                env: BTreeMap::new(),
                boot: None,
                workspace: false,
                copied_from: None,
                files: BTreeMap::new(),
                under_way: BTreeMap::new(),
                settings: Default::default(),
                requests: Default::default(),
                ca: None,
                names: None,
            },
        );
        observed.instances.push(Instance {
            id,
            backend: BackendKind::Docker,
            resource: ResourceKind::Machine,
            sandbox: spec.id.clone(),
            place: None,
            name: format!("bottle-bench-{}", spec.id),
            ownership: Ownership::Ours,
            hash: Some(machine.hash()),
            fields: machine.fields(),
            state: InstanceState::Running,
            boot: None,
            drift: Vec::new(),
            mendable: Vec::new(),
            notes: Vec::new(),
            image: None,
            created: Some(1),
            overlay: None,
        });
    }
    observed
}

fn median(desired: &Desired, observed: &Observed, steps: usize) -> f64 {
    let mut times: Vec<f64> = (0..RUNS)
        .map(|_| {
            let begun = Instant::now();
            let plan = plan(desired, observed, &Options::default());
            let elapsed = begun.elapsed().as_secs_f64() * 1e3;
            assert_eq!(plan.steps.len(), steps);
            elapsed
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[RUNS / 2]
}

fn main() {
    println!("{:>8}  {:>10}  {:>10}", "agents", "no-op ms", "all new ms");
    for count in [1_000, 10_000, 100_000] {
        let desired = desired(count);
        let no_op = median(&desired, &everything(&desired), 0);
        let all_new = median(&desired, &nothing(), 4 * count);
        println!("{count:>8}  {no_op:>10.2}  {all_new:>10.2}");
    }
}
