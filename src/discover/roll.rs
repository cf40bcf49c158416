//! Tracks which instances have an endpoint, and decides the next step. Pure, except that it calls the
//! maker.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicU64},
};

use rand::rngs::SmallRng;
use tokio::time::Instant;

use super::MakeEndpoint;
use crate::{
    backoff::{Backoff, after},
    catalog::{Delta, InstanceSet, diff},
    endpoint::Facts,
    error::BoxError,
    instance::{Instance, Key},
    rng::small_rng,
    task::caught,
    text::Escaped,
};

/// Decides whether the service made for an instance must be replaced; see
/// [`MakeEndpoint::needs_rebuild`].
pub(super) type Rebuild = Box<dyn Fn(&Instance, &Instance) -> bool + Send>;

/// Every listed instance, and the changes that remain to be applied.
///
/// ```text
///            insert, made                      removed
/// (unknown) ──────────────▶ Entry, made ──────────────────▶ Remove
///     │                       ▲     │ needs rebuild: made ▶ Insert (new service)
///     │ insert, not made      │     │ needs rebuild, not made: old service stays, retry
///     └──────▶ Entry, retry ──┘ made ▶ Insert               removed before it was made ▶ nothing
/// ```
pub(super) struct Roll {
    entries: BTreeMap<Key, RollEntry>,
    /// The set after all changes of `plan`.
    target: InstanceSet,
    plan: std::vec::IntoIter<Delta>,
    /// The failed instances and the times of their next attempts, in the order of time.
    retries: BTreeSet<(Instant, Key)>,
    pub(super) rebuild: Option<Rebuild>,
    pub(super) backoff: Backoff,
    rng: SmallRng,
    /// Shared with the facts of all endpoints; see [`Facts::count`].
    revision: Arc<AtomicU64>,
}

struct RollEntry {
    facts: Arc<Facts>,
    /// The latest data of the registry.
    seen: Arc<Instance>,
    /// The data that its service was made from; `None` while it has no service.
    made: Option<Arc<Instance>>,
    /// The time of the next attempt, and the number of failed attempts.
    retry: Option<(Instant, u32)>,
}

/// The result of one step.
pub(super) enum RollStep<S> {
    /// A service was made for an instance.
    Insert(Key, Arc<Facts>, S),
    /// An instance with a service was removed.
    Remove(Key),
    /// A step without a change to report.
    Quiet,
    /// There is nothing to do.
    Idle,
}

impl Roll {
    pub(super) fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            target: InstanceSet::default(),
            plan: Vec::new().into_iter(),
            retries: BTreeSet::new(),
            rebuild: None,
            backoff: Backoff::known(100, 30_000),
            rng: small_rng(None),
            revision: Arc::default(),
        }
    }

    /// Plans the changes to `set`. Changes to an earlier set that were not applied yet are dropped.
    pub(super) fn follow(&mut self, set: &InstanceSet) {
        if set.is_same(&self.target) {
            return;
        }
        if self.plan.len() > 0 {
            let seen = self.entries.values().map(|entry| Arc::clone(&entry.seen));
            self.target = InstanceSet::from_sorted(seen.collect());
        }
        self.plan = diff(&self.target, set).into_iter();
        self.target = set.clone();
    }

    /// Takes one step: inserts first, then updates, then removes, then the attempts that are due.
    pub(super) fn step<M: MakeEndpoint>(
        &mut self,
        maker: &mut M,
        now: Instant,
    ) -> RollStep<M::Service> {
        match self.plan.next() {
            Some(Delta::Insert(new)) => {
                let entry = RollEntry {
                    facts: Arc::new(Facts::new(
                        Arc::clone(&new),
                        Some(Arc::clone(&self.revision)),
                    )),
                    seen: Arc::clone(&new),
                    made: None,
                    retry: None,
                };
                let key = new.key.clone();
                self.entries.insert(key.clone(), entry);
                self.make(key, maker, now)
            }
            Some(Delta::Update { new, .. }) => self.update(new, maker, now),
            Some(Delta::Remove(old)) => {
                let Some(entry) = self.entries.remove(&old.key) else {
                    return RollStep::Quiet;
                };
                if let Some((at, _)) = entry.retry {
                    self.retries.remove(&(at, old.key.clone()));
                }
                match entry.made {
                    Some(_) => RollStep::Remove(old.key.clone()),
                    None => RollStep::Quiet,
                }
            }
            None => {
                // Frees the memory of the plan: an empty iterator keeps its allocation.
                self.plan = Vec::new().into_iter();
                match self.retries.first() {
                    Some((at, key)) if *at <= now => {
                        let key = key.clone();
                        self.make(key, maker, now)
                    }
                    _ => RollStep::Idle,
                }
            }
        }
    }

    /// The time of the next attempt; `None` if none is planned.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.retries.first().map(|(at, _)| *at)
    }

    fn update<M: MakeEndpoint>(
        &mut self,
        new: Arc<Instance>,
        maker: &mut M,
        now: Instant,
    ) -> RollStep<M::Service> {
        let Some(entry) = self.entries.get_mut(&new.key) else {
            return RollStep::Quiet;
        };
        entry.facts.update(Arc::clone(&new));
        entry.seen = Arc::clone(&new);
        if let Some(made) = &entry.made {
            let rebuild = || match &self.rebuild {
                Some(rebuild) => rebuild(made, &new),
                None => maker.needs_rebuild(made, &new),
            };
            // If the closure panics, the service and its connections stay.
            if !caught(rebuild).unwrap_or(false) {
                // The instance may have changed and changed back. Then the attempt for the first change is
                // not needed any more.
                if let Some((at, _)) = entry.retry.take() {
                    self.retries.remove(&(at, new.key.clone()));
                }
                return RollStep::Quiet;
            }
        }
        self.make(new.key.clone(), maker, now)
    }

    fn make<M: MakeEndpoint>(
        &mut self,
        key: Key,
        maker: &mut M,
        now: Instant,
    ) -> RollStep<M::Service> {
        let Some(entry) = self.entries.get_mut(&key) else {
            return RollStep::Quiet;
        };
        let failures = match entry.retry.take() {
            Some((at, failures)) => {
                self.retries.remove(&(at, key.clone()));
                failures
            }
            None => 0,
        };
        let instance = Arc::clone(&entry.seen);
        // A panic of the maker affects this instance only.
        let error: BoxError = match caught(|| maker.make_endpoint(&instance)) {
            Some(Ok(service)) => {
                entry.made = Some(instance);
                return RollStep::Insert(key, Arc::clone(&entry.facts), service);
            }
            Some(Err(error)) => error.into(),
            None => "the maker panicked".into(),
        };
        let failures = failures.saturating_add(1);
        let delay = self.backoff.delay(failures, &mut self.rng);
        tracing::warn!(
            endpoint = %key,
            service = %Escaped(&instance.service),
            address = %instance.address,
            failures,
            retry_in = ?delay,
            serving = entry.made.is_some(),
            "cannot make an endpoint: {}", Escaped(&error.to_string())
        );
        let at = after(now, delay);
        entry.retry = Some((at, failures));
        self.retries.insert((at, key));
        RollStep::Quiet
    }
}

impl_debug!(Roll: |this|
    entries = this.entries.len(),
    planned = this.plan.len(),
    retries = this.retries.len(),
);
