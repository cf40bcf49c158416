//! A registry that says what a test tells it.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use tokio::sync::watch;
use tower::ServiceExt;
use tower_roster::{
    Instance, Registry, RegistryError,
    balance::{
        self, Balance, BalanceBuilder, BalanceHandle,
        policy::{Policy, RoundRobin},
        topology::Wish,
    },
    catalog::Listing,
    classify::Answers,
    discover::{Discover, MakeEndpoint},
    error::ErrorKind,
    instance::Address,
    registry::{
        Announcement, Answer, Backend, BoxFuture, Lease, Limit, Query, Source, ViewState, Watch,
    },
};

use crate::kit::{Control, Mock, settle};

/// The instances of the service `web`, and whether it exists; or what the registry fails with.
type Said = Result<(Vec<Instance>, bool), ErrorKind>;

pub(crate) struct Listed {
    cell: watch::Sender<Said>,
    registry: Registry,
    made: Arc<AtomicUsize>,
    /// What steers the service that was made for an id last.
    controls: Arc<Mutex<BTreeMap<String, Arc<Control>>>>,
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
            controls: Arc::default(),
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
            watch.wait_for(|view| view.state != ViewState::Pending && view.instances == expected);
        seen.await.unwrap();
        settle().await;
    }

    pub(crate) fn watch(&self) -> Watch {
        self.watch_service("web")
    }

    /// The same instances as those of another service.
    pub(crate) fn watch_service(&self, service: &str) -> Watch {
        self.registry.watch(service).unwrap()
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
        let (made, controls) = (Arc::clone(&self.made), Arc::clone(&self.controls));
        self.watch().discover(move |instance: &Instance| {
            made.fetch_add(1, SeqCst);
            let name = format!("{} {}", instance.key, instance.address);
            let control = Control::new(&name);
            let service = control.service();
            let mut controls = controls.lock().unwrap();
            controls.insert(instance.key.id().into(), control);
            Ok::<_, Infallible>(service)
        })
    }

    pub(crate) fn control(&self, id: &str) -> Arc<Control> {
        Arc::clone(&self.controls.lock().unwrap()[id])
    }

    /// Services made.
    pub(crate) fn made(&self) -> usize {
        self.made.load(SeqCst)
    }
}

/// A balancer over listed instances. What a request wishes is found out from its number.
pub(crate) struct Placed<P: Policy = RoundRobin> {
    pub(crate) listed: Listed,
    pub(crate) balance: Balance<Mock, P, Answers, fn(&u32) -> Wish>,
    pub(crate) handle: BalanceHandle,
}

impl<P: Policy> Placed<P> {
    pub(crate) async fn new(
        layer: BalanceBuilder<P>,
        wish: fn(&u32) -> Wish,
        instances: impl IntoIterator<Item = Instance>,
    ) -> Self {
        let listed = Listed::new(instances);
        let balance = layer
            .route(wish)
            .build()
            .unwrap()
            .balance(listed.discover());
        settle().await;
        Self {
            listed,
            handle: balance.handle(),
            balance,
        }
    }

    /// Sends a request. Returns the id of who answered.
    pub(crate) async fn call(&self, number: u32) -> Result<String, balance::BalanceError> {
        let answer = self.balance.clone().oneshot(number).await?;
        Ok(answer.split(' ').next().unwrap().into())
    }

    /// Sends so many requests; how many of them each endpoint answered.
    pub(crate) async fn count(&self, requests: u32, number: u32) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::new();
        for _ in 0..requests {
            let id = self.call(number).await.unwrap();
            *counts.entry(id).or_default() += 1;
        }
        counts
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

    fn watch(&self, _: &Query) -> Result<Vec<Box<dyn Source>>, RegistryError> {
        Ok(vec![Box::new(self.clone())])
    }

    fn register(&self, _: &Announcement) -> Result<Box<dyn Lease>, RegistryError> {
        unimplemented!("nothing registers here")
    }
}

impl Source for Scripted {
    fn read(&mut self) -> BoxFuture<'_, Result<Answer, RegistryError>> {
        let said = self.0.borrow_and_update().clone();
        Box::pin(async move {
            let (instances, exists) =
                said.map_err(|kind| RegistryError::new(kind, format!("{kind:?}")))?;
            Ok(Answer::Listing(Listing {
                instances: instances.into_iter().map(Arc::new).collect(),
                exists,
                ..Listing::default()
            }))
        })
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
