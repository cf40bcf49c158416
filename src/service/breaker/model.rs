//! The machine against a naive one, and in every interleaving.

use std::time::Duration;

use super::{
    State,
    machine::{Machine, Moved, Pass, Probed, Refusal, Rules, Why},
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

#[cfg(not(roster_loom))]
mod against_a_naive_one {
    use proptest::prelude::*;

    use super::*;

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
        let forced =
            prop::sample::select(vec![State::Closed, State::ForcedOpen, State::ForcedClosed]);
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
            let machine = Machine::new(rules(probes));
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
                let mut moved = |to| moves.push(to);
                let find = |back: usize, calls: &[(Call, bool, bool)]| {
                    calls.len().checked_sub(1 + back)
                };
                match step {
                    Step::Wait(millis) => now += millis,
                    Step::Expire => {
                        machine.expire(now, &mut moved);
                        naive.expire(now);
                    }
                    Step::Force(to) => {
                        machine.force(to, now);
                        naive.streak = 0;
                        naive.closed_at = now;
                        naive.go(match to {
                            State::ForcedOpen => Naively::ForcedOpen,
                            State::ForcedClosed => Naively::ForcedClosed,
                            _ => Naively::Closed,
                        });
                    }
                    Step::Admit => {
                        let refuses = machine.refuses(|| now);
                        let real = machine.admit(|| now, &mut moved);
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
                        machine.probed(call.pass, result, *begun, now, &mut moved);
                        if call.time == naive.time {
                            naive.probed(number, result, now);
                        }
                    }
                    Step::Trip(back) => {
                        let Some(number) = find(back, &calls) else { continue };
                        let (call, ..) = calls[number];
                        machine.trip(call.pass, now, &mut moved);
                        if call.time == naive.time {
                            naive.trip(now);
                        }
                    }
                    Step::Relapse(back) => {
                        let Some(number) = find(back, &calls) else { continue };
                        let (call, ..) = calls[number];
                        machine.relapsed(call.pass, now, &mut moved);
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
    fn an_age_survives_its_wrap() {
        let machine = half_open(1, (1 << 22) - 1);
        let start = (1 << 22) - 1;
        assert!(machine.refuses(|| start + 4_999));
        assert!(!machine.refuses(|| start + 5_000));
        machine.expire(start + 5_000, &mut |moved| {
            assert_eq!(moved.why, Why::ProbeLate);
        });
        assert_eq!(machine.state(), State::Open);
    }

    #[test]
    fn jitter_stays_within_its_share_and_repeats() {
        let open_for = |seed| {
            let machine = Machine::new(Rules {
                jitter: 0.2,
                seed,
                ..rules(1)
            });
            let mut open_for = None;
            let pass = machine.admit(|| 0, &mut |_| {}).unwrap();
            machine.trip(pass, 0, &mut |moved| open_for = moved.open_for);
            open_for.unwrap().as_millis()
        };
        let times: Vec<_> = (0..200).map(open_for).collect();
        assert!(times.iter().all(|time| (800..=1_201).contains(time)));
        assert!(times.iter().max().unwrap() - times.iter().min().unwrap() > 300);
        assert_eq!(open_for(7), open_for(7));
    }
}

/// A machine that is half-open since `now`, with one probe in flight.
fn half_open(probes: u32, now: u64) -> Machine {
    let machine = Machine::new(rules(probes));
    let pass = machine.admit(|| 0, &mut |_| {}).expect("it is closed");
    machine.trip(pass, now - 1_000, &mut |_| {});
    let pass = machine
        .admit(|| now, &mut |_| {})
        .expect("its time is over");
    assert!(pass.probe && machine.state() == State::HalfOpen);
    machine
}

/// `RUSTFLAGS="--cfg roster_loom" cargo test --release --lib --no-default-features breaker::`
#[cfg(roster_loom)]
mod interleaved {
    use loom::{
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering::SeqCst},
        },
        thread,
    };

    use super::*;

    fn open() -> Machine {
        let machine = Machine::new(rules(1));
        let pass = machine.admit(|| 0, &mut |_| {}).expect("it is closed");
        machine.trip(pass, 0, &mut |_| {});
        machine
    }

    #[test]
    fn no_more_probes_than_permits() {
        // Three threads: all interleavings with up to three preemptions, which takes seconds; the
        // rest takes minutes.
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let machine = Arc::new(open());
            let flying = Arc::new(AtomicU32::new(0));
            let admitted = Arc::new(AtomicU32::new(0));
            let call = {
                let (machine, flying, admitted) =
                    (machine.clone(), flying.clone(), admitted.clone());
                move || {
                    if let Ok(pass) = machine.admit(|| 1_000, &mut |_| {}) {
                        assert!(pass.probe);
                        assert_eq!(flying.fetch_add(1, SeqCst), 0, "two at a time");
                        admitted.fetch_add(1, SeqCst);
                        flying.fetch_sub(1, SeqCst);
                        machine.probed(pass, Probed::Cancelled, false, 1_000, &mut |_| {});
                    }
                }
            };
            let others = [thread::spawn(call.clone()), thread::spawn(call.clone())];
            call();
            for other in others {
                other.join().expect("no panic");
            }
            assert!(
                admitted.load(SeqCst) >= 1,
                "one of them must get the permit"
            );
            // All permits came back.
            assert!(machine.admit(|| 1_000, &mut |_| {}).is_ok());
        });
    }

    #[test]
    fn an_answer_and_its_deadline_decide_once() {
        loom::model(|| {
            let machine = Arc::new(open());
            let pass = machine.admit(|| 1_000, &mut |_| {}).expect("a probe");
            let moves = Arc::new(AtomicU32::new(0));
            let other = {
                let (machine, moves) = (machine.clone(), moves.clone());
                thread::spawn(move || {
                    let mut moved = |_| {
                        moves.fetch_add(1, SeqCst);
                    };
                    machine.probed(pass, Probed::Good, false, 5_999, &mut moved);
                })
            };
            machine.expire(6_000, &mut |_| {
                moves.fetch_add(1, SeqCst);
            });
            other.join().expect("no panic");
            assert_eq!(moves.load(SeqCst), 1);
            assert!(matches!(machine.state(), State::Closed | State::Open));
        });
    }

    #[test]
    fn a_late_answer_changes_nothing() {
        loom::model(|| {
            let machine = Arc::new(open());
            let late = machine.admit(|| 1_000, &mut |_| {}).expect("a probe");
            machine.expire(6_000, &mut |_| {});
            let other = {
                let machine = machine.clone();
                thread::spawn(move || {
                    machine.probed(late, Probed::Good, false, 9_000, &mut |_| {});
                })
            };
            let pass = machine.admit(|| 9_000, &mut |_| {}).expect("a probe");
            other.join().expect("no panic");
            assert_eq!(machine.state(), State::HalfOpen);
            assert_eq!(
                machine.admit(|| 9_000, &mut |_| {}),
                Err(Refusal::Probing),
                "its permit is not given back twice"
            );
            machine.probed(pass, Probed::Good, false, 9_000, &mut |moved: Moved| {
                assert_eq!(moved.why, Why::ProbesGood);
            });
            assert_eq!(machine.state(), State::Closed);
        });
    }
}
