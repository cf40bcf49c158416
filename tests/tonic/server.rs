//! Greeters on loopback that fail as they are asked to, and can be killed.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream};
use http::Request;
use hyper::{body::Incoming, rt};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Semaphore,
    task::{AbortHandle, JoinSet},
};
use tonic::{Code, Status, Streaming};
use tower::{Service, service_fn};
use tower_roster::Instance;

use crate::greeter::{
    Answer, Greeting,
    greeter_server::{Greeter, GreeterServer},
};

/// A server; dropping it cuts all its connections, like the end of a process.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    seen: Arc<Seen>,
    accept: AbortHandle,
}

struct Seen {
    connections: AtomicUsize,
    open: AtomicUsize,
    calls: AtomicUsize,
    last: Mutex<Option<(String, http::HeaderMap)>>,
    /// Streams fail after their messages, whatever they are asked for.
    failing: AtomicBool,
    /// Calls to `hold` wait here.
    hold: Semaphore,
    held: AtomicUsize,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            connections: AtomicUsize::default(),
            open: AtomicUsize::default(),
            calls: AtomicUsize::default(),
            last: Mutex::default(),
            failing: AtomicBool::default(),
            hold: Semaphore::new(0),
            held: AtomicUsize::default(),
        }
    }
}

/// How connections begin.
#[derive(Clone)]
pub(crate) enum Wire {
    Plain,
    #[cfg(feature = "tls")]
    Tls(tokio_rustls::TlsAcceptor),
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
        Self::over(listener.unwrap(), wire)
    }

    pub(crate) fn over(listener: TcpListener, wire: Wire) -> Self {
        let addr = listener.local_addr().unwrap();
        let seen = Arc::<Seen>::default();
        let accept = tokio::spawn(accept(listener, wire, addr, Arc::clone(&seen)));
        Self {
            addr,
            seen,
            accept: accept.abort_handle(),
        }
    }

    pub(crate) fn instance(&self) -> Instance {
        instance(self.addr)
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Relaxed)
    }

    /// Connections that stand.
    pub(crate) fn open(&self) -> usize {
        self.seen.open.load(Relaxed)
    }

    pub(crate) fn calls(&self) -> usize {
        self.seen.calls.load(Relaxed)
    }

    /// Has streams fail in their trailers, after all their messages.
    pub(crate) fn fail_streams(&self, failing: bool) {
        self.seen.failing.store(failing, Relaxed);
    }

    /// Calls to `hold` that came.
    pub(crate) fn held(&self) -> usize {
        self.seen.held.load(Relaxed)
    }

    /// Lets calls to `hold` go on.
    pub(crate) fn release(&self) {
        self.seen.hold.add_permits(1_000);
    }

    /// The scheme and authority of the last call, and a field of its head.
    pub(crate) fn last(&self, field: &str) -> (String, String) {
        let last = self.seen.last.lock().unwrap();
        let (origin, headers) = last.as_ref().expect("a call");
        let field = headers.get(field).map(|value| value.to_str().unwrap());
        (origin.clone(), field.unwrap_or_default().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

pub(crate) fn instance(addr: SocketAddr) -> Instance {
    Instance::new(
        "greeter",
        format!("at-{}", addr.port()),
        addr.try_into().unwrap(),
    )
}

/// An address where nobody listens, and nobody else can.
pub(crate) fn refusing() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = socket.local_addr().unwrap();
    (socket, addr)
}

/// Waits for what a connection's other side will soon have noticed.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
    assert!(waited.is_ok(), "not in time: {what}");
}

async fn accept(listener: TcpListener, wire: Wire, addr: SocketAddr, seen: Arc<Seen>) {
    // Dropped with this task, and the connections with it.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        seen.connections.fetch_add(1, Relaxed);
        seen.open.fetch_add(1, Relaxed);
        let open = Arc::clone(&seen);
        let (wire, seen) = (wire.clone(), Arc::clone(&seen));
        connections.spawn(async move {
            match wire {
                Wire::Plain => serve(TokioIo::new(stream), addr, seen).await,
                #[cfg(feature = "tls")]
                Wire::Tls(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(TokioIo::new(stream), addr, seen).await;
                    }
                }
            }
            open.open.fetch_sub(1, Relaxed);
        });
    }
}

async fn serve<I>(io: I, addr: SocketAddr, seen: Arc<Seen>)
where
    I: rt::Read + rt::Write + Unpin + Send + 'static,
{
    let mut greeter = GreeterServer::new(Polite {
        addr,
        seen: Arc::clone(&seen),
    });
    let service = service_fn(move |request: Request<Incoming>| {
        seen.calls.fetch_add(1, Relaxed);
        let uri = request.uri();
        let origin = format!(
            "{}://{}",
            uri.scheme_str().unwrap_or_default(),
            uri.authority().map(ToString::to_string).unwrap_or_default()
        );
        *seen.last.lock().unwrap() = Some((origin, request.headers().clone()));
        greeter.call(request)
    });
    let _ = auto::Builder::new(TokioExecutor::new())
        .http2_only()
        .serve_connection(io, TowerToHyperService::new(service))
        .await;
}

struct Polite {
    addr: SocketAddr,
    seen: Arc<Seen>,
}

impl Polite {
    /// What a name asks for: `fail 14`, `fail 8 after 250` (a pushback), or to be greeted.
    fn answer(&self, name: &str) -> Result<Answer, Status> {
        let mut words = name.split(' ');
        if words.next() == Some("fail") {
            let code: i32 = words.next().unwrap().parse().unwrap();
            let mut status = Status::new(Code::from(code), "as asked");
            if let ("after", Some(ms)) = (words.next().unwrap_or_default(), words.next()) {
                let fields = status.metadata_mut();
                fields.insert("grpc-retry-pushback-ms", ms.parse().unwrap());
            }
            return Err(status);
        }
        Ok(Answer {
            text: format!("hello, {name}"),
            server: self.addr.to_string(),
        })
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<Answer, Status>> + Send>>;

#[tonic::async_trait]
impl Greeter for Polite {
    async fn greet(
        &self,
        request: tonic::Request<Greeting>,
    ) -> Result<tonic::Response<Answer>, Status> {
        let name = &request.get_ref().name;
        if name == "hold" {
            self.seen.held.fetch_add(1, Relaxed);
            let permit = self.seen.hold.acquire().await.unwrap();
            permit.forget();
        }
        self.answer(name).map(tonic::Response::new)
    }

    type GreetAllStream = Answers;

    /// Answers, and then fails if asked to, or says nothing more when asked to `hang`.
    async fn greet_all(
        &self,
        request: tonic::Request<Greeting>,
    ) -> Result<tonic::Response<Answers>, Status> {
        let Greeting { mut name, answers } = request.into_inner();
        if self.seen.failing.load(Relaxed) {
            name = "fail 14".into();
        }
        let good = self.answer("all").unwrap();
        let answers = stream::iter(vec![Ok(good); answers as usize]);
        let answers: Answers = match self.answer(&name) {
            Ok(_) if name == "hang" => Box::pin(answers.chain(stream::pending())),
            Ok(_) => Box::pin(answers),
            Err(status) => Box::pin(answers.chain(stream::iter([Err(status)]))),
        };
        Ok(tonic::Response::new(answers))
    }

    type ConverseStream = Answers;

    async fn converse(
        &self,
        request: tonic::Request<Streaming<Greeting>>,
    ) -> Result<tonic::Response<Answers>, Status> {
        let polite = Polite {
            addr: self.addr,
            seen: Arc::clone(&self.seen),
        };
        let greetings = request.into_inner();
        let answers = greetings.map(move |greeting| polite.answer(&greeting?.name));
        Ok(tonic::Response::new(Box::pin(answers)))
    }
}
