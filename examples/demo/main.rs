//! The whole way, on one machine and with no server needed: five HTTP servers register in a registry
//! and send heartbeats, a client calls `http://user-service/` at a steady rate, and then things go
//! wrong: one server crashes without a word, one leaves politely, a new one joins, one turns slow. The
//! client goes on without a failed request: it sends again, hedges, and ejects what fails or is slow.
//!
//! `cargo run --release --example demo`
//!
//! The servers are processes of their own, so that the crash is a real one (`SIGKILL`). By default
//! they and the client use the embedded registry through its REST front; `--registry URL` runs the
//! same on a real Consul, etcd or ZooKeeper.

#![allow(unreachable_pub, reason = "a program has no public items")]

#[path = "../common/mod.rs"]
mod common;

mod backend;
mod scenario;
mod table;

use std::{net::SocketAddr, process::ExitCode};

use clap::Parser;

/// Watch a client call a service while its servers crash, leave, join and turn slow. Takes about 20 s;
/// succeeds when no request failed but those sent to the crashed server before its crash was seen.
#[derive(Parser)]
#[command(name = "demo")]
struct Args {
    /// Use this registry instead of an embedded one: consul://127.0.0.1:8500, or with the feature etcd
    /// etcd://127.0.0.1:2379?ttl=3s, or with the feature zookeeper zk://127.0.0.1:2181?session_timeout=3s.
    #[arg(long, value_name = "URL")]
    registry: Option<String>,
    /// Requests a second.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(10..=20_000))]
    rate: u32,
    /// Show what the client knows and does on a page at this address, one of this machine's own by default.
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "127.0.0.1:0")]
    status: Option<SocketAddr>,
    /// Print only the summary, as one JSON object.
    #[arg(long)]
    json: bool,
    /// Be one of the servers: REGISTRY SERVICE ID.
    #[arg(long, hide = true, num_args = 3)]
    backend: Option<Vec<String>>,
}

fn main() -> ExitCode {
    common::log();
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let outcome = runtime.map_err(common::Failure::work).and_then(|runtime| {
        let outcome = runtime.block_on(async {
            match &args.backend {
                Some(names) => backend::run(&names[0], &names[1], &names[2]).await,
                None => scenario::run(args.registry, args.rate, args.status, args.json).await,
            }
        });
        // A server's thread may still read standard input, and must not keep the process alive.
        runtime.shutdown_background();
        outcome
    });
    common::finish(outcome)
}
