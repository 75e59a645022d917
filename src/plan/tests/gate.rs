//! A sandbox's git gate: made beside it, loaded while it runs, and told about.

use super::*;
use crate::model::policy::GitUpstream;
use crate::model::policy::git::tests::upstream;
use crate::model::{GateSpec, SandboxSpec};

/// `ada` on native, with these upstreams.
fn with_git(upstreams: Vec<GitUpstream>) -> SandboxSpec {
    let policy = Policy { git: upstreams, ..Policy::default() };
    SandboxSpec {
        backend: BackendChoice::Fixed(BackendKind::Native),
        image: None,
        gate: GateSpec::of(&id("ada"), &policy),
        policy,
        ..spec("ada")
    }
}

/// An upstream that may be pushed to so.
fn pushed(push: &[&str]) -> GitUpstream {
    let mut app = upstream("app", "/o/app.git");
    app.refs.push = push.iter().map(|pattern| format!("refs/heads/{pattern}")).collect();
    app
}

fn notes(plan: &Plan) -> Vec<&str> {
    let gates = plan.changes.iter().filter(|change| change.resource == ResourceKind::Gate);
    gates.flat_map(|change| change.notes.iter().map(String::as_str)).collect()
}

#[test]
fn it_is_made_loaded_and_told_about() {
    let plan =
        plan(&desired([with_git(vec![pushed(&["agent/{sandbox}/*"])])]), &reachable(), &equipped());
    assert_eq!(
        text(&plan),
        "ada gate create not_found\n\
         ada machine create not_found\n\
         ada guest create not_found\n\
         [] -> #0 prepare ada machine\n\
         [0] -> #1 create ada gate\n\
         [1] -> #2 start ada gate\n\
         [0,2] -> #3 load ada gate\n\
         [0] -> #4 create ada machine\n\
         [4] -> #5 start ada machine\n\
         [0,2,3,5] -> #6 provision ada guest"
    );
    let told = "widens: git@git.example/o/app: pushes to agent/ada/*, by SHA256:abc, no KnownHostKey is set, so \
                nothing is sent";
    assert_eq!(notes(&plan), [told]);
    let machine = plan.changes.iter().find(|c| c.resource == ResourceKind::Machine).unwrap();
    assert!(machine.notes.iter().all(|note| !note.contains("not enforced")), "{:?}", machine.notes);
}

#[test]
fn another_policy_is_loaded_hot_and_a_widening_is_marked() {
    let old = with_git(vec![pushed(&["agent/*"])]);
    let observed = converged(std::slice::from_ref(&old));
    assert_eq!(text(&plan(&desired([old]), &observed, &equipped())), "");
    let after =
        |push: &[&str]| plan(&desired([with_git(vec![pushed(push)])]), &observed, &equipped());
    let wider = after(&["agent/*", "main"]);
    assert_eq!(
        text(&wider),
        "ada gate reprovision spec_changed\n\
         ada guest reprovision spec_changed\n\
         [] -> #0 load ada gate\n\
         [0] -> #1 provision ada guest"
    );
    assert!(notes(&wider)[0].starts_with("widens: git@git.example/o/app: pushes to agent/*, main"));
    let gate = wider.changes.iter().find(|c| c.resource == ResourceKind::Gate).unwrap();
    assert_eq!(gate.class, Some(Class::Hot));
    let paths: Vec<&str> = gate.fields.iter().map(|field| field.path.as_str()).collect();
    assert_eq!(paths, ["git.app.push"]);
    // Less is no widening.
    assert!(notes(&after(&[])).is_empty());
    assert!(notes(&after(&["agent/ada"]))[0].contains("agent/ada"));
}

#[test]
fn one_that_was_killed_is_started_and_loaded_and_the_machine_stays() {
    let spec = with_git(vec![pushed(&["agent/*"])]);
    let mut observed = converged(std::slice::from_ref(&spec));
    let gate = observed.instances.iter_mut().find(|i| i.resource == ResourceKind::Gate).unwrap();
    gate.state = InstanceState::Stopped { code: None };
    let again = plan(&desired([spec.clone()]), &observed, &equipped());
    assert_eq!(
        text(&again),
        "ada gate reprovision not_running\n[] -> #0 start ada gate\n[0] -> #1 load ada gate"
    );
    assert!(notes(&again).is_empty());
    let gate = observed.instances.iter_mut().find(|i| i.resource == ResourceKind::Gate).unwrap();
    (gate.state, gate.boot) = (InstanceState::Running, Some("boot-2".to_owned()));
    let again = plan(&desired([spec]), &observed, &equipped());
    assert_eq!(text(&again), "ada gate reprovision hash_missing\n[] -> #0 load ada gate");
}

#[test]
fn it_goes_with_its_section_and_with_its_sandbox() {
    let spec = with_git(vec![pushed(&["agent/*"])]);
    let observed = converged(std::slice::from_ref(&spec));
    let without = plan(&desired([with_git(Vec::new())]), &observed, &equipped());
    assert_eq!(
        text(&without),
        "ada gate teardown not_declared\n\
         ada guest reprovision spec_changed\n\
         [] -> #0 teardown ada gate\n\
         [0] -> #1 provision ada guest"
    );
    let options = Options { remove_all: true, ..equipped() };
    let down = text(&plan(&desired([spec]), &observed, &options));
    assert!(down.contains("teardown ada gate") && down.contains("teardown ada machine"), "{down}");
}

#[test]
fn a_machine_of_before_stays_and_gets_one_beside_it() {
    let spec = with_git(vec![pushed(&["agent/*"])]);
    let mut observed = converged(&[with_git(Vec::new())]);
    let again = plan(&desired([spec.clone()]), &observed, &equipped());
    assert!(!text(&again).contains("machine"), "{}", text(&again));
    assert!(text(&again).contains("create ada gate"), "{}", text(&again));
    let facts = observed.facts.get_mut(&BackendKind::Native).unwrap();
    facts.no_gates = Some("git is not installed here: install it".to_owned());
    let held = text(&plan(&desired([spec]), &observed, &equipped()));
    assert!(held.starts_with("ada machine hold impossible") && !held.contains("->"), "{held}");
}

#[test]
fn where_there_are_none_the_sandbox_is_held() {
    let spec = SandboxSpec {
        backend: BackendChoice::Fixed(BackendKind::Smolmachines),
        image: Some(ImageRef::Registry("busybox:1".to_owned())),
        ..with_git(vec![pushed(&["agent/*"])])
    };
    let mut observed = reachable();
    observed.facts.insert(BackendKind::Smolmachines, BackendFacts::default());
    let held = plan(&desired([spec]), &observed, &equipped());
    assert_eq!(text(&held), "ada machine hold manifest_invalid");
    let Reason::ManifestInvalid { message } = &held.changes[0].reason else { panic!() };
    assert!(message.contains("`git` cannot be had on smolmachines yet"), "{message}");
}

/// `ada` with these upstreams and nothing else, as a tree gives it, there.
fn with_git_alone(backend: BackendKind, image: Option<ImageRef>) -> SandboxSpec {
    let spec = with_git(vec![pushed(&["agent/*"])]);
    SandboxSpec {
        backend: BackendChoice::Fixed(backend),
        image,
        network: Some(NetworkSpec { sandbox: id("ada"), fields: Fields::default(), pool: None }),
        sidecar: Some(SidecarSpec {
            sandbox: id("ada"),
            fields: Fields::default(),
            policy: Arc::new(spec.policy.clone()),
            proxy: None,
        }),
        ..spec
    }
}

#[test]
fn with_docker_a_sidecar_leads_to_it_and_natively_none_is_needed() {
    let image = Some(ImageRef::Registry("busybox:1".to_owned()));
    let docker = with_git_alone(BackendKind::Docker, image);
    let plan = |spec: SandboxSpec| super::plan(&desired([spec]), &reachable(), &equipped());
    let there = plan(docker);
    assert_eq!(
        text(&there),
        "ada network create not_found\n\
         ada sidecar create not_found\n\
         ada gate create not_found\n\
         ada machine create not_found\n\
         ada guest create not_found\n\
         [] -> #0 prepare ada machine\n\
         [0] -> #1 create ada network\n\
         [0,1] -> #2 create ada sidecar\n\
         [2] -> #3 start ada sidecar\n\
         [0,1,3] -> #4 load ada sidecar\n\
         [0] -> #5 create ada gate\n\
         [5] -> #6 start ada gate\n\
         [0,1,3,4,6] -> #7 load ada gate\n\
         [0,1,3] -> #8 create ada machine\n\
         [8] -> #9 start ada machine\n\
         [0,1,3,4,6,7,9] -> #10 provision ada guest"
    );
    let machine = there.changes.iter().find(|c| c.resource == ResourceKind::Machine).unwrap();
    assert!(machine.notes.iter().all(|note| !note.contains("not enforced")), "{:?}", machine.notes);
    let native = text(&plan(with_git_alone(BackendKind::Native, None)));
    assert!(!native.contains("sidecar") && !native.contains("network"), "{native}");
    assert!(native.contains("create ada gate"), "{native}");
}

#[test]
fn what_lets_less_through_waits_for_nothing() {
    let mut spec = with_git(vec![pushed(&["agent/*", "main"])]);
    let observed = converged(std::slice::from_ref(&spec));
    // A token that nobody has, and a machine that cannot be made.
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
    let waits = |upstreams: Vec<GitUpstream>| {
        let mut spec = with_git(upstreams);
        spec.policy.routes.push(route.clone());
        plan(&desired([spec]), &observed, &Options::default())
    };
    let narrower = waits(vec![pushed(&["agent/*"])]);
    assert_eq!(
        text(&narrower),
        "ada machine hold needs_input\n\
         ada gate reprovision spec_changed\n\
         ada guest hold spec_changed\n\
         [] -> #0 load ada gate"
    );
    assert_eq!(narrower.summary().hold, 1);
    assert_eq!(
        text(&waits(Vec::new())),
        "ada machine hold needs_input\n\
         ada gate teardown not_declared\n\
         ada guest hold spec_changed\n\
         [] -> #0 teardown ada gate"
    );
    assert_eq!(text(&waits(vec![pushed(&["agent/*", "main"])])), "ada machine hold needs_input");
    spec.gate = with_git(vec![pushed(&["agent/*"])]).gate;
    spec.resources.disk = Some(1 << 30);
    let mut observed = observed;
    let facts = observed.facts.get_mut(&BackendKind::Native).unwrap();
    facts.no_machines = Some("a setting forbids it".to_owned());
    let held = plan(&desired([spec.clone()]), &observed, &equipped());
    assert!(text(&held).starts_with("ada machine hold impossible"), "{}", text(&held));
    assert!(text(&held).ends_with("[] -> #0 load ada gate"), "{}", text(&held));
    // One that does not run is not started either: nothing passes it.
    let gate = observed.instances.iter_mut().find(|i| i.resource == ResourceKind::Gate).unwrap();
    gate.state = InstanceState::Stopped { code: None };
    let held = text(&plan(&desired([spec]), &observed, &equipped()));
    assert!(!held.contains("->"), "{held}");
}
