//! Why a request is not sent again, and what its caller gets.

use std::{
    error::Error,
    num::NonZeroU32,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tower::{BoxError, Layer, Service, ServiceExt, timeout::error::Elapsed};
use tower_roster::{
    Backoff,
    classify::{self, Classify, Observer, Pushback, Verdict},
    service::retry::{
        BudgetSettings, Cloned, FailedAnswer, Reissue, Retry, RetryBudget, RetryError, RetryLayer,
        RetrySettings, Stop, reissue,
    },
};

use crate::kit::*;

/// Retries after 20 ms each, without a budget.
fn settings() -> RetrySettings {
    let settings = RetrySettings::new().delay(Backoff::fixed(20 * MS));
    settings.budget(None)
}

fn with(settings: RetrySettings) -> RetryLayer<Cloned, impl Classify<Answer, Failure>> {
    let layer = settings.build().unwrap().classify(by_status());
    layer.unsent(is_refused)
}

fn plain() -> RetryLayer<Cloned, impl Classify<Answer, Failure>> {
    with(settings())
}

async fn ask<C: Classify<Answer, Failure>>(
    retry: RetryLayer<Cloned, C>,
    server: &Server,
) -> Result<Answer, BoxError> {
    let retry = retry.layer(server.clone());
    retry.oneshot(7).await
}

#[track_caller]
fn stopped(result: Result<Answer, BoxError>) -> (Stop, u32, Option<Failure>) {
    let error = result.unwrap_err().downcast::<RetryError>().unwrap();
    let source = error.source().unwrap();
    (error.stop(), error.tries(), source.downcast_ref().copied())
}

fn empty() -> RetryBudget {
    let builder = BudgetSettings::new().ratio(0.0).reserve_per_sec(0);
    builder.build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_not_asked_for_twice() {
    let server = Server::new([says(404).after(5 * MS)]);
    assert_eq!(ask(plain(), &server).await.unwrap(), answer(404));
    assert_eq!(server.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn sends_again_until_it_succeeds() {
    let server = Server::new([fails(Failure::Broke).after(5 * MS), says(503)]);
    assert_eq!(ask(plain(), &server).await.unwrap(), answer(200));
    assert_eq!(server.times(), [0, 25, 45]);
}

#[tokio::test(start_paused = true)]
async fn an_overload_is_a_reason_too() {
    let server = Server::new([says(429)]);
    assert_eq!(ask(plain(), &server).await.unwrap(), answer(200));
}

#[tokio::test(start_paused = true)]
async fn gives_up_after_the_last_attempt_and_tells_its_cause() {
    let server = Server::new([says(503), fails(Failure::Refused), fails(Failure::Broke)]);
    let error = ask(plain(), &server).await.unwrap_err();
    let error = error.downcast::<RetryError>().unwrap();
    assert!(error.is_exhausted() && !error.is_deadline() && !error.is_budget_empty());
    assert_eq!(error.tries(), 3);
    assert_eq!(
        error.source().unwrap().downcast_ref(),
        Some(&Failure::Broke)
    );
    assert_eq!(
        error.to_string(),
        "request failed after 3 attempts: no attempts left"
    );
    assert_eq!(server.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_failing_answer_is_handed_on_as_it_is() {
    let server = Server::new([says(500), says(501), says(502)]);
    assert_eq!(ask(plain(), &server).await.unwrap(), answer(502));
    assert_eq!(server.calls(), 3);
    let once = with(settings().max_attempts(NonZeroU32::MIN));
    let server = Server::new([says(500)]);
    assert_eq!(ask(once, &server).await.unwrap(), answer(500));
    assert_eq!(server.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_error_that_is_no_failure_is_handed_on_as_it_is() {
    let server = Server::new([fails(Failure::NotFound)]);
    let error = ask(plain(), &server).await.unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&Failure::NotFound));
    assert_eq!(server.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_end_will_tell_is_handed_on() {
    #[derive(Clone)]
    struct Later;
    impl Classify<Answer, Failure> for Later {
        type Observed<O: Observer> = Answer;
        fn judge(&self, result: Result<&Answer, &Failure>) -> Option<Verdict> {
            result.is_err().then_some(Verdict::FAILURE)
        }
        fn observe<O: Observer>(&self, answer: Answer, _: Option<Verdict>, _: O) -> Answer {
            answer
        }
    }
    let server = Server::new([fails(Failure::Broke), says(503)]);
    let result = ask(plain().classify(Later), &server).await;
    assert_eq!(result.unwrap(), answer(503));
}

#[tokio::test(start_paused = true)]
async fn an_empty_budget_ends_it_without_waiting() {
    let budget = empty();
    let server = Server::new([fails(Failure::Broke)]);
    let result = ask(plain().shared_budget(budget.clone()), &server).await;
    assert_eq!(
        stopped(result),
        (Stop::BudgetEmpty, 1, Some(Failure::Broke))
    );
    assert_eq!(Instant::now().elapsed(), std::time::Duration::ZERO);
    assert_eq!((budget.withdrawn(), budget.refused()), (0, 1));
    let server = Server::new([says(503)]);
    let result = ask(plain().shared_budget(budget), &server).await;
    assert_eq!(result.unwrap(), answer(503));
    assert_eq!(server.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_empties_during_the_backoff_sends_one_and_hands_on_the_other() {
    let one = BudgetSettings::new().ratio(0.5).reserve_per_sec(0);
    let one = one.build().unwrap();
    let server = Server::new([says(500).after(MS), says(501).after(MS)]);
    let retry = plain().shared_budget(one.clone());
    let retry = retry.layer(server.clone());
    let (a, b) = tokio::join!(retry.clone().oneshot(1), retry.oneshot(2));
    let status = (a.unwrap().status, b.unwrap().status);
    assert!(
        matches!(status, (200, 501) | (500, 200)),
        "one is sent again, the other gets its own answer: {status:?}"
    );
    assert_eq!(server.calls(), 3);
    assert_eq!(one.withdrawn(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_is_deposited_once_however_often_it_is_sent() {
    let budget = BudgetSettings::new().ratio(2.0).reserve_per_sec(0);
    let budget = budget.build().unwrap();
    let server = Server::new([says(500), says(500)]);
    ask(plain().shared_budget(budget.clone()), &server)
        .await
        .unwrap();
    assert_eq!(server.calls(), 3);
    assert_eq!(budget.available(Instant::now()), 0);
    assert_eq!(budget.withdrawn(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_would_start_after_the_deadline_is_not_made() {
    let server = Server::new([fails(Failure::Broke).after(85 * MS)]);
    let start = Instant::now();
    let result = ask(with(settings().deadline(100 * MS)), &server).await;
    assert_eq!(stopped(result), (Stop::Deadline, 1, Some(Failure::Broke)));
    assert_eq!(start.elapsed(), 85 * MS, "nothing to wait for");
    let server = Server::new([fails(Failure::Broke).after(79 * MS)]);
    let result = ask(with(settings().deadline(100 * MS)), &server).await;
    assert_eq!(result.unwrap(), answer(200));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_the_attempt_that_runs() {
    let slow = || says(200).after(SEC);
    for (script, calls) in [(vec![slow()], 1), (vec![says(503), slow()], 2)] {
        let server = Server::new(script);
        let start = Instant::now();
        let error = ask(with(settings().deadline(100 * MS)), &server)
            .await
            .unwrap_err();
        assert!(error.is::<Elapsed>(), "{error:?}");
        assert_eq!(start.elapsed(), 100 * MS);
        assert_eq!((server.calls(), server.in_flight()), (calls, 0));
    }
    // A per-try timeout that is longer changes nothing, and one that is shorter comes first.
    let once = settings().max_attempts(NonZeroU32::MIN).deadline(100 * MS);
    let server = Server::new([slow(), slow()]);
    let error = ask(with(once.try_timeout(SEC)), &server).await.unwrap_err();
    assert!(error.is::<Elapsed>(), "{error:?}");
    let error = ask(with(once.try_timeout(50 * MS)), &server)
        .await
        .unwrap_err();
    assert!(error.is::<RetryError>(), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_ready_is_waited_for_until_the_deadline() {
    let server = Server::new([fails(Failure::Broke).after(5 * MS)]);
    let retry = with(settings().deadline(100 * MS));
    let mut retry = retry.layer(server.clone());
    let start = Instant::now();
    let call = retry.ready().await.unwrap().call(7);
    server.ready_in(Some(60 * MS));
    assert_eq!(call.await.unwrap(), answer(200));
    assert_eq!(start.elapsed(), 60 * MS);

    let server = Server::new([says(503).after(5 * MS)]);
    let retry = with(settings().deadline(100 * MS));
    let mut retry = retry.layer(server.clone());
    let start = Instant::now();
    let call = retry.ready().await.unwrap().call(7);
    server.ready_in(None);
    let error = call.await.unwrap_err().downcast::<RetryError>().unwrap();
    assert_eq!(error.stop(), Stop::Deadline);
    #[cfg(feature = "tonic")]
    {
        let status = tower_roster::client::to_status(*error);
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status:?}");
        let source = Error::source(&status).expect("the error");
        let error: &RetryError = source.downcast_ref().expect("of the retry");
        let failed: Option<&FailedAnswer> = error.source().and_then(|it| it.downcast_ref());
        let failed = tower_roster::client::to_status(*failed.expect("it was dropped"));
        assert_eq!(failed.code(), tonic::Code::Unavailable);
    }
    #[cfg(not(feature = "tonic"))]
    assert!(error.into_source().is::<FailedAnswer>());
    assert_eq!(start.elapsed(), 100 * MS);
    assert_eq!(server.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_holds_a_place_in_a_limit_does_not_block_its_own_retry() {
    /// Ready for one at a time, until its answer is dropped.
    struct Limited {
        places: Arc<Semaphore>,
        waits: Option<Waits>,
        place: Option<OwnedSemaphorePermit>,
    }
    type Waits = Pin<Box<dyn Future<Output = OwnedSemaphorePermit> + Send>>;
    impl Clone for Limited {
        fn clone(&self) -> Self {
            Self {
                places: self.places.clone(),
                waits: None,
                place: None,
            }
        }
    }
    impl Service<u32> for Limited {
        type Response = (u16, OwnedSemaphorePermit);
        type Error = Failure;
        type Future = std::future::Ready<Result<Self::Response, Failure>>;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
            let places = self.places.clone();
            let waits = self
                .waits
                .get_or_insert_with(|| Box::pin(async { places.acquire_owned().await.unwrap() }));
            self.place = Some(std::task::ready!(waits.as_mut().poll(cx)));
            self.waits = None;
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: u32) -> Self::Future {
            std::future::ready(Ok((503, self.place.take().unwrap())))
        }
    }
    type Held = (u16, OwnedSemaphorePermit);
    let by_status = classify::from_fn(|result: Result<&Held, &Failure>| match result {
        Ok((503, _)) | Err(_) => Verdict::FAILURE,
        Ok(_) => Verdict::SUCCESS,
    });
    let layer = RetryLayer::default().classify(by_status);
    let retry = layer.layer(Limited {
        places: Arc::new(Semaphore::new(1)),
        waits: None,
        place: None,
    });
    let result = tokio::time::timeout(SEC, retry.oneshot(7)).await;
    let (status, _) = result.expect("it must not wait for itself").unwrap();
    assert_eq!(status, 503, "the last answer, as it is");
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_repeated_is_repeated_only_if_it_was_not_sent() {
    let even = reissue::clone_if(|request: &u32| request.is_multiple_of(2));
    let layer = || {
        RetryLayer::default()
            .reissue(even)
            .classify(by_status())
            .unsent(is_refused)
    };
    let server = Server::new([fails(Failure::Broke)]);
    let result = layer().layer(server.clone()).oneshot(7).await;
    let error = result.unwrap_err().downcast::<RetryError>().unwrap();
    assert!(error.is_not_repeatable());
    assert_eq!(
        error.to_string(),
        "request failed after 1 attempt: it may not be repeated"
    );
    let server = Server::new([fails(Failure::Broke)]);
    assert!(layer().layer(server.clone()).oneshot(8).await.is_ok());
    let server = Server::new([fails(Failure::Refused), fails(Failure::Refused)]);
    assert!(layer().layer(server.clone()).oneshot(7).await.is_ok());
    assert_eq!(server.calls(), 3);
    // Sent once it was, and failed then.
    let server = Server::new([fails(Failure::Refused), fails(Failure::Broke)]);
    let result = layer().layer(server.clone()).oneshot(7).await;
    assert_eq!(
        stopped(result),
        (Stop::NotIdempotent, 2, Some(Failure::Broke))
    );
}

#[tokio::test(start_paused = true)]
async fn what_has_no_copy_is_not_repeated() {
    /// Makes no copy of a seven.
    #[derive(Clone)]
    struct NoSevens;

    impl Reissue<u32> for NoSevens {
        type Request = u32;
        type Spare = u32;

        fn prepare(&self, request: u32) -> (u32, Option<u32>) {
            (request, (request != 7).then_some(request))
        }

        fn is_idempotent(&self, _: &u32) -> bool {
            true
        }

        fn reissue(&self, spare: &u32) -> Option<u32> {
            Some(*spare)
        }
    }

    let layer = RetryLayer::default().reissue(NoSevens);
    let layer = layer.classify(by_status());
    let server = Server::new([fails(Failure::Broke)]);
    let result = layer.layer(server.clone()).oneshot(7).await;
    assert_eq!(
        stopped(result),
        (Stop::NotReplayable, 1, Some(Failure::Broke))
    );
    let server = Server::new([fails(Failure::Broke)]);
    assert!(layer.layer(server).oneshot(8).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_never_is_not_asked_again() {
    let server = Server::new([says(503).pushback(Pushback::Never)]);
    let result = ask(plain(), &server).await.unwrap();
    assert_eq!((result.status, server.calls()), (503, 1));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_when_is_asked_then() {
    let server = Server::new([
        says(503).pushback(Pushback::Exactly(1_234 * MS)),
        says(503).pushback(Pushback::Exactly(std::time::Duration::ZERO)),
    ]);
    assert!(ask(plain(), &server).await.is_ok());
    assert_eq!(server.times(), [0, 1_234, 1_234]);
}

#[tokio::test(start_paused = true)]
async fn a_hint_of_zero_does_not_replace_the_backoff() {
    let at_once = says(503).pushback(Pushback::After(std::time::Duration::ZERO));
    let server = Server::new([at_once, at_once]);
    let retry = with(settings().delay(Backoff::fixed(40 * MS)));
    assert!(ask(retry, &server).await.is_ok());
    assert_eq!(server.times(), [0, 40, 80]);
}

#[tokio::test(start_paused = true)]
async fn clients_that_are_told_the_same_time_do_not_come_back_together() {
    let mut times = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let server = Server::new([says(503).pushback(Pushback::After(SEC))]);
        assert!(ask(with(settings().seed(seed)), &server).await.is_ok());
        let again = server.times()[1];
        // The timer rounds up to the millisecond.
        assert!((1_000..=1_501).contains(&again), "{again}");
        times.insert(again);
    }
    assert!(times.len() > 50, "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_too_late_is_not_waited_for() {
    let start = Instant::now();
    let late = || Server::new([says(503).pushback(Pushback::After(2 * SEC))]);
    let server = late();
    let result = ask(with(settings().deadline(2 * SEC)), &server).await;
    assert_eq!((result.unwrap().status, server.calls()), (503, 1));
    let server = late();
    let result = ask(with(settings().max_pushback(SEC)), &server).await;
    assert_eq!((result.unwrap().status, server.calls()), (503, 1));
    assert_eq!(start.elapsed(), std::time::Duration::ZERO);
    assert_eq!(ask(plain(), &late()).await.unwrap().status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_before_the_retry_is_the_last_cause() {
    let server = Server::new([fails(Failure::Broke).after(MS)]);
    let mut retry = plain().layer(server.clone());
    let call = retry.ready().await.unwrap().call(7);
    server.close();
    assert_eq!(
        stopped(call.await),
        (Stop::NotReady, 1, Some(Failure::Closed))
    );

    let server = Server::new([says(503).after(MS)]);
    let mut retry = plain().layer(server.clone());
    let call = retry.ready().await.unwrap().call(7);
    server.close();
    assert_eq!(call.await.unwrap(), answer(503), "an answer says more");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_in_poll_ready_says_so_itself() {
    let server = Server::new([]);
    server.close();
    let mut retry = plain().layer(server.clone());
    let error = retry.ready().await.err().unwrap();
    assert_eq!(error.downcast_ref(), Some(&Failure::Closed));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_takes_too_long_is_dropped_for_the_next() {
    let server = Server::new([says(200).after(SEC), says(204).after(99 * MS)]);
    let retry = with(settings().try_timeout(100 * MS));
    assert_eq!(ask(retry, &server).await.unwrap(), answer(204));
    assert_eq!(server.times(), [0, 120]);
    assert_eq!(server.in_flight(), 0);

    let server = Server::new([says(200).after(SEC); 3]);
    let error = ask(with(settings().try_timeout(100 * MS)), &server).await;
    let error = error.unwrap_err().downcast::<RetryError>().unwrap();
    assert!(error.is_try_timeout() && error.is_exhausted());
    assert_eq!(
        error.source().unwrap().to_string(),
        "no answer within 100ms"
    );
    assert_eq!(server.times(), [0, 120, 240]);
    assert_eq!(server.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_was_given_up_may_have_been_carried_out() {
    let never = reissue::clone_if(|_: &u32| false);
    let layer = with(settings().try_timeout(10 * MS)).reissue(never);
    let server = Server::new([says(200).after(SEC)]);
    let result = layer.layer(server.clone()).oneshot(7).await;
    assert_eq!(stopped(result), (Stop::NotIdempotent, 1, None));
}

#[tokio::test(start_paused = true)]
async fn a_clone_works_on_its_own_and_shares_the_budget() {
    let server = Server::new([says(500), says(500)]);
    let budget = BudgetSettings::new().reserve(2).build().unwrap();
    let retry = plain().shared_budget(budget.clone());
    let mut one: Retry<_, _, _> = retry.layer(server.clone());
    // What one has reserved is its own.
    one.ready().await.unwrap();
    let mut two = one.clone();
    let (a, b) = tokio::join!(one.call(1), two.ready().await.unwrap().call(2));
    assert_eq!((a.unwrap().status, b.unwrap().status), (200, 200));
    assert_eq!(budget.withdrawn(), 2);
    drop((one, two));
    assert_eq!(server.clones(), 1, "nothing is left behind");
}

#[test]
fn refuses_a_time_of_zero_and_names_the_field() {
    let zero = std::time::Duration::ZERO;
    let error = RetrySettings::new().try_timeout(zero).build().unwrap_err();
    assert_eq!(error.field(), "retry.try_timeout");
    let error = RetrySettings::new().deadline(zero).build().unwrap_err();
    assert_eq!(error.field(), "retry.deadline");
}

#[tokio::test(start_paused = true)]
async fn the_longest_settings_do_no_harm() {
    let longest = std::time::Duration::MAX;
    let settings = settings()
        .try_timeout(longest)
        .deadline(longest)
        .max_pushback(longest)
        .delay(Backoff::fixed(longest));
    let server = Server::new([fails(Failure::Broke)]);
    let result = ask(with(settings), &server).await;
    assert_eq!(stopped(result), (Stop::Deadline, 1, Some(Failure::Broke)));
}
