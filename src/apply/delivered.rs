//! What of skills is taken out of a guest before others go in: what we have put there and is still as we
//! wrote it. An agent may keep files of its own in the folder of a skill.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use anyhow::Context as _;

use super::provision::{Provision, folder_of_skills};
use crate::backend::{Backend, Identity, Scope};
use crate::model::{Receipt, SpecHash};
use crate::plan::diff;

/// So much of a skill's folder is looked at; of a larger one only what was delivered goes.
const LARGEST: u64 = 8 << 20;

/// The skills that are inside as they are wanted: they are not touched.
pub(super) fn unchanged(work: &Provision<'_>) -> BTreeSet<String> {
    let Some(prior) = work.prior.filter(|prior| prior.guest.is_some()) else {
        return BTreeSet::new();
    };
    if prior.skills_dir != work.guest.skills_dir {
        return BTreeSet::new();
    }
    let wanted = work.guest.fields();
    let same = |name: &&String| {
        let field = format!("skills.{name}");
        let inside = prior.fields.0.get(&field);
        prior.skills.contains(*name) && inside.is_some() && inside == wanted.0.get(&field)
    };
    work.guest.skills.keys().filter(same).cloned().collect()
}

/// All that may stand in the skills' files while `work` is under way, beside what its receipt says.
pub(super) fn under_way(
    work: &Provision<'_>,
    stays: &BTreeSet<String>,
) -> BTreeMap<String, BTreeSet<SpecHash>> {
    let mut all = work.prior.map(|prior| prior.under_way.clone()).unwrap_or_default();
    for (path, content) in diff::files(work.guest) {
        let skill = path.strip_prefix("skills/").and_then(|path| path.split_once('/'));
        if skill.is_some_and(|(name, _)| !stays.contains(name)) {
            all.entry(path).or_default().insert(SpecHash::of_bytes(&content));
        }
    }
    all
}

/// The paths that go before others come. Of what is inside without a record nothing does: what is wanted
/// is written over it.
pub(super) async fn outdated(
    backend: &dyn Backend,
    scope: &Scope,
    work: &Provision<'_>,
    identity: &Identity,
    stays: &BTreeSet<String>,
) -> anyhow::Result<Vec<String>> {
    let Some(prior) = work.prior else { return Ok(Vec::new()) };
    let old_dir = folder_of_skills(prior.skills_dir.as_deref(), identity);
    let mut paths = Vec::new();
    for name in prior.skills.iter().filter(|name| !stays.contains(*name)) {
        let folder = format!("{old_dir}/{name}");
        let ours = ours(prior, name);
        let inside = match backend.copy_out(scope, work.instance, &folder, LARGEST).await {
            Ok(tar) => listed(&tar).ok(),
            Err(error) if error.is_absent() => Some(BTreeMap::new()),
            Err(error) if error.is_too_large() => None,
            Err(error) => return Err(error).context("looking for what is beside a skill"),
        };
        let is_ours = |path: &str, hash: &Option<SpecHash>| {
            let contents = ours.get(path).zip(hash.as_ref());
            contents.is_some_and(|(contents, hash)| contents.contains(hash))
        };
        match inside {
            // As it was delivered, or less.
            Some(inside) if inside.iter().all(|(path, hash)| is_ours(path, hash)) => {
                paths.push(folder);
            }
            // What is still ours goes alone. What we put below a folder that is now the agent's link is not
            // there any more: its path leads elsewhere.
            Some(inside) => {
                let goes = inside.iter().filter(|(path, hash)| is_ours(path, hash));
                paths.extend(goes.map(|(path, _)| format!("{folder}/{path}")));
            }
            // Of what is too large to be read, what was put there.
            None => paths.extend(ours.keys().map(|path| format!("{folder}/{path}"))),
        }
    }
    Ok(paths)
}

/// The contents of a skill's files that we may have put there, by their paths in it.
fn ours(prior: &Receipt, name: &str) -> BTreeMap<String, BTreeSet<SpecHash>> {
    let begin = format!("skills/{name}/");
    let ended = prior.files.iter().map(|(path, hash)| (path, BTreeSet::from([*hash])));
    let begun = prior.under_way.iter().map(|(path, hashes)| (path, hashes.clone()));
    let mut all: BTreeMap<String, BTreeSet<SpecHash>> = BTreeMap::new();
    for (path, hashes) in ended.chain(begun) {
        if let Some(path) = path.strip_prefix(&begin) {
            all.entry(path.to_owned()).or_default().extend(hashes);
        }
    }
    all
}

/// What is in such a tar but folders, by its path below the first one, with the hash that a receipt has of it.
/// What is neither file nor symlink was never delivered and has none: a FIFO, a second name.
fn listed(tar: &[u8]) -> anyhow::Result<BTreeMap<String, Option<SpecHash>>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(tar).entries()? {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            continue;
        }
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let path = path.trim_start_matches("./");
        // The folder itself may be a link, which goes as one.
        let Some((_, below)) = path.split_once('/') else { continue };
        let below = below.to_owned();
        let mut content = Vec::new();
        let known = match kind {
            kind if kind.is_file() => entry.read_to_end(&mut content).map(|_| true)?,
            kind if kind.is_symlink() => {
                content = diff::symlink(&entry.link_name_bytes().unwrap_or_default());
                true
            }
            _ => false,
        };
        files.insert(below, known.then(|| SpecHash::of_bytes(&content)));
    }
    Ok(files)
}
