//! A client whose requests are reported.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use tokio::time::Instant;
use tower::Service;

use super::{
    course::Course,
    current::{self, CurrentRequest},
    report::RequestInfo,
    reporter::{EndpointReporter, Reporter},
};
use crate::{
    attempt::{self, Abandoned, AttemptKind},
    balance::{BalanceHeld, BalanceShared},
    classify::{Classify, Excuse, Observer, Verdict, on_service_error},
    error::{BoxError, RequestErrorKind},
};

/// A client whose requests are reported. Made by [`Telemetry`](super::Telemetry), as the outermost layer.
///
/// A request ends with the body of its response if the classifier `C` observes it, as `Http` and `Grpc` do.
/// It begins with its call, or earlier if `poll_ready` has to wait. Errors are boxed.
pub struct MonitoredClient<S, C> {
    service: S,
    classify: C,
    reporter: BalanceShared<Reporter>,
    /// The request for which this clone waits in `poll_ready`. Set only once it has to wait.
    waiting: Option<Box<RequestReport>>,
}

impl<S, C> MonitoredClient<S, C> {
    pub(super) fn new(service: S, classify: C, reporter: Arc<Reporter>) -> Self {
        Self {
            service,
            classify,
            reporter: BalanceShared::new(reporter),
            waiting: None,
        }
    }

    /// The request for which this clone has waited, or a new one.
    #[inline]
    fn request(&mut self, now: impl FnOnce() -> Instant) -> RequestReport {
        match self.waiting.take() {
            Some(waiting) => *waiting,
            None => RequestReport::begin(&self.reporter, now()),
        }
    }

    #[cold]
    fn wait(&mut self) {
        let begin = || Box::new(RequestReport::begin(&self.reporter, Instant::now()));
        self.waiting.get_or_insert_with(begin);
    }

    /// The client without the reports.
    pub fn get_ref(&self) -> &S {
        &self.service
    }
}

impl<S: Clone, C: Clone> Clone for MonitoredClient<S, C> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
            classify: self.classify.clone(),
            reporter: self.reporter.clone(),
            waiting: None,
        }
    }
}

impl_debug!([S: fmt::Debug, C] MonitoredClient<S, C>: |this|
    service = this.service,
    reporter = *this.reporter,
);

impl<S, C, Request> Service<Request> for MonitoredClient<S, C>
where
    S: Service<Request>,
    S::Error: Into<BoxError>,
    C: Classify<S::Response, S::Error>,
{
    type Response = C::Observed<RequestReport>;
    type Error = BoxError;
    type Future = RequestFuture<S::Future, C>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self.service.poll_ready(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Pending => {
                self.wait();
                Poll::Pending
            }
            Poll::Ready(Err(error)) => {
                let judged = self.classify.judge(Err(&error));
                let error = error.into();
                self.request(Instant::now).failed(judged, &error);
                Poll::Ready(Err(error))
            }
        }
    }

    #[inline]
    fn call(&mut self, request: Request) -> Self::Future {
        let now = Instant::now();
        let mut report = self.request(|| now);
        let call = || attempt::at(now, || self.service.call(request));
        RequestFuture {
            future: report.during(call),
            classify: self.classify.clone(),
            report: Some(report),
        }
    }
}

/// The response future of a [`MonitoredClient`]. Dropping it reports that the request was abandoned, after
/// its attempts.
#[pin_project]
pub struct RequestFuture<F, C> {
    #[pin]
    future: F,
    classify: C,
    /// Taken when the request is done. After `future`, so that it is dropped after the attempts.
    report: Option<RequestReport>,
}

impl<F, C, T, E> Future for RequestFuture<F, C>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
    C: Classify<T, E>,
{
    type Output = Result<C::Observed<RequestReport>, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let report = this.report.as_mut();
        let report = report.expect("not polled after it was done");
        let result = ready!(report.during(|| this.future.poll(cx)));
        let mut report = this.report.take().expect("it was there above");
        Poll::Ready(match result {
            Ok(response) => {
                let verdict = this.classify.judge(Ok(&response));
                let now = current::clock(report.current.number);
                let status = this.classify.status(&response);
                report.course.answered(now, status);
                report.answered(verdict);
                Ok(this.classify.observe(response, verdict, report))
            }
            Err(error) => {
                let judged = this.classify.judge(Err(&error));
                let error = error.into();
                report.failed(judged, &error);
                Err(error)
            }
        })
    }
}

impl_debug!([F, C] RequestFuture<F, C>: |this| report = this.report);

/// One request, which is reported when this is dropped. It stays with the response if the classifier observes
/// the end of the response.
pub struct RequestReport {
    reporter: BalanceHeld<Reporter>,
    current: CurrentRequest,
    course: Course,
}

impl RequestReport {
    fn begin(reporter: &BalanceShared<Reporter>, now: Instant) -> Self {
        reporter.request_began();
        Self {
            reporter: reporter.hold(),
            current: CurrentRequest::new(),
            course: Course::new(now),
        }
    }

    /// Runs a part of the request.
    #[inline]
    fn during<T>(&mut self, run: impl FnOnce() -> T) -> T {
        let (course, current) = (&mut self.course, &mut self.current);
        course.during(|| AttemptKind::first(|| current.enter(run)))
    }

    #[cold]
    fn failed(&mut self, judged: Option<Verdict>, error: &BoxError) {
        self.current.hedged = false;
        let verdict = on_service_error(judged, Excuse::of(&**error));
        let kind = RequestErrorKind::of(&**error);
        self.course.failed(kind, verdict);
    }
}

impl Observer for RequestReport {
    fn conclude(&mut self, verdict: Verdict) {
        self.course.judged(verdict);
    }

    fn broke_off(&mut self, kind: RequestErrorKind) {
        self.course.broke_off(kind);
    }

    fn ended(&mut self) {
        self.course.completed(current::clock(self.current.number));
    }

    #[cfg(feature = "_hyper")]
    fn trailers(&mut self, trailers: &http::HeaderMap) {
        let code = crate::classify::grpc_code(trailers);
        self.course
            .trailers(code.map(crate::classify::ResponseStatus::Grpc));
    }
}

impl Drop for RequestReport {
    fn drop(&mut self) {
        let end = self.course.end(Abandoned::current());
        let CurrentRequest {
            number,
            attempts,
            hedged,
            endpoint,
            ..
        } = &self.current;
        let request = RequestInfo {
            service: self.reporter.service(),
            number: *number,
            attempts: *attempts,
            hedged: *hedged,
            endpoint: endpoint.as_deref().map(EndpointReporter::tag),
        };
        self.reporter.request_ended(&request, &end);
    }
}

impl_debug!(RequestReport: |this|
    service = this.reporter.service(),
    number = this.current.number,
    attempts = this.current.attempts,
);
