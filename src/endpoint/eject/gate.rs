//! The gate in front of an endpoint: which requests pass, and which results still count.
//!
//! It is one atomic word, so that of all the requests that find a probe wanted exactly one gets its
//! permit. The driver's task alone decides; requests take the permit, give it back, or report what became
//! of the probe:
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
//! Each decision of the driver begins a [`Round`]. A request carries the round in which it passed, and its
//! result counts in that round only: a request from before an ejection says nothing about the endpoint
//! that came back.

use std::fmt;

use crate::sync::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

/// How often a permit comes back before its probe counts as unanswered. One caller that stops waiting
/// proves nothing. Three in a row without an answer do, and an endpoint that never answers must not cost
/// more requests.
const TURNS: u64 = 3;

/// Between two decisions about an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Round(pub(super) u32);

/// What a gate lets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum GateState {
    /// Every request.
    Open,
    /// None.
    Shut,
    /// One, to see whether the endpoint is back.
    ProbeReady,
    /// None, while that one is under way.
    Probing,
    /// None, until the driver has decided by its result.
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
/// Its holder must report to the endpoint's [`Health`](super::Health) what became of the request. A probe
/// without a report is noticed at its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a pass that is not recorded keeps the permit of a probe"]
pub(crate) struct Pass {
    round: Round,
    /// Of a probe: how often the permit was given before.
    probe: Option<u64>,
}

impl Pass {
    /// Whether the request is a probe.
    #[inline]
    pub(crate) fn is_probe(&self) -> bool {
        self.probe.is_some()
    }

    /// The round in which it was given.
    #[inline]
    pub(crate) fn round(&self) -> Round {
        self.round
    }
}

impl Pass {
    /// No pass: a request that went through a shut gate, because there was no other endpoint.
    pub(crate) const NONE: u32 = (1 << Self::BITS) - 1;
    /// The bits that [`pack`](Self::pack) takes.
    pub(crate) const BITS: u32 = 22;

    /// Whether a pass that was packed is that of a probe.
    pub(crate) fn is_packed_probe(pass: u32) -> bool {
        pass != Self::NONE && pass >> 16 & 1 == 1
    }

    /// A few bits that distinguish it from the passes of the rounds before, so that the guard of a request
    /// has two words in all. With a guard of five words a pick of ten endpoints, with call and completion,
    /// takes 75 ns instead of 46, and 85 instead of 61 where latency is measured
    /// (`cargo bench --bench scoreboard -- picks`).
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
    /// The driver has decided in the meantime.
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
        // Acquire: with the release in `set`, a request that sees a round sees the counters as they were
        // cleared for it.
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
                // It fails only if another request took the permit, or the driver decided: no second try.
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

    /// Whether a request's result counts: the gate has been open since the request passed.
    #[inline]
    pub(super) fn is_current(&self, pass: Pass) -> bool {
        self.word() == Word::new(GateState::Open, 0, pass.round)
    }

    /// Ends a probe. False when its result comes too late.
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

    /// Which probe is under way.
    pub(super) fn taken(&self) -> Option<u64> {
        let word = self.word();
        (word.state() == GateState::Probing).then_some(word.turn())
    }

    /// Begins a round; called by the driver alone. Changes by requests of the round before fail, because
    /// the word they expect is gone.
    pub(super) fn set(&self, state: GateState, round: Round) {
        // Release: see `word`. Acquire: the driver goes on after what the last probe did. A store would
        // do, but loom's models let a request's exchange overtake it.
        self.0.swap(Word::new(state, 0, round).0, AcqRel);
    }

    fn change(&self, from: Word, to: Word) -> bool {
        // AcqRel: a probe begins after what its predecessor did. Relaxed on failure: nothing is read then.
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
mod tests;

#[cfg(all(test, roster_loom))]
mod model;
