//! Building a router.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body::Body;
use http_body_util::Full;

use super::{
    error::RouterError,
    name::{Buffer, lower},
};
use crate::{
    client::{http::HttpEndpoints, http_service::HttpTemplate, stack::Stack},
    error::{BoxError, ConfigError, check_range},
    registry::Registry,
};

/// More than most programs call. A client of ten instances takes some 30 kB, and its watch a connection to the
/// agent of a registry.
const MAX_SERVICES: usize = 256;

/// Longer than the pauses of most periodic work, and short enough that watches of services that are not called any
/// more do not burden the registry.
const IDLE: Duration = Duration::from_secs(300);

/// What a [`Router`](super::Router) does with a request that names no service of the registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unknown {
    /// It fails with a [`RouterError`](super::RouterError).
    #[default]
    Refuse,
    /// It goes to the host and the port of the URI, whose name the system resolves. Only if the registry confirms
    /// that it does not know the name: while the registry cannot be reached, a request fails. As soon as the
    /// registry lists the name, requests go there.
    ///
    /// Do not use this where others choose the host of a request, as in a proxy: they could reach any address of
    /// your network.
    Dns,
}

/// Builds a [`Router`](super::Router). [`Router::builder`](super::Router::builder) makes one.
#[must_use = "a builder does nothing until it is built"]
pub struct RouterBuilder<B = Full<Bytes>> {
    pub(super) registry: Registry,
    pub(super) rules: Rules<B>,
    named: Vec<(Arc<str>, HttpTemplate<B>)>,
}

/// How the clients of a router are made.
pub(super) struct Rules<B> {
    pub(super) template: HttpTemplate<B>,
    /// By the name in lower case: the name as it is to be asked for, and how its client is made.
    pub(super) named: HashMap<Box<str>, (Arc<str>, HttpTemplate<B>)>,
    pub(super) max_services: usize,
    pub(super) idle: Option<Duration>,
    pub(super) unknown: Unknown,
}

impl<B> RouterBuilder<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            registry: registry.clone(),
            rules: Rules {
                template: Stack::http().over(HttpEndpoints::new()),
                named: HashMap::new(),
                max_services: MAX_SERVICES,
                idle: Some(IDLE),
                unknown: Unknown::Refuse,
            },
            named: Vec::new(),
        }
    }
}

impl<B> RouterBuilder<B> {
    /// Sets how the clients of services are made; all defaults unless set.
    pub fn template(mut self, template: HttpTemplate<B>) -> Self {
        self.rules.template = template;
        self
    }

    /// Sets how the client of one service is made. The registry is asked for the name as it is written here, and
    /// requests find it whatever the case of their host.
    pub fn service(mut self, name: impl Into<Arc<str>>, template: HttpTemplate<B>) -> Self {
        self.named.push((name.into(), template));
        self
    }

    /// Sets of how many services there may be clients at a time, at least 1; 256 by default. Those with settings
    /// [of their own](Self::service) do not count. When there are as many, a client of a service that the registry
    /// does not know makes room; without one, a request to one more service fails. So hosts that others choose
    /// cannot use up memory, or watches of the registry.
    pub fn max_services(mut self, services: usize) -> Self {
        self.rules.max_services = services;
        self
    }

    /// Sets after how long without a request the client of a service is dropped, with its watch and its
    /// connections; 5 min by default, and up to a quarter later, `None` for never. The next request makes a new one,
    /// which waits for the registry.
    pub fn idle(mut self, idle: impl Into<Option<Duration>>) -> Self {
        self.rules.idle = idle.into();
        self
    }

    /// Sets what happens with names that the registry does not know, and with IP addresses; they are refused by
    /// default.
    pub fn unknown(mut self, unknown: Unknown) -> Self {
        self.rules.unknown = unknown;
        self
    }

    /// Checks the settings, and what the templates set.
    ///
    /// # Errors
    /// When a setting is out of its range, or a service has no name or two settings.
    pub(super) fn check(mut self) -> Result<(Registry, Rules<B>), ConfigError> {
        check_range("router.max_services", self.rules.max_services, 1..)?;
        if let Some(idle) = self.rules.idle {
            check_range("router.idle", idle, Duration::from_millis(1)..)?;
        }
        self.rules.template.check()?;
        for (name, template) in self.named {
            let wrong = |why: &str| ConfigError::new("router.service", format!("{name:?} {why}"));
            let mut buffer: Buffer = [0; 253];
            let key = lower(&name, &mut buffer);
            let key = key.map_err(|error: RouterError| wrong(&error.to_string()))?;
            template.check()?;
            let key: Box<str> = key.into();
            let earlier = self.rules.named.insert(key, (Arc::clone(&name), template));
            if earlier.is_some() {
                return Err(wrong("has two settings; names of hosts have no case"));
            }
        }
        Ok((self.registry, self.rules))
    }
}

impl_debug!([B] RouterBuilder<B>: |this|
    registry = this.registry,
    template = this.rules.template,
    max_services = this.rules.max_services,
    idle = this.rules.idle,
    unknown = this.rules.unknown,
);
