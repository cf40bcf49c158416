//! The state that all clones of a balancer share, and the pick of an endpoint for one request.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};

use super::{
    request_guard::RequestGuard,
    slots::{Hand, Slots},
    snapshot::Snapshot,
};
use crate::{
    attempt::{EndpointId, Tried},
    balance::{
        error::{BalanceError, NoEndpoint},
        handle::{BalanceHandle, BalanceStatus},
        policy::{Draw, DrawnAhead, Policy},
        registry::RegistryStatus,
        topology::{Nowhere, Wish},
    },
    endpoint::load::LoadTracker,
};

pub(crate) struct Core<S, P: Policy, C, W> {
    /// The driver ends when this is dropped. The first field, so that the driver ends before destructors
    /// of the user run.
    pub(crate) _alive: mpsc::Sender<Infallible>,
    pub(crate) slots: Slots<Snapshot<S, P>, PickMemory>,
    /// Number of endpoints that may be picked. Relaxed: only a hint for `poll_ready`; a pick reads the
    /// snapshot itself.
    pub(crate) usable: AtomicUsize,
    pub(crate) handle: BalanceHandle,
    pub(crate) classify: C,
    pub(crate) route: W,
    pub(crate) wait: Duration,
    /// The zero point of the times that requests store.
    pub(crate) epoch: Instant,
}

/// State that a pick leaves for the next pick on its thread.
#[derive(Default)]
pub(crate) struct PickMemory {
    /// The last reading of the clock.
    clock: Option<Instant>,
    /// The precomputed next pick; valid only for the same table.
    ahead: DrawnAhead,
}

/// An endpoint for one request. The request counts as in flight there from now on.
pub(crate) struct Picked<S, L: LoadTracker> {
    pub(crate) service: S,
    pub(crate) guard: RequestGuard<L>,
}

impl<S: Clone, P: Policy, C, W> Core<S, P, C, W> {
    #[inline]
    pub(crate) fn is_usable(&self) -> bool {
        self.usable.load(Relaxed) > 0
    }

    /// Picks an endpoint. An endpoint that was not tried has priority.
    #[inline]
    pub(crate) fn pick(&self, wish: Wish, tried: Tried) -> Result<Picked<S, P::Load>, NoEndpoint> {
        self.pick_where(wish, tried, |_| true)
    }

    /// Like [`pick`](Self::pick), but fails when all endpoints have been tried.
    pub(crate) fn pick_other(
        &self,
        wish: Wish,
        tried: Tried,
    ) -> Result<Picked<S, P::Load>, NoEndpoint> {
        self.pick_where(wish, tried, |id| !tried.contains(id))
    }

    #[inline]
    fn pick_where(
        &self,
        wish: Wish,
        tried: Tried,
        may: impl FnOnce(EndpointId) -> bool,
    ) -> Result<Picked<S, P::Load>, NoEndpoint> {
        let picked = self.slots.read(|snapshot, hand| {
            let Hand {
                rng,
                picks,
                kept: PickMemory { clock, ahead },
            } = hand;
            let draw = Draw::new(rng).hash(wish.hash).tried(tried);
            let mut draw = draw.since(*clock).ahead(ahead);
            let (leaf, pick, pass) = snapshot.pick(&wish, &mut draw)?;
            let state = &leaf.states[pick];
            if !may(state.id()) {
                return Err(Nowhere::Ejected);
            }
            let count = &mut picks[leaf.first + pick];
            *count = count.wrapping_add(1);
            let timed = state.tracker().times(*count) || state.is_timed();
            let began = timed.then(|| draw.now());
            if let Some(now) = draw.read() {
                *clock = Some(now);
            }
            Ok(Picked {
                guard: RequestGuard::new(state.begin(), began, pass),
                service: S::clone(&leaf.services[pick]),
            })
        });
        picked.map_err(|nowhere| self.reason(Some(nowhere)))
    }

    /// The error of a request for this reason.
    #[cold]
    pub(crate) fn no_endpoint(&self, reason: NoEndpoint) -> BalanceError {
        BalanceError::no_endpoint(reason, self.handle.status().service().cloned())
    }

    /// The reason why there is no endpoint.
    #[cold]
    pub(crate) fn reason(&self, nowhere: Option<Nowhere>) -> NoEndpoint {
        let status = self.handle.status();
        if status.endpoints == 0
            && let Some(reason) = RegistryStatus::explain(&status.registries)
        {
            return reason;
        }
        match &status {
            BalanceStatus {
                resolved: false,
                discovery_error: Some(error),
                ..
            } => NoEndpoint::Unreachable {
                since: self.epoch.elapsed(),
                error: error.to_string(),
            },
            BalanceStatus {
                resolved: false, ..
            } => NoEndpoint::NeverResolved,
            BalanceStatus { endpoints: 0, .. } => NoEndpoint::Empty,
            _ => match nowhere.or_else(|| self.slots.read(|snapshot, _| snapshot.nowhere())) {
                Some(Nowhere::Ejected) => NoEndpoint::AllEjected(status.endpoints),
                Some(Nowhere::Subset) => NoEndpoint::EmptySubset,
                Some(Nowhere::Version) => NoEndpoint::NoVersion,
                Some(Nowhere::Zone) => NoEndpoint::EmptyZone,
                // The set changed after the pick.
                Some(Nowhere::Empty) | None => NoEndpoint::Empty,
            },
        }
    }
}
