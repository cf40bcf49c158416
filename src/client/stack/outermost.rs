//! The outermost layer of a stack.

use tower::Layer;

use crate::{
    error::ConfigError,
    service::breaker::{Breaker, BreakerHandle, BreakerLayer, BreakerSettings},
};

/// The outermost layer of a [`Stack`](super::Stack): [`NoBreaker`], a breaker of its own by its
/// [settings](BreakerSettings), or a shared [breaker](BreakerLayer).
///
/// It is a type parameter, so that a stack without a breaker has no check and no wrapped body.
pub trait Outermost<S, C>: CheckedOutermost {
    /// The service with the outermost layer.
    type Service;

    /// Puts the layer around a service whose calls `classify` judges.
    ///
    /// # Errors
    /// When a setting is out of its range.
    fn wrap(&self, service: S, classify: C) -> Result<Wrapped<Self::Service>, ConfigError>;
}

/// A service, and the handle to its breaker, if it has one.
type Wrapped<S> = (S, Option<BreakerHandle>);

/// No circuit breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NoBreaker;

impl<S, C> Outermost<S, C> for NoBreaker {
    type Service = S;

    fn wrap(&self, service: S, _: C) -> Result<Wrapped<S>, ConfigError> {
        Ok((service, None))
    }
}

impl<S, C: Clone> Outermost<S, C> for BreakerSettings {
    type Service = Breaker<S, C>;

    fn wrap(&self, service: S, classify: C) -> Result<Wrapped<Self::Service>, ConfigError> {
        self.build()?.wrap(service, classify)
    }
}

impl<S, C: Clone> Outermost<S, C> for BreakerLayer {
    type Service = Breaker<S, C>;

    fn wrap(&self, service: S, classify: C) -> Result<Wrapped<Self::Service>, ConfigError> {
        let layer = self.clone().classify(classify);
        Ok((layer.layer(service), Some(self.handle())))
    }
}

pub(crate) use sealed::CheckedOutermost;

mod sealed {
    use super::{BreakerLayer, BreakerSettings, ConfigError, NoBreaker};

    /// Checks the settings of the layer.
    pub trait CheckedOutermost {
        fn check(&self) -> Result<(), ConfigError>;
    }

    impl CheckedOutermost for NoBreaker {
        fn check(&self) -> Result<(), ConfigError> {
            Ok(())
        }
    }

    impl CheckedOutermost for BreakerSettings {
        fn check(&self) -> Result<(), ConfigError> {
            self.build().map(drop)
        }
    }

    impl CheckedOutermost for BreakerLayer {
        fn check(&self) -> Result<(), ConfigError> {
            Ok(())
        }
    }
}
