//! Where the cases run: a registry of each kind, and how it loses its state.

use std::{
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{net::TcpListener, task::AbortHandle};
use tower_roster::{
    Instance, Registry,
    registry::{Announcement, Health, Schemes, memory::Memory, record, rest::RestServer},
};

use super::support::{Agent, Etcd, Zookeeper, etcd::encode};

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// A registry, and a service name that no other test uses.
pub(crate) struct Place {
    url: String,
    server: Server,
    service: String,
}

enum Server {
    Memory(Memory),
    Rest(Memory, Served),
    Consul(Box<Agent>),
    Etcd(Box<Etcd>),
    Zookeeper(Box<Zookeeper>),
}

/// Ends the server of a REST front with its connections.
struct Served(AbortHandle);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn serve(memory: Memory, addr: &str) -> (String, Served) {
    // A port that was just closed may be taken for a moment.
    let listener = super::support::eventually(Duration::from_secs(10), "a listener", || {
        TcpListener::bind(addr.to_owned())
    })
    .await;
    let addr = listener.local_addr().unwrap();
    let serve = RestServer::new(memory).serve(listener, std::future::pending());
    (addr.to_string(), Served(tokio::spawn(serve).abort_handle()))
}

fn place(url: String, server: Server) -> Place {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    Place {
        url,
        server,
        service: format!("web-{}", COUNT.fetch_add(1, SeqCst)),
    }
}

pub(crate) async fn memory() -> Place {
    let name = format!("contract-{}", rand::random::<u64>());
    let memory = Memory::named(&name);
    place(format!("memory:{name}"), Server::Memory(memory))
}

pub(crate) async fn rest() -> Place {
    let memory = Memory::new();
    let (addr, served) = serve(memory.clone(), "127.0.0.1:0").await;
    place(format!("rest://{addr}"), Server::Rest(memory, served))
}

pub(crate) async fn consul() -> Place {
    let agent = Agent::dev().await;
    let url = format!("consul://{}", agent.http_addr());
    place(url, Server::Consul(Box::new(agent)))
}

/// Consul over a client of the user's.
#[cfg(feature = "consulrs")]
pub(crate) async fn consulrs() -> Place {
    let agent = Agent::dev().await;
    let url = format!("consulrs://{}", agent.http_addr());
    place(url, Server::Consul(Box::new(agent)))
}

pub(crate) async fn etcd() -> Place {
    let etcd = Etcd::server().await;
    place(etcd.url(), Server::Etcd(Box::new(etcd)))
}

pub(crate) async fn zookeeper() -> Place {
    let server = Zookeeper::server().await;
    place(server.url(), Server::Zookeeper(Box::new(server)))
}

pub(crate) fn connect(url: &str) -> Registry {
    let schemes = Schemes::new();
    #[cfg(feature = "consulrs")]
    let schemes = schemes.with("consulrs", |url: &str| {
        use consulrs::client::{ConsulClient, ConsulClientSettingsBuilder};
        use tower_roster::registry::consul::{Consul, ConsulOptions};

        let mut settings = ConsulClientSettingsBuilder::default();
        settings.address(url.replace("consulrs", "http"));
        let client = ConsulClient::new(settings.build().unwrap()).unwrap();
        Consul::with_client(client.into(), ConsulOptions::default())
    });
    schemes.connect(url).unwrap()
}

impl Place {
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// A handle of its own, as another process has it.
    pub(crate) fn registry(&self) -> Registry {
        connect(&self.url)
    }

    pub(crate) fn service(&self) -> &str {
        &self.service
    }

    /// Stores this many instances with the ids `id-00000`, `id-00001` and so on, as a fleet of other
    /// processes would have done. Nobody confirms them, and none expires within a test.
    pub(crate) async fn fill(&self, count: usize) {
        let instances: Vec<Instance> = (0..count)
            .map(|n| {
                let address = format!("10.0.{}.{}:8080", n / 250, n % 250 + 1);
                Instance::new(
                    self.service(),
                    format!("id-{n:05}"),
                    address.parse().unwrap(),
                )
            })
            .collect();
        match &self.server {
            Server::Memory(memory) | Server::Rest(memory, _) => {
                for instance in instances {
                    let stays = Announcement::new(instance).health(Health::Ttl(DAY));
                    memory.register(stays).unwrap();
                }
            }
            // The agent takes no more than 64 operations at once, and a node must exist before.
            Server::Consul(agent) => {
                let node = "fleet";
                let body = json!({"Node": node, "Address": "10.0.0.1"});
                agent.catalog_register(body).await;
                for some in instances.chunks(64) {
                    let operations = some.iter().map(|instance| {
                        let (host, port) =
                            (instance.address.host().to_string(), instance.address.port());
                        let service = json!({
                            "ID": instance.id(), "Service": &*instance.service,
                            "Address": host, "Port": port,
                        });
                        json!({"Service": {"Verb": "set", "Node": node, "Service": service}})
                    });
                    let body = Value::Array(operations.collect());
                    agent.put("/v1/txn", Some(body)).await.ok();
                }
            }
            Server::Etcd(etcd) => {
                for some in instances.chunks(100) {
                    let puts = some.iter().map(|instance| {
                        let key = format!("/services/{}/{}", instance.service, instance.id());
                        let value = encode(record::encode(instance, 1));
                        json!({"request_put": {"key": encode(key), "value": value}})
                    });
                    let body = json!({"success": puts.collect::<Vec<_>>()});
                    etcd.post("/v3/kv/txn", body).await.ok();
                }
            }
            Server::Zookeeper(server) => {
                let nodes = instances.iter().map(|instance| {
                    let record = record::encode(instance, 1);
                    (instance.id().to_owned(), record)
                });
                let parent = format!("/services/{}", self.service());
                server.client().await.put_all(&parent, nodes).await;
            }
        }
    }

    /// Ends all connections, and goes on with what is stored.
    pub(crate) async fn restart(&mut self) {
        match &mut self.server {
            Server::Memory(memory) => memory.drop_watchers(),
            Server::Rest(memory, served) => {
                let addr = self.url.strip_prefix("rest://").unwrap().to_owned();
                served.0.abort();
                *served = serve(memory.clone(), &addr).await.1;
            }
            // An agent in memory keeps nothing; so its state is lost, too.
            Server::Consul(agent) => agent.restart().await,
            Server::Etcd(etcd) => etcd.restart().await,
            Server::Zookeeper(server) => server.restart().await,
        }
    }

    /// Loses everything that is stored.
    pub(crate) async fn lose_state(&mut self) {
        match &mut self.server {
            Server::Memory(memory) | Server::Rest(memory, _) => memory.wipe(),
            Server::Consul(agent) => agent.restart_wiped().await,
            Server::Etcd(etcd) => etcd.restart_wiped().await,
            Server::Zookeeper(server) => server.restart_wiped().await,
        }
    }
}
