//! A bounded, repeatable run of the fuzz targets: the committed corpus, and simple mutations of it.
//! `cargo fuzz` runs the same targets without bounds: see `tests/fuzz/README.md`.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

#[path = "../fuzz/targets.rs"]
mod targets;

/// Mutations of each target, unless `BOTTLE_TEST_FUZZ_ROUNDS` says more. Enough to break what a
/// change breaks; finding what is new is for `cargo fuzz`.
const ROUNDS: u32 = 4000;
/// No input grows beyond this.
const LONGEST: usize = 2048;

/// What the parsers treat in a special way.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b"@",
    b"%",
    b"%2e",
    b"%2f",
    b"%25",
    b"%5c",
    b"..",
    b"//",
    b"\\",
    b"#",
    b"?",
    b";",
    b"*",
    b"**",
    b"[::1]",
    b"127.0.0.1",
    b"0x7f",
    b".",
    b"chunked",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: a.example\r\n",
    b"0\r\n\r\n",
    b"git-receive-pack",
    b"service=",
    b"\xff",
    b"\xc0\xae",
    b"ghp_",
    b"example",
];

/// xorshift64*: the same run every time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(value).expect("31 bits are a length") % bound.max(1)
    }
}

fn mutate(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() + 1);
        let end = input.len().min(at + random.below(16));
        match random.below(7) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = u8::try_from(random.below(256)).expect("a byte"),
            2 => drop(input.drain(at..end)),
            3 => {
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
            4 => {
                let other = &corpus[random.below(corpus.len())];
                input.truncate(at);
                input.extend_from_slice(&other[random.below(other.len() + 1)..]);
            }
            _ => {
                let word = WORDS[random.below(WORDS.len())];
                input.splice(at..at, word.iter().copied());
            }
        }
    }
    input.truncate(LONGEST);
    input
}

fn run(target: &targets::Target) {
    let name = target.name;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|file| file.expect("the corpus can be read").path())
        .collect();
    files.sort();
    let corpus: Vec<Vec<u8>> =
        files.iter().map(|file| fs::read(file).expect("the corpus can be read")).collect();
    assert!(!corpus.is_empty(), "{} is empty", folder.display());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let rounds = match std::env::var("BOTTLE_TEST_FUZZ_ROUNDS") {
        Ok(text) => text.parse::<u32>().expect("BOTTLE_TEST_FUZZ_ROUNDS is a number"),
        Err(_) => ROUNDS,
    };
    let mutated = (0..rounds / target.cost).map(|_| mutate(&mut random, &corpus));
    for input in corpus.iter().cloned().chain(mutated) {
        let held = catch_unwind(AssertUnwindSafe(|| (target.run)(&input)));
        assert!(held.is_ok(), "{name}: this input fails: {:?}", String::from_utf8_lossy(&input));
    }
}

/// R09: no input makes a parser panic or hang.
#[test]
fn every_target_holds_for_its_corpus_and_for_mutations_of_it() {
    targets::TARGETS.iter().for_each(run);
}

#[test]
fn every_target_has_a_driver() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).expect("it is there");
    for targets::Target { name, .. } in targets::TARGETS {
        assert!(
            manifest.contains(&format!("name = \"{name}\"")),
            "{name} is not in its Cargo.toml"
        );
        let driver = fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs")));
        let driver = driver.expect("each target has a file");
        assert!(driver.contains(&format!("targets::{name}(data)")), "{name}");
    }
}
