//! The keys by which a run is left to itself: Ctrl-P, Ctrl-Q. Pure.

/// The two keys, as terminals write them: plainly, and as those do that tell keys apart.
const FIRST: [&[u8]; 3] = [b"\x10", b"\x1b[112;5u", b"\x1b[27;5;112~"];
const SECOND: [&[u8]; 3] = [b"\x11", b"\x1b[113;5u", b"\x1b[27;5;113~"];

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// It is the run's.
    Keys(Vec<u8>),
    /// This is the run's, and then it is left.
    Leave(Vec<u8>),
}

/// Holds the first key back until the next one comes.
#[derive(Debug, Default)]
pub(super) struct Keys {
    held: Option<&'static [u8]>,
}

impl Keys {
    pub(super) fn push(&mut self, bytes: &[u8]) -> Typed {
        let mut out = Vec::with_capacity(bytes.len());
        let mut rest = bytes;
        let key = |rest: &[u8], keys: [&'static [u8]; 3]| {
            keys.into_iter().find(|key| rest.starts_with(key))
        };
        while let Some(byte) = rest.first() {
            if self.held.is_some() && key(rest, SECOND).is_some() {
                self.held = None;
                return Typed::Leave(out);
            }
            out.extend_from_slice(self.held.take().unwrap_or_default());
            match key(rest, FIRST) {
                Some(first) => {
                    self.held = Some(first);
                    rest = &rest[first.len()..];
                }
                None => {
                    out.push(*byte);
                    rest = &rest[1..];
                }
            }
        }
        Typed::Keys(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(parts: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut keys = Keys::default();
        let mut all = Vec::new();
        for part in parts {
            match keys.push(part) {
                Typed::Keys(bytes) => all.extend(bytes),
                Typed::Leave(bytes) => {
                    all.extend(bytes);
                    return (all, true);
                }
            }
        }
        (all, false)
    }

    #[test]
    fn both_keys_leave_and_one_of_them_is_the_runs() {
        assert_eq!(typed(&[b"a\x10\x11b"]), (b"a".to_vec(), true));
        assert_eq!(typed(&[b"a\x10", b"\x11"]), (b"a".to_vec(), true));
        assert_eq!(typed(&[b"\x10", b"b"]), (b"\x10b".to_vec(), false));
        assert_eq!(typed(&[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(typed(&[b"\x11\x10"]), (b"\x11".to_vec(), false));
        assert_eq!(typed(&[b"x\x1b[112;5u\x1b[113;5u"]), (b"x".to_vec(), true));
        assert_eq!(typed(&[b"\x1b[27;5;112~", b"\x1b[27;5;113~"]), (Vec::new(), true));
        assert_eq!(typed(&[b"\x1b[A"]), (b"\x1b[A".to_vec(), false));
    }
}
