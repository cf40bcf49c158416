//! Checks over TCP and HTTP.

use bytes::Bytes;
use http::{Response, StatusCode};
use tokio::net::TcpListener;
use tower_roster::endpoint::check::{CheckError, HealthCheck};

use super::{
    INTERVAL, failing, next, passing, prober,
    support::{Backend, FaultProxy, Mode, RawServer, Script},
    until,
};

fn check() -> HealthCheck {
    HealthCheck::http("/health").timeout(INTERVAL * 10)
}

#[tokio::test]
async fn a_path_that_fails_three_times_fails_it_and_one_success_returns_it() {
    let backend = Backend::start("a").await;
    let mut prober = prober(check(), &[("a", backend.port())]);
    assert!(next(&mut prober).await.result.is_ok());
    backend.set_healthy(false);
    let reports = until(&mut prober, failing).await;
    let failed: Vec<_> = reports
        .iter()
        .filter_map(|r| r.result.as_ref().err())
        .collect();
    assert_eq!(failed.len(), 3, "{reports:?}");
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    assert!(
        matches!(failed[0], CheckError::Status(s) if *s == unavailable),
        "{failed:?}"
    );
    assert_eq!(reports.last().unwrap().failures, 3);
    backend.set_healthy(true);
    until(&mut prober, passing).await;
}

#[tokio::test]
async fn a_process_that_dies_is_refused_and_recovers() {
    let mut backend = Backend::start("a").await;
    for check in [check(), HealthCheck::tcp()] {
        let mut prober = prober(check.max_failures(1), &[("a", backend.port())]);
        assert!(next(&mut prober).await.result.is_ok());
        backend.stop().await;
        let reports = until(&mut prober, failing).await;
        let error = reports.last().unwrap().result.as_ref().unwrap_err();
        assert!(
            matches!(error, CheckError::Connect(_) | CheckError::Exchange(_)),
            "{error:?}"
        );
        backend.restart().await;
        until(&mut prober, passing).await;
    }
}

#[tokio::test]
async fn a_peer_that_says_nothing_fails_by_time_and_recovers() {
    let backend = Backend::start("a").await;
    let mut proxy = FaultProxy::tcp(backend.addr()).await;
    let check = check().max_failures(2);
    let mut prober = prober(check, &[("a", proxy.addr().port())]);
    until(&mut prober, passing).await;
    proxy.set(Mode::Blackhole).await;
    let reports = until(&mut prober, failing).await;
    let error = reports.last().unwrap().result.as_ref().unwrap_err();
    assert!(matches!(error, CheckError::Timeout(_)), "{error:?}");
    proxy.set(Mode::Pass).await;
    until(&mut prober, passing).await;
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_no_success() {
    let elsewhere = Backend::start("b").await;
    let location = format!("{}/health", elsewhere.url());
    let redirect = Response::builder().status(302).header("location", location);
    let redirect = Script::respond(&redirect.body(Bytes::new()).unwrap());
    let server = RawServer::play([redirect]).await;
    let mut prober = prober(check(), &[("a", server.addr().port())]);
    let report = next(&mut prober).await;
    let error = report.result.unwrap_err();
    assert!(
        matches!(error, CheckError::Status(StatusCode::FOUND)),
        "{error:?}"
    );
    assert_eq!(elsewhere.probes(), 0);
}

#[tokio::test]
async fn what_is_not_http_fails_and_a_body_is_not_waited_for() {
    let garbage = Script::new().write("\0\x01nonsense\r\n\r\n").close();
    let silent = Script::new().close();
    let endless = Script::new()
        .write("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        .hang();
    let server = RawServer::play([garbage, silent, endless]).await;
    let mut prober = prober(check(), &[("a", server.addr().port())]);
    for _ in 0..2 {
        let error = next(&mut prober).await.result.unwrap_err();
        assert!(matches!(error, CheckError::Exchange(_)), "{error:?}");
    }
    assert!(next(&mut prober).await.result.is_ok());
}

#[tokio::test]
async fn requests_name_the_address_or_the_host_they_are_told() {
    let ok = Script::respond(&Response::new(Bytes::new()));
    let server = RawServer::play([ok]).await;
    for check in [check(), check().host("web")] {
        let mut prober = prober(check, &[("a", server.addr().port())]);
        assert!(next(&mut prober).await.result.is_ok());
    }
    let hosts: Vec<_> = server
        .requests()
        .iter()
        .map(|head| head.header("host").unwrap_or_default().to_owned())
        .collect();
    assert_eq!(hosts, [server.addr().to_string(), "web".to_owned()]);
}

#[tokio::test]
async fn a_connection_is_all_that_a_tcp_check_asks_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut prober = prober(HealthCheck::tcp(), &[("a", port)]);
    assert!(next(&mut prober).await.result.is_ok(), "nobody accepts yet");
    let (stream, _) = listener.accept().await.unwrap();
    let mut byte = [0];
    stream.readable().await.unwrap();
    assert_eq!(stream.try_read(&mut byte).unwrap(), 0, "closed, not used");
}
