//! The SDK client: one TLS stack (rustls, aws-lc), no plaintext but to this machine, no retries of its own.

use std::path::Path;

use aws_config::default_provider::region::DefaultRegionChain;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, IdentityCache, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::{Client, Config};
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use url::{Host, Url};

use crate::storage::s3::credentials::Renewable;
use crate::storage::s3::settings::S3Settings;
use crate::storage::{StorageError, StorageErrorKind};

/// A client for `settings`, and its credentials. Asks nobody but the chain, for the region.
pub(super) async fn connect(
    settings: &S3Settings,
    given: Option<SharedCredentialsProvider>,
) -> Result<(Client, Renewable), StorageError> {
    let region = region(settings).await?;
    let credentials = Renewable::new(region.clone(), given);
    let timeouts = TimeoutConfig::builder().connect_timeout(settings.connect_timeout).build();
    let mut config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(region)
        .credentials_provider(SharedCredentialsProvider::new(credentials.clone()))
        .identity_cache(IdentityCache::no_cache())
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        // Stalls are judged by storage::retry (reading) and by S3Settings::patience (sending).
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        // The default trailing checksums break most stores but AWS; we send SHA-256 of our own.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .force_path_style(settings.path_style);
    if let Some(endpoint) = &settings.endpoint {
        check_endpoint(endpoint)?;
        config = config.endpoint_url(endpoint);
    }
    if let Some(bundle) = &settings.ca_bundle {
        config = config.http_client(http_client(bundle)?);
    }
    Ok((Client::from_conf(config.build()), credentials))
}

async fn region(settings: &S3Settings) -> Result<Region, StorageError> {
    let found = match &settings.region {
        Some(region) => Some(Region::new(region.clone())),
        None => DefaultRegionChain::builder().build().region().await,
    };
    found.ok_or_else(|| other(format!("find the region of the bucket {}: none is configured", settings.bucket)))
}

fn check_endpoint(endpoint: &str) -> Result<(), StorageError> {
    let url = Url::parse(endpoint).map_err(|error| other(format!("use the endpoint {endpoint:?}")).because(error))?;
    let is_local = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_local => Ok(()),
        _ => Err(other(format!("use the endpoint {endpoint:?}: only https leaves this machine"))),
    }
}

/// A client that trusts the certificates of `bundle` and no others.
fn http_client(bundle: &Path) -> Result<SharedHttpClient, StorageError> {
    let fault = |why: String| other(format!("use the CA bundle {}: {why}", bundle.display()));
    let pem = read(bundle).map_err(|error| fault(error.to_string()))?;
    check_bundle(&pem).map_err(fault)?;
    let store = TrustStore::empty().with_pem_certificate(pem);
    let context = TlsContext::builder().with_trust_store(store).build().map_err(|error| fault(error.to_string()))?;
    let provider = Provider::Rustls(CryptoMode::AwsLc);
    Ok(aws_smithy_http_client::Builder::new().tls_provider(provider).tls_context(context).build_https())
}

/// Everything that the SDK would panic on.
fn check_bundle(pem: &[u8]) -> Result<(), String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() { Err("it has no certificate".to_owned()) } else { Ok(()) }
}

#[expect(clippy::disallowed_methods, reason = "storage opens the files that its settings name")]
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    std::fs::read(path)
}

fn other(message: String) -> StorageError {
    StorageError::new(StorageErrorKind::Other, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f39_plaintext_never_leaves_this_machine() {
        for endpoint in ["http://s3.example.com", "http://10.0.0.1:9000", "ftp://localhost", "s3.example.com"] {
            assert!(check_endpoint(endpoint).is_err(), "{endpoint} was taken");
        }
        for endpoint in ["https://s3.example.com", "http://127.0.0.1:9000", "http://[::1]:9000", "http://localhost:1"] {
            check_endpoint(endpoint).unwrap();
        }
    }

    #[test]
    fn a_bundle_without_a_good_certificate_is_refused() {
        assert!(check_bundle(b"").is_err());
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(check_bundle(broken).is_err());
    }
}
