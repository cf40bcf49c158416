//! One client and nothing else in the process, to be run under callgrind.
//!
//! ```text
//! scoreboard --serve &                 prints the addresses of four servers over HTTP, and of four over gRPC
//! valgrind --tool=callgrind scoreboard --drive WHAT --callers 32 --each 100 --at ADDRESS,…
//! ```
//! The difference between two runs with different `--each` is what the calls cost, without the start.
//! `--threads 2` calls from a runtime of two threads instead of from this one.

use std::{io::Write as _, process::ExitCode};

use tower::Layer as _;
use tower_roster::{balance::policy::P2c, service::retry::RetrySettings};

#[cfg(feature = "tonic")]
use super::grpc;
use super::{
    http,
    measure::{Noop, here, requests, threads},
    picks,
};

/// Serves until it is killed.
pub fn serve() -> ExitCode {
    let servers = threads(1);
    let addresses = http::listen(&servers, http::BACKENDS, http::serve);
    println!("http {}", addresses.join(","));
    #[cfg(feature = "tonic")]
    {
        let addresses = http::listen(&servers, http::BACKENDS, grpc::serve);
        println!("grpc {}", addresses.join(","));
    }
    let _ = std::io::stdout().flush();
    loop {
        std::thread::park();
    }
}

pub fn drive(arguments: &[String]) -> ExitCode {
    let value = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1).map(String::as_str)
    };
    let number = |flag: &str| value(flag).and_then(|text| text.parse().ok());
    let what = value("--drive").unwrap_or_default();
    let (callers, each) = (
        number("--callers").unwrap_or(1),
        number("--each").unwrap_or(1),
    );
    let addresses = value("--at").unwrap_or_default().split(',');
    let addresses: Vec<_> = addresses.map(str::to_owned).collect();
    let runtime = match number("--threads") {
        Some(count) => threads(count),
        None => here(),
    };
    let _entered = runtime.enter();
    match what {
        "pick-in-flight" => {
            requests(
                &mut picks::ours(&runtime, P2c::in_flight(), 10),
                each as u32,
            );
        }
        "pick-ewma" => {
            requests(
                &mut picks::ours(&runtime, P2c::peak_ewma(), 10),
                each as u32,
            );
        }
        "retry" => {
            let layer = RetrySettings::new().budget(None).build();
            requests(&mut layer.expect("defaults").layer(Noop), each as u32);
        }
        "noop" => {
            requests(&mut Noop, each as u32);
        }
        what if what.starts_with("http-") => {
            let clients = http::Clients::of(&addresses);
            if runtime
                .block_on(clients.drive(what, callers, each))
                .is_none()
            {
                return ExitCode::FAILURE;
            }
        }
        #[cfg(feature = "tonic")]
        what if what.starts_with("grpc-") => {
            let clients = grpc::Clients::of(&addresses);
            if runtime
                .block_on(clients.drive(what, callers, each))
                .is_none()
            {
                return ExitCode::FAILURE;
            }
        }
        _ => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}
