//! Tests with random operations in random order.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    classify::Outcome,
    endpoint::eject::{EjectCause, Ejection, GateState, Pass},
};
use proptest::prelude::*;

use super::scene::{Key, MS, SECOND, Scene};

const KEYS: Key = 8;

#[derive(Clone, Debug)]
enum Event {
    Insert(Key),
    Remove(Key),
    Start(Key),
    /// Ends one of the requests in flight.
    End(usize, u8, u64),
    Fail(Key),
    Check(Key, bool),
    Eject(Key),
    Restore(Key),
    Weigh(Key, bool),
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let key = || 0..KEYS;
    prop_oneof![
        1 => key().prop_map(Event::Insert),
        1 => key().prop_map(Event::Remove),
        6 => key().prop_map(Event::Start),
        6 => (any::<usize>(), 0u8..8, 0u64..3_000).prop_map(|(n, outcome, ms)| Event::End(n, outcome, ms)),
        3 => key().prop_map(Event::Fail),
        1 => (key(), any::<bool>()).prop_map(|(key, passes)| Event::Check(key, passes)),
        1 => key().prop_map(Event::Eject),
        1 => key().prop_map(Event::Restore),
        2 => (key(), any::<bool>()).prop_map(|(key, weighs)| Event::Weigh(key, weighs)),
        3 => (0u64..5_000).prop_map(Event::Pass),
    ]
}

struct Run {
    scene: Scene,
    under_way: Vec<(Key, Pass)>,
    held: BTreeSet<Key>,
    drained: BTreeSet<Key>,
}

impl Run {
    fn apply(&mut self, event: Event) {
        let scene = &mut self.scene;
        match event {
            Event::Insert(key) => scene.insert(key),
            Event::Remove(key) => {
                scene.remove(key);
                self.held.remove(&key);
                self.drained.remove(&key);
                self.under_way.retain(|(whose, _)| *whose != key);
            }
            Event::Start(key) => {
                let pass = scene.admit(key);
                self.under_way.extend(pass.map(|pass| (key, pass)));
            }
            Event::End(n, outcome, ms) if !self.under_way.is_empty() => {
                let n = n % self.under_way.len();
                let (key, pass) = self.under_way.swap_remove(n);
                let outcome = match outcome {
                    0..3 => Outcome::Success,
                    3..6 => Outcome::Failure,
                    6 => Outcome::Overloaded,
                    _ => Outcome::Cancelled,
                };
                scene.record(key, pass, outcome, Duration::from_millis(ms));
            }
            Event::End(..) => {}
            Event::Fail(key) => {
                // Never as the probe, because only one probe may be in progress.
                if scene.is_open(key) {
                    scene.fail(key);
                }
            }
            Event::Check(key, true) => scene.ejector.check_passed(&key, scene.now),
            Event::Check(key, false) => scene.ejector.check_failed(&key, 3, scene.now),
            Event::Eject(key) => {
                if scene.ejector.eject(&key, scene.now) {
                    self.held.insert(key);
                }
            }
            Event::Restore(key) => {
                scene.ejector.restore_by_hand(&key, scene.now);
                self.held.remove(&key);
            }
            Event::Weigh(key, weighs) => {
                let drained = &mut self.drained;
                if weighs {
                    drained.remove(&key);
                } else if scene.healths.contains_key(&key) {
                    drained.insert(key);
                }
                scene.weigh(|key| !drained.contains(&key));
            }
            Event::Pass(ms) => scene.pass(Duration::from_millis(ms)),
        }
        scene.pass(Duration::ZERO);
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let scene = &self.scene;
        let n = scene.healths.len();
        let out = n - scene.open().len();
        prop_assert_eq!(scene.ejector.len(), n);
        prop_assert_eq!(scene.ejector.out(), out, "gates and counts agree");
        // If no endpoint has a weight, all count.
        let counts = |key: &Key| !self.drained.contains(key) || self.drained.len() == n;
        let counted: Vec<_> = scene.healths.keys().filter(|key| counts(key)).collect();
        let out = counted.iter().filter(|key| !scene.is_open(***key)).count();
        let held = counted.iter().filter(|key| self.held.contains(key)).count();
        let allowed = scene.ejector.rules().allowed(counted.len());
        prop_assert!(
            out <= allowed.max(held),
            "{} of {} out, {} allowed, {} held",
            out,
            counted.len(),
            allowed,
            held
        );
        if held == 0 && n > 0 {
            prop_assert!(out < counted.len(), "the last one stays");
        }
        let mut probes = self.under_way.iter().filter(|(key, pass)| {
            let gate = scene.healths[key].gate();
            pass.is_probe() && gate == GateState::Probing
        });
        let mut seen = Vec::new();
        prop_assert!(
            probes.all(|(key, pass)| {
                let first = !seen.contains(&(key, pass));
                seen.push((key, pass));
                first
            }),
            "no permit is given twice"
        );
        for (key, health) in &scene.healths {
            let cause = scene.ejector.cause(key);
            prop_assert_eq!(cause.is_some(), health.gate() != GateState::Open);
            prop_assert_eq!(cause == Some(EjectCause::ByHand), self.held.contains(key));
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_share_holds_the_last_stays_and_all_come_back(
        n in 0..KEYS,
        share in prop::sample::select(vec![0.0, 0.1, 0.3, 0.5, 0.7, 1.0]),
        seed in any::<u64>(),
        events in prop::collection::vec(event(), 0..200),
    ) {
        let rules = Ejection::new().max_ejected(share);
        let mut run = Run {
            scene: Scene::new(n, rules, seed),
            under_way: Vec::new(),
            held: BTreeSet::new(),
            drained: BTreeSet::new(),
        };
        for event in events {
            run.apply(event);
            run.check()?;
        }
        // From here on all requests succeed: every endpoint that is out is probed and restored.
        let held: Vec<_> = run.held.iter().copied().collect();
        for key in held {
            run.apply(Event::Restore(key));
        }
        for key in 0..KEYS {
            run.apply(Event::Check(key, true));
        }
        // The probes in progress never end.
        let scene = &mut run.scene;
        let began = scene.now;
        while scene.open().len() < scene.healths.len() {
            for key in 0..KEYS {
                if let Some(pass) = scene.admit(key) {
                    scene.record(key, pass, Outcome::Success, MS);
                }
            }
            scene.pass(100 * MS);
            prop_assert!(scene.now - began < 80 * SECOND, "somebody never returns");
        }
        prop_assert_eq!(scene.ejector.out(), 0);
    }
}
