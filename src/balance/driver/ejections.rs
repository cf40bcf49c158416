//! Ejections: signals of requests and results of checks go to the ejector, and its decisions go to the
//! members.

use std::hash::Hash;

use tokio::time::Instant;

use super::{
    member::{Member, MemberId},
    members::Members,
    news::News,
};
use crate::{
    attempt::EndpointId,
    balance::event::BalanceEvent,
    endpoint::{
        eject::{EjectCause, Ejector, History, Recent, Signal, StepKind},
        load::LoadTracker,
    },
};

/// A signal from a request about its endpoint.
pub(super) type EndpointSignal = Box<(EndpointId, Signal)>;

/// The recent failures of all endpoints that take requests, computed at first use. In an outage every
/// endpoint sends a signal, and the sum is computed only once.
pub(super) type PeerFailures = Option<Recent>;

/// Decides which endpoints are ejected.
pub(super) struct Ejections {
    pub(super) ejector: Ejector<MemberId>,
    /// Whether requests may eject endpoints. If not, nothing is checked periodically.
    by_requests: bool,
    /// Whether an endpoint was found to fail since this was asked last.
    failing: bool,
}

impl Ejections {
    pub(super) fn new(ejector: Ejector<MemberId>, by_requests: bool) -> Self {
        Self {
            ejector,
            by_requests,
            failing: false,
        }
    }

    /// Whether an endpoint was found to fail since the last call.
    pub(super) fn take_failing(&mut self) -> bool {
        std::mem::take(&mut self.failing)
    }

    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.by_requests.then(|| self.ejector.next_deadline())
    }

    /// Restores the history of a member that was just inserted.
    pub(super) fn resume(
        &mut self,
        id: MemberId,
        weighs: bool,
        history: Option<History>,
        by_hand: bool,
        now: Instant,
    ) {
        self.ejector.set_weighed(&id, weighs);
        if let Some(history) = history {
            self.ejector.recall(&id, history, now);
        }
        if by_hand {
            self.ejector.eject(&id, now);
        }
    }

    /// Forgets a member. Returns its history, and whether it was ejected by hand.
    pub(super) fn remove(&mut self, id: MemberId, now: Instant) -> (Option<History>, bool) {
        let by_hand = self.is_by_hand(id);
        (self.ejector.remove(&id, now), by_hand)
    }

    /// The reason why a member is ejected; `None` if it is not.
    pub(super) fn cause(&self, id: MemberId) -> Option<EjectCause> {
        self.ejector.cause(&id)
    }

    pub(super) fn is_by_hand(&self, id: MemberId) -> bool {
        self.cause(id) == Some(EjectCause::ByHand)
    }

    /// Handles a signal from a request.
    pub(super) fn hear<K, S, L>(
        &mut self,
        members: &Members<K, S, L>,
        alarm: &EndpointSignal,
        peers: &mut PeerFailures,
        now: Instant,
    ) where
        K: Eq + Hash + 'static,
    {
        let (endpoint, signal) = **alarm;
        let Some(member) = members.find_endpoint(endpoint) else {
            return;
        };
        let ejector = &mut self.ejector;
        match signal {
            Signal::Tripped { round, cause } => {
                // Also if it is not ejected, because all fail alike.
                self.failing = true;
                let recent = |m: &Member<S, L>| ejector.recent(&m.id(), &m.state().health);
                let sum =
                    peers.get_or_insert_with(|| Recent::sum(members.all().iter().map(recent)));
                let own = recent(member);
                if own.is_shared_by(sum.without(own)) {
                    let endpoint = member.key();
                    tracing::debug!(%endpoint, "not ejected, others fail as much: {cause}");
                    return;
                }
                ejector.trip(&member.id(), round, cause, now);
                if ejector.cause(&member.id()).is_some() {
                    *sum = sum.without(own);
                }
            }
            Signal::Probed {
                round,
                outcome,
                latency,
            } => ejector.probed(&member.id(), round, outcome, latency, now),
        }
    }

    /// Handles the result of a health check: the endpoint counts as failing, or the check passed.
    pub(super) fn checked(&mut self, id: MemberId, failures: u32, passed: bool, now: Instant) {
        if failures > 0 {
            self.ejector.check_failed(&id, failures, now);
        } else if passed {
            // Not after a first failure, because more failures may follow.
            self.ejector.check_passed(&id, now);
        }
    }

    /// Handles the deadlines that have passed.
    pub(super) fn judge<K, S, L>(&mut self, members: &Members<K, S, L>, now: Instant)
    where
        K: Eq + Hash + 'static,
    {
        let health = |id: &MemberId| Some(&members.get(*id)?.state().health);
        self.ejector.due(now, health);
        if self.by_requests && self.ejector.is_tick_due(now) {
            let endpoints = members.all().iter().map(Member::health);
            self.ejector.tick(now, endpoints);
        }
    }

    /// Applies the decisions of the ejector. Returns whether a snapshot is due.
    pub(super) fn follow<K, S, L>(
        &mut self,
        members: &mut Members<K, S, L>,
        news: &mut News<L>,
        now: Instant,
    ) -> bool
    where
        K: Eq + Hash + 'static,
        L: LoadTracker,
    {
        let mut dirty = false;
        while let Some(step) = self.ejector.next_step() {
            let Some(member) = members.get_mut(step.key) else {
                continue;
            };
            member.follow(&step, now);
            let key = member.key().clone();
            dirty |= !matches!(step.kind, StepKind::Spared { .. });
            self.failing |= matches!(
                step.kind,
                StepKind::Ejected { .. } | StepKind::Spared { .. }
            );
            news.tell(match step.kind {
                StepKind::Ejected { cause, time } => {
                    tracing::warn!(endpoint = %key, ?time, "ejected: {cause}");
                    BalanceEvent::Ejected { key, cause, time }
                }
                StepKind::Probe => BalanceEvent::Probing { key },
                StepKind::Restored { by } => {
                    tracing::info!(endpoint = %key, "restored: {by}");
                    BalanceEvent::Restored { key, by }
                }
                StepKind::Spared { cause } => {
                    tracing::warn!(endpoint = %key, "not ejected, too many are: {cause}");
                    BalanceEvent::Spared { key, cause }
                }
            });
        }
        dirty
    }
}
