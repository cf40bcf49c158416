//! Who owns a key: always and everywhere the same, as long as it can.

use std::{collections::BTreeSet, num::NonZeroU32};

use rand::{Rng, RngExt, rngs::SmallRng, seq::SliceRandom};
use tokio::time::Instant;
use tower_roster::{
    attempt::Tried,
    balance::{
        policy::{Candidate, Draw, Policy, RingHash, Trial, by_name, hash_key},
        topology::Wish,
    },
    instance::Key,
};

use crate::rng;

const KEYS: u64 = 50_000;

fn candidate(index: usize) -> Candidate<'static> {
    Candidate::new(Key::new(format!("web-{index}"), "dc1/node"), 1.0)
}

/// The owners of many keys.
fn owners<P: Policy>(policy: &P, candidates: &[Candidate]) -> Vec<Key> {
    let mut rng = rng();
    let trial = Trial::with_candidates(policy, candidates, &mut rng);
    let owner = |key: u64| {
        let hash = Some(hash_key(&key.to_le_bytes()));
        trial.pick(&mut Draw::new(&mut rng).hash(hash))
    };
    (0..KEYS)
        .map(owner)
        .map(|index| candidates[index].key.clone().into_owned())
        .collect()
}

/// The share of keys that have another owner without one of `n` endpoints than with it.
fn moved<P: Policy>(policy: &P, n: usize, removed: usize) -> f64 {
    let mut candidates: Vec<Candidate> = (0..n).map(candidate).collect();
    let before = owners(policy, &candidates);
    candidates.remove(removed);
    let after = owners(policy, &candidates);
    let moved = before
        .iter()
        .zip(&after)
        .filter(|(before, after)| before != after);
    moved.count() as f64 / KEYS as f64
}

#[test]
fn removing_one_moves_few_keys() {
    for n in [2, 3, 10, 100] {
        let due = 1.0 / n as f64;
        let ring = moved(&RingHash::new(), n, n / 2);
        assert!(ring <= due + 0.01, "ring, one of {n}: {ring}");
    }
}

#[test]
fn removing_one_of_many_moves_few_keys() {
    let ring = moved(&RingHash::new(), 1_000, 500);
    assert!(ring <= 0.001 + 0.01, "ring: {ring}");
}

/// What a change moved, as parts of all keys: from endpoints or to them, and between others.
fn moves(before: &[Key], after: &[Key], changed: &Key) -> (f64, f64) {
    let moved = before
        .iter()
        .zip(after)
        .filter(|(before, after)| before != after);
    let (of_it, of_others): (Vec<_>, Vec<_>) =
        moved.partition(|(before, after)| *before == changed || *after == changed);
    let part = |moved: Vec<_>| moved.len() as f64 / KEYS as f64;
    (part(of_it), part(of_others))
}

/// Weights as one finds them: of a few sizes, of many, far from 1, and on the way through slow start.
fn sets(rng: &mut SmallRng) -> Vec<Vec<f64>> {
    let mut sets = vec![
        vec![1.0; 20],
        // The mean crosses √2 when one of the first goes.
        (0..12)
            .map(|index| if index < 5 { 2.0 } else { 1.0 })
            .collect(),
    ];
    for (n, most, unit) in [(3, 5, 1.0), (9, 5, 100.0), (60, 100, 1.0)] {
        let weight = |_| f64::from(rng.random_range(1..=most)) * unit;
        sets.push((0..n).map(weight).collect());
    }
    let ramping = |_| f64::from(rng.random_range(1..=10)) / 10.0;
    sets.push((0..15).map(ramping).collect());
    sets
}

fn weighed(weights: &[f64]) -> Vec<Candidate<'static>> {
    let weighed = weights.iter().enumerate();
    weighed
        .map(|(index, weight)| Candidate::new(candidate(index).key.into_owned(), *weight))
        .collect()
}

#[test]
fn the_ring_moves_only_the_keys_of_the_one_that_goes() {
    let mut rng = rng();
    for weights in sets(&mut rng) {
        let all = weighed(&weights);
        let before = owners(&RingHash::new(), &all);
        let total: f64 = weights.iter().sum();
        // The heaviest, and any.
        let heaviest = weights.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        let any = rng.random_range(0..weights.len());
        for removed in [heaviest.unwrap().0, any] {
            let mut candidates = all.clone();
            let gone = candidates.remove(removed);
            let after = owners(&RingHash::new(), &candidates);
            let (of_it, of_others) = moves(&before, &after, &gone.key);
            let what = format!("{removed} of {weights:?}");
            let due = weights[removed] / total;
            assert!(
                of_it + of_others <= due + 0.01,
                "{what}: {of_it} + {of_others}"
            );
            assert!(of_others <= 0.004, "{what}: {of_others} between others");
        }
    }
}

#[test]
fn the_ring_moves_only_the_keys_of_the_one_whose_weight_changes() {
    let mut rng = rng();
    for weights in sets(&mut rng) {
        let changed = rng.random_range(0..weights.len());
        let weight = weights[changed];
        let total = weights.iter().sum::<f64>() - weight;
        let at = |factor: f64| {
            let mut weights = weights.clone();
            weights[changed] = weight * factor;
            owners(&RingHash::new(), &weighed(&weights))
        };
        let share = |factor: f64| weight * factor / (total + weight * factor);
        // As in slow start.
        let (before, after) = (at(0.3), at(1.0));
        let key = candidate(changed).key;
        let (of_it, of_others) = moves(&before, &after, &key);
        let due = share(1.0) - share(0.3);
        let what = format!("{changed} of {weights:?}");
        assert!(of_it <= due + 0.01, "{what}: {of_it} for {due}");
        assert!(of_others <= 0.004, "{what}: {of_others} between others");
    }
}

#[test]
fn all_weights_times_a_number_give_each_key_the_same_owner() {
    let weights = [1.0, 2.0, 3.5, 0.1];
    let name = "ring-hash";
    let policy = by_name(name).unwrap();
    let times = |factor: f64| owners(&policy, &weighed(&weights.map(|w| w * factor)));
    let once = times(1.0);
    for factor in [0.001, 3.0] {
        assert!(times(factor) == once, "{name}, times {factor}");
    }
}

#[test]
fn the_order_of_the_candidates_does_not_matter() {
    for (name, n) in [("ring-hash", 50), ("ring-hash", 600)] {
        let candidates: Vec<Candidate> = (0..n)
            .map(|index| {
                Candidate::new(
                    candidate(index).key.into_owned(),
                    f64::from(index as u32 % 3 + 1),
                )
            })
            .collect();
        let mut shuffled = candidates.clone();
        shuffled.shuffle(&mut rng());
        let policy = by_name(name).unwrap();
        assert_eq!(
            owners(&policy, &candidates),
            owners(&policy, &shuffled),
            "{name} of {n}"
        );
    }
}

/// As computed by another process; whoever changes this moves every key of every user.
#[test]
fn keys_have_the_same_owner_in_every_process() {
    let candidates: Vec<Candidate> = (0..7).map(candidate).collect();
    let first = |name, candidates: &[Candidate]| -> String {
        let owners = owners(&by_name(name).unwrap(), candidates);
        let owners = owners[..24].iter();
        owners.map(|key| &key.id()["web-".len()..]).collect()
    };
    // With weights, which are rounded somewhere.
    let weighed = weighed(&[1.0, 2.0, 3.5, 0.1, 0.7, 1.0, 10.0]);
    assert_eq!(first("ring-hash", &candidates), "342315312631546425136542");
    let of_weighed = first("ring-hash", &weighed);
    // By way of a request's wish.
    let mut rng = rng();
    let expected = "253001605266";
    let trial = Trial::with_candidates(&by_name("ring-hash").unwrap(), &candidates, &mut rng);
    let owner = |key: u32| {
        let hash = Wish::new().key(format!("user-{key}")).hash;
        trial.pick(&mut Draw::new(&mut rng).hash(hash)).to_string()
    };
    let got = (0..12).map(owner).collect::<String>();
    assert_eq!(
        (got.as_str(), of_weighed.as_str()),
        (expected, "162115162661546425166646")
    );
    assert_eq!(
        Wish::new().key("abc").hash,
        Some(0x44BC_2CF5_AD77_0999),
        "XXH64"
    );
}

/// Printable texts of 16 bytes that all have the same XXH64 with seed 0. Its steps for eight bytes can be undone,
/// so for any first half there is a second half that leads to the wanted state. One of a few thousand is
/// printable.
fn colliding(count: usize) -> Vec<String> {
    const P1: u64 = 0x9E37_79B1_85EB_CA87;
    const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
    const P4: u64 = 0x85EB_CA77_C2B2_AE63;
    const P5: u64 = 0x27D4_EB2F_1656_67C5;
    let inverse = |factor: u64| {
        (0..6).fold(factor, |inverse, _| {
            inverse.wrapping_mul(2_u64.wrapping_sub(factor.wrapping_mul(inverse)))
        })
    };
    let (i1, i2) = (inverse(P1), inverse(P2));
    let round = |word: u64| word.wrapping_mul(P2).rotate_left(31).wrapping_mul(P1);
    let unround = |word: u64| word.wrapping_mul(i1).rotate_right(31).wrapping_mul(i2);
    let step = |hash: u64, word: u64| {
        let hash = (hash ^ round(word)).rotate_left(27);
        hash.wrapping_mul(P1).wrapping_add(P4)
    };
    let wanted = 0x0123_4567_89AB_CDEF_u64;
    let before = wanted.wrapping_sub(P4).wrapping_mul(i1).rotate_right(27);
    let mut found = Vec::new();
    for n in 0_u64.. {
        let first = format!("{n:08}");
        let word = u64::from_le_bytes(first.as_bytes().try_into().unwrap());
        let second = unround(step(P5.wrapping_add(16), word) ^ before).to_le_bytes();
        if second.iter().all(u8::is_ascii_graphic) {
            found.push(first + std::str::from_utf8(&second).unwrap());
            if found.len() == count {
                break;
            }
        }
    }
    found
}

/// Who may register instances may choose their ids, and so the hashes of those ids.
#[test]
fn ids_chosen_for_one_hash_have_their_shares_like_others() {
    let ids = colliding(2_000);
    let hashes: BTreeSet<u64> = ids.iter().map(|id| hash_key(id.as_bytes())).collect();
    assert_eq!(hashes.len(), 1, "they collide");
    let candidate = |id: &String| Candidate::new(Key::new(id.as_str(), ""), 1.0);
    let candidates: Vec<Candidate> = ids.iter().map(candidate).collect();
    let mut counts = std::collections::BTreeMap::<String, u32>::new();
    for key in owners(&RingHash::new(), &candidates) {
        *counts.entry(key.id().to_owned()).or_default() += 1;
    }
    let most = counts.values().max().unwrap();
    let share = f64::from(*most) / KEYS as f64;
    assert!(share < 0.005, "{share} of the keys go to one of 2,000");
    assert!(counts.len() > 1_900, "{} have keys", counts.len());
}

#[test]
fn requests_without_a_key_go_anywhere() {
    let name = "ring-hash";
    let mut rng = rng();
    let trial = Trial::new(&by_name(name).unwrap(), &[1.0; 5], &mut rng);
    let picks: BTreeSet<usize> = (0..200)
        .map(|_| trial.pick(&mut Draw::new(&mut rng)))
        .collect();
    assert_eq!(picks.len(), 5, "{name}");
}

#[test]
fn hashes_that_differ_little_are_spread() {
    let name = "ring-hash";
    let mut rng = rng();
    let trial = Trial::new(&by_name(name).unwrap(), &[1.0; 5], &mut rng);
    let mut counts = [0; 5];
    for hash in 0..5_000 {
        counts[trial.pick(&mut Draw::new(&mut rng).hash(Some(hash)))] += 1;
    }
    assert!(
        counts.iter().all(|count| *count > 850),
        "{name}: {counts:?}"
    );
}

#[test]
fn keys_of_one_that_cannot_be_used_are_spread_over_all_others() {
    let name = "ring-hash";
    let mut rng = rng();
    let trial = Trial::new(&by_name(name).unwrap(), &[1.0; 11], &mut rng);
    let mut tried = Tried::new();
    tried.insert(trial.id(4));
    let mut counts = [0; 11];
    for _ in 0..100_000 {
        let hash = Some(rng.next_u64());
        let owner = trial.pick(&mut Draw::new(&mut rng).hash(hash));
        let picked = trial.pick(&mut Draw::new(&mut rng).hash(hash).tried(tried));
        if owner == 4 {
            counts[picked] += 1;
            let again = trial.pick(&mut Draw::new(&mut rng).hash(hash).tried(tried));
            assert_eq!(again, picked, "{name}: the second choice is as steady");
        } else {
            assert_eq!(picked, owner, "{name}: nobody else's key moves");
        }
    }
    assert_eq!(counts[4], 0, "{name}");
    let total: u32 = counts.iter().sum();
    for (index, count) in counts.iter().enumerate().filter(|(index, _)| *index != 4) {
        let share = f64::from(*count) / f64::from(total);
        assert!(
            (0.08..0.12).contains(&share),
            "{name}: {share} of them to {index}"
        );
    }
}

#[test]
fn the_only_usable_one_is_found_and_none_is_no_panic() {
    let name = "ring-hash";
    let mut rng = rng();
    let trial = Trial::new(&by_name(name).unwrap(), &[1.0, 1.0, 1.0, 0.0001], &mut rng);
    let mut tried = Tried::new();
    (0..3).for_each(|index| tried.insert(trial.id(index)));
    for hash in 0..100 {
        let mut draw = Draw::new(&mut rng).hash(Some(hash)).tried(tried);
        assert_eq!(trial.pick(&mut draw), 3, "{name}");
    }
    let trial = Trial::new(&by_name(name).unwrap(), &[1.0], &mut rng);
    let mut tried = Tried::new();
    tried.insert(trial.id(0));
    let mut draw = Draw::new(&mut rng).hash(Some(9)).tried(tried);
    assert_eq!(trial.pick(&mut draw), 0, "{name}");
}

/// The cap of an endpoint: ⌈factor × requests, the new one included × share⌉.
fn cap(factor: f64, requests: usize, weights: &[f64], index: usize) -> usize {
    let total: f64 = weights.iter().sum();
    (factor * requests as f64 * weights[index] / total).ceil() as usize
}

#[test]
fn nobody_is_above_its_cap() {
    let weights = [1.0, 1.0, 1.0, 1.0, 2.0, 3.0, 0.5];
    fn check<P: Policy>(what: &str, policy: &P, factor: f64, weights: &[f64]) {
        let mut rng = rng();
        let now = Instant::now();
        let trial = Trial::new(policy, weights, &mut rng);
        let mut flying = Vec::new();
        let mut on_owner = 0;
        for round in 0..20_000 {
            // Half of all requests have the same key.
            let hash = Some(if round % 2 == 0 { 1 } else { rng.next_u64() });
            let picked = trial.pick(&mut Draw::new(&mut rng).hash(hash));
            trial.start(picked, now);
            flying.push(picked);
            let in_flight = trial.set().in_flight(picked);
            let cap = cap(factor, flying.len(), weights, picked);
            assert!(
                in_flight <= cap,
                "{what}: {in_flight} on {picked}, cap {cap}"
            );
            on_owner += usize::from(round % 2 == 0 && in_flight > 1);
            if flying.len() > 100 {
                let done = flying.swap_remove(round % flying.len());
                let outcome = tower_roster::classify::Outcome::Success;
                trial.end(done, outcome, std::time::Duration::ZERO, now);
            }
        }
        assert!(on_owner > 1_000, "{what}: caps are used");
    }
    check("ring", &RingHash::new(), 1.25, &weights);
    check("even ring", &RingHash::new(), 1.25, &[1.0; 40]);
    check(
        "tight ring",
        &RingHash::new().load_factor(1.0).unwrap(),
        1.0,
        &weights,
    );
    check(
        "loose ring",
        &RingHash::new().load_factor(3.0).unwrap(),
        3.0,
        &weights,
    );
}

#[test]
fn large_sets_are_about_below_their_caps() {
    let now = Instant::now();
    let name = "ring-hash";
    for n in [100, 500, 2_000] {
        let mut rng = rng();
        let trial = Trial::new(&by_name(name).unwrap(), &vec![1.0; n], &mut rng);
        let owner = trial.pick(&mut Draw::new(&mut rng).hash(Some(77)));
        let set = trial.set();
        for times in 1..=10 {
            for _ in 0..n {
                // All with the same key.
                let picked = trial.pick(&mut Draw::new(&mut rng).hash(Some(77)));
                trial.start(picked, now);
            }
            let most = (0..n).map(|index| set.in_flight(index)).max().unwrap();
            let on_owner = set.in_flight(owner);
            let cap = cap(1.25, times * n, &vec![1.0; n], 0) as f64;
            // Requests in flight are estimated from 64 endpoints.
            assert!(
                most as f64 <= (cap * 1.3).max(cap + 1.0),
                "{name}, {n}: {most} for {cap}"
            );
            assert!(
                on_owner as f64 >= cap - 1.0,
                "{name}, {n}: {on_owner} on the owner, cap {cap}"
            );
        }
    }
}

#[test]
fn without_a_bound_a_key_stays_where_it_is() {
    fn check<P: Policy>(what: &str, policy: &P) {
        let mut rng = rng();
        let now = Instant::now();
        let trial = Trial::new(policy, &[1.0; 5], &mut rng);
        let owner = trial.pick(&mut Draw::new(&mut rng).hash(Some(3)));
        for _ in 0..100 {
            trial.start(owner, now);
            assert_eq!(
                trial.pick(&mut Draw::new(&mut rng).hash(Some(3))),
                owner,
                "{what}"
            );
        }
    }
    check("ring", &RingHash::new().unbounded());
}

#[test]
fn settings_out_of_range_are_refused() {
    for factor in [0.99, 0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(
            RingHash::new().load_factor(factor).unwrap_err().field(),
            "ring_hash.load_factor"
        );
    }
}

#[test]
fn tables_too_small_for_their_set_still_hold_everyone() {
    let mut rng = rng();
    let weights: Vec<f64> = (0..40)
        .map(|index| if index == 0 { 1e6 } else { 1e-6 })
        .collect();
    let everyone = |picks: BTreeSet<usize>, what: &str| assert_eq!(picks.len(), 40, "{what}");
    let few = NonZeroU32::new(3).unwrap();
    let ring = RingHash::new().places(few);
    let trial = Trial::new(&ring, &weights, &mut rng);
    let picks = (0..50_000).map(|hash| trial.pick(&mut Draw::new(&mut rng).hash(Some(hash))));
    everyone(picks.collect(), "ring");
}
