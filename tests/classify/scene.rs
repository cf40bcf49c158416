//! Answers frame by frame, and somebody who writes down what is told.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, Response};
use http_body::{Body, Frame};
use http_body_util::StreamBody;
use tower_roster::classify::{Classify, Observer, Verdict};

/// What was told about one request, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told(Arc<Mutex<Vec<Word>>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Verdict(Verdict),
    /// The observer was dropped.
    Over,
}

impl Told {
    pub(crate) fn words(&self) -> Vec<Word> {
        self.0.lock().unwrap().clone()
    }

    fn say(&self, word: Word) {
        self.0.lock().unwrap().push(word);
    }
}

struct Scribe(Told);

impl Observer for Scribe {
    fn conclude(&mut self, verdict: Verdict) {
        self.0.say(Word::Verdict(verdict));
    }
}

impl Drop for Scribe {
    fn drop(&mut self) {
        self.0.say(Word::Over);
    }
}

/// Does with an answer what a balancer does.
pub(crate) fn answer<C, R>(classify: &C, response: R) -> (C::Observed<impl Observer>, Told)
where
    C: Classify<R, std::io::Error>,
{
    let told = Told::default();
    let mut scribe = Scribe(told.clone());
    let head = classify.judge(Ok(&response));
    if let Some(verdict) = head {
        scribe.conclude(verdict);
    }
    (classify.observe(response, head, scribe), told)
}

pub(crate) type Part = Result<Frame<Bytes>, std::io::Error>;

pub(crate) fn data(text: &'static str) -> Part {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

pub(crate) fn trailers(pairs: &[(&'static str, &str)]) -> Part {
    Ok(Frame::trailers(fields(pairs)))
}

pub(crate) fn cut() -> Part {
    Err(std::io::Error::other("cut"))
}

pub(crate) fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
        .collect()
}

/// A body of these frames.
pub(crate) fn body(
    parts: impl IntoIterator<Item = Part>,
) -> impl Body<Data = Bytes, Error = std::io::Error> + Unpin {
    let parts: Vec<_> = parts.into_iter().collect();
    StreamBody::new(futures_util::stream::iter(parts))
}

/// A body of these frames which then says nothing more.
pub(crate) fn stuck(
    parts: impl IntoIterator<Item = Part>,
) -> impl Body<Data = Bytes, Error = std::io::Error> + Unpin {
    let parts: Vec<_> = parts.into_iter().collect();
    StreamBody::new(futures_util::stream::iter(parts).chain(futures_util::stream::pending()))
}

pub(crate) fn response<B>(status: u16, headers: &[(&'static str, &str)], body: B) -> Response<B> {
    let mut response = Response::new(body);
    *response.status_mut() = status.try_into().unwrap();
    *response.headers_mut() = fields(headers);
    response
}
