//! Taking what was found out of a text, so that the rest of it can go on.
//!
//! What is looked for here is what stands in the text itself, and in what its escapes stand for: those of
//! strings of JSON, also of JSON in a string of JSON, and those of a form. Characters are taken out as they are
//! written, never half of an escape, and of JSON only what stands within a string; so JSON stays JSON.
//!
//! This decides nothing. Whoever sends what comes of it searches that first, with all decoders: what is
//! encoded in any other way is still there, and still found.

mod parts;
#[cfg(test)]
mod tests;
mod units;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

use serde::de::IgnoredAny;
use time::Date;

use self::units::{Piece, Way, decoded, origin, unit};
use super::engine::View;
use super::marker::marker;
use super::scanner::{Finding, Scanner};
use super::stream::{OVERLAP, WINDOW};

/// How often what was taken out of a text.
pub type Taken = BTreeMap<Finding, u64>;

/// Rules that find how something begins that goes on for lines: none of that is taken out, so it is refused.
const BEGINNINGS: [&str; 2] = ["private-key", "putty-private-key"];

/// More places than this are left for the next time.
const PLACES: usize = 16 * 1024;

/// How the escapes of a text are undone: those of JSON in a string of JSON in a string of JSON.
const OF_TEXT: [Way; 3] = [Way::Escapes; 3];
const OF_FORM: [Way; 4] = [Way::Form, Way::Escapes, Way::Escapes, Way::Escapes];

/// How a text is written that something can be taken out of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// As it stands.
    Text,
    /// One value of JSON, or several.
    Json,
    /// `a=b&c=d`, with percent signs.
    Form,
    /// Parts between these boundaries.
    Parts(Box<[u8]>),
}

impl Written {
    /// What a `Content-Type` says, if it names a text that can be written anew: not XML, in which a marker
    /// would be a tag.
    #[must_use]
    pub fn of_type(kind: &[u8]) -> Option<Self> {
        let kind = std::str::from_utf8(kind).ok().filter(|kind| kind.is_ascii())?;
        let (kind, parameters) = kind.split_once(';').unwrap_or((kind, ""));
        let kind = kind.trim().to_ascii_lowercase();
        let mut boundary = None;
        for parameter in parameters.split(';') {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                // Those in which ASCII is ASCII.
                "charset" => match value.to_ascii_lowercase().as_str() {
                    "utf-8" | "utf8" | "us-ascii" | "ascii" | "iso-8859-1" => {}
                    _ => return None,
                },
                "boundary" => boundary = Some(value),
                _ => {}
            }
        }
        let (class, name) = kind.split_once('/')?;
        match (class, name) {
            ("text", "html" | "xml") => None,
            ("application", "x-www-form-urlencoded") => Some(Self::Form),
            (
                "application",
                "json" | "json5" | "jsonl" | "ndjson" | "x-ndjson" | "x-json-stream",
            ) => Some(Self::Json),
            ("application", "x-jsonlines" | "jsonlines" | "x-amz-json-1.0" | "x-amz-json-1.1") => {
                Some(Self::Json)
            }
            (_, name) if name.ends_with("+json") => Some(Self::Json),
            (_, name) if name.ends_with("+xml") => None,
            ("text", _)
            | ("application", "graphql" | "javascript" | "sql" | "toml" | "yaml" | "x-yaml") => {
                Some(Self::Text)
            }
            ("multipart", _) => boundary
                .filter(|boundary| !boundary.is_empty())
                .map(|boundary| Self::Parts(boundary.as_bytes().into())),
            _ => None,
        }
    }
}

/// What is taken out, and where it stands.
#[derive(Debug)]
struct Place {
    range: Range<usize>,
    finding: Finding,
}

impl Scanner {
    /// The text with a marker in the place of each thing that must not leave, as far as those can be taken out;
    /// `None`: none can. `taken` counts them.
    #[must_use]
    pub fn take_out(
        &self,
        host: &str,
        today: Date,
        written: &Written,
        text: &[u8],
        taken: &mut Taken,
    ) -> Option<Vec<u8>> {
        let Written::Parts(boundary) = written else {
            return self.take_out_of(host, today, written, text, taken);
        };
        let (mut out, mut done, mut any) = (Vec::with_capacity(text.len()), 0, false);
        for (part, written) in parts::texts(text, boundary)? {
            let inside = &text[part.clone()];
            if let Some(new) = self.take_out_of(host, today, &written, inside, taken) {
                out.extend_from_slice(&text[done..part.start]);
                out.extend_from_slice(&new);
                (done, any) = (part.end, true);
            }
        }
        out.extend_from_slice(&text[done..]);
        any.then_some(out)
    }

    /// The same of one text.
    fn take_out_of(
        &self,
        host: &str,
        today: Date,
        written: &Written,
        text: &[u8],
        taken: &mut Taken,
    ) -> Option<Vec<u8>> {
        if !is_text(text) {
            return None;
        }
        let json = is_json(text);
        let ways = match written {
            Written::Json if !json => return None,
            Written::Form if !json => &OF_FORM[..],
            _ => &OF_TEXT[..],
        };
        let mut places = Vec::new();
        let mut start = 0;
        loop {
            let (end, next) = window(text, ways[0], start);
            let view = View {
                bytes: &text[start..end],
                decoded: None,
                open_start: start > 0,
                open_end: end < text.len(),
                any_case: false,
            };
            for (range, finding) in self.within(host, today, view, ways) {
                if BEGINNINGS.contains(&finding.rule.as_str()) {
                    continue;
                }
                let range = start + range.start..start + range.end;
                let range = if finding.known { range } else { whole_token(text, range) };
                places.push(Place { range, finding });
            }
            if end == text.len() || places.len() > PLACES {
                break;
            }
            start = next;
        }
        let replaced = replaced(text, ways[0], json, &merged(places), taken)?;
        // So it is by what was replaced; and whoever gets it need not rely on that.
        (!json || is_json(&replaced)).then_some(replaced)
    }

    /// Where things stand in a window, and in what its escapes stand for.
    fn within(
        &self,
        host: &str,
        today: Date,
        view: View<'_>,
        ways: &[Way],
    ) -> Vec<(Range<usize>, Finding)> {
        let mut all = self.places(host, today, view);
        let mut layers: Vec<Vec<Piece>> = Vec::new();
        let mut text = None;
        for way in ways {
            let (next, pieces) = decoded(text.as_deref().unwrap_or(view.bytes), *way);
            if pieces.is_empty() {
                // In a form without percent signs there may be escapes still.
                if *way == Way::Form {
                    continue;
                }
                break;
            }
            layers.push(pieces);
            for (range, finding) in self.places(host, today, View { bytes: &next, ..view }) {
                let place = layers.iter().rev().fold(range, |range, pieces| origin(range, pieces));
                all.push((place, finding));
            }
            text = Some(next);
        }
        all
    }
}

/// The same place, to the end of the token that it is in: a rule may find the beginning of one only.
fn whole_token(text: &[u8], range: Range<usize>) -> Range<usize> {
    let belongs = |byte: u8| byte.is_ascii_alphanumeric() || b"+/_-~".contains(&byte);
    let mut end = range.end;
    loop {
        end += match &text[end..] {
            [byte, ..] if belongs(*byte) => 1,
            // Between two parts of it, and no full stop.
            [b'.', next, ..] if belongs(*next) => 1,
            // As JSON and forms may write what base64 has.
            [b'\\', b'/', ..] => 2,
            [b'%', b'2', b'B' | b'b' | b'F' | b'f', ..] => 3,
            _ => return range.start..end,
        };
    }
}

/// The end of a window of a text that begins here, and where the next one begins: between two characters as
/// they are written.
fn window(text: &[u8], way: Way, start: usize) -> (usize, usize) {
    let (mut at, mut next) = (start, None);
    while at < text.len() && at < start + WINDOW {
        if next.is_none() && at >= start + WINDOW - OVERLAP {
            next = Some(at);
        }
        at += unit(&text[at..], way).length;
    }
    (at, next.unwrap_or(at))
}

/// Places in order, of those that overlap one.
fn merged(mut places: Vec<Place>) -> Vec<Place> {
    places.retain(|place| !place.range.is_empty());
    places.sort_by_key(|place| (place.range.start, !place.finding.known, Reverse(place.range.end)));
    let mut out: Vec<Place> = Vec::new();
    for place in places {
        match out.last_mut() {
            Some(last) if place.range.start < last.range.end => {
                last.range.end = last.range.end.max(place.range.end);
            }
            _ => out.push(place),
        }
    }
    out
}

/// The text with markers in these places; none, if there was nothing to replace.
fn replaced(
    text: &[u8],
    way: Way,
    json: bool,
    places: &[Place],
    taken: &mut Taken,
) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let (mut in_string, mut any) = (false, false);
    let mut places = places.iter();
    let mut place = places.next();
    // The marker of this place stands already, in this string.
    let mut marked = false;
    let mut at = 0;
    while at < text.len() {
        let end = at + unit(&text[at..], way).length;
        while place.is_some_and(|place| place.range.end <= at) {
            (place, marked) = (places.next(), false);
        }
        let quote = json && text[at] == b'"';
        in_string ^= quote;
        let inside = !json || in_string && !quote;
        match place.filter(|place| inside && place.range.start < end) {
            None => {
                out.extend_from_slice(&text[at..end]);
                marked = false;
            }
            Some(_) if marked => {}
            Some(place) => {
                out.extend_from_slice(&marker(&place.finding.rule, way == Way::Form));
                *taken.entry(place.finding.clone()).or_default() += 1;
                (marked, any) = (true, true);
            }
        }
        at = end;
    }
    any.then_some(out)
}

/// Whether all of it is text that a person could read.
fn is_text(text: &[u8]) -> bool {
    let control = |byte: &u8| *byte < b' ' && !b"\t\n\x0c\r\x1b".contains(byte);
    !text.iter().any(control) && std::str::from_utf8(text).is_ok()
}

/// Whether it is one value of JSON, or several.
fn is_json(text: &[u8]) -> bool {
    let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
    if !first.is_some_and(|first| b"{[\"".contains(first)) {
        return false;
    }
    serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>().all(|value| value.is_ok())
}
