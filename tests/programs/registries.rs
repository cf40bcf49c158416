//! The same programs on each registry, by its URL alone.

use serde_json::Value;

use super::{
    kit::{End, Program, SOON, Serve, consul, instances, rest, run, summary, unique},
    support::{Agent, Etcd, Zookeeper, bind::Bind, need, need_consul, need_etcd},
};

/// `register`, `serve`, `watch` and `call`, all at once.
async fn work_together(url: &str) {
    let service = unique("together");
    let mut watch = Program::start("watch", &[url, &service, "--json"]);
    let args = [url, &service, "127.0.0.1:9", "--id", "r", "--weight", "3"];
    let mut register = Program::start("register", &[&args[..], &["--tag", "t"]].concat());
    register
        .line("its registration", |line| line == "r registered")
        .await;
    let seen = watch.json("id", "r").await;
    assert_eq!(seen["address"], "127.0.0.1:9", "{seen}");
    assert_eq!(seen["weight"], 3, "{seen}");
    assert_eq!(seen["tags"], serde_json::json!(["t"]), "{seen}");
    let end = register.stop().await;
    assert!(end.stdout.ends_with("r deregistered\n"), "{end:?}");
    let gone = watch.json("change", "remove").await;
    assert_eq!(gone["id"], "r");

    let serves = Serve::three(url, &service, &["--drain", "10ms"]).await;
    for _ in &serves {
        watch.json("change", "insert").await;
    }
    let called = run("call", &[url, &service, "--duration", "1s", "--json"]).await;
    assert_called(&called, 3);
    for mut serve in serves {
        serve.program.stop().await;
        watch.json("change", "remove").await;
    }
    watch.stop().await;
}

/// Every request succeeded, on so many instances.
fn assert_called(end: &End, servers: usize) {
    assert_eq!(end.code, Some(0), "{end:?}");
    let report = summary(end);
    assert_eq!(report["failed"], 0, "{report}");
    let (sum, used) = instances(&report);
    assert_eq!(
        (Value::from(sum), used.len()),
        (report["ok"].clone(), servers)
    );
}

#[tokio::test]
async fn work_together_on_consul() {
    need_consul!();
    let agent = Agent::shared().await;
    work_together(&consul(&agent)).await;
}

#[tokio::test]
async fn work_together_on_etcd() {
    need_etcd!();
    work_together(&Etcd::shared().await.url()).await;
}

#[tokio::test]
async fn work_together_on_zookeeper() {
    need!(zookeeper);
    work_together(&Zookeeper::shared().await.url()).await;
}

#[tokio::test]
async fn work_together_on_rest() {
    let (_memory, url) = rest().await;
    work_together(&url).await;
}

/// It lists what others wrote, and takes nothing.
#[tokio::test]
async fn read_dns_and_say_that_it_takes_no_registrations() {
    need!(bind);
    let serve = Serve::start(&["--id", "s"]).await;
    let port = serve.addr.port();
    let bind = Bind::start(&format!(
        "_http._tcp.web 1 SRV 10 5 {port} s\ns 1 A 127.0.0.1"
    ))
    .await;
    let url = bind.url("dns+srv") + "/_http._tcp.{service}.svc.test?poll=1s";
    let mut watch = Program::start("watch", &[&url, "web", "--json"]);
    let seen = watch.json("change", "insert").await;
    assert_eq!(seen["address"], format!("127.0.0.1:{port}"), "{seen}");
    let called = run("call", &[&url, "web", "--duration", "500ms", "--json"]).await;
    assert_called(&called, 1);
    watch.stop().await;

    for (program, args) in [
        ("register", vec![&url, "web", "127.0.0.1:9"]),
        (
            "serve",
            vec!["--listen", "127.0.0.1:0", "--register", &url, "web"],
        ),
        ("demo", vec!["--registry", &url]),
    ] {
        let end = run(program, &args).await;
        assert_eq!(end.code, Some(2), "{program}: {end:?}");
        assert!(end.stderr.contains("regist"), "{program}: {end:?}");
        assert_eq!(end.stderr.lines().count(), 1, "{program}: {end:?}");
    }
}

/// What the help names can be used, and a URL that cannot be used does not show its password.
#[tokio::test]
async fn name_their_registries_and_no_password() {
    for (program, schemes) in [
        (
            "watch",
            &["consul://", "etcd://", "zk://", "dns://", "rest://"][..],
        ),
        (
            "call",
            &["consul://", "etcd://", "zk://", "dns://", "rest://"],
        ),
        ("register", &["consul://", "etcd://", "zk://", "rest://"]),
        ("serve", &["consul://", "etcd://", "zk://", "rest://"]),
        ("demo", &["consul://", "etcd://", "zk://"]),
    ] {
        let end = run(program, &["--help"]).await;
        for scheme in schemes {
            assert!(end.stdout.contains(scheme), "{program}: {scheme}: {end:?}");
        }
    }
    for url in [
        "etcd://user:HUSH@h:1?unknown=1",
        "zk://user:HUSH@h:1?unknown=1",
        "rest://user:HUSH@h:1",
        "consul://user:HUSH@h:1",
    ] {
        let end = run("watch", &[url, "web"]).await;
        assert_eq!(end.code, Some(2), "{end:?}");
        let said = format!("{}{}", end.stdout, end.stderr);
        assert!(said.contains("invalid registry URL"), "{end:?}");
        assert!(!said.contains("HUSH"), "{end:?}");
    }
}

/// Together, for each takes its time and little else.
#[tokio::test]
async fn tell_the_story_of_the_demo_on_etcd_and_zookeeper() {
    need_etcd!();
    need!(zookeeper);
    let (etcd, zookeeper) = tokio::join!(Etcd::shared(), Zookeeper::shared());
    let (etcd, zookeeper) = (format!("{}?ttl=3s", etcd.url()), zookeeper.url());
    let demo = async |url: &str| {
        let mut demo = Program::start("demo", &["--registry", url, "--json"]);
        super::demo::assert_report(&demo.end_well(SOON * 2).await);
    };
    tokio::join!(demo(&etcd), demo(&zookeeper));
}
