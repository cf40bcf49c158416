//! Servers that send much that is no response.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use tower::Service;
use tower_roster::{
    client::{HttpClient, HttpEndpoints},
    discover::MakeEndpoint,
};

use crate::{
    raw::{Raw, ok, path},
    scripted::at,
};

type Client = HttpClient<Empty<Bytes>>;

/// Sends a request. Returns the body of the response, or the error and its causes.
async fn get(client: &mut Client, path: &str) -> Result<Bytes, String> {
    let request = Request::get(format!("http://web{path}"));
    let answer = client.call(request.body(Empty::new()).unwrap()).await;
    let answer = answer.map_err(|error| format!("{error:?}"))?;
    let body = answer.into_body().collect().await;
    Ok(body.map_err(|error| format!("{error:?}"))?.to_bytes())
}

#[tokio::test]
async fn a_flood_of_interim_responses_is_an_error_and_some_are_none() {
    let server = Raw::start(|head| {
        let count = path(head)[1..].parse().unwrap();
        let interim = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(count);
        (interim + &ok("done"), false)
    })
    .await;
    let mut client = HttpEndpoints::new()
        .make_endpoint(&at("a", server.addr))
        .unwrap();
    for _ in 0..3 {
        assert_eq!(get(&mut client, "/1000").await.unwrap(), "done");
    }
    assert_eq!(server.opened(), 1);
    let error = get(&mut client, "/100000").await.unwrap_err();
    assert!(error.contains("too many interim responses"), "{error}");
    assert_eq!(
        get(&mut client, "/3").await.unwrap(),
        "done",
        "on another connection"
    );
}

#[cfg(feature = "http2")]
#[tokio::test]
async fn a_flood_of_frames_without_content_is_an_error_and_some_are_none() {
    use crate::frames::{DATA, END_STREAM, Frames, head};

    const PRIORITY: (u8, u8, &[u8]) = (2, 0, &[0, 0, 0, 0, 7]);
    // The literal `:status: 103`, and the end of the fields.
    const INTERIM: (u8, u8, &[u8]) = (1, 4, b"\x08\x03103");
    for (kind, flags, payload) in [PRIORITY, INTERIM] {
        let server = Frames::start(move |n| {
            let count = if n % 2 == 0 { 5_000 } else { 100_000 };
            let mut frames = vec![(kind, flags, payload.to_vec()); count];
            frames.push(head(0, &[]));
            frames.push((DATA, END_STREAM, b"done".to_vec()));
            frames
        })
        .await;
        let mut endpoints = HttpEndpoints::new().http2();
        let mut client: Client = endpoints.make_endpoint(&at("a", server.addr)).unwrap();
        for _ in 0..2 {
            assert_eq!(get(&mut client, "/").await.unwrap(), "done", "type {kind}");
            let error = get(&mut client, "/").await.unwrap_err();
            assert!(error.contains("too many frames without content"), "{error}");
        }
    }
}
