//! A body of 1 GB with retries on: what is kept of it is bounded.

use std::{
    num::NonZeroU32,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use tower_roster::{
    RequestErrorKind,
    client::{HttpService, ResponseExt, Stack},
    service::retry::RetrySettings,
};

use crate::kit::{Server, registry};

const SIZE: u64 = 1 << 30;

/// Zeros, each part of them allocated anew.
struct Zeros {
    left: u64,
    announced: bool,
}

impl Body for Zeros {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let part = self.left.min(128 * 1024);
        if part == 0 {
            return Poll::Ready(None);
        }
        self.left -= part;
        Poll::Ready(Some(Ok(Frame::data(vec![0; part as usize].into()))))
    }

    fn size_hint(&self) -> SizeHint {
        if self.announced {
            SizeHint::with_exact(self.left)
        } else {
            SizeHint::default()
        }
    }
}

#[test]
fn a_body_of_1_gb_is_sent_with_retries_on_and_is_not_kept() {
    for announced in [true, false] {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        // In one thread, because the memory of a thread is what is measured.
        let memory = allocation_counter::measure(|| {
            runtime.block_on(async {
                let server = Server::start("one").await;
                let (registry, _memory) = registry([server.instance("web")]);
                let client: HttpService<Zeros> = Stack::http().connect(&registry, "web").unwrap();
                let body = Zeros {
                    left: SIZE,
                    announced,
                };
                let request = Request::put("/count").body(body).unwrap();
                let response = client.send(request).await.unwrap();
                assert_eq!(response.text(100).await.unwrap(), SIZE.to_string());
            });
        });
        println!("{} kB at most", memory.bytes_max / 1_000);
        assert!(memory.bytes_max < 4_000_000, "{memory:?}");
    }
}

fn zeros(path: &str) -> Request<Zeros> {
    let body = Zeros {
        left: 1 << 20,
        announced: false,
    };
    Request::put(path).body(body).unwrap()
}

#[tokio::test]
async fn when_its_response_is_an_error_it_is_not_sent_again() {
    let server = Server::start("one").await;
    let (registry, _memory) = registry([server.instance("web")]);
    let client: HttpService<Zeros> = Stack::http().connect(&registry, "web").unwrap();
    let response = client.send(zeros("/count/503")).await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(response.text(100).await.unwrap(), (1 << 20).to_string());
    assert_eq!(server.requests(), 1, "the body was gone");
}

#[tokio::test]
async fn a_server_that_answers_before_the_end_of_the_body_ends_the_upload() {
    let server = Server::start("one").await;
    let (registry, _memory) = registry([server.instance("web")]);
    let once = RetrySettings::new().max_attempts(NonZeroU32::MIN);
    let stack = Stack::http().hedge(None).retry(once);
    let client: HttpService<Zeros> = stack.connect(&registry, "web").unwrap();
    // The server answers at once, and closes the connection on the rest of the body. Whether the client reads
    // the answer or writes the body first is up to the system.
    match client.send(zeros("/status/503")).await {
        Ok(response) => assert_eq!(response.status(), 503),
        Err(error) => {
            let kind = RequestErrorKind::of(&*error);
            assert_eq!(kind, RequestErrorKind::Connection, "{error:?}");
        }
    }
    assert_eq!(server.requests(), 1);
}
