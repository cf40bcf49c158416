//! Each attempt goes to an endpoint that none before it went to.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use tower::{BoxError, Layer, Service, ServiceExt};
use tower_roster::{
    Backoff,
    attempt::{EndpointId, Tried},
    service::retry::RetrySettings,
};

use crate::kit::{Failure, MS};

/// Picks the first endpoint that the request has not been to, each of which fails but the last.
#[derive(Clone)]
pub(crate) struct Toy {
    ids: Arc<Vec<EndpointId>>,
    picked: Arc<Mutex<Vec<usize>>>,
    lazily: bool,
}

impl Toy {
    fn new(count: usize, lazily: bool) -> Self {
        Self {
            ids: Arc::new((0..count).map(|_| EndpointId::next()).collect()),
            picked: Arc::default(),
            lazily,
        }
    }

    fn pick(&self) -> Result<usize, BoxError> {
        let tried = Tried::current().expect("a retry keeps one");
        let pick = self.ids.iter().position(|id| !tried.contains(*id));
        let pick = pick.unwrap_or(0);
        Tried::note(self.ids[pick]);
        self.picked.lock().unwrap().push(pick);
        if pick + 1 == self.ids.len() {
            Ok(pick)
        } else {
            Err(Failure::Broke.into())
        }
    }
}

impl Service<u32> for Toy {
    type Response = usize;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<usize, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: u32) -> Self::Future {
        if self.lazily {
            // In a later poll than the first.
            let toy = self.clone();
            Box::pin(async move {
                tokio::time::sleep(MS).await;
                toy.pick()
            })
        } else {
            let result = self.pick();
            Box::pin(async move { result })
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_goes_to_another_endpoint() {
    for lazily in [false, true] {
        let toy = Toy::new(3, lazily);
        let layer = RetrySettings::new().delay(Backoff::fixed(MS)).build();
        let retry = layer.unwrap().layer(toy.clone());
        assert_eq!(retry.oneshot(7).await.unwrap(), 2);
        assert_eq!(*toy.picked.lock().unwrap(), [0, 1, 2]);
        assert_eq!(Tried::current(), None, "nothing is left behind");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_do_not_learn_from_each_other() {
    let toy = Toy::new(2, true);
    let layer = RetrySettings::new().delay(Backoff::fixed(MS)).build();
    let retry = layer.unwrap().layer(toy.clone());
    let (a, b) = tokio::join!(retry.clone().oneshot(1), retry.oneshot(2));
    assert_eq!((a.unwrap(), b.unwrap()), (1, 1));
    assert_eq!(*toy.picked.lock().unwrap(), [0, 0, 1, 1]);
}
