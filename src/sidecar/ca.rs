//! A sandbox's own certificate authority: made on the host, trusted by one guest, used by one sidecar.
//!
//! It lives for less than a week, so that a key that got out is of little use for long, and may sign
//! leaves only. What keeps it renews it while it has days left.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::model::SpecHash;

/// How long an authority is valid, the leeway for slow clocks included.
pub const LIFETIME: Duration = Duration::from_secs(6 * 24 * 3600);

/// An authority with less than this left is renewed: whoever applies at least every third day never
/// meets one that has run out.
pub const RENEW_BEFORE: Duration = Duration::from_secs(3 * 24 * 3600);

/// Clocks of guests may run behind by so much.
const LEEWAY: Duration = Duration::from_secs(3600);

/// A new authority.
pub struct Authority {
    /// The certificate, as PEM.
    pub certificate: String,
    /// The key, as PEM in PKCS #8.
    pub key: Zeroizing<String>,
    /// SHA-256 of the certificate, in hexadecimal.
    pub fingerprint: String,
    /// The end of its validity.
    pub not_after: SystemTime,
}

/// Makes an authority for `sandbox`, valid from about `now`.
///
/// # Errors
/// When there is no randomness to be had, or the clock is out of any certificate's range.
pub fn generate(sandbox: &str, now: SystemTime) -> Result<Authority, rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(Vec::new())?;
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "bottle");
    name.push(DnType::CommonName, format!("bottle sandbox {sandbox}"));
    params.distinguished_name = name;
    // `pathlen:0`: it signs leaves, never another authority.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let not_after = now + LIFETIME - LEEWAY;
    params.not_before = OffsetDateTime::from(now - LEEWAY);
    params.not_after = OffsetDateTime::from(not_after);
    let certificate = params.self_signed(&key)?;
    Ok(Authority {
        fingerprint: SpecHash::of_bytes(certificate.der()).to_string(),
        certificate: certificate.pem(),
        key: Zeroizing::new(key.serialize_pem()),
        not_after,
    })
}
