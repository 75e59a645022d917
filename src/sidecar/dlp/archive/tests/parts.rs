//! Parts of forms whose own head says how they are packed or written; and archives in base64 that stream.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::names::{passing, today};
use super::*;

/// Frames of a stored block each.
fn zstd_of(body: &[u8]) -> Vec<u8> {
    body.chunks(10_000).flat_map(zstd).collect()
}

fn lines(text: &str) -> String {
    let lines = text.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap());
    lines.collect::<Vec<_>>().join("\r\n")
}

/// Every byte that is no letter, and one in seven that is.
fn quoted(body: &[u8]) -> String {
    let mut out = String::new();
    for (at, byte) in body.iter().enumerate() {
        if byte.is_ascii_alphanumeric() && at % 7 > 0 {
            out.push(char::from(*byte));
        } else {
            out.push_str(&format!("={byte:02X}"));
        }
        if at % 25 == 24 {
            out.push_str("=\r\n");
        }
    }
    out
}

/// A form of three parts, of which the second has this head.
fn form(head: &str, body: &[u8]) -> Vec<u8> {
    let first = "--b0undary\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nfirst\r\n";
    let last = "\r\n--b0undary\r\nContent-Disposition: form-data; name=\"z\"\r\n\r\nlast\r\n--b0undary--\r\n";
    let head =
        format!("--b0undary\r\nContent-Disposition: form-data; name=\"f\"\r\n{head}\r\n\r\n");
    [first.as_bytes(), head.as_bytes(), body, last.as_bytes()].concat()
}

/// Not packed well, so that what is packed is long.
fn noise(length: usize) -> Vec<u8> {
    let numbers = (0_u32..).map(|number| number.wrapping_mul(0x9e37_79b9));
    let letters = numbers.map(|number| b'a' + u8::try_from(number >> 28).unwrap());
    letters.take(length).collect()
}

/// Ways to pack, with the names that a head has for them.
type Packing = (&'static str, fn(&[u8]) -> Vec<u8>);

const PACKINGS: [Packing; 7] = [
    ("gzip", gzip),
    ("X-GZIP", gzip),
    ("deflate", zlib),
    ("deflate", deflate),
    ("br", brotli),
    ("zstd", zstd_of),
    ("br, gzip", |body| gzip(&brotli(body))),
];

#[test]
fn a_part_that_says_how_it_is_packed_is_opened() {
    let text = text();
    let within = [&noise(200_000)[..], b"\n", token().as_bytes(), b"\n", &noise(100_000)].concat();
    for (coding, pack) in PACKINGS {
        for transfer in ["", "base64", "quoted-printable"] {
            let write = |body: Vec<u8>| match transfer {
                "base64" => lines(&BASE64_STANDARD.encode(body)).into_bytes(),
                "quoted-printable" => quoted(&body).into_bytes(),
                _ => body,
            };
            let mut head = format!("Content-Encoding: {coding}");
            if !transfer.is_empty() {
                head.push_str(&format!("\r\ncontent-transfer-encoding: {transfer}"));
            }
            let body = form(&head, &write(pack(&text)));
            let report = scan(&[], &body).unwrap();
            assert_eq!((report.findings.len(), report.unscanned), (1, None), "{head}");
            assert_eq!(scan(&[Coding::Gzip], &gzip(&body)).unwrap().findings.len(), 1, "{head}");
            let clean =
                scan(&[], &form(&head, &write(pack(b"nothing in it, only words")))).unwrap();
            assert_eq!(clean, Report::default(), "{head}");
            let long = form(&head, &write(pack(&within)));
            for size in [1000, 50_000, usize::MAX] {
                assert_eq!(passing(&long, size), 1, "{head}, in pieces of {size}");
            }
            assert_eq!(passing(&form(&head, &write(pack(&noise(300_000)))), 4096), 0, "{head}");
        }
    }
}

#[test]
fn a_part_that_says_how_it_is_written_is_read() {
    let quoted = quoted(token().as_bytes());
    let single = token().replace('_', "=5F");
    for body in [quoted, single] {
        let body = form("Content-Transfer-Encoding: quoted-printable", body.as_bytes());
        assert_eq!(scan(&[], &body).unwrap().findings.len(), 1);
    }
    // Lines of any width.
    let base64 = BASE64_STANDARD.encode([&[0xff; 40][..], &text()].concat());
    let lines: Vec<&str> =
        base64.as_bytes().chunks(17).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let body = form("Content-Transfer-Encoding: base64", lines.join("\r\n").as_bytes());
    assert_eq!(scan(&[], &body).unwrap().findings.len(), 1);
}

#[test]
fn a_part_that_is_not_what_it_says_is_told() {
    let why = |head: &str, body: &[u8]| scan(&[], &form(head, body)).unwrap().unscanned;
    assert_eq!(why("Content-Encoding: br", b"plain words"), Some(Unscanned::Broken));
    assert_eq!(why("Content-Encoding: compress", b"plain words"), Some(Unscanned::Format));
    let deep = gzip(&gzip(&brotli(b"words")));
    assert_eq!(why("Content-Encoding: br, gzip, gzip", &deep), None);
    let in_form = |body: &[u8]| form("Content-Encoding: deflate", &deflate(body));
    let nested = in_form(&in_form(&in_form(b"words")));
    assert_eq!(scan(&[], &nested).unwrap().unscanned, Some(Unscanned::Nested));
    let many = form("Content-Encoding: br", &brotli(b"words")).repeat(PLACES + 1);
    assert_eq!(scan(&[], &many).unwrap().unscanned, Some(Unscanned::Many));
    // The head of an answer in a text is no part of a form.
    let answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nServer: x\r\n\r\n<html>words</html>";
    assert_eq!(scan(&[], answer).unwrap(), Report::default());
}

#[test]
fn what_is_packed_and_in_base64_or_hex_is_opened_as_it_comes() {
    let within = [&noise(200_000)[..], b"\n", token().as_bytes(), b"\n", &noise(100_000)].concat();
    let filler = "{\"role\": \"user\", \"content\": \"words\"}\n".repeat(4000);
    for (name, packed) in [
        ("gzip", gzip(&within)),
        ("zlib", zlib(&within)),
        ("zstd", zstd_of(&within)),
        ("zip", zip("a.txt", &within, 8)),
        ("stored zip", zip("a.txt", &within, 0)),
        ("tgz", gzip(&tar_of("a.txt", &within))),
        ("gzip in zip", zip("a.gz", &gzip(&within), 0)),
    ] {
        let base64 = BASE64_STANDARD.encode(&packed);
        for (how, text) in [
            ("base64", base64.clone()),
            ("lines", lines(&base64)),
            ("lines in JSON", lines(&base64).replace("\r\n", "\\n")),
            ("slashes in JSON", base64.replace('/', "\\/").replace('+', "\\u002b")),
            ("a form", base64.replace('/', "%2F").replace('+', "%2B").replace('=', "%3D")),
            ("hex", ::hex::encode(&packed)),
        ] {
            let body = format!("{filler}{{\"file\": \"{text}\", \"more\": 1}}\n{filler}");
            for size in [1000, 70_000, usize::MAX] {
                assert_eq!(passing(body.as_bytes(), size), 1, "{name} in {how}, {size}");
            }
        }
        let clean = BASE64_STANDARD.encode(gzip(&noise(300_000)));
        let two = format!("{{\"a\": \"{clean}\", \"b\": \"{base64}\"}}");
        assert_eq!(passing(two.as_bytes(), 4096), 1, "{name} behind another");
    }
}

/// Nothing of it goes before what it stands for is searched.
#[test]
fn nothing_goes_before_what_is_written_is_searched() {
    use crate::sidecar::dlp::{Opener, Room};
    let (before, after) = (noise(120_003), noise(150_000));
    let body = [&before[..], b"\n", token().as_bytes(), b"\n", &after].concat();
    let stored = |body: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::none());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    };
    let packed = stored(&body);
    let end = memchr::memmem::find(&packed, token().as_bytes()).unwrap() + token().len();
    let text = format!("{{\"f\": \"{}\"}}", BASE64_STANDARD.encode(&packed));
    let end = 7 + end / 3 * 4;
    for (size, flush) in [(999, false), (999, true), (70_000, false), (70_000, true)] {
        let rules = Rules::from_toml(
            "[[rules]]\nid = 'github-token'\nregex = 'ghp_[0-9A-Za-z]{36}'\nkeywords = ['ghp_']",
        );
        let scanner =
            Scanner::new(Arc::new(rules.unwrap()), Arc::new(Known::default()), Vec::new());
        let room: Room = Arc::new(|_| Some(Box::new(()) as Box<_>));
        let opener = Opener::new(room, 17 << 20, |_| 2 << 20, None);
        let mut scanner = Arc::new(scanner).stream("example.com", today()).opening(opener);
        let mut sent = 0;
        for piece in text.as_bytes().chunks(size) {
            let _ = scanner.push(piece);
            if flush {
                let _ = scanner.flush();
            }
            sent += piece.len();
            let gone = sent - scanner.hold_back();
            assert!(!scanner.findings().is_empty() || gone < end, "{gone} of {end}");
        }
        scanner.close();
        assert!(!scanner.findings().is_empty());
    }
}
