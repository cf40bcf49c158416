//! Routers from a configuration, and changes while they run.
//!
//! A change of timeouts, retries or hedges builds these layers anew around the same balancer: connections, loads and
//! ejections stay, and requests in flight end as they began. The breaker stays too.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use http_body::Body;
use tokio::sync::watch;

use super::{
    ClientConfig, ServiceConfig,
    build::path_of,
    field::Field,
    weigh::{Weights, weigh},
};
use crate::{
    balance::{Balance, policy::AnyPolicy},
    classify::Http,
    client::{
        http::HttpEndpoints,
        http_client::HttpClient,
        http_service::{HttpService, HttpTemplate},
        router::Router,
        stack::Built,
    },
    error::{BoxError, ConfigError},
    registry::{self, Registry, Watch, WatchSettings},
    service::{breaker::BreakerLayer, retry::ReplayBody},
    sync::lock,
};

/// The settings that can change while a router runs, as paths below a service.
const CHANGEABLE: [&str; 6] = [
    "timeout",
    "weights",
    "retry",
    "hedge",
    "split.shares",
    "split.rest",
];

/// The configuration that a router was made with or got since.
type Current = Mutex<Arc<ClientConfig>>;

/// What stays of a client when its settings change.
struct LiveService<B> {
    name: Arc<str>,
    balance: Balance<HttpClient<ReplayBody<B>>, AnyPolicy, Http>,
    breaker: Option<BreakerLayer>,
    weights: watch::Sender<Weights>,
    /// Whether a task sets the weights. Most services have none, and the events of a balancer take memory.
    weighs: AtomicBool,
}

impl<B> Router<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// Makes a router as configured, over HTTP/1.1 without TLS, or over HTTP/2 where it is set.
    ///
    /// # Errors
    /// When a setting is out of its range, named by its path, or the registry cannot be used. A registry that cannot
    /// be reached is not an error.
    pub fn from_config(config: &ClientConfig) -> Result<Self, ConfigError> {
        Self::from_config_over(config, HttpEndpoints::new())
    }

    /// The same over these endpoints, for example with TLS. The settings of connections in the file go before.
    ///
    /// # Errors
    /// As [`from_config`](Self::from_config).
    pub fn from_config_over(
        config: &ClientConfig,
        endpoints: HttpEndpoints<ReplayBody<B>>,
    ) -> Result<Self, ConfigError> {
        config.check(&endpoints)?;
        let registry = config.connect()?;
        let current: Arc<Current> = Arc::new(Mutex::new(Arc::new(config.clone())));
        let template = HttpTemplate::new("of a configuration", || Ok(()), {
            let current = Arc::clone(&current);
            move |watch: Watch| {
                let config = Arc::clone(&lock(&current));
                LiveService::make(&config, endpoints.clone(), watch)
            }
        });
        let mut router = Self::builder(&registry).template(template.clone());
        for name in config.services.keys() {
            router = router.service(name.as_str(), template.clone());
        }
        let settings = &config.router;
        if let Some(services) = settings.max_services {
            router = router.max_services(services);
        }
        if let Some(idle) = settings.idle {
            router = router.idle(idle.0);
        }
        let router = router.unknown(settings.unknown.unwrap_or_default());
        Ok(router.build()?.configured(current))
    }

    /// Changes the settings of a router that [`from_config`](Self::from_config) made, while it runs. Requests in
    /// flight end with their former settings.
    ///
    /// Of a service that has a client, these can change: its timeout, retries with their budget, hedges, weights, and
    /// the shares of a split that it had from the start. A new budget begins with its reserve. Any change is possible
    /// for services that have no client yet, or none any more. The registry, the router and all else need a new
    /// router.
    ///
    /// # Errors
    /// When a setting is out of its range or cannot change, named by its path. Then nothing has changed. Also for a
    /// router that was made otherwise.
    ///
    /// # Panics
    /// When it is called outside of a tokio runtime, and sets the first weights of a service.
    pub fn apply(&self, config: &ClientConfig) -> Result<(), ConfigError> {
        let Some(current) = self
            .configuration()
            .and_then(|it| it.downcast_ref::<Current>())
        else {
            let why = "the router was not made from a configuration";
            return Err(ConfigError::new("router.config", why));
        };
        config.check(&HttpEndpoints::<ReplayBody<B>>::new())?;
        let mut place = lock(current);
        let former = Arc::clone(&place);
        former
            .registry
            .refuse_changes(&config.registry, "registry")?;
        former.router.refuse_changes(&config.router, "router")?;
        for (name, _) in self.clients() {
            former.check_changes(config, &name)?;
        }
        *place = Arc::new(config.clone());
        // Clients that are made from now on have the new settings, and those of before are in the list.
        drop(place);
        for (name, service) in self.clients() {
            let Some(live) = service
                .live()
                .and_then(|it| it.downcast::<LiveService<B>>().ok())
            else {
                continue;
            };
            let settings = config.service(&name);
            let before = former.service(&name);
            live.weigh(&settings.weights);
            if before.split != settings.split
                && let Some(split) = service.handle().split()
            {
                split.set(settings.split.shares())?;
            }
            if (&before.timeout, &before.retry, &before.hedge)
                != (&settings.timeout, &settings.retry, &settings.hedge)
            {
                self.replace(&name, live.wrap(&settings)?);
            }
        }
        Ok(())
    }
}

impl<B> LiveService<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    fn make(
        config: &ClientConfig,
        endpoints: HttpEndpoints<ReplayBody<B>>,
        watch: Watch,
    ) -> Result<HttpService<B>, ConfigError> {
        let name = Arc::clone(watch.query().service());
        let settings = config.service(&name);
        let endpoints = settings.connection.endpoints(endpoints)?;
        let breaker = match settings.breaker.settings(&name) {
            Some(breaker) => Some(breaker.build()?),
            None => None,
        };
        let balance = settings.stack()?.build_balance(watch.discover(endpoints))?;
        let live = Self {
            name,
            balance,
            breaker,
            weights: watch::Sender::new(Weights::new()),
            weighs: AtomicBool::new(false),
        };
        live.weigh(&settings.weights);
        Arc::new(live).wrap(&settings)
    }

    fn weigh(&self, wanted: &Weights) {
        self.weights.send_if_modified(|weights| {
            let differs = weights != wanted;
            weights.clone_from(wanted);
            differs
        });
        // Relaxed: only one task is to be started.
        if !wanted.is_empty() && !self.weighs.swap(true, Relaxed) {
            tokio::spawn(weigh(self.balance.handle(), self.weights.subscribe()));
        }
    }

    /// The client with the layers of these settings around the same balancer.
    fn wrap(self: Arc<Self>, settings: &ServiceConfig) -> Result<HttpService<B>, ConfigError> {
        let stack = settings.stack()?;
        let (name, balance) = (Arc::clone(&self.name), self.balance.clone());
        let service = match self.breaker.clone() {
            Some(breaker) => {
                let stack = stack.shared_breaker(breaker);
                let Built { service, handles } = stack.build_around(balance)?;
                HttpService::new(name, service, handles)
            }
            None => {
                let Built { service, handles } = stack.build_around(balance)?;
                HttpService::new(name, service, handles)
            }
        };
        Ok(service.with_live(self))
    }
}

/// Refuses all changes of a section.
trait RefuseChanges: Field {
    fn refuse_changes(&self, new: &Self, path: &str) -> Result<(), ConfigError> {
        let mut paths = Vec::new();
        self.differences(new, path, &mut paths);
        match paths.into_iter().next() {
            Some(path) => Err(cannot_change(path)),
            None => Ok(()),
        }
    }
}

impl<T: Field> RefuseChanges for T {}

fn cannot_change(path: String) -> ConfigError {
    let why = "cannot change while the router runs: make a new router";
    ConfigError::new(path, why)
}

impl ClientConfig {
    /// Checks the ranges of all settings.
    ///
    /// # Errors
    /// When a setting is out of its range, named by its path.
    fn check<X>(&self, endpoints: &HttpEndpoints<X>) -> Result<(), ConfigError> {
        self.check_likes()?;
        let check = |settings: &ServiceConfig, part: &str| {
            let stack = settings.stack().and_then(|stack| stack.check());
            let stack = stack.and_then(|()| match settings.breaker.settings("") {
                Some(breaker) => breaker.build().map(drop),
                None => Ok(()),
            });
            let connection = settings.connection.endpoints(endpoints.clone());
            let checked = stack.and_then(|()| connection.map(drop));
            checked.map_err(|error| {
                let path = format!("{part}.{}", path_of(error.field()));
                ConfigError::new(path, error.message())
            })
        };
        check(&self.defaults, "defaults")?;
        for name in self.services.keys() {
            check(&self.service(name), &format!("services.{name}"))?;
        }
        Ok(())
    }

    fn connect(&self) -> Result<Registry, ConfigError> {
        let given = &self.registry;
        let mut settings = WatchSettings::default();
        if let Some(age) = given.stale_after {
            settings = settings.stale_after(age);
        }
        if let Some(grace) = given.removal_grace {
            settings = settings.removal_grace(grace);
        }
        if let Some(linger) = given.linger {
            settings = settings.linger(linger);
        }
        let url = given.url.as_deref().unwrap_or("consul:");
        registry::connect_with(url, settings)
    }

    /// # Errors
    /// When a change of this service needs a new client.
    fn check_changes(&self, new: &Self, name: &str) -> Result<(), ConfigError> {
        let (before, after) = (self.service(name), new.service(name));
        let mut paths = Vec::new();
        before.differences(&after, "", &mut paths);
        let is_changeable = |path: &str| {
            let below = |part: &str| {
                path.strip_prefix(part)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            let begins = before.split.shares.is_empty() != after.split.shares.is_empty();
            CHANGEABLE.iter().any(|part| below(part)) && !(begins && path.starts_with("split."))
        };
        // It is of no effect by itself.
        let mut fixed = paths
            .iter()
            .filter(|path| !is_changeable(path) && *path != "like");
        match fixed.next() {
            Some(path) => Err(cannot_change(format!("services.{name}.{path}"))),
            None => Ok(()),
        }
    }
}
