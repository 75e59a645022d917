//! What was asked for and what became of it, as long as the sidecar lives.
//!
//! The host decides, and says so in the documents that it loads: where a document tells of a request, that holds. What
//! it says nothing of waits here until the host looks.

use std::collections::{BTreeSet, VecDeque};

use super::evidence::Evidence;
use crate::model::Moment;
use crate::model::hash::SpecHash;
use crate::model::supervise::{
    Ask, Decided, Held, Known, PENDING, Request, RequestId, Section, Standing, Tool,
};

/// Requests that are remembered.
const KEPT: usize = 50;
/// New ones in a minute.
const A_MINUTE: usize = 10;
/// New ones in a day.
const A_DAY: usize = 60;
/// For so many seconds after a denial the same is not asked again.
pub const DENIED: u64 = 30 * 60;
/// After so many seconds nobody will decide any more.
const EXPIRES: u64 = 24 * 60 * 60;
const MINUTE: u64 = 60;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub id: RequestId,
    /// What is asked for.
    pub ask: Ask,
    digest: SpecHash,
    /// How it stands.
    pub state: Standing,
    /// What was granted, where that is something else.
    pub granted: Option<Ask>,
    /// Until when.
    pub until: Option<Moment>,
    /// The operator's word.
    pub message: Option<String>,
    /// When it was decided; of one that waits, when it was asked.
    pub at: Moment,
    /// What only the sidecar knows that was asked.
    said: Option<Said>,
}

/// How it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    tool: Tool,
    reason: String,
    asked: u64,
    first: Moment,
    last: Moment,
    generation: u64,
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct New {
    /// By which tool.
    pub tool: Tool,
    /// For what.
    pub ask: Ask,
    /// Why.
    pub reason: String,
}

/// What becomes of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It waits; it is a new one.
    New(RequestId),
    /// The same waits already.
    Again(RequestId),
    /// The same was denied a moment ago.
    Denied(Box<Entry>),
    /// No requests are taken before then.
    Muted(Moment),
    /// So many wait already.
    Busy(Vec<RequestId>),
    /// So many were asked for; another may be in so many seconds.
    TooMany(u64),
}

/// All requests of a sandbox, the oldest first.
#[derive(Debug, Default)]
pub struct Queue {
    entries: VecDeque<Entry>,
    /// When those of the last day were new.
    new: VecDeque<Moment>,
    /// Of the document by which the decisions are those.
    generation: u64,
    muted_until: Option<Moment>,
    /// When the log was last told of a flood.
    flood: Option<Moment>,
}

/// The seconds from one moment to another.
fn since(then: Moment, now: Moment) -> u64 {
    now.seconds().saturating_sub(then.seconds())
}

impl Queue {
    /// Takes what a document says, unless a newer one was taken.
    pub fn sync(&mut self, section: &Section, generation: u64) {
        if generation <= self.generation {
            return;
        }
        self.generation = generation;
        self.muted_until = section.muted_until;
        // The document has the newest first.
        for decided in section.requests.iter().rev() {
            match self.entries.iter_mut().find(|entry| entry.id == decided.id) {
                Some(entry) => entry.decide(decided),
                None => self.entries.push_back(Entry::told(decided)),
            }
        }
        self.forget();
    }

    /// Asks for something.
    pub fn ask(
        &mut self,
        new: New,
        now: Moment,
        random: impl Fn() -> Option<[u8; 5]>,
    ) -> Option<Outcome> {
        if let Some(until) = self.muted_until.filter(|until| now < *until) {
            return Some(Outcome::Muted(until));
        }
        self.expire(now);
        let digest = new.ask.digest();
        let mut same = self.entries.iter_mut().rev().filter(|entry| entry.digest == digest);
        if let Some(entry) = same.next() {
            if entry.state.waits() {
                if let Some(said) = &mut entry.said {
                    said.asked += 1;
                    said.last = now;
                }
                return Some(Outcome::Again(entry.id.clone()));
            }
            if entry.state == Standing::Denied && since(entry.at, now) < DENIED {
                return Some(Outcome::Denied(Box::new(entry.clone())));
            }
        }
        let waiting: Vec<RequestId> = self.waiting().map(|entry| entry.id.clone()).collect();
        if waiting.len() >= PENDING {
            return Some(Outcome::Busy(waiting));
        }
        if let Some(seconds) = self.too_many(now) {
            return Some(Outcome::TooMany(seconds));
        }
        let id = self.name(random)?;
        self.new.push_back(now);
        let said = Said {
            tool: new.tool,
            reason: new.reason,
            asked: 1,
            first: now,
            last: now,
            generation: self.generation,
        };
        self.entries.push_back(Entry {
            id: id.clone(),
            ask: new.ask,
            digest,
            state: Standing::Pending,
            granted: None,
            until: None,
            message: None,
            at: now,
            said: Some(said),
        });
        self.forget();
        Some(Outcome::New(id))
    }

    /// It was not asked after all.
    pub fn withdraw(&mut self, id: &RequestId) {
        self.entries.retain(|entry| entry.id != *id);
    }

    /// A name that no other has.
    fn name(&self, random: impl Fn() -> Option<[u8; 5]>) -> Option<RequestId> {
        let names: BTreeSet<&RequestId> = self.entries.iter().map(|entry| &entry.id).collect();
        (0..8).find_map(|_| random().map(RequestId::of).filter(|id| !names.contains(id)))
    }

    /// In how many seconds there may be a new one, if there may be none now.
    fn too_many(&mut self, now: Moment) -> Option<u64> {
        self.new.retain(|asked| since(*asked, now) < EXPIRES);
        let recent = self.new.iter().filter(|asked| since(**asked, now) < MINUTE).count();
        let after = |count: usize, window: u64| {
            let oldest = self.new.iter().rev().nth(count - 1)?;
            Some(window.saturating_sub(since(*oldest, now)).max(1))
        };
        if self.new.len() >= A_DAY {
            after(A_DAY, EXPIRES)
        } else if recent >= A_MINUTE {
            after(A_MINUTE, MINUTE)
        } else {
            None
        }
    }

    /// Whether the log is told of a flood: once a minute.
    pub fn tells_of_flood(&mut self, now: Moment) -> bool {
        let tells = self.flood.is_none_or(|last| since(last, now) >= MINUTE);
        if tells {
            self.flood = Some(now);
        }
        tells
    }

    /// What nobody has decided in a day.
    fn expire(&mut self, now: Moment) {
        for entry in &mut self.entries {
            if entry.state == Standing::Pending && since(entry.at, now) >= EXPIRES {
                entry.state = Standing::Expired;
                entry.at = now;
            }
        }
    }

    fn waiting(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.state.waits())
    }

    /// The oldest that are decided go.
    fn forget(&mut self) {
        for entry in &mut self.entries {
            if let Some(said) = entry.said.as_mut().filter(|_| !entry.state.waits()) {
                said.reason = String::new();
            }
        }
        while self.entries.len() > KEPT {
            let Some(at) = self.entries.iter().position(|entry| !entry.state.waits()) else {
                break;
            };
            self.entries.remove(at);
        }
    }

    /// One request.
    pub fn get(&mut self, id: &RequestId, now: Moment) -> Option<&Entry> {
        self.expire(now);
        self.entries.iter().rev().find(|entry| entry.id == *id)
    }

    /// The last ones, the newest first.
    pub fn last(&mut self, count: usize, now: Moment) -> impl Iterator<Item = &Entry> {
        self.expire(now);
        self.entries.iter().rev().take(count)
    }

    /// What the host is told.
    pub fn held(&mut self, evidence: &Evidence, now: Moment) -> Held {
        self.expire(now);
        let mut held = Held::default();
        for entry in &self.entries {
            match entry.whole(evidence) {
                Some(request) => held.pending.push(request),
                None => held.known.push(Known { id: entry.id.clone(), state: entry.state }),
            }
        }
        held
    }
}

impl Entry {
    fn told(decided: &Decided) -> Self {
        let mut entry = Self {
            id: decided.id.clone(),
            ask: decided.ask.clone(),
            digest: decided.ask.digest(),
            state: decided.state,
            granted: None,
            until: None,
            message: None,
            at: decided.at,
            said: None,
        };
        entry.decide(decided);
        entry
    }

    fn decide(&mut self, decided: &Decided) {
        self.state = decided.state;
        self.granted.clone_from(&decided.granted);
        self.until = decided.until;
        self.message.clone_from(&decided.message);
        self.at = decided.at;
    }

    /// What it is now: what was granted, or what was asked for.
    #[must_use]
    pub fn granted(&self) -> &Ask {
        self.granted.as_ref().unwrap_or(&self.ask)
    }

    /// All of it, where it waits and the host may not know it.
    fn whole(&self, evidence: &Evidence) -> Option<Request> {
        let said = self.said.as_ref().filter(|_| self.state.waits())?;
        let evidence = match &self.ask {
            Ask::Egress(ask) => evidence.of(&ask.host),
            Ask::Credential(ask) => evidence.of(&ask.host),
            Ask::Capability(_) => crate::model::supervise::Evidence::default(),
        };
        Some(Request {
            id: self.id.clone(),
            tool: said.tool,
            ask: self.ask.clone(),
            reason: said.reason.clone(),
            asked: said.asked,
            first: said.first,
            last: said.last,
            generation: said.generation,
            evidence,
            digest: self.digest,
        })
    }
}

#[cfg(test)]
mod tests;
