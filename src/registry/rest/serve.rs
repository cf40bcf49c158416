//! Runs a [`RestServer`] on a socket.

use std::{future::Future, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    RestServer,
    server::Connection,
    slots::{Ending, Slot, Slots},
    writes::Writes,
};

/// The time limit for the head of a request. It is longer than clients keep an idle connection, so that
/// the client closes it.
const HEAD_WITHIN: Duration = Duration::from_secs(30);

/// The largest head of a request. The longest name and the tags of a query have at most 14 KiB, encoded.
const LARGEST_HEAD: usize = 16 << 10;

/// How long open requests may take when the server shuts down.
const FINISH_WITHIN: Duration = Duration::from_secs(5);

/// How long a connection that must make room may take for the answer to the request that waits on it. The
/// answer is a few bytes for a client that reads.
const LEAVE_WITHIN: Duration = Duration::from_millis(250);

/// The pause after a failed accept; the usual cause is a lack of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// How many descriptors are kept for checks and files.
const KEPT_BACK: usize = 128;

impl RestServer {
    /// Serves HTTP/1 until `shutdown` completes. Then finishes the open requests, within 5 s; requests
    /// that wait for a change get their response at once.
    ///
    /// # Cancel safety
    /// Dropping the future closes the socket and every connection.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let slots = self.slots();
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
                Ok((stream, peer)) => {
                    let slot = slots.enter(peer.ip());
                    connections.spawn(self.connection(stream, peer, slot));
                }
                Err(error) => {
                    tracing::warn!(%error, "the registry cannot accept a connection");
                    slots.make_room();
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        }
        drop(listener);
        slots.shut_down();
        let finished = async { while connections.join_next().await.is_some() {} };
        if timeout(FINISH_WITHIN, finished).await.is_err() {
            tracing::warn!("requests were cut off after {FINISH_WITHIN:?}");
        }
    }

    fn slots(&self) -> Arc<Slots> {
        let settings = &self.front.settings;
        let most = match descriptors() {
            Some(most) => settings.connections.min(most - KEPT_BACK.min(most / 2)),
            None => settings.connections,
        };
        Slots::new(most.max(1), settings.connections_per_address)
    }

    fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        slot: Slot,
    ) -> impl Future<Output = ()> + Send + 'static {
        let mut server = self.clone();
        async move {
            // Responses are small, and the client waits for them. A failure to set this costs only time.
            let _ = stream.set_nodelay(true);
            let Ok(local) = stream.local_addr() else {
                return;
            };
            let connection = Arc::new(Connection {
                peer: peer.ip(),
                local: local.ip(),
                slot,
            });
            server.connection = Some(Arc::clone(&connection));
            let io = Writes::new(TokioIo::new(stream), server.front.settings.write_within);
            let mut serving = pin!(
                http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_WITHIN)
                    .max_buf_size(LARGEST_HEAD)
                    .serve_connection(io, TowerToHyperService::new(server))
            );
            let ending = tokio::select! {
                served = serving.as_mut() => Err(served),
                ending = connection.slot.ending() => Ok(ending),
            };
            let served = match ending {
                Err(served) => served,
                Ok(Ending::MakeRoom) if !connection.slot.has_waiting_request() => return,
                Ok(Ending::MakeRoom) => {
                    serving.as_mut().graceful_shutdown();
                    timeout(LEAVE_WITHIN, serving).await.unwrap_or(Ok(()))
                }
                Ok(Ending::ShutDown) => {
                    serving.as_mut().graceful_shutdown();
                    serving.await
                }
            };
            if let Err(error) = served {
                let error = error.to_string();
                tracing::debug!(?error, "a connection to the registry broke");
            }
        }
    }
}

/// Returns how many descriptors this process may have, where the system says so.
fn descriptors() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}
