//! Tests of which requests pass a gate.

use super::*;

const ONE: Round = Round(1);

fn offered() -> Gate {
    let gate = Gate::new(Round(0));
    gate.set(GateState::ProbeReady, ONE);
    gate
}

#[test]
fn an_open_gate_lets_every_request_pass_and_a_shut_one_none() {
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
