//! Hedging of HTTP requests, whose bodies two attempts read side by side.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower::{BoxError, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_roster::{
    Deadline,
    service::{
        hedge::HedgeSettings,
        retry::{BudgetSettings, ReplayBody, RetryLayer},
    },
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

#[tokio::test(start_paused = true)]
async fn no_hedge_starts_after_the_deadline() {
    let one_a_second = BudgetSettings::new().ratio(0.0).reserve_per_sec(1).ttl(SEC);
    let enough = BudgetSettings::new().reserve(100);
    // The second extra would be due later; and with an empty budget the first is put off.
    for (budget, sent) in [(enough, 3), (one_a_second, 1)] {
        let budget = budget.build().unwrap();
        if sent == 1 {
            assert!(budget.withdraw(tokio::time::Instant::now()));
        }
        let settings = HedgeSettings::new().delay(50 * MS);
        let layer = settings.max_extra(NonZeroU32::new(9).unwrap()).build();
        let layer = layer.unwrap().http().budget(budget);
        let calls = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&calls);
        let service = service_fn(move |_: Request<ReplayBody<Full<Bytes>>>| {
            counted.fetch_add(1, Relaxed);
            async {
                tokio::time::sleep(5 * SEC).await;
                Ok::<_, BoxError>(Response::new(Full::<Bytes>::default()))
            }
        });
        let mut request = Request::get("/").body(Full::from("hello")).unwrap();
        request.extensions_mut().insert(Deadline::within(120 * MS));
        ServiceBuilder::new()
            .layer(layer)
            .service(service)
            .oneshot(request)
            .await
            .unwrap();
        assert_eq!(calls.load(Relaxed), sent);
    }
}
