mod broken;
mod head;
mod names;
mod parts;

use std::io::Write as _;
use std::sync::Arc;

use flate2::Compression;
use time::{Date, Month};

use super::{PLACES, Report, Unscanned, find};
use crate::sidecar::dlp::coding::{Coding, Limits, Unscannable};
use crate::sidecar::dlp::{Known, Rules, Scanner};
use crate::sidecar::packing::{brotli, deflate, gzip, zlib};

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

/// A zip of one member.
fn zip(name: &str, body: &[u8], method: u8) -> Vec<u8> {
    let data = match method {
        8 => deflate(body),
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
    assert_eq!(report.unscanned, None);
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

    let tar = tar_of("notes.txt", text);
    finds(&[], &tar);
    finds(&[], &gzip(&tar));
}

/// A zip whose offsets count from the start of what stands before it, as in programs that unpack
/// themselves and in applications of Python.
fn zip_behind(stub: &[u8], body: &[u8], method: u8) -> Vec<u8> {
    let mut zip = zip("notes.txt", body, method);
    let end = zip.len() - 22;
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    let start = number(&zip[end + 16..end + 20]);
    let ahead = u32::try_from(stub.len()).unwrap();
    let size = u32::try_from(end).unwrap() - start;
    let entry = usize::try_from(start).unwrap();
    zip[entry + 42..entry + 46].copy_from_slice(&ahead.to_le_bytes());
    zip[end + 12..end + 16].copy_from_slice(&size.to_le_bytes());
    zip[end + 16..end + 20].copy_from_slice(&(start + ahead).to_le_bytes());
    [stub, &zip].concat()
}

#[test]
fn a_zip_behind_other_bytes_is_opened_whatever_its_offsets_count_from() {
    let text = text();
    let stubs = [&b"#!/usr/bin/env python3\n"[..], b"\x7fELF PK\x05\x06 and more", &[0x90; 5000]];
    for stub in stubs {
        for method in [0, 8] {
            finds(&[], &zip_behind(stub, &text, method));
            finds(&[], &[stub, &zip("notes.txt", &text, method)].concat());
            // One that is stored in another has an end of its own.
            let inner = zip_behind(stub, &text, 8);
            finds(&[], &zip("app.pyz", &inner, method));
            finds(&[], &zip_behind(stub, &inner, method));
        }
    }
}

fn tar_of(name: &str, body: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(u64::try_from(body.len()).unwrap());
    header.set_cksum();
    tar.append_data(&mut header, name, body).unwrap();
    tar.into_inner().unwrap()
}

/// A frame of Zstandard with one block that is stored.
fn zstd(body: &[u8]) -> Vec<u8> {
    crate::sidecar::packing::zstd(body, 7, body.len())
}

fn text() -> Vec<u8> {
    let filler = "words that are packed well, words that are packed well\n".repeat(4);
    format!("{filler}{}\n{filler}", token()).into_bytes()
}

fn part(packed: &[u8]) -> Vec<u8> {
    [&b"--b\r\nContent-Type: x/y\r\n\r\n"[..], packed, b"\r\n--b--\r\n"].concat()
}

#[test]
fn what_is_packed_within_a_body_is_opened_wherever_and_however_it_is_written() {
    use base64::Engine as _;
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

    let text = text();
    let zipped = zip("notes.txt", &text, 8);
    let all = [
        ("gzip", gzip(&text)),
        ("zip", zipped.clone()),
        ("zlib", zlib(&text)),
        ("tgz", gzip(&tar_of("notes.txt", &text))),
        ("zip in tar", tar_of("a.zip", &zipped)),
        ("zip in gzip", gzip(&zipped)),
        ("zstd of zip", zstd(&zipped)),
    ];
    for (name, packed) in all {
        let finds = |how: &str, body: &[u8]| {
            let report = scan(&[], body).unwrap();
            assert_eq!(report.findings.len(), 1, "{name} {how}: {report:?}");
            assert_eq!(report.unscanned, None, "{name} {how}");
        };
        let escaped = |how: &dyn Fn(u8) -> String| -> String {
            let each = |byte: &u8| match byte {
                b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => char::from(*byte).to_string(),
                byte => how(*byte),
            };
            packed.iter().map(each).collect()
        };
        let base64 = BASE64_STANDARD.encode(&packed);
        let lines = base64.as_bytes().chunks(76).map(|line| String::from_utf8_lossy(line));
        let lines: Vec<_> = lines.map(|line| line.into_owned()).collect();
        if name != "zlib" {
            finds("whole", &packed);
        }
        finds("part", &part(&packed));
        finds("behind a byte", &[b"\0", &packed[..]].concat());
        finds("behind a kibibyte", &[&[b'x'; 1024], &packed[..]].concat());
        finds("base64", format!("{{\"file\": \"{base64}\"}}").as_bytes());
        finds("url", format!("f={}&x=y", BASE64_URL_SAFE_NO_PAD.encode(&packed)).as_bytes());
        finds("data", format!("src=\"data:a/b;base64,{base64}\"").as_bytes());
        finds("lines", part(lines.join("\r\n").as_bytes()).as_slice());
        finds("json", format!("{{\"file\": \"{}\"}}", lines.join("\\n")).as_bytes());
        finds("escaped", format!("{{\"file\": \"{}\"}}", base64.replace('/', "\\/")).as_bytes());
        finds("twice", format!("x={}", BASE64_STANDARD.encode(&base64)).as_bytes());
        finds("hex", format!("{{\"file\": \"{}\"}}", ::hex::encode(&packed)).as_bytes());
        finds("percent", format!("a=b&f={}", escaped(&|byte| format!("%{byte:02X}"))).as_bytes());
        let form = base64.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
        finds("form", format!("a=b&f={form}").as_bytes());
        let quoted = escaped(&|byte| format!("={byte:02X}"));
        finds("quoted", part(quoted.as_bytes()).as_slice());
        let json = escaped(&|byte| format!("\\u{byte:04x}"));
        finds("JSON", format!("{{\"file\": \"{json}\"}}").as_bytes());
        let coded = |body: &[u8]| scan(&[Coding::Gzip], &gzip(body)).unwrap().findings.len();
        assert_eq!(coded(&part(&packed)), 1, "{name} in a coded form");
        assert_eq!(coded(base64.as_bytes()), 1, "{name} in coded base64");
    }
    let two = [part(&zip("a.txt", b"words", 8)), part(&zip("b.txt", &text, 8))].concat();
    finds(&[], &two);
}

#[test]
fn what_cannot_be_opened_is_told_with_the_reason() {
    let text = token();
    let why = |body: &[u8]| scan(&[], body).unwrap().unscanned;
    let deep = gzip(&gzip(&gzip(text.as_bytes())));
    assert_eq!(why(&deep), Some(Unscanned::Nested), "three deep");
    assert_eq!(why(&part(&deep)), Some(Unscanned::Nested));
    assert_eq!(why(b"\x1f\x8b\x08 something else"), Some(Unscanned::Broken));
    assert_eq!(why(b"PK\x03\x04 and no directory"), Some(Unscanned::Broken));
    for magic in [
        &b"7z\xbc\xaf\x27\x1c"[..],
        b"\xfd7zXZ\0",
        b"Rar!\x1a\x07\x01",
        b"\x04\x22\x4d\x18",
        b"BZh9\x31\x41\x59\x26\x53\x59",
        b"\x5d\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let archive = [magic, &[7; 80]].concat();
        let base64 = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &archive);
        assert_eq!(why(&archive), Some(Unscanned::Format));
        assert_eq!(why(&part(&archive)), Some(Unscanned::Format));
        assert_eq!(why(format!("\"{base64}\"").as_bytes()), Some(Unscanned::Format));
    }
    let odd = zip("notes.txt", text.as_bytes(), 12);
    let report = scan(&[], &odd).unwrap();
    assert_eq!(report.unscanned, Some(Unscanned::Format));
    assert_eq!(report.findings.len(), 1, "the bytes are scanned as they stand all the same");
    let mut locked = zip("notes.txt", b"words", 8);
    let entry = memchr::memmem::find(&locked, b"PK\x01\x02").unwrap();
    locked[entry + 8] |= 1;
    assert_eq!(why(&locked), Some(Unscanned::Encrypted));
    let many = part(&gzip(b"words")).repeat(PLACES + 1);
    assert_eq!(why(&many), Some(Unscanned::Many));
    let mut large: Vec<u8> =
        (0..800_000).flat_map(|number: u32| format!("{number}\n").into_bytes()).collect();
    large.extend(gzip(b"words"));
    let coded = scan(&[Coding::Gzip], &gzip(&large)).unwrap();
    assert_eq!(coded.unscanned, Some(Unscanned::Large));
    for plain in [&b"plain"[..], b"y = x^2 + x^3; BZh is a word, and PK too", b"f(x)=3D2"] {
        assert_eq!(scan(&[], plain).unwrap(), Report::default());
    }
}

#[test]
fn what_streams_says_whether_something_packed_began_in_it() {
    let rules = Arc::new(Rules::default());
    let scanner = Arc::new(Scanner::new(rules, Arc::new(Known::default()), Vec::new()));
    let today = Date::from_calendar_date(2030, Month::May, 1).unwrap();
    let packed = gzip(&text());
    let base64 = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &packed);
    let filler = "{\"role\": \"user\", \"content\": \"words\"}\n".repeat(8000).into_bytes();
    for (body, holds) in [
        (filler.clone(), false),
        ([&filler[..], &packed].concat(), true),
        ([&filler[..], &packed, &filler].concat(), true),
        ([&filler[..], base64.as_bytes()].concat(), true),
        ([&filler[..], ::hex::encode(&packed).as_bytes()].concat(), true),
        ([&filler[..], b"f=%1F%8B%08%00"].concat(), true),
        ([&filler[..], b"PK=03=04=14"].concat(), true),
    ] {
        let mut stream = scanner.stream("example.com", today);
        body.chunks(10_000).for_each(|chunk| stream.push(chunk).unwrap());
        stream.flush().unwrap();
        assert_eq!(stream.holds_packed(), holds);
    }
}

#[test]
fn a_bomb_in_an_archive_is_one() {
    let zeros = vec![0; 32 << 20];
    assert_eq!(scan(&[], &gzip(&zeros)), Err(Unscannable::TooLarge));
    assert_eq!(scan(&[], &zip("zeros", &zeros, 8)), Err(Unscannable::TooLarge));
    assert_eq!(scan(&[Coding::Gzip], b"no gzip"), Err(Unscannable::Corrupt(Coding::Gzip)));
}

#[test]
fn zlib_is_tried_so_often_and_not_anew_in_each_way_of_writing() {
    // It looks like zlib until its codes are read.
    let fakes = b"x\x9c\x05\0\0\0\0\0\0 %41 =41=41 \\x41 ".repeat(700);
    let body = [&fakes[..], b"x%9c x=9c x\\u009c"].concat();
    find::TRIED.set(0);
    assert_eq!(scan(&[], &body).unwrap().unscanned, Some(Unscanned::Many));
    assert_eq!(find::TRIED.get(), 700 + 1000, "as it stands, and all texts that are made of it");
    // What has surer first bytes is found all the same.
    let many = [&fakes[..], &fakes, &gzip(format!("t = '{}'\n", token()).as_bytes())].concat();
    let report = scan(&[], &many).unwrap();
    assert_eq!((report.findings.len(), report.unscanned), (1, Some(Unscanned::Many)));
}
