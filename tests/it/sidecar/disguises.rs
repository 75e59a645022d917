//! The ways in which a secret is written: each is undone, in block mode, before anything is dialled.
//! D02, D03, D04, D06, D10, D13, D20, D22.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::json;

use super::packing::{deflate, gzip, zlib};
use super::world::{World, allowing};

pub(super) const KNOWN: &str = "q8Zx1vN4-kP2sLm7tR8wB1nM4yHc0dJe6fUaGi5o";

pub(super) fn vendors() -> String {
    ["ghp", "_", "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx"].concat()
}

pub(super) fn tar(bytes: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, "a/file.txt", bytes).unwrap();
    tar.into_inner().unwrap()
}

/// An archive of one file, stored or deflated.
pub(super) fn zip(bytes: &[u8], deflated: bool) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    let packed = if deflated { deflate(bytes) } else { bytes.to_vec() };
    let mut common = Vec::new();
    common.extend([20, 0, 0, 0, if deflated { 8 } else { 0 }, 0, 0, 0, 0, 0]);
    common.extend(crc.sum().to_le_bytes());
    common.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
    common.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
    common.extend([5, 0, 0, 0]);
    let mut zip = [&b"PK\x03\x04"[..], &common, b"a.txt", &packed].concat();
    let at = u32::try_from(zip.len()).unwrap();
    let entry = [&b"PK\x01\x02\x14\0"[..], &common, &[0; 14], b"a.txt"].concat();
    let size = u32::try_from(entry.len()).unwrap();
    zip.extend(&entry);
    zip.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    zip.extend(size.to_le_bytes());
    zip.extend(at.to_le_bytes());
    zip.extend([0, 0]);
    zip
}

fn utf16(text: &str, big: bool) -> Vec<u8> {
    text.encode_utf16()
        .flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() })
        .collect()
}

fn each(text: &str, write: impl Fn(u8) -> String) -> String {
    text.bytes().map(write).collect()
}

fn wrapped(text: &str, width: usize, with: &str) -> String {
    let lines: Vec<&str> =
        text.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).unwrap()).collect();
    lines.join(with)
}

/// A text in many spellings.
fn written(secret: &str) -> Vec<(&'static str, Vec<u8>)> {
    let long = format!("some words that stand before it, and then {secret} and some behind it");
    let basic = |text: &str| STANDARD.encode(text);
    let texts: Vec<(&'static str, String)> = vec![
        ("base64", basic(secret)),
        ("base64 without padding", STANDARD_NO_PAD.encode(format!("x {secret}"))),
        ("base64url", URL_SAFE.encode(format!("??>{secret}"))),
        ("base64url without padding", URL_SAFE_NO_PAD.encode(format!("~~{secret}"))),
        ("base64 in base64", basic(&basic(secret))),
        ("base64 in base64 in base64", basic(&basic(&basic(secret)))),
        ("base64 in hex", hex::encode(basic(secret))),
        ("hex in base64", basic(&hex::encode(secret))),
        ("base64 in percent", each(&basic(secret), |b| format!("%{b:02x}"))),
        ("base64 over lines", wrapped(&basic(&long), 76, "\r\n")),
        ("base64 over short lines", wrapped(&basic(&long), 20, "\n")),
        ("base64 in YAML", format!("a: |\n    {}\n", wrapped(&basic(&long), 64, "\n    "))),
        (
            "base64 over lines in JSON",
            format!("{{\"a\":\"{}\"}}", wrapped(&basic(&long), 60, "\\n")),
        ),
        ("base64 in a data URL", format!("data:text/plain;base64,{}", basic(secret))),
        ("base64 with slashes of JSON", basic(&long).replace('/', "\\/")),
        ("hex", hex::encode(secret)),
        ("hex in capitals", hex::encode_upper(secret)),
        ("hex with a mark", format!("0x{}", hex::encode(secret))),
        ("hex in hex", hex::encode(hex::encode(secret))),
        ("hex as C writes it", each(secret, |b| format!("\\x{b:02x}"))),
        ("percent", each(secret, |b| format!("%{b:02x}"))),
        ("percent in capitals", each(secret, |b| format!("%{b:02X}"))),
        ("percent twice", each(secret, |b| format!("%25{b:02x}"))),
        ("percent here and there", secret.replace('k', "%6b").replace('1', "%31")),
        ("JSON", format!("{{\"a\":\"{}\"}}", each(secret, |b| format!("\\u{b:04x}")))),
        ("JSON in capitals", format!("{{\"a\":\"{}\"}}", each(secret, |b| format!("\\u{b:04X}")))),
        ("JSON here and there", format!("{{\"a\":\"{}\"}}", secret.replace('k', "\\u006b"))),
        ("JSON in JSON", json!({ "a": json!({ "b": secret }).to_string() }).to_string()),
        ("a form", format!("a=b&c={secret}&d=e")),
        ("XML", format!("<a b=\"{secret}\">{secret}</a>")),
    ];
    let mut all: Vec<(&'static str, Vec<u8>)> =
        texts.into_iter().map(|(name, text)| (name, text.into_bytes())).collect();
    let line = format!("token: {secret}\n");
    all.extend([
        ("UTF-16", utf16(&line, false)),
        ("UTF-16, the other way", utf16(&line, true)),
        ("UTF-16 with a mark", [&b"\xff\xfe"[..], &utf16(&line, false)].concat()),
        ("UTF-16 with the other mark", [&b"\xfe\xff"[..], &utf16(&line, true)].concat()),
        ("UTF-16 from an odd place", [&b"x"[..], &utf16(&line, false)].concat()),
        ("UTF-16 in base64", STANDARD.encode(utf16(&line, false)).into_bytes()),
        ("UTF-8 with a mark", [&b"\xef\xbb\xbf"[..], line.as_bytes()].concat()),
        ("amid bytes", [&b"\x89PNG\r\n\x1a\n\0\0\xff"[..], secret.as_bytes(), b"\0\xff"].concat()),
        ("in Latin-1", [&b"\xe9\xe8 "[..], line.as_bytes()].concat()),
        ("a gzip file", gzip(line.as_bytes())),
        ("a gzip file in a gzip file", gzip(&gzip(line.as_bytes()))),
        ("a gzip file of two members", [gzip(b"first\n"), gzip(line.as_bytes())].concat()),
        ("a tar file", tar(line.as_bytes())),
        ("a tar.gz file", gzip(&tar(line.as_bytes()))),
        ("a zip file, stored", zip(line.as_bytes(), false)),
        ("a zip file, deflated", zip(line.as_bytes(), true)),
        ("a gzip file in a tar file", tar(&gzip(line.as_bytes()))),
        ("a zip file in a zip file", zip(&zip(line.as_bytes(), true), true)),
        ("a gzip file in base64", STANDARD.encode(gzip(line.as_bytes())).into_bytes()),
    ]);
    all
}

fn request(fields: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /echo HTTP/1.1\r\nHost: api.example.com\r\n{fields}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

pub(super) async fn world() -> World {
    let mut world = World::start(allowing(&["api.example.com"])).await;
    world.document["credentials"] = json!({ "API_TOKEN": KNOWN });
    world.load().await.unwrap();
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_found_in_every_disguise() {
    let world = world().await;
    let mut denials = 0;
    let mut missed = Vec::new();
    for (secret, code) in [(vendors(), "dlp:"), (KNOWN.to_owned(), "known-secret:API_TOKEN")] {
        for (name, body) in written(&secret) {
            let answer = world.inside("api.example.com:443").await.ask(request("", &body)).await;
            if answer.status != 403 || !answer.code().starts_with(code) {
                missed.push(format!("{code} {name}: {} {}", answer.status, answer.code()));
            } else {
                denials += 1;
                world.wait_for("deny", denials).await;
            }
        }
    }
    assert_eq!(missed, [""; 0]);
    world.untouched();
}

/// D06: codings of the body, by every name and in every order, and those that nobody can undo.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_encoded_is_decoded() {
    let world = world().await;
    let secret = vendors();
    let text = format!("first\n{secret}\nlast");
    let text = text.as_bytes();
    let brotli = |text: &[u8]| {
        // As it is, in a block of its own: a window of 64 KiB, not the last block, four digits of its
        // length, which is one more than they say, uncompressed. Then an empty last one.
        let head = u32::try_from(text.len() - 1).unwrap() << 4 | 1 << 20;
        [&head.to_le_bytes()[..3], text, &[3]].concat()
    };
    let zstd = |text: &[u8]| {
        // A frame of one raw block, its content size in one byte.
        let mut out = b"\x28\xb5\x2f\xfd\x20".to_vec();
        out.push(u8::try_from(text.len()).unwrap());
        let block = u32::try_from(text.len()).unwrap() << 3 | 1;
        out.extend(&block.to_le_bytes()[..3]);
        out.extend(text);
        out
    };
    let found = "dlp:github-token";
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("Content-Encoding: gzip\r\n", gzip(text), found),
        ("Content-Encoding: x-gzip\r\n", gzip(text), found),
        ("content-encoding: GZip\r\n", gzip(text), found),
        ("Content-Encoding: gzip\r\n", [gzip(b"a"), gzip(text)].concat(), found),
        ("Content-Encoding: deflate\r\n", zlib(text), found),
        ("Content-Encoding: deflate\r\n", deflate(text), found),
        ("Content-Encoding: br\r\n", brotli(text), found),
        ("Content-Encoding: zstd\r\n", zstd(text), found),
        ("Content-Encoding: identity\r\n", text.to_vec(), found),
        ("Content-Encoding: gzip, gzip\r\n", gzip(&gzip(text)), found),
        ("Content-Encoding: gzip\r\nContent-Encoding: gzip\r\n", gzip(&gzip(text)), found),
        ("Content-Encoding: deflate, gzip\r\n", gzip(&zlib(text)), found),
        ("Content-Encoding: identity\r\nContent-Encoding: gzip\r\n", gzip(text), found),
        ("Content-Encoding:  , gzip\r\n", gzip(text), found),
        ("", gzip(text), found),
        ("Content-Type: application/octet-stream\r\n", zip(text, true), found),
        // It says one thing and is another.
        ("Content-Encoding: gzip\r\n", text.to_vec(), "dlp_unscannable"),
        ("Content-Encoding: br\r\n", gzip(text), "dlp_unscannable"),
        ("Content-Encoding: gzip\r\n", [gzip(b"a"), text.to_vec()].concat(), "dlp_unscannable"),
        ("Content-Encoding: gzip\r\n", gzip(text)[..30].to_vec(), "dlp_unscannable"),
        ("Content-Encoding: compress\r\n", text.to_vec(), "dlp_unscannable"),
        ("Content-Encoding: aes128gcm\r\n", text.to_vec(), "dlp_unscannable"),
        ("Content-Encoding: gzip;q=1\r\n", gzip(text), "dlp_unscannable"),
        ("Content-Encoding: \"gzip\"\r\n", gzip(text), "dlp_unscannable"),
        ("Content-Encoding: \u{e9}\r\n", text.to_vec(), "dlp_unscannable"),
        ("Content-Encoding: none\r\n", gzip(text), "dlp_unscannable"),
    ];
    let mut wrong = Vec::new();
    for (fields, body, code) in &cases {
        let answer = world.inside("api.example.com:443").await.ask(request(fields, body)).await;
        if answer.code() != *code {
            wrong.push(format!("{fields:?}: {} {}", answer.status, answer.code()));
        }
    }
    assert_eq!(wrong, [""; 0]);
    assert_eq!(world.wait_for("deny", cases.len()).await.len(), cases.len());
    world.untouched();
    // What is encoded and clean goes on as it came.
    let body = gzip(b"nothing of note");
    let fields = "Content-Encoding: gzip\r\n";
    let answer = world.inside("api.example.com:443").await.ask(request(fields, &body)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(world.upstream.one().body, body);
}

/// D02: in every field, and in the parts of a target.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_part_of_a_head_is_searched() {
    let world = world().await;
    let mut denials = 0;
    for (secret, code) in [(vendors(), "dlp:"), (KNOWN.to_owned(), "known-secret:API_TOKEN")] {
        let basic = STANDARD.encode(format!("user:{secret}"));
        let percent = each(&secret, |b| format!("%{b:02X}"));
        let url = URL_SAFE_NO_PAD.encode(format!("??>{secret}"));
        let cases = [
            (format!("/{secret}"), String::new()),
            (format!("/a;k={secret}/b"), String::new()),
            (format!("/{percent}"), String::new()),
            (format!("/{url}/"), String::new()),
            (format!("/?{secret}"), String::new()),
            (format!("/?{secret}=x"), String::new()),
            (format!("/?a=b&k={percent}"), String::new()),
            (format!("/?k={url}"), String::new()),
            (format!("/?next=https%3A%2F%2Fx.test%2F%3Fk%3D{secret}"), String::new()),
            ("/".to_owned(), format!("X-Data: {secret}\r\n")),
            ("/".to_owned(), format!("X-Data: {percent}\r\n")),
            ("/".to_owned(), format!("X-Data: {url}\r\n")),
            ("/".to_owned(), format!("X-Data: a\r\nX-Data: {secret}\r\n")),
            ("/".to_owned(), format!("Cookie: a=b; c={secret}\r\n")),
            ("/".to_owned(), format!("Cookie: a=b\r\nCookie: c={percent}\r\n")),
            ("/".to_owned(), format!("Authorization: Basic {basic}\r\n")),
            ("/".to_owned(), format!("authorization: bearer {secret}\r\n")),
            ("/".to_owned(), format!("Referer: https://x.test/?k={secret}\r\n")),
            ("/".to_owned(), format!("User-Agent: a/1 ({secret})\r\n")),
            ("/".to_owned(), format!("Content-Type: multipart/form-data; boundary={secret}\r\n")),
            ("/".to_owned(), format!("If-None-Match: \"{secret}\"\r\n")),
            ("/".to_owned(), format!("Range: {secret}\r\n")),
            ("/".to_owned(), format!("X-Data: {}\r\n", hex::encode(&secret))),
        ];
        for (target, fields) in cases {
            let request = format!("GET {target} HTTP/1.1\r\nHost: api.example.com\r\n{fields}\r\n");
            let answer = world.inside("api.example.com:443").await.ask(&request).await;
            assert_eq!(answer.status, 403, "{request}: {answer:?}");
            assert!(answer.code().starts_with(code), "{request}: {answer:?}");
            denials += 1;
            world.wait_for("deny", denials).await;
            world.untouched();
        }
    }
}

/// D06: archives that are too long to be held are unpacked as they stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_that_streams_is_opened() {
    let world = world().await;
    // What does not shrink, so that it is long.
    let mut seed = 7_u64;
    let mut noise = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as u8
    };
    let noise: Vec<u8> = (0..3 << 20).map(|_| noise()).collect();
    let with = |secret: &str| [&noise[..], format!("\ntoken: {secret}\n").as_bytes()].concat();
    let zstd = |text: &[u8]| {
        // Raw blocks, and a window of 128 KiB.
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3];
        let pieces: Vec<&[u8]> = text.chunks(100_000).collect();
        for (number, piece) in pieces.iter().enumerate() {
            let last = u32::from(number + 1 == pieces.len());
            let head = u32::try_from(piece.len()).unwrap() << 3 | last;
            frame.extend(&head.to_le_bytes()[..3]);
            frame.extend(*piece);
        }
        frame
    };
    let ask =
        async |body: &[u8]| world.inside("api.example.com:443").await.ask(request("", body)).await;
    let known = "known-secret:API_TOKEN";
    for (secret, code) in [(KNOWN.to_owned(), known), (vendors(), "dlp:github-token")] {
        let text = with(&secret);
        for (name, body) in [
            ("gzip", gzip(&text)),
            ("tar.gz", gzip(&tar(&text))),
            ("zlib", zlib(&text)),
            ("zstd", zstd(&text)),
            ("zip", zip(&text, true)),
            ("zip, stored", zip(&text, false)),
            ("text behind gzip", [gzip(&noise), text.clone()].concat()),
            ("gzip behind gzip", [gzip(&noise), gzip(secret.as_bytes())].concat()),
            ("text in broken gzip", [&gzip(&noise)[..2 << 20], &text].concat()),
        ] {
            let answer = ask(&body).await;
            assert_eq!((answer.status, answer.code()), (403, code), "{name}");
        }
    }
    // What holds nothing passes as it is. What cannot be opened does, with a word about it.
    let text = with("nothing");
    let encrypted = {
        let mut zip = zip(&text, true);
        zip[6] |= 1;
        zip
    };
    let bzip2 = [&b"BZh91AY&SY"[..], &noise].concat();
    let mut reasons = Vec::new();
    let bodies = [
        (gzip(&text), None),
        (zlib(&text), None),
        (zstd(&text), None),
        (zip(&text, true), None),
        (zip(&text, false), None),
        (gzip(&text)[..2 << 20].to_vec(), Some("archive_broken")),
        (encrypted, Some("archive_encrypted")),
        (bzip2, Some("archive_format")),
        (gzip(&gzip(&text)), None),
        (gzip(&gzip(&gzip(&text))), Some("archive_nested")),
    ];
    for (body, reason) in &bodies {
        assert_eq!(ask(body).await.status, 200, "{reason:?}");
        reasons.extend(reason);
    }
    let told = ["allow", "warn"].map(|event| world.log(event)).concat();
    let mut told: Vec<&str> =
        told.iter().filter_map(|line| line["unscanned_reason"].as_str()).collect();
    told.retain(|reason| reasons.contains(reason));
    for reason in &reasons {
        assert!(told.contains(reason), "{reason}: {told:?}");
    }
    // What unpacks to more than is read of it is refused.
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for _ in 0..300 {
        bomb.write_all(&[0; 1 << 20]).unwrap();
    }
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() > 1 << 20, "{}", bomb.len());
    assert_eq!(ask(&bomb).await.code(), "dlp_unscannable");
}
