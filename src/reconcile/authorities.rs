//! The sandboxes' own authorities, kept in the state folder.
//!
//! Programs read the certificate of theirs once, when they start. One that runs on must not meet another
//! authority: every connection of it would fail from then on. So a record that is damaged or gone holds its
//! sandbox while its machine runs; where its key is whole, a new certificate of the same key takes the place
//! of the old one, which programs that know the old one accept as well.
#![expect(clippy::disallowed_methods, reason = "reads the clock and the state folder")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::state::{TreeState, make_private, write_json};
use crate::backend::durable;
use crate::model::{Desired, Diagnostic, SandboxId};
use crate::sidecar::ca::{self, EXTEND_BEFORE};
use crate::sidecar::document::CaPart;

/// An authority as the state folder keeps it: 0600, one file a sandbox.
#[derive(Serialize, Deserialize)]
pub(super) struct Kept {
    #[serde(flatten)]
    pub(super) ca: CaPart,
    pub(super) fingerprint: String,
    /// Seconds since the epoch.
    not_after: u64,
    /// The sandbox that it was made for, where that has another name now: programs know it by this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made_for: Option<SandboxId>,
}

/// What is in the place of a record.
enum Found {
    Whole(Kept),
    /// Damaged, but for its key: what is made of that is trusted like the old one.
    KeyAlone(CaPart),
    /// Damaged or gone, and how.
    Lost(String),
    /// It may be whole, and cannot be read now.
    Unreadable(std::io::Error),
}

/// What is true of the authorities of some sandboxes.
#[derive(Debug, Default)]
pub struct Judged {
    /// Fingerprints of those in force.
    pub in_force: BTreeMap<SandboxId, String>,
    /// Those that are damaged or gone, each with what to do about it. Of one that never had any it is no
    /// loss: what its machine trusts tells.
    pub lost: BTreeMap<SandboxId, String>,
}

/// The authorities of one tree's sandboxes.
#[derive(Debug, Clone)]
pub struct Authorities {
    memory: TreeState,
}

impl Authorities {
    /// Those that this folder keeps.
    #[must_use]
    pub fn of(memory: &TreeState) -> Self {
        Self { memory: memory.clone() }
    }

    fn path(&self, sandbox: &SandboxId) -> PathBuf {
        self.memory.dir().join("ca").join(format!("{sandbox}.json"))
    }

    /// That of a sandbox, or that of the name which it had, as long as it was not moved.
    fn find_of(&self, sandbox: &SandboxId, earlier: &BTreeMap<SandboxId, SandboxId>) -> Found {
        let there = |id: &&SandboxId| fs::symlink_metadata(self.path(id)).is_ok();
        let old = earlier.get(sandbox).filter(there).filter(|_| !there(&sandbox));
        self.find(old.unwrap_or(sandbox))
    }

    fn find(&self, sandbox: &SandboxId) -> Found {
        let path = self.path(sandbox);
        let bytes = match durable::read(&path) {
            Ok(Some(bytes)) => Zeroizing::new(bytes),
            Ok(None) => return Found::Lost(format!("{} is gone", path.display())),
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                return Found::Lost(error.to_string());
            }
            Err(error) => return Found::Unreadable(error),
        };
        let whole = |kept: &Kept| {
            ca::is_whole(&kept.ca)
                && ca::fingerprint(&kept.ca.certificate).is_ok_and(|it| it == kept.fingerprint)
        };
        if let Some(kept) = serde_json::from_slice::<Kept>(&bytes).ok().filter(whole) {
            return Found::Whole(kept);
        }
        match ca::key_within(&bytes) {
            Some(key) => Found::KeyAlone(CaPart { certificate: String::new(), key }),
            None => Found::Lost(durable::damaged(&path, "there is no whole key in it").to_string()),
        }
    }

    /// Looks at those of the sandboxes that have a sidecar. Holds the sandboxes whose authority is there and
    /// cannot be read now: what trusts it would have nothing of a new one. `earlier` are names that sandboxes had.
    #[must_use]
    pub fn judge(&self, desired: &mut Desired, earlier: &BTreeMap<SandboxId, SandboxId>) -> Judged {
        let with_sidecar = desired.sandboxes.values().filter(|spec| spec.sidecar.is_some());
        let ids: Vec<SandboxId> = with_sidecar.map(|spec| spec.id.clone()).collect();
        let mut judged = Judged::default();
        for id in ids {
            match self.find_of(&id, earlier) {
                Found::Whole(kept) if lasts(&kept) => {
                    judged.in_force.insert(id, kept.fingerprint);
                }
                Found::Whole(_) | Found::KeyAlone(_) => {}
                Found::Lost(why) => {
                    let what = format!(
                        "{why}: it is the certificate authority that what runs in {id} trusts, and of a \
                         new one that would have nothing; put a copy of the file back"
                    );
                    judged.lost.insert(id, what);
                }
                Found::Unreadable(error) => {
                    let message = format!(
                        "its certificate authority cannot be read, and what runs trusts no other: {error}"
                    );
                    let hint = "make the file readable for this user, or put a copy in its place";
                    let file = self.path(&id).display().to_string();
                    let diagnostic = Diagnostic::error(file, message).with_hint(hint);
                    desired.sandboxes.remove(&id);
                    desired.diagnostics.push(diagnostic.clone());
                    desired.held.insert(id, vec![diagnostic]);
                }
            }
        }
        judged
    }

    /// The one that is in force, extended or made where there is none.
    pub(super) fn obtain(&self, sandbox: &SandboxId) -> anyhow::Result<Kept> {
        let old = match self.find(sandbox) {
            Found::Whole(kept) if lasts(&kept) => return Ok(kept),
            Found::Whole(Kept { ca, made_for, .. }) => Some((ca, made_for)),
            Found::KeyAlone(ca) => Some((ca, None)),
            Found::Lost(_) => None,
            Found::Unreadable(error) => return Err(error.into()),
        };
        let now: SystemTime = crate::sidecar::clock::now();
        let now = now.duration_since(UNIX_EPOCH).context("the clock is wrong")?;
        let extended = old.and_then(|(old, made_for)| {
            let name = made_for.as_ref().unwrap_or(sandbox);
            Some((ca::extend(&old, name.as_str()).ok()?, made_for))
        });
        let made = || Ok((ca::generate(sandbox.as_str())?, None));
        let (made, made_for) = extended
            .map_or_else(made, Ok)
            .map_err(|error: ca::CaError| anyhow::Error::from(error))
            .with_context(|| format!("making the certificate authority of {sandbox}"))?;
        let kept = Kept {
            fingerprint: ca::fingerprint(&made.certificate)?,
            ca: made,
            not_after: (now + ca::LIFETIME).as_secs(),
            made_for,
        };
        make_private(&self.memory.dir().join("ca"))?;
        write_json(&self.path(sandbox), &kept, true)?;
        Ok(kept)
    }

    /// Removes those of sandboxes that are no more.
    ///
    /// # Errors
    /// When the state folder cannot be read or written.
    pub fn sweep(&self, wanted: &BTreeSet<&SandboxId>) -> anyhow::Result<()> {
        let folder = self.memory.dir().join("ca");
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.with_context(|| format!("reading {}", folder.display()))?,
        };
        for entry in entries {
            let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            if !wanted.iter().any(|sandbox| sandbox.as_str() == name) {
                durable::clear_way(&path)?;
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        return Err(error).with_context(|| format!("removing {}", path.display()));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

impl Kept {
    /// The sandbox by whose name programs know it.
    pub(super) fn name<'a>(&'a self, sandbox: &'a SandboxId) -> &'a SandboxId {
        self.made_for.as_ref().unwrap_or(sandbox)
    }
}

/// Gives the authority of a sandbox to the name that it has now. Its own name stays: what trusts it would have
/// nothing of another.
///
/// # Errors
/// When the state folder cannot be read or written.
pub(super) fn rename(memory: &TreeState, from: &SandboxId, to: &SandboxId) -> anyhow::Result<()> {
    let all = Authorities::of(memory);
    if let Found::Whole(mut kept) = all.find(from)
        && kept.made_for.is_none()
    {
        kept.made_for = Some(from.clone());
        write_json(&all.path(from), &kept, true)?;
    }
    memory.move_record("ca", from, to)
}

/// Whether it need not be extended yet.
fn lasts(kept: &Kept) -> bool {
    let due = Duration::from_secs(kept.not_after).checked_sub(EXTEND_BEFORE);
    let now = crate::sidecar::clock::now().duration_since(UNIX_EPOCH).ok();
    now.zip(due).is_some_and(|(now, due)| now < due)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::OwnerId;
    use crate::reconcile::state::State;

    fn ada() -> SandboxId {
        SandboxId::new("ada").unwrap()
    }

    fn authorities(folder: &std::path::Path) -> Authorities {
        let state = State::open(folder).unwrap();
        Authorities::of(&state.tree(&OwnerId::new("team").unwrap()).unwrap())
    }

    #[test]
    fn one_that_is_damaged_keeps_its_key_or_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let all = authorities(folder.path());
        let made = all.obtain(&ada()).unwrap();
        let found = || all.find(&ada());
        let lost = || match found() {
            Found::Lost(why) => Some(why),
            _ => None,
        };
        let in_force = || match found() {
            Found::Whole(kept) if lasts(&kept) => Some(kept.fingerprint),
            _ => None,
        };
        assert_eq!((lost(), in_force()), (None, Some(made.fingerprint.clone())));
        let path = all.path(&ada());
        let text = fs::read_to_string(&path).unwrap();
        let harmed = |what: &str| {
            let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
            let pem = record[what].as_str().unwrap().to_owned();
            // One letter of its second line is another.
            let at = pem.find('\n').unwrap() + 60;
            let other = if &pem[at..=at] == "A" { "B" } else { "A" };
            record[what] = format!("{}{other}{}", &pem[..at], &pem[at + 1..]).into();
            record.to_string()
        };
        // The key is whole: its certificate is made anew, and what knows the old one goes on.
        let renamed = text.replace("not_after", "not_before");
        for damaged in [harmed("certificate"), text.replace("BEGIN CERT", "BEGIN "), renamed] {
            fs::write(&path, damaged).unwrap();
            assert_eq!((lost(), in_force()), (None, None));
            let again = all.obtain(&ada()).unwrap();
            assert_eq!(again.ca.key.reveal(), made.ca.key.reveal());
            assert_eq!(in_force(), Some(again.fingerprint));
        }
        for damaged in [harmed("key"), text[..text.len() / 2].to_owned(), String::new()] {
            fs::write(&path, damaged).unwrap();
            let why = lost().unwrap();
            assert!(why.contains("ada.json is damaged"), "{why}");
            assert_eq!(in_force(), None);
        }
        fs::remove_file(&path).unwrap();
        assert!(lost().unwrap().contains("ada.json is gone"), "{:?}", lost());
        fs::write(&path, &text).unwrap();
        assert_eq!((lost(), in_force()), (None, Some(made.fingerprint)));
    }
}
