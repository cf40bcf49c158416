//! A real HTTP server whose latency and share of failures can be set while it runs.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::net::TcpListener;
use tower_roster::server::Leave;

/// How a server behaves. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Behaviour(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    delay_us: AtomicU64,
    /// The share of failures in millionths.
    fail_ppm: AtomicU64,
    served: AtomicU64,
}

impl Behaviour {
    pub fn new(delay: Duration, fail: f64) -> Self {
        let behaviour = Self::default();
        behaviour.set_delay(delay);
        // Rounded: 0.57 is a little less than that in binary.
        let fail_ppm = (fail * 1e6).round() as u64;
        behaviour.0.fail_ppm.store(fail_ppm, Relaxed);
        behaviour
    }

    pub fn set_delay(&self, delay: Duration) {
        let micros = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        self.0.delay_us.store(micros, Relaxed);
    }

    pub fn served(&self) -> u64 {
        self.0.served.load(Relaxed)
    }
}

/// Serves until it has to leave, then finishes what is in flight.
pub async fn serve(listener: TcpListener, name: &str, behaviour: Behaviour, mut leave: Leave) {
    let name = Arc::<str>::from(name);
    let server = auto::Builder::new(TokioExecutor::new());
    let graceful = GracefulShutdown::new();
    while let Some(accepted) = leave.or(listener.accept()).await {
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, or the peer is gone already: neither ends a server.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (name, behaviour) = (Arc::clone(&name), behaviour.clone());
        let service = service_fn(move |request| {
            let (name, behaviour) = (Arc::clone(&name), behaviour.clone());
            async move { Ok::<_, Infallible>(answer(request, &name, &behaviour).await) }
        });
        let connection = server.serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection.into_owned());
        tokio::spawn(async move {
            let _ = connection.await;
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

async fn answer(
    request: Request<Incoming>,
    name: &str,
    Behaviour(shared): &Behaviour,
) -> Response<Full<Bytes>> {
    let reply = |status: StatusCode, text: String| {
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        if let Ok(name) = name.parse() {
            response.headers_mut().insert("x-instance", name);
        }
        response
    };
    if request.uri().path() == "/health" {
        return reply(StatusCode::OK, "ok\n".to_owned());
    }
    let delay = Duration::from_micros(shared.delay_us.load(Relaxed));
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let served = shared.served.fetch_add(1, Relaxed);
    // Evenly spread: the count of failures is exact after any number of requests.
    let ppm = shared.fail_ppm.load(Relaxed);
    let fails = (served + 1) * ppm / 1_000_000 > served * ppm / 1_000_000;
    if fails {
        reply(
            StatusCode::INTERNAL_SERVER_ERROR,
            "failing as told\n".to_owned(),
        )
    } else {
        reply(StatusCode::OK, format!("{name}\n"))
    }
}

/// Binds, with the address in the error.
pub async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), String> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let local = listener.local_addr()?;
        Ok::<_, std::io::Error>((listener, local))
    };
    bound
        .await
        .map_err(|error| format!("cannot listen on {address}: {error}"))
}
