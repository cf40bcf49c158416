//! Weights from a file, for endpoints that are listed now or later.

use std::collections::{BTreeMap, HashSet};

use tokio::sync::{
    broadcast::{Receiver, error::RecvError},
    watch,
};

use crate::{
    balance::{BalanceEvent, BalanceGone, BalanceHandle},
    instance::Weight,
};

/// Weights by the id of an instance.
pub(super) type Weights = BTreeMap<String, u16>;

/// Sets the weights of endpoints until the balancer ends or nobody can send others.
pub(super) async fn weigh(handle: BalanceHandle, mut weights: watch::Receiver<Weights>) {
    // It ends with the balancer.
    let _ = follow(&handle, &mut weights).await;
}

async fn follow(
    handle: &BalanceHandle,
    weights: &mut watch::Receiver<Weights>,
) -> Result<(), BalanceGone> {
    let mut events = handle.subscribe().await?;
    // Those that have a weight of the file now.
    let mut set = HashSet::new();
    loop {
        let wanted = weights.borrow_and_update().clone();
        for endpoint in handle.endpoints().await? {
            let weight = wanted.get(endpoint.key.id()).copied().map(Weight::from);
            let was = set.contains(&endpoint.key);
            if weight.is_some() || was {
                handle.set_weight(&endpoint.key, weight).await?;
            }
            match weight {
                Some(_) => set.insert(endpoint.key),
                None => set.remove(&endpoint.key),
            };
        }
        tokio::select! {
            changed = weights.changed() => if changed.is_err() {
                return Ok(());
            },
            more = added(&mut events) => if !more {
                return Ok(());
            },
        }
    }
}

/// Waits until endpoints were added. Returns false when the balancer has ended.
async fn added(events: &mut Receiver<BalanceEvent>) -> bool {
    loop {
        match events.recv().await {
            Ok(BalanceEvent::Added { .. }) | Err(RecvError::Lagged(_)) => break,
            Ok(_) => {}
            Err(RecvError::Closed) => return false,
        }
    }
    // All that come together are one change.
    while events.try_recv().is_ok() {}
    true
}
