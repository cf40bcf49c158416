//! The handle to a watched service.

use std::fmt;

use tokio::sync::watch as cell;

use super::{
    query::Query,
    view::{View, ViewState},
};

/// A watched service. Cheap to clone; the watch ends when the last clone is dropped.
///
/// It hands over the latest [`View`], never a queue of changes: one that is not looked at for hours
/// costs nothing and is up to date at its next look.
#[derive(Clone)]
pub struct Watch {
    query: Query,
    cell: cell::Receiver<View>,
}

/// The task behind a watch has ended, which happens when its runtime shuts down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed(());

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the watch has ended with its runtime")
    }
}

impl std::error::Error for Closed {}

impl Watch {
    pub(super) fn new(query: Query, mut cell: cell::Receiver<View>) -> Self {
        // What is known already is news to this handle.
        cell.mark_changed();
        Self { query, cell }
    }

    /// What is watched.
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// What is known now.
    pub fn view(&self) -> View {
        self.cell.borrow().clone()
    }

    /// Waits until the view differs from the one this handle returned last, and returns it.
    ///
    /// A mere confirmation of what is known is no difference.
    ///
    /// # Errors
    /// When the runtime of the watch has shut down.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn changed(&mut self) -> Result<View, Closed> {
        self.cell.changed().await.map_err(|_| Closed(()))?;
        Ok(self.cell.borrow_and_update().clone())
    }

    /// Waits until the view satisfies `condition`, which may be so already.
    ///
    /// # Errors
    /// When the runtime of the watch has shut down.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn wait_for(&mut self, condition: impl FnMut(&View) -> bool) -> Result<View, Closed> {
        let view = self.cell.wait_for(condition).await;
        view.map(|view| view.clone()).map_err(|_| Closed(()))
    }

    /// Waits for the registry's first answer, whatever it says.
    ///
    /// # Errors
    /// When the runtime of the watch has shut down.
    pub async fn resolved(&mut self) -> Result<View, Closed> {
        self.wait_for(|view| view.state != ViewState::Pending).await
    }
}

impl Watch {
    /// Whether both hear of the same, so that one of them will do.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.cell.same_channel(&other.cell)
    }

    /// Whether nothing will come any more.
    pub(crate) fn is_ended(&self) -> bool {
        self.cell.has_changed().is_err()
    }

    /// Waits until the view differs from the one seen last, or the watch has ended: at once, if so.
    pub(crate) async fn stirs(&mut self) {
        // An error is the end.
        let _ = self.cell.changed().await;
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("query", &self.query)
            .field("state", &self.cell.borrow().state)
            .finish_non_exhaustive()
    }
}
