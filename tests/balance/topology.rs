//! Where requests go while zones, groups, subsets, versions and their settings change, through a
//! balancer that runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    time::Duration,
};

use tokio::sync::broadcast::Receiver;
use tower::{Service, ServiceExt};
use tower_roster::{
    Instance,
    attempt::Tried,
    balance::{
        BalanceEvent,
        policy::{Policy, RingHash},
        topology::{
            Locality, Notice, Otherwise, Peers, Priority, Shares, SplitSettings, Subset, Subsets,
            Subsetting, Topology, Version, Wish, ZonePreference,
        },
    },
};

use crate::{
    kit::{Ready, key, layer, settle},
    registry::{Placed, at},
};

async fn placed(
    topology: Topology,
    wish: fn(&u32) -> Wish,
    instances: impl IntoIterator<Item = Instance>,
) -> Placed {
    Placed::new(layer().topology(topology), wish, instances).await
}

fn nothing(_: &u32) -> Wish {
    Wish::new()
}

fn of_stage(id: &str, stage: &str) -> Instance {
    at(id, 80, 1).meta("stage", stage)
}

fn of_version(id: &str, version: &str) -> Instance {
    at(id, 80, 1).meta("version", version)
}

impl<P: Policy> Placed<P> {
    /// The endpoints that such requests go to.
    async fn used(&self, number: u32) -> BTreeSet<String> {
        self.count(60, number).await.into_keys().collect()
    }

    /// How many of so many requests go to endpoints whose id begins like this.
    async fn hits(&self, requests: u32, prefix: &str) -> u32 {
        let counts = self.count(requests, 0).await.into_iter();
        let hits = counts.filter(|(id, _)| id.starts_with(prefix));
        hits.map(|(_, count)| count).sum()
    }

    /// Has so many requests go where they should, give or take four standard deviations.
    async fn expect(&self, prefix: &str, share: f64) {
        const REQUESTS: u32 = 2_000;
        let hits = f64::from(self.hits(REQUESTS, prefix).await);
        let expected = f64::from(REQUESTS) * share;
        let sigma = (expected * (1.0 - share)).sqrt();
        assert!(
            (hits - expected).abs() <= 4.0 * sigma,
            "{hits} of {REQUESTS} went to {prefix}, not {share}"
        );
    }

    /// Attempts at one request, one after the other.
    async fn attempts(&self, number: u32, attempts: usize) -> Vec<String> {
        let mut tried = Tried::new();
        let mut ids = Vec::new();
        for _ in 0..attempts {
            let mut balance = self.balance.clone();
            balance.ready().await.unwrap();
            let answer = tried.enter(|| balance.call(number)).await.unwrap();
            ids.push(answer.split(' ').next().unwrap().into());
        }
        ids
    }
}

fn ids<const N: usize>(ids: [&str; N]) -> BTreeSet<String> {
    ids.map(String::from).into()
}

/// 0 for nothing, 1 for production, 2 for beta.
fn stage(number: &u32) -> Wish {
    match number {
        0 => Wish::new(),
        1 => Wish::new().subset(Subset::new("stage", "prod")),
        _ => Wish::new().subset(Subset::new("stage", "beta")),
    }
}

#[tokio::test(start_paused = true)]
async fn who_stays_when_others_leave_keeps_its_place_in_the_rules() {
    let stages = [("a", "prod"), ("b", "beta"), ("c", "prod"), ("d", "beta")];
    let listed = |left: &[&str]| -> Vec<_> {
        let stages = stages.into_iter();
        let stages = stages.filter(|(id, _)| left.contains(id));
        stages.map(|(id, stage)| of_stage(id, stage)).collect()
    };
    let topology = Topology::new().subsets(Subsets::by(["stage"]).otherwise(Otherwise::Fail));
    let all = ["a", "b", "c", "d"];
    for gone in all {
        let placed = placed(topology.clone(), stage, listed(&all)).await;
        let left: Vec<_> = all.into_iter().filter(|id| *id != gone).collect();
        for left in [&left[..], &all[..]] {
            placed.listed.apply(listed(left)).await;
            for (number, stage) in [(1, "prod"), (2, "beta")] {
                let expected = stages
                    .iter()
                    .filter(|(id, of)| *of == stage && left.contains(id));
                let expected: BTreeSet<String> = expected.map(|(id, _)| (*id).into()).collect();
                assert_eq!(
                    placed.used(number).await,
                    expected,
                    "{stage} without {gone}"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn metadata_zone_and_tags_that_change_alone_move_requests() {
    let subsets = Topology::new().subsets(Subsets::by(["stage"]).otherwise(Otherwise::Fail));
    let metadata = placed(
        subsets,
        stage,
        [of_stage("a", "prod"), of_stage("b", "beta")],
    )
    .await;
    assert_eq!(metadata.used(1).await, ids(["a"]));
    let moved = [of_stage("a", "beta"), of_stage("b", "prod")];
    metadata.listed.apply(moved).await;
    assert_eq!(metadata.used(1).await, ids(["b"]));
    assert_eq!(metadata.used(2).await, ids(["a"]));

    let zones = Topology::new().priority(Priority::by_zone(["near", "far"]));
    let listed = |a, b| [at("a", 80, 1).zone(a), at("b", 80, 1).zone(b)];
    let zone = placed(zones, nothing, listed("near", "far")).await;
    assert_eq!(zone.used(0).await, ids(["a"]));
    zone.listed.apply(listed("far", "near")).await;
    assert_eq!(zone.used(0).await, ids(["b"]));

    let split = SplitSettings::new(Shares::new().version("new", 1.0));
    let split = split.by_fn(|instance| instance.tags.first().map(|tag| tag.as_str().into()));
    let listed = |a, b| [at("a", 80, 1).tag(a), at("b", 80, 1).tag(b)];
    let tags = placed(Topology::new().split(split), nothing, listed("new", "old")).await;
    assert_eq!(tags.used(0).await, ids(["a"]));
    tags.listed.apply(listed("old", "new")).await;
    assert_eq!(tags.used(0).await, ids(["b"]));

    for placed in [metadata, zone, tags] {
        assert_eq!(
            placed.listed.made(),
            2,
            "none of it is a reason for a connection"
        );
    }
}

fn notices(said: &mut Receiver<BalanceEvent>) -> Vec<Notice> {
    let events = std::iter::from_fn(|| said.try_recv().ok());
    let notices = events.filter_map(|event| match event {
        BalanceEvent::Notice { notice, .. } => Some(notice),
        _ => None,
    });
    notices.collect()
}

#[tokio::test(start_paused = true)]
async fn a_notice_is_told_once_and_again_when_the_matter_is_back() {
    let shares = Shares::new().version("v1", 0.5).version("v2", 0.5);
    let topology = Topology::new()
        .zone(ZonePreference::new("here"))
        .split(SplitSettings::new(shares));
    let listed = [
        of_version("a", "v1").zone("here"),
        of_version("b", "v2").zone("there"),
        of_version("c", "v2").zone("there"),
    ];
    let placed = placed(topology, nothing, listed).await;
    let mut said = placed.handle.subscribe().await.unwrap();
    let other = async || {
        for weight in [2, 3] {
            let weight = tower_roster::instance::Weight::from(weight);
            placed.handle.set_weight(&key("c"), weight).await.unwrap();
        }
    };
    other().await;
    assert_eq!(notices(&mut said), []);
    for _ in 0..2 {
        placed.handle.eject(&key("a")).await.unwrap();
        let no_local = Notice::NoLocal {
            zone: "here".into(),
        };
        let version = Some("v1".into());
        assert_eq!(
            notices(&mut said),
            [no_local, Notice::NoVersion { version }]
        );
        other().await;
        assert_eq!(notices(&mut said), [], "nothing new");
        placed.handle.restore(&key("a")).await.unwrap();
        other().await;
        assert_eq!(notices(&mut said), [], "an end is not told");
    }
}

/// Asks for the beta endpoints of version 2, with a key.
fn all_at_once(number: &u32) -> Wish {
    let wish = Wish::new().key(number.to_le_bytes());
    wish.subset(Subset::new("stage", "beta"))
        .version(Version::new("v2"))
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_sent_on_wishes_what_it_did_before() {
    let places = (0..24).map(|i| {
        let (stage, version) = [
            ("prod", "v1"),
            ("prod", "v2"),
            ("beta", "v1"),
            ("beta", "v2"),
        ][i % 4];
        of_version(&format!("{stage} {version} {i}").replace(' ', "-"), version)
            .meta("stage", stage)
    });
    let split = SplitSettings::new(Shares::new().version("v1", 1.0).version("v2", 0.0));
    let topology = Topology::new()
        .subsets(Subsets::by(["stage"]).otherwise(Otherwise::Fail))
        .split(split);
    let layer = layer().topology(topology).policy(RingHash::new());
    let placed = Placed::new(layer, all_at_once, places).await;
    let mut owners = BTreeSet::new();
    for key in 0..40 {
        let owner = placed.call(key).await.unwrap();
        assert!(owner.starts_with("beta-v2"), "{owner}");
        let control = placed.listed.control(&owner);
        control.ready(Ready::Fails);
        let second = placed.call(key).await.unwrap();
        assert!(second.starts_with("beta-v2"), "{second}");
        for _ in 0..10 {
            assert_eq!(
                placed.call(key).await.unwrap(),
                second,
                "the key has a second owner"
            );
        }
        control.ready(Ready::Yes);
        assert_eq!(placed.call(key).await.unwrap(), owner);
        owners.insert(owner);
    }
    assert_eq!(owners.len(), 6);
    // When none of them takes it, it goes nowhere else.
    for id in &owners {
        placed.listed.control(id).ready(Ready::Fails);
    }
    for key in 0..40 {
        let error = placed.call(key).await.unwrap_err();
        assert!(owners.contains(error.key().unwrap().id()));
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_has_been_everywhere_near_goes_far() {
    let listed = || {
        let zones = [("a", "near"), ("b", "near"), ("far", "far")];
        zones.map(|(id, zone)| at(id, 80, 1).zone(zone))
    };
    let prefer = ZonePreference::new("near").locality(Locality::Prefer);
    for topology in [
        Topology::new().priority(Priority::by_zone(["near", "far"])),
        Topology::new().zone(prefer),
    ] {
        let placed = placed(topology, nothing, listed()).await;
        assert_eq!(placed.used(0).await, ids(["a", "b"]));
        for _ in 0..20 {
            let seen = placed.attempts(0, 3).await;
            assert_eq!(seen[2], "far", "{seen:?}");
            assert_ne!(seen[0], seen[1]);
        }
        // Also when it could not be sent at all.
        for id in ["a", "b"] {
            placed.listed.control(id).ready(Ready::Fails);
        }
        assert_eq!(placed.used(0).await, ids(["far"]));
    }
}

#[tokio::test(start_paused = true)]
async fn no_attempt_goes_beyond_the_version_or_the_subset_that_was_asked_for() {
    fn version(_: &u32) -> Wish {
        Wish::new().version(Version::new("v2"))
    }
    let split = SplitSettings::new(Shares::new().version("v1", 0.5).version("v2", 0.5));
    let listed = [
        of_version("a", "v1"),
        of_version("b", "v2"),
        of_version("c", "v2"),
    ];
    let split = placed(Topology::new().split(split), version, listed).await;
    let subsets = Topology::new().subsets(Subsets::by(["stage"]));
    let listed = [
        of_stage("a", "prod"),
        of_stage("b", "beta"),
        of_stage("c", "beta"),
    ];
    let subsets = placed(subsets, stage, listed).await;
    for placed in [split, subsets] {
        for _ in 0..20 {
            let seen = placed.attempts(2, 4).await;
            assert_ne!(seen[0], seen[1]);
            assert!(!seen.contains(&"a".into()), "{seen:?}");
        }
        for id in ["b", "c"] {
            placed.listed.control(id).ready(Ready::Fails);
        }
        assert_ne!(placed.call(2).await.unwrap_err().key().unwrap().id(), "a");
        assert_eq!(placed.listed.control("a").calls(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_canary_gets_its_share_as_it_grows_and_keeps_its_keys() {
    fn keyed(number: &u32) -> Wish {
        Wish::new().key(number.to_le_bytes())
    }
    let split = SplitSettings::new(Shares::canary("v2", 0.0))
        .sticky(true)
        .build()
        .unwrap();
    let listed = [
        of_version("a", "v1"),
        of_version("b", "v1"),
        of_version("new", "v2"),
    ];
    let topology = Topology::new().shared_split(split.clone());
    let chance = placed(topology.clone(), nothing, listed.clone()).await;
    let sticky = placed(topology, keyed, listed).await;
    let mut on_new = BTreeSet::new();
    for percent in [0, 10, 50, 100, 50] {
        let share = f64::from(percent) / 100.0;
        split.set(Shares::canary("v2", share)).unwrap();
        settle().await;
        chance.expect("new", share).await;
        let mut now = BTreeSet::new();
        for number in 0..400 {
            let id = sticky.call(number).await.unwrap();
            for _ in 0..2 {
                let again = sticky.call(number).await.unwrap();
                assert_eq!(again == "new", id == "new", "a key stays with its version");
            }
            if id == "new" {
                now.insert(number);
            }
        }
        let (smaller, larger) = match now.len() < on_new.len() {
            true => (&now, &on_new),
            false => (&on_new, &now),
        };
        assert!(
            smaller.is_subset(larger),
            "keys only go to the version that grows"
        );
        let expected = 400.0 * share;
        let sigma = (expected * (1.0 - share)).sqrt();
        assert!(
            (now.len() as f64 - expected).abs() <= 4.0 * sigma,
            "{}",
            now.len()
        );
        on_new = now;
    }
}

#[tokio::test(start_paused = true)]
async fn traffic_spills_into_the_next_group_and_comes_back() {
    let listed = || {
        let groups = (0..20).map(|i| (i, ["near", "far"][i / 10]));
        groups.map(|(i, group)| at(&format!("{group}-{i}"), 80, 1).zone(group))
    };
    let topology = Topology::new().priority(Priority::by_zone(["near", "far"]));
    let placed = placed(topology, nothing, listed()).await;
    placed.expect("near", 1.0).await;
    let eject = async |ids: std::ops::Range<usize>| {
        for i in ids {
            let id = key(&format!("near-{i}"));
            placed.handle.eject(&id).await.unwrap();
        }
    };
    eject(0..2).await;
    placed.expect("near", 1.0).await;
    eject(2..5).await;
    placed.expect("near", 0.7).await;
    eject(5..9).await;
    placed.expect("near", 0.14).await;
    eject(9..10).await;
    placed.expect("far", 1.0).await;
    // Of a group without endpoints nothing is expected.
    placed.listed.apply(listed().skip(10)).await;
    placed.expect("far", 1.0).await;
    placed.listed.apply(listed()).await;
    for (ids, share) in [(0..5, 0.7), (5..10, 1.0)] {
        for i in ids {
            let id = key(&format!("near-{i}"));
            placed.handle.restore(&id).await.unwrap();
        }
        // Until their slow start is over, as one that gets less is less to a group.
        tokio::time::sleep(Duration::from_secs(6)).await;
        placed.expect("near", share).await;
    }
}

#[tokio::test(start_paused = true)]
async fn zones_get_their_shares_and_what_is_learnt_of_callers_applies() {
    let peers = Peers::new();
    let topology = Topology::new()
        .peers(peers.clone())
        .zone(ZonePreference::new("here"));
    let listed = (0..8).map(|i| (i, if i < 4 { "here" } else { "there" }));
    let listed = listed.map(|(i, zone)| at(&format!("{zone}-{i}"), 80, 1).zone(zone));
    let placed = placed(topology, nothing, listed).await;
    placed.expect("here", 1.0).await;
    for (here, share) in [(3.0, 2.0 / 3.0), (9.0, 5.0 / 9.0), (1.0, 1.0)] {
        peers.set_zones([("here", here), ("there", 1.0)]).unwrap();
        settle().await;
        placed.expect("here", share).await;
    }
    for i in 0..2 {
        let id = key(&format!("here-{i}"));
        placed.handle.eject(&id).await.unwrap();
    }
    // A third of the endpoints, half of the callers.
    placed.expect("here", 2.0 / 3.0).await;
}

#[tokio::test(start_paused = true)]
async fn a_part_changes_by_one_endpoint_with_each_that_comes_or_leaves() {
    let size = NonZeroUsize::new(5).unwrap();
    let topology = Topology::new().subsetting(Subsetting::new(size).client("me"));
    let listed = |left: &BTreeSet<u32>| -> Vec<_> {
        let ids = left.iter();
        ids.map(|i| at(&i.to_string(), 80, 1)).collect()
    };
    let mut left: BTreeSet<u32> = (0..20).collect();
    let placed = placed(topology, nothing, listed(&left)).await;
    let mut used = placed.used(0).await;
    let mut moved = 0;
    for step in 0..40_u32 {
        // Ten leave, come back, leave and come back.
        let one = step % 10 * 7 % 20;
        if !left.remove(&one) {
            left.insert(one);
        }
        placed.listed.apply(listed(&left)).await;
        let now = placed.used(0).await;
        assert_eq!(now.len(), 5);
        assert!(now.difference(&used).count() <= 1, "{used:?}, then {now:?}");
        assert_eq!(placed.balance.usable(), 5);
        moved += usize::from(now != used);
        used = now;
    }
    assert!((4..=30).contains(&moved), "{moved}");
}

#[tokio::test(start_paused = true)]
async fn a_rank_that_changes_moves_the_part() {
    let peers = Peers::new();
    let size = NonZeroUsize::new(3).unwrap();
    let topology = Topology::new()
        .peers(peers.clone())
        .subsetting(Subsetting::new(size).by_rank());
    let listed = (0..12).map(|i| at(&i.to_string(), 80, 1));
    let placed = placed(topology, nothing, listed).await;
    let mut clients = BTreeMap::<String, u32>::new();
    for rank in 0..4 {
        peers.set_rank(rank, 4).unwrap();
        settle().await;
        let used = placed.used(0).await;
        assert_eq!(used.len(), 3);
        for id in used {
            *clients.entry(id).or_default() += 1;
        }
    }
    assert_eq!(clients.len(), 12, "each endpoint has one of four clients");
}
