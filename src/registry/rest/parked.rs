//! Requests that wait for a change, without the memory of a request.
//!
//! A connection of hyper has buffers of 16 KiB, and a request and its future need some more. Thousands of them
//! may wait for minutes. So a request that must wait leaves only what it waits for, and its head as text; the
//! connection is taken apart down to its socket. When the wait ends, a new connection of hyper reads that head
//! again, and the request is answered like any other.

use std::{
    future::pending,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Version, header, request::Parts};
use tokio::{
    net::TcpStream,
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    answer::RestFailure,
    slots::{Ending, Slot},
};
use crate::{
    registry::memory::{MemoryShared, Position},
    sync::lock,
};

/// A request that waits.
pub(super) struct Parked {
    pub(super) service: Arc<str>,
    pub(super) position: Position,
    pub(super) until: Instant,
    /// The head, without the empty line at its end.
    pub(super) head: String,
}

impl Parked {
    /// Returns what the connection reads again after the wait; `rest` was received after the request.
    pub(super) fn again(&self, waited: Waited, rest: &[u8]) -> Bytes {
        let close = match waited {
            Waited::MakeRoom => CLOSE,
            Waited::Answer | Waited::Injected => "",
        };
        let head = format!("{}{close}\r\n", self.head);
        [head.as_bytes(), rest].concat().into()
    }
}

const CLOSE: &str = "connection: close\r\n";

/// How a wait has ended, and so what the request gets when it is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// The listing, changed or not.
    Answer,
    MakeRoom,
    /// A test made it fail.
    Injected,
}

impl Waited {
    pub(super) fn outcome(self) -> Result<(), RestFailure> {
        match self {
            Self::Answer => Ok(()),
            Self::MakeRoom => Err(RestFailure::busy(
                "another request needs the connection of this one, which waits longest",
            )),
            Self::Injected => Err(RestFailure::injected()),
        }
    }
}

/// Where the service and the task of one connection meet.
#[derive(Default)]
pub(super) struct Place {
    parked: Mutex<Option<Parked>>,
    sent: Notify,
    waited: Mutex<Option<Waited>>,
}

impl Place {
    pub(super) fn park(&self, parked: Parked) {
        *lock(&self.parked) = Some(parked);
        self.sent.notify_one();
    }

    /// Waits until a request waits.
    pub(super) async fn parked(&self) -> Parked {
        loop {
            self.sent.notified().await;
            if let Some(parked) = lock(&self.parked).take() {
                return parked;
            }
        }
    }

    pub(super) fn set_waited(&self, waited: Waited) {
        *lock(&self.waited) = Some(waited);
    }

    /// Returns how the wait of the request that is read again has ended.
    pub(super) fn take_waited(&self) -> Option<Waited> {
        lock(&self.waited).take()
    }
}

/// Writes the head of a request that can be read again: with what its answer depends on.
pub(super) fn head(head: &Parts) -> Option<String> {
    let path = head.uri.path_and_query()?;
    let host = head.headers.get(header::HOST)?.to_str().ok()?;
    let mut text = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n");
    let tokens = head.headers.get_all(header::CONNECTION).into_iter();
    let mut tokens = tokens
        .filter_map(|value| value.to_str().ok())
        .flat_map(|v| v.split(','));
    if head.version < Version::HTTP_11 || tokens.any(|v| v.trim().eq_ignore_ascii_case("close")) {
        text.push_str(CLOSE);
    }
    Some(text)
}

/// Waits for what a request waits for. Returns `None` if the client has hung up.
pub(super) async fn wait(
    shared: &MemoryShared,
    parked: &Parked,
    stream: &TcpStream,
    slot: &Slot,
) -> Option<Waited> {
    let waits = async {
        if shared.faults.admit().await.is_err() {
            return Waited::Injected;
        }
        let waited = tokio::select! {
            left = shared.left(&parked.service, parked.position) => match left {
                Ok(()) => Waited::Answer,
                Err(_) => Waited::Injected,
            },
            () = sleep_until(parked.until) => Waited::Answer,
        };
        shared.faults.open().await;
        waited
    };
    tokio::select! {
        waited = waits => Some(waited),
        ending = slot.ending() => Some(match ending {
            Ending::ShutDown => Waited::Answer,
            Ending::MakeRoom => Waited::MakeRoom,
        }),
        () = hangs_up(stream) => None,
    }
}

async fn hangs_up(stream: &TcpStream) {
    if matches!(stream.peek(&mut [0]).await, Ok(1..)) {
        // Another request, which waits for this one.
        pending::<()>().await;
    }
}
