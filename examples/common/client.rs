//! A client that calls a service by its name, through tower's own balancer.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use tower::{Service, ServiceExt, balance::p2c::Balance, buffer::Buffer};
use tower_roster::{
    BoxError, Instance,
    client::{HttpClient, HttpEndpoints, HttpError},
    discover::MakeEndpoint,
    instance::Key,
    registry::{State, Watch},
};

use super::figures::Figures;

type Body = Empty<Bytes>;

/// Calls one service. Clones share connections, balancer and figures.
#[derive(Clone)]
pub struct Caller {
    balance: Buffer<Request<Body>, Answering>,
    watch: Watch,
    figures: Arc<Figures>,
    uri: Uri,
    timeout: Duration,
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Incoming>, BoxError>> + Send>>;

impl Caller {
    /// Calls `path` of the watched service. Must be created within a runtime.
    pub fn new(
        watch: Watch,
        path: &str,
        timeout: Duration,
        figures: Arc<Figures>,
    ) -> Result<Self, String> {
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
        let endpoints = Counting {
            inner: HttpEndpoints::new().connect_timeout(Duration::from_secs(1)),
            figures: Arc::clone(&figures),
        };
        let discover = watch.clone().discover(endpoints);
        let balance = Balance::new(discover);
        let balance = balance.map_future(|answer| Box::pin(answer) as Answering);
        Ok(Self {
            balance: Buffer::new(balance, 1_024),
            watch,
            figures,
            uri,
            timeout,
        })
    }

    /// Sends one request and notes what came of it. Returns why it failed, when it did.
    pub async fn call(&mut self) -> Result<(), String> {
        let began = Instant::now();
        let outcome = match tokio::time::timeout(self.timeout, self.exchange()).await {
            Ok(outcome) => outcome,
            // The balancer waits for ever while there is no endpoint.
            Err(_) => Err(match self.watch.view() {
                view if !view.instances.is_empty() => "timeout".to_owned(),
                view if view.state == State::Pending => "never_resolved".to_owned(),
                _ => "no_instance".to_owned(),
            }),
        };
        self.figures
            .note(began.elapsed(), outcome.as_ref().err().map(String::as_str));
        outcome
    }

    async fn exchange(&mut self) -> Result<(), String> {
        let request = Request::get(self.uri.clone())
            .body(Body::new())
            .map_err(|error| error.to_string())?;
        let ready = self.balance.ready().await.map_err(kind)?;
        let response = ready.call(request).await.map_err(kind)?;
        let status = response.status();
        response
            .into_body()
            .collect()
            .await
            .map_err(|_| "body".to_owned())?;
        if status.is_server_error() {
            return Err(format!("http_{}", status.as_u16()));
        }
        Ok(())
    }
}

/// The kind of an error, as it is counted.
fn kind(error: BoxError) -> String {
    match error.downcast_ref::<HttpError>() {
        Some(error) if error.is_connect() => "connect".to_owned(),
        Some(_) => "connection".to_owned(),
        None => "balancer".to_owned(),
    }
}

/// Makes endpoints whose answers are counted by instance.
struct Counting {
    inner: HttpEndpoints<Body>,
    figures: Arc<Figures>,
}

impl MakeEndpoint for Counting {
    type Service = Counted;
    type Error = BoxError;

    fn make_endpoint(&mut self, instance: &Instance) -> Result<Counted, BoxError> {
        self.inner.make_endpoint(instance).map(|inner| Counted {
            inner,
            key: instance.key.clone(),
            figures: Arc::clone(&self.figures),
        })
    }
}

/// The client of one instance.
#[derive(Clone)]
struct Counted {
    inner: HttpClient<Body>,
    key: Key,
    figures: Arc<Figures>,
}

impl Service<Request<Body>> for Counted {
    type Response = Response<Incoming>;
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, HttpError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HttpError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let sent = Instant::now();
        // Not with the answer: a request that is given up was sent to this instance, too.
        self.figures.note_sent(self.key.id());
        let answer = self.inner.call(request);
        let (key, figures) = (self.key.clone(), Arc::clone(&self.figures));
        Box::pin(async move {
            let answer = answer.await;
            let ok = matches!(&answer, Ok(response) if !response.status().is_server_error());
            figures.note_answer(key.id(), sent, ok);
            answer
        })
    }
}
