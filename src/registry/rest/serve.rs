//! Runs a [`RestServer`] on a socket.

use std::{future::Future, pin::pin, time::Duration};

use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch as cell,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::RestServer;

/// The time limit for the head of a request. It is longer than clients keep an idle connection, so that
/// the client closes it.
const HEAD_WITHIN: Duration = Duration::from_secs(30);

/// How long open requests may take when the server shuts down.
const FINISH_WITHIN: Duration = Duration::from_secs(5);

/// The pause after a failed accept; the usual cause is a lack of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

impl RestServer {
    /// Serves HTTP/1 until `shutdown` completes. Then finishes the open requests, within 5 s; requests
    /// that wait for a change get their response at once.
    ///
    /// # Cancel safety
    /// Dropping the future closes the socket and every connection.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let (closing, closed) = cell::channel(false);
        let mut server = self;
        server.closing = Some(closed);
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    connections.spawn(server.connection(stream, &graceful));
                }
                Err(error) => {
                    tracing::warn!(%error, "the registry cannot accept a connection");
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        }
        drop(listener);
        closing.send_replace(true);
        if timeout(FINISH_WITHIN, graceful.shutdown()).await.is_err() {
            tracing::warn!("requests were cut off after {FINISH_WITHIN:?}");
        }
    }

    fn connection(
        &self,
        stream: TcpStream,
        graceful: &GracefulShutdown,
    ) -> impl Future<Output = ()> + Send + 'static {
        // Responses are small, and the client waits for them. A failure to set this costs only time.
        let _ = stream.set_nodelay(true);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(self.clone()));
        let connection = graceful.watch(connection);
        async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the registry broke");
            }
        }
    }
}
