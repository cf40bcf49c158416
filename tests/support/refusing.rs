//! HTTP/2 servers, of crate `h2`, that refuse every request that they receive, and promise with it
//! that they did not process the request (RFC 9113, sections 8.7 and 6.8).
#![allow(dead_code, unreachable_pub, missing_debug_implementations)]

use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use h2::Reason;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

/// How it refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refuses {
    /// With `REFUSED_STREAM`, after it has read the whole request.
    Stream,
    /// With a `GOAWAY` whose last stream is below that of the request.
    Connection,
}

/// Dropping it ends the server.
pub struct Refusing {
    pub addr: SocketAddr,
    refused: Arc<AtomicUsize>,
    accept: AbortHandle,
}

impl Refusing {
    pub async fn start(how: Refuses) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let refused = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&refused);
        let accept = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(refuse(stream, how, Arc::clone(&count)));
            }
        });
        Self {
            addr,
            refused,
            accept: accept.abort_handle(),
        }
    }

    /// Requests that it refused.
    pub fn refused(&self) -> usize {
        self.refused.load(Relaxed)
    }
}

impl Drop for Refusing {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

/// Refuses the requests on one connection.
pub async fn refuse(stream: TcpStream, how: Refuses, refused: Arc<AtomicUsize>) {
    match how {
        Refuses::Stream => {
            let Ok(mut connection) = h2::server::handshake(stream).await else {
                return;
            };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let refused = Arc::clone(&refused);
                tokio::spawn(async move {
                    let mut body = request.into_body();
                    while let Some(Ok(data)) = body.data().await {
                        let _ = body.flow_control().release_capacity(data.len());
                    }
                    refused.fetch_add(1, Relaxed);
                    respond.send_reset(Reason::REFUSED_STREAM);
                });
            }
        }
        Refuses::Connection => {
            let mut seen = vec![0; 1 << 16];
            loop {
                match stream.peek(&mut seen).await {
                    Ok(0) | Err(_) => return,
                    Ok(len) if has_request(&seen[..len]) => break,
                    // `peek` returns at once while there are bytes.
                    Ok(_) => tokio::task::yield_now().await,
                }
            }
            // It has read no stream, so its last stream is zero.
            let Ok(mut connection) = h2::server::handshake(stream).await else {
                return;
            };
            connection.abrupt_shutdown(Reason::NO_ERROR);
            refused.fetch_add(1, Relaxed);
            let _ = poll_fn(|cx| connection.poll_closed(cx)).await;
        }
    }
}

/// Whether the first bytes of a connection contain the head of a request.
fn has_request(bytes: &[u8]) -> bool {
    const PREFACE: usize = 24;
    const HEADERS: u8 = 1;
    let mut rest = bytes.get(PREFACE..).unwrap_or_default();
    while let [a, b, c, kind, ..] = *rest {
        if kind == HEADERS {
            return true;
        }
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        rest = rest.get(9 + length..).unwrap_or_default();
    }
    false
}
