//! Two registries by their URLs.

use tower_roster::registry::{self, ViewState};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_url_names_both() {
    let registry = registry::connect("merge:fixed:127.0.0.1:1|fixed:127.0.0.1:2").unwrap();
    let mut watch = registry.watch("web").unwrap();
    let view = until(&mut watch, "both", |v| v.instances.len() == 2).await;
    assert_eq!(view.parts.len(), 2);

    let url = "failover:memory:pair-urls?stale_after=5s|fixed:127.0.0.1:2|after=2s&back_after=3s";
    let mut watch = registry::connect(url).unwrap().watch("web").unwrap();
    let start = tokio::time::Instant::now();
    let view = until(&mut watch, "the second", |v| v.state == ViewState::Live).await;
    assert_eq!(start.elapsed(), SECOND * 2);
    assert_eq!(ids(&view), ["127.0.0.1:2"]);
}

#[test]
fn what_cannot_be_a_pair_is_refused_without_a_secret() {
    for (url, field) in [
        ("merge:", "registry.url"),
        ("merge:fixed:h:1", "registry.url"),
        ("merge:fixed:h:1|", "registry.url"),
        ("merge:fixed:h:1|nothing:SECRET@h", "registry.url"),
        ("merge:fixed:h:1|fixed:h:2|SECRET", "registry.url"),
        ("merge:rest://user:SECRET@h|fixed:h:2", "registry.url"),
        ("merge:merge:fixed:h:1|fixed:h:2|fixed:h:3", "registry.url"),
        ("failover:fixed:h:1|fixed:h:2|after=5", "failover.after"),
        ("failover:fixed:h:1|fixed:h:2|after=25h", "failover.after"),
        (
            "failover:fixed:h:1|fixed:h:2|back_after",
            "failover.back_after",
        ),
        ("failover:fixed:h:1|fixed:h:2|colour=SECRET", "registry.url"),
        (
            "failover:fixed:h:1|fixed:h:2?stale_after=0s",
            "watch.stale_after",
        ),
    ] {
        let error = registry::connect(url).unwrap_err();
        assert_eq!(error.field(), field, "{url}: {error}");
        assert!(!error.to_string().contains("SECRET"), "{url}: {error}");
    }
}
