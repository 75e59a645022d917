//! Where backends keep sandboxes that were renamed: a backend names what it makes after its sandbox, and
//! most of that cannot change while it is there. So a renamed sandbox stays in its place, under the name that
//! it was made with, and this says whose place it is.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::id::{MAX_NAME, SandboxId};
use super::observed::{Instance, InstanceState, Ownership};

/// The places of those sandboxes that are not under their own names. No two have the same one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Places(BTreeMap<SandboxId, SandboxId>);

impl Places {
    /// Where a backend has this sandbox, or is to make it.
    #[must_use]
    pub fn of<'a>(&'a self, sandbox: &'a SandboxId) -> &'a SandboxId {
        self.0.get(sandbox).unwrap_or(sandbox)
    }

    /// Whose place this is; `None` where its namesake is elsewhere.
    fn at<'a>(&'a self, place: &'a SandboxId) -> Option<&'a SandboxId> {
        let other = self.0.iter().find(|(_, at)| *at == place).map(|(sandbox, _)| sandbox);
        other.or_else(|| (!self.0.contains_key(place)).then_some(place))
    }

    /// The sandbox `old` is called `new` from now on, wherever it is.
    pub fn rename(&mut self, old: &SandboxId, new: &SandboxId) {
        let place = self.0.remove(old).unwrap_or_else(|| old.clone());
        self.put(new, place);
    }

    fn put(&mut self, sandbox: &SandboxId, place: SandboxId) {
        match place == *sandbox {
            true => self.0.remove(sandbox),
            false => self.0.insert(sandbox.clone(), place),
        };
    }

    /// Whether every sandbox is under its own name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The sandboxes that are not under their own names, and where they are.
    pub fn iter(&self) -> impl Iterator<Item = (&SandboxId, &SandboxId)> {
        self.0.iter()
    }

    /// Says where a sandbox is of which nothing was said.
    pub fn settle_at(&mut self, sandbox: &SandboxId, place: &SandboxId) {
        if !self.0.contains_key(sandbox) {
            self.put(sandbox, place.clone());
        }
    }

    /// Finds a place for each of these sandboxes whose own name is another one's place. `taken` are names that
    /// are no free place.
    pub fn settle<'a>(
        &mut self,
        sandboxes: impl Iterator<Item = &'a SandboxId>,
        taken: &BTreeSet<&SandboxId>,
    ) {
        for sandbox in sandboxes {
            let others = |place: &SandboxId| self.0.values().any(|at| at == place);
            if self.0.contains_key(sandbox) || !others(sandbox) {
                continue;
            }
            let free = |place: &SandboxId| !others(place) && !taken.contains(place);
            let place = (2..).find_map(|number| numbered(sandbox, number).filter(free));
            if let Some(place) = place {
                self.0.insert(sandbox.clone(), place);
            }
        }
    }

    /// Gives what a backend shows by place to the sandboxes whose places those are.
    pub fn assign(&self, instances: &mut Vec<Instance>) {
        if self.0.is_empty() {
            return;
        }
        instances.retain_mut(|instance| {
            // Whose it is was said before.
            if instance.place.is_some() {
                return true;
            }
            match self.at(&instance.sandbox).cloned() {
                Some(sandbox) if sandbox == instance.sandbox => {}
                Some(sandbox) => {
                    instance.place = Some(std::mem::replace(&mut instance.sandbox, sandbox));
                }
                // Its namesake is elsewhere, and two would be one.
                None if instance.ownership != Ownership::Foreign => {
                    let place = instance.sandbox.clone();
                    let whose = self.of(&place);
                    let what = format!(
                        "{} stands in the place of {place}, and {place} was renamed and stands in the place of \
                         {whose}: remove {} by hand, or move it away",
                        instance.name, instance.name
                    );
                    instance.place = Some(place);
                    instance.state = InstanceState::Unknown(what);
                }
                // Where nothing of ours is made it is in nobody's way.
                None => return false,
            }
            true
        });
    }
}

/// A name of the same length at most, and a number.
fn numbered(sandbox: &SandboxId, number: u32) -> Option<SandboxId> {
    let end = format!("-{number}");
    let start = sandbox.as_str().get(..MAX_NAME.saturating_sub(end.len()));
    let start = start.unwrap_or(sandbox.as_str());
    SandboxId::new(format!("{start}{end}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> SandboxId {
        SandboxId::new(name).unwrap()
    }

    #[test]
    fn a_renamed_sandbox_stays_in_its_place() {
        let mut places = Places::default();
        places.rename(&id("linus"), &id("grace"));
        assert_eq!(places.of(&id("grace")), &id("linus"));
        assert_eq!(places.at(&id("linus")), Some(&id("grace")));
        assert_eq!(places.at(&id("grace")), None, "its namesake is elsewhere");
        assert_eq!(places.at(&id("ada")), Some(&id("ada")));
        places.rename(&id("grace"), &id("ken"));
        assert_eq!(places.of(&id("ken")), &id("linus"));
        places.rename(&id("ken"), &id("linus"));
        assert_eq!(places, Places::default());
    }

    #[test]
    fn who_comes_later_has_a_place_of_its_own() {
        let mut places = Places::default();
        places.rename(&id("linus"), &id("grace"));
        let (linus, second) = (id("linus"), id("linus-2"));
        let taken = BTreeSet::from([&second]);
        places.settle([&linus, &second].into_iter(), &taken);
        assert_eq!(places.of(&linus), &id("linus-3"));
        assert_eq!(places.of(&second), &second);
        let before = places.clone();
        places.settle([&linus, &second].into_iter(), &taken);
        assert_eq!(places, before);
        let long = id(&"a".repeat(MAX_NAME));
        places.rename(&long, &id("short"));
        places.settle([&long].into_iter(), &BTreeSet::new());
        assert_eq!(places.of(&long).as_str(), format!("{}-2", "a".repeat(MAX_NAME - 2)));
        places.settle_at(&id("grace"), &id("other"));
        assert_eq!(places.of(&id("grace")), &id("linus"));
    }
}
