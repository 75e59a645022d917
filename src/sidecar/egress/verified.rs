//! Who an upstream is, and in which way it failed to show that.
//!
//! What is verified, and how, is rustls' own; here is only looked at what it refused, so that the page
//! and the log can say which of its owner's mistakes it is.

use std::io;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};

use super::trouble::Trouble;
use crate::sidecar::Code;

/// rustls' verifier, which takes a second look at a chain that leads nowhere.
#[derive(Debug)]
pub(super) struct Verifier(pub(super) Arc<WebPkiServerVerifier>);

/// A chain that leads to no authority that is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unrooted {
    /// The certificate vouches for itself.
    #[error("it is self-signed")]
    SelfSigned,
    /// It came without the one that it is signed by.
    #[error("the certificate of its issuer was not sent")]
    Incomplete,
    /// The chain ends at an authority that is not known.
    #[error("its authority is not trusted")]
    Unknown,
}

impl Unrooted {
    fn of(leaf: &CertificateDer<'_>, sent: &[CertificateDer<'_>]) -> Self {
        let names = |der: &CertificateDer<'_>| {
            let certificate = webpki::EndEntityCert::try_from(der).ok()?;
            Some((certificate.subject().to_vec(), certificate.issuer().to_vec()))
        };
        let Some((subject, issuer)) = names(leaf) else { return Self::Unknown };
        if subject == issuer {
            return Self::SelfSigned;
        }
        let of_issuer =
            |der: &CertificateDer<'_>| names(der).is_some_and(|(name, _)| name == issuer);
        if sent.iter().any(of_issuer) { Self::Unknown } else { Self::Incomplete }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0.verify_server_cert(leaf, sent, name, ocsp, now).map_err(|error| match error {
            Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                let why = OtherError(Arc::new(Unrooted::of(leaf, sent)));
                Error::InvalidCertificate(CertificateError::Other(why))
            }
            other => other,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// A handshake that failed: by what the upstream showed, or because it went away.
pub(super) fn failed(error: &io::Error) -> Trouble {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return Code::UpstreamUnreachable.into();
    };
    let next = match tls {
        Error::InvalidCertificate(why) => certificate(why),
        _ => "the upstream and the sidecar agree on no TLS: do not retry",
    };
    let detail = match tls {
        Error::InvalidCertificate(CertificateError::Other(OtherError(why))) => why.to_string(),
        _ => tls.to_string(),
    };
    // The error has names of the upstream's making in it.
    let detail = detail.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(300).collect();
    Trouble { code: Code::UpstreamTls, next: Some(next), detail: Some(detail) }
}

fn certificate(why: &CertificateError) -> &'static str {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the upstream's certificate has expired: its owner renews it; do not retry"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the upstream's certificate is not valid yet: is the clock right?"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the upstream's certificate is for another name: ask for the host by the name that it has a certificate for"
        }
        CertificateError::Other(OtherError(why)) => match why.downcast_ref() {
            Some(Unrooted::SelfSigned) => {
                "the upstream's certificate is self-signed, which nobody vouches for: do not retry"
            }
            Some(Unrooted::Incomplete) => {
                "the upstream's certificate came without that of its issuer: its owner serves the whole chain, intermediate certificates too; or the issuer is an authority that is not trusted here"
            }
            Some(Unrooted::Unknown) => {
                "the upstream's certificate is of an authority that is not trusted here: do not retry"
            }
            None => Code::UpstreamTls.next(),
        },
        // The second: of one that has the name of an authority, and not its key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the upstream's certificate is of an authority that is not trusted here: do not retry"
        }
        _ => "the upstream's certificate is not valid for a server: do not retry",
    }
}
