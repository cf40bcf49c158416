//! Our figures beside those of the baselines, all from one run.
//!
//! `cargo bench --bench scoreboard --features tonic` prints a table: figure, ours, baseline, ratio, bar, met. `-- --json`
//! prints one object instead; `-- picks http` runs only these sections; `-- --test` runs everything once,
//! and its figures say nothing.
//!
//! Each figure is the median of several rounds, in which ours and the baseline take turns, and each
//! ratio is the median of the rounds' own. So what else the machine does at the time hits both, and ratios
//! hold where nanoseconds do not. Both sides are called by the same code, which polls a future where it
//! was made. Baselines are written as a user would write them, in the same build.
//!
//! | section | shows |
//! |---|---|
//! | picks | pick, call and completion beside tower's balancer, from 2 to 10,000 endpoints |
//! | growth | the same from 10 to 100,000 endpoints; what bounds it is the cache: a pick writes a line or two of a state that is drawn anywhere, and reads those of a second one where the first is not idle |
//! | weights | weighted picks beside unweighted |
//! | hashing | look-ups on a ring |
//! | allocations | of one request |
//! | tasks | 64 tasks on two threads beside tower's balancer in a `Buffer` |
//! | changes | one change of 10,000, a burst of 1,000, picks meanwhile |
//! | memory | of one endpoint |
//! | clients | memory of the client of a service, its watch included |
//! | layers | each layer alone, beside tower's and tower-resilience's |
//! | http | balancer and default stack over HTTP on loopback |
//! | grpc | the same over gRPC, beside tonic's own channels; only with `--features tonic` |
//!
//! `-- --serve` and `-- --drive` are for callgrind, see `drive.rs`.

#![allow(unreachable_pub, reason = "a program has no public items")]

mod changes;
mod cluster;
mod drive;
#[cfg(feature = "tonic")]
mod grpc;
mod http;
mod layers;
mod measure;
mod memory;
mod picks;
mod report;
mod tasks;

use std::{env, process::ExitCode};

use self::{measure::Effort, report::Row};

type Section = fn(Effort) -> Vec<Row>;

const SECTIONS: &[(&str, &[Section])] = &[
    ("picks", &[picks::sizes]),
    ("growth", &[picks::growth]),
    ("weights", &[picks::weights]),
    ("hashing", &[picks::hashing]),
    ("allocations", &[picks::allocated]),
    ("tasks", &[tasks::run]),
    (
        "changes",
        &[
            changes::one_change,
            changes::burst,
            changes::picks_meanwhile,
        ],
    ),
    ("memory", &[memory::run]),
    ("clients", &[memory::client]),
    ("layers", &[layers::run]),
    ("http", &[http::run]),
    #[cfg(feature = "tonic")]
    ("grpc", &[grpc::run]),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let is_set = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if is_set("--serve") {
        return drive::serve();
    }
    if is_set("--drive") {
        return drive::drive(&arguments);
    }
    let wanted: Vec<_> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    if let Some(unknown) = wanted
        .iter()
        .find(|name| SECTIONS.iter().all(|(section, _)| section != **name))
    {
        eprintln!("there is no section {unknown}");
        return ExitCode::FAILURE;
    }
    if is_set("--list") {
        return ExitCode::SUCCESS;
    }
    let effort = if is_set("--test") {
        Effort::TEST
    } else {
        Effort::FULL
    };
    let mut sections = Vec::new();
    for (name, parts) in SECTIONS {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            eprintln!("measuring {name}");
            sections.push((*name, parts.iter().flat_map(|part| part(effort)).collect()));
        }
    }
    if is_set("--json") {
        report::print_json(&sections);
    } else {
        report::print_table(&sections);
    }
    ExitCode::SUCCESS
}
