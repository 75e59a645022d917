//! Sandboxes that were renamed.

use super::*;
use crate::model::{Places, Stopped, Was};
use crate::plan::renames::{Known, resolve};

fn was(name: &str, old: &str) -> (SandboxId, Was) {
    let place = crate::model::Place { file: format!("agents/{name}.md"), line: 3, column: 6 };
    (id(name), Was { name: id(old), overlay: None, place })
}

fn known() -> Known {
    Known { was: true, ..Known::default() }
}

/// The plan for what is seen, and where each sandbox is.
fn planned(
    mut desired: Desired,
    mut observed: Observed,
    known: &Known,
    options: &Options,
) -> (Plan, Observed, Places) {
    let places = resolve(&mut desired, &mut observed, known);
    (plan(&desired, &observed, options), observed, places)
}

fn machine<'a>(plan: &'a Plan, name: &str) -> &'a Change {
    let of = |c: &&Change| c.sandbox == id(name) && c.resource == ResourceKind::Machine;
    plan.changes.iter().find(of).expect("it has a machine")
}

fn actions(plan: &Plan) -> Vec<&'static str> {
    plan.steps.iter().map(|step| step.action.name()).collect()
}

/// Its host name stays, and so does all that says it.
#[test]
fn with_a_sidecar_it_is_nothing_but_a_rename_either() {
    let connected = |name: &str| {
        let policy = with_policy("example.com", false);
        let sidecar = policy.sidecar.clone().map(|own| SidecarSpec { sandbox: id(name), ..own });
        crate::model::SandboxSpec { sidecar, policy: policy.policy, ..spec(name) }
    };
    let mut tree = desired([connected("grace")]);
    tree.was.extend([was("grace", "linus")]);
    let seen = converged(&[connected("linus")]);
    let cas = BTreeMap::from([(id("grace"), CA.to_owned())]);
    let (plan, ..) = planned(tree, seen, &known(), &Options { cas, ..equipped() });
    assert_eq!(actions(&plan), ["rename"]);
    let env = connected("linus").guest(BackendKind::Docker).env;
    assert!(env["NO_PROXY"].split(',').any(|name| name == "linus"), "{env:?}");
}

#[test]
fn a_renamed_one_is_nothing_but_a_rename() {
    let mut tree = desired([spec("grace")]);
    tree.was.extend([was("grace", "linus")]);
    let mut seen = converged(&[spec("linus")]);
    seen.stopped.insert(id("linus"), Stopped { since: 1 });
    let (_, observed, places) = planned(tree.clone(), seen.clone(), &known(), &Options::default());
    assert!(observed.stopped.contains_key(&id("grace")));
    assert_eq!(places.of(&id("grace")), &id("linus"));
    seen.stopped.clear();
    let (plan, observed, _) = planned(tree.clone(), seen.clone(), &known(), &Options::default());
    assert_eq!(actions(&plan), ["rename"]);
    let change = machine(&plan, "grace");
    assert_eq!((change.verdict, change.class), (Verdict::Reprovision, Some(Class::Hot)));
    assert_eq!(change.reason, Reason::Renamed { was: id("linus") });
    assert_eq!(plan.summary().reprovision, 1);
    assert!(observed.instances.iter().all(|i| i.place == Some(id("linus"))));
    // With anything else, that comes after it.
    let other = ImageRef::Registry("busybox:2".to_owned());
    tree.sandboxes.get_mut(&id("grace")).unwrap().image = Some(other);
    let (plan, ..) = planned(tree.clone(), seen.clone(), &known(), &Options::default());
    assert_eq!(actions(&plan)[0], "rename");
    let (undo, rest): (Vec<&Step>, Vec<&Step>) =
        plan.steps[1..].iter().partition(|step| !step.undoes.is_empty());
    assert!(rest.iter().all(|step| step.after.contains(&0)), "{:?}", plan.steps);
    // The way back is taken where something fails, and not because the rename is done.
    let way: BTreeSet<StepId> = undo.iter().map(|step| step.id).collect();
    assert_eq!(way.len(), 3, "{:?}", plan.steps);
    assert!(undo.iter().all(|step| step.after.is_subset(&way)), "{:?}", plan.steps);
    let change = machine(&plan, "grace");
    assert_eq!(change.why, ["the image is what a machine is made from"]);
    assert_eq!(change.fields[0].path, "name");
    // Nothing of it where it waits, is suspended, or all goes.
    tree.sandboxes.get_mut(&id("grace")).unwrap().suspend = true;
    let (plan, ..) = planned(tree.clone(), seen.clone(), &known(), &Options::default());
    assert_eq!((actions(&plan).len(), machine(&plan, "grace").verdict), (0, Verdict::Keep));
    let down = Options { remove_all: true, ..Options::default() };
    let (plan, ..) = planned(tree, seen, &Known::default(), &down);
    assert_eq!(machine(&plan, "linus").verdict, Verdict::Teardown);
}

#[test]
fn it_says_nothing_once_none_of_that_name_exists() {
    let mut tree = desired([spec("grace")]);
    tree.was.extend([was("grace", "linus")]);
    let seen = converged(&[spec("grace")]);
    let known = Known {
        places: {
            let mut at = Places::default();
            at.rename(&id("linus"), &id("grace"));
            at
        },
        ..known()
    };
    let (plan, observed, places) = planned(tree, seen, &known, &Options::default());
    assert!(plan.is_empty() && observed.renames.is_empty());
    assert_eq!(places, known.places);
}

#[test]
fn both_at_once_are_held() {
    let mut tree = desired([spec("grace")]);
    tree.was.extend([was("grace", "linus")]);
    let seen = converged(&[spec("grace"), spec("linus")]);
    let (plan, ..) = planned(tree, seen, &known(), &Options::default());
    assert!(plan.is_empty(), "{:?}", plan.steps);
    for name in ["grace", "linus"] {
        let change = machine(&plan, name);
        assert_eq!(change.verdict, Verdict::Hold, "{name}");
        let Reason::ManifestInvalid { message } = &change.reason else { panic!("{change:?}") };
        assert!(message.starts_with("agents/grace.md"), "{message}");
    }
}

/// A project's agent takes over nothing that the tree made.
#[test]
fn an_overlay_takes_nothing_of_the_trees() {
    let mut tree = desired([spec("grace")]);
    let (name, said) = was("grace", "linus");
    tree.was.insert(name, Was { overlay: Some("/p/.bottle".to_owned()), ..said });
    tree.overlays.insert("/p/.bottle".to_owned());
    let (plan, ..) = planned(tree, converged(&[spec("linus")]), &known(), &Options::default());
    assert!(plan.is_empty(), "{:?}", plan.steps);
    assert_eq!(machine(&plan, "linus").verdict, Verdict::Hold);
}

#[test]
fn what_was_begun_goes_on_whatever_the_tree_says() {
    let mut places = Places::default();
    places.rename(&id("linus"), &id("grace"));
    let begun = BTreeMap::from([(id("grace"), id("linus"))]);
    let known = Known { places: places.clone(), begun, was: true };
    let mut seen = converged(&[spec("linus")]);
    places.assign(&mut seen.instances);
    let (plan, observed, at) =
        planned(desired([spec("grace")]), seen.clone(), &known, &Options::default());
    assert_eq!((actions(&plan), at), (vec!["rename"], places));
    assert!(observed.receipts.values().all(|receipt| receipt.sandbox == id("grace")));
    // It is gone by now: what is left of it goes under its new name.
    let gone = desired([spec("ada")]);
    let (plan, ..) = planned(gone, seen, &known, &Options::default());
    assert_eq!(machine(&plan, "grace").verdict, Verdict::Teardown);
    let mut of_it = plan.steps.iter().filter(|step| step.sandbox == Some(id("grace")));
    assert_eq!(of_it.next().unwrap().action.name(), "rename", "it ends with it");
}

#[test]
fn who_takes_a_begun_rename_back_has_what_there_was() {
    let begun = BTreeMap::from([(id("grace"), id("linus"))]);
    let mut places = Places::default();
    places.rename(&id("linus"), &id("grace"));
    let known = Known { places: places.clone(), begun, was: true };
    // Its records may have gone to the new name, or not yet.
    for receipts_moved in [true, false] {
        let mut seen = converged(&[spec("linus")]);
        places.assign(&mut seen.instances);
        for receipt in seen.receipts.values_mut().filter(|_| receipts_moved) {
            receipt.sandbox = id("grace");
        }
        // With a word of it in the file, and without.
        for said in [false, true] {
            let mut tree = desired([spec("linus")]);
            tree.was.extend(said.then(|| was("linus", "grace")));
            let (plan, observed, at) = planned(tree, seen.clone(), &known, &Options::default());
            assert_eq!(actions(&plan), ["rename"], "{receipts_moved} {said}");
            assert_eq!(plan.steps[0].sandbox, Some(id("linus")));
            assert!(at.is_empty(), "it is under its own name");
            assert!(observed.receipts.values().all(|receipt| receipt.sandbox == id("linus")));
        }
    }
}

#[test]
fn one_made_since_under_the_old_name_is_its_own() {
    let begun = BTreeMap::from([(id("grace"), id("linus"))]);
    let mut places = Places::default();
    places.rename(&id("linus"), &id("grace"));
    places.settle_at(&id("linus"), &id("linus-2"));
    let known = Known { places: places.clone(), begun, was: true };
    let mut seen = converged(&[spec("grace"), spec("linus")]);
    for instance in &mut seen.instances {
        let place = if instance.sandbox == id("grace") { "linus" } else { "linus-2" };
        instance.sandbox = id(place);
    }
    places.assign(&mut seen.instances);
    let tree = desired([spec("grace"), spec("linus")]);
    let (plan, observed, _) = planned(tree, seen, &known, &Options::default());
    assert_eq!(actions(&plan), ["rename"]);
    assert_eq!(plan.steps[0].sandbox, Some(id("grace")));
    let mut whose: Vec<_> = observed.receipts.values().map(|r| r.sandbox.to_string()).collect();
    whose.sort();
    assert_eq!(whose, ["grace", "linus"]);
}

#[test]
fn a_file_that_was_only_renamed_is_hinted_at() {
    let gone = || converged(&[spec("linus"), spec("ken")]);
    let notes = |tree: Desired| {
        let (plan, ..) = planned(tree, gone(), &known(), &Options::default());
        machine(&plan, "linus").notes.join(" ")
    };
    assert!(notes(desired([spec("grace"), spec("ken")])).contains("add `was: linus`"));
    let other = crate::model::SandboxSpec { prompt: "Another.".into(), ..spec("grace") };
    assert_eq!(notes(desired([other, spec("ken")])), "");
    assert_eq!(notes(desired([spec("grace"), spec("joe"), spec("ken")])), "", "which of two?");
    assert_eq!(notes(desired([spec("grace")])), "", "two go");
}
