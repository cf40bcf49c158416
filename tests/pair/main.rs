//! Two registries used as one. All but the migration runs on a paused clock, with embedded and scripted
//! registries.
#![allow(clippy::unwrap_used)]

mod failover;
mod in_both;
mod merge;
mod migration;
#[path = "../supervise/scripted.rs"]
#[allow(dead_code)]
mod scripted;
#[path = "../support/mod.rs"]
mod support;
mod urls;

use std::time::Duration;

use tokio::time::timeout;
use tower_roster::{
    Instance, Registry,
    registry::{Announcement, Health, View, Watch, memory::Memory},
};

const SECOND: Duration = Duration::from_secs(1);

/// An instance at the port of the last letter of `at`.
fn instance(id: &str, at: &str) -> Instance {
    let port = 8_000 + u16::from(*at.as_bytes().last().unwrap());
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    Instance::new("web", id, address)
}

fn put(memory: &Memory, instance: Instance) {
    let announcement = Announcement::new(instance).health(Health::Unchecked);
    memory.register(announcement).unwrap();
}

/// The key of the instance at the port of a letter.
fn at(letter: char) -> String {
    format!("127.0.0.1:{}", 8_000 + u32::from(letter))
}

fn ids(view: &View) -> Vec<&str> {
    view.instances.iter().map(|i| i.id()).collect()
}

/// Whether the view has the instances at the ports of these letters.
fn is(view: &View, letters: &str) -> bool {
    ids(view) == letters.chars().map(at).collect::<Vec<_>>()
}

async fn until(watch: &mut Watch, what: &str, condition: impl FnMut(&View) -> bool) -> View {
    match timeout(SECOND * 3_600, watch.wait_for(condition)).await {
        Ok(view) => view.unwrap(),
        Err(_) => panic!("never: {what}; last seen: {:?}", watch.view()),
    }
}

fn of(memory: &Memory) -> Registry {
    Registry::new(memory.clone())
}
