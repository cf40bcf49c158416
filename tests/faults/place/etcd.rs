//! Clusters of one and of three etcd servers.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    process::Command,
};

use serde_json::json;
use tower_roster::{Registry, registry};

use super::{BRIEF, Path, Place, Registrar, SERVICE};
use crate::{
    fault::Fault,
    support::{Etcd, EtcdCluster, Mode, etcd::encode, http1},
};

/// So many servers.
pub(crate) struct Etcds<const N: usize> {
    cluster: EtcdCluster,
    path: Path,
    registrar: Registrar,
    /// Of the client, in the cell that takes its rights away.
    user: &'static str,
    down: Vec<usize>,
    others: Vec<TcpStream>,
}

pub(crate) type Etcd1 = Etcds<1>;
pub(crate) type Etcd3 = Etcds<3>;

/// Sets how many descriptors a server may have.
fn limit_descriptors(server: &Etcd, most: usize) {
    let done = Command::new("prlimit")
        .args([
            format!("--pid={}", server.pid()),
            format!("--nofile={most}:"),
        ])
        .status();
    assert!(
        done.is_ok_and(|status| status.success()),
        "this cell needs prlimit (util-linux)"
    );
}

fn descriptors(server: &Etcd) -> usize {
    let all = fs::read_dir(format!("/proc/{}/fd", server.pid()));
    all.map_or(0, Iterator::count)
}

impl<const N: usize> Etcds<N> {
    fn take_down(&mut self, n: usize) {
        self.cluster.0[n].kill9();
        self.down.push(n);
    }

    /// Leaves the servers without a descriptor for another connection.
    async fn fill(&mut self) {
        for server in &self.cluster.0 {
            limit_descriptors(server, descriptors(server));
        }
        self.path.set(Mode::Refuse).await;
        for server in &self.cluster.0 {
            // The first few take what our connections have freed; the others wait.
            let more = (0..64).flat_map(|_| TcpStream::connect(server.addr()));
            self.others.extend(more);
        }
        self.path.set(Mode::Pass).await;
    }
}

impl<const N: usize> Place for Etcds<N> {
    fn lacks(fault: Fault) -> Option<&'static str> {
        match fault {
            Fault::LeaderKilled | Fault::QuorumLost if N == 1 => Some("one server"),
            _ => None,
        }
    }

    async fn start(fault: Fault) -> Self {
        let mut cluster = EtcdCluster::start(N).await;
        if fault == Fault::Wiped {
            // A store that has been in use is beyond the revision of one that starts.
            for _ in 0..60 {
                cluster.0[0].put("/past", "x").await;
            }
        }
        let mut url = cluster.url();
        let mut user = "";
        if fault == Fault::Revoked {
            cluster.0[0].enable_auth("root").await;
            user = "reader:reader@";
            url = url.replace("etcd://", "etcd://root:root@");
        }
        let addrs: Vec<_> = cluster.0.iter().map(Etcd::addr).collect();
        let servers = addrs.clone();
        let remove = move |id: String| {
            let body = json!({ "key": encode(format!("/services/{SERVICE}/{id}")) }).to_string();
            let servers = servers.clone();
            async move {
                for at in servers {
                    let path = "/v3/kv/deleterange";
                    let reply = http1::send(at, "POST", path, &[], body.as_bytes(), BRIEF).await;
                    if reply.is_ok_and(|reply| reply.status == 200) {
                        return true;
                    }
                }
                false
            }
        };
        let registry = registry::connect(&url).expect("a URL");
        Self {
            path: Path::to(addrs).await,
            registrar: Registrar::new(registry, remove),
            cluster,
            user,
            down: Vec::new(),
            others: Vec::new(),
        }
    }

    fn watching(&self) -> Registry {
        let url = format!("etcd://{}{}", self.user, self.path.addrs());
        registry::connect(&url).expect("a URL")
    }

    fn path(&mut self) -> &mut Path {
        &mut self.path
    }

    async fn inflict(&mut self, fault: Fault) {
        match fault {
            Fault::Restarted => (0..N).for_each(|n| self.take_down(n)),
            Fault::Wiped => {
                (0..N).for_each(|n| self.take_down(n));
                self.cluster.0.iter_mut().for_each(Etcd::wipe);
            }
            Fault::Paused => {
                let used = self.path.busiest();
                self.cluster.0[used].pause();
            }
            Fault::LeaderKilled => {
                let leader = self.cluster.leader().await;
                self.take_down(leader);
            }
            Fault::QuorumLost => {
                let leader = self.cluster.leader().await;
                self.take_down(leader);
                self.take_down((leader + 1) % N);
            }
            Fault::Full => self.fill().await,
            Fault::Revoked => {
                self.cluster.0[0].permit_reader(false).await;
                // An open watch goes on without the right.
                self.path.disconnect().await;
            }
            _ => unreachable!("on the path"),
        }
    }

    async fn heal(&mut self, fault: Fault) {
        match fault {
            Fault::Restarted | Fault::Wiped | Fault::QuorumLost => {
                for n in std::mem::take(&mut self.down) {
                    self.cluster.0[n].restart_nowait();
                }
            }
            Fault::Paused => self.cluster.0.iter_mut().for_each(Etcd::resume),
            // The others elect another one.
            Fault::LeaderKilled => {}
            Fault::Full => {
                self.others.clear();
                for server in &self.cluster.0 {
                    limit_descriptors(server, 1_024);
                }
            }
            Fault::Revoked => self.cluster.0[0].permit_reader(true).await,
            _ => unreachable!("on the path"),
        }
    }

    async fn serves(&self) -> bool {
        if !self.user.is_empty() {
            // Users are asked for, and the servers never went.
            return true;
        }
        let body = json!({ "key": encode("/past") }).to_string();
        for server in &self.cluster.0 {
            let at = server.addr();
            let reply = http1::send(at, "POST", "/v3/kv/range", &[], body.as_bytes(), BRIEF).await;
            if reply.is_ok_and(|reply| reply.status == 200) {
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
