//! The body of a response, which ends only when the response is complete.
//!
//! hyper checks this for HTTP/1. For HTTP/2 it takes `RST_STREAM` with `NO_ERROR` for the end of a body,
//! because a server that has sent a complete response may stop the upload of the request with it (RFC
//! 9113, section 8.1). A server that sends it earlier, or a proxy that lost the server behind it, leaves
//! an incomplete response, which looks like a complete one to the caller.

use std::{
    error::Error,
    fmt, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::classify::Begun;

/// A body that fails if the response ends before its end.
pub(crate) struct Whole {
    body: Incoming,
    /// Whether the end is still to be checked.
    unchecked: bool,
}

impl Whole {
    pub(crate) fn wrap(response: Response<Incoming>) -> Response<Self> {
        let unchecked = response.version() == Version::HTTP_2;
        response.map(|body| Self { body, unchecked })
    }

    /// Whether a body of HTTP/2 that has no more frames was reset. The length comes first, because a
    /// look at the stream takes the lock of its connection.
    fn is_reset(&self) -> bool {
        self.body.size_hint().exact() != Some(0) && !self.body.is_end_stream()
    }
}

impl Body for Whole {
    type Data = Bytes;
    type Error = Incomplete;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Incomplete>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                // Trailers are the end of the stream.
                self.unchecked &= frame.is_data();
                Some(Ok(frame))
            }
            Some(Err(error)) => Some(Err(Incomplete::Broke(Begun(Some(error))))),
            None => {
                let reset = mem::take(&mut self.unchecked) && self.is_reset();
                reset.then_some(Err(Incomplete::Reset))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl fmt::Debug for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.body.fmt(f)
    }
}

/// The body of a response over HTTP broke off, so the response is incomplete.
#[derive(Debug)]
pub(crate) enum Incomplete {
    Broke(Begun),
    /// With `NO_ERROR`.
    Reset,
}

impl fmt::Display for Incomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Broke(_) => "the body of the response broke off",
            Self::Reset => "the server reset the stream before the end of the response",
        })
    }
}

impl Error for Incomplete {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Broke(error) => Some(error),
            Self::Reset => {
                const BEGUN: &Begun = &Begun(None);
                Some(BEGUN)
            }
        }
    }
}
