//! The short examples of servers: three replicas on a real Consul are restarted one after the other under load,
//! and nothing is lost.

use std::time::{Duration, Instant};

#[cfg(feature = "tonic")]
#[path = "../../examples/common/hello.rs"]
mod hello;

use super::{
    call::listed,
    kit::{Load, Program, SOON, consul, unique},
    support::{Agent, eventually, need_consul, ports::Port},
};

/// Three processes of an example, each on a port of its own.
struct Replicas {
    name: &'static str,
    url: String,
    service: String,
    running: Vec<(Port, Program)>,
}

impl Replicas {
    async fn start(name: &'static str, agent: &Agent) -> Self {
        let (url, service) = (consul(agent), unique(name));
        let mut replicas = Self {
            name,
            url,
            service,
            running: Vec::new(),
        };
        for _ in 0..3 {
            let port = Port::lease();
            let program = replicas.replica(&port);
            replicas.running.push((port, program));
        }
        listed(&replicas.url, &replicas.service, 3).await;
        replicas
    }

    fn replica(&self, port: &Port) -> Program {
        let address = port.addr().to_string();
        Program::start(self.name, &[&self.url, &self.service, &address])
    }

    /// Restarts each on its port. `sent` waits for requests.
    async fn restart(&mut self, agent: &Agent, sent: impl AsyncFn()) {
        for at in 0..self.running.len() {
            sent().await;
            self.running[at].1.stop().await;
            sent().await;
            self.running[at].1 = self.replica(&self.running[at].0);
            let id = format!("{}-127.0.0.1-{}", self.service, self.running[at].0.get());
            eventually(SOON, "it is back", || async {
                agent.passing(&self.service).await.contains(&id)
            })
            .await;
        }
        sent().await;
    }
}

async fn no_request_is_lost(name: &'static str) {
    let agent = Agent::shared().await;
    let mut replicas = Replicas::start(name, &agent).await;
    // Nothing that a server did wrong is repaired: an answer that does not come counts.
    let once = ["--no-retry", "--no-hedge"];
    let load = Load::start_with(300, &replicas.url, &replicas.service, &once);
    // The load starts meanwhile: 300 requests and more before each step.
    let sent = async || tokio::time::sleep(Duration::from_secs(1)).await;
    replicas.restart(&agent, sent).await;
    let summary = load.finish().await;
    assert_eq!(summary["failed"], 0, "{summary}");
    assert!(summary["ok"].as_u64() > Some(1_500), "{summary}");
    for (_, program) in &mut replicas.running {
        program.stop().await;
    }
    println!("{name}: {} requests, none lost", summary["ok"]);
}

#[tokio::test]
async fn axum_servers_are_restarted_without_losing_a_request() {
    need_consul!();
    no_request_is_lost("axum_server").await;
}

#[tokio::test]
async fn hyper_servers_are_restarted_without_losing_a_request() {
    need_consul!();
    no_request_is_lost("hyper_server").await;
}

/// Its first check over HTTP is up to 10 s away.
#[tokio::test]
async fn a_server_passes_at_once_although_consul_checks_it_later() {
    need_consul!();
    let agent = Agent::shared().await;
    let (url, service, port) = (consul(&agent), unique("at-once"), Port::lease());
    let started = Instant::now();
    let mut server = Program::start("axum_server", &[&url, &service, &port.addr().to_string()]);
    eventually(SOON, "it passes", || async {
        !agent.health(&service).await.is_empty()
    })
    .await;
    let registered = started.elapsed();
    eventually(SOON, "it passes", || async {
        agent.passing(&service).await.len() == 1
    })
    .await;
    let passes = started.elapsed() - registered;
    println!("registered after {registered:?}, passes {passes:?} later");
    assert!(passes < Duration::from_millis(500), "{passes:?}");
    server.stop().await;
}

#[cfg(feature = "tonic")]
mod grpc {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    };

    use tokio::task::{JoinHandle, JoinSet};
    use tonic::Status;
    use tower_roster::{
        balance::EndpointState,
        client::{GrpcChannel, Stack},
        registry,
    };

    use super::{
        hello::{HelloRequest, greeter_client::GreeterClient},
        *,
    };
    use crate::kit::run;

    /// 300 calls a second.
    struct Calls {
        stop: Arc<AtomicBool>,
        answered: Arc<AtomicUsize>,
        load: JoinHandle<Vec<Result<(), Status>>>,
    }

    impl Calls {
        fn start(channel: GrpcChannel) -> Self {
            let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
            let client = GreeterClient::new(channel);
            let (stopped, count) = (Arc::clone(&stop), Arc::clone(&answered));
            let load = tokio::spawn(async move {
                let mut calls = JoinSet::new();
                let mut turn = tokio::time::interval(Duration::from_micros(3_333));
                while !stopped.load(Relaxed) {
                    turn.tick().await;
                    let (mut client, count) = (client.clone(), Arc::clone(&count));
                    calls.spawn(async move {
                        let name = String::from("you");
                        client.say_hello(HelloRequest { name }).await?;
                        count.fetch_add(1, Relaxed);
                        Ok(())
                    });
                }
                calls.join_all().await
            });
            Self {
                stop,
                answered,
                load,
            }
        }

        async fn more(&self, calls: usize) {
            let goal = self.answered.load(Relaxed) + calls;
            eventually(SOON, "more calls", || async {
                self.answered.load(Relaxed) >= goal
            })
            .await;
        }

        /// Returns their number; none may have failed.
        async fn finish(self) -> usize {
            self.stop.store(true, Relaxed);
            let calls = self.load.await.expect("no panic");
            let failed: Vec<_> = calls
                .iter()
                .filter_map(|call| call.as_ref().err())
                .collect();
            assert!(
                failed.is_empty(),
                "{} of {}: {failed:?}",
                failed.len(),
                calls.len()
            );
            calls.len()
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tonic_servers_are_restarted_without_losing_a_call() {
        need_consul!();
        let agent = Agent::shared().await;
        let mut replicas = Replicas::start("tonic_server", &agent).await;
        let registry = registry::connect(&replicas.url).expect("a registry");
        // No call may be repeated: each must reach a server that answers it.
        let channel = GrpcChannel::connect(&registry, &*replicas.service);
        let calls = Calls::start(channel.expect("a watch"));
        replicas
            .restart(&agent, async || calls.more(300).await)
            .await;
        println!("tonic_server: {} calls, none lost", calls.finish().await);
        for (_, program) in &mut replicas.running {
            program.stop().await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_killed_server_costs_no_call_that_may_be_repeated() {
        need_consul!();
        let agent = Agent::shared().await;
        let mut replicas = Replicas::start("tonic_server", &agent).await;
        let registry = registry::connect(&replicas.url).expect("a registry");
        let stack = Stack::grpc().repeatable("helloworld.Greeter");
        let channel = stack.connect(&registry, &*replicas.service);
        let channel = channel.expect("a watch");
        let handle = channel.handle().clone();
        let calls = Calls::start(channel);
        for at in 0..3 {
            calls.more(300).await;
            replicas.running[at].1.kill();
            // Consul still lists it, until its TTL of 10 s has passed.
            eventually(SOON, "it leaves the rotation by itself", || async {
                let endpoints = handle.endpoints().await.expect("it runs");
                endpoints
                    .iter()
                    .any(|endpoint| endpoint.state == EndpointState::Ejected)
            })
            .await;
            calls.more(300).await;
            replicas.running[at].1 = replicas.replica(&replicas.running[at].0);
            eventually(SOON, "it is back", || async {
                let endpoints = handle.endpoints().await.expect("it runs");
                endpoints.iter().all(|endpoint| {
                    [EndpointState::Active, EndpointState::Warming].contains(&endpoint.state)
                })
            })
            .await;
        }
        println!(
            "killed three times: {} calls, none lost",
            calls.finish().await
        );
    }

    #[tokio::test]
    async fn the_client_of_the_readme_calls_a_server_in_consul() {
        need_consul!();
        let agent = Agent::shared().await;
        let replicas = Replicas::start("tonic_server", &agent).await;
        let end = run("grpc_client", &[&replicas.url, &replicas.service, "world"]).await;
        assert_eq!(
            (end.code, &*end.stdout),
            (Some(0), "hello, world\n"),
            "{end:?}"
        );
        let end = run("grpc_client", &[&replicas.url, "nobody", "world"]).await;
        assert_eq!(end.code, Some(1));
        assert!(
            end.stderr.contains("nobody") && end.stderr.contains("no such service"),
            "{end:?}"
        );
    }
}
