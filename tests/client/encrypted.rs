//! A client over TLS, with an own authority and a certificate of the client.

use std::sync::Arc;

use http::Request;
use http_body_util::Full;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio::net::TcpListener;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
        server::WebPkiClientVerifier,
    },
};
use tower_roster::{
    Instance,
    client::{HttpEndpoints, HttpService, ResponseExt, Stack},
};

use crate::kit::{registry, serve};

/// An authority that signs certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

type Certified = (CertificateDer<'static>, PrivateKeyDer<'static>);

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    fn sign(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> Certified {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        (certificate.der().clone(), key)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        roots
    }

    /// A server with a certificate for `name`, which asks clients for one of this authority.
    async fn server(&self, name: &str, alpn: &[u8]) -> Instance {
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::new(self.roots()),
            Arc::clone(&provider),
        );
        let (certificate, key) = self.sign(name, ExtendedKeyUsagePurpose::ServerAuth);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.alpn_protocols = vec![alpn.to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, "tls", Arc::default()).await;
                    }
                });
            }
        });
        Instance::new(
            "user-service",
            format!("at-{}", addr.port()),
            addr.try_into().unwrap(),
        )
    }

    fn client(&self, certified: Option<Certified>) -> Arc<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots());
        let mut config = match certified {
            Some((certificate, key)) => config
                .with_client_auth_cert(vec![certificate], key)
                .unwrap(),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    fn with_certificate(&self) -> Arc<ClientConfig> {
        self.client(Some(self.sign("me", ExtendedKeyUsagePurpose::ClientAuth)))
    }
}

#[cfg(feature = "http2")]
#[tokio::test]
async fn the_server_chooses_the_version_and_is_verified_as_the_service() {
    let authority = Authority::new();
    for (alpn, version) in [(&b"h2"[..], "HTTP/2.0"), (b"http/1.1", "HTTP/1.1")] {
        let instance = authority.server("user-service", alpn).await;
        let (registry, _memory) = registry([instance]);
        let client: HttpService = Stack::http()
            .over(HttpEndpoints::new().tls(authority.with_certificate()))
            .connect(&registry, "user-service")
            .unwrap();
        for uri in ["/version", "https://user-service/version"] {
            let response = client.get(uri).await.unwrap();
            assert_eq!(response.text(100).await.unwrap(), version, "{uri}");
        }
        let other = client.get("https://other-service/version").await;
        let error = format!("{:?}", other.unwrap_err());
        assert!(error.contains("NotValidForName"), "{error}");
    }
}

#[tokio::test]
async fn the_metadata_of_an_instance_may_hold_the_name_of_its_server() {
    let authority = Authority::new();
    let [one, two] = [
        authority.server("one.internal", b"http/1.1").await,
        authority.server("two.internal", b"http/1.1").await,
    ];
    let (registry, _memory) = registry([
        one.meta("tls-name", "one.internal"),
        two.meta("tls-name", "two.internal"),
    ]);
    let endpoints = HttpEndpoints::new().tls(authority.with_certificate());
    let client: HttpService = Stack::http()
        .over(endpoints.clone().server_name_from("tls-name"))
        .connect(&registry, "user-service")
        .unwrap();
    for _ in 0..10 {
        let response = client.get("/").await.unwrap();
        assert_eq!(response.text(100).await.unwrap(), "tls");
    }
    let shares = client.handle().endpoints().await.unwrap();
    assert!(
        shares
            .iter()
            .all(|one| one.requests > 0 && one.failures == 0)
    );

    let client: HttpService = Stack::http()
        .over(endpoints)
        .connect(&registry, "user-service")
        .unwrap();
    let error = format!("{:?}", client.get("/").await.unwrap_err());
    assert!(error.contains("NotValidForName"), "{error}");
}

#[tokio::test]
async fn a_name_that_no_server_can_have_makes_no_endpoint() {
    let authority = Authority::new();
    let instance = authority.server("user-service", b"http/1.1").await;
    let (registry, _memory) = registry([instance.meta("tls-name", "a b")]);
    let endpoints = HttpEndpoints::new().tls(authority.with_certificate());
    let client: HttpService = Stack::http()
        .balance(|balance| balance.wait(std::time::Duration::from_millis(50)))
        .over(endpoints.server_name_from("tls-name"))
        .connect(&registry, "user-service")
        .unwrap();
    assert!(client.get("/").await.is_err());
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let authority = Authority::new();
    let instance = authority.server("user-service", b"http/1.1").await;
    let (registry, _memory) = registry([instance]);
    let client: HttpService = Stack::http()
        .over(HttpEndpoints::new().tls(authority.client(None)))
        .connect(&registry, "user-service")
        .unwrap();
    let request = Request::get("/").body(Full::default()).unwrap();
    assert!(client.send(request).await.is_err());
}

#[cfg(feature = "http2")]
#[tokio::test]
async fn http2_is_spoken_by_prior_knowledge() {
    let server = crate::kit::Server::start("one").await;
    let (registry, _memory) = registry([server.instance("web")]);
    let client: HttpService = Stack::http()
        .over(HttpEndpoints::new().http2())
        .connect(&registry, "web")
        .unwrap();
    let response = client.get("/version").await.unwrap();
    assert_eq!(response.text(100).await.unwrap(), "HTTP/2.0");
    let error = client
        .get("http://user:SECRET@web/version")
        .await
        .unwrap_err();
    let error = format!("{error:?}");
    assert!(
        error.contains("user information") && !error.contains("SECRET"),
        "{error}"
    );
    let response = client.get("/host").await.unwrap();
    assert_eq!(response.text(100).await.unwrap(), "web");
}
