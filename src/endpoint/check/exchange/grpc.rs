//! The part of the gRPC health protocol that a check uses: two messages with one field each, which need no
//! code generator.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioExecutor;

use super::{super::error::CheckError, Io};
use crate::{error::BoxError, probe};

/// The value of `SERVING`.
const SERVING: u64 = 1;

/// The status of a server that has no health service.
const UNIMPLEMENTED: u32 = 12;

/// The largest accepted response. A usual one has seven bytes.
const MAX_ANSWER: usize = 64 * 1024;

pub(super) async fn check(io: Io, host: &str, service: &str) -> Result<(), CheckError> {
    let broke = |error: hyper::Error| CheckError::Exchange(error.into());
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
    let (mut sender, connection) = handshake.map_err(broke)?;
    let request = Request::post(format!("http://{host}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, probe::USER_AGENT)
        .body(Full::new(encode(service)))
        .map_err(|error| CheckError::Exchange(error.into()))?;
    let answer = async {
        sender.ready().await.map_err(broke)?;
        let response = sender.send_request(request).await.map_err(broke)?;
        let (head, body) = response.into_parts();
        if !head.status.is_success() {
            return Err(CheckError::Status(head.status));
        }
        // A response without a message has its status in the head.
        status(&head.headers)?;
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(CheckError::Exchange)?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        if !head.headers.contains_key("grpc-status") && !trailers.contains_key("grpc-status") {
            return Err(CheckError::Exchange("no gRPC status".into()));
        }
        status(&trailers)?;
        match serving(&body.to_bytes()).map_err(CheckError::Exchange)? {
            SERVING => Ok(()),
            other => Err(CheckError::NotServing(other)),
        }
    };
    match probe::drive(answer, connection).await {
        // As gRFC A17 requires: the server answers, and its owner chose to have no health service.
        Err(CheckError::Grpc {
            code: UNIMPLEMENTED,
            ..
        }) => {
            tracing::debug!(
                host,
                "the server has no gRPC health service, and counts as healthy"
            );
            Ok(())
        }
        result => result,
    }
}

/// Fails if there is a status other than 0.
fn status(headers: &HeaderMap) -> Result<(), CheckError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        None | Some("0") => Ok(()),
        Some(code) => Err(CheckError::Grpc {
            // Code 2 is "unknown".
            code: code.parse().unwrap_or(2),
            message: text("grpc-message")
                .unwrap_or_default()
                .chars()
                .take(160)
                .collect(),
        }),
    }
}

/// `HealthCheckRequest { string service = 1; }` in its frame: a zero for "not compressed", and the length.
fn encode(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut len = service.len();
        while len >= 0x80 {
            message.put_u8(len as u8 | 0x80);
            len >>= 7;
        }
        message.put_u8(len as u8);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(&message);
    frame.freeze()
}

/// The `status`, field 1, of a framed `HealthCheckResponse`. Other fields are skipped.
fn serving(frame: &[u8]) -> Result<u64, BoxError> {
    let (head, rest) = frame.split_at_checked(5).ok_or("no gRPC message")?;
    let [compressed, length @ ..] = head else {
        return Err("no gRPC message".into());
    };
    if *compressed != 0 {
        return Err("a compressed answer, which was not asked for".into());
    }
    let length = length
        .iter()
        .fold(0, |len, byte| len << 8 | usize::from(*byte));
    let mut message = rest.get(..length).ok_or("a gRPC message that is cut off")?;
    // A zero is the default and is not sent.
    let mut status = 0;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        match tag & 7 {
            0 => {
                let value = varint(&mut message)?;
                if tag >> 3 == 1 {
                    status = value;
                }
            }
            1 => skip(&mut message, 8)?,
            2 => {
                let len = varint(&mut message)?;
                skip(&mut message, len)?;
            }
            5 => skip(&mut message, 4)?,
            kind => return Err(format!("a protobuf field of type {kind}").into()),
        }
    }
    Ok(status)
}

fn skip(message: &mut &[u8], len: u64) -> Result<(), BoxError> {
    let len = usize::try_from(len)?;
    *message = message
        .get(len..)
        .ok_or("a protobuf field that is cut off")?;
    Ok(())
}

fn varint(message: &mut &[u8]) -> Result<u64, BoxError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first().ok_or("a varint that is cut off")?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a varint that does not end".into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_are_framed() {
        assert_eq!(&encode("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&encode("web")[..], *b"\0\0\0\0\x05\x0a\x03web");
        let long = encode(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
        assert_eq!(long.len(), 308);
    }

    #[test]
    fn answers_are_read_and_bad_ones_refused() {
        let read = |frame: &[u8]| serving(frame).ok();
        assert_eq!(read(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(read(&[0, 0, 0, 0, 0]), Some(0));
        // An unknown field before and after the status.
        assert_eq!(read(b"\0\0\0\0\x0a\x12\x02hi\x08\x02\x1d\0\0\0\0"), None);
        assert_eq!(read(b"\0\0\0\0\x0b\x12\x02hi\x08\x02\x1d\0\0\0\0"), Some(2));
        for bad in [
            &[][..],
            &[0, 0, 0, 0],
            &[1, 0, 0, 0, 2, 8, 1],
            &[0, 0, 0, 0, 3, 8, 1],
            &[0, 255, 255, 255, 255, 8, 1],
            &[0, 0, 0, 0, 2, 8, 0x81],
            &[0, 0, 0, 0, 2, 11, 1],
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_panics(frame in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = serving(&frame);
        }
    }
}
