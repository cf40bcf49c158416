//! The settings of a TLS client.

use std::{fs, path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

use super::TlsFiles;
use crate::error::ConfigError;

/// Reads the files. `part` is the part of the crate that errors name, and `http2` tells whether the
/// connection may be of HTTP/2.
pub(in crate::registry) fn client_config(
    part: &str,
    tls: &TlsFiles,
    http2: bool,
) -> Result<Arc<ClientConfig>, ConfigError> {
    let invalid = |name: &str, why: String| ConfigError::new(format!("{part}.{name}"), why);
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid("tls", error.to_string()))?;
    let builder = if tls.unverified {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        builder.with_root_certificates(roots(tls).map_err(|(name, why)| invalid(name, why))?)
    };
    let mut config = match (&tls.cert, &tls.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let certs = certificates(cert).map_err(|why| invalid("client_cert", why))?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| invalid("client_key", format!("cannot use {key:?}: {error}")))?;
            builder
                .with_client_auth_cert(certs, key)
                .map_err(|error| invalid("client_cert", format!("does not fit its key: {error}")))?
        }
        (Some(_), None) => {
            let why = "a certificate needs its key".to_owned();
            return Err(invalid("client_key", why));
        }
        (None, Some(_)) => {
            let why = "a key needs its certificate".to_owned();
            return Err(invalid("client_cert", why));
        }
    };
    if http2 {
        config.alpn_protocols.push(b"h2".to_vec());
    }
    config.alpn_protocols.push(b"http/1.1".to_vec());
    Ok(Arc::new(config))
}

/// Returns the authorities to trust, or the setting that cannot be used, and why.
fn roots(tls: &TlsFiles) -> Result<RootCertStore, (&'static str, String)> {
    let mut roots = RootCertStore::empty();
    let mut add = |name: &'static str, path: &Path| {
        let certs = certificates(path).map_err(|why| (name, why))?;
        certs.into_iter().try_for_each(|cert| {
            let added = roots.add(cert);
            added.map_err(|error| (name, format!("unusable authority: {error}")))
        })
    };
    if let Some(path) = &tls.ca_file {
        add("ca_file", path)?;
    } else if let Some(directory) = &tls.ca_path {
        let unreadable =
            |error: std::io::Error| ("ca_path", format!("cannot read {directory:?}: {error}"));
        for entry in fs::read_dir(directory).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.is_file() {
                add("ca_path", &path)?;
            }
        }
    } else {
        let found = rustls_native_certs::load_native_certs();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            let why = "the system has no certificate authorities, and no file is named";
            return Err(("ca_file", why.to_owned()));
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unusable = |why: String| format!("cannot use {path:?}: {why}");
    let certs = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable(error.to_string()))?;
    if certs.is_empty() {
        return Err(unusable("it holds no certificate".to_owned()));
    }
    Ok(certs)
}

/// Accepts every certificate, for `CONSUL_HTTP_SSL_VERIFY=false`.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
