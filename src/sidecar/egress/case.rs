//! One request, as the log and its page tell of it.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use hyper::Response;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::dialect::Dialect;
use super::framed::Wire;
use super::page::{self, About, page};
use super::scan::code;
use super::serve::Shared;
use super::state::Loaded;
use super::trouble::Trouble;
use crate::model::policy::service_of;
use crate::sidecar::dlp::{Finding, Taken, Unscanned};
use crate::sidecar::record::{Event, Line};
use crate::sidecar::supervise::door;
use crate::sidecar::supervise::evidence::Refusal;
use crate::sidecar::{Authority, CanonicalPath, Code, Route};

/// What is known of a request so far, each fact set once. What is not, stays out of the log.
pub(super) struct Case {
    pub(super) shared: Arc<Shared>,
    pub(super) wire: Arc<Wire>,
    pub(super) id: String,
    pub(super) generation: OnceLock<u64>,
    pub(super) method: OnceLock<String>,
    /// The canonical name, and with its port as it is told.
    host: OnceLock<(String, u16, Option<String>)>,
    /// The canonical path, without its query. A path in which a secret was found is not told.
    path: OnceLock<String>,
    route: OnceLock<Arc<Route>>,
    /// In which form whoever asks understands a refusal.
    pub(super) dialect: OnceLock<Dialect>,
    /// Why not all of its body was scanned.
    unscanned: OnceLock<Unscanned>,
    /// What to do about this very case of its code, and what the operator is told of it.
    next: OnceLock<&'static str>,
    detail: OnceLock<String>,
    /// Whoever asked is gone, so that nobody is refused anything.
    gone: AtomicBool,
    /// It goes over TLS.
    secure: AtomicBool,
    /// Where it came to there is one method.
    only_post: AtomicBool,
    /// It came, and the log has no line of it yet.
    untold: AtomicBool,
    /// A new policy has ended it.
    revoked: AtomicBool,
    /// The room that it takes among all requests: what is searched for it may go on when it is gone.
    room: OnceLock<Arc<OwnedSemaphorePermit>>,
}

impl Drop for Case {
    fn drop(&mut self) {
        if self.untold.load(Ordering::Acquire) {
            // Nobody is left to be told whether the log can be written.
            let _ = self.shared.record.write(&self.line(Event::Abandoned, None));
        }
    }
}

impl Case {
    pub(super) fn new(shared: &Arc<Shared>, wire: &Arc<Wire>) -> Arc<Self> {
        Arc::new(Self {
            shared: Arc::clone(shared),
            wire: Arc::clone(wire),
            id: shared.record.request_id(),
            generation: OnceLock::new(),
            method: OnceLock::new(),
            host: OnceLock::new(),
            path: OnceLock::new(),
            route: OnceLock::new(),
            dialect: OnceLock::new(),
            unscanned: OnceLock::new(),
            next: OnceLock::new(),
            detail: OnceLock::new(),
            gone: AtomicBool::new(false),
            secure: AtomicBool::new(true),
            only_post: AtomicBool::new(false),
            untold: AtomicBool::new(false),
            revoked: AtomicBool::new(false),
            room: OnceLock::new(),
        })
    }

    /// It takes room among all requests.
    pub(super) fn takes(&self, room: &Arc<OwnedSemaphorePermit>) {
        let _ = self.room.set(Arc::clone(room));
    }

    /// The room that it takes.
    pub(super) fn room(&self) -> Option<Arc<OwnedSemaphorePermit>> {
        self.room.get().cloned()
    }

    /// A request has come: whatever becomes of it, the log has a line.
    pub(super) fn arrived(&self) {
        self.untold.store(true, Ordering::Release);
    }

    /// It goes without TLS.
    pub(super) fn is_plain(&self) {
        self.secure.store(false, Ordering::Release);
    }

    /// Where it came to there is one method, POST.
    pub(super) fn has_only_post(&self) {
        self.only_post.store(true, Ordering::Release);
    }

    /// Its agent asks too often.
    pub(super) fn floods(&self) {
        let code = Code::TooManyRequests.as_str();
        // The answer says so as well, whether or not the log can.
        let _ = self.shared.record.write(&self.line(Event::Deny, Some(&code)));
    }

    /// What it led to has lines of its own.
    pub(super) fn is_told(&self) {
        self.untold.store(false, Ordering::Release);
    }

    /// The canonical name of the host.
    pub(super) fn host(&self) -> &str {
        self.host.get().map_or("", |(name, ..)| name)
    }

    /// It is for this host. A name that holds a secret is not told.
    pub(super) fn is_for(&self, authority: &Authority, loaded: Option<&Loaded>) {
        let name = authority.host().to_string();
        let secret = loaded.is_some_and(|loaded| loaded.scan.name_holds_secret(&name));
        let told = if secret { None } else { Some(authority.to_string()) };
        let _ = self.host.set((name, authority.port(), told));
    }

    /// It is for this path, in which nothing was found.
    pub(super) fn is_at(&self, path: &CanonicalPath) {
        let _ = self.path.set(path.path().to_owned());
    }

    /// It is refused before it was searched: its path is told if there is nothing in it.
    pub(super) fn stops_at(&self, path: &CanonicalPath, loaded: &Loaded) {
        if loaded.scan.is_clean(self.host(), path.path()) {
            self.is_at(path);
        }
    }

    /// It goes by this route.
    pub(super) fn is_by(&self, route: &Arc<Route>) {
        let _ = self.route.set(Arc::clone(route));
    }

    fn about(&self) -> About<'_> {
        About {
            host: self.host.get().and_then(|(.., told)| told.as_deref()),
            route: self.route.get().map(|route| route.path()),
            request_id: &self.id,
            next: self.next.get().copied(),
            ask: None,
            dialect: self.dialect.get().copied(),
        }
    }

    /// There is more to say about why its upstream is not reached.
    pub(super) fn explained(&self, trouble: Trouble) -> Code {
        if let Some(next) = trouble.next {
            let _ = self.next.set(next);
        }
        if let Some(detail) = trouble.detail {
            let _ = self.detail.set(detail);
        }
        trouble.code
    }

    fn line<'a>(&'a self, event: Event, code: Option<&'a str>) -> Line<'a> {
        Line {
            request_id: Some(&self.id),
            generation: self.generation.get().copied(),
            method: self.method.get().map(String::as_str),
            host: self.host.get().and_then(|(.., told)| told.as_deref()),
            path: self.path.get().map(String::as_str),
            route: self.route.get().map(|route| route.path()),
            code,
            ..Line::new(event)
        }
    }

    /// Says that the request is passed on.
    pub(super) fn allow(&self, by_proxy: bool) -> Result<(), Code> {
        self.is_told();
        let unscanned = self.unscanned.get();
        let line = Line {
            inject: self.route.get().map(|route| route.credential()),
            via: by_proxy.then_some("proxy"),
            unscanned: unscanned.map(|_| true),
            reason: unscanned.map(|reason| reason.as_str()),
            ..self.line(Event::Allow, None)
        };
        self.shared.record.write(&line).map_err(|_| Code::AuditUnavailable)
    }

    /// Says that it is refused, and makes the page that says so too.
    pub(super) fn deny(&self, code: &Code, close: bool) -> Response<Bytes> {
        let code = match self.write_denial(code) {
            Ok(()) => code,
            Err(()) => &Code::AuditUnavailable,
        };
        let mut page = page(code, &About { ask: self.call(code), ..self.about() }, close);
        if *code == Code::MethodNotAllowed && self.only_post.load(Ordering::Acquire) {
            door::only_post(&mut page);
        }
        page
    }

    /// Says that it is refused although part of it was passed on.
    pub(super) fn deny_later(&self, code: &Code) {
        // What it is about has ended already, so there is nothing left to keep from happening.
        let _ = self.write_denial(code);
    }

    /// The page for what was refused, and logged, before.
    pub(super) fn page(&self, code: &Code) -> Response<Bytes> {
        page(code, &self.about(), true)
    }

    fn write_denial(&self, code: &Code) -> Result<(), ()> {
        if self.gone.load(Ordering::Acquire) {
            return Ok(());
        }
        self.is_told();
        let text = code.as_str();
        let mut line = self.line(Event::Deny, Some(&text));
        // A secret that was found may be part of the path.
        if matches!(code, Code::Dlp { .. } | Code::KnownSecret { .. }) {
            line.path = None;
        }
        line.detail = self.detail.get().map(String::as_str);
        self.remember(&line);
        self.shared.record.write(&line).map_err(drop)
    }

    /// The call that asks for what was refused, where the agent can.
    fn call(&self, code: &Code) -> Option<Value> {
        let asked_for = matches!(
            code,
            Code::HostNotAllowed
                | Code::NameHoldsData
                | Code::PortNotAllowed
                | Code::MethodNotAllowed
                | Code::PathNotAllowed
                | Code::GrantExpired
        );
        let (host, port, told) = self.host.get().filter(|_| asked_for)?;
        // A name that holds a secret, or that is an address, is none that can be asked for.
        let named = !host.starts_with('[') && host.parse::<IpAddr>().is_err();
        told.as_ref().filter(|_| named && service_of(host).is_none())?;
        self.shared.loaded().filter(|loaded| loaded.supervise.is_some())?;
        let (scheme, usual) = match self.secure.load(Ordering::Acquire) {
            true => ("https", 443),
            false => ("http", 80),
        };
        let port = if *port == usual { String::new() } else { format!(":{port}") };
        let path = self.path.get().map_or("/", String::as_str);
        let failed_url = format!("{scheme}://{host}{port}{path}");
        Some(json!({
            "tool": "pipelock-block",
            "arguments": {"failed_url": failed_url, "request_id": self.id},
        }))
    }

    /// Where its agent can ask for what was refused, it is remembered for the operator.
    fn remember(&self, line: &Line<'_>) {
        let Some((host, port, Some(_))) = self.host.get() else { return };
        if self.shared.loaded().is_none_or(|loaded| loaded.supervise.is_none()) {
            return;
        }
        self.shared.desk().refused(Refusal {
            request_id: self.id.clone(),
            host: host.clone(),
            port: *port,
            method: line.method.map(str::to_owned),
            path: line.path.map(str::to_owned),
            code: line.code.unwrap_or_default().to_owned(),
        });
    }

    /// Says that a new policy ends it, once: its body and its answer both end by that.
    pub(super) fn revoked(&self) {
        if self.revoked.swap(true, Ordering::AcqRel) {
            return;
        }
        self.is_told();
        // It ends whether or not the log can say so.
        let _ = self.shared.record.write(&self.line(Event::Revoked, None));
    }

    /// Says that something in the sidecar went wrong over it.
    pub(super) fn mistake(&self) -> Response<Bytes> {
        self.is_told();
        let line = self.line(Event::Error, Some("internal_error"));
        // The page says so as well, whether or not the log can.
        let _ = self.shared.record.write(&line);
        page::internal_error(&self.id)
    }

    /// Says that its client does not take what it is shown.
    pub(super) fn trouble(&self, detail: &str) {
        // It ends in any case.
        let _ = self.shared.record.write(&self.line(Event::Error, None).detail(detail));
    }

    /// What a finding means for it.
    pub(super) fn judge(&self, loaded: &Loaded, finding: Finding) -> Result<(), Code> {
        let rule = format!("dlp:{}", finding.rule);
        loaded.scan.judge(finding)?;
        let line = Line { path: None, ..self.line(Event::Warn, Some(&rule)) };
        self.shared.record.write(&line).map_err(|_| Code::AuditUnavailable)
    }

    /// It is passed on without this, which was taken out of its body.
    pub(super) fn redacted(&self, taken: Taken) -> Result<(), Code> {
        for (finding, count) in taken {
            let code = code(finding);
            let code = code.as_str();
            let line = Line { count: Some(count), ..self.line(Event::Redacted, Some(&code)) };
            self.shared.record.write(&line).map_err(|_| Code::AuditUnavailable)?;
        }
        Ok(())
    }

    /// Its body, or part of it, is passed on without being searched. The first reason is told.
    pub(super) fn unscanned(&self, reason: Unscanned) {
        if self.unscanned.set(reason).is_err() {
            return;
        }
        if !self.untold.load(Ordering::Acquire) {
            // The line about the request itself is written already.
            let line = self.line(Event::Warn, Some("unscanned"));
            let reason = Some(reason.as_str());
            let _ = self.shared.record.write(&Line { unscanned: Some(true), reason, ..line });
        }
    }

    /// Its body ended before its end: by a violation, or because whoever sent it is gone.
    pub(super) fn broken_off(&self) -> Code {
        self.wire.violation().unwrap_or_else(|| {
            self.gone.store(true, Ordering::Release);
            Code::MalformedRequest
        })
    }
}
