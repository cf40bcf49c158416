//! What a monitor is told of requests and attempts.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex},
};

use http::Response;
use http_body_util::BodyExt;
use tower::{Layer, Service, ServiceExt, discover::ServiceList};
use tower_roster::{
    BoxError,
    attempt::AttemptKind,
    balance::BalanceLayer,
    classify::{Answers, Http, ResponseStatus},
    client::{Handles, Stack},
    registry::memory::Memory,
    service::{breaker::BreakerSettings, hedge::HedgeSettings, retry::RetrySettings},
    telemetry::{AttemptInfo, End, Monitor, MonitoredDiscover, RequestInfo, Telemetry, on_request},
};

use crate::kit::*;

/// What was reported of one attempt.
#[derive(Clone, Debug)]
pub(crate) struct Tried {
    request: u64,
    pub(crate) number: u32,
    kind: AttemptKind,
    endpoint: String,
    pub(crate) end: End,
}

/// What was reported of one request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    number: u64,
    pub(crate) attempts: u32,
    pub(crate) hedged: bool,
    endpoint: Option<String>,
    pub(crate) end: End,
}

/// How many attempts began, and how attempts and requests ended.
type Noted = (u32, Vec<Tried>, Vec<Asked>);

#[derive(Clone, Default)]
pub(crate) struct Notes(Arc<Mutex<Noted>>);

impl Monitor for Notes {
    fn attempt_began(&self, _: &AttemptInfo<'_>) {
        self.0.lock().unwrap().0 += 1;
    }

    fn attempt_ended(&self, attempt: &AttemptInfo<'_>, end: &End) {
        assert_eq!(attempt.service, "web");
        self.0.lock().unwrap().1.push(Tried {
            request: attempt.request,
            number: attempt.number,
            kind: attempt.kind,
            endpoint: attempt.endpoint.key().id().to_owned(),
            end: *end,
        });
    }

    fn request_ended(&self, request: &RequestInfo<'_>, end: &End) {
        assert_eq!(request.service, "web");
        self.0.lock().unwrap().2.push(Asked {
            number: request.number,
            attempts: request.attempts,
            hedged: request.hedged,
            endpoint: request.endpoint.map(|tag| tag.key().id().to_owned()),
            end: *end,
        });
    }
}

impl Notes {
    pub(crate) fn attempts(&self) -> Vec<Tried> {
        self.0.lock().unwrap().1.clone()
    }

    /// Forgets all of it.
    pub(crate) fn forget(&self) {
        *self.0.lock().unwrap() = Default::default();
    }

    pub(crate) fn requests(&self) -> Vec<Asked> {
        self.0.lock().unwrap().2.clone()
    }

    /// The words of all attempts and of the one request, after every attempt that began has ended.
    pub(crate) fn words(&self) -> (Vec<(&'static str, &'static str)>, &'static str) {
        let (began, attempts, requests) = &*self.0.lock().unwrap();
        assert_eq!(
            *began as usize,
            attempts.len(),
            "each ends once: {attempts:?}"
        );
        assert_eq!(requests.len(), 1, "{requests:?}");
        let sent = requests[0].attempts as usize;
        assert_eq!(sent, attempts.len());
        let mut attempts = attempts.clone();
        attempts.sort_by_key(|attempt| attempt.number);
        for (place, attempt) in attempts.iter().enumerate() {
            assert_eq!(attempt.number as usize, place + 1);
            assert_eq!(attempt.request, requests[0].number);
        }
        let words = attempts.iter();
        let words = words.map(|it| (it.kind.as_str(), it.end.ended.as_str()));
        (words.collect(), requests[0].end.ended.as_str())
    }
}

pub(crate) type Stacked = Stack<
    tower_roster::balance::policy::DefaultPolicy,
    Http,
    tower_roster::service::retry::Replay,
    tower_roster::service::retry::ShareReplay,
>;

pub(crate) type Answer = Result<Response<Vec<u8>>, BoxError>;

/// A client of these servers, which is called with a request and returns the whole response.
pub(crate) async fn client(
    stack: Stacked,
    servers: &[Server],
    notes: &Notes,
) -> (
    impl Service<
        http::Request<Body>,
        Response = Response<
            impl http_body::Body<Data = bytes::Bytes, Error: Into<BoxError>> + Unpin,
        >,
        Error = BoxError,
        Future: Send,
    > + Clone
    + Send
    + 'static,
    Handles,
) {
    let stack = stack.telemetry(Telemetry::new().service("web").monitor(notes.clone()));
    let built = stack.build(discover(servers.iter().map(Server::instance)));
    let built = built.unwrap();
    let known = |status: &tower_roster::balance::BalanceStatus| status.usable == servers.len();
    built.handles.balance.wait_for(known).await.unwrap();
    (built.service, built.handles)
}

pub(crate) async fn whole<S, B>(client: &S, request: http::Request<Body>) -> Answer
where
    S: Service<http::Request<Body>, Response = Response<B>, Error = BoxError> + Clone,
    B: http_body::Body<Data = bytes::Bytes, Error: Into<BoxError>>,
{
    let response = client.clone().oneshot(request).await?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(Into::into)?;
    Ok(Response::from_parts(head, body.to_bytes().to_vec()))
}

#[tokio::test]
async fn a_plain_request_is_reported_with_its_endpoint_status_and_times() {
    let servers = servers(["a", "b"]).await;
    let notes = Notes::default();
    let (client, _) = client(Stack::http(), &servers, &notes).await;
    let answer = whole(&client, get("/")).await.unwrap();
    assert_eq!(notes.words(), (vec![("first", "success")], "success"));
    let (attempt, request) = (notes.attempts().remove(0), notes.requests().remove(0));
    assert_eq!(attempt.endpoint.as_bytes(), answer.body());
    assert_eq!(request.endpoint, Some(attempt.endpoint));
    assert!(!request.hedged);
    for end in [attempt.end, request.end] {
        assert_eq!(end.status, Some(ResponseStatus::Http(200)));
        let (head, whole) = (end.to_head.unwrap(), end.to_end.unwrap());
        assert!(head <= whole && whole == end.elapsed, "{end:?}");
    }
    assert!(attempt.end.to_head <= request.end.to_head);
    // Numbers differ.
    whole(&client, get("/")).await.unwrap();
    let numbers: Vec<_> = notes.requests().iter().map(|it| it.number).collect();
    assert!(numbers[0] > 0 && numbers[0] != numbers[1]);
}

#[tokio::test]
async fn retries_are_reported_with_the_failures_before_them() {
    let servers = servers(["a", "b"]).await;
    for server in &servers {
        server.set_for(1, Mode::Status(500));
    }
    let notes = Notes::default();
    let (client, _) = client(Stack::http().hedge(None), &servers, &notes).await;
    whole(&client, get("/")).await.unwrap();
    let attempts = vec![
        ("first", "failure"),
        ("retry", "failure"),
        ("retry", "success"),
    ];
    assert_eq!(notes.words(), (attempts, "success"));
    assert_eq!(
        notes.attempts()[0].end.status,
        Some(ResponseStatus::Http(500))
    );
}

#[tokio::test]
async fn an_endpoint_without_a_connection_is_reported_and_so_is_the_next() {
    let servers = servers(["a", "b"]).await;
    let notes = Notes::default();
    let (client, _) = client(Stack::http(), &servers, &notes).await;
    let [gone, stays] = servers;
    drop(gone);
    for _ in 0..20 {
        whole(&client, post("/")).await.unwrap();
    }
    drop(stays);
    let resent = |it: &Tried| it.kind == AttemptKind::Resend;
    let attempts = notes.attempts();
    assert!(attempts.iter().any(|it| resent(it) && it.end.is_success()));
    let unsent = attempts
        .iter()
        .filter(|it| it.end.ended.as_str() == "connect");
    assert_eq!(
        unsent.count(),
        attempts.iter().filter(|it| resent(it)).count(),
        "each connection that failed is followed by another endpoint"
    );
    assert_eq!(notes.requests().len(), 20);
    assert!(notes.requests().iter().all(|it| it.end.is_success()));
}

#[tokio::test]
async fn a_hedge_that_wins_and_the_attempt_that_loses_are_reported_once_each() {
    let servers = servers(["a", "b"]).await;
    for server in &servers {
        server.set_for(1, Mode::Hang);
    }
    let notes = Notes::default();
    let stack = Stack::http().hedge(HedgeSettings::new().delay(20 * MS));
    let (client, _) = client(stack, &servers, &notes).await;
    let call = {
        let client = client.clone();
        tokio::spawn(async move { whole(&client, get("/")).await.map(|_| ()) })
    };
    until("the first attempt hangs", async || {
        servers.iter().any(|server| server.waiting() > 0)
    })
    .await;
    for server in servers.iter().filter(|server| server.waiting() == 0) {
        server.set(Mode::Good);
    }
    call.await.unwrap().unwrap();
    let attempts = vec![("first", "hedge_lost"), ("hedge", "success")];
    assert_eq!(notes.words(), (attempts, "success"));
    let (attempts, request) = (notes.attempts(), notes.requests().remove(0));
    assert!(request.hedged);
    let won = attempts.iter().find(|it| it.kind == AttemptKind::Hedge);
    assert_eq!(request.endpoint.as_ref(), won.map(|it| &it.endpoint));
}

#[tokio::test]
async fn timeouts_and_callers_that_leave_are_reported_as_such() {
    let servers = servers(["a", "b"]).await;
    servers.iter().for_each(|server| server.set(Mode::Hang));

    let notes = Notes::default();
    let two = RetrySettings::new().max_attempts(NonZeroU32::new(2).unwrap());
    let stack = Stack::http().hedge(None).retry(two.try_timeout(50 * MS));
    let (timed, _) = client(stack, &servers, &notes).await;
    whole(&timed, get("/")).await.unwrap_err();
    let attempts = vec![("first", "try_timeout"), ("retry", "try_timeout")];
    assert_eq!(notes.words(), (attempts, "try_timeout"));

    let notes = Notes::default();
    let stack = Stack::http().hedge(None).timeout(50 * MS);
    let (timed, _) = client(stack, &servers, &notes).await;
    whole(&timed, get("/")).await.unwrap_err();
    assert_eq!(notes.words(), (vec![("first", "timeout")], "timeout"));

    let notes = Notes::default();
    let (left, _) = client(Stack::http().hedge(None), &servers, &notes).await;
    let call = whole(&left, get("/"));
    assert!(tokio::time::timeout(50 * MS, call).await.is_err());
    assert_eq!(
        notes.words(),
        (vec![("first", "caller_left")], "caller_left")
    );
}

#[tokio::test]
async fn a_response_that_is_dropped_before_its_end_has_no_end() {
    let servers = servers(["a"]).await;
    let notes = Notes::default();
    let (client, _) = client(Stack::http(), &servers, &notes).await;
    let response = client.clone().oneshot(get("/")).await.unwrap();
    assert!(notes.attempts().is_empty(), "it has not ended");
    drop(response);
    assert_eq!(notes.words(), (vec![("first", "success")], "success"));
    let end = notes.attempts()[0].end;
    assert!(end.to_head.is_some() && end.to_end.is_none());
}

#[tokio::test]
async fn a_request_that_reaches_no_endpoint_is_reported_with_the_reason() {
    let notes = Notes::default();
    let telemetry = || Telemetry::new().service("web").monitor(notes.clone());
    let built = Stack::http()
        .telemetry(telemetry())
        .build(discover_in(Memory::new()));
    let error = whole(&built.unwrap().service, get("/")).await.unwrap_err();
    assert_eq!(notes.words(), (vec![], "no_instance"), "{error}");

    notes.0.lock().unwrap().2.clear();
    let [server] = servers(["a"]).await;
    let stack = Stack::http().breaker(BreakerSettings::new());
    let built = stack
        .telemetry(telemetry())
        .build(discover([server.instance()]));
    let built = built.unwrap();
    built.handles.breaker.unwrap().force_open();
    whole(&built.service, get("/")).await.unwrap_err();
    assert_eq!(notes.words(), (vec![], "breaker_open"));
    assert_eq!(notes.requests()[0].endpoint, None);
}

#[tokio::test]
async fn a_client_assembled_by_hand_reports_the_same() {
    let servers = servers(["a"]).await;
    let notes = Notes::default();
    let telemetry = Telemetry::new().service("web").monitor(notes.clone());
    let reports = telemetry.build().unwrap();
    let discover = MonitoredDiscover::new(discover([servers[0].instance()]), &reports);
    let balance = BalanceLayer::builder()
        .classify(Http::default())
        .build()
        .unwrap();
    let balance = balance.balance(discover.classify(Http::default()));
    let client = reports.layer().classify(Http::default()).layer(balance);
    let request = get("/").map(|_| unreachable_body());
    let response = client.clone().oneshot(request).await.unwrap();
    response.into_body().collect().await.unwrap();
    assert_eq!(notes.words(), (vec![("first", "success")], "success"));
}

/// A body as the endpoints of [`discover`] take it.
fn unreachable_body() -> tower_roster::service::retry::ReplayBody<Body> {
    let (request, _) = tower_roster::service::retry::Reissue::prepare(
        &tower_roster::service::retry::Replay::new(),
        get("/"),
    );
    request.into_body()
}

#[tokio::test]
async fn a_monitor_that_panics_costs_no_request() {
    let [server] = servers(["a"]).await;
    let telemetry = Telemetry::new()
        .service("web")
        .monitor(on_request(|_, _| panic!("in the monitor")));
    let stack = Stack::http().telemetry(telemetry);
    let built = stack.build(discover([server.instance()])).unwrap();
    for _ in 0..3 {
        assert_eq!(send(&built.service, get("/")).await.unwrap().0, 200);
    }
}

#[derive(Clone)]
struct Noop;

impl Service<u64> for Noop {
    type Response = u64;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<u64, std::convert::Infallible>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, n: u64) -> Self::Future {
        std::future::ready(Ok(n))
    }
}

#[tokio::test]
async fn reports_allocate_nothing() {
    let seen = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = Arc::clone(&seen);
    let telemetry = Telemetry::new()
        .service("web")
        .monitor(on_request(move |request, _| {
            let attempts = request.attempts.into();
            count.fetch_add(attempts, std::sync::atomic::Ordering::Relaxed);
        }));
    let stack = Stack::cloned(Answers::default()).telemetry(telemetry);
    let built = stack.build_plain(ServiceList::new(vec![Noop; 4])).unwrap();
    let mut client = built.service;
    for n in 0..100 {
        client.ready().await.unwrap().call(n).await.unwrap();
    }
    let before = seen.load(std::sync::atomic::Ordering::Relaxed);
    let counted = allocation_counter::measure(|| {
        let cx = &mut std::task::Context::from_waker(std::task::Waker::noop());
        for n in 0..1_000 {
            assert!(client.poll_ready(cx).is_ready());
            let call = std::pin::pin!(client.call(n));
            assert!(std::future::Future::poll(call, cx).is_ready());
        }
    });
    let reported = seen.load(std::sync::atomic::Ordering::Relaxed) - before;
    assert_eq!((counted.count_total, reported), (0, 1_000));
}

#[tokio::test]
async fn an_http_service_reports_under_the_name_of_its_service() {
    let [server] = servers(["a"]).await;
    let memory = Memory::new();
    list(&memory, server.instance());
    let notes = Notes::default();
    let stack = Stack::http().telemetry(Telemetry::new().monitor(notes.clone()));
    let registry = tower_roster::Registry::new(memory);
    let client = stack.connect(&registry, "web").unwrap();
    whole(&client, get("/")).await.unwrap();
    assert_eq!(notes.words(), (vec![("first", "success")], "success"));
}
