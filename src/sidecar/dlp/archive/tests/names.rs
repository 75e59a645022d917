//! What stands beside what is packed: names, comments and other fields.

use flate2::GzBuilder;

use super::*;

/// A rule that wants its token by itself.
pub(super) fn scanner() -> Arc<Scanner> {
    let rules = Rules::from_toml(
        "[[rules]]\nid = 'github-token'\nregex = '\\bghp_[0-9A-Za-z]{36}\\b'\nkeywords = ['ghp_']",
    );
    Arc::new(Scanner::new(Arc::new(rules.unwrap()), Arc::new(Known::default()), Vec::new()))
}

pub(super) fn today() -> Date {
    Date::from_calendar_date(2030, Month::May, 1).unwrap()
}

/// What is found in a whole body.
fn whole(codings: &[Coding], body: &[u8]) -> usize {
    let report = scanner().scan_body("example.com", today(), codings, body, Limits::default());
    report.unwrap().findings.len()
}

/// What is found in a body that comes in pieces, opened as it comes.
pub(super) fn passing(body: &[u8], size: usize) -> usize {
    use crate::sidecar::dlp::{Opener, Room};
    let room: Room = Arc::new(|_| Some(Box::new(()) as Box<_>));
    let opener = Opener::new(room, 17 << 20, |_| 2 << 20, None);
    let mut scanner = scanner().stream("example.com", today()).opening(opener);
    body.chunks(size).for_each(|piece| drop(scanner.push(piece)));
    scanner.close();
    assert_eq!(scanner.unscanned(), None);
    scanner.findings().len()
}

/// A zip of one member that is stored, and what stands beside it: its name, what else there is, and a comment
/// on it; and a comment on all.
fn zip([name, extra, comment, last]: [&str; 4]) -> Vec<u8> {
    let text = b"words";
    let size = |text: &str| u16::try_from(text.len()).unwrap().to_le_bytes();
    let length = u32::try_from(text.len()).unwrap().to_le_bytes();
    let common = [&[20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &length, &length].concat();
    let names = [name.as_bytes(), extra.as_bytes()].concat();
    let local = [b"PK\x03\x04", &common[..], &size(name), &size(extra), &names, text].concat();
    let lengths = [size(name), size(extra), size(comment)].concat();
    let entry =
        [b"PK\x01\x02\x14\0", &common[..], &lengths, &[0; 12], &names, comment.as_bytes()].concat();
    let directory = u32::try_from(local.len()).unwrap().to_le_bytes();
    let long = u32::try_from(entry.len()).unwrap().to_le_bytes();
    let end = [b"PK\x05\x06\0\0\0\0\x01\0\x01\0", &long[..], &directory, &size(last)].concat();
    [local, entry, end, last.as_bytes().to_vec()].concat()
}

#[test]
fn what_stands_beside_a_member_of_a_zip_is_found() {
    let token = token();
    for place in 0..4 {
        let mut fields = ["a.txt", "", "", ""];
        assert_eq!(whole(&[], &zip(fields)), 0);
        fields[place] = &token;
        let zip = zip(fields);
        assert_eq!(whole(&[], &zip), 1, "{place}");
        assert_eq!(whole(&[], &gzip(&zip)), 1, "{place} in gzip");
        let base64 = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &zip);
        assert_eq!(whole(&[], base64.as_bytes()), 1, "{place} in base64");
        for size in [1, 50, 4096] {
            assert_eq!(passing(&zip, size), 1, "{place} in pieces of {size}");
            assert_eq!(passing(&gzip(&zip), size), 1, "{place} in gzip, in pieces of {size}");
        }
    }
}

#[test]
fn a_field_that_many_entries_name_is_read_once() {
    // Ten thousand entries of one header, whose name is long.
    let name = "n".repeat(60_000);
    let first = zip([&name, "", "", ""]);
    let directory = 30 + name.len() + 5;
    let mut entry = first[directory..directory + 46].to_vec();
    entry[28..30].copy_from_slice(&[0, 0]);
    let size = u32::try_from(46 * 10_000).unwrap().to_le_bytes();
    let at = u32::try_from(directory).unwrap().to_le_bytes();
    let count = 10_000_u16.to_le_bytes();
    let end = [&b"PK\x05\x06\0\0\0\0"[..], &count, &count, &size, &at, &[0, 0]].concat();
    let all = [&first[..directory], &entry.repeat(10_000), &end].concat();
    let listing = crate::sidecar::dlp::archive::zip::listing(&all).ok().unwrap();
    assert_eq!(listing.members.len(), 10_000);
    assert!(listing.names.len() < all.len(), "{}", listing.names.len());
}

#[test]
fn the_fields_of_gzip_are_found() {
    let named = |builder: GzBuilder| {
        let mut encoder = builder.write(Vec::new(), Compression::default());
        encoder.write_all(b"words and words").unwrap();
        encoder.finish().unwrap()
    };
    for (field, body) in [
        ("name", named(GzBuilder::new().filename(token()))),
        ("comment", named(GzBuilder::new().filename("a").comment(token()))),
        ("extra", named(GzBuilder::new().extra(format!("T\0\x28\0{}", token())))),
    ] {
        assert_eq!(whole(&[], &body), 1, "{field}");
        assert_eq!(whole(&[Coding::Gzip], &body), 1, "{field} of a coding");
        let second = [gzip(b"first"), body.clone()].concat();
        assert_eq!(whole(&[Coding::Gzip], &second), 1, "{field} of a second member");
        assert_eq!(whole(&[], &zip_of(&body)), 1, "{field} in a zip");
        assert_eq!(passing(&body, 100), 1, "{field} as it passes");
    }
}

fn zip_of(body: &[u8]) -> Vec<u8> {
    super::zip("a.gz", body, 8)
}

#[test]
fn the_fields_of_a_tar_are_found() {
    let header = |name: &str| {
        let mut header = tar::Header::new_ustar();
        header.set_size(0);
        header.set_path(name).unwrap();
        header
    };
    let whole_tar = |header: &mut tar::Header, pax: &[(&str, &str)]| {
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_pax_extensions(pax.iter().map(|(key, value)| (*key, value.as_bytes()))).unwrap();
        header.set_cksum();
        tar.append(header, &b""[..]).unwrap();
        tar.into_inner().unwrap()
    };
    let token = token();
    let mut linked = header("a");
    linked.set_entry_type(tar::EntryType::Symlink);
    linked.set_link_name(format!("../{token}")).unwrap();
    let deep = format!("{}/{token}", "d".repeat(120));
    for (field, tar) in [
        ("name", whole_tar(&mut header(&token), &[])),
        ("name behind a prefix", whole_tar(&mut header(&deep), &[])),
        ("link", whole_tar(&mut linked, &[])),
        ("pax", whole_tar(&mut header("a"), &[("comment", &token)])),
        ("pax name", whole_tar(&mut header("a"), &[("path", &deep)])),
    ] {
        assert_eq!(whole(&[], &gzip(&tar)), 1, "{field}");
        assert_eq!(whole(&[Coding::Gzip], &gzip(&tar)), 1, "{field} of a coding");
        assert_eq!(passing(&gzip(&tar), 1000), 1, "{field} as it passes");
    }
}
