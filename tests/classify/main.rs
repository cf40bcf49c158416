//! What became of a request: judged by the head of its answer, by its end, or by its error.
#![allow(clippy::unwrap_used)]

mod ends;
mod scene;
mod unsent;
