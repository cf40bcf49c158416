//! Tests of the gate in every interleaving.

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
fn a_request_that_sees_a_round_sees_what_was_cleared_for_it() {
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
