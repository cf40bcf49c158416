//! Real HTTP servers on loopback that count their connections.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::Full;
use hyper::{body::Incoming, rt};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    task::{AbortHandle, JoinSet},
};

/// Which protocol a server speaks on its connections.
#[derive(Clone)]
pub(crate) enum Wire {
    Plain,
    #[cfg(feature = "tls")]
    Tls(tokio_rustls::TlsAcceptor),
}

/// A server; dropping it cuts all its connections, like the end of a process.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) counts: Arc<Counts>,
    accept: AbortHandle,
}

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) opened: AtomicUsize,
    pub(crate) open: AtomicUsize,
    pub(crate) requests: AtomicUsize,
    /// Requests for `/hold` wait here.
    pub(crate) hold: Option<Semaphore>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::on("127.0.0.1:0".parse().unwrap(), Wire::Plain).await
    }

    pub(crate) async fn on(addr: SocketAddr, wire: Wire) -> Self {
        // A port that was just given up may take a moment.
        let mut listener = TcpListener::bind(addr).await;
        for _ in 0..1_000 {
            if listener.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            listener = TcpListener::bind(addr).await;
        }
        let listener = listener.unwrap();
        let addr = listener.local_addr().unwrap();
        let counts = Arc::new(Counts {
            hold: Some(Semaphore::new(0)),
            ..Counts::default()
        });
        let accept = tokio::spawn(accept(listener, wire, Arc::clone(&counts))).abort_handle();
        Self {
            addr,
            counts,
            accept,
        }
    }

    pub(crate) fn opened(&self) -> usize {
        self.counts.opened.load(Relaxed)
    }

    pub(crate) fn open(&self) -> usize {
        self.counts.open.load(Relaxed)
    }

    pub(crate) fn closed(&self) -> usize {
        // Opened is counted first.
        let open = self.open();
        self.opened() - open
    }

    pub(crate) fn requests(&self) -> usize {
        self.counts.requests.load(Relaxed)
    }

    /// Lets requests for `/hold` go on.
    pub(crate) fn release(&self) {
        self.counts.hold.as_ref().unwrap().add_permits(1_000);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn accept(listener: TcpListener, wire: Wire, counts: Arc<Counts>) {
    // Dropped with this task, and the connections with it.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let addr = stream.local_addr().unwrap();
        let (wire, counts) = (wire.clone(), Arc::clone(&counts));
        connections.spawn(async move {
            counts.opened.fetch_add(1, Relaxed);
            counts.open.fetch_add(1, Relaxed);
            let _open = Open(Arc::clone(&counts));
            match wire {
                Wire::Plain => serve(TokioIo::new(stream), addr, counts).await,
                #[cfg(feature = "tls")]
                Wire::Tls(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(TokioIo::new(stream), addr, counts).await;
                    }
                }
            }
        });
    }
}

struct Open(Arc<Counts>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

async fn serve<I>(io: I, addr: SocketAddr, counts: Arc<Counts>)
where
    I: rt::Read + rt::Write + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let counts = Arc::clone(&counts);
        async move {
            counts.requests.fetch_add(1, Relaxed);
            if request.uri().path() == "/hold" {
                let _ = counts
                    .hold
                    .as_ref()
                    .unwrap()
                    .acquire()
                    .await
                    .map(|p| p.forget());
            }
            // What the client said of the service, and who answers.
            let host = match request.version() {
                Version::HTTP_2 => request.uri().authority().map(ToString::to_string),
                _ => request
                    .headers()
                    .get("host")
                    .map(|h| h.to_str().unwrap().to_owned()),
            };
            let text = format!(
                "{:?} {} {addr}",
                request.version(),
                host.unwrap_or_default()
            );
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
        }
    });
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(io, service)
        .await;
}
