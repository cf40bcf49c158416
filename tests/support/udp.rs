//! A relay of datagrams that fails as the proxy beside it does.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{net::UdpSocket, task::JoinSet};

use super::{Garbage, Mode, rt};

/// The longest that an answer of the upstream is waited for.
const WITHIN: Duration = Duration::from_secs(10);

/// A handle to a running relay; dropping it ends the relay.
pub struct UdpRelay {
    shared: Arc<Shared>,
    task: tokio::task::AbortHandle,
}

struct Shared {
    upstream: SocketAddr,
    mode: Mutex<Mode>,
    garbage: Mutex<Option<Garbage>>,
}

impl UdpRelay {
    /// Listens at the address of a TCP proxy, so that both are one server to a client.
    pub async fn start(at: SocketAddr, upstream: SocketAddr) -> UdpRelay {
        let shared = Arc::new(Shared {
            upstream,
            mode: Mutex::new(Mode::Pass),
            garbage: Mutex::default(),
        });
        // Bound on the runtime that polls it.
        let socket = rt().spawn(UdpSocket::bind(at)).await;
        let socket = socket.expect("the harness runs").expect("a free port");
        let task = rt().spawn(relay(socket, Arc::clone(&shared)));
        UdpRelay {
            shared,
            task: task.abort_handle(),
        }
    }

    /// From the next datagram on. Without connections, [`Mode::Refuse`] and [`Mode::Reset`] are silence.
    pub fn set(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = mode;
    }

    /// Answers with garbage. How it ends says nothing here.
    pub fn garble(&self, garbage: Garbage) {
        *self.shared.garbage.lock().unwrap() = Some(garbage);
        self.set(Mode::Garble);
    }
}

impl Drop for UdpRelay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(socket: UdpSocket, shared: Arc<Shared>) {
    let socket = Arc::new(socket);
    let mut answers = JoinSet::new();
    let mut query = vec![0; 64 << 10];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut query) => {
                // An error tells of an earlier datagram that arrived nowhere.
                let Ok((n, client)) = received else { continue };
                let (query, shared) = (query[..n].to_vec(), Arc::clone(&shared));
                let socket = Arc::clone(&socket);
                answers.spawn(async move {
                    if let Ok(Some(answer)) = answer(&query, &shared).await {
                        let _ = socket.send_to(&answer, client).await;
                    }
                });
            }
            Some(_) = answers.join_next() => {}
        }
    }
}

async fn answer(query: &[u8], shared: &Shared) -> io::Result<Option<Vec<u8>>> {
    let mode = || *shared.mode.lock().unwrap();
    match mode() {
        Mode::Pass | Mode::Cut => {}
        Mode::Garble => {
            let garbage = shared.garbage.lock().unwrap().clone();
            return Ok(garbage.map(|garbage| (garbage.bytes)(query)));
        }
        Mode::Refuse | Mode::Reset | Mode::Blackhole => return Ok(None),
    }
    let upstream = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    upstream.connect(shared.upstream).await?;
    upstream.send(query).await?;
    let mut answer = vec![0; 64 << 10];
    let n = tokio::time::timeout(WITHIN, upstream.recv(&mut answer)).await??;
    answer.truncate(match mode() {
        Mode::Cut => n / 2,
        _ => n,
    });
    Ok(Some(answer))
}
