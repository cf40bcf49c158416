//! One Consul server, and three behind a client agent, as Consul is deployed.

use std::net::SocketAddr;

use serde_json::json;
use tokio::task::JoinSet;
use tower_roster::{Registry, registry::consul};

use super::{BRIEF, Path, Place, Registrar, SERVICE, crowd};
use crate::{
    fault::Fault,
    support::{Agent, Cluster, eventually, http1},
};

const SOON: std::time::Duration = std::time::Duration::from_secs(20);
const ROOT: &str = "root-of-the-matrix";
const RULES: &str = r#"service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }"#;

/// How many connections an agent grants in the cell that takes all of them.
const CONNECTIONS: usize = 20;

/// What both have: the agent that the applications speak with, and how they do.
struct Local {
    agent: Agent,
    path: Path,
    registrar: Registrar,
    /// Accessor and secret of the client.
    token: Option<(String, String)>,
    /// That take the connections.
    others: JoinSet<()>,
}

fn settings(fault: Fault) -> serde_json::Value {
    match fault {
        Fault::Full => json!({ "limits": { "http_max_conns_per_client": CONNECTIONS } }),
        // A client agent believes for 30 s what it once knew of a token.
        Fault::Revoked => json!({ "acl": { "token_ttl": "1s", "policy_ttl": "1s" } }),
        _ => json!({}),
    }
}

fn registry(url: String, token: Option<&str>) -> Registry {
    let mut config = consul::ConsulConfig::new(url);
    if let Some(token) = token {
        config = config.token(token);
    }
    Registry::new(consul::Consul::new(config).expect("a configuration"))
}

impl Local {
    async fn new(agent: Agent, fault: Fault) -> Self {
        let token = match fault {
            Fault::Revoked => Some(agent.acl_token("matrix", RULES).await),
            _ => None,
        };
        if fault == Fault::Wiped {
            // An agent that has been in use is beyond the index of one that starts.
            for n in 0..60 {
                agent
                    .put(&format!("/v1/kv/past/{n}"), Some(json!(n)))
                    .await
                    .ok();
            }
        }
        let at = agent.http_addr();
        let remove = move |id: String| async move {
            let path = format!("/v1/agent/service/deregister/{id}");
            let reply = http1::send(at, "PUT", &path, &[], b"", BRIEF).await;
            reply.is_ok_and(|reply| reply.status == 200 || reply.status == 404)
        };
        Self {
            path: Path::to([at]).await,
            registrar: Registrar::new(registry(agent.url(), agent.token()), remove),
            agent,
            token,
            others: JoinSet::new(),
        }
    }

    fn watching(&self) -> Registry {
        let url = format!("http://{}", self.path.addrs());
        registry(url, self.token.as_ref().map(|(_, secret)| secret.as_str()))
    }

    async fn serves(&self) -> bool {
        let path = format!("/v1/health/service/{SERVICE}");
        let token = self.agent.token();
        let reply = self.agent.request("GET", &path, token, None, BRIEF).await;
        reply.is_ok_and(|reply| reply.status == 200)
    }

    /// Others take every connection.
    async fn fill(&mut self) {
        self.path.set(crate::support::Mode::Refuse).await;
        self.others = crowd(self.agent.http_addr(), 2 * CONNECTIONS);
        let agent = &self.agent;
        eventually(SOON, "nobody gets in any more", || async {
            let ask = agent.request("GET", "/v1/status/leader", None, None, BRIEF);
            ask.await.is_err()
        })
        .await;
        self.path.set(crate::support::Mode::Pass).await;
    }
}

/// One server.
pub(crate) struct Consul(Local);

impl Place for Consul {
    fn lacks(fault: Fault) -> Option<&'static str> {
        match fault {
            Fault::LeaderKilled | Fault::QuorumLost => Some("one server"),
            _ => None,
        }
    }

    async fn start(fault: Fault) -> Self {
        let mut agent = Agent::server().config(settings(fault));
        if fault == Fault::Revoked {
            agent = agent.acl_default_deny(ROOT);
        }
        Self(Local::new(agent.await, fault).await)
    }

    fn watching(&self) -> Registry {
        self.0.watching()
    }

    fn path(&mut self) -> &mut Path {
        &mut self.0.path
    }

    async fn inflict(&mut self, fault: Fault) {
        let local = &mut self.0;
        match fault {
            Fault::Restarted => local.agent.kill9(),
            Fault::Wiped => local.agent.wipe(),
            Fault::Paused => local.agent.pause(),
            Fault::Full => local.fill().await,
            Fault::Revoked => {
                let (accessor, _) = local.token.as_ref().expect("it has one");
                local.agent.acl_revoke(accessor).await;
            }
            _ => unreachable!("on the path, or not here"),
        }
    }

    async fn heal(&mut self, fault: Fault) {
        let local = &mut self.0;
        match fault {
            Fault::Restarted | Fault::Wiped => local.agent.restart_nowait(),
            Fault::Paused => local.agent.resume(),
            Fault::Full => local.others.abort_all(),
            Fault::Revoked => {
                let (accessor, secret) = local.token.as_ref().expect("it has one");
                local.agent.acl_restore(accessor, secret, "matrix").await;
            }
            _ => unreachable!("on the path, or not here"),
        }
    }

    async fn serves(&self) -> bool {
        self.0.serves().await
    }

    async fn announce(&mut self, id: &str, addr: SocketAddr) {
        self.0.registrar.announce(id, addr);
    }

    async fn withdraw(&mut self, id: &str) {
        self.0.registrar.withdraw(id);
    }
}

/// Three servers, and a client agent that the applications speak with.
pub(crate) struct Consul3 {
    local: Local,
    cluster: Cluster,
    killed: Vec<usize>,
}

impl Consul3 {
    fn kill(&mut self, numbers: impl IntoIterator<Item = usize>) {
        for n in numbers {
            self.cluster[n].kill9();
            self.killed.push(n);
        }
    }
}

impl Place for Consul3 {
    fn lacks(_fault: Fault) -> Option<&'static str> {
        None
    }

    async fn start(fault: Fault) -> Self {
        let mut cluster = Cluster::three();
        if fault == Fault::Revoked {
            cluster = cluster.acl_default_deny(ROOT);
        }
        let mut cluster = cluster.await;
        let client = cluster.client().config(settings(fault)).await;
        // Servers that lost their state must find the client agent again.
        let mut join: Vec<_> = cluster.servers().iter().map(Agent::lan_addr).collect();
        join.push(client.lan_addr());
        for n in 0..3 {
            cluster[n].reconfigure(json!({ "retry_join": join }));
        }
        Self {
            local: Local::new(client, fault).await,
            cluster,
            killed: Vec::new(),
        }
    }

    fn watching(&self) -> Registry {
        self.local.watching()
    }

    fn path(&mut self) -> &mut Path {
        &mut self.local.path
    }

    async fn inflict(&mut self, fault: Fault) {
        match fault {
            Fault::Restarted => self.kill(0..3),
            Fault::Wiped => {
                self.kill(0..3);
                for n in 0..3 {
                    self.cluster[n].wipe();
                }
            }
            Fault::Paused => {
                let leader = self.cluster.leader().await;
                self.cluster[leader].pause();
            }
            Fault::LeaderKilled => {
                let leader = self.cluster.leader().await;
                self.kill([leader]);
            }
            Fault::QuorumLost => {
                let leader = self.cluster.leader().await;
                self.kill([leader, (leader + 1) % 3]);
            }
            Fault::Full => self.local.fill().await,
            Fault::Revoked => {
                let (accessor, _) = self.local.token.as_ref().expect("it has one");
                self.cluster[0].acl_revoke(accessor).await;
            }
            _ => unreachable!("on the path"),
        }
    }

    async fn heal(&mut self, fault: Fault) {
        match fault {
            Fault::Restarted | Fault::Wiped | Fault::QuorumLost => {
                for n in std::mem::take(&mut self.killed) {
                    self.cluster[n].restart_nowait();
                }
            }
            Fault::Paused => {
                for n in 0..3 {
                    self.cluster[n].resume();
                }
            }
            // The others elect another one.
            Fault::LeaderKilled => {}
            Fault::Full => self.local.others.abort_all(),
            Fault::Revoked => {
                let (accessor, secret) = self.local.token.as_ref().expect("it has one");
                self.cluster[0]
                    .acl_restore(accessor, secret, "matrix")
                    .await;
            }
            _ => unreachable!("on the path"),
        }
    }

    async fn serves(&self) -> bool {
        self.local.serves().await
    }

    async fn announce(&mut self, id: &str, addr: SocketAddr) {
        self.local.registrar.announce(id, addr);
    }

    async fn withdraw(&mut self, id: &str) {
        self.local.registrar.withdraw(id);
    }
}
