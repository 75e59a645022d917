//! What of the host sandboxes are given, against what was accepted before and what others can write.
//!
//! A sandbox that can write a folder can put a link in the place of anything in it. So what one
//! sandbox is given never lies in what another can write, and the path that was accepted for a
//! machine stays the path of that machine: the tree may name another, a link may not.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::Path;

use super::decision::Decision;
use super::{Reason, Verdict};
use crate::model::{
    Desired, Diagnostic, Elsewhere, Fields, FsPath, HostSource, InstanceId, Nesting, Observed,
    Ownership, ResourceKind, SandboxId, SandboxSpec, Use, WorkspaceMode, tool,
};

/// Whose a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Whose<'a> {
    Ours(&'a SandboxId),
    /// With the path of its tree.
    Other(&'a Path, &'a SandboxId),
}

impl Whose<'_> {
    fn describe(self, own: &SandboxId) -> String {
        match self {
            Self::Ours(sandbox) if sandbox == own => "this sandbox itself".to_owned(),
            Self::Ours(sandbox) => format!("sandbox {sandbox}"),
            Self::Other(tree, sandbox) => {
                format!("sandbox {sandbox} of the tree {}", tree.display())
            }
        }
    }
}

type Named<'a> = (Whose<'a>, &'a HostSource);

/// What can be written, by the path that it was given by.
struct Mounts<'a> {
    by_path: BTreeMap<&'a Path, Vec<Named<'a>>>,
    /// The same paths, by where they lie on their file systems.
    by_place: BTreeMap<&'a FsPath, BTreeSet<&'a Path>>,
}

impl<'a> Mounts<'a> {
    fn of(all: &[Named<'a>]) -> Self {
        let mut by_path: BTreeMap<&Path, Vec<Named<'_>>> = BTreeMap::new();
        let mut by_place: BTreeMap<&FsPath, BTreeSet<&Path>> = BTreeMap::new();
        for (whose, source) in all.iter().filter(|(_, source)| source.usage == Use::Mount) {
            by_path.entry(&source.path).or_default().push((*whose, *source));
            for place in source.writes() {
                by_place.entry(place).or_default().insert(&source.path);
            }
        }
        Self { by_path, by_place }
    }

    /// The writable folders in which somebody could put something else in the place of `source`.
    fn over<'m>(&'m self, source: &'m HostSource) -> impl Iterator<Item = &'m [Named<'a>]> {
        let named = [&source.path].into_iter().chain(&source.via);
        let mut paths: Vec<&Path> = named.flat_map(|path| path.ancestors()).collect();
        // Where nothing is writable, nobody has to know where the source lies.
        let places = if self.by_place.is_empty() { &[] } else { source.places() };
        for place in places {
            for path in place.path.ancestors() {
                let place = FsPath { device: place.device.clone(), path: path.to_owned() };
                paths.extend(self.by_place.get(&place).into_iter().flatten());
            }
        }
        // What decides what a sandbox is must not be written in part either.
        if source.usage == Use::Define {
            let within = |path: &&Path| path.starts_with(&source.path);
            let from = (Bound::Included(source.path.as_path()), Bound::Unbounded);
            let below = self.by_path.range::<Path, _>(from).map(|(path, _)| *path);
            paths.extend(below.take_while(within));
            if let Some(own) = places.first() {
                let within = |(place, _): &(&&FsPath, &BTreeSet<&'a Path>)| {
                    place.device == own.device && place.path.starts_with(&own.path)
                };
                let below = self
                    .by_place
                    .range::<FsPath, _>((Bound::Included(own), Bound::Unbounded))
                    .take_while(within);
                paths.extend(below.flat_map(|(_, paths)| paths));
            }
        }
        let mut seen = BTreeSet::new();
        paths.retain(|path| seen.insert(*path));
        paths.into_iter().filter_map(|path| {
            let mounts = self.by_path.get(path)?;
            mounts.iter().any(|(_, m)| m.endangers(source).is_some()).then_some(mounts.as_slice())
        })
    }
}

/// Holds every sandbox that is given what another one, of any tree, can put something else in the
/// place of; and the other one, where it is this tree's.
pub fn hold_exposed(desired: &mut Desired, elsewhere: &[Elsewhere]) {
    let found: BTreeMap<SandboxId, Diagnostic> = {
        let own = desired.sandboxes.iter().flat_map(|(id, spec)| {
            spec.sources.iter().map(move |source| (Whose::Ours(id), source))
        });
        let others = elsewhere.iter().flat_map(|other| {
            let whose = Whose::Other(&other.tree, &other.sandbox);
            other.sources.iter().map(move |source| (whose, source))
        });
        let all: Vec<Named<'_>> = own.chain(others).collect();
        let mounts = Mounts::of(&all);
        let mut found = BTreeMap::new();
        let mut told: BTreeSet<&Path> = BTreeSet::new();
        for (whose, source) in &all {
            for over in mounts.over(source) {
                let (writer, mount) = over[0];
                if let Whose::Ours(id) = whose {
                    found
                        .entry((*id).clone())
                        .or_insert_with(|| exposed(id, source, writer, mount));
                }
                // Once for each writable folder: what else lies in it makes it no worse.
                if !told.insert(&mount.path) {
                    continue;
                }
                for (writer, mount) in over {
                    if let Whose::Ours(id) = writer {
                        found
                            .entry((*id).clone())
                            .or_insert_with(|| exposed(id, mount, *whose, source));
                    }
                }
            }
        }
        found
    };
    for (id, diagnostic) in found {
        desired.sandboxes.remove(&id);
        // Agents share a bottle, and then its findings.
        if !desired.diagnostics.contains(&diagnostic) {
            desired.diagnostics.push(diagnostic.clone());
        }
        desired.held.insert(id, vec![diagnostic]);
    }
}

/// Who can put something else in the place of a file that is read for this tree and stands in none, as
/// the end of a sentence.
#[must_use]
pub fn writer_of(
    source: &HostSource,
    desired: &Desired,
    accepted: &BTreeMap<SandboxId, Vec<HostSource>>,
    elsewhere: &[Elsewhere],
) -> Option<String> {
    let wanted = desired.sandboxes.iter().map(|(id, spec)| (id, &spec.sources));
    let own = wanted.chain(accepted).map(|(id, sources)| (Whose::Ours(id), sources));
    let others =
        elsewhere.iter().map(|other| (Whose::Other(&other.tree, &other.sandbox), &other.sources));
    let mut all = own
        .chain(others)
        .flat_map(|(whose, sources)| sources.iter().map(move |source| (whose, source)))
        .filter(|(_, mount)| mount.usage == Use::Mount);
    let (whose, mount) = all.find(|(_, mount)| source.endangers(mount).is_some())?;
    let who = match whose {
        Whose::Ours(sandbox) => format!("sandbox {sandbox}"),
        Whose::Other(tree, sandbox) => format!("sandbox {sandbox} of the tree {}", tree.display()),
    };
    let leads =
        source.leads_through(mount).map(|link| format!("leads through `{}`, and ", link.display()));
    Some(format!(
        "{}lies in `{}`, which {who} can write: from inside, anything can be put in its place",
        leads.unwrap_or_default(),
        mount.path.display()
    ))
}

/// What is wrong with `source` of the sandbox `id`, beside what another sandbox is given.
fn exposed(
    id: &SandboxId,
    source: &HostSource,
    whose: Whose<'_>,
    other: &HostSource,
) -> Diagnostic {
    let (path, beside) = (source.path.display(), other.path.display());
    let who = whose.describe(id);
    let nesting = Nesting::of(&source.path, &other.path);
    let beside_link = || {
        if let Some(link) = source.leads_through(other) {
            let (text, link) = (&source.text, link.display());
            return Some(format!(
                "`{text}` leads through `{link}`, which lies in `{beside}`, and {who} can write that: \
                 from inside, it can be made to lead anywhere on the host"
            ));
        }
        let link = other.leads_through(source)?;
        Some(format!(
            "`{path}` is writable and contains `{}`, through which what {who} is given is found ({}): \
             from inside, it can be made to lead anywhere on the host",
            link.display(),
            other.field
        ))
    };
    let message = match (nesting, source.usage) {
        (None, _) if let Some(message) = beside_link() => message,
        (None, _) if source.is_same_folder(other) => format!(
            "`{path}` and `{beside}`, which {who} is given, are one folder under two names: from \
             inside, what decides what a sandbox is can be rewritten"
        ),
        (None, _) => format!(
            "`{path}` and `{beside}`, which {who} is given, are mounts of the same folders under other \
             names: from inside one, anything of the host can be put in the place of the other"
        ),
        (Some(Nesting::Around), Use::Define) => format!(
            "`{path}` contains `{beside}`, which {who} can write: from inside, what a sandbox is made of can be \
             rewritten"
        ),
        (Some(Nesting::Inside), Use::Mount) if other.usage == Use::Define => format!(
            "`{path}` is writable and lies in what {who} is made of (`{beside}`, {}): from inside, it can be \
             rewritten",
            other.field
        ),
        (Some(Nesting::Around), _) => format!(
            "`{path}` is writable and contains `{beside}` ({}), which {who} is given: from inside, \
             anything of the host can be put in its place",
            other.field
        ),
        (_, Use::Mount) if other.usage != Use::Mount => format!(
            "`{path}` is writable and is what {who} is made from ({}): from inside, it can be \
             rewritten",
            other.field
        ),
        (Some(Nesting::Same), _) => {
            format!("`{path}` is the writable workspace of {who}, which can rewrite it from inside")
        }
        _ => format!(
            "`{path}` lies in `{beside}`, which {who} can write: from inside, anything of the host \
             can be put in its place"
        ),
    };
    let place = &source.place;
    Diagnostic {
        line: place.line,
        column: place.column,
        field: Some(source.field.clone()),
        ..Diagnostic::error(place.file.clone(), message)
    }
    .with_hint(
        "name folders that lie beside each other, or the very same folder in both; where the other \
         sandbox is not needed any more, `bottle down` it first",
    )
}

/// Why a machine stays as it is: what the manifest names leads elsewhere than when it was accepted.
pub(super) fn moved(spec: &SandboxSpec, accepted: &[HostSource]) -> Option<Reason> {
    // A tool is a program of the operator's `PATH`, wherever that is: it moves with every new version.
    let fixed = |source: &&HostSource| tool::named(&source.field).is_none();
    spec.sources.iter().filter(fixed).find_map(|source| {
        let mut same = accepted.iter().filter(|known| known.says_the_same(source)).peekable();
        let known = *same.peek()?;
        if same.any(|known| known.path == source.path) {
            return None;
        }
        Some(Reason::ResolvesElsewhere {
            file: source.place.file.clone(),
            line: source.place.line,
            field: source.field.clone(),
            text: source.text.clone(),
            accepted: known.path.display().to_string(),
            now: source.path.display().to_string(),
        })
    })
}

/// Why a machine stays as it is when nothing remembers what was accepted for it: it has one folder of
/// the host, and the manifest leads to another. Whether the operator or a link says so is not known.
pub(super) fn forgotten(spec: &SandboxSpec, machine: &Fields) -> Option<Reason> {
    let hold = |has: &str, now: &Path| Reason::Unreadable {
        what: format!(
            "which path was accepted for it is not recorded: the machine has {has}, and the manifest \
             leads to {}",
            now.display()
        ),
    };
    let workspace = spec.workspace.as_ref().filter(|w| w.mode == WorkspaceMode::Mount);
    if let (Some(has), Some(now)) = (machine.0.get("workspace.mount"), workspace)
        && Path::new(has) != now.path
    {
        return Some(hold(has, &now.path));
    }
    let shown: BTreeSet<&Path> =
        machine.0.keys().filter_map(|key| key.strip_prefix("host_paths.")).map(Path::new).collect();
    let wanted: BTreeSet<&Path> = spec.host_paths.iter().map(|path| path.as_path()).collect();
    let has = shown.difference(&wanted).next()?;
    let now = wanted.difference(&shown).next()?;
    Some(hold(&has.display().to_string(), now))
}

/// Withholds what would be made or started beside a machine that is still there and can put
/// something else in the place of what it is given. What goes by this very plan, and is not made
/// anew, goes first; see [`super::order`].
pub(super) fn withhold_exposed(desired: &Desired, observed: &Observed, decisions: &mut [Decision]) {
    if observed.accepted.is_empty() {
        return;
    }
    let machines: BTreeMap<&SandboxId, Vec<&InstanceId>> = {
        let mut machines: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let ours = observed.instances.iter().filter(|instance| {
            instance.resource == ResourceKind::Machine && instance.ownership == Ownership::Ours
        });
        for instance in ours {
            machines.entry(&instance.sandbox).or_default().push(&instance.id);
        }
        machines
    };
    loop {
        let leaving: BTreeSet<&InstanceId> = decisions
            .iter()
            .filter(|decision| decision.create.is_empty())
            .flat_map(|decision| decision.teardown.iter().map(|instance| &instance.id))
            .collect();
        let live: Vec<Named<'_>> = observed
            .accepted
            .iter()
            .filter(|(id, _)| {
                let there = machines.get(id).into_iter().flatten();
                there.clone().any(|instance| !leaving.contains(instance))
            })
            .flat_map(|(id, sources)| sources.iter().map(move |source| (Whose::Ours(id), source)))
            .collect();
        let mounts = Mounts::of(&live);
        let found = decisions.iter().enumerate().find_map(|(index, decision)| {
            if decision.create.is_empty() && decision.start.is_empty() {
                return None;
            }
            let spec = desired.sandboxes.get(&decision.sandbox)?;
            // What the tree says of itself was judged before; here others of it count.
            let another = |whose: &Whose<'_>| *whose != Whose::Ours(&decision.sandbox);
            spec.sources.iter().find_map(|source| {
                let over = mounts.over(source).flatten().find(|(whose, _)| another(whose));
                let around = || {
                    live.iter()
                        .filter(|_| source.usage == Use::Mount)
                        .find(|(whose, known)| another(whose) && source.endangers(known).is_some())
                };
                let (whose, other) = over.or_else(around)?;
                Some((index, exposed(&decision.sandbox, source, *whose, other)))
            })
        });
        let Some((index, diagnostic)) = found else { return };
        let message = format!(
            "{}:{}:{}: {} (it is still there: apply again when it is gone)",
            diagnostic.file, diagnostic.line, diagnostic.column, diagnostic.message
        );
        let decision = &mut decisions[index];
        decision.withhold();
        for change in &mut decision.changes {
            if change.resource == ResourceKind::Machine && change.verdict == Verdict::Hold {
                change.reason = Reason::ManifestInvalid { message: message.clone() };
            }
        }
    }
}

/// Whether `gone`, the machine of a sandbox that leaves, could put something else in the place of
/// what `made` is given.
pub(super) fn goes_first(
    desired: &Desired,
    observed: &Observed,
    gone: &SandboxId,
    made: &SandboxId,
) -> bool {
    let (Some(left), Some(spec)) = (observed.accepted.get(gone), desired.sandboxes.get(made))
    else {
        return false;
    };
    left.iter().any(|left| spec.sources.iter().any(|source| source.endangers(left).is_some()))
}

/// With whom which sandbox shares a folder that one of them can write, for people.
#[must_use]
pub fn shared_notes(
    desired: &Desired,
    elsewhere: &[Elsewhere],
) -> BTreeMap<SandboxId, Vec<String>> {
    let shared = Shared::among(desired, elsewhere);
    let notes = desired.sandboxes.iter().map(|(id, spec)| (id.clone(), shared.notes(spec)));
    notes.filter(|(_, notes)| !notes.is_empty()).collect()
}

/// Which sandboxes are given which folders.
pub(super) struct Shared<'a>(BTreeMap<&'a Path, Vec<Named<'a>>>);

impl<'a> Shared<'a> {
    pub(super) fn of(desired: &'a Desired, observed: &'a Observed) -> Self {
        Self::among(desired, &observed.elsewhere)
    }

    fn among(desired: &'a Desired, elsewhere: &'a [Elsewhere]) -> Self {
        let own = desired.sandboxes.iter().flat_map(|(id, spec)| {
            spec.sources.iter().map(move |source| (Whose::Ours(id), source))
        });
        let others = elsewhere.iter().flat_map(|other| {
            let whose = Whose::Other(&other.tree, &other.sandbox);
            other.sources.iter().map(move |source| (whose, source))
        });
        let all: Vec<Named<'_>> = own.chain(others).collect();
        let mounted: BTreeSet<&Path> = all
            .iter()
            .filter(|(_, source)| source.usage == Use::Mount)
            .map(|(_, source)| source.path.as_path())
            .collect();
        let mut shared: BTreeMap<&Path, Vec<Named<'_>>> = BTreeMap::new();
        for (whose, source) in all {
            if source.usage != Use::Define && mounted.contains(source.path.as_path()) {
                shared.entry(&source.path).or_default().push((whose, source));
            }
        }
        shared.retain(|_, users| users.len() > 1);
        Self(shared)
    }

    /// With whom the sandbox shares a folder that one of them can write.
    pub(super) fn notes(&self, spec: &SandboxSpec) -> Vec<String> {
        let mut notes = Vec::new();
        for source in &spec.sources {
            let Some(users) = self.0.get(source.path.as_path()) else { continue };
            let others: BTreeSet<String> = users
                .iter()
                .filter(|(whose, _)| *whose != Whose::Ours(&spec.id))
                .map(|(whose, other)| {
                    let how = if other.usage == Use::Mount { "writes" } else { "reads" };
                    format!("{} ({how} it)", whose.describe(&spec.id))
                })
                .collect();
            if others.is_empty() {
                continue;
            }
            let count = others.len();
            let mut list: Vec<String> = others.into_iter().take(5).collect();
            if count > list.len() {
                list.push(format!("{} more", count - list.len()));
            }
            let note = format!(
                "shares {} with {}: files, and unix sockets in it, lead from one to the other",
                source.path.display(),
                list.join(", ")
            );
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        notes
    }
}
