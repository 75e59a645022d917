#![expect(clippy::disallowed_methods, reason = "reads the table of its own memory")]
//! The pages of the program that it has used and does not need any more.
//!
//! To start and to load a policy takes code that no request does: parsers, compilers of patterns and
//! automata, ten megabytes of pages. They count as the process's own until it gives them back; what of them is
//! needed again comes from the file, of which the system keeps a copy.

use std::ops::Range;
use std::sync::OnceLock;

/// Where the program's code and constants are.
static PROGRAM: OnceLock<Vec<Range<usize>>> = OnceLock::new();

/// Reads where they are. Called before the process is confined, which may not read it again.
pub(super) fn learn() {
    // Without the table nothing is given back.
    let table = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let _ = PROGRAM.set(unwritten(&table));
}

/// Gives them back. Does nothing in a process that has not [learnt](learn()) where they are.
#[expect(unsafe_code, reason = "there is no safe way to say what is not needed")]
pub(super) fn forget() {
    for range in PROGRAM.get().into_iter().flatten() {
        let start = std::ptr::without_provenance_mut(range.start);
        // SAFETY: a private mapping of a file that cannot be written to, and none of whose pages was: what is
        // read there next is the same again.
        unsafe { libc::madvise(start, range.len(), libc::MADV_DONTNEED) };
    }
}

/// The mappings of files in a table that cannot be written to, and in which nothing was.
fn unwritten(table: &str) -> Vec<Range<usize>> {
    let mut all = Vec::new();
    let mut range = None;
    for line in table.lines() {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        if let Some((start, end)) = first.split_once('-') {
            let number = |text| usize::from_str_radix(text, 16).ok();
            let of_a_file =
                rest.contains(" /") && (rest.starts_with("r--p") || rest.starts_with("r-xp"));
            range = number(start).zip(number(end)).filter(|_| of_a_file);
        } else if first == "Anonymous:"
            && let Some((start, end)) = range.take()
            && rest.trim() == "0 kB"
        {
            all.push(start..end);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_never_written_is_given_back() {
        let mapping = |head: &str, anonymous: u32| {
            format!("{head}\nSize: 4 kB\nAnonymous:        {anonymous} kB\nVmFlags: rd mr\n")
        };
        let table = [
            mapping("1000-2000 r--p 00000000 fe:00 42       /usr/bin/bottle", 0),
            mapping("2000-5000 r-xp 00001000 fe:00 42       /usr/bin/bottle", 0),
            mapping("5000-6000 r--p 00004000 fe:00 42       /usr/bin/bottle", 4),
            mapping("6000-7000 rw-p 00005000 fe:00 42       /usr/bin/bottle", 0),
            mapping("7000-8000 r--s 00000000 fe:00 43       /etc/shared", 0),
            mapping("8000-9000 r--p 00000000 00:00 0 ", 0),
            mapping("9000-a000 r-xp 00000000 00:00 0        [vdso]", 0),
            mapping("b000-c000 r-xp 00000000 00:01 9        /memfd:bottle (deleted)", 0),
        ];
        assert_eq!(unwritten(&table.concat()), [0x1000..0x2000, 0x2000..0x5000, 0xb000..0xc000]);
        assert!(unwritten("nonsense\nAnonymous: 0 kB").is_empty());
    }
}
