//! What tells a server to leave.

use std::{fmt, future::Future, io, pin::Pin};

/// A future of the user's.
pub(super) type UserSignal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// SIGTERM and SIGINT, or a future of the user's, which comes once.
pub(super) enum LeaveSignals {
    #[cfg(unix)]
    Process {
        terminate: tokio::signal::unix::Signal,
        interrupt: tokio::signal::unix::Signal,
    },
    #[cfg(not(unix))]
    Process,
    User(Option<UserSignal>),
}

impl LeaveSignals {
    /// From now on these signals do not end the process.
    #[cfg(unix)]
    pub(super) fn of_process() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self::Process {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    #[cfg(not(unix))]
    pub(super) fn of_process() -> io::Result<Self> {
        Ok(Self::Process)
    }

    /// Waits for the next of them.
    ///
    /// # Cancel safety
    /// Dropping the future loses no signal.
    pub(super) async fn next(&mut self) {
        match self {
            #[cfg(unix)]
            Self::Process {
                terminate,
                interrupt,
            } => {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            }
            #[cfg(not(unix))]
            Self::Process => {
                if tokio::signal::ctrl_c().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            Self::User(signal) => {
                match signal {
                    Some(future) => future.as_mut().await,
                    None => std::future::pending().await,
                }
                *signal = None;
            }
        }
    }
}

impl fmt::Debug for LeaveSignals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User(_) => "a future of the user's",
            _ => "SIGTERM and SIGINT",
        })
    }
}
