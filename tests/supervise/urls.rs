//! What a URL says beside the registry itself, and backends of a user's own.

use tower_roster::{
    error::ErrorKind,
    registry::{self, BoxFuture, Schemes, Source, ViewState},
};

use super::{
    scripted::{Asked, Scripted, Step},
    *,
};

/// Confirms its set every 59 s, and says so.
#[derive(Clone, Debug)]
struct Slow;

impl registry::Backend for Slow {
    fn name(&self) -> std::sync::Arc<str> {
        "slow".into()
    }

    fn watch(
        &self,
        _: &registry::Query,
    ) -> Result<Vec<Box<dyn Source>>, tower_roster::RegistryError> {
        Ok(vec![Box::new(Slow)])
    }

    fn register(
        &self,
        _: &registry::Announcement,
    ) -> Result<Box<dyn registry::Lease>, tower_roster::RegistryError> {
        unreachable!()
    }
}

impl Source for Slow {
    fn read(&mut self) -> BoxFuture<'_, Result<registry::Answer, tower_roster::RegistryError>> {
        Box::pin(async { Ok(scripted::listing(&["a"], true)) })
    }

    fn next(&mut self) -> BoxFuture<'_, Result<registry::Answer, tower_roster::RegistryError>> {
        Box::pin(async {
            tokio::time::sleep(SECOND * 59).await;
            Ok(registry::Answer::Unchanged)
        })
    }

    fn stale_after(&self) -> Duration {
        SECOND * 60
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_says_how_long_a_set_counts_as_confirmed() {
    let mut watch = Registry::new(Slow).watch("web").unwrap();
    until(&mut watch, "live", |v| v.state == ViewState::Live).await;
    for _ in 0..300 {
        tokio::time::sleep(SECOND).await;
        assert_eq!(watch.view().state, ViewState::Live);
    }
}

#[tokio::test(start_paused = true)]
async fn a_user_says_it_in_the_url_of_any_registry_and_of_a_backend_of_their_own() {
    let schemes = Schemes::new().with("slow", |url: &str| {
        assert_eq!(
            url, "slow://there?a=b",
            "the rest of the URL is the backend's"
        );
        Ok(Slow)
    });
    let registry = schemes.connect("slow://there?stale_after=20s&a=b").unwrap();
    let mut watch = registry.watch("web").unwrap();
    let start = tokio::time::Instant::now();
    until(&mut watch, "live", |v| v.state == ViewState::Live).await;
    until(&mut watch, "stale", |v| v.state == ViewState::Stale).await;
    assert_eq!(start.elapsed().as_secs(), 20);

    for url in ["memory:?stale_after=5s", "fixed:h:1?stale_after=5s"] {
        registry::connect(url).unwrap();
    }
    for (url, field) in [
        ("memory:?stale_after=5", "watch.stale_after"),
        ("memory:?stale_after=0s", "watch.stale_after"),
        ("memory:?stale_after=1s&stale_after=2s", "watch.stale_after"),
        ("slow://there", "registry.url"),
        ("memory:name?colour=red", "registry.url"),
    ] {
        assert_eq!(registry::connect(url).unwrap_err().field(), field, "{url}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_set_that_no_registry_confirms_is_better_than_none_and_stale() {
    let backend = Scripted::new([
        Step::Unconfirmed(&["a"]),
        Step::Fail(ErrorKind::Unavailable),
        Step::List(&["a", "b"]),
        Step::Hang,
    ]);
    let mut watch = Registry::new(backend.clone()).watch("web").unwrap();
    let view = until(&mut watch, "a set", |v| ids(v) == ["a"]).await;
    assert_eq!(view.state, ViewState::Stale);
    assert!(view.error.is_some() && view.age().is_none());
    let view = until(&mut watch, "the list", |v| ids(v) == ["a", "b"]).await;
    assert_eq!(view.state, ViewState::Live);
    assert!(view.error.is_none());
    let asked = backend.asked();
    assert!(asked.iter().take(3).all(|(what, _)| *what == Asked::Read));
}
