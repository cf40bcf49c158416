//! The ejector's record of one endpoint. For an endpoint that never failed and gets no requests it takes
//! only a few words. Most of ten thousand endpoints are of this kind.

use tokio::time::Instant;

use super::{
    cause::EjectCause,
    gate::Round,
    health::{EndpointHealth, HealthSums},
    settings::BUCKETS,
    share::Out,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EjectPlace {
    In,
    /// Ejected until its time is up.
    Ejected,
    /// Until the probe is answered. `turn` identifies the probe that was in progress at the last deadline.
    Probing {
        turn: Option<u64>,
    },
    /// Until its checks pass. With `probe`, its requests had failed too, so it is then probed first.
    Failing {
        probe: bool,
    },
    /// Ejected until it is restored by hand.
    Held,
}

/// The history of an endpoint when it was [removed](super::Ejector::remove): how often it was ejected and,
/// if it was out, why and until when.
#[derive(Debug)]
pub(crate) struct History(Box<Past>);

#[derive(Debug)]
pub(super) struct EjectEntry {
    pub(super) round: Round,
    /// Whether it has a weight.
    pub(super) weighs: bool,
    /// For an endpoint that is or was out, or was spared.
    past: Option<Box<Past>>,
    /// For an endpoint that has had requests.
    starts: Option<Box<Starts>>,
}

#[derive(Debug)]
pub(super) struct Past {
    pub(super) place: EjectPlace,
    /// The reason for its present or last ejection.
    pub(super) cause: EjectCause,
    /// Number of ejections that no healthy time has offset.
    pub(super) times: u32,
    /// The time since which it is in.
    pub(super) healthy: Instant,
    /// The time of the last step that reported it as spared.
    pub(super) spared: Option<Instant>,
    pub(super) due: Option<(Instant, u64)>,
    /// How it is counted while it is out.
    pub(super) out: Option<Out>,
}

impl EjectEntry {
    /// An endpoint that is in.
    pub(super) fn new(round: Round) -> Self {
        Self {
            round,
            weighs: true,
            past: None,
            starts: None,
        }
    }

    pub(super) fn place(&self) -> EjectPlace {
        self.past().map_or(EjectPlace::In, |past| past.place)
    }

    pub(super) fn past(&self) -> Option<&Past> {
        self.past.as_deref()
    }

    pub(super) fn past_mut(&mut self) -> Option<&mut Past> {
        self.past.as_deref_mut()
    }

    /// Its history, which is kept from now on.
    pub(super) fn remember(&mut self, now: Instant) -> &mut Past {
        self.past.get_or_insert_with(|| {
            Box::new(Past {
                place: EjectPlace::In,
                cause: EjectCause::ByHand,
                times: 0,
                healthy: now,
                spared: None,
                due: None,
                out: None,
            })
        })
    }

    /// The part of the history that matters when it comes back.
    pub(super) fn history(self) -> Option<History> {
        let past = self.past?;
        (past.times > 0 || past.place != EjectPlace::In).then_some(History(past))
    }

    pub(super) fn recall(&mut self, history: History) -> &mut Past {
        self.past.insert(history.0)
    }

    /// Starts a new window: earlier requests do not count.
    pub(super) fn restart(&mut self) {
        self.starts = Some(Box::default());
    }

    /// Moves the window on by `buckets`. Returns the sums at its beginning, and whether it has its full
    /// length.
    pub(super) fn slide<T>(
        &mut self,
        health: &EndpointHealth<T>,
        buckets: u32,
    ) -> (HealthSums, bool) {
        let sums = health.sums();
        let starts = match &mut self.starts {
            Some(starts) => starts,
            none => {
                // It was idle until the bucket that ends now.
                let base = health.base();
                if base == sums {
                    return (sums, false);
                }
                none.insert(Box::new(Starts::of(base)))
            }
        };
        for _ in 0..buckets {
            starts.push(sums);
        }
        (starts.oldest().unwrap_or(sums), starts.is_full())
    }

    /// The sums at the beginning of the bucket before the present one, if noted.
    pub(super) fn recent(&self) -> Option<HealthSums> {
        self.starts.as_ref()?.recent()
    }
}

/// The sums at the beginning of each bucket of the window.
#[derive(Debug, Default)]
struct Starts {
    /// A ring. The oldest entry is at `next` when the ring is full, else at 0.
    ring: [HealthSums; BUCKETS as usize],
    next: u8,
    len: u8,
}

impl Starts {
    /// A full window without requests.
    fn of(sums: HealthSums) -> Self {
        Self {
            ring: [sums; BUCKETS as usize],
            next: 0,
            len: BUCKETS as u8,
        }
    }

    fn push(&mut self, sums: HealthSums) {
        self.ring[usize::from(self.next)] = sums;
        self.next = (self.next + 1) % BUCKETS as u8;
        self.len = (self.len + 1).min(BUCKETS as u8);
    }

    fn is_full(&self) -> bool {
        self.len == BUCKETS as u8
    }

    fn oldest(&self) -> Option<HealthSums> {
        let oldest = if self.is_full() { self.next } else { 0 };
        (self.len > 0).then(|| self.ring[usize::from(oldest)])
    }

    /// The last entry but one, or the only entry.
    fn recent(&self) -> Option<HealthSums> {
        let back = self.len.min(2);
        let at = (self.next + BUCKETS as u8 - back) % BUCKETS as u8;
        (back > 0).then(|| self.ring[usize::from(at)])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn a_ring_is_a_queue_of_the_last_ten() {
        let mut starts = Starts::default();
        let mut queue = VecDeque::new();
        assert_eq!((starts.oldest(), starts.recent()), (None, None));
        for n in 1..35 {
            let sums = HealthSums::failed(n);
            starts.push(sums);
            queue.push_back(sums);
            if queue.len() > BUCKETS as usize {
                queue.pop_front();
            }
            assert_eq!(starts.oldest(), queue.front().copied());
            let recent = queue.get(queue.len().saturating_sub(2));
            assert_eq!(starts.recent(), recent.copied());
            assert_eq!(starts.is_full(), queue.len() == BUCKETS as usize);
        }
    }
}
