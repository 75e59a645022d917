//! The fake backend's fixture.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bottle::backend::memory::{Image, MemoryBackend};
use bottle::backend::{Backend, Scope};
use bottle::model::{BackendKind, ImageRef, Instance, OwnerId, Resources, SpecHash};

use super::{Capability, Fixture};

struct Memory {
    backend: MemoryBackend,
    scopes: [Scope; 3],
}

/// A fresh engine.
pub(crate) async fn fixture() -> Option<Box<dyn Fixture>> {
    let backend = MemoryBackend::new(BackendKind::Memory, 1);
    backend.add_image("bottle-test:1", Image::default());
    for source in ["/images/busybox.tar", "/images/busybox"] {
        backend.add_source(source, Image::default());
    }
    let scope = |owner: &str, state: &str| Scope {
        owner: OwnerId::new(owner).expect("the name is valid"),
        state: state.to_owned(),
        adopted: BTreeSet::new(),
        data: "/nowhere".into(),
        hidden: Vec::new(),
        places: Default::default(),
    };
    let scopes = [scope("team", "here"), scope("others", "here"), scope("team", "there")];
    Some(Box::new(Memory { backend, scopes }))
}

#[async_trait]
impl Fixture for Memory {
    fn backend(&self) -> &dyn Backend {
        &self.backend
    }

    fn lacks(&self) -> &[Capability] {
        &[Capability::Userland]
    }

    fn scope(&self) -> &Scope {
        &self.scopes[0]
    }

    fn other_owner(&self) -> &Scope {
        &self.scopes[1]
    }

    fn other_state(&self) -> &Scope {
        &self.scopes[2]
    }

    fn image(&self) -> ImageRef {
        ImageRef::Registry("bottle-test:1".to_owned())
    }

    fn absent_image(&self) -> ImageRef {
        ImageRef::Registry("bottle-test-absent:1".to_owned())
    }

    fn imports(&self) -> Vec<ImageRef> {
        let (tar, folder) = (SpecHash::of_bytes(b"tar"), SpecHash::of_bytes(b"folder"));
        vec![
            ImageRef::Tar { path: "/images/busybox.tar".into(), digest: tar },
            ImageRef::Folder { path: "/images/busybox".into(), digest: folder },
        ]
    }

    async fn stop(&self, machine: &Instance) {
        self.backend.stop(&machine.id, 137).expect("it is there");
    }

    async fn pause(&self, machine: &Instance) {
        self.backend.pause(&machine.id).expect("it is there");
    }

    async fn remove(&self, machine: &Instance) {
        self.backend.remove(&machine.id).expect("it is there");
    }

    async fn add_foreign(&self, name: &str) -> String {
        self.backend.add_foreign(name).0
    }

    async fn describe(&self, id: &str) -> Option<String> {
        let object = self.backend.objects().into_iter().find(|object| object.id.0 == id);
        object.map(|object| format!("{object:?}"))
    }

    fn unreachable(&self) -> Box<dyn Backend> {
        let backend = MemoryBackend::new(BackendKind::Memory, 1);
        backend.set_unreachable(Some("nothing answers"));
        Box::new(backend)
    }

    async fn limits(&self, machine: &Instance) -> Resources {
        let object = self.backend.object(&machine.id).expect("it is there");
        object.spec.expect("it is a machine of ours").resources
    }

    async fn cleanup(&self) {
        // Only the foreign objects are left, of those in the scopes' hands.
        let owners = self.scopes.each_ref().map(|scope| &scope.owner);
        for object in self.backend.objects() {
            let owner = object.labels.as_ref().map(|labels| &labels.owner);
            assert!(owner.is_none_or(|owner| !owners.contains(&owner)), "{} is left", object.name);
        }
    }
}
