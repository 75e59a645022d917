//! What is not known is left alone, what is asked for comes whole, and a verdict is a machine's.

use super::*;
use crate::model::{SandboxSpec, Workspace, WorkspaceMode};

fn unreadable() -> InstanceState {
    InstanceState::Unknown("/state/ada/machine.json is damaged: it is empty".to_owned())
}

fn of<'a>(plan: &'a Plan, name: &str) -> &'a Change {
    plan.changes.iter().find(|change| change.sandbox == id(name)).unwrap()
}

#[test]
fn what_cannot_be_read_is_held_until_it_is_given_up_by_name() {
    let both = [spec("ada"), spec("bob")];
    let mut observed = converged(&both);
    for instance in observed.instances.iter_mut().filter(|i| i.sandbox == id("ada")) {
        (instance.hash, instance.state) = (None, unreadable());
    }
    let ada_is_gone = desired([spec("bob")]);
    for desired in [&desired(both.clone()), &ada_is_gone] {
        let held = plan(desired, &observed, &Options::default());
        assert!(held.is_empty(), "{held:?}");
        let change = of(&held, "ada");
        assert_eq!(change.verdict, Verdict::Hold);
        let Reason::Unreadable { what } = &change.reason else { panic!("{change:?}") };
        assert!(what.contains("/state/ada/machine.json"), "{what}");
        assert_eq!(held.summary().hold, 1);
        // Another's name gives nothing up, and neither does a permit for removals.
        let options = Options {
            replace_unknown: BTreeSet::from([id("bob")]),
            allow_teardown: AllowTeardown::All,
            ..Options::default()
        };
        assert!(plan(desired, &observed, &options).is_empty());
    }
    let given_up = Options { replace_unknown: BTreeSet::from([id("ada")]), ..Options::default() };
    let anew = plan(&desired(both.clone()), &observed, &given_up);
    assert_eq!(of(&anew, "ada").verdict, Verdict::Replace);
    assert_eq!(plan(&ada_is_gone, &observed, &given_up).summary().teardown, 1);
    // `down` is the order to remove it.
    let down = Options { remove_all: true, ..Options::default() };
    assert_eq!(plan(&desired(both), &observed, &down).summary().teardown, 2);
}

#[test]
fn a_folder_that_nothing_remembers_is_not_swapped() {
    let mounting = |path: &str| {
        let path = std::path::PathBuf::from(path);
        let mode = WorkspaceMode::Mount;
        let workspace = Some(Workspace { path, mode, target: "/workspace".to_owned() });
        SandboxSpec { workspace, ..spec("ada") }
    };
    let made = mounting("/w/sub");
    let mut observed = converged(std::slice::from_ref(&made));
    assert!(observed.accepted.is_empty());
    let other = desired([mounting("/hostonly")]);
    let held = plan(&other, &observed, &Options::default());
    assert!(held.is_empty(), "{held:?}");
    let Reason::Unreadable { what } = &of(&held, "ada").reason else { panic!("{held:?}") };
    assert!(what.contains("/w/sub") && what.contains("/hostonly"), "{what}");
    let given_up = Options { replace_unknown: BTreeSet::from([id("ada")]), ..Options::default() };
    assert_eq!(of(&plan(&other, &observed, &given_up), "ada").verdict, Verdict::Replace);
    // With a record that this text is not in, another text is what the operator wrote.
    observed.accepted.insert(id("ada"), Vec::new());
    assert_eq!(of(&plan(&other, &observed, &Options::default()), "ada").verdict, Verdict::Replace);
    observed.accepted.clear();
    assert!(plan(&desired([made]), &observed, &Options::default()).is_empty());
}

#[test]
fn no_plan_delivers_a_part_of_the_values() {
    let names = ["A", "B", "C"];
    let mut ada = spec("ada");
    ada.asked_env = names.map(str::to_owned).into();
    ada.command = vec!["run".to_owned()];
    let wanted = desired([ada.clone()]);
    // Every receipt that could be: each value absent, inside, cut short, or of an older digest; of
    // this run, of another, of none; what was put in known, changed, or not known.
    for told in 0..4_usize.pow(3) {
        let digests = [None, Some("d"), Some(""), Some("older")];
        let env: BTreeMap<String, String> = (0..3_u32)
            .filter_map(|n| Some((names[n as usize], digests[told / 4_usize.pow(n) % 4]?)))
            .map(|(name, digest)| (name.to_owned(), digest.to_owned()))
            .collect();
        for boot in [Some("boot-1"), Some("boot-0"), None] {
            for known in [
                Some(ada.guest(BackendKind::Docker).hash()),
                Some(SpecHash::of_bytes(b"older")),
                None,
            ] {
                let mut observed = converged(std::slice::from_ref(&ada));
                for receipt in observed.receipts.values_mut() {
                    receipt.env.clone_from(&env);
                    (receipt.boot, receipt.guest) = (boot.map(str::to_owned), known);
                }
                for at_hand in 0..8_u32 {
                    let here = |n: usize| at_hand >> n & 1 == 1;
                    let values = (0..3).filter(|n| here(*n));
                    let values = values.map(|n| (names[n].to_owned(), "d".to_owned())).collect();
                    let options = Options { values, ..Options::default() };
                    let plan = plan(&wanted, &observed, &options);
                    let context = format!("{env:?} {boot:?} {known:?} {at_hand:b}");
                    for step in &plan.steps {
                        let Action::Provision { deliver, .. } = &step.action else { continue };
                        let inside = |name: &String| {
                            boot == Some("boot-1")
                                && env.get(name).is_some_and(|digest| !digest.is_empty())
                        };
                        let whole =
                            ada.asked_env.iter().all(|name| deliver.contains(name) || inside(name));
                        assert!(deliver.is_empty() || whole, "{context}: {deliver:?}");
                    }
                    // Where one is neither inside nor at hand, the sandbox says which it waits for.
                    let waits = (0..3).filter(|n| {
                        let kept = env.get(names[*n]).is_some_and(|digest| !digest.is_empty());
                        !(here(*n) || boot == Some("boot-1") && kept)
                    });
                    let waits: BTreeSet<&str> = waits.map(|n| names[n]).collect();
                    assert_eq!(plan.missing_input(), waits, "{context}");
                }
            }
        }
    }
}

#[test]
fn the_verdict_of_a_sandbox_is_its_machines() {
    let at = Some(BackendKind::Docker);
    let change = |resource, verdict, reason| Change {
        sandbox: id("ada"),
        resource,
        backend: at,
        verdict,
        reason,
        class: None,
        why: Vec::new(),
        fields: Vec::new(),
        keeps: None,
        loses: None,
        work: None,
        notes: Vec::new(),
    };
    let file = || Reason::NotDeclared { file: "agents/ada.md".to_owned() };
    let machine = |verdict| change(ResourceKind::Machine, verdict, Reason::UpToDate);
    let sidecar = |verdict| change(ResourceKind::Sidecar, verdict, file());
    let keeps = Reason::Duplicate { keeps: "x".to_owned() };
    let twin = change(ResourceKind::Machine, Verdict::Teardown, keeps);
    for (changes, verdict) in [
        (vec![machine(Verdict::Keep), sidecar(Verdict::Teardown)], Verdict::Reprovision),
        (vec![machine(Verdict::Replace), sidecar(Verdict::Teardown)], Verdict::Replace),
        (vec![machine(Verdict::Create), sidecar(Verdict::Replace)], Verdict::Create),
        (vec![machine(Verdict::Keep), sidecar(Verdict::Keep)], Verdict::Keep),
        (vec![twin, machine(Verdict::Keep)], Verdict::Reprovision),
        (vec![sidecar(Verdict::Teardown)], Verdict::Teardown),
    ] {
        assert_eq!(verdict_of(&changes.iter().collect::<Vec<_>>()), verdict, "{changes:?}");
    }
}

#[test]
fn what_goes_on_another_backend_is_said() {
    let mut ada = spec("ada");
    ada.image = Some(ImageRef::Tar { path: "/i.tar".into(), digest: SpecHash::of_bytes(b"image") });
    let mut observed = converged(std::slice::from_ref(&ada));
    let elsewhere = ResourceSpec::Machine(ada.machine(BackendKind::Native).unwrap());
    let mut twin = instance(&elsewhere, BackendKind::Native);
    twin.id = InstanceId("twin".to_owned());
    observed.instances.push(twin);
    let plan = plan(&desired([ada]), &observed, &Options::default());
    assert_eq!(plan.steps.len(), 1, "{:?}", plan.steps);
    let gone = plan.changes.iter().find(|change| change.verdict == Verdict::Teardown).unwrap();
    assert_eq!(gone.backend, Some(BackendKind::Native));
    assert_eq!(gone.reason, Reason::Elsewhere { on: BackendKind::Docker });
}

#[test]
fn an_image_goes_with_all_that_stood_on_it() {
    let digest = SpecHash::of_bytes(b"image");
    let mut ada = spec("ada");
    ada.image = Some(ImageRef::Tar { path: "/i.tar".into(), digest });
    let mut observed = converged(std::slice::from_ref(&ada));
    observed.leftovers.push(Leftover {
        backend: BackendKind::Docker,
        kind: LeftoverKind::Image,
        id: InstanceId("image".to_owned()),
        name: "image".to_owned(),
        digest: Some(digest),
    });
    let wanted = desired([ada]);
    assert!(plan(&wanted, &observed, &Options::default()).is_empty());
    let down = Options { remove_all: true, ..Options::default() };
    let actions: Vec<_> =
        plan(&wanted, &observed, &down).steps.iter().map(|step| step.action.name()).collect();
    assert_eq!(actions, ["teardown", "prune"]);
}

#[test]
fn a_sidecar_is_made_where_the_machine_is_and_not_where_another_goes() {
    let ada = with_policy("one.example", false);
    let mut observed = converged(std::slice::from_ref(&ada));
    let here = backend_of(&ada);
    let there = BackendKind::Native;
    assert_ne!(here, there);
    let sidecar = ResourceSpec::Sidecar(ada.sidecar(there).unwrap().clone());
    observed.instances.retain(|found| found.resource != ResourceKind::Sidecar);
    let mut stray = instance(&sidecar, there);
    stray.id = InstanceId("stray".to_owned());
    observed.instances.push(stray);
    let plan = plan(&desired([ada]), &observed, &equipped());
    let at = |wanted: &str| {
        let step = plan.steps.iter().find(|step| step.action.name() == wanted);
        step.unwrap_or_else(|| panic!("{wanted}: {:?}", plan.steps)).backend
    };
    assert_eq!((at("teardown"), at("create")), (there, here));
}

#[test]
fn a_ca_that_is_lost_holds_what_runs_and_trusts_it() {
    let ada = with_policy("one.example", false);
    let lost = BTreeMap::from([(id("ada"), "/state/ca/ada.json is damaged".to_owned())]);
    let options = Options { cas: BTreeMap::new(), lost_cas: lost, ..equipped() };
    let wanted = desired([ada.clone()]);
    let observed = converged(std::slice::from_ref(&ada));
    let held = plan(&wanted, &observed, &options);
    assert_eq!(text(&held), "ada machine hold unreadable");
    // Given up, it is a new machine with a new CA.
    let given_up = Options { replace_unknown: BTreeSet::from([id("ada")]), ..options.clone() };
    let anew = plan(&wanted, &observed, &given_up);
    assert_eq!(of(&anew, "ada").verdict, Verdict::Replace);
    assert!(of(&anew, "ada").why[0].contains("certificate authority"), "{anew:?}");
    // Nothing runs that trusts it, nothing does yet, and nothing is to: none of these is held.
    let mut stopped = observed.clone();
    let mut untold = observed.clone();
    for instance in &mut stopped.instances {
        instance.state = InstanceState::Stopped { code: Some(0) };
    }
    untold.receipts.values_mut().for_each(|receipt| receipt.ca = None);
    let without = desired([spec("ada")]);
    for (wanted, observed) in [(&wanted, &stopped), (&wanted, &untold), (&without, &observed)] {
        let plan = plan(wanted, observed, &options);
        assert!(!plan.is_empty() && plan.summary().hold == 0, "{}", text(&plan));
    }
}
