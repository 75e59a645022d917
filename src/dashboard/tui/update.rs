//! What an event changes, and what it wants done. Pure: the time comes with the event.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::app::{App, HELD, Page, Tab};
use super::event::{At, Effect, Event, Failure, Order, Terms};
use crate::dashboard::card::Card;
use crate::dashboard::snapshot::Snapshot;
use crate::model::supervise::RequestId;

/// Ages are drawn anew after so many seconds, where nothing else has changed.
const AGES: u64 = 30;

impl App {
    /// What this changes, and what is to be done for it.
    pub fn update(&mut self, at: At, event: Event) -> Vec<Effect> {
        self.now = at;
        match event {
            Event::Key(key) => self.key(at, key),
            Event::Paste(text) => self.paste(&text),
            Event::Resized => {
                self.dirty = true;
                Vec::new()
            }
            Event::Looked(snapshot) => self.looked(snapshot),
            Event::Blind(why) => {
                self.dirty |= self.blind.as_ref() != Some(&why);
                self.blind = Some(why);
                Vec::new()
            }
            Event::Reviewed(id, terms, card) => self.reviewed(id, terms, card),
            Event::Detailed(detail) => {
                let shown = self.opened.as_ref().is_some_and(|it| it.name == detail.name);
                if shown && self.detail.as_ref() != Some(&detail) {
                    self.detail = Some(detail);
                    self.dirty = true;
                }
                Vec::new()
            }
            Event::Passed(lines) => {
                self.passed.extend(lines);
                let over = self.passed.len().saturating_sub(HELD);
                self.passed.drain(..over);
                self.dirty |= self.held.is_none() && self.shows_egress();
                Vec::new()
            }
            Event::Audited(lines) => {
                self.dirty |= self.page == Page::Log && self.audit != lines;
                self.audit = lines;
                Vec::new()
            }
            Event::Done(number, outcome) => self.done(number, outcome),
            Event::Noted(text) => {
                self.complain(text);
                Vec::new()
            }
        }
    }

    pub(super) fn shows_egress(&self) -> bool {
        match &self.opened {
            Some(opened) => opened.tab == Tab::Egress,
            None => self.page == Page::Egress,
        }
    }

    fn looked(&mut self, snapshot: Arc<Snapshot>) -> Vec<Effect> {
        let mut effects = Vec::new();
        let same = self.snapshot.as_ref() == Some(&snapshot) && self.blind.is_none();
        if same {
            self.dirty |= self.now.epoch >= self.drawn_at + AGES;
            return effects;
        }
        let (sandbox_at, request_at) = (self.sandbox_at(), self.request_at());
        if let Some(before) = &self.snapshot {
            let known: BTreeSet<&RequestId> = before.requests.iter().map(|ask| &ask.id).collect();
            if snapshot.requests.iter().any(|ask| !known.contains(&ask.id)) {
                effects.push(Effect::Ring(snapshot.requests.len()));
            }
        }
        (self.snapshot, self.blind, self.dirty) = (Some(snapshot), None, true);
        // What was chosen stays chosen, wherever it stands by now.
        let (sandboxes, requests) =
            (self.settle_sandbox(sandbox_at), self.settle_request(request_at));
        match (&self.opened, self.page) {
            (Some(_), _) => {
                if self.chosen_sandbox().is_none() {
                    let gone = self.opened.take().map(|it| it.name).unwrap_or_default();
                    self.complain(format!("{gone} is gone"));
                    self.moved = true;
                }
            }
            (None, Page::Sandboxes) => self.moved |= sandboxes,
            (None, Page::Requests) => self.moved |= requests,
            (None, Page::Egress | Page::Log) => {}
        }
        self.drop_what_is_over();
        effects.extend(self.fetch(true));
        effects
    }

    /// Questions about requests that do not wait any more are taken back.
    fn drop_what_is_over(&mut self) {
        let Some(snapshot) = self.snapshot.clone() else { return };
        let over = |id: &RequestId| !snapshot.requests.iter().any(|ask| ask.id == *id);
        let asked = match self.confirm.as_ref().map(|confirm| &confirm.order) {
            Some(Order::Approve(id, ..) | Order::Deny(id, _)) if over(id) => Some(id.clone()),
            _ => None,
        };
        if let Some(id) = asked {
            self.confirm = None;
            self.moved = true;
            self.complain(format!("{id} does not wait any more: nothing was done"));
        }
        if self.confirm_when.as_ref().is_some_and(|(id, _)| over(id)) {
            self.confirm_when = None;
        }
    }

    /// Says whether the chosen sandbox stands elsewhere than before.
    pub(super) fn settle_sandbox(&mut self, before: Option<usize>) -> bool {
        if self.sandbox_at().is_none() {
            let names: Vec<String> = self.sandboxes().iter().map(|it| it.name.clone()).collect();
            let nearest = before.unwrap_or(0).min(names.len().saturating_sub(1));
            self.sandbox = names.get(nearest).cloned();
            return before.is_some();
        }
        before.is_some() && self.sandbox_at() != before
    }

    /// The same of the chosen request.
    pub(super) fn settle_request(&mut self, before: Option<usize>) -> bool {
        if self.request_at().is_none() {
            let ids: Vec<RequestId> = self.requests().iter().map(|it| it.id.clone()).collect();
            let nearest = before.unwrap_or(0).min(ids.len().saturating_sub(1));
            self.request = ids.get(nearest).cloned();
            self.card_whole = false;
            self.card_scroll = 0;
            return before.is_some();
        }
        before.is_some() && self.request_at() != before
    }

    /// What has to be fetched for what is shown; `again`: also what was.
    pub(super) fn fetch(&mut self, again: bool) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(opened) = &self.opened {
            let known = self.detail.as_ref().is_some_and(|it| it.name == opened.name);
            if again || !known {
                effects.push(Effect::Detail(opened.name.clone()));
            }
        }
        if self.shows_egress() && !self.follows {
            self.follows = true;
            effects.push(Effect::Follow);
        }
        if self.opened.is_none() && self.page == Page::Log {
            effects.push(Effect::Audit);
        }
        if self.opened.is_none() && self.page == Page::Requests {
            effects.extend(self.review(again));
        }
        effects
    }

    /// Asks what a yes to the chosen request would do.
    fn review(&mut self, again: bool) -> Option<Effect> {
        let id = self.request.clone()?;
        let terms = match &self.wanted {
            Some((of, terms)) if *of == id => {
                if !again {
                    return None;
                }
                terms.clone()
            }
            _ => Terms::default(),
        };
        Some(self.review_by(id, terms))
    }

    pub(super) fn review_by(&mut self, id: RequestId, terms: Terms) -> Effect {
        self.wanted = Some((id.clone(), terms.clone()));
        Effect::Review(id, terms)
    }

    fn reviewed(
        &mut self,
        id: RequestId,
        terms: Terms,
        card: Result<Box<Card>, String>,
    ) -> Vec<Effect> {
        let asked = (id, terms);
        if self.wanted.as_ref() != Some(&asked) {
            return Vec::new();
        }
        let (id, terms) = asked.clone();
        let token =
            |card: &Result<Box<Card>, String>| card.as_ref().ok().map(|it| it.token.clone());
        if let Some((of, by, before)) = &self.card
            && (of, by) == (&id, &terms)
            && token(before) != token(&card)
        {
            // It changed under the finger.
            self.moved = true;
            let stale = matches!(
                self.confirm.as_ref().map(|confirm| &confirm.order),
                Some(Order::Approve(of, ..)) if *of == id
            );
            if stale {
                self.confirm = None;
                self.complain(format!("what you saw of {id} has changed: look again"));
            }
        }
        self.dirty |= self.card.as_ref().map(|(of, _, card)| (of, card)) != Some((&id, &card));
        self.card = Some((id, terms, card));
        if self.confirm_when.as_ref() == Some(&asked) {
            self.confirm_when = None;
            self.ask_to_approve();
        }
        Vec::new()
    }

    fn done(&mut self, number: u64, outcome: Result<String, Failure>) -> Vec<Effect> {
        self.working.remove(&number);
        let mut effects = Vec::new();
        match outcome {
            Ok(said) => self.say(said),
            Err(failure) => {
                self.complain(failure.why);
                if let Some(id) = failure.stale
                    && self.request.as_ref() == Some(&id)
                {
                    // The new one is shown; what it says now is another question.
                    let terms = self.wanted.take().map(|(_, terms)| terms).unwrap_or_default();
                    effects.push(self.review_by(id, terms));
                }
            }
        }
        if self.leaving && self.working.is_empty() {
            effects.push(Effect::Quit);
        }
        effects
    }
}
