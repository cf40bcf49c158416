//! What all clones of a balancer share, and how one request gets its endpoint.

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
        error::NoEndpoint,
        handle::{BalanceHandle, BalanceStatus},
        policy::{Ahead, Draw, Policy},
        registry::RegistryStatus,
        topology::{Nowhere, Wish},
    },
    endpoint::load::LoadTracker,
};

pub(crate) struct Core<S, P: Policy, C, W> {
    pub(crate) slots: Slots<Snapshot<S, P>, Kept>,
    /// Endpoints that may be picked. Relaxed: a hint for `poll_ready`, a pick looks for itself.
    pub(crate) usable: AtomicUsize,
    pub(crate) handle: BalanceHandle,
    pub(crate) classify: C,
    pub(crate) route: W,
    pub(crate) wait: Duration,
    /// The zero point of the times that requests keep.
    pub(crate) epoch: Instant,
    /// The driver ends when this is dropped.
    pub(crate) _alive: mpsc::Sender<Infallible>,
}

/// What a pick leaves for the next one on its thread.
#[derive(Default)]
pub(crate) struct Kept {
    /// When the clock was read last.
    clock: Option<Instant>,
    /// What the next pick is, if it is from the same table.
    ahead: Ahead,
}

/// An endpoint for one request, which counts there from now on.
pub(crate) struct Picked<S, L: LoadTracker> {
    pub(crate) service: S,
    pub(crate) guard: RequestGuard<L>,
}

impl<S: Clone, P: Policy, C, W> Core<S, P, C, W> {
    #[inline]
    pub(crate) fn is_usable(&self) -> bool {
        self.usable.load(Relaxed) > 0
    }

    /// Picks an endpoint that is not among those tried, if there is one.
    #[inline]
    pub(crate) fn pick(&self, wish: Wish, tried: Tried) -> Result<Picked<S, P::Load>, NoEndpoint> {
        self.pick_where(wish, tried, |_| true)
    }

    /// The same, and nowhere when all have been tried.
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
                kept: Kept { clock, ahead },
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

    /// Why there is no endpoint.
    #[cold]
    pub(crate) fn reason(&self, nowhere: Option<Nowhere>) -> NoEndpoint {
        let status = self.handle.status();
        if status.endpoints == 0 {
            if let Some(reason) = RegistryStatus::explain(&status.registries) {
                return reason;
            }
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
                // It changed between the pick and now.
                Some(Nowhere::Empty) | None => NoEndpoint::Empty,
            },
        }
    }
}
