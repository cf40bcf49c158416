//! No request is lost while servers are replaced and while the registry fails in every way.

use serde_json::Value;

use super::{
    call::listed,
    kit::{Load, Program, SOON, Serve, consul, instances},
    support::{Agent, FaultProxy, eventually, need_consul},
};

const SERVICE: &str = "users";

fn assert_none_failed(summary: &Value, ids: &[String]) {
    assert_eq!(summary["failed"], 0, "{summary}");
    assert!(summary["ok"].as_u64() > Some(100), "{summary}");
    let (_, used) = instances(summary);
    for id in ids {
        assert!(used.contains(id), "{id} is used: {summary}");
    }
}

/// A registered server behind a proxy that counts its requests.
async fn counted(url: &str, service: &str, args: &[&str]) -> (Serve, FaultProxy) {
    // Replaced below: the server is not there yet.
    let proxy = FaultProxy::http(([127, 0, 0, 1], 1).into()).await;
    let advertised = proxy.addr().to_string();
    let flags = ["--register", url, service, "--advertise", &advertised];
    let serve = Serve::start(&[&flags, args].concat()).await;
    proxy.set_upstream(serve.addr);
    (serve, proxy)
}

/// Waits until each of these servers has had a request.
async fn all_used(proxies: &[FaultProxy]) {
    eventually(SOON, "every server is used", || async {
        proxies.iter().all(|proxy| !proxy.requests().is_empty())
    })
    .await;
}

/// Three registered servers, each behind a proxy that counts its requests.
struct Counted {
    ids: Vec<String>,
    proxies: Vec<FaultProxy>,
    _serves: Vec<Serve>,
}

impl Counted {
    async fn start(url: &str, args: &[&str]) -> Counted {
        let (mut ids, mut proxies, mut serves) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..3 {
            let (serve, proxy) = counted(url, SERVICE, args).await;
            ids.push(serve.id.clone());
            proxies.push(proxy);
            serves.push(serve);
        }
        ids.sort();
        listed(url, SERVICE, 3).await;
        Counted {
            ids,
            proxies,
            _serves: serves,
        }
    }

    /// Waits until this many more requests were sent.
    async fn sent(&self, more: usize) {
        let count = || {
            self.proxies
                .iter()
                .map(|p| p.requests().len())
                .sum::<usize>()
        };
        let goal = count() + more;
        eventually(SOON, "requests go on", || async {
            let sent = count();
            if sent >= goal {
                Ok(())
            } else {
                Err((sent, goal))
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_rolling_replacement_loses_no_request() {
    need_consul!();
    let agent = Agent::shared().await;
    let service = super::kit::unique(SERVICE);
    let url = consul(&agent);
    let (mut ids, mut proxies, mut serves) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..3 {
        let (serve, proxy) = counted(&url, &service, &["--delay", "20ms"]).await;
        ids.push(serve.id.clone());
        proxies.push(proxy);
        serves.push(serve);
    }
    listed(&url, &service, 3).await;
    let load = Load::start(&url, &service);
    // A busy machine may take longer to start the load than to replace the first server.
    all_used(&proxies).await;
    for serve in &mut serves {
        let (next, proxy) = counted(&url, &service, &["--delay", "20ms"]).await;
        proxies.push(proxy);
        ids.push(next.id.clone());
        let mut former = std::mem::replace(serve, next);
        eventually(SOON, "the new one passes", || async {
            agent.passing(&service).await.contains(&serve.id)
        })
        .await;
        former.program.stop().await;
    }
    all_used(&proxies).await;
    assert_none_failed(&load.finish().await, &ids);
}

#[tokio::test]
async fn a_consul_that_is_killed_and_keeps_its_state_loses_no_request() {
    need_consul!();
    let mut agent = Agent::server().await;
    let url = consul(&agent);
    let serves = Counted::start(&url, &[]).await;
    let mut watch = Program::start("watch", &[&url, SERVICE, "--json"]);
    watch.json("state", "live").await;
    let load = Load::start(&url, SERVICE);
    serves.sent(100).await;
    agent.kill9();
    watch.json("state", "stale").await;
    serves.sent(200).await;
    agent.restart().await;
    watch.json("state", "live").await;
    serves.sent(200).await;
    assert_none_failed(&load.finish().await, &serves.ids);
    let removals = watch
        .lines()
        .into_iter()
        .filter(|l| l.contains("\"remove\""));
    assert_eq!(removals.count(), 0, "{:?}", watch.lines());
}

#[tokio::test]
async fn a_consul_that_hangs_then_forgets_everything_loses_no_request() {
    need_consul!();
    let mut agent = Agent::dev().await;
    let url = consul(&agent);
    let serves = Counted::start(&url, &["--ttl", "3s"]).await;
    let load = Load::start(&url, SERVICE);
    serves.sent(100).await;
    agent.pause();
    // 5 s of requests: longer than the TTL.
    serves.sent(1_000).await;
    agent.resume();
    serves.sent(200).await;
    agent.kill9();
    serves.sent(200).await;
    agent.restart_wiped().await;
    eventually(SOON, "all are registered again by themselves", || async {
        let passing = agent.passing(SERVICE).await;
        if passing == serves.ids {
            Ok(())
        } else {
            Err(passing)
        }
    })
    .await;
    serves.sent(200).await;
    assert_none_failed(&load.finish().await, &serves.ids);
}
