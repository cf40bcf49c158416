//! An HTTP backend with settable latency and failures, which can register itself.
//!
//! `cargo run --example serve -- --listen 127.0.0.1:0 --delay 5ms --register consul: user-service`

mod common;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use clap::Parser;
use common::server::{Behaviour, bind, serve};
use tower_roster::{instance::Address, registry::Health, server::ServerSettings};

/// How long requests in flight may take at the end.
const FINISH_WITHIN: Duration = Duration::from_secs(10);

/// Answer HTTP requests, with a latency and a share of failures. On SIGINT or SIGTERM: deregister
/// first, go on serving for the drain time, then finish what is in flight.
#[derive(Parser)]
#[command(
    name = "serve",
    after_help = "Registries: consul://host:port, consul: (from CONSUL_HTTP_ADDR), rest://host:port; with the \
    feature etcd etcd://host:port, zookeeper zk://host:port"
)]
struct Args {
    /// Where to listen; port 0 takes a free one, which is printed.
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// How long each answer takes.
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = common::duration)]
    delay: Duration,
    /// The share of requests that are answered with 500.
    #[arg(
        long,
        value_name = "SHARE",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    #[arg(value_parser = common::share)]
    fail: f64,
    /// Register as an instance of SERVICE in the registry at URL.
    #[arg(long, num_args = 2, value_names = ["URL", "SERVICE"])]
    register: Option<Vec<String>>,
    /// The address that is registered [default: the one it listens on, or that of the interface
    /// towards the registry].
    #[arg(long, value_name = "ADDR")]
    advertise: Option<Address>,
    /// The instance's id [default: SERVICE-HOST-PORT].
    #[arg(long)]
    id: Option<String>,
    /// The instance's share of the traffic relative to its peers.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        allow_negative_numbers = true
    )]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    weight: u16,
    /// The time without a heartbeat after which it counts as dead.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = common::ttl)]
    ttl: Duration,
    /// How long it goes on serving after it deregistered, for clients to notice.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = common::duration)]
    drain: Duration,
}

#[tokio::main]
async fn main() -> ExitCode {
    common::log();
    common::finish(run(Args::parse()).await)
}

async fn run(args: Args) -> Result<(), common::Failure> {
    let (listener, local) = bind(args.listen).await.map_err(common::Failure::work)?;
    // Without a registry it has one of its own, which nobody else reads.
    let (url, service, notice) = match args.register.as_deref() {
        Some([url, service, ..]) => (&**url, &**service, args.drain),
        _ => ("memory:", "server", Duration::ZERO),
    };
    let mut settings = ServerSettings::new(service)
        .advertise(args.advertise)
        .weight(args.weight)
        .health(Health::Ttl(args.ttl))
        .notice(notice)
        .grace(FINISH_WITHIN);
    if let Some(id) = args.id {
        settings = settings.id(id);
    }
    let server = common::connect(url)?.announce(settings, &listener);
    let server = server.map_err(|error| common::Failure::usage(common::chain(&error)))?;

    let handle = server.handle();
    let behaviour = Behaviour::new(args.delay, args.fail);
    let is_listed = args.register.is_some();
    let serve = server.serve(async |leave| {
        // The id has the address of an interface, which is not known before the registry is found. It serves
        // without one if that takes long.
        let located = tokio::time::timeout(Duration::from_secs(1), handle.located()).await;
        let id = located.ok().flatten();
        let id = id.map_or_else(|| format!("{service}-{local}"), |at| at.id().to_owned());
        let id = &*id;
        // Whether or not somebody reads it, the server serves.
        let _ = common::say(format!("{id} listening on {local}"));
        let told = async {
            if handle.deregistered().await.is_ok() && is_listed {
                let _ = common::say(format!("{id} deregistered"));
            }
        };
        tokio::join!(serve(listener, id, behaviour.clone(), leave), told);
        let _ = common::say(format!("{id} served {} requests", behaviour.served()));
    });
    let left = serve
        .await
        .map_err(|error| common::Failure::work(common::chain(&error)))?;
    if let Err(error) = left.deregistered {
        eprintln!("error: {}", common::chain(&error));
    }
    Ok(())
}
