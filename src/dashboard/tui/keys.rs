//! What keys do. Nothing is decided by one key: a question names what it is about, and takes `y` alone.

use super::app::{App, Asking, Confirm, GUARD, Opened, Page, Prompt, Tab};
use super::event::{At, Effect, Key, Order, Terms};
use crate::model::supervise::MESSAGE;
use crate::model::text::first_unseen;

impl App {
    pub(super) fn key(&mut self, at: At, key: Key) -> Vec<Effect> {
        match key {
            Key::Ctrl('c') => return self.quit(),
            Key::Ctrl('z') => return vec![Effect::Suspend],
            _ => {}
        }
        if self.prompt.is_some() {
            self.dirty = true;
            return self.typed(key);
        }
        // What was chosen was moved: this key was meant for what stood there.
        if self.moved || at.ms < self.guard {
            return Vec::new();
        }
        self.dirty = true;
        if self.confirm.is_some() {
            return self.answered(at, key);
        }
        if self.help {
            self.help = false;
            return Vec::new();
        }
        self.message = None;
        match key {
            Key::Char('q') => self.quit(),
            Key::Char('?') => {
                self.help = true;
                Vec::new()
            }
            Key::Char(digit @ '1'..='4') => {
                self.turn_to(Page::ALL[digit as usize - '1' as usize]);
                self.fetch(false)
            }
            _ if self.opened.is_some() => self.key_in_sandbox(key),
            Key::Char('/') => {
                let text = self.filter().to_owned();
                self.prompt = Some(Prompt { asking: Asking::Filter, text });
                Vec::new()
            }
            _ => match self.page {
                Page::Sandboxes => self.key_in_sandboxes(key),
                Page::Requests => self.key_in_requests(key),
                Page::Egress | Page::Log => self.key_in_record(key),
            },
        }
    }

    fn quit(&mut self) -> Vec<Effect> {
        if self.working.is_empty() || self.leaving {
            return vec![Effect::Quit];
        }
        self.leaving = true;
        let under_way: Vec<&str> = self.working.values().map(String::as_str).collect();
        let said = format!("waits for: {}; q once more does not wait", under_way.join(", "));
        self.say(said);
        Vec::new()
    }

    fn turn_to(&mut self, page: Page) {
        self.page = page;
        self.opened = None;
        self.card_whole = false;
        self.back = 0;
    }

    /// Moves a choice among so many.
    fn step(&self, key: Key, at: Option<usize>, count: usize) -> Option<usize> {
        let last = count.checked_sub(1)?;
        let at = at.unwrap_or(0);
        let page = self.drawn.page.max(1);
        Some(match key {
            Key::Up | Key::Char('k') => at.saturating_sub(1),
            Key::Down | Key::Char('j') => (at + 1).min(last),
            Key::PageUp => at.saturating_sub(page),
            Key::PageDown => (at + page).min(last),
            Key::Home | Key::Char('g') => 0,
            Key::End | Key::Char('G') => last,
            _ => return None,
        })
    }

    /// Moves what is scrolled.
    fn scrolled(&self, key: Key, from: usize) -> usize {
        let page = self.drawn.page.max(1);
        let to = match key {
            Key::Up | Key::Char('k') => from.saturating_sub(1),
            Key::Down | Key::Char('j') => from + 1,
            Key::PageUp => from.saturating_sub(page),
            Key::PageDown | Key::Char(' ') => from + page,
            Key::Home | Key::Char('g') => 0,
            Key::End | Key::Char('G') => self.drawn.most,
            _ => from,
        };
        to.min(self.drawn.most)
    }

    fn key_in_sandboxes(&mut self, key: Key) -> Vec<Effect> {
        let all = self.sandboxes();
        if let Some(to) = self.step(key, self.sandbox_at(), all.len()) {
            self.sandbox = all.get(to).map(|it| it.name.clone());
            return Vec::new();
        }
        match key {
            Key::Enter | Key::Char('p') => self.open(Tab::Plan),
            Key::Char('l') => self.open(Tab::Log),
            Key::Char('r') => self.show_requests(),
            Key::Esc => self.unfilter(),
            key => self.order_of_sandbox(key),
        }
    }

    fn unfilter(&mut self) -> Vec<Effect> {
        self.filters.remove(&self.page);
        Vec::new()
    }

    fn open(&mut self, tab: Tab) -> Vec<Effect> {
        if let Some(name) = self.sandbox.clone() {
            self.opened = Some(Opened { name, tab, ..Opened::default() });
            if self.detail.as_ref().map(|it| &it.name) != self.sandbox.as_ref() {
                self.detail = None;
            }
        }
        self.back = 0;
        self.fetch(true)
    }

    fn show_requests(&mut self) -> Vec<Effect> {
        let Some(name) = self.chosen_sandbox().map(|it| it.name.clone()) else { return Vec::new() };
        let first = self.snapshot.iter().flat_map(|it| &it.requests).find(|it| it.sandbox == name);
        match first.map(|ask| ask.id.clone()) {
            Some(id) => {
                self.turn_to(Page::Requests);
                self.filters.remove(&Page::Requests);
                self.choose_request(id);
                self.fetch(false)
            }
            None => {
                self.say(format!("{name} asks for nothing"));
                Vec::new()
            }
        }
    }

    fn choose_request(&mut self, id: crate::model::supervise::RequestId) {
        self.request = Some(id);
        self.card_scroll = 0;
        self.confirm_when = None;
    }

    /// Orders about the chosen sandbox. Each is asked for once more.
    fn order_of_sandbox(&mut self, key: Key) -> Vec<Effect> {
        let Some(sandbox) = self.chosen_sandbox() else { return Vec::new() };
        let (name, down) = (sandbox.name.clone(), sandbox.is_down());
        let (exists, known) = (sandbox.made.is_some(), sandbox.name.clone());
        match key {
            Key::Char('s') if down => {
                self.ask(format!("start {name}: with what the tree says now?"), Order::Start(name));
            }
            Key::Char('s') if exists => {
                let question = format!("stop {name}: what runs in it ends, and it stays down?");
                self.ask(question, Order::Stop(name));
            }
            Key::Char('R') if exists => {
                let question = format!("restart {name}: what runs in it ends, and starts again?");
                self.ask(question, Order::Restart(name));
            }
            Key::Char('s' | 'R') => {
                self.say(format!("{known} has no machine: `bottle apply` makes it"))
            }
            Key::Char('m') => {
                self.ask(
                    format!("mute {name}: none of its requests is taken for 1 h?"),
                    Order::Mute(name),
                );
            }
            Key::Char('x') => {
                let exec =
                    self.detail.as_ref().filter(|it| it.name == known).map(|it| it.exec.clone());
                self.say(exec.unwrap_or_else(|| format!("bottle exec -it {known} -- sh")));
            }
            _ => {}
        }
        Vec::new()
    }

    fn key_in_sandbox(&mut self, key: Key) -> Vec<Effect> {
        let Some(opened) = self.opened.clone() else { return Vec::new() };
        let at = Tab::ALL.iter().position(|tab| *tab == opened.tab).unwrap_or(0);
        let turn = |by: usize| Tab::ALL[(at + by) % Tab::ALL.len()];
        let to = match key {
            Key::Esc => {
                self.opened = None;
                return self.fetch(false);
            }
            Key::Tab | Key::Right => Some(turn(1)),
            Key::BackTab | Key::Left => Some(turn(Tab::ALL.len() - 1)),
            Key::Char('p') => Some(Tab::Plan),
            Key::Char('l') => Some(Tab::Log),
            _ => None,
        };
        if let Some(tab) = to {
            self.opened = Some(Opened { name: opened.name, tab, ..Opened::default() });
            self.back = 0;
            return self.fetch(false);
        }
        match (opened.tab, key) {
            (_, Key::Char('r')) => self.show_requests(),
            (_, Key::Char('s' | 'R' | 'm' | 'x')) => self.order_of_sandbox(key),
            (Tab::Snapshots, key) => self.key_in_snapshots(&opened, key),
            (Tab::Egress | Tab::Log, key) => self.key_in_record(key),
            (_, key) => {
                let scroll = self.scrolled(key, opened.scroll);
                self.opened = Some(Opened { scroll, ..opened });
                Vec::new()
            }
        }
    }

    fn key_in_snapshots(&mut self, opened: &Opened, key: Key) -> Vec<Effect> {
        let detail = self.detail.as_ref().filter(|it| it.name == opened.name);
        let ids: Vec<String> =
            detail.iter().flat_map(|it| &it.snapshots).map(|it| it.id.clone()).collect();
        let chosen = opened.snapshot.as_ref().and_then(|id| ids.iter().position(|it| it == id));
        if let Some(to) = self.step(key, chosen, ids.len()) {
            let to = if chosen.is_none() { 0 } else { to };
            self.opened = Some(Opened { snapshot: ids.get(to).cloned(), ..opened.clone() });
        } else if let (Key::Enter, Some(at)) = (key, chosen) {
            let (id, name) = (ids[at].clone(), opened.name.clone());
            let question = format!("restore {id} into {name}: what it has there now is replaced?");
            self.ask(question, Order::Restore(id, name));
        }
        Vec::new()
    }

    fn key_in_requests(&mut self, key: Key) -> Vec<Effect> {
        let all = self.requests();
        let scrolls =
            self.card_whole || matches!(key, Key::PageUp | Key::PageDown | Key::Char(' '));
        if !scrolls && let Some(to) = self.step(key, self.request_at(), all.len()) {
            if let Some(id) = all.get(to).map(|it| it.id.clone()) {
                self.choose_request(id);
            }
            return self.fetch(false);
        }
        let Some(ask) = self.chosen_request().cloned() else {
            return if key == Key::Esc { self.unfilter() } else { Vec::new() };
        };
        match key {
            Key::Enter => self.card_whole = !self.card_whole,
            Key::Esc if self.card_whole => self.card_whole = false,
            Key::Esc => return self.unfilter(),
            Key::Char('a') => return self.approve(),
            Key::Char('u') => {
                self.prompt = Some(Prompt { asking: Asking::Until(ask.id), text: String::new() });
            }
            Key::Char('d') => {
                self.prompt = Some(Prompt { asking: Asking::Deny(ask.id), text: String::new() });
            }
            Key::Char('e') => return vec![Effect::Edit(ask.id)],
            Key::Char('t') if ask.wants_token => {
                self.prompt = Some(Prompt { asking: Asking::Token(ask.id), text: String::new() });
            }
            Key::Char('m') => {
                let question =
                    format!("mute {}: none of its requests is taken for 1 h?", ask.sandbox);
                self.ask(question, Order::Mute(ask.sandbox));
            }
            key => self.card_scroll = self.scrolled(key, self.card_scroll),
        }
        Vec::new()
    }

    fn approve(&mut self) -> Vec<Effect> {
        let Some(ask) = self.chosen_request().cloned() else { return Vec::new() };
        let named =
            self.wanted.as_ref().is_some_and(|(id, it)| *id == ask.id && it.token_ref.is_some());
        if ask.wants_token && !named {
            self.prompt = Some(Prompt { asking: Asking::Token(ask.id), text: String::new() });
            return Vec::new();
        }
        self.ask_to_approve();
        Vec::new()
    }

    /// Asks for the yes to exactly what is shown.
    pub(super) fn ask_to_approve(&mut self) {
        let Some((id, terms, card)) = self.card.clone() else {
            return self.say("what a yes would do is not known yet");
        };
        if self.request.as_ref() != Some(&id) {
            return self.say("what a yes would do is not known yet");
        }
        if self.working.values().any(|under_way| under_way.contains(id.as_str())) {
            return self.say(format!("{id} is being decided"));
        }
        match card {
            Err(why) => self.complain(why),
            Ok(card) => match &card.blocked {
                Some(why) => self.complain(format!("{id} cannot be approved: {why}")),
                None => {
                    let until = terms.until.iter().map(|until| format!("until {until}"));
                    let token = terms.token_ref.iter().map(|name| format!("by the token {name}"));
                    let does: Vec<String> =
                        card.does.iter().cloned().chain(until).chain(token).collect();
                    let question = format!("approve {id}: {}?", does.join(", "));
                    self.ask(question, Order::Approve(id, terms, card.token.clone()));
                }
            },
        }
    }

    fn key_in_record(&mut self, key: Key) -> Vec<Effect> {
        // It is shown from its end: up is further back.
        let most = self.drawn.most;
        let page = self.drawn.page.max(1);
        match key {
            Key::Up | Key::Char('k') => self.back = (self.back + 1).min(most),
            Key::Down | Key::Char('j') => self.back = self.back.saturating_sub(1),
            Key::PageUp => self.back = (self.back + page).min(most),
            Key::PageDown => self.back = self.back.saturating_sub(page),
            Key::Home | Key::Char('g') => self.back = most,
            Key::End | Key::Char('G') => (self.back, self.held) = (0, None),
            Key::Char(' ') if self.shows_egress() => match self.held.take() {
                Some(_) => self.back = 0,
                None => self.held = Some(self.passed.clone()),
            },
            Key::Esc => return self.unfilter(),
            _ => {}
        }
        // Whoever reads further back does not want it to move.
        if self.back > 0 && self.held.is_none() && self.shows_egress() {
            self.held = Some(self.passed.clone());
        }
        Vec::new()
    }

    pub(super) fn ask(&mut self, question: String, order: Order) {
        self.confirm = Some(Confirm { question, order, drawn: None });
        self.dirty = true;
    }

    fn answered(&mut self, at: At, key: Key) -> Vec<Effect> {
        match key {
            Key::Char('y') => {
                let seen = self.confirm.as_ref().and_then(|confirm| confirm.drawn);
                // Typed before anybody can have read the question.
                if seen.is_none_or(|drawn| at.ms < drawn + GUARD) {
                    return Vec::new();
                }
                let Some(confirm) = self.confirm.take() else { return Vec::new() };
                self.numbers += 1;
                self.working.insert(self.numbers, confirm.order.words());
                self.message = None;
                vec![Effect::Order(self.numbers, confirm.order)]
            }
            Key::PageUp | Key::PageDown => {
                self.card_scroll = self.scrolled(key, self.card_scroll);
                Vec::new()
            }
            _ => {
                let order = self.confirm.take().map(|confirm| confirm.order);
                self.say("nothing was changed");
                match order {
                    // What it would be without these terms is what is asked for.
                    Some(Order::Approve(id, terms, _)) if terms != Terms::default() => {
                        vec![self.review_by(id, Terms::default())]
                    }
                    _ => Vec::new(),
                }
            }
        }
    }

    fn typed(&mut self, key: Key) -> Vec<Effect> {
        let Some(prompt) = &mut self.prompt else { return Vec::new() };
        match key {
            Key::Char(c) => add(&mut prompt.text, c.encode_utf8(&mut [0; 4])),
            Key::Ctrl('u') => prompt.text.clear(),
            Key::Backspace => drop(prompt.text.pop()),
            Key::Esc => {
                let filter = prompt.asking == Asking::Filter;
                self.prompt = None;
                if filter {
                    self.filters.remove(&self.page);
                }
            }
            Key::Enter => return self.entered(),
            _ => {}
        }
        self.refilter()
    }

    pub(super) fn paste(&mut self, text: &str) -> Vec<Effect> {
        // Keys are pressed by hands: what is pasted is text, or nothing.
        if let Some(prompt) = &mut self.prompt {
            add(&mut prompt.text, text);
            self.dirty = true;
        }
        self.refilter()
    }

    fn refilter(&mut self) -> Vec<Effect> {
        let Some(Prompt { asking: Asking::Filter, text }) = &self.prompt else { return Vec::new() };
        self.filters.insert(self.page, text.clone());
        self.back = 0;
        self.settle_sandbox(None);
        self.settle_request(None);
        self.fetch(false)
    }

    fn entered(&mut self) -> Vec<Effect> {
        let Some(Prompt { asking, text }) = self.prompt.take() else { return Vec::new() };
        let text = text.trim().to_owned();
        let said = self.wanted.clone().filter(|(of, _)| self.request.as_ref() == Some(of));
        let terms = said.map(|(_, terms)| terms).unwrap_or_default();
        let (id, terms) = match asking {
            Asking::Filter => return Vec::new(),
            Asking::Deny(id) if text.is_empty() => {
                self.complain(format!(
                    "nothing was changed: a no to {id} needs a word to the agent"
                ));
                return Vec::new();
            }
            Asking::Deny(id) => {
                let question = format!("deny {id}, and tell the agent \"{text}\"?");
                self.ask(question, Order::Deny(id, text));
                return Vec::new();
            }
            _ if text.is_empty() => {
                self.say("nothing was changed");
                return Vec::new();
            }
            Asking::Until(id) => (id, Terms { until: Some(text), ..terms }),
            Asking::Token(id) => (id, Terms { token_ref: Some(text), ..terms }),
        };
        if self.request.as_ref() != Some(&id) {
            self.complain(format!("{id} does not wait any more: nothing was done"));
            return Vec::new();
        }
        self.confirm_when = Some((id.clone(), terms.clone()));
        vec![self.review_by(id, terms)]
    }
}

/// Adds what can be seen, on one line and within bounds.
fn add(text: &mut String, more: &str) {
    for c in more.chars() {
        let seen = first_unseen(c.encode_utf8(&mut [0; 4]), "").is_none();
        if seen && text.chars().count() < MESSAGE {
            text.push(c);
        }
    }
}
