//! The embedded registry as a program of its own: `rest://ADDR` then works from any process.
//!
//! `cargo run --example registry -- --listen 127.0.0.1:8600 --state registry.json`

mod common;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use common::server::bind;
use serde_json::json;
use tower_roster::{
    instance::Host,
    registry::{
        memory::{Memory, MemoryLimits, Network},
        rest::RestServerSettings,
    },
};

/// Run the embedded registry and serve it over HTTP, for tests, demos, one machine and the edge. On
/// SIGINT or SIGTERM: answer the open requests, save the state, end.
#[derive(Parser)]
#[command(
    name = "registry",
    after_help = "There is no authentication and no TLS: make it reachable for trusted clients only."
)]
struct Args {
    /// Where to listen; port 0 takes a free one, which is printed.
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// Restore the state from this file, if it exists, and save each change to it.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Print one JSON object for each event.
    #[arg(long)]
    json: bool,
    /// Serve requests to this host, too, such as the name of this machine (repeat for several), beside those
    /// to the address that a client connects to, and to localhost on loopback.
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<Host>,
    /// Check instances in this network, such as 10.0.0.0/8, whoever registers them (repeat for several)
    /// [default: only the address from which a registration comes].
    #[arg(long = "check-network", value_name = "NETWORK")]
    check_networks: Vec<Network>,
    #[command(flatten)]
    limits: Limits,
}

/// The defaults are those of the library.
#[derive(clap::Args)]
#[command(next_help_heading = "Limits")]
struct Limits {
    /// Hold at most N connections [default: 8192, and 128 fewer than the descriptors].
    #[arg(long, value_name = "N")]
    connections: Option<usize>,
    /// Of these, at most N from one address [default: 6144, and at most three quarters].
    #[arg(long, value_name = "N")]
    connections_per_address: Option<usize>,
    /// Close the connection of a client that takes longer to read a response [default: 30s].
    #[arg(long, value_name = "TIME", value_parser = common::duration)]
    write_within: Option<Duration>,
    /// Send listings of at most N bytes at once [default: 67108864].
    #[arg(long, value_name = "N")]
    bodies: Option<usize>,
    /// Hold at most N instances [default: 131072].
    #[arg(long, value_name = "N")]
    instances: Option<usize>,
    /// Hold registrations of at most N bytes together [default: 268435456].
    #[arg(long, value_name = "N")]
    bytes: Option<usize>,
    /// Take at most N tags of an instance or in a query [default: 64].
    #[arg(long, value_name = "N")]
    tags: Option<usize>,
    /// Refuse checks with a shorter interval [default: 1s].
    #[arg(long, value_name = "TIME", value_parser = common::duration)]
    least_check_interval: Option<Duration>,
    /// Refuse checks with a longer timeout [default: 60s].
    #[arg(long, value_name = "TIME", value_parser = common::duration)]
    longest_check_timeout: Option<Duration>,
    /// Make at most N checks at once [default: 64].
    #[arg(long, value_name = "N")]
    checks_at_once: Option<usize>,
    /// Start at most N checks in a second [default: 100].
    #[arg(long, value_name = "N")]
    checks_per_sec: Option<u32>,
    /// Wait this long between two saves of the state [default: 100ms].
    #[arg(long, value_name = "TIME", value_parser = common::duration)]
    save_pause: Option<Duration>,
}

impl Args {
    fn memory_limits(&self) -> MemoryLimits {
        let given = &self.limits;
        let networks = self.check_networks.iter().copied();
        let limits = networks.fold(MemoryLimits::new(), MemoryLimits::check_network);
        let limits = with(limits, given.instances, MemoryLimits::instances);
        let limits = with(limits, given.bytes, MemoryLimits::bytes);
        let limits = with(limits, given.tags, MemoryLimits::tags);
        let (interval, timeout) = (given.least_check_interval, given.longest_check_timeout);
        let limits = with(limits, interval, MemoryLimits::least_check_interval);
        let limits = with(limits, timeout, MemoryLimits::longest_check_timeout);
        let limits = with(limits, given.checks_at_once, MemoryLimits::checks_at_once);
        let limits = with(limits, given.checks_per_sec, MemoryLimits::checks_per_sec);
        with(limits, given.save_pause, MemoryLimits::save_pause)
    }

    fn server_settings(&self) -> RestServerSettings {
        type Settings = RestServerSettings;
        let given = &self.limits;
        let hosts = self.hosts.iter().cloned();
        let settings = hosts.fold(Settings::new(), Settings::host);
        let settings = with(settings, given.connections, Settings::connections);
        let per_address = given.connections_per_address;
        let settings = with(settings, per_address, Settings::connections_per_address);
        let settings = with(settings, given.write_within, Settings::write_within);
        with(settings, given.bodies, Settings::bodies)
    }
}

/// Applies a setter if there is a value.
fn with<S, T>(settings: S, value: Option<T>, set: impl FnOnce(S, T) -> S) -> S {
    match value {
        Some(value) => set(settings, value),
        None => settings,
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    common::log();
    common::finish(run(Args::parse()).await)
}

async fn run(args: Args) -> Result<(), common::Failure> {
    let mut signals = common::Signals::catch()?;
    let mut builder = Memory::builder().limits(args.memory_limits());
    if let Some(path) = &args.state {
        builder = builder.persist(path);
    }
    let memory = builder.build().map_err(|error| {
        let text = common::chain(&error);
        match error.backend() {
            // A flag is out of its range.
            "" => common::Failure::usage(text),
            _ => common::Failure::work(text),
        }
    })?;
    let server = args.server_settings().build(memory.clone());
    let server = server.map_err(common::Failure::usage)?;
    let (listener, local) = bind(args.listen).await.map_err(common::Failure::work)?;
    let tell = |event: &str, text: String| {
        // Whether or not somebody reads it, the registry serves.
        let _ = common::say(if args.json {
            let services = memory.services();
            let instances = services.iter().map(|(_, count)| count).sum::<usize>();
            json!({"event": event, "address": local, "instances": instances}).to_string()
        } else {
            text
        });
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(server.serve(listener, async { drop(stopped.await) }));
    tell("listening", format!("listening on {local}"));
    signals.next().await;
    drop(stop);
    tokio::select! {
        _ = server => {}
        () = signals.next() => {
            return Err(common::Failure::work("stopped again before all requests were answered"));
        }
    }
    let saved = memory.flush();
    saved.map_err(|error| common::Failure::work(common::chain(&error)))?;
    tell("stopped", "stopped".to_owned());
    Ok(())
}
