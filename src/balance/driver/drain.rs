//! Those who left, until their last request ends and they are forgotten.

use std::{fmt, hash::Hash, time::Duration};

use tokio::time::Instant;
use tower::discover::Discover;

use super::{Driver, News};
use crate::balance::{handle::Event, policy::Policy};

/// Endpoints that are remembered at a time after they left, which takes some 20 MiB. Arbitrary: more
/// than leave within the grace where names are not made up without end.
pub(super) const REMEMBERED: usize = 65_536;

/// How often the requests of those that left are looked at.
pub(super) const DRAIN_LOOK: Duration = Duration::from_millis(100);

impl<D, S, P, C, R> Driver<D, S, P, C, R>
where
    D: Discover,
    D::Key: Hash + Eq + Clone + fmt::Debug + 'static,
    P: Policy,
{
    /// Tells what holds now: whoever hears that an endpoint was removed sees no request go there.
    pub(super) fn tell_all(&mut self) {
        // Not drained: after the first set it would keep room for as many for ever.
        for news in std::mem::take(&mut self.news) {
            let event = match news {
                News::Event(event) => event,
                News::Left(state) => {
                    let draining = &mut self.roll.draining;
                    // Not there when it came back with the same snapshot.
                    let drains = draining.contains_key(&state.id());
                    let in_flight = if drains { state.in_flight() } else { 0 };
                    if in_flight == 0 {
                        draining.remove(&state.id());
                    }
                    Event::Removed(state.key.clone(), in_flight)
                }
            };
            let _ = self.events.send(event);
        }
    }

    /// Forgets what is over.
    pub(super) fn tidy(&mut self, now: Instant) {
        let events = &self.events;
        self.roll.gone.retain(|_, gone| gone.until > now);
        self.roll.draining.retain(|_, draining| {
            let in_flight = draining.state.in_flight();
            let stays = in_flight > 0 && draining.deadline > now;
            if !stays {
                let _ = events.send(Event::Drained(draining.state.key.clone(), in_flight));
            }
            stays
        });
    }
}
