//! A policy of one's own: the datacenter that this client is in, and the others only in need.
//!
//! `cargo run --example policy` prints who gets how much, with `Trial`, before any connection is made.

use clap::Parser;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::time::Instant;
use tower_roster::{
    attempt::Tried,
    balance::policy::{Candidate, CandidateSet, Draw, Picker, Policy, Trial},
    endpoint::load::{InFlight, LoadTracker},
    instance::Key,
};

/// Show how a policy of one's own shares 10,000 requests among three endpoints, usually and for retries.
#[derive(Parser)]
#[command(name = "policy")]
struct Args {}

/// Prefers endpoints of one datacenter. Consul's keys are scoped by `datacenter/node`.
#[derive(Clone, Debug)]
struct Nearest {
    datacenter: String,
}

impl Policy for Nearest {
    type Load = InFlight;
    type Picker = NearFirst;

    fn tracker(&self) -> InFlight {
        InFlight::new()
    }

    // Off the path of requests: may allocate, compare strings, take its time.
    fn prepare(&self, candidates: &[Candidate], _: &mut SmallRng) -> NearFirst {
        let is_near = |index: &usize| {
            let scope = candidates[*index].key.scope();
            scope.split('/').next() == Some(self.datacenter.as_str())
        };
        let (near, far) = (0..candidates.len()).partition(is_near);
        NearFirst { near, far }
    }
}

/// The indexes of those near and far.
struct NearFirst {
    near: Vec<usize>,
    far: Vec<usize>,
}

impl<L: LoadTracker> Picker<L> for NearFirst {
    // On the path of every request: some arithmetic, and nothing that waits.
    fn pick(&self, set: &CandidateSet<'_, L>, draw: &mut Draw<'_>) -> usize {
        for group in [&self.near, &self.far] {
            // From a random one on, the first that was neither ejected nor tried before.
            let start = draw.rng.random_range(0..group.len().max(1));
            let around = group.iter().cycle().skip(start).take(group.len());
            for index in around {
                if set.is_usable(*index, draw) {
                    return *index;
                }
            }
        }
        // There is none to use, and the balancer knows what to do about a bad pick.
        0
    }
}

fn shares(trial: &Trial<Nearest>, rng: &mut SmallRng, tried: Tried) -> Vec<u32> {
    let now = Instant::now();
    let mut counts = vec![0; trial.set().len()];
    for _ in 0..10_000 {
        counts[trial.pick(&mut Draw::new(rng).at(now).tried(tried))] += 1;
    }
    counts
}

fn main() {
    Args::parse();
    let policy = Nearest {
        datacenter: "ams".into(),
    };
    let keys = [
        Key::new("web-1", "ams/node-1"),
        Key::new("web-2", "ams/node-2"),
        Key::new("web-3", "fra/node-7"),
    ];
    let candidates = keys.clone().map(|key| Candidate::new(key, 1.0));
    let mut rng = SmallRng::seed_from_u64(1);
    let trial = Trial::with_candidates(&policy, &candidates, &mut rng);

    let usual = shares(&trial, &mut rng, Tried::new());
    // As for a retry after both of Amsterdam have failed.
    let mut tried = Tried::new();
    tried.insert(trial.id(0));
    tried.insert(trial.id(1));
    let retried = shares(&trial, &mut rng, tried);

    println!(
        "{:<20} {:>7} {:>7}",
        "of 10000 requests", "usually", "retried"
    );
    for (index, key) in keys.iter().enumerate() {
        println!(
            "{:<20} {:>7} {:>7}",
            key.to_string(),
            usual[index],
            retried[index]
        );
    }
}
