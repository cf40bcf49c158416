//! The handle to a watched service.

use std::{fmt, sync::Arc};

use tokio::sync::{Notify, watch as cell};

use super::{
    query::Query,
    view::{View, ViewState},
    watches::Follower,
};

/// A watched service. It is cheap to clone; the watch ends when the last clone is dropped.
///
/// It returns the latest [`View`], not a queue of changes. So a watch that is not read for hours costs
/// nothing, and the next read is up to date.
#[derive(Clone)]
pub struct Watch {
    query: Query,
    registry: Arc<str>,
    cell: cell::Receiver<View>,
    again: Arc<Notify>,
}

/// The task of the watch has ended, because its runtime shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed(());

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the watch has ended with its runtime")
    }
}

impl std::error::Error for Closed {}

impl Watch {
    pub(super) fn new(query: Query, registry: Arc<str>, (mut cell, again): Follower) -> Self {
        // The first `changed` of a new handle must return the view that exists already.
        cell.mark_changed();
        Self {
            query,
            registry,
            cell,
            again,
        }
    }

    /// Returns the query.
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// Returns the name of the registry, as it appears in errors.
    pub fn registry(&self) -> &Arc<str> {
        &self.registry
    }

    /// Returns the current view.
    pub fn view(&self) -> View {
        self.cell.borrow().clone()
    }

    /// Waits until the view differs from the one this handle returned last, and returns it.
    ///
    /// A confirmation without a change is no difference.
    ///
    /// # Errors
    /// When the runtime of the watch has shut down.
    ///
    /// # Cancel safety
    /// Dropping the future loses no change.
    pub async fn changed(&mut self) -> Result<View, Closed> {
        self.cell.changed().await.map_err(|_| Closed(()))?;
        Ok(self.cell.borrow_and_update().clone())
    }

    /// Waits until the view satisfies `condition`, and returns it; at once if it already does.
    ///
    /// # Errors
    /// When the runtime of the watch has shut down.
    ///
    /// # Cancel safety
    /// Dropping the future loses no change.
    pub async fn wait_for(&mut self, condition: impl FnMut(&View) -> bool) -> Result<View, Closed> {
        let view = self.cell.wait_for(condition).await;
        view.map(|view| view.clone()).map_err(|_| Closed(()))
    }

    /// Asks for another look at the registry soon, because the view may be outdated: an endpoint cannot be
    /// reached. It has an effect only where changes are noticed late, because the registry is asked at
    /// intervals (DNS, and [`WatchMode::Poll`](super::WatchMode::Poll)). The limit on the rate of requests
    /// still holds. A [`Balance`](crate::balance::Balance) calls it when an endpoint fails often
    /// enough to be ejected.
    pub fn look_again(&self) {
        self.again.notify_one();
    }

    /// Waits for the registry's first reply, and returns the view after it.
    ///
    /// # Errors
    /// When the runtime of the watch has shut down.
    ///
    /// # Cancel safety
    /// Dropping the future loses no change.
    pub async fn resolved(&mut self) -> Result<View, Closed> {
        self.wait_for(|view| view.state != ViewState::Pending).await
    }
}

impl Watch {
    /// Turns it into a handle that has returned no view yet.
    pub(crate) fn unread(self) -> Self {
        Self::new(self.query, self.registry, (self.cell, self.again))
    }

    /// Whether both receive from the same task, so that one of them is enough.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.cell.same_channel(&other.cell)
    }

    /// Whether the watch has ended.
    pub(crate) fn is_ended(&self) -> bool {
        self.cell.has_changed().is_err()
    }

    /// Waits until the view differs from the one seen last, or the watch ends. Returns at once if it has
    /// ended.
    pub(crate) async fn stirs(&mut self) {
        // An error means that the watch has ended.
        let _ = self.cell.changed().await;
    }
}

impl_debug!(Watch: |this| query = this.query, state = this.cell.borrow().state);
