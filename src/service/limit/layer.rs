//! Settings, and the layer made of them.

use std::{fmt, sync::Arc};

use tokio::sync::Semaphore;
use tower::Layer;

use super::{gradient::Rules, handle::LimitHandle, service::AdaptiveLimit, shared::Shared};
use crate::{classify::Answers, error::ConfigError};

/// Limits calls at a time by latency and overload. See the [module](super).
///
/// One layer is one limit: all services it makes, and its clones, share it.
#[derive(Clone)]
pub struct AdaptiveLimitLayer<C = Answers> {
    classify: C,
    shared: Arc<Shared>,
}

impl AdaptiveLimitLayer {
    /// Settings to begin with: all defaults, and any answer a success.
    pub fn builder() -> Builder {
        Builder {
            classify: Answers,
            rules: Rules {
                initial: 20,
                min: 4,
                max: 1_000,
                tolerance: 1.5,
            },
        }
    }
}

impl<C> AdaptiveLimitLayer<C> {
    /// Shows the limit.
    pub fn handle(&self) -> LimitHandle {
        LimitHandle::new(Arc::clone(&self.shared))
    }
}

impl Default for AdaptiveLimitLayer {
    fn default() -> Self {
        Self::builder().finish()
    }
}

impl<S, C: Clone> Layer<S> for AdaptiveLimitLayer<C> {
    type Service = AdaptiveLimit<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        AdaptiveLimit::new(inner, self.classify.clone(), Arc::clone(&self.shared))
    }
}

impl<C> fmt::Debug for AdaptiveLimitLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdaptiveLimitLayer")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

/// Settings of an adaptive limit.
#[derive(Clone, Debug)]
#[must_use = "settings do nothing until they are built"]
pub struct Builder<C = Answers> {
    classify: C,
    rules: Rules,
}

const MOST: u32 = 1_000_000;
// The semaphore holds as many.
const _: () = assert!(MOST as usize <= Semaphore::MAX_PERMITS);

impl<C> Builder<C> {
    /// Judges by this which calls succeeded, and which found the service overloaded. Default:
    /// [`Answers`], which knows no overload: then latency alone decides.
    pub fn classify<D>(self, classify: D) -> Builder<D> {
        Builder {
            classify,
            rules: self.rules,
        }
    }

    /// The limit to begin with, within the [range](Self::range). Default: 20.
    pub fn initial(mut self, calls: u32) -> Self {
        self.rules.initial = calls;
        self
    }

    /// The smallest limit, at least 1, and the largest, up to 1 000 000. Default: 4 and 1 000. Equal,
    /// they fix it.
    pub fn range(mut self, min: u32, max: u32) -> Self {
        (self.rules.min, self.rules.max) = (min, max);
        self
    }

    /// How many times the usual latency is still no reason to shrink: from 1, where noise shrinks
    /// it, to 10. Default: 1.5.
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.rules.tolerance = tolerance;
        self
    }

    /// Makes the layer.
    ///
    /// # Errors
    /// When a setting is out of the range that its method tells.
    pub fn build(self) -> Result<AdaptiveLimitLayer<C>, ConfigError> {
        let Rules {
            initial,
            min,
            max,
            tolerance,
        } = self.rules;
        if min == 0 || min > max || max > MOST {
            let message = format!("{min} and {max} must be from 1 to {MOST}, in this order");
            return Err(ConfigError::new("range", message));
        }
        if !(min..=max).contains(&initial) {
            let message = format!("{initial} must be from {min} to {max}, the range");
            return Err(ConfigError::new("initial", message));
        }
        // NaN is in no range.
        if !(1.0..=10.0).contains(&tolerance) {
            let message = format!("{tolerance} must be from 1 to 10");
            return Err(ConfigError::new("tolerance", message));
        }
        Ok(self.finish())
    }

    /// Makes the layer of settings known to be valid.
    fn finish(self) -> AdaptiveLimitLayer<C> {
        AdaptiveLimitLayer {
            classify: self.classify,
            shared: Arc::new(Shared::new(self.rules)),
        }
    }
}
