//! The bodies of listings. All clients that get the same listing share one body.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use serde::Serialize;
use tokio::{
    sync::{OnceCell, Semaphore},
    time::Instant,
};

use super::answer::RestFailure;
use crate::{
    registry::{
        Query,
        memory::{Lookup, MemoryShared, Position, written},
    },
    sync::lock,
};

/// How long a body is given to further clients if nothing changes. It has the times of the last
/// heartbeats, which are no changes.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// How many bodies are kept for further clients. Arbitrary: their size is bounded as well.
const KEPT: usize = 256;

/// How many bodies are made at once, so that few of them exist which are not counted yet.
const AT_ONCE: usize = 2;

/// The number of instances above which a body is made on a thread for blocking work: more than 1 ms.
const LARGE: usize = 512;

/// What a client lists.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Wanted {
    Services,
    Instances(Query),
}

type SharedBody = Arc<OnceCell<(Position, Bytes)>>;

#[derive(Debug)]
pub(super) struct Listings {
    kept: Mutex<HashMap<Wanted, (Position, Instant, SharedBody)>>,
    turns: Arc<Semaphore>,
    /// The bytes of all bodies that exist.
    bytes: Arc<AtomicUsize>,
    most: usize,
}

/// Bytes that count for as long as they exist.
struct Counted {
    text: Vec<u8>,
    bytes: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // Relaxed: the counter publishes no other memory.
        self.bytes.fetch_sub(self.text.len(), Ordering::Relaxed);
    }
}

impl Listings {
    pub(super) fn new(most: usize) -> Self {
        Self {
            kept: Mutex::default(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            bytes: Arc::default(),
            most,
        }
    }

    /// Returns a listing that is at most [`FRESH_FOR`] old, with its position.
    pub(super) async fn get(
        &self,
        shared: &MemoryShared,
        wanted: Wanted,
    ) -> Result<(Position, Bytes), RestFailure> {
        let position = match &wanted {
            Wanted::Services => shared.totals().0,
            Wanted::Instances(query) => shared.position_of(query.service()),
        };
        let body = self.kept(&wanted, position);
        let made = body.get_or_try_init(|| self.make(shared, wanted)).await?;
        Ok(made.clone())
    }

    fn kept(&self, wanted: &Wanted, position: Position) -> SharedBody {
        // The map is consistent wherever the holder of the lock could panic.
        let mut kept = lock(&self.kept);
        if let Some((at, since, body)) = kept.get(wanted)
            && *at == position
            && since.elapsed() < FRESH_FOR
        {
            return Arc::clone(body);
        }
        kept.retain(|_, (_, since, _)| since.elapsed() < FRESH_FOR);
        if kept.len() >= KEPT {
            kept.clear();
        }
        let body = SharedBody::default();
        let entry = (position, Instant::now(), Arc::clone(&body));
        kept.insert(wanted.clone(), entry);
        body
    }

    async fn make(
        &self,
        shared: &MemoryShared,
        wanted: Wanted,
    ) -> Result<(Position, Bytes), RestFailure> {
        // Cannot fail: nobody closes it.
        let mut turn = Arc::clone(&self.turns).acquire_owned().await;
        let (position, text) = match wanted {
            Wanted::Services => {
                let (position, counts) = shared.services();
                (position, services(&counts))
            }
            Wanted::Instances(query) => {
                let look = shared.look(query.service());
                let position = look.position;
                let text = if look.records.len() > LARGE {
                    // The work goes on if the client hangs up, and keeps its turn until its end.
                    let work = move || (instances(&query, look), turn);
                    let made = tokio::task::spawn_blocking(work).await;
                    let text;
                    (text, turn) = made.map_err(|_| RestFailure::busy("a listing was given up"))?;
                    text
                } else {
                    instances(&query, look)
                };
                (position, text)
            }
        };
        let body = self.count(text)?;
        drop(turn);
        Ok((position, body))
    }

    fn count(&self, text: Vec<u8>) -> Result<Bytes, RestFailure> {
        let length = text.len();
        let bytes = Arc::clone(&self.bytes);
        // Relaxed: see `Counted::drop`.
        let others = bytes.fetch_add(length, Ordering::Relaxed);
        let counted = Counted { text, bytes };
        if others > 0 && others.saturating_add(length) > self.most {
            // What is kept may be all that is in the way of the next attempt.
            let mut kept = lock(&self.kept);
            kept.clear();
            let message = "too many listings are being sent";
            return Err(RestFailure::busy(message));
        }
        Ok(Bytes::from_owner(counted))
    }
}

fn services(counts: &[(Arc<str>, usize)]) -> Vec<u8> {
    #[derive(Serialize)]
    struct ServicesBody<'a> {
        services: BTreeMap<&'a str, usize>,
    }
    let services = counts.iter().map(|(name, n)| (&**name, *n)).collect();
    encode(&ServicesBody { services })
}

fn instances(query: &Query, look: Lookup) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct ListingBody<'a, T> {
        service_name: &'a str,
        exists: bool,
        instances: Vec<T>,
    }
    let matches = query.matcher();
    let records = look.records.iter();
    let records = records.filter(|record| matches(&record.instance.tags));
    encode(&ListingBody {
        service_name: query.service(),
        exists: look.exists,
        instances: records.map(written::shown).collect(),
    })
}

fn encode(body: &impl Serialize) -> Vec<u8> {
    // Cannot fail: the values are text, numbers, and maps with text keys.
    serde_json::to_vec(body).unwrap_or_else(|_| b"{}".to_vec())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::{
        instance::Instance,
        registry::{Announcement, Health, memory::Memory},
        task::at_once,
    };

    #[test]
    fn clients_that_hang_up_leave_no_more_work_than_there_are_turns() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        runtime.block_on(async {
            let memory = Memory::new();
            for id in 0..=LARGE {
                let address = "127.0.0.1:80".parse().unwrap();
                let instance = Instance::new("web", id.to_string(), address);
                let announcement = Announcement::new(instance).health(Health::Unchecked);
                memory.register(announcement).unwrap();
            }
            // No work ends before this thread is free.
            let (free, busy) = mpsc::channel::<()>();
            let occupied = tokio::task::spawn_blocking(move || busy.recv().is_err());
            let listings = Listings::new(64 << 20);
            let wanted = |n: usize| Wanted::Instances(Query::new("web").tag(n.to_string()));
            // Each work holds the records that it lists.
            let held = memory.instances("web").swap_remove(0);
            let before = Arc::strong_count(&held);
            for n in 0..50 {
                let hung_up = at_once(listings.get(&memory.shared, wanted(n))).await;
                assert!(hung_up.is_none());
            }
            let works = Arc::strong_count(&held) - before;
            assert_eq!(works, AT_ONCE, "works at once");
            drop(free);
            occupied.await.unwrap();
            let listed = listings.get(&memory.shared, wanted(50)).await;
            assert!(listed.is_ok(), "the turns come back");
        });
    }
}
