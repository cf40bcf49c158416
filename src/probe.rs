//! A health check of a process: one connection, one request, one response.
//!
//! The client uses it for its checks; the embedded registry has its own rules for where it connects.

use std::io;

use tokio::net::TcpStream;

use crate::instance::{Address, Host};

/// Connects. A host name is resolved each time.
pub(crate) async fn connect(address: &Address) -> io::Result<TcpStream> {
    match address.host() {
        Host::Ip(ip) => TcpStream::connect((*ip, address.port())).await,
        Host::Name(name) => TcpStream::connect((&**name, address.port())).await,
    }
}

/// Requests a path over HTTP/1 and returns the status of the response, without waiting for the
/// body.
pub(crate) async fn get(
    io: impl hyper::rt::Read + hyper::rt::Write + Unpin,
    host: &str,
    path: &str,
) -> Result<http::StatusCode, crate::error::BoxError> {
    let mut builder = hyper::client::conn::http1::Builder::new();
    let (mut sender, connection) = builder.max_headers(FIELDS).handshake(io).await?;
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

/// How many fields the head of a response may have: as many as for other requests of this crate.
const FIELDS: usize = 512;

/// The `User-Agent` of a check.
pub(crate) const USER_AGENT: &str = concat!("tower-roster/", env!("CARGO_PKG_VERSION"));

/// Waits for a response while it also polls the connection, so that both end together and no task
/// is spawned. The connection may end after it has delivered the response.
pub(crate) async fn drive<T>(answer: impl Future<Output = T>, connection: impl Future) -> T {
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = connection => answer.await,
    }
}
