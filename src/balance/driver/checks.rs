//! Active health checks of the endpoints, if they are set.

#[cfg(feature = "_hyper")]
pub(super) use with::Checker;
#[cfg(not(feature = "_hyper"))]
pub(super) use without::Checker;

/// The result of a check.
pub(super) struct Found<K> {
    /// The endpoint.
    pub(super) key: K,
    /// Number of checks that failed in a row, once they are enough for the endpoint to count as failing;
    /// else 0.
    pub(super) failures: u32,
    /// Whether this check passed.
    pub(super) passed: bool,
}

#[cfg(feature = "_hyper")]
mod with {
    use std::{future::pending, hash::Hash};

    use tokio::time::Instant;

    use super::Found;
    use crate::{
        endpoint::{
            Facts,
            check::{HealthCheck, Prober},
        },
        instance::Address,
        rng::small_rng,
    };

    /// Checks endpoints whose address is known.
    pub(in crate::balance::driver) struct Checker<K>(Option<Prober<K>>);

    impl<K: Clone + Eq + Hash> Checker<K> {
        /// `check` must have been checked.
        pub(in crate::balance::driver) fn new(
            check: Option<HealthCheck>,
            seed: Option<u64>,
        ) -> Self {
            Self(check.map(|check| Prober::from_checked(check, small_rng(seed))))
        }

        pub(in crate::balance::driver) fn insert(
            &mut self,
            key: &K,
            facts: Option<&Facts>,
            now: Instant,
        ) {
            if let (Some(prober), Some(facts)) = (&mut self.0, facts) {
                let address: Address = facts.instance().address.clone();
                prober.insert(key.clone(), address, now);
            }
        }

        pub(in crate::balance::driver) fn remove(&mut self, key: &K) {
            if let Some(prober) = &mut self.0 {
                prober.remove(key);
            }
        }

        /// Waits for the next result.
        pub(in crate::balance::driver) async fn next(&mut self) -> Found<K> {
            let Some(prober) = &mut self.0 else {
                return pending().await;
            };
            let report = prober.next().await;
            if let Err(error) = &report.result {
                tracing::debug!("a health check failed: {error}");
            }
            Found {
                passed: report.result.is_ok(),
                key: report.key,
                failures: report.failures,
            }
        }
    }
}

#[cfg(not(feature = "_hyper"))]
mod without {
    use std::{future::pending, marker::PhantomData};

    use tokio::time::Instant;

    use super::Found;
    use crate::endpoint::Facts;

    /// Used without the feature: checks nothing.
    pub(in crate::balance::driver) struct Checker<K>(PhantomData<fn() -> K>);

    impl<K> Checker<K> {
        pub(in crate::balance::driver) fn new() -> Self {
            Self(PhantomData)
        }

        pub(in crate::balance::driver) fn insert(&mut self, _: &K, _: Option<&Facts>, _: Instant) {}

        pub(in crate::balance::driver) fn remove(&mut self, _: &K) {}

        pub(in crate::balance::driver) async fn next(&mut self) -> Found<K> {
            pending().await
        }
    }
}
