//! What must pass: sources, and the traffic of package managers and git.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{BUILT_IN, Noise, found};

#[track_caller]
fn clean(what: &str, text: &[u8]) {
    assert_eq!(found(&BUILT_IN, text), Vec::<String>::new(), "{what}");
}

/// D18: with thousands of digests.
#[test]
fn lockfiles_and_indexes_are_clean() {
    clean("Cargo.lock", include_bytes!("../../../Cargo.lock"));
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut lock = String::from("{\"lockfileVersion\": 3, \"packages\": {\n");
    let mut index = String::from("{\"versions\": {\n");
    let mut pip = String::new();
    for number in 0..4000 {
        let sha512 = STANDARD.encode(noise.bytes(64));
        let (sha1, sha256) = (hex::encode(noise.bytes(20)), hex::encode(noise.bytes(32)));
        let _ = writeln!(
            lock,
            "\"node_modules/p{number}\": {{\"version\": \"1.{number}.0\", \"resolved\": \
             \"https://registry.example.com/p{number}/-/p{number}-1.{number}.0.tgz\", \
             \"integrity\": \"sha512-{sha512}\"}},"
        );
        let signature = STANDARD.encode(noise.bytes(71));
        let _ = writeln!(
            index,
            "\"1.{number}.0\": {{\"dist\": {{\"shasum\": \"{sha1}\", \"integrity\": \
             \"sha512-{sha512}\", \"signatures\": [{{\"keyid\": \"SHA256:{}\", \"sig\": \
             \"{signature}\"}}]}}}},",
            STANDARD.encode(noise.bytes(32)),
        );
        let _ = writeln!(pip, "p{number}==1.{number} --hash=sha256:{sha256}");
    }
    clean("package-lock.json", lock.as_bytes());
    clean("npm's metadata", index.as_bytes());
    clean("requirements.txt", pip.as_bytes());
}

/// D18: what git and others send.
#[test]
fn packs_of_git_and_random_bodies_are_clean() {
    let mut noise = Noise(0x2545_f491_4f6c_dd1d);
    let bytes = noise.bytes(1 << 20);
    clean("a pack", &[b"PACK\0\0\0\x02\0\0\x10\0", &bytes[..]].concat());
    clean("base64", STANDARD.encode(&bytes).as_bytes());
    clean("hex", hex::encode(&bytes).as_bytes());
    let mut lines = String::new();
    for line in bytes.chunks(20).take(10_000) {
        let _ = writeln!(lines, "003fwant {} multi_ack_detailed side-band-64k", hex::encode(line));
    }
    clean("git's negotiation", lines.as_bytes());
}

/// Every file below a folder that is some text, in order.
fn texts(folder: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut entries: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        let extension = path.extension().and_then(|extension| extension.to_str());
        if path.is_dir() && !path.is_symlink() {
            texts(&path, out);
        } else if matches!(extension, Some("rs" | "md" | "toml" | "json" | "c" | "h" | "py")) {
            out.push(path);
        }
    }
}

/// D18: the sources that cargo keeps on this machine, and this program's own: as many as a test that is
/// not optimised reads in a few seconds, from all over.
#[test]
fn ordinary_sources_are_clean() {
    const BOUND: u64 = 6 << 20;
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    texts(&own.join("src"), &mut files);
    texts(&own.join("docs"), &mut files);
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let mut kept = Vec::new();
    if let Some(home) = home {
        texts(&home.join("registry/src"), &mut kept);
    }
    let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    let all: u64 = kept.iter().map(size).sum();
    let step = usize::try_from(all / BOUND + 1).unwrap();
    files.extend(kept.into_iter().step_by(step));
    let mut read = 0;
    let mut wrong = Vec::new();
    for file in files {
        let text = std::fs::read(&file).unwrap();
        // A private key in an example is a private key.
        if memchr::memmem::find(&text, b"PRIVATE KEY-----").is_some() || text.len() > 1 << 20 {
            continue;
        }
        read += text.len();
        let rules = found(&BUILT_IN, &text);
        if !rules.is_empty() {
            wrong.push(format!("{}: {rules:?}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(read > 1 << 20, "only {read} bytes of sources");
}

/// What vendors print as an example is not a secret; with another last character it is one.
#[test]
fn examples_of_documentation_are_clean() {
    for (before, rest) in [
        ("sk_test", "_4eC39HqLyjWDarjtT1zdp7dc"),
        ("ghp", "_16C7e42F292c6912E7710c838347Ae178B4a"),
        ("AIza", "SyAa8yy0GdcGPHdtD083HiGGx_S0vMPScDM"),
        ("AKIA", "IOSFODNN7EXAMPLE"),
        (
            "AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6",
            "tq/K1SZFPTOtr/KBHBeksoGMGw==",
        ),
        ("postgres://user:", "password@localhost:5432/db"),
        ("https://user:", "${TOKEN_1}@git.example.com/x.git"),
    ] {
        clean("an example", format!("curl -u '{before}{rest}' \"{before}{rest}\"").as_bytes());
    }
    for (before, rest) in
        [("sk_test", "_4eC39HqLyjWDarjtT1zdp7dd"), ("ghp", "_16C7e42F292c6912E7710c838347Ae178B4b")]
    {
        assert_eq!(found(&BUILT_IN, format!("{before}{rest}").as_bytes()).len(), 1);
    }
}
