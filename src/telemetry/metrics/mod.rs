//! Metrics, by the facade of the `metrics` crate, so that any exporter fits.
//!
//! Requests and attempts are counted where they end. What the parts of a client know anyway (endpoints by state,
//! budget, breaker, registry) is read once per [interval](Metrics::interval) by a task that ends with the client.
//! [`docs::metrics`](crate::docs::metrics) lists all metrics.

mod client;
mod endpoint;
mod follow;
mod names;

pub(super) use self::{client::ClientMetrics, endpoint::EndpointMetrics, follow::follow};

use std::{fmt, sync::Arc, time::Duration};

use ::metrics::{
    Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, SharedString, Unit,
    with_recorder,
};

use self::names::{ALL, Kind};
use super::report::EndpointTag;
use crate::error::{ConfigError, check_range};

static METADATA: Metadata<'static> = Metadata::new("tower_roster", Level::INFO, None);

/// Half of the interval at which Prometheus usually scrapes.
const INTERVAL: Duration = Duration::from_secs(5);

/// By what the metrics of endpoints are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cardinality {
    /// By endpoint: label `endpoint`, the key.
    #[default]
    Endpoint,
    /// By zone: label `zone`; empty for endpoints without one.
    Zone,
    /// By this field of the metadata, such as `version`: label `version`; empty for endpoints without it.
    Version,
    /// Not at all: one set of metrics per service.
    None,
}

/// Settings of the metrics of a client.
///
/// The handles of an endpoint's metrics are made with the endpoint and dropped with it; a request looks nothing
/// up. The facade has no way to remove a series, so set an idle timeout in the recorder (for
/// `metrics-exporter-prometheus` its `idle_timeout`, above the [interval](Self::interval)): series of endpoints
/// that are gone disappear, and those of present ones are touched at each interval.
///
/// # Examples
/// ```
/// use tower_roster::telemetry::{Cardinality, Metrics, Telemetry};
///
/// let metrics = Metrics::new().by(Cardinality::Zone);
/// let telemetry = Telemetry::new().service("user-service").metrics(metrics);
/// ```
#[derive(Clone)]
pub struct Metrics {
    recorder: Option<Arc<dyn Recorder + Send + Sync>>,
    by: Cardinality,
    interval: Duration,
}

impl Metrics {
    /// Metrics by endpoint, for the recorder that is installed when the client is made.
    pub fn new() -> Self {
        Self {
            recorder: None,
            by: Cardinality::Endpoint,
            interval: INTERVAL,
        }
    }

    /// Sets by what the metrics of endpoints are told apart; by endpoint unless set.
    #[must_use]
    pub fn by(mut self, by: Cardinality) -> Self {
        self.by = by;
        self
    }

    /// Sets how often what the parts of the client know is read; 5 s unless set, at least 1 ms. With 10,000
    /// endpoints one reading takes some milliseconds of the driver's task.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Uses this recorder, instead of the one that is installed for the process.
    #[must_use]
    pub fn recorder(mut self, recorder: Arc<dyn Recorder + Send + Sync>) -> Self {
        self.recorder = Some(recorder);
        self
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        check_range(
            "metrics.interval",
            self.interval,
            Duration::from_millis(1)..,
        )
    }

    fn with<T>(&self, run: impl FnOnce(&dyn Recorder) -> T) -> T {
        match &self.recorder {
            Some(recorder) => run(&**recorder),
            None => with_recorder(run),
        }
    }

    /// Describes all metrics.
    fn describe(&self) {
        self.with(|recorder| {
            for metric in ALL {
                let (name, help) = (metric.name.into(), SharedString::const_str(metric.help));
                match metric.kind {
                    Kind::Counter => recorder.describe_counter(name, Some(Unit::Count), help),
                    Kind::Gauge => recorder.describe_gauge(name, None, help),
                    Kind::Histogram => {
                        recorder.describe_histogram(name, Some(Unit::Seconds), help);
                    }
                }
            }
        });
    }

    fn counter(&self, name: &'static str, labels: Vec<Label>) -> Counter {
        let key = Key::from_parts(name, labels);
        self.with(|recorder| recorder.register_counter(&key, &METADATA))
    }

    fn gauge(&self, name: &'static str, labels: Vec<Label>) -> Gauge {
        let key = Key::from_parts(name, labels);
        self.with(|recorder| recorder.register_gauge(&key, &METADATA))
    }

    fn histogram(&self, name: &'static str, labels: Vec<Label>) -> Histogram {
        let key = Key::from_parts(name, labels);
        self.with(|recorder| recorder.register_histogram(&key, &METADATA))
    }

    /// The labels of an endpoint's metrics.
    fn labels(&self, service: &Arc<str>, tag: &EndpointTag) -> Vec<Label> {
        let mut labels = vec![label("service", service)];
        let instance = || tag.instance();
        match self.by {
            Cardinality::Endpoint => labels.push(Label::new("endpoint", tag.key().to_string())),
            Cardinality::Zone => {
                let zone = instance().and_then(|instance| instance.zone.clone());
                labels.push(label("zone", &zone.unwrap_or_else(|| Arc::from(""))));
            }
            Cardinality::Version => {
                let version = instance();
                let version = version.as_ref().and_then(|it| it.metadata.get("version"));
                let version = version.map_or("", String::as_str).to_owned();
                labels.push(Label::new("version", version));
            }
            Cardinality::None => {}
        }
        labels
    }
}

fn label(name: &'static str, value: &Arc<str>) -> Label {
    Label::new(name, SharedString::from(Arc::clone(value)))
}

/// Two are equal if they have the same recorder and the same settings.
impl PartialEq for Metrics {
    fn eq(&self, other: &Self) -> bool {
        let same = match (&self.recorder, &other.recorder) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        same && self.by == other.by && self.interval == other.interval
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("by", &self.by)
            .field("interval", &self.interval)
            .finish_non_exhaustive()
    }
}
