use proptest::prelude::*;

use super::*;
use crate::{balance::topology::split::Version, rng::small_rng};

const SEED: u64 = 99;

/// A split between leaves that have the name of their version.
fn split(sticky: bool, shares: &[(&'static str, f64)]) -> Plan<&'static str> {
    let branches = shares
        .iter()
        .map(|(name, share)| (*share, Version::new(name).id(), Plan::Leaf(*name)));
    Choose::between(ChooseBy::Version { sticky }, branches.collect())
}

fn count(plan: &Plan<&str>, name: &str, wishes: impl Iterator<Item = Wish>) -> f64 {
    let mut rng = small_rng(Some(SEED));
    let hits = wishes.filter(|wish| plan.leaf(wish, &mut rng) == Ok(&name));
    hits.count() as f64
}

fn keys(n: u32) -> impl Iterator<Item = Wish> {
    (0..n).map(|user| Wish::new().key(user.to_string()))
}

#[test]
fn one_percent_is_one_percent_by_chance_and_by_key() {
    let n = 1_000_000;
    for sticky in [false, true] {
        let plan = split(sticky, &[("v1", 0.99), ("v2", 0.01)]);
        let hits = count(&plan, "v2", keys(n));
        // 10,000 expected, standard deviation 99.5; 4 of them.
        assert!((hits - 10_000.0).abs() < 398.0, "{hits}, sticky: {sticky}");
    }
    let three = split(true, &[("a", 0.99), ("b", 0.005), ("c", 0.005)]);
    let hits = count(&three, "c", keys(n));
    assert!((hits - 5_000.0).abs() < 4.0 * 70.6, "{hits}");
}

#[test]
fn a_user_stays_with_a_version_when_its_share_grows() {
    let mut rng = small_rng(Some(SEED));
    let plans = [0.0, 0.1, 0.5, 1.0].map(|share| {
        let rest = [("v1", 0.6 * (1.0 - share)), ("v3", 0.4 * (1.0 - share))];
        split(true, &[rest[0], rest[1], ("v2", share)])
    });
    for wish in keys(20_000) {
        let seen = plans
            .each_ref()
            .map(|plan| *plan.leaf(&wish, &mut rng).unwrap());
        for step in seen.windows(2) {
            assert!(
                step[0] == step[1] || step[1] == "v2",
                "users move to the growing version only: {seen:?}"
            );
        }
        assert_eq!(plans[1].leaf(&wish, &mut rng), Ok(&seen[1]));
        assert_eq!(seen[3], "v2");
    }
    let nobody = plans[1].leaf(&Wish::new(), &mut rng);
    assert!(nobody.is_ok(), "requests without a key go by chance");
}

/// The versions as drawn by another process. A change of the expected text means that users change
/// their version.
#[test]
fn a_user_has_the_same_version_in_every_process() {
    let mut rng = small_rng(Some(SEED));
    let plan = split(true, &[("1", 0.5), ("2", 0.3), ("3", 0.2)]);
    let versions = keys(32).map(|wish| *plan.leaf(&wish, &mut rng).unwrap());
    assert_eq!(
        versions.collect::<String>(),
        "11321233111112121111121111222212"
    );
}

#[test]
fn a_version_without_a_share_serves_those_who_wish_for_it_alone() {
    for sticky in [false, true] {
        let plan = split(sticky, &[("v1", 1.0), ("dark", 0.0)]);
        assert_eq!(count(&plan, "dark", keys(10_000)), 0.0);
        let wish = Wish::new().version(Version::new("dark"));
        assert_eq!(count(&plan, "dark", std::iter::repeat_n(wish, 100)), 100.0);
        let unknown = Wish::new().version(Version::new("v9"));
        assert_eq!(count(&plan, "v1", std::iter::repeat_n(unknown, 100)), 100.0);
    }
}

#[test]
fn looks_into_reserves_last_and_never_beyond_a_wish() {
    let plan = split(false, &[("reserve", 0.0), ("small", 0.1), ("large", 0.9)]);
    let find = |wish: Wish| {
        let mut seen = Vec::new();
        let found = plan.find(&wish, &mut |leaf| {
            seen.push(*leaf);
            *leaf == "reserve"
        });
        (seen, found.copied())
    };
    assert_eq!(
        find(Wish::new()),
        (vec!["large", "small", "reserve"], Some("reserve"))
    );
    let pinned = Wish::new().version(Version::new("small"));
    assert_eq!(find(pinned), (vec!["small"], None));
}

#[test]
fn pickers_take_the_place_of_endpoints() {
    let plan = split(false, &[("v1", 0.5), ("v2", 0.5)]);
    let mut made = 0;
    let plan = plan.map(&mut |name| {
        made += 1;
        name.len()
    });
    assert_eq!(made, 2);
    let mut rng = small_rng(Some(SEED));
    assert_eq!(plan.leaf(&Wish::new(), &mut rng), Ok(&2));
}

proptest! {
    #[test]
    fn every_draw_finds_a_branch_with_a_share(
        shares in proptest::collection::vec(prop_oneof![Just(0.0), 1e-12..1e12_f64], 1..9),
        hash in any::<u64>(),
        sticky in any::<bool>(),
    ) {
        prop_assume!(shares.iter().sum::<f64>() > 0.0);
        let branches = shares
            .iter()
            .enumerate()
            .map(|(i, share)| (*share, i as u64, Plan::Leaf(i)));
        let plan = Choose::between(ChooseBy::Version { sticky }, branches.collect());
        let mut sum = 0.0;
        plan.each(&Wish::new(), 1.0, &mut |_, share| sum += share);
        prop_assert!((sum - 1.0).abs() < 1e-9);
        let mut rng = small_rng(Some(hash));
        for _ in 0..50 {
            let leaf = plan.leaf(&Wish::new().hash(hash), &mut rng);
            prop_assert!(shares.len() == 1 || leaf.is_ok_and(|i| shares[*i] > 0.0));
        }
    }
}
