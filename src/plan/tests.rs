//! The planner's rules, one test each, and the two properties that hold for all plans.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

mod aside;
mod classes;
mod gate;
mod holds;
mod impossible;
mod kept;
mod renames;
mod stopped;

use super::*;

use crate::model::policy::{AllowEntry, AuthScheme, CredentialRoute, Egress, HostPattern};
use crate::model::{
    AgentsFolder, BackendChoice, BackendFacts, Diagnostic, Fields, ImageRef, InstanceId,
    InstanceState, LeftoverKind, NetworkSpec, OwnerId, Ownership, Policy, Resources, Restart,
    SidecarSpec, SpecHash, Tree,
};

fn id(name: &str) -> SandboxId {
    SandboxId::new(name).unwrap()
}

fn spec(name: &str) -> crate::model::SandboxSpec {
    crate::model::SandboxSpec {
        id: id(name),
        host_name: id(name),
        bottle: "dev".to_owned(),
        source: format!("agents/{name}.md"),
        overlay: None,
        backend: BackendChoice::Fixed(BackendKind::Docker),
        image: Some(ImageRef::Registry("busybox:1".to_owned())),
        host_paths: Vec::new(),
        tools: Default::default(),
        setup: Default::default(),
        sources: Vec::new(),
        env: BTreeMap::new(),
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
        prompt: "You are an agent.".into(),
        skills: BTreeMap::new(),
        skills_dir: None,
    }
}

fn desired(specs: impl IntoIterator<Item = crate::model::SandboxSpec>) -> Desired {
    Desired {
        tree: Tree {
            owner: OwnerId::new("team").unwrap(),
            path: PathBuf::from("/tree"),
            network_pool: None,
            snapshots: Some(crate::model::Bounds::default()),
            proxy: None,
            notify: Vec::new(),
        },
        sandboxes: specs.into_iter().map(|spec| (spec.id.clone(), spec)).collect(),
        held: BTreeMap::new(),
        unread: BTreeMap::new(),
        diagnostics: Vec::new(),
        agents: AgentsFolder::Present,
        overlays: BTreeSet::new(),
        was: BTreeMap::new(),
    }
}

fn reachable() -> Observed {
    let facts =
        |version: &str| BackendFacts { version: version.to_owned(), ..BackendFacts::default() };
    Observed {
        facts: BTreeMap::from([
            (BackendKind::Docker, facts("docker 28.5")),
            (BackendKind::Native, facts("native")),
        ]),
        ..Observed::default()
    }
}

fn instance(resource: &ResourceSpec, backend: BackendKind) -> Instance {
    Instance {
        id: InstanceId(format!("{}-{}", resource.sandbox(), resource.kind())),
        backend,
        resource: resource.kind(),
        sandbox: resource.sandbox().clone(),
        place: None,
        name: format!("bottle-team-{}", resource.sandbox()),
        ownership: Ownership::Ours,
        hash: Some(resource.hash()),
        fields: resource.fields(),
        state: InstanceState::Running,
        boot: Some("boot-1".to_owned()),
        drift: Vec::new(),
        mendable: Vec::new(),
        notes: Vec::new(),
        image: match resource {
            ResourceSpec::Machine(machine) => machine.image.digest(),
            _ => None,
        },
        created: Some(1),
        overlay: None,
    }
}

fn receipt(spec: &crate::model::SandboxSpec, instance: &Instance) -> Receipt {
    let guest = spec.guest(instance.backend);
    Receipt {
        kind: ResourceKind::Machine,
        instance: instance.id.clone(),
        backend: instance.backend,
        sandbox: spec.id.clone(),
        guest: Some(guest.hash()),
        fields: guest.fields(),
        skills: guest.skills.keys().cloned().collect(),
        skills_dir: None,
        env: BTreeMap::new(),
        boot: instance.boot.clone(),
        workspace: false,
        copied_from: None,
        settings: Default::default(),
        requests: Default::default(),
        files: BTreeMap::new(),
        under_way: BTreeMap::new(),
        ca: spec.sidecar.as_ref().map(|_| CA.to_owned()),
        names: None,
    }
}

/// The fingerprint of the one CA of these tests.
const CA: &str = "ca-1";

/// What says that a sidecar was given all of this, its credentials by their digest `d`.
fn loaded(spec: &SidecarSpec, instance: &Instance) -> Receipt {
    let digest = |route: &CredentialRoute| (route.token_ref.clone(), "d".to_owned());
    Receipt {
        kind: ResourceKind::Sidecar,
        instance: instance.id.clone(),
        backend: instance.backend,
        sandbox: spec.sandbox.clone(),
        guest: Some(spec.content_hash()),
        fields: spec.content(),
        skills: BTreeSet::new(),
        skills_dir: None,
        env: spec.policy.routes.iter().map(digest).collect(),
        boot: instance.boot.clone(),
        workspace: false,
        copied_from: None,
        settings: Default::default(),
        requests: Default::default(),
        files: BTreeMap::new(),
        under_way: BTreeMap::new(),
        ca: Some(CA.to_owned()),
        names: None,
    }
}

/// A CA is in force for `ada`, and her one credential is set.
fn equipped() -> Options {
    Options {
        cas: BTreeMap::from([(id("ada"), CA.to_owned())]),
        tokens: BTreeMap::from([("GH_TOKEN".to_owned(), "d".to_owned())]),
        ..Options::default()
    }
}

fn backend_of(spec: &crate::model::SandboxSpec) -> BackendKind {
    match spec.backend {
        BackendChoice::Fixed(kind) => kind,
        BackendChoice::Auto { .. } => BackendKind::Docker,
    }
}

/// All of these sandboxes exist, exactly as declared.
fn converged(specs: &[crate::model::SandboxSpec]) -> Observed {
    let mut observed = reachable();
    for spec in specs {
        let backend = backend_of(spec);
        for resource in spec.resources(backend).unwrap() {
            let instance = instance(&resource, backend);
            let receipt = match &resource {
                ResourceSpec::Machine(_) => Some(receipt(spec, &instance)),
                ResourceSpec::Sidecar(sidecar) => Some(loaded(sidecar, &instance)),
                ResourceSpec::Gate(gate) => {
                    let (guest, fields) = (Some(gate.content_hash()), gate.content());
                    Some(Receipt { guest, fields, ca: None, ..receipt(spec, &instance) })
                }
                ResourceSpec::Network(_) => None,
            };
            observed.receipts.extend(receipt.map(|receipt| (instance.id.clone(), receipt)));
            observed.instances.push(instance);
        }
    }
    observed
}

/// The plan as text: one line a change that is not `keep`, one a step.
fn text(plan: &Plan) -> String {
    let mut lines = Vec::new();
    for change in plan.changes.iter().filter(|change| change.verdict != Verdict::Keep) {
        let reason = serde_json::to_value(&change.reason).unwrap();
        let reason = reason["kind"].as_str().unwrap().to_owned();
        let verdict = serde_json::to_value(change.verdict).unwrap();
        let verdict = verdict.as_str().unwrap();
        lines.push(format!("{} {} {verdict} {reason}", change.sandbox, change.resource));
    }
    for step in &plan.steps {
        let after: Vec<String> = step.after.iter().map(ToString::to_string).collect();
        let sandbox = step.sandbox.as_ref().map_or("-", SandboxId::as_str);
        let undoes: Vec<String> = step.undoes.iter().map(ToString::to_string).collect();
        lines.push(format!(
            "[{}] -> #{} {} {} {}{}",
            after.join(","),
            step.id,
            step.action.name(),
            sandbox,
            step.resource,
            if undoes.is_empty() { String::new() } else { format!(" undoes {}", undoes.join(",")) }
        ));
    }
    lines.join("\n")
}

fn run(desired: &Desired, observed: &Observed) -> Plan {
    plan(desired, observed, &Options::default())
}

#[test]
fn a_new_sandbox_is_prepared_created_started_and_provisioned() {
    let plan = run(&desired([spec("ada")]), &reachable());
    assert_eq!(
        text(&plan),
        "ada machine create not_found\n\
         ada guest create not_found\n\
         [] -> #0 prepare ada machine\n\
         [0] -> #1 create ada machine\n\
         [1] -> #2 start ada machine\n\
         [0,2] -> #3 provision ada guest"
    );
    assert_eq!(plan.summary(), Summary { create: 1, ..Summary::default() });
}

#[test]
fn what_is_as_declared_is_kept() {
    let specs = [spec("ada"), spec("grace")];
    let plan = run(&desired(specs.clone()), &converged(&specs));
    assert!(plan.is_empty(), "{}", text(&plan));
    assert_eq!(plan.summary(), Summary { keep: 2, ..Summary::default() });
}

#[test]
fn rule_1_a_manifest_that_does_not_parse_holds_its_sandbox() {
    let specs = [spec("ada"), spec("grace")];
    let mut tree = desired([spec("grace")]);
    tree.held.insert(id("ada"), vec![Diagnostic::error("agents/ada.md", "no closing ---")]);
    let plan = run(&tree, &converged(&specs));
    assert_eq!(text(&plan), "ada machine hold manifest_invalid");
    // Neither does one that never existed come into being.
    assert_eq!(
        text(&run(&tree, &reachable())).lines().next(),
        Some("ada machine hold manifest_invalid")
    );
}

#[test]
fn rule_2_what_is_on_a_backend_that_cannot_be_observed_is_left_alone() {
    let specs = [spec("ada"), spec("grace")];
    let mut observed = converged(&specs);
    observed.instances.clear();
    observed.facts.remove(&BackendKind::Docker);
    observed.unreachable.insert(BackendKind::Docker, "refused".to_owned());
    // Declared, no longer declared, and never made: none is touched.
    let plan = run(&desired([spec("ada"), spec("ken")]), &observed);
    assert_eq!(
        text(&plan),
        "ada machine hold backend_unreachable\n\
         grace machine hold backend_unreachable\n\
         ken machine hold backend_unreachable"
    );
}

#[test]
fn rule_2_auto_never_moves_because_an_engine_is_down() {
    let auto = crate::model::SandboxSpec {
        backend: BackendChoice::Auto { default: None },
        image: Some(ImageRef::Folder { path: "/r".into(), digest: SpecHash::of_bytes(b"r") }),
        ..spec("ada")
    };
    let mut observed = converged(std::slice::from_ref(&auto));
    observed.instances.clear();
    observed.facts.remove(&BackendKind::Docker);
    observed.unreachable.insert(BackendKind::Docker, "refused".to_owned());
    assert_eq!(
        text(&run(&desired([auto.clone()]), &observed)),
        "ada machine hold backend_unreachable"
    );
    // One that never existed goes where it can be made.
    observed.receipts.clear();
    let plan = run(&desired([auto]), &observed);
    assert!(plan.steps.iter().all(|step| step.backend == BackendKind::Native));
    assert_eq!(plan.summary().create, 1);
}

#[test]
fn auto_chooses_the_first_backend_that_can_make_it() {
    let auto = |image: Option<ImageRef>, default| crate::model::SandboxSpec {
        backend: BackendChoice::Auto { default },
        image,
        ..spec("ada")
    };
    let chosen = |spec| run(&desired([spec]), &reachable()).changes[0].backend;
    let reference = ImageRef::Registry("node:22".to_owned());
    assert_eq!(chosen(auto(None, None)), Some(BackendKind::Native));
    assert_eq!(chosen(auto(Some(ImageRef::Host), None)), Some(BackendKind::Native));
    assert_eq!(chosen(auto(Some(reference.clone()), None)), Some(BackendKind::Docker));
    let native = Some(BackendKind::Native);
    assert_eq!(chosen(auto(Some(reference), native)), native);
}

#[test]
fn rule_3_a_foreign_object_under_a_name_that_we_need_is_a_conflict() {
    let mut observed = converged(&[spec("ada")]);
    observed.instances[0].ownership = Ownership::Foreign;
    let plan = run(&desired([spec("ada")]), &observed);
    assert_eq!(text(&plan), "ada machine hold conflict");
    // And nothing of it is torn down when nobody declares it.
    assert_eq!(text(&run(&desired([]), &observed)), "");
    let down = Options { remove_all: true, ..Options::default() };
    let removed = |observed: &Observed| text(&crate::plan::plan(&desired([]), observed, &down));
    assert_eq!(removed(&observed), "");
    observed.instances[0].ownership = Ownership::OtherState("f00".to_owned());
    assert_eq!(text(&run(&desired([spec("ada")]), &observed)), "ada machine hold conflict");
    // Who wants all of it gone hears that it stays.
    assert_eq!(text(&run(&desired([]), &observed)), "");
    assert_eq!(removed(&observed), "ada machine hold conflict");
}

#[test]
fn rule_4_what_stands_on_a_replaced_resource_is_replaced_too() {
    let fields = |pool: &str| {
        let mut fields = Fields::default();
        fields.set("network_pool", pool);
        fields
    };
    let with_network = |pool: &str| crate::model::SandboxSpec {
        network: Some(NetworkSpec { sandbox: id("ada"), fields: fields(pool), pool: None }),
        sidecar: Some(SidecarSpec {
            sandbox: id("ada"),
            fields: Fields::default(),
            policy: Arc::default(),
            proxy: None,
        }),
        ..spec("ada")
    };
    let observed = converged(&[with_network("10.0.0.0/8")]);
    let plan = run(&desired([with_network("172.20.0.0/16")]), &observed);
    assert_eq!(
        text(&plan),
        "ada network replace spec_changed\n\
         ada sidecar replace stands_on_replaced\n\
         ada machine replace stands_on_replaced\n\
         ada guest replace stands_on_replaced\n\
         [] -> #0 prepare ada machine\n\
         [0] -> #1 teardown ada machine\n\
         [0,1] -> #2 teardown ada sidecar\n\
         [0,1,2] -> #3 teardown ada network\n\
         [0,1,2,3] -> #4 create ada network\n\
         [0,1,2,3,4] -> #5 create ada sidecar\n\
         [5] -> #6 start ada sidecar\n\
         [0,1,2,3,4,6] -> #7 load ada sidecar\n\
         [0,1,2,3,4,6] -> #8 create ada machine\n\
         [8] -> #9 start ada machine\n\
         [0,1,2,3,4,6,7,9] -> #10 provision ada guest"
    );
}

#[test]
fn rule_4_a_sidecar_is_replaced_beside_its_running_machine() {
    let with_sidecar = |generation: &str| {
        let mut fields = Fields::default();
        fields.set("generation", generation);
        crate::model::SandboxSpec {
            sidecar: Some(SidecarSpec {
                sandbox: id("ada"),
                fields,
                policy: Arc::default(),
                proxy: None,
            }),
            ..spec("ada")
        }
    };
    let observed = converged(&[with_sidecar("1")]);
    let plan = plan(&desired([with_sidecar("2")]), &observed, &equipped());
    assert_eq!(
        text(&plan),
        "ada sidecar replace spec_changed\n\
         [] -> #0 teardown ada sidecar\n\
         [0] -> #1 create ada sidecar\n\
         [1] -> #2 start ada sidecar\n\
         [0,2] -> #3 load ada sidecar"
    );
}

/// `ada` with an allowlist of one host, and perhaps a credential.
fn with_policy(host: &str, credential: bool) -> crate::model::SandboxSpec {
    let entry = AllowEntry {
        host: HostPattern::Exact(host.to_owned()),
        port: 443,
        methods: Vec::new(),
        paths: Vec::new(),
        cidr: None,
        encoded_slash: false,
        expires: None,
    };
    let route = CredentialRoute {
        path: "/gh/".to_owned(),
        host: "api.example.com".to_owned(),
        port: 443,
        upstream_path: String::new(),
        auth_scheme: AuthScheme::Bearer,
        token_ref: "GH_TOKEN".to_owned(),
        token_from: None,
        roles: Vec::new(),
        expires: None,
    };
    let policy = Policy {
        egress: Egress { allowlist: vec![entry], ..Egress::default() },
        routes: credential.then_some(route).into_iter().collect(),
        ..Policy::default()
    };
    crate::model::SandboxSpec {
        sidecar: Some(SidecarSpec {
            sandbox: id("ada"),
            fields: Fields::default(),
            policy: Arc::new(policy.clone()),
            proxy: None,
        }),
        policy,
        ..spec("ada")
    }
}

const LOADED_AGAIN: &str = "ada sidecar reprovision spec_changed\n[] -> #0 load ada sidecar";

#[test]
fn a_policy_is_loaded_into_the_running_sidecar() {
    let old = with_policy("a.example.com", false);
    let observed = converged(std::slice::from_ref(&old));
    assert_eq!(text(&plan(&desired([old]), &observed, &equipped())), "");
    let new = desired([with_policy("b.example.com", false)]);
    let plan = plan(&new, &observed, &equipped());
    assert_eq!(text(&plan), LOADED_AGAIN);
    let change = plan.changes.iter().find(|c| c.resource == ResourceKind::Sidecar).unwrap();
    let fields: Vec<&str> = change.fields.iter().map(|field| field.path.as_str()).collect();
    let paths = ["a", "b"].map(|host| format!("egress.allowlist.{host}.example.com:443"));
    assert_eq!(fields, paths);
}

#[test]
fn a_credential_that_changed_is_loaded_and_shown_by_its_digest() {
    let spec = with_policy("a.example.com", true);
    let observed = converged(std::slice::from_ref(&spec));
    let mut options = equipped();
    assert_eq!(text(&plan(&desired([spec.clone()]), &observed, &options)), "");
    options.tokens.insert("GH_TOKEN".to_owned(), "other".to_owned());
    let plan = plan(&desired([spec]), &observed, &options);
    assert_eq!(text(&plan), LOADED_AGAIN);
    let change = plan.changes.iter().find(|c| c.resource == ResourceKind::Sidecar).unwrap();
    assert_eq!(change.fields[0].path, "cred_proxy.GH_TOKEN");
    assert_eq!(change.fields[0].to.as_deref(), Some("hmac:other"));
}

#[test]
fn a_sidecar_that_was_started_anew_has_nothing_and_is_loaded_again() {
    let spec = with_policy("a.example.com", true);
    let mut observed = converged(std::slice::from_ref(&spec));
    let sidecar = observed.instances.iter_mut().find(|i| i.resource == ResourceKind::Sidecar);
    sidecar.unwrap().boot = Some("boot-2".to_owned());
    let again = plan(&desired([spec.clone()]), &observed, &equipped());
    assert_eq!(text(&again), "ada sidecar reprovision hash_missing\n[] -> #0 load ada sidecar");
    let sidecar = observed.instances.iter_mut().find(|i| i.resource == ResourceKind::Sidecar);
    sidecar.unwrap().state = InstanceState::Stopped { code: Some(137) };
    let again = plan(&desired([spec]), &observed, &equipped());
    assert_eq!(
        text(&again),
        "ada sidecar reprovision not_running\n\
         [] -> #0 start ada sidecar\n\
         [0] -> #1 load ada sidecar"
    );
}

#[test]
fn a_ca_that_is_due_goes_to_sidecar_and_guest() {
    let spec = with_policy("a.example.com", false);
    let observed = converged(std::slice::from_ref(&spec));
    let options = Options { cas: BTreeMap::new(), ..equipped() };
    let plan = plan(&desired([spec]), &observed, &options);
    assert_eq!(
        text(&plan),
        "ada sidecar reprovision spec_changed\n\
         ada guest reprovision spec_changed\n\
         [] -> #0 load ada sidecar\n\
         [0] -> #1 provision ada guest"
    );
}

#[test]
fn rule_5_of_duplicates_the_one_that_fits_stays() {
    let mut observed = converged(&[spec("ada")]);
    let mut stale = observed.instances[0].clone();
    stale.id = InstanceId("0-stale".to_owned());
    stale.hash = Some(SpecHash::of_bytes(b"old"));
    observed.instances.insert(0, stale);
    let plan = run(&desired([spec("ada")]), &observed);
    assert_eq!(text(&plan), "ada machine teardown duplicate\n[] -> #0 teardown ada machine");
    let Action::Teardown { instance: gone, .. } = &plan.steps[0].action else {
        panic!("{:?}", plan.steps)
    };
    assert_eq!(gone.id.0, "0-stale");
    assert_eq!(plan.refused, None);
}

#[test]
fn rule_5_all_duplicates_go_of_what_is_no_longer_wanted() {
    let network = NetworkSpec { sandbox: id("ada"), fields: Fields::default(), pool: None };
    let networked = crate::model::SandboxSpec { network: Some(network), ..spec("ada") };
    let mut observed = converged(&[networked]);
    let mut twin = observed.instances[0].clone();
    twin.id = InstanceId("0-twin".to_owned());
    observed.instances.push(twin);
    let plan = run(&desired([spec("ada")]), &observed);
    let gone = plan.steps.iter().filter(|step| matches!(step.action, Action::Teardown { .. }));
    assert_eq!(gone.count(), 2, "{}", text(&plan));
}

#[test]
fn rule_6_removals_come_before_additions_and_prepare_before_removals() {
    let mut changed = spec("ada");
    changed.user = Some("old".to_owned());
    let plan = run(&desired([spec("ada")]), &converged(&[changed]));
    assert_eq!(
        text(&plan),
        "ada machine replace spec_changed\n\
         ada guest replace stands_on_replaced\n\
         [] -> #0 prepare ada machine\n\
         [0] -> #1 keep ada machine\n\
         [0,1] -> #2 set_aside ada machine\n\
         [0,2] -> #3 create ada machine\n\
         [3] -> #4 start ada machine\n\
         [0,4] -> #5 provision ada guest\n\
         [] -> #6 bring_back ada machine undoes 1,2,3,4,5\n\
         [6] -> #7 start ada machine undoes 1,2,3,4,5\n\
         [7] -> #8 provision ada guest undoes 1,2,3,4,5\n\
         [5] -> #9 teardown ada machine"
    );
    let fields = &plan.changes[0].fields;
    assert_eq!(fields.len(), 1);
    assert_eq!(
        (fields[0].path.as_str(), fields[0].from.as_deref(), fields[0].to.as_deref()),
        ("user", Some("old"), None)
    );
}

#[test]
fn a_move_between_backends_is_one_replace_that_names_both() {
    let moved = crate::model::SandboxSpec {
        backend: BackendChoice::Fixed(BackendKind::Native),
        image: Some(ImageRef::Host),
        ..spec("ada")
    };
    let plan = run(&desired([moved]), &converged(&[spec("ada")]));
    assert_eq!(plan.summary(), Summary { replace: 1, ..Summary::default() });
    let field = plan.changes[0].fields.iter().find(|field| field.path == "backend").unwrap();
    assert_eq!((field.from.as_deref(), field.to.as_deref()), (Some("docker"), Some("native")));
    let steps: Vec<_> = plan.steps.iter().map(|s| (s.action.name(), s.backend)).collect();
    assert_eq!(
        steps,
        [
            ("prepare", BackendKind::Native),
            ("keep", BackendKind::Docker),
            ("set_aside", BackendKind::Docker),
            ("create", BackendKind::Native),
            ("start", BackendKind::Native),
            ("provision", BackendKind::Native),
            ("bring_back", BackendKind::Docker),
            ("start", BackendKind::Docker),
            ("provision", BackendKind::Docker),
            ("teardown", BackendKind::Docker)
        ]
    );
}

fn many(count: usize) -> Vec<crate::model::SandboxSpec> {
    (0..count).map(|n| spec(&format!("a{n}"))).collect()
}

#[test]
fn rule_7_mass_teardown_needs_a_flag() {
    let all = many(10);
    let observed = converged(&all);
    let five_left = desired(all[..5].to_vec());
    assert_eq!(run(&five_left, &observed).refused, None, "5 may go");
    let four_left = desired(all[..4].to_vec());
    let refused = Some(Refusal::MassTeardown { removed: 6, existing: 10, lately: 0 });
    let plan_with = |allow_teardown| {
        plan(&four_left, &observed, &Options { allow_teardown, ..Options::default() })
    };
    assert_eq!(plan_with(AllowTeardown::Guarded).refused, refused);
    assert_eq!(plan_with(AllowTeardown::Upto(5)).refused, refused);
    assert_eq!(plan_with(AllowTeardown::Upto(6)).refused, None);
    assert_eq!(plan_with(AllowTeardown::All).refused, None);
    assert_eq!(plan_with(AllowTeardown::Guarded).summary().teardown, 6, "it is still shown");
    // 6 of 12 are not more than half.
    let more = many(12);
    assert_eq!(run(&desired(more[..6].to_vec()), &converged(&more)).refused, None);
}

#[test]
fn rule_7_a_tree_without_agents_removes_nothing_however_few_there_are() {
    let observed = converged(&[spec("ada")]);
    for agents in
        [AgentsFolder::Empty, AgentsFolder::Missing, AgentsFolder::Unreadable("denied".to_owned())]
    {
        let tree = Desired { agents, ..desired([]) };
        assert!(matches!(
            run(&tree, &observed).refused,
            Some(Refusal::NoAgents { removed: 1, .. })
        ));
        let down = Options { remove_all: true, ..Options::default() };
        assert_eq!(plan(&tree, &observed, &down).refused, None);
        assert_eq!(run(&tree, &reachable()).refused, None, "nothing exists");
    }
}

#[test]
fn rule_7_watch_holds_the_removals_and_does_the_rest() {
    let all = many(10);
    let mut tree = desired(all[..3].to_vec());
    tree.sandboxes.insert(id("new"), spec("new"));
    let options = Options { on_mass_teardown: OnMassTeardown::Hold, ..Options::default() };
    let plan = plan(&tree, &converged(&all), &options);
    assert!(plan.refused.is_some());
    assert_eq!(plan.summary(), Summary { hold: 7, create: 1, keep: 3, ..Summary::default() });
    assert!(plan.steps.iter().all(|step| step.sandbox == Some(id("new"))));
}

#[test]
fn rule_7_what_went_within_the_hour_counts() {
    let all = many(9);
    let gone = |names: &[&str]| names.iter().map(|name| id(name)).collect();
    let plan_with = |left: usize, gone_lately| {
        let options =
            Options { on_mass_teardown: OnMassTeardown::Hold, gone_lately, ..Options::default() };
        plan(&desired(all[..left].to_vec()), &converged(&all), &options)
    };
    // Three of nine that exist, and three that went.
    let held = plan_with(6, gone(&["x", "y", "z"]));
    let refused = Some(Refusal::MassTeardown { removed: 6, existing: 12, lately: 3 });
    assert_eq!(held.refused, None, "half is not more than half");
    let more = plan_with(5, gone(&["x", "y", "z"]));
    let refused = refused.map(|_| Refusal::MassTeardown { removed: 7, existing: 12, lately: 3 });
    assert_eq!(more.refused, refused);
    assert_eq!(more.summary(), Summary { hold: 4, keep: 5, ..Summary::default() });
    // One that went and came back counts once.
    assert_eq!(plan_with(5, gone(&["a8", "a7", "a6"])).refused, None);
    // Nothing goes now: what went is no reason to hold anything.
    assert_eq!(plan_with(9, gone(&["x", "y", "z", "u", "v", "w"])).refused, None);
}

#[test]
fn rule_7_teardowns_are_held_for_a_person_where_that_is_asked_for() {
    let all = many(3);
    let mut tree = desired(all[..2].to_vec());
    let changed = tree.sandboxes.get_mut(&id("a1")).unwrap();
    changed.user = Some("another".to_owned());
    let options = Options { hold_teardowns: true, ..Options::default() };
    let plan = plan(&tree, &converged(&all), &options);
    assert_eq!(plan.refused, None);
    assert_eq!(plan.summary(), Summary { hold: 1, replace: 1, keep: 1, ..Summary::default() });
    let held = plan.changes.iter().find(|change| change.sandbox == id("a2")).unwrap();
    assert_eq!(
        held.notes,
        ["`--hold-teardown`: once `watch` has ended, `bottle apply` removes it"]
    );
    assert!(plan.steps.iter().all(|step| step.sandbox != Some(id("a2"))));
}

#[test]
fn rule_8_equal_inputs_in_any_order_give_the_same_plan() {
    let mut all = many(6);
    all[2].user = Some("old".to_owned());
    let mut observed = converged(&all);
    let tree = desired(many(5));
    let first = run(&tree, &observed);
    observed.instances.reverse();
    assert_eq!(run(&tree, &observed), first);
}

#[test]
fn rule_9_a_machine_that_stopped_is_started_again_and_provisioned() {
    let mut observed = converged(&[spec("ada")]);
    observed.instances[0].state = InstanceState::Stopped { code: Some(137) };
    let plan = run(&desired([spec("ada")]), &observed);
    assert_eq!(
        text(&plan),
        "ada machine reprovision not_running\n\
         ada guest reprovision not_running\n\
         [] -> #0 start ada machine\n\
         [0] -> #1 provision ada guest"
    );
}

#[test]
fn a_changed_prompt_is_put_in_in_place() {
    let observed = converged(&[spec("ada")]);
    let edited = crate::model::SandboxSpec { prompt: "You are new.".into(), ..spec("ada") };
    let plan = run(&desired([edited]), &observed);
    assert_eq!(text(&plan), "ada guest reprovision spec_changed\n[] -> #0 provision ada guest");
    assert_eq!(plan.changes[1].fields[0].path, "prompt");
}

#[test]
fn a_lost_receipt_costs_one_reprovision() {
    let mut observed = converged(&[spec("ada")]);
    observed.receipts.clear();
    let plan = run(&desired([spec("ada")]), &observed);
    assert_eq!(text(&plan), "ada guest reprovision hash_missing\n[] -> #0 provision ada guest");
}

#[test]
fn a_lost_hash_is_visible() {
    let mut observed = converged(&[spec("ada")]);
    observed.instances[0].hash = None;
    let plan = run(&desired([spec("ada")]), &observed);
    assert!(text(&plan).starts_with("ada machine replace hash_missing"), "{}", text(&plan));
}

#[test]
fn drift_is_mended_in_place_where_it_can_be_and_replaced_where_not() {
    let field = |path: &str| FieldChange {
        path: path.to_owned(),
        from: Some("by hand".to_owned()),
        to: None,
    };
    let mut observed = converged(&[spec("ada")]);
    observed.instances[0].mendable = vec![field("networks")];
    let plan = run(&desired([spec("ada")]), &observed);
    assert_eq!(text(&plan), "ada machine reprovision spec_changed\n[] -> #0 mend ada machine");
    observed.instances[0].drift = vec![field("mounts")];
    assert_eq!(run(&desired([spec("ada")]), &observed).summary().replace, 1);
}

#[test]
fn what_outlived_its_network_is_mended_when_there_is_a_new_one() {
    let field = FieldChange {
        path: "networks".to_owned(),
        from: Some("removed since".to_owned()),
        to: Some("bottle-team-ada".to_owned()),
    };
    let network = NetworkSpec { sandbox: id("ada"), fields: Fields::default(), pool: None };
    let with_network = crate::model::SandboxSpec { network: Some(network), ..spec("ada") };
    let mut observed = converged(std::slice::from_ref(&with_network));
    observed.instances.retain(|instance| instance.resource == ResourceKind::Machine);
    observed.instances[0].mendable = vec![field];
    let plan = run(&desired([with_network]), &observed);
    assert_eq!(
        text(&plan),
        "ada network create not_found\n\
         ada machine reprovision spec_changed\n\
         [] -> #0 create ada network\n\
         [0] -> #1 mend ada machine"
    );
}

#[test]
fn a_network_is_mended_before_what_stands_on_it_is_mended_or_made() {
    let field = |path: &str| FieldChange {
        path: path.to_owned(),
        from: Some("nothing".to_owned()),
        to: Some("an empty bridge".to_owned()),
    };
    let network = NetworkSpec { sandbox: id("ada"), fields: Fields::default(), pool: None };
    let with_network = crate::model::SandboxSpec { network: Some(network), ..spec("ada") };
    let mut observed = converged(std::slice::from_ref(&with_network));
    for instance in &mut observed.instances {
        instance.mendable = vec![field("carrier")];
    }
    let plan = run(&desired([with_network.clone()]), &observed);
    assert_eq!(
        text(&plan),
        "ada network reprovision spec_changed\n\
         ada machine reprovision spec_changed\n\
         [] -> #0 mend ada network\n\
         [0] -> #1 mend ada machine"
    );
    // Nothing of the machine goes for it.
    observed.instances.retain(|instance| instance.resource == ResourceKind::Network);
    let plan = run(&desired([with_network]), &observed);
    let steps: Vec<_> = plan.steps.iter().map(|step| (step.action.name(), &step.after)).collect();
    assert!(steps.iter().all(|(name, _)| *name != "teardown"), "{steps:?}");
    let mended = steps.iter().position(|(name, _)| *name == "mend").unwrap();
    let made = steps.iter().find(|(name, _)| *name == "create").unwrap();
    assert!(made.1.contains(&mended), "{steps:?}");
}

#[test]
fn what_a_backend_notes_of_a_machine_is_said_and_changes_nothing() {
    let mut observed = converged(&[spec("ada")]);
    observed.instances[0].notes = vec!["the tag moved".to_owned()];
    let plan = run(&desired([spec("ada")]), &observed);
    assert!(plan.is_empty());
    assert_eq!(plan.changes[0].notes, ["the tag moved"]);
}

#[test]
fn a_suspended_sandbox_is_left_exactly_as_it_is() {
    let mut stopped = converged(&[spec("ada")]);
    stopped.instances[0].state = InstanceState::Stopped { code: None };
    let suspended =
        crate::model::SandboxSpec { suspend: true, prompt: "new".into(), ..spec("ada") };
    let plan = run(&desired([suspended]), &stopped);
    assert!(plan.is_empty());
    assert_eq!(plan.changes[0].reason, Reason::Suspended);
    assert_eq!(plan.summary().hold, 0);
}

fn asking(name: &str) -> crate::model::SandboxSpec {
    crate::model::SandboxSpec { asked_env: BTreeSet::from(["TOKEN".to_owned()]), ..spec(name) }
}

fn with_value(digest: &str) -> Options {
    Options {
        values: BTreeMap::from([("TOKEN".to_owned(), digest.to_owned())]),
        ..Options::default()
    }
}

/// It exists and has its value.
fn has_value(digest: &str) -> Observed {
    let mut observed = converged(&[asking("ada")]);
    for receipt in observed.receipts.values_mut() {
        receipt.env.insert("TOKEN".to_owned(), digest.to_owned());
    }
    observed
}

#[test]
fn without_a_value_nothing_is_made_and_nothing_is_replaced() {
    let tree = desired([asking("ada")]);
    let plan_new = run(&tree, &reachable());
    // What it would be is said all the same.
    let made = "ada machine hold needs_input\nada machine hold not_found\nada guest hold not_found";
    assert_eq!(text(&plan_new), made);
    assert_eq!(plan_new.changes[0].notes, ["once it has TOKEN, it is made"]);
    assert_eq!(plan_new.missing_input(), BTreeSet::from(["TOKEN"]));
    let mut smaller = asking("ada");
    smaller.user = Some("new".to_owned());
    let plan_replace = run(&desired([smaller.clone()]), &has_value("d1"));
    let lines =
        ["machine hold needs_input", "machine hold spec_changed", "guest hold stands_on_replaced"];
    assert_eq!(text(&plan_replace), lines.map(|line| format!("ada {line}")).join("\n"));
    assert_eq!(plan_replace.changes[1].fields[0].path, "user");
    assert!(plan_replace.changes[0].notes[0].contains("made anew"), "{plan_replace:?}");
    assert_eq!((plan_replace.summary().hold, plan_replace.refused.as_ref()), (1, None));
    let given = plan(&desired([smaller]), &has_value("d1"), &with_value("d1"));
    assert_eq!(given.summary().replace, 1);
}

#[test]
fn a_delivered_value_needs_not_be_at_hand_again() {
    let tree = desired([asking("ada")]);
    assert!(run(&tree, &has_value("d1")).is_empty());
    assert!(plan(&tree, &has_value("d1"), &with_value("d1")).is_empty());
}

#[test]
fn a_changed_value_is_delivered_again_and_shown_as_a_digest() {
    let tree = desired([asking("ada")]);
    let plan = plan(&tree, &has_value("d1"), &with_value("d2"));
    assert_eq!(text(&plan), "ada guest reprovision spec_changed\n[] -> #0 provision ada guest");
    assert_eq!(plan.changes[1].fields[0].from.as_deref(), Some("hmac:d1"));
}

#[test]
fn a_value_that_a_restart_lost_is_delivered_again_or_waited_for() {
    let tree = desired([asking("ada")]);
    let mut observed = has_value("d1");
    observed.instances[0].boot = Some("boot-2".to_owned());
    assert_eq!(text(&run(&tree, &observed)), "ada guest hold needs_input");
    let given = plan(&tree, &observed, &with_value("d1"));
    assert!(text(&given).starts_with("ada guest reprovision hash_missing"), "{}", text(&given));
    // Only the delivery waits: a changed prompt goes in.
    let edited = crate::model::SandboxSpec { prompt: "new".into(), ..asking("ada") };
    let plan = run(&desired([edited]), &observed);
    let Action::Provision { deliver, .. } = &plan.steps[0].action else {
        panic!("{}", text(&plan))
    };
    assert!(deliver.is_empty());
    assert!(
        text(&plan).starts_with("ada guest hold needs_input\nada guest reprovision spec_changed\n")
    );
    assert_eq!(plan.missing_input(), BTreeSet::from(["TOKEN"]));
}

#[test]
fn a_route_whose_token_is_not_set_holds_the_sandbox() {
    let mut routed = spec("ada");
    routed.policy.routes.push(CredentialRoute {
        path: "/gh/".to_owned(),
        host: "api.example.com".to_owned(),
        port: 443,
        upstream_path: String::new(),
        auth_scheme: AuthScheme::Bearer,
        token_ref: "GH_TOKEN".to_owned(),
        token_from: None,
        roles: Vec::new(),
        expires: None,
    });
    let tree = desired([routed]);
    let plan_without = run(&tree, &reachable());
    assert!(plan_without.is_empty());
    assert!(
        text(&plan_without).starts_with("ada machine hold needs_input\nada machine hold not_found")
    );
    let set = Options {
        tokens: BTreeMap::from([("GH_TOKEN".to_owned(), "d".to_owned())]),
        ..Options::default()
    };
    let plan = plan(&tree, &reachable(), &set);
    assert_eq!(plan.summary().create, 1);
    assert_eq!(plan.changes[0].notes, ["no network: cred_proxy is not enforced yet"]);
}

#[test]
fn only_looks_at_what_it_names() {
    let all = many(3);
    let options = Options { only: Some(BTreeSet::from([id("a1")])), ..Options::default() };
    let plan = plan(&desired(all), &reachable(), &options);
    assert_eq!(plan.summary(), Summary { create: 1, ..Summary::default() });
}

#[test]
fn an_overlay_that_is_not_loaded_keeps_what_it_made() {
    let mut observed = converged(&[spec("ada")]);
    observed.instances[0].overlay = Some("/project".to_owned());
    assert!(run(&desired([]), &observed).changes.is_empty());
    let mut loaded = desired([]);
    loaded.overlays.insert("/project".to_owned());
    assert_eq!(run(&loaded, &observed).summary().teardown, 1);
    let down = Options { remove_all: true, ..Options::default() };
    assert_eq!(plan(&desired([]), &observed, &down).summary().teardown, 1);
}

#[test]
fn a_bottle_that_its_backend_cannot_make_is_held() {
    let host = crate::model::SandboxSpec { image: Some(ImageRef::Host), ..spec("ada") };
    assert_eq!(text(&run(&desired([host]), &reachable())), "ada machine hold manifest_invalid");
}

#[test]
fn an_imported_image_goes_with_the_last_machine_that_stands_on_it() {
    let on = |name: &str, content: &[u8]| crate::model::SandboxSpec {
        image: Some(ImageRef::Tar { path: "/i.tar".into(), digest: SpecHash::of_bytes(content) }),
        ..spec(name)
    };
    let leftover = |content: &[u8]| Leftover {
        backend: BackendKind::Docker,
        kind: LeftoverKind::Image,
        id: InstanceId(SpecHash::of_bytes(content).short()),
        name: "bottle-team".to_owned(),
        digest: Some(SpecHash::of_bytes(content)),
    };
    let mut observed = converged(&[on("ada", b"1"), on("ken", b"1")]);
    observed.leftovers = vec![leftover(b"1")];
    assert!(run(&desired([on("ada", b"1"), on("ken", b"1")]), &observed).is_empty());
    let one_left = run(&desired([on("ada", b"1")]), &observed);
    assert!(one_left.steps.iter().all(|step| step.action.name() != "prune"));
    let replaced = run(&desired([on("ada", b"2"), on("ken", b"2")]), &observed);
    let prune = replaced.steps.last().unwrap();
    assert_eq!((prune.action.name(), prune.after.len()), ("prune", 2), "{}", text(&replaced));
    // Nobody wants it, and nothing stands on it.
    observed.leftovers = vec![leftover(b"3")];
    let unused = run(&desired([on("ada", b"1"), on("ken", b"1")]), &observed);
    assert_eq!(text(&unused), "[] -> #0 prune - image");
}

#[test]
fn a_sandbox_that_backs_off_is_decided_and_left() {
    let options = Options { deferred: BTreeSet::from([id("ada")]), ..Options::default() };
    let plan = plan(&desired([spec("ada")]), &reachable(), &options);
    assert_eq!(plan.summary().create, 1);
    assert!(plan.is_empty());
}
