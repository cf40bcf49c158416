//! Checks that the registry makes itself: a connection, or a request of a path.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use rand::RngExt;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{Shared, record::Check};
use crate::{
    error::BoxError,
    instance::{Address, Host},
};

pub(super) struct Job {
    pub(super) registry: Weak<Shared>,
    pub(super) id: Arc<str>,
    pub(super) serial: u64,
    pub(super) address: Address,
    pub(super) check: Arc<Check>,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Checks one registration until it is no longer held. The first check comes at a random point of
/// the first interval, so that instances which registered together are not checked together.
pub(super) async fn run(job: Job) {
    let share: f64 = rand::rng().random();
    sleep(job.check.interval.mul_f64(share)).await;
    loop {
        let outcome = match timeout(job.check.timeout, probe(&job.address, &job.check)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {:?}", job.check.timeout).into()),
        };
        if let Err(error) = &outcome {
            tracing::debug!(id = %job.id, address = %job.address, %error, "a check failed");
        }
        let Some(shared) = job.registry.upgrade() else {
            return;
        };
        if !shared.checked(&job.id, job.serial, outcome.is_ok(), Instant::now()) {
            return;
        }
        drop(shared);
        sleep(job.check.interval).await;
    }
}

async fn probe(address: &Address, check: &Check) -> Result<(), BoxError> {
    let stream = match address.host() {
        Host::Ip(ip) => TcpStream::connect((*ip, address.port())).await?,
        Host::Name(name) => TcpStream::connect((&**name, address.port())).await?,
    };
    match &check.path {
        None => Ok(()),
        #[cfg(feature = "_hyper")]
        Some(path) => request(stream, address, path).await,
        // Refused when it was registered.
        #[cfg(not(feature = "_hyper"))]
        Some(_) => {
            drop(stream);
            Err("checks over HTTP are not compiled in".into())
        }
    }
}

/// Requests the path; every status from 200 to 299 passes.
#[cfg(feature = "_hyper")]
async fn request(stream: TcpStream, address: &Address, path: &str) -> Result<(), BoxError> {
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    let request = http::Request::get(path)
        .header(http::header::HOST, address.to_string())
        .header(
            http::header::USER_AGENT,
            concat!("tower-roster/", env!("CARGO_PKG_VERSION")),
        )
        .body(http_body_util::Empty::<bytes::Bytes>::new())?;
    let answer = async {
        sender.ready().await?;
        sender.send_request(request).await
    };
    // Driven here and not by a task of its own, so that both end together. A connection may end with
    // the answer already handed over.
    let mut answer = std::pin::pin!(answer);
    let response = tokio::select! {
        biased;
        response = &mut answer => response,
        _ = connection => answer.await,
    };
    let status = response?.status();
    if status.is_success() {
        Ok(())
    } else {
        Err(format!("answered {status}").into())
    }
}
