//! One server of the demo: a process of its own, told what to do through its standard input.

use std::time::Duration;

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::oneshot,
};
use tower_roster::{registry::Health, server::ServerSettings};

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
    let (listener, _) = bind(any).await.map_err(Failure::work)?;
    let settings = ServerSettings::new(service)
        .id(id)
        .health(Health::Ttl(TTL))
        .reap_after(Some(REAP_AFTER))
        .notice(DRAIN);
    let server = common::connect(url)?
        .announce(settings, &listener)
        .map_err(|error| Failure::work(common::chain(&error)))?;

    let behaviour = Behaviour::new(Duration::from_millis(5), 0.0);
    let (wrong, refused) = oneshot::channel();
    let (gone, orphaned) = oneshot::channel();
    let told = behaviour.clone();
    let server = server.leave_on(async move {
        let told = tokio::select! {
            told = obey(&told) => told,
            () = signals.terminate() => Ok(Told::Leave),
        };
        match told {
            Ok(Told::Leave) => {}
            Ok(Told::Nobody) => drop(gone.send(())),
            Err(failure) => drop(wrong.send(failure)),
        }
    });
    let orphan = async {
        if orphaned.await.is_err() {
            std::future::pending().await
        }
        tokio::time::sleep(ORPHAN_LEAVES_WITHIN).await;
    };
    let left = tokio::select! {
        left = server.serve(async |leave| serve(listener, id, behaviour, leave).await) => left,
        () = orphan => return Ok(()),
    };
    let left = left.map_err(|error| Failure::work(common::chain(&error)))?;
    if let Ok(failure) = refused.await {
        return Err(failure);
    }
    match left.deregistered {
        // The demo itself reports a registry that it cannot reach, once for all its servers.
        Err(error) if left.announced => Err(Failure::work(common::chain(&error))),
        _ => Ok(()),
    }
}

/// Why orders end.
enum Told {
    Leave,
    /// Nobody is there any more.
    Nobody,
}

async fn obey(behaviour: &Behaviour) -> Result<Told, Failure> {
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(order)) = orders.next_line().await {
        match order.split_once(' ') {
            Some(("delay", time)) => {
                behaviour.set_delay(common::duration(time).map_err(Failure::usage)?);
            }
            _ => return Ok(Told::Leave),
        }
    }
    Ok(Told::Nobody)
}
