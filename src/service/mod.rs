//! Middleware around a balancer or any other service: plain tower layers, each usable alone.
//! [`client::Stack`](crate::client::Stack) puts them around a balancer in the right order.

pub mod breaker;
pub mod failfast;
pub mod hedge;
mod judged;
mod kind;
pub mod limit;
pub mod retry;
pub mod throttle;

pub use self::judged::Judged;
#[cfg(feature = "tonic")]
pub(crate) use self::kind::of_one;
