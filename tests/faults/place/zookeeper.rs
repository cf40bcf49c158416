//! ZooKeeper: one server, and ensembles of three.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use tower_roster::{Registry, registry};
use zookeeper_client::{Acl, AuthId, Client, Error, Permission};

use super::{BRIEF, Path, Place, Registrar, SERVICE, crowd};
use crate::{
    fault::Fault,
    garbage::Protocol,
    support::{Zookeeper, ZookeeperEnsemble},
};

/// How many connections a server grants in the cell that takes all of them.
const CONNECTIONS: usize = 20;

/// So many servers.
pub(crate) struct Zookeepers<const N: usize> {
    ensemble: ZookeeperEnsemble,
    path: Path,
    registrar: Registrar,
    down: Vec<usize>,
    /// Takes the rights of the client away, in the cell that does.
    owner: Option<Client>,
    /// That take the connections.
    others: Vec<JoinSet<()>>,
}

pub(crate) type Zookeeper1 = Zookeepers<1>;
pub(crate) type Zookeeper3 = Zookeepers<3>;

async fn connect(servers: &str) -> Result<Client, Error> {
    let connector = Client::connector().with_fail_eagerly();
    let connector = connector.with_session_timeout(Duration::from_secs(4));
    connector.connect(servers).await
}

impl<const N: usize> Zookeepers<N> {
    fn take_down(&mut self, n: usize) {
        self.ensemble.0[n].kill9();
        self.down.push(n);
    }

    async fn permit(&self, whom: AuthId) {
        let owner = self.owner.as_ref().expect("it has rights to take");
        let path = format!("/services/{SERVICE}");
        let acl = [Acl::new(Permission::ALL, whom)];
        let done = owner.set_acl(&path, &acl, None).await;
        done.expect("the owner may");
    }
}

impl<const N: usize> Place for Zookeepers<N> {
    const PROTOCOL: Protocol = Protocol::Zookeeper;

    fn lacks(fault: Fault) -> Option<&'static str> {
        match fault {
            Fault::LeaderKilled | Fault::QuorumLost if N == 1 => Some("one server"),
            _ => None,
        }
    }

    async fn start(fault: Fault) -> Self {
        let config = match fault {
            Fault::Full => format!("maxClientCnxns={CONNECTIONS}"),
            _ => String::new(),
        };
        let ensemble = ZookeeperEnsemble::start_with(N, &config).await;
        let servers = ensemble.servers();
        let mut user = "";
        let mut owner = None;
        if fault == Fault::Revoked {
            user = "owner:owner@";
            let client = connect(&servers).await.expect("it serves");
            client
                .auth("digest", b"owner:owner")
                .await
                .expect("any user is taken");
            owner = Some(client);
        }
        let registry = registry::connect(&format!("zk://{user}{servers}")).expect("a URL");
        let remove = move |id: String| {
            let servers = servers.clone();
            async move {
                let Ok(client) = connect(&servers).await else {
                    return false;
                };
                let path = format!("/services/{SERVICE}/{id}");
                matches!(
                    client.delete(&path, None).await,
                    Ok(()) | Err(Error::NoNode)
                )
            }
        };
        Self {
            path: Path::to(ensemble.0.iter().map(Zookeeper::addr)).await,
            registrar: Registrar::new(registry, remove),
            ensemble,
            down: Vec::new(),
            owner,
            others: Vec::new(),
        }
    }

    fn watching(&self) -> Registry {
        let user = match self.owner {
            Some(_) => "reader:reader@",
            None => "",
        };
        registry::connect(&format!("zk://{user}{}", self.path.addrs())).expect("a URL")
    }

    fn path(&mut self) -> &mut Path {
        &mut self.path
    }

    async fn inflict(&mut self, fault: Fault) {
        match fault {
            Fault::Restarted => (0..N).for_each(|n| self.take_down(n)),
            Fault::Wiped => {
                (0..N).for_each(|n| self.take_down(n));
                self.ensemble.0.iter_mut().for_each(Zookeeper::wipe);
            }
            Fault::Paused => {
                let used = self.path.busiest();
                self.ensemble.0[used].pause();
            }
            Fault::LeaderKilled => {
                let leader = self.ensemble.leader();
                self.take_down(leader);
            }
            Fault::QuorumLost => {
                let leader = self.ensemble.leader();
                self.take_down(leader);
                self.take_down((leader + 1) % N);
            }
            Fault::Full => {
                self.path.set(crate::support::Mode::Refuse).await;
                let servers = self.ensemble.0.iter().map(Zookeeper::addr);
                self.others = servers.map(|at| crowd(at, 2 * CONNECTIONS)).collect();
                tokio::time::sleep(Duration::from_millis(500)).await;
                self.path.set(crate::support::Mode::Pass).await;
            }
            Fault::Revoked => {
                self.permit(AuthId::authed()).await;
                // The next read is refused.
                self.path.disconnect().await;
            }
            _ => unreachable!("on the path"),
        }
    }

    async fn heal(&mut self, fault: Fault) {
        match fault {
            Fault::Restarted | Fault::Wiped | Fault::QuorumLost => {
                for n in std::mem::take(&mut self.down) {
                    self.ensemble.0[n].restart_nowait();
                }
            }
            Fault::Paused => self.ensemble.0.iter_mut().for_each(Zookeeper::resume),
            // The others elect another one.
            Fault::LeaderKilled => {}
            Fault::Full => self.others.clear(),
            Fault::Revoked => self.permit(AuthId::anyone()).await,
            _ => unreachable!("on the path"),
        }
    }

    async fn serves(&self) -> bool {
        // A server says its mode while it is one of a quorum.
        for server in &self.ensemble.0 {
            let ask = async {
                let mut stream = TcpStream::connect(server.addr()).await?;
                stream.write_all(b"srvr").await?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await?;
                Ok::<_, std::io::Error>(answer.contains("Mode: "))
            };
            if matches!(tokio::time::timeout(BRIEF, ask).await, Ok(Ok(true))) {
                return true;
            }
        }
        false
    }

    async fn announce(&mut self, id: &str, addr: SocketAddr) {
        self.registrar.announce(id, addr);
    }

    async fn withdraw(&mut self, id: &str) {
        self.registrar.withdraw(id);
    }
}
