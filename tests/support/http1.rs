//! HTTP/1.1 on a bare socket, for the places where hyper would be too correct: reading what a
//! client really sent, and writing answers that are wrong on purpose.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A request as it was read from the wire.
#[derive(Clone, Debug)]
pub struct RequestHead {
    pub method: String,
    /// Path and query, undecoded.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// When its last byte had been read.
    pub at: Instant,
    /// Which accepted connection it came on, from 1.
    pub connection: u64,
    pub(super) raw: Bytes,
}

impl RequestHead {
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub fn query(&self) -> Option<&str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    /// A query parameter, undecoded; `Some("")` when it stands without a value.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.query()?.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e} in the answer {} {:?}", self.status, self.text()))
    }

    /// The value of `X-Consul-Index`.
    pub fn index(&self) -> Option<u64> {
        self.headers
            .get("x-consul-index")?
            .to_str()
            .ok()?
            .parse()
            .ok()
    }

    /// Panics, with status and body, unless the status is 2xx.
    #[track_caller]
    pub fn ok(self) -> Reply {
        assert!(
            (200..300).contains(&self.status),
            "answer {}: {}",
            self.status,
            self.text()
        );
        self
    }
}

/// Sends one request on a connection of its own and reads the answer.
pub async fn send(
    addr: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    timeout: Duration,
) -> io::Result<Reply> {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    let exchange = async {
        let mut conn = Conn::new(TcpStream::connect(addr).await?);
        conn.stream.write_all(head.as_bytes()).await?;
        conn.stream.write_all(body).await?;
        let answer = conn.response(method).await?;
        let (parts, body) = answer.response.into_parts();
        Ok(Reply {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        })
    };
    match tokio::time::timeout(timeout, exchange).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{method} {target}: no answer in {timeout:?}"),
        )),
    }
}

/// A complete, correct answer on the wire.
pub fn encode(response: &Response<Bytes>) -> Bytes {
    let status = response.status();
    let reason = status.canonical_reason().unwrap_or("Unknown");
    let mut out = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
    for (name, value) in response.headers() {
        if name != header::CONTENT_LENGTH && name != header::TRANSFER_ENCODING {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
    out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", response.body().len()).as_bytes());
    out.extend_from_slice(response.body());
    out.into()
}

/// An answer with this status and body, and no headers but its length.
pub fn reply(status: u16, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).expect("a three-digit status");
    response
}

/// A 200 of Consul's with this index.
pub fn consul_reply(index: impl ToString, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = reply(200, body);
    let index = HeaderValue::from_str(&index.to_string()).expect("an index fit for a header");
    response.headers_mut().insert("x-consul-index", index);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// A socket with what was read from it and not yet used.
pub(super) struct Conn {
    pub stream: TcpStream,
    buf: BytesMut,
}

/// An answer, and the bytes it came as.
pub(super) struct Answer {
    pub response: Response<Bytes>,
    pub raw: Bytes,
    /// The end of the connection was the end of the body.
    pub closes: bool,
}

enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

impl Conn {
    pub fn new(stream: TcpStream) -> Conn {
        let _ = stream.set_nodelay(true);
        Conn {
            stream,
            buf: BytesMut::new(),
        }
    }

    /// Reads some more; 0 at the end. Cancel safe.
    pub async fn fill(&mut self) -> io::Result<usize> {
        self.buf.reserve(16 * 1024);
        self.stream.read_buf(&mut self.buf).await
    }

    /// What was read and not used.
    pub fn take(&mut self) -> Bytes {
        self.buf.split().freeze()
    }

    /// Waits for the other side to close; keeps what it sends before.
    pub async fn closed(&mut self) {
        while !matches!(self.fill().await, Ok(0) | Err(_)) {}
    }

    /// The next request; `None` when the client closed instead.
    pub async fn request(&mut self, connection: u64) -> io::Result<Option<RequestHead>> {
        let Some(raw) = self.head().await? else {
            return Ok(None);
        };
        let (first, headers) = parse_head(&raw)?;
        let mut words = first.split(' ');
        let method = words.next().unwrap_or_default().to_owned();
        let target = words.next().unwrap_or_default().to_owned();
        let framing = match framing(&headers)? {
            Framing::UntilClose => Framing::Length(0),
            framing => framing,
        };
        let (raw_body, body) = self.body(framing).await?;
        let raw = [&raw[..], &raw_body[..]].concat().into();
        let at = Instant::now();
        Ok(Some(RequestHead {
            method,
            target,
            headers,
            body,
            at,
            connection,
            raw,
        }))
    }

    /// The next answer, to a request with this method.
    pub async fn response(&mut self, method: &str) -> io::Result<Answer> {
        let head = self.head().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let (first, headers) = parse_head(&head)?;
        let status = first
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse::<u16>().ok());
        let status = status.ok_or_else(|| invalid("status line"))?;
        let framing = match status {
            100..200 | 204 | 304 => Framing::Length(0),
            _ if method == "HEAD" => Framing::Length(0),
            _ => framing(&headers)?,
        };
        let closes = matches!(framing, Framing::UntilClose);
        let (raw_body, body) = self.body(framing).await?;
        let mut response = reply(status, body);
        *response.headers_mut() = headers;
        Ok(Answer {
            response,
            raw: [&head[..], &raw_body[..]].concat().into(),
            closes,
        })
    }

    async fn head(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(at) = self.buf.windows(4).position(|w| w == b"\r\n\r\n") {
                return Ok(Some(self.buf.split_to(at + 4).freeze()));
            }
            if self.fill().await? == 0 {
                let clean = self.buf.is_empty();
                return if clean {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }

    /// The body as it came and as it is meant.
    async fn body(&mut self, framing: Framing) -> io::Result<(Bytes, Bytes)> {
        match framing {
            Framing::Length(n) => {
                let body = self.exactly(n).await?;
                Ok((body.clone(), body))
            }
            Framing::UntilClose => {
                while self.fill().await? > 0 {}
                let body = self.take();
                Ok((body.clone(), body))
            }
            Framing::Chunked => {
                let (mut raw, mut body) = (BytesMut::new(), BytesMut::new());
                loop {
                    let line = self.line().await?;
                    let size = String::from_utf8_lossy(&line);
                    let size = size.split(';').next().unwrap_or_default().trim();
                    let size =
                        usize::from_str_radix(size, 16).map_err(|_| invalid("chunk size"))?;
                    raw.extend_from_slice(&line);
                    if size == 0 {
                        break;
                    }
                    let chunk = self.exactly(size + 2).await?;
                    raw.extend_from_slice(&chunk);
                    body.extend_from_slice(&chunk[..size]);
                }
                loop {
                    let trailer = self.line().await?;
                    raw.extend_from_slice(&trailer);
                    if trailer == "\r\n" {
                        return Ok((raw.freeze(), body.freeze()));
                    }
                }
            }
        }
    }

    async fn exactly(&mut self, n: usize) -> io::Result<Bytes> {
        while self.buf.len() < n {
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buf.split_to(n).freeze())
    }

    async fn line(&mut self) -> io::Result<Bytes> {
        loop {
            if let Some(at) = self.buf.windows(2).position(|w| w == b"\r\n") {
                return Ok(self.buf.split_to(at + 2).freeze());
            }
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Closes with a reset instead of an orderly end.
    pub fn reset(self) {
        let _ = self.stream.set_zero_linger();
    }
}

/// The request on the wire without one header.
pub(super) fn without_header(raw: &Bytes, name: &str) -> Bytes {
    let Some(end) = raw.windows(4).position(|w| w == b"\r\n\r\n") else {
        return raw.clone();
    };
    let mut out = Vec::with_capacity(raw.len());
    let (head, mut body) = (&raw[..end + 2], &raw[end + 2..]);
    for line in head.split_inclusive(|b| *b == b'\n') {
        let key = line.split(|b| *b == b':').next().unwrap_or_default();
        if !key.eq_ignore_ascii_case(name.as_bytes()) {
            out.extend_from_slice(line);
        }
    }
    out.extend_from_slice(&body.copy_to_bytes(body.len()));
    out.into()
}

fn parse_head(raw: &[u8]) -> io::Result<(String, HeaderMap)> {
    let text = String::from_utf8_lossy(raw);
    let mut lines = text.trim_end().split("\r\n");
    let first = lines.next().unwrap_or_default().to_owned();
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| invalid("header line"))?;
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid("header name"))?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| invalid("header value"))?;
        headers.append(name, value);
    }
    Ok((first, headers))
}

fn framing(headers: &HeaderMap) -> io::Result<Framing> {
    let encoding = headers
        .get(header::TRANSFER_ENCODING)
        .and_then(|v| v.to_str().ok());
    if encoding.is_some_and(|encoding| encoding.eq_ignore_ascii_case("chunked")) {
        return Ok(Framing::Chunked);
    }
    match headers.get(header::CONTENT_LENGTH) {
        None => Ok(Framing::UntilClose),
        Some(length) => length
            .to_str()
            .ok()
            .and_then(|length| length.parse().ok())
            .map(Framing::Length)
            .ok_or_else(|| invalid("content-length")),
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("invalid {what}"))
}
