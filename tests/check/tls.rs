//! Checks over TLS: the name that is verified is the host that the check names.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rcgen::generate_simple_self_signed;
use tokio::net::TcpListener;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};
use tower_roster::endpoint::check::{CheckError, HealthCheck};

use super::{INTERVAL, next, prober};

/// A server for `web` that offers both protocols, and the configuration of its clients.
async fn server() -> (SocketAddr, ClientConfig) {
    let made = generate_simple_self_signed(["web".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                // In gRPC: SERVING, but without the trailers.
                let answer = service_fn(|_| async {
                    let body = Full::new(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]));
                    let response = Response::builder().header("grpc-status", "0").body(body);
                    Ok::<_, http::Error>(response.unwrap())
                });
                let serving = auto::Builder::new(TokioExecutor::new());
                let _ = serving.serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
    (address, client)
}

#[tokio::test]
async fn the_server_is_verified_as_the_host_of_the_check() {
    let (address, mut config) = server().await;
    // What else it offers is the requests' affair.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let config = Arc::new(config);
    let mut checks = vec![HealthCheck::http("/health")];
    if cfg!(feature = "http2") {
        checks.push(HealthCheck::grpc(""));
    }
    for check in checks {
        let check = check.timeout(INTERVAL * 50).tls(Arc::clone(&config));
        let mut right = prober(check.clone().host("web"), &[("a", address.port())]);
        let report = next(&mut right).await;
        assert!(report.result.is_ok(), "{report:?}");
        let mut wrong = prober(check.host("other"), &[("a", address.port())]);
        let error = next(&mut wrong).await.result.unwrap_err();
        assert!(matches!(error, CheckError::Connect(_)), "{error:?}");
        let plain = HealthCheck::http("/health").timeout(INTERVAL * 50);
        let mut plain = prober(plain, &[("a", address.port())]);
        assert!(next(&mut plain).await.result.is_err(), "it speaks TLS only");
    }
}
