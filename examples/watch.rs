//! Follows the instances of a service and prints one line for each change.
//!
//! `cargo run --example watch -- consul: user-service --json`

mod common;

use std::{process::ExitCode, sync::Arc};

use clap::Parser;
use serde::Serialize;
use tower_roster::{
    Instance,
    catalog::{Delta, InstanceSet, Rejected, diff},
    registry::{Query, State, View},
};

/// Follow the instances of a service: one line for each change, until Ctrl-C.
#[derive(Parser)]
#[command(
    name = "watch",
    after_help = "Registries: consul://host:port, consul: (from CONSUL_HTTP_ADDR), \
    rest://host:port, fixed:host:port,host:port"
)]
struct Args {
    /// The registry, as a URL.
    url: String,
    /// The service.
    service: String,
    /// Only instances with this tag (repeat for several).
    #[arg(long = "tag", value_name = "T")]
    tags: Vec<String>,
    /// Only instances all of whose checks pass; by default warning ones serve too.
    #[arg(long)]
    passing: bool,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    common::log();
    common::finish(run(Args::parse()).await)
}

/// A change of an instance, as `--json` prints it.
#[derive(Serialize)]
struct Change<'a> {
    change: &'static str,
    id: &'a str,
    address: String,
    weight: u32,
    tags: &'a [String],
    zone: Option<&'a str>,
    status: String,
    /// Tells apart instances of one id, such as on two nodes.
    key: String,
}

/// A change of the whole, as `--json` prints it.
#[derive(Serialize)]
struct StateChange<'a> {
    change: &'static str,
    state: &'static str,
    /// Since the registry last confirmed the instances; null when it never did.
    age_ms: Option<u128>,
    reason: Option<&'a str>,
}

async fn run(args: Args) -> Result<(), common::Failure> {
    let mut signals = common::Signals::catch()?;
    let registry = common::connect(&args.url)?;
    let mut query = Query::new(args.service);
    for tag in args.tags {
        query = query.tag(tag);
    }
    if args.passing {
        query = query.passing_only();
    }
    let watch = registry.watch(query);
    let mut watch = watch.map_err(|error| common::Failure::usage(common::chain(&error)))?;

    let mut known = InstanceSet::default();
    let mut told = None;
    let mut rejected: Arc<[Rejected]> = Arc::new([]);
    loop {
        let view = tokio::select! {
            view = watch.changed() => view.map_err(common::Failure::work)?,
            () = signals.next() => return Ok(()),
        };
        for delta in diff(&known, &view.instances) {
            let (change, instance) = match &delta {
                Delta::Insert(new) => ("insert", new),
                Delta::Update { new, .. } => ("update", new),
                Delta::Remove(old) => ("remove", old),
            };
            common::line(if args.json {
                json_change(change, instance)?
            } else {
                text_change(change, instance)
            });
        }
        known = view.instances.clone();
        // Told after the instances, so that "live" means that all of them were printed.
        let now = (shown(&view), reason(&view));
        if told.as_ref() != Some(&now) && (view.state != State::Pending || view.error.is_some()) {
            common::line(if args.json {
                json(&StateChange {
                    change: "state",
                    state: now.0,
                    age_ms: view.age().map(|age| age.as_millis()),
                    reason: now.1.as_deref(),
                })?
            } else {
                let reason = now.1.as_ref().map(|reason| format!("  {reason}"));
                format!("state   {}{}", now.0, reason.unwrap_or_default())
            });
            told = Some(now);
        }
        for record in view
            .rejected
            .iter()
            .filter(|record| !rejected.contains(record))
        {
            eprintln!("{}: {record}", registry.name());
        }
        rejected = view.rejected;
    }
}

/// The state in the words of the output: what was never loaded and cannot be is stale.
fn shown(view: &View) -> &'static str {
    match view.state {
        State::Live => "live",
        State::Empty => "empty",
        State::Missing => "missing",
        _ => "stale",
    }
}

fn reason(view: &View) -> Option<String> {
    match (&view.error, view.state) {
        (Some(error), _) => Some(error.to_chain()),
        (None, State::Stale) => Some("the registry has not confirmed it in time".to_owned()),
        (None, State::Missing) => Some("no such service".to_owned()),
        (None, State::Empty) => Some(match view.withheld.len() {
            0 => "no instance matches".to_owned(),
            n => format!("{n} instances, none of which may serve"),
        }),
        _ => None,
    }
}

fn json(line: &impl Serialize) -> Result<String, common::Failure> {
    serde_json::to_string(line).map_err(common::Failure::work)
}

fn json_change(change: &'static str, instance: &Instance) -> Result<String, common::Failure> {
    json(&Change {
        change,
        id: instance.id(),
        address: instance.address.to_string(),
        weight: instance.weight.get(),
        tags: &instance.tags,
        zone: instance.zone.as_deref(),
        status: instance.status.to_string(),
        key: instance.key.to_string(),
    })
}

fn text_change(change: &str, instance: &Instance) -> String {
    let mut text = format!(
        "{change:<7} {:<24} {:<22} weight {}",
        instance.id(),
        instance.address.to_string(),
        instance.weight
    );
    if let Some(zone) = &instance.zone {
        text.push_str(&format!("  zone {zone}"));
    }
    if !instance.tags.is_empty() {
        text.push_str(&format!("  tags {}", instance.tags.join(",")));
    }
    if instance.status != tower_roster::instance::Status::Passing {
        text.push_str(&format!("  {}", instance.status));
    }
    text
}
