//! How an answer ends, and who is told what.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use futures_util::FutureExt;
use http_body::Body as _;
use http_body_util::{BodyExt, Empty, Full};
use tower::{Service, load::Load};
use tower_roster::{
    Instance,
    classify::{Grpc, Http, Outcome, Pushback, Verdict},
    endpoint::{Endpoint, load::PeakEwma},
};

use crate::scene::{
    Part,
    Word::{self, Over},
    answer, body, cut, data, response, stuck, trailers,
};

const SUCCESS: Word = Word::Verdict(Verdict::SUCCESS);
const FAILURE: Word = Word::Verdict(Verdict::FAILURE);
const OVERLOADED: Word = Word::Verdict(Verdict::OVERLOADED);

/// What is told about an answer that is read as far as it goes, while its body is still held.
macro_rules! read {
    ($classify:expr, $response:expr) => {{
        let (observed, told) = answer(&$classify, $response);
        let mut body = observed.into_body();
        while let Some(Ok(_)) = body.frame().await {}
        told.words()
    }};
}

#[tokio::test]
async fn over_http_an_answer_that_breaks_off_becomes_a_failure() {
    let http = Http::default();
    let broken = || body([data("a"), cut()]);
    assert_eq!(
        read!(http, response(200, &[], broken())),
        [SUCCESS, FAILURE, Over]
    );
    // What was no success cannot get worse.
    assert_eq!(read!(http, response(500, &[], broken())), [FAILURE, Over]);
    assert_eq!(
        read!(http, response(429, &[], broken())),
        [OVERLOADED, Over]
    );
}

#[tokio::test]
async fn over_http_a_whole_answer_brings_no_news_and_is_over_with_its_end() {
    let http = Http::default();
    let whole = response(200, &[], body([data("a"), data("b")]));
    assert_eq!(read!(http, whole), [SUCCESS, Over]);
    let with_trailers = response(200, &[], body([data("a"), trailers(&[("x", "y")])]));
    assert_eq!(read!(http, with_trailers), [SUCCESS, Over]);
    let refused = response(503, &[], body([data("sorry")]));
    assert_eq!(read!(http, refused), [FAILURE, Over]);

    let (bare, told) = answer(&http, response(204, &[], Empty::<Bytes>::new()));
    assert_eq!(told.words(), [SUCCESS, Over], "it has ended with the head");
    drop(bare);

    let sized = response(200, &[], Full::new(Bytes::from_static(b"data")));
    let (observed, told) = answer(&http, sized);
    let mut body = observed.into_body();
    assert_eq!(told.words(), [SUCCESS]);
    assert!(body.frame().await.unwrap().is_ok());
    assert!(body.is_end_stream());
    assert_eq!(
        told.words(),
        [SUCCESS, Over],
        "nobody needs to ask for more"
    );
}

#[tokio::test]
async fn an_answer_dropped_anywhere_is_told_once_and_not_as_a_failure() {
    for frames in 0..3 {
        let parts = || stuck([data("a"), data("b")]);
        let (observed, told) = answer(&Http::default(), response(200, &[], parts()));
        let mut body = observed.into_body();
        for _ in 0..frames {
            body.frame().await.unwrap().unwrap();
        }
        assert_eq!(told.words(), [SUCCESS], "after {frames} frames");
        drop(body);
        assert_eq!(told.words(), [SUCCESS, Over], "after {frames} frames");

        let (observed, told) = answer(&Grpc::default(), response(200, &[], parts()));
        let mut body = observed.into_body();
        for _ in 0..frames {
            body.frame().await.unwrap().unwrap();
        }
        assert!(frames < 2 || body.frame().now_or_never().is_none());
        assert_eq!(told.words(), [], "after {frames} frames");
        drop(body);
        assert_eq!(told.words(), [Over], "neutral after {frames} frames");
    }
}

#[tokio::test]
async fn over_grpc_the_trailers_tell() {
    let grpc = Grpc::default();
    let ends = |last: Part| response(200, &[], body([data("a"), data("b"), last]));
    let ok = ends(trailers(&[("grpc-status", "0")]));
    assert_eq!(read!(grpc, ok), [SUCCESS, Over]);
    let not_found = ends(trailers(&[("grpc-status", "5")]));
    assert_eq!(read!(grpc, not_found), [SUCCESS, Over]);
    let unavailable = ends(trailers(&[("grpc-status", "14")]));
    assert_eq!(read!(grpc, unavailable), [FAILURE, Over]);
    let exhausted = ends(trailers(&[("grpc-status", "8")]));
    assert_eq!(read!(grpc, exhausted), [OVERLOADED, Over]);
    assert_eq!(read!(grpc, ends(cut())), [FAILURE, Over]);
    let silent = ends(trailers(&[("x", "y")]));
    assert_eq!(read!(grpc, silent), [FAILURE, Over]);
    assert_eq!(
        read!(grpc, response(200, &[], body([data("a")]))),
        [FAILURE, Over],
        "without a status at its end"
    );
    let (_, told) = answer(&grpc, response(200, &[], Empty::<Bytes>::new()));
    assert_eq!(told.words(), [FAILURE, Over], "without anything at all");
}

#[tokio::test]
async fn over_grpc_a_status_in_the_head_tells_at_once() {
    let grpc = Grpc::default();
    let head = [("grpc-status", "14"), ("grpc-retry-pushback-ms", "250")];
    let (_, told) = answer(&grpc, response(200, &head, Empty::<Bytes>::new()));
    let pushback = Pushback::Exactly(std::time::Duration::from_millis(250));
    let expected = Verdict::FAILURE.pushback(pushback);
    assert_eq!(told.words(), [Word::Verdict(expected), Over]);
    let proxy = response(502, &[], body([data("<html>"), cut()]));
    assert_eq!(read!(grpc, proxy), [FAILURE, Over]);
}

#[tokio::test]
async fn over_grpc_pushback_comes_with_the_status() {
    let pushback = [("grpc-retry-pushback-ms", "-1")];
    let told = |head: &[(&'static str, &str)], last| {
        let answer = response(200, head, body([data("a"), last]));
        async move { read!(Grpc::default(), answer) }
    };
    let last = trailers(&[("grpc-status", "8"), pushback[0]]);
    let never = Verdict::OVERLOADED.pushback(Pushback::Never);
    assert_eq!(told(&[], last).await, [Word::Verdict(never), Over]);
    // Metadata before the messages are another thing.
    let last = trailers(&[("grpc-status", "8")]);
    let expected = [Word::Verdict(Verdict::OVERLOADED), Over];
    assert_eq!(told(&pushback, last).await, expected);
}

#[tokio::test]
async fn a_closure_judges_the_head_and_the_end_still_counts() {
    let classify = Http::with(
        |result: Result<&http::Response<_>, &std::io::Error>| match result {
            Ok(response) if response.status() == 404 => Verdict::FAILURE,
            _ => Http::verdict(result),
        },
    );
    let broken = |status| response(status, &[], stuck([cut()]));
    assert_eq!(read!(classify, broken(404)), [FAILURE, Over]);
    assert_eq!(read!(classify, broken(200)), [SUCCESS, FAILURE, Over]);
}

#[test]
fn what_a_body_says_of_itself_passes_through() {
    let sized = response(200, &[], Full::new(Bytes::from_static(b"data")));
    let (observed, _) = answer(&Http::default(), sized);
    assert_eq!(observed.body().size_hint().exact(), Some(4));
    assert!(!observed.body().is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_in_its_trailers_is_no_fast_one() {
    for (code, cost) in [("0", 0.0), ("14", 5.0), ("8", 5.0)] {
        let service = tower::service_fn(move |()| {
            let parts = [data("a"), trailers(&[("grpc-status", code)])];
            std::future::ready(Ok::<_, Infallible>(response(200, &[], body(parts))))
        });
        let instance = Instance::new("web", "a", "127.0.0.1:1".parse().unwrap());
        let mut endpoint = Endpoint::new(service, Arc::new(instance))
            .measured(PeakEwma::new())
            .classify(Grpc::default());
        let mut body = endpoint.call(()).await.unwrap().into_body();
        assert_eq!(endpoint.in_flight(), 1);
        while body.frame().await.is_some() {}
        assert_eq!(endpoint.in_flight(), 0, "code {code}");
        let load = endpoint.load();
        assert!((load - cost).abs() < 1e-6, "{load} for code {code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_verdict_of_cancelled_is_no_measurement() {
    let neutral = Grpc::default().outcome(14, Outcome::Cancelled);
    let service = tower::service_fn(move |()| async move {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let body = Empty::<Bytes>::new();
        Ok::<_, Infallible>(response(200, &[("grpc-status", "14")], body))
    });
    let instance = Instance::new("web", "a", "127.0.0.1:1".parse().unwrap());
    let mut endpoint = Endpoint::new(service, Arc::new(instance))
        .measured(PeakEwma::new())
        .classify(neutral);
    endpoint.call(()).await.unwrap();
    // Still unknown: its next request is one probe, which is waited for.
    let probe = endpoint.call(());
    assert!(endpoint.load() > 1e9);
    drop(probe);
}
