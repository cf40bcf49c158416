//! What the supervision does with any backend, on a paused clock.
#![allow(clippy::unwrap_used)]

mod again;
mod guard;
#[path = "../support/log.rs"]
mod log;
mod logs;
mod panics;
mod scripted;
mod several;
mod sharing;
mod states;
mod urls;

use std::time::Duration;

use tower_roster::{
    Instance, Registry,
    registry::{Announcement, Health, View, Watch, WatchSettings, memory::Memory},
};

const SECOND: Duration = Duration::from_secs(1);

fn unchecked(id: &str) -> Announcement {
    let port = 8_000 + u16::from(*id.as_bytes().last().unwrap_or(&0));
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    Announcement::new(Instance::new("web", id, address)).health(Health::Unchecked)
}

fn registry(memory: &Memory, settings: WatchSettings) -> Registry {
    Registry::with_settings(memory.clone(), settings.seed(7)).unwrap()
}

fn ids(view: &View) -> Vec<&str> {
    view.instances.iter().map(|i| i.id()).collect()
}

async fn until(watch: &mut Watch, what: &str, condition: impl FnMut(&View) -> bool) -> View {
    match tokio::time::timeout(SECOND * 3_600, watch.wait_for(condition)).await {
        Ok(view) => view.unwrap(),
        Err(_) => panic!("never: {what}; last seen: {:?}", watch.view()),
    }
}
