//! What must be somewhere, and where.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::writer;

/// Where a line must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Must {
    /// In its sandbox.
    Live,
    /// There, or in a snapshot.
    Kept,
}

/// All that was said to be written.
#[derive(Default)]
pub(super) struct Ledger {
    seen: HashSet<String>,
    must: BTreeMap<String, Must>,
    /// Of what is written now: whose, under which path, and where it must be once its machine is gone.
    counts: BTreeMap<(usize, char), Must>,
}

impl Ledger {
    /// Takes what machines have said, to the end of each: nothing runs in one when what it has is kept.
    pub(super) fn hear(&mut self, said: Vec<(String, String)>) {
        for (_, line) in said {
            let Some((what, line)) = line.split_once(' ') else { continue };
            if !matches!(what, "wrote" | "special") || !self.seen.insert(format!("{what} {line}")) {
                continue;
            }
            let Some(of) = writer::parse(line) else { continue };
            let Some(must) = self.counts.get(&of).copied() else { continue };
            self.must.insert(format!("{what} {line}"), must);
        }
    }

    /// What is written from now on under these paths counts.
    pub(super) fn count(&mut self, life: usize, roots: &BTreeSet<char>) {
        for root in roots {
            self.counts.insert((life, *root), Must::Live);
        }
    }

    /// Nothing under this path must be anywhere.
    pub(super) fn give_up(&mut self, life: usize, root: char) {
        self.counts.remove(&(life, root));
        self.must.retain(|line, _| of(line) != Some((life, root)));
    }

    /// What is there under this path does not come into the next machine.
    pub(super) fn stays_behind(&mut self, life: usize, root: char) {
        for (_, must) in self.must.iter_mut().filter(|(line, _)| of(line) == Some((life, root))) {
            *must = Must::Kept;
        }
        if let Some(must) = self.counts.get_mut(&(life, root)) {
            *must = Must::Kept;
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&str, (usize, char), Must)> {
        self.must.iter().filter_map(|(line, must)| Some((line.as_str(), of(line)?, *must)))
    }

    pub(super) fn len(&self) -> usize {
        self.must.len()
    }

    /// How many lines of a sandbox were heard.
    pub(super) fn heard_of(&self, life: usize) -> usize {
        self.seen.iter().filter(|line| of(line).is_some_and(|(of, _)| of == life)).count()
    }

    /// The runs of its command.
    pub(super) fn runs_of(&self, life: usize) -> BTreeSet<String> {
        let lines = self.seen.iter().filter(|line| of(line).is_some_and(|(of, _)| of == life));
        lines.filter_map(|line| line.split('.').nth(2)).map(str::to_owned).collect()
    }
}

fn of(line: &str) -> Option<(usize, char)> {
    writer::parse(line.split_once(' ')?.1)
}
