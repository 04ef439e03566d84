//! TLS to the server: which certificates are trusted and what of them is checked, per `sslmode`.
//!
//! rustls with aws-lc-rs, TLS 1.2 and later. `verify-full` is webpki's own verification; `verify-ca` is the same less
//! the name; below that only the handshake's signature counts, as in libpq. Nothing here falls back to plain text.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::connection::{RootCertificates, SslMode};
use super::error::{PostgresError, PostgresErrorKind};
use crate::host::durable::read_bounded;

const LARGEST_ROOT_FILE: u64 = 16 << 20;

/// How the server's certificate is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checks {
    /// Not at all.
    Nothing,
    /// It comes from an authority we trust.
    Authority,
    /// And it is for the host's name.
    AuthorityAndName,
}

/// What `mode` checks; naming certificates makes `require` check them, as in libpq.
pub(super) fn checks(mode: SslMode, roots: &RootCertificates) -> Checks {
    match (mode, roots) {
        (SslMode::VerifyFull, _) => Checks::AuthorityAndName,
        (SslMode::VerifyCa, _) => Checks::Authority,
        (SslMode::Require, RootCertificates::System | RootCertificates::File(_)) => Checks::Authority,
        _ => Checks::Nothing,
    }
}

/// The driver's TLS settings for `mode`.
pub(super) fn client_config(mode: SslMode, roots: &RootCertificates) -> Result<ClientConfig, PostgresError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let checks = checks(mode, roots);
    let verifier = Verifier {
        authority: match checks {
            Checks::Nothing => None,
            _ => Some(authority(&certificates(roots)?, &provider)?),
        },
        name: checks == Checks::AuthorityAndName,
        provider: Arc::clone(&provider),
    };
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| tls_error("set up TLS").because(error))?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}

/// The certificates of the authorities we trust.
pub(super) fn certificates(roots: &RootCertificates) -> Result<Vec<CertificateDer<'static>>, PostgresError> {
    let RootCertificates::File(path) = roots else {
        return Ok(rustls_native_certs::load_native_certs().certs);
    };
    let failed = |fault: String| tls_error(format!("read the trusted certificates {}: {fault}", path.display()));
    let bytes = read_bounded(path, LARGEST_ROOT_FILE).map_err(|error| tls_error(error.to_string()).because(error))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| failed(error.to_string()))?;
    if found.is_empty() { Err(failed("there is no certificate in it".to_owned())) } else { Ok(found) }
}

fn authority(
    certificates: &[CertificateDer<'static>],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, PostgresError> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(certificates.iter().cloned());
    if store.is_empty() {
        return Err(tls_error("find certificates to trust").hint("set sslrootcert, or install ca-certificates"));
    }
    let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider));
    builder.build().map_err(|error| tls_error("set up TLS").because(error))
}

fn tls_error(message: impl Into<String>) -> PostgresError {
    PostgresError::new(PostgresErrorKind::Tls, message)
}

#[derive(Debug)]
struct Verifier {
    authority: Option<Arc<WebPkiServerVerifier>>,
    name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(authority) = &self.authority else { return Ok(ServerCertVerified::assertion()) };
        match authority.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // webpki looks at the name last: by then the chain is proved.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.name => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
