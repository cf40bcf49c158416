//! What the example programs share: arguments, signals, a server, a client and its figures.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "not every program uses all of it"
)]

pub mod client;
pub mod figures;
pub mod latency;
pub mod page;
pub mod server;
pub mod settings;
pub mod terminal;
pub mod told;

use std::{error::Error, fmt, io, process::ExitCode, time::Duration};

use tower_roster::{Registry, registry};

/// The exit code of a program that Ctrl-C ended, as shells have it.
const STOPPED: u8 = 130;

/// How a program ends when it could not do its work.
#[derive(Debug)]
pub struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// The user gave something that cannot be used: exit code 2, as for unknown flags.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self {
            message: message.to_string(),
            code: 2,
        }
    }

    /// The work failed: exit code 1.
    pub fn work(message: impl fmt::Display) -> Self {
        Self {
            message: message.to_string(),
            code: 1,
        }
    }

    /// Stopped by a signal before the end: the exit code of Ctrl-C in shells, and no message.
    pub fn stopped() -> Self {
        Self {
            message: String::new(),
            code: STOPPED,
        }
    }

    /// Whether it is [`stopped`](Self::stopped).
    pub fn is_stop(&self) -> bool {
        self.code == STOPPED
    }
}

/// Turns the outcome of a program into its exit code, with the reason on standard error.
pub fn finish(outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { message, code }) => {
            if !message.is_empty() {
                eprintln!("error: {message}");
            }
            ExitCode::from(code)
        }
    }
}

/// An error with all its causes, in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The schemes that a feature adds, and whether it is compiled in.
const ADDED: [(&str, &str, bool); 3] = [
    ("dns", "dns", cfg!(feature = "dns")),
    ("etcd", "etcd", cfg!(feature = "etcd")),
    ("zk", "zookeeper", cfg!(feature = "zookeeper")),
];

/// Connects to the registry of a command line.
pub fn connect(url: &str) -> Result<Registry, Failure> {
    registry::connect(url).map_err(|error| {
        let why = chain(&error);
        let scheme = url.split([':', '+']).next().unwrap_or_default();
        let lacking = ADDED
            .iter()
            .find(|(added, _, there)| *added == scheme && !there);
        let hint = lacking.map(|(_, feature, _)| format!("; build it with --features {feature}"));
        Failure::usage(format!(
            "invalid registry URL: {why}{}",
            hint.unwrap_or_default()
        ))
    })
}

/// Shows warnings of the crate on standard error; `RUST_LOG` chooses others.
pub fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}

/// Parses `250ms`, `10s`, `1.5s` or `2m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration such as 250ms, 10s or 2m");
    let unit = text.find(|c: char| c.is_ascii_alphabetic());
    let (number, unit) = text.split_at(unit.ok_or_else(wrong)?);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let unit = match unit {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(number * unit).map_err(|_| wrong())
}

/// Parses a time to live.
pub fn ttl(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        ttl if ttl < Duration::from_millis(100) => Err("below 100ms".to_owned()),
        ttl => Ok(ttl),
    }
}

/// Parses a share from 0 to 1.
pub fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (0.0..=1.0).contains(&share) {
        Ok(share)
    } else {
        Err(format!(
            "{text} is not in 0..=1, such as 0.1 for one in ten"
        ))
    }
}

/// Parses `NAME=VALUE`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not NAME=VALUE")),
    }
}

/// SIGINT (Ctrl-C) and SIGTERM. From the moment this is made they no longer end the process.
pub struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    pub fn catch() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let catch = |kind| signal(kind).map_err(Failure::work);
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
        })
    }

    #[cfg(not(unix))]
    pub fn catch() -> Result<Self, Failure> {
        Ok(Self {})
    }

    /// Waits for the next of them.
    pub async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    }

    /// Waits for a SIGTERM, whatever comes from the keyboard.
    pub async fn terminate(&mut self) {
        #[cfg(unix)]
        let _ = self.terminate.recv().await;
        #[cfg(not(unix))]
        std::future::pending().await
    }
}

/// Prints a line and ends the program when nobody reads any more, as other tools in a pipe do.
pub fn line(text: impl fmt::Display) {
    if say(text).is_err() {
        std::process::exit(0);
    }
}

/// Prints a line, for programs that have work to do whether or not somebody reads.
pub fn say(text: impl fmt::Display) -> io::Result<()> {
    use io::Write as _;
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush())
}
