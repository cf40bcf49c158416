//! Who hears of events.

use tokio::sync::broadcast;

use crate::balance::handle::Event;

/// How many events a subscriber may be behind. Arbitrary: what a change of a few hundred endpoints
/// at once says, and 106 KB of memory.
const EVENTS: usize = 1_024;

/// Publishes events to those who subscribed.
///
/// The channel is there only while somebody is subscribed: most balancers have no subscriber, and its
/// room for events was four fifths of what a balancer took.
#[derive(Default)]
pub(crate) struct Events(Option<broadcast::Sender<Event>>);

impl Events {
    /// The events from now on.
    pub(super) fn subscribe(&mut self) -> broadcast::Receiver<Event> {
        let sender = self.0.get_or_insert_with(|| broadcast::channel(EVENTS).0);
        sender.subscribe()
    }

    pub(super) fn publish(&mut self, event: Event) {
        // Fails when the last subscriber is gone.
        if self.0.as_ref().is_some_and(|all| all.send(event).is_err()) {
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast::error::TryRecvError;

    use super::*;

    #[test]
    fn the_channel_is_there_while_somebody_is_subscribed() {
        let mut events = Events::default();
        events.publish(Event::DiscoveryEnded);
        assert!(events.0.is_none(), "nobody is subscribed");
        let (mut one, mut two) = (events.subscribe(), events.subscribe());
        events.publish(Event::DiscoveryEnded);
        drop(one.try_recv().expect("what came after it subscribed"));
        assert_eq!(one.try_recv().unwrap_err(), TryRecvError::Empty);
        drop(one);
        for _ in 0..EVENTS {
            events.publish(Event::DiscoveryEnded);
        }
        assert_eq!(two.try_recv().unwrap_err(), TryRecvError::Lagged(1));
        drop(two);
        events.publish(Event::DiscoveryEnded);
        assert!(events.0.is_none(), "the last subscriber is gone");
        let mut three = events.subscribe();
        assert_eq!(three.try_recv().unwrap_err(), TryRecvError::Empty);
        drop(events);
        assert_eq!(three.try_recv().unwrap_err(), TryRecvError::Closed);
    }
}
