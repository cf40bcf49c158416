//! The latencies of each endpoint, for the status page.
//!
//! Each endpoint has a histogram that only counts: an attempt costs one relaxed addition, and no look-up,
//! because the histogram is reached by the tag of its endpoint. The reader takes the differences between two
//! readings.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, Weak},
};

use super::{
    latency_counts::LatencyCounts,
    monitor::Monitor,
    report::{AttemptInfo, End},
};
use crate::{instance::Key, sync::lock};

/// A monitor that measures the time to the head of each response, for the
/// [status page](super::status::StatusPage::service_with_latencies). Clones share what they measured. Use one
/// for each client: an endpoint has room for one.
///
/// # Examples
/// ```
/// use tower_roster::telemetry::{Latencies, Telemetry};
///
/// let latencies = Latencies::new();
/// let telemetry = Telemetry::new().monitor(latencies.clone());
/// ```
#[derive(Clone, Default)]
pub struct Latencies(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    endpoints: HashMap<Key, Weak<LatencyCounts>>,
    /// When there are so many, those of endpoints that are gone are removed.
    clean_at: usize,
}

impl Latencies {
    /// Nothing is measured yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn add(&self, key: &Key) -> Arc<LatencyCounts> {
        let counts = Arc::<LatencyCounts>::default();
        let mut known = lock(&self.0);
        if known.endpoints.len() >= known.clean_at {
            known
                .endpoints
                .retain(|_, counts| counts.strong_count() > 0);
            known.clean_at = 2 * known.endpoints.len() + 16;
        }
        let shared = Arc::downgrade(&counts);
        known.endpoints.insert(key.clone(), shared);
        counts
    }

    /// The counts of each endpoint that got an attempt.
    pub(super) fn all(&self) -> HashMap<Key, Arc<LatencyCounts>> {
        let known = lock(&self.0);
        let present = known.endpoints.iter();
        present
            .filter_map(|(key, counts)| Some((key.clone(), counts.upgrade()?)))
            .collect()
    }
}

impl Monitor for Latencies {
    fn attempt_ended(&self, attempt: &AttemptInfo<'_>, end: &End) {
        if let Some(latency) = end.to_head {
            let counts = attempt.endpoint.latency(|key| self.add(key));
            counts.record(latency);
        }
    }
}

impl fmt::Debug for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints = lock(&self.0).endpoints.len();
        let mut shown = f.debug_struct("Latencies");
        shown.field("endpoints", &endpoints).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::EndpointTag;

    #[test]
    fn endpoints_that_are_gone_are_forgotten() {
        let latencies = Latencies::new();
        for n in 0..10_000 {
            let tag = EndpointTag::new(Key::new(format!("e-{n}"), ""));
            tag.latency(|key| latencies.add(key));
        }
        assert!(latencies.all().is_empty());
        assert!(lock(&latencies.0).endpoints.len() <= 16);
    }
}
