//! One admitted call, until its verdict.

use std::{fmt, sync::Arc};

use tokio::time::Instant;

use super::{
    machine::{Pass, Probed},
    shared::Shared,
};
use crate::classify::{Observer, Outcome, Verdict};

/// A call that the breaker let through, waiting for its verdict; dropped before, it was cancelled.
///
/// It goes with the response of a [`Breaker`](super::Breaker) where the classifier judges by the end
/// of it.
pub struct Call {
    shared: Arc<Shared>,
    note: Note,
}

/// What is known of a call, in one word: two words travel in registers, where moving a larger call
/// through memory took longer than counting it.
///
/// ```text
/// 63                    25 24          4  3   2   0
/// ┌───────────────────────┬─────────────┬─────┬──────┐
/// │ stamp                 │ generation  │probe│ step │
/// └───────────────────────┴─────────────┴─────┴──────┘
/// ```
/// The stamp is when the call began, in microseconds modulo 2³⁹ (six days), or 0 if nobody asks; once
/// it is good, its number in a window of calls.
#[derive(Clone, Copy)]
struct Note(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// For an answer.
    Waiting,
    /// The answer has begun; its end will tell.
    Begun,
    /// The same, and it took long to begin.
    BegunSlowly,
    /// Good so far, and counted.
    Good,
    Over,
}

const STAMP: u32 = 25;

impl Note {
    fn new(pass: Pass) -> Self {
        Self(u64::from(pass.generation) << 4 | u64::from(pass.probe) << 3)
    }

    fn pass(self) -> Pass {
        Pass {
            generation: (self.0 >> 4) as u32 & 0x1F_FFFF,
            probe: self.is_probe(),
        }
    }

    fn is_probe(self) -> bool {
        self.0 >> 3 & 1 == 1
    }

    fn step(self) -> Step {
        match self.0 & 7 {
            0 => Step::Waiting,
            1 => Step::Begun,
            2 => Step::BegunSlowly,
            3 => Step::Good,
            _ => Step::Over,
        }
    }

    fn set_step(&mut self, step: Step) {
        self.0 = self.0 & !7 | step as u64;
    }

    fn stamp(self) -> u64 {
        self.0 >> STAMP
    }

    fn set_stamp(&mut self, stamp: u64) {
        self.0 = self.0 & ((1 << STAMP) - 1) | stamp << STAMP;
    }
}

impl Call {
    #[inline]
    pub(super) fn new(shared: Arc<Shared>, pass: Pass) -> Self {
        let mut note = Note::new(pass);
        if pass.probe || shared.times_calls() {
            note.set_stamp(shared.micros(Instant::now()));
        }
        Self { shared, note }
    }

    /// The head of the answer is here, or an error, with what is known by it.
    #[inline]
    pub(super) fn answered(&mut self, verdict: Option<Verdict>) {
        let (mut slow, mut now) = (false, None);
        // One clock read, and only for those who asked before.
        if self.note.is_probe() || self.shared.times_calls() {
            let at = Instant::now();
            let mut took = Note(0);
            took.set_stamp(self.shared.micros(at).wrapping_sub(self.note.stamp()));
            (slow, now) = (self.shared.is_slow(took.stamp()), Some(at));
            if self.note.is_probe() && self.shared.is_late(took.stamp()) {
                return self.conclude_at(Outcome::Failure, slow, now);
            }
        }
        if let Some(verdict) = verdict {
            return self.conclude_at(verdict.outcome, slow, now);
        }
        self.note
            .set_step(if slow { Step::BegunSlowly } else { Step::Begun });
        if self.note.is_probe() {
            self.shared.begin(self.note.pass());
        }
    }

    #[inline]
    fn conclude_at(&mut self, outcome: Outcome, slow: bool, now: Option<Instant>) {
        if outcome == Outcome::Cancelled {
            return self.cancel();
        }
        let failed = outcome != Outcome::Success;
        let (pass, begun) = (self.note.pass(), self.has_begun());
        self.note
            .set_step(if failed { Step::Over } else { Step::Good });
        if pass.probe {
            let result = if failed || slow {
                Probed::Bad
            } else {
                Probed::Good
            };
            self.shared.probed(pass, result, begun);
        } else {
            self.note
                .set_stamp(self.shared.record(pass, now, failed, slow));
        }
    }

    fn has_begun(&self) -> bool {
        matches!(self.note.step(), Step::Begun | Step::BegunSlowly)
    }

    #[cold]
    fn cancel(&mut self) {
        let (pass, begun) = (self.note.pass(), self.has_begun());
        let open = begun || self.note.step() == Step::Waiting;
        self.note.set_step(Step::Over);
        if open && pass.probe {
            self.shared.probed(pass, Probed::Cancelled, begun);
        }
    }
}

impl Observer for Call {
    fn conclude(&mut self, verdict: Verdict) {
        match self.note.step() {
            Step::Waiting => self.answered(Some(verdict)),
            Step::Begun => self.conclude_at(verdict.outcome, false, None),
            Step::BegunSlowly => self.conclude_at(verdict.outcome, true, None),
            Step::Good if matches!(verdict.outcome, Outcome::Failure | Outcome::Overloaded) => {
                self.note.set_step(Step::Over);
                let pass = self.note.pass();
                if pass.probe {
                    self.shared.relapsed(pass);
                } else {
                    self.shared.amend(pass, self.note.stamp());
                }
            }
            Step::Good | Step::Over => {}
        }
    }
}

impl Drop for Call {
    #[inline]
    fn drop(&mut self) {
        if !matches!(self.note.step(), Step::Over | Step::Good) {
            self.cancel();
        }
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("step", &self.note.step())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(roster_loom))]
mod tests {
    use super::*;

    #[test]
    fn a_note_keeps_its_parts_apart() {
        for (generation, probe) in [(0, false), (0x1F_FFFF, true), (0x15_5555, false)] {
            let pass = Pass { generation, probe };
            let mut note = Note::new(pass);
            assert_eq!((note.step(), note.stamp()), (Step::Waiting, 0));
            for step in [
                Step::BegunSlowly,
                Step::Begun,
                Step::Over,
                Step::Good,
                Step::Waiting,
            ] {
                note.set_stamp(u64::MAX);
                note.set_step(step);
                assert_eq!((note.step(), note.pass()), (step, pass));
                assert_eq!(note.stamp(), (1 << 39) - 1);
                note.set_stamp(5);
                assert_eq!((note.stamp(), note.step(), note.pass()), (5, step, pass));
            }
        }
    }
}
