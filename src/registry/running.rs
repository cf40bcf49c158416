//! Runs the task of a watch for as long as the watch has handles.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{runtime::Handle, sync::watch as cell};
use tracing::Instrument;

use super::{origin::Work, query::Query, view::View, watches::Watches};
use crate::text::Escaped;

/// The task of a watch.
pub(super) struct WatchTask {
    pub(super) query: Query,
    pub(super) registry: Arc<str>,
    /// How long the task continues without a handle.
    pub(super) linger: Duration,
    pub(super) watches: Weak<Watches>,
    pub(super) alive: cell::Receiver<()>,
}

impl WatchTask {
    /// Starts the task. It ends when `cell` has no receiver left.
    pub(super) fn spawn(self, runtime: &Handle, work: Work, cell: Arc<cell::Sender<View>>) {
        // The span gives backend and service to every event of this task. It has the level of errors, so that
        // a filter by level does not remove it from the events that pass.
        let (service, backend) = (Escaped(self.query.service()), Escaped(&self.registry));
        let span = tracing::error_span!("watch", %service, %backend);
        let task = async move {
            tokio::select! {
                () = work(Arc::clone(&cell)) => {}
                () = self.unused(&cell) => {}
            }
            tracing::debug!("watch ended");
        };
        runtime.spawn(task.instrument(span));
    }

    /// Returns once the watch has no receiver left and its linger time has passed.
    async fn unused(&self, cell: &Arc<cell::Sender<View>>) {
        loop {
            cell.closed().await;
            let mut alive = self.alive.clone();
            tokio::select! {
                () = tokio::time::sleep(self.linger) => {}
                // Fails when the last registry handle is dropped.
                _ = alive.changed() => {}
            }
            let unused = match self.watches.upgrade() {
                Some(watches) => watches.forget_unused(&self.query, cell),
                // A receiver may have subscribed before the registry was dropped.
                None => cell.receiver_count() == 0,
            };
            if unused {
                return;
            }
        }
    }
}
