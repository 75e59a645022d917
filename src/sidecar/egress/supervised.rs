//! The door at which an agent asks: from a request's head to its answer, or to what waits for that.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{HeaderMap, Request, Response, StatusCode};
use serde_json::{Map, Value};

use super::case::Case;
use super::decided::{host_field, named};
use super::limits;
use super::proxy::Kind;
use super::serve::Shared;
use super::state::Loaded;
use super::waiting::{Call, Waiting};
use crate::model::supervise::{Ask, Problem, RequestId, Section, Tool};
use crate::sidecar::clock::moment;
use crate::sidecar::record::{Event, Line};
use crate::sidecar::supervise::arguments::{self, Asked};
use crate::sidecar::supervise::queue::{New, Outcome};
use crate::sidecar::supervise::rpc::{self, Era, Fault, Message};
use crate::sidecar::supervise::{answer, door, tools};
use crate::sidecar::{Authority, CanonicalPath, Code, Transport, decide};

/// Where a proxy on the way is told not to keep what comes.
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What is answered.
pub(super) enum Said {
    /// All of it.
    Whole(Response<Bytes>),
    /// What is waited for.
    Waits(Response<Waiting>),
}

/// The path of a request to the sidecar itself, where there is a door: else it is one as any other. An error: it names
/// another server.
pub(super) fn own(
    kind: &Kind,
    loaded: &Loaded,
    request: &Request<Incoming>,
) -> Option<Result<CanonicalPath, Code>> {
    if loaded.supervise.is_none() || !matches!(kind, Kind::Front) {
        return None;
    }
    let (uri, headers) = (request.uri(), request.headers());
    let raw = uri.path_and_query().map_or("/", |path| path.as_str());
    let path = CanonicalPath::parse(raw.as_bytes()).ok().filter(door::is_own)?;
    let is_named = |authority: &Authority| door::is_named(authority, &loaded.names);
    if uri.authority().is_some() {
        // Some programs ask the proxy for what is the proxy.
        let authority = match uri.scheme_str() {
            Some("http") => named(uri, headers, Transport::Http).ok(),
            _ => None,
        };
        return authority.filter(is_named).map(|_| Ok(path));
    }
    let authority = match headers.get(HOST) {
        Some(_) => host_field(headers).and_then(|field| {
            Authority::parse(field.as_bytes(), Some(Transport::Http.default_port()))
        }),
        None => Err(Code::MalformedRequest),
    };
    Some(match authority {
        Ok(authority) if is_named(&authority) => Ok(path),
        Ok(_) => Err(Code::AuthorityMismatch),
        Err(code) => Err(code),
    })
}

/// Answers a request to the sidecar itself.
pub(super) async fn answer(
    case: &Arc<Case>,
    loaded: &Arc<Loaded>,
    path: &CanonicalPath,
    request: Request<Incoming>,
) -> Result<Said, Code> {
    let Some(section) = &loaded.supervise else { return Err(Code::RouteNotFound) };
    let (head, body) = request.into_parts();
    door::judge(&head.method, path, &head.headers, &loaded.names).inspect_err(|code| {
        if *code == Code::MethodNotAllowed {
            case.has_only_post();
        }
    })?;
    let body = whole(case, body).await?;
    // Whoever asks for nothing that is new has no line of its own.
    case.is_told();
    let message = match rpc::read(&body) {
        Ok(message) => message,
        Err((id, fault)) => return Ok(failed(id.as_ref(), &fault)),
    };
    let Some(id) = message.id.clone() else {
        let mut accepted = Response::new(Bytes::new());
        *accepted.status_mut() = StatusCode::ACCEPTED;
        return Ok(Said::Whole(accepted));
    };
    let asked = rpc::era(&head.headers, &message)
        .and_then(|era| called(era, section, &message).map(|called| (era, called)));
    let (era, called) = match asked {
        Ok(asked) => asked,
        Err(fault) => return Ok(failed(Some(&id), &fault)),
    };
    let tool = match called {
        Called::Said(result) => return Ok(json(200, &rpc::answer(&id, result))),
        Called::Tool(tool) => tool,
    };
    let desk = At { case, shared: &case.shared, loaded, section };
    let reply = match desk.call(tool, &message.params)? {
        Ok(reply) => reply,
        Err(fault) => return Ok(failed(Some(&id), &fault)),
    };
    let (request, wait) = match reply {
        Reply::Said(text, is_error) => {
            let said = rpc::said(era, &text, is_error);
            return Ok(json(200, &rpc::answer(&id, said)));
        }
        Reply::Waits(request, wait) => (request, wait),
    };
    let token = rpc::progress_token(&message.params);
    let call = Call { id, era, token, request };
    Ok(desk.wait(call, wait, &head.headers).await)
}

/// Reads a message as a whole.
async fn whole(case: &Case, mut body: Incoming) -> Result<Vec<u8>, Code> {
    if body.size_hint().lower() > door::BODY as u64 {
        return Err(Code::MessageTooLarge);
    }
    let all = async {
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| case.broken_off())?;
            let Ok(data) = frame.into_data() else { continue };
            if whole.len() + data.len() > door::BODY {
                return Err(Code::MessageTooLarge);
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole)
    };
    tokio::time::timeout(limits::MESSAGE, all).await.unwrap_or(Err(Code::MessageTimeout))
}

/// What a message wants.
enum Called {
    /// What can be said at once.
    Said(Value),
    Tool(Tool),
}

fn called(era: Era, section: &Section, message: &Message) -> Result<Called, Fault> {
    let said = match (era, message.method.as_str()) {
        (Era::Opened, "initialize") => rpc::opening(&message.params, tools::INSTRUCTIONS),
        (Era::Opened, "ping") => Value::Object(Map::new()),
        (Era::Stateless, "server/discover") => rpc::discovered(tools::INSTRUCTIONS),
        (_, "tools/list") => rpc::listed(era, tools::list(section)),
        (_, "tools/call") => return tool(era, section, message),
        _ => return Err(Fault::unknown_method(era)),
    };
    Ok(Called::Said(said))
}

fn tool(era: Era, section: &Section, message: &Message) -> Result<Called, Fault> {
    let name = message.params.get("name").and_then(Value::as_str).unwrap_or_default();
    #[cfg(any(test, feature = "testing"))]
    if let Some((text, is_error)) = tools::fixture(name) {
        return Ok(Called::Said(rpc::said(era, text, is_error)));
    }
    #[cfg(not(any(test, feature = "testing")))]
    let _ = era;
    match Tool::named(name).filter(|tool| section.tools.contains(tool)) {
        Some(tool) => Ok(Called::Tool(tool)),
        None => {
            let name: String = name.chars().take(64).collect();
            Err(Fault::params(format!(
                "Unknown tool: {}",
                crate::model::text::harmless_line(&name)
            )))
        }
    }
}

/// What a tool says.
enum Reply {
    /// This, which is an error or is none.
    Said(String, bool),
    /// This waits, and is waited for, for so many seconds.
    Waits(RequestId, u64),
}

/// The desk, as one request finds it.
struct At<'a> {
    case: &'a Arc<Case>,
    shared: &'a Arc<Shared>,
    loaded: &'a Arc<Loaded>,
    section: &'a Section,
}

impl At<'_> {
    /// Calls a tool. What is wrong with its arguments is for the model to read, which can mend it.
    fn call(&self, tool: Tool, params: &Map<String, Value>) -> Result<Result<Reply, Fault>, Code> {
        let asked = match tool {
            Tool::PipelockBlock => {
                let evidence = self.shared.desk().evidence();
                arguments::egress(params, &evidence, &self.loaded.names)
            }
            Tool::CredProxyBlock => arguments::credential(params, &self.loaded.names),
            Tool::CapabilityBlock => match arguments::capability(params, self.section) {
                Ok(Ok(asked)) => Ok(asked),
                Ok(Err(what)) => return Ok(Ok(Reply::Said(answer::unsupported(what), false))),
                Err(wrong) => Err(wrong),
            },
            Tool::RequestStatus => {
                return Ok(Ok(match arguments::status(params) {
                    Ok((id, wait)) => self.status(id, wait),
                    Err(wrong) => Reply::Said(wrong, true),
                }));
            }
        };
        match asked.and_then(|asked| self.without_secrets(asked)) {
            Ok(asked) => match self.unchanged(&asked) {
                Some(reply) => Ok(Ok(reply)),
                None => self.ask(tool, asked).map(Ok),
            },
            Err(wrong) => Ok(Ok(Reply::Said(wrong, true))),
        }
    }

    /// Takes known values out of what the operator will read, and refuses what would be granted with one in it.
    fn without_secrets(&self, asked: Asked) -> Result<Asked, String> {
        let scan = &self.loaded.scan;
        let redact = |text: &str| {
            let Some(mut redactor) = scan.redactor(true) else { return text.to_owned() };
            let mut out = redactor.push(Bytes::copy_from_slice(text.as_bytes())).to_vec();
            out.extend_from_slice(&redactor.finish());
            String::from_utf8_lossy(&out).into_owned()
        };
        let (host, said) = match &asked.ask {
            Ask::Egress(ask) => (Some(&ask.host), ask.paths.join("\n")),
            Ask::Credential(ask) => (Some(&ask.host), ask.path.clone()),
            Ask::Capability(ask) => (None, ask.value.clone()),
        };
        let known = redact(&said) != said;
        let named = host.is_some_and(|host| {
            !scan.name(host).is_empty() || redact(host) != **host || !scan.is_clean(host, &said)
        });
        if known || named {
            return Err("a secret is in what you ask for: leave it out".to_owned());
        }
        Ok(Asked { reason: redact(&asked.reason), ..asked })
    }

    /// What holds already is not asked for.
    fn unchanged(&self, asked: &Asked) -> Option<Reply> {
        let policy = &self.loaded.policy;
        match &asked.ask {
            Ask::Egress(ask) => {
                let sample = asked.sample.as_ref()?;
                let transport = if sample.secure { Transport::Https } else { Transport::Http };
                // Of a whole host, any path is one that nobody has listed.
                let any = CanonicalPath::parse(door::PATH.as_bytes()).ok();
                let paths = [Some(&sample.path), any.as_ref().filter(|_| ask.paths.is_empty())];
                let passes = |method: &String| {
                    paths.iter().flatten().all(|path| {
                        decide(policy, &sample.authority, transport, method, path).is_ok()
                    })
                };
                if !ask.methods.iter().all(passes) {
                    return None;
                }
                let evidence = self.shared.desk().evidence();
                let last = evidence.last(&ask.host, ask.port);
                Some(Reply::Said(answer::unchanged(ask, last), false))
            }
            Ask::Credential(ask) => {
                let routed = policy.routes().iter().any(|route| {
                    let below = ask.path.strip_prefix(route.upstream_path());
                    route.upstream().host().name() == Some(&ask.host)
                        && route.upstream().port() == ask.port
                        && below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                });
                match (ask.problem, routed) {
                    (Problem::Missing, true) => {
                        let said = format!(
                            "unchanged: requests to https://{}{} get a credential already; where the service refuses \
                             it, the problem is \"rejected\".",
                            ask.host, ask.path
                        );
                        Some(Reply::Said(said, false))
                    }
                    (Problem::Rejected, false) => {
                        let said = "there is no credential for this: the problem is \"missing\"";
                        Some(Reply::Said(said.to_owned(), true))
                    }
                    _ => None,
                }
            }
            Ask::Capability(_) => None,
        }
    }

    /// Asks. What is new has a line in the log, or is not asked.
    fn ask(&self, tool: Tool, asked: Asked) -> Result<Reply, Code> {
        let Asked { ask, reason, wait, .. } = asked;
        let (kind, now) = (ask.kind(), moment());
        let random = || {
            let mut random = [0; 5];
            getrandom::fill(&mut random).ok().map(|()| random)
        };
        let mut queue = self.shared.desk().queue(Some(self.loaded));
        let outcome = queue.ask(New { tool, ask, reason }, now, random);
        let floods = matches!(outcome, Some(Outcome::Busy(_) | Outcome::TooMany(_)));
        let tells = floods && queue.tells_of_flood(now);
        drop(queue);
        let outcome = outcome.ok_or(Code::AuditUnavailable)?;
        if tells {
            self.case.floods();
        }
        if let Some(said) = answer::refused(&outcome, now) {
            return Ok(Reply::Said(said, false));
        }
        match outcome {
            Outcome::New(id) => {
                let line = Line {
                    request_id: Some(id.as_str()),
                    generation: Some(self.loaded.generation),
                    code: Some(kind),
                    ..Line::new(Event::Request)
                };
                if self.shared.record.write(&line).is_err() {
                    self.shared.desk().queue(None).withdraw(&id);
                    return Err(Code::AuditUnavailable);
                }
                Ok(Reply::Waits(id, wait))
            }
            Outcome::Again(id) => Ok(Reply::Waits(id, wait)),
            _ => Err(Code::AuditUnavailable),
        }
    }

    fn status(&self, id: Option<RequestId>, wait: u64) -> Reply {
        let now = moment();
        let mut queue = self.shared.desk().queue(Some(self.loaded));
        let Some(id) = id else {
            let lines: Vec<String> = queue.last(limits::LISTED, now).map(answer::line).collect();
            let mut text = match lines.is_empty() {
                true => "none: nothing was asked for yet.".to_owned(),
                false => lines.join("\n"),
            };
            if let Some(config) = &self.section.config {
                text.push_str("\n\n");
                text.push_str(&config.to_string());
            }
            return Reply::Said(text, false);
        };
        match queue.get(&id, now) {
            None => Reply::Said(format!("no request of this sandbox is named {id}"), true),
            Some(entry) if entry.state.waits() => Reply::Waits(id, wait),
            Some(entry) => Reply::Said(answer::of(entry), false),
        }
    }

    /// Waits for a decision, or says at once that there is none.
    async fn wait(&self, call: Call, seconds: u64, headers: &HeaderMap) -> Said {
        let place = if seconds == 0 { None } else { self.shared.desk().place() };
        let Some(place) = place else { return json(200, &call.answer(self.shared)) };
        let id = call.request.clone();
        let decided = self.shared.until(self.loaded.generation, move |loaded| {
            let decided = |section: &Section| {
                section.requests.iter().any(|told| told.id == id && !told.state.waits())
            };
            loaded.supervise.as_ref().is_none_or(decided)
        });
        let events = door::takes_events(headers);
        let longest = if events { wait_events(self.loaded) } else { limits::WAIT_HELD };
        let end = tokio::time::sleep(longest.min(Duration::from_secs(seconds)));
        let over = async move {
            tokio::select! {
                () = decided => {}
                () = end => {}
            }
        };
        if !events {
            over.await;
            drop(place);
            return json(200, &call.answer(self.shared));
        }
        let shared = Arc::clone(self.shared);
        let waiting = Waiting::new(call, shared, over, beat(self.loaded), place);
        let mut response = Response::new(waiting);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(BUFFERING, HeaderValue::from_static("no"));
        Said::Waits(response)
    }
}

fn failed(id: Option<&Value>, fault: &Fault) -> Said {
    json(fault.status, &rpc::failed(id, fault))
}

fn json(status: u16, message: &Value) -> Said {
    let mut response = Response::new(Bytes::from(message.to_string()));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Said::Whole(response)
}

#[cfg(not(any(test, feature = "testing")))]
fn wait_events(_loaded: &Loaded) -> Duration {
    limits::WAIT
}

#[cfg(any(test, feature = "testing"))]
fn wait_events(loaded: &Loaded) -> Duration {
    loaded.testing.wait_ms.map_or(limits::WAIT, Duration::from_millis)
}

#[cfg(not(any(test, feature = "testing")))]
fn beat(_loaded: &Loaded) -> Duration {
    limits::BEAT
}

#[cfg(any(test, feature = "testing"))]
fn beat(loaded: &Loaded) -> Duration {
    loaded.testing.beat_ms.map_or(limits::BEAT, Duration::from_millis)
}
