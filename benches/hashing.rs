//! What the ring promises: how many keys move when an endpoint goes, how even shares are, and how
//! long a table takes.
//!
//! `cargo bench --bench hashing` prints the figures in the documentation of `RingHash`, as a table; with
//! `--test` it runs for the smallest sets only. Nothing is sampled: every entry of a table is
//! looked up once, before and after. Each row is the worst of three ways of naming endpoints and of
//! four endpoints that go.

#![allow(unreachable_pub, reason = "a program has no public items")]

use std::time::Instant;

use rand::{SeedableRng, rngs::SmallRng};
use tower_roster::{
    balance::policy::{Candidate, Draw, Policy, RingHash, Trial},
    instance::Key,
};

/// The entries of the largest table here, as a power of two.
const ENTRIES: u32 = 21;

/// How endpoints are called.
const NAMES: [fn(usize) -> String; 3] = [
    |n| format!("web-{n}"),
    |n| format!("10.0.{}.{}:8080", n / 250, n % 250),
    |n| format!("pod-{:08x}", (n as u32).wrapping_mul(2_654_435_761)),
];

type Weight = fn(usize) -> f64;

const WEIGHTS: [(&str, Weight); 4] = [
    ("equal", |_| 1.0),
    ("1 to 5", |n| (n % 5 + 1) as f64),
    ("1 to 100", |n| (n * 7_919 % 100 + 1) as f64),
    (
        "1, and a twentieth",
        |n| {
            if n % 2 == 0 { 0.05 } else { 1.0 }
        },
    ),
];

/// The hash that a policy spreads to this one: it puts every hash through the finalizer of SplitMix64.
fn unmixed(mut hash: u64) -> u64 {
    let undone = |factor: u64| {
        (0..6).fold(factor, |inverse, _| {
            inverse.wrapping_mul(2u64.wrapping_sub(factor.wrapping_mul(inverse)))
        })
    };
    hash ^= hash >> 31 ^ hash >> 62;
    hash = hash.wrapping_mul(undone(0x94D0_49BB_1331_11EB));
    hash ^= hash >> 27 ^ hash >> 54;
    hash = hash.wrapping_mul(undone(0xBF58_476D_1CE4_E5B9));
    hash ^= hash >> 30 ^ hash >> 60;
    hash.wrapping_sub(0x9E37_79B9_7F4A_7C15)
}

/// The owner of each entry, which goes by the high bits of a hash.
fn owners<P: Policy>(policy: &P, of: &[(usize, Candidate<'static>)]) -> Vec<usize> {
    let candidates: Vec<Candidate<'static>> = of.iter().map(|(_, one)| one.clone()).collect();
    let mut rng = SmallRng::seed_from_u64(1);
    let trial = Trial::with_candidates(policy, &candidates, &mut rng);
    let owner = |entry: u64| {
        let hash = entry << (64 - ENTRIES);
        let draw = &mut Draw::new(&mut rng).hash(Some(unmixed(hash)));
        of[trial.pick(draw)].0
    };
    (0..1 << ENTRIES).map(owner).collect()
}

/// The worst of several.
#[derive(Default)]
struct Worst {
    /// Times the due of the one that went.
    times: f64,
    /// Of all keys: beyond the due, and between endpoints that stayed.
    beyond: f64,
    others: f64,
    /// Of the due: least, 1 %, 99 %, most.
    shares: [f64; 4],
    built: f64,
}

fn worst<P: Policy>(policy: &P, len: usize, weight: Weight) -> Worst {
    let mut worst = Worst {
        shares: [1.0; 4],
        ..Worst::default()
    };
    let total: f64 = (0..len).map(weight).sum();
    let all = f64::from(1_u32 << ENTRIES);
    for name in NAMES {
        let candidate = |n: usize| (n, Candidate::new(Key::new(name(n), "dc1"), weight(n)));
        let set: Vec<_> = (0..len).map(candidate).collect();
        let candidates: Vec<_> = set.iter().map(|(_, one)| one.clone()).collect();
        let started = Instant::now();
        let picker = policy.prepare(&candidates, &mut SmallRng::seed_from_u64(1));
        worst.built = worst.built.max(started.elapsed().as_secs_f64() * 1e3);
        drop(picker);

        let before = owners(policy, &set);
        let mut counts = vec![0_u32; len];
        before.iter().for_each(|owner| counts[*owner] += 1);
        let share = |n: usize| f64::from(counts[n]) / all * total / weight(n);
        let mut shares: Vec<f64> = (0..len).map(share).collect();
        shares.sort_by(f64::total_cmp);
        for (at, place) in [0, len / 100, len - 1 - len / 100, len - 1]
            .into_iter()
            .enumerate()
        {
            let worse = if at < 2 { f64::min } else { f64::max };
            worst.shares[at] = worse(worst.shares[at], shares[place]);
        }

        for gone in [0, 1, len / 2, len - 1] {
            let rest: Vec<_> = set.iter().filter(|(n, _)| *n != gone).cloned().collect();
            let after = owners(policy, &rest);
            let moved = before.iter().zip(&after).filter(|(a, b)| a != b);
            let (own, others): (Vec<_>, Vec<_>) = moved.partition(|(a, _)| **a == gone);
            let (own, others) = (own.len() as f64 / all, others.len() as f64 / all);
            let due = weight(gone) / total;
            worst.times = worst.times.max((own + others) / due);
            worst.beyond = worst.beyond.max(own + others - due);
            worst.others = worst.others.max(others);
        }
    }
    worst
}

fn print<P: Policy>(policy: &P, what: &str, rows: &[(usize, usize)]) {
    for (weights, len) in rows {
        let (kind, weight) = WEIGHTS[*weights];
        let Worst {
            times,
            beyond,
            others,
            shares: [least, low, high, most],
            built,
        } = worst(policy, *len, weight);
        let shares = format!("{least:.3}, {low:.3}, {high:.3}, {most:.3}");
        println!(
            "{what:<8} {len:>6} {kind:<20} {times:>6.2} × {:>7.3} % {:>7.3} %   {shares}   {built:>6.1} ms",
            beyond * 100.0,
            others * 100.0,
        );
    }
}

fn main() {
    let test = std::env::args().any(|argument| argument == "--test" || argument == "--list");
    println!(
        "{:<8} {:>6} {:<20} {:>8} {:>9} {:>9}   {:<26}   {:>9}",
        "policy", "of", "weights", "moved", "beyond", "others", "shares of the due", "made in"
    );
    let sizes = |weights: usize, sizes: &[usize]| {
        let sizes = if test { &sizes[..1] } else { sizes };
        sizes.iter().map(|len| (weights, *len)).collect::<Vec<_>>()
    };
    let rows = [
        sizes(0, &[3, 10, 50, 100, 300, 1_000, 3_000, 10_000]),
        sizes(1, &[10, 100]),
        sizes(2, &[3, 10, 50, 100, 300, 1_000, 3_000]),
    ];
    print(&RingHash::new(), "ring", &rows.concat());
}
