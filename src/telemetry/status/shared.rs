//! What all clones of a page share: the handles, and the last sample.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};

use super::{
    registrations::Announced, sample::Sample, select::Wanted, settings::StatusSettings, shown,
    slots::Slots, watched::Watched,
};
use crate::balance::BalanceGone;

/// How long a balancer may take to list its endpoints. A driver that makes a costly table replies later; the
/// page then shows the last list.
const LISTED_WITHIN: Duration = Duration::from_secs(2);

/// The time between the first two samples, from which the first rates are known.
const FIRST: Duration = Duration::from_millis(200);

/// The state of a page.
#[derive(Debug)]
pub(super) struct StatusShared {
    pub(super) settings: StatusSettings,
    pub(super) services: Vec<Watched>,
    pub(super) registrations: Vec<Announced>,
    pub(super) slots: Arc<Slots>,
    /// An order was obeyed since the last sample. Relaxed: a viewer that misses it sees the next sample.
    outdated: AtomicBool,
    /// One viewer at a time takes a sample, and the others wait for it.
    samples: tokio::sync::Mutex<Samples>,
}

/// The last sample of each service, in the order of the services.
#[derive(Debug)]
struct Samples {
    taken: Option<Instant>,
    services: Vec<Sample>,
}

impl StatusShared {
    pub(super) fn new(
        settings: StatusSettings,
        services: Vec<Watched>,
        registrations: Vec<Announced>,
    ) -> Self {
        let samples = Samples {
            taken: None,
            services: services.iter().map(|_| Sample::default()).collect(),
        };
        Self {
            slots: Slots::new(settings.streams, settings.interval),
            outdated: AtomicBool::new(false),
            samples: tokio::sync::Mutex::new(samples),
            settings,
            services,
            registrations,
        }
    }

    /// The next viewer gets a new sample.
    pub(super) fn outdate(&self) {
        self.outdated.store(true, Relaxed);
    }

    /// The state that a viewer wants, as JSON.
    ///
    /// # Cancel safety
    /// A sample that is half taken is discarded.
    pub(super) async fn status(&self, wanted: &Wanted) -> Vec<u8> {
        let mut samples = self.samples.lock().await;
        // Streams wake at slightly different times, and share the sample of the first.
        let fresh = self.settings.interval.mul_f64(0.8);
        let outdated = self.outdated.swap(false, Relaxed);
        if outdated || samples.taken.is_none_or(|at| at.elapsed() >= fresh) {
            self.take(&mut samples).await;
            if samples.services.iter().any(|sample| !sample.has_rates()) {
                sleep(FIRST).await;
                self.take(&mut samples).await;
            }
        }
        let page = shown::Page {
            settings: &self.settings,
            services: &self.services,
            samples: &samples.services,
            registrations: &self.registrations,
        };
        page.status(wanted)
    }

    async fn take(&self, samples: &mut Samples) {
        let stale = self.settings.interval * 10;
        let mut lists = Vec::with_capacity(self.services.len());
        for service in &self.services {
            let list = timeout(LISTED_WITHIN, service.handles.balance.endpoints()).await;
            lists.push(match list {
                Ok(Ok(list)) => (Some(list), false),
                Ok(Err(BalanceGone { .. })) => (None, true),
                Err(_) => (None, false),
            });
        }
        let now = Instant::now();
        let all = samples.services.iter_mut().zip(&self.services);
        for ((sample, service), (list, gone)) in all.zip(lists) {
            sample.take(service, list, gone, stale, now);
        }
        samples.taken = Some(now);
    }
}
