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
    attempt::{self, Abandoned},
    classify::{Classify, Observer, Verdict},
    error::{BoxError, RequestErrorKind},
};

/// A client whose requests are reported. Made by [`Telemetry`](super::Telemetry), as the outermost layer.
///
/// A request ends with the body of its response if the classifier `C` observes it, as `Http` and `Grpc` do.
/// Its time begins when `poll_ready` begins to wait. Errors are boxed.
pub struct MonitoredClient<S, C> {
    service: S,
    classify: C,
    reporter: Arc<Reporter>,
    /// Since when this clone waits to be ready for a request.
    waits: Option<Instant>,
}

impl<S, C> MonitoredClient<S, C> {
    pub(super) fn new(service: S, classify: C, reporter: Arc<Reporter>) -> Self {
        Self {
            service,
            classify,
            reporter,
            waits: None,
        }
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
            reporter: Arc::clone(&self.reporter),
            waits: None,
        }
    }
}

impl_debug!([S: fmt::Debug, C] MonitoredClient<S, C>: |this|
    service = this.service,
    reporter = this.reporter,
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
                self.waits.get_or_insert_with(Instant::now);
                Poll::Pending
            }
            Poll::Ready(Err(error)) => {
                let error = error.into();
                let began = self.waits.take().unwrap_or_else(Instant::now);
                let mut report = RequestReport::begin(&self.reporter, began);
                report.course.failed(RequestErrorKind::of(&*error));
                Poll::Ready(Err(error))
            }
        }
    }

    #[inline]
    fn call(&mut self, request: Request) -> Self::Future {
        let now = Instant::now();
        let began = self.waits.take().unwrap_or(now);
        let mut report = RequestReport::begin(&self.reporter, began);
        let call = || attempt::at(now, || self.service.call(request));
        RequestFuture {
            future: report.current.enter(call),
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
        let result = ready!(report.current.enter(|| this.future.poll(cx)));
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
                let error: BoxError = error.into();
                report.course.failed(RequestErrorKind::of(&*error));
                Err(error)
            }
        })
    }
}

impl_debug!([F, C] RequestFuture<F, C>: |this| report = this.report);

/// One request, which is reported when this is dropped. It stays with the response if the classifier observes
/// the end of the response.
pub struct RequestReport {
    reporter: Arc<Reporter>,
    current: CurrentRequest,
    course: Course,
}

impl RequestReport {
    fn begin(reporter: &Arc<Reporter>, now: Instant) -> Self {
        reporter.request_began();
        Self {
            reporter: Arc::clone(reporter),
            current: CurrentRequest::new(),
            course: Course::new(now),
        }
    }
}

impl Observer for RequestReport {
    fn conclude(&mut self, verdict: Verdict) {
        self.course.judged(verdict);
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
