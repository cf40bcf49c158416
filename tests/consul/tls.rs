//! Over TLS: authorities, client certificates, and HTTP/2.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType,
};
use serde_json::json;
use tower_roster::{
    error::ErrorKind,
    registry::{
        ViewState, WatchSettings,
        consul::{Consul, ConsulConfig},
    },
};

use crate::{
    kit::*,
    support::{Agent, FaultProxy, Mode, RawServer, Script, eventually, need_consul, ports::Port},
};

/// Certificates of one authority, in files.
struct Certificates(tempfile::TempDir);

impl Certificates {
    fn new() -> Certificates {
        let directory = tempfile::tempdir().unwrap();
        let authority = || {
            let mut params = CertificateParams::new(vec![]).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
        };
        let (ca, other) = (authority(), authority());
        let write = |name: &str, text: String| {
            std::fs::write(directory.path().join(name), text).unwrap();
        };
        write("ca.pem", ca.pem());
        write("other-ca.pem", other.pem());
        for (name, usage) in [
            ("server", ExtendedKeyUsagePurpose::ServerAuth),
            ("client", ExtendedKeyUsagePurpose::ClientAuth),
        ] {
            let names = vec!["server.dc1.consul".to_owned(), "localhost".to_owned()];
            let mut params = CertificateParams::new(names).unwrap();
            params
                .subject_alt_names
                .push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate().unwrap();
            let cert = params.signed_by(&key, &ca).unwrap();
            write(&format!("{name}.pem"), cert.pem());
            write(&format!("{name}-key.pem"), key.serialize_pem());
        }
        Certificates(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// An agent that speaks HTTPS on `port`; `strict` wants a certificate of every client.
    async fn agent(&self, port: &Port, strict: bool) -> Agent {
        Agent::dev()
            .config(json!({
                "ports": { "https": port.get() },
                "ca_file": self.path("ca.pem"),
                "cert_file": self.path("server.pem"),
                "key_file": self.path("server-key.pem"),
                "verify_incoming_https": strict,
                // Each of the many watches of one test counts until all speak HTTP/2.
                "limits": { "http_max_conns_per_client": 100 },
            }))
            .await
    }
}

fn https(addr: std::net::SocketAddr) -> ConsulConfig {
    ConsulConfig::new(format!("https://{addr}"))
}

/// W33, W39; T39. Trusted authorities and client certificates; what is wrong with them is said.
#[tokio::test]
async fn certificates_are_checked_on_both_sides() {
    need_consul!();
    let certs = Certificates::new();
    let port = Port::lease();
    let agent = certs.agent(&port, true).await;
    agent
        .register_service("web-1", "web", "127.0.0.1", 80, json!({}))
        .await;
    let client = |config: ConsulConfig| {
        config.client_cert(certs.path("client.pem"), certs.path("client-key.pem"))
    };
    let good = client(https(port.addr()).ca_file(certs.path("ca.pem"))).options(long());
    let mut watch = configured(good, WatchSettings::default())
        .watch("web")
        .unwrap();
    see(&mut watch, "listed", |view| ids(view) == ["web-1"]).await;

    let wrong = [
        (
            "another authority",
            client(https(port.addr()).ca_file(certs.path("other-ca.pem"))),
            "invalid peer certificate",
        ),
        (
            "no client certificate",
            https(port.addr()).ca_file(certs.path("ca.pem")),
            // Told after the handshake, and heard or not before the connection closes.
            "",
        ),
        (
            "another name",
            client(ConsulConfig::new(format!(
                "https://127.0.0.2:{}",
                port.get()
            )))
            .ca_file(certs.path("ca.pem")),
            "",
        ),
        (
            "no TLS there",
            https(agent.http_addr()).ca_file(certs.path("ca.pem")),
            "",
        ),
        (
            "TLS there",
            ConsulConfig::new(format!("http://{}", port.addr())),
            "https server",
        ),
    ];
    for (case, config, says) in wrong {
        let backend = format!("{config:?}");
        let registry = configured(config.options(long()), WatchSettings::default());
        let mut watch = registry.watch("web").unwrap();
        let view = see(&mut watch, case, |view| view.error.is_some()).await;
        let text = trouble(&view);
        assert_eq!(view.state, ViewState::Pending, "{case}");
        assert!(
            text.to_lowercase().contains(says),
            "{case}: {text:?} does not say {says:?}"
        );
        assert!(
            text.contains("web") && text.contains("consul http"),
            "{case}: {text}"
        );
        assert!(!backend.contains("PRIVATE"), "{backend}");
    }
}

/// As the `consul` command does, with `CONSUL_HTTP_ADDR=unix://…` and `CONSUL_HTTP_SSL=true`. Consul itself
/// offers TLS on TCP only, so a relay stands between the socket and the agent.
#[cfg(unix)]
#[tokio::test]
async fn a_socket_speaks_tls_if_asked() {
    need_consul!();
    let certs = Certificates::new();
    let socket = certs.path("consul.sock");
    let port = Port::lease();
    let agent = certs.agent(&port, false).await;
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let to = port.addr();
    let relay = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut agent = tokio::net::TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut agent).await;
            });
        }
    });
    agent
        .register_service("web-1", "web", "127.0.0.1", 80, json!({}))
        .await;
    let address = format!("unix+https://{}", socket.display());
    let good = ConsulConfig::new(&address).ca_file(certs.path("ca.pem"));
    let registry = configured(good.options(long()), WatchSettings::default());
    assert_eq!(&*registry.name(), format!("consul {address}"));
    let mut watch = registry.watch("web").unwrap();
    see(&mut watch, "listed", |view| ids(view) == ["web-1"]).await;

    let wrong = ConsulConfig::new(&address).ca_file(certs.path("other-ca.pem"));
    let registry = configured(wrong.options(long()), WatchSettings::default());
    let mut watch = registry.watch("web").unwrap();
    let view = see(&mut watch, "not trusted", |view| view.error.is_some()).await;
    let text = trouble(&view);
    assert!(text.contains("invalid peer certificate"), "{text}");
    relay.abort();
}

/// None of these would protect anything, and the token would be sent in plain text.
#[test]
fn certificates_without_tls_and_empty_tokens_are_refused() {
    let certs = Certificates::new();
    std::fs::write(certs.path("empty"), " \n").unwrap();
    let plain = || ConsulConfig::new("http://127.0.0.1:1");
    let pem = certs.path("client.pem");
    for (config, field) in [
        (plain().ca_file(certs.path("ca.pem")), "consul.ca_file"),
        (
            plain().client_cert(&pem, certs.path("client-key.pem")),
            "consul.client_cert",
        ),
        (plain().token(""), "consul.token"),
        (plain().token_file(certs.path("empty")), "consul.token_file"),
    ] {
        let error = Consul::new(config).unwrap_err();
        assert_eq!(error.field(), field, "{error}");
    }
    // A plain address gets the token, too, so one with TLS beside it changes nothing.
    let mixed = plain().fallback("https://127.0.0.1:2");
    let error = Consul::new(mixed.ca_file(certs.path("ca.pem"))).unwrap_err();
    assert_eq!(error.field(), "consul.ca_file", "{error}");
}

/// Files that cannot be used are named when the client is made, not when it first connects.
#[test]
fn unusable_files_are_named() {
    let certs = Certificates::new();
    std::fs::write(certs.path("empty.pem"), "").unwrap();
    let addr = (Ipv4Addr::LOCALHOST, 1).into();
    let cases = [
        (
            https(addr).ca_file(certs.path("none.pem")),
            "consul.ca_file",
            "none.pem",
        ),
        (
            https(addr).ca_file(certs.path("empty.pem")),
            "consul.ca_file",
            "no certificate",
        ),
        (
            https(addr)
                .ca_file(certs.path("ca.pem"))
                .client_cert(certs.path("client.pem"), certs.path("none.pem")),
            "consul.client_key",
            "none.pem",
        ),
        (
            https(addr)
                .ca_file(certs.path("ca.pem"))
                .client_cert(certs.path("client.pem"), certs.path("server-key.pem")),
            "consul.client_cert",
            "does not fit its key",
        ),
    ];
    for (config, field, says) in cases {
        let error = Consul::new(config).unwrap_err();
        assert_eq!(error.field(), field, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

/// W33; T39, B15. Many blocking queries on few connections, chosen by ALPN; each is cancelled by itself.
#[tokio::test]
async fn many_watches_share_few_connections() {
    need_consul!();
    const MANY: usize = 50;
    let certs = Certificates::new();
    let port = Port::lease();
    let agent = certs.agent(&port, false).await;
    for n in 0..MANY {
        let name = format!("many-{n}");
        agent
            .register_service(&name, &name, "127.0.0.1", 80, json!({}))
            .await;
    }
    let proxy = FaultProxy::tcp(port.addr()).await;
    let config = https(proxy.addr())
        .ca_file(certs.path("ca.pem"))
        .options(long());
    let client = configured(config, WatchSettings::default());
    let mut watches: Vec<_> = (0..MANY)
        .map(|n| client.watch(format!("many-{n}")).unwrap())
        .collect();
    for watch in &mut watches {
        see(watch, "listed", |view| view.state == ViewState::Live).await;
    }
    eventually(SOON, "few connections are left", || async {
        if proxy.open() <= 3 {
            Ok(())
        } else {
            Err(proxy.open())
        }
    })
    .await;
    for n in [0, MANY - 1] {
        let name = format!("many-{n}");
        agent
            .register_service("more", &name, "127.0.0.1", 81, json!({}))
            .await;
        see(&mut watches[n], "a change", |view| {
            view.instances.len() == 2
        })
        .await;
    }
    // What is dropped takes nothing with it that others use.
    watches.drain(..MANY - 1);
    agent.deregister_service("more").await;
    see(&mut watches[0], "a change", |view| {
        view.instances.len() == 1
    })
    .await;
    drop((watches, client));
    eventually(SOON, "no connection is left", || async {
        proxy.open() == 0
    })
    .await;
}

/// W13. A connection of HTTP/2 that died without a word is not used again and again.
#[tokio::test]
async fn a_dead_connection_is_found_and_replaced() {
    need_consul!();
    let certs = Certificates::new();
    let port = Port::lease();
    let agent = certs.agent(&port, false).await;
    agent
        .register_service("web-1", "web", "127.0.0.1", 80, json!({}))
        .await;
    let mut proxy = FaultProxy::tcp(port.addr()).await;
    let config = https(proxy.addr()).ca_file(certs.path("ca.pem"));
    let mut watch = configured(config.options(long()), WatchSettings::default())
        .watch("web")
        .unwrap();
    see(&mut watch, "listed", |view| view.state == ViewState::Live).await;
    let accepted = proxy.accepted();
    proxy.set(Mode::Blackhole).await;

    let at = tokio::time::Instant::now();
    tokio::time::pause();
    let view = watch.wait_for(|view| view.error.is_some()).await.unwrap();
    tokio::time::resume();
    // The wait alone is 120 s.
    let took = at.elapsed();
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert_eq!(
        view.error.as_ref().unwrap().kind(),
        ErrorKind::Unreachable,
        "{}",
        trouble(&view)
    );
    eventually(SOON, "a new connection", || async {
        proxy.accepted() > accepted
    })
    .await;
    proxy.set(Mode::Pass).await;
    see(&mut watch, "fresh", |view| view.state == ViewState::Live).await;
}

/// W9, W10; B2. As `restart` has it for HTTP/1, where all requests share one connection.
#[tokio::test]
async fn a_restart_between_two_requests_is_noticed() {
    need_consul!();
    let certs = Certificates::new();
    let port = Port::lease();
    let agent = certs.agent(&port, false).await;
    let config = https(port.addr()).ca_file(certs.path("ca.pem"));
    crate::restart::is_noticed_after_a_stall(agent, config).await;
}

/// A server that accepts and does not shake hands.
#[tokio::test]
async fn a_handshake_that_never_ends_is_given_up() {
    let certs = Certificates::new();
    let server = RawServer::play([Script::new().hang()]).await;
    let config = https(server.addr())
        .ca_file(certs.path("ca.pem"))
        .options(long());
    let mut watch = configured(config, WatchSettings::default())
        .watch("web")
        .unwrap();
    eventually(SOON, "it is accepted", || async { server.accepted() == 1 }).await;
    let at = tokio::time::Instant::now();
    tokio::time::pause();
    let view = watch.wait_for(|view| view.error.is_some()).await.unwrap();
    tokio::time::resume();
    let took = at.elapsed().as_secs_f64();
    assert!((4.0..6.0).contains(&took), "{took} s");
    assert!(
        trouble(&view).contains("no TLS handshake"),
        "{}",
        trouble(&view)
    );
}
