//! Those who left, until their last request ends and they are forgotten.

use std::{fmt, hash::Hash, time::Duration};

use tokio::time::Instant;
use tower::discover::Discover;

use super::{
    Driver, News,
    roll::{Draining, Gone, Member, Orders, generation},
};
use crate::{
    backoff::after,
    balance::{handle::Event, policy::Policy},
    endpoint::eject::History,
};

/// Endpoints that are remembered at a time after they left, which takes some 20 MiB, and as many of whom
/// orders are. Arbitrary: more than leave within the grace where names are not made up without end.
const REMEMBERED: usize = 65_536;

/// How often the requests of those that left are looked at.
const DRAIN_LOOK: Duration = Duration::from_millis(100);

impl<D, S, P, C, R> Driver<D, S, P, C, R>
where
    D: Discover,
    D::Key: Hash + Eq + Clone + fmt::Debug + 'static,
    P: Policy,
{
    /// Keeps what is still needed of a member that is not listed any more.
    pub(super) fn let_go(
        &mut self,
        name: D::Key,
        member: Member<S, P::Load>,
        history: Option<History>,
        ejected: bool,
        now: Instant,
    ) {
        let orders = Orders {
            weight: member.by_hand,
            ejected,
        };
        if orders != Orders::default() && self.roll.orders.len() < REMEMBERED {
            self.roll.orders.insert(member.state.key.clone(), orders);
        }
        self.news.push(News::Left(member.state.clone()));
        // Whether it has requests in flight shows when no more can come.
        let draining = Draining {
            state: member.state.clone(),
            _service: member.service,
            deadline: after(now, self.settings.drain),
        };
        let look = draining.deadline.min(after(now, DRAIN_LOOK));
        self.roll.drain_at = Some(self.next_drain().map_or(look, |at| at.min(look)));
        self.roll.draining.insert(member.state.id(), draining);
        if !self.settings.grace.is_zero() && self.roll.gone.len() < REMEMBERED {
            let until = after(now, self.settings.grace);
            let mut ramp = member.ramp;
            if member.out {
                // It begins anew when it is back.
                ramp = self.new_ramp();
            }
            if let Some(age) = &mut ramp {
                age.stop(now);
            }
            let gone = Gone {
                state: member.state,
                until,
                address: member.address,
                generation: generation(member.facts.as_deref()),
                ramp,
                history,
                requests: member.requests,
            };
            self.roll.gone.insert(name, gone);
            // Who left earlier is forgotten earlier.
            self.roll.forget_at.get_or_insert(until);
        }
    }

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
            self.events.publish(event);
        }
    }

    /// Forgets what is over.
    pub(super) fn tidy(&mut self, now: Instant) {
        if self.roll.forget_at.is_some_and(|at| at <= now) {
            self.roll.gone.retain(|_, gone| gone.until > now);
            self.roll.forget_at = self.roll.gone.values().map(|gone| gone.until).min();
        }
        if self.next_drain().is_none_or(|at| at > now) {
            return;
        }
        let events = &mut self.events;
        let mut look = after(now, DRAIN_LOOK);
        self.roll.draining.retain(|_, draining| {
            let in_flight = draining.state.in_flight();
            let stays = in_flight > 0 && draining.deadline > now;
            if stays {
                look = look.min(draining.deadline);
            } else {
                events.publish(Event::Drained(draining.state.key.clone(), in_flight));
            }
            stays
        });
        self.roll.drain_at = Some(look);
    }

    /// When those who drain are looked at next: not each time that the driver wakes, as they may be many.
    fn next_drain(&self) -> Option<Instant> {
        self.roll
            .drain_at
            .filter(|_| !self.roll.draining.is_empty())
    }

    /// When there is something to do about those who left.
    pub(super) fn next_farewell(&self) -> Option<Instant> {
        self.next_drain()
            .into_iter()
            .chain(self.roll.forget_at)
            .min()
    }
}
