//! What leaves this crate as text: no part of a secret, no line that a registry wrote, and nothing long.

use std::time::Duration;

use http::{HeaderValue, Response};
use serde_json::json;
use tower_roster::{
    Registry, RegistryError,
    registry::{
        RegistrationEvent, View, ViewState, WatchSettings,
        consul::{Consul, ConsulConfig},
    },
};
use tracing::Level;

use crate::{
    kit::*,
    log::Log,
    scene::{event, instance, with_ttl},
    support::{
        RawServer, Script,
        http1::{consul_reply, encode, reply},
    },
};

/// What is sent to a registry, which sends it back in every way that it can.
const CANARY: &str = "7f0c1ed2-8A3b-4c5d-9e6f-canary/bird";

/// The canary as a server might quote it.
fn quotes() -> Vec<String> {
    let percent = CANARY.replace('-', "%2D").replace('/', "%2F");
    vec![
        CANARY.to_owned(),
        CANARY.to_uppercase(),
        percent.clone(),
        percent.to_lowercase(),
        format!("{}{CANARY}", "x".repeat(190)),
        format!("{}{CANARY}", "x".repeat(4_080)),
        format!(
            "{}\n\u{1b}[31mERROR forged {}",
            &CANARY[..20],
            &CANARY[10..]
        ),
        CANARY.repeat(100_000),
    ]
}

/// Answers that make a request fail, each with the quote at some place of it.
fn failures(quote: &str) -> Vec<Script> {
    let header =
        HeaderValue::from_bytes(quote.replace('\n', " ").replace('\u{1b}', "?").as_bytes())
            .unwrap();
    let with = |name: &'static str, mut answer: Response<bytes::Bytes>| {
        answer.headers_mut().insert(name, header.clone());
        answer
    };
    let entry = |edit: fn(&mut serde_json::Value, &str)| {
        let mut entry = entry("web-80", "n1", 80);
        edit(&mut entry, quote);
        json!([entry]).to_string()
    };
    let mut answers: Vec<_> = [302, 400, 401, 403, 404, 429, 500, 503]
        .map(|status| failure(status, quote))
        .into();
    answers.extend([
        consul_reply(8, quote.to_owned()),
        consul_reply(8, json!(quote).to_string()),
        consul_reply(8, json!({ quote: quote }).to_string()),
        consul_reply(8, json!([quote, quote]).to_string()),
        consul_reply(8, entry(|it, quote| it["Service"]["Port"] = json!(quote))),
        consul_reply(
            8,
            entry(|it, quote| it["Service"]["Address"] = json!(quote)),
        ),
        consul_reply(8, entry(|it, quote| it["Service"]["Tags"] = json!(quote))),
        consul_reply(
            8,
            entry(|it, quote| {
                it["Service"]["Port"] = json!(0);
                it["Service"]["ID"] = json!(quote);
                it["Node"]["Node"] = json!(quote);
            }),
        ),
        with("x-consul-index", reply(200, "[]")),
        with("x-registry-index", reply(200, "[]")),
        with("content-encoding", consul_reply(8, "[]")),
        with("location", failure(302, "")),
    ]);
    // For a REST registry, too.
    for answer in &mut answers {
        for name in ["x-registry-index", "x-registry-epoch"] {
            if !answer.headers().contains_key(name) {
                answer.headers_mut().insert(name, 8.into());
            }
        }
    }
    let mut scripts: Vec<_> = answers.iter().map(Script::respond).collect();
    let whole = encode(&consul_reply(8, quote.to_owned()));
    scripts.extend([
        Script::new().write(whole.slice(..whole.len() - 1)).close(),
        Script::new()
            .write(format!("HTTP/1.1 200 {quote}\r\n"))
            .close(),
        Script::new().write(format!("{quote}\r\n\r\n")).close(),
        Script::new()
            .write(format!("HTTP/1.1 200 OK\r\n{quote}\r\n\r\n"))
            .close(),
        Script::new()
            .write(format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{quote}\r\n"
            ))
            .close(),
        Script::new().close(),
        Script::new().reset(),
    ]);
    scripts
}

/// Everything that a user may print of an error.
fn texts_of(error: &RegistryError, texts: &mut Vec<String>) {
    texts.extend([error.to_string(), error.to_chain(), format!("{error:?}")]);
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        texts.extend([cause.to_string(), format!("{cause:?}")]);
        next = cause.source();
    }
}

/// Checks that a text may be printed.
fn check(case: &str, text: &str) {
    let plain = text.to_lowercase().replace("%2d", "-").replace("%2f", "/");
    let secret = CANARY.to_lowercase();
    for piece in (0..=secret.len() - 8).map(|at| &secret[at..at + 8]) {
        assert!(!plain.contains(piece), "{case}: {piece} in {:.2000}", text);
    }
    assert!(!text.contains('\u{1b}'), "{case}: {text:.2000}");
    for line in text.lines() {
        assert!(
            !line.trim_start().starts_with("ERROR forged"),
            "{case}: {text:.2000}"
        );
        assert!(
            line.len() < 4_000,
            "{case}: a line of {} bytes: {line:.2000}",
            line.len()
        );
    }
}

/// What the registry says of a watch and of a registration that fail.
async fn fail(registry: &Registry) -> Vec<String> {
    let mut watch = registry.watch("web").unwrap();
    let failed = |view: &View| view.error.is_some() || !view.rejected.is_empty();
    let view = see(&mut watch, "it fails", failed).await;
    let mut texts = vec![format!("{view:?}"), format!("{watch:?} {registry:?}")];
    texts.extend(view.rejected.iter().map(ToString::to_string));
    texts.extend(view.error.iter().map(|error| format!("{error:#?}")));
    view.error
        .iter()
        .for_each(|error| texts_of(error, &mut texts));

    let announced = with_ttl(instance("web", "web-1", 80), SOON);
    let mut registration = registry.register(announced).unwrap();
    let first = event(&mut registration, |_| true).await;
    texts.push(format!("{first:?} {registration:?}"));
    if let RegistrationEvent::RegisterFailed { error, .. } = first {
        texts_of(&error, &mut texts);
    }
    texts
}

/// Plays each failure to a registry, and checks everything that it says.
async fn check_all(backend: &str, registry: impl Fn(&RawServer) -> Registry) {
    let (log, _guard) = Log::start(Level::TRACE);
    for (n, quote) in quotes().iter().enumerate() {
        for (m, script) in failures(quote).into_iter().enumerate() {
            let server = RawServer::play([script]).await;
            let case = format!("{backend}, quote {n}, failure {m}");
            let texts = fail(&registry(&server)).await;
            texts.iter().for_each(|text| check(&case, text));
            check(&case, &log.take());
        }
    }
}

#[tokio::test]
async fn no_failure_of_an_agent_shows_a_secret_or_a_line_of_its_own() {
    check_all("consul", |server| {
        let config = ConsulConfig::new(server.url())
            .token(CANARY)
            .options(short());
        configured(config, WatchSettings::default())
    })
    .await;
}

#[cfg(feature = "consulrs")]
#[tokio::test]
async fn nor_does_one_through_the_client_of_a_user() {
    check_all("consulrs", |server| {
        crate::consulrs::registry(&server.url(), Some(CANARY))
    })
    .await;
}

/// It gets no secret, so what it sends is not hidden; but it writes no lines, and no long ones.
#[cfg(feature = "rest")]
#[tokio::test]
async fn nor_does_a_rest_registry_write_lines() {
    let (log, _guard) = Log::start(Level::TRACE);
    let quote = format!("a\n\u{1b}[31mERROR forged {}", "x".repeat(1 << 20));
    let record = json!({ "serviceId": quote, "serviceName": "web", "host": quote, "port": 0, "metadata": { (quote.as_str()): [] } });
    let list = json!({ "exists": true, "instances": [record] }).to_string();
    let list = ["x-registry-index", "x-registry-epoch"].into_iter().fold(
        consul_reply(8, list),
        |mut answer, name| {
            answer.headers_mut().insert(name, 8.into());
            answer
        },
    );
    let scripts = failures(&quote).into_iter().chain([Script::respond(&list)]);
    for (n, script) in scripts.enumerate() {
        let server = RawServer::play([script]).await;
        let url = format!("rest://{}", server.addr());
        let registry = tower_roster::registry::connect(&url).unwrap();
        for text in fail(&registry).await.iter().chain([&log.take()]) {
            assert!(!text.contains('\u{1b}'), "failure {n}: {text:.2000}");
            for line in text.lines() {
                assert!(
                    !line.trim_start().starts_with("ERROR forged"),
                    "failure {n}: {text:.2000}"
                );
                assert!(
                    line.len() < 4_000,
                    "failure {n}: {} bytes: {line:.2000}",
                    line.len()
                );
            }
        }
    }
}

/// Ids are data, so they are shown; but not as lines of a log.
#[tokio::test]
async fn no_id_begins_a_line_of_the_log() {
    let (log, _guard) = Log::start(Level::TRACE);
    let forged = "web\n\u{1b}[31mERROR forged";
    let entries: Vec<_> = [forged, "\u{202e}b\rc"]
        .iter()
        .map(|id| entry(id, forged, 80))
        .collect();
    let bad = entry(&format!("{forged} too"), forged, 0);
    let list = json!([entries[0], entries[1], bad]).to_string();
    let server = RawServer::start(move |head| match head.param("index") {
        None => Script::respond(&consul_reply(8, list.clone())),
        Some(_) => Script::new().hang(),
    })
    .await;
    let mut watch = registry(&server.url(), long()).watch("web").unwrap();
    let view = see(&mut watch, "listed", |view| view.state == ViewState::Live).await;
    assert_eq!((view.instances.len(), view.rejected.len()), (2, 1));
    let discover = watch.discover(|instance: &tower_roster::Instance| {
        let fails = instance.id().len() > 9;
        let service = tower::service_fn(async |(): ()| Ok::<_, std::convert::Infallible>(()));
        if fails {
            Err("no\nERROR forged")
        } else {
            Ok(service)
        }
    });
    let balance = tower_roster::balance::BalanceLayer::builder()
        .build()
        .unwrap()
        .balance(discover);
    let handle = balance.handle();
    let settled = handle.wait_for(|status| status.endpoints > 0);
    let settled = tokio::time::timeout(SOON, settled).await;
    assert!(settled.is_ok(), "{:?} {}", handle.status(), log.take());
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut text = log.take();
    text.push_str(&view.rejected[0].to_string());
    assert!(
        text.contains("forged") && text.contains("\\u{202e}b\\rc"),
        "{text}"
    );
    assert!(!text.contains(['\u{1b}', '\u{202e}', '\r']), "{text}");
    let forged = |line: &str| {
        line.trim_start().starts_with("\u{1b}") || line.trim_start().starts_with("ERROR forged")
    };
    assert!(!text.lines().any(forged), "{text}");
}

#[test]
fn a_token_that_goes_to_another_host_without_tls_is_warned_of_once() {
    for (address, token, warnings) in [
        ("http://h:8500", Some("hush"), 1),
        ("http://10.0.0.1:8500", Some("hush"), 1),
        ("http://h:8500", None, 0),
        ("http://127.0.0.1:8500", Some("hush"), 0),
        ("http://[::1]:8500", Some("hush"), 0),
        ("localhost:8500", Some("hush"), 0),
        #[cfg(unix)]
        ("unix:///run/consul.sock", Some("hush"), 0),
    ] {
        let (log, _guard) = Log::start(Level::INFO);
        let mut config = ConsulConfig::new(address);
        if let Some(token) = token {
            config = config.token(token);
        }
        Consul::new(config).unwrap();
        let text = log.take();
        assert_eq!(
            text.matches("without TLS").count(),
            warnings,
            "{address}: {text}"
        );
        assert!(!text.contains("hush"), "{text}");
    }
}
