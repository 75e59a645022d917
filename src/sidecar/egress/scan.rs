//! What of a request is searched for secrets, and what is done about them.

use std::sync::Arc;

use hyper::HeaderMap;
use hyper::header::{CONTENT_ENCODING, COOKIE};
use time::{Date, OffsetDateTime};

use super::limits;
use crate::sidecar::Code;
use crate::sidecar::credential::{Redactions, Redactor};
use crate::sidecar::dlp::coding::{self, Coding, Unscannable};
use crate::sidecar::dlp::{BodyScanner, Finding, Known, Report, Rules, Scanner, Suppression};
use crate::sidecar::document::Document;
use crate::sidecar::part::{Action, SuppressionPart};

/// The search of one loaded document.
pub(super) struct Scan {
    scanner: Arc<Scanner>,
    redactions: Arc<Redactions>,
    action: Action,
}

impl Scan {
    pub(super) fn new(document: &Document) -> Result<Self, String> {
        let dlp = &document.policy.dlp;
        let rules = match &dlp.rules {
            None => Rules::builtin().clone(),
            Some(own) => {
                let own = Rules::from_toml(own).map_err(|error| format!("`dlp.rules`: {error}"))?;
                Rules::builtin().merge(&own)
            }
        };
        let values =
            document.credentials.iter().map(|(name, value)| (name.as_str(), value.reveal()));
        let known = Arc::new(Known::new(values).map_err(|error| error.to_string())?);
        let suppressions = dlp.allow.iter().map(suppression).collect::<Result<_, _>>()?;
        let scanner = Arc::new(Scanner::new(Arc::new(rules), known, suppressions));
        let values = document
            .credentials
            .iter()
            .map(|(name, value)| (name.as_str(), value.reveal().as_bytes()));
        let redactions = Redactions::new(values)
            .map_err(|_| "the credentials are too many to be looked for".to_owned())?;
        Ok(Self { scanner, redactions: Arc::new(redactions), action: dlp.action })
    }

    /// Searches a request's target and head, as they would be sent.
    pub(super) fn head(&self, host: &str, target: &str, headers: &HeaderMap) -> Vec<Finding> {
        let mut text = Vec::with_capacity(512);
        text.extend_from_slice(target.as_bytes());
        for (name, value) in headers {
            text.push(b'\n');
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(b": ");
            text.extend_from_slice(value.as_bytes());
        }
        self.scanner.scan(host, today(), &text)
    }

    /// Whether there is nothing in a text that must not be told.
    pub(super) fn is_clean(&self, host: &str, text: &str) -> bool {
        self.scanner.scan(host, today(), text.as_bytes()).is_empty()
    }

    /// Whether a host's name holds a known value, also one that is cut into labels.
    pub(super) fn name_holds_known(&self, name: &str) -> bool {
        let holds = |text: &str| self.redactions.redact(text.as_bytes()).is_some();
        !self.redactions.is_empty() && (holds(name) || holds(&name.replace('.', "")))
    }

    /// Searches a whole body, and what is packed in it.
    pub(super) fn whole_body(
        &self,
        host: &str,
        codings: &[Coding],
        body: &[u8],
    ) -> Result<Report, Unscannable> {
        // Unpacked it may be as large as one that is not packed.
        let limits = coding::Limits { output: limits::SCANNED_BODY, ..coding::Limits::default() };
        self.scanner.scan_body(host, today(), codings, body, limits)
    }

    /// A search of a body that comes in pieces.
    pub(super) fn body(&self, host: &str) -> BodyScanner {
        self.scanner.stream(host, today())
    }

    /// Whether a request with this finding is refused, and how.
    pub(super) fn judge(&self, finding: Finding) -> Result<(), Code> {
        match (finding.known, self.action) {
            (true, _) => Err(Code::KnownSecret { name: finding.rule.into() }),
            (false, Action::Block) => Err(Code::Dlp { rule: finding.rule.into() }),
            (false, Action::Warn) => Ok(()),
        }
    }

    /// Takes known values out of what comes back, if there are any.
    pub(super) fn redactor(&self) -> Option<Redactor> {
        (!self.redactions.is_empty()).then(|| Redactor::new(Arc::clone(&self.redactions)))
    }

    /// Whether what cannot be searched is refused.
    pub(super) fn blocks(&self) -> bool {
        self.action == Action::Block
    }
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

fn suppression(part: &SuppressionPart) -> Result<Suppression, String> {
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
    fn the_pieces_of_a_cookie_are_joined() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, "a=1".parse().unwrap());
        headers.append(COOKIE, "b=2".parse().unwrap());
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }
}
