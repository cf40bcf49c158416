//! Endpoints over TLS: the name that is verified is the service's, not the instance's.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use rcgen::generate_simple_self_signed;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};
use tower::Service;
use tower_roster::{
    client::{HttpClient, HttpEndpoints},
    discover::MakeEndpoint,
};

use crate::{
    http::text,
    scripted::at,
    server::{Server, Wire},
};

/// A server for `user-service` that speaks one of `alpn`, and the configuration of its clients.
async fn server(alpn: &[&[u8]]) -> (Server, ClientConfig) {
    let (config, client) = configs(alpn);
    let wire = Wire::Tls(TlsAcceptor::from(Arc::new(config)));
    let server = Server::on("127.0.0.1:0".parse().unwrap(), wire).await;
    (server, client)
}

/// The configurations of a server for `user-service` and of its clients.
fn configs(alpn: &[&[u8]]) -> (ServerConfig, ClientConfig) {
    let made = generate_simple_self_signed(["user-service".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (config, client)
}

fn client(server: &Server, config: ClientConfig) -> HttpClient<Empty<Bytes>> {
    let mut endpoints = HttpEndpoints::new().tls(Arc::new(config));
    endpoints.make_endpoint(&at("a", server.addr)).unwrap()
}

#[tokio::test]
async fn the_server_is_verified_as_the_service_of_the_uri() {
    let (server, config) = server(&[]).await;
    let mut client = client(&server, config);
    let expected = format!("HTTP/1.1 user-service {}", server.addr);
    assert_eq!(text(&mut client, "https://user-service/").await, expected);
    // The configuration decides, not the scheme.
    assert_eq!(text(&mut client, "http://user-service/").await, expected);
    assert_eq!(server.opened(), 1, "both go over one connection");

    let other = Request::get("https://other-service/")
        .body(Empty::new())
        .unwrap();
    let error = client.call(other).await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    assert!(
        format!("{error:?}").contains("NotValidForName"),
        "{error:?}"
    );
}

#[cfg(feature = "http2")]
#[tokio::test]
async fn the_protocol_that_the_server_chooses_is_spoken() {
    for (alpn, spoken) in [(&b"h2"[..], "HTTP/2.0"), (b"http/1.1", "HTTP/1.1")] {
        let (server, mut config) = server(&[alpn]).await;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let answer = text(&mut client(&server, config), "https://user-service/").await;
        assert_eq!(answer, format!("{spoken} user-service {}", server.addr));
    }
}

#[cfg(not(feature = "http2"))]
#[tokio::test]
async fn http2_is_not_offered_when_it_cannot_be_spoken() {
    let (server, mut config) = server(&[b"h2", b"http/1.1"]).await;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let answer = text(&mut client(&server, config), "https://user-service/").await;
    assert_eq!(answer, format!("HTTP/1.1 user-service {}", server.addr));
}

#[cfg(feature = "http2")]
#[tokio::test]
async fn a_server_that_comes_to_choose_the_other_version_is_followed_at_the_greatest_age() {
    use std::{convert::Infallible, time::Duration};

    use http::Response;
    use http_body_util::Full;
    use hyper::{body::Incoming, service::service_fn};
    use hyper_util::{
        rt::{TokioExecutor, TokioIo},
        server::conn::auto,
    };

    let (h2, h1) = ((&b"h2"[..], "HTTP/2.0"), (&b"http/1.1"[..], "HTTP/1.1"));
    for (first, later) in [(h2, h1), (h1, h2)] {
        let (config, mut client) = configs(&[first.0]);
        let mut other = config.clone();
        other.alpn_protocols = vec![later.0.to_vec()];
        let mut configs = std::iter::once(config).chain(std::iter::repeat(other));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = TlsAcceptor::from(Arc::new(configs.next().unwrap()));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let version = service_fn(async |request: Request<Incoming>| {
                        let version = format!("{:?}", request.version());
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(version))))
                    });
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), version).await;
                });
            }
        });
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let endpoints = HttpEndpoints::new()
            .tls(Arc::new(client))
            .idle_timeout(None);
        let mut endpoints = endpoints.max_age(Duration::from_secs(1));
        let mut client = endpoints.make_endpoint(&at("a", addr)).unwrap();
        assert_eq!(text(&mut client, "https://user-service/").await, first.1);
        let mut answer = String::new();
        for _ in 0..50 {
            answer = text(&mut client, "https://user-service/").await;
            if answer == later.1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(answer, later.1);
    }
}

/// Without it, a server cannot tell the end of a connection from a cut, and logs an error.
#[tokio::test]
async fn an_idle_connection_ends_with_a_close_notify() {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let idle = Duration::from_millis(200);
    for (idle, is_removed) in [(Some(idle), false), (None, true)] {
        let (config, client) = configs(&[]);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let ended = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = TlsAcceptor::from(Arc::new(config));
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut request = [0; 4_096];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            // An error, if TCP ends before TLS.
            stream.read(&mut request).await
        });
        let endpoints = HttpEndpoints::new()
            .tls(Arc::new(client))
            .idle_timeout(idle);
        let mut endpoints: HttpEndpoints<Empty<Bytes>> = endpoints;
        let mut client = endpoints.make_endpoint(&at("a", addr)).unwrap();
        assert_eq!(text(&mut client, "https://user-service/").await, "");
        let client = Some(client).filter(|_| !is_removed);
        assert_eq!(ended.await.unwrap().unwrap(), 0, "removed: {is_removed}");
        drop(client);
    }
}
