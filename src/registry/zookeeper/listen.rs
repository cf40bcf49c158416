//! Who waits for events of which node.
//!
//! An event says that a node may have changed, and nothing more: what changed is read again (ZD2). So
//! events of one node are folded, and whoever reads slowly loses nothing.

use std::{
    collections::{HashMap, HashSet},
    mem::take,
    sync::{Arc, Mutex},
};

use tokio::sync::Notify;

use super::wire::Event;
use crate::{registry::decoding::MOST_RECORDS, sync::lock};

/// The listeners of one client, by the path of the node that they are interested in.
#[derive(Default)]
pub(super) struct Listeners(Mutex<HashMap<Arc<str>, Vec<Arc<Mailbox>>>>);

#[derive(Default)]
struct Mailbox {
    changes: Mutex<Changes>,
    arrived: Notify,
}

/// What changed since the last look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// The node, or the list of its children.
    pub(super) node: bool,
    /// These children, perhaps.
    pub(super) children: HashSet<Box<str>>,
}

impl Changes {
    fn is_empty(&self) -> bool {
        !self.node && self.children.is_empty()
    }
}

/// Gets the events of one node and of its children. Dropping it ends that.
pub(super) struct Listener {
    listeners: Arc<Listeners>,
    path: Arc<str>,
    mailbox: Arc<Mailbox>,
}

impl Listeners {
    pub(super) fn listen(self: &Arc<Self>, path: Arc<str>) -> Listener {
        let mailbox = Arc::new(Mailbox::default());
        let mut all = lock(&self.0);
        all.entry(Arc::clone(&path))
            .or_default()
            .push(Arc::clone(&mailbox));
        Listener {
            listeners: Arc::clone(self),
            path,
            mailbox,
        }
    }

    /// Passes an event on to the listeners of its node, and to those of the node above.
    pub(super) fn tell(&self, event: Event<'_>) {
        let all = lock(&self.0);
        let tell = |path: &str, note: &dyn Fn(&mut Changes)| {
            for mailbox in all.get(path).into_iter().flatten() {
                note(&mut lock(&mailbox.changes));
                mailbox.arrived.notify_one();
            }
        };
        tell(event.path, &|changes| changes.node = true);
        if let Some((parent, child)) = event.path.rsplit_once('/') {
            tell(parent, &|changes| {
                // More children than can be read: a server that invents them fills no memory.
                if changes.children.len() < MOST_RECORDS {
                    changes.children.insert(child.into());
                }
            });
        }
    }

    fn remove(&self, path: &str, mailbox: &Arc<Mailbox>) {
        let mut all = lock(&self.0);
        if let Some(of_path) = all.get_mut(path) {
            of_path.retain(|known| !Arc::ptr_eq(known, mailbox));
            if of_path.is_empty() {
                all.remove(path);
            }
        }
    }

    /// Whether nobody listens to the events of this node.
    pub(super) fn are_none(&self, path: &str) -> bool {
        let all = lock(&self.0);
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        !all.contains_key(path) && !all.contains_key(parent)
    }
}

impl Listener {
    pub(super) fn path(&self) -> &Arc<str> {
        &self.path
    }

    /// Waits until there are changes to [`take`](Self::take).
    pub(super) async fn changed(&self) {
        while lock(&self.mailbox.changes).is_empty() {
            self.mailbox.arrived.notified().await;
        }
    }

    pub(super) fn take(&self) -> Changes {
        take(&mut *lock(&self.mailbox.changes))
    }

    /// Gets no more events.
    pub(super) fn end(&self) {
        self.listeners.remove(&self.path, &self.mailbox);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.end();
    }
}
