//! Random sequences of changes, orders and requests with wishes over subsets, versions and groups,
//! against a model that only knows who may be picked.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;
use tower::{Service, ServiceExt};
use tower_roster::{
    Instance,
    attempt::Tried,
    balance::topology::{
        Otherwise, Priority, Shares, Split, SplitSettings, Subset, Subsets, Topology, Version, Wish,
    },
};

use crate::{
    kit::{key, layer},
    registry::{Placed, at},
};

/// The last is always listed.
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "stays"];
const STAGES: [&str; 4] = ["", "prod", "beta", "of nobody"];
/// The first two have shares of their own.
const VERSIONS: [&str; 4] = ["v1", "v2", "v3", ""];

/// What the registry says of an endpoint.
#[derive(Clone, Copy, Debug)]
struct Said {
    stage: usize,
    version: usize,
    group: usize,
    weight: u16,
}

#[derive(Clone, Debug)]
enum Step {
    /// Lists an endpoint, changes what is said of it, or removes it.
    Say(usize, Option<Said>),
    Eject(usize),
    Restore(usize),
    /// Shares of the first two versions and of the rest.
    Split([bool; 3]),
    /// A request with this subset and version, if any, and its attempts.
    Request(Option<usize>, Option<usize>, usize),
}

fn step() -> impl Strategy<Value = Step> {
    use proptest::option::of;
    let name = || 0..NAMES.len();
    let said = (0..3_usize, 0..4_usize, 0..3_usize, 0..3_u16);
    let said = said.prop_map(|(stage, version, group, weight)| Said {
        stage,
        version,
        group,
        weight,
    });
    prop_oneof![
        6 => (name(), proptest::option::weighted(0.7, said)).prop_map(|(n, s)| Step::Say(n, s)),
        3 => name().prop_map(Step::Eject),
        3 => name().prop_map(Step::Restore),
        2 => any::<[bool; 3]>().prop_map(Step::Split),
        9 => (of(1..4_usize), of(0..3_usize), 1..4_usize)
            .prop_map(|(s, v, n)| Step::Request(s, v, n)),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Rules {
    /// 0 and 1: without subsets; 2: to any; 3: fail; 4: to production.
    subsets: usize,
    split: bool,
    priority: bool,
}

#[derive(Default)]
struct Known {
    said: Option<Said>,
    ejected: bool,
}

type Set = BTreeSet<usize>;

struct Model {
    rules: Rules,
    shares: [bool; 3],
    known: BTreeMap<usize, Known>,
}

impl Model {
    fn said(&self, name: usize) -> Said {
        self.known[&name].said.expect("it is listed")
    }

    fn listed(&self) -> Set {
        let listed = self.known.iter().filter(|(_, known)| known.said.is_some());
        listed.map(|(name, _)| *name).collect()
    }

    /// All but the drained.
    fn serving(&self) -> Set {
        let all = self.listed();
        let weighed = all.iter().any(|name| self.said(*name).weight > 0);
        let serves = |name: &usize| !weighed || self.said(*name).weight > 0;
        all.into_iter().filter(serves).collect()
    }

    fn live(&self, set: &Set) -> Set {
        let live = set.iter().filter(|name| !self.known[name].ejected);
        live.copied().collect()
    }

    /// Those that a request with this wish may not leave, ejected ones included.
    fn subset(&self, wish: Option<usize>) -> Set {
        let all = self.serving();
        let of = |stage: usize| -> Set {
            let of = all.iter().filter(|name| self.said(**name).stage == stage);
            of.copied().collect()
        };
        let is_there = |set: &Set| !self.live(set).is_empty();
        match (wish, self.rules.subsets) {
            (None, _) | (_, 0 | 1) => all,
            (Some(stage), _) if is_there(&of(stage)) => of(stage),
            (_, 2) => all,
            (_, 3) => Set::new(),
            _ => of(1),
        }
    }

    /// Those of a set that are of one version, as the shares name them.
    fn of_version(&self, set: &Set, version: usize) -> Set {
        let of = set.iter();
        of.filter(|name| self.said(**name).version.min(2) == version)
            .copied()
            .collect()
    }

    /// Whom a first attempt may go to, and whom a later one may go to that has been to all of those.
    fn may(&self, subset: Option<usize>, version: Option<usize>) -> (Set, Set) {
        let set = self.subset(subset);
        if !self.rules.split {
            return (self.groups(&set), self.live(&set));
        }
        let versions = [0, 1, 2].map(|version| self.of_version(&set, version));
        let is_there = |version: usize| !self.live(&versions[version]).is_empty();
        if let Some(wish) = version.filter(|wish| *wish < 2 && is_there(*wish)) {
            let pinned = &versions[wish];
            return (self.groups(pinned), self.live(pinned));
        }
        let there: Vec<_> = (0..3).filter(|version| is_there(*version)).collect();
        let shared = there.iter().filter(|version| self.shares[**version]);
        let mut first: Vec<_> = shared.copied().collect();
        if first.is_empty() {
            first = there;
        }
        let first = first
            .iter()
            .flat_map(|version| self.groups(&versions[*version]));
        (first.collect(), self.live(&set))
    }

    /// The live ones of those groups of a set that have a share.
    fn groups(&self, set: &Set) -> Set {
        if !self.rules.priority {
            return self.live(set);
        }
        let weighed = set.iter().any(|name| self.said(*name).weight > 0);
        let sum = |set: &Set| -> f64 {
            let weights = set.iter().map(|name| self.said(*name).weight);
            weights
                .map(|weight| if weighed { weight.into() } else { 1.0 })
                .sum()
        };
        let (mut used, mut before) = (Set::new(), 0.0);
        for group in 0..3 {
            let of = set.iter().filter(|name| self.said(**name).group == group);
            let of: Set = of.copied().collect();
            let live = self.live(&of);
            // A group gets something unless those before it are well enough for everything.
            if before < 1.0 - 1e-9 {
                used.extend(&live);
            }
            if !of.is_empty() {
                before += (1.4 * sum(&live) / sum(&of)).min(1.0);
            }
        }
        used
    }
}

/// The subset and the version that a number stands for; odd ones have a key.
fn wish(number: &u32) -> Wish {
    let part = |of: u32| (number / 2 / of % 5) as usize;
    let mut wish = Wish::new();
    if let Some(stage) = STAGES.get(part(1)) {
        wish = wish.subset(Subset::new("stage", stage));
    }
    if let Some(version) = VERSIONS.get(part(5)) {
        wish = wish.version(Version::new(version));
    }
    if number % 2 == 1 {
        wish.key(number.to_le_bytes())
    } else {
        wish
    }
}

fn shares(shares: [bool; 3]) -> Shares {
    let [v1, v2, rest] = shares.map(|share| f64::from(u8::from(share)));
    Shares::new().version("v1", v1).version("v2", v2).rest(rest)
}

struct Run {
    placed: Placed,
    split: Split,
    model: Model,
    sent: u32,
}

impl Run {
    async fn list(&self) {
        let listed = self.model.listed().into_iter().map(|name| -> Instance {
            let said = self.model.said(name);
            at(NAMES[name], 80, said.weight)
                .meta("stage", STAGES[said.stage])
                .meta("version", VERSIONS[said.version])
                .meta("group", said.group.to_string())
        });
        self.placed.listed.apply(listed.collect::<Vec<_>>()).await;
    }

    async fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        let handle = self.placed.handle.clone();
        match step {
            Step::Say(name, said) => {
                if said.is_some() || NAMES[name] != "stays" {
                    self.model.known.entry(name).or_default().said = said;
                    self.list().await;
                }
            }
            Step::Eject(name) => {
                if handle.eject(&key(NAMES[name])).await.unwrap() {
                    self.model.known.entry(name).or_default().ejected = true;
                }
            }
            Step::Restore(name) => {
                if handle.restore(&key(NAMES[name])).await.unwrap() {
                    self.model.known.entry(name).or_default().ejected = false;
                }
            }
            // All zeros are refused.
            Step::Split(set) => {
                if self.split.set(shares(set)).is_ok() {
                    self.model.shares = set;
                }
            }
            Step::Request(subset, version, attempts) => {
                return self.request(subset, version, attempts).await;
            }
        }
        Ok(())
    }

    async fn request(
        &mut self,
        subset: Option<usize>,
        version: Option<usize>,
        attempts: usize,
    ) -> Result<(), TestCaseError> {
        // Slow start would count in the health of groups.
        tokio::time::sleep(Duration::from_secs(6)).await;
        let live = self.model.live(&self.model.serving()).len();
        prop_assert_eq!(self.placed.balance.usable(), live);
        let (first, later) = self.model.may(subset, version);
        self.sent += 1;
        let (subset, version) = (subset.unwrap_or(4) as u32, version.unwrap_or(4) as u32);
        let number = self.sent % 2 + 2 * (subset + 5 * version);
        let (mut tried, mut seen) = (Tried::new(), Set::new());
        for attempt in 0..attempts {
            let mut balance = self.placed.balance.clone();
            let answer = match balance.ready().await {
                Ok(balance) => tried.enter(|| balance.call(number)).await,
                Err(error) => Err(error),
            };
            let Ok(answer) = answer else {
                prop_assert!(answer.unwrap_err().is_no_endpoint());
                prop_assert!(first.is_empty(), "none was picked of {first:?}");
                return Ok(());
            };
            let name = NAMES
                .iter()
                .position(|name| answer.starts_with(*name))
                .unwrap();
            let may = if attempt == 0 { &first } else { &later };
            prop_assert!(may.contains(&name), "{name} was picked of {may:?}");
            let others = later.difference(&seen).count();
            prop_assert!(others == 0 || !seen.contains(&name), "{name} again");
            seen.insert(name);
        }
        Ok(())
    }
}

async fn run(rules: Rules, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let split = SplitSettings::new(shares([true; 3]))
        .sticky(true)
        .build()
        .unwrap();
    let mut topology = Topology::new();
    let otherwise = [
        Otherwise::Any,
        Otherwise::Fail,
        Otherwise::Subset(Subset::new("stage", "prod")),
    ];
    if let Some(which) = rules.subsets.checked_sub(2) {
        topology = topology.subsets(Subsets::by(["stage"]).otherwise(otherwise[which]));
    }
    if rules.split {
        topology = topology.shared_split(split.clone());
    }
    if rules.priority {
        topology = topology.priority(Priority::by_metadata("group"));
    }
    // Whatever is ordered by hand is known for good.
    let layer = layer().wait(Duration::ZERO).grace(Duration::MAX);
    let layer = layer.topology(topology);
    let stays = Known {
        said: Some(Said {
            stage: 1,
            version: 0,
            group: 0,
            weight: 1,
        }),
        ..Known::default()
    };
    let mut run = Run {
        placed: Placed::new(layer, wish, []).await,
        split,
        model: Model {
            rules,
            shares: [true; 3],
            known: BTreeMap::from([(NAMES.len() - 1, stays)]),
        },
        sent: 0,
    };
    run.list().await;
    for step in steps {
        run.step(step).await?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_agrees_with_the_model(
        rules in (0..5_usize, any::<bool>(), any::<bool>()),
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let (subsets, split, priority) = rules;
        let rules = Rules { subsets, split, priority };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(rules, steps))?;
    }
}
