//! A moment in time, to the millisecond, as RFC 3339 writes it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::{Date, Month, OffsetDateTime, Time};

/// Milliseconds since the epoch.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Moment(pub u64);

impl Moment {
    /// Reads RFC 3339: `2026-01-31T12:00:00Z`, with a fraction of a second or another offset where one
    /// is written. `None`: it is none, or one before the epoch.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let number = |from: usize, to: usize| -> Option<u32> {
            let digits = text.get(from..to)?;
            digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
        };
        let is = |at: usize, all: &[u8]| bytes.get(at).is_some_and(|byte| all.contains(byte));
        let written = is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":");
        if !written {
            return None;
        }
        let byte = |from, to| number(from, to).and_then(|number| u8::try_from(number).ok());
        let month = Month::try_from(byte(5, 7)?).ok()?;
        let date =
            Date::from_calendar_date(i32::try_from(number(0, 4)?).ok()?, month, byte(8, 10)?);
        // A leap second is the one before it.
        let second = byte(17, 19).filter(|second| *second <= 60)?.min(59);
        let time = Time::from_hms(byte(11, 13)?, byte(14, 16)?, second);
        let seconds = date.ok()?.with_time(time.ok()?).assume_utc().unix_timestamp();
        let mut rest = text.get(19..)?;
        let mut millis = 0;
        if let Some(fraction) = rest.strip_prefix('.') {
            let end = fraction.find(|c: char| !c.is_ascii_digit()).unwrap_or(fraction.len());
            let (digits, after) = fraction.split_at(end);
            if digits.is_empty() {
                return None;
            }
            let three: String = digits.chars().chain("00".chars()).take(3).collect();
            (millis, rest) = (three.parse::<i64>().ok()?, after);
        }
        let offset = match rest.as_bytes() {
            b"Z" | b"z" => 0,
            [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
                let from = text.len() - 5;
                let (hours, minutes) = (byte(from, from + 2)?, byte(from + 3, from + 5)?);
                if hours > 23 || minutes > 59 {
                    return None;
                }
                let offset = i64::from(hours) * 3600 + i64::from(minutes) * 60;
                if *sign == b'-' { -offset } else { offset }
            }
            _ => return None,
        };
        u64::try_from((seconds - offset) * 1000 + millis).ok().map(Self)
    }

    /// That many seconds after the epoch.
    #[must_use]
    pub fn of_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// When something ends: a moment, or the end of a day, `2026-01-31`, in UTC.
    #[must_use]
    pub fn end(text: &str) -> Option<Self> {
        match Self::parse(&format!("{text}T00:00:00Z")) {
            Some(begin) => Some(Self(begin.0 + 24 * 60 * 60 * 1000)),
            None => Self::parse(text),
        }
    }

    /// To the second, as people write it: `2026-01-31T12:00:00Z`.
    #[must_use]
    pub fn in_seconds(self) -> String {
        let text = self.to_string();
        match text.split_once('.') {
            Some((whole, _)) => format!("{whole}Z"),
            None => text,
        }
    }

    /// The seconds of it since the epoch.
    #[must_use]
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(self.seconds()).unwrap_or(i64::MAX);
        // What is beyond the calendar is its end.
        let at = OffsetDateTime::from_unix_timestamp(seconds.min(253_402_300_799));
        let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            at.year(),
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute(),
            at.second(),
            self.0 % 1000
        )
    }
}

/// Text that is no moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a moment as RFC 3339 writes it")]
pub struct NotAMoment;

impl TryFrom<String> for Moment {
    type Error = NotAMoment;
    fn try_from(text: String) -> Result<Self, NotAMoment> {
        Self::parse(&text).ok_or(NotAMoment)
    }
}

/// A fraction is written where there is one.
impl From<Moment> for String {
    fn from(moment: Moment) -> Self {
        if moment.0.is_multiple_of(1000) { moment.in_seconds() } else { moment.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-30T17:25:24.5Z", 1_796_059_524_500),
            ("2026-11-30T17:25:24.123456789Z", 1_796_059_524_123),
            ("2026-11-30t18:25:24.123+01:00", 1_796_059_524_123),
            ("2026-11-30 16:55:24.123-00:30", 1_796_059_524_123),
        ] {
            assert_eq!(Moment::parse(text), Some(Moment(millis)), "{text}");
        }
        assert_eq!(Moment(1_796_059_524_007).to_string(), "2026-11-30T17:25:24.007Z");
        let end = Moment(u64::MAX).to_string();
        assert!(end.starts_with("9999-12-31T23:59:59"), "{end}");
    }

    #[test]
    fn a_day_ends_with_it() {
        assert_eq!(Moment::end("2026-11-30"), Moment::parse("2026-12-01T00:00:00Z"));
        assert_eq!(Moment::end("2026-11-30T21:00:00Z"), Moment::parse("2026-11-30T21:00:00Z"));
        for text in ["", "2026-11-31", "tomorrow", "2026-11-30T", "2026-11"] {
            assert_eq!(Moment::end(text), None, "{text}");
        }
    }

    #[test]
    fn in_json_it_is_its_text() {
        for text in ["2026-11-30T17:25:24Z", "2026-11-30T17:25:24.007Z"] {
            let json = format!("\"{text}\"");
            let moment: Moment = serde_json::from_str(&json).unwrap();
            assert_eq!(serde_json::to_string(&moment).unwrap(), json);
        }
        assert!(serde_json::from_str::<Moment>("\"tomorrow\"").is_err());
    }

    #[test]
    fn what_is_no_moment_is_none() {
        for text in [
            "",
            "10m",
            "2026-11-30",
            "2026-11-30T17:25:24",
            "2026-13-30T17:25:24Z",
            "2026-02-30T17:25:24Z",
            "2026-11-30T25:25:24Z",
            "2026-11-30T17:25:61Z",
            "2026-11-30T17:25:24.Z",
            "2026-11-30T17:25:24+1:00",
            "2026-11-30T17:25:24+99:00",
            "1969-12-31T23:59:59Z",
            "+026-11-30T17:25:24Z",
            "2026-11-30T17:25:24Zé",
        ] {
            assert_eq!(Moment::parse(text), None, "{text}");
        }
    }
}
