//! Where in a text none of the values can stand, told by looking at few of its bytes.
//!
//! Wu and Manber's skip: every value covers so many bytes that one of the blocks looked at, a fixed step
//! apart, lies within it. A block that begins none of those inside the values rules out all around it.

use std::ops::Range;

use zeroize::Zeroizing;

/// The bytes looked at together.
const BLOCK: usize = 4;
/// The bits of the table's index: a table of 8 KiB stays in a processor's nearest memory.
const INDEX: u32 = 16;

/// The blocks of a set of values, regardless of the case of letters. Wiped when dropped.
pub(super) struct Sieve {
    /// A bit for each block that is inside a value, by its hash.
    blocks: Zeroizing<Vec<u64>>,
    /// The lengths of the shortest value and of the longest.
    shortest: usize,
    longest: usize,
}

impl Sieve {
    pub(super) fn new<'v>(values: impl Iterator<Item = &'v [u8]> + Clone) -> Self {
        let shortest = values.clone().map(<[u8]>::len).min().unwrap_or(0);
        let longest = values.clone().map(<[u8]>::len).max().unwrap_or(0);
        let mut blocks = Zeroizing::new(vec![0; 1 << (INDEX - u64::BITS.trailing_zeros())]);
        // What comes after the shortest one's end is never needed: the step is made for that one.
        for block in values.flat_map(|value| value[..shortest].windows(BLOCK)) {
            let (word, bit) = place(block);
            blocks[word] |= bit;
        }
        Self { blocks, shortest, longest }
    }

    /// Regions, in order and apart, outside which no value stands, not even in part.
    pub(super) fn regions(&self, text: &[u8]) -> Vec<Range<usize>> {
        let mut regions: Vec<Range<usize>> = Vec::new();
        if self.shortest == 0 || text.len() < self.shortest {
            return regions;
        }
        // So far before a block may the value begin that it is inside of.
        let Some(before) = self.shortest.checked_sub(BLOCK) else {
            regions.push(0..text.len());
            return regions;
        };
        let mut at = before;
        while let Some(block) = text.get(at..at + BLOCK) {
            let (word, bit) = place(block);
            if self.blocks[word] & bit != 0 {
                let (start, end) = (at - before, text.len().min(at + self.longest));
                match regions.last_mut() {
                    Some(last) if start <= last.end => last.end = end,
                    _ => regions.push(start..end),
                }
            }
            at += before + 1;
        }
        regions
    }
}

/// Where a block's bit is. Letters in either case have the same.
#[inline]
fn place(block: &[u8]) -> (usize, u64) {
    let bytes = [block[0], block[1], block[2], block[3]];
    let folded = u32::from_le_bytes(bytes) | 0x2020_2020;
    let index = folded.wrapping_mul(0x9e37_79b1) >> (u32::BITS - INDEX);
    ((index >> 6) as usize, 1 << (index & 63))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sieve(values: &[&[u8]]) -> Sieve {
        Sieve::new(values.iter().copied())
    }

    #[test]
    fn text_without_values_is_ruled_out() {
        let sieve = sieve(&[b"ghp_0123456789abcdef", b"a-value-that-is-longer-than-that"]);
        assert!(sieve.regions(&b"fn main() { println!(\"hello\"); }\n".repeat(100)).is_empty());
        assert!(sieve.regions(b"").is_empty());
        assert!(sieve.regions(b"ghp_").is_empty());
    }

    #[test]
    fn without_values_there_is_nothing_to_find() {
        assert!(sieve(&[]).regions(b"text").is_empty());
    }

    #[test]
    fn what_is_shorter_than_a_block_may_stand_anywhere() {
        assert_eq!(sieve(&[b"abc", b"abcdefgh"]).regions(b"some text").first(), Some(&(0..9)));
        assert!(sieve(&[b"abc"]).regions(b"ab").is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Every value lies whole within one region, wherever it stands and in whatever case.
        #[test]
        fn each_value_is_within_a_region(
            values in prop::collection::vec(prop::collection::vec(any::<u8>(), 4..60), 1..8),
            which in any::<prop::sample::Index>(),
            before in prop::collection::vec(any::<u8>(), 0..200),
            after in prop::collection::vec(any::<u8>(), 0..200),
            upper in any::<bool>(),
        ) {
            let mut value = which.get(&values).clone();
            if upper {
                value.make_ascii_uppercase();
            }
            let text = [&before[..], &value, &after].concat();
            let there = before.len()..before.len() + value.len();
            let sieve = Sieve::new(values.iter().map(Vec::as_slice));
            let regions = sieve.regions(&text);
            prop_assert!(regions.windows(2).all(|pair| pair[0].end < pair[1].start));
            prop_assert!(
                regions.iter().any(|region| region.start <= there.start && there.end <= region.end),
                "{there:?} {regions:?}"
            );
        }
    }
}
