//! The embedded registry as a program of its own: `rest://ADDR` then works from any process.
//!
//! `cargo run --example registry -- --listen 127.0.0.1:8600 --state registry.json`

mod common;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::Parser;
use common::server::bind;
use serde_json::json;
use tower_roster::registry::{memory::Memory, rest::RestServer};

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
}

#[tokio::main]
async fn main() -> ExitCode {
    common::log();
    common::finish(run(Args::parse()).await)
}

async fn run(args: Args) -> Result<(), common::Failure> {
    let mut signals = common::Signals::catch()?;
    let mut builder = Memory::builder();
    if let Some(path) = args.state {
        builder = builder.persist(path);
    }
    let memory = builder.build();
    let memory = memory.map_err(|error| common::Failure::work(common::chain(&error)))?;
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
    let server = RestServer::new(memory.clone()).serve(listener, async { drop(stopped.await) });
    let server = tokio::spawn(server);
    tell("listening", format!("listening on {local}"));
    signals.next().await;
    drop(stop);
    tokio::select! {
        _ = server => {}
        () = signals.next() => {
            return Err(common::Failure::work("stopped again before all requests were answered"));
        }
    }
    tell("stopped", "stopped".to_owned());
    // The last handle: this saves what is not in the file yet.
    drop(memory);
    Ok(())
}
