//! A client that calls a service by its name, through the whole stack.

use std::{
    error::Error,
    future::Future,
    iter,
    num::NonZeroU32,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Empty, combinators::UnsyncBoxBody};
use tower::{Service, ServiceExt, timeout::error::Elapsed, util::BoxCloneSyncService};
use tower_roster::{
    BoxError, Instance,
    balance::{self, NoEndpoint, policy, topology::ByHeaders},
    client::{Handles, HttpBody, HttpClient, HttpEndpoints, HttpError, Stack},
    discover::MakeEndpoint,
    instance::Key,
    registry::Watch,
    service::{
        breaker::{BreakerError, BreakerSettings},
        retry::{Hedgeable, Reissue, Replay, ReplayBody, RetrySettings, TryTimeout},
    },
};

use super::figures::{Figures, Summary};

type Body = Empty<Bytes>;

/// What the endpoints send: a body that retries and hedges can send again.
type Sent = Request<ReplayBody<Body>>;

/// Of one type, whether there is a breaker or not.
type Client =
    BoxCloneSyncService<Request<Body>, Response<UnsyncBoxBody<Bytes, BoxError>>, BoxError>;

/// Requests with the same value of it go to the same instance, where the policy hashes.
const KEY: HeaderName = HeaderName::from_static("x-key");

/// How a service is called. The defaults are the stack's.
#[derive(Clone, Debug)]
pub struct Settings {
    pub path: String,
    /// Of `policy::NAMES`.
    pub policy: String,
    /// The key that requests are hashed by; `{n}` in it stands for the request's number.
    pub key: String,
    pub retry: bool,
    pub hedge: bool,
    pub breaker: bool,
    pub try_timeout: Option<Duration>,
    pub timeout: Duration,
}

impl Settings {
    pub fn new(timeout: Duration) -> Self {
        Self {
            path: "/".to_owned(),
            policy: "peak-ewma".to_owned(),
            key: "{n}".to_owned(),
            retry: true,
            hedge: true,
            breaker: false,
            try_timeout: None,
            timeout,
        }
    }
}

/// Calls one service. Clones share connections, balancer and figures.
#[derive(Clone)]
pub struct Caller {
    client: Client,
    handles: Handles,
    figures: Arc<Figures>,
    again: Again,
    /// Of requests.
    number: Arc<AtomicU64>,
    uri: Uri,
    key: Arc<str>,
    timeout: Duration,
}

/// What was sent beyond the first attempts.
#[derive(Clone, Default)]
struct Again {
    retries: Arc<AtomicU64>,
    hedges: Arc<AtomicU64>,
}

impl Caller {
    /// Calls the watched service. Must be created within a runtime.
    pub fn new(watch: Watch, settings: Settings, figures: Arc<Figures>) -> Result<Self, String> {
        let Settings { path, timeout, .. } = &settings;
        if !path.starts_with('/') {
            // Else it would become a part of the host.
            return Err(format!("path {path:?} does not begin with /"));
        }
        let service = watch.query().service().clone();
        let uri = format!("http://{service}{path}")
            .parse()
            // A service may be called anything; its name then cannot stand in a URI.
            .or_else(|_| path.parse())
            .map_err(|error| format!("path {path:?}: {error}"))?;
        if HeaderValue::from_str(&settings.key).is_err() {
            return Err(format!("key {:?} cannot be sent in a header", settings.key));
        }
        let policy = policy::by_name(&settings.policy).map_err(|error| error.to_string())?;

        let again = Again::default();
        let mut retry = RetrySettings::new().try_timeout(settings.try_timeout);
        if !settings.retry {
            retry = retry.max_attempts(NonZeroU32::MIN);
        }
        let mut stack = Stack::http()
            .balance(|balance| {
                // The balancer waits for a first endpoint, but no longer than the caller does.
                let wait = (*timeout).min(Duration::from_secs(3));
                let balance = balance.policy(policy).wait(wait);
                balance.route(ByHeaders::new().key(KEY))
            })
            .reissue(Counted {
                inner: Replay::new(),
                count: Arc::clone(&again.retries),
                hedges: Arc::clone(&again.hedges),
            })
            .retry(retry)
            .timeout(*timeout);
        if !settings.hedge {
            stack = stack.hedge(None);
        }
        let endpoints = Counting {
            inner: HttpEndpoints::new().connect_timeout(Duration::from_secs(1)),
            figures: Arc::clone(&figures),
        };
        let discover = watch.discover(endpoints);
        let built = if settings.breaker {
            let stack = stack.breaker(BreakerSettings::new().name(service));
            let built = stack.build(discover);
            built.map(|built| (boxed(built.service), built.handles))
        } else {
            let built = stack.build(discover);
            built.map(|built| (boxed(built.service), built.handles))
        };
        let (client, handles) = built.map_err(|error| error.to_string())?;
        Ok(Self {
            client,
            handles,
            figures,
            again,
            number: Arc::default(),
            uri,
            key: settings.key.into(),
            timeout: settings.timeout,
        })
    }

    /// What was counted so far.
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    /// Handles to the parts of the stack.
    pub fn handles(&self) -> &Handles {
        &self.handles
    }

    /// What came of the requests so far, with what the stack did about failures.
    pub fn summary(&self) -> Summary {
        let mut summary = self.figures.summary();
        summary.retries = self.again.retries.load(Relaxed);
        summary.hedges = self.again.hedges.load(Relaxed);
        summary.budget_refused = self
            .handles
            .budget
            .as_ref()
            .map_or(0, |budget| budget.refused());
        if let Some(breaker) = &self.handles.breaker {
            summary.breaker.state = Some(breaker.state().as_str());
            summary.breaker.refused = breaker.refused();
        }
        summary
    }

    /// Sends one request and notes what came of it. Returns why it failed, when it did.
    pub async fn call(&mut self) -> Result<(), String> {
        let began = Instant::now();
        let went = Went::default();
        let outcome = match tokio::time::timeout(self.timeout, self.exchange(&went)).await {
            Ok(outcome) => outcome,
            // The balancer's own wait for an endpoint may end at the same moment.
            Err(_) => Err(self.no_instance().unwrap_or("timeout").to_owned()),
        };
        let error = outcome.as_ref().err().map(String::as_str);
        self.figures
            .note(began.elapsed(), error, went.to().as_ref());
        outcome
    }

    /// Why there is nobody to call, when that is so.
    fn no_instance(&self) -> Option<&'static str> {
        let status = self.handles.balance.status();
        if status.endpoints > 0 {
            return None;
        }
        Some(match status.registries.first() {
            Some(registry) if registry.error.is_some() => "unreachable",
            Some(registry) if registry.instances > 0 => "no_endpoint",
            _ if status.resolved => "no_instance",
            _ => "never_resolved",
        })
    }

    /// What the registry says while there is nobody to call.
    pub fn registry(&self) -> Option<String> {
        let status = self.handles.balance.status();
        let registry = status
            .registries
            .first()
            .filter(|_| status.endpoints == 0)?;
        Some(registry.to_string())
    }

    async fn exchange(&mut self, went: &Went) -> Result<(), String> {
        let mut request = Request::get(self.uri.clone());
        if !self.key.is_empty() {
            let number = self.number.fetch_add(1, Relaxed).to_string();
            request = request.header(KEY, self.key.replace("{n}", &number));
        }
        let request = request.extension(went.clone()).body(Body::new());
        let request = request.map_err(|error| error.to_string())?;
        let ready = self.client.ready().await;
        let ready = ready.map_err(|error| kind(&error).to_owned())?;
        let response = ready.call(request).await;
        let response = response.map_err(|error| kind(&error).to_owned())?;
        // Of several attempts this one was answered, and it need not be the last that was sent.
        if let Some(key) = response.extensions().get::<Key>() {
            went.set(key);
        }
        let status = response.status();
        let body = response.into_body().collect().await;
        body.map_err(|_| "body".to_owned())?;
        if status.is_server_error() {
            return Err(format!("http_{}", status.as_u16()));
        }
        Ok(())
    }
}

fn boxed<S, B>(service: S) -> Client
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: hyper::body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    Client::new(service.map_response(|response: Response<B>| {
        response.map(|body| body.map_err(Into::into).boxed_unsync())
    }))
}

/// The kind of an error, as it is counted: what the last attempt failed with.
fn kind(error: &BoxError) -> &'static str {
    if let Some(error) = BreakerError::find(&**error) {
        return if error.is_open() {
            "breaker_open"
        } else {
            "breaker_probing"
        };
    }
    if find::<Elapsed>(error).is_some() {
        return "timeout";
    }
    if find::<TryTimeout>(error).is_some() {
        return "try_timeout";
    }
    if let Some(error) = find::<HttpError>(error) {
        return match error {
            error if error.is_connect() => "connect",
            error if error.is_invalid() => "invalid",
            _ => "connection",
        };
    }
    match find::<balance::BalanceError>(error) {
        Some(error) => error.no_endpoint_reason().map_or("other", no_endpoint),
        None => "other",
    }
}

fn no_endpoint(reason: &NoEndpoint) -> &'static str {
    match reason {
        NoEndpoint::NeverResolved => "never_resolved",
        NoEndpoint::Unreachable { .. } => "unreachable",
        NoEndpoint::Empty | NoEndpoint::Missing => "no_instance",
        NoEndpoint::AllEjected(_) => "all_ejected",
        _ => "no_endpoint",
    }
}

/// An error of this type among an error and its causes.
fn find<T: Error + 'static>(error: &BoxError) -> Option<&T> {
    let first: &(dyn Error + 'static) = &**error;
    iter::successors(Some(first), |error| (*error).source()).find_map(|error| error.downcast_ref())
}

/// The instance that a request went to last; it travels with the request and its repetitions.
#[derive(Clone, Default)]
struct Went(Arc<Mutex<Option<Key>>>);

impl Went {
    fn set(&self, key: &Key) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(key.clone());
    }

    fn to(&self) -> Option<Key> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Repeats requests as `R` does, and counts how often.
#[derive(Clone)]
struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
    /// The count of the hedges below, if it is a retry's.
    hedges: Arc<AtomicU64>,
}

impl<R: Hedgeable> Hedgeable for Counted<R> {
    type Hedge = Counted<R::Hedge>;

    fn hedge(&self) -> Self::Hedge {
        Counted {
            inner: self.inner.hedge(),
            count: Arc::clone(&self.hedges),
            hedges: Arc::clone(&self.hedges),
        }
    }
}

impl<Req, R: Reissue<Req>> Reissue<Req> for Counted<R> {
    type Request = R::Request;
    type Spare = R::Spare;

    fn prepare(&self, request: Req) -> (R::Request, Option<R::Spare>) {
        self.inner.prepare(request)
    }

    fn is_idempotent(&self, spare: &R::Spare) -> bool {
        self.inner.is_idempotent(spare)
    }

    fn is_whole(&self, spare: &R::Spare) -> bool {
        self.inner.is_whole(spare)
    }

    fn supersede(&self, spare: &R::Spare) {
        self.inner.supersede(spare);
    }

    fn reissue(&self, spare: &R::Spare) -> Option<R::Request> {
        let request = self.inner.reissue(spare);
        if request.is_some() {
            self.count.fetch_add(1, Relaxed);
        }
        request
    }
}

/// Makes endpoints whose answers are counted by instance.
struct Counting {
    inner: HttpEndpoints<ReplayBody<Body>>,
    figures: Arc<Figures>,
}

impl MakeEndpoint for Counting {
    type Service = Sending;
    type Error = BoxError;

    fn make_endpoint(&mut self, instance: &Instance) -> Result<Sending, BoxError> {
        self.inner.make_endpoint(instance).map(|inner| Sending {
            inner,
            key: instance.key.clone(),
            figures: Arc::clone(&self.figures),
        })
    }
}

/// The client of one instance.
#[derive(Clone)]
struct Sending {
    inner: HttpClient<ReplayBody<Body>>,
    key: Key,
    figures: Arc<Figures>,
}

impl Service<Sent> for Sending {
    type Response = Response<HttpBody>;
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<HttpBody>, HttpError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HttpError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Sent) -> Self::Future {
        let sent = Instant::now();
        // Not with the answer: a request that is given up was sent to this instance, too.
        self.figures.note_sent(self.key.id());
        if let Some(went) = request.extensions().get::<Went>() {
            went.set(&self.key);
        }
        let answer = self.inner.call(request);
        let (key, figures) = (self.key.clone(), Arc::clone(&self.figures));
        Box::pin(async move {
            let mut answer = answer.await;
            let ok = matches!(&answer, Ok(response) if !response.status().is_server_error());
            figures.note_answer(key.id(), sent, ok);
            if let Ok(response) = &mut answer {
                response.extensions_mut().insert(key);
            }
            answer
        })
    }
}
