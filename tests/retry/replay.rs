//! Request bodies that several attempts send.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, StreamBody};
use proptest::prelude::*;
use tokio_test::{assert_pending, assert_ready, task};
use tower::BoxError;
use tower_roster::service::retry::{HttpSpare, Reissue, Replay, ReplayBody, ReplayError};

/// A body of these frames, each of which takes a moment to come.
pub(crate) struct Frames {
    data: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    /// Whether it says how long it is.
    exact: bool,
    waited: bool,
}

impl Frames {
    fn new(data: &[Vec<u8>], trailers: bool, exact: bool) -> Self {
        let data = data.iter().map(|data| Bytes::copy_from_slice(data));
        let mut map = HeaderMap::new();
        map.insert("checksum", HeaderValue::from_static("42"));
        Self {
            data: data.collect(),
            trailers: trailers.then_some(map),
            exact,
            waited: false,
        }
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.waited = !self.waited;
        if self.waited {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let data = self.data.pop_front().map(Frame::data);
        let frame = data.or_else(|| self.trailers.take().map(Frame::trailers));
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.exact && self.data.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.exact {
            SizeHint::with_exact(self.data.iter().map(Bytes::len).sum::<usize>() as u64)
        } else {
            SizeHint::default()
        }
    }
}

type Copy<B> = ReplayBody<B>;

fn wrap<B: Body + 'static>(body: B, limit: usize) -> (Copy<B>, HttpSpare<B>) {
    let request = Request::put("/").body(body).unwrap();
    let (request, spare) = Replay::new().limit(limit).prepare(request);
    (request.into_body(), spare.unwrap())
}

fn again<B: Body + 'static>(spare: &HttpSpare<B>) -> Copy<B> {
    Replay::new().reissue(spare).unwrap().into_body()
}

fn is_whole<B: Body + 'static>(spare: &HttpSpare<B>) -> bool {
    Reissue::<Request<B>>::is_whole(&Replay::new(), spare)
}

fn supersede<B: Body + 'static>(spare: &HttpSpare<B>) {
    Reissue::<Request<B>>::supersede(&Replay::new(), spare);
}

/// What is left of a body. Checks that it announced the truth all the way.
async fn read<B>(mut body: Copy<B>) -> Result<(Vec<u8>, Option<HeaderMap>), BoxError>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    let (mut hints, mut read, mut trailers) = (Vec::new(), Vec::new(), None);
    loop {
        hints.push((read.len(), body.size_hint()));
        let ended = body.is_end_stream();
        let Some(frame) = body.frame().await else {
            break;
        };
        assert!(!ended, "more came after the end");
        match frame?.into_data() {
            Ok(data) => read.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    for (at, hint) in hints {
        let left = (read.len() - at) as u64;
        assert!(hint.lower() <= left, "{hint:?} where {left} came");
        assert!(hint.upper().is_none_or(|upper| left <= upper));
    }
    Ok((read, trailers))
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}

proptest! {
    #[test]
    fn every_attempt_sends_the_same_however_much_the_others_read(
        data in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..12),
        trailers: bool,
        exact: bool,
        first in 0usize..14,
        second in 0usize..14,
    ) {
        let all = data.concat();
        let (mut one, spare) = wrap(Frames::new(&data, trailers, exact), 100_000);
        run(async {
            for _ in 0..first {
                let Some(frame) = one.frame().await else { break };
                frame.unwrap();
            }
            // Beside the first, which goes on afterwards.
            let mut two = again(&spare);
            for _ in 0..second {
                let Some(frame) = two.frame().await else { break };
                frame.unwrap();
            }
            let hint = again(&spare).size_hint();
            if exact {
                assert_eq!(hint.exact(), Some(all.len() as u64));
            }
            drop(one);
            supersede(&spare);
            let (read, end) = read(again(&spare)).await.unwrap();
            assert!(read == all, "{} of {} bytes", read.len(), all.len());
            assert_eq!(end.is_some(), trailers);
            let (read, end) = self::read(again(&spare)).await.unwrap();
            assert!(read == all && end.is_some() == trailers, "and once more");
        });
    }

    #[test]
    fn what_is_over_the_limit_passes_once_and_is_not_kept(
        data in prop::collection::vec(prop::collection::vec(any::<u8>(), 64..200), 1..12),
        limit in 0usize..2_000,
        exact: bool,
    ) {
        let all = data.concat();
        let (one, spare) = wrap(Frames::new(&data, false, exact), limit);
        run(async {
            assert!(is_whole(&spare), "nothing of it was read yet");
            let (read, _) = read(one).await.unwrap();
            assert!(read == all, "the first is not disturbed");
            assert_eq!(is_whole(&spare), all.len() <= limit);
            let copy = Replay::new().reissue(&spare);
            assert_eq!(copy.is_some(), all.len() <= limit);
        });
    }
}

#[tokio::test]
async fn the_limit_itself_is_kept_and_one_more_is_not() {
    for (len, kept) in [(1_000, true), (1_001, false)] {
        let (one, spare) = wrap(Full::new(Bytes::from(vec![1; len])), 1_000);
        assert!(is_whole(&spare));
        read(one).await.unwrap();
        assert_eq!(is_whole(&spare), kept);
    }
}

#[tokio::test]
async fn a_copy_that_was_behind_when_the_limit_passed_fails() {
    let data = [vec![1; 100], vec![2; 100]];
    let (mut one, spare) = wrap(Frames::new(&data, false, false), 150);
    let mut two = again(&spare);
    one.frame().await.unwrap().unwrap();
    two.frame().await.unwrap().unwrap();
    // The second reads on past the limit, so it has the body to itself.
    let frame = two.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), vec![2; 100]);
    assert!(two.frame().await.is_none());
    let error = one.frame().await.unwrap().unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&ReplayError::TooLong));
}

#[tokio::test]
async fn tiny_frames_do_not_take_more_than_the_limit() {
    let (one, spare) = wrap(Frames::new(&vec![vec![1]; 1_000], false, false), 1_000);
    assert_eq!(read(one).await.unwrap().0.len(), 1_000);
    assert!(
        !is_whole(&spare),
        "a thousand frames take far more than their bytes"
    );
}

#[tokio::test]
async fn an_attempt_that_was_given_up_cannot_read_on() {
    let (mut one, spare) = wrap(Frames::new(&[vec![1; 10], vec![2; 10]], false, true), 1_000);
    one.frame().await.unwrap().unwrap();
    let mut waiting = task::spawn(one.frame());
    assert_pending!(waiting.poll());
    supersede(&spare);
    assert!(waiting.is_woken(), "it is told at once");
    let error = assert_ready!(waiting.poll()).unwrap().unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&ReplayError::Superseded));
    drop(waiting);
    assert!(!one.is_end_stream(), "half a body is not a whole one");
    assert_eq!(read(again(&spare)).await.unwrap().0.len(), 20);
}

#[tokio::test]
async fn copies_that_wait_for_the_same_frame_are_all_woken() {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Frame<Bytes>>(1);
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
        let frame = receiver.recv().await?;
        Some((Ok::<_, Infallible>(frame), receiver))
    });
    let (mut one, spare) = wrap(StreamBody::new(Box::pin(stream)), 1_000);
    let (mut two, mut three) = (again(&spare), again(&spare));
    let mut one = task::spawn(one.frame());
    let mut two = task::spawn(two.frame());
    assert_pending!(one.poll());
    assert_pending!(two.poll());
    {
        // The one that the body would wake goes away.
        let mut three = task::spawn(three.frame());
        assert_pending!(three.poll());
    }
    drop(three);
    assert!(one.is_woken() && two.is_woken());
    assert_pending!(one.poll());
    assert_pending!(two.poll());
    sender
        .try_send(Frame::data(Bytes::from_static(b"x")))
        .unwrap();
    assert!(two.is_woken());
    let frame = assert_ready!(two.poll()).unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "x");
    assert!(one.is_woken(), "by the one that got it");
    let frame = assert_ready!(one.poll()).unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "x");
}

#[tokio::test]
async fn a_body_that_breaks_off_cannot_be_sent_again() {
    let frames = [
        Ok(Frame::data(Bytes::from_static(b"x"))),
        Err(std::io::Error::other("gone")),
    ];
    let (one, spare) = wrap(StreamBody::new(futures_util::stream::iter(frames)), 1_000);
    let mut two = again(&spare);
    assert_eq!(read(one).await.unwrap_err().to_string(), "gone");
    assert!(!is_whole(&spare));
    two.frame().await.unwrap().unwrap();
    let error = two.frame().await.unwrap().unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&ReplayError::Broke));
}

#[tokio::test]
async fn an_empty_body_is_empty_every_time() {
    let (one, spare) = wrap(Full::<Bytes>::default(), 0);
    for body in [one, again(&spare), again(&spare)] {
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
        assert_eq!(read(body).await.unwrap(), (vec![], None));
    }
}
