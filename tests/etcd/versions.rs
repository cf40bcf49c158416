//! What etcd 3.5 says in another form than 3.4, on the real server; all else runs on one version.

use tower_roster::{error::ErrorKind, registry::ViewState};

use super::{
    support::{Etcd, etcd::binary_35},
    *,
};

/// A server of 3.5; `None` if it is not there.
async fn server(test: &str, flags: &[&str]) -> Option<Etcd> {
    let Some(bin) = binary_35() else {
        // The mirrors of many machines have no other suite than the machine's own, so it may be missing.
        eprintln!("not run, no etcd 3.5: {test}");
        return None;
    };
    let builder = Etcd::server().program(bin);
    let builder = flags
        .iter()
        .fold(builder, |builder, flag| builder.flag(flag));
    Some(builder.await)
}

/// Lists, watches with a progress line every second, changes, compaction, a lease and its loss.
#[tokio::test]
async fn etcd_3_5_is_watched_and_registered_in() {
    let flags = ["--experimental-watch-progress-notify-interval=1s"];
    let Some(mut etcd) = server("etcd_3_5_is_watched_and_registered_in", &flags).await else {
        return;
    };
    let registry = connect(&etcd.url());
    let mut watch = registry.watch("web").unwrap();
    let view = until(&mut watch, "an answer", |v| v.state != ViewState::Pending).await;
    assert_eq!(view.state, ViewState::Missing);
    let mut registration = registry.register(brief(instance("web", "a"))).unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    registration
        .update(brief(instance("web", "a").weight(7)))
        .await
        .unwrap();
    until(&mut watch, "the weight", |v| {
        v.instances.iter().all(|i| i.weight.get() == 7)
    })
    .await;
    etcd.put("/services/web/b", &record("web", "b")).await;
    until(&mut watch, "a key of another", |v| ids(v) == ["a", "b"]).await;
    etcd.compact().await;
    // The key is back although an operator deleted it.
    etcd.delete("/services/web/a").await;
    until(&mut watch, "its end", |v| ids(v) == ["b"]).await;
    until(&mut watch, "its return", |v| ids(v) == ["a", "b"]).await;
    etcd.restart_wiped().await;
    until(&mut watch, "what is registered", |v| {
        ids(v) == ["a"] && v.state == ViewState::Live
    })
    .await;
    registration.deregister().await.unwrap();
    until(&mut watch, "the end", |v| v.instances.is_empty()).await;
}

/// ED15: errors without the field `error`.
#[tokio::test]
async fn etcd_3_5_tells_who_may_not_read() {
    let Some(mut etcd) = server("etcd_3_5_tells_who_may_not_read", &[]).await else {
        return;
    };
    etcd.put("/services/web/a", &record("web", "a")).await;
    etcd.enable_auth("root").await;
    for (user, why) in [
        ("", "user name is empty"),
        ("reader:wrong@", "authentication failed"),
    ] {
        let registry = connect(&format!("etcd://{user}{}", etcd.addr()));
        let mut watch = registry.watch("web").unwrap();
        let view = until(&mut watch, why, |v| v.error.is_some()).await;
        let error = view.error.unwrap();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(error.to_chain().contains(why), "{}", error.to_chain());
    }
    let registry = connect(&format!("etcd://root:root@{}", etcd.addr()));
    let mut watch = registry.watch("web").unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
}
