//! Channels over TLS: the name that is verified is the service's.

use std::sync::Arc;

use rcgen::generate_simple_self_signed;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};
use tonic::Code;
use tower_roster::{client::GrpcEndpoints, discover::MakeEndpoint};

use crate::{
    greeter::greeter_client::GreeterClient,
    outcomes::ask,
    server::{Server, Wire},
};

/// A server whose certificate names `service`, and the configuration of its clients.
async fn server(service: &str) -> (Server, GrpcEndpoints) {
    let made = generate_simple_self_signed([service.to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let wire = Wire::Tls(TlsAcceptor::from(Arc::new(config)));
    let server = Server::on("127.0.0.1:0".parse().unwrap(), wire).await;
    (server, GrpcEndpoints::new().tls(Arc::new(client)))
}

#[tokio::test]
async fn the_server_is_verified_as_the_service() {
    let (greeter, mut endpoints) = server("greeter").await;
    let client = endpoints.make_endpoint(&greeter.instance()).unwrap();
    GreeterClient::new(client)
        .greet(ask("you", 0))
        .await
        .unwrap();
    assert_eq!(greeter.last("te").0, "https://greeter");

    let (other, mut endpoints) = server("another").await;
    let client = endpoints.make_endpoint(&other.instance()).unwrap();
    let status = GreeterClient::new(client)
        .greet(ask("you", 0))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(other.calls(), 0);
}
