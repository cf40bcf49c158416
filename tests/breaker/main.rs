//! Circuit breaker and throttle through `Service`, under a paused clock.
#![allow(clippy::unwrap_used)]

mod breaker;
mod kit;
mod probes;
mod throttle;
mod verdicts;
