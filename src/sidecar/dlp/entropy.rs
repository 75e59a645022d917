//! How evenly a text uses its characters: what tells a random key from a word.

use std::collections::BTreeMap;

/// Shannon entropy in bits for each character, by the measure that rules were tuned with: the
/// characters are counted, but the length is in bytes.
#[expect(clippy::cast_precision_loss, reason = "lengths far below 2^52")]
pub(super) fn shannon(text: &[u8]) -> f64 {
    if text.is_empty() {
        return 0.0;
    }
    let each = 1.0 / text.len() as f64;
    let part = |count: usize| {
        let frequency = count as f64 * each;
        frequency * frequency.log2()
    };
    if text.is_ascii() {
        let mut counts = [0_usize; 128];
        text.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        return -counts.iter().filter(|count| **count > 0).map(|count| part(*count)).sum::<f64>();
    }
    let mut counts = BTreeMap::new();
    for char in String::from_utf8_lossy(text).chars() {
        *counts.entry(char).or_insert(0_usize) += 1;
    }
    -counts.values().map(|count| part(*count)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::shannon;

    #[test]
    fn even_use_is_one_bit_for_each_doubling() {
        let close = |text: &str, bits: f64| (shannon(text.as_bytes()) - bits).abs() < 1e-9;
        assert!(close("", 0.0));
        assert!(close("aaaa", 0.0));
        assert!(close("abab", 1.0));
        assert!(close("abcdabcd", 2.0));
        assert!(close("éé", 0.5), "one character, twice, in four bytes");
    }
}
