//! Endpoints that are made up, and a discovery that says what it is told to.

use std::{convert::Infallible, sync::Arc};

use futures_util::stream::{self, Stream, StreamExt};
use tokio::sync::mpsc;
use tower::discover::Change;
use tower_roster::{Instance, endpoint::Endpoint, instance::Key};

use super::measure::Noop;

/// An endpoint as a registry would list it.
pub fn endpoint(index: usize, weight: u16) -> Endpoint<Noop> {
    let address = format!(
        "10.{}.{}.{}:80",
        index >> 16,
        (index >> 8) & 255,
        index & 255
    );
    let address = address.parse().expect("an address");
    let instance = Instance::new("web", format!("web-{index:05}"), address).weight(weight);
    Endpoint::new(Noop, Arc::new(instance))
}

pub type Said = Change<Key, Endpoint<Noop>>;

/// Lists these, and then says nothing more.
pub fn listed(
    endpoints: impl Iterator<Item = Endpoint<Noop>>,
) -> impl Stream<Item = Result<Said, Infallible>> + Send + 'static {
    let changes: Vec<Said> = endpoints.map(inserted).collect();
    stream::iter(changes).map(Ok).chain(stream::pending())
}

pub fn inserted(endpoint: Endpoint<Noop>) -> Said {
    Change::Insert(endpoint.key().clone(), endpoint)
}

/// Says what it is told to.
pub fn told() -> (
    mpsc::UnboundedSender<Said>,
    impl Stream<Item = Result<Said, Infallible>> + Send + 'static,
) {
    let (tell, mut told) = mpsc::unbounded_channel();
    let stream = stream::poll_fn(move |cx| told.poll_recv(cx));
    (tell, stream.map(Ok))
}
