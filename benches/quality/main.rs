//! How well requests fare, beside the baselines, in seeded runs in virtual time:
//! `cargo bench --bench quality [-- [--json] [--check] [--seed N] [scenario…]]`.
//!
//! A scenario is named by a part of its name. `--check` fails when a bar is missed.

mod antagonist;
mod before_after;
mod clients;
mod crash;
mod deploy;
mod equals;
mod exact;
mod fast_failures;
mod fleet;
mod near_capacity;
mod one_slow;
mod overload;
mod report;
mod sim;
mod storm;
mod unequal;

use std::process::ExitCode;

use report::Report;

const SEED: u64 = 1;

type Scenario = (&'static str, fn(u64) -> Report);

const SCENARIOS: &[Scenario] = &[
    ("one slow of eleven", one_slow::report),
    ("ten unequal", unequal::report),
    ("fast failures", fast_failures::report),
    ("crash and return, refusing", crash::refusing),
    ("crash and return, swallowing", crash::swallowing),
    ("before and after", before_after::report),
    ("overload", overload::report),
    ("equals", equals::report),
    ("storm", storm::report),
    ("deploy", deploy::report),
    ("antagonist", antagonist::report),
    ("near capacity", near_capacity::steady),
    ("near capacity, overload", near_capacity::overload),
];

fn main() -> ExitCode {
    let (mut json, mut check, mut seed, mut wanted) = (false, false, SEED, Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match &*arg {
            "--json" => json = true,
            "--check" => check = true,
            "--seed" => match args.next().map(|seed| seed.parse()) {
                Some(Ok(number)) => seed = number,
                _ => return usage("--seed wants a number"),
            },
            // What cargo itself adds.
            "--bench" => {}
            flag if flag.starts_with('-') => return usage(&format!("there is no {flag}")),
            _ => wanted.push(arg),
        }
    }
    let chosen = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part));
    let scenarios: Vec<_> = SCENARIOS.iter().filter(|(name, _)| chosen(name)).collect();
    if scenarios.is_empty() {
        return usage("no scenario has such a name");
    }
    if !json {
        println!("seed {seed}");
    }
    let mut reports = Vec::new();
    for (_, report) in scenarios {
        let report = report(seed);
        if !json {
            println!("{report}");
        }
        reports.push(report);
    }
    if json {
        let scenarios: Vec<_> = reports.iter().map(Report::to_json).collect();
        println!(
            "{}",
            serde_json::json!({ "seed": seed, "scenarios": scenarios })
        );
    }
    if check && !reports.iter().all(Report::is_met) {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn usage(problem: &str) -> ExitCode {
    eprintln!("{problem}\nusage: quality [--json] [--check] [--seed N] [scenario…]");
    eprintln!("scenarios:");
    for (name, _) in SCENARIOS {
        eprintln!("  {name}");
    }
    ExitCode::from(2)
}
