//! The labels of a container: written at creation, read in every listing. Pure.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::backend::{Identity, LABEL_VERSION, Scope, label};
use crate::model::spec::ResourceSpec;
use crate::model::{Fields, MachineSpec, Ownership, SandboxId, SidecarSpec, SpecHash};

/// What was set at creation and is neither a field nor to be read off the listing: a JSON object.
pub(super) const SET: &str = "io.bottle.set";

/// [`label::RESOURCE`] of a container that only serves to read an image, and is never started.
pub(super) const PROBE: &str = "probe";

/// [`label::RESOURCE`] of the network by which an owner's sidecars reach the world.
pub(super) const UPLINK: &str = "uplink";

/// [`label::RESOURCE`] of the bridge that a sandbox's network is carried by.
pub(super) const CARRIER: &str = "carrier";

/// The digest of the program that a sidecar runs.
pub(super) const PROGRAM: &str = "io.bottle.program";

/// Settings by name, flat: what was sent, or what was found.
pub(super) type Settings = BTreeMap<String, String>;

/// The content of [`SET`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Set {
    /// The sandbox's user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its home.
    pub home: String,
    /// Its address in the sandbox's own network; none: it is in no network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// The id of the image of a sidecar, which has no field for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Everything else that was sent.
    pub settings: Settings,
}

impl Set {
    pub(super) fn identity(&self) -> Identity {
        Identity { uid: self.uid, gid: self.gid, home: self.home.clone() }
    }
}

/// The labels of a machine.
pub(super) fn of_machine(scope: &Scope, spec: &MachineSpec, set: &Set) -> HashMap<String, String> {
    let mut labels = of_resource(scope, &ResourceSpec::Machine(spec.clone()));
    let mut put = |name: &str, value: String| labels.insert(name.to_owned(), value);
    put(SET, json(set));
    if let Some(overlay) = &spec.overlay {
        put(label::OVERLAY, overlay.clone());
    }
    if let Some(digest) = spec.image.digest() {
        put(label::IMAGE, digest.to_string());
    }
    labels
}

/// The labels of a sidecar that runs this program.
pub(super) fn of_sidecar(
    scope: &Scope,
    spec: &SidecarSpec,
    set: &Set,
    program: SpecHash,
) -> HashMap<String, String> {
    let mut labels = of_resource(scope, &ResourceSpec::Sidecar(spec.clone()));
    labels.insert(SET.to_owned(), json(set));
    labels.insert(PROGRAM.to_owned(), program.to_string());
    labels
}

/// What the labels of every resource say.
pub(super) fn of_resource(scope: &Scope, spec: &ResourceSpec) -> HashMap<String, String> {
    let mut labels = common(scope, spec.kind().as_str());
    let mut put = |name: &str, value: String| labels.insert(name.to_owned(), value);
    put(label::SANDBOX, spec.sandbox().to_string());
    put(label::HASH, spec.hash().to_string());
    put(label::FIELDS, json(&spec.fields()));
    labels
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "{}".to_owned())
}

/// The labels of an owner's uplink.
pub(super) fn of_uplink(scope: &Scope) -> HashMap<String, String> {
    common(scope, UPLINK)
}

/// The labels of what carries a sandbox's network.
pub(super) fn of_carrier(scope: &Scope, sandbox: &SandboxId) -> HashMap<String, String> {
    let mut labels = common(scope, CARRIER);
    labels.insert(label::SANDBOX.to_owned(), sandbox.to_string());
    labels
}

/// The labels of a probe.
pub(super) fn of_probe(scope: &Scope) -> HashMap<String, String> {
    common(scope, PROBE)
}

fn common(scope: &Scope, resource: &str) -> HashMap<String, String> {
    [
        (label::OWNER, scope.owner.as_str()),
        (label::STATE, scope.state.as_str()),
        (label::VERSION, LABEL_VERSION),
        (label::RESOURCE, resource),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// The labels of a container that was found.
pub(super) struct Labels<'a>(pub &'a HashMap<String, String>);

impl<'a> Labels<'a> {
    fn text(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whose it is. Without our owner's label it is nobody's business.
    pub(super) fn ownership(&self, scope: &Scope) -> Ownership {
        if self.text(label::OWNER) != Some(scope.owner.as_str()) {
            return Ownership::Foreign;
        }
        match self.state() {
            Some(state) if state == scope.state || scope.adopted.contains(state) => Ownership::Ours,
            Some(state) => Ownership::OtherState(state.to_owned()),
            None => Ownership::OtherState("unknown".to_owned()),
        }
    }

    pub(super) fn state(&self) -> Option<&'a str> {
        self.text(label::STATE)
    }

    pub(super) fn resource(&self) -> Option<&'a str> {
        self.text(label::RESOURCE)
    }

    pub(super) fn sandbox(&self) -> Option<SandboxId> {
        self.text(label::SANDBOX)?.parse().ok()
    }

    /// Labels of another version mean something else, so their hash is not known.
    pub(super) fn hash(&self) -> Option<SpecHash> {
        (self.text(label::VERSION) == Some(LABEL_VERSION))
            .then(|| self.text(label::HASH)?.parse().ok())
            .flatten()
    }

    pub(super) fn fields(&self) -> Fields {
        self.json(label::FIELDS).unwrap_or_default()
    }

    pub(super) fn set(&self) -> Option<Set> {
        self.json(SET)
    }

    pub(super) fn program(&self) -> Option<SpecHash> {
        self.text(PROGRAM)?.parse().ok()
    }

    pub(super) fn image(&self) -> Option<SpecHash> {
        self.text(label::IMAGE)?.parse().ok()
    }

    pub(super) fn overlay(&self) -> Option<String> {
        self.text(label::OVERLAY).map(str::to_owned)
    }

    fn json<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Option<T> {
        serde_json::from_str(self.text(name)?).ok()
    }
}

/// The repository that holds the images which `bottle` imported for an owner, one tag a digest.
///
/// Labels on an image would leak onto every container that people make from it, so an imported
/// image is known by its name alone.
pub(super) fn repository(scope: &Scope) -> String {
    let owner = scope.owner.as_str();
    match owner.trim_end_matches('-') {
        whole if whole == owner => format!("bottle-{owner}"),
        // A repository may not end with a dash; an owner never has an underscore.
        start => format!("bottle_{start}_{}", owner.len() - start.len()),
    }
}

/// The name of the imported image with this digest.
pub(super) fn imported(scope: &Scope, digest: SpecHash) -> String {
    format!("{}:{digest}", repository(scope))
}

/// The digest that such a name carries, when it is one of this owner's.
pub(super) fn digest_of(scope: &Scope, name: &str) -> Option<SpecHash> {
    let (repo, tag) = name.rsplit_once(':')?;
    (repo == repository(scope)).then(|| tag.parse().ok()).flatten()
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::{BackendKind, ImageRef, Resources, Restart};

    pub(in crate::backend::docker) fn scope() -> Scope {
        Scope {
            owner: "team".parse().unwrap(),
            state: "s1".into(),
            adopted: BTreeSet::from(["s0".to_owned()]),
            data: "/nonexistent".into(),
            hidden: Vec::new(),
        }
    }

    pub(in crate::backend::docker) fn machine(name: &str) -> MachineSpec {
        MachineSpec {
            sandbox: name.parse().unwrap(),
            backend: BackendKind::Docker,
            image: ImageRef::Registry("node:22".into()),
            host_paths: Vec::new(),
            env: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
            connected: false,
            waits_for_env: false,
            resources: Resources::default(),
            workdir: None,
            mount: None,
            user: None,
            command: Vec::new(),
            restart: Restart::OnFailure,
            overlay: None,
        }
    }

    pub(in crate::backend::docker) fn set() -> Set {
        let settings = BTreeMap::from([("init".to_owned(), "true".to_owned())]);
        Set {
            uid: 1000,
            gid: 1000,
            home: "/home/node".into(),
            address: None,
            image: None,
            settings,
        }
    }

    #[test]
    fn labels_survive_the_engine() {
        let mut spec = machine("ada");
        spec.overlay = Some("/work/.bottle".into());
        spec.image = ImageRef::Tar { path: "/x.tar".into(), digest: SpecHash::of_bytes(b"x") };
        let map = of_machine(&scope(), &spec, &set());
        let labels = Labels(&map);
        assert_eq!(labels.ownership(&scope()), Ownership::Ours);
        assert_eq!(labels.sandbox(), Some(spec.sandbox.clone()));
        assert_eq!(labels.hash(), Some(spec.hash()));
        assert_eq!(labels.fields(), spec.fields());
        assert_eq!(labels.set(), Some(set()));
        assert_eq!(labels.image(), Some(SpecHash::of_bytes(b"x")));
        assert_eq!(labels.overlay().as_deref(), Some("/work/.bottle"));
    }

    #[test]
    fn ownership_is_by_owner_and_state() {
        let mut map = of_machine(&scope(), &machine("ada"), &set());
        let mut set_state = |state: Option<&str>| {
            match state {
                Some(state) => map.insert(label::STATE.into(), state.into()),
                None => map.remove(label::STATE),
            };
            Labels(&map).ownership(&scope())
        };
        assert_eq!(set_state(Some("s0")), Ownership::Ours);
        assert_eq!(set_state(Some("s9")), Ownership::OtherState("s9".into()));
        assert_eq!(set_state(None), Ownership::OtherState("unknown".into()));
        map.insert(label::OWNER.into(), "team-b".into());
        assert_eq!(Labels(&map).ownership(&scope()), Ownership::Foreign);
    }

    #[test]
    fn a_hash_of_another_version_is_not_known() {
        let mut map = of_machine(&scope(), &machine("ada"), &set());
        map.insert(label::VERSION.into(), "9".into());
        assert_eq!(Labels(&map).hash(), None);
    }

    #[test]
    fn imported_images_are_known_by_their_name() {
        let digest = SpecHash::of_bytes(b"x");
        let name = imported(&scope(), digest);
        assert_eq!(name, format!("bottle-team:{digest}"));
        assert_eq!(digest_of(&scope(), &name), Some(digest));
        for other in ["bottle-team:1", "bottle-team", "node:22", "x/bottle-team:1", "<none>:<none>"]
        {
            assert_eq!(digest_of(&scope(), other), None, "{other}");
        }
        let mut dashed = scope();
        dashed.owner = "team--".parse().unwrap();
        assert_eq!(repository(&dashed), "bottle_team_2");
    }
}
