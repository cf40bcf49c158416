//! A service that judges its calls and writes down the verdicts, like a balancer would.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::body::Body;
use tower::Service;
use tower_roster::{
    classify::{Classify, Grpc, ObservedBody, Observer, Verdict},
    client::{GrpcClient, HttpBody, HttpError},
};

#[derive(Clone)]
pub(crate) struct Judged {
    client: GrpcClient,
    told: Arc<Mutex<Vec<Word>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// With the head of the answer, or instead of it.
    Head(Verdict),
    /// At its end.
    End(Verdict),
    /// The call is over.
    Over,
}

impl Judged {
    pub(crate) fn new(client: GrpcClient) -> Self {
        Self {
            client,
            told: Arc::default(),
        }
    }

    /// What was told since the last time.
    pub(crate) fn told(&self) -> Vec<Word> {
        std::mem::take(&mut self.told.lock().unwrap())
    }
}

pub(crate) struct Scribe(Arc<Mutex<Vec<Word>>>);

impl Observer for Scribe {
    fn conclude(&mut self, verdict: Verdict) {
        self.0.lock().unwrap().push(Word::End(verdict));
    }
}

impl Drop for Scribe {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(Word::Over);
    }
}

impl Service<Request<Body>> for Judged {
    type Response = Response<ObservedBody<HttpBody, Scribe>>;
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, HttpError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HttpError>> {
        Service::<Request<Body>>::poll_ready(&mut self.client, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let told = Arc::clone(&self.told);
        let answer = self.client.call(request);
        Box::pin(async move {
            let result = answer.await;
            let grpc = Grpc::default();
            let head = grpc.judge(result.as_ref());
            if let Some(verdict) = head {
                told.lock().unwrap().push(Word::Head(verdict));
            }
            let observe =
                |response| Classify::<_, HttpError>::observe(&grpc, response, head, Scribe(told));
            result.map(observe)
        })
    }
}
