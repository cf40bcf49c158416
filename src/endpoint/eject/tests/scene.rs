//! A set of endpoints for tests, with the actions of the driver and of requests.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    classify::Outcome,
    endpoint::eject::{
        Ejection, Ejector, EndpointHealth, History, Pass, Restored, Round, Signal, StepKind,
    },
};
use rand::{SeedableRng, rngs::SmallRng};
use tokio::time::Instant;

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MS: Duration = Duration::from_millis(1);

pub(super) type Key = u32;

/// Numbered endpoints, an ejector, and a clock.
pub(super) struct Scene {
    pub(super) now: Instant,
    pub(super) ejector: Ejector<Key>,
    pub(super) healths: BTreeMap<Key, Arc<EndpointHealth>>,
    rounds: BTreeMap<Key, Round>,
    /// The steps, with the milliseconds since the beginning.
    pub(super) log: Vec<(u128, Key, StepKind)>,
    began: Instant,
}

impl Scene {
    pub(super) fn new(n: u32, rules: Ejection, seed: u64) -> Scene {
        let now = Instant::now();
        let mut scene = Scene {
            now,
            ejector: Ejector::new(rules, SmallRng::seed_from_u64(seed), now),
            healths: BTreeMap::new(),
            rounds: BTreeMap::new(),
            log: Vec::new(),
            began: now,
        };
        (0..n).for_each(|key| scene.insert(key));
        scene
    }

    pub(super) fn insert(&mut self, key: Key) {
        let round = self.ejector.insert(key);
        self.rounds.insert(key, round);
        let health = || Arc::new(EndpointHealth::with(round, ()));
        self.healths.entry(key).or_insert_with(health);
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<History> {
        let history = self.ejector.remove(&key, self.now);
        self.healths.remove(&key);
        self.follow();
        history
    }

    /// Removes an endpoint for a while.
    pub(super) fn flap(&mut self, key: Key, away: Duration) {
        let history = self.remove(key).expect("something is known of it");
        self.pass(away);
        self.insert(key);
        self.ejector.recall(&key, history, self.now);
        self.pass(Duration::ZERO);
    }

    /// Sets which endpoints have a weight.
    pub(super) fn weigh(&mut self, weighs: impl Fn(Key) -> bool) {
        for key in self.healths.keys() {
            self.ejector.set_weighed(key, weighs(*key));
        }
        self.ejector.keep_share(self.now);
        self.follow();
    }

    /// Does the work of the driver at each deadline until `time` has passed.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let deadline = self.ejector.next_deadline();
            self.now = deadline.clamp(self.now, end);
            let healths = &self.healths;
            self.ejector
                .due(self.now, |key| healths.get(key).map(|health| &**health));
            let all = healths.iter().map(|(key, health)| (key, &**health));
            self.ejector.tick(self.now, all);
            self.follow();
            if deadline > end {
                return;
            }
        }
    }

    fn follow(&mut self) {
        while let Some(step) = self.ejector.next_step() {
            if let Some(health) = self.healths.get(&step.key) {
                health.follow(&step);
            }
            self.rounds.insert(step.key, step.round);
            let at = self.now - self.began;
            self.log.push((at.as_millis(), step.key, step.kind));
        }
    }

    pub(super) fn admit(&self, key: Key) -> Option<Pass> {
        self.healths.get(&key)?.admit()
    }

    pub(super) fn record(&mut self, key: Key, pass: Pass, outcome: Outcome, latency: Duration) {
        let Some(health) = self.healths.get(&key) else {
            return;
        };
        let rules = self.ejector.rules();
        match health.record(pass, outcome, Some(latency), rules) {
            Some(Signal::Tripped { round, cause }) => {
                self.ejector.trip(&key, round, cause, self.now)
            }
            Some(Signal::Probed {
                round,
                outcome,
                latency,
            }) => {
                self.ejector.probed(&key, round, outcome, latency, self.now);
            }
            None => {}
        }
        self.follow();
    }

    /// Sends `n` requests with this outcome and latency.
    pub(super) fn send(&mut self, key: Key, n: usize, outcome: Outcome, latency: Duration) {
        for _ in 0..n {
            if let Some(pass) = self.admit(key) {
                self.record(key, pass, outcome, latency);
            }
        }
    }

    pub(super) fn fail(&mut self, key: Key) {
        self.send(key, 5, Outcome::Failure, MS);
    }

    pub(super) fn is_open(&self, key: Key) -> bool {
        self.healths
            .get(&key)
            .is_some_and(|health| health.is_open())
    }

    /// The endpoints that take requests.
    pub(super) fn open(&self) -> Vec<Key> {
        let open = self.healths.keys().copied();
        open.filter(|key| self.is_open(*key)).collect()
    }

    /// Lets time pass until a probe of `key` is admitted.
    pub(super) fn probe(&mut self, key: Key) -> Pass {
        for _ in 0..100_000 {
            if let Some(pass) = self.admit(key) {
                assert!(pass.is_probe(), "an open gate needs no probe");
                return pass;
            }
            self.pass(10 * MS);
        }
        panic!("{key} is never probed: {:?}", self.log);
    }

    /// The ejections of `key`: time and length in milliseconds.
    pub(super) fn ejections(&self, key: Key) -> Vec<(u128, u128)> {
        let of = |(at, whom, kind): &(u128, Key, StepKind)| match kind {
            StepKind::Ejected {
                time: Some(time), ..
            } if *whom == key => Some((*at, time.as_millis())),
            _ => None,
        };
        self.log.iter().filter_map(of).collect()
    }

    pub(super) fn restored(&self, key: Key) -> Vec<Restored> {
        let of = |(_, whom, kind): &(u128, Key, StepKind)| match kind {
            StepKind::Restored { by } if *whom == key => Some(*by),
            _ => None,
        };
        self.log.iter().filter_map(of).collect()
    }
}
