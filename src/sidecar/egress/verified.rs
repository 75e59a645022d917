//! Who an upstream is, and in which way it failed to show that.
//!
//! What is verified, and how, is rustls' own; here is only looked at what it refused, so that the page
//! and the log can say which of its owner's mistakes it is.

use std::io;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};

use super::certificate::{Names, names};
use super::trouble::{Trouble, plain};
use crate::sidecar::Code;

/// rustls' verifier, which takes a second look at what it refused.
#[derive(Debug)]
pub(super) struct Verifier {
    verifier: Arc<WebPkiServerVerifier>,
    /// The names of the authorities that are trusted.
    trusted: Vec<DistinguishedName>,
}

/// Why a chain leads to no authority that is trusted; and what else is wrong, where that was seen first.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum Unrooted {
    /// The certificate vouches for itself.
    #[error("it is self-signed")]
    SelfSigned,
    /// The same, and no authority could make it right as it is.
    #[error("it is self-signed; besides: {0}")]
    SelfSignedAnd(CertificateError),
    /// It came without the one that it is signed by.
    #[error("the certificate of its issuer was not sent")]
    Incomplete,
    /// The chain ends at an authority that is not known.
    #[error("its authority is not trusted")]
    Unknown,
}

impl Unrooted {
    fn of(leaf: &CertificateDer<'_>, sent: &[CertificateDer<'_>]) -> Self {
        let Some(Names { issuer, .. }) = names(leaf) else { return Self::Unknown };
        let of_issuer =
            |der: &CertificateDer<'_>| names(der).is_some_and(|names| names.subject == issuer);
        if sent.iter().any(of_issuer) { Self::Unknown } else { Self::Incomplete }
    }
}

impl Verifier {
    pub(super) fn new(
        verifier: Arc<WebPkiServerVerifier>,
        trusted: Vec<DistinguishedName>,
    ) -> Self {
        Self { verifier, trusted }
    }

    /// What is looked at first may be the least of what is wrong: a certificate that vouches for itself has
    /// often expired besides, or is one of an authority, as `openssl req -x509` makes them.
    fn second_look(
        &self,
        why: CertificateError,
        leaf: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
    ) -> CertificateError {
        let trusted = |name: &[u8]| self.trusted.iter().any(|known| known.as_ref() == name);
        let by_itself = names(leaf)
            .is_some_and(|names| names.subject == names.issuer && !trusted(names.issuer));
        let unrooted = match why {
            CertificateError::UnknownIssuer if by_itself => Unrooted::SelfSigned,
            CertificateError::UnknownIssuer => Unrooted::of(leaf, sent),
            why if by_itself => Unrooted::SelfSignedAnd(why),
            why => return why,
        };
        CertificateError::Other(OtherError(Arc::new(unrooted)))
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
        self.verifier.verify_server_cert(leaf, sent, name, ocsp, now).map_err(|error| match error {
            Error::InvalidCertificate(why) => {
                Error::InvalidCertificate(self.second_look(why, leaf, sent))
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
        self.verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// A handshake that failed: by what the upstream showed, or because it went away. `by_proxy`: the network's
/// proxy is on the way, and may look into TLS.
pub(super) fn failed(error: &io::Error, by_proxy: bool) -> Trouble {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        let mut trouble = Trouble::from(Code::UpstreamUnreachable);
        if by_proxy {
            trouble.next = Some(
                "the connection ended in the TLS handshake, behind the proxy of this network: it may not let this host pass, or the upstream speaks no TLS there",
            );
            trouble.detail = Some("closed in the TLS handshake, behind the proxy".to_owned());
        }
        return trouble;
    };
    let next = match tls {
        Error::InvalidCertificate(why) if by_proxy && is_unrooted(why) => {
            "the certificate is of an authority that is not trusted here: where the proxy of this network looks into TLS, the operator names its authority in `ca` of `proxy` in bottle.yaml"
        }
        Error::InvalidCertificate(why) => certificate(why),
        _ => "the upstream and the sidecar agree on no TLS: do not retry",
    };
    let detail = match tls {
        Error::InvalidCertificate(CertificateError::Other(OtherError(why))) => why.to_string(),
        _ => tls.to_string(),
    };
    // The error has names of the upstream's making in it.
    Trouble { code: Code::UpstreamTls, next: Some(next), detail: Some(plain(&detail)) }
}

/// Whether whoever signed it is not trusted.
fn is_unrooted(why: &CertificateError) -> bool {
    match why {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => true,
        CertificateError::Other(OtherError(why)) => why.downcast_ref::<Unrooted>().is_some(),
        _ => false,
    }
}

fn certificate(why: &CertificateError) -> &'static str {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the upstream's certificate has expired: its owner renews it; do not retry"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the upstream's certificate is not valid yet: is the clock right?"
        }
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            "the upstream's certificate names no host (`subjectAltName`), which is what counts: its owner makes a new one; do not retry"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the upstream's certificate is for another name: ask for the host by the name that it has a certificate for"
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "the upstream's certificate is signed in a way that is not accepted, such as SHA-1: its owner has it signed anew; do not retry"
        }
        CertificateError::Other(OtherError(why)) => other(&**why),
        // The second: of one that has the name of an authority, and not its key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the upstream's certificate is of an authority that is not trusted here: do not retry"
        }
        _ => "the upstream's certificate is not valid for a server: do not retry",
    }
}

/// What is no error of rustls' own.
fn other(why: &(dyn std::error::Error + Send + Sync + 'static)) -> &'static str {
    match why.downcast_ref() {
        Some(Unrooted::SelfSigned | Unrooted::SelfSignedAnd(_)) => {
            return "the upstream's certificate is self-signed, which nobody vouches for: do not retry";
        }
        Some(Unrooted::Incomplete) => {
            return "the upstream's certificate came without that of its issuer: its owner serves the whole chain, intermediate certificates too; or the issuer is an authority that is not trusted here";
        }
        Some(Unrooted::Unknown) => {
            return "the upstream's certificate is of an authority that is not trusted here: do not retry";
        }
        None => {}
    }
    match why.downcast_ref() {
        Some(webpki::Error::CaUsedAsEndEntity) => {
            "the upstream shows the certificate of an authority (`CA:TRUE`), which is none for a server: its owner has another made; do not retry"
        }
        Some(webpki::Error::UnsupportedCertVersion) => {
            "the upstream's certificate is of an old version: its owner makes one of version 3; do not retry"
        }
        _ => Code::UpstreamTls.next(),
    }
}

#[cfg(test)]
mod tests;
