//! What is said of findings: which of them pass, because the upstream has them already or the operator lets
//! them, and what the agent reads of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::BorrowedFd;
use std::time::UNIX_EPOCH;

use super::document::Exception;
use super::entry::FindingEntry;
use super::jail::Layer;
use super::run::run;
use super::search::{Found, Hit, Kind, Search, header, text};
use super::sentence::harmless;
use crate::sidecar::dlp::Named;

/// Commits of the upstream's that are looked into.
const BOUNDARIES: usize = 64;
/// What of a path is looked into, in each of them.
const EARLIER: u64 = 16 << 20;
/// Places that are looked into: what is found in others is refused.
const PLACES: usize = 1000;
/// What a listing of commits may have.
const LISTED: u64 = 128 << 20;
/// Findings that are told.
const TOLD: usize = 20;

/// What becomes of findings.
#[derive(Debug, Default)]
pub(super) struct Judged {
    pub(super) refused: Vec<Hit>,
    /// Each with why.
    pub(super) passed: Vec<(Hit, &'static str)>,
}

/// By what a finding is known again.
type Known = BTreeSet<(String, [u8; 32])>;

/// Judges what was found.
pub(super) fn judge(
    search: &Search<'_>,
    found: &Found,
    allow: &[Exception],
    tips: &str,
    not: &[&str],
) -> io::Result<Judged> {
    let mut judged = Judged::default();
    let mut earlier: BTreeMap<(Kind, String), Known> = BTreeMap::new();
    let mut boundaries = None;
    for hit in &found.hits {
        if !hit.mark.known && allow.iter().any(|one| holds(one, hit)) {
            judged.passed.push((hit.clone(), "allowed"));
            continue;
        }
        let has_path = matches!(hit.kind, Kind::Blob | Kind::Tree) && !hit.mark.known;
        if has_path && (hit.kind == Kind::Tree || !hit.path.is_empty()) {
            let key = (hit.kind, hit.path.clone());
            if !earlier.contains_key(&key) && earlier.len() < PLACES {
                if boundaries.is_none() {
                    boundaries = Some(self::boundaries(search, tips, not)?);
                }
                let known = stood(search, boundaries.as_deref().unwrap_or_default(), hit)?;
                earlier.insert(key.clone(), known);
            }
            let value = (hit.mark.rule.clone(), hit.mark.digest);
            if earlier.get(&key).is_some_and(|known| known.contains(&value)) {
                judged.passed.push((hit.clone(), "known_upstream"));
                continue;
            }
        }
        judged.refused.push(hit.clone());
    }
    Ok(judged)
}

fn holds(one: &Exception, hit: &Hit) -> bool {
    let now = crate::sidecar::clock::now()
        .duration_since(UNIX_EPOCH)
        .map_or(u64::MAX, |now| now.as_secs());
    one.rule == hit.mark.rule
        && one.path == hit.place()
        && one.fingerprint == hit.mark.fingerprint()
        && one.expires.is_none_or(|end| now < end)
}

/// The parents of what is new that the upstream has.
fn boundaries(search: &Search<'_>, tips: &str, not: &[&str]) -> io::Result<Vec<String>> {
    let mut arguments = vec!["rev-list", "--boundary", "--stdin"];
    arguments.extend(not);
    let listed = git(search, &arguments, tips.as_bytes(), LISTED)?;
    let lines = listed.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"-"));
    Ok(lines.take(BOUNDARIES).map(|oid| String::from_utf8_lossy(oid).into_owned()).collect())
}

/// What is found in the same place of those.
fn stood(search: &Search<'_>, boundaries: &[String], hit: &Hit) -> io::Result<Known> {
    let names: String =
        boundaries.iter().map(|commit| format!("{commit}:{}\n", hit.path)).collect();
    let check = ["cat-file", "--batch-check=%(objectname) %(objecttype) %(objectsize)"];
    let listed = git(search, &check, names.as_bytes(), LISTED)?;
    let mut objects = BTreeSet::new();
    for line in listed.split(|byte| *byte == b'\n') {
        let mut line = line.to_vec();
        line.push(b'\n');
        // What is not there, or larger, has nothing that is known.
        if let Ok(Some(header)) = header(&mut line.as_slice())
            && header.kind == hit.kind
            && header.size <= EARLIER
        {
            objects.insert(header.oid);
        }
    }
    let mut known = Known::new();
    let named = Named::new(search.scanner);
    for oid in objects {
        let kind = if hit.kind == Kind::Tree { "tree" } else { "blob" };
        let data = git(search, &["cat-file", kind, &oid], b"", EARLIER)?;
        let mut marks = search.scanner.marks(search.host, super::work::today());
        marks.push(&text(hit.kind, &data));
        let mut marks = marks.end().unwrap_or_default();
        marks.extend(named.marks(search.host, super::work::today(), &hit.path, &data));
        known.extend(marks.into_iter().map(|mark| (mark.rule, mark.digest)));
    }
    Ok(known)
}

fn git(search: &Search<'_>, arguments: &[&str], input: &[u8], most: u64) -> io::Result<Vec<u8>> {
    let command = search.git.command(search.place, arguments);
    let guest: Option<BorrowedFd<'_>> = search.guest;
    let layer = Layer::writing(&[])?;
    run(command, &layer, &[], input, most, search.deadline, guest)?.well("looking at what is there")
}

/// A finding, for the log.
pub(super) fn entry(search: &Search<'_>, hit: &Hit, passes: Option<&str>) -> FindingEntry {
    FindingEntry {
        rule: hit.mark.rule.clone(),
        path: shown(search, hit),
        line: hit.mark.line,
        commit: hit.commit.clone(),
        fingerprint: hit.mark.fingerprint(),
        passes: passes.map(str::to_owned),
    }
}

/// The place of a finding, as it can be told.
fn shown(search: &Search<'_>, hit: &Hit) -> String {
    let place = hit.place();
    if search.scanner.scan(search.host, super::work::today(), place.as_bytes()).is_empty() {
        harmless(place.as_bytes())
    } else {
        "a name that is withheld".to_owned()
    }
}

/// What the agent reads of findings, a line each.
pub(super) fn lines(search: &Search<'_>, hits: &[Hit], more: bool) -> Vec<String> {
    let count = match (hits.len(), more) {
        (1, false) => "1 secret".to_owned(),
        (count, false) => format!("{count} secrets"),
        (count, true) => format!("more than {count} secrets"),
    };
    let mut lines =
        vec![format!("{count} in what is pushed. Nothing was sent to {}.", search.host)];
    for hit in hits.iter().take(TOLD) {
        lines.push(format!("  {}", line(search, hit)));
    }
    if hits.len() > TOLD {
        lines.push(format!("  and {} more", hits.len() - TOLD));
    }
    lines.push(
        "take it out of every commit that has it (amend, or rebase -i) and push again. Is it no secret? \
         Ask the operator for an exception."
            .to_owned(),
    );
    lines
}

/// One finding, in one line.
pub(super) fn line(search: &Search<'_>, hit: &Hit) -> String {
    let place = shown(search, hit);
    let line = hit.mark.line.filter(|_| hit.kind == Kind::Blob);
    let line = line.map(|line| format!(":{line}")).unwrap_or_default();
    let commit = hit.commit.as_deref().and_then(|commit| commit.get(..12));
    let commit = commit.map(|commit| format!(", commit {commit}")).unwrap_or_default();
    format!("{}: {place}{line}{commit}, fingerprint {}", hit.mark.rule, hit.mark.fingerprint())
}
