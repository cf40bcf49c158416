//! A server of raw bytes on loopback, which says what became of its connections.

use std::{
    future::pending,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

pub(crate) struct Raw {
    pub(crate) addr: SocketAddr,
    opened: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Raw {
    /// Answers the head of each request so; closes the connection where the flag says so.
    pub(crate) async fn start(
        answer: impl Fn(&str) -> (String, bool) + Send + Sync + 'static,
    ) -> Self {
        Self::run(answer, None).await
    }

    /// Answers the first request when a second one comes, and no other.
    pub(crate) async fn late(
        answer: impl Fn(&str) -> (String, bool) + Send + Sync + 'static,
    ) -> Self {
        Self::run(answer, Some(Arc::default())).await
    }

    async fn run(
        answer: impl Fn(&str) -> (String, bool) + Send + Sync + 'static,
        second: Option<Arc<Notify>>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            addr: listener.local_addr().unwrap(),
            opened: Arc::default(),
            closed: Arc::default(),
            requests: Arc::default(),
        };
        let (opened, closed) = (Arc::clone(&server.opened), Arc::clone(&server.closed));
        let (requests, answer) = (Arc::clone(&server.requests), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                opened.fetch_add(1, Relaxed);
                let (closed, requests) = (Arc::clone(&closed), Arc::clone(&requests));
                let (answer, second) = (Arc::clone(&answer), second.clone());
                tokio::spawn(async move {
                    let _ = serve(stream, &requests, &*answer, second.as_deref()).await;
                    closed.fetch_add(1, Relaxed);
                });
            }
        });
        server
    }

    pub(crate) fn opened(&self) -> usize {
        self.opened.load(Relaxed)
    }

    pub(crate) fn open(&self) -> usize {
        let closed = self.closed.load(Relaxed);
        self.opened() - closed
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }
}

async fn serve(
    mut stream: TcpStream,
    requests: &AtomicUsize,
    answer: &(impl Fn(&str) -> (String, bool) + ?Sized),
    second: Option<&Notify>,
) -> io::Result<()> {
    let mut got = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = got.windows(4).position(|end| end == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut got).await? == 0 {
                return Ok(());
            }
        };
        let n = requests.fetch_add(1, Relaxed);
        if let Some(second) = second {
            if n > 0 {
                second.notify_one();
                pending::<()>().await;
            }
            second.notified().await;
        }
        let rest = got.split_off(end);
        let head = String::from_utf8(std::mem::replace(&mut got, rest)).unwrap();
        let (answer, close) = answer(&head);
        stream.write_all(answer.as_bytes()).await?;
        if answer.is_empty() {
            pending::<()>().await;
        }
        if close {
            return stream.shutdown().await;
        }
    }
}

pub(crate) fn path(head: &str) -> &str {
    head.split(' ').nth(1).unwrap()
}

pub(crate) fn ok(text: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}",
        text.len()
    )
}
