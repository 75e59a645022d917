//! A sandbox's certificate authority, and the leaves that its sidecar shows instead of upstreams.
//!
//! The authority signs for names only, may not sign for other authorities, and lives as
//! long as its machine: programs read it once, and one that runs on must not meet another. What is
//! short is the leaves. Its key is on the host and in the sidecar's memory; a machine sees the
//! certificate alone.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::ServerConfig;
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::clock;
use super::document::{CaPart, Secret};
use crate::model::SpecHash;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long an authority is valid. The clock of a machine may be behind.
const AUTHORITY: (Duration, Duration) = (DAY, LIFETIME);
/// How long an authority is valid from the moment it is made: longer than machines live.
pub const LIFETIME: Duration = DAY.saturating_mul(3653);
/// An authority that has less than this left, as those have that earlier versions made for a week, is
/// extended: its key stays, so that programs that know the old certificate accept what it signs until
/// that has run out, and those that are started anew get the new one.
pub const EXTEND_BEFORE: Duration = DAY.saturating_mul(30);
/// How long a leaf is valid, and how long it is shown.
const LEAF: (Duration, Duration) = (DAY, DAY.saturating_mul(2));
const LEAF_SHOWN: Duration = DAY;

/// A name that no upstream has: the leaf by which an authority is tried.
const TRIAL: &str = "bottle.invalid";

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error("making a certificate")]
pub struct CaError(#[from] rcgen::Error);

/// Makes a new authority for a sandbox.
///
/// # Errors
/// When the system has no randomness to give.
pub fn generate(sandbox: &str) -> Result<CaPart, CaError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = authority(sandbox).self_signed(&key)?;
    Ok(CaPart { certificate: certificate.pem(), key: Secret::new(key.serialize_pem()) })
}

/// The authority with the same key, valid for as long as a new one.
///
/// # Errors
/// When its key cannot be read.
pub fn extend(part: &CaPart, sandbox: &str) -> Result<CaPart, CaError> {
    let key = KeyPair::from_pem(part.key.reveal())?;
    let certificate = authority(sandbox).self_signed(&key)?;
    Ok(CaPart { certificate: certificate.pem(), key: part.key.clone() })
}

/// Whether both can be read and belong together.
#[must_use]
pub fn is_whole(part: &CaPart) -> bool {
    // Reading a key tries it: its public half has to be that of its secret one.
    let Ok(key) = KeyPair::from_pem(part.key.reveal()) else { return false };
    let Ok(der) = CertificateDer::from_pem_slice(part.certificate.as_bytes()) else { return false };
    memchr::memmem::find(&der, key.public_key_raw()).is_some()
}

/// The key of an authority in what is left of its record, if it is whole.
#[must_use]
pub fn key_within(record: &[u8]) -> Option<Secret> {
    const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
    const END: &str = "-----END PRIVATE KEY-----";
    let text = Zeroizing::new(String::from_utf8_lossy(record).into_owned());
    let begin = text.find(BEGIN)?;
    let end = begin + text[begin..].find(END)? + END.len();
    // As JSON writes the ends of lines.
    let pem = text[begin..end].replace("\\r", "").replace("\\n", "\n") + "\n";
    let key = Secret::new(pem);
    KeyPair::from_pem(key.reveal()).ok().map(|_| key)
}

/// The authority's certificate; what signs the leaves is made of the same, so that both agree.
fn authority(sandbox: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = around_now(AUTHORITY);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "bottle");
    params.distinguished_name.push(DnType::CommonName, format!("sandbox {sandbox}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// The fingerprint of an authority: SHA-256 of its certificate, in hexadecimal.
///
/// # Errors
/// When it is no certificate in PEM.
pub fn fingerprint(certificate: &str) -> Result<String, rustls::pki_types::pem::Error> {
    let der = CertificateDer::from_pem_slice(certificate.as_bytes())?;
    Ok(SpecHash::of_bytes(&der).to_string())
}

fn around_now((before, after): (Duration, Duration)) -> (OffsetDateTime, OffsetDateTime) {
    let now = clock::now();
    ((now - before).into(), (now + after).into())
}

/// An authority that is loaded, with the leaves it has signed.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    /// One for all leaves: they differ in nothing but the name.
    leaf_key: KeyPair,
    provider: Arc<CryptoProvider>,
    leaves: Mutex<Leaves>,
}

/// The leaves by their names, each with the time until which it is shown.
type Leaves = HashMap<Box<str>, (SystemTime, Arc<ServerConfig>)>;

impl fmt::Debug for Ca {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Ca")
    }
}

impl Ca {
    /// Loads the authority of a sandbox and tries it: a leaf that it signs has to be valid under its
    /// certificate now.
    ///
    /// # Errors
    /// What is wrong with it, without the key.
    pub fn load(
        part: &CaPart,
        sandbox: &str,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let key = KeyPair::from_pem(part.key.reveal())
            .map_err(|_| "`ca.key` is no PKCS #8 key in PEM: expected one of P-256".to_owned())?;
        let certificate = CertificateDer::from_pem_slice(part.certificate.as_bytes())
            .map_err(|_| "`ca.certificate` is no certificate in PEM".to_owned())?;
        let leaf_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|error| format!("making a key for leaf certificates: {error}"))?;
        let ca = Self {
            issuer: Issuer::new(authority(sandbox), key),
            leaf_key,
            provider: Arc::clone(provider),
            leaves: Mutex::default(),
        };
        let leaf =
            ca.sign(TRIAL).map_err(|error| format!("signing a leaf certificate: {error}"))?;
        let verifies = || -> Result<(), rustls::Error> {
            let mut roots = RootCertStore::empty();
            roots.add(certificate)?;
            let verifier =
                WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(provider))
                    .build()
                    .map_err(|error| rustls::Error::General(error.to_string()))?;
            let name =
                ServerName::try_from(TRIAL).map_err(|_| rustls::Error::General(TRIAL.into()))?;
            verifier.verify_server_cert(&leaf, &[], &name, &[], clock::unix()).map(drop)
        };
        verifies().map_err(|error| {
            format!(
                "`ca` signs nothing that is valid under its certificate ({error}): expected an \
                 authority made for the sandbox `{sandbox}` that has not run out"
            )
        })?;
        Ok(ca)
    }

    /// What to serve TLS with for `host`, a canonical name.
    ///
    /// # Errors
    /// When it cannot be signed for.
    pub fn leaf(&self, host: &str, limit: usize) -> Result<Arc<ServerConfig>, rustls::Error> {
        let now = clock::now();
        // Nothing is left half-done under this lock, so its poison says nothing.
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((until, config)) = leaves.get(host)
            && now < *until
        {
            return Ok(Arc::clone(config));
        }
        if leaves.len() >= limit {
            let oldest = leaves.iter().min_by_key(|(_, (until, _))| *until);
            if let Some(name) = oldest.map(|(name, _)| name.clone()) {
                leaves.remove(&name);
            }
        }
        let config = Arc::new(self.config(host)?);
        leaves.insert(host.into(), (now + LEAF_SHOWN, Arc::clone(&config)));
        Ok(config)
    }

    fn config(&self, host: &str) -> Result<ServerConfig, rustls::Error> {
        let leaf = self.sign(host).map_err(|error| rustls::Error::General(error.to_string()))?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.leaf_key.serialize_der()));
        let chain = CertifiedKey::from_der(vec![leaf], key, &self.provider)?;
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(chain)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Nothing is resumed: a handshake costs less than what a session would have to keep.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    fn sign(&self, host: &str) -> Result<CertificateDer<'static>, rcgen::Error> {
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = around_now(LEAF);
        params.distinguished_name = DistinguishedName::new();
        // Never an address: a leaf is for a name that the allowlist has.
        params.subject_alt_names = vec![SanType::DnsName(host.try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(&self.leaf_key, &self.issuer)?.der().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider() -> Arc<CryptoProvider> {
        Arc::new(rustls::crypto::ring::default_provider())
    }

    #[test]
    fn leaves_are_kept_and_bounded() {
        let ca = Ca::load(&generate("dev").unwrap(), "dev", &provider()).unwrap();
        let first = ca.leaf("a.example.com", 2).unwrap();
        assert!(Arc::ptr_eq(&first, &ca.leaf("a.example.com", 2).unwrap()));
        for host in ["b.example.com", "c.example.com", "d.example.com"] {
            ca.leaf(host, 2).unwrap();
        }
        assert_eq!(ca.leaves.lock().unwrap().len(), 2);
    }

    #[test]
    fn what_an_extended_authority_signs_is_valid_under_the_old_certificate_too() {
        let old = generate("dev").unwrap();
        let new = extend(&old, "dev").unwrap();
        assert_ne!(old.certificate, new.certificate);
        assert_eq!(old.key, new.key);
        // Loading tries a leaf of this key under this certificate.
        for certificate in [old.certificate, new.certificate] {
            Ca::load(&CaPart { certificate, key: new.key.clone() }, "dev", &provider()).unwrap();
        }
    }

    #[test]
    fn an_authority_that_does_not_fit_is_refused() {
        let (one, other) = (generate("dev").unwrap(), generate("dev").unwrap());
        let mixed = CaPart { certificate: one.certificate.clone(), key: other.key.clone() };
        let error = Ca::load(&mixed, "dev", &provider()).unwrap_err();
        assert!(error.contains("signs nothing that is valid"), "{error}");
        assert!(Ca::load(&one, "another", &provider()).is_err());
        let no_key = CaPart { key: Secret::new("correct-horse".into()), ..one };
        let error = Ca::load(&no_key, "dev", &provider()).unwrap_err();
        assert!(error.contains("`ca.key`") && !error.contains("correct-horse"), "{error}");
    }
}
