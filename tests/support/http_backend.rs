//! A real HTTP server to call: HTTP/1.1, and HTTP/2 for clients that begin with it.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::{ports::Port, process::settle, rt};

/// A backend with settable faults. `GET /health` answers 200, or 503 after
/// [`set_healthy(false)`](Backend::set_healthy); every other path answers 200 with the name.
/// Dropping it stops it.
pub struct Backend {
    addr: SocketAddr,
    port: Port,
    shared: Arc<Shared>,
    running: Option<Running>,
}

struct Running {
    drain: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    name: String,
    healthy: AtomicBool,
    faults: Mutex<Faults>,
    requests: AtomicU64,
    probes: AtomicU64,
    in_flight: AtomicUsize,
    accepted: AtomicU64,
    open: AtomicUsize,
}

#[derive(Default)]
struct Faults {
    delay: Duration,
    share: f64,
    /// The share of failures owed so far; a failure each time it reaches one.
    owed: f64,
}

impl Backend {
    /// On 127.0.0.1.
    pub async fn start(name: &str) -> Backend {
        Backend::start_on(name, Ipv4Addr::LOCALHOST.into()).await
    }

    /// On `::1`.
    pub async fn start_v6(name: &str) -> Backend {
        Backend::start_on(name, Ipv6Addr::LOCALHOST.into()).await
    }

    async fn start_on(name: &str, ip: std::net::IpAddr) -> Backend {
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            healthy: AtomicBool::new(true),
            faults: Mutex::default(),
            requests: AtomicU64::new(0),
            probes: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            open: AtomicUsize::new(0),
        });
        let port = Port::lease();
        let addr = (ip, port.get()).into();
        let mut backend = Backend {
            addr,
            port,
            shared,
            running: None,
        };
        backend.restart().await;
        backend
    }

    pub fn name(&self) -> &str {
        &self.shared.name
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn port(&self) -> u16 {
        self.port.get()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Before each answer, health included.
    pub fn set_delay(&self, delay: Duration) {
        self.shared.faults.lock().unwrap().delay = delay;
    }

    /// The share of requests answered 500, from 0 to 1, evenly spread; health is not affected.
    pub fn set_failures(&self, share: f64) {
        let mut faults = self.shared.faults.lock().unwrap();
        (faults.share, faults.owed) = (share, 0.0);
    }

    pub fn set_healthy(&self, healthy: bool) {
        self.shared.healthy.store(healthy, SeqCst);
    }

    /// Requests received, without those for `/health`.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(SeqCst)
    }

    /// Requests for `/health`.
    pub fn probes(&self) -> u64 {
        self.shared.probes.load(SeqCst)
    }

    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(SeqCst)
    }

    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(SeqCst)
    }

    pub fn open(&self) -> usize {
        self.shared.open.load(SeqCst)
    }

    /// Crashes: stops listening and closes every connection at once.
    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.task.abort();
            let _ = running.task.await;
            settle();
            // The connections end with the task, on threads of the runtime.
            super::eventually(Duration::from_secs(5), "connections closed", || async {
                let open = self.open();
                if open == 0 { Ok(()) } else { Err(open) }
            })
            .await;
        }
    }

    /// Stops listening, and returns when the requests in flight are answered.
    pub async fn drain(&mut self) {
        if let Some(running) = self.running.take() {
            running.drain.send_replace(true);
            running.task.await.expect("the backend runs");
            settle();
        }
    }

    /// Listens on the same port again; counters go on.
    pub async fn restart(&mut self) {
        self.stop().await;
        let addr = self.addr;
        // Bound on the runtime that polls it. The port is leased, so it can be taken for a moment
        // at most.
        let listener = super::eventually(Duration::from_secs(5), "a listener", || async move {
            rt().spawn(TcpListener::bind(addr))
                .await
                .expect("the harness runs")
        })
        .await;
        let (drain, drained) = watch::channel(false);
        let task = rt().spawn(serve(listener, self.shared.clone(), drained));
        self.running = Some(Running { drain, task });
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.task.abort();
        }
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>, mut drain: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let drained = drain.clone();
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                shared.accepted.fetch_add(1, SeqCst);
                let open = Guard::new(&shared, |shared| &shared.open);
                connections.spawn(connection(stream, open, drained));
            }
            () = asked(&mut drain) => break,
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, open: Guard, mut drain: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let shared = open.0.clone();
    let service = service_fn(move |request| answer(request, shared.clone()));
    let builder = auto::Builder::new(TokioExecutor::new());
    {
        let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            _ = &mut serving => {}
            () = asked(&mut drain) => {
                serving.as_mut().graceful_shutdown();
                let _ = serving.await;
            }
        }
    }
    // Not before the socket is closed.
    drop(open);
}

/// Waits until the backend is to drain.
async fn asked(drain: &mut watch::Receiver<bool>) {
    if drain.wait_for(|drain| *drain).await.is_err() {
        // The handle is gone, and the task will be aborted.
        std::future::pending::<()>().await;
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let _in_flight = Guard::new(&shared, |shared| &shared.in_flight);
    let probe = request.uri().path() == "/health";
    let counter = if probe {
        &shared.probes
    } else {
        &shared.requests
    };
    counter.fetch_add(1, SeqCst);
    let (delay, fails) = shared.faults.lock().unwrap().next(probe);
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let (status, body) = match (probe, fails) {
        (true, _) if shared.healthy.load(SeqCst) => (StatusCode::OK, "ok".into()),
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy".into()),
        (false, true) => (StatusCode::INTERNAL_SERVER_ERROR, "failed as asked".into()),
        (false, false) => (StatusCode::OK, shared.name.clone()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    Ok(response)
}

impl Faults {
    fn next(&mut self, probe: bool) -> (Duration, bool) {
        if !probe {
            self.owed += self.share;
        }
        // Sums of shares such as 0.1 fall just short of one.
        let fails = !probe && self.owed > 1.0 - 1e-9;
        if fails {
            self.owed -= 1.0;
        }
        (self.delay, fails)
    }
}

/// Counts one while it lives.
struct Guard(Arc<Shared>, fn(&Shared) -> &AtomicUsize);

impl Guard {
    fn new(shared: &Arc<Shared>, of: fn(&Shared) -> &AtomicUsize) -> Guard {
        of(shared).fetch_add(1, SeqCst);
        Guard(shared.clone(), of)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.1(&self.0).fetch_sub(1, SeqCst);
    }
}
