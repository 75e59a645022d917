//! Each mistake with a certificate gets the text that is true of it.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;

use super::*;

const HOST: &str = "api.example.com";

/// The authority that is trusted here.
fn authority() -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "an authority");
    (params, KeyPair::generate().unwrap())
}

fn leaf(names: &[&str], ca: bool, expired: bool) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, HOST);
    if ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    if expired {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    }
    params
}

fn by_itself(params: &CertificateParams) -> Vec<u8> {
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

/// A value of DER.
fn der(tag: u8, value: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(value.len()).unwrap().to_be_bytes();
    let length = match (high, low) {
        (0, ..0x80) => vec![low],
        (0, _) => vec![0x81, low],
        _ => vec![0x82, high, low],
    };
    [&[tag], &length[..], value].concat()
}

/// A certificate of version 1, as one gets from `openssl x509 -req` without extensions.
fn version_1(subject: &str, issuer: &str) -> Vec<u8> {
    let name = |text: &str| {
        let text = der(0x0c, text.as_bytes());
        let pair = der(0x30, &[&[0x06, 3, 0x55, 4, 3][..], &text].concat());
        der(0x30, &der(0x31, &pair))
    };
    let algorithm = der(0x30, &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]);
    let dates = [der(0x17, b"200101000000Z"), der(0x17, b"490101000000Z")].concat();
    let key = der(0x30, &[algorithm.clone(), der(0x03, &[0; 66])].concat());
    let signed =
        [vec![0x02, 1, 1], algorithm.clone(), name(issuer), der(0x30, &dates), name(subject), key];
    let signed = der(0x30, &signed.concat());
    der(0x30, &[signed, algorithm, der(0x03, &[0; 72])].concat())
}

#[test]
fn each_mistake_has_the_text_that_is_true() {
    let (params, key) = authority();
    let root = params.self_signed(&key).unwrap().der().clone();
    let mut store = RootCertStore::empty();
    store.add(root.clone()).unwrap();
    let trusted = store.subjects();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(store.into(), provider);
    let verifier = Verifier::new(verifier.build().unwrap(), trusted);
    let issuer = Issuer::new(params, key);
    let signed = |params: &CertificateParams| {
        params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().to_vec()
    };
    // With SHA-224: in both places where it is told, of the same length.
    let mut weak = signed(&leaf(&[HOST], false, false));
    let sha_256 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    let places: Vec<usize> = memchr::memmem::find_iter(&weak, &sha_256).collect();
    assert_eq!(places.len(), 2);
    places.iter().for_each(|at| weak[at + 7] = 1);

    let own = "is self-signed";
    for (name, certificate, words, besides) in [
        ("by itself", by_itself(&leaf(&[HOST], false, false)), own, ""),
        ("openssl's default", by_itself(&leaf(&[], true, false)), own, "CaUsedAsEndEntity"),
        ("the same with a name", by_itself(&leaf(&[HOST], true, false)), own, "CaUsedAsEndEntity"),
        ("expired too", by_itself(&leaf(&[HOST], false, true)), own, "expired"),
        ("expired, of an authority", by_itself(&leaf(&[HOST], true, true)), own, "expired"),
        ("of another name", by_itself(&leaf(&["b.test"], false, false)), own, ""),
        ("of version 1", version_1(HOST, HOST), own, "UnsupportedCertVersion"),
        ("of version 1, signed", version_1(HOST, "an authority"), "of an old version", ""),
        ("expired", signed(&leaf(&[HOST], false, true)), "has expired", ""),
        ("another name", signed(&leaf(&["b.test"], false, false)), "for another name", ""),
        ("no name", signed(&leaf(&[], false, false)), "names no host", ""),
        ("of an authority", signed(&leaf(&[HOST], true, false)), "(`CA:TRUE`)", ""),
        ("the authority itself", root.to_vec(), "(`CA:TRUE`)", ""),
        ("badly signed", weak, "signed in a way that is not accepted", ""),
    ] {
        let leaf = CertificateDer::from(certificate);
        let host = ServerName::try_from(HOST).unwrap();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_893_456_000));
        let error = verifier.verify_server_cert(&leaf, &[], &host, &[], now).unwrap_err();
        let trouble = failed(&io::Error::other(error), false);
        assert_eq!(trouble.code, Code::UpstreamTls, "{name}");
        assert!(trouble.next.unwrap().contains(words), "{name}: {trouble:?}");
        let detail = trouble.detail.unwrap();
        assert!(detail.contains(besides), "{name}: {detail}");
        assert_eq!(detail.contains("self-signed"), words == own, "{name}: {detail}");
    }
    let good = CertificateDer::from(signed(&leaf(&[HOST], false, false)));
    let host = ServerName::try_from(HOST).unwrap();
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_893_456_000));
    assert!(verifier.verify_server_cert(&good, &[], &host, &[], now).is_ok());
}
