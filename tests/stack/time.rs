//! Timeouts, and callers that give up.

use std::num::NonZeroU32;

use tower::{ServiceExt, timeout::error::Elapsed};
use tower_roster::{
    Deadline,
    client::Stack,
    service::{
        hedge::HedgeSettings,
        retry::{RetryError, RetrySettings},
    },
};

use crate::kit::*;

#[tokio::test]
async fn the_timeout_ends_all_attempts() {
    let servers = servers(["a", "b"]).await;
    let stack = Stack::http()
        .timeout(150 * MS)
        .hedge(HedgeSettings::new().delay(20 * MS));
    let (client, handles) = build(stack, servers.each_ref().map(Server::instance)).await;
    servers.iter().for_each(|server| server.set(Mode::Hang));
    let begun = std::time::Instant::now();
    let error = send(&client, get("/")).await.unwrap_err();
    let took = begun.elapsed();
    assert!(error.is::<Elapsed>(), "{error:?}");
    assert!((150 * MS..5_000 * MS).contains(&took), "{took:?}");
    assert_eq!(servers.iter().map(Server::gets).sum::<usize>(), 2, "hedged");
    until("nothing is under way", async || {
        in_flight(&handles.balance).await == 0 && servers.iter().all(|server| server.waiting() == 0)
    })
    .await;
}

#[tokio::test]
async fn a_deadline_of_the_request_ends_all_attempts() {
    let servers = servers(["a", "b"]).await;
    let stack = Stack::http().hedge(HedgeSettings::new().delay(20 * MS));
    let (client, _) = build(stack, servers.each_ref().map(Server::instance)).await;
    servers.iter().for_each(|server| server.set(Mode::Hang));
    let mut request = get("/");
    let extensions = request.extensions_mut();
    extensions.insert(Deadline::within(150 * MS));
    let begun = std::time::Instant::now();
    let error = send(&client, request).await.unwrap_err();
    let took = begun.elapsed();
    assert!(error.is::<Elapsed>(), "{error:?}");
    assert!((140 * MS..5_000 * MS).contains(&took), "{took:?}");

    let gets = servers.iter().map(Server::gets).sum::<usize>();
    let mut request = get("/");
    request
        .extensions_mut()
        .insert(Deadline::within(std::time::Duration::ZERO));
    let error = send(&client, request).await.unwrap_err();
    // The error itself tells the breaker that nothing was sent.
    let source = error.source().expect("why");
    assert!(source.is::<Elapsed>(), "{error:?}");
    assert_eq!(servers.iter().map(Server::gets).sum::<usize>(), gets);
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_made_elsewhere() {
    let servers = servers(["a", "b"]).await;
    let stack = Stack::http()
        .retry(RetrySettings::new().try_timeout(50 * MS))
        .hedge(None);
    let (client, handles) = build(stack, servers.each_ref().map(Server::instance)).await;
    servers[0].set(Mode::Hang);
    for answer in burst(&client, 4, || get("/")).await {
        assert_eq!(answer.unwrap(), (200, "b".into()));
    }
    let hung = servers[0].gets();
    assert!(hung >= 1);
    assert_eq!(handles.budget.as_ref().unwrap().withdrawn(), hung as u64);

    servers[1].set(Mode::Hang);
    let error = send(&client, get("/")).await.unwrap_err();
    let error = error.downcast::<RetryError>().unwrap();
    assert!(error.is_try_timeout() && error.is_exhausted(), "{error:?}");
    assert_eq!(error.tries(), 3);
}

#[tokio::test]
async fn one_attempt_is_one_attempt() {
    let servers = servers(["a", "b"]).await;
    let stack = Stack::http()
        .retry(RetrySettings::new().max_attempts(NonZeroU32::MIN))
        .hedge(None);
    let (client, handles) = build(stack, servers.each_ref().map(Server::instance)).await;
    servers
        .iter()
        .for_each(|server| server.set(Mode::Status(500)));
    assert_eq!(send(&client, get("/")).await.unwrap().0, 500);
    assert_eq!(servers.iter().map(Server::gets).sum::<usize>(), 1);
    assert_eq!(handles.budget.as_ref().unwrap().withdrawn(), 0);
}

#[tokio::test]
async fn dropping_the_future_cancels_every_attempt() {
    let servers = servers(["a", "b"]).await;
    let stack = Stack::http().hedge(HedgeSettings::new().delay(20 * MS));
    let (client, handles) = build(stack, servers.each_ref().map(Server::instance)).await;
    servers.iter().for_each(|server| server.set(Mode::Hang));
    let call = tokio::spawn(client.clone().oneshot(get("/")));
    until("both attempts are under way", async || {
        servers.iter().all(|server| server.waiting() == 1)
    })
    .await;
    assert_eq!(in_flight(&handles.balance).await, 2);
    call.abort();
    until("none is", async || {
        in_flight(&handles.balance).await == 0 && servers.iter().all(|server| server.waiting() == 0)
    })
    .await;
    for name in ["a", "b"] {
        let endpoint = endpoint(&handles.balance, name).await;
        assert_eq!(endpoint.failures, 0, "who gives up proves nothing");
    }
}

#[tokio::test]
async fn an_answer_is_in_flight_until_its_body_has_ended() {
    let [server] = servers(["a"]).await;
    let (client, handles) = build(Stack::http(), [server.instance()]).await;
    let response = client.clone().oneshot(get("/")).await.unwrap();
    assert_eq!(in_flight(&handles.balance).await, 1);
    drop(response);
    assert_eq!(in_flight(&handles.balance).await, 0);
}
