use std::io::Write as _;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};
use time::{Date, Month};

use super::Report;
use crate::sidecar::dlp::coding::{Coding, Limits, Unscannable};
use crate::sidecar::dlp::{Known, Rules, Scanner};

/// Not written as one word, so that this file is itself no finding.
fn token() -> String {
    format!("ghp{}", "_wZ3kQ9vB1nM7xC5rT2yL8pD4sF6gH0jAe1U3")
}

fn scan(codings: &[Coding], body: &[u8]) -> Result<Report, Unscannable> {
    let rules = Rules::from_toml(
        "[[rules]]\nid = 'github-token'\nregex = 'ghp_[0-9A-Za-z]{36}'\nkeywords = ['ghp_']",
    );
    let scanner = Scanner::new(Arc::new(rules.unwrap()), Arc::new(Known::default()), Vec::new());
    let today = Date::from_calendar_date(2030, Month::May, 1).unwrap();
    Arc::new(scanner).scan_body("example.com", today, codings, body, Limits::default())
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// A zip of one member.
fn zip(name: &str, body: &[u8], method: u8) -> Vec<u8> {
    let data = match method {
        8 => {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        _ => body.to_vec(),
    };
    let length = u32::try_from(data.len()).unwrap().to_le_bytes();
    let name_length = u16::try_from(name.len()).unwrap().to_le_bytes();
    let common = [&[20, 0, 0, 0, method, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &length, &length].concat();
    let local = [b"PK\x03\x04", &common[..], &name_length, &[0, 0], name.as_bytes()].concat();
    let mut out = [local, data].concat();
    let directory = u32::try_from(out.len()).unwrap().to_le_bytes();
    out.extend_from_slice(b"PK\x01\x02\x14\0");
    out.extend_from_slice(&common);
    out.extend_from_slice(&name_length);
    out.extend_from_slice(&[0; 16]);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"PK\x05\x06\0\0\0\0\x01\0\x01\0\0\0\0\0");
    out.extend_from_slice(&directory);
    out.extend_from_slice(&[0, 0]);
    out
}

#[track_caller]
fn finds(codings: &[Coding], body: &[u8]) {
    let report = scan(codings, body).unwrap();
    assert_eq!(report.findings.len(), 1, "{report:?}");
    assert!(!report.unscanned);
}

#[test]
fn archives_and_codings_are_opened() {
    let text = format!("first line\n{}\nlast line", token());
    let text = text.as_bytes();
    finds(&[], text);
    finds(&[Coding::Gzip], &gzip(text));
    finds(&[], &gzip(text));
    finds(&[], &zip("notes.txt", text, 8));
    finds(&[], &zip("notes.txt", text, 0));
    finds(&[], &zip("notes.txt.gz", &gzip(text), 0));
    finds(&[Coding::Gzip], &gzip(&zip("notes.txt", text, 8)));

    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(u64::try_from(text.len()).unwrap());
    header.set_cksum();
    tar.append_data(&mut header, "notes.txt", text).unwrap();
    let tar = tar.into_inner().unwrap();
    finds(&[], &tar);
    finds(&[], &gzip(&tar));
}

#[test]
fn what_cannot_be_opened_is_told() {
    let text = token();
    let deep = gzip(&gzip(&gzip(text.as_bytes())));
    assert!(scan(&[], &deep).unwrap().unscanned, "three deep");
    assert!(scan(&[], b"\x1f\x8b\x08 something else").unwrap().unscanned);
    assert!(scan(&[], b"7z\xbc\xaf\x27\x1c...").unwrap().unscanned);
    assert!(scan(&[], b"PK\x03\x04 and no directory").unwrap().unscanned);
    let odd = zip("notes.txt", text.as_bytes(), 12);
    let report = scan(&[], &odd).unwrap();
    assert!(report.unscanned);
    assert_eq!(report.findings.len(), 1, "the bytes are scanned as they stand all the same");
    assert_eq!(scan(&[], b"plain").unwrap(), Report::default());
}

#[test]
fn a_bomb_in_an_archive_is_one() {
    let zeros = vec![0; 32 << 20];
    assert_eq!(scan(&[], &gzip(&zeros)), Err(Unscannable::TooLarge));
    assert_eq!(scan(&[], &zip("zeros", &zeros, 8)), Err(Unscannable::TooLarge));
    assert_eq!(scan(&[Coding::Gzip], b"no gzip"), Err(Unscannable::Corrupt(Coding::Gzip)));
}
