//! An endpoint whose attempts are reported.

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
    report::AttemptInfo,
    reporter::EndpointReporter,
};
use crate::{
    attempt::{self, Abandoned, AttemptKind},
    classify::{Classify, Excuse, Observer, Verdict, on_error},
    error::{BoxError, RequestErrorKind},
};

/// The service of an endpoint whose attempts are reported. Made by [`Telemetry`](super::Telemetry), in a
/// stack or by [`MonitoredDiscover`](super::MonitoredDiscover).
///
/// An attempt ends with the body of its response if the classifier `C` observes it, as `Http` and `Grpc` do.
/// Errors are boxed.
pub struct MonitoredEndpoint<S, C> {
    service: S,
    classify: C,
    reporter: Arc<EndpointReporter>,
}

impl<S, C> MonitoredEndpoint<S, C> {
    pub(super) fn new(service: S, classify: C, reporter: EndpointReporter) -> Self {
        Self {
            service,
            classify,
            reporter: Arc::new(reporter),
        }
    }

    /// The service without the reports.
    pub fn get_ref(&self) -> &S {
        &self.service
    }
}

impl<S: Clone, C: Clone> Clone for MonitoredEndpoint<S, C> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
            classify: self.classify.clone(),
            reporter: Arc::clone(&self.reporter),
        }
    }
}

impl_debug!([S: fmt::Debug, C] MonitoredEndpoint<S, C>: |this|
    service = this.service,
    reporter = this.reporter,
);

impl<S, C, Request> Service<Request> for MonitoredEndpoint<S, C>
where
    S: Service<Request>,
    S::Error: Into<BoxError>,
    C: Classify<S::Response, S::Error>,
{
    type Response = C::Observed<AttemptReport>;
    type Error = BoxError;
    type Future = AttemptFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.service.poll_ready(cx).map_err(Into::into)
    }

    #[inline]
    fn call(&mut self, request: Request) -> Self::Future {
        let mut report = AttemptReport::begin(&self.reporter);
        AttemptFuture {
            future: report.course.during(|| self.service.call(request)),
            classify: self.classify.clone(),
            report: Some(report),
        }
    }
}

/// The response future of a [`MonitoredEndpoint`]. Dropping it reports that the attempt was abandoned.
#[pin_project]
pub struct AttemptFuture<F, C> {
    #[pin]
    future: F,
    classify: C,
    /// Taken when the attempt is done.
    report: Option<AttemptReport>,
}

impl<F, C, T, E> Future for AttemptFuture<F, C>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
    C: Classify<T, E>,
{
    type Output = Result<C::Observed<AttemptReport>, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let report = this.report.as_mut();
        let report = report.expect("not polled after it was done");
        let result = ready!(report.course.during(|| this.future.poll(cx)));
        let mut report = this.report.take().expect("it was there above");
        Poll::Ready(match result {
            Ok(response) => {
                let verdict = this.classify.judge(Ok(&response));
                let now = Instant::now();
                current::note_clock(report.request, now);
                CurrentRequest::answered(&report.endpoint, report.hedged);
                report.course.answered(now, this.classify.status(&response));
                report.answered(verdict);
                Ok(this.classify.observe(response, verdict, report))
            }
            Err(error) => {
                let judged = this.classify.judge(Err(&error));
                let error: BoxError = error.into();
                let verdict = on_error(judged, Excuse::of(&*error));
                let kind = RequestErrorKind::of(&*error);
                report.course.failed(kind, verdict);
                Err(error)
            }
        })
    }
}

impl_debug!([F, C] AttemptFuture<F, C>: |this| report = this.report);

/// One attempt, which is reported when this is dropped. It stays with the response if the classifier observes
/// the end of the response.
pub struct AttemptReport {
    endpoint: Arc<EndpointReporter>,
    request: u64,
    number: u32,
    kind: AttemptKind,
    hedged: bool,
    course: Course,
}

impl AttemptReport {
    fn begin(endpoint: &Arc<EndpointReporter>) -> Self {
        let (request, number) = CurrentRequest::send(endpoint);
        let attempt = Self {
            endpoint: Arc::clone(endpoint),
            request,
            number,
            kind: AttemptKind::current(),
            hedged: AttemptKind::is_hedge(),
            course: Course::new(attempt::now()),
        };
        attempt.endpoint.attempt_began(&attempt.info());
        attempt
    }

    fn info(&self) -> AttemptInfo<'_> {
        AttemptInfo {
            service: self.endpoint.service(),
            request: self.request,
            number: self.number,
            kind: self.kind,
            endpoint: self.endpoint.tag(),
        }
    }
}

impl Observer for AttemptReport {
    fn conclude(&mut self, verdict: Verdict) {
        self.course.judged(verdict);
    }

    fn broke_off(&mut self, kind: RequestErrorKind) {
        self.course.broke_off(kind);
    }

    fn ended(&mut self) {
        let now = Instant::now();
        current::note_clock(self.request, now);
        self.course.completed(now);
    }

    #[cfg(feature = "_hyper")]
    fn trailers(&mut self, trailers: &http::HeaderMap) {
        let code = crate::classify::grpc_code(trailers);
        self.course
            .trailers(code.map(crate::classify::ResponseStatus::Grpc));
    }
}

impl Drop for AttemptReport {
    fn drop(&mut self) {
        let end = self.course.end(Abandoned::current());
        self.endpoint.attempt_ended(&self.info(), &end);
    }
}

impl_debug!(AttemptReport: |this|
    endpoint = this.endpoint.tag().key(),
    number = this.number,
    kind = this.kind,
);
