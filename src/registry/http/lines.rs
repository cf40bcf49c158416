//! A response that the registry streams as lines, for as long as it is open.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use super::{RegistryHttp, Reply, Request, in_time};
use crate::{
    connect::Whole,
    error::RegistryError,
    registry::redact::{Cause, Secrets},
};

/// The beginning of a response.
pub(in crate::registry) enum Opened {
    /// A success; its body follows.
    Lines(Lines),
    /// A complete response with another status.
    Reply(Reply),
}

/// The lines of a response that has begun. Dropping it closes the connection, over HTTP/1.
pub(in crate::registry) struct Lines {
    body: Whole,
    /// What was read and not returned yet: at most one line, and the rest of the last frame.
    read: BytesMut,
    /// How many of these bytes are known to hold no end of a line.
    scanned: usize,
    longest: usize,
    secrets: Secrets,
}

/// Why there is no further line.
#[derive(Debug)]
pub(in crate::registry) enum LineError {
    /// A line is longer than the limit.
    TooLong,
    /// The connection broke.
    Broke(Cause),
}

impl RegistryHttp {
    /// Sends a request to the address at index `agent`, modulo their number, and returns once the head
    /// of the response has arrived, within the time of the request. No line may be longer than
    /// `longest` bytes.
    pub(in crate::registry) async fn open(
        &self,
        agent: usize,
        request: Request,
        longest: usize,
    ) -> Result<Opened, RegistryError> {
        let agent = &self.origins[agent % self.origins.len()];
        let (within, secrets) = (request.within, request.secrets());
        let head = async {
            let response = self.begin(agent, request, &secrets).await?;
            if !response.status().is_success() {
                let reply = self.finish(agent, response, false, &secrets).await?;
                return Ok(Opened::Reply(Reply { secrets, ..reply }));
            }
            Ok(Opened::Lines(Lines {
                body: Whole::wrap(response).into_body(),
                read: BytesMut::new(),
                scanned: 0,
                longest,
                secrets,
            }))
        };
        in_time(agent, within, head).await
    }
}

impl Lines {
    /// What no message about the lines may contain.
    pub(in crate::registry) fn secrets(&self) -> Secrets {
        self.secrets.clone()
    }

    /// Waits for the next line that is not blank; `None` after the last. Dropping the future loses
    /// nothing.
    pub(in crate::registry) async fn next(&mut self) -> Result<Option<Bytes>, LineError> {
        loop {
            let end = self.read[self.scanned..].iter().position(|b| *b == b'\n');
            if let Some(end) = end {
                let line = self.read.split_to(self.scanned + end + 1).freeze();
                self.scanned = 0;
                if line.len() > self.longest {
                    return Err(LineError::TooLong);
                }
                if !line.trim_ascii().is_empty() {
                    return Ok(Some(line));
                }
                continue;
            }
            self.scanned = self.read.len();
            if self.scanned > self.longest {
                return Err(LineError::TooLong);
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.read.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    return Err(LineError::Broke(self.secrets.cause(error).after_head()));
                }
                None => {
                    self.scanned = 0;
                    let rest = self.read.split().freeze();
                    return Ok(Some(rest).filter(|rest| !rest.trim_ascii().is_empty()));
                }
            }
        }
    }
}
