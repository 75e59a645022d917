//! What happens to the engine behind the reconciler's back, and what tests read from it.

use std::path::PathBuf;

use super::engine::gone;
use super::faults::{Call, Fault, When};
use super::files::{Entry, Files};
use super::object::{Image, Labels, Left, Object};
use super::{MemoryBackend, Observer};
use crate::backend::{BackendError, Identity, MainState, Scope};
use crate::model::{
    FieldChange, InstanceId, InstanceState, Leftover, LeftoverKind, ResourceKind, SandboxId,
};

/// What kind of change from outside it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drift {
    /// The listing shows it, and only a replace sets it right.
    Listed,
    /// Only an inspection shows it, and only a replace sets it right.
    Inspected,
    /// The listing shows it, and it can be set right in place.
    Mendable,
}

/// Faults, and what was called.
impl MemoryBackend {
    /// Queues a fault: it strikes the next call that it matches, once.
    pub fn fault(&self, fault: Fault) {
        self.script().push(fault);
    }

    /// From now on, so many of a thousand chances of a fault are taken, as the seed has it. Each
    /// call has three: before, midway, and after.
    pub fn fault_rate(&self, per_mille: u64) {
        self.script().per_mille = per_mille.min(1000);
    }

    /// Ends all faults; returns how many queued ones never struck.
    pub fn no_faults(&self) -> usize {
        self.script().clear()
    }

    /// From now on no call reaches the engine, for this reason; `None`: all do again.
    pub fn set_unreachable(&self, reason: Option<&str>) {
        self.engine().unreachable = reason.map(str::to_owned);
        if let Some(reason) = reason {
            // Nobody may be listening.
            self.hints.send(Err(reason.to_owned())).ok();
        }
    }

    /// What the sidecar of a sandbox says of itself from now on.
    pub fn says(&self, sandbox: &SandboxId, state: &str) {
        self.engine().said.insert(sandbox.clone(), state.to_owned());
    }

    /// Tells `observer` of each call, before and after its effect: the place to cancel from.
    pub fn observe_calls(&self, observer: impl Fn(&Call, When) + Send + Sync + 'static) {
        *self.observer() = Some(Observer(std::sync::Arc::new(observer)));
    }

    /// Every call so far, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.log().clone()
    }

    /// How many calls so far may have changed anything.
    #[must_use]
    pub fn mutating_calls(&self) -> usize {
        self.log().iter().filter(|call| call.mutating).count()
    }

    /// Forgets the calls so far.
    pub fn forget_calls(&self) {
        self.log().clear();
    }

    /// Resolves once a call hangs by a [`Fault::hang`].
    pub async fn hung(&self) {
        let mut hung = self.hung.subscribe();
        // The sender is ours, so it is never gone.
        hung.wait_for(|count| *count > 0).await.ok();
        self.hung.send_modify(|count| *count -= 1);
    }
}

/// The world outside.
impl MemoryBackend {
    /// Puts an image onto the engine.
    pub fn add_image(&self, name: &str, image: Image) {
        self.engine().images.insert(name.to_owned(), image);
    }

    /// Puts an image where a pull gets it.
    pub fn publish_image(&self, name: &str, image: Image) {
        self.engine().registry.insert(name.to_owned(), image);
    }

    /// Takes an image away from the engine and from where a pull would get it.
    pub fn remove_image(&self, name: &str) {
        let mut engine = self.engine();
        engine.images.remove(name);
        engine.registry.remove(name);
    }

    /// Puts an image tar or root folder onto the virtual host.
    pub fn add_source(&self, path: impl Into<PathBuf>, image: Image) {
        self.engine().sources.insert(path.into(), image);
    }

    /// Every object, whoever made it.
    #[must_use]
    pub fn objects(&self) -> Vec<Object> {
        self.engine().objects.values().cloned().collect()
    }

    /// Everything that belongs to no sandbox, whoever made it.
    #[must_use]
    pub fn leftovers(&self) -> Vec<Left> {
        self.engine().left.clone()
    }

    /// One object.
    #[must_use]
    pub fn object(&self, id: &InstanceId) -> Option<Object> {
        self.engine().objects.get(id).cloned()
    }

    /// Makes an object that is not of our making, under any name, and returns its id.
    pub fn add_foreign(&self, name: &str) -> InstanceId {
        let mut engine = self.engine();
        let (id, created) = (engine.fresh_id(), engine.tick());
        let object = Object {
            id: id.clone(),
            name: name.to_owned(),
            resource: ResourceKind::Machine,
            labels: None,
            state: InstanceState::Running,
            boot: None,
            drift: Vec::new(),
            deep_drift: Vec::new(),
            mendable: Vec::new(),
            image: None,
            created,
            spec: None,
            user: Identity { uid: 0, gid: 0, home: "/root".to_owned() },
            files: Files::default(),
            main: MainState::Idle,
            command: None,
            log: Vec::new(),
            loaded: None,
        };
        engine.objects.insert(id.clone(), object);
        id
    }

    /// Makes a second object with the labels of the first under another name, and returns its id.
    ///
    /// # Errors
    /// When there is no such object.
    pub fn duplicate(&self, id: &InstanceId) -> Result<InstanceId, BackendError> {
        let mut engine = self.engine();
        let (fresh, created) = (engine.fresh_id(), engine.tick());
        let original = engine.objects.get(id).ok_or_else(|| gone(id))?;
        let name = format!("{}.{fresh}", original.name);
        let twin = Object { id: fresh.clone(), name, created, ..original.clone() };
        engine.objects.insert(fresh.clone(), twin);
        Ok(fresh)
    }

    /// Leaves a helper object behind, as an interrupted run would.
    pub fn leave_scratch(&self, scope: &Scope, name: &str) -> Leftover {
        let mut engine = self.engine();
        let leftover = Leftover {
            backend: engine.kind,
            kind: LeftoverKind::Scratch,
            id: engine.fresh_id(),
            name: name.to_owned(),
            digest: None,
        };
        engine.left.push(Left {
            owner: scope.owner.clone(),
            state: scope.state.clone(),
            leftover: leftover.clone(),
        });
        leftover
    }

    /// Stops a machine from outside; one that does not run stays as it is.
    ///
    /// # Errors
    /// When there is no such object.
    pub fn stop(&self, id: &InstanceId, code: i32) -> Result<(), BackendError> {
        self.change(id, "die", |object| {
            if matches!(object.state, InstanceState::Running | InstanceState::Paused) {
                object.stop(Some(code));
            }
        })
    }

    /// Freezes a machine from outside; one that does not run stays as it is.
    ///
    /// # Errors
    /// When there is no such object.
    pub fn pause(&self, id: &InstanceId) -> Result<(), BackendError> {
        self.change(id, "pause", |object| {
            if object.state == InstanceState::Running {
                object.state = InstanceState::Paused;
            }
        })
    }

    /// Removes an object from outside.
    ///
    /// # Errors
    /// When there is no such object.
    pub fn remove(&self, id: &InstanceId) -> Result<(), BackendError> {
        let object = self.engine().objects.remove(id).ok_or_else(|| gone(id))?;
        self.moved(&format!("destroy {}", object.name));
        Ok(())
    }

    /// Stops and starts a machine from outside; a broken one stays as it is.
    ///
    /// # Errors
    /// When there is no such object.
    pub fn restart(&self, id: &InstanceId) -> Result<(), BackendError> {
        let boot = format!("boot-{}", self.engine().tick());
        self.change(id, "restart", |object| {
            if !matches!(object.state, InstanceState::Broken(_)) {
                object.start(boot);
            }
        })
    }

    /// Makes an object unusable from outside.
    ///
    /// # Errors
    /// When there is no such object.
    pub fn break_object(&self, id: &InstanceId, what: &str) -> Result<(), BackendError> {
        self.change(id, "break", |object| {
            object.state = InstanceState::Broken(what.to_owned());
            object.boot = None;
        })
    }

    /// Stops every machine, as a reboot of the host does.
    pub fn reboot(&self) {
        for object in self.engine().objects.values_mut() {
            if object.state == InstanceState::Running && object.resource != ResourceKind::Network {
                object.stop(None);
            }
        }
        self.moved("reboot");
    }

    /// Changes a setting from outside.
    ///
    /// # Errors
    /// When there is no such object.
    pub fn drift(
        &self,
        id: &InstanceId,
        kind: Drift,
        change: FieldChange,
    ) -> Result<(), BackendError> {
        self.change(id, "update", |object| match kind {
            Drift::Listed => object.drift.push(change),
            Drift::Inspected => object.deep_drift.push(change),
            Drift::Mendable => object.mendable.push(change),
        })
    }

    /// Changes the labels from outside.
    ///
    /// # Errors
    /// When there is no such object, or it has none.
    pub fn relabel(
        &self,
        id: &InstanceId,
        change: impl FnOnce(&mut Labels),
    ) -> Result<(), BackendError> {
        self.change(id, "update", |object| object.labels.as_mut().map(change)).map(|_| ())
    }

    /// Puts a file in from outside, as whatever runs in the machine would.
    ///
    /// # Errors
    /// When there is no such object, or the path leads nowhere.
    pub fn write_inside(
        &self,
        id: &InstanceId,
        path: &str,
        entry: Entry,
    ) -> Result<(), BackendError> {
        let put = self.change(id, "write", |object| object.files.put(path, entry))?;
        put.map_err(|error| BackendError::failed("writing inside", error))
    }

    /// Lets a machine's command write to its log and, with a state, become that.
    ///
    /// # Errors
    /// When there is no such object.
    pub fn main_did(
        &self,
        id: &InstanceId,
        wrote: &str,
        state: Option<MainState>,
    ) -> Result<(), BackendError> {
        self.change(id, "main", |object| {
            object.log.extend_from_slice(wrote.as_bytes());
            if let Some(state) = state {
                object.main = state;
            }
            object.advance();
        })
    }

    /// The ids of a sandbox's objects of any owner, oldest first.
    #[must_use]
    pub fn ids_of(&self, sandbox: &SandboxId) -> Vec<InstanceId> {
        let engine = self.engine();
        let of = |object: &&Object| object.labels.as_ref().is_some_and(|l| l.sandbox == *sandbox);
        let mut found: Vec<_> = engine.objects.values().filter(of).collect();
        found.sort_by_key(|object| object.created);
        found.into_iter().map(|object| object.id.clone()).collect()
    }

    fn change<T>(
        &self,
        id: &InstanceId,
        what: &str,
        change: impl FnOnce(&mut Object) -> T,
    ) -> Result<T, BackendError> {
        let (result, name) = {
            let mut engine = self.engine();
            let object = engine.objects.get_mut(id).ok_or_else(|| gone(id))?;
            (change(object), object.name.clone())
        };
        self.moved(&format!("{what} {name}"));
        Ok(result)
    }
}
