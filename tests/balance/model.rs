//! Random sequences of changes, orders and requests, against a model that is too simple to be wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::Arc,
    task::Poll,
};

use proptest::prelude::*;
use tower::Service;
use tower_roster::{
    balance::{BalanceError, EndpointState, ResponseFuture, policy::RoundRobin},
    classify::Answers,
    instance::Weight,
};

use crate::kit::{Answer, Control, Mock, Rig, key, poll, settle};

#[derive(Clone, Debug)]
enum Step {
    Insert(usize),
    Remove(usize),
    Weigh(usize, Option<u16>),
    Eject(usize),
    Restore(usize),
    Request,
    Finish(usize),
    Cancel(usize),
    /// Applies what discovery said; without it several words are taken in at once.
    Settle,
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn step() -> impl Strategy<Value = Step> {
    let name = || 0..NAMES.len();
    prop_oneof![
        3 => name().prop_map(Step::Insert),
        2 => name().prop_map(Step::Remove),
        2 => (name(), proptest::option::of(0u16..3)).prop_map(|(n, w)| Step::Weigh(n, w)),
        2 => name().prop_map(Step::Eject),
        2 => name().prop_map(Step::Restore),
        6 => Just(Step::Request),
        3 => any::<usize>().prop_map(Step::Finish),
        3 => any::<usize>().prop_map(Step::Cancel),
        3 => Just(Step::Settle),
    ]
}

#[derive(Default)]
struct Known {
    listed: bool,
    ejected: bool,
    by_hand: Option<u16>,
    requests: u64,
    in_flight: usize,
}

impl Known {
    fn weight(&self) -> u16 {
        self.by_hand.unwrap_or(1)
    }

    /// Orders hold while it is away, too.
    fn takes_orders(&self) -> bool {
        self.listed || self.ejected || self.by_hand.is_some()
    }
}

#[derive(Default)]
struct Model(BTreeMap<usize, Known>);

impl Model {
    fn get(&mut self, name: usize) -> &mut Known {
        self.0.entry(name).or_default()
    }

    /// Whom a request may go to.
    fn usable(&self) -> BTreeSet<usize> {
        let listed = || self.0.iter().filter(|(_, known)| known.listed);
        let weighed = listed().any(|(_, known)| known.weight() > 0);
        let may = |known: &Known| !known.ejected && (!weighed || known.weight() > 0);
        listed()
            .filter(|(_, known)| may(known))
            .map(|(name, _)| *name)
            .collect()
    }
}

type Request = Pin<Box<ResponseFuture<Mock, RoundRobin, Answers, (), u32>>>;

struct Run {
    rig: Rig,
    model: Model,
    /// Every service ever made, by whose it was.
    made: Vec<(usize, Arc<Control>)>,
    requests: Vec<(usize, Arc<Control>, u32, Request)>,
    sent: u32,
}

impl Run {
    fn calls(&self) -> Vec<usize> {
        self.made
            .iter()
            .map(|(_, control)| control.calls())
            .collect()
    }

    async fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Insert(name) => {
                let control = self.rig.feed.insert(NAMES[name]);
                control.answer(Answer::HoldsEach);
                self.made.push((name, control));
                self.model.get(name).listed = true;
            }
            Step::Remove(name) => {
                self.rig.feed.remove(NAMES[name]);
                self.model.get(name).listed = false;
            }
            Step::Weigh(name, weight) => {
                settle().await;
                let set = weight.map(Weight::from);
                let found = self
                    .rig
                    .handle
                    .set_weight(&key(NAMES[name]), set)
                    .await
                    .unwrap();
                prop_assert_eq!(found, self.model.get(name).takes_orders());
                if found {
                    self.model.get(name).by_hand = weight;
                }
            }
            Step::Eject(name) => {
                settle().await;
                let found = self.rig.handle.eject(&key(NAMES[name])).await.unwrap();
                prop_assert_eq!(found, self.model.get(name).takes_orders());
                self.model.get(name).ejected |= found;
            }
            Step::Restore(name) => {
                settle().await;
                let found = self.rig.handle.restore(&key(NAMES[name])).await.unwrap();
                prop_assert_eq!(found, self.model.get(name).takes_orders());
                self.model.get(name).ejected &= !found;
            }
            Step::Request => {
                settle().await;
                self.request().await?;
            }
            Step::Finish(which) if !self.requests.is_empty() => {
                let which = which % self.requests.len();
                let (name, control, number, mut request) = self.requests.swap_remove(which);
                control.let_go(number);
                let Poll::Ready(answer) = poll(&mut request).await else {
                    panic!("it may go on");
                };
                prop_assert_eq!(answer.unwrap(), NAMES[name]);
                self.model.get(name).in_flight -= 1;
            }
            Step::Cancel(which) if !self.requests.is_empty() => {
                let which = which % self.requests.len();
                let (name, ..) = self.requests.swap_remove(which);
                self.model.get(name).in_flight -= 1;
            }
            Step::Settle => {
                settle().await;
                self.check().await?;
            }
            Step::Finish(_) | Step::Cancel(_) => {}
        }
        Ok(())
    }

    async fn request(&mut self) -> Result<(), TestCaseError> {
        let usable = self.model.usable();
        let before = self.calls();
        self.sent += 1;
        let mut request = Box::pin(self.rig.balance.clone().call(self.sent));
        match poll(&mut request).await {
            Poll::Pending => {
                let called = before.iter().zip(self.calls());
                let picked = called
                    .into_iter()
                    .position(|(before, after)| *before != after);
                let (name, control) = self.made[picked.expect("a service was called")].clone();
                prop_assert!(
                    usable.contains(&name),
                    "{} was picked of {usable:?}",
                    NAMES[name]
                );
                let newest = self.made.iter().rev().find(|(of, _)| *of == name);
                let newest = Arc::ptr_eq(&newest.unwrap().1, &control);
                prop_assert!(newest, "a service that was replaced was called");
                self.model.get(name).requests += 1;
                self.model.get(name).in_flight += 1;
                self.requests.push((name, control, self.sent, request));
            }
            Poll::Ready(answer) => {
                let error: BalanceError = answer.expect_err("all requests are held");
                prop_assert!(error.is_no_endpoint());
                prop_assert!(usable.is_empty(), "none was picked of {usable:?}");
            }
        }
        Ok(())
    }

    async fn check(&mut self) -> Result<(), TestCaseError> {
        let list = self.rig.handle.endpoints().await.unwrap();
        let listed: Vec<_> = self
            .model
            .0
            .iter()
            .filter(|(_, known)| known.listed)
            .collect();
        let ids: Vec<_> = list.iter().map(|info| info.key.id()).collect();
        let names: Vec<_> = listed.iter().map(|(name, _)| NAMES[**name]).collect();
        prop_assert_eq!(ids, names, "no endpoint is lost and none stays");
        for (info, (name, known)) in list.iter().zip(&listed) {
            let name = NAMES[**name];
            prop_assert_eq!(
                info.weight.get(),
                u32::from(known.weight()),
                "weight of {}",
                name
            );
            let ejected = info.state == EndpointState::Ejected;
            prop_assert_eq!(ejected, known.ejected, "ejection of {}", name);
            prop_assert_eq!(info.in_flight, known.in_flight, "in flight at {}", name);
            prop_assert_eq!(info.requests, known.requests, "requests of {}", name);
        }
        let usable = self.model.usable().len();
        prop_assert_eq!(self.rig.balance.usable(), usable);
        prop_assert_eq!(self.rig.handle.status().usable, usable);
        Ok(())
    }
}

async fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut run = Run {
        rig: Rig::new(),
        model: Model::default(),
        made: Vec::new(),
        requests: Vec::new(),
        sent: 0,
    };
    for step in steps {
        run.step(step).await?;
    }
    settle().await;
    run.check().await?;
    for (name, ..) in std::mem::take(&mut run.requests) {
        run.model.get(name).in_flight -= 1;
    }
    run.check().await?;
    for name in NAMES {
        run.rig.feed.remove(name);
    }
    // Those who left are looked at ten times a second.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let lives = run.made.iter().any(|(_, control)| control.lives());
    prop_assert!(!lives, "every service is released");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_agrees_with_the_model(steps in proptest::collection::vec(step(), 0..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(steps))?;
    }
}
