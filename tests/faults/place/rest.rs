//! The embedded registry as a process of its own.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinSet};
use tower_roster::{
    Registry,
    registry::{self, memory::Memory, rest::RestServerSettings},
};

use super::{BRIEF, Path, Place, Registrar, crowd};
use crate::{
    fault::Fault,
    support::{eventually, http1, ports::Port, process::Process},
};

/// The argument with which this program is such a registry: an address, a file for the state, and how many
/// connections it grants.
pub(crate) const SERVE: &str = "--serve-rest";

/// How many connections it grants in the cell that takes all of them.
const CONNECTIONS: &str = "16";

pub(crate) struct Rest {
    port: Port,
    dir: TempDir,
    process: Option<Process>,
    connections: &'static str,
    path: Path,
    registrar: Registrar,
    /// That take the connections.
    others: JoinSet<()>,
}

/// Is the registry, until it is killed.
pub(crate) async fn serve(addr: &str, state: &str, connections: &str) {
    let memory = Memory::builder().persist(state).build().expect("a state");
    let connections = connections.parse().expect("a number");
    let settings = RestServerSettings::new()
        .connections(connections)
        .connections_per_address(connections);
    let server = settings.build(memory).expect("settings");
    let listener = TcpListener::bind(addr).await.expect("the port is free");
    server.serve(listener, std::future::pending()).await;
}

impl Rest {
    fn state(&self) -> PathBuf {
        self.dir.path().join("state.json")
    }

    fn spawn(&mut self) {
        let program = std::env::current_exe().expect("this program");
        let (addr, state) = (self.port.addr().to_string(), self.state());
        let state = state.to_str().expect("a path of text");
        let args = [SERVE, &addr, state, self.connections];
        let log = self.dir.path().join("log");
        let process = Process::spawn(&program, &args, self.dir.path(), &log);
        self.process = Some(process.expect("this program starts"));
    }
}

impl Place for Rest {
    fn lacks(fault: Fault) -> Option<&'static str> {
        match fault {
            Fault::LeaderKilled | Fault::QuorumLost => Some("one server"),
            Fault::Revoked => Some("it has no users"),
            _ => None,
        }
    }

    async fn start(fault: Fault) -> Self {
        let port = Port::lease();
        let at = port.addr();
        let remove = move |id: String| async move {
            let path = format!("/registry/{id}");
            let reply = http1::send(at, "DELETE", &path, &[], b"", BRIEF).await;
            reply.is_ok_and(|reply| reply.status < 300 || reply.status == 404)
        };
        let registry = registry::connect(&format!("rest://{at}")).expect("a URL");
        let mut rest = Self {
            dir: TempDir::with_prefix_in("rest-", env!("CARGO_TARGET_TMPDIR")).expect("a folder"),
            process: None,
            connections: match fault {
                Fault::Full => CONNECTIONS,
                _ => "1000",
            },
            path: Path::to([at]).await,
            registrar: Registrar::new(registry, remove),
            others: JoinSet::new(),
            port,
        };
        rest.spawn();
        eventually(Duration::from_secs(20), "the registry serves", || {
            rest.serves()
        })
        .await;
        rest
    }

    fn watching(&self) -> Registry {
        registry::connect(&format!("rest://{}", self.path.addrs())).expect("a URL")
    }

    fn path(&mut self) -> &mut Path {
        &mut self.path
    }

    async fn inflict(&mut self, fault: Fault) {
        match fault {
            Fault::Restarted => self.process = None,
            Fault::Wiped => {
                self.process = None;
                std::fs::remove_file(self.state()).expect("the state was saved");
            }
            Fault::Paused => self.process.as_ref().expect("it runs").stop(),
            Fault::Full => self.others = crowd(self.port.addr(), 40),
            _ => unreachable!("on the path, or not here"),
        }
    }

    async fn heal(&mut self, fault: Fault) {
        match fault {
            Fault::Restarted | Fault::Wiped => self.spawn(),
            Fault::Paused => {
                let process = self.process.as_ref().expect("it runs");
                process.signal(nix::sys::signal::Signal::SIGCONT);
            }
            Fault::Full => self.others.abort_all(),
            _ => unreachable!("on the path, or not here"),
        }
    }

    async fn serves(&self) -> bool {
        let at = self.port.addr();
        let reply = http1::send(at, "GET", "/registry/health", &[], b"", BRIEF).await;
        reply.is_ok_and(|reply| reply.status == 200)
    }

    async fn announce(&mut self, id: &str, addr: SocketAddr) {
        self.registrar.announce(id, addr);
    }

    async fn withdraw(&mut self, id: &str) {
        self.registrar.withdraw(id);
    }
}
