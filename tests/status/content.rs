//! What the page and its JSON say.

use std::time::Duration;

use serde_json::json;
use tower_roster::{
    Instance, Registry,
    balance::BalanceLayer,
    registry,
    registry::memory::Memory,
    telemetry::status::{StatusPage, StatusSettings},
};

use crate::kit::{Page, Rig, SERVICE, TOKEN, WITHIN, settings, until};

#[tokio::test]
async fn the_json_equals_what_the_handles_say() {
    let rig = Rig::start(settings()).await;
    rig.call(90).await;
    let seen = rig.page.json("").await;
    assert_eq!(seen["version"], 1);
    assert_eq!(seen["writable"], false);
    let service = &seen["services"][0];
    assert_eq!(service["name"], SERVICE);
    assert_eq!(
        (&service["endpoints"], &service["usable"]),
        (&json!(3), &json!(3))
    );
    assert_eq!(service["states"]["active"], 3);
    assert_eq!(service["requests"], 90);
    assert_eq!(service["registries"][0]["state"], "live");
    assert_eq!(service["registries"][0]["instances"], 3);
    assert_eq!(service["breaker"]["state"], "closed");
    let budget = rig.handles.budget.as_ref().unwrap();
    assert_eq!(service["budget"]["withdrawn"], budget.withdrawn());
    assert_eq!(service["split"]["shares"][0]["version"], "v2");
    for info in rig.endpoints().await {
        let row = Page::row(&seen, info.key.id());
        assert_eq!(row["requests"], info.requests);
        assert_eq!(row["share"], info.share);
        assert_eq!(row["in_flight"], info.in_flight);
        assert_eq!(row["weight"], 1);
        let instance = info.instance.unwrap();
        assert_eq!(row["address"], instance.address.to_string());
        assert_eq!(row["zone"], instance.zone.as_deref().unwrap());
    }
}

#[tokio::test]
async fn an_endpoint_that_fails_is_shown_as_ejected_with_its_cause_and_its_events() {
    let rig = Rig::start(settings()).await;
    // The first sample, for the rates.
    rig.page.json("").await;
    rig.backends[0].set_failures(1.0);
    rig.call(60).await;
    let seen = until(&rig.page, "user-1 is ejected", |seen| {
        let state = &Page::row(seen, "user-1")["state"];
        *state == "ejected" || *state == "probing"
    })
    .await;
    let row = Page::row(&seen, "user-1");
    let info = rig.endpoints().await;
    let info = info.iter().find(|info| info.key.id() == "user-1").unwrap();
    assert_eq!(row["cause"], info.cause.unwrap().to_string());
    assert_eq!(row["failures"], info.failures);
    assert_eq!(row["ejections"], 1);
    let events = seen["events"].as_array().unwrap();
    let ejected = events.iter().find(|event| event["event"] == "ejected");
    let ejected = ejected.unwrap_or_else(|| panic!("{events:?}"));
    assert_eq!(ejected["key"], "user-1");
    assert!(seen["services"][0]["failure_ratio"].as_f64().unwrap() > 0.0);
    rig.deregister("user-1");
    let seen = until(&rig.page, "user-1 has left", |seen| {
        seen["view"]["total"] == 2
    })
    .await;
    assert_eq!(seen["events"][0]["event"], "removed");
}

#[tokio::test]
async fn the_latency_of_each_endpoint_is_shown() {
    let rig = Rig::start(settings()).await;
    rig.backends[1].set_delay(Duration::from_millis(40));
    rig.page.json("").await;
    rig.call(60).await;
    let seen = until(&rig.page, "latencies", |seen| {
        let rows = seen["endpoints"].as_array().unwrap();
        rows.iter().all(|row| row["latency"].is_object())
    })
    .await;
    let ms = |id: &str, at: &str| Page::row(&seen, id)["latency"][at].as_f64().unwrap();
    for at in ["p50_ms", "p99_ms"] {
        // To 6 %, on a machine that may be busy.
        assert!((37.0..200.0).contains(&ms("user-2", at)), "{seen}");
    }
    assert!(ms("user-1", "p50_ms") < 37.0, "{seen}");
    let trend = &Page::row(&seen, "user-2")["trend"]["p50"];
    assert!(
        trend
            .as_array()
            .unwrap()
            .iter()
            .any(|value| value.is_number())
    );
    let all = &seen["services"][0]["latency"];
    assert!(all["p99_ms"].as_f64() > all["p50_ms"].as_f64(), "{all}");
}

#[tokio::test]
async fn a_registry_that_is_lost_is_shown_with_its_error_and_age() {
    let rig = Rig::start(settings()).await;
    rig.memory.pause();
    rig.memory.fail_next(u32::MAX);
    rig.memory.drop_watchers();
    rig.memory.resume();
    let seen = until(&rig.page, "the registry is stale", |seen| {
        seen["services"][0]["registries"][0]["state"] == "stale"
    })
    .await;
    let registry = &seen["services"][0]["registries"][0];
    assert!(registry["error"].is_string(), "{registry}");
    assert!(registry["silent_s"].as_f64().unwrap() >= 0.0);
    assert_eq!(seen["services"][0]["usable"], 3, "they continue to serve");
}

#[tokio::test]
async fn the_list_is_sorted_filtered_and_paged() {
    let addresses: Vec<_> = (0..1_000)
        .map(|i| format!("10.0.{}.{}:80", i / 250, i % 250))
        .collect();
    let registry = registry::connect(&format!("fixed:{}", addresses.join(","))).unwrap();
    let service = |_: &Instance| {
        let service = tower::service_fn(|n: u32| async move { Ok::<_, std::io::Error>(n) });
        Ok::<_, std::io::Error>(service)
    };
    let discover = registry.watch(SERVICE).unwrap().discover(service);
    let balance = BalanceLayer::builder().build().unwrap().balance(discover);
    let handle = balance.handle();
    handle
        .wait_for(|status| status.endpoints == 1_000)
        .await
        .unwrap();
    let page = StatusPage::new().service(SERVICE, handle.clone());
    let page = Page::serve(page.build().unwrap()).await;

    let all = handle.endpoints().await.unwrap();
    let first = page.json("").await;
    assert_eq!(first["view"]["total"], 1_000);
    assert_eq!(first["endpoints"].as_array().unwrap().len(), 50);
    assert_eq!(first["endpoints"][0]["id"], all[0].key.id());
    assert_eq!(
        first["services"][0]["map"]["states"]
            .as_str()
            .unwrap()
            .len(),
        1_000
    );

    let turned = page.json("?offset=950&limit=200&order=desc").await;
    assert_eq!(turned["view"]["offset"], 800, "the last page of this size");
    assert_eq!(turned["endpoints"][199]["id"], all[0].key.id());
    let found = page.json("?filter=10.0.3.24").await;
    assert_eq!(
        found["view"]["matching"], 11,
        "10.0.3.24 and 10.0.3.240 to 249"
    );

    let last = all.last().unwrap().key.clone();
    handle
        .set_weight(&last, tower_roster::instance::Weight::from(9))
        .await
        .unwrap();
    handle.eject(&last).await.unwrap();
    // The next sample knows it.
    until(&page, "it is ejected", |seen| {
        seen["services"][0]["states"]["ejected"] == 1
    })
    .await;
    let weighed = page.json("?sort=weight&order=desc&limit=1").await;
    assert_eq!(weighed["endpoints"][0]["id"], last.id());
    let ejected = page.json("?state=ejected").await;
    assert_eq!(ejected["view"]["matching"], 1);
    assert_eq!(ejected["endpoints"][0]["cause"], "ejected by hand");
    let size = page.get("/status.json?limit=200").await.ok().body.len();
    assert!(size < 200_000, "{size} bytes with 1,000 endpoints");
}

#[tokio::test]
async fn text_of_a_registry_is_bounded_and_stays_text() {
    let memory = Memory::new();
    let long = "x".repeat(5_000);
    let mut instance = Instance::new(SERVICE, "a", "127.0.0.1:1".parse().unwrap());
    for n in 0..100 {
        instance = instance.meta(format!("{n:03}"), &long).tag(long.clone());
    }
    memory.register(instance).unwrap();
    let registry = Registry::new(memory);
    let service = |_: &Instance| {
        let service = tower::service_fn(|n: u32| async move { Ok::<_, std::io::Error>(n) });
        Ok::<_, std::io::Error>(service)
    };
    let discover = registry.watch(SERVICE).unwrap().discover(service);
    let balance = BalanceLayer::builder().build().unwrap().balance(discover);
    let handle = balance.handle();
    handle
        .wait_for(|status| status.endpoints == 1)
        .await
        .unwrap();
    let page = StatusPage::new().service(SERVICE, handle).build().unwrap();
    let page = Page::serve(page).await;
    let reply = page.get("/status.json").await.ok();
    assert!(reply.body.len() < 20_000, "{} bytes", reply.body.len());
    let seen = reply.json();
    let row = Page::row(&seen, "a");
    assert_eq!(row["metadata"].as_array().unwrap().len(), 30);
    assert_eq!(row["tags"][0].as_str().unwrap().chars().count(), 201);
}

#[tokio::test]
async fn a_registration_of_the_process_is_shown() {
    let memory = Memory::new();
    let registry = Registry::new(memory.clone());
    let me = Instance::new("checkout", "web-7", "127.0.0.1:7".parse().unwrap());
    let registration = registry.register(me).unwrap();
    registration.registered().await;
    let page = StatusPage::new().registration(registration.handle());
    let page = Page::serve(page.build().unwrap()).await;
    let seen = page.json("").await;
    assert_eq!(seen["registrations"][0]["id"], "web-7");
    assert_eq!(seen["registrations"][0]["registered"], true);
    assert_eq!(
        seen["services"],
        json!([]),
        "a page without a service is one, too"
    );
    registration.deregister().await.unwrap();
    let seen = until(&page, "it has left", |seen| {
        seen["registrations"][0]["registered"] == false
    })
    .await;
    assert_eq!(seen["events"][0]["event"], "deregistered");
}

#[tokio::test]
async fn a_balancer_that_has_ended_is_said_to_have_ended() {
    let Rig {
        page,
        handles,
        backends,
        ..
    } = Rig::start(settings()).await;
    assert!(backends.len() == 3);
    let seen = until(&page, "the balancer is gone", |seen| {
        seen["services"][0]["gone"] == true
    })
    .await;
    assert_eq!(seen["events"][0]["event"], "ended");
    assert!(handles.balance.endpoints().await.is_err());
}

#[tokio::test]
async fn orders_reach_the_balancer_and_its_split() {
    let rig = Rig::start(settings().orders(TOKEN)).await;
    let order = |order| rig.page.order(order);
    let state = || async {
        let seen = rig.page.get("/status.json").await.ok().json();
        Page::row(&seen, "user-2").clone()
    };
    order(json!({"order": "eject", "id": "user-2"})).await.ok();
    let all = rig.endpoints().await;
    assert_eq!(all[1].cause.unwrap().to_string(), "ejected by hand");
    order(json!({"order": "restore", "id": "user-2"}))
        .await
        .ok();
    assert!(rig.endpoints().await[1].cause.is_none());
    order(json!({"order": "weight", "id": "user-2", "weight": 7}))
        .await
        .ok();
    assert_eq!(rig.endpoints().await[1].weight.get(), 7);
    order(json!({"order": "weight", "id": "user-2", "weight": null}))
        .await
        .ok();
    assert_eq!(rig.endpoints().await[1].weight.get(), 1);
    let shares = json!([{"version": "v2", "share": 1}]);
    order(json!({"order": "split", "shares": shares, "rest": 3}))
        .await
        .ok();
    let split = rig.handles.balance.split().unwrap();
    assert_eq!(split.shares().share("v2"), 0.25);
    assert_ne!(state().await["state"], "ejected");

    for (wrong, status) in [
        (json!({"order": "eject", "id": "nobody"}), 404),
        (
            json!({"order": "eject", "id": "user-2", "service": "other"}),
            404,
        ),
        (json!({"order": "weight", "id": "user-2"}), 400),
        (
            json!({"order": "weight", "id": "user-2", "weight": 65_536}),
            400,
        ),
        (
            json!({"order": "split", "shares": [{"version": "v2", "share": -1}]}),
            400,
        ),
        (json!({"order": "split", "shares": []}), 400),
        (json!({"order": "destroy", "id": "user-2"}), 400),
        (json!({"order": "eject", "id": "x".repeat(20_000)}), 413),
    ] {
        let reply = order(wrong.clone()).await;
        assert_eq!(reply.status, status, "{wrong}: {}", reply.text());
    }
    assert_eq!(split.shares().share("v2"), 0.25, "nothing changed");
}

#[tokio::test]
async fn axum_mounts_it_below_a_path_and_so_does_a_server_that_leaves_the_prefix() {
    let page = || {
        let rig = StatusPage::new();
        rig.settings(settings().at(""))
    };
    let app: axum::Router = axum::Router::new().nest_service("/status", page().build().unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let get = |target: &'static str| async move {
        let reply = crate::support::http1::send(addr, "GET", target, &[], b"", WITHIN).await;
        reply.unwrap()
    };
    assert!(get("/status").await.ok().text().contains("<main"));
    assert!(get("/status/").await.ok().text().contains("<main"));
    assert_eq!(get("/status/status.json").await.ok().json()["version"], 1);
    assert_eq!(get("/other").await.status, 404);
    server.abort();

    let settings = StatusSettings::new().at("/admin/status");
    let at = Page::serve(page().settings(settings).build().unwrap()).await;
    assert!(at.get("/admin/status").await.ok().text().contains("<main"));
    assert_eq!(
        at.get("/admin/status/status.json").await.ok().json()["version"],
        1
    );
    assert_eq!(at.get("/").await.status, 404);
    assert_eq!(at.get("/admin/statusstatus.json").await.status, 404);
}

#[tokio::test]
async fn a_page_ends_its_tasks_with_its_last_clone() {
    let rig = Rig::start(settings()).await;
    let before = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    let page = StatusPage::new().service(SERVICE, rig.handles.clone());
    let page = page.build().unwrap();
    let other = page.clone();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    assert_eq!(tasks(), before + 1, "one for the events");
    drop(page);
    assert_eq!(tasks(), before + 1);
    drop(other);
    crate::support::eventually(WITHIN, "the task has ended", || async { tasks() == before }).await;
}
