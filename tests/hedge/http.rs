//! Hedging of HTTP requests, whose bodies two attempts read side by side.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower::{BoxError, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_roster::service::{
    hedge::HedgeSettings,
    retry::{ReplayBody, RetryLayer},
};

use crate::kit::{MS, SEC};

/// Echoes; the first request slowly, so that a second one overtakes it.
fn echo<B>(
    calls: Arc<AtomicUsize>,
) -> impl Service<Request<ReplayBody<B>>, Response = Response<Full<Bytes>>, Error = BoxError> + Clone
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    service_fn(move |request: Request<ReplayBody<B>>| {
        let call = calls.fetch_add(1, Relaxed);
        async move {
            let mut body = request.into_body();
            if call == 0 {
                // Some of it, then a pause.
                body.frame().await.transpose()?;
                tokio::time::sleep(SEC).await;
            }
            let body = body.collect().await?.to_bytes();
            Ok(Response::new(Full::new(body)))
        }
    })
}

#[tokio::test(start_paused = true)]
async fn the_second_attempt_sends_the_whole_body() {
    let calls = Arc::default();
    let layer = HedgeSettings::new().delay(50 * MS).build().unwrap().http();
    let service = ServiceBuilder::new()
        .layer(layer)
        .service(echo(Arc::clone(&calls)));
    let request = Request::put("/").body(Full::from("hello")).unwrap();
    let response = service.oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "hello");
    assert_eq!(calls.load(Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn below_a_retry_the_body_is_kept_once() {
    let calls = Arc::default();
    let service = ServiceBuilder::new()
        .layer(RetryLayer::default().http())
        .layer(
            HedgeSettings::new()
                .delay(50 * MS)
                .build()
                .unwrap()
                .http_below_retry(),
        )
        // The same type as without a hedge: it is not wrapped twice.
        .service(echo::<Full<Bytes>>(Arc::clone(&calls)));
    let request = Request::put("/").body(Full::from("hello")).unwrap();
    let response = service.oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "hello");
    assert_eq!(calls.load(Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn other_methods_are_sent_once() {
    let calls = Arc::default();
    let layer = HedgeSettings::new().delay(50 * MS).build().unwrap().http();
    let service = ServiceBuilder::new()
        .layer(layer)
        .service(echo(Arc::clone(&calls)));
    let request = Request::post("/").body(Full::from("hello")).unwrap();
    service.oneshot(request).await.unwrap();
    assert_eq!(calls.load(Relaxed), 1);
}
