//! One server of the demo: a process of its own, told what to do through its standard input.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::watch,
};
use tower_roster::{
    Instance,
    instance::Address,
    registry::{Announcement, Health},
};

use crate::common::{
    self, Failure,
    server::{Behaviour, bind, serve},
};

/// A server that is silent for this long counts as dead.
pub const TTL: Duration = Duration::from_secs(3);

/// After this long of bad health the registry forgets a server; Consul's minimum. The one that
/// crashed is then gone from a registry that goes on after the demo.
const REAP_AFTER: Duration = Duration::from_secs(60);

/// How long a server that nobody controls any more tries to leave: the registry may be gone, too.
const ORPHAN_LEAVES_WITHIN: Duration = Duration::from_secs(1);

/// How long a server that leaves goes on serving, for clients to notice.
const DRAIN: Duration = Duration::from_millis(500);

/// Serves and stays registered until told `leave`, or until nobody is there to tell it anything.
pub async fn run(url: &str, service: &str, id: &str) -> Result<(), Failure> {
    // Ctrl-C reaches this process, too; the demo then tells it to leave.
    let mut signals = common::Signals::catch()?;
    let any = ([127, 0, 0, 1], 0).into();
    let (listener, local) = bind(any).await.map_err(Failure::work)?;
    let behaviour = Behaviour::new(Duration::from_millis(5), 0.0);
    let (stop, stopped) = watch::channel(false);
    let server = tokio::spawn(serve(listener, Arc::from(id), behaviour.clone(), stopped));

    let address = Address::try_from(local).map_err(Failure::work)?;
    let announcement = Announcement::new(Instance::new(service, id, address))
        .health(Health::Ttl(TTL))
        .reap_after(Some(REAP_AFTER));
    let registration = common::connect(url)?
        .register(announcement)
        .map_err(|error| Failure::work(common::chain(&error)))?;

    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    loop {
        let order = tokio::select! {
            order = orders.next_line() => order,
            () = signals.terminate() => break,
        };
        let Ok(Some(order)) = order else {
            let _ = tokio::time::timeout(ORPHAN_LEAVES_WITHIN, registration.deregister()).await;
            return Ok(());
        };
        match order.split_once(' ') {
            Some(("delay", time)) => {
                behaviour.set_delay(common::duration(time).map_err(Failure::usage)?);
            }
            _ => break,
        }
    }
    // The demo itself reports a registry that it cannot reach, once for all its servers.
    let was_registered = registration.is_registered();
    let deregistered = registration.deregister().await;
    tokio::time::sleep(DRAIN).await;
    stop.send_replace(true);
    let _ = server.await;
    match deregistered {
        Err(error) if was_registered => Err(Failure::work(common::chain(&error))),
        _ => Ok(()),
    }
}
