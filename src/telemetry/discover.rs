//! A discovery whose endpoints report their attempts.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::Stream;
use tower::discover::{Change, Discover};

use super::{endpoint::MonitoredEndpoint, report::EndpointTag, settings::Reports};
use crate::{classify::Answers, endpoint::Endpoint};

/// A discovery whose endpoints report their attempts, for a client that is assembled by hand.
///
/// # Examples
/// ```
/// # #[cfg(all(feature = "http", feature = "memory"))]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower::BoxError> {
/// use tower::Layer;
/// use tower_roster::{
///     balance::BalanceLayer,
///     classify::Http,
///     client::HttpEndpoints,
///     registry,
///     telemetry::{MonitoredDiscover, Telemetry, on_attempt},
/// };
/// # type Body = http_body_util::Empty<bytes::Bytes>;
///
/// let telemetry = Telemetry::new().service("user-service").monitor(on_attempt(|attempt, end| {
///     println!("{}: {}", attempt.endpoint.key(), end.ended);
/// }));
/// let reports = telemetry.build()?;
/// let registry = registry::connect("memory:")?;
/// let discover = registry.watch("user-service")?.discover(HttpEndpoints::<Body>::new());
/// let discover = MonitoredDiscover::new(discover, &reports).classify(Http::default());
/// let balance = BalanceLayer::builder().classify(Http::default()).build()?.balance(discover);
/// reports.follow(&balance.handle(), None, None);
/// let client = reports.layer().classify(Http::default()).layer(balance);
/// # drop(client);
/// # Ok(())
/// # }
/// # #[cfg(not(all(feature = "http", feature = "memory")))]
/// # fn main() {}
/// ```
#[derive(Clone, Debug)]
pub struct MonitoredDiscover<D, C = Answers> {
    discover: D,
    reports: Reports,
    classify: C,
}

impl<D> MonitoredDiscover<D> {
    /// Reports the attempts at all endpoints of a discovery.
    pub fn new(discover: D, reports: &Reports) -> Self {
        Self {
            discover,
            reports: reports.clone(),
            classify: Answers,
        }
    }
}

impl<D, C> MonitoredDiscover<D, C> {
    /// Sets the classifier that judges responses, and decides when an attempt is complete: with its response
    /// ([`Answers`], the default), or with the body of the response (`Http` and `Grpc`).
    #[must_use]
    pub fn classify<C2>(self, classify: C2) -> MonitoredDiscover<D, C2> {
        MonitoredDiscover {
            discover: self.discover,
            reports: self.reports,
            classify,
        }
    }
}

impl<D, S, C> Stream for MonitoredDiscover<D, C>
where
    D: Discover<Service = Endpoint<S>> + Unpin,
    C: Clone,
{
    type Item = Result<Change<D::Key, Endpoint<MonitoredEndpoint<S, C>>>, D::Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.discover).poll_discover(cx);
        polled.map_ok(|change| match change {
            Change::Insert(key, endpoint) => {
                let tag = EndpointTag::of(&endpoint);
                let classify = this.classify.clone();
                let monitored = |service| this.reports.endpoint(service, classify, tag);
                Change::Insert(key, endpoint.map(monitored))
            }
            Change::Remove(key) => Change::Remove(key),
        })
    }
}

// No field is structurally pinned.
impl<D: Unpin, C> Unpin for MonitoredDiscover<D, C> {}
