//! What a yes to requests would do, in all that a person has to see of it, and the token that stands for exactly
//! that: a yes counts for what was seen, and for nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::change::Edited;
use super::delta::{self, Delta, Expected};
use super::files::{self, FileError};
use super::propose::{self, Proposal, Terms};
use super::record::Record;
use crate::manifest::edit;
use crate::model::supervise::{RequestId, Standing};
use crate::model::{Desired, Moment, SandboxId, SpecHash};
use crate::plan::{Options, Reason, Verdict};
use crate::reconcile::pass::{Reconciler, canonical};
use crate::reconcile::view::View;

/// Why a decision is refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// No such request is remembered.
    #[error("there is no request {0}")]
    Unknown(RequestId),
    /// Somebody decided.
    #[error("{id} was {state} by {by}, {}", ago(*.at, *.now))]
    Decided {
        /// Which.
        id: RequestId,
        /// What became of it.
        state: Standing,
        /// Who.
        by: String,
        /// When.
        at: Moment,
        /// Now.
        now: Moment,
    },
    /// It ended by itself.
    #[error("{0} is {1}")]
    Over(RequestId, Standing),
    /// What was seen is not what would be done.
    #[error("what you saw of {0} has changed: look again{why}", why = .1.as_ref().map_or_else(String::new, |why| format!(" ({why})")))]
    Stale(RequestId, Option<String>),
    /// It cannot be done.
    #[error("{0}")]
    Blocked(String),
    /// It is no word that an agent is told.
    #[error(
        "a word to the agent is one line of at most {} characters, without any that is not seen",
        crate::model::supervise::MESSAGE
    )]
    Message,
}

/// `2 min ago`.
#[must_use]
pub fn ago(then: Moment, now: Moment) -> String {
    let seconds = now.seconds().saturating_sub(then.seconds());
    match seconds {
        0..60 => format!("{seconds} s ago"),
        60..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// All that a yes would do.
pub struct Review {
    /// The requests, in the order in which they were named.
    pub records: Vec<Record>,
    /// What each of them comes to.
    pub proposals: Vec<Proposal>,
    /// The files of the tree that are edited.
    pub edited: Vec<Edited>,
    /// What changes, in words.
    pub delta: Vec<Delta>,
    /// Who gets it: every sandbox of the bottles.
    pub sandboxes: BTreeSet<SandboxId>,
    /// The plan that follows, where there is one.
    pub view: Option<View>,
    /// Why it cannot be done, if it cannot.
    pub blocked: Option<String>,
    /// Stands for all of this.
    pub token: String,
    /// The tree.
    pub(super) tree: PathBuf,
    /// When the grant ends, as a file has it and as the operator said it.
    until: Option<(String, String)>,
    /// By bottle what is to change.
    pub(super) expected: BTreeMap<String, Expected>,
}

/// A request that waits.
///
/// # Errors
/// [`Refused`] where it does not.
pub(super) fn pending(
    record: Option<Record>,
    id: &RequestId,
    now: Moment,
) -> Result<Record, Refused> {
    let record = record.ok_or_else(|| Refused::Unknown(id.clone()))?;
    match (record.state, &record.decision) {
        (Standing::Pending, _) => Ok(record),
        (state, Some(decision)) => Err(Refused::Decided {
            id: id.clone(),
            state,
            by: decision.by.clone(),
            at: decision.at,
            now,
        }),
        (state, None) => Err(Refused::Over(id.clone(), state)),
    }
}

/// The file of a bottle, by its path in the tree.
pub(super) fn bottle_file(bottle: &str) -> String {
    format!("bottles/{bottle}.md")
}

impl Reconciler {
    /// What a yes to these requests would do. Looks at tree and backends and changes nothing.
    ///
    /// # Errors
    /// [`Refused`] where one of them does not wait; or when the tree or the state folder cannot be read.
    pub async fn review(&mut self, ids: &[RequestId], terms: &Terms) -> anyhow::Result<Review> {
        let desired = self.desired().await?;
        let memory = self.state.tree(&desired.tree.owner)?;
        let mut records = Vec::new();
        for id in ids {
            records.push(pending(memory.request(id)?, id, super::now())?);
        }
        let mut review = Review {
            records,
            proposals: Vec::new(),
            edited: Vec::new(),
            delta: Vec::new(),
            sandboxes: BTreeSet::new(),
            view: None,
            blocked: None,
            token: String::new(),
            tree: canonical(&self.load.tree),
            until: terms.until.zip(terms.within).map(|(until, within)| {
                (until.in_seconds(), format!("in {} ms", within.as_millis()))
            }),
            expected: BTreeMap::new(),
        };
        if let Err(why) = review.edits(&desired, terms) {
            review.blocked = Some(why);
        }
        if review.blocked.is_none() {
            self.judge(&mut review, desired, terms).await?;
        }
        review.token = review.seal();
        Ok(review)
    }

    /// Loads the tree as it would be, compares, and plans.
    pub(super) async fn judge(
        &mut self,
        review: &mut Review,
        desired: Desired,
        terms: &Terms,
    ) -> anyhow::Result<()> {
        let mut after = desired.clone();
        if !review.edited.is_empty() {
            let edited = review.edited.iter();
            self.load.instead = edited
                .map(|one| (PathBuf::from(&one.file), one.after.clone().into_bytes()))
                .collect();
            let loaded = self.desired().await;
            self.load.instead.clear();
            after = loaded?;
            match delta::check(&desired, &after, &review.expected) {
                Ok(delta) => review.delta = delta,
                Err(why) => {
                    review.blocked = Some(why.to_string());
                    return Ok(());
                }
            }
        }
        let only = Some(review.sandboxes.clone());
        let view = self.look_at(after, Options { only, ..Options::default() }).await?;
        if let Some(token) = &terms.token_ref
            && !terms.even_unset
            && review.edited.iter().any(|one| !one.edits.is_empty())
        {
            let waits = view.plan.changes.iter().any(|change| match &change.reason {
                Reason::NeedsInput { names, tokens } => {
                    names.contains(token) || tokens.contains(token)
                }
                _ => false,
            });
            if waits || view.credentials.get(token).is_none() {
                review.blocked = Some(unset(token, &view));
            }
        }
        if let Some(refusal) = &view.plan.refused {
            review.blocked.get_or_insert_with(|| format!("the plan is refused: {refusal:?}"));
        }
        review.view = Some(view);
        Ok(())
    }
}

/// What a route without its token would do.
fn unset(token: &str, view: &View) -> String {
    let watch = match view.memory.watcher() {
        Some(pid) => format!("`watch` (pid {pid}) needs it too"),
        None => "whoever runs `bottle watch` needs it too".to_owned(),
    };
    format!(
        "{token} is not set here, and {watch}: without it every sandbox of the bottle is held \
         (`--even-unset` grants it all the same)"
    )
}

impl Review {
    fn edits(&mut self, desired: &Desired, terms: &Terms) -> Result<(), String> {
        let mut by_file: BTreeMap<String, Edited> = BTreeMap::new();
        let mut by_hand = None;
        for record in &mut self.records {
            let spec = desired.sandboxes.get(&record.sandbox).ok_or_else(|| {
                format!("{} is not declared now, or its manifest does not hold", record.sandbox)
            })?;
            record.bottle.clone_from(&spec.bottle);
            let of_bottle = desired.sandboxes.values().filter(|it| it.bottle == spec.bottle);
            self.sandboxes.extend(of_bottle.map(|it| it.id.clone()));
            let file = bottle_file(&spec.bottle);
            if !by_file.contains_key(&file) {
                let text = match files::open(&self.tree, &file) {
                    Ok(held) => {
                        String::from_utf8(held.bytes).map_err(|_| format!("{file} is not UTF-8"))?
                    }
                    // A person can make the edit where a program does not.
                    Err(error) => {
                        let text = files::peek(&self.tree, &file);
                        let text = text.filter(|_| error.is_for_a_person());
                        let why = error.to_string();
                        let text = text.ok_or_else(|| why.clone())?;
                        by_hand.get_or_insert(why);
                        text
                    }
                };
                let edited = Edited {
                    file: file.clone(),
                    before: text.clone(),
                    after: text,
                    edits: Vec::new(),
                };
                by_file.insert(file.clone(), edited);
            }
            let Some(edited) = by_file.get_mut(&file) else { continue };
            let proposal = propose::propose(record, terms, &edited.after)
                .map_err(|error| format!("{}: {error}", record.id))?;
            edited.after = edit::edit(&edited.after, &proposal.edits)
                .map_err(|error| format!("{file}: {error}: nothing was changed"))?;
            edited.edits.extend(proposal.edits.iter().cloned());
            if !proposal.edits.is_empty() {
                self.expected.entry(spec.bottle.clone()).or_default().extend(&proposal.expected);
            }
            self.proposals.push(proposal);
        }
        self.edited = by_file.into_values().filter(|one| !one.edits.is_empty()).collect();
        by_hand.map_or(Ok(()), Err)
    }

    /// The digest of all that is shown and done.
    pub(super) fn seal(&self) -> String {
        let mut all = String::new();
        for record in &self.records {
            all.push_str(&format!("{} {} {}\n", record.id, record.sandbox, record.ask.digest()));
        }
        for proposal in &self.proposals {
            all.push_str(&format!("{}\n", proposal.granted.digest()));
        }
        for one in &self.edited {
            // A time that counts from now is another one in each look.
            let after = match &self.until {
                Some((until, said)) => one.after.replace(until.as_str(), said),
                None => one.after.clone(),
            };
            let (before, after) = (one.before.as_bytes(), after.as_bytes());
            all.push_str(&format!(
                "{} {} {}\n",
                one.file,
                files::digest(before),
                files::digest(after)
            ));
        }
        for (sandbox, verdict) in self.verdicts() {
            all.push_str(&format!("{sandbox} {verdict:?}\n"));
        }
        SpecHash::of_bytes(all.as_bytes()).short()
    }

    /// What becomes of each sandbox that gets it.
    #[must_use]
    pub fn verdicts(&self) -> BTreeMap<SandboxId, Verdict> {
        let planned = self.view.as_ref().map(|view| view.plan.verdicts()).unwrap_or_default();
        self.sandboxes
            .iter()
            .map(|id| (id.clone(), planned.get(id).copied().unwrap_or(Verdict::Keep)))
            .collect()
    }

    /// Why what was seen is not what would be done.
    pub(super) fn differs(&self, seen: &Self) -> Option<String> {
        let before = |review: &Self| -> BTreeMap<String, String> {
            review.edited.iter().map(|one| (one.file.clone(), one.before.clone())).collect()
        };
        let (then, now) = (before(seen), before(self));
        let edited =
            now.iter().find(|(file, text)| then.get(*file).is_some_and(|old| old != *text));
        if let Some((file, _)) = edited {
            return Some(format!("{file} was edited"));
        }
        let asks = |review: &Self| -> Vec<SpecHash> {
            review.records.iter().map(|record| record.ask.digest()).collect()
        };
        if asks(seen) != asks(self) {
            return Some("something else is asked for".to_owned());
        }
        (seen.verdicts() != self.verdicts())
            .then(|| "what it would do is something else".to_owned())
    }

    /// The edit as a unified diff, for `git apply`.
    #[must_use]
    pub fn patch(&self) -> String {
        self.edited.iter().map(patch).collect()
    }
}

/// The edit of one file as a unified diff.
#[must_use]
pub fn patch(edited: &Edited) -> String {
    let Edited { file, before, after, .. } = edited;
    similar::TextDiff::from_lines(before, after)
        .unified_diff()
        .context_radius(3)
        .header(&format!("a/{file}"), &format!("b/{file}"))
        .to_string()
}

impl From<FileError> for Refused {
    fn from(error: FileError) -> Self {
        Self::Blocked(error.to_string())
    }
}
