//! The labels of a container, and the names of imported images. Pure.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

pub(super) use crate::backend::labels::{Labels, PROBE, SET};
use crate::backend::{Identity, Scope, label, labels};
use crate::model::spec::ResourceSpec;
use crate::model::{MachineSpec, SandboxId, SidecarSpec, SpecHash};

/// [`label::RESOURCE`] of the network by which an owner's sidecars reach the world.
pub(super) const UPLINK: &str = "uplink";

/// [`label::RESOURCE`] of the bridge that a sandbox's network is carried by.
pub(super) const CARRIER: &str = "carrier";

/// The digest of the program that a sidecar runs.
pub(super) const PROGRAM: &str = "io.bottle.program";

/// The digest of the program that a sidecar was made with.
pub(super) fn program(labels: &Labels<'_>) -> Option<SpecHash> {
    labels.text(PROGRAM)?.parse().ok()
}

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
    labels::of_machine(scope, spec, set, spec.image.digest()).into_iter().collect()
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
    let mut labels: HashMap<String, String> =
        labels::common(scope, spec.kind().as_str()).into_iter().collect();
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
    labels::common(scope, UPLINK).into_iter().collect()
}

/// The labels of what carries a sandbox's network.
pub(super) fn of_carrier(scope: &Scope, sandbox: &SandboxId) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> = labels::common(scope, CARRIER).into_iter().collect();
    labels.insert(label::SANDBOX.to_owned(), sandbox.to_string());
    labels
}

/// The labels of a probe.
pub(super) fn of_probe(scope: &Scope) -> HashMap<String, String> {
    labels::common(scope, PROBE).into_iter().collect()
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
    use super::*;
    pub(in crate::backend::docker) use crate::backend::labels::tests::scope;
    use crate::model::BackendKind;

    pub(in crate::backend::docker) fn machine(name: &str) -> MachineSpec {
        labels::tests::machine(BackendKind::Docker, name)
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
