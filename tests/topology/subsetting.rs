//! Deterministic subsetting: what one change moves, and how evenly servers are used.

use std::{collections::BTreeSet, sync::Arc};

use proptest::prelude::*;
use tower_roster::{
    Instance,
    balance::topology::{Peers, Subsetting, Topology, Wish},
};

use crate::{size, web};

fn servers(ids: impl IntoIterator<Item = usize>) -> Vec<Arc<Instance>> {
    let ids = ids.into_iter();
    ids.map(|id| Arc::new(web(format!("server-{id}"))))
        .collect()
}

fn by_hash(client: &str, part: usize) -> Topology {
    Topology::new().subsetting(Subsetting::new(size(part)).client(client))
}

fn by_rank(rank: usize, of: usize, part: usize) -> Topology {
    let peers = Peers::new();
    peers.set_rank(rank, of).unwrap();
    Topology::new()
        .peers(peers)
        .subsetting(Subsetting::new(size(part)).by_rank())
}

/// The servers that a client uses.
fn part(topology: &Topology, servers: &[Arc<Instance>]) -> BTreeSet<String> {
    let shares = topology.shares(servers, &Wish::new()).unwrap();
    let used = servers.iter().zip(shares).filter(|(_, share)| *share > 0.0);
    used.map(|(server, _)| server.id().to_owned()).collect()
}

/// The most that one server gets, in units of what each is due.
fn worst(clients: &[Topology], servers: &[Arc<Instance>]) -> f64 {
    let mut got = vec![0.0; servers.len()];
    for client in clients {
        let shares = client.shares(servers, &Wish::new()).unwrap();
        for (got, share) in got.iter_mut().zip(shares) {
            *got += share;
        }
    }
    let due = clients.len() as f64 / servers.len() as f64;
    got.into_iter().fold(0.0, f64::max) / due
}

proptest! {
    #[test]
    fn one_server_more_or_less_moves_at_most_one_entry_by_hash(
        ids in proptest::collection::btree_set(0_usize..10_000, 1..80),
        which in any::<prop::sample::Index>(),
        clients in proptest::collection::vec("[a-z]{1,8}", 1..8),
        k in 1_usize..30,
    ) {
        let gone = *which.get(&ids.iter().copied().collect::<Vec<_>>());
        let all = servers(ids.iter().copied());
        let fewer = servers(ids.iter().copied().filter(|id| *id != gone));
        for client in clients {
            let topology = by_hash(&client, k);
            let (before, after) = (part(&topology, &all), part(&topology, &fewer));
            prop_assert_eq!(before.len(), k.min(all.len()));
            prop_assert_eq!(after.len(), k.min(fewer.len()));
            prop_assert!(before.difference(&after).count() <= 1);
            prop_assert!(after.difference(&before).count() <= 1);
        }
    }

    #[test]
    fn one_server_more_or_less_moves_one_entry_by_rank_or_two_at_the_origin(
        ids in proptest::collection::btree_set(0_usize..10_000, 2..80),
        which in any::<prop::sample::Index>(),
        of in 1_usize..20,
        k in 1_usize..30,
    ) {
        let gone = *which.get(&ids.iter().copied().collect::<Vec<_>>());
        let all = servers(ids.iter().copied());
        let fewer = servers(ids.iter().copied().filter(|id| *id != gone));
        for rank in 0..of {
            let topology = by_rank(rank, of, k);
            let (before, after) = (part(&topology, &all), part(&topology, &fewer));
            prop_assert!(before.len() >= k.min(all.len()));
            // One is replaced, or two when the part spans the origin of the circle; where every client
            // needs one less, that one goes and none is replaced.
            let smaller = before.len() - after.len();
            let spans = [(&all, &before), (&fewer, &after)]
                .iter()
                .any(|(set, part)| rank * set.len() / of + part.len() > set.len());
            prop_assert!(smaller <= 1);
            let replaced = if smaller > 0 { 0 } else { 1 + usize::from(spans) };
            prop_assert!(before.difference(&after).count() <= replaced + smaller);
            prop_assert!(after.difference(&before).count() <= replaced);
        }
    }
}

#[test]
fn the_part_is_the_same_after_a_restart_and_in_any_order() {
    let mut all = servers(0..100);
    let first = part(&by_hash("web-7", 20), &all);
    all.reverse();
    assert_eq!(first, part(&by_hash("web-7", 20), &all));
    assert_ne!(first, part(&by_hash("web-8", 20), &all));
    let unnamed = || Topology::new().subsetting(Subsetting::new(size(20)));
    assert_ne!(part(&unnamed(), &all), part(&unnamed(), &all));
}

/// As chosen by another process; whoever changes this moves the parts of every client.
#[test]
fn the_part_is_the_same_in_every_process() {
    let all = servers(0..100);
    let ids = |topology| {
        let part = part(&topology, &all);
        let ids = part.iter().map(|id| &id["server-".len()..]);
        ids.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(ids(by_hash("web-7", 8)), "16 2 23 30 46 60 83 87");
    assert_eq!(ids(by_rank(0, 20, 8)), "0 28 29 53 60 67 97 98");
    assert_eq!(ids(by_rank(19, 20, 8)), "0 13 20 29 67 73 85 93");
}

#[test]
fn by_rank_without_a_rank_goes_by_hash() {
    let all = servers(0..100);
    let part_of = |subsetting| part(&Topology::new().subsetting(subsetting), &all);
    let by_hash = Subsetting::new(size(20)).client("web-7");
    assert_eq!(part_of(by_hash.clone()), part_of(by_hash.by_rank()));
}

#[test]
fn an_ejected_server_is_replaced_and_comes_back_to_its_place() {
    let mut all = servers(0..50);
    let topology = by_hash("web-7", 12);
    let before = part(&topology, &all);
    let out = all
        .iter()
        .position(|server| before.contains(server.id()))
        .unwrap();
    let well = Arc::clone(&all[out]);
    let mut ill = Instance::clone(&well);
    ill.status = tower_roster::instance::Status::Critical;
    all[out] = Arc::new(ill);
    let during = part(&topology, &all);
    assert_eq!(during.len(), 12);
    assert_eq!(before.difference(&during).collect::<Vec<_>>(), [well.id()]);
    all[out] = well;
    assert_eq!(before, part(&topology, &all));
}

#[test]
fn a_part_by_rank_grows_until_every_server_has_a_client() {
    let covered = worst(
        &(0..5).map(|rank| by_rank(rank, 5, 1)).collect::<Vec<_>>(),
        &servers(0..20),
    );
    assert_eq!(covered, 1.0);
}

#[test]
fn a_hundred_clients_by_hash_spread_as_chance_does() {
    let clients: Vec<_> = (0..100)
        .map(|i| by_hash(&format!("client-{i}"), 20))
        .collect();
    let most = worst(&clients, &servers(0..100));
    // Binomial of 100 clients at 20 %: 20 on average, deviation 4; the most of 100 is within 4 of them.
    assert!((1.2..=1.8).contains(&most), "{most}");
}

#[test]
fn weights_apply_within_the_part() {
    let mut all = servers(0..10);
    let topology = by_hash("web-7", 4);
    let before = part(&topology, &all);
    let heavy = all
        .iter()
        .position(|server| before.contains(server.id()))
        .unwrap();
    all[heavy] = Arc::new(Instance::clone(&all[heavy]).weight(3));
    let shares = topology.shares(&all, &Wish::new()).unwrap();
    assert_eq!(part(&topology, &all), before, "a weight moves nobody");
    assert!((shares[heavy] - 0.5).abs() < 1e-12, "3 of 3 + 1 + 1 + 1");
}
