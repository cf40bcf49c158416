//! The frames that the copies of a body share.

use std::task::Waker;

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::Frame;

/// The least size that a frame counts as, in bytes, so that a million tiny frames do not use many
/// times the limit.
const LEAST: usize = 64;

pub(super) struct ReplayState<B> {
    pub(super) kept: Vec<KeptFrame>,
    /// What the kept frames take, in bytes.
    pub(super) size: usize,
    pub(super) limit: usize,
    pub(super) rest: Rest<B>,
    /// The only copy that can continue, after a frame was read and not kept.
    pub(super) sole: Option<u32>,
    pub(super) generation: u32,
    pub(super) copies: u32,
    /// Copies that wait for the next frame. The body keeps the waker of only one of them, the last
    /// to poll.
    pub(super) waiting: Vec<(u32, Waker)>,
}

pub(super) enum Rest<B> {
    Open(B),
    Ended,
    Broke,
}

#[derive(Clone)]
pub(super) enum KeptFrame {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl<B> ReplayState<B> {
    /// Notes that a copy waits. Returns its former waker, to be dropped outside of the lock.
    pub(super) fn wait(&mut self, id: u32, waker: &Waker) -> Option<Waker> {
        match self.waiting.iter_mut().find(|(known, _)| *known == id) {
            Some((_, known)) if known.will_wake(waker) => None,
            Some((_, known)) => Some(std::mem::replace(known, waker.clone())),
            None => {
                self.waiting.push((id, waker.clone()));
                None
            }
        }
    }

    /// Keeps a frame that copy `id` has read. If the copy is `alone`, or the frame does not fit into the
    /// limit, returns all frames, to be dropped outside of the lock.
    pub(super) fn keep(
        &mut self,
        id: u32,
        frame: &KeptFrame,
        alone: bool,
    ) -> Result<(), Vec<KeptFrame>> {
        let size = self.size.saturating_add(frame.size());
        if alone || self.sole.is_some() || size > self.limit {
            self.sole = Some(id);
            return Err(std::mem::take(&mut self.kept));
        }
        self.size = size;
        if self.kept.is_empty() {
            // Most bodies have one frame, and `push` would make room for four.
            self.kept.reserve_exact(1);
        }
        self.kept.push(frame.clone());
        Ok(())
    }
}

impl KeptFrame {
    /// Converts a frame. `spent` gets what is left of its data, because its destructor is the user's.
    pub(super) fn from_frame<D: Buf>(frame: Frame<D>, spent: &mut Option<D>) -> Self {
        match frame.into_data() {
            Ok(data) => {
                let data = spent.insert(data);
                Self::Data(data.copy_to_bytes(data.remaining()))
            }
            // `http_body` has no third kind of frame; it would become an empty data frame.
            Err(frame) => frame
                .into_trailers()
                .map_or(Self::Data(Bytes::new()), Self::Trailers),
        }
    }

    pub(super) fn into_frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data),
            Self::Trailers(trailers) => Frame::trailers(trailers),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Trailers(_) => 0,
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Data(data) => data.len().max(LEAST),
            Self::Trailers(trailers) => trailers
                .iter()
                .map(|(name, value)| name.as_str().len() + value.len() + LEAST)
                .sum::<usize>()
                .max(LEAST),
        }
    }
}

pub(super) fn wake(waiting: Vec<(u32, Waker)>) {
    waiting.into_iter().for_each(|(_, waker)| waker.wake());
}
