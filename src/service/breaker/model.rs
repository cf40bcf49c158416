//! Compares the machine with a naive model.

use std::time::Duration;

use proptest::prelude::*;
use rand::{SeedableRng, rngs::SmallRng};
use tokio::time::Instant;

use super::{
    error::Refused,
    machine::{Admission, BreakerRules, Machine, Probed},
    state::{BreakerCause, BreakerState, BreakerTransition},
};

const MS: Duration = Duration::from_millis(1);

fn rules(probes: u32) -> BreakerRules {
    BreakerRules {
        open_time: (Duration::from_secs(1), Duration::from_secs(30)),
        jitter: 0.0,
        probes,
        probe_deadline: 5_000 * MS,
    }
}

/// The naive model: a list of probes, and integers that never wrap.
#[derive(Debug)]
struct Naive {
    state: Naively,
    /// Counts the states that were entered.
    time: u64,
    streak: u32,
    closed_at: u64,
    probes: usize,
}

#[derive(Debug)]
enum Naively {
    Closed,
    Open {
        until: u64,
    },
    HalfOpen {
        /// The number of each call in flight, and whether its response has begun.
        flying: Vec<(usize, bool)>,
        successes: usize,
        since: u64,
    },
    ForcedOpen,
    ForcedClosed,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    admission: Admission,
    /// The `time` of the naive model when it admitted the call.
    time: u64,
}

impl Naive {
    fn state(&self) -> BreakerState {
        match self.state {
            Naively::Closed => BreakerState::Closed,
            Naively::Open { .. } => BreakerState::Open,
            Naively::HalfOpen { .. } => BreakerState::HalfOpen,
            Naively::ForcedOpen => BreakerState::ForcedOpen,
            Naively::ForcedClosed => BreakerState::ForcedClosed,
        }
    }

    fn go(&mut self, state: Naively) {
        self.state = state;
        self.time += 1;
    }

    fn open(&mut self, from: u64) {
        let time = 1_000 * 2_u64.pow(self.streak.min(20));
        self.streak += 1;
        self.go(Naively::Open {
            until: from + time.min(30_000),
        });
    }

    fn close(&mut self, now: u64) {
        self.closed_at = now;
        self.go(Naively::Closed);
    }

    fn expire(&mut self, now: u64) {
        let Naively::HalfOpen {
            flying,
            successes,
            since,
        } = &self.state
        else {
            return;
        };
        if flying.is_empty() || now - since < 5_000 {
            return;
        }
        if !flying.iter().all(|(_, begun)| *begun) {
            return self.open(since + 5_000);
        }
        let successes = successes + flying.len();
        if successes >= self.probes {
            return self.close(now);
        }
        self.go(Naively::HalfOpen {
            flying: Vec::new(),
            successes,
            since: now,
        });
    }

    /// Whether call number `number` is admitted, and whether it is a probe.
    fn admit(&mut self, number: usize, now: u64) -> Result<bool, Refused> {
        self.expire(now);
        match &mut self.state {
            Naively::Closed | Naively::ForcedClosed => Ok(false),
            Naively::ForcedOpen => Err(Refused::Forced),
            Naively::Open { until } if now < *until => Err(Refused::Open {
                remaining: MS * (*until - now) as u32,
            }),
            Naively::Open { .. } => {
                self.go(Naively::HalfOpen {
                    flying: vec![(number, false)],
                    successes: 0,
                    since: now,
                });
                Ok(true)
            }
            Naively::HalfOpen { flying, since, .. } => {
                if flying.len() == self.probes {
                    return Err(Refused::Probing);
                }
                flying.push((number, false));
                *since = now;
                Ok(true)
            }
        }
    }

    fn probed(&mut self, number: usize, result: Probed, now: u64) {
        let Naively::HalfOpen {
            flying,
            successes,
            since,
        } = &mut self.state
        else {
            return;
        };
        flying.retain(|(flies, _)| *flies != number);
        match result {
            Probed::Cancelled => {}
            Probed::Bad => self.open(now),
            Probed::Good => {
                *successes += 1;
                *since = now;
                if *successes == self.probes {
                    self.close(now);
                }
            }
        }
    }

    fn trip(&mut self, now: u64) {
        if matches!(self.state, Naively::Closed) {
            let forgiven = (now - self.closed_at) / 30_000;
            self.streak = self.streak.saturating_sub(forgiven as u32);
            self.open(now);
        }
    }
}

#[derive(Clone, Debug)]
enum BreakerStep {
    Wait(u64),
    Admit,
    Begin(usize),
    End(usize, Probed),
    Trip(usize),
    Relapse(usize),
    Expire,
    Force(BreakerState),
}

fn step() -> impl Strategy<Value = BreakerStep> {
    let result = prop_oneof![
        4 => Just(Probed::Good),
        1 => Just(Probed::Bad),
        1 => Just(Probed::Cancelled),
    ];
    let forced = prop::sample::select(vec![
        BreakerState::Closed,
        BreakerState::ForcedOpen,
        BreakerState::ForcedClosed,
    ]);
    // Calls are counted back from the latest, so that most belong to the current state.
    prop_oneof![
        6 => prop_oneof![5 => 0..2_000_u64, 1 => 0..100_000_u64].prop_map(BreakerStep::Wait),
        9 => Just(BreakerStep::Admit),
        3 => (0..6_usize).prop_map(BreakerStep::Begin),
        9 => (0..6_usize, result).prop_map(|(back, result)| BreakerStep::End(back, result)),
        3 => (0..6_usize).prop_map(BreakerStep::Trip),
        1 => (0..6_usize).prop_map(BreakerStep::Relapse),
        1 => Just(BreakerStep::Expire),
        1 => forced.prop_map(BreakerStep::Force),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn does_what_the_naive_machine_does(
        probes in 1..4_u32,
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let base = Instant::now();
        let at = |millis: u64| base + Duration::from_millis(millis);
        let mut machine = Machine::new(rules(probes), SmallRng::seed_from_u64(1), base);
        let mut naive = Naive {
            state: Naively::Closed,
            time: 0,
            streak: 0,
            closed_at: 0,
            probes: probes as usize,
        };
        let mut now = 0;
        // Each call: with its number, whether its response has begun, and whether it has ended.
        let mut calls: Vec<(Call, bool, bool)> = Vec::new();
        for step in steps {
            let find = |back: usize, calls: &[(Call, bool, bool)]| {
                calls.len().checked_sub(1 + back)
            };
            match step {
                BreakerStep::Wait(millis) => now += millis,
                BreakerStep::Expire => {
                    machine.expire(at(now));
                    naive.expire(now);
                }
                BreakerStep::Force(to) => {
                    machine.force(to, at(now));
                    naive.streak = 0;
                    naive.closed_at = now;
                    naive.go(match to {
                        BreakerState::ForcedOpen => Naively::ForcedOpen,
                        BreakerState::ForcedClosed => Naively::ForcedClosed,
                        _ => Naively::Closed,
                    });
                }
                BreakerStep::Admit => {
                    let refuses = machine.refuses(at(now));
                    let real = machine.admit(at(now));
                    let expected = naive.admit(calls.len(), now);
                    prop_assert_eq!(real.map(|it| it.probe), expected);
                    prop_assert!(!refuses || real.is_err());
                    if let Ok(admission) = real {
                        let time = naive.time;
                        calls.push((Call { admission, time }, false, false));
                    }
                }
                BreakerStep::Begin(back) => {
                    let Some(number) = find(back, &calls) else { continue };
                    let (call, begun, over) = &mut calls[number];
                    if !call.admission.probe || *begun || *over {
                        continue;
                    }
                    *begun = true;
                    machine.begin(call.admission);
                    if let Naively::HalfOpen { flying, .. } = &mut naive.state {
                        let named = flying.iter_mut().find(|(flies, _)| *flies == number);
                        if let Some((_, begun)) = named {
                            *begun = true;
                        }
                    }
                }
                BreakerStep::End(back, result) => {
                    let Some(number) = find(back, &calls) else { continue };
                    let (call, begun, over) = &mut calls[number];
                    if !call.admission.probe || *over {
                        continue;
                    }
                    *over = true;
                    machine.probed(call.admission, result, *begun, at(now));
                    if call.time == naive.time {
                        naive.probed(number, result, now);
                    }
                }
                BreakerStep::Trip(back) => {
                    let Some(number) = find(back, &calls) else { continue };
                    let (call, ..) = calls[number];
                    machine.trip(call.admission, BreakerCause::Created, at(now));
                    if call.time == naive.time {
                        naive.trip(now);
                    }
                }
                BreakerStep::Relapse(back) => {
                    let Some(number) = find(back, &calls) else { continue };
                    let (call, ..) = calls[number];
                    machine.relapsed(call.admission, at(now));
                    let probing = matches!(naive.state, Naively::HalfOpen { .. });
                    if call.time == naive.time && probing {
                        naive.open(now);
                    }
                }
            }
            prop_assert_eq!(machine.state(), naive.state());
            let remaining = match naive.state {
                Naively::Open { until } => Some(Duration::from_millis(until.saturating_sub(now))),
                _ => None,
            };
            prop_assert_eq!(machine.remaining(at(now)), remaining);
            let transitions: Vec<BreakerTransition> = machine.take_transitions();
            for pair in transitions.windows(2) {
                prop_assert_eq!(pair[0].to, pair[1].from, "in order");
            }
            if let Some(last) = transitions.last() {
                prop_assert_eq!(last.to, machine.state(), "the last transition leads to the state");
            }
        }
    }
}

#[test]
fn jitter_stays_within_its_share_and_repeats() {
    let open_for = |seed| {
        let jitter = 0.2;
        let rules = BreakerRules { jitter, ..rules(1) };
        let now = Instant::now();
        let mut machine = Machine::new(rules, SmallRng::seed_from_u64(seed), now);
        let call = machine.admit(now).unwrap();
        machine.trip(call, BreakerCause::Created, now);
        machine.take_transitions()[0].open_for.unwrap()
    };
    let times: Vec<_> = (0..200).map(open_for).collect();
    assert!(
        times
            .iter()
            .all(|time| (800 * MS..=1_200 * MS).contains(time))
    );
    let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    assert!(*most - *least > 300 * MS);
    assert_eq!(open_for(7), open_for(7));
}
