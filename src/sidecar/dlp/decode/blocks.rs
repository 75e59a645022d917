//! Bytes looked at 64 at a time, without a branch for each: the loops here become vector instructions.

use std::ops::Range;

/// Bytes looked at together.
pub(super) const BLOCK: usize = 64;

/// Shorter [`runs`] are none.
pub(super) const RUN: usize = 16;

/// One bit for each place in a block at which a test holds, the lowest for the first.
#[inline(always)]
pub(super) fn mask(test: impl Fn(usize) -> bool) -> u64 {
    let mut flags = [0_u8; BLOCK];
    for (at, flag) in flags.iter_mut().enumerate() {
        *flag = u8::from(test(at)).wrapping_neg();
    }
    gathered(&flags)
}

/// The highest bit of each byte: there is an instruction for that.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "the instruction has no safe name")]
#[inline(always)]
fn gathered(flags: &[u8; BLOCK]) -> u64 {
    use std::arch::x86_64::{_mm_movemask_epi8, _mm_set_epi64x};
    let (groups, _) = flags.as_chunks::<8>();
    let half = |at: usize| i64::from_le_bytes(groups[at]);
    let quarter = |at: usize| {
        // SAFETY: both take values, and every processor of this architecture has them.
        let bits = unsafe { _mm_movemask_epi8(_mm_set_epi64x(half(2 * at + 1), half(2 * at))) };
        u64::from(bits.cast_unsigned()) << (16 * at)
    };
    quarter(0) | quarter(1) | quarter(2) | quarter(3)
}

/// The lowest bit of each byte, which is as the others are.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn gathered(flags: &[u8; BLOCK]) -> u64 {
    let (groups, _) = flags.as_chunks::<8>();
    if groups.iter().fold(0, |any, group| any | u64::from_le_bytes(*group)) == 0 {
        return 0;
    }
    groups.iter().rev().fold(0, |mask, group| {
        // Brings the lowest bits of eight bytes together in the highest byte.
        let bits = u64::from_le_bytes(*group) & 0x0101_0101_0101_0101;
        let bits = bits.wrapping_mul(0x0102_0408_1020_4080) >> 56;
        mask << 8 | bits
    })
}

/// The block that begins here, with zeros behind the end of the text.
#[inline(always)]
fn block(bytes: &[u8], at: usize) -> [u8; BLOCK] {
    let rest = bytes.get(at..).unwrap_or_default();
    if let Some(whole) = rest.first_chunk() {
        return *whole;
    }
    let mut padded = [0; BLOCK];
    padded[..rest.len()].copy_from_slice(rest);
    padded
}

/// Where bytes stand for which a test holds, given the one behind them, too.
pub(super) fn positions(
    bytes: &[u8],
    test: impl Fn(u8, u8) -> bool + Copy,
) -> impl Iterator<Item = usize> {
    let mut base = 0;
    // The last block is shorter, and has nothing behind it.
    let mask_of = move |base: usize| match bytes.get(base..).and_then(<[u8]>::first_chunk) {
        Some::<&[u8; BLOCK + 1]>(block) => mask(|at| test(block[at], block[at + 1])),
        None => {
            let rest = &bytes[base.min(bytes.len())..];
            let mut block = [0; BLOCK + 1];
            block[..rest.len()].copy_from_slice(rest);
            mask(|at| at < rest.len() && test(block[at], block[at + 1]))
        }
    };
    let mut left = mask_of(0);
    std::iter::from_fn(move || {
        while left == 0 {
            base += BLOCK;
            if base >= bytes.len() {
                return None;
            }
            left = mask_of(base);
        }
        let at = base + left.trailing_zeros() as usize;
        left &= left - 1;
        Some(at)
    })
}

/// All places with [`RUN`] or more bytes in a row for which a test holds. A zero is none of them.
pub(super) fn runs(bytes: &[u8], test: impl Fn(u8) -> bool + Copy) -> Vec<Range<usize>> {
    let mask_of = |at| {
        let block = block(bytes, at);
        mask(|at| test(block[at]))
    };
    let mut all = Vec::new();
    let mut at = 0;
    let mut mask = mask_of(at);
    while at < bytes.len() {
        let next = mask_of(at + BLOCK);
        let both = u128::from(next) << BLOCK | u128::from(mask);
        let mut run = both;
        for step in [1, 2, 4, 8] {
            run &= run >> step;
        }
        let first = run.trailing_zeros() as usize;
        if first >= BLOCK {
            at += BLOCK;
            mask = next;
            continue;
        }
        let start = at + first;
        let mut end = start + (both >> first).trailing_ones() as usize;
        if end == at + 2 * BLOCK {
            while let more = mask_of(end).trailing_ones() as usize
                && more > 0
            {
                end += more;
            }
        }
        all.push(start..end);
        at = end;
        mask = mask_of(at);
    }
    all
}

/// How many zeros a text begins with.
pub(super) fn zeros(bytes: &[u8]) -> usize {
    let (blocks, _) = bytes.as_chunks::<BLOCK>();
    let whole = blocks.iter().take_while(|block| **block == [0; BLOCK]).count() * BLOCK;
    whole + bytes[whole..].iter().take_while(|byte| **byte == 0).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_and_every_run_is_found_wherever_a_block_ends() {
        for length in [0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 200] {
            for start in 0..140 {
                let text = [vec![b'.'; start], vec![b'x'; length], b".x.".to_vec()].concat();
                let is = |byte| byte == b'x';
                let all: Vec<usize> = positions(&text, |byte, _| is(byte)).collect();
                let each = (start..start + length).chain([start + length + 1]);
                assert_eq!(all, each.collect::<Vec<_>>());
                let open = &text[..start + length];
                let run: Vec<_> =
                    (length >= 16).then_some(start..start + length).into_iter().collect();
                assert_eq!(runs(&text, is), run);
                assert_eq!(runs(open, is), run);
                let twice = [&text[..], &text].concat();
                let again = run.iter().map(|run| run.start + text.len()..run.end + text.len());
                assert_eq!(runs(&twice, is), run.iter().cloned().chain(again).collect::<Vec<_>>());
            }
            assert_eq!(zeros(&[vec![0; length], vec![1]].concat()), length);
            assert_eq!(zeros(&vec![0; length]), length);
        }
    }
}
