//! Ends a connection whose server sends much that is no response.
//!
//! Before a response, a server may send any number of interim responses (1xx), and over HTTP/2 any number of
//! frames that carry nothing, such as `PRIORITY`. Neither hyper nor h2 bounds their number, and neither
//! shows them. A server that sends nothing else keeps a core busy until the deadline of the request. So the
//! stream itself counts them.
//!
//! It costs a few nanoseconds for each read: with HTTP/1 the first 12 bytes of a response are looked at, and
//! with HTTP/2 the 9 bytes at the beginning of each frame.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// The most interim responses before a response. Arbitrary: one a second for a quarter of an hour, as some
/// servers announce that they still work.
const MOST_INTERIM: u32 = 1_000;

/// How many frames without content are counted at a time, and in how short a time they are a flood. The usual
/// ones are a few for each response, or one for each thousands of bytes that are uploaded.
const FRAMES: u32 = 7_500;
const FLOOD_WITHIN: Duration = Duration::from_secs(10);

/// So many bytes sent justify [`FRAMES`] received frames. They are more than the 17 bytes of the answer to each
/// of so many pings.
const SENT: usize = 128 << 10;

/// A stream that ends in an error when its server sends too much that is no response.
pub(super) struct Bounded<S> {
    stream: S,
    guard: Guard,
}

enum Guard {
    Http1(Heads),
    Http2(Frames),
}

impl<S> Bounded<S> {
    pub(super) fn new(stream: S, http2: bool) -> Self {
        let guard = match http2 {
            true => Guard::Http2(Frames::default()),
            false => Guard::Http1(Heads::default()),
        };
        Self { stream, guard }
    }

    fn sent(&mut self, bytes: usize) {
        match &mut self.guard {
            Guard::Http1(heads) => heads.sent(),
            Guard::Http2(frames) => frames.sent += bytes,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let new = &buf.filled()[before..];
        let flood = match &mut self.guard {
            Guard::Http1(heads) => heads.received(new),
            Guard::Http2(frames) => frames.received(new),
        };
        Poll::Ready(match flood {
            None => Ok(()),
            Some(what) => Err(io::Error::new(io::ErrorKind::InvalidData, what)),
        })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.sent(sent);
        Poll::Ready(Ok(sent))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        self.sent(sent);
        Poll::Ready(Ok(sent))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Counts the interim responses of HTTP/1 before a response.
#[derive(Default)]
struct Heads {
    at: HeadPlace,
    interim: u32,
}

/// What the next byte belongs to.
enum HeadPlace {
    /// The beginning of a response; its bytes so far, and their number.
    Start([u8; 12], usize),
    /// An interim response; whether its last byte, apart from carriage returns, ended a line.
    Interim(bool),
    /// A response that is none. It lasts until something is sent.
    Response,
}

impl Default for HeadPlace {
    fn default() -> Self {
        Self::Start([0; 12], 0)
    }
}

impl Heads {
    #[inline]
    fn sent(&mut self) {
        if matches!(self.at, HeadPlace::Response) {
            *self = Self::default();
        }
    }

    /// Returns what is wrong, if there were too many.
    #[inline]
    fn received(&mut self, bytes: &[u8]) -> Option<&'static str> {
        let mut bytes = bytes.iter();
        loop {
            match &mut self.at {
                HeadPlace::Response => return None,
                HeadPlace::Start(start, have) => {
                    let byte = *bytes.next()?;
                    // As hyper, which skips empty lines.
                    if *have == 0 && matches!(byte, b'\r' | b'\n') {
                        continue;
                    }
                    start[*have] = byte;
                    *have += 1;
                    if *have == start.len() {
                        self.at = match is_interim(start) {
                            true => HeadPlace::Interim(false),
                            false => HeadPlace::Response,
                        };
                    }
                }
                HeadPlace::Interim(line_ended) => match *bytes.next()? {
                    b'\n' if *line_ended => {
                        self.interim += 1;
                        if self.interim > MOST_INTERIM {
                            return Some("too many interim responses (1xx) before a response");
                        }
                        self.at = HeadPlace::default();
                    }
                    b'\n' => *line_ended = true,
                    b'\r' => {}
                    _ => *line_ended = false,
                },
            }
        }
    }
}

/// Whether a response that begins so is another one than 101, after which the protocol changes.
fn is_interim(start: &[u8; 12]) -> bool {
    start.starts_with(b"HTTP/1.") && start[8..].starts_with(b" 1") && !start.ends_with(b"01")
}

/// Counts the frames of HTTP/2 without content.
#[derive(Default)]
struct Frames {
    header: [u8; 9],
    /// How many bytes of the header are known, and how many of the payload are to come.
    have: usize,
    payload: usize,
    /// Frames without content since the last one with content.
    empty: u32,
    /// Bytes sent meanwhile.
    sent: usize,
    /// When there were [`FRAMES`] for the first time.
    full_at: Option<Instant>,
}

impl Frames {
    /// Returns what is wrong, if there were too many.
    #[inline]
    fn received(&mut self, mut bytes: &[u8]) -> Option<&'static str> {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let skipped = self.payload.min(bytes.len());
                self.payload -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (self.header.len() - self.have).min(bytes.len());
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == self.header.len() {
                self.have = 0;
                let [a, b, c, kind, flags, ..] = self.header;
                self.payload = u32::from_be_bytes([0, a, b, c]) as usize;
                if has_content(kind, flags, self.payload) {
                    (self.empty, self.sent, self.full_at) = (0, 0, None);
                } else {
                    self.empty += 1;
                    if self.empty >= FRAMES && self.is_flood() {
                        return Some("too many frames without content");
                    }
                }
            }
        }
        None
    }

    /// Whether so many frames came too soon after as many others, and little was sent meanwhile.
    #[cold]
    fn is_flood(&mut self) -> bool {
        let now = Instant::now();
        let is_answer = self.sent >= SENT;
        let before = self.full_at.replace(now).filter(|_| !is_answer);
        (self.empty, self.sent) = (0, 0);
        before.is_some_and(|before| now - before < FLOOD_WITHIN)
    }
}

/// Whether a frame has a part of a body, or ends a response.
fn has_content(kind: u8, flags: u8, payload: usize) -> bool {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const END_STREAM: u8 = 1;
    match kind {
        DATA => payload > 0 || flags & END_STREAM != 0,
        HEADERS => flags & END_STREAM != 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a response may have these bytes, however they are cut.
    fn passes(bytes: &[u8]) -> bool {
        let whole = Heads::default().received(bytes).is_none();
        for size in [1, 7, 4_096] {
            let mut heads = Heads::default();
            let parts = bytes
                .chunks(size)
                .all(|part| heads.received(part).is_none());
            assert_eq!(parts, whole, "in parts of {size}");
        }
        whole
    }

    #[test]
    fn interim_responses_are_counted_until_the_response() {
        for interim in [
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nLink: </b>\r\n\r\n",
            "HTTP/1.0 199\n\n",
            "\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n",
        ] {
            let some = interim.repeat(MOST_INTERIM as usize);
            assert!(passes(some.as_bytes()), "{interim:?}");
            assert!(!passes([&some, interim].concat().as_bytes()), "{interim:?}");
            // What looks like one in a body, or after an upgrade, is none.
            for response in [
                "HTTP/1.1 200 OK\r\n\r\n",
                "HTTP/1.1 101 Switching\r\n\r\n",
                "SSH-2.0-x\r\n",
            ] {
                let all = [&*some, response, &some, &some].concat();
                assert!(passes(all.as_bytes()), "{interim:?} {response:?}");
            }
        }
    }

    #[test]
    fn each_request_has_its_own_interim_responses_and_an_upload_gives_no_more() {
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
        let mut heads = Heads::default();
        for _ in 0..5 {
            for _ in 0..MOST_INTERIM {
                assert!(heads.received(interim).is_none());
                heads.sent();
            }
            assert!(heads.received(b"HTTP/1.1 200 OK\r\n\r\n").is_none());
            heads.sent();
        }
        for _ in 0..MOST_INTERIM {
            heads.received(interim);
            heads.sent();
        }
        assert!(heads.received(interim).is_some());
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 1];
        frame.extend(payload);
        frame
    }

    const TYPES: [(u8, u8, &[u8]); 6] = [
        (0, 0, b""),
        (1, 4, b"\x08\x03103"),
        (2, 0, b"12345"),
        (4, 0, b""),
        (6, 0, b"12345678"),
        (99, 1, b"abc"),
    ];

    #[tokio::test(start_paused = true)]
    async fn frames_without_content_are_a_flood() {
        for (kind, flags, payload) in TYPES {
            let frame = frame(kind, flags, payload);
            for size in [1, 5, 16_384] {
                let mut frames = Frames::default();
                let flood = frame.repeat(2 * FRAMES as usize);
                let mut parts = flood.chunks(size);
                assert!(
                    parts.any(|part| frames.received(part).is_some()),
                    "type {kind}"
                );
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn frames_between_content_or_for_what_was_sent_or_in_a_long_time_are_none() {
        for (kind, flags, payload) in TYPES {
            let some = frame(kind, flags, payload).repeat(FRAMES as usize - 1);
            for content in [frame(0, 0, b"x"), frame(0, 1, b""), frame(1, 5, b"\x88")] {
                let mut frames = Frames::default();
                for _ in 0..9 {
                    assert!(frames.received(&some).is_none(), "type {kind}");
                    assert!(frames.received(&content).is_none(), "type {kind}");
                }
            }
            let mut frames = Frames::default();
            for _ in 0..9 {
                frames.sent += SENT;
                assert!(frames.received(&some).is_none(), "type {kind}");
            }
            let mut frames = Frames::default();
            for _ in 0..9 {
                assert!(frames.received(&some).is_none(), "type {kind}");
                tokio::time::advance(FLOOD_WITHIN).await;
            }
        }
    }
}
