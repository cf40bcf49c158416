//! Registers a process, keeps it registered, and takes it out again on Ctrl-C or SIGTERM.
//!
//! `cargo run --example register -- consul: user-service 10.0.0.7:8080 --tag v2 --ttl 10s`

mod common;

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use serde_json::json;
use tower_roster::{
    Instance, RegistryError,
    instance::Address,
    registry::{Announcement, Health, RegistrationEvent},
};

/// Register an instance and keep it registered until SIGINT or SIGTERM, whatever happens to the
/// registry; then take it out.
#[derive(Parser)]
#[command(
    name = "register",
    after_help = "Registries: consul://host:port, consul: (from CONSUL_HTTP_ADDR), rest://host:port; with the \
    feature etcd etcd://host:port, zookeeper zk://host:port"
)]
struct Args {
    /// The registry, as a URL.
    url: String,
    /// The service.
    service: String,
    /// Where the instance listens: host:port.
    address: Address,
    /// Its id, the same after each restart [default: SERVICE-HOST-PORT].
    #[arg(long)]
    id: Option<String>,
    /// Its share of the traffic relative to its peers.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        allow_negative_numbers = true
    )]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    weight: u16,
    /// A label (repeat for several).
    #[arg(long = "tag", value_name = "T")]
    tags: Vec<String>,
    /// A pair of metadata (repeat for several).
    #[arg(long = "meta", value_name = "K=V", value_parser = common::pair)]
    meta: Vec<(String, String)>,
    /// The zone it runs in.
    #[arg(long)]
    zone: Option<String>,
    /// Send heartbeats; without one for this long it is unhealthy [default: 10s].
    #[arg(long, value_name = "TIME", value_parser = common::ttl, conflicts_with = "http_check")]
    ttl: Option<Duration>,
    /// Let the registry request this path of the instance.
    #[arg(long, value_name = "PATH", value_parser = path)]
    http_check: Option<String>,
    /// The time between such requests.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = common::duration)]
    check_interval: Duration,
    /// Print one JSON object for each event.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    common::log();
    common::finish(run(Args::parse()).await)
}

/// Parses what can be requested of an instance.
fn path(text: &str) -> Result<String, String> {
    match ["/", "http://", "https://"]
        .iter()
        .any(|start| text.starts_with(start))
    {
        true => Ok(text.to_owned()),
        false => Err("write a path such as /health, or a whole http:// URL".to_owned()),
    }
}

async fn run(args: Args) -> Result<(), common::Failure> {
    let mut signals = common::Signals::catch()?;
    let registry = common::connect(&args.url)?;
    let id = args.id.unwrap_or_else(|| {
        format!(
            "{}-{}-{}",
            args.service,
            args.address.host(),
            args.address.port()
        )
    });
    let mut instance = Instance::new(args.service, id.clone(), args.address).weight(args.weight);
    instance.tags = args.tags;
    instance.metadata = args.meta.into_iter().collect();
    instance.zone = args.zone.map(Into::into);
    let health = match args.http_check {
        Some(target) => Health::Http {
            target,
            interval: args.check_interval,
            timeout: Duration::from_secs(2),
        },
        None => Health::Ttl(args.ttl.unwrap_or(Duration::from_secs(10))),
    };
    let announcement = Announcement::new(instance).health(health);
    let registration = registry.register(announcement);
    let mut registration =
        registration.map_err(|error| common::Failure::usage(common::chain(&error)))?;

    // A failure that repeats itself each second is one line for people.
    let mut last = None;
    let mut tell = |name: &str, error: Option<&RegistryError>| {
        let error = error.map(RegistryError::to_chain);
        let repeated = error.is_some() && last.as_ref() == Some(&error);
        last = Some(error.clone());
        if repeated && !args.json {
            return;
        }
        // Whether or not somebody reads it, the instance stays registered.
        let _ = common::say(if args.json {
            json!({"event": name, "id": id, "error": error}).to_string()
        } else {
            let error = error.map(|error| format!(": {error}"));
            format!(
                "{id} {}{}",
                name.replace('_', " "),
                error.unwrap_or_default()
            )
        });
    };
    loop {
        tokio::select! {
            event = registration.event() => match event {
                Some(event) => match event {
                    RegistrationEvent::Registered => tell("registered", None),
                    RegistrationEvent::Reregistered => tell("reregistered", None),
                    RegistrationEvent::Recovered => tell("recovered", None),
                    RegistrationEvent::Updated => tell("updated", None),
                    RegistrationEvent::RegisterFailed { error, .. } => {
                        tell("register_failed", Some(&error));
                    }
                    RegistrationEvent::HeartbeatFailed { error, .. } => {
                        tell("heartbeat_failed", Some(&error));
                    }
                    _ => tell("other", None),
                },
                None => return Err(common::Failure::work("the registration has ended")),
            },
            () = signals.next() => break,
        }
    }
    let deregistered = tokio::select! {
        outcome = registration.deregister() => outcome,
        () = signals.next() => return Err(common::Failure::work(format!(
            "stopped again before {id} was deregistered; its check will expire"
        ))),
    };
    match deregistered {
        Ok(()) => tell("deregistered", None),
        Err(error) => {
            tell("deregister_failed", Some(&error));
            return Err(common::Failure::work(common::chain(&error)));
        }
    }
    Ok(())
}
