//! A server that sends frames of HTTP/2 byte by byte as scripted, which no correct server would send.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering::Relaxed},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const DATA: u8 = 0;
pub(crate) const GOAWAY: u8 = 7;
/// No frame: the server sends nothing more.
pub(crate) const CLOSE: u8 = 255;

pub(crate) const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame: its type, flags and payload.
pub(crate) type Frame = (u8, u8, Vec<u8>);

/// The head of a response with status 200 (the static entry 8 of HPACK) and these fields.
pub(crate) fn head(flags: u8, fields: &[(&str, &str)]) -> Frame {
    (HEADERS, END_HEADERS | flags, block(&[0x88], fields))
}

/// The trailers of a response.
pub(crate) fn trailers(fields: &[(&str, &str)]) -> Frame {
    (HEADERS, END_HEADERS | END_STREAM, block(&[], fields))
}

fn block(first: &[u8], fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = first.to_vec();
    for (name, value) in fields {
        // A literal without indexing (RFC 7541, section 6.2.2), each text with its length.
        block.push(0);
        for text in [name, value] {
            let length = u8::try_from(text.len()).unwrap();
            assert!(length < 127, "one byte of length");
            block.push(length);
            block.extend(text.as_bytes());
        }
    }
    block
}

pub(crate) struct Frames {
    pub(crate) addr: SocketAddr,
    requests: Arc<AtomicUsize>,
    goaways: Arc<AtomicUsize>,
}

impl Frames {
    /// Answers the n-th request with these frames, without waiting for the end of it.
    pub(crate) async fn start(
        answer: impl Fn(usize) -> Vec<Frame> + Send + Sync + 'static,
    ) -> Self {
        Self::run(answer, false).await
    }

    /// Answers the first request with these frames when a second one comes, and no other.
    pub(crate) async fn late(frames: Vec<Frame>) -> Self {
        let answer = move |n| if n == 1 { frames.clone() } else { Vec::new() };
        Self::run(answer, true).await
    }

    async fn run(
        answer: impl Fn(usize) -> Vec<Frame> + Send + Sync + 'static,
        first: bool,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            addr: listener.local_addr().unwrap(),
            requests: Arc::default(),
            goaways: Arc::default(),
        };
        let goaways = Arc::clone(&server.goaways);
        let (requests, answer) = (Arc::clone(&server.requests), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (requests, answer) = (Arc::clone(&requests), Arc::clone(&answer));
                let goaways = Arc::clone(&goaways);
                tokio::spawn(
                    async move { serve(stream, &requests, &goaways, &*answer, first).await },
                );
            }
        });
        server
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }

    /// How many connections the client has ended in order.
    pub(crate) fn goaways(&self) -> usize {
        self.goaways.load(Relaxed)
    }
}

async fn serve(
    mut stream: TcpStream,
    requests: &AtomicUsize,
    goaways: &AtomicUsize,
    answer: &(impl Fn(usize) -> Vec<Frame> + ?Sized),
    first: bool,
) -> io::Result<()> {
    // The preface of the client.
    stream.read_exact(&mut [0; 24]).await?;
    write(&mut stream, 0, &(SETTINGS, 0, Vec::new())).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await?;
        if head[3] == GOAWAY {
            goaways.fetch_add(1, Relaxed);
        }
        if head[3] == HEADERS {
            let id = match first {
                // The first stream of a client.
                true => 1,
                false => u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
            };
            let n = requests.fetch_add(1, Relaxed);
            for frame in answer(n) {
                match frame.0 {
                    CLOSE => stream.shutdown().await?,
                    GOAWAY => write(&mut stream, 0, &frame).await?,
                    _ => write(&mut stream, id, &frame).await?,
                }
            }
        }
    }
}

async fn write(stream: &mut TcpStream, id: u32, (kind, flags, payload): &Frame) -> io::Result<()> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], *kind, *flags];
    bytes.extend(id.to_be_bytes());
    bytes.extend(payload);
    stream.write_all(&bytes).await
}
