//! The gate of an endpoint decides which requests pass and which results count.
//!
//! It is one atomic word, so that exactly one of all concurrent requests gets the permit of a probe. Only
//! the driver's task decides. Requests take the permit, give it back, or report the result of the probe:
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
//! result counts only in that round. So a request from before an ejection proves nothing about the restored
//! endpoint.

use crate::sync::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

/// How often a permit is given back before its probe counts as unanswered. One caller that stops waiting
/// proves nothing; three in a row without a response do. An endpoint that never answers must not cost more
/// requests.
const TURNS: u64 = 3;

/// Identifies the time between two decisions about an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Round(pub(super) u32);

/// What a gate lets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum GateState {
    /// Every request passes.
    Open,
    /// No request passes.
    Shut,
    /// One request passes, as a probe.
    ProbeReady,
    /// No request passes while the probe is in progress.
    Probing,
    /// No request passes until the driver has decided on the result of the probe.
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
struct GateWord(u64);

impl GateWord {
    fn new(state: GateState, turn: u64, round: Round) -> Self {
        Self(u64::from(round.0) << 32 | turn << 3 | state as u64)
    }

    #[inline]
    fn state(self) -> GateState {
        // Only the five states are ever stored.
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

/// The permission to send a request, with the round in which it was given.
///
/// Its holder must report the outcome of the request to the endpoint's [`EndpointHealth`](super::EndpointHealth). If the
/// report of a probe is missing, its deadline ends the probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a pass that is not recorded keeps the permit of a probe"]
pub(crate) struct Pass {
    round: Round,
    /// For a probe: how often the permit was given before.
    probe: Option<u64>,
}

impl Pass {
    /// Whether the request is a probe.
    #[inline]
    pub(crate) fn is_probe(&self) -> bool {
        self.probe.is_some()
    }

    /// The round in which the pass was given.
    #[inline]
    pub(crate) fn round(&self) -> Round {
        self.round
    }
}

impl Pass {
    /// No pass, for a request that went through a shut gate because there was no other endpoint.
    pub(crate) const NONE: u32 = (1 << Self::BITS) - 1;
    /// Number of bits that [`pack`](Self::pack) uses.
    pub(crate) const BITS: u32 = 22;

    /// Whether a packed pass belongs to a probe.
    pub(crate) fn is_packed_probe(pass: u32) -> bool {
        pass != Self::NONE && pass >> 16 & 1 == 1
    }

    /// Packs the pass into a few bits that distinguish it from the passes of recent rounds, so that the
    /// guard of a request has only two words. With a guard of five words, a pick of ten endpoints with call
    /// and completion takes 75 ns instead of 46, and 85 instead of 61 where latency is measured (`cargo
    /// bench --bench scoreboard -- picks`).
    #[inline]
    pub(crate) fn pack(self) -> u32 {
        let probe = match self.probe {
            Some(turn) => 1 | (turn as u32 & 31) << 1,
            None => 0,
        };
        self.round.0 & 0xffff | probe << 16
    }
}

/// The effect of giving up a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GivenUp {
    /// Another request may take the permit.
    Returned,
    /// It was the last turn, so the probe counts as unanswered.
    Exhausted,
    /// The driver has already made another decision.
    Late,
}

/// The gate of one endpoint; see the [module](self) for its states.
pub(super) struct Gate(AtomicU64);

impl Gate {
    /// An open gate.
    pub(super) fn new(round: Round) -> Self {
        Self(AtomicU64::new(GateWord::new(GateState::Open, 0, round).0))
    }

    #[inline]
    fn word(&self) -> GateWord {
        // Acquire, pairs with the Release in `set`: a request that reads a round sees the counters as they
        // were cleared for that round.
        GateWord(self.0.load(Acquire))
    }

    /// The present state.
    #[inline]
    pub(super) fn state(&self) -> GateState {
        self.word().state()
    }

    /// Whether every request may pass.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.word().is_open()
    }

    /// Lets a request pass if the gate is open or the permit of a probe is free.
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
    fn take_permit(&self, word: GateWord) -> Option<Pass> {
        match word.state() {
            GateState::ProbeReady => {
                let taken = GateWord::new(GateState::Probing, word.turn(), word.round());
                // This fails only if another request took the permit or the driver decided, so it is not
                // repeated.
                self.change(word, taken).then(|| Pass {
                    round: word.round(),
                    probe: Some(word.turn()),
                })
            }
            _ => None,
        }
    }

    /// Unpacks a pass. Its round is not later than the present one.
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

    /// Whether the result of a request counts: the gate has been open since the request passed.
    #[inline]
    pub(super) fn is_current(&self, pass: Pass) -> bool {
        self.word() == GateWord::new(GateState::Open, 0, pass.round)
    }

    /// Ends a probe. Returns false if its result comes too late.
    pub(super) fn conclude(&self, pass: Pass) -> bool {
        let Some(turn) = pass.probe else { return false };
        let [probing, probed] = [GateState::Probing, GateState::Probed]
            .map(|state| GateWord::new(state, turn, pass.round));
        self.change(probing, probed)
    }

    /// Gives back the permit of a probe without a response.
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
        let probing = GateWord::new(GateState::Probing, turn, pass.round);
        if self.change(probing, GateWord::new(state, next, pass.round)) {
            result
        } else {
            GivenUp::Late
        }
    }

    /// The probe in progress.
    pub(super) fn taken(&self) -> Option<u64> {
        let word = self.word();
        (word.state() == GateState::Probing).then_some(word.turn())
    }

    /// Begins a round. Only the driver calls it. Changes by requests of an earlier round fail, because the
    /// word that they expect is replaced.
    pub(super) fn set(&self, state: GateState, round: Round) {
        // Release, pairs with the Acquire in `word`. Acquire, pairs with the Release in `change`: the
        // driver sees the writes of the last probe. A store would be enough, but loom's models let the
        // exchange of a request overtake it.
        self.0.swap(GateWord::new(state, 0, round).0, AcqRel);
    }

    fn change(&self, from: GateWord, to: GateWord) -> bool {
        // AcqRel: the Acquire pairs with the Release of the previous probe, so a probe sees the writes of
        // its predecessor. Relaxed on failure: the value is not used.
        self.0
            .compare_exchange(from.0, to.0, AcqRel, Relaxed)
            .is_ok()
    }
}

#[cfg(test)]
#[cfg(not(roster_loom))]
mod tests;

#[cfg(all(test, roster_loom))]
mod model;
