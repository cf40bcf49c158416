//! A registry that says what a test tells it to say.

use std::{convert::Infallible, fmt, future::Future, sync::Arc, task::Poll, time::Duration};

use futures_util::{FutureExt, Stream, StreamExt};
use tokio::sync::watch;
use tower::discover::Change;
use tower_roster::{
    Instance, Registry, RegistryError,
    catalog::Listing,
    instance::{Address, Key},
    registry::{
        Announcement, Answer, Backend, BoxFuture, Lease, Limit, Query, Source, ViewState, Watch,
    },
};

/// Sets the instances of the one service, `web`.
pub(crate) struct Script {
    cell: watch::Sender<Vec<Instance>>,
    pub(crate) registry: Registry,
}

impl Script {
    pub(crate) fn new(instances: impl IntoIterator<Item = Instance>) -> Self {
        let (cell, receiver) = watch::channel(instances.into_iter().collect());
        Self {
            cell,
            registry: Registry::new(Scripted(receiver)),
        }
    }

    pub(crate) fn watch(&self) -> Watch {
        self.registry.watch("web").unwrap()
    }

    pub(crate) fn set(&self, instances: impl IntoIterator<Item = Instance>) {
        self.cell.send_replace(instances.into_iter().collect());
    }

    /// The number of open watches.
    pub(crate) fn watchers(&self) -> usize {
        // One receiver is the backend's own.
        self.cell.receiver_count() - 1
    }

    /// Sets the instances, and waits until a watch has them.
    pub(crate) async fn apply(&self, instances: impl IntoIterator<Item = Instance>) {
        let instances: Vec<_> = instances.into_iter().collect();
        let mut watch = self.watch();
        self.set(instances.clone());
        let expected = instances.into_iter().collect();
        let seen =
            watch.wait_for(|view| view.state != ViewState::Pending && view.instances == expected);
        tokio::time::timeout(Duration::from_secs(10), seen)
            .await
            .expect("the set must be seen")
            .unwrap();
    }
}

#[derive(Clone)]
struct Scripted(watch::Receiver<Vec<Instance>>);

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scripted")
    }
}

impl Backend for Scripted {
    fn name(&self) -> Arc<str> {
        "scripted".into()
    }

    fn watch(&self, _: &Query) -> Result<Vec<Box<dyn Source>>, RegistryError> {
        Ok(vec![Box::new(self.clone())])
    }

    fn register(&self, _: &Announcement) -> Result<Box<dyn Lease>, RegistryError> {
        unimplemented!("nothing registers here")
    }
}

impl Source for Scripted {
    fn read(&mut self) -> BoxFuture<'_, Result<Answer, RegistryError>> {
        let listing = Listing {
            instances: self
                .0
                .borrow_and_update()
                .iter()
                .cloned()
                .map(Arc::new)
                .collect(),
            exists: true,
            ..Listing::default()
        };
        Box::pin(async { Ok(Answer::Listing(listing)) })
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Answer, RegistryError>> {
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

pub(crate) fn at(id: &str, address: impl TryInto<Address, Error: fmt::Debug>) -> Instance {
    Instance::new("web", id, address.try_into().unwrap())
}

/// An instance at an address that nobody connects to.
pub(crate) fn mock(id: &str) -> Instance {
    Instance::new("web", id, "10.0.0.1:80".parse().unwrap())
}

pub(crate) fn key(id: &str) -> Key {
    Key::new(id, "")
}

/// All changes that are there now.
pub(crate) fn drain<S, D>(discover: &mut D) -> Vec<Change<Key, S>>
where
    D: Stream<Item = Result<Change<Key, S>, Infallible>> + Unpin,
{
    let mut changes = Vec::new();
    // Twice in a row nothing: once is also what a stream does that lets others have their turn.
    let mut idle = 0;
    while idle < 2 {
        match discover.next().now_or_never() {
            Some(Some(Ok(change))) => {
                idle = 0;
                changes.push(change);
            }
            Some(None) => panic!("the stream must not end"),
            None => idle += 1,
        }
    }
    changes
}

/// Changes as text, `+id` and `-id`.
pub(crate) fn names<S>(changes: &[Change<Key, S>]) -> Vec<String> {
    let name = |change: &Change<Key, S>| match change {
        Change::Insert(key, _) => format!("+{key}"),
        Change::Remove(key) => format!("-{key}"),
    };
    changes.iter().map(name).collect()
}

/// The endpoints among the changes.
pub(crate) fn inserted<S>(changes: Vec<Change<Key, S>>) -> Vec<S> {
    let endpoint = |change| match change {
        Change::Insert(_, endpoint) => Some(endpoint),
        Change::Remove(_) => None,
    };
    changes.into_iter().filter_map(endpoint).collect()
}

/// Does `step` until it returns true, at most 10 s.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut step: impl FnMut() -> F) {
    let work = async {
        while !step().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), work)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"));
}

pub(crate) fn is_pending<T>(poll: &Poll<T>) -> bool {
    matches!(poll, Poll::Pending)
}
