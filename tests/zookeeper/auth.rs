//! Users, passwords and ACLs.

use tower_roster::{error::ErrorKind, registry::ViewState};
use tracing::Level;
use zookeeper_client::{Acls, CreateMode};

use super::{
    log::Log,
    support::{Zookeeper, eventually, need_zookeeper, zookeeper},
    *,
};

fn with_user(server: &Zookeeper, user: &str, more: &str) -> Registry {
    connect(&format!(
        "zk://{user}@{}?session_timeout=2s{more}",
        server.addr()
    ))
}

async fn denied(watch: &mut Watch, path: &str) {
    let view = until(watch, "the denial", |v| v.error.is_some()).await;
    let error = view.error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let text = error.to_string();
    assert!(text.contains(path) && text.contains("password"), "{text}");
}

/// ZD14, ZD23.
#[tokio::test]
async fn who_may_not_read_is_told_so_and_the_set_serves_on() {
    need_zookeeper!();
    let server = Zookeeper::shared().await;
    let admin = server.client().await;
    admin.log_in("admin", "right").await;
    let path = "/services/closed";
    admin
        .create(path, b"", CreateMode::Persistent, Acls::creator_all())
        .await;
    admin.put(&format!("{path}/a"), record("closed", "a")).await;
    for user in ["admin:wrong", "other:right"] {
        let registry = with_user(&server, user, "");
        denied(&mut registry.watch("closed").unwrap(), path).await;
    }
    let registry = with_user(&server, "admin:right", "");
    let mut watch = registry.watch("closed").unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    // The right is taken away, and given back.
    let nobody = [zookeeper_client::Acl::new(
        zookeeper_client::Permission::ADMIN,
        zookeeper_client::AuthId::anyone(),
    )];
    let anyone = [zookeeper_client::Acl::new(
        zookeeper_client::Permission::ALL,
        zookeeper_client::AuthId::anyone(),
    )];
    let raw = admin.raw();
    raw.set_acl(path, &nobody, None).await.unwrap();
    // A new connection reads again.
    drop((watch, registry));
    let registry = with_user(&server, "admin:right", "");
    let mut watch = registry.watch("closed").unwrap();
    denied(&mut watch, path).await;
    raw.set_acl(path, &anyone, None).await.unwrap();
    let start = std::time::Instant::now();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    assert!(start.elapsed() < SECOND * 2, "{:?}", start.elapsed());
    // One instance that may not be read costs itself.
    admin
        .create(
            &format!("{path}/c"),
            record("closed", "c"),
            CreateMode::Persistent,
            Acls::new(&nobody),
        )
        .await;
    let view = until(&mut watch, "the record", |v| !v.rejected.is_empty()).await;
    assert!(ids(&view).contains(&"a"), "{view:?}");
    assert!(view.rejected[0].reason.contains("permission"), "{view:?}");
}

/// Nodes of a user, in the three ways.
#[tokio::test]
async fn the_acl_says_who_may_change_a_registration() {
    need_zookeeper!();
    let server = Zookeeper::shared().await;
    let anyone = server.client().await;
    for (acl, reads, deletes) in [
        ("open", true, true),
        ("readable", true, false),
        ("creator", false, false),
    ] {
        let registry = with_user(&server, "me:secret", &format!("&acl={acl}"));
        let service = format!("acl-{acl}");
        let registration = registry.register(instance(&service, "a")).unwrap();
        registration.registered().await;
        let path = format!("/services/{service}/a");
        let read = anyone.raw().get_data(&path).await;
        assert_eq!(read.is_ok(), reads, "{acl}: {read:?}");
        // Deleting is a right on the node above.
        let deleted = anyone.raw().delete(&path, None).await;
        assert_eq!(deleted.is_ok(), deletes, "{acl}: {deleted:?}");
        // Its own watch and registration go on.
        let mut watch = registry.watch(service.as_str()).unwrap();
        until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
        registration.deregister().await.unwrap();
    }
}

/// ZD24.
#[tokio::test]
async fn on_3_9_a_service_that_may_not_be_seen_is_not_missing() {
    need_zookeeper!();
    let Some(version) = zookeeper::binary_39() else {
        println!("not run: there is no ZooKeeper 3.9");
        return;
    };
    let server = Zookeeper::with(version, "", &[]).await;
    let admin = server.client().await;
    admin.log_in("admin", "right").await;
    admin
        .create(
            "/services",
            b"",
            CreateMode::Persistent,
            Acls::creator_all(),
        )
        .await;
    admin
        .create(
            "/services/web",
            b"",
            CreateMode::Persistent,
            Acls::creator_all(),
        )
        .await;
    let registry = connect(&server.url());
    denied(&mut registry.watch("web").unwrap(), "/services/web").await;
    // And with the right, everything works as on 3.8.
    let registry = with_user(&server, "admin:right", "");
    let mut watch = registry.watch("web").unwrap();
    until(&mut watch, "an answer", |v| v.state == ViewState::Empty).await;
    let registration = registry.register(instance("web", "a")).unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    let mut missing = registry.watch("none").unwrap();
    until(&mut missing, "an answer", |v| v.state == ViewState::Missing).await;
    registration.deregister().await.unwrap();
    until(&mut watch, "the end", |v| v.state == ViewState::Empty).await;
    drop((watch, missing, registry));
    eventually(LONG, "nothing is left", || async {
        server.watches() == 0.0
    })
    .await;
}

/// In the log of everything, in errors, and in `Debug`.
#[tokio::test]
async fn the_password_is_never_shown() {
    need_zookeeper!();
    let mut server = Zookeeper::server().await;
    let (log, guard) = Log::start(Level::TRACE);
    let registry = with_user(&server, "me:hush-hush", "&acl=creator&timeout=500ms");
    let mut watch = registry.watch("web").unwrap();
    let registration = registry.register(instance("web", "a")).unwrap();
    until(&mut watch, "the instance", |v| ids(v) == ["a"]).await;
    let mut other = with_user(&server, "me:hush-wrong", "")
        .watch("web")
        .unwrap();
    denied(&mut other, "/services/web").await;
    server.kill9();
    let view = until(&mut watch, "the loss", |v| v.error.is_some()).await;
    server.restart_wiped().await;
    until(&mut watch, "the instance", |v| v.error.is_none()).await;
    registration.deregister().await.unwrap();
    drop(guard);
    let log = log.take();
    assert!(log.contains("ZooKeeper session"), "{log}");
    let shown = format!("{log} {view:?} {registry:?} {:?}", other.view());
    assert!(!shown.contains("hush"), "{shown}");
}
