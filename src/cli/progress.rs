//! What is happening, on stderr: a line a running step with its elapsed time on a terminal, plain
//! lines otherwise.
#![expect(clippy::disallowed_methods, reason = "shows elapsed time")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::report::seconds;
use super::ui::{Ui, harmless, screen};
use crate::apply::{Event, Outcome, StepOutcome};
use crate::plan::{Plan, Step, StepId};

/// How often live lines are drawn.
const FRAME: Duration = Duration::from_millis(100);

/// What a step says about itself is shown at most this often where lines stay.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// Shows how far a plan is, until it is dropped.
pub(super) struct Progress {
    shared: Arc<Mutex<State>>,
    ticker: Option<tokio::task::JoinHandle<()>>,
    ui: Arc<Ui>,
}

struct State {
    labels: Vec<String>,
    running: BTreeMap<StepId, Running>,
    ended: usize,
    live: bool,
    /// Lines that stand on the screen now.
    drawn: usize,
}

struct Running {
    since: Instant,
    line: String,
    said: Instant,
}

impl Progress {
    pub(super) fn new(ui: &Arc<Ui>, plan: &Plan) -> Self {
        let labels = plan.steps.iter().map(label).collect();
        let state =
            State { labels, running: BTreeMap::new(), ended: 0, live: ui.can_draw(), drawn: 0 };
        let live = state.live;
        let shared = Arc::new(Mutex::new(state));
        let ticker = live.then(|| {
            let (shared, ui) = (shared.clone(), ui.clone());
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(FRAME).await;
                    // Drawn under the lock: nothing comes after the last picture was erased.
                    let mut state = lock(&shared);
                    let frame = state.frame(screen());
                    ui.draw(&frame);
                }
            })
        });
        Self { shared, ticker, ui: ui.clone() }
    }

    /// Who is told of events.
    pub(super) fn teller(&self) -> Arc<dyn Fn(Event<'_>) + Send + Sync> {
        let (shared, ui) = (self.shared.clone(), self.ui.clone());
        Arc::new(move |event: Event<'_>| {
            if let Some(line) = lock(&shared).take(&event) {
                ui.say(&line);
            }
        })
    }

    /// Takes the live lines off the screen.
    pub(super) fn finish(mut self) {
        self.clear();
    }

    fn clear(&mut self) {
        if let Some(ticker) = self.ticker.take() {
            ticker.abort();
            let mut state = lock(&self.shared);
            state.running.clear();
            state.labels.clear();
            let frame = state.erase();
            self.ui.draw(&frame);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What a step does, for people: `ada: create machine`.
pub(super) fn label(step: &Step) -> String {
    let whose = step.sandbox.as_ref().map_or("leftovers", |id| id.as_str());
    format!("{whose}: {} {}", step.action.name().replace('_', " "), step.resource)
}

/// The plain line of a step that ended.
pub(super) fn ended(label: &str, ended: &StepOutcome) -> String {
    let elapsed = seconds(ended.elapsed);
    match &ended.outcome {
        Outcome::Done => format!("{label}: done in {elapsed}"),
        Outcome::Failed(error) => format!("{label}: failed after {elapsed}: {}", harmless(error)),
        Outcome::Skipped { .. } => format!("{label}: skipped"),
        Outcome::Cancelled => format!("{label}: cancelled"),
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Takes an event in; returns the plain line that it is worth, where lines stay.
    fn take(&mut self, event: &Event<'_>) -> Option<String> {
        match event {
            Event::Started(step) => {
                let now = Instant::now();
                self.running.insert(*step, Running { since: now, line: String::new(), said: now });
                None
            }
            Event::Progress(step, line) => {
                let running = self.running.get_mut(step)?;
                running.line = harmless(line).replace(['\n', '\t'], " ");
                if self.live || running.said.elapsed() < PLAIN_EVERY {
                    return None;
                }
                running.said = Instant::now();
                Some(format!("{}: {}", self.labels.get(*step)?, running.line))
            }
            Event::Ended(ended) => {
                self.running.remove(&ended.step);
                self.ended += 1;
                if self.live {
                    return None;
                }
                let label = self.labels.get(ended.step)?;
                Some(self::ended(label, ended))
            }
        }
    }

    fn erase(&mut self) -> String {
        let drawn = std::mem::take(&mut self.drawn);
        match drawn {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }

    /// The next picture: over the last one, never more than half the screen.
    fn frame(&mut self, (columns, rows): (usize, usize)) -> String {
        let mut frame = self.erase();
        if self.running.is_empty() {
            return frame;
        }
        let room = (rows / 2).max(2) - 1;
        for (step, running) in self.running.iter().take(room) {
            let label = self.labels.get(*step).map_or("", String::as_str);
            let mut line = format!("  {:>7}  {label}", seconds(running.since.elapsed()));
            if !running.line.is_empty() {
                let _ = write!(line, ": {}", running.line);
            }
            let cut: String = line.chars().take(columns.saturating_sub(1)).collect();
            frame.push_str(&cut);
            frame.push('\n');
            self.drawn += 1;
        }
        let mut last = format!("  {} of {} steps", self.ended, self.labels.len());
        if self.running.len() > room {
            let _ = write!(last, ", {} more run", self.running.len() - room);
        }
        frame.push_str(&last);
        frame.push('\n');
        self.drawn += 1;
        frame
    }
}
