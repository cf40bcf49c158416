//! The gate in front of an endpoint: who may pass, and whose word still counts.
//!
//! One atomic word, so that a pick reads it with the rest of what it needs, and so that of all the
//! requests that find a probe wanted exactly one gets it. The driver's task alone decides; requests
//! take the permit, give it back, or say what became of the probe:
//!
//! ```text
//!            driver: eject          driver: time is up          request: takes the permit
//!   Open ──────────────────▶ Shut ─────────────────────▶ ProbeReady ──────────────▶ Probing
//!    ▲                        ▲                               ▲                    │     │
//!    │ driver: it passed      │ driver: it failed             └── request: given ──┘     │ answered,
//!    │                        │                                   up (twice)             │ or given up
//!    └────────────────────────┴────────────────────────── Probed ◀───────────────────────┘ thrice
//! ```
//!
//! Each decision of the driver begins a [`Round`]. A request carries the round in which it passed, and
//! what it says about the endpoint counts in that round only: an answer that was waited for since
//! before an ejection says nothing about the endpoint that came back.

use std::fmt;

use crate::sync::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

/// How often a permit comes back before its probe counts as unanswered. One caller who goes away
/// proves nothing; three in a row who got no answer do, and an endpoint that swallows requests must
/// not cost more of them.
const TURNS: u64 = 3;

/// Between two decisions about an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Round(pub(super) u32);

/// What a gate lets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GateState {
    /// Every request.
    Open,
    /// None.
    Shut,
    /// One, to see whether the endpoint is back.
    ProbeReady,
    /// None, while that one is under way.
    Probing,
    /// None, while the driver considers what became of it.
    Probed,
}

impl GateState {
    const ALL: [Self; 5] = [
        Self::Open,
        Self::Shut,
        Self::ProbeReady,
        Self::Probing,
        Self::Probed,
    ];
}

/// The word: the state in bits 0 to 2, the turn in bits 3 to 7, the round in bits 32 to 63.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Word(u64);

impl Word {
    fn new(state: GateState, turn: u64, round: Round) -> Self {
        Self(u64::from(round.0) << 32 | turn << 3 | state as u64)
    }

    #[inline]
    fn state(self) -> GateState {
        // Only the five are ever stored.
        GateState::ALL[(self.0 & 7).min(4) as usize]
    }

    #[inline]
    fn is_open(self) -> bool {
        self.0 & 7 == GateState::Open as u64
    }

    #[inline]
    fn turn(self) -> u64 {
        self.0 >> 3 & 31
    }

    #[inline]
    fn round(self) -> Round {
        Round((self.0 >> 32) as u32)
    }
}

/// A request's right to be sent, and the proof of when it was given.
///
/// Whoever holds one owes the endpoint's [`Health`](super::Health) one word about what became of the
/// request. A probe whose holder says nothing is noticed at its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a pass that is not recorded keeps the permit of a probe"]
pub struct Pass {
    round: Round,
    /// Of a probe: which taking of the permit this is.
    probe: Option<u64>,
}

impl Pass {
    /// Whether the request is a probe.
    #[inline]
    pub fn is_probe(&self) -> bool {
        self.probe.is_some()
    }

    /// The round in which it was given.
    #[inline]
    pub fn round(&self) -> Round {
        self.round
    }
}

impl Pass {
    /// No pass: what was let through with the gate shut, because there was nobody else.
    pub(crate) const NONE: u32 = (1 << Self::BITS) - 1;
    /// What [`pack`](Self::pack) takes.
    pub(crate) const BITS: u32 = 22;

    /// Whether a pass that was packed is that of a probe.
    pub(crate) fn is_packed_probe(pass: u32) -> bool {
        pass != Self::NONE && pass >> 16 & 1 == 1
    }

    /// Few bits that tell it from those of rounds close by.
    #[inline]
    pub(crate) fn pack(self) -> u32 {
        let probe = match self.probe {
            Some(turn) => 1 | (turn as u32 & 31) << 1,
            None => 0,
        };
        self.round.0 & 0xffff | probe << 16
    }
}

/// What a probe that was given up leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GivenUp {
    /// Another request may probe.
    Returned,
    /// It was the last turn: the probe counts as unanswered.
    Exhausted,
    /// Somebody decided in the meantime.
    Late,
}

/// The gate of one endpoint; see the [module](self) for its states.
pub(super) struct Gate(AtomicU64);

impl Gate {
    /// An open gate.
    pub(super) fn new(round: Round) -> Self {
        Self(AtomicU64::new(Word::new(GateState::Open, 0, round).0))
    }

    #[inline]
    fn word(&self) -> Word {
        // Acquire: with the release in `set`, who sees a round sees the counters as they were cleared
        // for it.
        Word(self.0.load(Acquire))
    }

    /// What it lets pass now.
    #[inline]
    pub(super) fn state(&self) -> GateState {
        self.word().state()
    }

    /// Whether every request may pass.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.word().is_open()
    }

    /// Lets a request pass, if the gate is open or the permit of a probe is there to take.
    #[inline]
    pub(super) fn admit(&self) -> Option<Pass> {
        let word = self.word();
        if word.is_open() {
            return Some(Pass {
                round: word.round(),
                probe: None,
            });
        }
        self.take_permit(word)
    }

    #[cold]
    fn take_permit(&self, word: Word) -> Option<Pass> {
        match word.state() {
            GateState::ProbeReady => {
                let taken = Word::new(GateState::Probing, word.turn(), word.round());
                // Whoever fails here met the one who did not, or a decision: no second try.
                self.change(word, taken).then(|| Pass {
                    round: word.round(),
                    probe: Some(word.turn()),
                })
            }
            _ => None,
        }
    }

    /// The pass that was packed; of a round up to the present one.
    #[inline]
    pub(super) fn unpack(&self, packed: u32) -> Pass {
        let now = self.word().round().0;
        let back = now.wrapping_sub(packed) & 0xffff;
        let probe = packed >> 16;
        Pass {
            round: Round(now.wrapping_sub(back)),
            probe: (probe & 1 == 1).then_some(u64::from(probe >> 1)),
        }
    }

    /// Whether a request's word counts: the gate is open and has been since the request passed.
    #[inline]
    pub(super) fn is_current(&self, pass: Pass) -> bool {
        self.word() == Word::new(GateState::Open, 0, pass.round)
    }

    /// Ends a probe. True for the first word on it, false when it comes too late.
    pub(super) fn conclude(&self, pass: Pass) -> bool {
        let Some(turn) = pass.probe else { return false };
        let [probing, probed] =
            [GateState::Probing, GateState::Probed].map(|state| Word::new(state, turn, pass.round));
        self.change(probing, probed)
    }

    /// Gives the permit of a probe back without an answer.
    pub(super) fn give_up(&self, pass: Pass) -> GivenUp {
        let Some(turn) = pass.probe else {
            return GivenUp::Late;
        };
        let next = turn + 1;
        let (state, result) = if next < TURNS {
            (GateState::ProbeReady, GivenUp::Returned)
        } else {
            (GateState::Probed, GivenUp::Exhausted)
        };
        let probing = Word::new(GateState::Probing, turn, pass.round);
        if self.change(probing, Word::new(state, next, pass.round)) {
            result
        } else {
            GivenUp::Late
        }
    }

    /// Which taking of the permit is under way.
    pub(super) fn taken(&self) -> Option<u64> {
        let word = self.word();
        (word.state() == GateState::Probing).then_some(word.turn())
    }

    /// Begins a round; called by the driver alone. Whatever requests of the round before still do
    /// fails, because the word they expect is gone.
    pub(super) fn set(&self, state: GateState, round: Round) {
        // Release: see `word`. Acquire: the driver goes on after what the last probe did. A store would
        // do, but models take it for one that a request's exchange may step over.
        self.0.swap(Word::new(state, 0, round).0, AcqRel);
    }

    fn change(&self, from: Word, to: Word) -> bool {
        // AcqRel: a probe begins after what its predecessor did. Relaxed where it fails: nothing is
        // read on the strength of that.
        self.0
            .compare_exchange(from.0, to.0, AcqRel, Relaxed)
            .is_ok()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word();
        f.debug_struct("Gate")
            .field("state", &word.state())
            .field("round", &word.round().0)
            .finish()
    }
}

#[cfg(test)]
#[cfg(not(roster_loom))]
mod tests {
    use super::*;

    const ONE: Round = Round(1);

    fn offered() -> Gate {
        let gate = Gate::new(Round(0));
        gate.set(GateState::ProbeReady, ONE);
        gate
    }

    #[test]
    fn an_open_gate_lets_everybody_pass_and_a_shut_one_nobody() {
        let gate = Gate::new(Round(7));
        let pass = gate.admit().unwrap();
        assert!(gate.admit().is_some() && !pass.is_probe());
        assert_eq!(pass.round(), Round(7));
        gate.set(GateState::Shut, Round(8));
        assert_eq!(gate.admit(), None);
        assert!(!gate.is_current(pass));
        gate.set(GateState::Open, Round(9));
        assert!(!gate.is_current(pass), "it passed before the ejection");
    }

    #[test]
    fn one_request_probes_and_speaks_once() {
        let gate = offered();
        let probe = gate.admit().unwrap();
        assert!(probe.is_probe());
        assert_eq!(gate.admit(), None, "the permit is taken");
        assert!(gate.conclude(probe));
        assert!(!gate.conclude(probe), "it has spoken");
        assert_eq!(gate.give_up(probe), GivenUp::Late);
        assert_eq!((gate.state(), gate.admit()), (GateState::Probed, None));
    }

    #[test]
    fn a_permit_comes_back_twice() {
        let gate = offered();
        let first = gate.admit().unwrap();
        assert_eq!(gate.give_up(first), GivenUp::Returned);
        let second = gate.admit().unwrap();
        assert!(!gate.conclude(first), "its turn is over");
        assert_eq!(gate.give_up(first), GivenUp::Late);
        assert_eq!(gate.give_up(second), GivenUp::Returned);
        let third = gate.admit().unwrap();
        assert_eq!(gate.give_up(third), GivenUp::Exhausted);
        assert_eq!(gate.admit(), None);
    }

    #[test]
    fn a_probe_of_an_earlier_round_is_not_heard() {
        let gate = offered();
        let probe = gate.admit().unwrap();
        gate.set(GateState::ProbeReady, Round(2));
        assert!(!gate.conclude(probe));
        assert_eq!(gate.give_up(probe), GivenUp::Late);
        assert!(gate.admit().is_some(), "the new permit is untouched");
    }

    #[test]
    fn a_pass_through_an_open_gate_is_no_probe() {
        let gate = Gate::new(ONE);
        let pass = gate.admit().unwrap();
        gate.set(GateState::ProbeReady, ONE);
        assert!(!gate.conclude(pass));
        assert_eq!(gate.give_up(pass), GivenUp::Late);
    }
}

#[cfg(all(test, roster_loom))]
mod model {
    use std::sync::Arc;

    use loom::thread;

    use super::*;

    #[test]
    fn of_two_requests_one_gets_the_permit() {
        loom::model(|| {
            let gate = Arc::new(Gate::new(Round(0)));
            gate.set(GateState::ProbeReady, Round(1));
            let other = {
                let gate = Arc::clone(&gate);
                thread::spawn(move || gate.admit().is_some())
            };
            let mine = gate.admit().is_some();
            assert!(mine ^ other.join().unwrap());
        });
    }

    #[test]
    fn a_permit_given_back_is_there_for_the_next_and_only_one_concludes() {
        loom::model(|| {
            let gate = Arc::new(Gate::new(Round(0)));
            gate.set(GateState::ProbeReady, Round(1));
            let quitter = {
                let gate = Arc::clone(&gate);
                thread::spawn(move || {
                    gate.admit()
                        .is_some_and(|probe| gate.give_up(probe) == GivenUp::Returned)
                })
            };
            let mine = gate.admit();
            let concluded = mine.is_some_and(|probe| gate.conclude(probe));
            let returned = quitter.join().unwrap();
            assert_eq!(concluded, mine.is_some(), "who has the permit is heard");
            assert!(concluded || returned, "somebody got it");
            if !concluded {
                assert_eq!(gate.state(), GateState::ProbeReady, "it came back");
            }
        });
    }

    #[test]
    fn a_decision_beats_whatever_a_probe_still_does() {
        loom::model(|| {
            let gate = Arc::new(Gate::new(Round(0)));
            gate.set(GateState::ProbeReady, Round(1));
            let probe = gate.admit().unwrap();
            let late = {
                let gate = Arc::clone(&gate);
                thread::spawn(move || gate.give_up(probe))
            };
            gate.set(GateState::Shut, Round(2));
            let _ = late.join().unwrap();
            assert_eq!(gate.state(), GateState::Shut);
            assert!(gate.admit().is_none());
        });
    }

    #[test]
    fn who_sees_a_round_sees_what_was_cleared_for_it() {
        loom::model(|| {
            let gate = Arc::new(Gate::new(Round(0)));
            let streak = Arc::new(AtomicU64::new(4));
            let request = {
                let (gate, streak) = (Arc::clone(&gate), Arc::clone(&streak));
                thread::spawn(move || {
                    let pass = gate.admit().unwrap();
                    let seen = streak.load(Relaxed);
                    assert!(pass.round() == Round(0) || seen == 0);
                })
            };
            streak.store(0, Relaxed);
            gate.set(GateState::Open, Round(1));
            request.join().unwrap();
        });
    }
}
