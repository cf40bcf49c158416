//! Leases of loopback ports that stay ours while nothing listens on them.
//!
//! A server that is killed and started again needs its port back, so a port from `bind(0)` will
//! not do: the system hands it to the next outgoing connection. Ports come from below the
//! ephemeral range instead, in blocks; a process owns a block by listening on the block's first
//! port until it exits, so test binaries running side by side never share one. Within the process
//! a port is handed out again only after its lease is dropped, the longest unused first.

use std::{
    collections::VecDeque,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    ops::RangeInclusive,
    sync::Mutex,
};

use super::process::between_spawns;

/// Arbitrary; large enough that one block mostly suffices, small enough for many processes.
const BLOCK: u16 = 256;
const FIRST: u16 = 10_000;

static POOL: Mutex<Pool> = Mutex::new(Pool {
    claims: Vec::new(),
    free: VecDeque::new(),
});

struct Pool {
    claims: Vec<TcpListener>,
    free: VecDeque<u16>,
}

/// A leased port; returned on drop.
#[derive(Debug)]
pub struct Port(u16);

impl Port {
    pub fn lease() -> Port {
        let mut pool = POOL.lock().unwrap();
        loop {
            for _ in 0..pool.free.len() {
                let port = pool.free.pop_front().expect("counted above");
                if is_free(port) {
                    return Port(port);
                }
                pool.free.push_back(port);
            }
            pool.claim_block();
        }
    }

    pub fn get(&self) -> u16 {
        self.0
    }

    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.0).into()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // A poisoned lock means a test failed while it leased: losing one port is harmless.
        if let Ok(mut pool) = POOL.lock() {
            pool.free.push_back(self.0);
        }
    }
}

impl Pool {
    fn claim_block(&mut self) {
        let range = range();
        let blocks = (range.end() - range.start()) / BLOCK;
        let first = (std::process::id() % u32::from(blocks)) as u16;
        for n in 0..blocks {
            let base = range.start() + (first + n) % blocks * BLOCK;
            if let Ok(claim) = TcpListener::bind((Ipv4Addr::LOCALHOST, base)) {
                self.claims.push(claim);
                self.free.extend(base + 1..base + BLOCK);
                return;
            }
        }
        panic!("no free block of loopback ports in {range:?}");
    }
}

/// From [`FIRST`] to where the system's ephemeral ports begin.
fn range() -> RangeInclusive<u16> {
    let ephemeral = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse::<u16>().ok())
        .filter(|low| *low > FIRST + 4 * BLOCK);
    FIRST..=ephemeral.unwrap_or(32_768) - 1
}

/// Consul's gossip takes UDP beside TCP.
fn is_free(port: u16) -> bool {
    let addr = (Ipv4Addr::LOCALHOST, port);
    between_spawns(|| TcpListener::bind(addr).is_ok() && UdpSocket::bind(addr).is_ok())
}
