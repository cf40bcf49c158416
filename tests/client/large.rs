//! A body of 1 GB with retries on: what is kept of it is bounded.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use tower_roster::client::{HttpService, ResponseExt, Stack};

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

#[test]
fn when_its_response_is_an_error_it_is_not_sent_again() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let server = Server::start("one").await;
        let (registry, _memory) = registry([server.instance("web")]);
        let client: HttpService<Zeros> = Stack::http().connect(&registry, "web").unwrap();
        let body = Zeros {
            left: 1 << 20,
            announced: false,
        };
        let request = Request::put("/status/503").body(body).unwrap();
        // The server answers at once, and closes the connection on the rest of the body.
        let result = client.send(request).await;
        if let Ok(response) = result {
            assert_eq!(response.status(), 503);
        }
        assert!(
            server.requests() <= 2,
            "a copy may go out while nothing was read"
        );
    });
}
