//! What the tests of registrations and faults share: making a registry, waiting for an event, and
//! an observer that keeps every view of a watch.
#![allow(clippy::unwrap_used)]

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tower_roster::{
    Instance, Registry,
    registry::{
        Announcement, Health, Registration, RegistrationEvent, View, ViewState, Watch,
        WatchSettings,
        consul::{Consul, ConsulConfig},
    },
};

use crate::support::{Agent, eventually};

pub(crate) const SOON: Duration = Duration::from_secs(10);

/// What the issue allows from the heal of a fault to the right set.
pub(crate) const HEALS_WITHIN: Duration = Duration::from_secs(2);

pub(crate) fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn config(url: &str) -> ConsulConfig {
    ConsulConfig::new(url)
}

pub(crate) fn registry(url: &str) -> Registry {
    of(config(url))
}

pub(crate) fn of(config: ConsulConfig) -> Registry {
    Registry::new(Consul::new(config).expect("a configuration"))
}

pub(crate) fn with_settings(config: ConsulConfig, settings: WatchSettings) -> Registry {
    let consul = Consul::new(config).expect("a configuration");
    Registry::with_settings(consul, settings).expect("settings")
}

pub(crate) fn instance(service: &str, id: &str, port: u16) -> Instance {
    let address = format!("127.0.0.1:{port}").parse().expect("an address");
    Instance::new(service, id, address)
}

pub(crate) fn with_ttl(instance: Instance, ttl: Duration) -> Announcement {
    Announcement::new(instance).health(Health::Ttl(ttl))
}

/// Waits for an event that `wanted` accepts; panics with those seen when none comes.
#[track_caller]
pub(crate) fn event(
    registration: &mut Registration,
    wanted: impl Fn(&RegistrationEvent) -> bool,
) -> impl Future<Output = RegistrationEvent> {
    let caller = std::panic::Location::caller();
    async move {
        let mut seen = Vec::new();
        let found = tokio::time::timeout(2 * SOON, async {
            while let Some(event) = registration.event().await {
                if wanted(&event) {
                    return Some(event);
                }
                seen.push(event);
            }
            None
        });
        let found = found.await.ok().flatten();
        found.unwrap_or_else(|| panic!("{caller}: not the wanted event; seen: {seen:#?}"))
    }
}

/// Waits until an agent holds the service as passing.
pub(crate) async fn passes(agent: &Agent, service: &str, id: &str) {
    eventually(SOON, "the instance passes", || async {
        let passing = agent.passing(&encoded(service)).await;
        passing.iter().any(|passing| passing == id)
    })
    .await;
}

/// A name as one segment of a path, apart from the code under test.
pub(crate) fn encoded(name: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    name.bytes().map(byte).collect()
}

/// The checks of a service as its agent has them: id and status.
pub(crate) async fn checks_of(agent: &Agent, id: &str) -> Vec<(String, String)> {
    let checks = agent.get("/v1/agent/checks").await.ok().json();
    let checks = checks.as_object().expect("an object").values();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    checks
        .filter(|check| check["ServiceID"] == id)
        .map(|check| (text(&check["CheckID"]), text(&check["Status"])))
        .collect()
}

/// Lets a fault last, or a silence be listened to: waits until `time` has passed and looks all the
/// while whether `holds`.
#[track_caller]
pub(crate) fn throughout<F, Fut>(
    time: Duration,
    what: &'static str,
    mut holds: F,
) -> impl Future<Output = ()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let until = Instant::now() + time;
    let caller = std::panic::Location::caller();
    eventually(time + SOON, what, move || {
        let held = holds();
        async move {
            assert!(held.await, "{caller}: {what}");
            Instant::now() >= until
        }
    })
}

/// Lets a fault last.
pub(crate) async fn lasts(time: Duration) {
    throughout(time, "the fault lasts", || async { true }).await;
}

/// One view of a watch, and when it was seen.
#[derive(Clone)]
pub(crate) struct Seen {
    pub(crate) at: Instant,
    pub(crate) view: View,
}

impl Seen {
    pub(crate) fn ids(&self) -> Vec<String> {
        ids(&self.view)
    }
}

/// Keeps every view of a watch from now on, on a task of its own.
///
/// A fault is asserted in three steps: [`settles`](Self::settles) before it,
/// [`never_lost`](Self::never_lost) over it, [`heals`](Self::heals) after it. Something that works
/// on the same watch meanwhile, such as calls through a balancer, takes [`watch`](Self::watch) and
/// runs [`beside`](Self::beside) the fault.
pub(crate) struct Observed {
    watch: Watch,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Observed {
    pub(crate) fn new(registry: &Registry, service: &str) -> Observed {
        let watch = registry.watch(service).expect("a watch");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn({
            let (seen, mut watch) = (Arc::clone(&seen), watch.clone());
            async move {
                while let Ok(view) = watch.changed().await {
                    let at = Instant::now();
                    seen.lock().unwrap().push(Seen { at, view });
                }
            }
        });
        Observed { watch, seen, task }
    }

    /// Another handle to what is observed.
    pub(crate) fn watch(&self) -> Watch {
        self.watch.clone()
    }

    pub(crate) fn view(&self) -> View {
        self.watch.view()
    }

    /// The views since a moment, and the one that was in force at it.
    pub(crate) fn since(&self, moment: Instant) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        let first = seen.partition_point(|seen| seen.at < moment);
        seen[first.saturating_sub(1)..].to_vec()
    }

    /// Waits until the set is confirmed and holds exactly these; returns when that was seen.
    pub(crate) async fn settles(&self, wanted: &[&str]) -> Instant {
        self.settles_within(2 * SOON, wanted).await
    }

    async fn settles_within(&self, deadline: Duration, wanted: &[&str]) -> Instant {
        let mut watch = self.watch.clone();
        let right = |view: &View| view.is_fresh() && ids(view) == wanted;
        match tokio::time::timeout(deadline, watch.wait_for(right)).await {
            Ok(view) => drop(view.expect("the watch runs")),
            Err(_) => panic!(
                "not {wanted:?} within {deadline:?}; the last views: {:#?}",
                self.since(Instant::now() - deadline)
                    .iter()
                    .map(|seen| (seen.ids(), seen.view.state, seen.view.error.clone()))
                    .collect::<Vec<_>>()
            ),
        }
        Instant::now()
    }

    /// Waits until the last good set is called stale, and why.
    pub(crate) async fn goes_stale(&self) -> tower_roster::RegistryError {
        let mut watch = self.watch.clone();
        let stale = watch.wait_for(|view| view.state == ViewState::Stale);
        let view = tokio::time::timeout(4 * SOON, stale).await;
        let view = view.expect("the fault is noticed").expect("the watch runs");
        view.error.expect("a reason")
    }

    /// Asserts that since `moment` every view held these instances.
    #[track_caller]
    pub(crate) fn never_lost(&self, moment: Instant, kept: &[&str]) {
        for seen in self.since(moment) {
            let ids = seen.ids();
            assert!(
                kept.iter().all(|id| ids.iter().any(|known| known == id)),
                "{:?} after the fault began the set was {ids:?} and must hold {kept:?}: {:?}",
                seen.at.saturating_duration_since(moment),
                seen.view.error
            );
        }
    }

    /// Waits for the right set after the heal, prints how long that took, and asserts the bound.
    pub(crate) async fn heals(&self, fault: &str, healed: Instant, wanted: &[&str]) {
        self.settles(wanted).await;
        // The observer may be scheduled late; what it saw bears the time.
        let right = self
            .since(healed)
            .into_iter()
            .find(|seen| seen.at >= healed && seen.view.is_fresh() && seen.ids() == wanted);
        let took = match right {
            Some(seen) => seen.at - healed,
            None => Duration::ZERO,
        };
        println!("heal: {fault}: right after {} ms", took.as_millis());
        assert!(took <= HEALS_WITHIN, "{fault}: right only after {took:?}");
    }

    /// Runs something on the watch, such as a load, for as long as a fault and its heal take.
    pub(crate) async fn beside<T>(
        &self,
        fault: impl Future<Output = T>,
        load: impl AsyncFnOnce(Watch, tokio::sync::watch::Receiver<bool>),
    ) -> T {
        let (end, ended) = tokio::sync::watch::channel(false);
        let fault = async move {
            let value = fault.await;
            end.send_replace(true);
            value
        };
        tokio::join!(fault, load(self.watch(), ended)).0
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn ids(view: &View) -> Vec<String> {
    let mut ids: Vec<_> = view.instances.iter().map(|i| i.id().to_owned()).collect();
    ids.sort();
    ids
}
