//! At which address a server is reached.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tower_roster::{
    Registry,
    error::ErrorKind,
    registry::{fixed::Fixed, memory::Memory},
    server::{Leave, ServerSettings},
};

fn registry() -> Registry {
    Registry::new(Memory::new())
}

#[tokio::test]
async fn a_listener_on_all_addresses_is_announced_at_one_that_connects_to_it() {
    for any in ["0.0.0.0:0", "[::]:0"] {
        let Ok(listener) = TcpListener::bind(any).await else {
            continue;
        };
        let port = listener.local_addr().unwrap().port();
        let server = registry().announce("web", &listener).unwrap();
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        let server = server.leave_on(async { drop(told.await) });
        let handle = server.handle();
        let serve =
            tokio::spawn(server.serve(
                async move |mut leave: Leave| {
                    while leave.or(listener.accept()).await.is_some() {}
                },
            ));
        let instance = handle.located().await.unwrap();
        assert_eq!(instance.address.port(), port);
        assert_eq!(
            instance.id(),
            format!("web-{}-{port}", instance.address.host())
        );
        let address: SocketAddr = instance.address.to_string().parse().unwrap();
        assert!(!address.ip().is_unspecified(), "{address}");
        TcpStream::connect(address).await.unwrap();
        drop(tell);
        serve.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_advertised_address_takes_the_place_of_the_listeners() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = ServerSettings::new("web").advertise("web.example.com:443".parse().ok());
    let server = registry().announce(settings, &listener).unwrap();
    let instance = server.handle().instance().unwrap();
    assert_eq!(instance.address.to_string(), "web.example.com:443");
    assert_eq!(instance.id(), "web-web.example.com-443");
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_needs_an_address_to_advertise() {
    let dir = tempfile::tempdir().unwrap();
    let listener = tokio::net::UnixListener::bind(dir.path().join("web.sock")).unwrap();
    let error = registry().announce("web", &listener).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let text = error.to_string();
    assert!(
        text.contains("server.advertise") && text.contains("\"web\""),
        "{text}"
    );
    let settings = ServerSettings::new("web").advertise("10.0.0.7:80".parse().ok());
    assert!(registry().announce(settings, &listener).is_ok());
}

#[tokio::test]
async fn what_no_registry_can_hold_is_refused_before_it_serves() {
    let address: SocketAddr = "127.0.0.1:80".parse().unwrap();
    let nowhere: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let fixed = Registry::new(Fixed::parse("h:1").unwrap());
    for (registry, settings, address, cause) in [
        (registry(), ServerSettings::new(" "), address, "no name"),
        (
            registry(),
            ServerSettings::new("web").id(""),
            address,
            "no id",
        ),
        (registry(), ServerSettings::new("web"), nowhere, "port 0"),
        (fixed, ServerSettings::new("web"), address, "fixed"),
    ] {
        let error = registry.announce(settings, &address).unwrap_err();
        assert!(error.to_string().contains(cause), "{error}");
    }
}
