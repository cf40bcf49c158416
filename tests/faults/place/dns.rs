//! BIND, with SRV records that the harness writes.

use std::{collections::BTreeMap, net::SocketAddr};

use tokio::net::UdpSocket;
use tower_roster::{Registry, registry};

use super::{BRIEF, Path, Place, SERVICE};
use crate::{fault::Fault, garbage::Protocol, support::bind::Bind};

pub(crate) struct Dns {
    bind: Bind,
    path: Path,
    /// The port of each name.
    records: BTreeMap<String, u16>,
    /// Whether the server takes changes.
    up: bool,
    /// What it has not taken yet.
    waiting: Vec<String>,
}

impl Dns {
    fn zone(&self) -> String {
        let lines = self.records.iter().map(|(name, port)| {
            format!("_http._tcp.{SERVICE} 1 SRV 10 5 {port} {name}\n{name} 1 A 127.0.0.1\n")
        });
        lines.collect()
    }

    async fn change(&mut self, lines: [String; 2]) {
        self.waiting.extend(lines);
        if self.up {
            self.write().await;
        }
    }

    async fn write(&mut self) {
        let lines = std::mem::take(&mut self.waiting);
        if !lines.is_empty() {
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            self.bind.update(&lines).await;
        }
    }
}

impl Place for Dns {
    const PROTOCOL: Protocol = Protocol::Dns;

    fn lacks(fault: Fault) -> Option<&'static str> {
        match fault {
            Fault::LeaderKilled | Fault::QuorumLost => Some("one server"),
            Fault::Revoked => Some("it has no users"),
            Fault::Full => Some("datagrams need no connection"),
            _ => None,
        }
    }

    async fn start(_fault: Fault) -> Self {
        let bind = Bind::start("").await;
        Self {
            path: Path::with_datagrams(bind.addr()).await,
            bind,
            records: BTreeMap::new(),
            up: true,
            waiting: Vec::new(),
        }
    }

    fn watching(&self) -> Registry {
        let url = format!(
            "dns+srv://{}/_http._tcp.{{service}}.svc.test?poll=1s",
            self.path.addrs()
        );
        registry::connect(&url).expect("a URL")
    }

    fn path(&mut self) -> &mut Path {
        &mut self.path
    }

    async fn inflict(&mut self, fault: Fault) {
        self.up = false;
        match fault {
            Fault::Restarted => self.bind.kill(),
            // It runs, and does not know its zone.
            Fault::Wiped => {
                self.bind.lose_zone();
                self.bind.run().await;
            }
            Fault::Paused => self.bind.pause(),
            _ => unreachable!("on the path, or not here"),
        }
    }

    async fn heal(&mut self, fault: Fault) {
        match fault {
            Fault::Restarted | Fault::Wiped => {
                self.waiting.clear();
                self.bind.write_zone(&self.zone());
                self.bind.run().await;
            }
            Fault::Paused => {
                self.bind.resume();
                self.write().await;
            }
            _ => unreachable!("on the path, or not here"),
        }
        self.up = true;
    }

    async fn serves(&self) -> bool {
        // The SOA record of the zone.
        let mut query = vec![0x77, 0x01, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend_from_slice(b"\x03svc\x04test\x00\x00\x06\x00\x01");
        let ask = async {
            let socket = UdpSocket::bind("127.0.0.1:0").await?;
            socket.send_to(&query, self.bind.addr()).await?;
            let mut answer = [0; 512];
            let n = socket.recv(&mut answer).await?;
            Ok::<_, std::io::Error>(n > 12 && answer[3] & 15 == 0)
        };
        matches!(tokio::time::timeout(BRIEF, ask).await, Ok(Ok(true)))
    }

    async fn announce(&mut self, name: &str, addr: SocketAddr) {
        self.records.insert(name.to_owned(), addr.port());
        let port = addr.port();
        self.change([
            format!("add _http._tcp.{SERVICE}.svc.test. 1 SRV 10 5 {port} {name}.svc.test."),
            format!("add {name}.svc.test. 1 A 127.0.0.1"),
        ])
        .await;
    }

    async fn withdraw(&mut self, name: &str) {
        let port = self.records.remove(name).expect("it was announced");
        self.change([
            format!("delete _http._tcp.{SERVICE}.svc.test. SRV 10 5 {port} {name}.svc.test."),
            format!("delete {name}.svc.test. A"),
        ])
        .await;
    }

    fn id(name: &str, addr: SocketAddr) -> String {
        format!("{name}.svc.test:{}", addr.port())
    }
}
