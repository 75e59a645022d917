//! Which of the names that a guest chose are listed: a name in an archive may be as long as the guest
//! likes, and there may be as many.

/// So many bytes of one name are listed: more than a path of this machine has.
const LONGEST: usize = 4 << 10;

/// So many bytes of all names together.
const BYTES: usize = 1 << 20;

/// What is listed already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Listed {
    names: usize,
    bytes: usize,
}

impl Listed {
    /// A name as it is listed, if there is room for it: at most `most` names are. Of a long one the end is
    /// kept, which says more than its beginning.
    pub(super) fn name(&mut self, name: &[u8], most: usize) -> Option<String> {
        let start = name.len().saturating_sub(LONGEST);
        let end = &name[start..];
        if self.names >= most || self.bytes + end.len() > BYTES {
            // One that is left out is the last: what is listed has no gaps.
            self.names = usize::MAX;
            return None;
        }
        self.names += 1;
        self.bytes += end.len();
        let text = String::from_utf8_lossy(end);
        Some(if start > 0 { format!("…{text}") } else { text.into_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_has_a_bound() {
        let mut listed = Listed::default();
        assert_eq!(listed.name(b"a/b", 3).as_deref(), Some("a/b"));
        let long = [b"begin".to_vec(), vec![b'x'; LONGEST - 3], b"end".to_vec()].concat();
        let shown = listed.name(&long, 3).unwrap();
        assert!(shown.starts_with("…xx") && shown.ends_with("xend"), "{}", &shown[..9]);
        assert_eq!(shown.len(), "…".len() + LONGEST);
        listed.name(b"c", 3).unwrap();
        assert_eq!(listed.name(b"d", 3), None);

        let mut listed = Listed::default();
        let total: usize =
            (0..5000).filter_map(|_| listed.name(&long, 5000)).map(|n| n.len()).sum();
        assert!((BYTES - LONGEST..BYTES + BYTES / 100).contains(&total), "{total}");
        assert_eq!(listed.name(b"short", 5000), None, "nothing comes after what was left out");
    }
}
