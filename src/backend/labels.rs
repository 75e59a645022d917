//! The labels that every engine keeps for us on what we make: written at creation, read in every
//! listing. Pure.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{LABEL_VERSION, Scope, label};
use crate::model::{Fields, MachineSpec, Ownership, ResourceKind, SandboxId, SpecHash};

/// What was set at creation and is neither a field nor to be read off the listing: a JSON object,
/// of each backend's own making.
pub(super) const SET: &str = "io.bottle.set";

/// [`label::RESOURCE`] of an object that only serves to look at something, and is no sandbox's.
pub(super) const PROBE: &str = "probe";

/// The labels of a machine that was made from `image`, where that is an import.
pub(super) fn of_machine(
    scope: &Scope,
    spec: &MachineSpec,
    set: &impl Serialize,
    image: Option<SpecHash>,
) -> BTreeMap<String, String> {
    let json = |value: serde_json::Result<String>| value.unwrap_or_else(|_| "{}".to_owned());
    let mut labels = common(scope, ResourceKind::Machine.as_str());
    let mut put = |name: &str, value: String| labels.insert(name.to_owned(), value);
    put(label::SANDBOX, spec.sandbox.to_string());
    put(label::HASH, spec.hash().to_string());
    put(label::FIELDS, json(serde_json::to_string(&spec.fields())));
    put(SET, json(serde_json::to_string(set)));
    if let Some(overlay) = &spec.overlay {
        put(label::OVERLAY, overlay.clone());
    }
    if let Some(digest) = image {
        put(label::IMAGE, digest.to_string());
    }
    labels
}

/// The labels of everything: whose it is, and what.
pub(super) fn common(scope: &Scope, resource: &str) -> BTreeMap<String, String> {
    [
        (label::OWNER, scope.owner.as_str()),
        (label::STATE, scope.state.as_str()),
        (label::VERSION, LABEL_VERSION),
        (label::RESOURCE, resource),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// The labels of something that was found.
pub(super) struct Labels<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Labels<'a> {
    pub(super) fn of(found: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        Self(found.into_iter().map(|(name, value)| (name.as_str(), value.as_str())).collect())
    }

    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).copied()
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

    /// Which label says what an object was made from in a way that this build cannot read.
    pub(super) fn unreadable(&self) -> Option<String> {
        match self.text(label::VERSION) {
            Some(LABEL_VERSION) => {}
            Some(version) => {
                return Some(format!(
                    "its label {} says `{version}`, and this bottle reads `{LABEL_VERSION}`: {ASK}",
                    label::VERSION
                ));
            }
            None => return Some(format!("its label {} is missing: {ASK}", label::VERSION)),
        }
        let image = self.text(label::IMAGE).is_none_or(|_| self.image().is_some());
        let known = [
            (
                label::RESOURCE,
                self.resource().is_some_and(|text| text.parse::<ResourceKind>().is_ok()),
            ),
            (label::SANDBOX, self.sandbox().is_some()),
            (label::HASH, self.hash().is_some()),
            (label::FIELDS, self.json::<Fields>(label::FIELDS).is_some()),
            (label::IMAGE, image),
        ];
        known.into_iter().find(|(_, known)| !known).map(|(name, _)| damaged(name))
    }

    /// The same of an object that has [`SET`], too.
    pub(super) fn unreadable_with<T: DeserializeOwned>(&self) -> Option<String> {
        self.unreadable().or_else(|| self.set::<T>().is_none().then(|| damaged(SET)))
    }

    pub(super) fn fields(&self) -> Fields {
        self.json(label::FIELDS).unwrap_or_default()
    }

    /// The content of [`SET`].
    pub(super) fn set<T: DeserializeOwned>(&self) -> Option<T> {
        self.json(SET)
    }

    pub(super) fn image(&self) -> Option<SpecHash> {
        self.text(label::IMAGE)?.parse().ok()
    }

    pub(super) fn overlay(&self) -> Option<String> {
        self.text(label::OVERLAY).map(str::to_owned)
    }

    fn json<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_str(self.text(name)?).ok()
    }
}

/// What to do about it.
const ASK: &str = "use the bottle that made it";

fn damaged(name: &str) -> String {
    format!("its label {name} is missing or damaged: {ASK}")
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::{BackendKind, ImageRef, Resources, Restart};

    pub(in crate::backend) fn scope() -> Scope {
        Scope {
            owner: "team".parse().unwrap(),
            state: "s1".into(),
            adopted: BTreeSet::from(["s0".to_owned()]),
            data: "/nonexistent".into(),
            hidden: Vec::new(),
            places: Default::default(),
        }
    }

    pub(in crate::backend) fn machine(backend: BackendKind, name: &str) -> MachineSpec {
        MachineSpec {
            sandbox: name.parse().unwrap(),
            backend,
            image: ImageRef::Registry("node:22".into()),
            host_paths: Vec::new(),
            tools: Default::default(),
            setup: Default::default(),
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

    fn ada() -> MachineSpec {
        machine(BackendKind::Docker, "ada")
    }

    #[test]
    fn labels_survive_the_engine() {
        let spec = MachineSpec { overlay: Some("/work/.bottle".into()), ..ada() };
        let set = BTreeMap::from([("uid".to_owned(), 1000)]);
        let digest = SpecHash::of_bytes(b"x");
        let map = of_machine(&scope(), &spec, &set, Some(digest));
        let labels = Labels::of(&map);
        assert_eq!(labels.ownership(&scope()), Ownership::Ours);
        assert_eq!(labels.resource(), Some("machine"));
        assert_eq!(labels.sandbox(), Some(spec.sandbox.clone()));
        assert_eq!(labels.hash(), Some(spec.hash()));
        assert_eq!(labels.fields(), spec.fields());
        assert_eq!(labels.set(), Some(set));
        assert_eq!(labels.image(), Some(digest));
        assert_eq!(labels.overlay().as_deref(), Some("/work/.bottle"));
    }

    #[test]
    fn ownership_is_by_owner_and_state() {
        let mut map = of_machine(&scope(), &ada(), &(), None);
        let mut set_state = |state: Option<&str>| {
            match state {
                Some(state) => map.insert(label::STATE.into(), state.into()),
                None => map.remove(label::STATE),
            };
            Labels::of(&map).ownership(&scope())
        };
        assert_eq!(set_state(Some("s0")), Ownership::Ours);
        assert_eq!(set_state(Some("s9")), Ownership::OtherState("s9".into()));
        assert_eq!(set_state(None), Ownership::OtherState("unknown".into()));
        map.insert(label::OWNER.into(), "team-b".into());
        assert_eq!(Labels::of(&map).ownership(&scope()), Ownership::Foreign);
    }

    #[test]
    fn a_hash_of_another_version_is_not_known() {
        let mut map = of_machine(&scope(), &ada(), &(), None);
        assert_eq!(Labels::of(&map).unreadable(), None);
        map.insert(label::VERSION.into(), "9".into());
        assert_eq!(Labels::of(&map).hash(), None);
        let told = Labels::of(&map).unreadable().unwrap();
        assert!(told.contains("io.bottle.version says `9`"), "{told}");
        map.insert(label::VERSION.into(), LABEL_VERSION.into());
        for damaged in ["", "abc"] {
            map.insert(label::HASH.into(), damaged.into());
            let told = Labels::of(&map).unreadable().unwrap();
            assert!(told.contains(label::HASH), "{told}");
        }
    }
}
