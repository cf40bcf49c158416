//! The retry service.

use std::{
    fmt, mem,
    task::{Context, Poll},
};

use tower::Service;

#[cfg(doc)]
use super::RetryLayer;
use super::{
    budget::SlotEnd,
    future::ResponseFuture,
    reissue::{Cloned, Reissue},
    terms::RetryParts,
};
use crate::{
    classify::{Answers, Classify},
    error::BoxError,
};

/// Retries failed requests; made by [`RetryLayer`].
pub struct Retry<S, R = Cloned, C = Answers> {
    pub(super) service: S,
    pub(super) settings: RetryParts<R, C>,
    pub(super) slot: SlotEnd,
}

impl<S, R, C> Retry<S, R, C> {
    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.service
    }
}

impl<S, Req, R, C> Service<Req> for Retry<S, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request> + Clone,
    S::Error: Into<BoxError>,
    C: Classify<S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S, Req, R, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.service.poll_ready(cx).map_err(Into::into)
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let clone = self.service.clone();
        let ready = mem::replace(&mut self.service, clone);
        ResponseFuture::new(ready, &self.settings, &mut self.slot, request)
    }
}

impl<S: Clone, R: Clone, C: Clone> Clone for Retry<S, R, C> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
            settings: self.settings.clone(),
            slot: self.slot,
        }
    }
}

impl_debug!([S: fmt::Debug, R, C] Retry<S, R, C>: |this|
    service = this.service,
    settings = this.settings.terms,
);
