//! The labels of a machine: written at creation, read in every listing. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub(super) use crate::backend::labels::{Labels, PROBE, SET};
use crate::backend::{Scope, labels};
use crate::model::{MachineSpec, SandboxId, SpecHash};

/// A random number of this one machine: names are used again, and ids must not be.
pub(super) const ID: &str = "io.bottle.id";

/// The content of [`SET`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Set {
    pub cpus: u64,
    pub memory_mib: u64,
    /// How many processes the sandbox's user may have; 0: as many as fit.
    pub pids: u32,
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
    let mut labels = labels::of_machine(scope, spec, set, image);
    labels.insert(ID.to_owned(), id.to_owned());
    labels
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
    use super::*;
    pub(in crate::backend::smolmachines) use crate::backend::labels::tests::scope;
    use crate::model::BackendKind;

    pub(in crate::backend::smolmachines) fn machine(name: &str) -> MachineSpec {
        labels::tests::machine(BackendKind::Smolmachines, name)
    }

    #[test]
    fn every_machine_has_a_number_of_its_own() {
        let set = Set { cpus: 2, command: vec!["a b".into()], ..Set::default() };
        let map = of_machine(&scope(), &machine("ada"), &set, "1f", None);
        let labels = Labels::of(&map);
        assert_eq!((labels.set(), labels.text(ID)), (Some(set), Some("1f")));
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
