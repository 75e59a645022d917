//! What each edit costs, on each backend; and what becomes of machines that an earlier version made.

use super::*;
use crate::model::policy::RouteRole;
use crate::model::{SandboxSpec, SkillFiles};

const BACKENDS: [BackendKind; 3] =
    [BackendKind::Native, BackendKind::Docker, BackendKind::Smolmachines];

/// A sandbox that runs a command, has a value, and reaches the world by a route.
fn working(backend: BackendKind) -> SandboxSpec {
    let route = CredentialRoute {
        path: "/gh/".into(),
        host: "api.github.com".into(),
        port: 443,
        upstream_path: String::new(),
        auth_scheme: AuthScheme::Bearer,
        token_ref: "GH_TOKEN".into(),
        token_from: None,
        roles: Vec::new(),
        expires: None,
    };
    let mut ada = SandboxSpec {
        backend: BackendChoice::Fixed(backend),
        image: Some(ImageRef::Folder { path: "/r".into(), digest: SpecHash::of_bytes(b"r") }),
        env: BTreeMap::from([("LEVEL".to_owned(), "1".to_owned())]),
        policy: Policy { routes: vec![route], ..Policy::default() },
        command: vec!["serve".to_owned()],
        ..spec("ada")
    };
    grant(&mut ada);
    ada
}

/// As resolving does it.
fn grant(ada: &mut SandboxSpec) {
    ada.sidecar = Some(SidecarSpec {
        sandbox: id("ada"),
        fields: Fields::default(),
        policy: ada.policy.clone().into(),
        proxy: None,
    });
}

fn seen(ada: &SandboxSpec) -> Observed {
    let mut observed = converged(std::slice::from_ref(ada));
    let backend = backend_of(ada);
    observed.facts.insert(backend, BackendFacts::default());
    // `converged` writes the receipts of Docker's guests.
    let guest = ada.guest(backend);
    for receipt in observed.receipts.values_mut() {
        if receipt.fields.0.contains_key("prompt") {
            (receipt.guest, receipt.fields) = (Some(guest.hash()), guest.fields());
        }
    }
    observed
}

type Edit = fn(&mut SandboxSpec);

/// What a plan is for the machine and all that belongs to it: the heaviest class, and the actions.
fn cost(plan: &Plan) -> (Option<Class>, String) {
    let class = plan.changes.iter().filter_map(|change| change.class).max();
    let actions: Vec<_> = plan.steps.iter().map(|step| step.action.name()).collect();
    (class, actions.join(" "))
}

fn after(backend: BackendKind, edit: Edit) -> Plan {
    let mut ada = working(backend);
    let observed = seen(&ada);
    assert!(plan(&desired([ada.clone()]), &observed, &equipped()).is_empty(), "{backend}");
    edit(&mut ada);
    grant(&mut ada);
    plan(&desired([ada]), &observed, &equipped())
}

#[test]
fn everyday_edits_replace_nothing() {
    let edits: [(&str, Edit, &str); 7] = [
        ("a value", |a| drop(a.env.insert("LEVEL".into(), "2".into())), "provision"),
        ("a value more", |a| drop(a.env.insert("MORE".into(), "1".into())), "provision"),
        ("a value less", |a| a.env.clear(), "provision"),
        ("a role", |a| a.policy.routes[0].roles = vec![RouteRole::GitInsteadof], "provision"),
        ("the prompt", |a| a.prompt = "Another.".into(), "provision"),
        (
            "a skill",
            |a| drop(a.skills.insert("s".into(), SkillFiles::new(Vec::new()).into())),
            "provision",
        ),
        ("the allowlist", |a| a.policy.egress = Egress::default(), ""),
    ];
    for backend in BACKENDS {
        for (what, edit, actions) in &edits {
            let plan = after(backend, *edit);
            let (class, done) = cost(&plan);
            if !actions.is_empty() {
                assert_eq!(class, Some(Class::Hot), "{backend}, {what}: {:?}", plan.changes);
                assert!(done.ends_with(actions), "{backend}, {what}: {done}");
            }
            let gone = done.contains("create") || done.contains("teardown");
            assert!(!gone && !done.contains("start"), "{backend}, {what}: {done}");
        }
    }
}

#[test]
fn a_role_that_sets_variables_is_hot() {
    for backend in BACKENDS {
        let plan = after(backend, |a| a.policy.routes[0].roles = vec![RouteRole::AnthropicBaseUrl]);
        let guest = plan.changes.iter().find(|c| c.resource == ResourceKind::Guest).unwrap();
        assert_eq!((guest.verdict, guest.class), (Verdict::Reprovision, Some(Class::Hot)));
        let paths: Vec<&str> = guest.fields.iter().map(|field| field.path.as_str()).collect();
        assert!(paths.contains(&"env.ANTHROPIC_BASE_URL"), "{paths:?}");
        assert!(!cost(&plan).1.contains("create"), "{backend}");
    }
}

#[test]
fn limits_change_in_place_where_the_backend_can() {
    let edits: [(&str, Edit); 3] = [
        ("resources.memory", |a| a.resources.memory = 3 << 30),
        ("resources.cpus", |a| a.resources.millicpus = 500),
        ("resources.pids", |a| a.resources.pids = 99),
    ];
    for (path, edit) in edits {
        for backend in [BackendKind::Native, BackendKind::Docker] {
            let plan = after(backend, edit);
            assert_eq!(cost(&plan), (Some(Class::Hot), "adjust".to_owned()), "{backend} {path}");
            let machine = plan.changes.iter().find(|c| !c.fields.is_empty()).unwrap();
            assert_eq!((machine.resource, machine.fields.len()), (ResourceKind::Machine, 1));
            assert_eq!(machine.fields[0].path, path);
            assert_eq!(plan.summary().reprovision, 1);
        }
        let plan = after(BackendKind::Smolmachines, edit);
        assert_eq!(cost(&plan).0, Some(Class::Replace));
        let machine = plan.changes.iter().find(|c| !c.why.is_empty()).unwrap();
        assert_eq!(machine.why, ["smolvm changes the limits of a stopped machine only"]);
    }
}

#[test]
fn another_command_is_a_restart_of_it_and_of_nothing_else() {
    let edits: [(&str, Edit); 4] = [
        ("command", |a| a.command = vec!["other".to_owned()]),
        ("command", |a| a.command.clear()),
        ("restart", |a| a.restart = Restart::Never),
        ("command", |a| (a.command, a.prompt) = (vec!["other".to_owned()], "Another.".into())),
    ];
    for backend in BACKENDS {
        for (path, edit) in &edits {
            let plan = after(backend, *edit);
            assert_eq!(cost(&plan), (Some(Class::Restart), "provision".to_owned()), "{backend}");
            let guest = plan.changes.iter().find(|c| c.class.is_some()).unwrap();
            assert_eq!(guest.resource, ResourceKind::Guest);
            assert!(guest.fields.iter().any(|field| field.path == *path), "{:?}", guest.fields);
        }
        // What waits for a value from now on runs on.
        let mut ada = working(backend);
        let observed = seen(&ada);
        ada.asked_env.insert("GH_TOKEN".to_owned());
        let options = Options {
            values: BTreeMap::from([("GH_TOKEN".to_owned(), "digest".to_owned())]),
            ..equipped()
        };
        let plan = plan(&desired([ada]), &observed, &options);
        assert_eq!(cost(&plan), (Some(Class::Hot), "provision".to_owned()), "{:?}", plan.changes);
    }
}

#[test]
fn a_replace_says_why_it_takes_a_new_machine() {
    let edits: [(&str, Edit); 4] = [
        ("the image is what a machine is made from", |a| {
            a.image =
                Some(ImageRef::Tar { path: "/x.tar".into(), digest: SpecHash::of_bytes(b"x") })
        }),
        ("the owner of its files is set when a machine is made", |a| a.user = Some("me".into())),
        ("a disk's size is set when a machine is made", |a| a.resources.disk = Some(1 << 30)),
        ("this variable is set when a machine is made", |a| {
            a.env.insert("HOME".into(), "/work".into());
        }),
    ];
    for backend in BACKENDS {
        for (why, edit) in &edits {
            let plan = after(backend, *edit);
            let machine =
                plan.changes.iter().find(|c| c.resource == ResourceKind::Machine).unwrap();
            assert_eq!((machine.verdict, machine.class), (Verdict::Replace, Some(Class::Replace)));
            assert_eq!(machine.why, [*why], "{backend}: {:?}", machine.fields);
        }
    }
}

#[test]
fn limits_of_a_machine_that_stopped_are_set_before_it_starts() {
    let mut ada = working(BackendKind::Native);
    let mut observed = seen(&ada);
    for instance in &mut observed.instances {
        if instance.resource == ResourceKind::Machine {
            instance.state = InstanceState::Stopped { code: None };
        }
    }
    ada.resources.memory = 1 << 30;
    let plan = plan(&desired([ada]), &observed, &equipped());
    let at = |action: &str| plan.steps.iter().find(|step| step.action.name() == action).unwrap();
    assert!(at("start").after.contains(&at("adjust").id), "{:?}", plan.steps);
    // What cannot be limited is brought up to date all the same.
    assert!(!at("provision").after.contains(&at("adjust").id));
    assert_eq!(plan.changes[0].class, None, "what does not run has nothing to lose");
}

#[test]
fn a_limit_that_was_changed_from_outside_is_set_as_it_is_wanted_now() {
    let mut ada = working(BackendKind::Docker);
    let mut observed = seen(&ada);
    let field = |from: &str, to: &str| FieldChange {
        path: "resources.memory".into(),
        from: Some(from.into()),
        to: Some(to.into()),
    };
    observed.instances.iter_mut().for_each(|instance| {
        if instance.resource == ResourceKind::Machine {
            instance.mendable = vec![field("4G", "2G")];
        }
    });
    let mended = plan(&desired([ada.clone()]), &observed, &equipped());
    assert_eq!(cost(&mended), (Some(Class::Hot), "mend".to_owned()));
    ada.resources.memory = 1 << 30;
    let both = plan(&desired([ada]), &observed, &equipped());
    assert_eq!(cost(&both), (Some(Class::Hot), "mend adjust".to_owned()));
    let machine = both.changes.iter().find(|c| !c.fields.is_empty()).unwrap();
    assert_eq!(machine.fields, [field("2G", "1G")]);
}

/// What an earlier version wrote on the machine of `ada`: it hashed all of it, its values too.
fn of_an_earlier_version(observed: &mut Observed, ada: &SandboxSpec) {
    let found = observed.instances.iter_mut().find(|i| i.resource == ResourceKind::Machine);
    let found = found.unwrap();
    let guest = ada.guest(found.backend);
    for (name, value) in &guest.env {
        found.fields.set(format!("env.{name}"), value.clone());
    }
    found.fields.0.extend(guest.main.unwrap().fields().0);
    found.hash = Some(found.fields.hash("bottle.machine.v1"));
    assert_ne!(found.hash, Some(ada.machine(found.backend).unwrap().hash()));
    without_main(observed, ada);
}

/// What the version before this one wrote: values and limits are no part of the hash, the command is.
fn of_the_version_before(observed: &mut Observed, ada: &SandboxSpec) {
    let found = observed.instances.iter_mut().find(|i| i.resource == ResourceKind::Machine);
    let found = found.unwrap();
    found.fields.0.extend(ada.guest(found.backend).main.unwrap().fields().0);
    let mut made = found.fields.clone();
    made.0.retain(|path, _| !change::is_hot_limit(found.backend, path));
    found.hash = Some(made.hash("bottle.machine.v1"));
    without_main(observed, ada);
}

/// Their supervisors read no command.
fn without_main(observed: &mut Observed, ada: &SandboxSpec) {
    let guest = GuestSpec { main: None, ..ada.guest(backend_of(ada)) };
    for receipt in observed.receipts.values_mut() {
        if receipt.fields.0.contains_key("prompt") {
            (receipt.guest, receipt.fields) = (Some(guest.hash()), guest.fields());
        }
    }
}

#[test]
fn a_command_that_an_earlier_version_built_in_takes_a_new_machine_to_change() {
    for backend in BACKENDS {
        for made in [of_an_earlier_version, of_the_version_before] {
            let ada = working(backend);
            let mut observed = seen(&ada);
            made(&mut observed, &ada);
            let same = plan(&desired([ada.clone()]), &observed, &equipped());
            assert!(same.is_empty(), "{backend}: {:?}", same.changes);
            let edits: [Edit; 3] = [
                |a| a.command = vec!["other".to_owned()],
                |a| a.restart = Restart::Never,
                |a| a.command.clear(),
            ];
            for edit in edits {
                let mut other = ada.clone();
                edit(&mut other);
                let plan = plan(&desired([other]), &observed, &equipped());
                let of_machine = |c: &&Change| c.resource == ResourceKind::Machine;
                let machine = plan.changes.iter().find(of_machine).unwrap();
                assert_eq!(machine.verdict, Verdict::Replace, "{backend}");
                assert_eq!(machine.why, ["an earlier version of bottle built its command in"]);
            }
            // Whatever else changes does so in place, and the supervisor is told nothing that it cannot hear.
            let other = SandboxSpec { prompt: "Another.".into(), ..ada.clone() };
            let hot = plan(&desired([other]), &observed, &equipped());
            assert_eq!(cost(&hot), (Some(Class::Hot), "provision".to_owned()), "{backend}");
            let told = |step: &Step| match &step.action {
                Action::Provision { guest, .. } => guest.main.is_some(),
                _ => false,
            };
            assert!(!hot.steps.iter().any(told), "{backend}");
        }
        // One that idles would not hear of a command either.
        let idle = SandboxSpec { command: Vec::new(), ..working(backend) };
        let mut observed = seen(&idle);
        of_the_version_before(&mut observed, &idle);
        let busy = plan(&desired([working(backend)]), &observed, &equipped());
        assert_eq!(cost(&busy).0, Some(Class::Replace), "{backend}");
    }
}

#[test]
fn a_machine_that_an_earlier_version_made_stays() {
    for backend in BACKENDS {
        let ada = working(backend);
        let mut observed = seen(&ada);
        of_an_earlier_version(&mut observed, &ada);
        let same = plan(&desired([ada.clone()]), &observed, &equipped());
        assert!(same.is_empty(), "{backend}: {:?}", same.changes);
        // And is no other machine for being old.
        let other = SandboxSpec { user: Some("me".into()), ..ada.clone() };
        let other = plan(&desired([other]), &observed, &equipped());
        assert_eq!(cost(&other).0, Some(Class::Replace), "{backend}");
        // A hash that its fields do not have says nothing.
        let found = observed.instances.iter_mut().find(|i| i.resource == ResourceKind::Machine);
        found.unwrap().fields.set("image", "another");
        let damaged = plan(&desired([ada]), &observed, &equipped());
        assert_eq!(cost(&damaged).0, Some(Class::Replace), "{backend}");
    }
}

/// Its fields are no longer those of its first hash.
#[test]
fn a_machine_that_an_earlier_version_made_stays_when_its_limits_were_changed() {
    for backend in [BackendKind::Native, BackendKind::Docker] {
        let mut ada = working(backend);
        let mut observed = seen(&ada);
        of_an_earlier_version(&mut observed, &ada);
        ada.resources.memory = 1 << 30;
        let plan_of = |observed: &Observed| plan(&desired([ada.clone()]), observed, &equipped());
        assert_eq!(cost(&plan_of(&observed)), (Some(Class::Hot), "adjust".to_owned()));
        let found = observed.instances.iter_mut().find(|i| i.resource == ResourceKind::Machine);
        let found = found.unwrap();
        let limits = ada.resources.fields();
        let (hash, fields) = change::adjusted(backend, found.hash.unwrap(), &found.fields, &limits);
        (found.hash, found.fields) = (Some(hash), fields);
        assert!(plan_of(&observed).is_empty(), "{backend}");
    }
}

#[test]
fn a_value_that_an_earlier_version_built_in_does_not_show_through() {
    for backend in BACKENDS {
        let idle = SandboxSpec { command: Vec::new(), ..working(backend) };
        let mut observed = seen(&idle);
        of_an_earlier_version(&mut observed, &idle);
        let without = SandboxSpec { env: BTreeMap::new(), ..idle.clone() };
        let plan = plan(&desired([without]), &observed, &equipped());
        assert_eq!(cost(&plan).0, Some(Class::Hot), "{backend}");
        let unset: Vec<_> = plan
            .steps
            .iter()
            .filter_map(|step| match &step.action {
                Action::Provision { guest, .. } => Some(guest.unset.clone()),
                _ => None,
            })
            .collect();
        assert_eq!(unset, [BTreeSet::from(["LEVEL".to_owned()])], "{backend}");
    }
}

/// Its supervisor starts the command without what was put in later.
#[test]
fn a_command_does_not_keep_a_value_that_an_earlier_version_built_in() {
    for backend in BACKENDS {
        let mut ada = working(backend);
        let mut observed = seen(&ada);
        of_an_earlier_version(&mut observed, &ada);
        ada.env.insert("LEVEL".into(), "2".into());
        let plan = plan(&desired([ada]), &observed, &equipped());
        let machine = plan.changes.iter().find(|c| c.resource == ResourceKind::Machine).unwrap();
        assert_eq!(machine.verdict, Verdict::Replace, "{backend}");
        assert_eq!(machine.why, ["an earlier version of bottle built its values in"]);
    }
}
