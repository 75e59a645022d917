//! The labels of a machine: written at creation, read in every listing. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::backend::{LABEL_VERSION, Scope, label};
use crate::model::{Fields, MachineSpec, Ownership, ResourceKind, SandboxId, SpecHash};

/// What was set at creation and no listing shows: a JSON object.
pub(super) const SET: &str = "io.bottle.set";

/// A random number of this one machine: names are used again, and ids must not be.
pub(super) const ID: &str = "io.bottle.id";

/// [`label::RESOURCE`] of a machine that only `doctor` makes.
pub(super) const PROBE: &str = "probe";

/// The content of [`SET`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Set {
    pub cpus: u64,
    pub memory_mib: u64,
    /// The bottle's `user`.
    pub user: Option<String>,
    /// `HOME` of the bottle's environment.
    pub home: Option<String>,
    pub workdir: Option<String>,
    /// The folder in the guest that the workspace is mounted on.
    pub mount: Option<String>,
    pub command: Vec<String>,
    pub restart: String,
    pub waits_for_env: bool,
    /// It has a sidecar, its only way out.
    pub connected: bool,
    /// It has an image, and so users, a workload, and a log of that.
    pub image: bool,
    /// The program keeps what the workload writes.
    pub kept_log: bool,
}

/// The labels of a machine.
pub(super) fn of_machine(
    scope: &Scope,
    spec: &MachineSpec,
    set: &Set,
    id: &str,
    image: Option<SpecHash>,
) -> BTreeMap<String, String> {
    let json = |value: serde_json::Result<String>| value.unwrap_or_else(|_| "{}".to_owned());
    let mut labels = common(scope, ResourceKind::Machine.as_str());
    let mut put = |name: &str, value: String| labels.insert(name.to_owned(), value);
    put(label::SANDBOX, spec.sandbox.to_string());
    put(label::HASH, spec.hash().to_string());
    put(label::FIELDS, json(serde_json::to_string(&spec.fields())));
    put(SET, json(serde_json::to_string(set)));
    put(ID, id.to_owned());
    if let Some(overlay) = &spec.overlay {
        put(label::OVERLAY, overlay.clone());
    }
    if let Some(digest) = image {
        put(label::IMAGE, digest.to_string());
    }
    labels
}

fn common(scope: &Scope, resource: &str) -> BTreeMap<String, String> {
    [
        (label::OWNER, scope.owner.as_str()),
        (label::STATE, scope.state.as_str()),
        (label::VERSION, LABEL_VERSION),
        (label::RESOURCE, resource),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// The labels of a machine that was found.
pub(super) struct Labels<'a>(pub &'a BTreeMap<String, String>);

impl<'a> Labels<'a> {
    fn text(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whose it is. Without our owner's label it is nobody's business.
    pub(super) fn ownership(&self, scope: &Scope) -> Ownership {
        if self.text(label::OWNER) != Some(scope.owner.as_str()) {
            return Ownership::Foreign;
        }
        match self.text(label::STATE) {
            Some(state) if state == scope.state || scope.adopted.contains(state) => Ownership::Ours,
            Some(state) => Ownership::OtherState(state.to_owned()),
            None => Ownership::OtherState("unknown".to_owned()),
        }
    }

    pub(super) fn resource(&self) -> Option<&'a str> {
        self.text(label::RESOURCE)
    }

    pub(super) fn id(&self) -> Option<&'a str> {
        self.text(ID)
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

/// The longest name that the program takes.
const LONGEST_NAME: usize = 128;

/// What a machine is called: as everywhere, unless the program refuses such names. Then a digest
/// stands for it.
pub(super) fn machine_name(scope: &Scope, sandbox: &SandboxId) -> String {
    let name = scope.object_name(sandbox);
    if name.len() <= LONGEST_NAME && !name.contains("--") && !name.ends_with('-') {
        return name;
    }
    format!("bottle-{}", SpecHash::of_bytes(name.as_bytes()).short())
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::{BackendKind, ImageRef, Resources, Restart};

    pub(in crate::backend::smolmachines) fn scope() -> Scope {
        Scope {
            owner: "team".parse().unwrap(),
            state: "s1".into(),
            adopted: BTreeSet::from(["s0".to_owned()]),
            data: "/nonexistent".into(),
            hidden: Vec::new(),
        }
    }

    pub(in crate::backend::smolmachines) fn machine(name: &str) -> MachineSpec {
        MachineSpec {
            sandbox: name.parse().unwrap(),
            backend: BackendKind::Smolmachines,
            image: ImageRef::Registry("node:22".into()),
            host_paths: Vec::new(),
            env: BTreeMap::from([("A".to_owned(), "1=2 3".to_owned())]),
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

    #[test]
    fn labels_survive_the_program() {
        let mut spec = machine("ada");
        spec.overlay = Some("/work/.bottle".into());
        let set = Set { cpus: 2, command: vec!["a b".into()], ..Set::default() };
        let digest = SpecHash::of_bytes(b"x");
        let map = of_machine(&scope(), &spec, &set, "1f", Some(digest));
        let labels = Labels(&map);
        assert_eq!(labels.ownership(&scope()), Ownership::Ours);
        assert_eq!(labels.sandbox(), Some(spec.sandbox.clone()));
        assert_eq!(labels.hash(), Some(spec.hash()));
        assert_eq!(labels.fields(), spec.fields());
        assert_eq!((labels.set(), labels.id()), (Some(set), Some("1f")));
        assert_eq!(labels.image(), Some(digest));
        assert_eq!(labels.overlay().as_deref(), Some("/work/.bottle"));
    }

    #[test]
    fn ownership_is_by_owner_and_state() {
        let mut map = of_machine(&scope(), &machine("ada"), &Set::default(), "1", None);
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
        map.insert(label::VERSION.into(), "9".into());
        assert_eq!(Labels(&map).hash(), None);
    }

    #[test]
    fn names_that_the_program_refuses_become_digests() {
        let name = |owner: &str, sandbox: &str| {
            let scope = Scope { owner: owner.parse().unwrap(), ..scope() };
            machine_name(&scope, &sandbox.parse().unwrap())
        };
        assert_eq!(name("team", "ada"), "bottle-team-ada");
        let long = "a".repeat(63);
        for (owner, sandbox) in
            [("team", "a--b"), ("team", "ada-"), ("team-", "ada"), (long.as_str(), long.as_str())]
        {
            let name = name(owner, sandbox);
            assert!(name.len() == 19 && !name.contains("--"), "{name}");
        }
        assert_ne!(name("team", "a--b"), name("team", "a--c"));
    }
}
