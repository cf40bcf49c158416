//! A client that calls a service by its name, through the whole stack.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Empty};
use tokio::time::{Instant, timeout_at};
use tower::{Service, ServiceExt};
use tower_roster::{
    Deadline,
    balance::{policy, topology::ByHeaders},
    client::{Handles, HttpEndpoints, HttpService, Stack},
    registry::Watch,
    service::{breaker::BreakerSettings, retry::RetrySettings},
};

#[cfg(feature = "status")]
use tower_roster::telemetry::Latencies;

use super::{
    figures::{Figures, Summary},
    settings::Settings,
};

/// Requests with the same value of it go to the same instance, where the policy hashes.
const KEY: HeaderName = HeaderName::from_static("x-key");

/// Calls one service. Clones share connections, balancer and figures.
#[derive(Clone)]
pub struct Caller {
    client: HttpService<Empty<Bytes>>,
    #[cfg(feature = "status")]
    latencies: Latencies,
    figures: Arc<Figures>,
    number: Arc<AtomicU64>,
    uri: Uri,
    settings: Arc<Settings>,
}

impl Caller {
    /// Calls the watched service. Must be created within a runtime.
    pub fn new(watch: Watch, settings: Settings, figures: Arc<Figures>) -> Result<Self, String> {
        let Settings { path, timeout, .. } = settings.clone();
        if !path.starts_with('/') {
            return Err(format!("path {path:?} does not begin with /"));
        }
        let uri = path
            .parse()
            .map_err(|error| format!("path {path:?}: {error}"))?;
        if HeaderValue::from_str(&settings.key).is_err() {
            return Err(format!("key {:?} cannot be sent in a header", settings.key));
        }
        let policy = policy::by_name(&settings.policy).map_err(|error| error.to_string())?;
        let mut retry = RetrySettings::new().try_timeout(settings.try_timeout);
        if !settings.retry {
            retry = retry.max_attempts(NonZeroU32::MIN);
        }
        // The balancer waits for a first endpoint, but no longer than the caller does.
        let wait = timeout.min(Duration::from_secs(3));
        let telemetry = settings.telemetry.clone().monitor(Arc::clone(&figures));
        #[cfg(feature = "status")]
        let latencies = Latencies::new();
        #[cfg(feature = "status")]
        let telemetry = telemetry.monitor(latencies.clone());
        let mut stack = Stack::http()
            .balance(|balance| {
                let balance = balance.policy(policy).wait(wait);
                balance.route(ByHeaders::new().key(KEY))
            })
            .retry(retry)
            .timeout(timeout)
            .telemetry(telemetry);
        if !settings.hedge {
            stack = stack.hedge(None);
        }
        let endpoints = HttpEndpoints::new().connect_timeout(Duration::from_secs(1));
        let client = if settings.breaker {
            let breaker = BreakerSettings::new().name(watch.query().service().clone());
            let stack = stack.breaker(breaker);
            stack.over(endpoints).watching(watch)
        } else {
            stack.over(endpoints).watching(watch)
        };
        Ok(Self {
            client: client.map_err(|error| error.to_string())?,
            #[cfg(feature = "status")]
            latencies,
            figures,
            number: Arc::default(),
            uri,
            settings: Arc::new(settings),
        })
    }

    /// The latencies of the instances.
    #[cfg(feature = "status")]
    pub fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    /// What was counted so far.
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    /// Handles to the parts of the stack.
    pub fn handles(&self) -> &Handles {
        self.client.handles()
    }

    /// What came of the requests so far, with what the stack did about failures.
    pub fn summary(&self) -> Summary {
        self.figures.summary(self.handles())
    }

    /// Sends one request, and reads its response. The figures are told what came of it.
    pub async fn call(&mut self) {
        let Settings { key, timeout, .. } = &*self.settings;
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.uri.clone();
        let number = self.number.fetch_add(1, Relaxed).to_string();
        if let Ok(key) = HeaderValue::try_from(key.replace("{n}", &number))
            && !key.is_empty()
        {
            request.headers_mut().insert(KEY, key);
        }
        let end = Instant::now() + *timeout;
        request.extensions_mut().insert(Deadline::at(end));
        let Ok(client) = self.client.ready().await else {
            return;
        };
        if let Ok(response) = client.call(request).await {
            let _ = timeout_at(end, response.into_body().collect()).await;
        }
    }
}
