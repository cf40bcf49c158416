//! Runs a [`RestServer`] on a socket.

use std::{future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tower::Service;

use super::{
    RestServer,
    parked::{self, Place, Waited},
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

/// The pause after a failed accept. The usual cause is a lack of descriptors, which lasts.
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
                    if lacks_descriptors(&error) {
                        slots.make_room();
                    }
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
        let server = self.clone();
        async move {
            // Responses are small, and the client waits for them. A failure to set this costs only time.
            let _ = stream.set_nodelay(true);
            let Ok(local) = stream.local_addr() else {
                return;
            };
            let connection = Connection {
                peer: peer.ip(),
                local: local.ip(),
                slot,
                place: Place::default(),
            };
            if let Err(error) = server.talk(stream, Arc::new(connection)).await {
                let error = error.to_string();
                tracing::debug!(?error, "a connection to the registry broke");
            }
        }
    }

    /// Serves one connection.
    async fn talk(
        mut self,
        mut stream: TcpStream,
        connection: Arc<Connection>,
    ) -> hyper::Result<()> {
        self.connection = Some(Arc::clone(&connection));
        let (slot, place) = (&connection.slot, &connection.place);
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .max_buf_size(LARGEST_HEAD);
        // What is read again, and how the wait of that request has ended.
        let (mut again, mut waited) = (Bytes::new(), None);
        loop {
            let within = self.front.settings.write_within;
            let io = Writes::new(TokioIo::new(stream), again, within);
            let server = self.clone();
            let service = service_fn(move |request| server.clone().call(request));
            let mut serving = http.serve_connection(io, service);
            if waited == Some(Waited::MakeRoom) {
                return timeout(LEAVE_WITHIN, serving).await.unwrap_or(Ok(()));
            }
            let parked = tokio::select! {
                // First what is read again: a connection without a request would be closed at once.
                biased;
                served = &mut serving => return served,
                parked = place.parked() => parked,
                ending = slot.ending() => return match ending {
                    Ending::MakeRoom => Ok(()),
                    Ending::ShutDown => {
                        std::pin::Pin::new(&mut serving).graceful_shutdown();
                        serving.await
                    }
                },
            };
            let http1::Parts { io, read_buf, .. } = serving.into_parts();
            // A copy: the bytes share the buffer that they were read into.
            let rest = read_buf.to_vec();
            drop(read_buf);
            stream = io.into_inner().into_inner();
            waited = parked::wait(&self.memory().shared, &parked, &stream, slot).await;
            let Some(outcome) = waited else {
                return Ok(());
            };
            place.set_waited(outcome);
            again = parked.again(outcome, &rest);
        }
    }
}

/// Whether this process, or the system, has no descriptor left. Other failures concern one connection only,
/// such as one that its client has given up.
fn lacks_descriptors(error: &io::Error) -> bool {
    // ENFILE and EMFILE of Unix, and WSAEMFILE of Windows.
    matches!(error.raw_os_error(), Some(23 | 24 | 10_024))
}

/// Returns how many descriptors this process may have, where the system says so.
fn descriptors() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn only_a_lack_of_descriptors_costs_other_connections() {
        use rustix::io::Errno;
        for (errno, lacks) in [
            (Errno::MFILE, true),
            (Errno::NFILE, true),
            (Errno::CONNABORTED, false),
            (Errno::NOBUFS, false),
            (Errno::PERM, false),
        ] {
            assert_eq!(lacks_descriptors(&errno.into()), lacks, "{errno}");
        }
        assert!(!lacks_descriptors(&io::Error::other("other")));
    }
}
