//! Endpoints over TLS: the name that is verified is the service's, not the instance's.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
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
    let made = generate_simple_self_signed(["user-service".to_owned()]).unwrap();
    with_certificate(&made, alpn).await
}

async fn with_certificate(made: &CertifiedKey<KeyPair>, alpn: &[&[u8]]) -> (Server, ClientConfig) {
    let (config, client) = configs_with(made, alpn);
    let wire = Wire::Tls(TlsAcceptor::from(Arc::new(config)));
    let server = Server::on("127.0.0.1:0".parse().unwrap(), wire).await;
    (server, client)
}

/// The configurations of a server for `user-service` and of its clients.
fn configs(alpn: &[&[u8]]) -> (ServerConfig, ClientConfig) {
    let made = generate_simple_self_signed(["user-service".to_owned()]).unwrap();
    configs_with(&made, alpn)
}

fn configs_with(made: &CertifiedKey<KeyPair>, alpn: &[&[u8]]) -> (ServerConfig, ClientConfig) {
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

/// Such a name cannot stand in a certificate. The address of the instance can, but it is what the registry
/// says.
#[tokio::test]
async fn a_service_whose_name_no_server_can_have_needs_a_server_name() {
    let made =
        generate_simple_self_signed(["127.0.0.1".to_owned(), "db.internal".to_owned()]).unwrap();
    let (server, config) = with_certificate(&made, &[]).await;
    for service in ["user service", "用户", "user:secret@web"] {
        let instance = tower_roster::Instance::new(service, "a", server.addr.try_into().unwrap());
        let endpoints = || HttpEndpoints::<Empty<Bytes>>::new().tls(Arc::new(config.clone()));
        let mut client = endpoints().make_endpoint(&instance).unwrap();
        let get = || Request::get("/").body(Empty::new()).unwrap();
        let error = client.call(get()).await.unwrap_err();
        assert!(error.is_invalid(), "{error:?}");
        assert!(error.to_string().contains("server name"), "{error}");
        let expected = format!("HTTP/1.1 db.internal {}", server.addr);
        assert_eq!(text(&mut client, "https://db.internal/").await, expected);

        let named = endpoints().server_name("db.internal".try_into().unwrap());
        let mut client = named.clone().make_endpoint(&instance).unwrap();
        assert!(client.call(get()).await.is_ok(), "{service}");
        let other = named.server_name("other.internal".try_into().unwrap());
        let mut client = other.clone().make_endpoint(&instance).unwrap();
        let error = client.call(get()).await.unwrap_err();
        assert!(
            format!("{error:?}").contains("NotValidForName"),
            "{error:?}"
        );
    }
    assert!(server.opened() > 0);
}

/// The server name holds for all requests, so they share connections.
#[tokio::test]
async fn a_server_name_that_is_set_is_verified_whatever_the_uri_names() {
    let (server, config) = server(&[]).await;
    let endpoints = HttpEndpoints::<Empty<Bytes>>::new().tls(Arc::new(config));
    let mut endpoints = endpoints.server_name("user-service".try_into().unwrap());
    let mut client = endpoints.make_endpoint(&at("a", server.addr)).unwrap();
    for host in ["user-service", "other-service"] {
        let answer = text(&mut client, &format!("https://{host}/")).await;
        assert_eq!(answer, format!("HTTP/1.1 {host} {}", server.addr));
    }
    assert_eq!(server.opened(), 1);
}

/// It may not understand HTTP/2, so nothing is sent to it.
#[cfg(feature = "http2")]
#[tokio::test]
async fn a_server_that_does_not_choose_http2_gets_no_request_over_it() {
    let (h1, none): (&[&[u8]], &[&[u8]]) = (&[b"http/1.1"], &[]);
    for alpn in [h1, none] {
        let (server, config) = server(alpn).await;
        let mut endpoints = HttpEndpoints::<Empty<Bytes>>::new()
            .http2()
            .tls(Arc::new(config));
        let mut client = endpoints.make_endpoint(&at("a", server.addr)).unwrap();
        let request = Request::get("https://user-service/")
            .body(Empty::new())
            .unwrap();
        let mut error = client.call(request).await.unwrap_err();
        assert!(error.is_connect(), "{alpn:?}: {error:?}");
        assert!(
            error.take_request::<Empty<Bytes>>().is_some(),
            "it was not sent"
        );
        assert_eq!(server.requests(), 0);
    }
}

#[cfg(feature = "tonic")]
#[tokio::test]
async fn nor_does_it_get_a_call() {
    use tower_roster::client::GrpcEndpoints;

    let (server, config) = server(&[]).await;
    let mut endpoints = GrpcEndpoints::new()
        .tls(Arc::new(config.clone()))
        .authority("user-service".parse().unwrap());
    let mut client = endpoints.make_endpoint(&at("a", server.addr)).unwrap();
    let call = Request::post("/a.B/C")
        .body(tonic::body::Body::empty())
        .unwrap();
    let error = client.call(call).await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    assert_eq!(server.requests(), 0);

    // And an address never stands for the name of a service.
    let instance =
        tower_roster::Instance::new("user service", "a", server.addr.try_into().unwrap());
    let mut unnamed = GrpcEndpoints::new().tls(Arc::new(config));
    let error = unnamed.make_endpoint(&instance).unwrap_err();
    assert!(error.to_string().contains("server name"), "{error}");
    assert!(endpoints.make_endpoint(&instance).is_ok());
}
