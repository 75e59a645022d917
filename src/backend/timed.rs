//! Lines of a log with their times: which of them are shown, and with what before them. Pure.

use super::{LogOptions, Moment};

/// Goes through a log that comes in pieces, of each of which is known when it was written.
#[derive(Debug)]
pub(in crate::backend) struct Timed {
    since: Option<Moment>,
    timestamps: bool,
    /// The next byte begins a line.
    at_start: bool,
    /// The line that is under way is shown.
    shown: bool,
}

impl Timed {
    pub(in crate::backend) fn new(options: LogOptions) -> Self {
        let LogOptions { since, timestamps, .. } = options;
        Self { since, timestamps, at_start: true, shown: true }
    }

    /// Appends to `out` what is shown of a piece that was written at `when`. What was written at a time that
    /// nobody knows is older than all that is known.
    pub(in crate::backend) fn push(
        &mut self,
        when: Option<Moment>,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.at_start {
                self.shown = self.since.is_none_or(|since| when.is_some_and(|when| when >= since));
                if self.shown && self.timestamps {
                    let told = when.map_or_else(|| "-".to_owned(), |when| when.to_string());
                    out.extend_from_slice(told.as_bytes());
                    out.push(b' ');
                }
            }
            if self.shown {
                out.extend_from_slice(part);
            }
            self.at_start = part.ends_with(b"\n");
        }
    }

    /// The same, of a piece that begins with its time and a space, as engines write them. One that does
    /// not is of a time that nobody knows.
    pub(in crate::backend) fn push_stamped(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let space = bytes.iter().take(40).position(|byte| *byte == b' ');
        let stamp = space.and_then(|at| std::str::from_utf8(&bytes[..at]).ok());
        match stamp.and_then(Moment::parse).zip(space) {
            Some((when, space)) => self.push(Some(when), &bytes[space + 1..], out),
            None => self.push(None, bytes, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(since: Option<u64>, timestamps: bool, pieces: &[(Option<u64>, &str)]) -> String {
        let since = since.map(Moment);
        let mut timed = Timed::new(LogOptions { since, timestamps, ..LogOptions::default() });
        let mut out = Vec::new();
        for (when, piece) in pieces {
            timed.push(when.map(Moment), piece.as_bytes(), &mut out);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_is_of_the_time_at_which_it_was_begun() {
        let pieces =
            [(None, "a\n"), (Some(1), "b\nc"), (Some(2000), "c\nd\n\ne"), (Some(3000), "e")];
        assert_eq!(shown(None, false, &pieces), "a\nb\ncc\nd\n\nee");
        assert_eq!(shown(Some(2), false, &pieces), "d\n\nee");
        assert_eq!(shown(Some(1), false, &pieces), "b\ncc\nd\n\nee");
        let [one, two] = ["1970-01-01T00:00:00.001Z", "1970-01-01T00:00:02.000Z"];
        let all = format!("- a\n{one} b\n{one} cc\n{two} d\n{two} \n{two} ee");
        assert_eq!(shown(None, true, &pieces), all);
    }

    #[test]
    fn an_engines_stamp_goes_and_what_is_none_stays() {
        let mut timed = Timed::new(LogOptions { timestamps: true, ..LogOptions::default() });
        let mut out = Vec::new();
        for piece in [
            "2026-11-30T17:25:24.123456789Z long",
            "2026-11-30T17:25:25.123456789Z er\n",
            "2026-11-30T17:25:25.000000000Z \n",
            "no stamp\n",
        ] {
            timed.push_stamped(piece.as_bytes(), &mut out);
        }
        let told = "2026-11-30T17:25:24.123Z longer\n2026-11-30T17:25:25.000Z \n- no stamp\n";
        assert_eq!(String::from_utf8(out).unwrap(), told);
    }
}
