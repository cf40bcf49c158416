//! What layers make of a response that exceeds a limit of the client: the endpoint has answered, whichever
//! part of the response exceeds it, and whichever layer judges.

use std::{
    error::Error,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use tokio::time::Instant;
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_roster::{
    classify::{self, Http, Outcome, Verdict},
    client::{HttpClient, HttpEndpoints},
    discover::MakeEndpoint,
    endpoint::{Endpoint, load::LoadTracker},
    service::{
        breaker::BreakerSettings, hedge::HedgeSettings, limit::LimitSettings,
        throttle::ThrottleSettings,
    },
    telemetry::{Telemetry, on_request},
};

use crate::{raw::Raw, scripted::at};

type Body = Empty<Bytes>;

/// A server whose responses exceed a limit.
struct Case {
    what: &'static str,
    addr: SocketAddr,
    requests: Box<dyn Fn() -> usize>,
    #[cfg(feature = "http2")]
    http2: bool,
}

impl Case {
    async fn http1(late: bool, what: &'static str, answer: String) -> Self {
        let answer = move |_: &str| (answer.clone(), false);
        let server = match late {
            true => Raw::late(answer).await,
            false => Raw::start(answer).await,
        };
        Self {
            what,
            addr: server.addr,
            requests: Box::new(move || server.requests()),
            #[cfg(feature = "http2")]
            http2: false,
        }
    }

    #[cfg(feature = "http2")]
    async fn http2(late: bool, what: &'static str, frames: Vec<crate::frames::Frame>) -> Self {
        let server = match late {
            true => crate::frames::Frames::late(frames).await,
            false => crate::frames::Frames::start(move |_| frames.clone()).await,
        };
        Self {
            what,
            addr: server.addr,
            requests: Box::new(move || server.requests()),
            http2: true,
        }
    }

    fn client<B>(&self) -> HttpClient<B>
    where
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
    {
        let mut endpoints = HttpEndpoints::new();
        #[cfg(feature = "http2")]
        if self.http2 {
            // Far below a quarter of what the server sends.
            endpoints = endpoints.http2().max_header_size(1_000);
        }
        endpoints.make_endpoint(&at("a", self.addr)).unwrap()
    }
}

async fn cases() -> Vec<Case> {
    cases_that_come(false).await
}

/// If they come late, the first request is answered when a second one comes, which is not answered.
async fn cases_that_come(late: bool) -> Vec<Case> {
    let fields = |fields, bytes: usize| {
        let field = |n| format!("x-{n:05}: {}\r\n", "0".repeat(bytes));
        (0..fields).map(field).collect::<String>()
    };
    let head = |fields| format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{fields}\r\nok");
    let trailers = |fields| {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n";
        format!("{head}{fields}\r\n")
    };
    let cases = vec![
        Case::http1(late, "many fields in a head", head(fields(600, 10))).await,
        Case::http1(late, "a long head", head(fields(1, 600_000))).await,
        Case::http1(late, "many trailers", trailers(fields(600, 10))).await,
        Case::http1(late, "long trailers", trailers(fields(1, 600_000))).await,
    ];
    #[cfg(feature = "http2")]
    let cases = {
        use crate::frames::{END_STREAM, head, trailers};

        let mut cases = cases;
        let fields = [("ab", "01234567890123456789"); 400];
        let one = vec![head(END_STREAM, &fields)];
        cases.push(Case::http2(late, "a head of HTTP/2", one).await);
        let two = vec![head(0, &[]), trailers(&fields)];
        cases.push(Case::http2(late, "trailers of HTTP/2", two).await);
        cases
    };
    cases
}

/// Sends a request and reads its response. Returns the error of the head or of the body.
async fn error<S, B>(service: &S) -> BoxError
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>> + Clone,
    B: http_body::Body<Error: Into<BoxError>>,
{
    let request = Request::get("http://web/").body(Body::new()).unwrap();
    match service.clone().oneshot(request).await {
        Ok(response) => match response.into_body().collect().await {
            Ok(_) => panic!("it exceeds a limit"),
            Err(error) => error.into(),
        },
        Err(error) => error.into(),
    }
}

/// Writes down every outcome.
#[derive(Clone, Debug, Default)]
struct Outcomes(Arc<Mutex<Vec<Outcome>>>);

impl LoadTracker for Outcomes {
    fn fresh(&self, _: Instant) -> Self {
        self.clone()
    }

    fn record(&self, outcome: Outcome, _: Duration, _: Instant) {
        self.0.lock().unwrap().push(outcome);
    }

    fn penalize(&self, _: Instant) {
        self.0.lock().unwrap().push(Outcome::Failure);
    }

    fn load(&self, _: usize, _: Instant) -> f64 {
        1.0
    }
}

#[tokio::test]
async fn the_error_names_the_limit() {
    for case in cases().await {
        let error = error(&case.client()).await;
        assert!(classify::is_over_limit(&*error), "{}: {error:?}", case.what);
        let first: &(dyn Error + 'static) = &*error;
        let mut chain = std::iter::successors(Some(first), |error| (*error).source());
        let named = chain.any(|error| error.to_string().contains("(max_header_size)"));
        assert!(named, "{}: {error:?}", case.what);
    }
}

#[tokio::test]
async fn it_is_reported_as_too_large_and_as_no_failure() {
    for case in cases().await {
        let ends = Arc::<Mutex<Vec<_>>>::default();
        let notes = Arc::clone(&ends);
        let monitor = on_request(move |_, end| notes.lock().unwrap().push(*end));
        let reports = Telemetry::new().monitor(monitor).build().unwrap();
        let layer = reports.layer();
        error(&layer.classify(Http::default()).layer(case.client())).await;
        let ends = ends.lock().unwrap();
        let [end] = &ends[..] else {
            panic!("{}: {ends:?}", case.what);
        };
        assert_eq!(end.ended.as_str(), "too_large", "{}", case.what);
        assert!(!end.is_failure(), "{}: {end:?}", case.what);
    }
}

#[tokio::test]
async fn it_is_no_failure_for_the_load_of_an_endpoint() {
    for case in cases().await {
        let outcomes = Outcomes::default();
        let endpoint = Endpoint::new(case.client(), Arc::new(at("a", case.addr)));
        let endpoint = endpoint
            .measured(outcomes.clone())
            .classify(Http::default());
        error(&endpoint).await;
        let outcomes = outcomes.0.lock().unwrap().clone();
        assert_eq!(outcomes, [Outcome::Success], "{}", case.what);
    }
}

#[tokio::test]
async fn it_is_no_failure_for_a_breaker_or_a_throttle() {
    for case in cases().await {
        let settings = BreakerSettings::new().min_calls(2);
        let breaker = settings.build().unwrap().classify(Http::default());
        let throttle = ThrottleSettings::new().min_calls(1);
        let throttle = throttle.build().unwrap().classify(Http::default());
        let service = throttle.layer(breaker.layer(case.client()));
        for _ in 0..10 {
            error(&service).await;
        }
        let counts = breaker.handle().counts();
        assert_eq!((counts.total, counts.failed), (10, 0), "{}", case.what);
        assert_eq!(throttle.handle().probability(), 0.0, "{}", case.what);
    }
}

#[tokio::test]
async fn it_is_no_overload_for_an_adaptive_limit() {
    for case in cases().await {
        let limit = LimitSettings::new().build().unwrap();
        let limit = limit.classify(classify::from_fn(|answer: Result<_, _>| match answer {
            Ok(_) => Verdict::SUCCESS,
            Err(_) => Verdict::OVERLOADED,
        }));
        let before = limit.handle().limit();
        let service = limit.layer(case.client());
        for _ in 0..5 {
            // The limit changes once in a tenth of a second at most.
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(1)).await;
            tokio::time::resume();
            error(&service).await;
        }
        assert_eq!(limit.handle().limit(), before, "{}", case.what);
    }
}

/// The first attempt ends while a second one waits, which would wait for ever.
#[tokio::test]
async fn it_is_no_reason_to_wait_for_a_second_attempt() {
    for case in cases_that_come(true).await {
        let settings = HedgeSettings::new().delay(Duration::from_millis(20));
        let service = settings.build().unwrap().http().layer(case.client());
        let error = tokio::time::timeout(Duration::from_secs(10), error(&service)).await;
        let error = error.expect(case.what);
        assert!(classify::is_over_limit(&*error), "{}: {error:?}", case.what);
        assert_eq!((case.requests)(), 2, "{}", case.what);
    }
}
