//! Follows the instances of a service and prints one line for each change.
//!
//! `cargo run --example watch -- consul: user-service --json`

mod common;

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use serde::Serialize;
use tower_roster::{
    Instance,
    catalog::{Delta, InstanceSet, Rejected, diff},
    registry::{Query, View, ViewState},
};

/// Follow the instances of a service: one line for each change, until Ctrl-C.
#[derive(Parser)]
#[command(
    name = "watch",
    after_help = "Registries: consul://host:port, consul: (from CONSUL_HTTP_ADDR), rest://host:port, \
    fixed:host:port,host:port; with the feature etcd etcd://host:port, zookeeper zk://host:port, \
    dns dns://server/name:port"
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
    /// Milliseconds since the start.
    at_ms: u128,
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
    /// Milliseconds since the start.
    at_ms: u128,
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

    let began = Instant::now();
    let mut columns = Columns::default();
    let mut known = InstanceSet::default();
    let mut told = None;
    let mut rejected: Arc<[Rejected]> = Arc::new([]);
    loop {
        let view = tokio::select! {
            view = watch.changed() => view.map_err(common::Failure::work)?,
            () = signals.next() => return Ok(()),
        };
        let at = began.elapsed();
        columns.fit(&view.instances);
        for delta in diff(&known, &view.instances) {
            let (change, instance) = match &delta {
                Delta::Insert(new) => ("insert", new),
                Delta::Update { new, .. } => ("update", new),
                Delta::Remove(old) => ("remove", old),
            };
            common::line(if args.json {
                json_change(at, change, instance)?
            } else {
                columns.line(at, change, instance)
            });
        }
        known = view.instances.clone();
        // Told after the instances, so that "live" means that all of them were printed.
        let now = (shown(&view), reason(&view));
        if told.as_ref() != Some(&now) && (view.state != ViewState::Pending || view.error.is_some())
        {
            common::line(if args.json {
                json(&StateChange {
                    at_ms: at.as_millis(),
                    change: "state",
                    state: now.0,
                    age_ms: view.age().map(|age| age.as_millis()),
                    reason: now.1.as_deref(),
                })?
            } else {
                let reason = now.1.as_ref().map(|reason| format!("  {reason}"));
                let reason = reason.unwrap_or_default();
                format!("{}  state   {}{reason}", seconds(at), now.0)
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
        ViewState::Live => "live",
        ViewState::Empty => "empty",
        ViewState::Missing => "missing",
        _ => "stale",
    }
}

fn reason(view: &View) -> Option<String> {
    match (&view.error, view.state) {
        (Some(error), _) => Some(error.to_chain()),
        (None, ViewState::Stale) => Some("the registry has not confirmed it in time".to_owned()),
        (None, ViewState::Missing) => Some("no such service".to_owned()),
        (None, ViewState::Empty) => Some(match view.withheld.len() {
            0 => "no instance matches".to_owned(),
            1 => "1 instance, which may not serve".to_owned(),
            n => format!("{n} instances, none of which may serve"),
        }),
        _ => None,
    }
}

fn json(line: &impl Serialize) -> Result<String, common::Failure> {
    serde_json::to_string(line).map_err(common::Failure::work)
}

fn json_change(
    at: Duration,
    change: &'static str,
    instance: &Instance,
) -> Result<String, common::Failure> {
    json(&Change {
        at_ms: at.as_millis(),
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

fn seconds(at: Duration) -> String {
    format!("{:>8.3} s", at.as_secs_f64())
}

/// The widths of the columns: as wide as the longest entry so far, so that lines stay aligned.
struct Columns {
    id: usize,
    address: usize,
}

impl Default for Columns {
    fn default() -> Self {
        Self { id: 8, address: 15 }
    }
}

impl Columns {
    fn fit(&mut self, instances: &InstanceSet) {
        for instance in instances.iter() {
            self.id = self.id.max(instance.id().chars().count());
            self.address = self.address.max(instance.address.to_string().len());
        }
    }

    fn line(&self, at: Duration, change: &str, instance: &Instance) -> String {
        let mut text = format!(
            "{}  {change:<6}  {:<id$}  {:<address$}  weight {}",
            seconds(at),
            instance.id(),
            instance.address.to_string(),
            instance.weight,
            id = self.id,
            address = self.address,
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
}
