//! The embedded registry, on a paused clock.
#![allow(clippy::unwrap_used)]

mod checks;
mod faults;
mod forgetting;
mod heartbeats;
#[cfg(feature = "_hyper")]
mod http_checks;
mod sharing;
mod state;
#[cfg(unix)]
mod state_file;

use std::time::Duration;

use tower_roster::{
    Instance, Registry,
    registry::{Announcement, Health, View, Watch, memory::Memory},
};

const SECOND: Duration = Duration::from_secs(1);

fn instance(id: &str) -> Instance {
    let port = 8_000 + u16::from(*id.as_bytes().last().unwrap_or(&0));
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    Instance::new("web", id, address)
}

fn ttl(id: &str, ttl: Duration) -> Announcement {
    Announcement::new(instance(id)).health(Health::Ttl(ttl))
}

fn unchecked(id: &str) -> Announcement {
    Announcement::new(instance(id)).health(Health::Unchecked)
}

fn ids(view: &View) -> Vec<&str> {
    view.instances.iter().map(|i| i.id()).collect()
}

async fn until(watch: &mut Watch, wanted: &[&str]) -> View {
    let view = watch.wait_for(|view| ids(view) == wanted);
    tokio::time::timeout(SECOND * 600, view)
        .await
        .unwrap_or_else(|_| panic!("{wanted:?} never came"))
        .unwrap()
}

fn registry(memory: &Memory) -> Registry {
    Registry::new(memory.clone())
}
