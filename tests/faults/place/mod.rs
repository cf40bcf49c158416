//! Registries of real servers, and what can be done to them.

mod consul;
mod dns;
mod etcd;
mod rest;
mod zookeeper;

pub(crate) use self::{
    consul::{Consul, Consul3},
    dns::Dns,
    etcd::{Etcd1, Etcd3},
    rest::{Rest, SERVE, serve},
    zookeeper::{Zookeeper1, Zookeeper3},
};

use std::{collections::HashMap, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use tokio::{io::AsyncReadExt, net::TcpStream, task::JoinSet};
use tower_roster::{Instance, Registry, registry::Registration};

use crate::{
    fault::Fault,
    garbage::Protocol,
    support::{FaultProxy, Garbage, Mode, udp::UdpRelay},
};

/// The service that everything is about.
pub(crate) const SERVICE: &str = "web";

/// How long the harness waits for one answer of a registry.
pub(crate) const BRIEF: Duration = Duration::from_millis(400);

/// A registry of real servers. The client reads it through [`path`](Self::path); whatever registers
/// instances speaks with the servers themselves.
pub(crate) trait Place: Sized {
    const PROTOCOL: Protocol = Protocol::Http;

    /// Why a fault makes no sense here.
    fn lacks(fault: Fault) -> Option<&'static str>;

    /// Starts the servers, in the way that a fault needs them.
    async fn start(fault: Fault) -> Self;

    /// What the client watches with.
    fn watching(&self) -> Registry;

    /// Between the client and the servers.
    fn path(&mut self) -> &mut Path;

    /// Does to the servers what is not done on the path.
    async fn inflict(&mut self, fault: Fault);

    /// Does what an operator does to end it, and waits for nothing more.
    async fn heal(&mut self, fault: Fault);

    /// Whether the registry answers a read that its leader confirms. Asked apart from the code under
    /// test.
    async fn serves(&self) -> bool;

    /// Lists an instance, as soon as the registry takes it.
    async fn announce(&mut self, id: &str, addr: SocketAddr);

    /// Removes an instance, as soon as the registry takes that.
    async fn withdraw(&mut self, id: &str);

    /// The id that a watch gives to an instance.
    fn id(name: &str, _addr: SocketAddr) -> String {
        name.to_owned()
    }
}

/// The network between a client and the servers of its registry: a proxy for each.
pub(crate) struct Path {
    proxies: Vec<FaultProxy>,
    relay: Option<UdpRelay>,
}

impl Path {
    pub(crate) async fn to(servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        let mut proxies = Vec::new();
        for server in servers {
            proxies.push(FaultProxy::tcp(server).await);
        }
        Self {
            proxies,
            relay: None,
        }
    }

    /// For datagrams, too.
    pub(crate) async fn with_datagrams(server: SocketAddr) -> Self {
        let mut path = Self::to([server]).await;
        path.relay = Some(UdpRelay::start(path.proxies[0].addr(), server).await);
        path
    }

    pub(crate) fn addrs(&self) -> String {
        let addrs: Vec<_> = self.proxies.iter().map(|p| p.addr().to_string()).collect();
        addrs.join(",")
    }

    /// Which server has most of the client's connections.
    pub(crate) fn busiest(&self) -> usize {
        let numbers = 0..self.proxies.len();
        numbers
            .max_by_key(|n| self.proxies[*n].open())
            .expect("there is a server")
    }

    pub(crate) async fn set(&mut self, mode: Mode) {
        if let Some(relay) = &self.relay {
            relay.set(mode);
        }
        for proxy in &mut self.proxies {
            proxy.set(mode).await;
        }
    }

    /// Answers with garbage from now on, also what has been asked already.
    pub(crate) async fn garble(&mut self, garbage: &Garbage) {
        if let Some(relay) = &self.relay {
            relay.garble(garbage.clone());
        }
        for proxy in &mut self.proxies {
            proxy.garble(garbage.clone()).await;
        }
    }

    /// Ends the connections that are open.
    pub(crate) async fn disconnect(&mut self) {
        for proxy in &mut self.proxies {
            proxy.disconnect().await;
        }
    }
}

/// Others that take the connections of a server: each connects again as soon as it was closed.
pub(crate) fn crowd(server: SocketAddr, size: usize) -> JoinSet<()> {
    let mut crowd = JoinSet::new();
    for _ in 0..size {
        crowd.spawn(async move {
            loop {
                if let Ok(mut stream) = TcpStream::connect(server).await {
                    let _ = stream.read(&mut [0]).await;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
    }
    crowd
}

type Removed = Pin<Box<dyn Future<Output = bool> + Send>>;

/// Registers instances with the code under test, with the defaults that an application has.
pub(crate) struct Registrar {
    registry: Registry,
    held: HashMap<String, Registration>,
    remove: Arc<dyn Fn(String) -> Removed + Send + Sync>,
}

impl Registrar {
    /// `remove` asks the registry itself to remove an instance, and returns whether it did.
    pub(crate) fn new<F>(
        registry: Registry,
        remove: impl Fn(String) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = bool> + Send + 'static,
    {
        Self {
            registry,
            held: HashMap::new(),
            remove: Arc::new(move |id| Box::pin(remove(id))),
        }
    }

    pub(crate) fn announce(&mut self, id: &str, addr: SocketAddr) {
        let address = addr.to_string().parse().expect("an address");
        let registration = self.registry.register(Instance::new(SERVICE, id, address));
        self.held
            .insert(id.to_owned(), registration.expect("it can be registered"));
    }

    /// The process is dead, and somebody else removes what it left: with the registration if the registry
    /// can be reached, else by hand when it can be again, as an operator would.
    pub(crate) fn withdraw(&mut self, id: &str) {
        let registration = self.held.remove(id).expect("it was announced");
        let (remove, id) = (Arc::clone(&self.remove), id.to_owned());
        tokio::spawn(async move {
            if registration.deregister().await.is_ok() {
                return;
            }
            while !remove(id.clone()).await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
}
