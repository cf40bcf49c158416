//! Sends load to a service by its name and tells what came of it.
//!
//! `cargo run --release --example call -- consul: user-service --rate 500 --duration 10s`

mod common;

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use common::{
    client::Caller,
    figures::{Figures, Summary},
    page,
    settings::Settings,
    told,
};
use tokio::{sync::Semaphore, task::JoinSet, time::MissedTickBehavior};
use tower_roster::{balance::policy, registry::Query};

/// Call a service at a steady rate through the whole stack: registry, discovery, balancer,
/// hedges, retries.
#[derive(Parser)]
#[command(
    name = "call",
    after_help = "Registries: consul://host:port, consul: (from CONSUL_HTTP_ADDR), rest://host:port, \
    fixed:host:port,host:port; with the feature etcd etcd://host:port, zookeeper zk://host:port, \
    dns dns://server/name:port"
)]
struct Args {
    /// The registry, as a URL.
    url: String,
    /// The service.
    service: String,
    /// Requests a second; 0 for as many as the concurrency allows.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    rate: u32,
    /// Requests in flight at most.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    concurrency: u32,
    /// How long.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = common::duration)]
    duration: Duration,
    /// The path that is requested.
    #[arg(long, default_value = "/")]
    path: String,
    /// How long one request may take.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = common::duration)]
    timeout: Duration,
    /// Only instances with this tag (repeat for several).
    #[arg(long = "tag", value_name = "T")]
    tags: Vec<String>,
    /// Who gets a request.
    #[arg(long, value_name = "NAME", default_value = "peak-ewma", value_parser = policy::NAMES.to_vec())]
    policy: String,
    /// The key of a request, sent as x-key, {n} being its number: what ring-hash goes by.
    #[arg(long, value_name = "KEY", default_value = "{n}")]
    key: String,
    /// Send what failed again, to another instance (the default).
    #[arg(long, overrides_with = "no_retry")]
    retry: bool,
    /// Send nothing again.
    #[arg(long, overrides_with = "retry")]
    no_retry: bool,
    /// Send what takes long to a second instance (the default).
    #[arg(long, overrides_with = "no_hedge")]
    hedge: bool,
    /// Wait for the first instance, however long it takes.
    #[arg(long, overrides_with = "hedge")]
    no_hedge: bool,
    /// Refuse calls at once while most of them fail.
    #[arg(long, overrides_with = "no_breaker")]
    breaker: bool,
    /// No circuit breaker (the default).
    #[arg(long, overrides_with = "breaker")]
    no_breaker: bool,
    /// How long one attempt of a request may take [default: as long as the request].
    #[arg(long, value_name = "TIME", value_parser = common::duration)]
    try_timeout: Option<Duration>,
    /// Show what the client knows and does on a page at this address, such as 127.0.0.1:9000.
    #[arg(long, value_name = "ADDR")]
    status: Option<SocketAddr>,
    /// Print only the summary, as one JSON object.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    common::log();
    common::finish(run(Args::parse()).await)
}

async fn run(args: Args) -> Result<(), common::Failure> {
    let mut signals = common::Signals::catch()?;
    if args.url.starts_with("memory:") {
        return Err(common::Failure::usage(
            "memory: lives within one process, and nobody else can register in this one; \
             consul:, etcd:, zk:, rest: and fixed: can be called",
        ));
    }
    let registry = common::connect(&args.url)?;
    let mut query = Query::new(args.service.as_str());
    for tag in &args.tags {
        query = query.tag(tag);
    }
    let watch = registry.watch(query);
    let watch = watch.map_err(|error| common::Failure::usage(common::chain(&error)))?;
    let figures = Arc::new(Figures::new());
    let settings = Settings {
        path: args.path,
        policy: args.policy,
        key: args.key,
        retry: !args.no_retry,
        hedge: !args.no_hedge,
        breaker: args.breaker,
        try_timeout: args.try_timeout,
        ..Settings::new(args.timeout)
    };
    let caller = Caller::new(watch, settings, Arc::clone(&figures));
    let caller = caller.map_err(common::Failure::usage)?;
    if let Some(address) = args.status {
        let title = format!("call {}", args.service);
        let served = page::serve(address, title, &args.service, &caller).await;
        let url = served.map_err(common::Failure::usage)?;
        eprintln!("status page: {url}");
    }
    let began = Instant::now();
    let handles = caller.handles().clone();
    let news = tokio::spawn(async move {
        let tell = |news: told::News| {
            // What it does, not what it does not do.
            let words = news.words().filter(|words| words.event != "spared");
            if let Some(words) = words.filter(|_| !args.json) {
                common::line(told::line(began.elapsed(), &words));
            }
        };
        told::follow(handles, &figures, tell).await;
    });

    // Counted, not only timed: else requests that were late would come on top at the end.
    let asked = (f64::from(args.rate) * args.duration.as_secs_f64()).round() as u64;
    let mut left = match args.rate {
        0 => u64::MAX,
        _ => asked,
    };
    let slots = Arc::new(Semaphore::new(args.concurrency as usize));
    let mut requests = JoinSet::new();
    let load = async {
        let mut ticks = match args.rate {
            0 => None,
            rate => {
                let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
                // What could not be sent in time is sent as soon as it can be.
                ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
                Some(ticks)
            }
        };
        while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
            if left == 0 {
                return;
            }
            left -= 1;
            if let Some(ticks) = &mut ticks {
                ticks.tick().await;
            }
            let mut caller = caller.clone();
            requests.spawn(async move {
                caller.call().await;
                drop(slot);
            });
            while requests.try_join_next().is_some() {}
        }
    };
    let stopped = tokio::select! {
        () = load => false,
        () = tokio::time::sleep(args.duration) => false,
        () = signals.next() => true,
    };
    // Every request that was sent is counted; each ends within its timeout.
    tokio::select! {
        () = async { while requests.join_next().await.is_some() {} } => {}
        () = signals.next() => {}
    }

    news.abort();
    let mut summary = caller.summary();
    if args.rate > 0 && !stopped {
        // The last tick may fall on the end itself.
        summary.unsent = asked.saturating_sub(summary.requests);
    }
    if args.json {
        common::line(serde_json::to_string(&summary).map_err(common::Failure::work)?);
    } else {
        print(&summary, caller.figures(), args.concurrency);
    }
    if summary.ok == 0 && !(stopped && summary.requests == 0) {
        return Err(common::Failure::work(match summary.requests {
            0 => "no request was sent".to_owned(),
            requests => {
                let status = caller.handles().balance.status();
                let registry = status.registries.first().filter(|_| status.endpoints == 0);
                let why = registry.map(|why| format!("; {why}"));
                format!(
                    "none of {requests} requests succeeded{}",
                    why.unwrap_or_default()
                )
            }
        }));
    }
    Ok(())
}

fn print(summary: &Summary, figures: &Figures, concurrency: u32) {
    common::line(format!(
        "{} requests: {} ok, {} failed\n{}",
        summary.requests,
        summary.ok,
        summary.failed,
        figures.quantiles()
    ));
    if summary.unsent > 0 {
        common::line(format!(
            "{} of the {} requests asked for were not sent: all {concurrency} places (--concurrency) were taken",
            summary.unsent,
            summary.requests + summary.unsent
        ));
    }
    if let Some(done) = told::done(summary) {
        common::line(done);
    }
    if summary.failed > 0 {
        common::line("failed by kind:");
    }
    for (kind, count) in &summary.errors {
        common::line(format!("  {count:>8}  {kind}"));
    }
    let (histogram, instances) = figures.latencies();
    for line in histogram.into_iter().chain(instances) {
        common::line(line);
    }
}
