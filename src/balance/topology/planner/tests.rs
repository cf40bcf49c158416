use std::num::NonZeroUsize;

use proptest::prelude::*;

use super::*;
use crate::{
    balance::topology::{Priority, SplitSettings, Subsetting, Traits, Wish, ZonePreference},
    instance::{Instance, Key},
};

/// An endpoint, as the driver knows it.
#[derive(Clone, Debug)]
struct Known {
    index: usize,
    key: Key,
    instance: Option<Arc<Instance>>,
    weight: f64,
    standing: Standing,
}

fn traits(topology: &Topology, known: &[Known]) -> Vec<Traits> {
    let known = known.iter();
    known
        .map(|known| topology.traits(&known.key, known.instance.as_deref()))
        .collect()
}

fn plan_with(topology: &Topology, known: &[Known], traits: &[Traits]) -> Planned {
    let members = known.iter().zip(traits);
    let members = members.map(|(known, traits)| RuledMember {
        index: known.index,
        traits,
        weight: known.weight,
        standing: known.standing,
    });
    let panics = topology.panics(false);
    topology.plan(&members.collect::<Vec<_>>(), panics)
}

fn plan(topology: &Topology, known: &[Known]) -> Planned {
    plan_with(topology, known, &traits(topology, known))
}

fn member(index: usize, edit: impl FnOnce(Instance) -> Instance) -> Known {
    let address = "127.0.0.1:80".parse().unwrap();
    let instance = edit(Instance::new("web", index.to_string(), address));
    Known {
        index,
        key: instance.key.clone(),
        weight: instance.weight.get().into(),
        standing: Standing::In,
        instance: Some(Arc::new(instance)),
    }
}

fn plain(n: usize) -> Vec<Known> {
    (0..n).map(|i| member(i, |instance| instance)).collect()
}

fn of_versions(versions: &[&str]) -> Vec<Known> {
    let members = versions.iter().enumerate();
    let members = members.map(|(i, name)| member(i, |instance| instance.meta("version", *name)));
    members.collect()
}

fn leaf(planned: &Planned) -> &[usize] {
    match &planned.plan {
        Plan::Leaf(set) => &set.places,
        other => panic!("no leaf: {other:?}"),
    }
}

fn shares(topology: &Topology, members: &[Known], wish: Wish) -> Vec<f64> {
    let weights: Vec<f64> = members.iter().map(|member| member.weight).collect();
    let shares = plan(topology, members).plan.shares(&wish, &weights);
    // Rounded to a millionth, so that tests can state exact numbers.
    shares
        .iter()
        .map(|share| (share * 1e6).round() / 1e6)
        .collect()
}

fn split(shares: Shares) -> Topology {
    Topology::new().split(SplitSettings::new(shares)).live()
}

#[test]
fn everybody_with_a_weight_who_is_available_is_one_leaf() {
    let mut members = plain(6);
    members[1].weight = 0.0;
    members[2].standing = Standing::Out;
    members[3].weight = f64::NAN;
    members[4].weight = -1.0;
    let planned = plan(&Topology::new(), &members);
    assert_eq!(leaf(&planned), [0, 3, 5]);
    assert!(planned.notices.is_empty());
    for member in &mut members {
        member.weight = 0.0;
    }
    assert_eq!(
        leaf(&plan(&Topology::new(), &members)),
        [0, 1, 3, 4, 5],
        "all of weight 0 count as 1"
    );
    // The leaves hold the driver's indexes, in any order.
    members.reverse();
    members.truncate(2);
    assert_eq!(leaf(&plan(&Topology::new(), &members)), [5, 4]);
}

#[test]
fn nobody_available_is_a_panic_or_an_error() {
    let mut members = plain(3);
    for member in &mut members {
        member.standing = Standing::Out;
    }
    members[2].weight = 0.0;
    let panic = plan(&Topology::new(), &members);
    assert_eq!(leaf(&panic), [0, 1], "drained stays drained");
    assert_eq!(panic.notices, [Notice::Panic]);
    let refuse = plan(&Topology::new().panic(false), &members);
    assert!(matches!(refuse.plan, Plan::Nowhere(Nowhere::Ejected)));
    let empty = plan(&Topology::new(), &[]);
    assert!(matches!(empty.plan, Plan::Nowhere(Nowhere::Empty)));
}

#[test]
fn versions_get_their_shares_whatever_they_weigh() {
    let members = of_versions(&["v1", "v1", "v1", "v2"]);
    let topology = split(Shares::new().version("v1", 75.0).version("v2", 25.0));
    assert_eq!(
        shares(&topology, &members, Wish::new()),
        [0.25, 0.25, 0.25, 0.25]
    );
    let canary = split(Shares::canary("v2", 0.01));
    assert_eq!(
        shares(&canary, &members, Wish::new()),
        [0.33, 0.33, 0.33, 0.01]
    );
    let wish = Wish::new().version(Version::new("v2"));
    assert_eq!(shares(&canary, &members, wish), [0.0, 0.0, 0.0, 1.0]);
}

#[test]
fn the_share_of_a_version_without_endpoints_goes_to_the_others() {
    let mut members = of_versions(&["v1", "v1", "v2", "v3", ""]);
    members[2].standing = Standing::Out;
    let topology = split(
        Shares::new()
            .version("v1", 0.6)
            .version("v2", 0.2)
            .version("v3", 0.2),
    );
    assert_eq!(
        shares(&topology, &members, Wish::new()),
        [0.375, 0.375, 0.0, 0.25, 0.0],
        "in proportion, and nothing to those without a share"
    );
    let notices = plan(&topology, &members).notices;
    let v2 = Notice::NoVersion {
        version: Some("v2".into()),
    };
    assert_eq!(notices, [v2]);
}

#[test]
fn unlisted_versions_share_the_rest_and_serve_alone_in_need() {
    let mut members = of_versions(&["v1", "v7", ""]);
    let topology = split(Shares::new().version("v1", 0.8).rest(0.2));
    assert_eq!(shares(&topology, &members, Wish::new()), [0.8, 0.1, 0.1]);
    let only_v1 = split(Shares::new().version("v1", 1.0));
    assert_eq!(shares(&only_v1, &members, Wish::new()), [1.0, 0.0, 0.0]);
    members[0].standing = Standing::Out;
    assert_eq!(shares(&only_v1, &members, Wish::new()), [0.0, 0.5, 0.5]);
    let strict = plan(&only_v1.panic(false), &members).plan;
    assert!(matches!(strict, Plan::Nowhere(Nowhere::Version)));
}

fn of_stages() -> Vec<Known> {
    ["prod", "prod", "beta", "gone", ""]
        .into_iter()
        .enumerate()
        .map(|(i, stage)| {
            let mut member = member(i, |instance| instance.meta("stage", stage));
            if stage == "gone" {
                member.standing = Standing::Out;
            }
            member
        })
        .collect()
}

#[test]
fn a_missing_subset_follows_its_rule() {
    let members = of_stages();
    let ask = |otherwise, stage| {
        let subsets = Subsets::by(["stage"]).otherwise(otherwise);
        let topology = Topology::new().subsets(subsets);
        let wish = Wish::new().subset(Subset::new("stage", stage));
        shares(&topology, &members, wish)
    };
    let beta = Otherwise::Subset(Subset::new("stage", "beta"));
    for otherwise in [Otherwise::Any, Otherwise::Fail, beta] {
        assert_eq!(ask(otherwise, "prod"), [0.5, 0.5, 0.0, 0.0, 0.0]);
    }
    for stage in ["gone", "unknown", ""] {
        assert_eq!(ask(Otherwise::Any, stage), [0.25, 0.25, 0.25, 0.0, 0.25]);
        assert_eq!(ask(beta, stage), [0.0, 0.0, 1.0, 0.0, 0.0]);
    }
    assert_eq!(ask(Otherwise::Fail, "unknown"), [0.0; 5]);
    assert_eq!(
        ask(Otherwise::Fail, "gone"),
        [0.0, 0.0, 0.0, 1.0, 0.0],
        "ejected, and the last resort of those who may go nowhere else"
    );
}

#[test]
fn subsets_that_may_not_be_left_fail_without_panic() {
    let members = of_stages();
    let reason = |otherwise, stage| {
        let subsets = Subsets::by(["stage"]).otherwise(otherwise);
        let planned = plan(&Topology::new().subsets(subsets).panic(false), &members);
        let wish = Wish::new().subset(Subset::new("stage", stage));
        let mut rng = crate::rng::small_rng(Some(1));
        (
            planned.plan.leaf(&wish, &mut rng).err(),
            planned.notices.clone(),
        )
    };
    assert_eq!(
        reason(Otherwise::Fail, "gone"),
        (Some(Nowhere::Subset), vec![])
    );
    let gone = Otherwise::Subset(Subset::new("stage", "gone"));
    assert_eq!(
        reason(gone, "unknown"),
        (Some(Nowhere::Subset), vec![Notice::NoSubset])
    );
    assert_eq!(reason(gone, "prod").0, None);
}

#[test]
fn selectors_in_any_order_name_the_same_subset_once() {
    let members = vec![
        member(0, |i| i.meta("stage", "prod").meta("model", "large")),
        member(1, |i| i.meta("stage", "prod")),
    ];
    let topology = Topology::new().subsets(
        Subsets::by(["stage", "model"])
            .and_by(["model", "stage"])
            .and_by(["stage"]),
    );
    let wish = Wish::new().subset(Subset::new("model", "large").and("stage", "prod"));
    assert_eq!(shares(&topology, &members, wish), [1.0, 0.0]);
    let stage = Wish::new().subset(Subset::new("stage", "prod"));
    assert_eq!(shares(&topology, &members, stage), [0.5, 0.5]);
}

fn of_zones(zones: &[&str]) -> Vec<Known> {
    let members = zones.iter().enumerate();
    let members = members.map(|(i, zone)| member(i, |instance| instance.zone(*zone)));
    members.collect()
}

#[test]
fn zones_are_weighed_and_one_without_a_name_is_none() {
    let mut members = of_zones(&["a", "a", "b", "b", "b", ""]);
    let topology = Topology::new().zone(ZonePreference::new("a"));
    // Each of the two zones has half of the callers. Zone a has a third of the endpoints, zone b
    // half, and a sixth has no zone.
    assert_eq!(
        shares(&topology, &members, Wish::new()),
        [0.333333, 0.333333, 0.0, 0.0, 0.0, 0.333333]
    );
    members[0].weight = 2.0;
    assert_eq!(
        shares(&topology, &members, Wish::new())[..2],
        [0.571429, 0.285714],
        "3 of 7 is 6/7 of a half"
    );
    members[0].standing = Standing::Out;
    assert_eq!(
        shares(&topology, &members, Wish::new()),
        [0.0, 0.2, 0.2, 0.2, 0.2, 0.2],
        "five are too few to prefer any"
    );
    let without = plan(&Topology::new().zone(ZonePreference::new("x")), &members);
    assert_eq!(without.notices, [Notice::NoLocal { zone: "x".into() }]);
}

#[test]
fn strict_never_leaves_the_zone() {
    let mut members = of_zones(&["a", "b", "b"]);
    let strict = |zone| Topology::new().zone(ZonePreference::new(zone).locality(Locality::Strict));
    assert_eq!(shares(&strict("a"), &members, Wish::new()), [1.0, 0.0, 0.0]);
    members[0].standing = Standing::Out;
    assert_eq!(
        shares(&strict("a"), &members, Wish::new()),
        [1.0, 0.0, 0.0],
        "ejected, but the only one"
    );
    let ejected = plan(&strict("a").panic(false), &members).plan;
    assert!(matches!(ejected, Plan::Nowhere(Nowhere::Ejected)));
    let nobody = plan(&strict("c"), &members).plan;
    assert!(matches!(nobody, Plan::Nowhere(Nowhere::Zone)));
}

#[test]
fn other_zones_are_in_reserve() {
    let members = of_zones(&["a", "a", "a", "b", "b", "b"]);
    let plan = plan(&Topology::new().zone(ZonePreference::new("a")), &members).plan;
    let other = plan.find(&Wish::new(), &mut |set| set.places.contains(&4));
    assert_eq!(other.unwrap().places, [3, 4, 5]);
}

#[test]
fn a_failing_group_spills_into_the_next() {
    let mut members: Vec<_> = (0..20)
        .map(|i| {
            member(i, |instance| {
                instance.meta("priority", (i / 10).to_string())
            })
        })
        .collect();
    let topology = Topology::new().priority(Priority::by_metadata("priority"));
    assert_eq!(shares(&topology, &members, Wish::new())[10..], [0.0; 10]);
    for member in &mut members[..5] {
        member.standing = Standing::Out;
    }
    let spilt = shares(&topology, &members, Wish::new());
    assert_eq!(spilt[5], 0.14, "70 % on five");
    assert_eq!(spilt[10], 0.03, "30 % on ten");
    for member in &mut members[..10] {
        member.standing = Standing::Out;
    }
    assert_eq!(shares(&topology, &members, Wish::new())[10], 0.1);
    for member in &mut members {
        member.standing = Standing::Out;
    }
    assert_eq!(
        shares(&topology, &members, Wish::new())[0],
        0.1,
        "in panic as if all were well: the first group"
    );
}

#[test]
fn endpoints_of_a_foreign_discovery_take_part_where_nothing_is_asked() {
    let mut members = plain(2);
    for member in &mut members {
        member.instance = None;
    }
    let topology = split(Shares::canary("v2", 0.1))
        .zone(ZonePreference::new("a"))
        .priority(Priority::by_zone(["a"]))
        .subsets(Subsets::by(["stage"]));
    assert_eq!(shares(&topology, &members, Wish::new()), [0.5, 0.5]);
}

fn any_member() -> impl Strategy<Value = Known> {
    let weight = prop_oneof![Just(0.0), Just(1.0), Just(5.0), Just(f64::NAN)];
    let standing = prop_oneof![
        2 => Just(Standing::In),
        1 => Just(Standing::OnTrial),
        2 => Just(Standing::Out),
        1 => Just(Standing::Held),
    ];
    (0..4_usize, 0..4_usize, 0..4_usize, weight, standing).prop_map(
        |(zone, version, stage, weight, standing)| {
            let name = |i: usize| ["", "a", "b", "c"][i];
            let mut member = member(0, |instance| {
                instance
                    .zone(name(zone))
                    .meta("version", name(version))
                    .meta("stage", name(stage))
            });
            (member.weight, member.standing) = (weight, standing);
            member
        },
    )
}

proptest! {
    #[test]
    fn shares_sum_to_one_and_spare_the_drained_and_the_ejected(
        mut members in proptest::collection::vec(any_member(), 1..30),
        rules in proptest::bits::u8::ANY,
        stage in 0..4_usize,
    ) {
        for (i, member) in members.iter_mut().enumerate() {
            member.index = i;
            member.key = Key::new(i.to_string(), "");
        }
        let rule = |i: u8| rules & (1 << i) != 0;
        let mut topology = Topology::new().panic(rule(0));
        if rule(1) {
            topology = topology.zone(ZonePreference::new("a").min_endpoints(0));
        }
        if rule(2) {
            topology = topology.priority(Priority::by_zone(["b", "a"]));
        }
        if rule(3) {
            let shares = Shares::new().version("a", 1.0).version("b", 2.0).rest(0.5);
            topology = topology.split(SplitSettings::new(shares).sticky(true)).live();
        }
        if rule(4) {
            topology = topology.subsets(Subsets::by(["stage"]));
        }
        if rule(5) {
            topology = topology.subsetting(Subsetting::new(NonZeroUsize::new(2).unwrap()));
        }
        let mut wish = Wish::new().subset(Subset::new("stage", ["", "a", "b", "c"][stage]));
        if rule(6) {
            wish = wish.key("user");
        }
        let weights: Vec<f64> = members.iter().map(|member| member.weight).collect();
        let planned = plan(&topology, &members);
        let shares = planned.plan.shares(&wish, &weights);
        let sum: f64 = shares.iter().sum();
        let drained = members.iter().any(|member| member.weight != 0.0);
        let weighs = |member: &Known| member.weight != 0.0 || !drained;
        let someone = members.iter().any(|m| weighs(m) && m.standing == Standing::In);
        let panics = rule(0) && !someone;
        let may = |member: &Known| weighs(member) && match member.standing {
            Standing::In | Standing::OnTrial => true,
            Standing::Out => panics,
            Standing::Held => false,
        };
        if members.iter().any(may) {
            prop_assert!((sum - 1.0).abs() < 1e-9, "{} of {:?}", sum, planned);
        } else {
            prop_assert_eq!(sum, 0.0);
        }
        for (member, share) in members.iter().zip(&shares) {
            prop_assert!(may(member) || *share == 0.0, "{:?} gets {}", member, share);
        }
        prop_assert_eq!(
            planned.notices.contains(&Notice::Panic),
            panics && members.iter().any(may)
        );
        planned.plan.each_leaf(&mut |set| {
            let standing = set.places.iter().map(|i| members[*i].standing);
            let picked = standing.take(set.candidates);
            let are_in = picked.filter(|standing| *standing == Standing::In).count();
            assert_eq!(are_in, if set.panic { 0 } else { set.candidates }, "{set:?}");
        });
    }
}
