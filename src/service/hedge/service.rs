//! The hedging service.

use std::{
    fmt, mem,
    sync::Arc,
    task::{Context, Poll},
};

use tower::Service;

#[cfg(doc)]
use super::HedgeLayer;
use super::{future::ResponseFuture, shared::HedgeShared};
use crate::{
    classify::{Answers, Classify},
    service::retry::{Cloned, Reissue},
};

/// Sends slow requests a second time; made by [`HedgeLayer`].
pub struct Hedge<S, R = Cloned, C = Answers> {
    pub(super) service: S,
    pub(super) shared: Arc<HedgeShared<R, C>>,
}

impl<S, R, C> Hedge<S, R, C> {
    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.service
    }
}

impl<S, Req, R, C> Service<Req> for Hedge<S, R, C>
where
    R: Reissue<Req>,
    S: Service<R::Request> + Clone,
    C: Classify<S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, Req, R, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let clone = self.service.clone();
        let ready = mem::replace(&mut self.service, clone);
        ResponseFuture::new(ready, &self.shared, request)
    }
}

impl<S: Clone, R, C> Clone for Hedge<S, R, C> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
            shared: self.shared.clone(),
        }
    }
}

impl_debug!([S: fmt::Debug, R, C] Hedge<S, R, C>: |this|
    service = this.service,
    settings = this.shared,
);
