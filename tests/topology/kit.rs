//! Servers that answer at once, and how they are listed.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use tower::Service;
use tower_roster::{
    Instance, Registry,
    discover::{Discover, MakeEndpoint},
    registry::{Announcement, Health},
};

/// Answers at once, with its name.
#[derive(Clone)]
pub(crate) struct Server(Arc<str>);

impl Service<()> for Server {
    type Response = Arc<str>;
    type Error = Infallible;
    type Future = Ready<Result<Arc<str>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(Arc::clone(&self.0)))
    }
}

/// Finds the servers that are listed.
pub(crate) fn discover(
    registry: &Registry,
) -> Discover<impl MakeEndpoint<Service = Server> + Send + 'static + use<>> {
    let watch = registry.watch("server").unwrap();
    watch.discover(|instance: &Instance| Ok::<_, Infallible>(Server(instance.id().into())))
}

pub(crate) fn instance(service: &str, id: &str) -> Instance {
    Instance::new(service, id, "127.0.0.1:80".parse().unwrap())
}

/// Listed for ever.
pub(crate) fn listed(instance: Instance) -> Announcement {
    Announcement::new(instance).health(Health::Unchecked)
}
