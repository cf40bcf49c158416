//! What a `consulrs` client lacks, and what must not come through: it has no deadline and panics on
//! text that cannot stand in a header. That it carries the same watch and the same registration is
//! shown in `transports`.
#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Duration};

use consulrs::client::{ConsulClient, ConsulClientSettingsBuilder};
use tower_roster::{
    Registry, RegistryError,
    error::ErrorKind,
    registry::{
        Query, RegistrationEvent,
        consul::{Consul, ConsulOptions},
    },
};

use super::scene::{SOON, event, instance, millis, with_ttl};
use crate::support::{
    RawServer, Script, eventually,
    http1::{consul_reply, reply},
};

fn client(url: &str, token: Option<&str>) -> ConsulClient {
    let mut settings = ConsulClientSettingsBuilder::default();
    settings.address(url);
    if let Some(token) = token {
        settings.token(token);
    }
    let settings = settings.build().expect("settings");
    ConsulClient::new(settings).expect("a client")
}

pub(crate) fn registry(url: &str, token: Option<&str>) -> Registry {
    let client = Arc::new(client(url, token));
    Registry::new(Consul::with_client(client, ConsulOptions::default()).expect("options"))
}

async fn first_error(registry: &Registry) -> RegistryError {
    let mut watch = registry.watch("web").unwrap();
    let view = watch.wait_for(|view| view.error.is_some()).await.unwrap();
    view.error.unwrap()
}

/// A paused clock jumps to the deadline, because nothing else will ever happen.
#[tokio::test(start_paused = true)]
async fn a_read_that_is_never_answered_ends() {
    let server = RawServer::play([Script::new().hang()]).await;
    let error = first_error(&registry(&server.url(), None)).await;
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    let text = error.to_string();
    for part in ["consulrs", &server.url(), "\"web\"", "15s"] {
        assert!(text.contains(part), "{text:?} says {part:?}");
    }
}

#[tokio::test]
async fn a_beat_that_is_never_answered_ends_with_its_interval() {
    let server = RawServer::start(|head| match head.path().contains("/check/pass/") {
        true => Script::new().hang(),
        false => Script::respond(&reply(200, "")),
    })
    .await;
    let registry = registry(&server.url(), None);
    let mut registration = registry
        .register(with_ttl(instance("web", "a", 80), millis(900)))
        .unwrap();
    event(&mut registration, |e| {
        matches!(e, RegistrationEvent::Registered)
    })
    .await;
    let began = std::time::Instant::now();
    let told = event(&mut registration, |e| {
        matches!(e, RegistrationEvent::HeartbeatFailed { .. })
    })
    .await;
    let RegistrationEvent::HeartbeatFailed { error, .. } = told else {
        unreachable!()
    };
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "a third of the TTL, not for ever"
    );
    eventually(SOON, "the beats go on", || async {
        let beat = |head: &&crate::support::RequestHead| head.path().contains("/check/pass/");
        server.requests().iter().filter(beat).count() >= 3
    })
    .await;
}

#[tokio::test]
async fn a_token_with_a_line_break_is_an_error_and_no_panic() {
    // Its own way to send a request panics.
    let theirs = tokio::spawn(async {
        let client = client("http://127.0.0.1:1", Some("a\nb"));
        consulrs::catalog::datacenters(&client, None).await.is_ok()
    });
    assert!(
        theirs.await.is_err_and(|error| error.is_panic()),
        "the reason for the fence"
    );

    let server = RawServer::play([Script::respond(&consul_reply(1, "[]"))]).await;
    let registry = registry(&server.url(), Some("a\nb"));
    let error = first_error(&registry).await;
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let text = error.to_string();
    assert!(
        text.contains("the token cannot stand in a header"),
        "{text}"
    );
    assert!(!text.contains("a\nb"), "no error shows a token");
    let mut registration = registry.register(instance("web", "a", 80)).unwrap();
    let told = event(&mut registration, |e| {
        matches!(e, RegistrationEvent::RegisterFailed { .. })
    })
    .await;
    let RegistrationEvent::RegisterFailed { error, .. } = told else {
        unreachable!()
    };
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(server.requests().is_empty(), "nothing was sent");
}

#[tokio::test]
async fn a_token_is_trimmed_and_an_empty_one_is_none() {
    for (token, sent) in [(" t \n", Some("t")), ("", None), (" ", None)] {
        let server = RawServer::play([
            Script::respond(&consul_reply(5, "[]")),
            Script::new().hang(),
        ])
        .await;
        let mut watch = registry(&server.url(), Some(token)).watch("web").unwrap();
        watch.resolved().await.unwrap();
        assert_eq!(
            server.requests()[0].header("x-consul-token"),
            sent,
            "{token:?}"
        );
    }
}

#[tokio::test]
async fn garbage_in_headers_is_an_error_and_no_panic() {
    let garbage: [&[u8]; 4] = [
        b"X-Consul-Index: \xff\xfe",
        b"X-Consul-Index: 12\x80",
        b"X-Consul-Index: 99999999999999999999999999",
        b"X-Other: \xc3\x28",
    ];
    for line in garbage {
        let mut bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n".to_vec();
        bytes.extend_from_slice(line);
        bytes.extend_from_slice(b"\r\n\r\n[]");
        let server = RawServer::play([Script::new().write(bytes)]).await;
        let error = first_error(&registry(&server.url(), None)).await;
        assert_eq!(error.kind(), ErrorKind::Malformed, "{line:?}: {error}");
        assert!(error.to_string().contains("X-Consul-Index"), "{error}");
    }
}

#[tokio::test]
async fn what_is_no_http_is_an_error_and_no_panic() {
    for bytes in ["\0\0\0", "HTTP/9.9 abc\r\n\r\n", "HTTP/1.1 999999 \r\n\r\n"] {
        let server = RawServer::play([Script::new().write(bytes).close()]).await;
        let error = first_error(&registry(&server.url(), None)).await;
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{bytes:?}: {error}");
    }
}

#[tokio::test]
async fn an_address_without_a_scheme_is_a_clear_error() {
    for address in [
        "127.0.0.1:8500",
        "localhost",
        "",
        "ftp://127.0.0.1:1",
        "http://a b",
    ] {
        let error = first_error(&registry(address, None)).await;
        let text = error.to_chain();
        assert!(
            matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unreachable),
            "{address:?}: {text}"
        );
        assert!(
            text.contains(address) && text.contains("\"web\""),
            "{address:?}: {text}"
        );
    }
}

#[tokio::test]
async fn a_trailing_slash_is_no_part_of_the_path() {
    let server = RawServer::play([
        Script::respond(&consul_reply(5, "[]")),
        Script::new().hang(),
    ])
    .await;
    let mut watch = registry(&format!("{}/", server.url()), None)
        .watch(Query::new("web"))
        .unwrap();
    watch.resolved().await.unwrap();
    assert_eq!(server.requests()[0].path(), "/v1/health/service/web");
}
