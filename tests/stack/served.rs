//! What the extensions of a response say about where it came from, and the kinds of errors.

use std::error::Error;

use http::{Request, StatusCode};
use tower::{Service, ServiceExt};
use tower_roster::{
    BoxError, RequestErrorKind,
    balance::BalanceError,
    client::{HttpError, Served, Stack},
    service::{
        breaker::{BreakerError, BreakerSettings},
        hedge::HedgeSettings,
        retry::{RetryError, RetrySettings},
    },
};

use crate::kit::*;

async fn served<S, B>(client: &S, request: Request<Body>) -> (StatusCode, Served)
where
    S: Service<Request<Body>, Response = http::Response<B>, Error = BoxError> + Clone,
{
    let response = client.clone().oneshot(request).await.unwrap();
    let served = response.extensions().get::<Served>();
    (
        response.status(),
        served.expect("each response has one").clone(),
    )
}

#[tokio::test]
async fn a_response_names_the_instance_that_answered() {
    let servers = servers(["a", "b"]).await;
    let (client, _) = build(Stack::http(), servers.each_ref().map(Server::instance)).await;
    for _ in 0..10 {
        let response = client.clone().oneshot(get("/")).await.unwrap();
        let served = response.extensions().get::<Served>().unwrap().clone();
        let body = http_body_util::BodyExt::collect(response.into_body()).await;
        let name = body.unwrap().to_bytes();
        assert_eq!(served.key().id().as_bytes(), name);
        let server = servers.iter().find(|it| it.name == served.key().id());
        let address = server.unwrap().addr.to_string();
        assert_eq!(served.address().to_string(), address);
        assert_eq!((served.attempts(), served.hedged()), (1, false));
    }
}

#[tokio::test]
async fn a_response_says_how_often_its_request_was_sent() {
    let servers = servers(["a", "b"]).await;
    let stack = Stack::http().hedge(None).retry(RetrySettings::new());
    let (client, _) = build(stack, servers.each_ref().map(Server::instance)).await;
    for server in &servers {
        server.set_for(1, Mode::Status(500));
    }
    let (status, third) = served(&client, get("/")).await;
    assert_eq!((status.as_u16(), third.attempts()), (200, 3));
    assert!(!third.hedged());
    let (_, first) = served(&client, get("/")).await;
    assert_eq!(first.attempts(), 1);
}

#[tokio::test]
async fn a_response_says_whether_a_hedge_won() {
    let servers = servers(["a", "b"]).await;
    let hedge = HedgeSettings::new().delay(20 * MS);
    let (client, _) = build(
        Stack::http().hedge(hedge),
        servers.each_ref().map(Server::instance),
    )
    .await;
    // Whichever gets the first attempt hangs once; the other answers the hedge.
    for server in &servers {
        server.set_for(1, Mode::Hang);
    }
    let first = tokio::spawn({
        let client = client.clone();
        async move { served(&client, get("/")).await }
    });
    until("the first attempt hangs", async || {
        servers.iter().any(|server| server.waiting() > 0)
    })
    .await;
    for server in servers.iter().filter(|server| server.waiting() == 0) {
        server.set(Mode::Good);
    }
    let (_, served) = first.await.unwrap();
    assert_eq!((served.attempts(), served.hedged()), (2, true));
}

fn kind(error: &BoxError) -> &'static str {
    let kind = RequestErrorKind::of(&**error);
    // What an error says by itself is the same.
    let error: &(dyn Error + 'static) = &**error;
    let own = [
        BreakerError::find(error).map(BreakerError::kind),
        RetryError::find(error).map(RetryError::kind),
        BalanceError::find(error).map(BalanceError::kind),
        HttpError::find(error).map(HttpError::kind),
    ];
    for own in own.into_iter().flatten() {
        assert_eq!(own, kind, "{error:?}");
    }
    kind.as_str()
}

#[tokio::test]
async fn every_error_of_a_stack_says_its_kind() {
    let (_socket, refuses) = refusing();
    let once = RetrySettings::new().max_attempts(std::num::NonZeroU32::MIN);
    let stack = Stack::http().retry(once);
    let (client, _) = build(stack, [instance("down", refuses)]).await;
    let error = send(&client, get("/")).await.unwrap_err();
    assert_eq!(kind(&error), "connect");
    let invalid = Request::get("ftp://web/").body(Body::default()).unwrap();
    let error = send(&client, invalid).await.unwrap_err();
    assert_eq!(kind(&error), "invalid");

    let [server] = servers(["a"]).await;
    server.set(Mode::Hang);
    let late = |stack| async {
        let (client, _) = build(stack, [server.instance()]).await;
        kind(&send(&client, get("/")).await.unwrap_err())
    };
    let stack = Stack::http().timeout(50 * MS);
    assert_eq!(late(stack).await, "timeout");
    let stack = Stack::http().retry(once.try_timeout(50 * MS));
    assert_eq!(late(stack).await, "try_timeout");

    let memory = tower_roster::registry::memory::Memory::new();
    let built = Stack::http().build(discover_in(memory)).unwrap();
    let error = send(&built.service, get("/")).await.unwrap_err();
    assert_eq!(kind(&error), "no_instance");

    let breaker = BreakerSettings::new().name("web");
    let built = Stack::http()
        .breaker(breaker)
        .build(discover([server.instance()]));
    let built = built.unwrap();
    built.handles.breaker.unwrap().force_open();
    let error = send(&built.service, get("/")).await.unwrap_err();
    assert_eq!(kind(&error), "breaker_open");
}

#[test]
fn the_names_and_statuses_of_all_kinds_are_those_of_the_table() {
    let text = std::fs::read_to_string("src/error/request_kind.rs").unwrap();
    let rows: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("/// | [`"))
        .map(|line| {
            let cells: Vec<_> = line.trim_start_matches("/// |").split('|').collect();
            let grpc = cells[3].split_whitespace().next().unwrap_or_default();
            let name = cells[1].trim().trim_matches('`');
            (name.to_owned(), cells[2].trim().to_owned(), grpc.to_owned())
        })
        .collect();
    let kinds = RequestErrorKind::ALL.iter().map(|kind| {
        let (http, grpc) = (kind.http_status(), kind.grpc_code());
        (kind.as_str().to_owned(), http.to_string(), grpc.to_string())
    });
    assert_eq!(rows, kinds.collect::<Vec<_>>());
}
