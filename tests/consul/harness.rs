//! The harness itself, on a real Consul: what it claims to break breaks, and heals.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    Agent, Backend, Cluster, FaultProxy, Mode, RawServer, Rule, Script, eventually,
    http1::{self, consul_reply, reply},
    need_consul,
};

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn dev_agent_registers_checks_and_deregisters() {
    need_consul!();
    let agent = Agent::dev().await;
    agent
        .register_with_ttl("web-1", "web", 8080, "passing")
        .await;
    eventually(SOON, "web-1 passes", || async {
        agent.passing("web").await == ["web-1"]
    })
    .await;
    agent.fail_check("check:web-1").await;
    eventually(SOON, "web-1 fails", || async {
        agent.passing("web").await.is_empty()
    })
    .await;
    assert_eq!(
        agent.health("web").await.len(),
        1,
        "a failing instance is still listed"
    );
    agent.pass_check("check:web-1").await;
    eventually(SOON, "web-1 is back", || async {
        agent.passing("web").await == ["web-1"]
    })
    .await;
    agent.deregister_service("web-1").await;
    eventually(SOON, "web is gone", || async {
        agent.health("web").await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn agents_run_side_by_side_and_end_with_their_handles() {
    need_consul!();
    let (one, two) = tokio::join!(Agent::dev(), Agent::dev().datacenter("dc2"));
    one.register_service("a", "web", "127.0.0.1", 1, json!({}))
        .await;
    assert!(
        two.health("web").await.is_empty(),
        "two agents share nothing"
    );
    assert_eq!(
        two.get("/v1/agent/self").await.ok().json()["Config"]["Datacenter"],
        "dc2"
    );
    let (pid, addr) = (one.pid(), one.http_addr());
    drop(one);
    assert!(
        !std::path::Path::new(&format!("/proc/{pid}")).exists(),
        "no zombie stays behind"
    );
    assert!(
        std::net::TcpStream::connect(addr).is_err(),
        "nothing listens any more"
    );
}

#[tokio::test]
async fn killed_dev_agent_comes_back_empty_on_the_same_port() {
    need_consul!();
    let mut agent = Agent::dev().await;
    agent
        .register_service("a", "web", "127.0.0.1", 1, json!({}))
        .await;
    let addr = agent.http_addr();
    agent.kill9();
    assert!(
        std::net::TcpStream::connect(addr).is_err(),
        "a killed agent refuses connections"
    );
    agent.restart().await;
    assert_eq!(agent.http_addr(), addr);
    assert!(
        agent.health("web").await.is_empty(),
        "a dev agent remembers nothing"
    );
}

#[tokio::test]
async fn killed_server_keeps_its_data_until_wiped() {
    need_consul!();
    let mut agent = Agent::server().await;
    agent
        .register_service("a", "web", "127.0.0.1", 1, json!({}))
        .await;
    eventually(SOON, "a is listed", || async {
        agent.health("web").await.len() == 1
    })
    .await;
    agent.kill9();
    agent.restart().await;
    assert_eq!(
        agent.health("web").await.len(),
        1,
        "the data directory survives the kill"
    );
    agent.restart_wiped().await;
    assert!(
        agent.health("web").await.is_empty(),
        "the data directory was wiped"
    );
}

#[tokio::test]
async fn paused_agent_accepts_and_answers_nothing_until_resumed() {
    need_consul!();
    let mut agent = Agent::dev().await;
    agent.pause();
    let short = Duration::from_millis(300);
    let asked = agent
        .request("GET", "/v1/status/leader", None, None, short)
        .await;
    assert_eq!(asked.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    agent.resume();
    agent.get("/v1/status/leader").await.ok();
    // A paused agent ends with its handle too.
    agent.pause();
    let pid = agent.pid();
    drop(agent);
    assert!(
        !std::path::Path::new(&format!("/proc/{pid}")).exists(),
        "no zombie stays behind"
    );
}

#[tokio::test]
async fn client_agent_leaves_politely_and_returns() {
    need_consul!();
    let server = Agent::server().await;
    let mut client = Agent::client_of(&server).await;
    client
        .register_service("a", "web", "127.0.0.1", 1, json!({}))
        .await;
    let listed = |n| {
        let server = &server;
        move || async move { server.health("web").await.len() == n }
    };
    eventually(SOON, "a is listed", listed(1)).await;
    // Looked at while it leaves: an agent that leaves within seconds of its start may sync once
    // more on the way out, and stays listed then.
    let gone = eventually(SOON, "a leaves with its agent", listed(0));
    let (status, ()) = tokio::join!(client.terminate(), gone);
    assert!(status.success());
    client.restart().await;
    eventually(SOON, "a is listed again", listed(1)).await;
}

#[tokio::test]
async fn cluster_elects_a_new_leader_and_takes_the_old_one_back() {
    need_consul!();
    let mut cluster = Cluster::three().await;
    let old = cluster.leader().await;
    cluster[old].kill9();
    let new = cluster.leader().await;
    assert_ne!(old, new);
    assert_eq!(cluster.followers().await.len(), 1);
    cluster[new]
        .register_service("a", "web", "127.0.0.1", 1, json!({}))
        .await;
    cluster[old].restart().await;
    cluster.wait_healthy().await;
    let old = &cluster[old];
    eventually(SOON, "the old leader knows a", || async {
        old.health("web").await.len() == 1
    })
    .await;
}

#[tokio::test]
async fn datacenters_join_over_the_wan() {
    need_consul!();
    let one = Agent::dev().await;
    let two = Agent::dev()
        .datacenter("dc2")
        .join_wan(one.wan_addr())
        .await;
    two.register_service("a", "web", "127.0.0.1", 1, json!({}))
        .await;
    eventually(SOON, "dc1 sees the service in dc2", || async {
        let reply = one.get("/v1/health/service/web?dc=dc2").await;
        let found = reply.status == 200 && reply.json().as_array().is_some_and(|l| l.len() == 1);
        if found {
            Ok(())
        } else {
            Err((reply.status, reply.text()))
        }
    })
    .await;
}

#[tokio::test]
async fn acl_tokens_are_refused_and_allowed() {
    need_consul!();
    let agent = Agent::dev().acl_default_deny("the-master-token").await;
    agent
        .register_service("a", "web", "127.0.0.1", 1, json!({}))
        .await;
    let path = "/v1/health/service/web";
    assert_eq!(agent.get_as(Some("no-such-token"), path).await.status, 403);
    assert_eq!(
        agent.get_as(None, path).await.ok().json(),
        json!([]),
        "anonymous sees nothing"
    );
    let rules = r#"service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }"#;
    let (accessor, secret) = agent.acl_token("reader", rules).await;
    let read = || async { agent.get_as(Some(&secret), path).await };
    assert_eq!(read().await.ok().json().as_array().map(Vec::len), Some(1));
    agent.acl_revoke(&accessor).await;
    eventually(SOON, "the token is refused", || async {
        read().await.status == 403
    })
    .await;
    agent.acl_restore(&accessor, &secret, "reader").await;
    eventually(SOON, "the token is back", || async {
        read().await.status == 200
    })
    .await;
}

#[tokio::test]
async fn extra_configuration_reaches_the_agent() {
    need_consul!();
    let agent = Agent::dev()
        .config(json!({ "limits": { "http_max_conns_per_client": 3 } }))
        .await;
    let ask = || agent.request("GET", "/v1/status/leader", None, None, SOON);
    let held = RefCell::new(Vec::new());
    // The agent may still count a connection that is closed here, and refuse one of the first.
    eventually(SOON, "a connection over the limit is refused", || async {
        let connection = TcpStream::connect(agent.http_addr()).await.unwrap();
        held.borrow_mut().push(connection);
        ask().await.is_err()
    })
    .await;
    drop(held);
    eventually(SOON, "connections are free again", || async {
        ask().await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn blocking_query_passes_through_the_proxy() {
    need_consul!();
    let agent = Agent::shared().await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let service = "through-the-proxy";
    // Not a watch on a missing service: that one wakes when any service loses its last instance.
    agent
        .register_service("p-0", service, "127.0.0.1", 1, json!({}))
        .await;
    eventually(SOON, "p-0 is listed", || async {
        agent.health(service).await.len() == 1
    })
    .await;
    let index = agent.index(service).await;
    let path = format!("/v1/health/service/{service}?index={index}&wait=60s");
    let poll = http1::send(proxy.addr(), "GET", &path, &[], b"", SOON);
    let change = async {
        eventually(SOON, "the poll is upstream", || async {
            proxy.upstream_open() == 1
        })
        .await;
        agent
            .register_service("p-1", service, "127.0.0.1", 1, json!({}))
            .await;
    };
    let (answer, ()) = tokio::join!(poll, change);
    let answer = answer.unwrap();
    assert_eq!(answer.json().as_array().map(Vec::len), Some(2));
    assert!(answer.index() > Some(index));

    let seen = proxy.requests();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].method, "GET");
    assert_eq!(seen[0].path(), format!("/v1/health/service/{service}"));
    assert_eq!(seen[0].param("wait"), Some("60s"));

    // A client that goes away takes its upstream connection with it.
    let path = format!("/v1/health/service/{service}?index=100000000&wait=60s");
    let short = Duration::from_millis(200);
    http1::send(proxy.addr(), "GET", &path, &[], b"", short)
        .await
        .unwrap_err();
    eventually(SOON, "both sides closed", || async {
        proxy.open() == 0 && proxy.upstream_open() == 0
    })
    .await;
    assert_eq!(proxy.accepted(), 2);
    agent.deregister_service("p-0").await;
    agent.deregister_service("p-1").await;
}

#[tokio::test]
async fn proxy_modes_break_connections_and_heal() {
    need_consul!();
    let agent = Agent::shared().await;
    let mut proxy = FaultProxy::http(agent.http_addr()).await;
    let addr = proxy.addr();
    let ask = |timeout| async move {
        http1::send(addr, "GET", "/v1/status/leader", &[], b"", timeout).await
    };
    let failure = |result: std::io::Result<_>| match result {
        Ok(_) => panic!("an answer in a broken mode"),
        Err(e) => e.kind(),
    };
    use std::io::ErrorKind::{ConnectionRefused, ConnectionReset, TimedOut};

    ask(SOON).await.unwrap().ok();
    proxy.set(Mode::Refuse).await;
    assert_eq!(failure(ask(SOON).await), ConnectionRefused);
    proxy.set(Mode::Blackhole).await;
    assert_eq!(failure(ask(Duration::from_millis(100)).await), TimedOut);
    proxy.set(Mode::Reset).await;
    assert_eq!(failure(ask(SOON).await), ConnectionReset);
    proxy.set(Mode::Pass).await;
    ask(SOON).await.unwrap().ok();

    // What a blackhole held back arrives after the heal.
    proxy.set(Mode::Blackhole).await;
    let held = ask(SOON);
    let heal = async {
        eventually(SOON, "the request is held", || async { proxy.open() == 1 }).await;
        proxy.set(Mode::Pass).await;
    };
    let (answer, ()) = tokio::join!(held, heal);
    answer.unwrap().ok();
}

#[tokio::test]
async fn proxy_modes_end_a_poll_that_waits() {
    need_consul!();
    let agent = Agent::shared().await;
    let mut proxy = FaultProxy::http(agent.http_addr()).await;
    let index = agent.index("never-there").await;
    for mode in [Mode::Refuse, Mode::Reset] {
        let path = format!(
            "/v1/health/service/never-there?index={}&wait=60s",
            index + 1_000_000
        );
        let poll = http1::send(proxy.addr(), "GET", &path, &[], b"", SOON);
        let cut = async {
            eventually(SOON, "the poll is upstream", || async {
                proxy.upstream_open() == 1
            })
            .await;
            proxy.set(mode).await;
        };
        let (answer, ()) = tokio::join!(poll, cut);
        assert_ne!(
            answer.unwrap_err().kind(),
            std::io::ErrorKind::TimedOut,
            "{mode:?} cuts"
        );
        assert_eq!(
            (proxy.open(), proxy.upstream_open()),
            (0, 0),
            "{mode:?} leaves nothing open"
        );
        proxy.set(Mode::Pass).await;
    }
}

#[tokio::test]
async fn proxy_rules_answer_rewrite_delay_and_cut() {
    need_consul!();
    let agent = Agent::shared().await;
    agent
        .register_service("r-1", "ruled", "127.0.0.1", 1, json!({}))
        .await;
    let proxy = FaultProxy::http(agent.http_addr()).await;
    let path = "/v1/health/service/ruled";
    let ask = || {
        http1::send(
            proxy.addr(),
            "GET",
            path,
            &[("Accept-Encoding", "gzip")],
            b"",
            SOON,
        )
    };

    proxy.respond_once(path, reply(500, "No cluster leader"));
    assert_eq!(ask().await.unwrap().status, 500);
    assert_eq!(ask().await.unwrap().status, 200, "once means once");

    proxy.add(Rule::path(path).times(2).rewrite(|head, answer| {
        assert_eq!(head.path(), "/v1/health/service/ruled");
        answer
            .headers_mut()
            .insert("x-consul-index", "0".parse().unwrap());
        let body = String::from_utf8(answer.body().to_vec()).expect("not compressed");
        *answer.body_mut() = body.replace("r-1", "changed").into();
    }));
    let changed = ask().await.unwrap();
    assert_eq!(changed.index(), Some(0));
    assert_eq!(changed.json()[0]["Service"]["ID"], "changed");

    proxy.clear();
    proxy.add(Rule::any().once().truncate(10));
    assert_eq!(
        ask().await.unwrap_err().kind(),
        std::io::ErrorKind::UnexpectedEof
    );
    proxy.add(Rule::any().once().reset());
    assert_eq!(
        ask().await.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );

    let delay = Duration::from_millis(150);
    proxy.add(Rule::any().once().after(delay).pass());
    let start = Instant::now();
    ask().await.unwrap().ok();
    assert!(start.elapsed() >= delay, "the answer was delayed");
    assert_eq!(proxy.count(|head| head.path() == path), 6);
    agent.deregister_service("r-1").await;
}

#[tokio::test]
async fn raw_server_says_anything() {
    let server = RawServer::play([
        Script::respond(&consul_reply(7, "[]")),
        Script::new()
            .trickle("HTTP/1.1 200 OK\r\n", Duration::from_millis(1))
            .close(),
        Script::new().reset(),
        Script::new()
            .write("HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n")
            .stream("0123456789".repeat(1000), 10_000_000),
        Script::new().hang(),
    ])
    .await;
    let ask = |timeout| http1::send(server.addr(), "GET", "/x?index=3", &[], b"", timeout);
    assert_eq!(ask(SOON).await.unwrap().index(), Some(7));
    assert_eq!(
        ask(SOON).await.unwrap_err().kind(),
        std::io::ErrorKind::UnexpectedEof
    );
    assert_eq!(
        ask(SOON).await.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
    assert_eq!(ask(SOON).await.unwrap().body.len(), 10_000_000);
    let short = Duration::from_millis(50);
    assert_eq!(
        ask(short).await.unwrap_err().kind(),
        std::io::ErrorKind::TimedOut
    );
    assert_eq!(server.requests().len(), 5);
    assert_eq!(server.requests()[0].param("index"), Some("3"));
    eventually(SOON, "all closed", || async { server.open() == 0 }).await;
}

#[tokio::test]
async fn backend_answers_fails_delays_stops_and_returns() {
    let mut backend = Backend::start("blue").await;
    let addr = backend.addr();
    let ask = |path| async move { http1::send(addr, "GET", path, &[], b"", SOON).await };
    assert_eq!(ask("/").await.unwrap().text(), "blue");
    assert_eq!(ask("/health").await.unwrap().status, 200);
    backend.set_healthy(false);
    assert_eq!(ask("/health").await.unwrap().status, 503);
    backend.set_failures(0.25);
    let mut failed = 0;
    for _ in 0..8 {
        failed += usize::from(ask("/").await.unwrap().status == 500);
    }
    assert_eq!(failed, 2, "a quarter of eight");
    assert_eq!((backend.requests(), backend.probes()), (9, 2));
    backend.set_failures(0.0);

    backend.set_delay(Duration::from_secs(60));
    let crash = async {
        eventually(SOON, "a request is in flight", || async {
            backend.in_flight() == 1
        })
        .await;
        backend.stop().await;
    };
    let (cut, ()) = tokio::join!(ask("/"), crash);
    assert_ne!(
        cut.unwrap_err().kind(),
        std::io::ErrorKind::TimedOut,
        "a crash cuts requests"
    );
    assert_eq!(
        ask("/").await.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );

    backend.set_delay(Duration::from_millis(100));
    backend.restart().await;
    let drain = async {
        eventually(SOON, "a request is in flight", || async {
            backend.in_flight() == 1
        })
        .await;
        backend.drain().await;
    };
    let (kept, ()) = tokio::join!(ask("/"), drain);
    assert_eq!(
        kept.unwrap().text(),
        "blue",
        "a drain finishes what is in flight"
    );
    eventually(SOON, "all closed", || async { backend.open() == 0 }).await;
}

#[tokio::test]
async fn proxy_resets_connections_over_its_limit() {
    let backend = Backend::start("blue").await;
    let proxy = FaultProxy::http(backend.addr()).await;
    proxy.limit_connections(1);
    let held = TcpStream::connect(proxy.addr()).await.unwrap();
    eventually(SOON, "one is open", || async { proxy.open() == 1 }).await;
    let ask = || http1::send(proxy.addr(), "GET", "/", &[], b"", SOON);
    assert_eq!(
        ask().await.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
    drop(held);
    eventually(SOON, "none is open", || async { proxy.open() == 0 }).await;
    assert_eq!(ask().await.unwrap().text(), "blue");
}

#[tokio::test]
async fn tcp_proxy_and_backend_speak_http2() {
    let backend = Backend::start("blue").await;
    let proxy = FaultProxy::tcp(backend.addr()).await;
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    // The preface of a client, and settings without any.
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    client
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    client.write_all(&settings).await.unwrap();
    let mut frame = [0; 9];
    client.read_exact(&mut frame).await.unwrap();
    assert_eq!(
        frame[3], 4,
        "the first frame of an HTTP/2 server is its settings"
    );
}

#[tokio::test]
async fn backend_listens_on_ipv6() {
    let backend = Backend::start_v6("six").await;
    let answer = http1::send(backend.addr(), "GET", "/", &[], b"", SOON)
        .await
        .unwrap();
    assert_eq!(answer.text(), "six");
    assert!(backend.url().starts_with("http://[::1]:"));
}
