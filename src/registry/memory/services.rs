//! The services of a registry: which instances they have, and when they changed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use rand::RngExt;
use tokio::{sync::watch as cell, time::Instant};

use super::{agenda::Agenda, record::Position};

#[derive(Debug)]
struct StoredService {
    /// The index of its last change.
    index: u64,
    ids: BTreeSet<Arc<str>>,
    /// Since when it has no instance.
    empty_since: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Services {
    epoch: u64,
    index: u64,
    known: BTreeMap<Arc<str>, StoredService>,
    /// Since when services have no instance.
    emptied: Agenda,
    /// The index at which a service was last forgotten.
    forgotten: u64,
    /// One cell for each watched service.
    cells: HashMap<Arc<str>, cell::Sender<Position>>,
    /// The number of cells at which unused ones are removed.
    sweep_at: usize,
}

/// The index before the first change. It is not 0, which means "no index" in a request.
const FIRST: u64 = 1;

/// The least number of cells at which unused ones are removed.
const SWEEP_CELLS: usize = 64;

/// How many services without an instance are known, and for how long, so that a watch can tell a service
/// which has just lost its last instance from one that never existed. Arbitrary: more than a rollout has,
/// and together they need less than 1 MiB.
const KNOWN_EMPTY: usize = 256;
const KNOWN_EMPTY_FOR: Duration = Duration::from_secs(3_600);

fn random_epoch() -> u64 {
    // 0 means "no epoch". 53 bits are exact even for JSON readers that convert numbers to floats.
    rand::rng().random_range(1..1 << 53)
}

impl Services {
    pub(super) fn new() -> Self {
        Self {
            epoch: random_epoch(),
            index: FIRST,
            known: BTreeMap::new(),
            emptied: Agenda::default(),
            forgotten: FIRST,
            cells: HashMap::new(),
            sweep_at: SWEEP_CELLS,
        }
    }

    pub(super) fn position(&self) -> Position {
        Position {
            epoch: self.epoch,
            index: self.index,
        }
    }

    /// Returns the position of a service's last change. It is the same that its cell has.
    pub(super) fn position_of(&self, service: &str) -> Position {
        let index = match (self.known.get(service), self.cells.get(service)) {
            (Some(service), _) => service.index,
            (None, Some(cell)) => cell.borrow().index,
            // It may be one that was forgotten, and its index must not go back.
            (None, None) => self.forgotten,
        };
        Position {
            epoch: self.epoch,
            index,
        }
    }

    pub(super) fn exists(&self, service: &str) -> bool {
        self.known.contains_key(service)
    }

    #[cfg(feature = "rest")]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn all_ids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.known.values().flat_map(|service| &service.ids)
    }

    pub(super) fn ids<'a>(&'a self, service: &str) -> impl Iterator<Item = &'a Arc<str>> + use<'a> {
        self.known.get(service).into_iter().flat_map(|s| &s.ids)
    }

    /// Returns the services with their numbers of instances.
    pub(super) fn counts(&self) -> Vec<(Arc<str>, usize)> {
        let known = self.known.iter();
        known
            .map(|(name, service)| (Arc::clone(name), service.ids.len()))
            .collect()
    }

    /// Adds an instance, or records that it has changed.
    pub(super) fn put(&mut self, service: &Arc<str>, id: &Arc<str>) {
        let known = self.known.entry(Arc::clone(service));
        let known = known.or_insert_with(|| StoredService {
            index: FIRST,
            ids: BTreeSet::new(),
            empty_since: None,
        });
        known.ids.insert(Arc::clone(id));
        self.emptied.shift(service, known.empty_since.take(), None);
        self.changed(service);
    }

    pub(super) fn remove(&mut self, service: &Arc<str>, id: &str, now: Instant) {
        if let Some(known) = self.known.get_mut(service) {
            known.ids.remove(id);
            if known.ids.is_empty() {
                self.emptied.shift(service, known.empty_since, Some(now));
                known.empty_since = Some(now);
            }
        }
        self.changed(service);
        self.forget(now);
    }

    /// Forgets services that have no instance: those above the number of [`KNOWN_EMPTY`], and those that
    /// lost their last instance [`KNOWN_EMPTY_FOR`] ago. A service that is watched stays known.
    pub(super) fn forget(&mut self, now: Instant) {
        // Each removal adds at most one, so two at a time are enough, and bound the work.
        for _ in 0..2 {
            let Some((since, name)) = self.emptied.first().cloned() else {
                return;
            };
            let age = now.saturating_duration_since(since);
            if self.emptied.len() <= KNOWN_EMPTY && age < KNOWN_EMPTY_FOR {
                return;
            }
            let watched = self.subscribers(&name) > 0;
            // Behind all others, so that it does not keep them.
            let stays = watched.then_some(now + KNOWN_EMPTY_FOR);
            self.emptied.shift(&name, Some(since), stays);
            if let Some(known) = self.known.get_mut(&name).filter(|_| watched) {
                known.empty_since = stays;
                continue;
            }
            self.known.remove(&name);
            self.cells.remove(&name);
            self.forgotten = self.index;
        }
    }

    /// Continues from the index of a saved state.
    pub(super) fn resume_from(&mut self, index: u64) {
        self.index = self.index.max(index);
    }

    /// Clears everything but the cells, like a restart without a file.
    pub(super) fn wipe(&mut self) {
        let cells = std::mem::take(&mut self.cells);
        *self = Self {
            cells,
            ..Self::new()
        };
        for cell in self.cells.values() {
            cell.send_replace(self.position());
        }
    }

    /// Returns a receiver of the position of a service.
    pub(super) fn subscribe(&mut self, service: &Arc<str>) -> cell::Receiver<Position> {
        if let Some(cell) = self.cells.get(service) {
            return cell.subscribe();
        }
        if self.cells.len() >= self.sweep_at {
            self.cells.retain(|_, cell| cell.receiver_count() > 0);
            // Twice the number in use, so that these passes cost little however many are in use.
            self.sweep_at = SWEEP_CELLS.max(self.cells.len() * 2);
        }
        let (cell, receiver) = cell::channel(self.position_of(service));
        self.cells.insert(Arc::clone(service), cell);
        receiver
    }

    pub(super) fn subscribers(&self, service: &str) -> usize {
        let cell = self.cells.get(service);
        cell.map_or(0, cell::Sender::receiver_count)
    }

    pub(super) fn changed(&mut self, service: &Arc<str>) {
        self.index += 1;
        if let Some(known) = self.known.get_mut(service) {
            known.index = self.index;
        }
        if let Some(cell) = self.cells.get(service) {
            cell.send_replace(self.position());
        }
    }
}
