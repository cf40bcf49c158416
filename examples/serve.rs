//! An HTTP backend with settable latency and failures, which can register itself.
//!
//! `cargo run --example serve -- --listen 127.0.0.1:0 --delay 5ms --register consul: user-service`

mod common;

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use common::server::{Behaviour, bind, serve};
use tokio::sync::watch;
use tower_roster::{
    Instance,
    instance::Address,
    registry::{Announcement, Health},
};

/// Answer HTTP requests, with a latency and a share of failures. On SIGINT or SIGTERM: deregister
/// first, go on serving for the drain time, then finish what is in flight.
#[derive(Parser)]
#[command(name = "serve")]
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
    /// The address that is registered [default: the one it listens on].
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
    let mut signals = common::Signals::catch()?;
    let registry = match &args.register {
        Some(names) => Some(common::connect(&names[0])?),
        None => None,
    };
    let (listener, local) = bind(args.listen).await.map_err(common::Failure::work)?;
    let address = match args.advertise {
        Some(address) => address,
        None if registry.is_some() && local.ip().is_unspecified() => {
            return Err(common::Failure::usage(format!(
                "{local} is no address that others can connect to: give theirs with --advertise"
            )));
        }
        None => Address::try_from(local).map_err(common::Failure::usage)?,
    };
    let service = args
        .register
        .as_ref()
        .map_or("server", |names| names[1].as_str());
    let id = args
        .id
        .unwrap_or_else(|| format!("{service}-{}-{}", address.host(), address.port()));
    let behaviour = Behaviour::new(args.delay, args.fail);
    let (stop, stopped) = watch::channel(false);
    let registration = match registry {
        Some(registry) => {
            let instance = Instance::new(service, &*id, address).weight(args.weight);
            let announcement = Announcement::new(instance).health(Health::Ttl(args.ttl));
            let registration = registry.register(announcement);
            Some(registration.map_err(|error| common::Failure::usage(common::chain(&error)))?)
        }
        None => None,
    };
    // The socket listens since before: what has come already waits in its queue.
    let server = tokio::spawn(serve(listener, Arc::from(&*id), behaviour.clone(), stopped));
    // Whether or not somebody reads it, the server serves.
    let _ = common::say(format!("{id} listening on {local}"));
    signals.next().await;

    let leave = async {
        if let Some(registration) = registration {
            // The order matters: no new requests are sent here once the clients have noticed.
            match registration.deregister().await {
                Ok(()) => {
                    let _ = common::say(format!("{id} deregistered"));
                }
                Err(error) => eprintln!("error: {}", common::chain(&error)),
            }
            tokio::time::sleep(args.drain).await;
        }
        stop.send_replace(true);
        let _ = server.await;
    };
    tokio::select! {
        () = leave => {}
        () = signals.next() => {
            return Err(common::Failure::work("stopped again before all was finished"));
        }
    }
    let _ = common::say(format!("{id} served {} requests", behaviour.served()));
    Ok(())
}
