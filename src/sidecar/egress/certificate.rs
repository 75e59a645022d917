//! Whom a certificate is for, and by whom, read from its bytes as they are: also from one that is refused
//! before anything else of it is read, as those of version 1 are.

/// The names in a certificate, each in DER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Names<'c> {
    pub(super) subject: &'c [u8],
    pub(super) issuer: &'c [u8],
}

const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;
/// The version, where it is not the first.
const VERSION: u8 = 0xa0;

/// Reads them. What is no certificate has none.
pub(super) fn names(certificate: &[u8]) -> Option<Names<'_>> {
    let (certificate, _) = value(certificate, SEQUENCE)?;
    let (signed, _) = value(certificate, SEQUENCE)?;
    let rest = value(signed, VERSION).map_or(signed, |(_, rest)| rest);
    let (_serial, rest) = value(rest, INTEGER)?;
    let (_algorithm, rest) = value(rest, SEQUENCE)?;
    let (issuer, rest) = whole(rest, SEQUENCE)?;
    let (_validity, rest) = value(rest, SEQUENCE)?;
    let (subject, _) = whole(rest, SEQUENCE)?;
    Some(Names { subject, issuer })
}

/// What begins here with this tag, and what follows it.
fn whole(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (header, length) = measure(bytes, tag)?;
    bytes.split_at_checked(header.checked_add(length)?)
}

/// The same without its tag and length.
fn value(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (header, _) = measure(bytes, tag)?;
    let (whole, rest) = whole(bytes, tag)?;
    Some((&whole[header..], rest))
}

/// How long tag and length are, and how long what follows them is.
fn measure(bytes: &[u8], tag: u8) -> Option<(usize, usize)> {
    let (first, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first()?;
    if *first != tag {
        return None;
    }
    if *length < 0x80 {
        return Some((2, usize::from(*length)));
    }
    // No certificate is so long that three bytes do not say it.
    let count = usize::from(length & 0x7f);
    let digits = rest.get(..count).filter(|digits| (1..=3).contains(&digits.len()))?;
    let length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
    Some((2 + count, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_has_no_names() {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["api.example.com".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let der = certificate.der();
        let found = names(der).unwrap();
        assert_eq!(found.subject, found.issuer);
        assert!(found.subject.starts_with(&[SEQUENCE]) && found.subject.len() > 10);
        // Cut off, and with any byte changed: it may have other names, and nothing panics.
        for at in 0..der.len() {
            assert!(names(&der[..at]).is_none());
            for byte in [0, 0x7f, 0x80, 0x84, 0xff] {
                let mut other = der.to_vec();
                other[at] = byte;
                let _ = names(&other);
            }
        }
    }
}
