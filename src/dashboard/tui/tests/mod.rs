//! The dashboard without a terminal: keys and news go in, whole screens come out.

mod decide;
mod hostile;
mod screens;

use std::collections::BTreeMap;
use std::sync::Arc;

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::{App, At, Effect, Event, GUARD, Key, Looks, Terms, draw};
use crate::dashboard::card::{Card, Part};
use crate::dashboard::snapshot::{Ask, Detail, Egress, Kept, Run, Sandbox, Snapshot};
use crate::model::Moment;
use crate::model::supervise::RequestId;
use crate::plan::Verdict;

/// When everything here happens, in seconds since the epoch.
const NOW: u64 = 1_764_356_551;

pub(super) const PLAIN: Looks = Looks { colour: false, unicode: true };

/// The dashboard, and a clock that moves when a test says so.
struct Desk {
    app: App,
    ms: u64,
    width: u16,
    height: u16,
    effects: Vec<Effect>,
}

impl Desk {
    fn new(width: u16, height: u16) -> Self {
        Self::looking(PLAIN, width, height)
    }

    fn looking(looks: Looks, width: u16, height: u16) -> Self {
        Self { app: App::new(looks), ms: 10_000, width, height, effects: Vec::new() }
    }

    /// With the usual sandboxes and requests.
    fn open(width: u16, height: u16) -> Self {
        let mut desk = Self::new(width, height);
        desk.event(Event::Looked(Arc::new(team())));
        desk
    }

    fn at(&self) -> At {
        At { ms: self.ms, epoch: NOW }
    }

    /// Something happens, and it is drawn.
    fn event(&mut self, event: Event) {
        let effects = self.app.update(self.at(), event);
        self.effects.extend(effects);
        self.screen();
    }

    fn key(&mut self, key: Key) {
        self.event(Event::Key(key));
    }

    /// Keys of somebody who looks before each of them.
    fn keys(&mut self, keys: &str) {
        for key in keys.chars() {
            self.wait(GUARD);
            self.key(Key::Char(key));
        }
        self.wait(GUARD);
    }

    fn wait(&mut self, ms: u64) {
        self.ms += ms;
    }

    /// What was to be done since the last time.
    fn taken(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    fn screen(&mut self) -> String {
        let mut terminal = Terminal::new(TestBackend::new(self.width, self.height)).unwrap();
        let mut drawn = super::Drawn::default();
        terminal.draw(|frame| drawn = draw(&self.app, frame.buffer_mut())).unwrap();
        self.app.was_drawn(self.at(), drawn);
        let buffer = terminal.backend().buffer();
        let mut text = String::new();
        for y in 0..self.height {
            let row: String = (0..self.width).map(|x| buffer[(x, y)].symbol()).collect();
            text.push_str(row.trim_end());
            text.push('\n');
        }
        text
    }

    /// The card of the chosen request comes.
    fn reviewed(&mut self, card: Card) {
        self.reviewed_by(card, Terms::default());
    }

    fn reviewed_by(&mut self, card: Card, terms: Terms) {
        self.event(Event::Reviewed(card.id.clone(), terms, Ok(Box::new(card))));
    }
}

fn id(text: &str) -> RequestId {
    text.parse().unwrap()
}

fn sandbox(name: &str, backend: &str, state: &str, verdict: Verdict, why: &[&str]) -> Sandbox {
    Sandbox {
        name: name.to_owned(),
        backend: backend.to_owned(),
        state: state.to_owned(),
        code: None,
        verdict,
        why: why.iter().map(|it| (*it).to_owned()).collect(),
        made: Some(NOW - 7200),
        egress: None,
        last: None,
        notes: Vec::new(),
        output: Vec::new(),
        runs: Vec::new(),
    }
}

fn ask(name: &str, sandbox: &str, kind: &'static str, asks: &str, ago: u64) -> Ask {
    Ask {
        id: id(name),
        sandbox: sandbox.to_owned(),
        kind,
        asks: asks.to_owned(),
        received: Moment::of_seconds(NOW - ago),
        asked: 2,
        wants_token: false,
    }
}

fn team() -> Snapshot {
    let denied = [("host_not_allowed".to_owned(), 2), ("path_not_allowed".to_owned(), 1)];
    let mut ada = sandbox("ada", "docker", "running", Verdict::Keep, &[]);
    ada.egress = Some(Egress { allowed: 128, denied: BTreeMap::from(denied) });
    ada.runs = vec![Run {
        id: "3f2c1a9e".to_owned(),
        state: "running".to_owned(),
        since: NOW - 60,
        command: vec!["claude".to_owned(), "-p".to_owned(), "tidy up".to_owned()],
    }];
    let mut dennis = sandbox("dennis", "", "missing", Verdict::Hold, &["agents/dennis.md:3"]);
    dennis.made = None;
    let grace = sandbox("grace", "native", "running", Verdict::Reprovision, &["prompt +2 −1"]);
    let mut tick = sandbox("tick", "native", "failing", Verdict::Keep, &[]);
    tick.code = Some(1);
    tick.output = vec!["Error: connect ECONNREFUSED 127.0.0.1:5432".to_owned()];
    Snapshot {
        tree: "team".to_owned(),
        commit: Some("main@ddc9927".to_owned()),
        watch: Some(4711),
        sandboxes: vec![ada, dennis, grace, tick],
        requests: vec![
            ask("r-7f3k2q2d", "ada", "egress", "index.example.org:443 GET, HEAD /simple/**", 120),
            ask("r-5a2m4xqz", "grace", "capability", "resources.memory 1G → 4G", 31),
        ],
        problems: Vec::new(),
    }
}

fn card(token: &str) -> Card {
    Card {
        id: id("r-7f3k2q2d"),
        sandbox: "ada".to_owned(),
        token: token.to_owned(),
        blocked: None,
        parts: vec![
            Part::Said("pip install requests fails".to_owned()),
            Part::Fact("refused 14 times, last 12 s ago: host_not_allowed".to_owned()),
            Part::Blank,
            Part::File("bottles/dev.md".to_owned()),
            Part::Same(8, "    - packages.example.org".to_owned()),
            Part::Added(9, "    - host: index.example.org".to_owned()),
            Part::Added(10, "      methods: [GET, HEAD]".to_owned()),
            Part::Added(11, "      paths: [/simple/**]".to_owned()),
            Part::Blank,
            Part::Delta("reach", '+', "index.example.org:443 GET, HEAD /simple/**".to_owned()),
            Part::Plan(
                '~',
                vec!["ada".to_owned(), "grace".to_owned()],
                "in place; nothing restarts, nothing is lost".to_owned(),
            ),
        ],
        does: vec![
            "edits bottles/dev.md".to_owned(),
            "commits on main".to_owned(),
            "ada, grace: in place; nothing restarts, nothing is lost".to_owned(),
        ],
    }
}

fn detail() -> Detail {
    Detail {
        name: "ada".to_owned(),
        machine: vec!["node:22-slim, 2 cpus, 2G, 512 pids".to_owned()],
        policy: vec!["packages.example.org:443".to_owned()],
        log: vec!["one".to_owned(), "two".to_owned()],
        prompt: vec!["You are ada.".to_owned()],
        snapshots: vec![
            Kept { id: "ada@2".to_owned(), about: "1h  manual".to_owned() },
            Kept { id: "ada@1".to_owned(), about: "2h  replaced".to_owned() },
        ],
        exec: "bottle --tree /t exec -it ada -- sh".to_owned(),
    }
}
