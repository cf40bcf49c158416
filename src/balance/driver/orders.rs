//! Orders and queries from the handle.

use std::{fmt, hash::Hash};

use tokio::{
    sync::{mpsc, oneshot},
    task::yield_now,
    time::Instant,
};

use super::{
    endpoints::Endpoints,
    turn::{FLOOD, TURN},
};
use crate::balance::{
    handle::{Command, EndpointInfo},
    policy::Policy,
};

/// Orders from the handle, and the replies to send with the next snapshot.
pub(super) struct Orders {
    commands: mpsc::UnboundedReceiver<Box<Command>>,
    /// For each order, whether it found its endpoint.
    answers: Vec<(oneshot::Sender<bool>, bool)>,
    /// Replies that wait for the list of endpoints.
    lists: Vec<oneshot::Sender<Vec<EndpointInfo>>>,
}

impl Orders {
    pub(super) fn new(commands: mpsc::UnboundedReceiver<Box<Command>>) -> Self {
        Self {
            commands,
            answers: Vec::new(),
            lists: Vec::new(),
        }
    }

    /// Waits for an order.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Option<Box<Command>> {
        self.commands.recv().await
    }

    /// Applies all waiting orders, so that many orders make one snapshot. Returns whether one is due.
    pub(super) async fn obey_all<K, S, P>(
        &mut self,
        mut first: Option<Box<Command>>,
        endpoints: &mut Endpoints<K, S, P>,
        now: Instant,
    ) -> bool
    where
        K: Eq + Hash + Clone + fmt::Debug + 'static,
        P: Policy,
    {
        let mut dirty = false;
        for obeyed in 0..FLOOD {
            if obeyed % TURN == TURN - 1 {
                yield_now().await;
            }
            let Some(command) = first.take().or_else(|| self.commands.try_recv().ok()) else {
                break;
            };
            let (reply, (found, changed)) = match *command {
                Command::List(reply) => {
                    self.lists.push(reply);
                    continue;
                }
                Command::Subscribe(reply) => {
                    let _ = reply.send(endpoints.subscribe());
                    continue;
                }
                Command::Eject(key, reply) => (reply, endpoints.eject(&key, now)),
                Command::Restore(key, reply) => (reply, endpoints.restore(&key, now)),
                Command::Weigh(key, weight, reply) => (reply, endpoints.weigh(key, weight)),
            };
            self.answers.push((reply, found));
            dirty |= changed;
        }
        dirty
    }

    /// Whether a reply waits for the list of endpoints.
    pub(super) fn wants_list(&self) -> bool {
        !self.lists.is_empty()
    }

    /// Sends the list of endpoints to all waiting replies.
    pub(super) async fn send_list(&mut self, list: Vec<EndpointInfo>) {
        for reply in std::mem::take(&mut self.lists) {
            let _ = reply.send(list.clone());
            yield_now().await;
        }
    }

    /// Sends the replies to the orders.
    pub(super) fn answer_all(&mut self) {
        for (reply, found) in std::mem::take(&mut self.answers) {
            let _ = reply.send(found);
        }
    }
}
