//! The clients of a router: one for each service, made on first use, dropped when idle.
//!
//! A request must find its client without a lock that it could wait for, and without a counter that all threads
//! write. So each thread has a seat with its own clones of the clients. A client that is not there is looked for
//! in the list of all, under a lock, once for each thread; and made there if it does not exist.
//!
//! ```text
//! request ──▶ seat of this thread ──▶ client           some 50 ns
//!                   │ not there, once
//!                   └─▶ all clients (locked) ──▶ make one: a watch and a balancer
//! ```
//!
//! A client that is dropped is marked before it is taken out of the seats, and a thread looks at that mark while
//! it has its seat. So no thread puts it back. Nobody waits for a seat while it has the lock.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::task::AbortHandle;

use super::{
    error::RouterError,
    seats::Seats,
    settings::{Rules, Unknown},
};
use crate::{
    client::http_service::HttpService,
    instance::{Address, Weight},
    registry::{Registry, ViewState, fixed::Fixed},
    sync::{Locked, lock},
};

/// In how many steps the idle time of a client is counted.
const STEPS: u32 = 4;

pub(super) struct Clients<B> {
    registry: Registry,
    rules: Rules<B>,
    seats: Seats<Seat<B>>,
    all: Mutex<All<B>>,
}

struct All<B> {
    /// By the name of the service in lower case, or by the address outside of the registry.
    clients: HashMap<Box<str>, Known<B>>,
    /// Drops idle clients.
    sweeper: Option<AbortHandle>,
}

/// The clients that a thread has called, by the name of the service.
pub(super) struct Seat<B>(HashMap<Box<str>, Client<B>>);

impl<B> Seat<B> {
    #[inline]
    pub(super) fn get(&mut self, name: &str) -> Option<&mut HttpService<B>> {
        let client = self.0.get_mut(name)?;
        client.marks.note_use();
        Some(&mut client.service)
    }
}

impl<B> Default for Seat<B> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

/// A client, as a thread has it.
struct Client<B> {
    service: HttpService<B>,
    marks: Arc<Marks>,
}

struct Marks {
    /// Whether it was called since the sweeper looked. Relaxed: a hint that publishes no other memory.
    used: AtomicBool,
    /// Whether it was taken out of the list. Relaxed: it is set before the seats are changed, and read by a
    /// thread that has a seat; the locks of the seats order the two.
    gone: AtomicBool,
}

impl Marks {
    #[inline]
    fn note_use(&self) {
        // Look first, because a store takes the cache line from other threads.
        if !self.used.load(Relaxed) {
            self.used.store(true, Relaxed);
        }
    }
}

struct Known<B> {
    client: Client<B>,
    /// For how many steps it was not called.
    idle: u32,
    /// Whether it counts for the limit of services.
    counts: bool,
}

/// A client that was taken out of the list, and its name.
type Departed<B> = (Box<str>, Client<B>);

impl<B> Client<B> {
    fn new(service: HttpService<B>) -> Self {
        let marks = Marks {
            used: AtomicBool::new(true),
            gone: AtomicBool::new(false),
        };
        Self {
            service,
            marks: Arc::new(marks),
        }
    }
}

impl<B> Clone for Client<B> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
            marks: Arc::clone(&self.marks),
        }
    }
}

impl<B: 'static> Clients<B> {
    pub(super) fn new(registry: Registry, rules: Rules<B>) -> Arc<Self> {
        Arc::new(Self {
            registry,
            rules,
            seats: Seats::new(),
            all: Mutex::new(All {
                clients: HashMap::new(),
                sweeper: None,
            }),
        })
    }

    pub(super) fn unknown(&self) -> Unknown {
        self.rules.unknown
    }

    /// The names of all services that there are clients of.
    pub(super) fn names(&self) -> Vec<String> {
        let all = lock(&self.all);
        let mut names: Vec<_> = all.clients.keys().map(|name| name.to_string()).collect();
        names.sort();
        names
    }

    /// All clients.
    #[cfg(feature = "config")]
    pub(super) fn all(&self) -> Vec<(String, HttpService<B>)> {
        let all = lock(&self.all);
        let clients = all.clients.iter();
        clients
            .map(|(name, known)| (name.to_string(), known.client.service.clone()))
            .collect()
    }

    /// Replaces the client of a service, if there is one.
    #[cfg(feature = "config")]
    pub(super) fn replace(&self, name: &str, service: HttpService<B>) {
        let old = {
            let mut all = lock(&self.all);
            let known = all.clients.get_mut(name);
            known.map(|known| std::mem::replace(&mut known.client, Client::new(service)))
        };
        self.dismiss(old.map(|old| (name.into(), old)));
    }

    /// The client of a service, if there is one.
    pub(super) fn get(&self, name: &str) -> Option<HttpService<B>> {
        let all = lock(&self.all);
        Some(all.clients.get(name)?.client.service.clone())
    }

    /// The seat of this thread. A name that it has not is to be [found](Self::find) after the seat is free again.
    #[inline]
    pub(super) fn seat(&self) -> Option<Locked<'_, Seat<B>>> {
        self.seats.take()
    }

    /// The client of a service, made if there is none; this thread has it from now on.
    ///
    /// # Errors
    /// When there are too many services, or the registry cannot watch it.
    #[cold]
    pub(super) fn find(self: &Arc<Self>, name: &str) -> Result<HttpService<B>, RouterError> {
        let named = self.rules.named.get(name);
        self.find_or_make(name, named.is_none(), || {
            let made = match named {
                Some((spelled, template)) => template.connect(&self.registry, Arc::clone(spelled)),
                None => self.rules.template.connect(&self.registry, name),
            };
            made.map_err(RouterError::registry)
        })
    }

    /// The client of an address outside of the registry, as `host:port`.
    ///
    /// # Errors
    /// When it is no address, or there are too many.
    #[cold]
    pub(super) fn find_outside(
        self: &Arc<Self>,
        text: &str,
    ) -> Result<HttpService<B>, RouterError> {
        let address: Address = text
            .parse()
            .map_err(|_| RouterError::address(text.to_owned()))?;
        self.find_or_make(text, true, || {
            let only = Registry::new(Fixed::new([(address, Weight::ONE)]));
            let (host, _) = text.rsplit_once(':').unwrap_or((text, ""));
            let made = self.rules.template.connect(&only, host);
            made.map_err(RouterError::registry)
        })
    }

    fn find_or_make(
        self: &Arc<Self>,
        name: &str,
        counts: bool,
        make: impl FnOnce() -> Result<HttpService<B>, RouterError>,
    ) -> Result<HttpService<B>, RouterError> {
        let (client, useless) = {
            let mut all = lock(&self.all);
            let mut useless = None;
            if !all.clients.contains_key(name) {
                if counts {
                    useless = self.make_room(&mut all)?;
                }
                let known = Known {
                    client: Client::new(make()?),
                    idle: 0,
                    counts,
                };
                all.clients.insert(name.into(), known);
                self.start_sweeper(&mut all);
            }
            (all.clients[name].client.clone(), useless)
        };
        self.dismiss(useless);
        client.marks.note_use();
        if let Some(mut seat) = self.seats.take()
            && !client.marks.gone.load(Relaxed)
        {
            seat.0.insert(name.into(), client.clone());
        }
        Ok(client.service)
    }

    /// Takes a client of a service that the registry does not know out of the list, if there are too many.
    fn make_room(&self, all: &mut All<B>) -> Result<Option<Departed<B>>, RouterError> {
        let counted = all.clients.values().filter(|known| known.counts).count();
        if counted < self.rules.max_services {
            return Ok(None);
        }
        let mut counted = all.clients.iter().filter(|(_, known)| known.counts);
        let useless = counted.find(|(_, known)| is_unknown(&known.client.service));
        let useless = useless.map(|(name, _)| name.clone());
        let useless = useless.and_then(|name| all.clients.remove_entry(&name));
        match useless {
            Some((name, known)) => Ok(Some((name, known.client))),
            None => Err(RouterError::full(self.rules.max_services)),
        }
    }

    /// Drops clients that were taken out of the list, also from all seats. Not under the lock: dropping a client
    /// wakes tasks, and a seat is waited for.
    fn dismiss(&self, departed: impl IntoIterator<Item = Departed<B>>) {
        for (name, client) in departed {
            let marks = &client.marks;
            marks.gone.store(true, Relaxed);
            let mut gone = Vec::new();
            self.seats.change(|seat| {
                let same = |client: &Client<B>| Arc::ptr_eq(&client.marks, marks);
                if seat.0.get(&name).is_some_and(same) {
                    gone.extend(seat.0.remove(&name));
                }
            });
        }
    }

    fn start_sweeper(self: &Arc<Self>, all: &mut All<B>) {
        let Some(idle) = self.rules.idle else {
            return;
        };
        // It ends with its runtime, which another may outlive.
        let runs = all.sweeper.as_ref().is_some_and(|task| !task.is_finished());
        if !runs {
            let sweep = Self::sweep(Arc::downgrade(self), idle);
            all.sweeper = Some(tokio::spawn(sweep).abort_handle());
        }
    }

    /// Drops clients that were not called for this long, for as long as there are any.
    async fn sweep(this: Weak<Self>, idle: Duration) {
        loop {
            tokio::time::sleep(idle / STEPS).await;
            let Some(clients) = this.upgrade() else {
                return;
            };
            let (departed, none) = clients.take_idle();
            clients.dismiss(departed);
            if none {
                return;
            }
        }
    }

    /// Takes clients that were not called for all steps out of the list. Also returns whether none is left.
    fn take_idle(&self) -> (Vec<Departed<B>>, bool) {
        let mut all = lock(&self.all);
        for known in all.clients.values_mut() {
            let used = known.client.marks.used.swap(false, Relaxed);
            known.idle = if used { 0 } else { known.idle + 1 };
        }
        let departed = all.clients.extract_if(|_, known| known.idle >= STEPS);
        let departed = departed.map(|(name, known)| (name, known.client)).collect();
        let none = all.clients.is_empty();
        if none {
            all.sweeper = None;
        }
        (departed, none)
    }
}

impl<B> Drop for Clients<B> {
    fn drop(&mut self) {
        if let Some(sweeper) = lock(&self.all).sweeper.take() {
            sweeper.abort();
        }
    }
}

/// Whether the registry confirms that it does not know the service.
pub(super) fn is_unknown<B>(service: &HttpService<B>) -> bool {
    let status = service.handle().status();
    let missing = status
        .registries
        .iter()
        .all(|one| one.state == ViewState::Missing);
    status.endpoints == 0 && missing && !status.registries.is_empty()
}
