//! Looks at a registry before their time, because an endpoint fails.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use tokio::time::Instant;
use tower::{ServiceExt, service_fn};
use tower_roster::{
    RegistryError,
    balance::BalanceLayer,
    endpoint::eject::Ejection,
    registry::{self, Announcement, BoxFuture, Limit, Query, Source, WatchMode},
};

use super::*;

/// Lists `a` at first, and then `b`. It is asked once a minute, and at most every 5 s, like DNS.
#[derive(Clone, Debug, Default)]
struct Slow {
    asked: Arc<AtomicUsize>,
    pushes: bool,
}

impl registry::Backend for Slow {
    fn name(&self) -> Arc<str> {
        "slow".into()
    }

    fn watch(&self, _: &Query) -> Result<Vec<Box<dyn Source>>, RegistryError> {
        Ok(vec![Box::new(self.clone())])
    }

    fn register(&self, _: &Announcement) -> Result<Box<dyn registry::Lease>, RegistryError> {
        unreachable!()
    }
}

impl Source for Slow {
    fn read(&mut self) -> BoxFuture<'_, Result<registry::Answer, RegistryError>> {
        let first = self.asked.fetch_add(1, SeqCst) == 0;
        let id = if first { "a" } else { "b" };
        Box::pin(async move { Ok(scripted::listing(&[id], true)) })
    }

    fn next(&mut self) -> BoxFuture<'_, Result<registry::Answer, RegistryError>> {
        Box::pin(async {
            tokio::time::sleep(SECOND * 60).await;
            self.read().await
        })
    }

    fn stale_after(&self) -> Duration {
        SECOND * 90
    }

    fn polls(&self) -> bool {
        !self.pushes
    }

    fn limit(&self) -> Limit {
        Limit::new(2, SECOND * 5)
    }
}

/// Calls until an answer comes. Nothing answers at `a`.
async fn until_answered(watch: Watch) -> Duration {
    let discover = watch.discover(|instance: &Instance| {
        let gone = instance.address.port() == 8_000 + u16::from(b'a');
        Ok::<_, Infallible>(service_fn(move |(): ()| async move {
            match gone {
                true => Err("connection refused"),
                false => Ok(()),
            }
        }))
    });
    let balance = BalanceLayer::builder()
        .ejection(Ejection::new())
        .build()
        .unwrap()
        .balance(discover);
    let start = Instant::now();
    while balance.clone().oneshot(()).await.is_err() {
        tokio::time::sleep(SECOND / 20).await;
    }
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_polled_is_asked_early_when_an_endpoint_fails_and_within_its_limit() {
    let slow = Slow::default();
    let watch = Registry::new(slow.clone()).watch("web").unwrap();
    let waited = until_answered(watch.clone()).await;
    assert!(waited < SECOND * 12, "{waited:?}");

    // However often that is asked for.
    let asked = slow.asked.load(SeqCst);
    for _ in 0..1_000 {
        watch.look_again();
        tokio::time::sleep(SECOND / 10).await;
    }
    let asked = slow.asked.load(SeqCst) - asked;
    assert!((10..=22).contains(&asked), "{asked} times in 100 s");
}

#[tokio::test(start_paused = true)]
async fn so_is_any_registry_in_poll_mode_and_none_that_reports_changes() {
    let pushing = Slow {
        pushes: true,
        ..Slow::default()
    };
    let waited = until_answered(Registry::new(pushing.clone()).watch("web").unwrap()).await;
    assert!(waited >= SECOND * 55, "{waited:?}");

    let settings = WatchSettings::default().mode(WatchMode::Poll(SECOND * 25));
    let polled = Slow {
        pushes: true,
        ..Slow::default()
    };
    let registry = Registry::with_settings(polled, settings).unwrap();
    let waited = until_answered(registry.watch("web").unwrap()).await;
    assert!(waited < SECOND * 12, "{waited:?}");
}
