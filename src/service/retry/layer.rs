//! The layer.

use std::{error::Error, sync::atomic::Ordering::Relaxed};

use tower::Layer;

#[cfg(feature = "http")]
use super::Replay;
use super::{
    budget::{RetryBudget, SlotEnd},
    reissue::Cloned,
    service::Retry,
    terms::{RetryParts, RetryShared, Terms},
};
use crate::classify::Answers;
#[cfg(feature = "http")]
use crate::classify::Http;

/// Retries failed requests. [`RetrySettings`](super::RetrySettings) makes it; the default has the
/// default settings.
///
/// Services made by one layer, and its clones, share one budget.
///
/// # Examples
/// Any request that is `Clone`, up to three attempts; every error is a failure:
/// ```
/// use tower::{BoxError, ServiceBuilder, ServiceExt};
/// use tower_roster::service::retry::RetryLayer;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let service = ServiceBuilder::new()
///     .layer(RetryLayer::default())
///     .service(tower::service_fn(|request: &'static str| async move {
///         Ok::<_, BoxError>(format!("{request}, world"))
///     }));
/// assert_eq!(service.oneshot("hello").await?, "hello, world");
/// # Ok(())
/// # }
/// ```
///
/// HTTP requests, with a limit for each attempt and one for all of them:
/// ```
/// # #[cfg(feature = "http")]
/// # fn main() -> Result<(), tower_roster::ConfigError> {
/// use std::{num::NonZeroU32, time::Duration};
/// use tower_roster::{
///     Backoff,
///     backoff::Jitter,
///     service::retry::{BudgetSettings, RetrySettings},
/// };
///
/// let backoff = Backoff::exponential(Duration::from_millis(10))?;
/// let layer = RetrySettings::new()
///     .delay(backoff.jitter(Jitter::Decorrelated))
///     .max_attempts(NonZeroU32::new(4).unwrap())
///     .try_timeout(Duration::from_secs(1))
///     .deadline(Duration::from_secs(3))
///     .budget(BudgetSettings::new().ratio(0.1))
///     .build()?
///     .http();
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "http"))]
/// # fn main() {}
/// ```
#[derive(Clone, Debug)]
pub struct RetryLayer<R = Cloned, C = Answers> {
    parts: RetryParts<R, C>,
}

impl<R, C> RetryLayer<R, C> {
    pub(super) fn new(parts: RetryParts<R, C>) -> Self {
        Self { parts }
    }

    /// Sets which requests may be repeated, and how; by default all, as [clones](Cloned).
    #[must_use]
    pub fn reissue<D>(self, reissue: D) -> RetryLayer<D, C> {
        let RetryParts {
            classify,
            mut terms,
            ..
        } = self.parts;
        // Its requests may have deadlines of their own.
        terms
            .shared
            .get_or_insert_with(|| RetryShared::new(None, None));
        RetryLayer::new(RetryParts {
            reissue,
            classify,
            terms,
        })
    }

    /// Sets what counts as a failure; by default every error does, and no response does.
    #[must_use]
    pub fn classify<D>(self, classify: D) -> RetryLayer<R, D> {
        let RetryParts { reissue, terms, .. } = self.parts;
        RetryLayer::new(RetryParts {
            reissue,
            classify,
            terms,
        })
    }

    /// Repeats HTTP requests with an idempotent method and a body of up to 64 KiB, and any request
    /// that was certainly not sent. [`Http`] judges the responses. The inner service gets
    /// `http::Request<ReplayBody<B>>`.
    #[cfg(feature = "http")]
    #[must_use]
    pub fn http(self) -> RetryLayer<Replay, Http> {
        self.reissue(Replay::new()).classify(Http)
    }

    /// Sets which errors prove that a request was not sent, so that it is retried even if it is not
    /// idempotent. By default [`is_unsent`](crate::classify::is_unsent).
    #[must_use]
    pub fn unsent(mut self, unsent: fn(&(dyn Error + 'static)) -> bool) -> Self {
        self.parts.terms.rules.unsent = unsent;
        self
    }

    /// Replaces the budget by one that other layers draw on, too. This layer makes the deposits.
    #[must_use]
    pub fn shared_budget(mut self, budget: RetryBudget) -> Self {
        let Terms { rules, shared } = &mut self.parts.terms;
        rules.needs_time = true;
        let seed = shared.as_ref().and_then(|it| it.seed.as_ref());
        // Relaxed: the seeds only have to differ.
        let seed = seed.map(|seed| seed.load(Relaxed));
        *shared = Some(RetryShared::new(Some(budget), seed));
        self
    }

    /// The budget, unless there is none.
    pub fn budget(&self) -> Option<&RetryBudget> {
        self.parts.terms.budget()
    }
}

impl<S, R: Clone, C: Clone> Layer<S> for RetryLayer<R, C> {
    type Service = Retry<S, R, C>;

    fn layer(&self, service: S) -> Self::Service {
        Retry {
            service,
            settings: self.parts.clone(),
            slot: SlotEnd::default(),
        }
    }
}
