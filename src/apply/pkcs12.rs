//! A certificate as a JVM trusts it: a key store in PKCS #12 (RFC 7292) with nothing secret in it, so neither encrypted
//! nor signed. Any JVM since Java 8 reads such a one without a password.

use std::io;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const BMP_STRING: u8 = 0x1e;
/// `[0]`, around what it is for.
const EXPLICIT: u8 = 0xa0;

/// Version 3 of the format.
const VERSION: [u8; 3] = [0x02, 0x01, 0x03];

/// `data` of PKCS #7.
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
/// `certBag` of PKCS #12.
const CERT_BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x03];
/// `x509Certificate` of PKCS #9.
const X509: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x16, 0x01];
/// `friendlyName` of PKCS #9.
const NAME: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x14];
/// By this attribute of Oracle's a JVM knows a certificate that is trusted from one of a chain.
const TRUSTED: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x86, 0xf9, 0x66, 0xad, 0xca, 0x7b, 0x01, 0x01];
/// For whatever purpose.
const ANY: &[u8] = &[0x55, 0x1d, 0x25, 0x00];

/// The key store that trusts this certificate, under the name `bottle`.
///
/// # Errors
/// When it is no certificate in PEM.
pub(super) fn trusting(pem: &str) -> io::Result<Vec<u8>> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(io::Error::other)?;
    let name: Vec<u8> = "bottle".encode_utf16().flat_map(u16::to_be_bytes).collect();
    let attribute =
        |id: &[u8], value: Vec<u8>| der(SEQUENCE, &[der(OID, &[id]), der(SET, &[value])]);
    let bag = der(
        SEQUENCE,
        &[
            der(OID, &[CERT_BAG]),
            der(
                EXPLICIT,
                &[der(
                    SEQUENCE,
                    &[der(OID, &[X509]), der(EXPLICIT, &[der(OCTETS, &[&*certificate])])],
                )],
            ),
            der(
                SET,
                &[attribute(NAME, der(BMP_STRING, &[name])), attribute(TRUSTED, der(OID, &[ANY]))],
            ),
        ],
    );
    let bags = data(&der(SEQUENCE, &[bag]));
    let safes = data(&der(SEQUENCE, &[bags]));
    Ok(der(SEQUENCE, &[VERSION.to_vec(), safes]))
}

/// Content that is what it is.
fn data(content: &[u8]) -> Vec<u8> {
    der(SEQUENCE, &[der(OID, &[DATA]), der(EXPLICIT, &[der(OCTETS, &[content])])])
}

/// One value in DER, made of these parts.
fn der(tag: u8, parts: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.as_ref().len()).sum();
    let mut out = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let begin = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1);
            let long = &bytes[begin..];
            // A length has at most eight bytes.
            out.push(0x80 | u8::try_from(long.len()).unwrap_or_default());
            out.extend_from_slice(long);
        }
    }
    for part in parts {
        out.extend_from_slice(part.as_ref());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_as_short_as_they_go() {
        assert_eq!(der(OCTETS, &[vec![7; 3]]), [4, 3, 7, 7, 7]);
        assert_eq!(der(OCTETS, &[vec![7; 127]])[..2], [4, 127]);
        assert_eq!(der(OCTETS, &[vec![7; 128]])[..3], [4, 0x81, 128]);
        assert_eq!(der(OCTETS, &[vec![7; 300]])[..4], [4, 0x82, 1, 44]);
    }

    #[test]
    fn the_certificate_stands_in_it() {
        let key = rcgen::KeyPair::generate().unwrap();
        let made = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let store = trusting(&made.pem()).unwrap();
        assert!(memchr::memmem::find(&store, made.der()).is_some());
        assert_eq!(usize::from(u16::from_be_bytes([store[2], store[3]])) + 4, store.len());
        assert!(trusting("no certificate").is_err());
    }
}
