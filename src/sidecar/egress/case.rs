//! One request, as the log and its page tell of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use hyper::Response;

use super::framed::Wire;
use super::page::{self, About, page};
use super::serve::Shared;
use super::state::Loaded;
use crate::sidecar::dlp::Finding;
use crate::sidecar::record::{Event, Line};
use crate::sidecar::{Authority, CanonicalPath, Code, Route};

/// What is known of a request so far, each fact set once. What is not, stays out of the log.
pub(super) struct Case {
    pub(super) shared: Arc<Shared>,
    pub(super) wire: Arc<Wire>,
    pub(super) id: String,
    pub(super) generation: OnceLock<u64>,
    pub(super) method: OnceLock<String>,
    /// The canonical name, and with its port as it is told.
    host: OnceLock<(String, Option<String>)>,
    /// The canonical path, without its query. A path in which a secret was found is not told.
    path: OnceLock<String>,
    route: OnceLock<Arc<Route>>,
    unscanned: AtomicBool,
    /// Whoever asked is gone, so that nobody is refused anything.
    gone: AtomicBool,
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
            unscanned: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        })
    }

    /// The canonical name of the host.
    pub(super) fn host(&self) -> &str {
        self.host.get().map_or("", |(name, _)| name)
    }

    /// It is for this host. A name that holds a known value is not told.
    pub(super) fn is_for(&self, authority: &Authority, loaded: Option<&Loaded>) {
        let name = authority.host().to_string();
        let secret = loaded.is_some_and(|loaded| loaded.scan.name_holds_known(&name));
        let told = if secret { None } else { Some(authority.to_string()) };
        let _ = self.host.set((name, told));
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
            host: self.host.get().and_then(|(_, told)| told.as_deref()),
            route: self.route.get().map(|route| route.path()),
            request_id: &self.id,
        }
    }

    fn line<'a>(&'a self, event: Event, code: Option<&'a str>) -> Line<'a> {
        Line {
            request_id: Some(&self.id),
            generation: self.generation.get().copied(),
            method: self.method.get().map(String::as_str),
            host: self.host.get().and_then(|(_, told)| told.as_deref()),
            path: self.path.get().map(String::as_str),
            route: self.route.get().map(|route| route.path()),
            code,
            ..Line::new(event)
        }
    }

    /// Says that the request is passed on.
    pub(super) fn allow(&self) -> Result<(), Code> {
        let unscanned = self.unscanned.load(Ordering::Acquire);
        let line = Line {
            inject: self.route.get().map(|route| route.credential()),
            unscanned: unscanned.then_some(true),
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
        page(code, &self.about(), close)
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
        let text = code.as_str();
        let mut line = self.line(Event::Deny, Some(&text));
        // A secret that was found may be part of the path.
        if matches!(code, Code::Dlp { .. } | Code::KnownSecret { .. }) {
            line.path = None;
        }
        self.shared.record.write(&line).map_err(drop)
    }

    /// Says that a new policy ends it.
    pub(super) fn revoked(&self) {
        // It ends whether or not the log can say so.
        let _ = self.shared.record.write(&self.line(Event::Revoked, None));
    }

    /// Says that something in the sidecar went wrong over it.
    pub(super) fn mistake(&self) -> Response<Bytes> {
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

    /// Its body, or part of it, is passed on without being searched.
    pub(super) fn unscanned(&self) {
        self.unscanned.store(true, Ordering::Release);
    }

    /// Its body ended before its end: by a violation, or because whoever sent it is gone.
    pub(super) fn broken_off(&self) -> Code {
        self.wire.violation().unwrap_or_else(|| {
            self.gone.store(true, Ordering::Release);
            Code::MalformedRequest
        })
    }
}
