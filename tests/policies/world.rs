//! A small world with a clock of its own: clients without end send to servers of given latencies.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use rand::{RngExt, rngs::SmallRng};
use tokio::time::Instant;
use tower_roster::{
    balance::policy::{Draw, Policy, Trial},
    classify::Outcome,
};

/// How long a server takes, in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Latency {
    Constant(f64),
    /// Exponential, with this mean.
    Random(f64),
}

impl Latency {
    fn draw(self, rng: &mut SmallRng) -> Duration {
        Duration::from_secs_f64(match self {
            Self::Constant(seconds) => seconds,
            Self::Random(mean) => exponential(rng) * mean,
        })
    }
}

fn exponential(rng: &mut SmallRng) -> f64 {
    -(1.0 - rng.random::<f64>()).ln()
}

pub(crate) struct World<P: Policy> {
    pub(crate) trial: Trial<P>,
    pub(crate) servers: Vec<Latency>,
    pub(crate) rng: SmallRng,
    pub(crate) now: Instant,
    /// Requests begun on each server.
    pub(crate) counts: Vec<u64>,
    /// When each request ends, on which server, and when it began.
    flying: BinaryHeap<Reverse<(Instant, usize, Instant)>>,
}

impl<P: Policy> World<P> {
    pub(crate) fn new(policy: &P, weights: &[f64], servers: &[Latency]) -> Self {
        let mut rng = crate::rng();
        Self {
            trial: Trial::new(policy, weights, &mut rng),
            servers: servers.to_vec(),
            rng,
            now: Instant::now(),
            counts: vec![0; weights.len()],
            flying: BinaryHeap::new(),
        }
    }

    /// Sends `requests` at random times, on average `rate` a second, whatever becomes of them.
    pub(crate) fn open(&mut self, requests: u64, rate: f64) {
        for _ in 0..requests {
            let pause = Duration::from_secs_f64(exponential(&mut self.rng) / rate);
            let next = self.now + pause;
            self.end_until(next);
            self.now = next;
            self.send();
        }
    }

    /// Keeps `clients` requests in flight until `requests` were sent.
    pub(crate) fn closed(&mut self, requests: u64, clients: usize) {
        for _ in 0..requests {
            if self.flying.len() >= clients {
                let Reverse((end, ..)) = *self.flying.peek().unwrap();
                self.end_until(end);
                self.now = end;
            }
            self.send();
        }
    }

    pub(crate) fn send(&mut self) -> usize {
        let picked = self.trial.pick(&mut Draw::new(&mut self.rng).at(self.now));
        self.trial.start(picked, self.now);
        self.counts[picked] += 1;
        let latency = self.servers[picked].draw(&mut self.rng);
        self.flying
            .push(Reverse((self.now + latency, picked, self.now)));
        picked
    }

    fn end_until(&mut self, now: Instant) {
        while let Some(Reverse((end, server, began))) = self.flying.peek().copied() {
            if end > now {
                return;
            }
            self.flying.pop();
            self.trial.end(server, Outcome::Success, end - began, end);
        }
    }

    /// What a server got of all requests since the last time.
    pub(crate) fn take_shares(&mut self) -> Vec<f64> {
        let total: u64 = self.counts.iter().sum();
        let shares = self.counts.iter().map(|count| *count as f64 / total as f64);
        let shares = shares.collect();
        self.counts.iter_mut().for_each(|count| *count = 0);
        shares
    }
}
