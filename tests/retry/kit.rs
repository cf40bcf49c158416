//! A service that answers by a script, and checks how it is treated.
#![allow(dead_code, reason = "each of the test programs uses a part of it")]

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};
use tower::Service;
use tower_roster::classify::{self, Classify, Outcome, Pushback, Verdict};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SEC: Duration = Duration::from_secs(1);

/// What the service says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) pushback: Option<Pushback>,
}

pub(crate) fn answer(status: u16) -> Answer {
    Answer {
        status,
        pushback: None,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Broke,
    /// Nothing was sent.
    Refused,
    /// In `poll_ready`.
    Closed,
    /// An error that is as good as an answer.
    NotFound,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl std::error::Error for Failure {}

pub(crate) fn is_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref() == Some(&Failure::Refused)
}

/// Status 5xx fails, 429 is an overload, 200 and errors as they are.
pub(crate) fn by_status() -> impl Classify<Answer, Failure> {
    classify::from_fn(|result: Result<&Answer, &Failure>| {
        let outcome = match result {
            Ok(answer) if answer.status == 429 => Outcome::Overloaded,
            Ok(answer) if answer.status >= 500 => Outcome::Failure,
            Ok(_) | Err(Failure::NotFound) => Outcome::Success,
            Err(_) => Outcome::Failure,
        };
        let verdict = Verdict::new(outcome);
        match result.ok().and_then(|answer| answer.pushback) {
            Some(pushback) => verdict.pushback(pushback),
            None => verdict,
        }
    })
}

/// One line of the script: how long it takes, and what comes then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    after: Duration,
    result: Result<Answer, Failure>,
}

pub(crate) fn says(status: u16) -> Line {
    Line {
        after: Duration::ZERO,
        result: Ok(answer(status)),
    }
}

pub(crate) fn fails(failure: Failure) -> Line {
    Line {
        after: Duration::ZERO,
        result: Err(failure),
    }
}

impl Line {
    pub(crate) fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }

    pub(crate) fn pushback(mut self, pushback: Pushback) -> Self {
        if let Ok(answer) = &mut self.result {
            answer.pushback = Some(pushback);
        }
        self
    }
}

/// Answers by a script, then with status 200. Its clones share the script.
pub(crate) struct Server {
    shared: Arc<Mutex<Shared>>,
    /// Of this one alone: a clone must become ready itself.
    is_ready: bool,
}

struct Shared {
    script: VecDeque<Line>,
    start: Instant,
    calls: Vec<(Duration, u32)>,
    in_flight: usize,
    /// Ready from then on.
    ready_at: Option<Instant>,
    closed: bool,
    clones: usize,
}

impl Server {
    pub(crate) fn new(script: impl IntoIterator<Item = Line>) -> Self {
        Self {
            shared: Arc::new(Mutex::new(Shared {
                script: script.into_iter().collect(),
                start: Instant::now(),
                calls: Vec::new(),
                in_flight: 0,
                ready_at: None,
                closed: false,
                clones: 1,
            })),
            is_ready: false,
        }
    }

    /// When it was called, in milliseconds from the start.
    pub(crate) fn times(&self) -> Vec<u128> {
        let shared = self.shared.lock().unwrap();
        shared.calls.iter().map(|(at, _)| at.as_millis()).collect()
    }

    pub(crate) fn calls(&self) -> usize {
        self.shared.lock().unwrap().calls.len()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.shared.lock().unwrap().in_flight
    }

    /// How many there are of it.
    pub(crate) fn clones(&self) -> usize {
        self.shared.lock().unwrap().clones
    }

    /// Makes it ready only in a while from now, as `None` never.
    pub(crate) fn ready_in(&self, wait: Option<Duration>) {
        let year = SEC * 31_536_000;
        self.shared.lock().unwrap().ready_at = Some(Instant::now() + wait.unwrap_or(year));
    }

    /// Makes it fail in `poll_ready`.
    pub(crate) fn close(&self) {
        self.shared.lock().unwrap().closed = true;
    }
}

impl Clone for Server {
    fn clone(&self) -> Self {
        self.shared.lock().unwrap().clones += 1;
        Self {
            shared: self.shared.clone(),
            is_ready: false,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.lock().unwrap().clones -= 1;
    }
}

impl Service<u32> for Server {
    type Response = Answer;
    type Error = Failure;
    type Future = Reply;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let shared = self.shared.lock().unwrap();
        if shared.closed {
            return Poll::Ready(Err(Failure::Closed));
        }
        if let Some(at) = shared.ready_at.filter(|at| *at > Instant::now()) {
            let waker = cx.waker().clone();
            tokio::spawn(async move {
                tokio::time::sleep_until(at).await;
                waker.wake();
            });
            return Poll::Pending;
        }
        drop(shared);
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u32) -> Reply {
        assert!(self.is_ready, "called before it was ready");
        self.is_ready = false;
        let mut shared = self.shared.lock().unwrap();
        let at = shared.start.elapsed();
        shared.calls.push((at, request));
        shared.in_flight += 1;
        let line = shared.script.pop_front().unwrap_or_else(|| says(200));
        Reply {
            sleep: (!line.after.is_zero()).then(|| Box::pin(tokio::time::sleep(line.after))),
            result: line.result,
            shared: self.shared.clone(),
        }
    }
}

pub(crate) struct Reply {
    sleep: Option<Pin<Box<Sleep>>>,
    result: Result<Answer, Failure>,
    shared: Arc<Mutex<Shared>>,
}

impl Future for Reply {
    type Output = Result<Answer, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(sleep) = &mut self.sleep {
            std::task::ready!(sleep.as_mut().poll(cx));
        }
        Poll::Ready(self.result)
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.shared.lock().unwrap().in_flight -= 1;
    }
}
