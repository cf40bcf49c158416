//! The connections that a server holds: a bounded number, and which one makes room for a new one.
//!
//! A new connection is always served. At the limit, the connection whose last request began longest ago is
//! closed. It waits for a change, or does nothing, or is slow; a heartbeat needs a millisecond. So clients
//! that hold connections cannot keep heartbeats out, and what they lose they can ask for again. If their
//! address has reached its limit, or has most connections of all, one of its own makes room.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
};

use tokio::sync::Notify;

use crate::sync::lock;

#[derive(Debug)]
pub(super) struct Slots {
    state: Mutex<SlotState>,
    most: usize,
    most_per_address: usize,
}

/// Why a connection must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Another connection needs its place.
    MakeRoom = 1,
    /// The server shuts down.
    ShutDown = 2,
}

/// Tells a connection to end. A channel would need ten times its memory, for each connection.
#[derive(Debug, Default)]
struct Signal {
    /// 0, or an [`Ending`].
    ending: AtomicU8,
    sent: Notify,
}

impl Signal {
    fn send(&self, ending: Ending) {
        // Release: with the Acquire of `get`. Waiters are woken after the store, so none misses it.
        self.ending.store(ending as u8, Ordering::Release);
        self.sent.notify_waiters();
    }

    fn get(&self) -> Option<Ending> {
        // Acquire: with the Release of `send`.
        match self.ending.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Ending::MakeRoom),
            _ => Some(Ending::ShutDown),
        }
    }
}

#[derive(Debug, Default)]
struct SlotState {
    /// The connections of each address, by the order of their last requests.
    addresses: HashMap<IpAddr, BTreeMap<u64, Arc<Signal>>>,
    total: usize,
    last: u64,
}

impl SlotState {
    fn remove(&mut self, address: IpAddr, order: u64) -> Option<Arc<Signal>> {
        let connections = self.addresses.get_mut(&address)?;
        let removed = connections.remove(&order)?;
        if connections.is_empty() {
            self.addresses.remove(&address);
        }
        self.total -= 1;
        Some(removed)
    }

    fn insert(&mut self, address: IpAddr, close: Arc<Signal>) -> u64 {
        self.last += 1;
        self.total += 1;
        let connections = self.addresses.entry(address).or_default();
        connections.insert(self.last, close);
        self.last
    }

    /// Closes the connection of an address whose last request began longest ago.
    fn close_oldest(&mut self, address: IpAddr) {
        let connections = self.addresses.get(&address);
        let oldest = connections.and_then(|connections| connections.keys().next());
        if let Some(close) = oldest
            .copied()
            .and_then(|order| self.remove(address, order))
        {
            close.send(Ending::MakeRoom);
        }
    }

    fn close_one_of_most(&mut self) {
        let most = self.addresses.iter().max_by_key(|(_, held)| held.len());
        if let Some(address) = most.map(|(address, _)| *address) {
            self.close_oldest(address);
        }
    }
}

/// The place of one connection.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    address: IpAddr,
    order: Mutex<u64>,
    signal: Arc<Signal>,
}

/// Addresses that one client can have at will count as one.
fn group(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let network = u128::from(ip) & !u128::from(u64::MAX);
            Ipv6Addr::from(network).into()
        }
        v4 => v4,
    }
}

impl Slots {
    pub(super) fn new(most: usize, most_per_address: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            most,
            most_per_address: most_per_address.min(most - most / 4),
        })
    }

    fn lock(&self) -> MutexGuard<'_, SlotState> {
        // The state is consistent wherever the holder of the lock could panic.
        lock(&self.state)
    }

    /// Gives a new connection a place.
    pub(super) fn enter(self: &Arc<Self>, ip: IpAddr) -> Slot {
        let address = group(ip);
        let signal = Arc::<Signal>::default();
        let mut state = self.lock();
        let held = state.addresses.get(&address).map_or(0, BTreeMap::len);
        if held >= self.most_per_address {
            state.close_oldest(address);
        } else if state.total >= self.most {
            state.close_one_of_most();
        }
        let order = state.insert(address, Arc::clone(&signal));
        drop(state);
        Slot {
            slots: Arc::clone(self),
            address,
            order: Mutex::new(order),
            signal,
        }
    }

    /// Ends all connections, each once its request is answered.
    pub(super) fn shut_down(&self) {
        let state = self.lock();
        for signal in state.addresses.values().flat_map(BTreeMap::values) {
            signal.send(Ending::ShutDown);
        }
    }

    /// Closes connections because no descriptor is left.
    pub(super) fn make_room(&self) {
        /// Arbitrary: some more than the accept that failed needs.
        const AT_ONCE: usize = 16;
        let mut state = self.lock();
        for _ in 0..AT_ONCE {
            state.close_one_of_most();
        }
    }
}

impl Slot {
    /// Records that a request begins.
    pub(super) fn renew(&self) {
        let mut order = lock(&self.order);
        let mut state = self.slots.lock();
        if let Some(close) = state.remove(self.address, *order) {
            *order = state.insert(self.address, close);
        }
    }

    /// Waits until the connection must end.
    pub(super) async fn ending(&self) -> Ending {
        loop {
            let mut sent = pin!(self.signal.sent.notified());
            // From here on it is woken, so nothing is missed after the look.
            sent.as_mut().enable();
            if let Some(ending) = self.signal.get() {
                return ending;
            }
            sent.await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let order = *self.order.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.slots.lock().remove(self.address, order);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn is_closed(slot: &Slot) -> bool {
        slot.signal.get() == Some(Ending::MakeRoom)
    }

    #[test]
    fn the_connection_without_a_request_for_longest_makes_room() {
        let slots = Slots::new(4, 4);
        let held: Vec<_> = (0..3).map(|_| slots.enter(ip(1))).collect();
        held[0].renew();
        let new = slots.enter(ip(1));
        let closed: Vec<_> = held.iter().map(is_closed).collect();
        assert_eq!(
            closed,
            [false, true, false],
            "three quarters are for one address"
        );
        assert!(!is_closed(&new));
        held[1].renew();
        drop(held);
        drop(new);
        assert_eq!(slots.lock().total, 0);
        assert!(slots.lock().addresses.is_empty());
    }

    #[test]
    fn an_address_with_few_connections_loses_none_to_one_with_many() {
        let slots = Slots::new(4, 4);
        let own = slots.enter(ip(1));
        let many: Vec<_> = (0..3).map(|_| slots.enter(ip(2))).collect();
        let third = slots.enter(ip(3));
        assert!(!is_closed(&own) && !is_closed(&third));
        assert!(is_closed(&many[0]) && !is_closed(&many[1]));
    }

    #[test]
    fn a_network_of_64_bits_is_one_address() {
        let [one, two, other] =
            ["fd00::1", "fd00::2:0:0:1", "fd00:0:0:1::1"].map(|text| group(text.parse().unwrap()));
        assert_eq!(one, two);
        assert_ne!(one, other);
        assert_eq!(group("::ffff:10.0.0.1".parse().unwrap()), ip(1));
    }
}
