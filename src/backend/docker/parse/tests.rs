use bollard::models::{ContainerSummaryNetworkSettings, EndpointSettings, MountPoint};

use super::*;
use crate::backend::docker::labels::tests::{machine, scope, set};
use crate::backend::label;
use crate::model::{ImageRef, SpecHash, Workspace, WorkspaceMode};

fn listed(name: &str, spec: &crate::model::MachineSpec) -> ContainerSummary {
    let endpoint =
        EndpointSettings { endpoint_id: Some("e1".into()), ..EndpointSettings::default() };
    ContainerSummary {
        id: Some("c1".into()),
        names: Some(vec!["/other/link".into(), format!("/{name}")]),
        image: Some("node:22".into()),
        labels: Some(labels::of_machine(&scope(), spec, &set())),
        state: Some(ContainerSummaryStateEnum::RUNNING),
        created: Some(7),
        network_settings: Some(ContainerSummaryNetworkSettings {
            networks: Some([("none".to_owned(), endpoint)].into()),
        }),
        ..ContainerSummary::default()
    }
}

fn ada() -> ContainerSummary {
    listed("bottle-team-ada", &machine("ada"))
}

fn instance(found: ContainerSummary) -> Option<Instance> {
    own(&scope(), found)
}

#[test]
fn a_running_machine_is_read() {
    let found = instance(ada()).unwrap();
    assert_eq!(found.name, "bottle-team-ada");
    assert_eq!((found.sandbox.as_str(), found.resource), ("ada", ResourceKind::Machine));
    assert_eq!((found.ownership, found.state), (Ownership::Ours, InstanceState::Running));
    assert_eq!(found.hash, Some(machine("ada").hash()));
    assert_eq!(found.fields, machine("ada").fields());
    assert_eq!((found.boot.as_deref(), found.created), (Some("e1"), Some(7)));
    assert_eq!(found.drift, []);
}

#[test]
fn states_carry_their_exit_codes() {
    use ContainerSummaryStateEnum as State;
    let read = |state, status: &str| {
        let found = ContainerSummary { state: Some(state), status: Some(status.into()), ..ada() };
        let found = instance(found).unwrap();
        assert_eq!(found.boot.is_some(), matches!(found.state, InstanceState::Paused));
        found.state
    };
    assert_eq!(
        read(State::EXITED, "Exited (143) 5 s ago"),
        InstanceState::Stopped { code: Some(143) }
    );
    assert_eq!(read(State::RESTARTING, "Restarting (1)"), InstanceState::Stopped { code: Some(1) });
    assert_eq!(read(State::EXITED, "?"), InstanceState::Stopped { code: None });
    assert_eq!(read(State::PAUSED, "Up 2 s (Paused)"), InstanceState::Paused);
    assert_eq!(read(State::CREATED, "Created"), InstanceState::Created);
    assert!(matches!(read(State::DEAD, "Dead"), InstanceState::Broken(_)));
    assert!(matches!(read(State::REMOVING, ""), InstanceState::Broken(_)));
}

#[test]
fn a_stranger_in_our_place_is_foreign_and_elsewhere_nothing() {
    let mut found = ada();
    found.labels = Some([("a".to_owned(), "b".to_owned())].into());
    let stranger = instance(found.clone()).unwrap();
    assert_eq!((stranger.sandbox.as_str(), stranger.ownership), ("ada", Ownership::Foreign));
    assert_eq!((stranger.hash, stranger.drift.len()), (None, 0));
    found.names = Some(vec!["/web".into()]);
    assert!(instance(found.clone()).is_none());
    found.names = Some(vec!["/bottle-team-NotAName".into()]);
    assert!(instance(found).is_none());
    let mut other_owner = ada();
    other_owner.labels.as_mut().unwrap().insert(label::OWNER.into(), "team-b".into());
    assert_eq!(instance(other_owner).unwrap().ownership, Ownership::Foreign);
}

#[test]
fn a_copy_that_inherited_our_labels_is_not_ours_but_a_renamed_machine_is() {
    let mut found = ada();
    found.names = Some(vec!["/renamed".into()]);
    assert_eq!(instance(found.clone()).unwrap().sandbox.as_str(), "ada");
    found.image = Some("my-commit:1".into());
    assert!(instance(found).is_none());
}

#[test]
fn lost_labels_leave_an_instance_without_a_hash() {
    let mut found = ada();
    let labels = found.labels.as_mut().unwrap();
    labels.remove(label::SANDBOX);
    labels.remove(label::HASH);
    labels.remove(label::RESOURCE);
    let read = instance(found).unwrap();
    assert_eq!((read.sandbox.as_str(), read.ownership, read.hash), ("ada", Ownership::Ours, None));
}

#[test]
fn a_label_that_cannot_be_read_is_not_known_and_named() {
    for name in [label::FIELDS, label::HASH, label::RESOURCE, label::SANDBOX, labels::SET] {
        for damaged in [None, Some("{"), Some("")] {
            let mut found = ada();
            let labels = found.labels.as_mut().unwrap();
            match damaged {
                Some(text) => labels.insert(name.to_owned(), text.to_owned()),
                None => labels.remove(name),
            };
            let read = instance(found).unwrap();
            assert_eq!((read.sandbox.as_str(), &read.ownership), ("ada", &Ownership::Ours));
            let InstanceState::Unknown(why) = &read.state else { panic!("{name}: {read:?}") };
            assert!(why.starts_with("container bottle-team-ada: ") && why.contains(name), "{why}");
        }
    }
    // One in the place of a sidecar is no second machine.
    let mut found = ada();
    found.names = Some(vec!["/bottle-team-ada.sidecar".into()]);
    found.labels.as_mut().unwrap().insert(label::RESOURCE.into(), "sidecart".into());
    let read = instance(found).unwrap();
    assert_eq!(read.resource, ResourceKind::Sidecar);
    assert!(matches!(read.state, InstanceState::Unknown(_)), "{read:?}");
}

#[test]
fn an_interrupted_probe_is_scratch() {
    let mut found = ada();
    found.names = Some(vec!["/bottle_probe_team_1".into()]);
    found.labels = Some(labels::of_probe(&scope()));
    let Some(Row::Leftover(leftover)) = row(&scope(), found.clone()) else { panic!() };
    assert_eq!((leftover.kind, leftover.id.0.as_str()), (LeftoverKind::Scratch, "c1"));
    // Another state folder may be at work with it right now.
    found.labels.as_mut().unwrap().insert(label::STATE.into(), "s9".into());
    assert_eq!(row(&scope(), found), None);
}

fn drifts(found: ContainerSummary) -> Vec<(String, Option<String>, Option<String>)> {
    let changes = instance(found).unwrap().drift.into_iter();
    changes.map(|change| (change.path, change.from, change.to)).collect()
}

#[test]
fn a_network_attached_by_hand_can_be_mended() {
    let with = |names: &[&str], state| {
        let mut found = ada();
        found.state = Some(state);
        let networks = found.network_settings.as_mut().unwrap().networks.as_mut().unwrap();
        networks.clear();
        for name in names {
            networks.insert((*name).to_owned(), EndpointSettings::default());
        }
        let found = instance(found).unwrap();
        assert_eq!(found.drift, []);
        found.mendable
    };
    use ContainerSummaryStateEnum as State;
    let change = |from: Option<&str>| FieldChange {
        path: "networks".into(),
        from: from.map(str::to_owned),
        to: Some("none".into()),
    };
    assert_eq!(with(&["none"], State::RUNNING), []);
    assert_eq!(with(&["web", "bridge"], State::RUNNING), [change(Some("bridge web"))]);
    assert_eq!(with(&[], State::RUNNING), [change(None)]);
    assert_eq!(with(&[], State::EXITED), []);
    assert_eq!(with(&["bridge"], State::EXITED), [change(Some("bridge"))]);
}

#[test]
fn another_image_is_drift_and_a_tag_that_moved_is_not() {
    let image = |image: &str| drifts(ContainerSummary { image: Some(image.into()), ..ada() });
    assert_eq!(image("evil:1"), [("image".into(), Some("evil:1".into()), Some("node:22".into()))]);
    for same in ["node:22", "docker.io/library/node:22", "sha256:0123456789abcdef", "0123456789ab"]
    {
        assert_eq!(image(same), [], "{same}");
    }
    let noted = |image: &str| {
        instance(ContainerSummary { image: Some(image.into()), ..ada() }).unwrap().notes
    };
    assert_eq!(noted("node:22"), Vec::<String>::new());
    assert_eq!(
        noted("sha256:0123456789abcdef"),
        ["image node:22 means another image by now; new machines use that"]
    );
    let digest = SpecHash::of_bytes(b"x");
    let mut spec = machine("ada");
    spec.image = ImageRef::Folder { path: "/x".into(), digest };
    let mut found = listed("bottle-team-ada", &spec);
    found.image = Some(format!("bottle-team:{digest}"));
    assert_eq!(drifts(found.clone()), []);
    found.image = Some(format!("bottle-team:{}", SpecHash::of_bytes(b"y")));
    assert_eq!(drifts(found).len(), 1);
}

#[test]
fn only_the_workspace_and_the_images_own_volumes_may_be_mounted() {
    let mount = |typ: &str, name: Option<&str>, source: &str, target: &str| MountPoint {
        typ: Some(typ.into()),
        name: name.map(str::to_owned),
        source: Some(source.into()),
        destination: Some(target.into()),
        rw: Some(true),
        ..MountPoint::default()
    };
    let mut spec = machine("ada");
    spec.workdir = Some("/workspace".into());
    spec.mount = Some(Workspace {
        path: "/srv/p".into(),
        mode: WorkspaceMode::Mount,
        target: "/workspace".into(),
    });
    let with = |mounts: Vec<MountPoint>| {
        let mut found = listed("bottle-team-ada", &spec);
        found.mounts = Some(mounts);
        drifts(found)
    };
    let workspace = || mount("bind", None, "/srv/p", "/workspace");
    let volume = || {
        let name = "a".repeat(64);
        mount("volume", Some(&name), "/var/lib/docker/volumes/a", "/data")
    };
    assert_eq!(with(vec![workspace(), volume()]), []);
    let in_vm = mount("bind", None, "/host_mnt/srv/p", "/workspace");
    assert_eq!(with(vec![in_vm]), []);
    let more = mount("bind", None, "/etc", "/host");
    let changes = with(vec![workspace(), more]);
    assert_eq!(changes[0].1.as_deref(), Some("/etc:/host:rw /srv/p:/workspace:rw"));
    assert_eq!(with(vec![])[0].2.as_deref(), Some("/srv/p:/workspace:rw"));
    let named = mount("volume", Some("db"), "/var/lib/docker/volumes/db", "/db");
    assert_eq!(with(vec![workspace(), named]).len(), 1);
}

/// A container of the sandbox that is in these networks, each as (name, address).
fn wired(kind: ResourceKind, networks: &[(&str, &str)]) -> ContainerSummary {
    let mut set = set();
    set.address = Some("198.18.0.3".parse().unwrap());
    let mut found = ada();
    if kind == ResourceKind::Sidecar {
        set.image = Some("sha256:side".into());
        let spec = crate::model::SidecarSpec {
            sandbox: "ada".parse().unwrap(),
            fields: Fields::default(),
            policy: std::sync::Arc::default(),
            proxy: None,
        };
        found.names = Some(vec!["/bottle-team-ada.sidecar".into()]);
        found.image = Some("bottle-sidecar:1".into());
        found.image_id = Some("sha256:side".into());
        let program = SpecHash::of_bytes(b"bottle");
        found.labels = Some(labels::of_sidecar(&scope(), &spec, &set, program));
    } else {
        found.labels = Some(labels::of_machine(&scope(), &machine("ada"), &set));
    }
    let end = |(name, address): &(&str, &str)| {
        let end = EndpointSettings {
            endpoint_id: Some(format!("end-{name}")),
            ip_address: Some((*address).to_owned()),
            ..EndpointSettings::default()
        };
        ((*name).to_owned(), end)
    };
    let networks = Some(networks.iter().map(end).collect());
    found.network_settings = Some(ContainerSummaryNetworkSettings { networks });
    found
}

#[test]
fn what_is_connected_stands_in_its_own_network_and_in_no_other() {
    let own = ("bottle-team-ada", "198.18.0.3");
    let mendable = |kind, networks: &[(&str, &str)]| {
        let found = instance(wired(kind, networks)).unwrap();
        assert_eq!((found.resource, found.drift.len()), (kind, 0));
        let change = found.mendable.into_iter().next();
        change.map(|change| (change.from.unwrap_or_default(), change.to.unwrap_or_default()))
    };
    let some = |from: &str, to: &str| Some((from.to_owned(), to.to_owned()));
    assert_eq!(mendable(ResourceKind::Machine, &[own]), None);
    assert_eq!(
        mendable(ResourceKind::Machine, &[("bridge", "172.17.0.9"), own]),
        some("bottle-team-ada bridge", "bottle-team-ada")
    );
    assert_eq!(mendable(ResourceKind::Machine, &[]), some("", "bottle-team-ada"));
    assert_eq!(mendable(ResourceKind::Machine, &[("none", "")]), some("none", "bottle-team-ada"));
    assert_eq!(
        mendable(ResourceKind::Machine, &[("bottle-team-ada", "198.18.0.4")]),
        some("bottle-team-ada as 198.18.0.4", "bottle-team-ada as 198.18.0.3")
    );
    let uplink = ("bottle-team.uplink", "172.18.0.2");
    let carrier = ("bottle-team-ada.carrier", "198.18.0.10");
    assert_eq!(mendable(ResourceKind::Sidecar, &[own, carrier, uplink]), None);
    assert_eq!(
        mendable(ResourceKind::Sidecar, &[own, carrier]),
        some(
            "bottle-team-ada bottle-team-ada.carrier",
            "bottle-team-ada bottle-team-ada.carrier bottle-team.uplink"
        )
    );
}

#[test]
fn a_run_is_known_by_the_endpoint_in_its_own_network() {
    let networks = [("bottle-team-ada", "198.18.0.3"), ("bottle-team.uplink", "172.18.0.2")];
    let found = instance(wired(ResourceKind::Sidecar, &networks)).unwrap();
    assert_eq!(found.boot.as_deref(), Some("end-bottle-team-ada"));
}

#[test]
fn a_sidecar_is_known_by_its_labels_and_its_image() {
    let mut found = wired(ResourceKind::Sidecar, &[("bottle-team-ada", "198.18.0.3")]);
    let read = row(&scope(), found.clone()).unwrap();
    let Row::Instance(sidecar, made) = read else { panic!("{read:?}") };
    assert_eq!(
        (sidecar.name.as_str(), sidecar.sandbox.as_str()),
        ("bottle-team-ada.sidecar", "ada")
    );
    assert_eq!(made.program, Some(SpecHash::of_bytes(b"bottle")));
    found.names = Some(vec!["/renamed".into()]);
    assert!(instance(found.clone()).is_some());
    found.image_id = Some("sha256:other".into());
    assert!(instance(found.clone()).is_none(), "a copy that was committed");
    found.names = Some(vec!["/bottle-team-ada.sidecar".into()]);
    assert_eq!(instance(found.clone()).unwrap().drift[0].path, "image");
    found.labels = None;
    let stranger = instance(found).unwrap();
    assert_eq!(stranger.ownership, Ownership::Foreign);
    assert_eq!(stranger.resource, ResourceKind::Sidecar);
}
