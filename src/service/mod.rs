//! Middleware around a balancer or any other service: plain tower layers, each usable alone.
//! [`client::Stack`](crate::client::Stack) puts them around a balancer in the right order.

use std::{error::Error, iter};

pub mod breaker;
pub mod failfast;
pub mod hedge;
mod judged;
pub mod limit;
pub mod retry;
pub mod throttle;

pub use self::judged::Judged;

/// Finds an error of this crate in an error or among its causes, however deep it is wrapped.
fn find_in_chain<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut causes = iter::successors(Some(error), |error| (*error).source());
    causes.find_map(|error| error.downcast_ref())
}
