//! Where a listener listens.

use std::{io, net::SocketAddr};

/// A listener whose server can be announced: those of tokio and of the standard library, or a bare address.
///
/// Implement it for a listener of your own.
pub trait Listener {
    /// Returns the address that it listens on; `None` if that is no address of a network, as of a Unix socket.
    ///
    /// # Errors
    /// When the system does not tell it.
    fn address(&self) -> io::Result<Option<SocketAddr>>;
}

impl Listener for SocketAddr {
    fn address(&self) -> io::Result<Option<SocketAddr>> {
        Ok(Some(*self))
    }
}

impl Listener for tokio::net::TcpListener {
    fn address(&self) -> io::Result<Option<SocketAddr>> {
        self.local_addr().map(Some)
    }
}

impl Listener for std::net::TcpListener {
    fn address(&self) -> io::Result<Option<SocketAddr>> {
        self.local_addr().map(Some)
    }
}

#[cfg(unix)]
impl Listener for tokio::net::UnixListener {
    fn address(&self) -> io::Result<Option<SocketAddr>> {
        Ok(None)
    }
}

#[cfg(unix)]
impl Listener for std::os::unix::net::UnixListener {
    fn address(&self) -> io::Result<Option<SocketAddr>> {
        Ok(None)
    }
}
