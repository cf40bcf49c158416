//! TLS settings for HTTPS agents, from the files that the `consul` command reads.

use std::{fs, path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

use super::config::TlsFiles;
use crate::error::ConfigError;

pub(super) fn client_config(tls: &TlsFiles) -> Result<Arc<ClientConfig>, ConfigError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| ConfigError::new("consul.tls", error.to_string()))?;
    let builder = if tls.unverified {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        builder.with_root_certificates(roots(tls)?)
    };
    let mut config = match (&tls.cert, &tls.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let certs = certificates("consul.client_cert", cert)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| {
                ConfigError::new("consul.client_key", format!("cannot use {key:?}: {error}"))
            })?;
            builder.with_client_auth_cert(certs, key).map_err(|error| {
                ConfigError::new(
                    "consul.client_cert",
                    format!("does not fit its key: {error}"),
                )
            })?
        }
        (Some(_), None) => {
            return Err(ConfigError::new(
                "consul.client_key",
                "a certificate needs its key",
            ));
        }
        (None, Some(_)) => {
            return Err(ConfigError::new(
                "consul.client_cert",
                "a key needs its certificate",
            ));
        }
    };
    config.alpn_protocols = vec![
        #[cfg(feature = "http2")]
        b"h2".to_vec(),
        b"http/1.1".to_vec(),
    ];
    Ok(Arc::new(config))
}

fn roots(tls: &TlsFiles) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    let mut add = |field: &str, certs: Vec<CertificateDer<'static>>| {
        certs.into_iter().try_for_each(|cert| {
            let added = roots.add(cert);
            added.map_err(|error| ConfigError::new(field, format!("unusable authority: {error}")))
        })
    };
    if let Some(path) = &tls.ca_file {
        add("consul.ca_file", certificates("consul.ca_file", path)?)?;
    } else if let Some(directory) = &tls.ca_path {
        let unreadable = |error: std::io::Error| {
            ConfigError::new(
                "consul.ca_path",
                format!("cannot read {directory:?}: {error}"),
            )
        };
        for entry in fs::read_dir(directory).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.is_file() {
                add("consul.ca_path", certificates("consul.ca_path", &path)?)?;
            }
        }
    } else {
        let found = rustls_native_certs::load_native_certs();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            return Err(ConfigError::new(
                "consul.ca_file",
                "the system has no certificate authorities, and no file is named",
            ));
        }
    }
    Ok(roots)
}

fn certificates(field: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let unusable = |why: String| ConfigError::new(field, format!("cannot use {path:?}: {why}"));
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
