//! A registry that says what a test tells it.

use std::{
    convert::Infallible,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use tokio::sync::watch;
use tower_roster::{
    Error, Instance, Registry,
    catalog::Listing,
    discover::{Discover, MakeEndpoint},
    error::ErrorKind,
    instance::Address,
    registry::{
        Announcement, Answer, Backend, BoxFuture, Lease, Limit, Query, Source, State, Watch,
    },
};

use crate::kit::{Control, Mock, settle};

/// The instances of the service `web`, and whether it exists; or what the registry fails with.
type Said = Result<(Vec<Instance>, bool), ErrorKind>;

pub(crate) struct Listed {
    cell: watch::Sender<Said>,
    registry: Registry,
    made: Arc<AtomicUsize>,
}

pub(crate) fn at(id: &str, port: u16, weight: u16) -> Instance {
    let address: Address = format!("10.0.0.1:{port}").parse().unwrap();
    Instance::new("web", id, address).weight(weight)
}

impl Listed {
    pub(crate) fn new(instances: impl IntoIterator<Item = Instance>) -> Self {
        let listed = Self::unreachable();
        listed.say(Ok((instances.into_iter().collect(), true)));
        listed
    }

    pub(crate) fn unreachable() -> Self {
        let (cell, said) = watch::channel(Err(ErrorKind::Unreachable));
        Self {
            cell,
            registry: Registry::new(Scripted(said)),
            made: Arc::default(),
        }
    }

    pub(crate) fn say(&self, said: Said) {
        // What it said before.
        let _ = self.cell.send_replace(said);
    }

    /// Sets the instances, and waits until they are known.
    pub(crate) async fn apply(&self, instances: impl IntoIterator<Item = Instance>) {
        let instances: Vec<_> = instances.into_iter().collect();
        let mut watch = self.watch();
        self.say(Ok((instances.clone(), true)));
        let expected = instances.into_iter().collect();
        let seen =
            watch.wait_for(|view| view.state != State::Pending && view.instances == expected);
        seen.await.unwrap();
        settle().await;
    }

    pub(crate) fn watch(&self) -> Watch {
        self.registry.watch("web").unwrap()
    }

    /// The number of open watches.
    pub(crate) fn watchers(&self) -> usize {
        // One receiver is the backend's own.
        self.cell.receiver_count() - 1
    }

    /// Endpoints that answer with their name and address.
    pub(crate) fn discover(
        &self,
    ) -> Discover<impl MakeEndpoint<Service = Mock> + Send + 'static + use<>> {
        let made = Arc::clone(&self.made);
        self.watch().discover(move |instance: &Instance| {
            made.fetch_add(1, SeqCst);
            let name = format!("{} {}", instance.key, instance.address);
            Ok::<_, Infallible>(Control::new(&name).service())
        })
    }

    /// Services made.
    pub(crate) fn made(&self) -> usize {
        self.made.load(SeqCst)
    }
}

#[derive(Clone)]
struct Scripted(watch::Receiver<Said>);

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scripted")
    }
}

impl Backend for Scripted {
    fn name(&self) -> Arc<str> {
        "scripted".into()
    }

    fn watch(&self, _: &Query) -> Result<Vec<Box<dyn Source>>, Error> {
        Ok(vec![Box::new(self.clone())])
    }

    fn register(&self, _: &Announcement) -> Result<Box<dyn Lease>, Error> {
        unimplemented!("nothing registers here")
    }
}

impl Source for Scripted {
    fn read(&mut self) -> BoxFuture<'_, Result<Answer, Error>> {
        let said = self.0.borrow_and_update().clone();
        Box::pin(async move {
            let (instances, exists) =
                said.map_err(|kind| Error::new(kind, "scripted", "web", format!("{kind:?}")))?;
            Ok(Answer::Listing(Listing {
                instances: instances.into_iter().map(Arc::new).collect(),
                exists,
                ..Listing::default()
            }))
        })
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Answer, Error>> {
        Box::pin(async {
            if self.0.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            self.read().await
        })
    }

    fn limit(&self) -> Limit {
        Limit::NONE
    }
}
