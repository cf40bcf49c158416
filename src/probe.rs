//! One connection, one request, one answer: how a process is asked whether it is well.
//!
//! Used by the checks that the embedded registry makes and by those of a client.

use std::io;

use tokio::net::TcpStream;

use crate::instance::{Address, Host};

/// Connects; a name is resolved each time.
pub(crate) async fn connect(address: &Address) -> io::Result<TcpStream> {
    match address.host() {
        Host::Ip(ip) => TcpStream::connect((*ip, address.port())).await,
        Host::Name(name) => TcpStream::connect((&**name, address.port())).await,
    }
}

/// Requests a path over HTTP/1 and returns the status of the answer. The body is not waited for.
#[cfg(feature = "_hyper")]
pub(crate) async fn get(
    io: impl hyper::rt::Read + hyper::rt::Write + Unpin,
    host: &str,
    path: &str,
) -> Result<http::StatusCode, crate::error::BoxError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    let request = http::Request::get(path)
        .header(http::header::HOST, host)
        .header(http::header::USER_AGENT, USER_AGENT)
        .body(http_body_util::Empty::<bytes::Bytes>::new())?;
    let answer = async {
        sender.ready().await?;
        sender.send_request(request).await
    };
    let response = drive(answer, connection).await?;
    Ok(response.status())
}

/// What a check says of itself.
#[cfg(feature = "_hyper")]
pub(crate) const USER_AGENT: &str = concat!("tower-roster/", env!("CARGO_PKG_VERSION"));

/// Waits for an answer while the connection runs: driven here and not by a task of its own, so that
/// both end together. A connection may end with the answer already handed over.
#[cfg(feature = "_hyper")]
pub(crate) async fn drive<T>(answer: impl Future<Output = T>, connection: impl Future) -> T {
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = connection => answer.await,
    }
}
