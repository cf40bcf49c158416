//! Which endpoint answered a request.

use std::sync::Arc;

use http::Response;

use super::uri::Place;
use crate::{
    attempt::{AttemptKind, Tried},
    instance::{Address, Key},
};

/// Which endpoint answered a request, in the extensions of the response over HTTP and gRPC.
///
/// # Examples
/// ```
/// use tower_roster::client::Served;
///
/// fn log(response: &http::Response<()>) {
///     if let Some(served) = response.extensions().get::<Served>() {
///         println!("{} at {}, attempts: {}", served.key(), served.address(), served.attempts());
///     }
/// }
/// ```
#[derive(Clone)]
pub struct Served {
    place: Arc<Place>,
    attempts: u32,
    hedged: bool,
}

impl Served {
    /// For a request that is being sent to `place`.
    #[inline]
    pub(super) fn begin(place: &Arc<Place>) -> Self {
        Self {
            place: Arc::clone(place),
            attempts: 1,
            hedged: AttemptKind::is_hedge(),
        }
    }

    /// When the response has arrived, within the poll of the request.
    #[inline]
    pub(super) fn insert_into<B>(mut self, response: &mut Response<B>) {
        self.attempts = Tried::current().map_or(1, Tried::count).max(1);
        response.extensions_mut().insert(self);
    }

    /// The endpoint that answered.
    pub fn key(&self) -> &Key {
        &self.place.key
    }

    /// The address of that endpoint.
    pub fn address(&self) -> &Address {
        &self.place.address
    }

    /// To how many endpoints the request was given until then, at most 14: for its first attempt, for retries
    /// and for hedges. An endpoint that could not take it, and one that was not ready so that the request went
    /// to another, count too. 1 if no retry and no hedge is above the client.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether a hedge answered, and not the attempt beside it.
    pub fn hedged(&self) -> bool {
        self.hedged
    }
}

impl_debug!(Served: |this|
    key = this.place.key,
    address = this.place.address,
    attempts = this.attempts,
    hedged = this.hedged,
);
