//! How the tasks of a connection are started, and which of them owns the socket.

use std::{cell::Cell, future::Future};

use hyper::rt::Executor;
use tokio::task::AbortHandle;

/// Spawns the tasks of a connection: one for the connection, and one or two for each request, all
/// of the same future type. tokio moves a future about six times before it runs, and this one is as
/// large as a connection: moving it takes 3,000 instructions per request, and boxing it a tenth of
/// that.
#[derive(Clone, Copy, Debug)]
pub(in crate::client) struct Boxing;

impl<F> Executor<F> for Boxing
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let task = tokio::spawn(Box::pin(future));
        // During a handshake only.
        let _ = STARTED.try_with(|started| started.set(Some(task.abort_handle())));
    }
}

tokio::task_local! {
    /// The task that hyper starts in a handshake. It owns the socket.
    static STARTED: Cell<Option<AbortHandle>>;
}

/// Runs a handshake. Also returns the task that owns the socket.
pub(super) async fn watched<T>(handshake: impl Future<Output = T>) -> (T, Option<AbortHandle>) {
    let handshake = async { (handshake.await, STARTED.with(Cell::take)) };
    STARTED.scope(Cell::new(None), handshake).await
}
