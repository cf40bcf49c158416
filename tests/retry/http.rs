//! Retries of HTTP requests.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_roster::{
    Backoff, Deadline,
    classify::{self, Classify, Unsent, Verdict},
    service::retry::{
        BudgetSettings, Replay, ReplayBody, RetryError, RetryLayer, RetrySettings, Stop,
    },
};

type Body = Full<Bytes>;
type Seen = Arc<Mutex<Vec<(Request<()>, Bytes)>>>;

fn by_status() -> impl Classify<Response<Bytes>, BoxError> {
    classify::from_fn(|result: Result<&Response<Bytes>, &BoxError>| match result {
        Ok(response) if !response.status().is_server_error() => Verdict::SUCCESS,
        _ => Verdict::FAILURE,
    })
}

fn is_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

fn plain(replay: Replay) -> RetryLayer<Replay, impl Classify<Response<Bytes>, BoxError>> {
    let settings = RetrySettings::new().delay(Backoff::fixed(crate::kit::MS));
    let layer = settings.build().unwrap().reissue(replay);
    layer.classify(by_status()).unsent(is_refused)
}

/// Reads `read` bytes of each request, or all of it, then answers by the script.
async fn exchange(
    replay: Replay,
    request: Request<Body>,
    script: &[(usize, Result<u16, io::ErrorKind>)],
) -> (Result<StatusCode, BoxError>, Vec<(Request<()>, Bytes)>) {
    let seen = Seen::default();
    let mut script = VecDeque::from(script.to_vec());
    let script = Arc::new(Mutex::new(move || {
        script.pop_front().unwrap_or((usize::MAX, Ok(200)))
    }));
    let server = {
        let seen = seen.clone();
        service_fn(move |request: Request<ReplayBody<Body>>| {
            let (seen, (limit, result)) = (seen.clone(), (script.lock().unwrap())());
            async move {
                let (head, mut body) = request.into_parts();
                let mut read = Vec::new();
                while read.len() < limit {
                    let Some(frame) = body.frame().await else {
                        break;
                    };
                    read.extend_from_slice(&frame?.into_data().unwrap_or_default());
                }
                let request = Request::from_parts(head, ());
                seen.lock().unwrap().push((request, read.into()));
                let status = result.map_err(|kind| BoxError::from(io::Error::from(kind)))?;
                let response = Response::builder().status(status);
                Ok::<_, BoxError>(response.body(Bytes::new()).unwrap())
            }
        })
    };
    let mut retry = plain(replay).layer(server);
    let result = retry.ready().await.unwrap().call(request).await;
    let seen = seen.lock().unwrap().drain(..).collect();
    (result.map(|response| response.status()), seen)
}

fn request(method: Method, body: &'static str) -> Request<Body> {
    let request = Request::builder().method(method).uri("/a?b=c");
    let request = request.header("x-id", "1").extension(7u8);
    request.body(Body::from(body)).unwrap()
}

const BROKE: (usize, Result<u16, io::ErrorKind>) =
    (usize::MAX, Err(io::ErrorKind::ConnectionReset));
const REFUSED: (usize, Result<u16, io::ErrorKind>) = (0, Err(io::ErrorKind::ConnectionRefused));

#[tokio::test(start_paused = true)]
async fn idempotent_methods_are_sent_again_whole() {
    for method in [
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::TRACE,
        Method::PUT,
        Method::DELETE,
    ] {
        let script = [
            (usize::MAX, Ok(503)),
            (0, Err(io::ErrorKind::ConnectionReset)),
        ];
        let request = request(method.clone(), "hello");
        let (result, seen) = exchange(Replay::new(), request, &script).await;
        assert_eq!(result.unwrap(), 200);
        assert_eq!(seen.len(), 3, "{method}");
        for (head, body) in [&seen[0], &seen[2]] {
            assert_eq!(body, "hello");
            assert_eq!((head.method(), head.uri().path()), (&method, "/a"));
            assert_eq!(head.headers()["x-id"], "1");
            assert_eq!(head.extensions().get::<u8>(), Some(&7));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn other_methods_are_sent_once() {
    for method in [Method::POST, Method::PATCH, Method::CONNECT] {
        let (result, seen) =
            exchange(Replay::new(), request(method.clone(), "hello"), &[BROKE]).await;
        let error = result.unwrap_err().downcast::<RetryError>().unwrap();
        assert_eq!(
            (error.stop(), seen.len()),
            (Stop::NotIdempotent, 1),
            "{method}"
        );
        let script = [(usize::MAX, Ok(503))];
        let (result, seen) = exchange(Replay::new(), request(method, "hello"), &script).await;
        assert_eq!((result.unwrap().as_u16(), seen.len()), (503, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn other_methods_are_sent_again_if_they_were_not_sent() {
    let request = request(Method::POST, "hello");
    let (result, seen) = exchange(Replay::new(), request, &[REFUSED, REFUSED]).await;
    assert_eq!(result.unwrap(), 200);
    assert_eq!(seen[2].1, "hello");
}

#[tokio::test(start_paused = true)]
async fn a_long_body_is_sent_again_only_while_it_is_untouched() {
    let replay = Replay::new().limit(4);
    let put = || request(Method::PUT, "hello");
    let (result, seen) = exchange(replay, put(), &[BROKE]).await;
    let error = result.unwrap_err().downcast::<RetryError>().unwrap();
    assert_eq!((error.stop(), seen.len()), (Stop::NotReplayable, 1));
    assert!(error.is_not_repeatable());
    // Answered before the body was read.
    let (result, seen) = exchange(replay, put(), &[(0, Ok(503))]).await;
    assert_eq!((result.unwrap().as_u16(), seen.len()), (200, 2));
    assert_eq!(seen[1].1, "hello");
}

#[tokio::test(start_paused = true)]
async fn by_default_a_status_of_5xx_is_a_failure_and_retry_after_is_obeyed() {
    let start = tokio::time::Instant::now();
    let calls = Arc::new(AtomicUsize::new(0));
    let server = service_fn(move |_: Request<ReplayBody<Body>>| {
        let response = match calls.fetch_add(1, Relaxed) {
            0 => Response::builder().status(503).header("retry-after", "2"),
            _ => Response::builder(),
        };
        async move { Ok::<_, BoxError>(response.body(Body::default()).unwrap()) }
    });
    let mut retry = RetryLayer::default().http().layer(server);
    let call = retry.ready().await.unwrap().call(request(Method::GET, ""));
    assert_eq!(call.await.unwrap().status(), 200);
    let (least, most) = (crate::kit::SEC * 2, crate::kit::SEC * 3 + crate::kit::MS);
    assert!(
        (least..=most).contains(&start.elapsed()),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn the_user_says_what_may_be_repeated() {
    let replay = Replay::new().idempotent(|head| head.headers.contains_key("x-id"));
    let (result, _) = exchange(replay, request(Method::POST, "hello"), &[BROKE]).await;
    assert_eq!(result.unwrap(), 200);
    let mut put = request(Method::PUT, "hello");
    put.headers_mut().clear();
    let (result, seen) = exchange(replay, put, &[BROKE]).await;
    assert!(result.is_err() && seen.len() == 1);
}

/// Refuses as often as `refusals` says, and gives what it refuses back or not; then answers with the body.
fn refuses(
    refusals: usize,
    gives_back: bool,
) -> impl Service<Request<ReplayBody<Body>>, Response = Response<Bytes>, Error = BoxError, Future: Send>
+ Clone {
    let left = Arc::new(AtomicUsize::new(refusals));
    service_fn(move |request: Request<ReplayBody<Body>>| {
        let left = Arc::clone(&left);
        async move {
            if left
                .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1))
                .is_ok()
            {
                let error = Unsent::new("no connection");
                return Err(BoxError::from(if gives_back {
                    error.with_request(request)
                } else {
                    error
                }));
            }
            assert_eq!(request.headers()["x-trace"], "7");
            let body = request.into_body().collect().await?.to_bytes();
            Ok(Response::new(body))
        }
    })
}

async fn post(refusals: usize, gives_back: bool) -> Result<Bytes, BoxError> {
    let settings = RetrySettings::new().delay(Backoff::fixed(crate::kit::MS));
    let layer = settings.build().unwrap().classify(by_status());
    let layer = layer.reissue(Replay::new().reclaiming());
    let mut retry = layer.layer(refuses(refusals, gives_back));
    let request = Request::post("/users").header("x-trace", "7");
    let request = request.body(Body::from("data")).unwrap();
    let answer = retry.ready().await?.call(request).await?;
    Ok(answer.into_body())
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_unsent_is_sent_again_without_a_copy() {
    for refusals in 0..3 {
        let answer = post(refusals, true).await.expect("it is sent in the end");
        assert_eq!(answer, "data");
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_come_back_is_not_sent_again_where_no_copy_was_kept() {
    let error = post(1, false).await.expect_err("it is lost");
    let error = error.downcast_ref::<RetryError>().expect("of the retry");
    assert_eq!((error.stop(), error.tries()), (Stop::NotReplayable, 1));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_has_no_time_for_its_retry_comes_back_to_the_caller() {
    let settings = RetrySettings::new().delay(Backoff::fixed(crate::kit::MS * 10));
    let layer = settings.deadline(crate::kit::MS * 5).build().unwrap();
    let layer = layer.classify(by_status());
    let layer = layer.reissue(Replay::new().reclaiming());
    let mut retry = layer.layer(refuses(3, true));
    let request = Request::post("/users").header("x-trace", "7");
    let request = request.body(Body::from("data")).unwrap();
    let error = retry
        .ready()
        .await
        .unwrap()
        .call(request)
        .await
        .unwrap_err();
    let stop = error
        .downcast_ref::<RetryError>()
        .expect("of the retry")
        .stop();
    assert_eq!(stop, Stop::Deadline, "the second waits for the backoff");
    let request = classify::reclaim::<Request<ReplayBody<Body>>>(&*error);
    let body = request.expect("it was not sent").into_body();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "data");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_up_comes_back_to_the_caller() {
    let error = post(3, true)
        .await
        .expect_err("it was sent as often as allowed");
    let request = classify::reclaim::<Request<ReplayBody<Body>>>(&*error);
    let body = request.expect("it was not sent").into_body();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "data");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_after_its_deadline_pays_for_no_retry() {
    let budget = BudgetSettings::new().ratio(1.0).reserve(0).build().unwrap();
    let layer = RetrySettings::new().build().unwrap().classify(by_status());
    let layer = layer.reissue(Replay::new()).shared_budget(budget.clone());
    let mut retry = layer.layer(refuses(0, true));
    for (time, paid) in [(0, 0), (1_000, 1)] {
        let request = Request::post("/users").header("x-trace", "7");
        let mut request = request.body(Body::from("data")).unwrap();
        let deadline = Deadline::within(crate::kit::MS * time);
        request.extensions_mut().insert(deadline);
        let sent = retry.ready().await.unwrap().call(request).await.is_ok();
        assert_eq!(sent, time > 0);
        let available = budget.available(tokio::time::Instant::now());
        assert_eq!(available, paid);
    }
}
