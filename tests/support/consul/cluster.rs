//! Three servers of one datacenter.

use std::{
    future::{Future, IntoFuture},
    ops::{Index, IndexMut},
    pin::Pin,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    Agent,
    agent::{AgentBuilder, StartError},
};
use crate::support::eventually;

const START: Duration = Duration::from_secs(90);
const TRIES: usize = 5;

/// Running servers, by number; dropping it kills them.
pub struct Cluster {
    servers: Vec<Agent>,
}

/// Awaiting it starts the cluster and waits until all of it is healthy.
#[derive(Clone, Debug)]
pub struct ClusterBuilder(AgentBuilder);

impl Cluster {
    pub fn three() -> ClusterBuilder {
        ClusterBuilder(Agent::server_of(3))
    }

    pub fn servers(&self) -> &[Agent] {
        &self.servers
    }

    /// A client agent, joined to all servers.
    pub fn client(&self) -> AgentBuilder {
        let first = Agent::client_of(&self.servers[0]);
        self.servers[1..]
            .iter()
            .fold(first, AgentBuilder::also_join)
    }

    /// Waits for a leader that runs, and returns its number.
    pub async fn leader(&mut self) -> usize {
        let running: Vec<usize> = (0..self.servers.len())
            .filter(|i| self.servers[*i].is_running())
            .collect();
        let servers = &self.servers;
        let running = &running;
        eventually(START, "a leader that runs", || async move {
            let mut seen = Vec::new();
            for i in running {
                let timeout = Duration::from_secs(2);
                let server = &servers[*i];
                let token = server.token();
                let ask = server.request("GET", "/v1/status/leader", token, None, timeout);
                let Ok(reply) = ask.await else { continue };
                let leads = |n: &&usize| {
                    reply.text().trim_matches('"') == servers[**n].server_addr().to_string()
                };
                match running.iter().find(leads) {
                    Some(leader) => return Ok(*leader),
                    None => seen.push(reply.text()),
                }
            }
            Err(seen)
        })
        .await
    }

    /// The numbers of the others that run.
    pub async fn followers(&mut self) -> Vec<usize> {
        let leader = self.leader().await;
        (0..self.servers.len())
            .filter(|i| *i != leader && self.servers[*i].is_running())
            .collect()
    }

    /// Waits until all servers are healthy voters: before that the next kill may cost the quorum.
    pub async fn wait_healthy(&self) {
        let servers = &self.servers;
        eventually(START, "a healthy cluster of all servers", || async move {
            let Some(server) = servers.first() else {
                return Err("no servers".to_owned());
            };
            let path = "/v1/operator/autopilot/health";
            let timeout = Duration::from_secs(10);
            let reply = server
                .request("GET", path, server.token(), None, timeout)
                .await;
            let reply = reply.map_err(|e| e.to_string())?;
            let health: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
            let voters = health["Servers"].as_array().map_or(0, |list| {
                list.iter()
                    .filter(|s| s["Voter"] == true && s["Healthy"] == true)
                    .count()
            });
            if reply.status == 200 && health["Healthy"] == true && voters == servers.len() {
                Ok(())
            } else {
                Err(format!(
                    "{} with {voters} healthy voters: {}",
                    reply.status,
                    reply.text()
                ))
            }
        })
        .await;
    }
}

impl Index<usize> for Cluster {
    type Output = Agent;
    fn index(&self, n: usize) -> &Agent {
        &self.servers[n]
    }
}

impl IndexMut<usize> for Cluster {
    fn index_mut(&mut self, n: usize) -> &mut Agent {
        &mut self.servers[n]
    }
}

impl ClusterBuilder {
    pub fn acl_default_deny(self, token: &str) -> Self {
        ClusterBuilder(self.0.acl_default_deny(token))
    }

    pub fn datacenter(self, name: &str) -> Self {
        ClusterBuilder(self.0.datacenter(name))
    }

    /// For every server.
    pub fn config(self, config: Value) -> Self {
        ClusterBuilder(self.0.config(config))
    }

    async fn start(self) -> Cluster {
        'tries: for _ in 0..TRIES {
            let mut servers = Vec::new();
            for _ in 0..3 {
                // Each joins those before it; that connects all three.
                let own = self.0.clone().unique();
                servers.push(Agent::launch(
                    servers.iter().fold(own, AgentBuilder::also_join),
                ));
            }
            // From now on any of them finds any other, whichever restarts alone.
            let join: Vec<_> = servers.iter().map(|s| s.lan_addr().to_string()).collect();
            for server in &mut servers {
                server.reconfigure(json!({ "retry_join": join }));
            }
            for server in &mut servers {
                match server.ready(START).await {
                    Ok(()) => {}
                    Err(StartError::AddrInUse) => continue 'tries,
                    Err(StartError::Other(e)) => panic!("{e}"),
                }
            }
            let cluster = Cluster { servers };
            cluster.wait_healthy().await;
            return cluster;
        }
        panic!("no free ports for a cluster in {TRIES} tries");
    }
}

impl IntoFuture for ClusterBuilder {
    type Output = Cluster;
    type IntoFuture = Pin<Box<dyn Future<Output = Cluster> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.start())
    }
}
