//! Decisions: yes, no, and back. Each is written down before it is carried out, under a lock that only those who
//! decide take.

use std::time::Duration;

use super::change::{self, ChangeError, Edited};
use super::delta;
use super::files;
use super::propose::{NotProposed, Terms};
use super::record::{Decision, Made, Record};
use super::recover;
use super::review::{Refused, Review, bottle_file, pending};
use super::store::{Decider, now};
use crate::manifest::edit::{self, Edit, Item};
use crate::model::supervise::{Ask, RequestId, Standing, What, is_message};
use crate::model::text::{quoted_lines, spelled_line};
use crate::model::{Moment, SandboxId};
use crate::reconcile::pass::{Reconciler, canonical};
use crate::reconcile::state::TreeState;

/// How long another `bottle` that decides is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who decides, and through what.
#[derive(Debug, Clone)]
pub struct By {
    /// The user's name.
    pub name: String,
    /// The user.
    pub uid: u32,
    /// `cli`.
    pub via: &'static str,
}

/// What was done.
#[derive(Debug)]
pub struct Done {
    /// The requests as they stand now.
    pub records: Vec<Record>,
    /// The commit, where there is one.
    pub commit: Option<String>,
    /// Why there is none, where something was edited.
    pub untracked: Option<String>,
}

impl TreeState {
    /// Takes the lock of whoever decides, and goes on, or back, with what was cut short.
    ///
    /// # Errors
    /// [`super::Deciding`], or when that cannot be done.
    pub async fn decider(&self, tree: &std::path::Path) -> anyhow::Result<Decider> {
        let lock = self.decide(PATIENCE).await?;
        if recover::is_needed(&self.requests()?) {
            recover::recover(self, &lock, &canonical(tree)).await?;
        }
        Ok(lock)
    }

    /// Goes on, or back, with what was cut short, where anything was. Whoever decides right now is left alone.
    ///
    /// # Errors
    /// When that cannot be done.
    pub async fn recover_requests(&self, tree: &std::path::Path) -> anyhow::Result<()> {
        if !recover::is_needed(&self.requests()?) {
            return Ok(());
        }
        match self.decide(Duration::ZERO).await {
            Ok(lock) => recover::recover(self, &lock, &canonical(tree)).await,
            Err(error) if error.is::<super::Deciding>() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl By {
    fn decides(&self, message: Option<&String>, until: Option<Moment>) -> Decision {
        Decision {
            by: self.name.clone(),
            uid: self.uid,
            via: self.via.to_owned(),
            at: now(),
            message: message.cloned(),
            until,
            review: None,
            granted: None,
        }
    }
}

fn refuse_message(message: Option<&String>) -> Result<(), Refused> {
    message.is_none_or(|message| is_message(message)).then_some(()).ok_or(Refused::Message)
}

impl Reconciler {
    /// A yes to exactly what `token` stands for: the edit, and its commit. `seen` says better what has changed
    /// where it does not any more.
    ///
    /// # Errors
    /// [`Refused`] or [`ChangeError`]: nothing was changed.
    pub async fn approve(
        &mut self,
        ids: &[RequestId],
        terms: &Terms,
        token: &str,
        seen: Option<&Review>,
        by: &By,
        no_commit: bool,
    ) -> anyhow::Result<Done> {
        refuse_message(terms.message.as_ref())?;
        let owner = self.identify().await?.owner;
        let memory = self.state.tree(&owner)?;
        let lock = memory.decider(&self.load.tree).await?;
        let review = self.review(ids, terms).await?;
        if review.token != token {
            let why = seen.and_then(|seen| review.differs(seen));
            return Err(Refused::Stale(ids[0].clone(), why).into());
        }
        if let Some(why) = review.blocked {
            return Err(Refused::Blocked(why).into());
        }
        let message = commit_message(&review);
        let scratch = memory.dir().join("requests");
        let edited = review.edited.clone();
        let mut prepared =
            change::prepare(&review.tree, &scratch, edited, message, no_commit).await?;
        super::stop_for_tests("after the commit is made");
        let before = review.records.clone();
        let mut records = review.records.clone();
        for (record, proposal) in records.iter_mut().zip(&review.proposals) {
            let mut decision = by.decides(terms.message.as_ref(), terms.until);
            decision.review = Some(review.token.clone());
            decision.granted = (proposal.granted != record.ask).then(|| proposal.granted.clone());
            (record.state, record.decision, record.error) =
                (Standing::Approved, Some(decision), None);
            let mine = review.edited.iter().find(|one| one.file == bottle_file(&record.bottle));
            let Some(mine) = mine.filter(|_| !proposal.edits.is_empty()) else { continue };
            record.edit = Some(Made {
                file: mine.file.clone(),
                before: files::digest(mine.before.as_bytes()),
                after: files::digest(mine.after.as_bytes()),
                commit: prepared.commit.clone(),
                branch: prepared.branch(),
                parent: prepared.parent(),
                untracked: prepared.untracked.clone(),
                fields: proposal.expected.fields.iter().cloned().collect(),
                back: backwards(&mine.before, &proposal.edits)?,
                edits: proposal.edits.clone(),
                files: review.edited.iter().map(Edited::record).collect(),
                done: false,
            });
        }
        let changed = self.carry(&memory, &lock, &mut prepared, &mut records, &before).await;
        changed?;
        for record in &mut records {
            if let Some(made) = &mut record.edit {
                (made.commit, made.untracked) =
                    (prepared.commit.clone(), prepared.untracked.clone());
                made.done = true;
            }
            memory.put_request(&lock, record)?;
            memory.audit_request("approved", record);
        }
        Ok(Done { records, commit: prepared.commit, untracked: prepared.untracked })
    }

    /// Writes the records, the files and the branch; where that fails, all is as it was.
    async fn carry(
        &self,
        memory: &TreeState,
        lock: &Decider,
        prepared: &mut change::Prepared,
        records: &mut [Record],
        before: &[Record],
    ) -> anyhow::Result<()> {
        for record in records.iter() {
            memory.put_request(lock, record)?;
            super::stop_for_tests("between records");
        }
        super::stop_for_tests("before the files");
        let scratch = memory.dir().join("requests");
        let done = match prepared.write() {
            Ok(()) => {
                super::stop_for_tests("after the files");
                prepared.point(&scratch).await
            }
            Err(error) => Err(ChangeError::from(error)),
        };
        if let Err(error) = done {
            for record in before {
                memory.put_request(lock, record)?;
            }
            return Err(error.into());
        }
        super::stop_for_tests("before it is said");
        Ok(())
    }

    /// A no, with a word to the agent.
    ///
    /// # Errors
    /// [`Refused`]: nothing was changed.
    pub async fn deny(
        &self,
        ids: &[RequestId],
        message: &String,
        by: &By,
    ) -> anyhow::Result<Vec<Record>> {
        refuse_message(Some(message))?;
        self.answer(ids, Standing::Denied, message, by, |_| Ok(())).await
    }

    /// What was asked for was done by hand.
    ///
    /// # Errors
    /// [`Refused`]: nothing was changed.
    pub async fn resolve(
        &self,
        id: &RequestId,
        message: &String,
        by: &By,
    ) -> anyhow::Result<Vec<Record>> {
        refuse_message(Some(message))?;
        let by_hand = |record: &Record| match &record.ask {
            Ask::Capability(ask)
                if matches!(
                    ask.what,
                    What::Image | What::Mount | What::Package | What::Tool | What::Other
                ) =>
            {
                Ok(())
            }
            _ => {
                let id = &record.id;
                let why = format!(
                    "{id} is answered by `bottle requests approve {id}` or `deny`: the manifest can say it"
                );
                Err(Refused::Blocked(why))
            }
        };
        self.answer(std::slice::from_ref(id), Standing::Applied, message, by, by_hand).await
    }

    async fn answer(
        &self,
        ids: &[RequestId],
        state: Standing,
        message: &String,
        by: &By,
        may: impl Fn(&Record) -> Result<(), Refused>,
    ) -> anyhow::Result<Vec<Record>> {
        let owner = self.identify().await?.owner;
        let memory = self.state.tree(&owner)?;
        let lock = memory.decider(&self.load.tree).await?;
        let mut records = Vec::new();
        for id in ids {
            let record = pending(memory.request(id)?, id, now())?;
            may(&record)?;
            records.push(record);
        }
        for record in &mut records {
            record.state = state;
            record.decision = Some(by.decides(Some(message), None));
            memory.put_request(&lock, record)?;
            memory.audit_request(state.as_str(), record);
        }
        Ok(records)
    }

    /// Takes back what was granted: the same edit backwards, as a new commit.
    ///
    /// # Errors
    /// [`Refused`] or [`ChangeError`]: nothing was changed.
    pub async fn undo(&mut self, id: &RequestId, by: &By, no_commit: bool) -> anyhow::Result<Done> {
        let desired = self.desired().await?;
        let memory = self.state.tree(&desired.tree.owner)?;
        let lock = memory.decider(&self.load.tree).await?;
        let record = memory.request(id)?.ok_or_else(|| Refused::Unknown(id.clone()))?;
        let granted =
            matches!(record.state, Standing::Applied | Standing::Failed | Standing::Approved);
        let made = record.edit.clone().filter(|made| made.done && granted);
        let Some(made) = made else {
            let why = match record.state {
                Standing::Applied => "there is no edit of it to take back".to_owned(),
                state => format!("it is {state}"),
            };
            return Err(Refused::Blocked(format!("{id} cannot be undone: {why}")).into());
        };
        let tree = canonical(&self.load.tree);
        let text = read_text(&tree, &made.file)?;
        let after = edit::edit(&text, &made.back).map_err(|error| {
            Refused::Blocked(format!("{}: {error}: nothing was changed", made.file))
        })?;
        let edited =
            Edited { file: made.file.clone(), before: text, after, edits: made.back.clone() };
        let expected =
            delta::Expected { fields: made.fields.iter().cloned().collect(), variables: true };
        self.only_that(&desired, std::slice::from_ref(&edited), &record.bottle, &expected).await?;
        let scratch = memory.dir().join("requests");
        let title = made.fields.join(", ");
        let message = format!(
            "{}: take back {}\n\nBottle-Undo: {id}\nBottle-Sandbox: {}\n",
            record.bottle,
            spelled_line(&title),
            record.sandbox
        );
        let files = vec![edited.record()];
        let digests = (files[0].before.clone(), files[0].after.clone());
        let mut prepared =
            change::prepare(&tree, &scratch, vec![edited], message, no_commit).await?;
        super::stop_for_tests("after the commit is made");
        let before = record.clone();
        let mut undone = record;
        undone.undo = Some(Made {
            file: made.file.clone(),
            before: digests.0,
            after: digests.1,
            commit: prepared.commit.clone(),
            branch: prepared.branch(),
            parent: prepared.parent(),
            untracked: prepared.untracked.clone(),
            fields: made.fields,
            edits: made.back,
            back: made.edits,
            files,
            done: false,
        });
        let mut records = [undone];
        self.carry(&memory, &lock, &mut prepared, &mut records, &[before]).await?;
        let [mut undone] = records;
        if let Some(made) = &mut undone.undo {
            (made.commit, made.untracked) = (prepared.commit.clone(), prepared.untracked.clone());
            made.done = true;
        }
        undone.state = Standing::Undone;
        if let Some(decision) = &mut undone.decision {
            (decision.by, decision.at) = (by.name.clone(), now());
        }
        memory.put_request(&lock, &undone)?;
        memory.audit_request("undone", &undone);
        Ok(Done { records: vec![undone], commit: prepared.commit, untracked: prepared.untracked })
    }

    /// Refuses edits of a bottle's file that would change anything but this.
    pub(super) async fn only_that(
        &mut self,
        desired: &crate::model::Desired,
        edited: &[Edited],
        bottle: &str,
        expected: &delta::Expected,
    ) -> anyhow::Result<()> {
        self.load.instead =
            edited.iter().map(|one| (one.file.clone().into(), one.after.clone().into())).collect();
        let after = self.desired().await;
        self.load.instead.clear();
        let expected = [(bottle.to_owned(), expected.clone())].into();
        delta::check(desired, &after?, &expected)
            .map_err(|why| Refused::Blocked(why.to_string()))?;
        Ok(())
    }

    /// Takes no requests of a sandbox until then, or takes them again.
    ///
    /// # Errors
    /// When the state folder cannot be written.
    pub async fn mute(&self, sandbox: &SandboxId, until: Option<Moment>) -> anyhow::Result<()> {
        let owner = self.identify().await?.owner;
        let memory = self.state.tree(&owner)?;
        let lock = memory.decider(&self.load.tree).await?;
        memory.mute(&lock, sandbox, until)
    }
}

pub(super) fn read_text(tree: &std::path::Path, file: &str) -> Result<String, Refused> {
    let bytes = files::open(tree, file)?.bytes;
    String::from_utf8(bytes).map_err(|_| Refused::Blocked(format!("{file} is not UTF-8")))
}

/// What takes these edits back where `before` was.
fn backwards(before: &str, edits: &[Edit]) -> anyhow::Result<Vec<Edit>> {
    let mut back = Vec::new();
    for edit in edits {
        match edit {
            Edit::Append { path, value } => {
                back.push(Edit::Remove { path: path.clone(), matches: value.clone() });
            }
            Edit::Set { path, value } => {
                let keys: Vec<&str> = path.iter().map(String::as_str).collect();
                let old = edit::look(before, &keys)?;
                back.push(match old {
                    Item::Null => Edit::Remove { path: path.clone(), matches: value.clone() },
                    old => Edit::Set { path: path.clone(), value: old },
                });
            }
            Edit::Remove { .. } => {}
        }
    }
    back.reverse();
    Ok(back)
}

/// What the commit says. The agents' words stand in the body alone, indented, where no line of them is a trailer.
fn commit_message(review: &Review) -> String {
    let bottles: std::collections::BTreeSet<&str> =
        review.records.iter().map(|record| &*record.bottle).collect();
    let bottles: Vec<&str> = bottles.into_iter().collect();
    let title = match &review.proposals[..] {
        [one] => one.title.clone(),
        several => format!("grant {} requests", several.len()),
    };
    let title = spelled_line(&title);
    let mut text = format!("{}: {title}\n\n", bottles.join(", "));
    for (record, proposal) in review.records.iter().zip(&review.proposals) {
        if review.proposals.len() > 1 {
            text.push_str(&format!("{}\n\n", spelled_line(&proposal.title)));
        }
        let said = format!("{} says: {}", record.sandbox, record.reason);
        for line in quoted_lines(&said, "    ", 100, 20) {
            text.push_str(&line);
            text.push('\n');
        }
        text.push('\n');
    }
    for record in &review.records {
        text.push_str(&format!(
            "Bottle-Request: {}\nBottle-Sandbox: {}\n",
            record.id, record.sandbox
        ));
    }
    text
}

impl From<NotProposed> for Refused {
    fn from(error: NotProposed) -> Self {
        Self::Blocked(error.to_string())
    }
}
