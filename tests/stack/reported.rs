//! What a monitor is told when something goes wrong on the way: panics, waits, timeouts, broken bodies, and
//! clients within clients.

use std::{
    convert::Infallible,
    future::{Future, Ready, pending, ready},
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use http::{HeaderMap, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::time::{sleep, timeout};
use tower::{
    BoxError, Service, ServiceExt,
    discover::{Change, ServiceList},
    service_fn,
};
use tower_roster::{
    attempt::AttemptKind,
    classify::{Answers, Grpc, Http, ResponseStatus},
    client::Stack,
    service::{hedge::HedgeSettings, retry::RetrySettings},
    telemetry::{Telemetry, on_attempt, on_request},
};

use crate::{
    kit::*,
    log::Log,
    monitor::{Notes, client, whole},
};

const SECOND: Duration = Duration::from_secs(1);

fn told(notes: &Notes) -> Telemetry {
    Telemetry::new().service("web").monitor(notes.clone())
}

fn once() -> RetrySettings {
    RetrySettings::new().max_attempts(std::num::NonZeroU32::MIN)
}

#[tokio::test]
async fn a_panic_of_a_service_is_reported_as_one_and_counts_as_a_failure() {
    fn at_once(_: u64) -> Ready<Result<u64, BoxError>> {
        panic!("in the call")
    }
    async fn later(_: u64) -> Result<u64, BoxError> {
        panic!("in the poll")
    }
    macro_rules! check {
        ($service:expr) => {
            let notes = Notes::default();
            let stack = Stack::cloned(Answers::default()).telemetry(told(&notes));
            let services = ServiceList::new(vec![service_fn($service)]);
            let client = stack.build_plain(services).unwrap().service;
            let call = AssertUnwindSafe(async { client.oneshot(1).await });
            assert!(call.catch_unwind().await.is_err());
            assert_eq!(notes.words(), (vec![("first", "panicked")], "panicked"));
            assert!(notes.attempts()[0].end.is_failure());
            assert!(notes.requests()[0].end.is_failure());
        };
    }
    check!(at_once);
    check!(later);
}

#[derive(Clone)]
struct Noop;

impl Service<u64> for Noop {
    type Response = u64;
    type Error = Infallible;
    type Future = Ready<Result<u64, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, n: u64) -> Self::Future {
        ready(Ok(n))
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_an_endpoint_is_reported_with_the_time_of_its_wait() {
    let notes = Notes::default();
    let stack = || {
        let stack = Stack::cloned(Answers::default()).telemetry(told(&notes));
        stack.balance(|balance| balance.wait(3 * SECOND))
    };
    type Found = Result<Change<u64, Noop>, BoxError>;
    let never = stack().build_plain(stream::pending::<Found>());
    let never = never.unwrap().service;

    let left = timeout(SECOND, never.clone().oneshot(1)).await;
    assert!(left.is_err(), "it waits");
    assert_eq!(notes.words(), (vec![], "caller_left"));
    let end = notes.requests()[0].end;
    assert!(end.elapsed >= SECOND && !end.is_failure(), "{end:?}");

    notes.forget();
    never.clone().oneshot(1).await.unwrap_err();
    assert_eq!(notes.words(), (vec![], "never_resolved"));
    let end = notes.requests()[0].end;
    assert!(end.elapsed >= 3 * SECOND && end.is_failure(), "{end:?}");

    notes.forget();
    let late = stream::once(async {
        sleep(2 * SECOND).await;
        Found::Ok(Change::Insert(0, Noop))
    });
    let late = stack().build_plain(late.chain(stream::pending()).boxed());
    late.unwrap().service.oneshot(1).await.unwrap();
    assert_eq!(notes.words(), (vec![("first", "success")], "success"));
    let elapsed = notes.requests()[0].end.elapsed;
    assert!(elapsed >= 2 * SECOND, "{elapsed:?}");
    assert!(notes.attempts()[0].end.elapsed < SECOND);
}

#[tokio::test(start_paused = true)]
async fn only_an_attempt_that_had_its_time_fails_by_a_timeout() {
    let hangs = || {
        let hangs = |_: u64| pending::<Result<u64, BoxError>>();
        ServiceList::new(vec![service_fn(hangs); 2])
    };
    let failures = |notes: &Notes| {
        let mut attempts = notes.attempts();
        attempts.sort_by_key(|it| it.number);
        let attempts = attempts.iter().map(|it| it.end.is_failure());
        (
            attempts.collect::<Vec<_>>(),
            notes.requests()[0].end.is_failure(),
        )
    };

    // A hedge that began late, and the attempt before it.
    let notes = Notes::default();
    let stack = Stack::cloned(Answers::default())
        .telemetry(told(&notes))
        .hedge(HedgeSettings::new().delay(8 * SECOND))
        .retry(once().try_timeout(10 * SECOND));
    let client = stack.build_plain(hangs()).unwrap().service;
    client.oneshot(1).await.unwrap_err();
    let attempts = vec![("first", "try_timeout"), ("hedge", "try_timeout")];
    assert_eq!(notes.words(), (attempts, "try_timeout"));
    assert_eq!(failures(&notes), (vec![true, false], true));

    // The caller's own time says nothing of an endpoint.
    let notes = Notes::default();
    let stack = Stack::cloned(Answers::default()).telemetry(told(&notes));
    let client = stack.hedge(None).timeout(SECOND).build_plain(hangs());
    client.unwrap().service.oneshot(1).await.unwrap_err();
    assert_eq!(notes.words(), (vec![("first", "timeout")], "timeout"));
    assert_eq!(failures(&notes), (vec![false], true));
}

#[tokio::test]
async fn a_request_that_no_endpoint_can_take_is_no_failure_of_one() {
    let servers = servers(["a"]).await;
    let notes = Notes::default();
    let (client, _) = client(Stack::http(), &servers, &notes).await;
    whole(&client, get("ftp://web/")).await.unwrap_err();
    assert_eq!(notes.words(), (vec![("first", "invalid")], "invalid"));
    for end in [notes.attempts()[0].end, notes.requests()[0].end] {
        assert!(!end.is_failure() && !end.is_success(), "{end:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_within_a_hedge_of_another_sends_first_attempts() {
    let seen = Arc::<Mutex<Vec<_>>>::default();
    let notes = Notes::default();
    let kinds = Arc::clone(&seen);
    let endpoint = service_fn(move |n: u64| {
        let kind = (AttemptKind::current(), AttemptKind::is_hedge());
        kinds.lock().unwrap().push(kind);
        ready(Ok::<_, BoxError>(n))
    });
    let list = || ServiceList::new(vec![endpoint.clone()]);
    let plain = Stack::cloned(Answers::default()).build_plain(list());
    let plain = plain.unwrap().service;
    let told = Stack::cloned(Answers::default()).telemetry(told(&notes));
    let told = told.build_plain(list()).unwrap().service;

    // The first attempt hangs. The hedge beside it calls the other two clients, as a layer that fetches a
    // token does.
    let calls = Arc::<AtomicU32>::default();
    let outer = service_fn(move |n: u64| {
        let hangs = calls.fetch_add(1, Relaxed) == 0;
        let (plain, told) = (plain.clone(), told.clone());
        async move {
            if hangs {
                pending::<()>().await;
            }
            plain.oneshot(n).await?;
            told.oneshot(n).await
        }
    });
    let stack = Stack::cloned(Answers::default()).hedge(HedgeSettings::new().delay(20 * MS));
    let outer = stack.build_plain(ServiceList::new(vec![outer; 2]));
    outer.unwrap().service.oneshot(1).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [(AttemptKind::First, false); 2]);
    assert_eq!(notes.words(), (vec![("first", "success")], "success"));
    assert!(!notes.requests()[0].hedged);
}

#[tokio::test(start_paused = true)]
async fn no_hedge_has_answered_a_request_that_ends_with_an_error() {
    let calls = Arc::<AtomicU32>::default();
    let service = service_fn(move |_: u64| {
        let n = calls.fetch_add(1, Relaxed);
        async move {
            match n {
                // The first attempt fails after the hedge has got an error status.
                0 => sleep(50 * MS).await,
                1 => {
                    let mut response = Response::new(Full::<Bytes>::default());
                    *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
                    return Ok(response);
                }
                _ => {}
            }
            Err::<_, BoxError>("no response".into())
        }
    });
    let notes = Notes::default();
    let stack = Stack::cloned(Http::default())
        .telemetry(told(&notes))
        .hedge(HedgeSettings::new().delay(20 * MS))
        .retry(RetrySettings::new().max_attempts(2.try_into().unwrap()));
    let services = ServiceList::new(vec![service; 3]);
    let client = stack.build_plain(services).unwrap().service;
    client.oneshot(1).await.map(drop).unwrap_err();
    let request = notes.requests().remove(0);
    assert_eq!(request.end.ended.as_str(), "other");
    assert!(request.attempts >= 3 && !request.hedged, "{request:?}");
}

type Part = Result<Frame<Bytes>, BoxError>;

/// What is reported of a request whose response has these parts, when it is read to its end.
macro_rules! read {
    ($classify:expr, $parts:expr) => {{
        let notes = Notes::default();
        let service = service_fn(|_: u64| {
            let parts: Vec<Part> = $parts;
            let body = StreamBody::new(stream::iter(parts));
            ready(Ok::<_, BoxError>(Response::new(body)))
        });
        let stack = Stack::cloned($classify).telemetry(told(&notes));
        let services = ServiceList::new(vec![service]);
        let client = stack.build_plain(services).unwrap().service;
        let response = client.oneshot(1).await.unwrap();
        let _ = response.into_body().collect().await;
        notes
    }};
}

fn data() -> Part {
    Ok(Frame::data(Bytes::from_static(b"data")))
}

fn status(code: &'static str) -> Part {
    let status = (
        http::HeaderName::from_static("grpc-status"),
        http::HeaderValue::from_static(code),
    );
    Ok(Frame::trailers(HeaderMap::from_iter([status])))
}

#[tokio::test]
async fn a_response_that_breaks_off_is_an_error_whatever_the_protocol() {
    fn broken() -> Vec<Part> {
        vec![data(), Err("the connection broke".into())]
    }
    for notes in [
        read!(Http::default(), broken()),
        read!(Grpc::default(), broken()),
    ] {
        assert_eq!(notes.words(), (vec![("first", "connection")], "connection"));
        for end in [notes.attempts()[0].end, notes.requests()[0].end] {
            assert!(end.is_failure() && end.to_end.is_none(), "{end:?}");
        }
    }
}

#[tokio::test]
async fn the_trailers_of_a_call_say_how_it_ended() {
    for (code, word) in [("0", "success"), ("5", "success"), ("14", "failure")] {
        let notes = read!(Grpc::default(), vec![data(), status(code)]);
        assert_eq!(notes.words(), (vec![("first", word)], word));
        for end in [notes.attempts()[0].end, notes.requests()[0].end] {
            let code = ResponseStatus::Grpc(code.parse().unwrap());
            assert_eq!(end.status, Some(code));
            assert!(end.to_end.is_some());
        }
    }
    let notes = read!(Grpc::default(), vec![data()]);
    assert_eq!(notes.words(), (vec![("first", "failure")], "failure"));
}

#[tokio::test]
async fn the_panic_of_a_monitor_is_logged_once() {
    let (log, _guard) = Log::start(tracing::Level::ERROR);
    let telemetry = Telemetry::new()
        .service("web")
        .monitor(on_request(|_, _| panic!("in the monitor")))
        .monitor(on_attempt(|_, _| panic!("in another monitor")));
    let stack = Stack::cloned(Answers::default()).telemetry(telemetry);
    let built = stack.build_plain(ServiceList::new(vec![Noop; 2])).unwrap();
    for n in 0..10 {
        built.service.clone().oneshot(n).await.unwrap();
    }
    let text = log.take();
    assert_eq!(text.matches("a monitor panicked").count(), 1, "{text}");
}

#[tokio::test]
async fn reports_of_responses_with_bodies_allocate_nothing() {
    let page = |_: u64| {
        let body = Full::<Bytes>::from(Bytes::from_static(b"page"));
        ready(Ok::<_, Infallible>(Response::new(body)))
    };
    let notes = Arc::<AtomicU32>::default();
    let count = Arc::clone(&notes);
    let telemetry = Telemetry::new()
        .service("web")
        .monitor(on_request(move |_, end| {
            assert!(end.to_end.is_some());
            count.fetch_add(1, Relaxed);
        }));
    let stack = Stack::cloned(Http::default()).telemetry(telemetry);
    let services = ServiceList::new(vec![service_fn(page); 4]);
    let mut client = stack.build_plain(services).unwrap().service;
    for n in 0..100 {
        client.ready().await.unwrap().call(n).await.unwrap();
    }
    let before = notes.load(Relaxed);
    let counted = allocation_counter::measure(|| {
        let cx = &mut Context::from_waker(Waker::noop());
        for n in 0..1_000 {
            assert!(client.poll_ready(cx).is_ready());
            let call = pin!(client.call(n));
            let Poll::Ready(Ok(response)) = call.poll(cx) else {
                panic!("it answers at once");
            };
            let mut body = pin!(response.into_body());
            while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(cx) {
                frame.unwrap();
            }
        }
    });
    let reported = notes.load(Relaxed) - before;
    assert_eq!((counted.count_total, reported), (0, 1_000));
}
