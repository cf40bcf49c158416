//! The checks that the registry makes: opening a connection, or requesting a path.

use std::sync::{Arc, Weak};

use rand::RngExt;
use tokio::time::{Instant, sleep, timeout};

use super::{record::RecordCheck, shared::MemoryShared};
use crate::{error::BoxError, instance::Address};

pub(super) struct CheckJob {
    pub(super) registry: Weak<MemoryShared>,
    pub(super) id: Arc<str>,
    pub(super) serial: u64,
    pub(super) address: Address,
    pub(super) check: Arc<RecordCheck>,
}

/// Checks one registration until it is removed or replaced. The first check starts at a random point of
/// the first interval, so that instances which registered together are not checked together.
pub(super) async fn run(job: CheckJob) {
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

async fn probe(address: &Address, check: &RecordCheck) -> Result<(), BoxError> {
    let stream = crate::probe::connect(address).await?;
    match &check.path {
        None => Ok(()),
        #[cfg(feature = "_hyper")]
        Some(path) => {
            let io = hyper_util::rt::TokioIo::new(stream);
            let status = crate::probe::get(io, &address.to_string(), path).await?;
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
