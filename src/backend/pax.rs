//! Headers of an archive that say what the plain ones have no room for.

use std::io;

use tar::{EntryType, Header};

/// A header that extends the one after it, with its content: pairs of a key and a value.
///
/// # Errors
/// When it is too long.
pub fn extension(records: &[(&str, &[u8])]) -> io::Result<(Header, Vec<u8>)> {
    let mut content = Vec::new();
    for (key, value) in records {
        // A record begins with its own length, which counts the digits of the length.
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        content.extend_from_slice(format!("{length} {key}=").as_bytes());
        content.extend_from_slice(value);
        content.push(b'\n');
    }
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XHeader);
    // Named, because busybox takes a header without a name for the end of the archive.
    header.set_path("pax")?;
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    header.set_cksum();
    Ok((header, content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        let (_, content) = extension(&[("mtime", b"1.5")]).unwrap();
        assert_eq!(content, b"13 mtime=1.5\n");
        for value in ["x".repeat(86), "x".repeat(90), "x".repeat(1000)] {
            let (header, content) = extension(&[("mtime", value.as_bytes())]).unwrap();
            let text = String::from_utf8(content).unwrap();
            let length: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!((length, header.size().unwrap()), (text.len(), text.len() as u64));
        }
    }
}
