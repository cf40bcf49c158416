//! The machine against a naive one.

use std::time::Duration;

use proptest::prelude::*;

use super::{
    machine::{Machine, Moved, Pass, Probed, Refusal, Rules},
    state::State,
};

fn rules(probes: u32) -> Rules {
    Rules {
        open_time: (Duration::from_secs(1), Duration::from_secs(30)),
        jitter: 0.0,
        probes,
        probe_deadline: 5_000,
        seed: 1,
    }
}

/// All in the open: a list of probes, and whole numbers that never wrap.
#[derive(Debug)]
struct Naive {
    state: Naively,
    /// Which time in this state it is.
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
        /// Number of the call, and whether its answer has begun.
        flying: Vec<(usize, bool)>,
        successes: usize,
        since: u64,
    },
    ForcedOpen,
    ForcedClosed,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    pass: Pass,
    /// Of the naive one.
    time: u64,
}

impl Naive {
    fn state(&self) -> State {
        match self.state {
            Naively::Closed => State::Closed,
            Naively::Open { .. } => State::Open,
            Naively::HalfOpen { .. } => State::HalfOpen,
            Naively::ForcedOpen => State::ForcedOpen,
            Naively::ForcedClosed => State::ForcedClosed,
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

    /// Whether call number `number` is let through, and as a probe.
    fn admit(&mut self, number: usize, now: u64) -> Result<bool, Refusal> {
        self.expire(now);
        match &mut self.state {
            Naively::Closed | Naively::ForcedClosed => Ok(false),
            Naively::ForcedOpen => Err(Refusal::Forced),
            Naively::Open { until } if now < *until => Err(Refusal::Open(*until - now)),
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
                    return Err(Refusal::Probing);
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
enum Step {
    Wait(u64),
    Admit,
    Begin(usize),
    End(usize, Probed),
    Trip(usize),
    Relapse(usize),
    Expire,
    Force(State),
}

fn step() -> impl Strategy<Value = Step> {
    let result = prop_oneof![
        4 => Just(Probed::Good),
        1 => Just(Probed::Bad),
        1 => Just(Probed::Cancelled),
    ];
    let forced = prop::sample::select(vec![State::Closed, State::ForcedOpen, State::ForcedClosed]);
    // Calls are named from the latest back, so that most belong to the state of the time.
    prop_oneof![
        6 => prop_oneof![5 => 0..2_000_u64, 1 => 0..100_000_u64].prop_map(Step::Wait),
        9 => Just(Step::Admit),
        3 => (0..6_usize).prop_map(Step::Begin),
        9 => (0..6_usize, result).prop_map(|(back, result)| Step::End(back, result)),
        3 => (0..6_usize).prop_map(Step::Trip),
        1 => (0..6_usize).prop_map(Step::Relapse),
        1 => Just(Step::Expire),
        1 => forced.prop_map(Step::Force),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn does_what_the_naive_machine_does(
        probes in 1..4_u32,
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut machine = Machine::new(rules(probes));
        let mut naive = Naive {
            state: Naively::Closed,
            time: 0,
            streak: 0,
            closed_at: 0,
            probes: probes as usize,
        };
        let mut now = 0;
        // Each call with its number, whether it has begun, and whether it is over.
        let mut calls: Vec<(Call, bool, bool)> = Vec::new();
        let mut moves: Vec<Moved> = Vec::new();
        for step in steps {
            let before = moves.len();
            let find = |back: usize, calls: &[(Call, bool, bool)]| {
                calls.len().checked_sub(1 + back)
            };
            match step {
                Step::Wait(millis) => now += millis,
                Step::Expire => {
                    machine.expire(now, &mut moves);
                    naive.expire(now);
                }
                Step::Force(to) => {
                    machine.force(to, now, &mut moves);
                    naive.streak = 0;
                    naive.closed_at = now;
                    naive.go(match to {
                        State::ForcedOpen => Naively::ForcedOpen,
                        State::ForcedClosed => Naively::ForcedClosed,
                        _ => Naively::Closed,
                    });
                }
                Step::Admit => {
                    let refuses = machine.refuses(now);
                    let real = machine.admit(now, &mut moves);
                    let expected = naive.admit(calls.len(), now);
                    prop_assert_eq!(real.map(|pass| pass.probe), expected);
                    prop_assert!(!refuses || real.is_err());
                    if let Ok(pass) = real {
                        let time = naive.time;
                        calls.push((Call { pass, time }, false, false));
                    }
                }
                Step::Begin(back) => {
                    let Some(number) = find(back, &calls) else { continue };
                    let (call, begun, over) = &mut calls[number];
                    if !call.pass.probe || *begun || *over {
                        continue;
                    }
                    *begun = true;
                    machine.begin(call.pass);
                    if let Naively::HalfOpen { flying, .. } = &mut naive.state {
                        let named = flying.iter_mut().find(|(flies, _)| *flies == number);
                        if let Some((_, begun)) = named {
                            *begun = true;
                        }
                    }
                }
                Step::End(back, result) => {
                    let Some(number) = find(back, &calls) else { continue };
                    let (call, begun, over) = &mut calls[number];
                    if !call.pass.probe || *over {
                        continue;
                    }
                    *over = true;
                    machine.probed(call.pass, result, *begun, now, &mut moves);
                    if call.time == naive.time {
                        naive.probed(number, result, now);
                    }
                }
                Step::Trip(back) => {
                    let Some(number) = find(back, &calls) else { continue };
                    let (call, ..) = calls[number];
                    machine.trip(call.pass, now, &mut moves);
                    if call.time == naive.time {
                        naive.trip(now);
                    }
                }
                Step::Relapse(back) => {
                    let Some(number) = find(back, &calls) else { continue };
                    let (call, ..) = calls[number];
                    machine.relapsed(call.pass, now, &mut moves);
                    let probing = matches!(naive.state, Naively::HalfOpen { .. });
                    if call.time == naive.time && probing {
                        naive.open(now);
                    }
                }
            }
            prop_assert_eq!(machine.state(), naive.state());
            let remaining = match naive.state {
                Naively::Open { until } => Some(until.saturating_sub(now)),
                _ => None,
            };
            prop_assert_eq!(machine.remaining(now), remaining);
            for pair in moves[before..].windows(2) {
                prop_assert_eq!(pair[0].to, pair[1].from, "told in order");
            }
            if let Some(last) = moves[before..].last() {
                prop_assert_eq!(last.to, machine.state(), "the last move is the state");
            }
        }
    }
}

#[test]
fn jitter_stays_within_its_share_and_repeats() {
    let open_for = |seed| {
        let mut machine = Machine::new(Rules {
            jitter: 0.2,
            seed,
            ..rules(1)
        });
        let mut moves = Vec::new();
        let pass = machine.admit(0, &mut moves).unwrap();
        machine.trip(pass, 0, &mut moves);
        moves[0].open_for.unwrap().as_millis()
    };
    let times: Vec<_> = (0..200).map(open_for).collect();
    assert!(times.iter().all(|time| (800..=1_201).contains(time)));
    assert!(times.iter().max().unwrap() - times.iter().min().unwrap() > 300);
    assert_eq!(open_for(7), open_for(7));
}
