//! Load of real endpoints over mock services.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use proptest::prelude::*;
use tokio::time::{Instant, advance};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::{Service, load::Load};
use tower_roster::{
    classify::Http,
    endpoint::{
        Endpoint, MeasuredEndpoint,
        load::{InFlight, LoadTracker, PeakEwma},
    },
};
use tower_test::mock::{self, Mock};

use crate::scripted::mock as instance;

const SECOND: Duration = Duration::from_secs(1);

type Measured = MeasuredEndpoint<Mock<u32, u32>, PeakEwma>;

fn endpoint() -> (Measured, mock::Handle<u32, u32>) {
    let (service, handle) = mock::pair();
    let endpoint = Endpoint::new(service, Arc::new(instance("a")));
    (endpoint.measured(PeakEwma::new()), handle)
}

fn cost<S, L: LoadTracker, C>(endpoint: &MeasuredEndpoint<S, L, C>) -> f64 {
    Load::load(endpoint)
}

#[track_caller]
fn assert_close(actual: f64, expected: f64) {
    assert!(
        (actual - expected).abs() <= expected * 1e-6,
        "{actual} should be {expected}"
    );
}

/// One request that takes `time` and is answered, or failed.
async fn request(
    endpoint: &mut Measured,
    handle: &mut mock::Handle<u32, u32>,
    time: Duration,
    ok: bool,
) {
    handle.allow(1);
    assert_ready_ok!(task::spawn(std::future::poll_fn(|cx| endpoint.poll_ready(cx))).poll());
    let mut response = task::spawn(endpoint.call(1));
    assert_pending!(response.poll());
    let (_, answer) = handle.next_request().await.unwrap();
    advance(time).await;
    if ok {
        answer.send_response(2);
        assert_ready_ok!(response.poll());
    } else {
        answer.send_error("broken");
        assert_ready_err!(response.poll());
    }
}

#[tokio::test(start_paused = true)]
async fn peak_ewma_follows_the_latency_of_its_endpoint() {
    let (mut endpoint, mut handle) = endpoint();
    assert_eq!(cost(&endpoint), 0.0);
    request(&mut endpoint, &mut handle, SECOND / 10, true).await;
    assert_close(cost(&endpoint), 0.1);
    request(&mut endpoint, &mut handle, SECOND, true).await;
    assert_close(cost(&endpoint), 1.0);
    advance(10 * SECOND).await;
    let w = (-1.0f64).exp();
    assert_close(cost(&endpoint), w);
    let w = (-1.01f64).exp();
    request(&mut endpoint, &mut handle, SECOND / 10, true).await;
    assert_close(cost(&endpoint), w + 0.1 * (1.0 - w));
    request(&mut endpoint, &mut handle, SECOND / 1000, false).await;
    assert_close(cost(&endpoint), 5.0);
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_waited_for_and_clones_share_what_it_finds() {
    let (mut endpoint, mut handle) = endpoint();
    let clone = endpoint.clone();
    handle.allow(1);
    assert_ready_ok!(task::spawn(std::future::poll_fn(|cx| endpoint.poll_ready(cx))).poll());
    let mut response = task::spawn(endpoint.call(1));
    assert!(cost(&clone) > 1e9 && clone.in_flight() == 1);
    assert_pending!(response.poll());
    let (_, answer) = handle.next_request().await.unwrap();
    advance(SECOND / 5).await;
    answer.send_response(2);
    assert_ready_ok!(response.poll());
    assert_close(cost(&clone), 0.2);
    assert_eq!(clone.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn weight_divides_and_failing_readiness_passes_through() {
    let (service, mut handle) = mock::pair::<u32, u32>();
    let four = Endpoint::new(service, Arc::new(instance("a").weight(4)));
    let mut four = four.measured(InFlight::new());
    assert_eq!(cost(&four), 0.25);
    handle.send_error("gone");
    let ready = task::spawn(std::future::poll_fn(|cx| four.poll_ready(cx))).poll();
    assert_ready_err!(ready);
    assert_eq!(four.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_request_gives_back_its_place_at_every_point() {
    let (mut endpoint, mut handle) = endpoint();
    for polls in 0..3 {
        handle.allow(1);
        assert_ready_ok!(task::spawn(std::future::poll_fn(|cx| endpoint.poll_ready(cx))).poll());
        let mut response = task::spawn(endpoint.call(1));
        for _ in 0..polls {
            assert_pending!(response.poll());
        }
        assert_eq!(endpoint.in_flight(), 1);
        drop(response);
        assert_eq!(endpoint.in_flight(), 0, "dropped after {polls} polls");
        let _ = handle.next_request().await;
    }
    // Answered, and dropped before anyone looked.
    handle.allow(1);
    assert_ready_ok!(task::spawn(std::future::poll_fn(|cx| endpoint.poll_ready(cx))).poll());
    let response = task::spawn(endpoint.call(1));
    let (_, answer) = handle.next_request().await.unwrap();
    answer.send_response(2);
    drop(response);
    assert_eq!(endpoint.in_flight(), 0);
}

#[test]
fn a_service_that_panics_gives_back_its_place() {
    let service = tower::service_fn(|_: ()| -> std::future::Ready<Result<(), Infallible>> {
        panic!("a defect in the service")
    });
    let endpoint = Endpoint::new(service, Arc::new(instance("a")));
    let mut endpoint = endpoint.measured(PeakEwma::new());
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        drop(endpoint.call(()));
    }));
    assert!(caught.is_err());
    assert_eq!(endpoint.in_flight(), 0);
}

/// A service that answers each request with the next of these.
fn http<B: Send + 'static>(
    response: impl Fn() -> Response<B> + Clone,
) -> MeasuredEndpoint<impl Service<(), Response = Response<B>, Error = Infallible>, PeakEwma, Http>
{
    let service = tower::service_fn(move |()| std::future::ready(Ok(response())));
    let endpoint = Endpoint::new(service, Arc::new(instance("a")));
    let measured = endpoint.measured(PeakEwma::new());
    measured.classify(Http::default())
}

#[tokio::test(start_paused = true)]
async fn over_http_a_request_is_in_flight_until_its_body_ends_or_is_dropped() {
    let mut endpoint = http(|| Response::new(Full::new(Bytes::from_static(b"hello"))));
    let response = endpoint.call(()).await.unwrap();
    assert_eq!(endpoint.in_flight(), 1);
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "hello"
    );
    assert_eq!(endpoint.in_flight(), 0);

    let response = endpoint.call(()).await.unwrap();
    assert_eq!(endpoint.in_flight(), 1);
    drop(response);
    assert_eq!(endpoint.in_flight(), 0);

    let mut bare = http(|| Response::new(Empty::<Bytes>::new()));
    let response = bare.call(()).await.unwrap();
    assert_eq!(bare.in_flight(), 0, "an empty body has ended already");
    drop(response);
}

#[tokio::test(start_paused = true)]
async fn over_http_the_length_of_a_body_is_no_latency_and_a_refusal_no_fast_answer() {
    let mut fast = http(|| Response::new(Full::new(Bytes::from_static(b"hello"))));
    let response = fast.call(()).await.unwrap();
    advance(100 * SECOND).await;
    drop(response);
    assert!(cost(&fast) < 1e-6, "the head came at once");

    for status in [429, 500, 503] {
        let refuse = move || {
            let mut response = Response::new(Empty::<Bytes>::new());
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response
        };
        let mut refusing = http(refuse);
        drop(refusing.call(()).await);
        assert_close(cost(&refusing), 5.0);
    }
}

#[tokio::test(start_paused = true)]
async fn over_http_a_body_that_breaks_off_is_a_failure() {
    let broken = || {
        let frames = [Err::<http_body::Frame<Bytes>, _>(std::io::Error::other(
            "cut",
        ))];
        Response::new(http_body_util::StreamBody::new(futures_util::stream::iter(
            frames,
        )))
    };
    let mut endpoint = http(broken);
    let response = endpoint.call(()).await.unwrap();
    assert!(response.into_body().collect().await.is_err());
    assert_eq!(endpoint.in_flight(), 0);
    assert_close(cost(&endpoint), 5.0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever mix of answers, failures and cancellations, in whatever order.
    #[test]
    fn nothing_stays_in_flight(ends in prop::collection::vec((0u8..4, 0u64..50), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let (mut endpoint, mut handle) = endpoint();
            let mut open = Vec::new();
            for (end, pause) in ends {
                handle.allow(1);
                assert_ready_ok!(
                    task::spawn(std::future::poll_fn(|cx| endpoint.poll_ready(cx))).poll()
                );
                let mut response = task::spawn(endpoint.call(1));
                if end > 0 {
                    assert_pending!(response.poll());
                }
                let (_, answer) = handle.next_request().await.unwrap();
                open.push((end, pause, response, answer));
                assert_eq!(endpoint.in_flight(), open.len());
            }
            // The shortest first, which is another order than that of the starts.
            open.sort_by_key(|(_, pause, ..)| *pause);
            for left in (0..open.len()).rev() {
                let (end, pause, mut response, answer) = open.remove(0);
                advance(Duration::from_millis(pause)).await;
                match end {
                    0 => {}
                    1 => {
                        answer.send_response(2);
                        assert_ready_ok!(response.poll());
                    }
                    2 => {
                        answer.send_error("broken");
                        assert_ready_err!(response.poll());
                    }
                    _ => drop(answer),
                }
                drop(response);
                assert_eq!(endpoint.in_flight(), left);
                assert!(endpoint.cost(Instant::now()).is_finite());
            }
        });
    }
}
