//! What of a request is searched for secrets, and what is done about them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hyper::HeaderMap;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, COOKIE};
use time::{Date, OffsetDateTime};
use zeroize::Zeroizing;

use super::limits;
use crate::sidecar::Code;
use crate::sidecar::credential::{Redactions, Redactor, basic_forms};
use crate::sidecar::dlp::coding::{self, Coding, Unscannable};
use crate::sidecar::dlp::{
    BodyScanner, Bounds, Finding, Known, Report, Rules, Scanner, Suppression, Taken, Unscanned,
    Written,
};
use crate::sidecar::document::Document;
use crate::sidecar::part::{Action, SuppressionPart};
use crate::sidecar::{holds_data, not_words};

/// The search of one loaded document.
pub(super) struct Scan {
    scanner: Arc<Scanner>,
    redactions: Arc<Redactions>,
    action: Action,
    /// The operator's own rules, as they were written.
    own: Option<String>,
}

/// Whom routes write into Basic credentials, each with the name of the credential.
pub(super) fn basic_users(document: &Document) -> BTreeSet<(String, String)> {
    let routes = document.policy.routes.iter();
    routes.filter_map(|r| Some((r.auth_user.clone()?, r.credential.clone()))).collect()
}

/// What is looked for, by the name of its credential: the credentials, and what routes write of them that
/// is another text.
fn known_values(document: &Document) -> Vec<(&str, Zeroizing<String>)> {
    let credentials = &document.credentials;
    let mut values: Vec<(&str, Zeroizing<String>)> = credentials
        .iter()
        .map(|(name, value)| (&**name, Zeroizing::new(value.reveal().to_owned())))
        .collect();
    for (user, name) in basic_users(document) {
        if let Some((name, value)) = credentials.get_key_value(&name) {
            let forms = basic_forms(&user, value.reveal());
            values.extend(forms.into_iter().map(|form| (&**name, form)));
        }
    }
    values
}

impl Scan {
    /// Of a document. Where only its exceptions or its action differ from those of the one `before`, what is
    /// looked for is shared: it takes megabytes and milliseconds to make, and requests hold on to the old one
    /// for as long as they last.
    pub(super) fn new(document: &Document, before: Option<&Self>) -> Result<Self, String> {
        let dlp = &document.policy.dlp;
        let suppressions = dlp.allow.iter().map(suppression).collect::<Result<Vec<_>, _>>()?;
        if let Some(before) = before.filter(|before| before.own == dlp.rules) {
            return Ok(Self {
                scanner: Arc::new(before.scanner.with_suppressions(suppressions)),
                redactions: Arc::clone(&before.redactions),
                action: dlp.action,
                own: dlp.rules.clone(),
            });
        }
        let rules = match &dlp.rules {
            None => Rules::builtin().clone(),
            Some(own) => {
                let own = Rules::from_toml(own).map_err(|error| format!("`dlp.rules`: {error}"))?;
                Rules::builtin().merge(&own)
            }
        };
        let values = known_values(document);
        let looked_for = values.iter().map(|(name, value)| (*name, value.as_str()));
        let known = Arc::new(Known::new(looked_for).map_err(|error| error.to_string())?);
        let scanner = Arc::new(Scanner::new(Arc::new(rules), known, suppressions));
        let taken_out = values.iter().map(|(name, value)| (*name, value.as_bytes()));
        let redactions = Redactions::new(taken_out)
            .map_err(|_| "the credentials are too many to be looked for".to_owned())?;
        let redactions = Arc::new(redactions);
        Ok(Self { scanner, redactions, action: dlp.action, own: dlp.rules.clone() })
    }

    /// Whether what takes memory and time to make was made for the other.
    pub(super) fn shares(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.redactions, &other.redactions)
    }

    /// Searches a request's target and head, as they would be sent, and what is packed in them. What would be
    /// too much to look into is [`Unscanned::Large`].
    pub(super) fn head(&self, host: &str, target: &str, headers: &HeaderMap) -> Report {
        let mut text = Vec::with_capacity(512);
        text.extend_from_slice(target.as_bytes());
        for (name, value) in headers {
            // One line would go on in the next, if it were base64.
            text.extend_from_slice(b"\n\n");
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(b": ");
            text.extend_from_slice(value.as_bytes());
        }
        self.scanner.scan_head(host, today(), &text)
    }

    /// What must not leave in a host's name: a known value, in a form that names can have; and what rules
    /// find in any case, since a name has none, in what is no word of it.
    pub(super) fn name(&self, name: &str) -> Vec<Finding> {
        let known = self.redactions.name_in(name.as_bytes());
        let known = known.map(|rule| Finding { rule: rule.to_owned(), known: true });
        let rules = self.scanner.scan_in_any_case(name, today(), not_words(name).as_bytes());
        known.into_iter().chain(rules).collect()
    }

    /// Whether there is nothing in a text that must not be told.
    pub(super) fn is_clean(&self, host: &str, text: &str) -> bool {
        let report = self.scanner.scan_head(host, today(), text.as_bytes());
        report.findings.is_empty() && report.unscanned != Some(Unscanned::Large)
    }

    /// Whether a host's name holds a known value, or most of one, in a form that names can have and also
    /// cut into labels; or what a rule finds.
    pub(super) fn name_holds_secret(&self, name: &str) -> bool {
        let joined = name.replace('.', "");
        let text = format!("{name}\n{joined}");
        holds_data(name)
            || !self.name(name).is_empty()
            || !self.is_clean(name, &text)
            || !self.is_clean(name, &text.to_ascii_uppercase())
    }

    /// Searches a whole body, and what is packed in it. An error: why not to its end. It need not
    /// go on when it is `over`.
    pub(super) fn whole_body(
        &self,
        host: &str,
        codings: &[Coding],
        body: &[u8],
        over: &AtomicBool,
    ) -> (Report, Result<(), Unscannable>) {
        let output = unpacked(u64::try_from(body.len()).unwrap_or(u64::MAX));
        let limits = coding::Limits { output, ..coding::Limits::default() };
        self.scanner.scan_as_far(host, today(), codings, body, Bounds { limits, over })
    }

    /// A search of a body that comes in pieces.
    pub(super) fn body(&self, host: &str) -> BodyScanner {
        self.scanner.stream(host, today())
    }

    /// Whether a request with this finding is refused, and how.
    pub(super) fn judge(&self, finding: Finding) -> Result<(), Code> {
        match (finding.known, self.action) {
            (false, Action::Warn) => Ok(()),
            (_, Action::Block | Action::Redact) | (true, Action::Warn) => Err(code(finding)),
        }
    }

    /// How a body is written that something can be taken out of, if that is what is done about leaks.
    pub(super) fn redacts(&self, headers: &HeaderMap) -> Option<Written> {
        written(headers).filter(|_| self.takes_out())
    }

    /// Whether what is found is taken out of a text, where it can be.
    pub(super) fn takes_out(&self) -> bool {
        self.action == Action::Redact
    }

    /// Takes out of a body what must not leave, as far as that goes.
    pub(super) fn take_out(
        &self,
        host: &str,
        written: &Written,
        body: &[u8],
        taken: &mut Taken,
    ) -> Option<Vec<u8>> {
        self.scanner.take_out(host, today(), written, body, taken)
    }

    /// Takes known values out of what comes back, if there are any; in every form out of what answers a
    /// request that had one.
    pub(super) fn redactor(&self, injected: bool) -> Option<Redactor> {
        (!self.redactions.is_empty()).then(|| {
            let redactor = Redactor::new(Arc::clone(&self.redactions));
            if injected { redactor.thorough() } else { redactor }
        })
    }

    /// Whether what cannot be searched is refused.
    pub(super) fn blocks(&self) -> bool {
        self.action != Action::Warn
    }
}

/// Why a request with this finding is refused.
pub(super) fn code(finding: Finding) -> Code {
    let name = finding.rule.into();
    if finding.known { Code::KnownSecret { name } } else { Code::Dlp { rule: name } }
}

/// Fields that hold for the body as it was sent: its digest, its signature, its place in something larger.
const OF_THE_BODY: [&str; 9] = [
    "content-md5",
    "digest",
    "content-digest",
    "repr-digest",
    "signature-input",
    "x-amz-content-sha256",
    "x-goog-hash",
    "content-range",
    "upload-offset",
];

/// How a body is written, if something else may be sent in its place.
fn written(headers: &HeaderMap) -> Option<Written> {
    let bound = |name: &str| OF_THE_BODY.contains(&name) || name.starts_with("x-amz-checksum-");
    if !codings(headers).ok()?.is_empty() || headers.keys().any(|name| bound(name.as_str())) {
        return None;
    }
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    match (types.next(), types.next()) {
        (None, _) => Some(Written::Text),
        (Some(kind), None) => Written::of_type(kind.as_bytes()),
        (Some(_), Some(_)) => None,
    }
}

/// How much a body may give that is so long: as much as one that is not packed, if it is no small thing.
pub(super) fn unpacked(length: u64) -> u64 {
    let limits = coding::Limits::default();
    let output = length.saturating_mul(limits::UNPACKED_RATIO);
    let output = output.clamp(limits::UNPACKED_SMALL, limits::SCANNED_BODY);
    output.min(length.saturating_mul(limits.ratio).max(limits::UNPACKED_ANY))
}

/// The same of a body that is an archive: those of sources hold much more than they are long.
pub(super) fn unpacked_archive(length: u64) -> u64 {
    let most = length.saturating_mul(limits::ARCHIVE_RATIO);
    let most = most.clamp(limits::UNPACKED_SMALL, limits::ARCHIVE);
    most.min(length.saturating_mul(coding::Limits::default().ratio).max(limits::UNPACKED_ANY))
}

/// What a head says of how its body is encoded.
pub(super) fn codings(headers: &HeaderMap) -> Result<Vec<Coding>, Unscannable> {
    let mut all = Vec::new();
    for value in headers.get_all(CONTENT_ENCODING) {
        all.push(value.to_str().map_err(|_| Unscannable::Coding)?);
    }
    Coding::parse(&all.join(","))
}

/// The pieces of a cookie are one value: HTTP/2 takes them apart as it likes.
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let pieces: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(|value| value.as_bytes()).collect();
    if pieces.len() > 1
        && let Ok(whole) = hyper::header::HeaderValue::from_bytes(&pieces.join(&b"; "[..]))
    {
        headers.insert(COOKIE, whole);
    }
}

fn today() -> Date {
    OffsetDateTime::now_utc().date()
}

/// An exception of a document's, made ready.
pub(in crate::sidecar) fn suppression(part: &SuppressionPart) -> Result<Suppression, String> {
    let expires = part.expires.as_deref().map(|text| {
        date(text).ok_or_else(|| {
            format!("`dlp.allow` of `{}`: `{text}` is no day: expected `YYYY-MM-DD`", part.rule)
        })
    });
    Ok(Suppression {
        rule: part.rule.clone(),
        host: part.host.clone(),
        reason: part.reason.clone(),
        expires: expires.transpose()?,
    })
}

fn date(text: &str) -> Option<Date> {
    let mut parts = text.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let fits = year.len() == 4 && month.len() == 2 && day.len() == 2 && parts.next().is_none();
    let month = time::Month::try_from(month.parse::<u8>().ok()?).ok()?;
    Date::from_calendar_date(year.parse().ok()?, month, day.parse().ok()?).ok().filter(|_| fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days() {
        assert!(date("2030-02-28").is_some());
        for wrong in ["2030-02-30", "2030-2-28", "30-02-28", "2030-02-28-1", "soon", ""] {
            assert!(date(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn only_a_body_that_nothing_else_holds_for_is_written_anew() {
        let map = |fields: &[(&str, &str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in fields {
                let name = hyper::header::HeaderName::from_bytes(name.as_bytes()).unwrap();
                map.append(name, value.parse().unwrap());
            }
            map
        };
        let json = ("content-type", "application/json; charset=utf-8");
        assert_eq!(written(&map(&[])), Some(Written::Text));
        assert_eq!(written(&map(&[json])), Some(Written::Json));
        assert_eq!(written(&map(&[json, ("content-encoding", "identity")])), Some(Written::Json));
        for other in [
            ("content-type", "text/plain"),
            ("content-encoding", "gzip"),
            ("content-encoding", "snappy"),
            ("content-md5", "x"),
            ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
            ("x-amz-checksum-crc32", "x"),
            ("content-range", "bytes 0-1/2"),
        ] {
            assert_eq!(written(&map(&[json, other])), None, "{other:?}");
        }
    }

    #[test]
    fn the_pieces_of_a_cookie_are_joined() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, "a=1".parse().unwrap());
        headers.append(COOKIE, "b=2".parse().unwrap());
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn what_is_looked_for_is_shared_until_it_changes() {
        let document = |rules: Option<&str>, action: Action| Document {
            version: crate::sidecar::document::VERSION,
            sandbox: "ada".to_owned(),
            policy: crate::sidecar::part::PolicyPart {
                dlp: crate::sidecar::part::DlpPart {
                    rules: rules.map(str::to_owned),
                    action,
                    ..Default::default()
                },
                ..Default::default()
            },
            names: Vec::new(),
            forbidden: Vec::new(),
            ca: None,
            roots: Vec::new(),
            more_roots: Vec::new(),
            proxy: None,
            credentials: std::collections::BTreeMap::new(),
            resolver: Vec::new(),
            hosts: None,
            supervise: None,
            testing: crate::sidecar::document::Testing::default(),
        };
        let own = "[[rules]]\nid = 'house'\nregex = 'house_[a-z]{8}'\nkeywords = ['house_']";
        let found = |scan: &Scan| {
            let report = scan.head("example.com", "/house_abcdefgh", &HeaderMap::new());
            report.findings.into_iter().map(|finding| finding.rule).collect::<Vec<_>>()
        };
        let first = Scan::new(&document(None, Action::Block), None).unwrap();
        let other = Scan::new(&document(None, Action::Warn), Some(&first)).unwrap();
        assert!(Arc::ptr_eq(&first.redactions, &other.redactions));
        assert!(first.blocks() && !other.blocks());
        assert_eq!(found(&other), [""; 0]);
        let with_own = Scan::new(&document(Some(own), Action::Warn), Some(&other)).unwrap();
        assert_eq!(found(&with_own), ["house"]);
        assert!(!Arc::ptr_eq(&with_own.redactions, &other.redactions));
        let without = Scan::new(&document(None, Action::Warn), Some(&with_own)).unwrap();
        assert_eq!(found(&without), [""; 0]);
    }
}
