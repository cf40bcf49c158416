//! The HTTP server of the embedded registry, as a tower `Service`.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, request::Parts};
use http_body::Body;
use http_body_util::Full;
use rand::RngExt;
use serde::Serialize;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until},
};
use tower::Service;

use super::{
    RestServerSettings,
    answer::{RestFailure, json, positioned, whole},
    caller,
    input::{self, Params},
    listings::{Listings, Wanted},
    parked::{self, Parked, Place, Waited},
    slots::Slot,
};
use crate::{
    error::ConfigError,
    instance::Host,
    registry::{
        BoxFuture, Query, Renewal,
        memory::{Memory, MemoryShared, Position, Record, Unresolved, wire, written},
    },
};

type RestAnswer = Response<Full<Bytes>>;

/// Serves a [`Memory`] over HTTP; the [module](super) lists its requests.
///
/// Any server that takes a tower `Service` can run it; [`serve`](Self::serve) is one. Another server does not
/// tell it who its clients are: then the limits of connections do not hold, requests must be for an IP
/// address, `localhost` or a [set](RestServerSettings::host) host, and checks reach the
/// [allowed networks](crate::registry::memory::MemoryLimits::check_network) only. It is cheap to clone.
#[derive(Clone)]
pub struct RestServer {
    memory: Memory,
    pub(super) front: Arc<Front>,
    /// The connection of the requests, in a server of this crate.
    pub(super) connection: Option<Arc<Connection>>,
}

/// What all connections share.
pub(super) struct Front {
    pub(super) settings: RestServerSettings,
    listings: Listings,
    large_bodies: Semaphore,
}

/// One connection.
pub(super) struct Connection {
    pub(super) peer: IpAddr,
    pub(super) local: IpAddr,
    pub(super) slot: Slot,
    pub(super) place: Place,
}

/// A request that is understood.
enum Asked {
    /// May wait.
    Instances(Arc<str>, Params),
    Brief(Brief),
}

enum Brief {
    Deregister(String, Params),
    Register,
    Heartbeat,
    Health,
    Services,
}

/// A record, and whether the state file has it.
#[derive(Serialize)]
struct HeldBody<T> {
    #[serde(flatten)]
    record: T,
    #[serde(skip_serializing_if = "Option::is_none")]
    saved: Option<bool>,
}

impl RestServerSettings {
    /// Makes a server of this registry.
    ///
    /// # Errors
    /// When a setting is out of its range.
    pub fn build(self, memory: Memory) -> Result<RestServer, ConfigError> {
        self.validate()?;
        Ok(RestServer::with_settings(memory, self))
    }
}

impl RestServer {
    /// Creates a server for this registry, with default settings.
    pub fn new(memory: Memory) -> Self {
        Self::with_settings(memory, RestServerSettings::default())
    }

    fn with_settings(memory: Memory, settings: RestServerSettings) -> Self {
        let front = Front {
            listings: Listings::new(settings.bodies),
            large_bodies: Semaphore::new(input::LARGE_BODIES),
            settings,
        };
        Self {
            memory,
            front: Arc::new(front),
            connection: None,
        }
    }

    /// Returns the registry that it serves.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    fn shared(&self) -> &MemoryShared {
        &self.memory.shared
    }

    fn asked(&self, head: &Parts) -> Result<Asked, RestFailure> {
        let listener = self.connection.as_ref().map(|connection| connection.local);
        caller::check(head, &self.front.settings.hosts, listener)?;
        let mut path = head.uri.path().strip_prefix("/registry/");
        let mut segments = path.take().into_iter().flat_map(|rest| rest.split('/'));
        let place = (segments.next(), segments.next(), segments.next());
        let method = &head.method;
        let allowed = match place {
            (Some("services"), Some(_), None) => "GET",
            (Some("register"), None, None) => "PUT, DELETE",
            (Some("heartbeat"), None, None) => "POST, DELETE",
            (Some("services" | "health"), None, None) => "GET, DELETE",
            (Some(id), None, None) if !id.is_empty() => "DELETE",
            _ => {
                let message = "no such path; see PUT /registry/register, POST /registry/heartbeat, \
                               DELETE /registry/{id}, GET /registry/services/{name}";
                return Err(RestFailure::new(StatusCode::NOT_FOUND, message));
            }
        };
        if !allowed.split(", ").any(|name| name == method.as_str()) {
            return Err(RestFailure::method(allowed));
        }
        let params = Params::parse(head.uri.query(), self.shared().limits.most_tags())?;
        Ok(match place {
            (Some(id), None, _) if method == Method::DELETE => {
                let id = input::segment(id, "the id")?.into_owned();
                Asked::Brief(Brief::Deregister(id, params))
            }
            (Some("services"), Some(name), _) => {
                let name = input::segment(name, "the name of the service")?;
                Asked::Instances(name.into(), params)
            }
            (Some("health"), ..) => Asked::Brief(Brief::Health),
            (Some("services"), ..) => Asked::Brief(Brief::Services),
            (place, ..) => {
                caller::is_json(&head.headers)?;
                Asked::Brief(match place {
                    Some("register") => Brief::Register,
                    _ => Brief::Heartbeat,
                })
            }
        })
    }

    async fn admitted(&self) -> Result<(), RestFailure> {
        let admitted = self.shared().faults.admit().await;
        admitted.map_err(|_| RestFailure::injected())
    }

    async fn answer<B: Body>(self, asked: Brief, body: B) -> Result<RestAnswer, RestFailure> {
        self.admitted().await?;
        match asked {
            Brief::Register => self.register(body).await,
            Brief::Heartbeat => self.heartbeat(body).await,
            Brief::Deregister(name, params) => self.deregister(&name, &params).await,
            Brief::Health => Ok(self.health()),
            Brief::Services => self.listing(Wanted::Services).await,
        }
    }

    async fn register<B: Body>(&self, body: B) -> Result<RestAnswer, RestFailure> {
        let body = input::json(body, &self.front.large_bodies).await?;
        let shared = self.shared();
        let mut new = wire::parse(&body, shared.defaults)
            .map_err(input::field)?
            .record;
        if let Some(check) = &mut new.check {
            // No client has the address of one that is not known.
            let unknown = Ipv4Addr::UNSPECIFIED.into();
            let peer = self.connection.as_ref().map_or(unknown, |known| known.peer);
            Arc::make_mut(check).registrant = Some(peer);
        }
        shared.limits.admit(&mut new).map_err(input::field)?;
        let (record, position) = shared.register(new).map_err(|full| {
            let message = format!("the registry is full: {}", shared.limits.full(full));
            RestFailure::new(StatusCode::INSUFFICIENT_STORAGE, message)
        })?;
        self.held(&record, position).await
    }

    async fn held(&self, record: &Record, position: Position) -> Result<RestAnswer, RestFailure> {
        let saved = self.shared().saved(position).await;
        let record = written::shown(record);
        let held = HeldBody { record, saved };
        Ok(positioned(json(StatusCode::OK, &held), position))
    }

    async fn heartbeat<B: Body>(&self, body: B) -> Result<RestAnswer, RestFailure> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct HeartbeatBody<'a> {
            id: &'a str,
            service_name: &'a str,
            last_heartbeat: u64,
        }
        let body = input::json(body, &self.front.large_bodies).await?;
        let input::NamedInstance {
            name,
            host,
            port,
            generation,
        } = input::named(&body)?;
        let id = self.resolve(&name, host.as_ref(), port)?;
        let shared = self.shared();
        let held = shared.get(&id);
        let held = held.filter(|r| generation.is_none_or(|g| r.instance.generation == g));
        if held.is_none() || shared.heartbeat(&id) == Renewal::Lost {
            return Err(unknown(&name));
        }
        let record = shared.get(&id).ok_or_else(|| unknown(&name))?;
        let kept = HeartbeatBody {
            id: &id,
            service_name: &record.instance.service,
            last_heartbeat: record.last_heartbeat,
        };
        Ok(json(StatusCode::OK, &kept))
    }

    async fn deregister(&self, name: &str, params: &Params) -> Result<RestAnswer, RestFailure> {
        let shared = self.shared();
        let id = self.resolve(name, params.host.as_ref(), params.port)?;
        let removed = shared.deregister(&id, params.generation);
        let (record, position) = removed.ok_or_else(|| unknown(name))?;
        self.held(&record, position).await
    }

    /// Returns until when a request waits for a change.
    fn waits(&self, service: &Arc<str>, params: &Params) -> Option<(Position, Instant)> {
        let position = self.shared().position_of(service);
        // A different index is older, or from another start of the registry.
        let waits = params.index == Some(position.index)
            && params.epoch.is_none_or(|epoch| epoch == position.epoch);
        let (wait, spread) = (params.wait(), rand::rng().random::<f64>());
        let until = Instant::now() + wait + wait.mul_f64(spread / 16.0);
        waits.then_some((position, until))
    }

    /// Parks a request that must wait, if its connection can be taken apart.
    fn park(&self, head: &Parts, service: &Arc<str>, params: &Params) -> Option<()> {
        let connection = self.connection.as_ref()?;
        let (position, until) = self.waits(service, params)?;
        let parked = Parked {
            service: Arc::clone(service),
            position,
            until,
            head: parked::head(head)?,
        };
        connection.place.park(parked);
        Some(())
    }

    async fn instances(
        self,
        service: Arc<str>,
        params: Params,
        waited: Option<Waited>,
    ) -> Result<RestAnswer, RestFailure> {
        match waited {
            Some(waited) => waited.outcome()?,
            None => {
                self.admitted().await?;
                if let Some((position, until)) = self.waits(&service, &params) {
                    tokio::select! {
                        left = self.shared().left(&service, position) => {
                            left.map_err(|_| RestFailure::injected())?;
                        }
                        () = sleep_until(until) => {}
                    }
                    self.shared().faults.open().await;
                }
            }
        }
        let query = params
            .tags
            .into_iter()
            .fold(Query::new(service), Query::tag);
        self.listing(Wanted::Instances(query)).await
    }

    async fn listing(&self, wanted: Wanted) -> Result<RestAnswer, RestFailure> {
        let (position, body) = self.front.listings.get(self.shared(), wanted).await?;
        Ok(positioned(whole(StatusCode::OK, body), position))
    }

    fn health(&self) -> RestAnswer {
        #[derive(Serialize)]
        struct HealthBody {
            status: &'static str,
            services: usize,
            instances: usize,
        }
        let (position, (services, instances)) = self.shared().totals();
        let health = HealthBody {
            status: "passing",
            services,
            instances,
        };
        positioned(json(StatusCode::OK, &health), position)
    }

    fn resolve(
        &self,
        name: &str,
        host: Option<&Host>,
        port: Option<u16>,
    ) -> Result<Arc<str>, RestFailure> {
        let resolved = self.shared().resolve(name, host, port);
        resolved.map_err(|unresolved| match unresolved {
            Unresolved::Unknown => unknown(name),
            Unresolved::Several => RestFailure::new(
                StatusCode::CONFLICT,
                format!("{name:?} has several instances: give the id, or host and port"),
            ),
        })
    }
}

fn unknown(name: &str) -> RestFailure {
    let message = format!("{name:?} is unknown: it never registered, left, or expired");
    RestFailure::new(StatusCode::NOT_FOUND, message)
}

impl_debug!(RestServer: |this| memory = this.memory, settings = this.front.settings);

impl<B> Service<Request<B>> for RestServer
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Send,
{
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (head, body) = request.into_parts();
        let server = self.clone();
        let connection = server.connection.as_deref();
        let waited = connection.and_then(|connection| connection.place.take_waited());
        if let Some(connection) = connection.filter(|_| waited.is_none()) {
            connection.slot.renew();
        }
        match self.asked(&head) {
            Err(failure) => Box::pin(std::future::ready(Ok(failure.into_response()))),
            Ok(Asked::Instances(service, params)) => {
                // A request with a body, which is of no use, could not be read again.
                let parks = waited.is_none() && body.is_end_stream();
                if parks && self.park(&head, &service, &params).is_some() {
                    // The connection is taken apart, and this with it.
                    return Box::pin(std::future::pending());
                }
                Box::pin(async move {
                    let answer = server.instances(service, params, waited).await;
                    Ok(answer.unwrap_or_else(RestFailure::into_response))
                })
            }
            Ok(Asked::Brief(asked)) => Box::pin(async move {
                let answer = server.answer(asked, body).await;
                Ok(answer.unwrap_or_else(RestFailure::into_response))
            }),
        }
    }
}
