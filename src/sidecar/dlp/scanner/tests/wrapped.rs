//! Base64 over lines, of what is no text.

use super::*;

/// Bytes that are no text and hold no token.
fn noise(length: usize) -> Vec<u8> {
    let numbers = (1_u32..).map(|number| number.wrapping_mul(0x9e37_79b9) ^ number << 7);
    numbers.map(|number| (number >> 23) as u8).take(length).collect()
}

#[test]
fn what_is_no_text_is_found_in_lines_wherever_they_end() {
    let scanner = scanner();
    let breaks = ["\n", "\r\n", r"\n", r"\r\n", r"\\n", r"\\r\\n", "\n    "];
    let mut missed = Vec::new();
    for (secret, rule) in [(token(), "github-token"), (VALUE.to_owned(), "API_TOKEN")] {
        for width in [76, 64, 60, 20] {
            for before in [0, 3, 21, 22, 30, 37, 45, 500, 501] {
                let text =
                    [&noise(before)[..], b"\0", secret.as_bytes(), b"\0", &noise(300)].concat();
                let base64 = BASE64_STANDARD.encode(&text);
                let lines: Vec<&str> = base64
                    .as_bytes()
                    .chunks(width)
                    .map(|line| std::str::from_utf8(line).unwrap())
                    .collect();
                for with in breaks {
                    let text = lines.join(with);
                    for (place, text) in [
                        ("JSON", format!("{{\"file\": \"{text}\", \"n\": 1}}")),
                        ("JSON behind a break", format!("{{\"file\": \"{with}{text}{with}\"}}")),
                        ("a part", format!("--b\r\nA: b\r\n\r\n{text}\r\n--b--\r\n")),
                    ] {
                        if found(&scanner, text.as_bytes()) != [rule] {
                            missed.push(format!("{rule} {before} {width} {with:?} {place}"));
                        }
                    }
                }
            }
        }
    }
    assert_eq!(missed, [""; 0], "{}", missed.len());
}

/// As a stream, where a window begins in the middle of a line.
#[test]
fn lines_that_go_on_are_read_in_every_window() {
    let scanner = Arc::new(scanner());
    let today = Date::from_calendar_date(2030, Month::May, 1).unwrap();
    for ahead in [95_000, 98_000, 98_304, 101_001, 250_000] {
        let text = [&noise(ahead)[..], b"\0", token().as_bytes(), b"\0", &noise(100_000)].concat();
        let base64 = BASE64_STANDARD.encode(&text);
        let lines: Vec<&str> =
            base64.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
        let body = format!("{{\"a\": \"{}\"}}", lines.join("\\n"));
        let mut stream = scanner.stream("example.com", today);
        body.as_bytes().chunks(10_000).for_each(|piece| drop(stream.push(piece)));
        assert_eq!(stream.end().len(), 1, "{ahead}");
    }
}
