//! Making a connection, when a request needs one or when one has reached its greatest age.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};

use http::Uri;
use http_body::Body;
use tokio::sync::watch;
use tower::Service;

use super::{
    super::{
        error::OtherVersion,
        life::{Life, again, age},
    },
    ConnectResult, Http2, Line, NoConnection, SharedConnection,
    executor::watched,
    keeping::tick_on,
};
use crate::{connect::Io, error::BoxError};

type Replacement = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<B> Http2<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// Starts a connection if there is none and none is being made.
    pub(super) fn connect(self: &Arc<Self>) -> Option<ConnectResult> {
        let mut line = self.lock();
        match &*line {
            Line::Up(connection) if !connection.sender.is_closed() => return None,
            Line::Connecting(told, task) if !task.is_finished() => return Some(told.clone()),
            _ => {}
        }
        let (tell, told) = watch::channel(None);
        let (this, io) = (Arc::downgrade(self), self.establish());
        let task = tokio::spawn(async move {
            let made = match io.await {
                Ok(io) => Self::handshake(&this, io).await,
                Err(error) => Err(error),
            };
            let Some(this) = this.upgrade() else { return };
            let (line, result) = match made {
                Ok(connection) => (Line::Up(connection), Ok(())),
                Err(error) => (Line::Down, Err(NoConnection(Arc::new(error)))),
            };
            *this.lock() = line;
            tell.send_replace(Some(result));
        });
        let old = mem::replace(
            &mut *line,
            Line::Connecting(told.clone(), task.abort_handle()),
        );
        // As in `let_go`: dropping a connection wakes the requests that it returns.
        drop(line);
        drop(old);
        Some(told)
    }

    pub(super) fn establish(&self) -> impl Future<Output = Result<Io, BoxError>> + Send + use<B> {
        // The connector has the address and the server name.
        let connecting = self.connector.clone().call(Uri::default());
        let negotiates = self.negotiates;
        async move {
            let io = connecting.await?;
            if negotiates && !io.inner().is_http2() {
                return Err(OtherVersion::of(io).into());
            }
            Ok(io)
        }
    }

    /// Makes a connection over `io`.
    pub(super) async fn handshake(
        this: &Weak<Self>,
        io: Io,
    ) -> Result<SharedConnection<B>, BoxError> {
        let gone = || BoxError::from("the endpoint was removed");
        let (builder, tick, max_age) = {
            let this = this.upgrade().ok_or_else(gone)?;
            (this.builder.clone(), this.tick, this.max_age)
        };
        let (made, socket) = watched(builder.handshake(io)).await;
        let (sender, dispatch) = made?;
        let dispatching = tokio::spawn({
            let this = Weak::clone(this);
            async move {
                // The requests on this connection get the error, too.
                if let Err(error) = dispatch.await {
                    tracing::debug!(%error, "connection broke");
                }
                // Drops the sender at once: a request that entered its queue at this moment is
                // returned with it.
                if let Some(this) = this.upgrade() {
                    this.let_go();
                }
            }
        });
        let life = Life::new(socket.unwrap_or_else(|| dispatching.abort_handle()));
        if let Some(tick) = tick {
            let clock = tick_on(Weak::clone(this), Arc::downgrade(&life), tick);
            life.set_clock(tokio::spawn(clock).abort_handle());
        }
        if let Some(max_age) = max_age {
            let renewal = Self::renew(Weak::clone(this), Arc::downgrade(&life), max_age);
            life.set_renewal(tokio::spawn(renewal).abort_handle());
        }
        Ok(SharedConnection {
            sender,
            life,
            used: true,
            idle: 0,
        })
    }

    /// Replaces a connection at its greatest age. Its requests and responses go on. One that is idle is
    /// closed instead: a new one would begin to be idle anew, and so none would ever be closed. Boxed,
    /// because the new connection has such a task, too.
    fn renew(this: Weak<Self>, life: Weak<Life>, max_age: Duration) -> Replacement {
        Box::pin(async move {
            tokio::time::sleep(age(max_age)).await;
            loop {
                let establishing = match this.upgrade() {
                    Some(http2) if http2.is_idle(&life) => return http2.retire(life.as_ptr()),
                    Some(http2) => http2.establish(),
                    None => return,
                };
                let made = match establishing.await {
                    Ok(io) => Self::handshake(&this, io).await,
                    Err(error) => Err(error),
                };
                let Some(http2) = this.upgrade() else { return };
                match made {
                    Ok(new) => return http2.replace(&life, new),
                    // The server has changed, so the next request asks it for the version anew.
                    Err(error) if error.is::<OtherVersion>() => return http2.retire(life.as_ptr()),
                    Err(error) => tracing::debug!(%error, "connection not replaced"),
                }
                drop(http2);
                tokio::time::sleep(again(max_age)).await;
            }
        })
    }

    /// Uses a connection that was made for another version, if there is no other.
    #[cfg(all(feature = "http2", feature = "tls"))]
    pub(in crate::client) async fn adopt(self: &Arc<Self>, io: Io) {
        if let Ok(connection) = Self::handshake(&Arc::downgrade(self), io).await {
            let mut line = self.lock();
            if matches!(&*line, Line::Down) {
                *line = Line::Up(connection);
            }
        }
    }
}
