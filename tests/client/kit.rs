//! Real HTTP servers, and a registry of them.

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
use http::{Request, Response, StatusCode, header::HOST};
use http_body_util::{BodyExt, Either, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    runtime::Handle,
    task::{AbortHandle, JoinSet},
};
use tower_roster::{
    Instance, Registry,
    registry::{Announcement, Health, memory::Memory},
};

/// A server; dropping it cuts its connections.
///
/// `/echo` sends the body back as it comes, `/count` the number of bytes of it, `/count/503` the same with
/// that status, `/status/503` that status at once, and every other path the name of the server.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    seen: Arc<Seen>,
    accept: AbortHandle,
}

#[derive(Default)]
pub(crate) struct Seen {
    open: AtomicUsize,
    requests: AtomicUsize,
    waiting: AtomicUsize,
}

impl Server {
    pub(crate) async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::<Seen>::default();
        let accept = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                // Dropped with this task, and the connections with it.
                let mut connections = JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    connections.spawn(serve(stream, name, Arc::clone(&seen)));
                }
            }
        });
        Self {
            addr,
            seen,
            accept: accept.abort_handle(),
        }
    }

    pub(crate) fn instance(&self, service: &str) -> Instance {
        let id = format!("{service}-{}", self.addr.port());
        Instance::new(service, id, self.addr.try_into().unwrap())
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.seen.open.load(Relaxed)
    }

    pub(crate) fn requests(&self) -> usize {
        self.seen.requests.load(Relaxed)
    }

    /// Requests to `/hang`, which get no response.
    pub(crate) fn waiting(&self) -> usize {
        self.seen.waiting.load(Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

pub(crate) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    name: &'static str,
    seen: Arc<Seen>,
) {
    let _open = Counted::new(&seen.open);
    let service = service_fn(|request| answer(name, Arc::clone(&seen), request));
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

type Answer = Response<Either<Full<Bytes>, Incoming>>;

async fn answer(
    name: &str,
    seen: Arc<Seen>,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    seen.requests.fetch_add(1, Relaxed);
    let text = |text: String| Response::new(Either::Left(Full::from(text)));
    let path = request.uri().path().to_owned();
    Ok(match path.as_str() {
        "/echo" => Response::new(Either::Right(request.into_body())),
        path if path.starts_with("/count") => {
            let mut body = request.into_body();
            let mut count = 0;
            while let Some(Ok(frame)) = body.frame().await {
                count += frame.data_ref().map_or(0, Bytes::len);
            }
            let mut response = text(count.to_string());
            if let Some(status) = path.strip_prefix("/count/") {
                *response.status_mut() = status.parse().unwrap();
            }
            response
        }
        "/hang" => {
            let _waiting = Counted::new(&seen.waiting);
            std::future::pending().await
        }
        "/host" => {
            let host = request
                .headers()
                .get(HOST)
                .map(|host| host.to_str().unwrap());
            let authority = request
                .uri()
                .authority()
                .map(|authority| authority.as_str());
            text(host.or(authority).unwrap_or_default().to_owned())
        }
        "/version" => text(format!("{:?}", request.version())),
        path => {
            let status = path.strip_prefix("/status/").and_then(|it| it.parse().ok());
            let mut response = text(name.to_owned());
            *response.status_mut() = status.unwrap_or(StatusCode::OK);
            response
        }
    })
}

/// A registry of these instances, none of which it checks.
pub(crate) fn registry(instances: impl IntoIterator<Item = Instance>) -> (Registry, Memory) {
    let memory = Memory::new();
    for instance in instances {
        list(&memory, instance);
    }
    (Registry::new(memory.clone()), memory)
}

pub(crate) fn list(memory: &Memory, instance: Instance) {
    let announcement = Announcement::new(instance).health(Health::Unchecked);
    memory.register(announcement).unwrap();
}

/// Waits for what will soon be so.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), wait).await;
    assert!(waited.is_ok(), "{what}");
}

/// The tasks of this runtime.
pub(crate) fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}
