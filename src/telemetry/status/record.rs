//! The recent events of one service, noted from the time when the page was built.

use std::{
    collections::{HashMap, VecDeque},
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::{
    sync::{broadcast::error::RecvError, watch},
    task::AbortHandle,
};

use crate::{
    balance::BalanceEvent,
    client::Handles,
    instance::Key,
    service::breaker::{BreakerCause, BreakerHandle, BreakerTransition},
    sync::lock,
};

/// How many events are kept. More than the page shows of one service.
const KEPT: usize = 100;

/// Events of one kind within this time become one: a list of a thousand endpoints arrives as a thousand
/// events. In milliseconds.
const TOGETHER: u64 = 1_000;

/// The recent events of one service.
#[derive(Debug)]
pub(super) struct Record {
    notes: Arc<Mutex<Notes>>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct Notes {
    events: VecDeque<Noted>,
    /// Of endpoints that are listed.
    ejections: HashMap<Key, u64>,
}

/// One event, or several of one kind.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Noted {
    /// Of this event among all of the process.
    pub(super) number: u64,
    /// In milliseconds since 1970.
    pub(super) at: u64,
    pub(super) event: &'static str,
    /// The endpoint; empty when it concerns none.
    pub(super) key: String,
    pub(super) text: String,
    /// How many more events of this kind it stands for.
    pub(super) more: u64,
}

impl Noted {
    pub(super) fn new(event: &'static str, key: Option<&Key>, text: impl Into<String>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            // Relaxed: the numbers only have to differ and to grow.
            number: NEXT.fetch_add(1, Relaxed),
            at: unix_ms(),
            event,
            key: key.map(Key::to_string).unwrap_or_default(),
            text: text.into(),
            more: 0,
        }
    }
}

impl Record {
    /// Follows the events until the record is dropped or the balancer ends.
    pub(super) fn follow(handles: &Handles) -> Self {
        let notes = Arc::<Mutex<Notes>>::default();
        let task = tokio::spawn(follow(handles.clone(), Arc::clone(&notes)));
        Self {
            notes,
            task: task.abort_handle(),
        }
    }

    /// The last events, the newest first.
    pub(super) fn last(&self, most: usize) -> Vec<Noted> {
        let notes = lock(&self.notes);
        notes.events.iter().rev().take(most).cloned().collect()
    }

    /// How often each listed endpoint was ejected.
    pub(super) fn ejections(&self) -> HashMap<Key, u64> {
        lock(&self.notes).ejections.clone()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(handles: Handles, notes: Arc<Mutex<Notes>>) {
    let mut breaker = handles.breaker.as_ref().map(BreakerHandle::subscribe);
    let Ok(mut events) = handles.balance.subscribe().await else {
        return;
    };
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => lock(&notes).hear(&event),
                Err(RecvError::Lagged(missed)) => {
                    lock(&notes).add(Noted::new("missed", None, format!("{missed} events")));
                }
                Err(RecvError::Closed) => {
                    lock(&notes).add(Noted::new("ended", None, "the balancer has ended"));
                    return;
                }
            },
            Some(transition) = changed(&mut breaker) => {
                lock(&notes).add(Noted::new("breaker", None, breaker_text(&transition)));
            }
        }
    }
}

/// The next transition of the breaker, if there is one; `None` when it has gone.
async fn changed(
    breaker: &mut Option<watch::Receiver<BreakerTransition>>,
) -> Option<BreakerTransition> {
    match breaker {
        Some(breaker) => {
            breaker.changed().await.ok()?;
            Some(*breaker.borrow_and_update())
        }
        None => pending().await,
    }
}

impl Notes {
    fn add(&mut self, new: Noted) {
        if let Some(last) = self.events.back_mut()
            && last.event == new.event
            && matches!(
                new.event,
                "added" | "removed" | "replaced" | "weighed" | "drained" | "spared"
            )
            && new.at.saturating_sub(last.at) < TOGETHER
        {
            last.more += 1;
            return;
        }
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.events.push_back(new);
    }

    fn hear(&mut self, event: &BalanceEvent) {
        let requests = |n: &usize| match n {
            1 => "1 request in flight".to_owned(),
            n => format!("{n} requests in flight"),
        };
        let noted = match event {
            BalanceEvent::Added { key } => Noted::new("added", Some(key), ""),
            BalanceEvent::Replaced { key } => Noted::new("replaced", Some(key), ""),
            BalanceEvent::Removed { key, in_flight } => {
                self.ejections.remove(key);
                Noted::new("removed", Some(key), requests(in_flight))
            }
            BalanceEvent::Drained { key, in_flight } => {
                Noted::new("drained", Some(key), requests(in_flight))
            }
            BalanceEvent::Weighed { key, weight } => {
                Noted::new("weighed", Some(key), format!("weight {weight}"))
            }
            BalanceEvent::Ejected { key, cause, time } => {
                *self.ejections.entry(key.clone()).or_default() += 1;
                let probe = time.map(|time| format!(", probe in {}", seconds(time)));
                let text = format!("{cause}{}", probe.unwrap_or_default());
                Noted::new("ejected", Some(key), text)
            }
            BalanceEvent::Probing { key } => Noted::new("probing", Some(key), "gets one request"),
            BalanceEvent::Restored { key, by } => Noted::new("restored", Some(key), by.to_string()),
            BalanceEvent::Spared { key, cause } => {
                let text = format!("not ejected, too many are: {cause}");
                Noted::new("spared", Some(key), text)
            }
            BalanceEvent::SplitTripped { trip } => {
                Noted::new("split_tripped", None, trip.to_string())
            }
            BalanceEvent::Notice { notice } => Noted::new("notice", None, notice.to_string()),
            BalanceEvent::DiscoveryFailed { error } => {
                Noted::new("discovery_failed", None, &**error)
            }
            BalanceEvent::DiscoveryEnded => Noted::new("discovery_ended", None, ""),
            BalanceEvent::Registry { status } => Noted::new("registry", None, status.to_string()),
        };
        self.add(noted);
    }
}

fn breaker_text(transition: &BreakerTransition) -> String {
    let to = transition.to.as_str().replace('_', " ");
    let time = transition.open_for;
    let time = time.map(|time| format!(", for {}", seconds(time)));
    let cause = match transition.cause {
        BreakerCause::Failures(counts) => {
            format!("{} of {} calls failed", counts.failed, counts.total)
        }
        BreakerCause::SlowCalls(counts) => {
            format!("{} of {} calls were slow", counts.slow, counts.total)
        }
        BreakerCause::OpenTimeOver => "its open time is over".to_owned(),
        BreakerCause::ProbeFailed => "a probe failed".to_owned(),
        BreakerCause::ProbeTimedOut => "a probe had no answer in time".to_owned(),
        BreakerCause::ProbesSucceeded => "its probes succeeded".to_owned(),
        BreakerCause::Created => "it is new".to_owned(),
        BreakerCause::Forced | BreakerCause::Reset => "by hand".to_owned(),
    };
    format!("{to}: {cause}{}", time.unwrap_or_default())
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// The time of day, which operators compare with that of other systems.
#[expect(clippy::disallowed_types, reason = "a date is meant")]
pub(super) fn unix_ms() -> u64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
