//! A check that the registry makes: opening a connection, or requesting a path.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Weak},
};

use tokio::{
    net::{TcpStream, lookup_host},
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout},
};

use super::{record::RecordCheck, shared::MemoryShared};
use crate::{
    error::BoxError,
    instance::{Address, Host},
};

pub(super) struct CheckJob {
    pub(super) registry: Weak<MemoryShared>,
    pub(super) id: Arc<str>,
    pub(super) serial: u64,
    pub(super) address: Address,
    pub(super) check: Arc<RecordCheck>,
    /// One of the checks that may run at once.
    pub(super) slot: Arc<OwnedSemaphorePermit>,
}

/// Makes one check, and records its outcome.
pub(super) async fn run(job: CheckJob) {
    let outcome = match timeout(job.check.timeout, probe(&job)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("no answer within {:?}", job.check.timeout).into()),
    };
    if let Err(error) = &outcome {
        let error = error.to_string();
        tracing::debug!(id = ?job.id, address = %job.address, ?error, "a check failed");
    }
    if let Some(shared) = job.registry.upgrade() {
        shared.checked(&job.id, job.serial, outcome.is_ok(), Instant::now());
    }
}

async fn probe(job: &CheckJob) -> Result<(), BoxError> {
    let stream = connect(job).await?;
    match &job.check.path {
        None => Ok(()),
        #[cfg(feature = "_hyper")]
        Some(path) => {
            let io = hyper_util::rt::TokioIo::new(stream);
            let status = crate::probe::get(io, &job.address.to_string(), path).await?;
            if status.is_success() {
                Ok(())
            } else {
                Err(format!("answered {status}").into())
            }
        }
        // Cannot happen: registering such a check is refused.
        #[cfg(not(feature = "_hyper"))]
        Some(_) => {
            drop(stream);
            Err("checks over HTTP are not compiled in".into())
        }
    }
}

/// Connects to the first address of the instance that may be checked and accepts.
async fn connect(job: &CheckJob) -> Result<TcpStream, BoxError> {
    let mut failure: Option<BoxError> = None;
    for address in addresses(job).await? {
        let may = |ip: IpAddr| {
            let registry = job.registry.upgrade();
            registry.is_some_and(|shared| shared.limits.may_check(ip, job.check.registrant))
        };
        if !may(address.ip()) {
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = Some(error.into()),
        }
    }
    Err(failure.unwrap_or_else(|| {
        if let Some(shared) = job.registry.upgrade() {
            shared.leads_elsewhere(&job.address);
        }
        "it has no address that this registry may check".into()
    }))
}

async fn addresses(job: &CheckJob) -> io::Result<Vec<SocketAddr>> {
    let port = job.address.port();
    match job.address.host() {
        Host::Ip(ip) => Ok(vec![(*ip, port).into()]),
        Host::Name(name) => {
            // A look-up occupies a thread and cannot be stopped, so it keeps the slot until its end: names
            // whose servers do not answer must not occupy the threads that save the state.
            let (name, slot) = (Arc::clone(name), Arc::clone(&job.slot));
            let registry = Weak::clone(&job.registry);
            let found = tokio::spawn(async move {
                let found = lookup_host((&*name, port)).await.map(Iterator::collect);
                drop(slot);
                if let Some(shared) = registry.upgrade() {
                    // Another check may wait for the slot.
                    shared.changed(true);
                }
                found
            });
            found.await?
        }
    }
}
