//! The layer.

use std::sync::Arc;

use tower::Layer;

use super::{service::Hedge, shared::HedgeShared};
use crate::{
    classify::Answers,
    service::retry::{Cloned, RetryBudget},
};
#[cfg(feature = "http")]
use crate::{
    classify::Http,
    service::retry::{Replay, ShareReplay},
};

/// Sends slow requests a second time. [`HedgeSettings`](super::HedgeSettings) makes it; the default
/// has the default settings.
///
/// Services made by one layer, and its clones, share the measured delay and the share.
///
/// # Examples
/// Alone, with a measured delay:
/// ```
/// use tower::{BoxError, ServiceBuilder, ServiceExt};
/// use tower_roster::service::hedge::HedgeLayer;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let service = ServiceBuilder::new()
///     .layer(HedgeLayer::default())
///     .service(tower::service_fn(|n: u32| async move { Ok::<_, BoxError>(n + 1) }));
/// assert_eq!(service.oneshot(1).await?, 2);
/// # Ok(())
/// # }
/// ```
///
/// Below a retry, with one budget for both and a fixed delay:
/// ```
/// use std::time::Duration;
/// use tower::{BoxError, ServiceBuilder, ServiceExt};
/// use tower_roster::service::{
///     hedge::HedgeSettings,
///     retry::{RetryBudget, RetryLayer},
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let budget = RetryBudget::new();
/// let hedge = HedgeSettings::new()
///     .delay(Duration::from_millis(40))
///     .build()?
///     .shared_budget(budget.clone());
/// let service = ServiceBuilder::new()
///     .layer(RetryLayer::default().shared_budget(budget))
///     .layer(hedge)
///     .service(tower::service_fn(|n: u32| async move { Ok::<_, BoxError>(n + 1) }));
/// assert_eq!(service.oneshot(1).await?, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct HedgeLayer<R = Cloned, C = Answers> {
    shared: HedgeShared<R, C>,
}

impl<R, C> HedgeLayer<R, C> {
    pub(super) fn new(shared: HedgeShared<R, C>) -> Self {
        Self { shared }
    }

    /// Sets which requests may be hedged, and how; by default all, as [clones](Cloned).
    #[must_use]
    pub fn reissue<D>(self, reissue: D) -> HedgeLayer<D, C> {
        HedgeLayer::new(self.shared.map(|_, classify| (reissue, classify)))
    }

    /// Sets what counts as a failure, which waits for the other attempt; by default every error
    /// does, and no response does. A response without a verdict wins.
    #[must_use]
    pub fn classify<D>(self, classify: D) -> HedgeLayer<R, D> {
        HedgeLayer::new(self.shared.map(|reissue, _| (reissue, classify)))
    }

    /// Hedges HTTP requests with an idempotent method. Each attempt gets the body from [a shared
    /// copy](Replay). [`Http`] judges the responses.
    #[cfg(feature = "http")]
    #[must_use]
    pub fn http(self) -> HedgeLayer<Replay, Http> {
        // A request that may not be repeated needs no copy here.
        self.reissue(Replay::new().reclaiming()).classify(Http)
    }

    /// Hedges HTTP requests of a retry above, and shares its copies of the body.
    #[cfg(feature = "http")]
    #[must_use]
    pub fn http_below_retry(self) -> HedgeLayer<ShareReplay, Http> {
        self.reissue(ShareReplay::new()).classify(Http)
    }

    /// Replaces the share by a budget, into which each attempt deposits. Use it for a reserve that
    /// time refills, or for a share over more than a second. Every client has its own reserve.
    #[must_use]
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.shared.budget = budget;
        self
    }

    /// Also draws on the budget of a retry above, which makes the deposits: it bounds hedges and
    /// retries together.
    #[must_use]
    pub fn shared_budget(mut self, budget: RetryBudget) -> Self {
        self.shared.shared = Some(budget);
        self
    }
}

impl<S, R: Clone, C: Clone> Layer<S> for HedgeLayer<R, C> {
    type Service = Hedge<S, R, C>;

    fn layer(&self, service: S) -> Self::Service {
        Hedge {
            service,
            shared: Arc::new(self.shared.clone()),
        }
    }
}
