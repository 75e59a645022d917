//! The loop: waits for keys, news and signals, and draws where something changed.

use std::io;

use futures_util::FutureExt as _;
use tokio::process::Command;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;

use super::app::{App, Looks};
use super::event::{At, Effect, Event, Key};
use super::terminal::{Clock, Screen, broken, input};
use crate::model::supervise::RequestId;

/// So many events are taken before it is drawn again.
const AT_ONCE: usize = 256;

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The operator left.
    Left,
    /// A signal came.
    Signalled,
}

/// Runs the dashboard until it is left. `events` is what happens but for keys, `act` does what it wants done and
/// answers by `events`, and `edit` is the program that edits a grant on the terminal.
///
/// # Errors
/// When the terminal cannot be used, or some part of this process panicked.
pub async fn run(
    looks: Looks,
    mut events: UnboundedReceiver<Event>,
    mut act: impl FnMut(Effect),
    edit: impl Fn(&RequestId) -> io::Result<Command>,
) -> io::Result<Ended> {
    let clock = Clock::start();
    let mut ends = [
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    ];
    let mut stop = signal(SignalKind::from_raw(Raw::STOP))?;
    let mut go_on = signal(SignalKind::from_raw(Raw::CONTINUE))?;
    let mut app = App::new(looks);
    let mut screen = Screen::take()?;
    let (mut keys, read_on) = input(clock);
    loop {
        if app.is_dirty() {
            let drawn = screen.draw(&app)?;
            app.was_drawn(clock.now(), drawn);
        }
        // Cancel-safe: `recv` of a channel and of a signal loses nothing when it is dropped.
        let mut typed = false;
        let happened: Vec<(At, Event)> = tokio::select! {
            biased;
            () = broken() => return Err(io::Error::other("a part of the dashboard panicked")),
            () = any(&mut ends) => {
                screen.give_back();
                return Ok(Ended::Signalled);
            }
            _ = stop.recv() => {
                suspend(&mut screen, &mut app)?;
                continue;
            }
            _ = go_on.recv() => {
                screen.again()?;
                app.update(clock.now(), Event::Resized);
                continue;
            }
            key = keys.recv() => match key {
                Some(key) => {
                    typed = true;
                    vec![key]
                }
                // The terminal is gone.
                None => return Ok(Ended::Signalled),
            },
            Some(event) = events.recv() => {
                let mut all = vec![event];
                while all.len() < AT_ONCE && let Ok(event) = events.try_recv() {
                    all.push(event);
                }
                let at = clock.now();
                all.into_iter().map(|event| (at, event)).collect()
            }
        };
        for (at, event) in happened {
            #[cfg(any(test, feature = "testing"))]
            super::terminal::panic_for_tests(&event);
            if matches!(event, Event::Key(Key::Ctrl('l'))) {
                screen.again()?;
                app.redraw();
                continue;
            }
            for effect in app.update(at, event) {
                match effect {
                    Effect::Quit => {
                        screen.give_back();
                        return Ok(Ended::Left);
                    }
                    Effect::Suspend => suspend(&mut screen, &mut app)?,
                    Effect::Edit(id) => {
                        screen.lend(edit(&id)?).await?;
                        // What came meanwhile was for that program.
                        while any(&mut ends).now_or_never().is_some() {}
                        app.redraw();
                    }
                    Effect::Ring(requests) => screen.ring(requests)?,
                    effect => act(effect),
                }
            }
        }
        if typed {
            // The thread ends with the process, and not before.
            let _ = read_on.send(());
        }
    }
}

/// Signals that tokio has no name for.
struct Raw;

impl Raw {
    const STOP: i32 = rustix::process::Signal::TSTP.as_raw();
    const CONTINUE: i32 = rustix::process::Signal::CONT.as_raw();
}

/// Any of these came.
async fn any([first, second, third]: &mut [Signal; 3]) {
    tokio::select! {
        _ = first.recv() => {}
        _ = second.recv() => {}
        _ = third.recv() => {}
    }
}

fn suspend(screen: &mut Screen, app: &mut App) -> io::Result<()> {
    if screen.suspend()? {
        app.redraw();
    } else {
        app.note("no shell started this, so nobody could continue it");
    }
    Ok(())
}
