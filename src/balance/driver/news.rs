//! Events, collected while changes are applied, and published with the snapshot that contains the changes.

use tokio::sync::broadcast;

use crate::balance::{event::BalanceEvent, pick::state::Held};

/// How many events a subscriber may be behind. Arbitrary: the events of a change of a few hundred endpoints
/// at once, and 106 KB of memory.
const EVENTS: usize = 1_024;

/// Events to publish, and their subscribers.
///
/// The channel exists only while there is a subscriber. Most balancers have none, and the channel's buffer
/// was four fifths of the memory of a balancer.
pub(super) struct News<L> {
    channel: Option<broadcast::Sender<BalanceEvent>>,
    pending: Vec<Item<L>>,
}

enum Item<L> {
    Event(BalanceEvent),
    /// The endpoint was removed.
    Left(Held<L>),
}

impl<L> News<L> {
    pub(super) fn new() -> Self {
        Self {
            channel: None,
            pending: Vec::new(),
        }
    }

    /// Subscribes to events from now on.
    pub(super) fn subscribe(&mut self) -> broadcast::Receiver<BalanceEvent> {
        let channel = &mut self.channel;
        let channel = channel.get_or_insert_with(|| broadcast::channel(EVENTS).0);
        channel.subscribe()
    }

    /// Publishes an event with the next snapshot.
    pub(super) fn tell(&mut self, event: BalanceEvent) {
        self.pending.push(Item::Event(event));
    }

    /// Publishes the removal of an endpoint with the next snapshot.
    pub(super) fn tell_removed(&mut self, state: Held<L>) {
        self.pending.push(Item::Left(state));
    }

    /// Publishes the pending events. When the removal of an endpoint is published, no new requests can go
    /// to it, so `in_flight` is the number that is left.
    pub(super) fn publish_all(&mut self, mut in_flight: impl FnMut(&Held<L>) -> usize) {
        // Not drained: after the first set the list would keep its large capacity.
        for item in std::mem::take(&mut self.pending) {
            self.publish(match item {
                Item::Event(event) => event,
                Item::Left(state) => BalanceEvent::Removed {
                    key: state.key.clone(),
                    in_flight: in_flight(&state),
                },
            });
        }
    }

    /// Publishes an event at once.
    pub(super) fn publish(&mut self, event: BalanceEvent) {
        // The send fails when the last subscriber has gone.
        let failed = |channel: &broadcast::Sender<_>| channel.send(event).is_err();
        if self.channel.as_ref().is_some_and(failed) {
            self.channel = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast::error::TryRecvError;

    use super::*;

    #[test]
    fn the_channel_is_there_while_somebody_is_subscribed() {
        let mut news = News::<()>::new();
        news.publish(BalanceEvent::DiscoveryEnded);
        assert!(news.channel.is_none(), "nobody is subscribed");
        let (mut one, mut two) = (news.subscribe(), news.subscribe());
        news.publish(BalanceEvent::DiscoveryEnded);
        drop(one.try_recv().expect("what came after it subscribed"));
        assert_eq!(one.try_recv().unwrap_err(), TryRecvError::Empty);
        drop(one);
        for _ in 0..EVENTS {
            news.publish(BalanceEvent::DiscoveryEnded);
        }
        assert_eq!(two.try_recv().unwrap_err(), TryRecvError::Lagged(1));
        drop(two);
        news.publish(BalanceEvent::DiscoveryEnded);
        assert!(news.channel.is_none(), "the last subscriber is gone");
        let mut three = news.subscribe();
        assert_eq!(three.try_recv().unwrap_err(), TryRecvError::Empty);
        drop(news);
        assert_eq!(three.try_recv().unwrap_err(), TryRecvError::Closed);
    }
}
