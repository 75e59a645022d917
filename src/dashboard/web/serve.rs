//! Takes connections on this machine's loopback, and answers.
#![expect(clippy::disallowed_methods, reason = "connections are timed")]

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderValue, LOCATION, SET_COOKIE};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::de::DeserializeOwned;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::guard::{self, BODY, Own};
use super::page::{self, Body, word};
use super::{Answer, Desk, Refusal, State, Terms};
use crate::model::SandboxId;
use crate::model::supervise::RequestId;

/// So many connections at once, and so many of them are told what changes.
const CONNECTIONS: usize = 64;
const STREAMS: usize = 8;
/// A head comes within this.
const HEAD: Duration = Duration::from_secs(10);
/// A body comes within this.
const BODY_COMES: Duration = Duration::from_secs(10);
/// Whoever is told what changes hears something this often, and takes it within that long, or is dropped.
const QUIET: Duration = Duration::from_secs(15);
const TAKEN: Duration = Duration::from_secs(60);
/// So many wrong tokens end it: nobody guesses by accident.
const WRONG: u32 = 10;
/// The cookie holds for half a day.
const AGE: u32 = 43_200;

/// Why it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// Somebody tried tokens.
    Guessed,
}

/// What one link leads to.
pub struct Served {
    own: Own,
    token: String,
    spent: AtomicBool,
    wrong: AtomicU32,
    guessed: CancellationToken,
    streams: Arc<Semaphore>,
    desk: Arc<dyn Desk>,
}

impl Served {
    /// On this port, with secrets of its own.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn new(port: u16, desk: Arc<dyn Desk>) -> std::io::Result<Self> {
        Ok(Self {
            own: Own { port, cookie: secret()? },
            token: secret()?,
            spent: AtomicBool::new(false),
            wrong: AtomicU32::new(0),
            guessed: CancellationToken::new(),
            streams: Arc::new(Semaphore::new(STREAMS)),
            desk,
        })
    }
}

fn secret() -> std::io::Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The link that opens it, once.
#[must_use]
pub fn link(served: &Served) -> String {
    format!("http://127.0.0.1:{}/?t={}", served.own.port, served.token)
}

/// Serves until it is told to stop, or somebody tries tokens.
pub async fn serve(listener: TcpListener, served: Arc<Served>, stop: &CancellationToken) -> Ended {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = stop.cancelled() => return Ended::Stopped,
            () = served.guessed.cancelled() => {
                // Whoever tried the last one hears the answer.
                tokio::time::sleep(Duration::from_millis(200)).await;
                return Ended::Guessed;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                // What does not fit is closed at once.
                if let Ok(place) = places.clone().try_acquire_owned() {
                    connections.spawn(connection(stream, served.clone(), place));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "no connection can be taken now");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// When the other end last took something of a stream.
type Pulse = Arc<Mutex<Option<Instant>>>;

fn beat(pulse: &Pulse, at: Option<Instant>) {
    *pulse.lock().unwrap_or_else(PoisonError::into_inner) = at;
}

async fn connection(stream: TcpStream, served: Arc<Served>, _place: OwnedSemaphorePermit) {
    let pulse = Pulse::default();
    let service = service_fn({
        let pulse = pulse.clone();
        move |request| {
            let (served, pulse) = (served.clone(), pulse.clone());
            async move { Ok::<_, Infallible>(served.answer(request, pulse).await) }
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(32 << 10);
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    let dead = async {
        loop {
            tokio::time::sleep(QUIET).await;
            let last = *pulse.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_some_and(|last| last.elapsed() > TAKEN) {
                return;
            }
        }
    };
    tokio::select! {
        _ = serving => {}
        () = dead => {}
    }
}

impl Served {
    async fn answer(&self, request: Request<Incoming>, pulse: Pulse) -> Response<Body> {
        let (parts, body) = request.into_parts();
        if let Err(status) = guard::head(&parts, &self.own) {
            return word(
                status,
                "this is for the page that bottle serves here, and for nobody else\n",
            );
        }
        if parts.method == Method::GET
            && parts.uri.path() == "/"
            && let Some(token) = guard::parameter(parts.uri.query(), "t")
        {
            return self.enter(token);
        }
        if !guard::is_known(&parts.headers, &self.own) {
            return word(
                StatusCode::UNAUTHORIZED,
                "open the link that `bottle dashboard --web` prints\n",
            );
        }
        match parts.method {
            Method::GET => self.get(&parts, pulse).await,
            _ => self.post(&parts, body).await,
        }
    }

    /// The link, which leads here once.
    fn enter(&self, token: &str) -> Response<Body> {
        let right = guard::same(token, &self.token);
        if right && !self.spent.swap(true, Ordering::SeqCst) {
            let mut response = word(StatusCode::SEE_OTHER, "");
            let name = guard::name(self.own.port);
            let cookie = format!(
                "{name}={}; HttpOnly; SameSite=Strict; Path=/; Max-Age={AGE}",
                self.own.cookie
            );
            if let Ok(cookie) = HeaderValue::from_str(&cookie) {
                response.headers_mut().insert(SET_COOKIE, cookie);
            }
            response.headers_mut().insert(LOCATION, HeaderValue::from_static("/"));
            return response;
        }
        if !right && self.wrong.fetch_add(1, Ordering::SeqCst) + 1 >= WRONG {
            self.guessed.cancel();
        }
        let why = "this link was used, or is none: `bottle dashboard --web` prints another\n";
        word(StatusCode::UNAUTHORIZED, why)
    }

    async fn get(&self, parts: &Parts, pulse: Pulse) -> Response<Body> {
        let path = parts.uri.path();
        if let Some(file) = page::file(path) {
            return file;
        }
        let parameter = |name| guard::parameter(parts.uri.query(), name).map(str::to_owned);
        match path.strip_prefix("/api/").map(|path| path.split('/').collect::<Vec<_>>()).as_deref()
        {
            Some(["events"]) => self.events(pulse),
            Some(["history"]) => told(self.desk.history().await),
            Some(["requests", id]) => match id.parse::<RequestId>() {
                Ok(id) => {
                    let terms = Terms {
                        until: parameter("until"),
                        token_ref: parameter("token_ref"),
                        ..Terms::default()
                    };
                    told(self.desk.show(id, terms).await)
                }
                Err(_) => nothing(),
            },
            Some(["sandboxes", name]) => match SandboxId::new(*name) {
                Ok(name) => told(self.desk.sandbox(name).await),
                Err(_) => nothing(),
            },
            _ => nothing(),
        }
    }

    async fn post(&self, parts: &Parts, body: Incoming) -> Response<Body> {
        let path = parts.uri.path().strip_prefix("/api/requests/");
        let Some((id, what)) = path.and_then(|path| path.split_once('/')) else { return nothing() };
        let Ok(id) = id.parse::<RequestId>() else { return nothing() };
        let collected =
            tokio::time::timeout(BODY_COMES, Limited::new(body, BODY as usize).collect());
        let bytes = match collected.await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) => return word(StatusCode::PAYLOAD_TOO_LARGE, "that is too long\n"),
            Err(_) => return word(StatusCode::REQUEST_TIMEOUT, "that does not come\n"),
        };
        match what {
            "approve" => match read(&bytes) {
                Ok(yes) => told(self.desk.approve(id, yes).await),
                Err(why) => refused(StatusCode::BAD_REQUEST, &why),
            },
            "deny" => match read(&bytes) {
                Ok(no) => told(self.desk.deny(id, no).await),
                Err(why) => refused(StatusCode::BAD_REQUEST, &why),
            },
            "undo" => told(self.desk.undo(id).await),
            _ => nothing(),
        }
    }

    /// What there is to show, whenever it changes.
    fn events(&self, pulse: Pulse) -> Response<Body> {
        let Ok(place) = self.streams.clone().try_acquire_owned() else {
            return word(StatusCode::SERVICE_UNAVAILABLE, "too many pages are open\n");
        };
        let mut states = self.desk.states();
        states.mark_changed();
        let begin = Stream { states, pulse, _place: place };
        let events = stream::unfold(begin, |mut it| async move {
            // It is asked for more once what came before was taken.
            beat(&it.pulse, Some(Instant::now()));
            let event = loop {
                tokio::select! {
                    changed = it.states.changed() => match changed {
                        Ok(()) => if let Some(event) = event(&it.states.borrow_and_update()) {
                            break event;
                        },
                        Err(_) => return None,
                    },
                    () = tokio::time::sleep(QUIET) => break ":\n\n".to_owned(),
                }
            };
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from(event))), it))
        });
        page::of(StatusCode::OK, "text/event-stream", StreamBody::new(events).boxed_unsync())
    }
}

/// One who is told what changes.
struct Stream {
    states: watch::Receiver<State>,
    pulse: Pulse,
    _place: OwnedSemaphorePermit,
}

impl Drop for Stream {
    fn drop(&mut self) {
        beat(&self.pulse, None);
    }
}

/// A state as an event. JSON has no line ends of its own.
fn event(state: &State) -> Option<String> {
    match state.as_ref()? {
        Ok(status) => Some(format!("event: state\ndata: {}\n\n", status.trim_end())),
        Err(why) => {
            let why = serde_json::json!({ "error": why });
            Some(format!("event: trouble\ndata: {why}\n\n"))
        }
    }
}

fn nothing() -> Response<Body> {
    word(StatusCode::NOT_FOUND, "there is nothing here\n")
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let read = serde_json::from_slice(bytes);
    read.map_err(|error| format!("that is not what is expected here: {error}"))
}

fn refused(status: StatusCode, why: &str) -> Response<Body> {
    page::json(status, serde_json::json!({ "error": why }).to_string())
}

fn told(answer: Answer) -> Response<Body> {
    match answer {
        Ok(json) => page::json(StatusCode::OK, json),
        Err(Refusal::Unknown(why)) => refused(StatusCode::NOT_FOUND, &why),
        Err(Refusal::Stale(why)) => refused(StatusCode::CONFLICT, &why),
        Err(Refusal::Blocked(why)) => refused(StatusCode::UNPROCESSABLE_ENTITY, &why),
        Err(Refusal::Failed(why)) => refused(StatusCode::INTERNAL_SERVER_ERROR, &why),
    }
}
